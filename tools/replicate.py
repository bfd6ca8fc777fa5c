"""Compare what the last build measured with the record, by one written rule.

``python -m tools.replicate``, or ``make replicate``, after a build. Another processor rounds in
another way, and a network that was trained there is another network. So the rule asks how far an
effect moved, in points or in the standard errors of the record:

- *exact* findings, of linear models on fixed features, are red if they moved by more than
  :data:`EXACT`, or their values with each seed by more than :data:`EACH` in the root mean square:
  other seeds can have the same mean.
- *trained* findings, of networks, are yellow beyond :data:`YELLOW` standard errors, and red beyond
  :data:`RED`, or where support turned into refutation or back.
- *timing* is red if the sign turned by more than :data:`TIMING`.
- An arm's score, where it is on record, counts like an effect: what breaks both arms alike cancels
  in their difference.
- All trained findings together are red if they moved by more than :data:`TOGETHER` standard errors
  in the root mean square, or if more than :data:`MANY` are yellow.

Any other change of a verdict is said to be *fragile*, and is no contradiction: two intervals can
differ in holding zero and agree in everything else.

The thresholds come from one pair of machines, an AMD and an Intel processor: 80 of 110 findings
were equal to the last digit. They are to be looked at again when a third kind of machine has run
the book. The tests simulate builds that differ as those two did, and builds that are broken.

``--keep`` puts the comparison into ``results/replications``, a file for each kind of machine.
``--strict`` makes the exit status 1 when anything is red; without it the report fails nothing.
"""

import argparse
import json
import math
import platform
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tools.ledger import MEASURED, RECORD, by_setting, load

#: 0.3 points. What moved most between the two machines moved by 0.13 points; a point is usually two
#: to ten test examples.
EXACT = 0.003
#: 1 point, in the root mean square over seeds. Of what moved most between the two machines, all in
#: one seed of twenty would be 0.6 points; seeds that are others move by 1.3 to 7.5.
EACH = 0.01
#: In standard errors: what moved most in a sound build moved by 1.15, all others by up to 0.71.
YELLOW, RED = 0.75, 1.5
#: In standard errors, the root mean square; about 0.3 of those that moved at all in a sound build.
TOGETHER = 0.6
#: How many yellow findings chance may give: five findings in a hundred.
MANY = 5
#: 10 percent of the time: two processors differ in which of two methods is the faster by as much.
TIMING = 0.1
COLORS = ("red", "yellow", "fragile", "not measured", "not on record", "green")

REPORT = Path("_build/replication.json")
KEPT = Path("results/replications")
PACKAGES = ("torch", "transformers", "tensorflow", "scikit-learn", "numpy", "scipy")


def compare(record: Mapping, measured: Mapping) -> list[dict]:
    """One row per finding on record or measured, those that need a look first.

    Parameters
    ----------
    record, measured : dict
        Ledgers, as :func:`tools.ledger.collect` writes them.

    Returns
    -------
    list of dict
        ``claim``, ``chapter``, ``setting``; ``was`` and ``now``, None where it is missing; and what
        :func:`judge` says.
    """
    was, now = by_setting(record), by_setting(measured)
    rows = []
    for key in sorted(was.keys() | now.keys()):
        found = {"was": was.get(key), "now": now.get(key)}
        rows.append(
            dict(zip(("claim", "chapter", "setting"), key, strict=True)) | found | judge(**found)
        )
    return sorted(rows, key=lambda row: COLORS.index(row["color"]))


def judge(was: Mapping | None, now: Mapping | None) -> dict:
    """Say what a finding measured again means for the one on record.

    Parameters
    ----------
    was, now : dict or None
        The finding on record and the one measured.

    Returns
    -------
    dict
        ``color``, one of :data:`COLORS`; ``moved`` and ``in_errors``, the change of the effect as a
        share of one and in standard errors, None where one side is missing; ``reasons``, a list of
        sentences.
    """
    if was is None or now is None:
        color = "not on record" if was is None else "not measured"
        return {"color": color, "moved": None, "in_errors": None, "reasons": []}
    moved, in_errors = change(was, now)
    colors, reasons = ["green"], []

    def say(color: str, reason: str) -> None:
        colors.append(color)
        reasons.append(reason)

    pairs = list(zip(was["by_seed"], now["by_seed"], strict=False))
    if was["kind"] == "exact" and pairs:
        each = math.sqrt(sum((one - other) ** 2 for one, other in pairs) / len(pairs))
        if each > EACH:
            say("red", f"single seeds moved by {100 * each:.1f}, and exact ones may by 1")
    parts = {"the effect": (was, now)}
    arms = ("the arm's score", "the control's score")
    pairs = zip(was["scores"], now["scores"], strict=False)
    parts |= dict(zip(arms, pairs, strict=False))
    for name, (one, other) in parts.items():
        d, errors = change(one, other)
        if was["kind"] == "exact":
            if abs(d) > EXACT:
                say("red", f"{name} moved by {100 * d:+.1f}, and exact ones move by 0.3 at most")
        elif was["kind"] == "timing":
            if one["effect"] * other["effect"] < 0 and abs(d) > TIMING:
                say("red", f"{name} turned its sign, by {100 * d:+.0f}")
        elif abs(errors) > YELLOW:
            color = "red" if abs(errors) > RED else "yellow"
            say(color, f"{name} moved by {errors:+.2f} standard errors")
    verdicts = {was["verdict"], now["verdict"]}
    if len(verdicts) == 2:
        turned = verdicts == {"supported", "refuted"} and was["kind"] != "timing"
        color = "red" if turned else "fragile"
        say(color, f"{was['verdict']} on record, {now['verdict']} here")
    color = min(colors, key=COLORS.index)
    return {"color": color, "moved": moved, "in_errors": in_errors, "reasons": reasons}


