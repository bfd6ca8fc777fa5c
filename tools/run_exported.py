"""Runs exported notebooks from top to bottom, as a reader would.

    python -m tools.run_exported five-minutes             in a plain Jupyter kernel
    python -m tools.run_exported five-minutes --colab     in a likeness of Colab

The likeness has a module ``google.colab`` and every package of this environment except tlbook,
which the set-up cell installs from a copy of this checkout in place of the repository's address.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from importlib.metadata import distributions
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tools.source import Book

TIMEOUT = 900  # seconds a cell may take


class Colab:
    """A Python environment that looks like Colab's to a notebook, made in an empty folder."""

    def __init__(self, folder: Path, book: Book):
        self.folder = folder
        self.python = folder / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
        venv.create(folder / "venv", with_pip=False, symlinks=os.name != "nt")
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        self.installed = Path(self.run("-c", where).strip())

        site = folder / "site"
        site.mkdir()
        ours = re.compile(r"tlbook|__editable__|_virtualenv|.*\.pth$")
        for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
            for entry in Path(place).iterdir():
                if not ours.match(entry.name) and not (site / entry.name).exists():
                    (site / entry.name).symlink_to(entry)
        fake = folder / "fake" / "google" / "colab"
        fake.mkdir(parents=True)
        (fake / "__init__.py").touch()
        # the last line makes google.colab a loaded module in each process, as Colab's kernel does
        lines = [str(site), str(folder / "fake"), "import google.colab"]
        (self.installed / "colab.pth").write_text("\n".join(lines) + "\n")

        spec = {
            "argv": [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "Colab",
            "language": "python",
            "env": {
                "PYTHONPATH": "",  # a checkout named there would make tlbook importable
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"url.{self.repository(book)}.insteadOf",
                "GIT_CONFIG_VALUE_0": book.repository,
            },
        }
        kernel = folder / "kernels" / "colab"
        kernel.mkdir(parents=True)
        (kernel / "kernel.json").write_text(json.dumps(spec))

    def repository(self, book: Book) -> str:
        """A repository with the package as it stands in the checkout, committed or not."""
        copy = self.folder / "repository"
        copy.mkdir()
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(book.root / name, copy)
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(book.root / "tlbook", copy / "tlbook", ignore=ignored)
        author = ["-c", "user.name=book", "-c", "user.email=book@localhost"]
        commands = [["init", "-qb", book.branch], ["add", "."], ["commit", "-qm", "copy"]]
        if book.version != book.branch:
            commands.append(["tag", book.version])
        for command in commands:
            subprocess.run(["git", *author, *command], cwd=copy, check=True)
        return copy.resolve().as_uri()

    def run(self, *arguments: str) -> str:
        """Run this environment's Python, outside the checkout."""
        command = [self.python, *arguments]
        done = subprocess.run(command, cwd=self.folder, check=True, capture_output=True, text=True)
        return done.stdout

    def kernel(self) -> AsyncKernelManager:
        specs = KernelSpecManager(kernel_dirs=[str(self.folder / "kernels")])
        return AsyncKernelManager(kernel_name="colab", kernel_spec_manager=specs)

    def new_packages(self) -> set[str]:
        """What was installed since the environment was made."""
        return {found.name for found in distributions(path=[str(self.installed)])}


def run(notebook: Path, folder: Path, kernel: AsyncKernelManager | None = None) -> float:
    """Run a notebook in a folder and return how many seconds it took.

    Raises
    ------
    CellExecutionError : a cell failed; its message holds the cell and the traceback
    """
    start = time.perf_counter()
    resources = {"metadata": {"path": str(folder)}}
    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(content, km=kernel, timeout=TIMEOUT, resources=resources)
    client.execute(cleanup_kc=True)  # shut down a kernel that was handed in, too
    return time.perf_counter() - start


def run_in_colab(notebook: Path, book: Book) -> float:
    """Run a notebook in the likeness of Colab.

    Raises
    ------
    CellExecutionError : a cell failed
    RuntimeError : the set-up cell did not install tlbook, or replaced a package of Colab's own
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        colab = Colab(Path(folder), book)
        content = Path(folder) / "content"
        content.mkdir()
        seconds = run(notebook, content, colab.kernel())
        installed = colab.new_packages()
        if "tlbook" not in installed:
            raise RuntimeError("the set-up cell installed no tlbook")
        if replaced := installed & {"torch", "tensorflow", "transformers", "numpy"}:
            raise RuntimeError(f"the set-up cell replaced Colab's own {', '.join(replaced)}")
        return seconds


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    arguments.add_argument("names", nargs="*", metavar="CHAPTER", help="default: every chapter")
    arguments.add_argument("--colab", action="store_true", help="in a likeness of Colab")
    options = arguments.parse_args()
    book = Book(Path().resolve())
    names = options.names or [path.stem for path in book.chapters]
    failed = 0
    for name in names:
        notebook = book.root / "chapters" / f"{name}.ipynb"
        if not notebook.exists():
            print(f"{name}: no {notebook}: run python -m tools.export", file=sys.stderr)
            failed += 1
            continue
        try:
            if options.colab:
                seconds = run_in_colab(notebook, book)
            else:
                seconds = run(notebook, notebook.parent)
            print(f"{name}: ran in {seconds:.1f} s", flush=True)
        except (CellExecutionError, RuntimeError) as error:
            print(f"{name}: failed\n{error}", file=sys.stderr, flush=True)
            failed += 1
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
