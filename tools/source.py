"""The book's sources as Markdown tokens that know where they stand.

The export and the checks read pages through this module: with the parser of the book itself, so
that a code span, a fenced example or a formula is never taken for a directive or a role.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from docutils.parsers.rst.directives.misc import TestDirective
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.mdit_to_docutils.base import default_slugify
from myst_parser.parsers.directives import parse_directive_text
from myst_parser.parsers.mdit import create_md_parser
from pybtex.database import BibliographyData, parse_file

#: Directives whose body is not Markdown.
VERBATIM = {"code", "code-block", "code-cell", "math", "raw", "raw-cell"}


class SourceError(Exception):
    """Something in a page that the book's tools cannot read; says where."""


@dataclass
class Directive:
    """A directive: ``line`` is the line of its fence, ``body_line`` the first of its body."""

    name: str
    title: str
    options: dict[str, Any]
    body: str
    line: int
    body_line: int


@dataclass
class Target:
    """What a label stands for: a place on a page, with the words that name it."""

    page: Path
    title: str


@dataclass
class Page:
    """What other pages can point at."""

    path: Path
    title: str = ""
    anchors: set[str] = field(default_factory=set)
    labels: dict[str, str] = field(default_factory=dict)  # label -> title
    equations: dict[str, int] = field(default_factory=dict)  # label -> number on the page


@dataclass
class Book:
    """The book in a folder: its configuration, pages, targets and references."""

    root: Path

    @cached_property
    def config(self) -> dict:
        return yaml.safe_load((self.root / "_config.yml").read_text("utf-8"))

    @property
    def repository(self) -> str:
        return self.config["repository"]["url"].rstrip("/")

    @property
    def branch(self) -> str:
        return self.config["repository"].get("branch", "main")

    @property
    def chapters(self) -> list[Path]:
        return sorted((self.root / "chapters").glob("*.md"))

    @cached_property
    def parser(self) -> MarkdownIt:
        return parser(self.config.get("parse", {}).get("myst_enable_extensions", []))

    @cached_property
    def toc(self) -> list[Path]:
        """The files that the table of contents names, in its order; they may be missing."""

        def files(entry) -> Iterator[str]:
            if isinstance(entry, list):
                for part in entry:
                    yield from files(part)
            elif isinstance(entry, dict):
                yield from (entry[key] for key in ("root", "file") if key in entry)
                for key in ("parts", "chapters", "sections", "subtrees", "entries"):
                    yield from files(entry.get(key))

        named = files(yaml.safe_load((self.root / "_toc.yml").read_text("utf-8")))
        return [self.root / (name if name.endswith(".md") else f"{name}.md") for name in named]

    @cached_property
    def pages(self) -> dict[Path, Page]:
        """The pages of the table of contents, then chapters that it does not name yet."""
        paths = dict.fromkeys([*self.toc, *self.chapters])
        return {path: read_page(self.parser, path) for path in paths if path.exists()}

    @cached_property
    def targets(self) -> dict[str, Target]:
        return {
            label: Target(page.path, title)
            for page in self.pages.values()
            for label, title in page.labels.items()
        }

    @cached_property
    def terms(self) -> set[str]:
        """The terms of the glossary, in lower case."""
        return {
            term.strip().lower()
            for path in self.pages
            for token, line in walk(self.parser, path.read_text("utf-8"))
            if (found := directive(token, line)) and found.name == "glossary"
            for term in re.findall(r"^\S.*$", found.body, re.MULTILINE)
        }

    @cached_property
    def bibliography(self) -> BibliographyData:
        path = self.root / "references.bib"
        return parse_file(path, "bibtex") if path.exists() else BibliographyData()

    def name(self, path: Path) -> str:
        return path.resolve().relative_to(self.root.resolve()).as_posix()