def change(was: Mapping, now: Mapping) -> tuple[float, float]:
    """How far an effect moved, as a share of one and in standard errors of the record.

    An error smaller than what exact arms may move by counts as that: where nothing varied over
    seeds, as between two arms that chose the same, rounding can still move what they choose.
    """
    moved = now["effect"] - was["effect"]
    return moved, moved / max(was["error"], EXACT)


def together(rows: list[dict]) -> list[str]:
    """What is red about all trained findings together, as sentences."""
    trained = [r for r in rows if r["was"] and r["now"] and r["was"]["kind"] == "trained"]
    problems = []
    if trained:
        rms = math.sqrt(sum(row["in_errors"] ** 2 for row in trained) / len(trained))
        if rms > TOGETHER:
            problems.append(
                f"trained findings moved by {rms:.2f} standard errors in the root mean square, and "
                f"may by {TOGETHER}"
            )
    if (yellow := sum(row["color"] == "yellow" for row in rows)) > MANY:
        problems.append(f"{yellow} findings are yellow, and {MANY} may be")
    return problems


def processor() -> str:
    """The name of the processor, or of its family where the system does not say."""
    info = Path("/proc/cpuinfo")  # platform.processor() is empty on many Linux systems
    found = info.is_file() and re.search(r"^model name\s*:\s*(.+)$", info.read_text("utf-8"), re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()


def machine() -> dict[str, str]:
    """The kind of machine: its processor, and the instructions that torch computes with."""
    import torch

    model, instructions = processor(), torch.backends.cpu.get_cpu_capability()
    words = f"{model} {platform.machine()} {instructions}".lower()
    return {
        "id": re.sub(r"[^a-z0-9]+", "-", words).strip("-"),
        "processor": model,
        "instructions": f"{platform.machine()} {instructions}",
        "system": platform.system(),
    }


def report(rows: list[dict]) -> dict:
    """The comparison as a file for ``results/replications`` keeps it."""
    kept = ("effect", "interval", "error", "components", "by_seed", "scores", "verdict", "kind")
    return {
        "machine": machine(),
        "date": datetime.now(UTC).date().isoformat(),
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "together": together(rows),
        "findings": [
            {name: row[name] for name in ("claim", "chapter", "setting")}
            | {name: row["now"][name] for name in kept if row["now"]}
            | {name: row[name] for name in ("color", "moved", "in_errors", "reasons")}
            for row in sorted(rows, key=lambda row: (row["claim"], row["chapter"], row["setting"]))
        ],
    }


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.replicate")
    parser.add_argument("--keep", action="store_true", help=f"put the report into {KEPT}")
    parser.add_argument("--strict", action="store_true", help="fail if anything is red")
    options = parser.parse_args(arguments)
    if not MEASURED.exists():
        print(f"{MEASURED} does not exist: build the book first (make book)", file=sys.stderr)
        return 1
    try:
        rows = compare(load(RECORD), load(MEASURED))
        content = report(rows)
    except KeyError as error:
        print(
            f"{MEASURED} has no {error}: another version wrote it; run make book first",
            file=sys.stderr,
        )
        return 1
    for row in (row for row in rows if row["color"] != "green"):
        print(f"{row['color']}: {row['claim']}, {row['chapter']}: {row['setting']}")
        for when in ("was", "now"):
            if found := row[when]:
                low, high = found["interval"]
                print(f"  {when} {found['effect']:.4f} [{low:.4f}, {high:.4f}], {found['verdict']}")
        print(
            *(f"  {reason}" for reason in row["reasons"]), sep="\n", end="\n" * bool(row["reasons"])
        )
    problems = together(rows)
    print(*(f"red: {problem}" for problem in problems), sep="\n", end="\n" * bool(problems))
    both = sorted(abs(row["in_errors"]) for row in rows if row["in_errors"] is not None)
    if both:
        print(
            f"{len(both)} findings on record were measured again: {both.count(0)} equal to the "
            f"last digit; moved by {both[len(both) // 2]:.2f} standard errors in the median, "
            f"{both[-1]:.2f} at most"
        )
    print(", ".join(f"{c}: {sum(row['color'] == c for row in rows)}" for c in COLORS))
    files = [REPORT]
    if options.keep:
        files.append(KEPT / f"{content['machine']['id']}.json")
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written: {file}")
    red = problems or any(row["color"] == "red" for row in rows)
    return 1 if red and options.strict else 0


if __name__ == "__main__":
    sys.exit(main())
