"""Exports chapters/NN-name.md to chapters/NN-name.ipynb, for Jupyter, GitHub and Colab.

None of the three knows MyST: directives, roles and computed values become plain Markdown, and a
block that shows a computed value becomes a folded cell that says the same sentence. Notebooks
carry no outputs, and an unchanged chapter exports the same bytes.

    python -m tools.export            write the notebooks
    python -m tools.export --check    exit with 1 if one is not what its chapter exports
"""

import argparse
import hashlib
import html
import re
import sys
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from urllib.parse import quote, unquote

import nbformat
from markdown_it.token import Token
from myst_nb.core.read import read_myst_markdown_notebook
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.database import Entry
from pybtex.richtext import Text

from tools.source import Book, Directive, SourceError, directive

SETUP = """\
#@title Set up (does nothing outside Colab)
# Colab lacks the book's package. Without more of its extras, Colab's own torch and tensorflow stay.
import importlib.util
import sys

if "google.colab" in sys.modules and importlib.util.find_spec("tlbook") is None:
    %pip install -q "tlbook[ot] @ git+{url}@{branch}"
"""
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
FOLDING_TAGS = {"hide-input", "hide-cell", "remove-input", "remove-cell", "solution"}
SOLUTION = "try it yourself first"

ADMONITIONS = {
    "attention": "Attention",
    "caution": "Caution",
    "danger": "Danger",
    "error": "Error",
    "hint": "Hint",
    "important": "Important",
    "margin": "",
    "note": "Note",
    "seealso": "See also",
    "tip": "Tip",
    "warning": "Warning",
}
TITLED = {"admonition", "card", "grid-item-card", "sidebar", "topic"}
PLAIN = {"card-footer", "card-header", "container", "div", "grid", "grid-item", "tab-set"}
DROPPED = {"bibliography", "contents", "tableofcontents", "toctree"}
UNSUPPORTED = {
    "dl_open": "a definition list (Jupyter shows it raw): write a list or a table",
    "footnote_ref": "a footnote (Jupyter shows it raw): write it into the text",
    "footnote_reference_open": "a footnote (Jupyter shows it raw): write it into the text",
    "substitution_block": "a substitution: write its text",
    "substitution_inline": "a substitution: write its text",
}


@dataclass
class Edit:
    """Text from ``start`` to ``end`` becomes ``new``; ``values``: it shows computed values."""

    start: int
    end: int
    new: str
    values: bool = False


