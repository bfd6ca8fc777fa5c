"""The export: MyST chapters as notebooks that Jupyter, GitHub and Colab can read."""

import hashlib
import re
import shutil
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools import export, published, run_exported
from tools.book import Book as Runs
from tools.notebook import setup_cell
from tools.source import Book

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "tests" / "data" / "book"
HEADER = (SAMPLE / "chapters" / "02-other.md").read_text("utf-8").split("(other)=")[0]
TITLE = "# Title\n\n"


@pytest.fixture
def book(tmp_path):
    shutil.copytree(SAMPLE, tmp_path / "book")
    return Book(tmp_path / "book")


def add(book: Book, *texts: str) -> list[Path]:
    """Add a chapter for each text."""
    toc = book.root / "_toc.yml"
    named = "      - file: chapters/02-other.md\n"
    paths = [book.root / "chapters" / f"{number:02d}-new.md" for number in range(3, 3 + len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(HEADER + TITLE + text, "utf-8")
    new = "".join(named.replace("02-other.md", path.name) for path in paths)
    toc.write_text(toc.read_text("utf-8").replace(named, named + new), "utf-8")
    return paths


def exported(book: Book, path: Path):
    return nbformat.reads(export.export(book)[0][path.with_suffix(".ipynb")], as_version=4)


def cells(book: Book, text: str):
    """The cells that a chapter with this text exports, without the set-up cell and the title."""
    [path] = add(book, text)
    return untitled(exported(book, path))


def untitled(notebook):
    first = notebook.cells[1]
    first.source = first.source.removeprefix(TITLE.strip()).lstrip("\n")
    return [cell for cell in notebook.cells[1:] if cell.source]


PLAIN = {
    "note": (":::{note}\nText.\n:::", "> **Note**\n>\n> Text."),
    "title": (":::{admonition} A `title`\nText.\n:::", "> **A `title`**\n>\n> Text."),
    "nested": (
        "::::{note}\nOuter.\n\n:::{tip}\nInner.\n:::\n::::",
        "> **Note**\n>\n> Outer.\n>\n> > **Tip**\n> >\n> > Inner.",
    ),
    "folded": (
        ":::{admonition} More\n:class: dropdown\nText *here*.\n:::",
        "<details>\n<summary>More</summary>\n\nText *here*.\n\n</details>",
    ),
    "dropdown": (
        ":::{dropdown} A < B\nText.\n:::",
        "<details>\n<summary>A &lt; B</summary>\n\nText.\n\n</details>",
    ),
    "solution": (
        ":::{admonition} Solution\n:class: dropdown\nText.\n:::",
        "<details>\n<summary>Solution: try it yourself first</summary>\n\nText.\n\n</details>",
    ),
    "in a list": (
        "- one\n\n  ```{note}\n  Text.\n  ```\n- two",
        "- one\n\n  > **Note**\n  >\n  > Text.\n\n- two",
    ),
    "in a quotation": ("> ```{note}\n> Text.\n> ```", "> > **Note**\n> >\n> > Text."),
    "code in a box": (
        ":::{note}\n```python\nx = '{eq}`y`'\n\n\nz\n```\n:::",
        "> **Note**\n>\n> ```python\n> x = '{eq}`y`'\n>\n>\n> z\n> ```",
    ),
    "hard break in a box": (":::{note}\none  \ntwo\n:::", "> **Note**\n>\n> one<br />\n> two"),
    "grid": (
        "::::{grid} 2\n\n:::{grid-item-card} Card\nText.\n:::\n::::",
        "**Card**\n\nText.",
    ),
    "tabs": (
        "::::{tab-set}\n\n:::{tab-item} A\nOne.\n:::\n:::{tab-item} B\nTwo.\n:::\n::::",
        "**A**\n\nOne.\n\n**B**\n\nTwo.",
    ),
    "figure": (
        "```{figure} a.png\n:alt: A tree\n\nA {term}`source`.\n```",
        "![A tree](a.png)\n\nA source.",
    ),
    "equation": (
        "$$\na = b\n$$ (first)\n\nBy {eq}`first`.",
        "$$\na = b\n\\tag{1}\n$$\n\nBy (1).",
    ),
    "environment": (
        "\\begin{align*}\na\n\\end{align*}\n\nb",
        "$$\n\\begin{align*}\na\n\\end{align*}\n$$\n\nb",
    ),
    "target": ("(label)=\n## Title\n\n{ref}`label`, [that](#label)", "## Title\n\nTitle, that"),
    "other chapter": (
        "{ref}`other`, {ref}`there <other-methods>`, {doc}`02-other`, [](02-other.md#verdict)",
        "[2 · Another chapter](02-other.ipynb), [there](02-other.ipynb), "
        "[2 · Another chapter](02-other.ipynb), [Verdict](02-other.ipynb)",
    ),
    "standing page": (
        "{ref}`glossary`, [it](../glossary.md), {doc}`/glossary`",
        "Glossary, it, Glossary",
    ),
    "other links": (
        "[a](https://example.org/x?y=1#z) <https://example.org> [b](../data/x.csv)",
        "[a](https://example.org/x?y=1#z) <https://example.org> [b](../data/x.csv)",
    ),
    "term": ("{term}`source`, {term}`Sources <source>`", "source, Sources"),
    "small roles": (
        "{abbr}`TL (transfer learning)` {math}`a_i` H{sub}`2`O {code}`x`",
        "TL (transfer learning) $a_i$ H<sub>2</sub>O `x`",
    ),
    "what looks like markup": (
        "1 \\* 2, \\$5, \\`x\\`, \\_x\\_, snake_case, \\[no](x), 1 < 2, \\<b>, &amp;lt;\n\n\\# one",
        "1 \\* 2, \\$5, \\`x\\`, \\_x\\_, snake_case, [no\\](x), 1 < 2, \\<b>, \\&lt;\n\n\\# one",
    ),
    "raw": ("one<br>two\n\n<hr>\n\nthree", "one<br>two\n\n<hr>\n\nthree"),
    "aligned table": (
        "| a | b | c |\n|:--|--:|:-:|\n| 1 | 2 | 3 |",
        "| a | b | c |\n|:---|---:|:---:|\n| 1 | 2 | 3 |",
    ),
    "blank lines": (
        "- $$ x $$ (x)\n\n```\nx\n\n\ny\n```",
        "- $$\n  x\n  \\tag{1}\n  $$\n\n```\nx\n\n\ny\n```",
    ),
    "lists": (
        "- one\n  - two\n- three\n\n5. five\n\n   more\n\n6. six",
        "- one\n  - two\n- three\n\n5. five\n\n   more\n\n6. six",
    ),
    "attributes": ('[迁移]{lang="zh"} and ![a](b.png){width=3}', "迁移 and ![a](b.png)"),
    "code spans": (
        "`{eq}` and ``{ref}`x` ``, `` `x` ``",
        "`{eq}` and ``{ref}`x` ``, `` `x` ``",
    ),
    "code block": (
        "````{code-block} md\n```{note}\n```\n````\n\n```{code} python\nx\n```",
        "````md\n```{note}\n```\n````\n\n```python\nx\n```",
    ),
    "table": (
        "| a | b |\n|---|---|\n| `x\\|y` {term}`source` z | {term}`target` |",
        "| a | b |\n|---|---|\n| `x\\|y` source z | target |",
    ),
    "emphasis": (
        "**a {term}`source`** and [*b* `c`](#other)",
        "**a source** and [*b* `c`](02-other.ipynb)",
    ),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The cells of a chapter for each case, from one export, in which Sphinx warned of nothing."""
    book = Book(tmp_path_factory.mktemp("plain") / "book")
    shutil.copytree(SAMPLE, book.root)
    (book.root / "data").mkdir()
    for name in ("chapters/a.png", "chapters/b.png", "data/x.csv"):
        (book.root / name).touch()
    paths = add(book, *(myst for myst, _ in PLAIN.values()))
    notebooks, problems = export.export(book)
    assert problems == []
    read = [nbformat.reads(notebooks[path.with_suffix(".ipynb")], as_version=4) for path in paths]
    return dict(zip(PLAIN, map(untitled, read), strict=True))


@pytest.mark.parametrize("name", PLAIN)
def test_myst_becomes_plain_markdown(plain, name):
    [cell] = plain[name]
    assert cell.cell_type == "markdown"
    assert cell.source == PLAIN[name][1]


def test_citations_are_linked_and_listed(book):
    text, listed = cells(
        book, "{cite:t}`pan2010survey`; {cite:p}`wang2020minilm,box1978statistics`"
    )
    assert text.source == (
        "Pan and Yang ([2010](https://doi.org/10.1109/TKDE.2009.191)); "
        "([Box, 1978](https://doi.org/10.1000/S0%2878%291); "
        "[Wang *et al.*, 2020](https://arxiv.org/abs/2002.10957))"
    )
    heading, _, *items = listed.source.split("\n")
    assert heading == "## References"
    assert items[1] == (
        "- Sinno Jialin Pan and Qiang Yang. A survey on transfer learning. *IEEE Transactions on "
        "Knowledge and Data Engineering*, 2010. "
        "[doi:10.1109/TKDE.2009.191](https://doi.org/10.1109/TKDE.2009.191)."
    )
    assert [item.split()[1] for item in items] == ["George", "Sinno", "Wenhui"]  # by last name


def test_computed_values_are_said_by_a_folded_cell(book):
    text = (
        "Before.\n\nThe {term}`source` gains {glue:text}`gain:.1f` [points](02-other.md).\n\n"
        "| a |\n|---|\n| {glue:text}`/chapters/03-new.md::gain:+.2f` |\n\nAfter."
    )
    before, said, after = cells(book, text)
    assert (before.source, after.source) == ("Before.", "After.")
    assert said.cell_type == "code"
    assert said.source == (
        '#@title\nfrom tlbook.evidence.claims import say\n\nsay(r"""\n'
        "The source gains <<gain:.1f>> [points](02-other.ipynb).\n\n"
        '| a |\n|---|\n| <<gain:+.2f>> |\n""")'
    )
    assert said.metadata == {
        "cellView": "form",
        "jupyter": {"source_hidden": True},
        "tags": ["hide-input"],
    }


@pytest.mark.parametrize(
    "block",
    ["- one\n- {glue:text}`a`", ":::{note}\n- {glue:text}`a`\n:::", "> {glue:text}`a`"],
)
def test_the_whole_block_is_said(book, block):
    kinds = [cell.cell_type for cell in cells(book, f"before\n\n{block}\n\nafter")]
    assert kinds == ["markdown", "code", "markdown"]


def test_quotes_and_backslashes_survive(book):
    [said] = cells(book, 'A """ and $\\alpha$: {glue:text}`a` "quoted"')
    text = said.source.split("say(", 1)[1].rstrip(")").lstrip("r")
    assert eval("r" + text) == '\nA """ and $\\alpha$: <<a>> "quoted"\n'


def test_cells_fold_where_the_book_folds_them(book):
    plain, folded, solution, magic = cells(
        book,
        "```{code-cell} ipython3\nx = 1\n```\n"
        "```{code-cell} ipython3\n:tags: [hide-input]\nx = 2\n```\n"
        "```{code-cell} ipython3\n:tags: [hide-cell, solution]\nx = 3\n```\n"
        "```{code-cell} ipython3\n:tags: [remove-input]\n%%time\nx = 4\n```\n",
    )
    assert (plain.source, plain.metadata) == ("x = 1", {})
    assert folded.source == "#@title\nx = 2"
    assert solution.source == "#@title Solution: try it yourself first\nx = 3"
    assert magic.source == "%%time\nx = 4"
    for cell in (folded, solution, magic):
        assert cell.metadata.jupyter.source_hidden
        assert cell.metadata.cellView == "form"


def test_caption_of_a_drawn_figure_follows_it(book):
    figure = "mystnb:\n  figure:\n    name: drawn\n    caption: A {term}`source`"
    text = f"```{{code-cell}}\n---\n{figure}\n---\nx\n```\n\nSee {{ref}}`drawn`."
    drawing, caption = cells(book, text)
    assert (drawing.source, caption.source) == ("x", "A source\n\nSee A source.")
    assert export.export(book)[1] == []


def test_first_cell_installs_the_package_from_the_configured_repository(book):
    setup = exported(book, book.chapters[0]).cells[0]
    assert '%pip install -q "tlbook[ot] @ git+https://github.com/sample/book@main"' in setup.source
    assert setup.source.splitlines()[-1].startswith("import tlbook")
    assert setup.metadata.jupyter.source_hidden
    (book.root / "pyproject.toml").write_text('[project]\nversion = "1.2"\n')
    setup = exported(book, book.chapters[0]).cells[0]
    assert "/sample/book@v1.2" in setup.source


@pytest.mark.parametrize(
    ("found", "versions", "said"),
    [
        ([False, True], {"transformers": "5.2"}, None),
        ([True], {"transformers": "5.2"}, None),
        ([False, False], {}, "The book's package was not installed"),
        ([True], {}, "run %pip install torch transformers"),
        ([True], {"transformers": "4.57.6"}, "needs transformers 5 or newer, and this is 4.57.6"),
    ],
)
def test_first_cell_says_in_one_sentence_what_is_missing(monkeypatch, found, versions, said):
    """With what is installed before and after the call of pip, and the versions of packages."""
    config = SimpleNamespace(book_repository="https://example.org/book", book_version="v1")
    cell = setup_cell(config).source
    source = re.sub(r"^( +)%(pip .*)", lambda m: f"{m[1]}pip({m[2]!r})", cell, flags=re.MULTILINE)
    answers, called = iter(found), []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: next(answers) or None)

    def version(name):
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr("importlib.metadata.version", version)
    if said is None:
        exec(source, {"pip": called.append})
    else:
        with pytest.raises(SystemExit, match=said):
            exec(source, {"pip": called.append})
    assert len(called) == len(found) - 1


#: text of a chapter -> what is said of it, at its last line
WRONG = {
    "{unknown}`x`": "unknown",
    ":::{note}\n:class: tip\n\n{unknown}`x`\n:::": "unknown",
    "{glue:text}`/chapters/02-other.md::x`": "a value of another page",
    "{glue:text}`x` and 1 << 2": "'<<' beside a computed value",
    "text[^1]\n\n[^1]: note": "cannot show a footnote",
    "term\n: definition": "cannot show a definition list",
    "```{code-cell} ipython3\n```\n\n{unknown}`x`": "unknown",
}


def test_what_cannot_be_made_plain_is_an_error_with_its_place(book):
    paths = add(book, *WRONG)
    _, problems = export.export(book)
    for path, (text, said) in zip(paths, WRONG.items(), strict=True):
        found = [p for p in problems if p.startswith(f"{book.name(path)}:") and said in p]
        assert found, (text, said, problems)
        lines = path.read_text("utf-8").splitlines()
        first = lines.index(text.split("\n")[0]) + 1
        at = next((i for i, line in enumerate(lines, 1) if "{unknown}" in line), first)
        assert int(found[0].split(":")[1]) in range(at, len(lines) + 1), found[0]


def test_export_is_stable(book):
    path = book.chapters[0]
    notebook = path.with_suffix(".ipynb")
    first = export.export(book)[0][notebook]
    assert first == export.export(Book(book.root))[0][notebook]
    assert first.endswith("}\n")

    def ids():
        return [cell.id for cell in exported(book, path).cells]

    before = ids()
    assert len(set(before)) == len(before)
    text = path.read_text("utf-8")
    path.write_text(text.replace("print(gain)", "print(gain, best)"), "utf-8")
    changed = [(old, new) for old, new in zip(before, ids(), strict=True) if old != new]
    assert len(changed) == 1


def test_equal_cells_have_ids_of_their_own(book):
    first, second = cells(book, "```{code-cell}\n1\n```\n```{code-cell}\n1\n```")
    assert first.id != second.id


@pytest.mark.parametrize("root", [ROOT, SAMPLE], ids=["book", "sample"])
def test_chapters_export_without_anything_raw(root):
    notebooks, problems = export.export(Book(root))
    assert problems == []
    assert notebooks.keys() == {path.with_suffix(".ipynb") for path in Book(root).chapters}
    for cell in (c for text in notebooks.values() for c in nbformat.reads(text, 4).cells):
        text = cell.source
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
            text = text.split("say(", 1)[1] if "import say" in text else ""
        text = re.sub(r"^( *>? *)(`{3,}).*?^\1\2$", "", text, flags=re.DOTALL | re.MULTILINE)
        text = re.sub(r"(?<![`}])(`+)(?!`).*?(?<!`)\1(?!`)", "", text)
        raw = re.search(r":::|\{(cite|eq|ref|glue|term|doc|numref|note)\b|^\(\S+\)=", text, re.M)
        assert not raw, f"raw {raw[0]!r} in {text}"


def test_check_names_what_is_out_of_date(book, monkeypatch, capsys):
    monkeypatch.chdir(book.root)
    monkeypatch.setattr(sys, "argv", ["export"])
    assert export.main() == 0
    monkeypatch.setattr(sys, "argv", ["export", "--check"])
    assert export.main() == 0
    assert export.check(book) == []

    path = book.root / "chapters" / "02-other.md"
    path.write_text(path.read_text("utf-8") + "\nOne more line.\n", "utf-8")
    (book.root / "chapters" / "09-gone.ipynb").touch()
    assert export.main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "chapters/02-other.ipynb:1: out of date: run python -m tools.export",
        "chapters/09-gone.ipynb:1: its chapter is gone: delete it",
    ]


