"""Outputs as a download: what is taken, and what is refused."""

import base64
import hashlib
import io
import json
import zipfile
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from matplotlib.figure import Figure

from tests.helpers import CHECKOUT, book, build, reasons
from tools import outputs
from tools.book import Book, changed
from tools.outputs import FINDING, TABLE, Archive, OutputsError, check_output, fetch

pytestmark = pytest.mark.usefixtures("kernels_find_the_tools")

A = ["from tlbook.solo import f", "open('ran', 'a').write('a')", "print(f(1))"]
B = ["import torch", "open('ran', 'a').write('b')"]


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> bytes:
    """The archive of a book of two chapters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(CHECKOUT))
        root = small(tmp_path_factory.mktemp("packed"))
        ran = Book(root)
        assert ran.run(ran.chapters, jobs=2) == []
        outputs.pack(Book(root), root / "outputs.zip")
        return (root / "outputs.zip").read_bytes()


def small(folder: Path) -> Path:
    return book(folder, {"solo": "def f(x):\n    return x + 41\n"}, a=A, b=B)


def unpacked(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed_again(files: dict[str, bytes], hashes: bool = True) -> bytes:
    """An archive of files, with a manifest that says of each what it is."""
    if hashes:
        manifest = json.loads(files["manifest.json"])
        own = {name: hashlib.sha256(text).hexdigest() for name, text in files.items()}
        manifest["sha256"] = {name: each for name, each in own.items() if name != "manifest.json"}
        files = files | {"manifest.json": json.dumps(manifest).encode()}
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()


def take(root: Path, content: bytes) -> list[str]:
    here = Book(root)
    taken = outputs.take(here, here.chapters, content, lambda report: changed(report, root))
    return [chapter.name for chapter in taken]


@pytest.mark.slow
def test_what_fits_is_taken_and_said_on_the_page(tmp_path, packed):
    root = small(tmp_path)
    config = root / "_config.yml"
    extensions = "sphinx:\n  extra_extensions: [tools.ran]\n"
    config.write_text(config.read_text() + extensions)
    file = root / "outputs.zip"
    file.write_bytes(packed)
    sha256 = hashlib.sha256(packed).hexdigest()
    status, said = build(root, "--outputs", f"{file}#sha256={sha256}")
    assert status == 0, said
    assert "Outputs of 2 of 2 chapters are taken, not run here." in said
    assert not (root / "chapters" / "ran").exists()
    page = (root / "_build" / "html" / "chapters" / "a.html").read_text()
    ran = json.loads(unpacked(packed)["manifest.json"])["chapters"]["a"]
    assert f"Ran on {ran['date']}, {ran['machine']}; outputs downloaded, not run here." in page
    assert ">42" in page
    assert "Ran on" not in (root / "_build" / "html" / "intro.html").read_text()
    assert reasons(root) == {"a": None, "b": None}
    # packed again, they still say where they ran
    outputs.pack(Book(root), root / "again.zip")
    assert (
        json.loads(unpacked((root / "again.zip").read_bytes())["manifest.json"])["chapters"]["a"]
        == ran
    )


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (("tlbook/solo.py", "41", "42"), "a runs here: tlbook/solo.py: f changed"),
        (
            ("chapters/a.md", "print(f(1))", "print(f(2))"),
            "a runs here: the archive has other code",
        ),
    ],
)
def test_a_stale_chapter_runs_here(tmp_path, packed, capsys, edit, said):
    root = small(tmp_path)
    name, was, now = edit
    (root / name).write_text((root / name).read_text().replace(was, now))
    assert take(root, packed) == ["b"]
    assert said in capsys.readouterr().out


def test_another_version_of_torch_runs_here(tmp_path, packed, capsys):
    files = unpacked(packed)
    report = json.loads(files["b.json"])
    report["versions"]["torch"] = "1.0"
    content = packed_again(files | {"b.json": json.dumps(report).encode()})
    assert take(small(tmp_path), content) == ["a"]
    assert "b runs here: torch was 1.0, now" in capsys.readouterr().out


def test_an_archive_with_another_hash_is_not_opened(tmp_path, packed):
    root = small(tmp_path)
    file = root / "outputs.zip"
    file.write_bytes(packed)
    other = "0" * 64
    status, said = build(root, "--outputs", str(file), "--outputs-sha256", other)
    assert status == 1
    assert f"not {other}: it is not used" in said
    assert not (root / "chapters" / "ran").exists()
    assert fetch(str(file), hashlib.sha256(packed).hexdigest().upper()) == packed
    with pytest.raises(OutputsError, match="cannot be read"):
        fetch(str(tmp_path / "nowhere.zip"))
    for address in ("http://localhost/x.zip", "file:///etc/passwd", "ftp://localhost/x"):
        with pytest.raises(OutputsError, match="a file or an https address"):
            fetch(address)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda files: files | {"a.json": files["a.json"] + b" "}, "a.json is not what the manife"),
        (lambda files: files | {"../evil.json": b"{}"}, r"holds '\.\./evil\.json', which no"),
        (lambda files: files | {"/etc/evil.json": b"{}"}, "holds '/etc/evil.json', which no"),
        (lambda files: files | {"a.py": b"1"}, r"holds 'a\.py', which no"),
        (lambda files: {"a.json": files["a.json"]}, "lacks 'manifest.json'"),
        (
            lambda files: files | {"a.ipynb": b"0" * 2_000_000},
            "a.ipynb in the archive is too large",
        ),
        (lambda files: files | {"manifest.json": b"[]"}, "this is no archive of outputs"),
    ],
)
def test_a_damaged_archive_is_refused_whole(packed, monkeypatch, damage, said):
    monkeypatch.setattr(outputs, "FILE_LIMIT", 1_000_000)
    with pytest.raises(OutputsError, match=said):
        Archive(packed_again(damage(unpacked(packed)), hashes=False), ["a", "b"])


def test_what_is_no_archive_is_refused():
    for content in (b"", b"PK\3\4" + b"x" * 100):
        with pytest.raises(OutputsError, match="this is no archive of outputs"):
            Archive(content, ["a"])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda cell: cell.outputs[0].update(text="other\n"), None),  # only the hash could tell
        (lambda cell: cell.update(source="import os"), "the archive has other code"),
        (lambda cell: cell.outputs[0].update(output_type="odd"), "its notebook is damaged"),
        (
            lambda cell: cell.outputs.append(
                nbformat.v4.new_output("display_data", {"application/javascript": "alert()"})
            ),
            "an output of the type 'application/javascript'",
        ),
    ],
)
def test_a_tampered_notebook(tmp_path, packed, capsys, damage, said):
    files = unpacked(packed)
    notebook = nbformat.reads(files["a.ipynb"].decode(), 4)
    damage([cell for cell in notebook.cells if cell.cell_type == "code"][-1])
    files["a.ipynb"] = json.dumps(notebook).encode()
    taken = take(small(tmp_path), packed_again(files))
    assert taken == (["b"] if said else ["a", "b"])
    assert (said or "Outputs of 2 of 2") in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../etc/passwd": "0"}},
        {"versions": {}},
        {"cpu_seconds": "much"},
        {"code": {"tlbook/solo.py": 1}},
        {"assets": 3},
    ],
)
def test_a_report_that_no_build_writes(tmp_path, packed, capsys, change):
    files = unpacked(packed)
    files["a.json"] = json.dumps(json.loads(files["a.json"]) | change).encode()
    assert take(small(tmp_path), packed_again(files)) == ["b"]
    assert "a runs here: " in capsys.readouterr().out


SEEN = {
    **{"effect": 0.1, "interval": [0.0, 0.2], "level": 0.95, "seeds": 5, "splits": 1},
    **{"components": {"seeds": 0.001, "items": 0.0015, "splits": 0.0, "df": 7.5}},
    **{"error": 0.05, "unreliable": ""},
}
FINDS = {
    **{"claim": "C2", "setting": "s", "unit": "points", "kind": "trained"},
    **{"chosen_after_looking": False, **SEEN, "by_seed": [0.1, 0.2], "scores": [SEEN]},
    **{"margin": 0.02, "verdict": "supported"},
}


@pytest.mark.parametrize(
    ("mime", "content"),
    [
        ("text/html", "<script>alert()</script>"),
        ("text/html", "<SCRIPT src=//evil>"),
        ("text/html", "<td onclick=alert()>"),
        ("text/html", "<img src=x onerror=alert()>"),
        ("text/html", "<iframe src=x>"),
        ("text/html", "<a href='java\nscript:alert()'>x</a>"),
        ("text/html", "<a href='&#106;avascript:alert()'>x</a>"),
        ("text/html", "<a href='http://evil'>x</a>"),
        ("text/html", "<a href='../../../etc/passwd'>x</a>"),
        ("text/html", "<a href='//evil.html'>x</a>"),
        ("text/html", "<svg><use href='chapters/a.html'/></svg>"),
        ("text/html", "<td onclick=alert()"),
        ("text/html", "<style><a onclick=alert()></style>"),
        ("text/html", "<style>@import 'https://evil'</style>"),
        ("text/html", "<td style='background: url(https://evil)'>"),
        ("text/html", "<title><a title='</title><a onclick=alert()>'>"),
        ("text/html", "<!--><a onclick=alert()>-->"),
        ("text/html", r"\(\href{javascript:alert()}{x}\)"),
        ("text/markdown", "[x](javascript:alert())"),
        ("text/markdown", "a <b onclick=alert()>"),
        ("text/markdown", "![x](data:text/html;base64,xx)"),
        ("image/svg+xml", "<svg><script>alert()</script></svg>"),
        ("image/svg+xml", "<svg><foreignObject/></svg>"),
        ("image/svg+xml", "<svg onload=alert()></svg>"),
        ("image/svg+xml", "<svg><use href='https://evil#x'/></svg>"),
        ("image/svg+xml", "<!DOCTYPE svg [<!ENTITY x 'y'>]><svg/>"),
        ("image/png", "bm8gaW1hZ2U="),
        ("image/png", "%%"),
        ("application/javascript", "alert()"),
        ("text/latex", r"\href{x}{y}"),
        ("text/plain", ["list"]),
        (TABLE, {"name": "../evil", "csv": ""}),
        (TABLE, {"name": "fine"}),
        (FINDING, FINDS | {"claim": "C999"}),  # no id
        (FINDING, FINDS | {"effect": "high"}),
        (FINDING, FINDS | {"interval": [1.0]}),
        (FINDING, FINDS | {"by_seed": ["<script>"]}),
        (FINDING, FINDS | {"components": {"seeds": 0.1}}),
        (FINDING, FINDS | {"scores": [{"effect": 0.1}]}),
        (FINDING, FINDS | {"scores": [SEEN | {"interval": ["low", "high"]}]}),
    ],
)
def test_outputs_that_could_act_are_refused(mime, content):
    output = nbformat.from_dict({"output_type": "display_data", "data": {}, "metadata": {}})
    output.data[mime] = content
    with pytest.raises(OutputsError):
        check_output(output)


def test_outputs_that_chapters_produce_are_taken():
    frame = pd.DataFrame({"a < b": [1.5, 2], "text": ["x & y", "'<td>'"]})
    figure = Figure()
    axes = figure.subplots()
    axes.plot([1, 2], label="a < b")
    axes.legend()
    drawn = {}
    for kind in ("svg", "png"):
        stream = io.BytesIO()
        figure.savefig(stream, format=kind)
        drawn[kind] = stream.getvalue()
    data = [
        {"text/html": frame.to_html(), "text/plain": str(frame)},
        {"text/html": frame._repr_html_()},
        {"text/html": frame.style.format({"a < b": "{:.1f}"}).to_html()},
        {"image/svg+xml": drawn["svg"].decode()},
        {"image/png": base64.encodebytes(drawn["png"]).decode()},
        {"text/markdown": "**C2** *With a < b*<br>reviews: +1 [0, 2] → **supported**"},
        {"application/papermill.record/text/plain": "1.5"},
        {FINDING: FINDS},
        {FINDING: FINDS | {"components": None, "by_seed": [], "scores": []}},
        {TABLE: {"name": "costs", "csv": "a\n1\n"}},
    ]
    for each in data:
        kind = {"output_type": "display_data", "data": each, "metadata": {}}
        check_output(nbformat.from_dict(kind))


FOUND = (
    "import os\nfrom tlbook.evidence.claims import finding\n"
    "from tlbook.evidence.effects import Effect\n"
    "finding('C2', Effect({}, 0.0, 0.2, 5), setting='here')"
)


def test_chapters_taken_can_be_run_anyway(tmp_path):
    """What ran is compared with what was said, and stays."""
    origin = book(tmp_path / "origin", {}, a=[FOUND.format("float(os.environ['E'])")])
    here = book(tmp_path / "here", {}, a=[FOUND.format("float(os.environ['E'])")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E", "0.1")
        ran = Book(origin)
        assert ran.run(ran.chapters, jobs=1) == []
        outputs.pack(ran, tmp_path / "outputs.zip")
        content = (tmp_path / "outputs.zip").read_bytes()
        for value, problems in [
            ("0.1", []),
            ("0.3", ["a: C2, here: the effect moved by +3.92 standard errors"]),
        ]:
            patch.setenv("E", value)
            small = Book(here)
            taken = outputs.take(small, small.chapters, content, lambda report: None)
            assert outputs.verify(small, taken, 2, jobs=1) == problems
    assert "ran" not in Book(here).last_run(Book(here).chapters[0])
