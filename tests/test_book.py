"""The book's own files pass every check, and each check sees the faults it is there for."""

import shutil
from pathlib import Path

import pytest

from tools import build, check, experiments, export
from tools.source import Book

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The sample book with its notebooks."""
    root = tmp_path_factory.mktemp("good") / "book"
    shutil.copytree(ROOT / "tests" / "data" / "book", root)
    (root / "tlbook" / "evidence").mkdir(parents=True)
    shutil.copy(ROOT / "tlbook" / "evidence" / "claims.toml", root / "tlbook" / "evidence")
    for path, text in export.export(Book(root))[0].items():
        path.write_text(text, "utf-8")
    return root


@pytest.fixture
def sample(good, tmp_path):
    return shutil.copytree(good, tmp_path / "book")


@pytest.mark.parametrize("name", check.CHECKS)
def test_sample_passes(sample, name):
    assert check.CHECKS[name](Book(sample)) == []


SAMPLE = "chapters/01-sample.md"
DRAWING = "    alt: A line that goes up\n"
#: check -> faults: file, text in it, what it becomes, what the check must say (LINE: the text's)
FAULTS = {
    "ids": [
        (SAMPLE, "Claims C2", "Claims C25", ":LINE: the documents have no 'C25'"),  # no id
        (SAMPLE, "print(gain)", 'finding("C02", x)', "no 'C02'"),  # no id
        (SAMPLE, "print(gain)", 'finding(x, claim="c2")', "the documents have no 'c2'"),
    ],
    "shape": [
        (SAMPLE, "## Check yourself", "### Check yourself", ":1: no section 'Check yourself'"),
        (SAMPLE, "## Further reading", "", ":1: no section 'Further reading'"),
        (SAMPLE, "    format_name: myst\n", "", ":1: no jupytext header"),
        ("chapters/02-other.md", "kernelspec:", "kernel:", ":1: no jupytext header"),
        (SAMPLE, "# 1 · A", "## 1 · A", "the first heading is not the chapter's title"),
        (SAMPLE, "## Verdict", "# Verdict", "a second title"),
        (SAMPLE, ":tags: [hide-input]", ":tags: [x]\n---\nmystnb: {}\n---", "not Python"),
    ],
    "alternatives": [
        (SAMPLE, ":alt: A tree in a square\n", "", ": a figure without :alt:"),
        (SAMPLE, "None.", "![](../logo.svg)", "an image without alt text"),
        (SAMPLE, DRAWING, "    width: 1\n", ": a cell that draws without alt text"),
        (SAMPLE, "print(gain)", "from tlbook import plots as p\np.effects(x)", "a cell that draws"),
        (
            SAMPLE,
            "print(gain)",
            "from tlbook.evidence.plots import heatmap\nheatmap(x)",
            "a cell that draws",
        ),
    ],
    "numbers": [
        (SAMPLE, "no value.", "12.5 of them.", ":LINE: the number '12.5' is typed"),
        (SAMPLE, "Item without", "Item with 9 %", ":LINE: the number '9' is typed"),
        (SAMPLE, "Folded *text*", "Gains 3 points", "the number '3' is typed"),
        (SAMPLE, "% typed: the year", "% the year", "the number '12.5' is typed"),
        (SAMPLE, "| arm | gain |", "| arm | 0.25 |", "the number '0.25' is typed"),
        (SAMPLE, "Like this.", "Half of 20\n% of it.", "a line that begins with % is a comment"),
    ],
    "values": [
        (SAMPLE, "gain:.0f", "loss:.0f", "no cell records 'loss'"),
        (SAMPLE, "gain:.2f", "loss:.2f", ":LINE: no cell records 'loss'"),
        (
            SAMPLE,
            "Every construct",
            "{glue:text}`gain:.1f`",
            ":16: 'gain' is recorded further down",
        ),
    ],
    "references": [
        (
            "references.bib",
            "  url = {https://arxiv.org/abs/2002.10957}\n",
            "",
            ":9: 'wang2020minilm'",
        ),
    ],
    "repository": [
        ("intro.md", "Begin", "https://github.com/sample/book", "intro.md:3: the repository's"),
    ],
}


#: what Sphinx sees: text in the sample, what it becomes, what the export must say
SEEN_BY_SPHINX = [
    ("(02-other.md)", "(03-none.md)", "cross-reference target not found: '03-none.md'"),
    ("02-other.md#verdict", "02-other.md#no-anchor", "'chapters/02-other': 'no-anchor'"),
    ("(#other)", "(#no-target)", "cross-reference target not found: 'no-target'"),
    ("{ref}`other-methods`", "{ref}`no-methods`", "undefined label: 'no-methods'"),
    ("<idea>", "<no-idea>", "undefined label: 'no-idea'"),
    ("of {eq}`loss`", "of {eq}`no-loss`", "equation not found: no-loss"),
    ("{doc}`02-other`", "{doc}`nowhere`", "unknown document: 'nowhere'"),
    ("A note with {term}`source`", "{term}`none`", "term not in glossary: 'none'"),
    ("../logo.svg", "../none.svg", "image file not readable: none.svg"),
    ("`pan2010survey` say", "`nobody2010` say", 'could not find bibtex key "nobody2010"'),
    ("None.", "{py:func}`no_function`", "reference target not found: no_function"),
    ("Like this.", "{unknown}`x`", 'Unknown interpreted text role "unknown"'),
]


def test_what_sphinx_sees_is_said_with_its_place(sample):
    lines = [fault(sample, SAMPLE, old, new) for old, new, _ in SEEN_BY_SPHINX]
    *problems, stale = check.exports(Book(sample))
    assert stale == "chapters/01-sample.ipynb:1: out of date: run python -m tools.export"
    assert len(problems) == len(SEEN_BY_SPHINX)
    for (_, _, said), line in zip(SEEN_BY_SPHINX, lines, strict=True):
        [problem] = [problem for problem in problems if said in problem]
        file, at, _ = problem.split(":", 2)
        assert file == SAMPLE
        assert line - 1 <= int(at) <= line, problem  # its own or the first of its paragraph


def test_a_page_that_is_missing_is_seen(sample):
    fault(sample, "_toc.yml", "02-other", "03-none")
    said = "intro.md:1: toctree contains reference to nonexisting document 'chapters/03-none'"
    assert said in " ".join(check.exports(Book(sample)))


def fault(root: Path, name: str, old: str, new: str) -> int:
    """Break a file; returns the line where."""
    text = (root / name).read_text("utf-8")
    assert old in text, f"the sample has no {old!r} to break"
    (root / name).write_text(text.replace(old, new, 1), "utf-8")
    return text[: text.index(old)].count("\n") + 1


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "said"),
    [(name, *fault) for name, faults in FAULTS.items() for fault in faults],
)
def test_fault_is_seen(sample, name, file, old, new, said):
    line = fault(sample, file, old, new)
    problems = check.CHECKS[name](Book(sample))
    said = said.replace("LINE", str(line))
    assert any(said in problem for problem in problems), problems
    assert all(problem.split(":")[1].isdigit() for problem in problems)


def test_every_check_has_a_fault():
    assert FAULTS.keys() | {"exports", "links", "record", "planned", "pages"} == check.CHECKS.keys()


def test_uncited_reference_is_seen(sample):
    fault(sample, "references.md", ":all:\n", ":cited:\n")
    fault(sample, SAMPLE, ", box1978statistics", "")
    fault(sample, SAMPLE, "{cite:t}`box1978statistics`", "Box")
    problems = check.references(Book(sample))
    assert problems == ["references.bib:17: 'box1978statistics' is neither cited nor listed"]


def test_unknown_id_in_tests_and_ledger_is_seen(sample):
    (sample / "tests").mkdir()
    unknown = "C" + "99"
    (sample / "tests" / "test_x.py").write_text(f'x = "{unknown}"\ny = "{unknown}"  # no id\n')
    record = sample / "tlbook" / "evidence" / "ledger.json"
    record.write_text(f'{{\n "{unknown}": {{"findings": []}}\n}}\n')
    assert [problem.split(": ")[0] for problem in check.ids(Book(sample))] == [
        "tests/test_x.py:1",
        "tlbook/evidence/ledger.json:2",
    ]
    assert len(check.record(Book(sample))) == 1


def test_broken_link_in_the_readme_is_seen(sample):
    (sample / "README.md").write_text("[here](intro.md) and\n[there](none.md#x)\n")
    assert check.links(Book(sample)) == ["README.md:2: no file 'none.md'"]


def test_command_lists_problems_and_fails(sample, monkeypatch, capsys):
    monkeypatch.chdir(sample)
    assert check.main() == 0
    assert capsys.readouterr().out == (
        "The history is not here: whether plans came before results is not checked.\n"
        "0 problems in 12 checks (no built pages to check)\n"
    )
    fault(sample, SAMPLE, "## Check yourself", "## Others")
    assert check.main() == 1
    *problems, summary = capsys.readouterr().out.splitlines()
    assert "chapters/01-sample.md:1: no section 'Check yourself'" in problems
    assert summary.startswith("2 problems")


def test_every_recorded_comparison_is_asked_for_and_there():
    chapters = build.Book(ROOT).chapters
    asked = {name for chapter in chapters for name in experiments.names(chapter)}
    assert asked == {
        file.stem for file in (ROOT / "tlbook" / "evidence" / "recorded").glob("*.json")
    }


def test_unknown_experiments_are_named(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", ["experiments", "model-transfer-revews"])
    with pytest.raises(SystemExit):
        experiments.main()
    said = capsys.readouterr().err
    assert "no chapter asks for model-transfer-revews: it is" in said
    assert "model-transfer-reviews" in said