def run(book: Book, path: Path):
    notebook = exported(book, path)
    resources = {"metadata": {"path": str(path.parent)}}
    return NotebookClient(notebook, timeout=60, resources=resources).execute()


def test_exported_notebook_says_what_the_book_says(book):
    executed = run(book, book.chapters[0])
    shown = [
        output.data["text/markdown"]
        for cell in executed.cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    ]
    assert "The gain is 7.2 points, measured with the *encoder*" in shown[0]
    assert "| encoder | +7.2 |" in shown[1]


@pytest.mark.usefixtures("kernels_find_the_tools")
def test_published_notebook_reads_before_it_runs(book):
    with (book.root / "_config.yml").open("a") as config:
        config.write("execute: {execute_notebooks: cache, timeout: 60}\n")
    runs = Runs(book.root)
    assert runs.run(runs.chapters, jobs=1) == []
    (book.root / published.FOLDER).mkdir(parents=True)
    (book.root / published.FOLDER / "gone.ipynb").touch()
    published.publish(runs, export.export(book)[0])
    folder = book.root / published.FOLDER
    assert {path.stem for path in folder.glob("*.ipynb")} == {path.stem for path in book.chapters}
    archive = (folder / published.ARCHIVE).read_bytes()
    digest = hashlib.sha256(archive).hexdigest()
    said = (folder / f"{published.ARCHIVE}.sha256").read_text()
    assert said == f"{digest}  {published.ARCHIVE}\n"
    with zipfile.ZipFile(folder / published.ARCHIVE) as packed:
        assert packed.namelist() == [f"notebooks-main/{c.stem}.ipynb" for c in book.chapters]
        assert packed.read(packed.namelist()[0]) == (folder / "01-sample.ipynb").read_bytes()
    published.pack(folder, "main")
    assert (folder / published.ARCHIVE).read_bytes() == archive  # the same bytes another time
    notebook = nbformat.read(book.root / published.FOLDER / "01-sample.ipynb", as_version=4)
    nbformat.validate(notebook)
    text = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert "The gain is 7.2 points, measured with the *encoder*" in text
    assert "| encoder | +7.2 |" in text and "<<" not in text
    outputs = {c.source: c.outputs for c in notebook.cells[1:] if c.cell_type == "code"}
    assert not any("import say" in source for source in outputs)
    assert outputs["#@title\nprint(gain)"][0].text == "7.25\n"
    assert any("image/png" in output.data for output in outputs[PLOT])
    assert not any("papermill" in str(shown) for shown in outputs.values())
    assert not any(cell.outputs for cell in exported(book, book.chapters[0]).cells[:1])


