"""The package as a whole."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import tlbook

FOLDER = Path(tlbook.__file__).parent
#: The floors of the package: a module imports from its own floor and from those below it.
FLOORS = [
    {
        *("assets", "cache", "checks", "code", "data", "hubs", "networks", "pretrained"),
        "savedmodels",
    },
    {
        *("adversarial", "alignment", "augment", "distillation", "features", "freezing"),
        *("keras", "meta", "multitask", "objectives", "pretraining", "training", "weighting"),
    },
    {"claims", "experiment", "plots", "publish", "selection"},
]


def test_importing_the_package_is_cheap():
    code = "import sys, tlbook; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"numpy", "torch", "tensorflow", "transformers", "sklearn", "matplotlib"}


@pytest.mark.parametrize(
    "module", ["data", "experiment", "claims", "plots", "assets", "hubs", "weighting", "selection"]
)
def test_modules_without_networks_load_no_framework(module):
    code = f"import sys, tlbook.{module}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(run.stdout.split()) & {"torch", "tensorflow", "transformers"}


@pytest.mark.parametrize("floor", range(len(FLOORS)))
def test_imports_only_go_down(floor):
    above = set().union(*FLOORS[floor + 1 :])
    for module in FLOORS[floor]:
        assert not _imports(FOLDER / f"{module}.py") & above, module


def test_every_module_has_a_floor():
    modules = {file.stem for file in FOLDER.glob("*.py")} - {"__init__", "__main__"}
    assert modules == set().union(*FLOORS)


def _imports(file: Path) -> set[str]:
    """Names of the package's modules that a file imports, at its top or inside functions."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "tlbook":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("tlbook."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("tlbook.")}
    return names
