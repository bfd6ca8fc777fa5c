"""Write ``constraints.txt``: the exact versions behind the ranges of ``pyproject.toml``.

``python -m tools.lock``, or ``make lock``. Existing pins stay while the ranges allow them;
``--upgrade`` (``make lock UPGRADE=1``) takes the newest versions.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CONSTRAINTS = Path("constraints.txt")
OPTIONS = [
    "--all-extras",
    "--strip-extras",
    "--allow-unsafe",
    "--no-header",
    "--no-annotate",
    "--no-emit-options",
    "--no-emit-index-url",
    "--no-emit-trusted-host",
    "--no-emit-find-links",
]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.lock", description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / CONSTRAINTS.name
        if CONSTRAINTS.exists():
            shutil.copyfile(CONSTRAINTS, compiled)
        command = [sys.executable, "-m", "piptools", "compile", "--quiet", *OPTIONS, *upgrade]
        done = subprocess.run([*command, "-o", str(compiled), "pyproject.toml"], check=False)
        if done.returncode:
            return done.returncode
        CONSTRAINTS.write_text(pins(compiled.read_text()))
    print(f"Wrote {CONSTRAINTS}. `make test` installs it and checks that it agrees.")
    return 0


def pins(compiled: str) -> str:
    """The pins of pip-compile's output, as constraints that hold on any machine.

    Left out: the label of a local build (``torch==2.13.0+cpu`` is CUDA's elsewhere), the project
    itself, and pip.
    """
    lines = [re.sub(r"\+[\w.]+", "", line.strip()) for line in compiled.splitlines()]
    kept = [line for line in lines if re.match(r"(?!(?:tlbook|pip)\b(?!-))[\w.-]+==", line)]
    return "".join(f"{line}\n" for line in kept)


if __name__ == "__main__":
    sys.exit(main())
