"""Running chapters: each in a kernel of its own, several side by side."""

import ast
import json
import os
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

#: Seconds between two lines that say what is running.
HEARTBEAT = 15
#: Megabytes that a chapter is expected to need before it was ever measured.
UNKNOWN_PEAK = 3000
#: The share of the available memory that running chapters may be expected to fill.
MEMORY_SHARE = 0.8


class ChapterError(Exception):
    """A chapter did not run to its end; the message says where and why."""


@dataclass
class Chapter:
    """A page of the book that has code to run."""

    name: str
    path: Path
    notebook: NotebookNode
    key: str  # of its code in the execution cache
    peak_mb: float = UNKNOWN_PEAK
    seconds: float = float("inf")  # of its last run; unknown ones start first
    position: int = -1  # of the running cell in the notebook

    @property
    def cell(self) -> str:
        """The running cell, counting cells of code from 1: ``"code cell 3 of 12"``."""
        code = [cell.cell_type == "code" for cell in self.notebook.cells]
        return f"code cell {sum(code[: self.position + 1])} of {sum(code)}"


def cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fits(peak: float, running: list[float], memory: float) -> bool:
    """Whether a chapter with this expected peak may start beside the running ones (megabytes).

    One chapter always runs, however large.
    """
    return not running or peak + sum(running) <= memory


def run_all(
    chapters: Iterable[Chapter],
    keep: Callable[[Chapter, dict], None],
    *,
    root: Path,
    jobs: int,
    timeout: int | None,
) -> list[ChapterError]:
    """Run chapters side by side; the errors of those that failed.

    ``keep(chapter, report)`` is called in the chapter's own thread as soon as it has ended well,
    so that Ctrl-C, which reaches only the main thread, loses no finished chapter.
    """
    waiting = sorted(chapters, key=lambda chapter: -chapter.seconds)
    jobs = max(1, min(jobs, len(waiting)))
    threads = max(1, cores() // jobs)
    memory = MEMORY_SHARE * psutil.virtual_memory().available / 1e6
    running: dict[Future, Chapter] = {}
    errors = []
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:4.0f} s] {text}", flush=True)

    def run_and_keep(chapter: Chapter) -> None:
        keep(chapter, run(chapter, root, threads, timeout))

    with ThreadPoolExecutor(jobs) as pool:
        try:
            while waiting or running:
                for chapter in list(waiting):
                    peaks = [other.peak_mb for other in running.values()]
                    if len(running) < jobs and fits(chapter.peak_mb, peaks, memory):
                        waiting.remove(chapter)
                        running[pool.submit(run_and_keep, chapter)] = chapter
                        say(f"{chapter.name}: started")
                done, _ = wait(running, timeout=HEARTBEAT, return_when=FIRST_COMPLETED)
                if not done:
                    say(" · ".join(f"{c.name}: {c.cell}" for c in running.values()))
                for future in done:
                    chapter = running.pop(future)
                    try:
                        future.result()
                        say(f"{chapter.name}: done")
                    except ChapterError as error:
                        errors.append(error)
                        say(f"{chapter.name}: failed")
        finally:
            _kill(running)
    return errors


def _kill(running: Iterable[Future]) -> None:
    """Kill the kernels of unfinished runs. Their sessions are their own: Ctrl-C misses them."""
    while wait(running, timeout=0.2).not_done:
        for process in psutil.Process().children(recursive=True):
            process.kill()


