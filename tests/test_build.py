"""The build, on small books with real kernels, a real cache and real pages."""

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import nbformat
import psutil
import pytest

from tests.helpers import CHECKOUT, build, cells, chapter, reasons, start, write
from tools.book import Book
from tools.run import UNKNOWN_PEAK, fits, joined

pytestmark = pytest.mark.usefixtures("kernels_find_the_tools")


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + 60
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.05)
    return path.read_text()


def test_only_what_a_change_concerns_is_stale(tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    info = packages / "tiny-1.0.dist-info"
    info.mkdir(parents=True)
    (packages / "tiny.py").touch()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("tiny\n")
    monkeypatch.setenv("PYTHONPATH", f"{CHECKOUT}{os.pathsep}{packages}")
    monkeypatch.syspath_prepend(str(packages))
    # a library that brings another along, as setuptools does, does not make it installed
    shutil.copytree(info, tmp_path / "vendored" / "carried-2.0.dist-info")
    (tmp_path / "vendored" / "carried-2.0.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: carried\nVersion: 2.0\n"
    )
    (tmp_path / "vendored" / "carried-2.0.dist-info" / "top_level.txt").write_text("carried\n")
    (tmp_path / "vendored" / "carried.py").touch()
    vendored = f"import sys; sys.path.append({str(tmp_path / 'vendored')!r}); import carried\n"
    root = write(
        tmp_path / "book",
        a=chapter(
            "A",
            vendored + "from tlbook import one\nimport json\njson.load(open('../results/x.json'))",
        ),
        b=chapter(
            "B", "import tlbook.two, tiny, tlbook.sources.assets as a\na.path('emoji-labels');"
        ),
    )
    (root / "results").mkdir()
    (root / "results" / "x.json").write_text("1")
    for name in ("one", "two", "three"):
        (root / "tlbook" / f"{name}.py").write_text("value = 1\n")
    (root / "tlbook" / "sources").mkdir()
    for name in ("__init__.py", "assets.py", "assets.toml", "cache.py"):
        name = f"sources/{name}"
        shutil.copyfile(CHECKOUT / "tlbook" / name, root / "tlbook" / name)
    time.sleep(0.05)
    assert reasons(root) == {"a": "new code", "b": "new code"}
    book = Book(root)
    assert book.run(book.chapters, jobs=2) == []
    fresh = {"a": None, "b": None}
    assert reasons(root) == fresh

    def edit(path: Path, was: str, now: str) -> None:
        text = path.read_text()
        assert was in text
        path.write_text(text.replace(was, now, 1))

    for name, was, now, expected in [
        ("tlbook/one.py", "1", "2", fresh | {"a": "tlbook/one.py changed"}),
        ("tlbook/two.py", "1", "2", fresh | {"b": "tlbook/two.py changed"}),
        ("tlbook/three.py", "1", "2", fresh),
        (
            "tlbook/sources/assets.py",
            "import",
            " import",
            fresh | {"b": "tlbook/sources/assets.py changed"},
        ),
        ("tlbook/sources/assets.toml", "description", "text", fresh),  # only the rows used matter
        ("results/x.json", "1", "2", fresh | {"a": "results/x.json changed"}),
        ("chapters/a.md", "# A", "# Another title", fresh),
        ("chapters/a.md", "import one", "import two", fresh | {"a": "new code"}),
        (f"{info}/METADATA", "1.0", "1.1", fresh | {"b": "tiny was 1.0, now 1.1"}),
        (
            "_build/runs/b.json",
            book.last_run(book.chapters[1])["assets"]["emoji-labels"],
            "0" * 64,
            fresh | {"b": "asset emoji-labels changed"},
        ),
    ]:
        edit(root / name, was, now)
        assert reasons(root) == expected, name
        edit(root / name, now, was)
        assert reasons(root) == fresh, name
    # Back at code that ran before: the outputs are there, but what they used may have changed.
    edit(root / "chapters" / "a.md", "import one", "import two")
    book = Book(root)
    assert book.run(book.chapters[:1], jobs=1) == []
    assert reasons(root) == fresh
    edit(root / "chapters" / "a.md", "import two", "import one")
    assert reasons(root) == fresh | {"a": "new code"}


def test_a_file_edited_during_a_run_makes_it_stale_but_its_own_output_does_not(tmp_path):
    root = write(
        tmp_path,
        a=chapter("A", "from tlbook import one\nimport os\nos.utime('../tlbook/one.py')"),
        b=chapter("B", "open('../out.txt', 'w').write('x')", "open('../out.txt').read()"),
    )
    (root / "tlbook" / "one.py").touch()
    time.sleep(0.05)
    book = Book(root)
    assert book.run(book.chapters, jobs=2) == []
    assert reasons(root) == {"a": "tlbook/one.py changed", "b": None}


def test_without_a_network_the_missing_asset_is_named_before_any_chapter_runs(
    tmp_path, monkeypatch
):
    root = write(tmp_path, a=chapter("A", "1"))
    costs = {"a": dict.fromkeys(("cpu_seconds", "wall_seconds", "peak_mb"), 1)}
    costs["a"]["assets"] = ["emoji-labels"]
    (root / "results").mkdir()
    (root / "results" / "chapters.json").write_text(json.dumps(costs))
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    status, output = build(root)
    assert status == 1
    assert "emoji-labels" in output
    assert "Traceback" not in output
    assert "started" not in output


def test_a_failing_chapter_is_named_and_the_others_are_kept(tmp_path):
    root = write(
        tmp_path,
        good=chapter("Good", "print('fine')"),
        raises=chapter("Raises", "x = 0", "1 / x"),
        slow=chapter("Slow", "import time\ntime.sleep(600)"),
        dies=chapter("Dies", "import os", "os._exit(3)"),
        empty=chapter("Empty"),
        headless=f"# No header\n\n{cells('print(1)')}",
    )
    config = root / "_config.yml"
    config.write_text(config.read_text().replace("timeout: 60", "timeout: 3"))
    status, output = build(root)
    assert status == 1
    line = (root / "chapters" / "raises.md").read_text().splitlines().index("1 / x") + 1
    assert f"raises, code cell 2 of 2 (raises.md, line {line})" in output
    assert "ZeroDivisionError: division by zero" in output
    assert "slow, code cell 1 of 1" in output
    assert "The limit of 3 s" in output
    assert "dies, code cell 2 of 2" in output
    assert "The kernel died" in output
    assert "empty ran no code cell" in output
    assert "headless ran no code cell" in output
    assert "5 of 6 chapters failed." in output
    assert not (root / "_build" / "html").exists()
    assert [name for name, reason in reasons(root).items() if not reason] == ["good"]


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_keeps_finished_chapters_and_leaves_no_process(tmp_path, sent):
    root = write(
        tmp_path,
        quick=chapter("Quick", "1"),
        slow=chapter(
            "Slow",
            "import os, pathlib, subprocess, time\n"
            "child = subprocess.Popen(['sleep', '600'])\n"
            "pathlib.Path('pids').write_text(f'{os.getpid()} {child.pid}')\n"
            "time.sleep(600)",
        ),
    )
    process = start(root, "--jobs", "2")
    wait_for(root / "_build" / "runs" / "quick.json")
    pids = [int(pid) for pid in wait_for(root / "chapters" / "pids").split()]
    assert all(psutil.pid_exists(pid) for pid in pids)
    process.send_signal(sent)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Interrupted." in output
    assert "Traceback" not in output
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, pids))
    assert reasons(root) == {"quick": None, "slow": "new code"}


