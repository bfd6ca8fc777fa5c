"""What of a module a chapter depends on, on small books with real kernels."""

import json
import time
from pathlib import Path

import pytest

from tests.helpers import book, reasons
from tools.book import Book

pytestmark = pytest.mark.usefixtures("kernels_find_the_tools")

SHARED = '''"""Shared."""

LIMIT = 3


def both(x):
    """Called by both chapters."""
    return x + 1


def by_a(x):
    def nested():
        return x

    return nested()


def by_nobody(x):
    return x


class Method:
    """Of chapter b."""

    def __init__(self):
        self.size = 1

    def fit(self):
        yield self.size

    def predict(self):
        return 2


class Other(Method):
    pass
'''
SOLO = """def only_in_a_worker(x):
    return x * 2


def never(x):
    return x
"""


def edit(path: Path, was: str, now: str) -> None:
    text = path.read_text()
    assert was in text
    path.write_text(text.replace(was, now, 1))


def check(root: Path, name: str, edits: list[tuple[str, str, dict]]) -> None:
    """Make edits of a module, each alone, and compare what is stale with what should be."""
    book = Book(root)
    assert book.run(book.chapters, jobs=2) == []
    fresh = {chapter.name: None for chapter in book.chapters}
    assert reasons(root) == fresh
    for was, now, expected in edits:
        edit(root / name, was, now)
        assert reasons(root) == fresh | expected, was
        edit(root / name, now, was)
        assert reasons(root) == fresh


def test_a_chapter_depends_on_the_code_that_ran(tmp_path):
    a = ["from tlbook.shared import both, by_a", "both(1); by_a(2)"]
    b = ["from tlbook import shared", "shared.both(1)", "m = shared.Other(); list(m.fit())"]
    root = book(tmp_path, {"shared": SHARED}, a=a, b=b, c=["1"])
    of = "tlbook/shared.py"
    edits = [
        ("LIMIT = 3", "LIMIT = 3  # a comment", {}),
        ("Called by both chapters", "Another docstring", {}),
        ("LIMIT = 3", "LIMIT = 4", dict.fromkeys("ab", f"{of} changed")),
        ("x + 1", "x + 2", dict.fromkeys("ab", f"{of}: both changed")),
        ("        return x\n", "        return -x\n", {"a": f"{of}: by_a changed"}),
        ("def by_nobody(x):\n    return x", "def by_nobody(x):\n    return -x", {}),
        ("self.size = 1", "self.size = 2", {"b": f"{of}: Method.__init__ changed"}),
        ("yield self.size", "yield 0", {"b": f"{of}: Method.fit changed"}),
        ("return 2", "return 3", {}),
        # a method that now stands before one that was called
        (
            "Other(Method):\n    pass",
            "Other(Method):\n    def fit(self): yield 3",
            dict.fromkeys("ab", f"{of} changed"),
        ),
        ("def both(x)", "def both(x, y=1)", dict.fromkeys("ab", f"{of} changed")),
        ("LIMIT = 3", "LIMIT = ", dict.fromkeys("ab", f"{of} changed")),
    ]
    check(root, of, edits)
    (root / of).rename(root / "tlbook" / "moved.py")
    assert reasons(root) == {"a": f"{of} changed", "b": f"{of} changed", "c": None}


FRONT = """import importlib

HOMES = {"one": "f", "two": "g"}
asked = set()

def __getattr__(name):
    home = {each: m for m, names in HOMES.items() for each in names.split()}.get(name)
    if home is None:
        raise AttributeError(name)
    asked.add(name)
    return getattr(importlib.import_module(f"tlbook.{home}"), name)
"""


