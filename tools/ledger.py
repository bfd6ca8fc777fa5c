"""The claims ledger: what the executed chapters found, and what is on record.

Chapters state findings (:func:`tlbook.evidence.claims.finding`). The build gathers them from the
executed notebooks into ``_build/claims.json``; ``results/claims.json`` is the committed record. The
check reads the record alone, ``python -m tools.replicate`` compares the two, and ``python -m
tools.ledger`` accepts what was measured as the new record. What chapters cost, the README's figure,
the tables behind figures (:func:`tlbook.evidence.claims.keep_table`) and the table of methods
(:func:`tlbook.evidence.claims.method`) go the same way.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from nbformat import NotebookNode

from tlbook.evidence.claims import FINDING, METHOD, TABLE, table

MEASURED = Path("_build/claims.json")
RECORD = Path("results/claims.json")
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
    for row in ledger.values():
        row["verdict"] = overall(row["findings"])
    MEASURED.parent.mkdir(exist_ok=True)
    MEASURED.write_text(_dumps(dict(sorted(ledger.items(), key=lambda item: int(item[0][1:])))))
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


def overall(findings: list[dict]) -> str:
    """One verdict from the findings in several settings."""
    settings = {
        verdict: [f["setting"] for f in findings if f["verdict"] == verdict]
        for verdict in ("supported", "refuted", "not shown")
    }
    if not settings["supported"]:
        return "refuted" if settings["refuted"] else "not shown"
    if not settings["refuted"] and not settings["not shown"]:
        return "supported"
    return "supported only when: " + "; ".join(settings["supported"])


def check(stated: Mapping[str, set[str]]) -> list[str]:
    """Problems of the record: of its form, and where it and the chapters' code disagree.

    ``stated`` holds the claims that each chapter's code states findings about. What a build on
    this machine measured plays no part: :mod:`tools.replicate` looks at that.
    """
    record, problems = load(RECORD), []
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
            verdict = "supported" if low > 0 else "refuted" if high < 0 else "not shown"
            if not low <= finding["effect"] <= high:
                problems.append(f"{name}: the effect lies outside of its interval")
            if finding["verdict"] != verdict:
                problems.append(
                    f"{name}: {finding['verdict']!r}, but the interval says {verdict!r}"
                )
            if finding["seeds"] < 2:
                problems.append(f"{name}: a single run is never a result")
            if (key := (finding["chapter"], finding["setting"])) in seen:
                problems.append(f"{name}: twice on record")
            seen.add(key)
            on_record.setdefault(finding["chapter"], set()).add(claim)
        if row["findings"] and row["verdict"] != overall(row["findings"]):
            problems.append(f"{claim}: its verdict is not that of its findings")
    for chapter, claims in sorted(on_record.items()):
        for claim in sorted(claims ^ stated.get(chapter, set())):
            what = "on record, but not stated there" if claim in claims else "stated, not on record"
            problems.append(f"{claim}, {chapter}: {what} (`make book`, then `make ledger`)")
    return [f"{RECORD}: {problem}" for problem in problems]


def accept() -> None:
    """Make what the last build measured the record."""
    if not MEASURED.exists():
        raise SystemExit(f"{MEASURED} does not exist: build the book first (make book)")
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(MEASURED.read_text())
    if MEASURED_COSTS.exists():
        COSTS.write_text(MEASURED_COSTS.read_text())
    print(f"{RECORD}: {len(load(RECORD))} claims on record")
    if MEASURED_FIGURE.exists():
        FIGURE.parent.mkdir(exist_ok=True)
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
    return {
        "chapter": chapter,
        "setting": data["setting"],
        "effect": round(data["effect"], 4),
        "interval": [round(limit, 4) for limit in data["interval"]],
        "level": data["level"],
        "seeds": data["seeds"],
        "verdict": data["verdict"],
    }


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