def alive(pid: int) -> bool:
    # a dead process that nobody has waited for yet is a zombie
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def test_of_two_builds_at_once_the_second_waits_and_says_for_whom(tmp_path):
    code = (
        "import pathlib, time\nopen('runs', 'a').write('run\\n')\n"
        "end = time.time() + 60\n"
        "while time.time() < end and not pathlib.Path('go').exists():\n    time.sleep(0.05)"
    )
    root = write(tmp_path, once=chapter("Once", code))
    first = start(root, "--run-only")
    wait_for(root / "chapters" / "runs")
    second = start(root, "--run-only")
    said = next(line for line in second.stdout if line.strip())  # at once, while it waits
    assert f"Another build (process {first.pid}) is at work here." in said
    (root / "chapters" / "go").touch()
    rest, _ = second.communicate(timeout=120)
    assert second.returncode == 0 and "once" in rest and "cached" in rest
    assert first.communicate(timeout=60) and first.returncode == 0
    assert (root / "chapters" / "runs").read_text() == "run\n"


@pytest.mark.slow
def test_a_rerun_shows_on_every_page_that_names_its_numbers(tmp_path):
    code = (
        "from tlbook.one import value\nfrom myst_nb import glue\nglue('gain', value, display=False)"
    )
    root = write(
        tmp_path,
        a=chapter("A", code, "open('runs', 'a').write('a')") + "\nGain {glue:text}`gain:.1f`.\n",
        b=chapter("B", "open('runs', 'a').write('b')") + "\n:::{note}\nA note.\n:::\n",
    )
    (root / "intro.md").write_text("# Small\n\nGain {glue:text}`/chapters/a.md::gain:.1f`.\n")
    module = root / "tlbook" / "one.py"
    shown = {}
    for value in ("1.5", "2.5"):
        module.write_text(f"value = {value}\n")
        status, output = build(root, "--jobs", "1")
        assert status == 0, output
        assert (root / "_build" / "html" / "index.html").as_uri() in output
        for page in ("chapters/a.html", "intro.html"):
            html = (root / "_build" / "html" / page).read_text()
            shown[page] = shown.get(page, []) + [v for v in ("1.5", "2.5") if f">{v}<" in html]
    assert shown == {"chapters/a.html": ["1.5", "2.5"], "intro.html": ["1.5", "2.5"]}
    # two reasons for a, one for b, and none for Sphinx to run anything itself
    assert sorted((root / "chapters" / "runs").read_text()) == ["a", "a", "b"]
    costs = json.loads((root / "_build" / "chapters.json").read_text())
    assert costs["a"].keys() == {"cpu_seconds", "wall_seconds", "peak_mb", "assets"}
    assert 50 < costs["a"]["peak_mb"] < 2000


