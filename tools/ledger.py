"""The claims ledger: what the executed chapters found, and what is on record.

Chapters state findings (:func:`tlbook.evidence.claims.finding`). The build gathers them from the
executed notebooks into ``_build/claims.json``; the committed record is in the package,
``tlbook/evidence/ledger.json``, for :mod:`tlbook.evidence.guide` to read. The check reads the
record alone, ``python -m tools.replicate`` compares the two, and ``python -m tools.ledger`` accepts
what was measured as the new record. What chapters cost, the README's figure, the tables behind
figures
(:func:`tlbook.evidence.claims.keep_table`) and the table of methods
(:func:`tlbook.evidence.claims.method`) go the same way.
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path

import pandas as pd
from nbformat import NotebookNode

from tlbook.evidence import wording
from tlbook.evidence.claims import (
    FINDING,
    KINDS,
    METHOD,
    TABLE,
    VERDICTS,
    effect_of,
    in_counts,
    overall,
    table,
)
from tlbook.evidence.pooling import adjusted_p_values, pool
from tools import plans

MEASURED = Path("_build/claims.json")
RECORD = Path("tlbook/evidence/ledger.json")
#: The share of decided findings, over the whole ledger, that may be false.
FALSE_DISCOVERIES = 0.05
#: With fewer findings in points, how far they differ cannot be estimated, and none are pooled.
POOLED_FROM = 3
#: What running each chapter took, as measured here and on record.
MEASURED_COSTS = Path("_build/chapters.json")
COSTS = Path("results/chapters.json")
#: The README's figure: the output of the cell tagged ``readme-figure``, as measured and on record.
MEASURED_FIGURE = Path("_build/readme-figure.svg")
FIGURE = Path("results/figures/five-minutes.svg")

#: Tables that chapters keep, as measured and on record.
MEASURED_TABLES = Path("_build/tables")
TABLES = Path("results/tables")
#: The name of the table that holds a line for each method, and its columns.
METHODS = "methods"
COLUMNS = ["chapter", "method", "setting", "control", "gain", "low", "high", "unit", "seeds"]
COLUMNS += ["cpu_seconds", "lines_of_code"]


def collect(executed: Mapping[str, NotebookNode]) -> None:
    """Write the findings of executed chapters (name -> notebook) to ``_build/claims.json``."""
    ledger: dict[str, dict] = {}
    for chapter, notebook in sorted(executed.items()):
        for data in _carried(notebook, FINDING):
            claim = data["claim"]
            row = ledger.setdefault(claim, {"text": table()["claims"][claim]["text"]})
            findings = row.setdefault("findings", [])
            if any((chapter, data["setting"]) == (f["chapter"], f["setting"]) for f in findings):
                raise ValueError(f"{chapter}: {claim} has two findings in {data['setting']!r}")
            findings.append(_row(chapter, data))
    ordered = dict(sorted(ledger.items(), key=lambda item: int(item[0][1:])))
    plans.mark(ordered)
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(_dumps(summarized(ordered)))
    for figure in _readme_figures(executed):
        MEASURED_FIGURE.write_text(figure)
    kept = [kept for notebook in executed.values() for kept in _carried(notebook, TABLE)]
    tables = {table["name"]: table["csv"] for table in kept}
    methods = [
        {"chapter": chapter} | data
        for chapter, notebook in sorted(executed.items())
        for data in _carried(notebook, METHOD)
    ]
    if methods:
        tables[METHODS] = pd.DataFrame(methods, columns=COLUMNS).to_csv(
            index=False, float_format="%.4g"
        )
    _write_tables(MEASURED_TABLES, tables)


def summarized(ledger: Mapping[str, dict]) -> dict[str, dict]:
    """Fill in what follows from the findings of a ledger, and change nothing else.

    Each finding gets ``survives_fdr``: whether its effect differs from none when the share of false
    ones among all that the ledger calls different is held at five percent. It is about a
    difference, so a negligible finding may survive as well as not. Each claim gets ``counts`` of
    its verdicts, its own ``verdict`` (:func:`tlbook.evidence.claims.overall`), and ``pooled``, the
    random-effects mean of its findings in points (None if there are too few).
    """
    ledger = deepcopy(dict(ledger))
    findings = [finding for row in ledger.values() for finding in row.get("findings", [])]
    adjusted = adjusted_p_values([effect_of(f) for f in findings]) if findings else []
    for finding, p in zip(findings, adjusted, strict=True):
        finding["survives_fdr"] = bool(p <= FALSE_DISCOVERIES)
    for row in ledger.values():
        found = row.get("findings", [])
        row["counts"] = {v: sum(f["verdict"] == v for f in found) for v in VERDICTS}
        row["verdict"] = overall(found)
        row["pooled"] = _pooled(found)
    return ledger


def repeated(ledger: Mapping[str, dict]) -> list[str]:
    """Findings that are one measurement, as equal effects and intervals show, also of other sign.

    One measurement is one piece of evidence: stated under two claims, it would count twice.
    """
    named = defaultdict(list)
    for (claim, chapter, setting), finding in by_setting(ledger).items():
        low, high = finding["interval"]
        seen = (finding["effect"], low, high)
        if low < high:  # where nothing varied, equal numbers are no sign
            named[max(seen, (-seen[0], -high, -low))].append(f"{claim}, {chapter}: {setting}")
    return [f"one measurement is one finding: {'; '.join(n)}" for n in named.values() if n[1:]]


def check(stated: Mapping[str, set[str]]) -> list[str]:
    """Problems of the record: of its form, and where it and the chapters' code disagree.

    ``stated`` holds the claims that each chapter's code states findings about. What a build on
    this machine measured plays no part: :mod:`tools.replicate` looks at that.
    """
    record = load(RECORD)
    problems = repeated(record)
    if not record and RECORD.exists() and RECORD.read_text().strip() != "{}":
        problems.append("no whole record: take it from the last commit")
    on_record: dict[str, set[str]] = {chapter: set() for chapter in stated}
    for claim, row in record.items():
        if claim not in table()["claims"]:
            problems.append(f"{claim} is no claim of the documents")
        seen = set()
        for finding in row["findings"]:
            name = f"{claim}, {finding['chapter']}: {finding['setting']}"
            low, high = finding["interval"]
            if not low <= finding["effect"] <= high:
                problems.append(f"{name}: the effect lies outside of its interval")
            elif finding["verdict"] != (said := verdict_of(finding)):
                problems.append(f"{name}: {finding['verdict']!r}, but the interval says {said!r}")
            if finding["kind"] not in KINDS:
                problems.append(f"{name}: no kind {finding['kind']!r}: use {', '.join(KINDS)}")
            if finding["seeds"] < 2:
                problems.append(f"{name}: a single run is never a result")
            if (key := (finding["chapter"], finding["setting"])) in seen:
                problems.append(f"{name}: twice on record")
            seen.add(key)
            on_record.setdefault(finding["chapter"], set()).add(claim)
    for claim, row in summarized(record).items():
        if row["findings"] and not _alike(row, record[claim]):
            problems.append(f"{claim}: its counts or verdicts are not those of its findings")
    for chapter, claims in sorted(on_record.items()):
        for claim in sorted(claims ^ stated.get(chapter, set())):
            what = "on record, but not stated there" if claim in claims else "stated, not on record"
            problems.append(f"{claim}, {chapter}: {what} (`make book`, then `make ledger`)")
    return [f"{RECORD}: {problem}" for problem in problems]


def verdict_of(finding: Mapping) -> str:
    return wording.verdict(effect_of(finding), finding["margin"])


def accept() -> None:
    """Make what the last build measured the record."""
    if not MEASURED.exists():
        raise SystemExit(f"{MEASURED} does not exist: build the book first (make book)")
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    RECORD.write_text(MEASURED.read_text())
    COSTS.parent.mkdir(exist_ok=True)
    if MEASURED_COSTS.exists():
        COSTS.write_text(MEASURED_COSTS.read_text())
    for claim, row in load(RECORD).items():
        print(f"{claim}: {row['verdict']} ({in_counts(row['counts'])})")
    if MEASURED_FIGURE.exists():
        FIGURE.parent.mkdir(parents=True, exist_ok=True)
        FIGURE.write_text(MEASURED_FIGURE.read_text())
    _write_tables(TABLES, {file.stem: file.read_text() for file in MEASURED_TABLES.glob("*.csv")})


def _write_tables(folder: Path, tables: Mapping[str, str]) -> None:
    """These tables, and no other."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.csv"):
        if file.stem not in tables:
            file.unlink()
    for name, csv in tables.items():
        (folder / f"{name}.csv").write_text(csv)


