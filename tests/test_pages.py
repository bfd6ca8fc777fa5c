"""The built pages can be read by everybody, without a network, and open in Colab."""

import shutil
from pathlib import Path

import pytest

from tools import check
from tools.source import Book

ROOT = Path(__file__).parents[1]
GOOD = """\
<!DOCTYPE html>
<html lang="en">
<head>
<link rel="canonical" href="https://example.org/page.html">
<link rel="stylesheet" href="_static/page.css">
<script src="_static/page.js"></script>
<script>const home = "https://example.org/";</script>
</head>
<body>
<div class="onlyprint"><h1>Title</h1></div>
<h1>Title</h1>
<img src="_images/a.svg" alt="A line that goes up">
<svg aria-hidden="true"><path d=""/></svg>
<svg role="img"><title>A tree</title><path d=""/></svg>
<a href="https://example.org">Elsewhere</a>
<a href="https://colab.research.google.com/github/sample/book/blob/main/chapters/01-sample.ipynb">Colab</a>
<a href="https://colab.research.google.com/github/sample/book/blob/main/chapters/02-other.ipynb">Colab</a>
</body>
</html>
"""


@pytest.fixture
def sample(tmp_path):
    """The sample book with a good page for each of its pages."""
    root = tmp_path / "book"
    shutil.copytree(ROOT / "tests" / "data" / "book", root)
    book = Book(root)
    for path in book.pages:
        page = root / "_build" / "html" / path.relative_to(root).with_suffix(".html")
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(GOOD)
    for path in book.chapters:
        path.with_suffix(".ipynb").touch()
    styles = root / "_build" / "html" / "_static"
    styles.mkdir()
    (styles / "page.css").write_text("body { background: url(paper.png) }\n")
    return root


def test_good_pages_pass(sample):
    assert check.pages(Book(sample)) == []


def test_without_a_built_book_there_is_nothing_to_check(sample):
    shutil.rmtree(sample / "_build")
    assert check.pages(Book(sample)) == []


FAULTS = [
    ('lang="en"', "", ":1: the page does not say its language"),
    ("\n<h1>Title</h1>", "<h2>Title</h2>", ":1: 0 top headings"),
    ("\n<h1>Title</h1>", "<h1>Title</h1><h1>Again</h1>", ":1: 2 top headings"),
    ('alt="A line that goes up"', "", ":12: no alt text: _images/a.svg"),
    ('alt="A line that goes up"', 'alt=" "', ":12: no alt text"),
    ('alt="A line that goes up"', 'alt="_images/a.svg"', ":12: no alt text"),
    ("<title>A tree</title>", "", ":14: a drawing without aria-label"),
    (' aria-hidden="true"', "", ":13: a drawing without aria-label"),
    ("_static/page.js", "https://cdn.example/x.js", ":6: fetches https://cdn.example/x.js"),
    ("_static/page.css", "//cdn.example/x.css", ":5: fetches //cdn.example/x.css"),
    ("_images/a.svg", "https://example.org/a.svg", ":12: fetches https://example.org/a.svg"),
    (
        '"https://example.org/"',
        '"https://cdn.example/x.mjs"',
        ":7: may fetch https://cdn.example/x",
    ),
    ("chapters/01-sample.ipynb", "chapters/01-sample.md", ":1: no Colab button that opens"),
    ("/blob/main/chapters/01", "/blob/other/chapters/01", ":1: no Colab button that opens"),
]


@pytest.mark.parametrize(("old", "new", "said"), FAULTS)
def test_fault_is_seen(sample, old, new, said):
    page = sample / "_build" / "html" / "chapters" / "01-sample.html"
    assert old in GOOD
    page.write_text(GOOD.replace(old, new, 1))
    [problem] = check.pages(Book(sample))
    assert problem.startswith("_build/html/chapters/01-sample.html" + said)


def test_style_from_the_network_is_seen(sample):
    style = sample / "_build" / "html" / "_static" / "page.css"
    style.write_text('@import "https://fonts.example/a.css";\nb { src: url(https://f.example/b) }')
    assert [problem.split("takes ")[1] for problem in check.pages(Book(sample))] == [
        "https://fonts.example/a.css from the network",
        "https://f.example/b from the network",
    ]


def test_missing_page_and_notebook_are_seen(sample):
    (sample / "_build" / "html" / "intro.html").unlink()
    (sample / "chapters" / "02-other.ipynb").unlink()
    assert check.pages(Book(sample)) == [
        "_build/html/intro.html:1: not built: run make book",
        "_build/html/chapters/02-other.html:1: Colab would not find chapters/02-other.ipynb",
    ]