def parser(extensions: list[str]) -> MarkdownIt:
    """The parser of the book, whose inline tokens note where in the text they began and ended.

    ``token.meta["span"]`` is that place of a role, a link and a span with attributes,
    ``meta["label_end"]`` the place of a link's ``]``, and ``meta["attributes"]`` the place of
    attributes behind a token. Offsets count from the start of the inline token's content.
    """
    known = set(extensions) - {"linkify"}  # only turns bare addresses into links
    markdown = create_md_parser(MdParserConfig(enable_extensions=known), RendererHTML)
    kinds = {"link": "link_open", "myst_role": "myst_role", "span": "span_open", "attr": None}
    for rule in list(markdown.inline.ruler.__rules__):
        if rule.name in kinds:
            markdown.inline.ruler.at(rule.name, _located(rule.fn, kinds[rule.name]))
    return markdown


def _located(rule, kind: str | None):
    def run(state, silent: bool) -> bool:
        start, count = state.pos, len(state.tokens)
        label_end = (
            state.md.helpers.parseLinkLabel(state, start, True) if state.src[start] == "[" else -1
        )
        found = rule(state, silent)
        if found and not silent:
            if kind is None:
                state.tokens[-1].meta["attributes"] = (start, state.pos)
            else:
                token = next(token for token in state.tokens[count:] if token.type == kind)
                token.meta |= {"span": (start, state.pos), "label_end": label_end}
        return found

    return run


def directive(token: Token, line: int) -> Directive | None:
    """The directive that a fence on a line of a page holds, or None for another token."""
    match = re.match(r"\{([^\s}]+)\}\s*(.*)", token.info)
    if token.type not in ("fence", "colon_fence") or not match:
        return None
    # docutils' own test directive takes any title and any options; those of a cell are YAML
    cell = match[1] == "code-cell"
    parsed = parse_directive_text(TestDirective, match[2], token.content, validate_options=not cell)
    return Directive(
        name=match[1],
        title=" ".join(parsed.arguments),
        options=parsed.options,
        body="\n".join(parsed.body),
        line=line,
        body_line=line + 1 + parsed.body_offset,
    )


def walk(markdown: MarkdownIt, text: str, line: int = 1) -> Iterator[tuple[Token, int]]:
    """Every block token of a text that begins on a line, into directives, each with its line."""
    here = line
    for token in markdown.parse(text):
        here = line + token.map[0] if token.map else here
        yield token, here
        found = directive(token, here)
        if found and found.name not in VERBATIM:
            if found.title:
                yield from walk(markdown, found.title, here)
            yield from walk(markdown, found.body, found.body_line)


def plain(token: Token) -> str:
    """The words of an inline token."""
    kinds = ("text", "code_inline", "myst_role", "math_inline")
    return "".join(part.content for part in token.children or [] if part.type in kinds)


def read_page(markdown: MarkdownIt, path: Path) -> Page:
    """Read what a page offers to point at: its title, labels, headings and equations."""
    page = Page(path)
    waiting: list[str] = []  # labels that stand before the next block
    previous = None
    for token, line in walk(markdown, path.read_text("utf-8")):
        if token.type == "myst_target":
            waiting.append(token.content)
            page.labels[token.content] = ""
            continue
        if token.type == "inline" and previous.type == "heading_open":
            title = plain(token)
            page.title = page.title or title
            page.labels |= dict.fromkeys(waiting, title)
            slug, repeat = default_slugify(title), 1
            while slug in page.anchors:
                slug, repeat = f"{default_slugify(title)}-{repeat}", repeat + 1
            page.anchors.add(slug)
        if token.type != "heading_open":
            waiting = []
        found = directive(token, 0)
        equation = token.info if token.type == "math_block_label" else ""
        if token.type == "amsmath" and not token.meta["numbered"]:
            equation = f"line {line}"  # Sphinx numbers it though nothing can refer to it
        if found and found.name == "math":
            equation = found.options.get("label", "")
        elif found and found.name == "code-cell":
            figure = found.options.get("mystnb", {}).get("figure", {})
            if "name" in figure:
                page.labels[figure["name"]] = figure.get("caption", "")
        elif found and "name" in found.options:
            caption = "" if found.name == "image" else found.title
            if found.name in ("figure", "glue:figure"):
                caption = " ".join(found.body.split("\n\n")[0].split())
            page.labels[found.options["name"]] = plain(markdown.parseInline(caption)[0])
        if equation:
            page.equations.setdefault(equation, len(page.equations) + 1)
        previous = token
    return page