@dataclass
class Exporter:
    """Turns one chapter into a notebook."""

    book: Book
    path: Path
    cited: dict[str, Entry] = field(default_factory=dict)
    values: int = 0  # computed values seen so far

    def notebook(self) -> NotebookNode:
        text = self.path.read_text("utf-8")
        source = read_myst_markdown_notebook(
            text, self.book.parser.options["myst_config"], add_source_map=True, path=self.path
        )
        lines = text.splitlines()
        cells = [setup_cell(self.book)]
        for cell, line in zip(source.cells, source.metadata.source_map, strict=True):
            if cell.cell_type == "markdown":
                while not lines[line].strip():  # the reader counts from the cell before
                    line += 1
                cells += self.markdown_cells(cell.source, line + 1)
            elif cell.cell_type == "code":
                cells += self.code_cells(cell)
        if self.cited:
            items = sorted(map(listing, self.cited.values()))
            cells.append(new_markdown_cell("\n".join(["## References", "", *items])))
        kernel = source.metadata.get("kernelspec", {"name": "python3", "display_name": "Python 3"})
        metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
        return new_notebook(cells=with_ids(cells), metadata=metadata)

    def code_cells(self, cell: NotebookNode) -> list[NotebookNode]:
        """A code cell, folded where the book folds it, and the caption of its figure."""
        tags = cell.metadata.get("tags", [])
        metadata = {"tags": tags} if tags else {}
        source = cell.source
        if FOLDING_TAGS & set(tags):
            metadata |= FOLDED
            title = f"Solution: {SOLUTION}" if "solution" in tags else ""
            if not source.startswith("%%"):  # a cell magic must stay on the first line
                source = f"#@title {title}".rstrip() + "\n" + source
        elif "hide-output" in tags:
            metadata["jupyter"] = {"outputs_hidden": True}
        cells = [new_code_cell(source, metadata=metadata)]
        caption = cell.metadata.get("mystnb", {}).get("figure", {}).get("caption")
        return cells + (self.markdown_cells(caption, 1) if caption else [])

    def markdown_cells(self, text: str, line: int) -> list[NotebookNode]:
        """A Markdown cell, split around the blocks that show computed values."""
        cells = []
        blocks = (block for block in self.blocks(text, line) if block[0].strip())
        for values, group in groupby(blocks, key=lambda block: block[1]):
            source = "".join(new for new, _ in group).strip("\n")
            if source:
                cells.append(say_cell(source) if values else new_markdown_cell(source))
        return cells

    def markdown(self, text: str, line: int) -> str:
        """MyST Markdown that begins on a line of the chapter, as plain Markdown."""
        return "".join(new for new, _ in self.blocks(text, line)).strip("\n")

    def blocks(self, text: str, line: int) -> list[tuple[str, bool]]:
        """The top-level blocks of a text as plain Markdown, each with: shows it values?"""
        tokens = self.book.parser.parse(text)
        lines = text.split("\n")
        starts = [0]
        for content in lines:
            starts.append(starts[-1] + len(content) + 1)
        edits = self.edits(tokens, lines, starts, line)
        tops = {starts[token.map[0]] for token in tokens if token.level == 0 and token.map}
        blocks = []
        for start, end in pairwise(sorted({0, *tops, len(text)})):
            inside = [edit for edit in edits if start <= edit.start < end]
            new, position = "", start
            for edit in inside:
                new += text[position : edit.start] + edit.new
                position = edit.end
            new += text[position:end]
            values = any(edit.values for edit in inside)
            if values and "<<" in text[start:end]:
                at = line + text.count("\n", 0, start)
                raise self.error(at, "'<<' beside a computed value: write it in another block")
            blocks.append((new, values))
        return blocks

    def edits(self, tokens: list[Token], lines: list[str], starts: list[int], line: int):
        """What must change to make the text of these tokens plain Markdown, in order."""
        edits: list[Edit] = []
        columns: dict[int, int] = {}  # how far each line is read: table cells share one
        for token in tokens:
            if token.type in UNSUPPORTED:
                raise self.error(line + token.map[0], f"cannot export {UNSUPPORTED[token.type]}")
            if token.type == "inline":
                edits += self.inline_edits(token, lines, starts, columns, line)
                continue
            seen, new = self.values, self.block(token, line)
            if new is None:
                continue
            first, last = token.map
            if token.type == "amsmath":  # its map stops one line early
                last += 1
            end = starts[last] - 1
            if new:
                mark = token.markup or ("$$" if "math_block" in token.type else token.content[:6])
                lead = lines[first][: lines[first].index(mark)]
                hanging = re.sub(r"[^\s>]", " ", lead)
                new = lead + new.replace("\n", "\n" + hanging)
                new = re.sub(r"^[ \t]+$", "", new, flags=re.MULTILINE)
                apart = edits and edits[-1].new.endswith("\n")
                if first and lines[first - 1].strip() and not lead.strip() and not apart:
                    new = "\n" + new
                if last < len(lines) and lines[last].strip(" >"):
                    new += "\n"
            else:  # nothing is left: take the blank lines behind it too
                while last < len(lines) and not lines[last].strip():
                    last += 1
                end = starts[last] - (last == len(lines))
            edits.append(Edit(starts[first], end, new, self.values > seen))
        return edits

    def block(self, token: Token, line: int) -> str | None:
        """What a block becomes, or None if it stays."""
        if token.type in ("myst_target", "myst_line_comment", "myst_block_break"):
            return ""
        if token.type == "math_block_label":
            return self.equation(token.content, token.info)
        if token.type == "amsmath":
            return f"$$\n{token.content.strip()}\n$$"
        found = directive(token, line + token.map[0]) if token.map else None
        return self.directive(found) if found else None

    def equation(self, tex: str, label: str) -> str:
        tag = f"\n\\tag{{{self.page.equations[label]}}}" if label else ""
        return f"$$\n{tex.strip()}{tag}\n$$"

    def directive(self, found: Directive) -> str:
        """A directive as plain Markdown."""
        name, options = found.name, found.options
        if name in DROPPED:
            return ""
        if name == "math":
            tex = f"{found.title}\n{found.body}".strip()
            return self.equation(tex, options.get("label", ""))
        if name in ("code", "code-block"):
            fence = "````" if "```" in found.body else "```"
            return f"{fence}{found.title}\n{found.body}\n{fence}"
        if name == "glue:figure":
            caption = self.markdown(found.body, found.body_line)
            return f"(figure above) {caption}".rstrip()
        if name in ("figure", "image"):
            source = found.title if not found.title.startswith("/") else f"..{found.title}"
            caption = self.markdown(found.body, found.body_line)
            return f"![{options.get('alt', '')}]({source})\n\n{caption}".rstrip()
        if name not in ADMONITIONS.keys() | TITLED | PLAIN | {"dropdown", "tab-item", "table"}:
            raise self.error(found.line, f"cannot export the directive {{{name}}}")

        title = "" if name in ADMONITIONS or name in PLAIN else found.title
        title = self.markdown(title, found.line) or ADMONITIONS.get(name, "")
        body = self.markdown(found.body, found.body_line)
        if name in ADMONITIONS and found.title:  # the first line may begin the text
            body = f"{self.markdown(found.title, found.line)}\n{body}".rstrip()
        if name in PLAIN:
            return body
        if title.lower().startswith("solution"):
            title = f"{title}: {SOLUTION}"
        if name == "dropdown" or "dropdown" in options.get("class", "").split():
            return f"<details>\n<summary>{html.escape(title)}</summary>\n\n{body}\n\n</details>"
        box = f"**{title}**\n\n{body}" if title else body
        return box if name in ("tab-item", "table") else quoted(box)

    def inline_edits(self, token: Token, lines, starts, columns, line: int) -> list[Edit]:
        """The edits of one inline token: roles, links and attributes."""
        edits: list[Edit] = []
        line += token.map[0]

        def where(position: int) -> int:
            return line + token.content.count("\n", 0, position)

        for part, following in pairwise([*(token.children or []), Token("end", "", 0)]):
            start, end = part.meta.get("span", (0, 0))
            label_end = part.meta.get("label_end", -1)
            if part.type in UNSUPPORTED:
                raise self.error(line, f"cannot export {UNSUPPORTED[part.type]}")
            if part.type == "myst_role":
                seen = self.values
                new = self.role(part.meta["name"], part.content, where(start))
                edits.append(Edit(start, end, new, self.values > seen))
            elif part.type == "span_open":  # only the attributes go
                edits += [Edit(start, start + 1, ""), Edit(label_end, end, "")]
            elif part.type == "link_open":
                words = following.type == "link_close"
                href, title = self.link(part.attrGet("href"), where(start))
                if href is None:
                    edits += [Edit(start, start + 1, ""), Edit(label_end, end, title * words)]
                elif href != part.attrGet("href") or words:
                    edits.append(Edit(label_end, end, f"{title * words}]({href})"))
            if "attributes" in part.meta:
                edits.append(Edit(*part.meta["attributes"], ""))

        locate = locator(token, lines, starts, columns)
        for edit in edits:
            edit.end = locate(edit.end - 1) + 1  # the last character may end a line
            edit.start = locate(edit.start)
        return sorted(edits, key=lambda edit: edit.start)

    def link(self, href: str, line: int) -> tuple[str | None, str]:
        """Where a link leads in the notebook (None: nowhere), and the title of its target."""
        path, _, anchor = unquote(href).partition("#")
        if re.match(r"[a-z]+:", href) or (path and not path.endswith(".md")):
            return href, ""
        if path:
            target = (self.path.parent / path).resolve()
            page = next((p for p in self.book.pages if p.resolve() == target), None)
            if page is None:
                raise self.error(line, f"no page {path!r} in the book")
            return self.notebook_of(page), self.book.pages[page].title
        if anchor in self.book.targets:
            target = self.book.targets[anchor]
            return self.notebook_of(target.page), target.title
        if anchor in self.page.equations:
            return None, f"({self.page.equations[anchor]})"
        if anchor in self.page.anchors:
            return None, ""
        raise self.error(line, f"nothing in the book is labeled {anchor!r}")

    def notebook_of(self, page: Path) -> str | None:
        """The exported notebook of another chapter; other pages have none."""
        is_chapter = page in self.book.chapters and page != self.path
        return quote(page.with_suffix(".ipynb").name) if is_chapter else None

    def role(self, name: str, content: str, line: int) -> str:
        """A role as plain Markdown."""
        match = re.fullmatch(r"(.*?)\s*<([^<>]+)>", content, re.DOTALL)
        words, target = match.groups() if match else ("", content)
        if name in ("glue:text", "glue:", "glue:any", "glue"):
            self.values += 1
            page, _, key = content.rpartition("::")
            if page and Path(page).name != self.path.name:
                raise self.error(line, f"the value {key!r} of another page is not known here")
            return f"<<{key}>>"
        if name == "glue:figure":
            return "(figure above)"
        if name in ("cite", "cite:p", "cite:t", "cite:alp"):
            return self.citation(name, content, line)
        if name == "eq":
            if content not in self.page.equations:
                raise self.error(line, f"no equation {content!r} in this chapter")
            return f"({self.page.equations[content]})"
        if name in ("ref", "numref", "doc"):
            href, title = self.target(name, target, line)
            words = words or title
            return f"[{words}]({href})" if href else words
        if name == "term":
            return words or content
        if name == "math":
            return f"${content}$"
        if name in ("code", "kbd"):
            return f"`{content}`"
        if name in ("sub", "sup"):
            return f"<{name}>{content}</{name}>"
        if name == "abbr":
            return content
        raise self.error(line, f"cannot export the role {{{name}}}")

    def target(self, name: str, target: str, line: int) -> tuple[str | None, str]:
        if name == "doc":
            folder = self.book.root if target.startswith("/") else self.path.parent
            path = f"{folder / target.strip('/')}".removesuffix(".md") + ".md"
            page = next((p for p in self.book.pages if p.resolve() == Path(path).resolve()), None)
            if page is None:
                raise self.error(line, f"no page {target!r} in the book")
            return self.notebook_of(page), self.book.pages[page].title
        if target not in self.book.targets:
            raise self.error(line, f"nothing in the book is labeled {target!r}")
        found = self.book.targets[target]
        return self.notebook_of(found.page), found.title

    def citation(self, role: str, keys: str, line: int) -> str:
        textual = role == "cite:t"
        works = []
        for key in map(str.strip, keys.split(",")):
            entry = self.book.bibliography.entries.get(key)
            if entry is None:
                raise self.error(line, f"references.bib has no {key!r}")
            self.cited[entry.key] = entry
            names, year = (
                people(entry, " and " if textual else " & "),
                entry.fields.get("year", "n.d."),
            )
            words = f"{names} ({year})" if textual else f"{names}, {year}"
            works.append(f"[{words}]({address(entry)})" if address(entry) else words)
        listed = (", " if textual else "; ").join(works)
        return f"({listed})" if role in ("cite", "cite:p") else listed

    @property
    def page(self):
        return self.book.pages[self.path]

    def error(self, line: int, text: str) -> SourceError:
        return SourceError(f"{self.book.name(self.path)}:{line}: {text}")


