"""The book's sources as Markdown tokens that know where they stand.

The checks read pages through this module: with the parser of the book itself, so that a code span,
a fenced example or a formula is never taken for a directive or a role.
"""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml
from docutils.parsers.rst.directives.misc import TestDirective
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from myst_parser.config.main import MdParserConfig
from myst_parser.parsers.directives import parse_directive_text
from myst_parser.parsers.mdit import create_md_parser
from pybtex.database import BibliographyData, parse_file
from sphinx_external_toc.parsing import parse_toc_yaml

#: Directives whose body is not Markdown.
VERBATIM = {"code", "code-block", "code-cell", "math", "raw", "raw-cell"}


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
class Book:
    """The book in a folder: its configuration, pages and references."""

    root: Path

    @cached_property
    def config(self) -> dict:
        return yaml.safe_load((self.root / "_config.yml").read_text("utf-8"))

    @property
    def repository(self) -> str:
        return self.config.get("repository", {}).get("url", "").rstrip("/")

    @property
    def branch(self) -> str:
        return self.config.get("repository", {}).get("branch", "main")

    @property
    def version(self) -> str:
        """The tag of the release that this is, or the branch for a book without a package."""
        project = self.root / "pyproject.toml"
        if not project.exists():
            return self.branch
        return f"v{tomllib.loads(project.read_text('utf-8'))['project']['version']}"

    @property
    def chapters(self) -> list[Path]:
        return sorted((self.root / "chapters").glob("*.md"))

    @cached_property
    def parser(self) -> MarkdownIt:
        named = self.config.get("parse", {}).get("myst_enable_extensions", [])
        known = set(named) - {"linkify"}  # only turns bare addresses into links
        return create_md_parser(MdParserConfig(enable_extensions=known), RendererHTML)

    @cached_property
    def toc(self) -> list[Path]:
        """The files that the table of contents names, in its order; they may be missing."""
        return [self.root / page for page in parse_toc_yaml(self.root / "_toc.yml")]

    @property
    def pages(self) -> list[Path]:
        """The pages of the table of contents, then chapters that it does not name yet."""
        return [page for page in dict.fromkeys([*self.toc, *self.chapters]) if page.exists()]

    @cached_property
    def bibliography(self) -> BibliographyData:
        path = self.root / "references.bib"
        return parse_file(path, "bibtex") if path.exists() else BibliographyData()

    def name(self, path: Path) -> str:
        return path.resolve().relative_to(self.root.resolve()).as_posix()


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
