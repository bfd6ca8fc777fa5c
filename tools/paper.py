"""Puts the built book on paper: all pages as one, ``_build/print/index.html``, and a PDF of it.

    python -m tools.paper

or ``make print``, after ``make book``. What readers open on the screen is open here, but for folded
code, which stays in the notebooks. The reference of the package is left out. The PDF needs Chromium
or Chrome; without one, print the page from any browser.
"""

import os
import posixpath
import re
import shutil
import subprocess
import sys
from html import escape
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from tools.source import Book

FOLDER = Path("_build", "print")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome", "msedge")
#: Folders of the site of which the page has a copy.
COPIED = ("_images", "_static")
#: Parts of a page that are for the screen.
SCREEN = ".headerlink, .copybtn, details.hide, .toggle-button, .ran, script"
STYLE = """
@page { size: A4; margin: 18mm 16mm; @bottom-center { content: counter(page); font-size: 9pt; } }
body { background: #fff; margin: 0 auto; max-width: 46rem; padding: 1rem; }
html { scroll-padding-top: 0; }
.bd-article section.page, nav.contents { break-before: page; }
.bd-article h1 { margin-top: 0; }
.bd-article img { height: auto; max-width: 100%; }
.bd-article :is(h1, h2, h3, h4) { break-after: avoid; }
.bd-article .admonition { break-inside: avoid-page; }
.bd-article .admonition.option > .admonition-title { cursor: auto; font-weight: 600; }
.bd-article pre { overflow-wrap: anywhere; white-space: pre-wrap; }
nav.contents { background: none; border: 0; }
nav.contents ol { list-style: none; padding-left: 0; }
nav.contents p { font-weight: 600; margin: 1rem 0 0.25rem; }
@media print { body { font-size: 10pt; max-width: none; padding: 0; } }
"""


def write(book: Book) -> Path:
    """Write the page with copies of what it shows.

    Parameters
    ----------
    book : tools.source.Book
        A book whose pages are built.

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    FileNotFoundError
        A page is not built.
    """
    site, folder = book.root / "_build" / "html", book.root / FOLDER
    names = [book.name(page.with_suffix("")) for page in book.toc if page.parent.name != "api"]
    home = book.config.get("html", {}).get("baseurl", "")
    bodies = {name: body(site, name) for name in names}
    for name, article in bodies.items():
        joined(article, name, bodies.keys(), home)
    first = BeautifulSoup((site / f"{names[0]}.html").read_text("utf-8"), "html.parser")
    styles = [link["href"] for link in first.select('head link[rel="stylesheet"]')]
    title = escape(book.config.get("title", ""))
    head = [f'<link rel="stylesheet" href="{escape(address)}"/>' for address in styles]
    mathjax = book.config["sphinx"]["config"]["mathjax_path"]
    # the pages tell MathJax to leave them alone but for the formulas
    options = '<script>window.MathJax = {options: {processHtmlClass: "math"}}</script>'
    text = "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en" data-theme="light" data-mode="light">\n<head>',
            f'<meta charset="utf-8"/><title>{title}</title>',
            *head,
            f"<style>{STYLE}</style>{options}",
            f'<script defer src="_static/{mathjax}"></script>\n</head>',
            '<body><main class="bd-article">',
            str(bodies[names[0]]),
            contents(book, bodies),
            *(str(bodies[name]) for name in names[1:]),
            "</main></body>\n</html>\n",
        ]
    )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for each in COPIED:
        if (site / each).exists():
            shutil.copytree(site / each, folder / each)
    (folder / "index.html").write_text(text, "utf-8")
    return folder / "index.html"


def body(site: Path, name: str) -> Tag:
    """What a built page says, without what is for the screen."""
    soup = BeautifulSoup((site / f"{name}.html").read_text("utf-8"), "html.parser")
    article = soup.select_one("article.bd-article")
    for part in article.select(SCREEN):
        part.decompose()
    for part in article.select("details"):
        part["open"] = ""
    article.name = "section"
    article["class"] = "page"
    article["id"] = ""  # the page itself
    return article


def joined(article: Tag, name: str, pages, home: str) -> None:
    """Make the anchors of a page its own, and its links and pictures those of the whole."""
    for part in [article, *article.select("[id]")]:
        part["id"] = anchor(name, part["id"])
    for link in article.select("a[href]"):
        address, fragment = urldefrag(link["href"])
        if urlsplit(address).scheme:
            continue
        page = posixpath.normpath(posixpath.join(posixpath.dirname(name), address))
        target = page.removesuffix(".html") if address else name
        if target in pages:
            link["href"] = f"#{anchor(target, fragment)}"
        else:
            link["href"] = urljoin(home, page) + (f"#{fragment}" if fragment else "")
    for image in article.select("img[src]"):
        image["src"] = re.sub(r"^(\.\./)+", "", image["src"])


def anchor(page: str, fragment: str) -> str:
    """The name of a place of a page within the whole."""
    return "--".join(filter(None, [page.replace("/", "-"), fragment]))


def contents(book: Book, bodies: dict[str, Tag]) -> str:
    """The table of contents, by part."""
    toc = yaml.safe_load((book.root / "_toc.yml").read_text("utf-8"))
    lines = ['<nav class="contents"><h2>Contents</h2>']
    for part in toc.get("parts", [toc]):
        rows = [Path(row["file"]).with_suffix("").as_posix() for row in part["chapters"]]
        lines.append(f"<p>{escape(part.get('caption', ''))}</p><ol>")
        for name in rows:
            if name in bodies:
                title = escape(bodies[name].find("h1").get_text())
                lines.append(f'<li><a href="#{anchor(name, "")}">{title}</a></li>')
        lines.append("</ol>")
    return "\n".join([*lines, "</nav>"])


def pdf(page: Path) -> Path | None:
    """Print a page to a PDF beside it, where there is a browser that can; the file."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        return None
    file = page.with_name("book.pdf")
    options = ["--headless", "--disable-gpu", "--no-pdf-header-footer"]
    options += ["--generate-pdf-document-outline"]
    options += ["--no-sandbox"] * (
        hasattr(os, "geteuid") and os.geteuid() == 0
    )  # it has none for root
    options += ["--virtual-time-budget=120000", f"--print-to-pdf={file}"]
    subprocess.run([browser, *options, page.resolve().as_uri()], check=True, capture_output=True)
    return file


def main() -> int:
    try:
        page = write(Book(Path()))
    except FileNotFoundError as error:
        print(f"{error.filename} is not built: run make book first", file=sys.stderr)
        return 1
    print(page)
    print(pdf(page) or "No Chromium or Chrome here: print the page from a browser.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
