"""Checks of the book's own files. Lists every problem as ``file:line: what is wrong``.

    python -m tools.check

What only the built pages show is checked where ``_build/html`` exists.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from urllib.parse import unquote

import yaml
from bs4 import BeautifulSoup
from markdown_it.token import Token

from tools import export, ledger, plans
from tools.source import Book, Directive, directive, walk

#: A chapter has a section for each of these; its heading contains the word.
SECTIONS = ("So what should I do?", "Check yourself", "Further reading")
HEADER = {"extension": ".md", "format_name": "myst"}


def exports(book: Book) -> list[str]:
    """Each chapter has its exported notebook, and Sphinx has nothing to warn of in any page."""
    return export.check(book)


def record(book: Book) -> list[str]:
    """The claims ledger is well-formed, and about the findings that the chapters state."""
    stated: dict[str, set[str]] = {path.stem: set() for path in book.chapters}
    for path, found in cells(book):
        stated[path.stem] |= set(re.findall(r"\bfinding\(\s*[\"'](C\d+)[\"']", found.body))
    with chdir(book.root):
        return ledger.check(stated)


def planned(book: Book) -> list[str]:
    """New findings were planned before they were measured."""
    with chdir(book.root):
        return plans.check()


def links(book: Book) -> list[str]:
    """Pages beside the book, such as the README, lead to files that exist; Sphinx sees the rest."""
    problems = []
    for path in sorted(set(book.root.glob("*.md")) - set(book.pages)):
        for part, line in parts(book, path):
            href = part.attrGet("href") or part.attrGet("src")
            wrong = href and missing_file(book, path, href.partition("#")[0])
            if wrong:
                problems.append(f"{book.name(path)}:{line}: {wrong}")
    return problems


def missing_file(book: Book, path: Path, href: str) -> str | None:
    if not href or re.match(r"[a-z]+:", href):
        return None
    folder = book.root if href.startswith("/") else path.parent
    return None if (folder / unquote(href).lstrip("/")).exists() else f"no file {href!r}"


def ids(book: Book) -> list[str]:
    """Every id of a claim, system, formula, listing or document is one that exists."""
    tables = tomllib.loads(
        (book.root / "tlbook" / "evidence" / "claims.toml").read_text("utf-8")
    ).values()
    known = {name for table in tables if isinstance(table, dict) for name in table}
    mentions: list[tuple[Path, int, str]] = []
    for path in book.pages:
        for part, line in parts(book, path):
            if part.type == "text":
                mentions += [(path, line, name) for name in re.findall(ID, part.content)]
    for path, found in cells(book):
        for match in re.finditer(r"(?:claim=|finding\(\s*)[\"']([^\"']*)[\"']", found.body):
            line = found.body_line + found.body.count("\n", 0, match.start())
            mentions.append((path, line, match[1]))
    quoted = [*(book.root / "tests").glob("test_*.py"), book.root / ledger.RECORD]
    for path in filter(Path.exists, quoted):
        for line, text in enumerate(path.read_text("utf-8").splitlines(), 1):
            if "# no id" not in text:
                mentions += [(path, line, m[1]) for m in re.finditer(rf"[\"']({ID})[\"']", text)]
    return [
        f"{book.name(path)}:{line}: the documents have no {name!r}: see tlbook/evidence/claims.toml"
        for path, line, name in mentions
        if name not in known
    ]


ID = r"\b[SCFLD]\d+\b"


def shape(book: Book) -> list[str]:
    """Every chapter has the header of a text notebook, cells of Python, and its sections."""
    problems = []
    for path in book.chapters:
        name, text = book.name(path), path.read_text("utf-8")
        tokens = book.parser.parse(text)
        header = yaml.safe_load(tokens[0].content) if tokens[0].type == "front_matter" else {}
        representation = header.get("jupytext", {}).get("text_representation", {})
        if not representation.items() >= HEADER.items() or "kernelspec" not in header:
            problems.append(f"{name}:1: no jupytext header and kernelspec: its cells would not run")
        headings = [
            (token.tag, tokens[i + 1].content, token.map[0] + 1)
            for i, token in enumerate(tokens)
            if token.type == "heading_open"
        ]
        titles = [line for tag, _, line in headings if tag == "h1"]
        if not titles or headings[0][0] != "h1":
            problems.append(f"{name}:1: the first heading is not the chapter's title")
        problems += [f"{name}:{line}: a second title: use ##" for line in titles[1:]]
        sections = [words.lower() for tag, words, _ in headings if tag == "h2"]
        problems += [
            f"{name}:1: no section '{section}'"
            for section in SECTIONS
            if not any(section.lower() in words for words in sections)
        ]
    problems += [
        f"{book.name(path)}:{found.body_line}: not Python: are its options in one block?"
        for path, found in cells(book)
        if parse_cell(found.body) is None
    ]
    return problems


def alternatives(book: Book) -> list[str]:
    """Every figure has words for those who do not see it."""
    problems = []
    for path in book.pages:
        name = book.name(path)
        for part, line in parts(book, path):
            if part.type == "image" and not part.content.strip():
                problems.append(f"{name}:{line}: an image without alt text: ![what it shows](...)")
        for found in directives(book, path):
            if found.name in ("figure", "image") and not found.options.get("alt"):
                problems.append(f"{name}:{found.line}: a {found.name} without :alt:")
    drawing: dict[Path, set[str]] = {}
    for path, found in cells(book):
        names = drawing.setdefault(path, set())
        tree = parse_cell(found.body) or ast.Module([], [])
        names |= drawing_names(tree)
        alt = found.options.get("mystnb", {}).get("image", {}).get("alt")
        hidden = {"remove-output", "remove-cell"} & set(found.options.get("tags", []))
        if not alt and not hidden and draws(tree, names):
            problems.append(
                f"{book.name(path)}:{found.line}: a cell that draws without "
                "alt text (mystnb: image: alt:)"
            )
    return problems


def drawing_names(tree: ast.Module) -> set[str]:
    """The names under which a cell imports what draws."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in ("matplotlib", "tlbook"):
            names |= {a.asname or a.name for a in node.names if a.name in ("pyplot", "plots")}
        elif isinstance(node, ast.ImportFrom) and node.module == "tlbook.evidence.plots":
            names |= {a.asname or a.name for a in node.names if a.name not in ("style", "WORDS")}
        elif isinstance(node, ast.Import):
            names |= {a.asname for a in node.names if a.name == "matplotlib.pyplot" and a.asname}
    return names


