"""The package as a whole: cheap to import, built of rooms, imports only go down, no circles."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tlbook
from tests.helpers import FOLDER, imports, modules
from tlbook import sources

CHAPTERS = Path(__file__).parents[1] / "chapters"
#: From the ground up: a room's modules import from their own room and from those before it.
ROOMS = [
    "errors",
    "checks",
    "code",
    "data",
    "sources",
    "learning",
    "evidence",
    "keras",
    "methods",
    "advisor",
    "__main__",
]


def loaded_by(code: str) -> set[str]:
    code = f"import sys\n{code}\nprint(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def test_importing_the_package_is_cheap():
    heavy = {"numpy", "torch", "tensorflow", "transformers", "sklearn", "matplotlib"}
    assert not loaded_by("import tlbook; import tlbook.sources") & heavy


@pytest.mark.parametrize(("chosen", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_processor_unless_the_user_says_otherwise(chosen, expected):
    code = "import os, tlbook; print(os.environ['OMP_WAIT_POLICY'])"
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": chosen} if chosen else {}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == expected


@pytest.mark.parametrize(
    "module",
    [
        *("data", "sources.assets", "sources.hubs", "sources.texts", "evidence.comparison"),
        *("evidence.claims", "evidence.plots", "methods.weighting", "methods.selection"),
        *("methods.adaptation", "advisor.reading"),
    ],
)
def test_modules_without_networks_load_no_framework(module):
    assert not loaded_by(f"import tlbook.{module}") & {"torch", "tensorflow", "transformers"}


@pytest.mark.parametrize("name", sorted(tlbook._HOME))
def test_the_front_door_leads_to_every_public_name(name):
    found, home = getattr(tlbook, name), f"tlbook.{tlbook._HOME[name]}"
    assert found is (getattr(sys.modules[home], name, None) or sys.modules[f"{home}.{name}"])
    assert name in dir(tlbook) and name in tlbook.asked


@pytest.mark.parametrize("name", sorted(sources._HOME))
def test_sources_lead_to_every_data_set(name):
    home = f"tlbook.sources.{sources._HOME[name]}"
    assert getattr(sources, name) is getattr(sys.modules[home], name)
    assert name in dir(sources) and name in sources.asked


def test_the_front_door_says_no_to_other_names():
    with pytest.raises(AttributeError, match="has no attribute 'featuers'"):
        _ = tlbook.featuers
    with pytest.raises(ImportError, match="featuers"):
        exec("from tlbook import featuers")


@pytest.mark.parametrize("page", sorted(CHAPTERS.glob("*.md")), ids=lambda page: page.stem)
def test_what_a_chapter_takes_from_the_front_is_there(page):
    """Seen here in a second, not in the build after an hour."""
    code = "\n".join(re.findall(r"^from tlbook import (?:\([^)]*\)|.*)", page.read_text(), re.M))
    names = {a.name for node in ast.walk(ast.parse(code)) for a in getattr(node, "names", [])}
    folders = {folder.name for folder in FOLDER.iterdir() if (folder / "__init__.py").exists()}
    assert names <= {*tlbook._HOME, *folders, "data", "code"}


def test_imports_only_go_down():
    assert upward(FOLDER) == []


def test_no_circles():
    assert circle(FOLDER) is None


def test_every_module_is_in_a_room():
    rooms = {module.split(".")[0] for module in modules(FOLDER)} - {""}
    assert rooms == set(ROOMS)


@pytest.mark.parametrize(
    "line",
    [
        "from tlbook.methods import alignment",
        "import tlbook.methods.alignment",
        "from tlbook.methods.alignment import coral_loss",
        "from ..methods import alignment",
        "from ..methods.alignment import coral_loss",
        "def late():\n    from ..methods.alignment import coral_loss",
    ],
)
def test_an_import_that_goes_up_is_seen(line, planted):
    (planted / "sources" / "cache.py").write_text(line)
    assert upward(planted) == [("sources.cache", "methods.alignment")]


@pytest.mark.parametrize("line", ["from . import cache", "from tlbook.sources.cache import digest"])
def test_a_circle_in_one_room_is_seen(line, planted):
    (planted / "sources" / "assets.py").write_text(line)
    (planted / "sources" / "cache.py").write_text("def f():\n    from .assets import path")
    assert set(circle(planted)) == {"sources.assets", "sources.cache"}
    assert upward(planted) == []


@pytest.fixture
def planted(tmp_path) -> Path:
    """A small package of the same rooms."""
    for room in ("sources", "methods"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "__init__.py").write_text("")
    (tmp_path / "sources" / "cache.py").write_text("")
    (tmp_path / "methods" / "alignment.py").write_text("from tlbook.sources import cache")
    assert upward(tmp_path) == [] and circle(tmp_path) is None
    return tmp_path


def upward(folder: Path) -> list[tuple[str, str]]:
    """Imports of a room above the importing module's own."""
    floor = {room: number for number, room in enumerate(ROOMS)}
    return [
        (module, other)
        for module, others in imports(folder).items()
        for other in sorted(others)
        if module and floor[other.split(".")[0]] > floor[module.split(".")[0]]
    ]


def circle(folder: Path) -> list[str] | None:
    """Modules that import each other in a circle, if there are any."""
    try:
        graphlib.TopologicalSorter(imports(folder)).prepare()
    except graphlib.CycleError as error:
        return error.args[1]
    return None