PLOT = "from matplotlib import pyplot as plt\n\nplt.plot([1, 2]);"


def test_a_published_cell_that_did_not_run_is_refused():
    cells = [nbformat.v4.new_code_cell(text) for text in ("setup", "1 + 1")]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(ValueError, match="did not run: '1 \\+ 1'"):
        published.filled(notebook, nbformat.v4.new_notebook(cells=cells[:1]))


@pytest.fixture
def colab_book(book):
    """The sample book with the package beside it, as in the repository."""
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, book.root)
    shutil.copytree(ROOT / "tlbook", book.root / "tlbook")
    text = (
        "```{code-cell}\nimport sys, tlbook\nfrom importlib.metadata import version\n"
        f"assert version('torch') == {version('torch')!r}\n"
        f"assert version('tensorflow') == {version('tensorflow')!r}\n"
        f"assert not tlbook.__file__.startswith({str(ROOT)!r}), tlbook.__file__\n```"
    )
    add(book, text)
    return Book(book.root)


@pytest.mark.slow
def test_set_up_cell_installs_the_package_in_colab(colab_book):
    path = colab_book.root / "chapters" / "03-new.md"
    notebook = path.with_suffix(".ipynb")
    nbformat.write(exported(colab_book, path), notebook)
    run_exported.run_in_colab(notebook, colab_book)


@pytest.mark.slow
def test_likeness_of_colab_has_no_package_before_the_set_up_cell(colab_book):
    path = colab_book.root / "chapters" / "03-new.md"
    notebook = path.with_suffix(".ipynb")
    without = exported(colab_book, path)
    del without.cells[0]
    nbformat.write(without, notebook)
    with pytest.raises(CellExecutionError, match="No module named 'tlbook'"):
        run_exported.run_in_colab(notebook, colab_book)
