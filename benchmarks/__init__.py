"""Benchmarks: each a command that prints ratios against peers, taken from one run."""

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

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


def _processor() -> str:
    info = Path("/proc/cpuinfo")  # platform.processor() is empty on many Linux systems
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