def locator(token: Token, lines, starts, columns) -> Callable[[int], int]:
    """From an offset in an inline token's content to the offset in the text it came from."""
    contents = token.content.split("\n")
    places = []  # of each line of the content: its offset, and where it stands in the text
    offset = 0
    for number, content in enumerate(contents, token.map[0]):
        column = lines[number].find(content, columns.get(number, 0))
        if escaped := column < 0:  # a table cell's '|' stands in the text as '\|'
            column = lines[number].find(content.replace("|", r"\|"), columns.get(number, 0))
        columns[number] = column + len(content)
        places.append((offset, starts[number] + column, escaped))
        offset += len(content) + 1

    def locate(position: int) -> int:
        offset, start, escaped = places[bisect_right(places, position, key=lambda p: p[0]) - 1]
        return start + position - offset + escaped * token.content.count("|", offset, position)

    return locate


def people(entry: Entry, last: str) -> str:
    """The authors of a work as a citation names them: 'Pan & Yang', 'Wang et al.'."""
    persons = entry.persons.get("author") or entry.persons.get("editor") or []
    names = [" ".join(map(str, [*p.rich_prelast_names, *p.rich_last_names])) for p in persons]
    if len(names) > 2:
        return f"{names[0]} et al."
    return last.join(names)


def address(entry: Entry) -> str:
    if "doi" in entry.fields:
        return "https://doi.org/" + quote(entry.fields["doi"])
    return entry.fields.get("url", "")


