"""Writes chapters as notebooks for Jupyter, GitHub and Colab (a Sphinx builder).

None of the three knows MyST, so what Sphinx made of a chapter becomes plain Markdown, and a block
that shows a computed value becomes a folded cell that says the same sentence. Notebooks carry no
outputs, and an unchanged chapter gives the same bytes. What cannot be made plain is a warning.
"""

import ast
import hashlib
import html
import posixpath
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import nbformat
from docutils import nodes
from myst_nb.core.read import read_myst_markdown_notebook
from myst_nb.ext.glue.utils import PendingGlueReference
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from pybtex.database import Entry
from sphinx.builders import Builder
from sphinx.locale import admonitionlabels
from sphinx.transforms import SphinxTransform
from sphinx.transforms.i18n import publish_msgstr
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util import logging

#: The package itself requires no torch, tensorflow or transformers: Colab keeps its own.
SETUP = """\
#@title Set up (installs the book's package where it is missing)
import importlib.metadata
import importlib.util

if importlib.util.find_spec("tlbook") is None:
    print("Installing the book's package, which takes about half a minute ...")
    %pip install -q "tlbook[ot] @ git+{url}@{version}"
    importlib.invalidate_caches()
    if importlib.util.find_spec("tlbook") is None:
        raise SystemExit("The book's package was not installed: what pip says above tells why.")
try:
    found = importlib.metadata.version("transformers")
except importlib.metadata.PackageNotFoundError:
    raise SystemExit("Some packages are missing: run %pip install torch transformers accelerate")
if int(found.split(".")[0]) < 5:
    raise SystemExit(
        f"The book needs transformers 5 or newer, and this is {{found}}: "
        "run %pip install -U transformers, then restart."
    )
import tlbook  # before torch, for which it sets how threads wait
"""
SAY = "#@title\nfrom tlbook.evidence.claims import say\n\nsay("
FOLDED = {"cellView": "form", "jupyter": {"source_hidden": True}}
FOLDING_TAGS = {"hide-input", "hide-cell", "remove-input", "remove-cell", "solution"}
SOLUTION = "try it yourself first"

#: What Markdown would take for markup in a text, which has none.
MARKUP = r"[\\*`$]|(?<!\w)_|_(?!\w)|<(?=[\w/!])|&(?=#?\w+;)|\](?=\()|^[#>+-](?=\s)"
ALIGNED = {"text-left": ":---", "text-center": ":---:", "text-right": "---:"}

log = logging.getLogger(__name__)


class Captions(SphinxTransform):
    """Puts the caption of a drawn figure behind its cell where, without outputs, there is none."""

    default_priority = 5  # before the translation

    def apply(self) -> None:
        if self.config.nb_execution_mode != "off":
            return
        for cell in list(self.document.findall(nodes.container)):
            figure = cell.get("cell_metadata", {}).get("mystnb", {}).get("figure", {})
            if text := figure.get("caption", "").strip():
                source, line = self.document["source"], cell.line
                read = publish_msgstr(
                    self.app, text, source, line, self.config, self.document.settings
                )
                caption = nodes.caption(text, "", *read.children)
                caption.source, caption.line = source, line
                box = nodes.figure("", caption)
                if "name" in figure:
                    box["names"] = [nodes.fully_normalize_name(figure["name"])]
                    self.document.note_explicit_target(box, box)
                cell.parent.insert(cell.parent.index(cell) + 1, box)


class Values(SphinxPostTransform):
    """Keeps the name of a value in place of the value, as ``<<name:format>>``."""

    builders = ("notebook", "gettext")
    default_priority = 4  # before myst-nb looks it up

    def run(self) -> None:
        for node in list(self.document.findall(PendingGlueReference)):
            shown = self.app.builder.name == "notebook" and is_chapter(self.env.docname)
            if shown and node.refdoc != self.env.docname:
                log.warning("a notebook cannot show a value of another page", location=node)
            spec = f":{node['fmt_spec']}".removesuffix(":s")
            node.replace_self(nodes.raw("", f"<<{node.key}{spec}>>", format="value"))


