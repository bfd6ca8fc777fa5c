"""The book in a folder: its pages, its chapters, and what their last runs used and put out.

The outputs of chapters are kept in the execution cache that Jupyter Book reads; what a run used and
cost, in ``_build/runs``. A chapter is stale when its code changed, or a file, an asset or a package
that its last run used.
"""

import importlib.metadata
import json
import threading
from pathlib import Path

import nbformat
from jupyter_book.config import get_final_config
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import is_myst_markdown_notebook, read_myst_markdown_notebook
from myst_parser.config.main import MdParserConfig
from nbformat import NotebookNode
from sphinx_external_toc.parsing import parse_toc_yaml

from tlbook.sources import assets
from tlbook.sources.cache import whole
from tools import ledger
from tools.ledger import load
from tools.run import Chapter, ChapterError, run_all
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
    with whole(file) as part:
        part.write_text(text, "utf-8")


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
