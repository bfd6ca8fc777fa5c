"""What is code and what is a comment."""

import sys
import types

import pytest

from tlbook import code
from tlbook.code import digest, lines_of_code, parse, snapshot

SOURCE = '''"""Of the module."""
from functools import cache

LIMIT = 3


def plain(x, y=1):
    """Of the function."""
    return x + y


class Shape:
    """Of the class."""

    sides: int = 0

    def area(self):
        def inner():
            """Of what is nested."""
            return 1
        return inner()

    @property
    def name(self):
        return "a"

    @name.setter
    def name(self, value):
        pass


if LIMIT:
    async def waits(): return 1
else:
    def waits(): return 2

always = lambda: 1
'''


def changes(was: str, now: str) -> list[str]:
    """What an edit changes: names of bodies, or ``"module"``."""
    assert was in SOURCE
    before, after = parse(SOURCE), parse(SOURCE.replace(was, now, 1))
    names = before.bodies.keys() | after.bodies.keys()
    found = [name for name in names if before.bodies.get(name) != after.bodies.get(name)]
    return ["module"] * (before.module != after.module) + sorted(found)


@pytest.mark.parametrize(
    ("was", "now", "expected"),
    [
        ("LIMIT = 3", "LIMIT = 3  # a comment\n\n", []),
        ("Of the module", "Another", []),
        ('"""Of the module."""', "", []),
        ("Of the function", "Another", []),
        ("Of the class", "Another", []),
        ("Of what is nested", "Another", []),
        ("x + y", "(x  +\n        y)", []),
        ("LIMIT = 3", "LIMIT = 4", ["module"]),
        ("y=1", "y=2", ["module"]),
        ("sides: int", "sides: float", ["module"]),
        ("    @property", "    @cache", ["module"]),
        ("lambda: 1", "lambda: 2", ["module"]),
        ("x + y", "x - y", ["plain"]),
        ("            return 1", "            return 2", ["Shape.area"]),
        ('return "a"', 'return "b"', ["Shape.name"]),
        ("value):\n        pass", "value):\n        1", ["Shape.name"]),
        ("return 1\nelse", "return 3\nelse", ["waits"]),
        ("return 2\n", "return 3\n", ["waits"]),
        ("class Shape:", "class Shape(int):", ["module"]),
        ("def plain", "def renamed", ["module", "plain", "renamed"]),
    ],
)
def test_what_an_edit_changes(was, now, expected):
    assert changes(was, now) == expected


def test_docstrings_that_something_reads_are_code():
    source = "def f():\n    {}\nprint(f.__doc__)\n"
    assert parse(source.format("'a'")) != parse(source.format("'b'"))


def test_what_is_no_python_is_refused():
    with pytest.raises(SyntaxError):
        parse("def")


def test_a_digest_of_parts(tmp_path, monkeypatch):
    def load(text: str) -> types.ModuleType:
        file = tmp_path / "shapes.py"
        file.write_text(text)
        module = types.ModuleType("shapes")
        module.__file__ = str(file)
        exec(compile(text, file, "exec"), module.__dict__)
        monkeypatch.setitem(sys.modules, "shapes", module)
        return module

    def digests(text: str) -> list[str]:
        module = load(text)
        return [digest(module), digest(module.plain), digest(module.Shape)]

    first = digests(SOURCE)
    assert len(set(first)) == 3
    assert digests(SOURCE.replace("Of the", "# Not of the")) == first
    other = digests(SOURCE.replace("x + y", "x - y"))
    assert [a == b for a, b in zip(first, other, strict=True)] == [False, False, True]
    module = load(SOURCE)
    taken = snapshot(module)
    load(SOURCE.replace("x + y", "x - y"))
    assert taken() == first[0]  # of the code that was loaded, not of what is edited meanwhile
    assert digest(module, module) != digest(module)


def test_who_asks_for_code_is_announced():
    heard = []
    sys.addaudithook(lambda event, given: heard.append(given) if event == "tlbook.code" else None)
    taken = snapshot(code, digest)
    assert heard == []
    taken()
    file = code.__file__
    assert heard == [(file, "", "syntax"), (file, "digest", "syntax")]
    lines_of_code(digest)
    assert heard[2:] == [(file, "digest", "lines")]
