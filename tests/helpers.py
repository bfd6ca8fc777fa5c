"""What several test files share: the package's imports, small books, tiny models and their data.

Libraries that take seconds to import are imported where they are needed: a test of the build needs
no torch.
"""

import ast
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

import tlbook

if TYPE_CHECKING:
    import torch
    from transformers import BertForSequenceClassification

CHECKOUT = Path(__file__).parents[1]
FOLDER = Path(tlbook.__file__).parent


# --- the package --------------------------------------------------------------------------------
def modules(folder: Path) -> dict[str, Path]:
    """The modules of a package by dotted name; a folder's own is that of its ``__init__``."""
    return {
        ".".join(file.relative_to(folder).with_suffix("").parts).removesuffix("__init__").strip("."):
        file
        for file in folder.rglob("*.py")
    }  # fmt: skip


def imports(folder: Path) -> dict[str, set[str]]:
    """For each module those of the package that it imports, at its top or inside functions."""
    every = modules(folder)
    found = {module: set() for module in every}
    for module, file in every.items():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                origin = (node.module or "").split(".") if node.module else []
                if node.level:  # relative: from the folder of the file upward
                    here = ["tlbook", *file.relative_to(folder).parts[:-1]]
                    origin = here[: len(here) - node.level + 1] + origin
                names = [".".join([*origin, alias.name]) for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                continue
            for name in names:
                if name.split(".")[0] != "tlbook":
                    continue
                name = name.removeprefix("tlbook").strip(".")
                while name not in every:  # a function of a module
                    name = name.rpartition(".")[0]
                found[module].add(name)
        found[module] -= {module, ""}
    return found


# --- small books --------------------------------------------------------------------------------
HEADER = """---
jupytext:
  text_representation:
    extension: .md
    format_name: myst
kernelspec:
  name: python3
  display_name: Python 3
---
"""


def cells(*sources: str) -> str:
    return "\n".join(f"```{{code-cell}} python3\n{source}\n```\n" for source in sources)


def chapter(title: str, *sources: str) -> str:
    return f"{HEADER}# {title}\n\n{cells(*sources)}"


def write(root: Path, **chapters: str) -> Path:
    """A book in a folder, with a ``tlbook`` of its own in front of the real one."""
    files = {f"chapters/{name}.md": text for name, text in chapters.items()} | {
        "_config.yml": "title: Small\nonly_build_toc_files: true\n"
        "execute: {execute_notebooks: cache, timeout: 60}\n",
        "_toc.yml": "format: jb-book\nroot: intro.md\nchapters:\n"
        + "".join(f"- file: chapters/{name}.md\n" for name in chapters),
        "intro.md": "# Small\n",
        "tlbook/__init__.py": f"__path__.append({str(Path(tlbook.__file__).parent)!r})\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    time.sleep(0.05)  # so that the files are older than the runs that read them
    return root


def book(folder: Path, modules: dict[str, str], **chapters: list[str]) -> Path:
    """A book of chapters, each a list of cells, with modules in its ``tlbook``."""
    write(folder, **{name: chapter(name.upper(), *cells) for name, cells in chapters.items()})
    for name, text in modules.items():
        (folder / "tlbook" / f"{name}.py").write_text(text)
    time.sleep(0.05)
    return folder


def start(root: Path, *options: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "tools.build", *options],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # tests run in the background inherit that Ctrl-C is ignored
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def build(root: Path, *options: str) -> tuple[int, str]:
    process = start(root, *options)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def reasons(root: Path) -> dict[str, str | None]:
    """Why each chapter is stale; None for one that is not."""
    from tools.book import Book

    here = Book(root)
    return {chapter.name: here.stale(chapter) for chapter in here.chapters}


# --- tiny models and their data -----------------------------------------------------------------
def tiny_bert(dropout: float = 0.0, seed: int = 0) -> "BertForSequenceClassification":
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        num_labels=2,
    )
    return BertForSequenceClassification(config)


def sentences(n: int = 60, seed: int = 0) -> dict:
    """Token ids of different lengths; the label is whether token 7 occurs."""
    rng = np.random.default_rng(seed)
    ids = [rng.integers(3, 50, rng.integers(3, 20)).tolist() for _ in range(n)]
    for row in range(0, n, 2):
        ids[row][0] = 7
    return {"input_ids": ids, "labels": np.array([int(7 in row) for row in ids])}


def vectors(n: int = 64, d: int = 5, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    y = (x @ rng.normal(size=d) + rng.normal(0, 0.5, n) > 0).astype(np.int64)
    return {"x": x, "labels": y}


def linear(d: int = 5, seed: int = 0) -> "torch.nn.Module":
    import torch
    from torch import nn

    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(d, 2))


def weights(model: "torch.nn.Module") -> "torch.Tensor":
    import torch

    return torch.cat([p.detach().flatten() for p in model.parameters()])