@pytest.mark.slow
def test_a_build_leaves_the_tree_clean(tmp_path):
    root = write(tmp_path, a=chapter("A", "1"))
    (root / ".gitignore").write_text("_build/\n__pycache__/\n")
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "book"]):
        subprocess.run([*git, *command], check=True)
    assert build(root)[0] == 0
    status = subprocess.run([*git, "status", "--porcelain"], capture_output=True, check=True)
    assert status.stdout == b""


@pytest.mark.slow
def test_prose_with_an_older_time_stamp_is_shown(tmp_path):
    """As after rsync -a, tar, or cp -p."""
    root = write(tmp_path, a=chapter("A", "1") + "\nBefore.\n")
    assert build(root)[0] == 0
    page, html = root / "chapters" / "a.md", root / "_build" / "html" / "chapters" / "a.html"
    page.write_text(page.read_text().replace("Before.", "Afterwards."))
    os.utime(page, (1e9, 1e9))
    assert build(root)[0] == 0
    assert "Afterwards." in html.read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "content", "status", "said"),
    [
        ("_build/chapters.json", '{"a": {"peak', 0, "a  "),
        ("results/chapters.json", '{"a": {"peak', 0, "a  "),
        ("_build/runs/a.json", "{}", 0, "a (new code)"),
        ("_build/runs/a.json", '{"key": KEY}', 0, "a damaged report"),
        ("_build/runs/a.json", '{"key', 0, "a (new code)"),
        ("_build/.jupyter_cache/global.db", "no database " * 99, 1, "run make clean, then again"),
    ],
)
def test_a_damaged_file_is_made_anew_or_named(tmp_path, file, content, status, said):
    root = write(tmp_path, a=chapter("A", "1"))
    assert build(root)[0] == 0
    key = json.dumps(Book(root).chapters[0].key)
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(content.replace("KEY", key))
    found, output = build(root)
    assert found == status and said in output and "Traceback" not in output, output