def listing(entry: Entry) -> str:
    """A work as an item of the list of references."""
    words = {key: str(Text.from_latex(text)).strip() for key, text in entry.fields.items()}
    item = f"- {people(entry, ' & ')} ({words.get('year', 'n.d.')}). *{words['title']}*."
    venue = next((words[key] for key in ("journal", "booktitle", "publisher") if key in words), "")
    return item + (f" {venue}." if venue else "") + (f" <{address(entry)}>" * bool(address(entry)))


def quoted(text: str) -> str:
    return "\n".join(f"> {line}" if line else ">" for line in text.split("\n"))


def setup_cell(book: Book) -> NotebookNode:
    """The first cell: in Colab, and only there, it installs the package."""
    source = SETUP.format(url=book.repository, branch=book.branch).rstrip()
    return new_code_cell(source, metadata={**FOLDED, "tags": ["hide-input"]})


def say_cell(text: str) -> NotebookNode:
    """A folded cell that shows Markdown with the values that the cells above computed."""
    marks = "'''" if '"""' in text else '"""'
    source = f"#@title\nfrom tlbook.evidence.claims import say\n\nsay(r{marks}\n{text}\n{marks})"
    return new_code_cell(source, metadata={**FOLDED, "tags": ["hide-input"]})


def with_ids(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Cells with ids made from their content: editing one leaves the ids of the others alone."""
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return cells


def export(book: Book, path: Path) -> str:
    """The notebook of a chapter, as the text of its file.

    Raises
    ------
    SourceError : the chapter holds something that cannot be made plain; names chapter and line
    """
    notebook = Exporter(book, path).notebook()
    nbformat.validate(notebook)
    return nbformat.writes(notebook).rstrip() + "\n"


def check(book: Book) -> list[str]:
    """Problems of the exported notebooks: chapters that cannot be exported, or are not."""
    problems = []
    for path in book.chapters:
        notebook = path.with_suffix(".ipynb")
        try:
            if not notebook.exists() or notebook.read_text("utf-8") != export(book, path):
                problems.append(f"{book.name(notebook)}:1: out of date: run python -m tools.export")
        except SourceError as error:
            problems.append(str(error))
    for notebook in sorted((book.root / "chapters").glob("*.ipynb")):
        if not notebook.with_suffix(".md").exists():
            problems.append(f"{book.name(notebook)}:1: its chapter is gone: delete it")
    return problems


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--check", action="store_true", help="write nothing; exit with 1")
    book = Book(Path())
    if arguments.parse_args().check:
        problems = check(book)
    else:
        problems = []
        for path in book.chapters:
            try:
                path.with_suffix(".ipynb").write_text(export(book, path), "utf-8")
                print(book.name(path.with_suffix(".ipynb")))
            except SourceError as error:
                problems.append(str(error))
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
