"""Run the experiments that are longer than a chapter may be.

``python -m tools.experiments [NAME ...]``, or ``make experiments``. A chapter asks for them by
``tlbook.evidence.recording.recorded``; here its cells are run with ``$TLBOOK_EXPERIMENTS`` set, so
that the same code measures them and writes ``tlbook/evidence/recorded/NAME.json``. All of them take
hours on two cores. With ``--extend``, seeds that are on record already are not run again.
"""

import argparse
import os
import re
import sys
from pathlib import Path

from tools.book import Book
from tools.run import Chapter, run_all


def names(chapter: Chapter) -> list[str]:
    """The experiments that a chapter asks for, in its order."""
    code = "\n".join(c.source for c in chapter.notebook.cells if c.cell_type == "code")
    return re.findall(r"\brecorded\(\s*\"([\w-]+)\"", code)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.experiments", description=__doc__)
    parser.add_argument("names", nargs="*", help="which ones; by default all of them")
    parser.add_argument("--extend", action="store_true", help="run only seeds not on record")
    given = parser.parse_args()
    chosen = given.names
    book = Book(Path.cwd())
    known = {name: chapter for chapter in book.chapters for name in names(chapter)}
    if unknown := set(chosen) - set(known):
        parser.error(f"no chapter asks for {', '.join(sorted(unknown))}: it is {', '.join(known)}")
    chosen = chosen or list(known)
    os.environ["TLBOOK_EXPERIMENTS"] = ",".join(chosen)
    if given.extend:
        os.environ["TLBOOK_EXTEND"] = "1"
    chapters = {known[name].name: known[name] for name in chosen}
    print(f"Running {', '.join(chosen)}. Each is written when it has ended.")
    # one chapter after the other: each takes all cores for itself
    errors = run_all(
        chapters.values(), lambda chapter, report: None, root=book.root, jobs=1, timeout=None
    )
    for error in errors:
        print(f"\n{error}", file=sys.stderr)
    return bool(errors)


if __name__ == "__main__":
    sys.exit(main())