def _carried(notebook: NotebookNode, kind: str) -> list[dict]:
    """What outputs of this type hold."""
    return [
        dict(output["data"][kind])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if kind in output.get("data", {})
    ]


def _readme_figures(executed: Mapping[str, NotebookNode]) -> list[str]:
    return [
        output["data"]["image/svg+xml"]
        for notebook in executed.values()
        for cell in notebook.cells
        if "readme-figure" in cell.metadata.get("tags", [])
        for output in cell.get("outputs", [])
        if "image/svg+xml" in output.get("data", {})
    ]


def _row(chapter: str, data: dict) -> dict:
    """A finding as the ledger keeps it, in reading order."""
    return {"chapter": chapter} | {
        name: _rounded(value) for name, value in data.items() if name != "claim"
    }


def _alike(one: object, other: object) -> bool:
    """Equal, numbers up to what another processor's rounding changes in what is computed anew."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-5)
    return one == other


def _rounded(value: object) -> object:
    """Numbers with six digits, also inside of lists and tables."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    return value


def _pooled(findings: list[dict]) -> dict | None:
    effects = [effect_of(f) for f in findings if f["unit"] == "points" and not f["unreliable"]]
    if len(effects) < POOLED_FROM:
        return None
    found = pool(effects)
    return _rounded(
        {
            "findings": len(effects),
            "mean": found.mean.value,
            "interval": [found.mean.low, found.mean.high],
            "prediction": [found.prediction.low, found.prediction.high],
            "tau": found.tau,
        }
    )


def by_setting(ledger: dict) -> dict[tuple[str, str, str], dict]:
    return {
        (claim, finding["chapter"], finding["setting"]): finding
        for claim, row in ledger.items()
        for finding in row["findings"]
    }


def load(file: Path) -> dict:
    """A JSON object from a file; an empty one where there is none, or no whole one."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _dumps(ledger: dict) -> str:
    return json.dumps(ledger, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    accept()
