"""Inside a chapter's kernel: what its run loaded, read and used.

The build calls :func:`start` before the first cell and :func:`report` after the last one.
"""

import hashlib
import importlib.metadata
import json
import os
import resource
import sys
import time
from pathlib import Path

_started = 0.0
_path: list[str] = []  # where modules were looked for before a library added places of its own
_modules: set[str] = set()  # the kernel's own, loaded before the first cell
_read: set[str] = set()
_written: set[str] = set()


def start() -> None:
    """Watch from here on which files are opened and which modules are loaded."""
    global _started
    _started = time.time()
    _path[:] = sys.path
    _modules.update(sys.modules)
    sys.addaudithook(_note_opened)


def _note_opened(event: str, arguments: tuple) -> None:
    if event != "open" or not isinstance(arguments[0], str):
        return
    path, mode, flags = arguments
    writes = any(sign in (mode or "") for sign in "wax+") or flags & (os.O_WRONLY | os.O_RDWR)
    (_written if writes else _read).add(str(Path.cwd() / path))


def python_version() -> str:
    """The version of Python without the patch level: ``"3.11"``."""
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits; ``"missing"`` where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return "missing"


def report(root: str) -> str:
    """What the outputs depend on and what they cost, as a JSON object.

    ``files``: project files loaded as modules or read, with their SHA-256; ``versions``: installed
    packages loaded; ``assets``: assets used, with the SHA-256 of the archive; ``cpu_seconds`` and
    ``peak_mb`` (10^6 bytes) of the kernel and its child processes, imports included.
    """
    loaded = {name: module for name, module in sys.modules.items() if name not in _modules}
    sources = {getattr(module, "__file__", None) for module in loaded.values()} - {None}
    files = {}
    for path in sorted((sources | _read) - _written):
        inside = _inside(Path(root), Path(path))
        if inside:
            files[inside] = _digest_as_read(Path(path))
    assets = dict(getattr(loaded.get("tlbook.sources.assets"), "used", {}))
    if assets:  # a change in the table concerns the pages that show it, or that used the asset
        files.pop("tlbook/sources/assets.toml", None)
    owners = importlib.metadata.packages_distributions()
    packages = {owner for name in loaded for owner in owners.get(name.partition(".")[0], ())}
    installed = {
        found.name: found.version for found in importlib.metadata.distributions(path=_path)
    }
    versions = {
        name: installed[name] for name in sorted(packages - {"tlbook"}) if name in installed
    }
    versions["python"] = python_version()
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss counts bytes there, else KiB
    return json.dumps(
        {
            "files": files,
            "versions": versions,
            "assets": assets,
            "cpu_seconds": sum(usage.ru_utime + usage.ru_stime for usage in used),
            "peak_mb": sum(usage.ru_maxrss for usage in used) * unit / 1e6,
        }
    )


def _inside(root: Path, path: Path) -> str | None:
    """The path below the root, or None for what no chapter's outputs depend on."""
    try:
        parts = path.resolve().relative_to(root.resolve()).parts
    except ValueError:
        return None
    if path.is_relative_to(sys.prefix) or not path.is_file() or "__pycache__" in parts:
        return None
    if parts[0][0] in "._" or parts[0] == "tools" or parts[0].endswith(".egg-info"):
        return None
    return "/".join(parts)


def _digest_as_read(path: Path) -> str:
    """The digest; of a file that changed during the run nobody knows what was read."""
    return digest(path) if path.stat().st_mtime < _started else "changed during the run"