def test_of_a_front_door_only_the_names_asked_for_count(tmp_path):
    modules = {
        name: f"def {call}():\n    return 1\n" for name, call in (("one", "f"), ("two", "g"))
    }
    root = book(tmp_path, modules, a=["from tlbook import f", "f()"], b=["from tlbook import g"])
    front = root / "tlbook" / "__init__.py"
    front.write_text(front.read_text() + FRONT)
    time.sleep(0.05)
    of = "tlbook/__init__.py"
    edits = [
        ('"two": "g"', '"two": "g h"', {}),
        ('"two": "g"', '"three": "g"', {"b": f"{of}: g changed"}),
        (
            "asked.add(name)",
            "asked.add(name + '')",
            dict.fromkeys("ab", f"{of}: __getattr__ changed"),
        ),
        ("asked = set()", "asked = set([])", dict.fromkeys("ab", f"{of} changed")),
    ]
    check(root, of, edits)


def test_what_child_processes_call_counts(tmp_path):
    load = "from tlbook.solo import only_in_a_worker as f"
    calls = {
        # workers that outlive the call
        "loky": f"import joblib\n{load}\njoblib.Parallel(2)(joblib.delayed(f)(i) for i in (1, 2))",
        "fork": f"import multiprocessing as m\n{load}\nm.get_context('fork').Pool(1).map(f, [1])",
        # a module that the kernel itself does not load
        "other": "import subprocess, sys\n"
        f"subprocess.run([sys.executable, '-c', {load + '; f(1)'!r}], check=True)",
    }
    root = book(tmp_path, {"solo": SOLO}, **{name: [call] for name, call in calls.items()})
    edits = [
        ("x * 2", "x * 3", dict.fromkeys(calls, "tlbook/solo.py: only_in_a_worker changed")),
        ("return x\n", "return -x\n", {}),
        ("def never", "LIMIT = 1\ndef never", dict.fromkeys(calls, "tlbook/solo.py changed")),
    ]
    check(root, "tlbook/solo.py", edits)


def test_a_module_run_as_a_script_counts(tmp_path):
    script = (
        '"""Text."""\nfrom __future__ import annotations\n\ndef main():\n    print(2)\n\nmain()\n'
    )
    call = (
        "import subprocess, sys\n"
        "command = [sys.executable, '-m', 'tlbook.script']\n"
        "print(subprocess.run(command, check=True, capture_output=True, text=True).stdout)"
    )
    root = book(tmp_path, {"script": script}, a=[call])
    check(root, "tlbook/script.py", [("print(2)", "1", {"a": "tlbook/script.py: main changed"})])


def test_after_a_process_that_cannot_be_seen_all_code_counts(tmp_path):
    start = "import subprocess, sys\nsubprocess.run([sys.executable, {}, '-c', '1']{}, check=True)"
    root = book(
        tmp_path,
        {"solo": SOLO},
        a=[start.format("'-E'", "")],
        b=[start.format("'-u'", ", env={}")],
        c=[start.format("'-u'", "")],
    )
    changed = dict.fromkeys("ab", "tlbook/solo.py changed")
    check(root, "tlbook/solo.py", [("return x\n", "return -x\n", changed)])


def test_who_reads_a_source_depends_on_all_of_it(tmp_path):
    reads = {
        "getsource": "import inspect; inspect.getsource(solo.never)",
        # not hidden by a reading that says what for
        "later": "from tlbook import code; code.digest(solo.never); code.inspect.getsource(solo)",
        "loader": "solo.__loader__.get_source('tlbook.solo')",
        "open": "open(solo.__file__).read()",
        "traceback": "import traceback\ntry:\n    solo.only_in_a_worker(None)\n"
        "except TypeError:\n    traceback.format_exc()",
        "help": "help(solo.never)",
        "docstring": "solo.never.__doc__",
    }
    chapters = {name: ["from tlbook import solo", cell] for name, cell in reads.items()}
    root = book(tmp_path, {"solo": SOLO}, **chapters, none=["from tlbook import solo"])
    changed = dict.fromkeys(reads, "tlbook/solo.py changed")
    check(root, "tlbook/solo.py", [("def never", "# x\ndef never", changed)])