def draws(tree: ast.Module, names: set[str]) -> bool:
    """Does running the cell draw? Drawing inside of a function waits until it is called."""
    outside = [n for n in tree.body if not isinstance(n, ast.FunctionDef | ast.ClassDef)]
    for call in (n for part in outside for n in ast.walk(part) if isinstance(n, ast.Call)):
        name, attribute = call.func, ""
        while isinstance(name, ast.Attribute):
            name, attribute = name.value, name.attr
        if isinstance(name, ast.Name) and name.id in names and attribute not in ("style", "close"):
            return True
    return False


def numbers(book: Book) -> list[str]:
    """No measured number is typed into prose: decimals and percentages are recorded values.

    A number that is nobody's measurement stays by a comment on the line before its block:
    ``% typed: why``. A line within a paragraph that begins with a percent sign is a comment too,
    and lost to the reader.
    """
    problems = []
    for path in book.pages:
        excused, end = False, 0
        text = path.read_text("utf-8")
        lines = text.splitlines()
        for token, line in walk(book.parser, text):
            if token.type == "myst_line_comment":
                excused = re.match(r"\s*typed:\s*\S", token.content) is not None
                if lines[line - 2].strip():
                    problems.append(
                        f"{book.name(path)}:{line}: a line that begins with % is a comment, which "
                        "no reader sees: begin it with the word before"
                    )
            elif excused and token.map:
                excused, end = False, line + token.map[1] - token.map[0]
            if token.type == "inline" and line >= end:
                problems += [
                    f"{book.name(path)}:{here}: the number {found!r} is typed: record() it and "
                    "show it with {glue:text}, or write '% typed: why' above its block"
                    for text, here in prose(token, line)
                    for found in re.findall(TYPED, re.sub(NAMED, "", text))
                ]
    return problems


TYPED = re.compile(
    r"(?<![\w.])(?:\d+\.\d+(?!\.?\d)|\d+(?=\s*(?:%|percent\b|points?\b)(?!\s+interval)))"
)
#: Sections of the documents ("D0 2.1, 3.1.1") and versions are names, not measurements.
NAMED = r"\bD\d(?:,?\s+\d+(?:\.\d+)*)+|\b(?:BY|License|Python|[Vv]ersion)\s+\d+(?:\.\d+)*"