def stream(text: str, name: str = "stdout"):
    return nbformat.v4.new_output("stream", name=name, text=text)


def test_streams_are_joined_as_a_terminal_shows_them():
    picture = nbformat.v4.new_output("display_data")
    outputs = [stream("a", "stderr"), stream("1\n"), picture, stream("2"), stream("b", "stderr")]
    one, two, three = joined(outputs)
    assert (one.name, one.text, two.name, two.text) == ("stdout", "1\n2", "stderr", "ab")
    assert three is picture
    for text, shown in [
        ("10%\r50%\r99%\ndone", "99%\ndone"),
        ("line\r\nnext\r\n", "line\nnext\n"),
        ("abc\b\bd", "ad"),
        ("\n\bx", "\nx"),
        ("plain\n", "plain\n"),
    ]:
        assert joined([stream(text)])[0].text == shown


def test_a_long_line_does_not_hold_up_the_build(tmp_path):
    """The regular expression of nbclient would take hours for it."""
    root = write(tmp_path, a=chapter("A", "print('x' * 3_000_000)"))
    book, began = Book(root), time.process_time()
    assert book.run(book.chapters, jobs=1) == []
    assert time.process_time() - began < 20
    (output,) = book.executed(book.chapters[0]).cells[1].outputs
    assert output.text == "x" * 3_000_000 + "\n"


@pytest.mark.slow
def test_warnings_fail_every_build_until_they_are_mended(tmp_path):
    root = write(tmp_path, a=chapter("A", "1"), b=chapter("B", "1"))
    page = root / "chapters" / "a.md"
    text = page.read_text()
    page.write_text(text + "\n[nowhere](nowhere.md)\n")
    for _ in range(2):
        status, output = build(root)
        assert status == 1
        assert "nowhere.md" in output
        assert "warnings count as errors" in output
    pages = root / "_build" / "html" / "chapters"
    assert (pages / "b.html").exists()
    # mended, and without one of the pages, which goes with its HTML
    write(root, a=text)
    assert build(root)[0] == 0
    assert (pages / "a.html").exists()
    assert not (pages / "b.html").exists()


def test_heavy_chapters_run_one_after_the_other(tmp_path):
    code = "import time\nbegan = time.time()\ntime.sleep(2)\nprint(began, time.time())"
    # not the same code: the cache knows chapters by their code
    root = write(tmp_path, a=chapter("A", code), b=chapter("B", code, "0"))

    def spans(peak_mb: float) -> list[list[float]]:
        book = Book(root)
        for each in book.chapters:
            each.peak_mb = peak_mb
        assert book.run(book.chapters, jobs=2) == []
        outputs = [book.executed(each).cells[1].outputs[0].text for each in book.chapters]
        return sorted([float(moment) for moment in text.split()] for text in outputs)

    light, heavy = spans(peak_mb=1), spans(peak_mb=1e9)
    assert light[1][0] < light[0][1]
    assert heavy[1][0] > heavy[0][1]


@pytest.mark.parametrize(
    ("peak", "running", "memory", "expected"),
    [
        (500, [], 100, True),  # one always runs
        (500, [400], 1000, True),
        (500, [500], 1000, True),
        (501, [500], 1000, False),
        (UNKNOWN_PEAK, [1], UNKNOWN_PEAK, False),
    ],
)
def test_fits(peak, running, memory, expected):
    assert fits(peak, running, memory) is expected
