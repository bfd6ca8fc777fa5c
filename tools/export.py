"""Exports chapters/name.md to chapters/name.ipynb, with Sphinx and without running any code.

python -m tools.export            write the notebooks
python -m tools.export --check    exit with 1 if one is not what its chapter exports
python -m tools.export --gettext  write the texts to translate to _build/gettext, by page
"""

import argparse
import io
import re
import shutil
import sys
import tempfile
from pathlib import Path

from jupyter_book.config import get_final_config
from sphinx.application import Sphinx
from sphinx.errors import SphinxError
from sphinx.util.docutils import docutils_namespace, patch_docutils

from tools.run import plain
from tools.source import Book


def sphinx(book: Book, builder: str, output: Path, known: Path | None = None) -> list[str]:
    """Turn the book into something else without running its code.

    Parameters
    ----------
    book : Book
    builder : str
        Name of the Sphinx builder.
    output : pathlib.Path
        Where it writes to.
    known : pathlib.Path, optional
        Folder that keeps what was read, so that only pages that changed are read again; of the
        others Sphinx warns no more.

    Returns
    -------
    list of str
        What Sphinx warned of, as ``file:line: what is wrong``.
    """
    options, _ = get_final_config(
        user_yaml=book.root / "_config.yml",
        cli_config={"latex_individualpages": False},
        sourcedir=book.root,
    )
    # Thebe would put scripts into the text
    extensions = [name for name in options["extensions"] if name != "sphinx_thebe"]
    options |= {
        "book_repository": book.repository,
        "book_version": book.version,
        "extensions": [*extensions, "tools.notebook"],
        "gettext_compact": False,
        "html_theme": "basic",  # no page of HTML is written
        "nb_execution_mode": "off",
        "nitpicky": True,
        "smartquotes": False,
        "suppress_warnings": [*options["suppress_warnings"], "myst-nb.lexer"],  # nothing has colors
    }
    said = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, patch_docutils(), docutils_namespace():
        # myst-nb writes beside the output, too
        written, doctrees = Path(folder, builder), known or Path(folder, "doctrees")
        try:
            Sphinx(book.root, None, written, doctrees, builder, options, None, said).build(True)
        except SphinxError as error:
            said.write(f"ERROR: {error}\n")
        shutil.copytree(written, output, dirs_exist_ok=True)
    problems: list[str] = []
    for line in plain(said.getvalue()).splitlines():
        if found := re.match(r"(?:(.*?):(\d*):? )?(?:WARNING|ERROR|CRITICAL): (.*)", line):
            place = (found[1] or "_config.yml").removeprefix(f"{book.root.resolve()}/")
            problems.append(f"{place}:{found[2] or 1}: {found[3]}")
        elif problems:
            problems[-1] += f" {line.strip()}"
    return problems


def export(book: Book, known: Path | None = None) -> tuple[dict[Path, str], list[str]]:
    """The text of each notebook by its path, and what Sphinx warned of."""
    with tempfile.TemporaryDirectory() as folder:
        problems = sphinx(book, "notebook", Path(folder), known)
        notebooks = {
            book.root / "chapters" / path.name: path.read_text("utf-8")
            for path in sorted(Path(folder, "chapters").glob("*.ipynb"))
        }
    return notebooks, problems


def check(book: Book) -> list[str]:
    """Problems of the exported notebooks: what Sphinx warns of, and what is out of date."""
    notebooks, problems = export(book)
    for path, text in notebooks.items():
        if not path.exists() or path.read_text("utf-8") != text:
            problems.append(f"{book.name(path)}:1: out of date: run python -m tools.export")
    for path in sorted((book.root / "chapters").glob("*.ipynb")):
        if not path.with_suffix(".md").exists():
            problems.append(f"{book.name(path)}:1: its chapter is gone: delete it")
    return problems


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("--check", action="store_true", help="write nothing; exit with 1")
    arguments.add_argument("--gettext", action="store_true", help="write _build/gettext/*.pot")
    options = arguments.parse_args()
    book = Book(Path())
    if options.check:
        problems = check(book)
    elif options.gettext:
        problems = sphinx(book, "gettext", book.root / "_build" / "gettext")
    else:
        notebooks, problems = export(book)
        for path, text in notebooks.items():
            path.write_text(text, "utf-8")
            print(book.name(path))
    print(*problems, sep="\n", end="\n" if problems else "", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
