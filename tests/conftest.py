"""Settings of all tests: no hub is asked, tokenizers stay in one process, threads do not spin."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# Threads that wait must not burn the core another process needs: tiny networks under load took
# ten times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# pytest-xdist runs several tests side by side, and they share the cores
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // int(workers))))
# skada imports POT, which would load TensorFlow for several seconds if it may.
os.environ.setdefault("POT_BACKEND_DISABLE_TENSORFLOW", "1")


@pytest.fixture
def kernels_find_the_tools(monkeypatch):
    """Kernels and processes of a small book import ``tools`` and ``tlbook`` from this checkout."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