def prose(token: Token, line: int) -> Iterator[tuple[str, int]]:
    """The words of an inline token with their lines, without code, math, roles and links."""
    inside = 0
    for part, here in spread(token, line):
        inside += {"link_open": 1, "link_close": -1}.get(part.type, 0)
        if part.type == "text" and not inside:
            yield part.content, here


def values(book: Book) -> list[str]:
    """Every value that prose shows was recorded by a cell above it."""
    recorded: dict[Path, dict[str, int]] = {path: {} for path in book.chapters}
    for path, found in cells(book):
        for node in ast.walk(parse_cell(found.body) or ast.Module([], [])):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "record":
                for keyword in node.keywords:  # None: record(**numbers) may hold any name
                    recorded[path].setdefault(keyword.arg or "**", found.body_line)
    problems = []
    for path in book.pages:
        for part, line in parts(book, path):
            if part.type != "myst_role" or part.meta["name"] != "glue:text":
                continue
            page, _, key = part.content.rpartition("::")
            home = book.root / page.lstrip("/") if page else path
            names, key = recorded.get(home, {}), key.partition(":")[0]
            cell = names.get(key, names.get("**"))
            if cell is None:
                problems.append(f"{book.name(path)}:{line}: no cell records {key!r}")
            elif home == path and cell > line:
                problems.append(f"{book.name(path)}:{line}: {key!r} is recorded further down")
    return problems


def references(book: Book) -> list[str]:
    """What stands in references.bib is cited or listed, and can be found."""
    entries = book.bibliography.entries
    problems, cited, listed = [], set(), False
    for path in book.pages:
        for part, _ in parts(book, path):
            if part.type == "myst_role" and part.meta["name"].startswith("cite"):
                cited |= {key.strip() for key in part.content.split(",")}
        listed |= any(
            found.name == "bibliography" and "all" in found.options
            for found in directives(book, path)
        )
    for key, entry in entries.items():
        line = line_of(book.root / "references.bib", f"{{{key},")
        if not listed and key not in cited:
            problems.append(f"references.bib:{line}: {key!r} is neither cited nor listed")
        if not entry.fields.keys() & {"doi", "url"}:
            problems.append(f"references.bib:{line}: {key!r} has neither doi nor url")
    return problems


def repository(book: Book) -> list[str]:
    """The address of the repository stands in _config.yml and the exported notebooks alone."""
    name = "/".join(book.repository.split("/")[-2:])
    problems = []
    for path in sorted(files(book.root)):
        if path.name == "_config.yml" or (path.parent.name, path.suffix) == ("chapters", ".ipynb"):
            continue
        for line, text in enumerate(path.read_text("utf-8", errors="ignore").splitlines(), 1):
            if name in text:
                problems.append(f"{book.name(path)}:{line}: the repository's address: read it")
    return problems


def files(folder: Path) -> Iterator[Path]:
    """The project's text files: no hidden, built or vendored ones."""
    for path in folder.iterdir():
        if path.is_dir():
            hidden = path.name.startswith(".") and path.name not in (".github", ".ci")
            made = path.name.endswith(".egg-info")
            if not hidden and not made and path.name not in ("_build", "vendor", "__pycache__"):
                yield from files(path)
        elif path.suffix not in (".png", ".svg", ".pyc"):
            yield path


def pages(book: Book) -> list[str]:
    """The built pages can be read by everybody, without a network, and open in Colab."""
    html = book.root / "_build" / "html"
    if not html.exists():
        return []
    problems = []
    for page in book.pages:
        path = html / page.relative_to(book.root).with_suffix(".html")
        if path.exists():
            problems += built_page(book, page, path)
        elif page in book.toc:
            problems.append(f"{book.name(path)}:1: not built: run make book")
    for path in sorted((html / "_static").rglob("*.css")):
        for match in re.finditer(r"(?:url\(|@import)\s*['\"]?(https?:[^'\")]*)", path.read_text()):
            problems.append(f"{book.name(path)}:1: takes {match[1]} from the network")
    return problems