class Markdown:
    """Turns what Sphinx read into plain Markdown: a method for each kind of node."""

    def __init__(self, builder: "NotebookBuilder", page: str):
        self.builder, self.page = builder, page

    def __call__(self, node: nodes.Node) -> str:
        write = getattr(self, type(node).__name__, None)
        if write is None:
            log.warning(
                "Jupyter and Colab cannot show a %s: write it in another way",
                node.tagname.replace("_", " "),
                location=node,
            )
            return ""
        return write(node)

    def inside(self, node: nodes.Element) -> str:
        return "".join(map(self, node.children))

    def nothing(self, node: nodes.Element) -> str:
        return ""

    target = comment = citation = index = substitution_definition = toctree = nothing

    # within a line
    def Text(self, node: nodes.Text) -> str:
        return re.sub(MARKUP, r"\\\g<0>", node.astext(), flags=re.MULTILINE)

    inline = generated = problematic = pending_xref = inside

    def raw(self, node: nodes.raw) -> str:
        if node["format"] not in ("value", "html"):
            return ""
        inline = isinstance(node.parent, nodes.TextElement)
        return node.astext() if inline else f"{node.astext().rstrip()}\n\n"

    def emphasis(self, node: nodes.emphasis) -> str:
        return f"*{self.inside(node)}*"

    def strong(self, node: nodes.strong) -> str:
        return f"**{self.inside(node)}**"

    def literal(self, node: nodes.literal) -> str:
        text = node.astext()
        if "`" not in text:
            return f"`{text}`"
        apart = " " * ("`" in (text[0], text[-1]))
        return f"``{apart}{text}{apart}``"

    def subscript(self, node: nodes.subscript) -> str:
        return f"<sub>{self.inside(node)}</sub>"

    def superscript(self, node: nodes.superscript) -> str:
        return f"<sup>{self.inside(node)}</sup>"

    def abbreviation(self, node: nodes.abbreviation) -> str:
        return self.inside(node) + f" ({node['explanation']})" * ("explanation" in node)

    def math(self, node: nodes.math) -> str:
        return f"${node.astext()}$"

    def reference(self, node: nodes.reference) -> str:
        text, address = self.inside(node), self.builder.address(node)
        if address and address == node.astext():
            return f"<{address}>"
        return f"[{text}]({address})" if address else text

    def download_reference(self, node: nodes.Element) -> str:
        return f"[{self.inside(node)}]({node['reftarget']})"

    def image(self, node: nodes.image) -> str:
        source = node["uri"]
        if ":" not in source:  # Sphinx counts from the root
            source = posixpath.relpath(source, posixpath.dirname(self.page))
        return f"![{node.get('alt', '')}]({source})"

    # blocks, each with an empty line behind it
    def paragraph(self, node: nodes.Element) -> str:
        return f"{self.inside(node)}\n\n"

    caption = paragraph

    def title(self, node: nodes.Element) -> str:
        depth, section = 0, node.parent
        while isinstance(section, nodes.section):
            depth, section = depth + 1, section.parent
        return f"{'#' * depth} {self.inside(node)}\n\n" if depth else self.rubric(node)

    def rubric(self, node: nodes.Element) -> str:
        return f"**{self.inside(node)}**\n\n"

    PassthroughTextElement = rubric  # the title of a card

    def transition(self, node: nodes.transition) -> str:
        return "---\n\n"

    def math_block(self, node: nodes.math_block) -> str:
        tag = f"\n\\tag{{{node['number']}}}" if node.get("label") and not node["nowrap"] else ""
        return f"$$\n{node.astext().strip()}{tag}\n$$\n\n"

    def literal_block(self, node: nodes.literal_block) -> str:
        fence = "````" if "```" in node.astext() else "```"
        language = node.get("language", "").removeprefix("default")
        return f"{fence}{language}\n{node.astext().rstrip()}\n{fence}\n\n"

    def bullet_list(self, node: nodes.bullet_list) -> str:
        return "".join(self.item(child, "- ") for child in node).rstrip("\n") + "\n\n"

    def enumerated_list(self, node: nodes.enumerated_list) -> str:
        items = enumerate(node, node.get("start", 1))
        return "".join(self.item(child, f"{i}. ") for i, child in items).rstrip("\n") + "\n\n"

    def item(self, node: nodes.list_item, mark: str) -> str:
        tight = all(isinstance(child, nodes.Sequential) for child in node[1:])
        between = "\n" if tight else "\n\n"
        parts = [self(child).strip("\n") for child in node]
        text = between.join(filter(None, parts))  # a label leaves nothing
        return mark + indented(text, " " * len(mark)) + between

    def block_quote(self, node: nodes.block_quote) -> str:
        return quoted(self.inside(node).strip("\n")) + "\n\n"

    def admonition(self, node: nodes.Element) -> str:
        body, label = list(node.children), nodes.Text(admonitionlabels.get(node.tagname, ""))
        if body and isinstance(body[0], nodes.title | nodes.rubric):
            label = body.pop(0)
        solution = f": {SOLUTION}" * label.astext().lower().startswith("solution")
        text = "".join(map(self, body)).strip("\n")
        if "dropdown" in (node.get("design_component"), *node["classes"]):
            summary = html.escape(label.astext(), quote=False) + solution  # HTML, not Markdown
            return f"<details>\n<summary>{summary}</summary>\n\n{text}\n\n</details>\n\n"
        title = "".join(map(self, label.children or [label])) + solution
        return quoted(f"**{title}**\n\n{text}" if title else text) + "\n\n"

    attention = caution = danger = error = hint = important = note = admonition
    seealso = sidebar = tip = topic = warning = admonition

    def container(self, node: nodes.container) -> str:
        dropdown = node.get("design_component") == "dropdown"
        return self.admonition(node) if dropdown else self.inside(node)

    legend = inside

    def figure(self, node: nodes.figure) -> str:
        return "\n\n".join(self(child).strip("\n") for child in node) + "\n\n"

    def table(self, node: nodes.table) -> str:
        rows = list(node.findall(nodes.row))
        lines = [
            [self.inside(entry).strip().replace("|", r"\|") for entry in row.children]
            for row in rows
        ]
        head, *body = [f"| {' | '.join(line)} |".replace("|  |", "| |") for line in lines]
        classes = [" ".join(entry["classes"]) for entry in rows[0].children]
        rule = "|".join(ALIGNED.get(name, "---") for name in classes)
        title = "".join(self(child) for child in node if isinstance(child, nodes.title))
        return title + "\n".join([head, f"|{rule}|", *body]) + "\n\n"


