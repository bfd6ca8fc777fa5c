"""Build the book: run the chapters that are stale, then turn all pages into HTML.

``python -m tools.build`` from the root of the project, or ``make book``. A chapter is stale when
its code changed, or a file, an asset or a package that its last run used. The outputs are kept in
the execution cache that Jupyter Book reads; what a run used and cost, in ``_build/runs``.
"""

import argparse
import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat
from filelock import FileLock, Timeout
from jupyter_book.config import get_final_config
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_yaml
from sqlalchemy.exc import DatabaseError

from tlbook.sources import assets
from tools import ledger, outputs
from tools.ledger import load
from tools.run import Chapter, ChapterError, cores, plain, run_all
from tools.watch import digest, python_version, used_code

COSTS = ("cpu_seconds", "wall_seconds", "peak_mb")


class Book:
    """The book in a folder: its pages, and of those with code the outputs of their last runs."""

    def __init__(self, root: Path):
        self.root = root
        self.config, _ = get_final_config(
            user_yaml=root / "_config.yml",
            cli_config={"latex_individualpages": False},
            sourcedir=root,
        )
        self.cache = get_cache(root / "_build" / ".jupyter_cache")
        self.one_writer = threading.Lock()
        # What chapters took on this machine, or, for those that never ran here, on record
        self.costs = load(root / ledger.COSTS) | load(root / ledger.MEASURED_COSTS)
        self.pages = [root / page for page in parse_toc_yaml(root / "_toc.yml")]
        self.chapters = [chapter for page in self.pages if (chapter := self.chapter(page))]

    def chapter(self, page: Path) -> Chapter | None:
        """The page as a chapter to run; None for a page of text."""
        text = page.read_text("utf-8")
        if is_myst_markdown_notebook(text):
            # with the syntax that Sphinx reads it with, or the key in the cache would be another
            syntax = MdParserConfig(enable_extensions=set(self.config["myst_enable_extensions"]))
            notebook = read_myst_markdown_notebook(text, syntax, add_source_map=True, path=page)
        elif page.parent.name == "chapters":
            notebook = nbformat.v4.new_notebook()  # not even a header: fails as one without code
        else:
            return None
        chapter = Chapter(page.stem, page, notebook, self.cache.create_hashed_notebook(notebook)[1])
        if costs := self.costs.get(chapter.name):
            chapter.peak_mb, chapter.seconds = costs["peak_mb"], costs["wall_seconds"]
        return chapter

    def executed(self, chapter: Chapter) -> NotebookNode:
        """The chapter with its outputs. KeyError: it is not in the cache."""
        return self.cache.merge_match_into_notebook(chapter.notebook)[1]

    def last_run(self, chapter: Chapter) -> dict | None:
        """The report of the run whose outputs the cache holds, if it holds any."""
        try:
            self.executed(chapter)
            return json.loads(self.report_file(chapter).read_text())
        except (KeyError, OSError, ValueError):
            return None

    def report_file(self, chapter: Chapter) -> Path:
        return self.root / "_build" / "runs" / f"{chapter.name}.json"

    def stale(self, chapter: Chapter) -> str | None:
        """Why the chapter has to run, if it has to."""
        report = self.last_run(chapter)
        if report is None or report.get("key") != chapter.key:
            return "new code"
        try:
            return changed(report, self.root)
        except (AttributeError, KeyError, TypeError):
            return "a damaged report of its last run"

    def run(self, chapters: list[Chapter], jobs: int) -> list[ChapterError]:
        """Run chapters, keep what ended well; the errors of the others."""
        if not chapters:
            return []
        for chapter in chapters:
            self.report_file(chapter).unlink(missing_ok=True)  # stale until it has ended well
        timeout = self.config["nb_execution_timeout"]
        try:
            return run_all(chapters, self.keep, root=self.root, jobs=jobs, timeout=timeout)
        finally:
            self.write_costs(chapters)

    def keep(self, chapter: Chapter, report: dict) -> None:
        with self.one_writer:
            # Sphinx reads a page again when its text changed or its doctree is gone
            page = chapter.path.relative_to(self.root).with_suffix(".doctree")
            (self.root / "_build" / ".doctrees" / page).unlink(missing_ok=True)
            self.cache.cache_notebook_bundle(
                CacheBundleIn(
                    chapter.notebook,
                    str(chapter.path),
                    data={"execution_seconds": report["wall_seconds"]},
                ),
                check_validity=False,
                overwrite=True,
            )
            write(self.report_file(chapter), json.dumps(report, indent=1))

    def write_costs(self, ran: list[Chapter]) -> None:
        """Note what running the chapters took, to two digits, so that few lines change."""
        for chapter in ran:
            if report := self.last_run(chapter):
                costs = {key: max(1, int(float(f"{report[key]:.2g}"))) for key in COSTS}
                self.costs[chapter.name] = costs | {"assets": sorted(report["assets"])}
        names = {chapter.name for chapter in self.chapters}
        costs = {name: row for name, row in sorted(self.costs.items()) if name in names}
        write(self.root / ledger.MEASURED_COSTS, json.dumps(costs, indent=1) + "\n")


