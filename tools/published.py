"""Notebooks that read before they run, published beside the pages.

The exported notebooks with the outputs of the last build, and with the values in their sentences,
which in the repository are folded cells that say them.
"""

import ast
import hashlib
import re
import zipfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell

from tlbook.sources.cache import whole
from tools import source
from tools.book import Book, write
from tools.notebook import said

FOLDER = Path("_build", "html", "notebooks")
#: All of them in one file, with its hash beside.
ARCHIVE = "notebooks.zip"
#: Outputs that carry a value for the prose and show nothing.
VALUE = "application/papermill.record/"
#: Outputs for the ledger, with a text beside.
FOR_THE_LEDGER = "application/vnd.tlbook"


def publish(book: Book, notebooks: dict[Path, str]) -> None:
    """Write the notebooks with what their chapters put out.

    Parameters
    ----------
    book : tools.book.Book
        Its chapters have run.
    notebooks : dict of pathlib.Path to str
        The exported notebooks by their paths.
    """
    folder = book.root / FOLDER
    names = {f"{chapter.name}.ipynb" for chapter in book.chapters}
    for old in set(folder.glob("*.ipynb")) - {folder / name for name in names}:
        old.unlink()
    for chapter in book.chapters:
        if text := notebooks.get(chapter.path.with_suffix(".ipynb")):
            notebook = filled(nbformat.reads(text, as_version=4), book.executed(chapter))
            folder.mkdir(parents=True, exist_ok=True)
            write(folder / f"{chapter.name}.ipynb", nbformat.writes(notebook) + "\n")
    if folder.is_dir():
        pack(folder, source.Book(book.root).version)


def pack(folder: Path, version: str) -> None:
    """Pack the notebooks of a folder, and write the hash of the archive.

    The same notebooks give the same bytes.

    Parameters
    ----------
    folder : pathlib.Path
        Where they are, and where the archive goes to.
    version : str
        Names the folder in the archive.
    """
    archive = folder / ARCHIVE
    with whole(archive) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(folder.glob("*.ipynb")):
            entry = zipfile.ZipInfo(f"notebooks-{version}/{file.name}")  # dated 1980, always
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, file.read_bytes())
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    write(folder / f"{ARCHIVE}.sha256", f"{digest}  {ARCHIVE}\n")


def filled(notebook: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """An exported notebook with the outputs of the chapter that it was made of.

    Raises
    ------
    ValueError : a cell of the notebook did not run
    """
    code = [cell for cell in executed.cells if cell.cell_type == "code"]
    values = {name: value for cell in code for name, value in recorded(cell).items()}
    ran = iter(code)
    cells = notebook.cells[:1]  # the set-up cell, which no chapter has
    for cell in notebook.cells[1:]:
        if cell.cell_type == "code" and (text := said(cell.source)) is not None:
            cell = new_markdown_cell(with_values(text.strip("\n"), values), id=cell.id)
        elif cell.cell_type == "code":
            source = re.sub(r"\A#@title.*\n", "", cell.source).strip()
            for done in ran:  # cells that the book does not show ran as well
                if done.source.strip() == source:
                    break
            else:
                raise ValueError(f"a cell of the notebook did not run: {source[:60]!r}")
            cell.execution_count = done.execution_count
            if "remove-output" not in cell.metadata.get("tags", []):
                cell.outputs = [shown for output in done.outputs if (shown := visible(output))]
        cells.append(cell)
    notebook.cells = cells
    return notebook


def recorded(cell: NotebookNode) -> dict[str, float | str]:
    """The values by name that a cell recorded for the prose."""
    found = {}
    for output in cell.outputs:
        if glued := output.get("metadata", {}).get("scrapbook"):
            text = output.data.get(f"{VALUE}text/plain") or output.data["text/plain"]
            found[glued.name] = ast.literal_eval(text)
    return found


def visible(output: NotebookNode) -> NotebookNode | None:
    """What a reader sees of an output."""
    if "data" in output:
        kept = {k: v for k, v in output.data.items() if not k.startswith((VALUE, FOR_THE_LEDGER))}
        return NotebookNode(output, data=kept) if kept else None
    return None if output.get("name") == "stderr" else output


def with_values(text: str, values: dict[str, float | str]) -> str:
    """A text with a value for each ``<<name:format>>``."""

    def value(match: re.Match) -> str:
        name, _, spec = match[1].partition(":")
        return format(values[name], spec)

    return re.sub(r"<<(.+?)>>", value, text)
