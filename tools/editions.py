"""Keeps the verdicts of each release, and says what changed since the last one.

``python -m tools.editions``, or ``make edition``, keeps the record of a release under its version:
``results/editions/0.1.0.json``. The page about the book shows what changed since the newest edition
before the version that it belongs to.
"""

import json
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from packaging.version import InvalidVersion, Version

from tlbook.evidence.claims import overall
from tools.ledger import RECORD

FOLDER = Path("results", "editions")
FIELDS = ("claim", "chapter", "setting", "effect", "interval", "seeds", "unit", "verdict")
FIELDS += ("survives_fdr",)
#: How settings begin now that the first edition named without.
SINCE_FIRST = ("the gap hurts, ", "adaptation closes part, ")
#: A verdict of the first edition that is called otherwise now, with the same meaning.
SAME_WORD = {"not shown": "undecided"}


@dataclass
class Changes:
    """What changed between two editions.

    Attributes
    ----------
    name : str
        The older edition.
    same : int
        How many findings have the verdict that they had.
    other : list of (dict, dict)
        Findings with another verdict, as they were and as they are.
    new, gone : list of dict
        Findings of one edition alone.
    claims : list of (str, str, str)
        Claims with another verdict, with both; empty where the older edition has none.
    """

    name: str
    same: int = 0
    other: list[tuple[dict, dict]] = field(default_factory=list)
    new: list[dict] = field(default_factory=list)
    gone: list[dict] = field(default_factory=list)
    claims: list[tuple[str, str, str]] = field(default_factory=list)


def findings(ledger: dict) -> list[dict]:
    """The findings of a ledger, each with its claim."""
    return [{"claim": name} | row for name in ledger for row in ledger[name]["findings"]]


def keep(root: Path) -> Path:
    """Write the record as the edition of the package's version; the file."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    file = root / FOLDER / f"{project['version']}.json"
    rows = findings(json.loads((root / RECORD).read_text("utf-8")))
    lines = [json.dumps({key: row[key] for key in FIELDS}, ensure_ascii=False) for row in rows]
    file.write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")
    return file


def last(root: Path, version: str) -> Path:
    """The file of the newest edition before a version."""

    def age(file: Path) -> Version:
        try:
            return Version(file.stem)
        except InvalidVersion:  # "first" had none
            return Version("0.dev0")

    return max(
        (file for file in (root / FOLDER).glob("*.json") if age(file) < Version(version)), key=age
    )


def changes(root: Path, version: str) -> Changes:
    """What the record has otherwise than the newest edition before a version.

    Parameters
    ----------
    root : pathlib.Path
        The folder of the book.
    version : str
        The version of the package.

    Returns
    -------
    Changes
    """
    file = last(root, version)
    then = json.loads(file.read_text("utf-8"))
    ledger = json.loads((root / RECORD).read_text("utf-8"))
    found = Changes(file.stem)
    left = {(row["claim"], row["setting"]): row for row in then}  # a chapter may have been split
    for now in findings(ledger):
        setting = now["setting"]
        for prefix in SINCE_FIRST:
            setting = setting.removeprefix(prefix)
        was = left.pop((now["claim"], now["setting"]), None)
        was = was or left.pop((now["claim"], setting), None)
        if was is None:
            found.new.append(now)
        elif SAME_WORD.get(was["verdict"], was["verdict"]) == now["verdict"]:
            found.same += 1
        else:
            found.other.append((was, now))
    found.gone = list(left.values())
    if all("survives_fdr" in row for row in then):
        for name, row in ledger.items():
            before = [each for each in then if each["claim"] == name]
            if before and (was := overall(before)) != row["verdict"]:
                found.claims.append((name, was, row["verdict"]))
    return found


def main() -> int:
    file = keep(Path())
    print(f"{file}: commit it with the release")
    return 0


if __name__ == "__main__":
    sys.exit(main())