def write(file: Path, text: str) -> None:
    """Write a file whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.part")
    part.write_text(text, "utf-8")
    part.replace(file)


#: What a run used of a module, beside what runs when it is imported.
USED = ("called", "lines", "homes")


def changed(report: dict, root: Path) -> str | None:
    """What a run used that is no longer what it was, if anything."""
    for name, was in report["files"].items():
        if digest(root / name) != was:
            return f"{name} changed"
    for name, was in report.get("code", {}).items():
        if (what := _changed_code(root / name, was)) is not None:
            return f"{name}{what} changed"
    for package, was in report["versions"].items():
        if (now := _version(package)) != was:
            return f"{package} was {was}, now {now}"
    table = assets.table()
    for name, was in report["assets"].items():
        if name not in table or table[name].sha256 != was:
            return f"asset {name} changed"
    return None


def _changed_code(file: Path, was: dict) -> str | None:
    """What a run used of a module that has changed: ``": name"``, or ``""`` for all of it."""
    try:
        now = used_code(file.read_text("utf-8"), *(list(was[key]) for key in USED))
    except (OSError, SyntaxError, ValueError):
        return ""
    if now["module"] != was["module"]:
        return ""
    for key in USED:
        if names := [name for name, each in was[key].items() if now[key].get(name) != each]:
            break
    return f": {', '.join(names)}" if names else None


def _version(package: str) -> str:
    if package == "python":
        return python_version()
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


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
    unfinished = output / ".doctrees" / "unfinished"
    if unfinished.exists():
        shutil.rmtree(unfinished.parent)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    unfinished.touch()
    print("Writing the pages ...", flush=True)
    command = "from jupyter_book.cli.main import main; main()"
    options = ["build", str(book.root), "-W", "-n", "--keep-going", "-q"]
    sphinx = subprocess.run(
        [sys.executable, "-c", command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if sphinx.returncode:
        print(plain(sphinx.stdout), file=sys.stderr)
        print("The pages have errors (warnings count as errors).", file=sys.stderr)
        return 1
    unfinished.unlink()
    print(f"The book is ready. Open {(output / 'html' / 'index.html').as_uri()}")
    return 0


def remove_old_pages(book: Book) -> None:
    """Start over when the HTML holds a page that the table of contents no longer names."""
    html = book.root / "_build" / "html"
    pages = {html / page.relative_to(book.root).with_suffix(".html") for page in book.pages}
    own = {html / name for name in ("index.html", "search.html", "genindex.html")}
    if set(html.glob("*.html")) | set((html / "chapters").glob("*.html")) > pages | own:
        shutil.rmtree(html)
        shutil.rmtree(book.root / "_build" / ".doctrees", ignore_errors=True)


def forget_changed_pages(book: Book) -> None:
    """Have Sphinx read again each page whose text changed, whatever its time stamp says.

    Sphinx looks at times alone, and a file from an archive or another machine may be older than
    the page that was made of what it replaces.
    """
    known = book.root / "_build" / "pages.json"
    was, now = load(known), {str(p.relative_to(book.root)): digest(p) for p in book.pages}
    for name in (name for name in now if was.get(name) != now[name]):
        doctree = (book.root / "_build" / ".doctrees" / name).with_suffix(".doctree")
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
