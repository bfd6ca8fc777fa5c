"""Benchmarks: each a command that prints ratios against peers, taken from one run."""

import json
import os
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parents[1] / "results" / "benchmarks"


def save(name: str, figures: dict, packages: list[str]) -> Path:
    """Write figures to ``results/benchmarks/name.json`` with versions, machine and date."""
    stamp = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": {"processor": _processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(stamp | figures, indent=2) + "\n", encoding="utf-8")
    return path


def timed(function: Callable[[], object]) -> tuple[float, float, object]:
    """CPU seconds, wall seconds, result."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = function()
    return time.process_time() - cpu, time.perf_counter() - wall, result


def measure(methods: dict[str, Callable], turns: int) -> tuple[dict, dict]:
    """Least CPU and wall seconds of each method, run in turns, and the results of each."""
    seconds, results = {name: [] for name in methods}, {}
    for _ in range(turns):
        for name, function in methods.items():
            cpu, wall, results[name] = timed(function)
            seconds[name].append((cpu, wall))
    return {name: np.min(pairs, axis=0) for name, pairs in seconds.items()}, results


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # platform.processor() is empty on many Linux systems
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
