"""pyproject.toml, constraints.txt and environment.yml describe one environment."""

import importlib.metadata
import re
import tomllib
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tools.lock import pins

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(r.name): r for r in map(Requirement, LINES)}
NEEDED = [
    pytest.param(extra, Requirement(line), id=f"{extra}-{Requirement(line).name}")
    for extra, lines in {"": PROJECT["dependencies"], **EXTRAS}.items()
    for line in lines
    if Requirement(line).name != PROJECT["name"]
]


def pinned(requirement: Requirement) -> Version:
    (specifier,) = PINS[canonicalize_name(requirement.name)].specifier
    assert specifier.operator == "=="
    return Version(specifier.version)


@pytest.mark.parametrize(("extra", "requirement"), NEEDED)
def test_every_dependency_is_pinned_inside_its_range(extra, requirement):
    assert pinned(requirement) in requirement.specifier


def test_all_holds_every_extra_but_the_benchmarks():
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"]
    assert everything.extras == EXTRAS.keys() - {"all", "bench"}


def test_constraints_hold_on_any_machine():
    assert len(PINS) == len(LINES)
    assert pins("\n".join(LINES)).splitlines() == LINES
    for requirement in PINS.values():
        assert not pinned(requirement).local, requirement


def test_pins_leaves_out_what_belongs_to_one_machine():
    compiled = "# made by\ntorch==2.13.0+cpu\n\npip==26.0\npip-tools==7.5\ntlbook==0.1.0\n"
    marked = "uvloop==1.0 ; platform_system != 'Windows'\n"
    assert pins(compiled + marked) == "torch==2.13.0\npip-tools==7.5\n" + marked


def test_conda_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, pip, through_pip = environment["dependencies"]
    assert (
        Version(python.removeprefix("python="))
        in Requirement(f"python{PROJECT['requires-python']}").specifier
    )
    assert pip == "pip"
    assert through_pip == {"pip": ["-c constraints.txt", "-e .[all]"]}
    assert "-c constraints.txt -e '.[all]'" in (ROOT / "Makefile").read_text()


def test_installed_versions_are_the_pinned_ones():
    differ = {}
    for name, requirement in PINS.items():
        with suppress(importlib.metadata.PackageNotFoundError):
            # a local label (+cpu) names a build of the same version
            installed = re.sub(r"\+.*", "", importlib.metadata.version(name))
            if installed != str(pinned(requirement)):
                differ[name] = installed
    assert not differ, "run `make test`, which brings .venv up to date"
