"""The book on paper: every page once, with links and pictures that lead somewhere."""

import re
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from tools import paper
from tools.source import Book

PAGE = """<!DOCTYPE html><html lang="en"><head>
<link rel="stylesheet" href="_static/book.css"/></head><body>
<article class="bd-article"><section id="top"><h1>{title}<a class="headerlink">#</a></h1>
<p id="place">{text}</p><img src="{up}_images/a.svg" alt="A line"/>
<details class="hide above-input"><pre>plumbing</pre></details>
<details><summary>More</summary>folded</details>
<a href="{other}#place">there</a><a href="#place">here</a><a href="{up}api/data.html#x">data</a>
<a href="https://example.org">out</a></section></article></body></html>"""


@pytest.fixture
def book(tmp_path):
    (tmp_path / "_config.yml").write_text(
        "title: A & B\nhtml: {baseurl: 'https://example.org/book/'}\n"
        "sphinx: {config: {mathjax_path: mathjax/x.js}}\n"
    )
    (tmp_path / "_toc.yml").write_text(
        "format: jb-book\nroot: intro.md\nparts:\n- caption: Start\n  chapters:\n"
        "  - file: chapters/one.md\n- caption: Reference\n  chapters:\n  - file: api/data.md\n"
    )
    html = tmp_path / "_build" / "html"
    for folder in ("chapters", "_static", "_images"):
        (html / folder).mkdir(parents=True)
    (html / "_images" / "a.svg").write_text("<svg/>")
    (html / "_static" / "book.css").write_text("")
    texts = {"title": "Intro", "text": "first", "up": "", "other": "chapters/one.html"}
    (html / "intro.html").write_text(PAGE.format(**texts))
    texts = {"title": "One", "text": "second", "up": "../", "other": "../intro.html"}
    (html / "chapters" / "one.html").write_text(PAGE.format(**texts))
    return Book(tmp_path)


def test_pages_are_one_in_their_order(book):
    page = paper.write(book)
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    assert [title.text for title in soup.find_all("h1")] == ["Intro", "One"]
    assert soup.title.text == "A & B"
    assert "plumbing" not in soup.text and "#" not in soup.text
    assert all(part.has_attr("open") for part in soup.find_all("details"))
    assert [link.text for link in soup.select("nav a")] == ["One"]


def test_links_and_pictures_lead_somewhere(book):
    page = paper.write(book)
    soup = BeautifulSoup(page.read_text("utf-8"), "html.parser")
    ids = [part["id"] for part in soup.select("[id]")]
    assert len(ids) == len(set(ids))
    hrefs = [link["href"] for link in soup.find_all("a")]
    assert {href[1:] for href in hrefs if href.startswith("#")} <= set(ids)
    assert "#chapters-one--place" in hrefs and "#intro--place" in hrefs
    assert hrefs.count("https://example.org/book/api/data.html#x") == 2
    for each in [*soup.select("img[src]"), *soup.select("link[href]")]:
        assert (page.parent / (each.get("src") or each["href"])).exists()


def test_a_book_that_is_not_built_says_so(book, monkeypatch, capsys):
    monkeypatch.chdir(book.root)
    (book.root / "_build" / "html" / "chapters" / "one.html").unlink()
    assert paper.main() == 1
    assert re.search(r"one\.html is not built: run make book first", capsys.readouterr().err)


def test_without_a_browser_the_page_is_left(book, monkeypatch, capsys):
    monkeypatch.chdir(book.root)
    monkeypatch.setattr(paper.shutil, "which", lambda name: None)
    assert paper.main() == 0
    assert "No Chromium or Chrome here" in capsys.readouterr().out
    assert Path(paper.FOLDER, "index.html").exists()
