"""Plans: what a new finding is to measure, committed before it is measured.

``results/plans/NAME.toml`` has a ``[[finding]]`` for each, with the :data:`FIELDS`. ``python -m
tools.plans``, a part of ``make check``, looks whether

- each planned finding is on record, or is listed with ``not_run`` and the reason;
- the commit that first had the plan, as it stands now, comes before the first commit whose record
  has the finding: so a setting that was changed after its result is seen as well;
- no plan was removed;
- a finding that came after this rule has a plan, or is listed with ``unplanned`` and the reason.

The order is read from git. In a shallow clone or an archive there is none, and the check says so.
"""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

PLANS = Path("results/plans")
RECORD = Path("tlbook/evidence/ledger.json")
#: What a plan says, each of it needed. ``seeds`` may be words, such as "5 splits, 4 seeds each".
FIELDS = ("claim", "setting", "arm", "control", "budgets", "seeds", "expected")
#: What may be added to a plan later.
LATER = ("not_run", "unplanned", "extended")
#: What the record says of findings that are older than plans.
BEFORE = "before the rule"

Key = tuple[str, str]  #: claim and setting


def entries(texts: Mapping[str, str]) -> dict[Key, dict]:
    """The plans in files, by claim and setting."""
    found = [plan for text in texts.values() for plan in tomllib.loads(text).get("finding", [])]
    return {(str(plan.get("claim")), str(plan.get("setting"))): plan for plan in found}


def planned() -> dict[Key, dict]:
    """The plans as they stand now."""
    return entries({file.name: file.read_text("utf-8") for file in sorted(PLANS.glob("*.toml"))})


def mark(ledger: Mapping[str, dict]) -> None:
    """Say of each finding of a ledger, in place, whether it was planned."""
    plans = planned()
    for claim, row in ledger.items():
        for finding in row.get("findings", []):
            plan = plans.get((claim, finding["setting"]))
            finding["planned"] = BEFORE if plan is None else "unplanned" not in plan


def check() -> list[str]:
    """Problems of plans and of their order, each a sentence."""
    plans, record = planned(), _flags(RECORD.read_text("utf-8") if RECORD.exists() else "{}")
    problems = []
    for key, plan in plans.items():
        missing = [name for name in FIELDS if name not in plan]
        unknown = sorted(plan.keys() - {*FIELDS, *LATER})
        if missing or unknown:
            problems.append(f"{_name(key)}: lacks {missing}, and {unknown} mean nothing here")
        if key not in record and "not_run" not in plan:
            problems.append(f"{_name(key)}: planned, but neither on record nor listed as not_run")
        if key in record and "not_run" in plan:
            problems.append(f"{_name(key)}: listed as not_run, but on record")
    for key, flag in record.items():
        if flag != (said := "unplanned" not in plans[key] if key in plans else BEFORE):
            problems.append(f"{_name(key)}: planned is {flag!r} on record, but should be {said!r}")
    if _git("rev-parse", "--is-shallow-repository") != "false\n":
        print("The history is not here: whether plans came before results is not checked.")
    else:
        problems += _order(plans, record)
    return [f"{PLANS}: {problem}" for problem in problems]


def _order(plans: Mapping[Key, dict], record: Mapping[Key, object]) -> Iterator[str]:
    """What git says against the order of plans and results."""
    rule, known, first_plan, first_result = None, set(), {}, {}
    for commit in _commits(PLANS):
        rule = rule or commit
        then = _plans_of(commit)
        known |= then.keys()
        for key, plan in then.items():
            if key in plans and _promise(plan) == _promise(plans[key]):
                first_plan.setdefault(key, commit)
    for commit in _commits(RECORD):
        for key in _flags(_git("show", f"{commit}:{RECORD}") or "{}"):
            first_result.setdefault(key, commit)
    for key in sorted(known - plans.keys()):
        yield f"{_name(key)}: a plan stays; say not_run = why"
    for key in record:
        result = first_result.get(key)  # none: not committed yet
        if key not in plans:
            if rule and _before(rule, result):
                yield f"{_name(key)}: on record without a plan: plan first, or say unplanned = why"
        elif "unplanned" not in plans[key]:
            plan = first_plan.get(key)
            if plan is None or not _before(plan, result):
                yield f"{_name(key)}: the plan, as it stands, is not older than the result"


def _promise(plan: Mapping) -> dict:
    return {name: value for name, value in plan.items() if name not in LATER}


def _flags(record: str) -> dict[Key, object]:
    """Whether each finding of a record was planned, as the record says."""
    return {
        (claim, finding["setting"]): finding.get("planned", BEFORE)
        for claim, row in json.loads(record).items()
        for finding in row.get("findings", [])
    }


def _plans_of(commit: str) -> dict[Key, dict]:
    files = (_git("ls-tree", "--name-only", commit, f"{PLANS}/") or "").split()
    files = [file for file in files if file.endswith(".toml")]
    return entries({file: _git("show", f"{commit}:{file}") or "" for file in files})


def _commits(path: Path) -> list[str]:
    """The commits that touched a path, each after its parents."""
    found = _git("log", "--format=%H", "--topo-order", "--reverse", "--full-history", "--", path)
    return (found or "").split()


def _before(one: str, other: str | None) -> bool:
    """Whether a commit is an ancestor of another, None for what is not committed yet."""
    if other is None or one == other:
        return other is None
    return _git("merge-base", "--is-ancestor", one, other) is not None


def _git(*arguments: str | Path) -> str | None:
    """What git prints; None if it fails or is not there."""
    try:
        run = subprocess.run(["git", *map(str, arguments)], capture_output=True, check=False)
    except OSError:
        return None
    return run.stdout.decode("utf-8") if run.returncode == 0 else None


def _name(key: Key) -> str:
    return ": ".join(key)


if __name__ == "__main__":
    found = check()
    print(*found, sep="\n", end="\n" * bool(found))
    sys.exit(bool(found))
