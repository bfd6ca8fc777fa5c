"""Python runs this first in the child processes of a chapter (:mod:`tools.watch` says why)."""

import importlib.util
import os
import sys
from importlib.machinery import PathFinder
from pathlib import Path


def follow() -> None:
    file = Path(__file__).resolve().parents[1] / "watch.py"
    spec = importlib.util.spec_from_file_location("_tlbook_watch", file)
    watch = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(watch)
    watch.follow()


if "TLBOOK_WATCH" in os.environ:
    follow()
# Then the one that this file hides, if there is one
here = Path(__file__).resolve().parent
sys.path[:] = [place for place in sys.path if not place or Path(place).resolve() != here]
hidden = PathFinder.find_spec("sitecustomize")
if hidden and hidden.loader:
    hidden.loader.exec_module(importlib.util.module_from_spec(hidden))