#: Elements whose address the browser fetches on its own.
FETCHED = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}
FETCHED_LINKS = {"stylesheet", "icon", "preload", "modulepreload", "preconnect", "manifest"}


def built_page(book: Book, page: Path, path: Path) -> list[str]:
    """Problems of one built page."""
    soup = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    problems: list[tuple[int, str]] = []
    if not soup.html.get("lang"):
        problems.append((1, "the page does not say its language"))
    titles = [title for title in soup.find_all("h1") if not title.find_parent(class_="onlyprint")]
    if (count := len(titles)) != 1:
        problems.append((1, f"{count} top headings: a page has one"))

    for image in soup.find_all("img"):
        alt = image.get("alt", "").strip()
        if not alt or alt == image.get("src"):  # Sphinx puts the file name where no text is given
            problems.append((image.sourceline, f"no alt text: {image.get('src')}"))
    for drawing in soup.find_all("svg"):
        hidden = any(node.get("aria-hidden") == "true" for node in [drawing, *drawing.parents])
        if not hidden and not drawing.get("aria-label") and not drawing.find("title"):
            problems.append((drawing.sourceline, "a drawing without aria-label or title"))

    for name, attribute in FETCHED.items():
        for element in soup.find_all(name):
            if re.match(r"(https?:)?//", element.get(attribute) or ""):
                problems.append((element.sourceline, f"fetches {element[attribute]}"))
    for element in soup.find_all("link", href=re.compile("^(https?:)?//")):
        if FETCHED_LINKS & set(element.get("rel", [])):
            problems.append((element.sourceline, f"fetches {element['href']}"))
    for script in soup.find_all("script", src=None):
        for address in re.findall(r"https?://[^\s'\"]+\.(?:m?js|css|woff2?)\b", script.text):
            problems.append((script.sourceline, f"may fetch {address}"))

    if page in book.chapters:
        notebook = page.with_suffix(".ipynb")
        owner_and_name = "/".join(book.repository.split("/")[-2:])
        expected = f"/github/{owner_and_name}/blob/{book.branch}/{book.name(notebook)}"
        buttons = soup.find_all("a", href=re.compile("colab"))
        if not any(button["href"].endswith(expected) for button in buttons):
            problems.append((1, f"no Colab button that opens {expected}"))
        if not notebook.exists():
            problems.append((1, f"Colab would not find {book.name(notebook)}"))
    return [f"{book.name(path)}:{line}: {text}" for line, text in problems]


def parts(book: Book, path: Path) -> Iterator[tuple[Token, int]]:
    """Every inline part of a page (words, links, roles, images), with its line."""
    for token, line in walk(book.parser, path.read_text("utf-8")):
        yield from spread(token, line)


def spread(token: Token, line: int) -> Iterator[tuple[Token, int]]:
    for part in token.children or []:
        yield part, line
        line += part.type in ("softbreak", "hardbreak")


def directives(book: Book, path: Path) -> Iterator[Directive]:
    for token, line in walk(book.parser, path.read_text("utf-8")):
        if found := directive(token, line):
            yield found


def cells(book: Book) -> Iterator[tuple[Path, Directive]]:
    """The code cells of all chapters."""
    for path in book.chapters:
        for found in directives(book, path):
            if found.name == "code-cell":
                yield path, found


def parse_cell(source: str) -> ast.Module | None:
    """A cell's syntax tree without lines for IPython (%magic, !command); None: no Python."""
    if source.startswith("%%"):
        return ast.Module([], [])
    try:
        return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", source, flags=re.MULTILINE))
    except SyntaxError:
        return None


def line_of(path: Path, text: str) -> int:
    lines = path.read_text("utf-8").splitlines()
    return next((number for number, line in enumerate(lines, 1) if text in line), 1)


CHECKS: dict[str, Callable[[Book], list[str]]] = {
    check.__name__: check
    for check in (
        exports,
        record,
        planned,
        links,
        ids,
        shape,
        alternatives,
        numbers,
        values,
        references,
        repository,
        pages,
    )
}


def main() -> int:
    book = Book(Path())
    problems = [problem for check in CHECKS.values() for problem in check(book)]
    print(*problems, sep="\n", end="\n" if problems else "")
    built = "" if (book.root / "_build" / "html").exists() else " (no built pages to check)"
    print(f"{len(problems)} problems in {len(CHECKS)} checks{built}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