def run(chapter: Chapter, root: Path, threads: int, timeout: int | None) -> dict:
    """Run the cells of a chapter, filling in their outputs; the report of :mod:`tools.watch`.

    Raises
    ------
    ChapterError : a cell raised, took longer than ``timeout`` seconds, or killed the kernel; or
        no cell ran
    """
    notebook = chapter.notebook
    client = NotebookClient(
        notebook,
        timeout=timeout,
        startup_timeout=180,
        shutdown_kernel="immediate",
        # Ours, below: that of nbclient takes time quadratic in the length of a line
        coalesce_streams=False,
        # times in the metadata of cells would change the key in the cache
        record_timing=False,
        resources={"metadata": {"path": str(chapter.path.parent)}},
    )
    log = root / "_build" / "runs" / f"{chapter.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = _environment(root, threads)
    began = time.monotonic()
    try:
        with (
            log.open("w") as output,
            client.setup_kernel(env=environment, stdout=output, stderr=output),
        ):
            info = client.wait_for_reply(client.kc.kernel_info())
            notebook.metadata["language_info"] = info["content"]["language_info"]
            _ask(client, "start()")
            for chapter.position, cell in enumerate(notebook.cells):
                count = client.code_cells_executed + 1
                client.execute_cell(cell, chapter.position, execution_count=count)
            report = json.loads(_ask(client, f"report({str(root)!r})"))
    except CellExecutionError as error:
        raise ChapterError(_where(chapter, str(error))) from None
    except CellTimeoutError as error:
        limit = f"{error}The limit of {timeout} s stands in _config.yml (execute: timeout)."
        raise ChapterError(_where(chapter, limit)) from None
    except RuntimeError as error:  # DeadKernelError, or a kernel that died while it started
        last = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        died = f"The kernel died ({error}). Out of memory? Its last words:\n{last}"
        raise ChapterError(_where(chapter, died)) from None
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined(cell.outputs)
    if not any(cell.get("execution_count") for cell in notebook.cells):
        raise ChapterError(f"{chapter.name} ran no code cell. It has none, or all are skipped.")
    return report | {"key": chapter.key, "wall_seconds": time.monotonic() - began}


def joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs with all text of a stream in one, in the place of its first, as a terminal shows it.

    That is what nbclient's ``coalesce_streams`` does, in time that grows as the text does.
    """
    kept, texts = [], {}
    for output in outputs:
        if output.output_type != "stream":
            kept.append(output)
        elif output.name in texts:
            texts[output.name].append(output.text)
        else:
            texts[output.name] = [output.text]
            kept.append(output)
    for output in kept:
        if output.output_type == "stream":
            output.text = as_shown("".join(texts[output.name]))
    # The two streams arrive in no certain order
    for i, (one, other) in enumerate(pairwise(kept)):
        if (one.get("name"), other.get("name")) == ("stderr", "stdout"):
            kept[i : i + 2] = other, one
    return kept


def as_shown(text: str) -> str:
    """Text after its backspaces, and with what follows the last carriage return of each line."""
    if "\b" in text:
        shown: list[str] = []
        for sign in text:
            if sign != "\b":
                shown.append(sign)
            elif shown and shown[-1] != "\n":
                shown.pop()
        text = "".join(shown)
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in lines)


def _environment(root: Path, threads: int) -> dict[str, str]:
    share = str(threads)
    return os.environ | {
        # the packages of this checkout, also where another tlbook is installed
        "PYTHONPATH": os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")])),
        # not the user's profile, whose start-up files would run first
        "IPYTHONDIR": str(root / "_build" / "ipython"),
        "TLBOOK_BUILD": "1",  # a comparison that was recorded otherwise is an error here
        "TQDM_DISABLE": "1",  # a page is no place for progress bars
        "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads leave the core to the chapter beside
        "OMP_NUM_THREADS": share,
        "MKL_NUM_THREADS": share,
        "OPENBLAS_NUM_THREADS": share,
        "RAYON_NUM_THREADS": share,
    }


def _ask(client: NotebookClient, call: str) -> str:
    """The value of a call to :mod:`tools.watch` in the kernel, beside the cells' own history."""
    question = {"answer": f"__import__('tools.watch', fromlist=['watch']).{call}"}
    reply = client.wait_for_reply(client.kc.execute("", silent=True, user_expressions=question))
    answer = reply["content"]["user_expressions"]["answer"]
    if answer["status"] != "ok":
        raise RuntimeError("\n".join(answer["traceback"]))
    return ast.literal_eval(answer["data"]["text/plain"])


def _where(chapter: Chapter, what: str) -> str:
    """What happened, below a line that says in which cell."""
    lines = chapter.notebook.metadata.get("source_map", [])
    place = f", line {lines[chapter.position] + 1}" if 0 <= chapter.position < len(lines) else ""
    return f"{chapter.name}, {chapter.cell} ({chapter.path.name}{place})\n{plain(what).strip()}"


def plain(text: str) -> str:
    """The text without the codes that color it in a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