def test_a_source_read_in_a_child_process_counts_whole(tmp_path):
    code = "import inspect; from tlbook import solo; inspect.getsource(solo.never)"
    call = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    root = book(tmp_path, {"solo": SOLO}, a=[call])
    check(
        root, "tlbook/solo.py", [("def never", "# x\ndef never", {"a": "tlbook/solo.py changed"})]
    )


def test_who_hashes_or_counts_code_depends_on_just_that(tmp_path):
    load = "from tlbook import code, solo"
    root = book(
        tmp_path,
        {"solo": SOLO},
        hashes=[load, "code.digest(solo)"],
        part=[load, "code.digest(solo.never)"],
        counts=[load, "code.lines_of_code(solo.never)"],
        child=[
            "import joblib\n" + load + "\njoblib.Parallel(2)(joblib.delayed(code.digest)(f)"
            " for f in [solo.never])"
        ],
        none=[load],
    )
    body, of = "def never(x):\n    return x", "tlbook/solo.py: never changed"
    edits = [
        (body, f"{body}  # a comment", {}),
        (body, f"{body}\n\n", {}),
        (body, "def never(x):\n    return -x", dict.fromkeys(["hashes", "part", "child"], of)),
        (body, "def never(x):\n    return (\n        x)", {"counts": of}),
        ("x * 2", "x * 3", {"hashes": "tlbook/solo.py: only_in_a_worker changed"}),
    ]
    check(root, "tlbook/solo.py", edits)


def test_marks_leave_functions_as_they_are(tmp_path):
    module = '''
from __future__ import annotations
import dataclasses, functools, inspect, pickle

@dataclasses.dataclass
class Point:
    x: int

    @functools.cached_property
    def twice(self):
        """Twice."""
        return 2 * self.x

    def __secret(self): return 1

def documented():
    """Text."""

def lines(): return inspect.currentframe().f_lineno

async def waits(): return 5

def counts():
    nonlocal_ = 0
    def inner():
        nonlocal nonlocal_
        nonlocal_ += 1
        return nonlocal_
    return inner()
'''
    test = (
        "import inspect, joblib, pickle\nfrom tlbook.odd import *\nimport tlbook.odd as odd\n"
        "assert documented.__doc__ == 'Text.' and documented() is None\n"
        "assert Point(2).twice == 4 and Point.__dict__['twice'].__doc__ == 'Twice.'\n"
        "assert pickle.loads(pickle.dumps(Point(1))) == Point(1)\n"
        "assert joblib.hash(documented)\n"
        "assert lines() == 19, lines()\n"
        "assert counts() == 1\n"
        "assert inspect.getsource(odd.lines).startswith('def lines(): return')\n"
        "assert str(inspect.signature(Point)) == \"(x: 'int') -> None\"\n"
    )
    root = book(tmp_path, {"odd": module}, a=[test, "await odd.waits()"])
    small = Book(root)
    assert small.run(small.chapters, jobs=1) == []
    assert not list(root.glob("tlbook/__pycache__/odd*"))  # what other processes would load


def test_the_marks_are_gone_after_the_run(tmp_path):
    cell = "import os, tlbook.solo; print(os.environ['TLBOOK_WATCH'])"
    root = book(tmp_path, {"solo": SOLO}, a=[cell])
    small = Book(root)
    assert small.run(small.chapters, jobs=1) == []
    place = small.executed(small.chapters[0]).cells[1].outputs[0].text.strip()
    assert place
    assert not Path(place).exists()


def test_a_report_of_an_older_version_counts_by_files(tmp_path):
    root = book(tmp_path, {"solo": SOLO}, a=["from tlbook import solo"])
    small = Book(root)
    assert small.run(small.chapters, jobs=1) == []
    file = root / "_build" / "runs" / "a.json"
    report = json.loads(file.read_text())
    del report["code"]
    file.write_text(json.dumps(report))
    assert reasons(root) == {"a": None}