class NotebookBuilder(Builder):
    """Writes each chapter as a notebook; the other pages only say where links lead."""

    name = format = "notebook"
    allow_parallel = True

    def get_outdated_docs(self) -> set[str]:
        return self.env.found_docs

    def get_target_uri(self, docname: str, typ: str | None = None) -> str:
        return f"{docname}.ipynb"

    def prepare_writing(self, docnames: set[str]) -> None:
        cite = self.env.domains.get("cite")
        #: what is cited, by the page and the anchor of its entry
        self.works = {
            (work.bibliography_key.docname, work.citation_id): work
            for work in (cite.citations if cite else [])
        }
        for name in ("bracket_parenthetical", "bracket_textual"):
            # a square bracket would stand beside that of the link
            if bracket := getattr(getattr(cite, "reference_style", None), name, None):
                bracket.left, bracket.right, bracket.sep = "(", ")", "; "

    def write_doc(self, docname: str, doctree: nodes.document) -> None:
        if not is_chapter(docname):
            return
        text = Path(self.env.doc2path(docname)).read_text("utf-8")
        self.source = read_myst_markdown_notebook(text, self.env.myst_config)
        self.cited: set[tuple[str, str]] = set()
        self.markdown = Markdown(self, docname)
        cells = [setup_cell(self.config)]
        for code, group in groupby(blocks(doctree), is_code):
            part = list(group)
            cells += map(self.code_cell, part) if code else self.text_cells(part)
        if self.cited:
            backend = self.env.domains["cite"].backend
            items = nodes.bullet_list()
            for place, work in self.works.items():
                if place in self.cited:
                    items += nodes.list_item("", backend.paragraph(work.formatted_entry))
            listed = self.markdown(items).strip().replace("\xa0", " ")
            cells.append(new_markdown_cell(f"## References\n\n{listed}"))
        kernel = self.env.metadata[docname].get("kernelspec", {})
        metadata = {"kernelspec": kernel, "language_info": {"name": "python"}}
        notebook = new_notebook(cells=with_ids(cells), metadata=metadata)
        nbformat.validate(notebook)
        path = Path(self.outdir, f"{docname}.ipynb")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(nbformat.writes(notebook).rstrip() + "\n", "utf-8")

    def code_cell(self, node: nodes.container) -> NotebookNode:
        """A code cell, folded where the book folds it."""
        tags = node["cell_metadata"].get("tags", [])
        metadata = {"tags": tags} if tags else {}
        source = self.source.cells[node["cell_index"]].source
        if FOLDING_TAGS & set(tags):
            metadata |= FOLDED
            title = f"Solution: {SOLUTION}" if "solution" in tags else ""
            if not source.startswith("%%"):  # a cell magic must stay on the first line
                source = f"#@title {title}".rstrip() + "\n" + source
        elif "hide-output" in tags:
            metadata["jupyter"] = {"outputs_hidden": True}
        return new_code_cell(source, metadata=metadata)

    def text_cells(self, group: list[nodes.Node]) -> Iterator[NotebookNode]:
        """Markdown cells, and between them cells that say the blocks with computed values."""
        for says, part in groupby(group, lambda node: len(values(node)) > 0):
            part = list(part)
            text = "".join(map(self.markdown, part)).strip("\n")
            if says and text.count("<<") > sum(len(values(node)) for node in part):
                log.warning("'<<' beside a computed value: write it apart", location=part[0])
            if text:
                yield say_cell(text) if says else new_markdown_cell(text)

    def address(self, node: nodes.reference) -> str:
        """Where a reference leads in the notebook; empty: nowhere."""
        address = node.get("refuri", f"#{node.get('refid', '')}")
        if re.match(r"[a-z]+:", address):
            return address
        page, _, anchor = address.partition("#")
        folder, here = posixpath.split(self.markdown.page)
        file = posixpath.normpath(posixpath.join(folder, page or here))
        place = file.removesuffix(".ipynb"), anchor
        if place in self.works:
            self.cited.add(place)
            return address_of(self.works[place].entry)
        return page if "/" not in page else ""  # other pages than chapters have no notebook


