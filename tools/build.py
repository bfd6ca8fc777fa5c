"""Build the book: run the chapters that are stale, then turn all pages into HTML.

``python -m tools.build`` from the root of the project, or ``make book``. :mod:`tools.book` says
what is stale.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy.exc import DatabaseError

from tlbook.sources import assets
from tools import export, ledger, outputs, published, source
from tools.book import COSTS, Book, changed, write
from tools.ledger import load
from tools.run import Chapter, cores, plain
from tools.watch import digest

#: What Sphinx read, in ``_build``: for the pages, and in it for the notebooks beside them.
DOCTREES = Path(".doctrees")
EXPORTED = DOCTREES / "exported"


def build(
    root: Path,
    *,
    jobs: int,
    only: str | None,
    force: bool,
    run_only: bool,
    downloads: str | None = None,
    downloads_sha256: str | None = None,
    verify: int = 0,
) -> int:
    """Run what is stale and write the HTML; the exit status."""
    book = Book(root)
    reasons = {c.name: "forced" if force else book.stale(c) for c in book.chapters}
    if only and only not in reasons:
        print(f"No chapter {only!r}. There are: {', '.join(reasons)}.", file=sys.stderr)
        return 2
    stale = [c for c in book.chapters if reasons[c.name] and only in (None, c.name)]
    if stale:
        print(f"{len(stale)} of {len(book.chapters)} chapters to run:")
        for chapter in stale:
            print(f"  {chapter.name} ({reasons[chapter.name]})", flush=True)
    taken = []
    if downloads and stale:
        try:
            content = outputs.fetch(downloads, downloads_sha256)
            taken = outputs.take(book, stale, content, lambda report: changed(report, root))
        except outputs.OutputsError as error:
            print(f"{error}. Without OUTPUTS, make book runs all chapters here.", file=sys.stderr)
            return 1
        stale = [chapter for chapter in stale if chapter not in taken]
        if problems := outputs.verify(book, taken, verify, jobs) if verify else []:
            print("\n".join(problems), file=sys.stderr)
            print("The archive says otherwise than what ran here.", file=sys.stderr)
            return 1
    try:
        fetch_assets(book, stale)
    except assets.AssetError as error:
        print(error, file=sys.stderr)
        return 1
    errors = book.run(stale, jobs)
    show_costs(book, ran={chapter.name for chapter in stale})
    for error in errors:
        print(f"\n{'-' * 80}\n{error}", file=sys.stderr)
    if errors:
        print(f"\n{len(errors)} of {len(stale)} chapters failed.", file=sys.stderr)
        return 1
    if run_only:
        return 0
    if still := [chapter.name for chapter in book.chapters if book.stale(chapter)]:
        print(f"No pages written: {', '.join(still)} must run first.")
        return 0 if only else 1
    ledger.collect({chapter.name: book.executed(chapter) for chapter in book.chapters})
    return write_pages(book)


def fetch_assets(book: Book, chapters: list[Chapter]) -> None:
    """Fetch ahead what the chapters used when they were last measured.

    Raises
    ------
    AssetError : an asset is missing and cannot be fetched
    """
    used = {name for c in chapters for name in book.costs.get(c.name, {}).get("assets", [])}
    for name, asset in assets.table().items():
        if name in used and not assets.folder(asset).is_dir():
            print(f"Fetching the asset {asset}", flush=True)
            assets.fetch(asset)


def show_costs(book: Book, ran: set[str]) -> None:
    """Print what each chapter took in its last run."""
    width = max([len(chapter.name) for chapter in book.chapters], default=0)
    print(f"\n{'chapter':{width}}  CPU s  wall s  peak MB")
    for chapter in book.chapters:
        report = book.last_run(chapter)
        figures = [f"{report[key]:.0f}" if report else "-" for key in COSTS]
        how = ("run" if report else "failed") if chapter.name in ran else "cached"
        print(f"{chapter.name:{width}}  {figures[0]:>5}  {figures[1]:>6}  {figures[2]:>7}  {how}")
    print(flush=True)


def write_pages(book: Book) -> int:
    """Turn the pages into HTML, where any warning is an error; the exit status."""
    output = book.root / "_build"
    remove_old_pages(book)
    forget_changed_pages(book)
    # A page that Sphinx does not read again warns no more. So after a build that did not end
    # well (warnings, Ctrl-C, anything) it reads all of them again.
    unfinished = output / DOCTREES / "unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished.parent)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    print("Writing the pages ...", flush=True)
    command = "from jupyter_book.cli.main import main; main()"
    options = ["build", str(book.root), "-W", "-n", "--keep-going", "-q"]
    sphinx = subprocess.Popen(
        [sys.executable, "-c", command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:  # beside it, the notebooks: both take seconds
        notebooks, problems = export.export(source.Book(book.root), output / EXPORTED)
        said, _ = sphinx.communicate()
    finally:
        sphinx.kill()
    if sphinx.returncode or problems:
        print(plain(said) if sphinx.returncode else "\n".join(problems), file=sys.stderr)
        print("The pages have errors (warnings count as errors).", file=sys.stderr)
        return 1
    published.publish(book, notebooks)
    unfinished.unlink()
    print(f"The book is ready. Open {(output / 'html' / 'index.html').as_uri()}")
    return 0


def remove_old_pages(book: Book) -> None:
    """Start over when the HTML holds a page that the table of contents no longer names."""
    html = book.root / "_build" / "html"
    pages = {html / page.relative_to(book.root).with_suffix(".html") for page in book.pages}
    own = {html / name for name in ("index.html", "search.html", "genindex.html", "404.html")}
    there = {page for folder in (".", "chapters", "api") for page in (html / folder).glob("*.html")}
    if there - pages - own:
        shutil.rmtree(html)
        shutil.rmtree(book.root / "_build" / DOCTREES, ignore_errors=True)


def forget_changed_pages(book: Book) -> None:
    """Have Sphinx read again each page whose text changed, whatever its time stamp says.

    Sphinx looks at times alone, and a file from an archive or another machine may be older than
    the page that was made of what it replaces.
    """
    known = book.root / "_build" / "pages.json"
    was, now = load(known), {str(p.relative_to(book.root)): digest(p) for p in book.pages}
    for name in (name for name in now if was.get(name) != now[name]):
        for folder in (DOCTREES, EXPORTED):
            doctree = (book.root / "_build" / folder / name).with_suffix(".doctree")
            doctree.unlink(missing_ok=True)
    write(known, json.dumps(now, indent=1))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the build folder; where another process holds it, say which and wait."""
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = FileLock(folder / "lock"), folder / "lock.holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        other = holder.read_text() if holder.exists() else "unknown"
        print(f"Another build (process {other}) is at work here. Waiting for it ...", flush=True)
        lock.acquire()
    try:
        holder.write_text(str(os.getpid()))
        yield
    finally:
        lock.release()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.build", description=__doc__)
    parser.add_argument("--jobs", type=int, default=cores(), help="chapters at once (cores)")
    parser.add_argument("--only", metavar="CHAPTER", help="run this chapter alone")
    parser.add_argument("--force", action="store_true", help="run chapters that are not stale too")
    parser.add_argument("--run-only", action="store_true", help="run chapters, write no pages")
    parser.add_argument(
        "--outputs", dest="downloads", metavar="ADDRESS", help="take what fits from this archive"
    )
    parser.add_argument("--outputs-sha256", dest="downloads_sha256", metavar="HASH")
    parser.add_argument("--verify", type=int, default=0, help="chapters taken that run anyway")
    arguments = parser.parse_args()
    root = Path.cwd()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with alone(root / "_build"):
            return build(root, **vars(arguments))
    except (DatabaseError, FileNotFoundError) as error:  # damaged, or removed while it was in use
        reason = str(error).splitlines()[0]
        print(f"_build is damaged ({reason}): run make clean, then again", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The chapters that had finished are kept.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