def is_chapter(page: str) -> bool:
    """Whether a page becomes a notebook."""
    return page.startswith("chapters/")


def blocks(parent: nodes.Element) -> Iterator[nodes.Node]:
    for node in parent.children:
        if isinstance(node, nodes.section):
            yield from blocks(node)
        else:
            yield node


def is_code(node: nodes.Node) -> bool:
    return isinstance(node, nodes.container) and node.get("nb_element") == "cell_code"


def values(node: nodes.Node) -> list[nodes.raw]:
    return [raw for raw in node.findall(nodes.raw) if raw["format"] == "value"]


def indented(text: str, margin: str) -> str:
    return re.sub(r"\n(?=[^\n])", f"\n{margin}", text)


def quoted(text: str) -> str:
    return "\n".join(f"> {line}" if line else ">" for line in text.split("\n"))


def address_of(entry: Entry) -> str:
    if "doi" in entry.fields:
        return "https://doi.org/" + quote(entry.fields["doi"])
    return entry.fields.get("url", "")


def setup_cell(config) -> NotebookNode:
    """The first cell, which installs the package where it is missing."""
    source = SETUP.format(url=config.book_repository, version=config.book_version).rstrip()
    return new_code_cell(source, metadata={**FOLDED, "tags": ["hide-input"]})


def say_cell(text: str) -> NotebookNode:
    """A folded cell that shows Markdown with the values that the cells above computed."""
    marks = "'''" if '"""' in text else '"""'
    source = f"{SAY}r{marks}\n{text}\n{marks})"
    return new_code_cell(source, metadata={**FOLDED, "tags": ["hide-input"]})


def said(source: str) -> str | None:
    """The text that a cell of :func:`say_cell` shows; None for another cell."""
    return ast.literal_eval(source[len(SAY) : -1]) if source.startswith(SAY) else None


def with_ids(cells: list[NotebookNode]) -> list[NotebookNode]:
    """Cells with ids made from their content: editing one leaves the ids of the others alone."""
    seen: dict[str, int] = {}
    for cell in cells:
        digest = hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]
        seen[digest] = seen.get(digest, 0) + 1
        cell.id = digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"
    return cells


def setup(app) -> dict:
    app.setup_extension("tools.values")
    app.add_builder(NotebookBuilder)
    app.add_transform(Captions)
    app.add_post_transform(Values)
    app.add_config_value("book_repository", "", "env")
    app.add_config_value("book_version", "main", "env")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
