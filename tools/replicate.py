"""Compare what the last build measured with the record.

``python -m tools.replicate``, or ``make replicate``, after a build. It reports and does not fail:
another processor rounds in another way, and a network that was trained there is another network. A
finding is named when its verdict turned, when its effect left the interval on record, or when it is
on one side only. ``make ledger`` accepts what was measured as the record.
"""

import math
import sys
from collections.abc import Mapping
from statistics import NormalDist

from tools.ledger import MEASURED, RECORD, by_setting, load

ORDER = ("verdict turned", "left its interval", "not measured", "not on record")


def compare(record: Mapping, measured: Mapping) -> list[dict]:
    """One row per finding on record or measured, those that need a look first.

    Parameters
    ----------
    record, measured : dict
        Ledgers, as :func:`tools.ledger.collect` writes them.

    Returns
    -------
    list of dict
        ``finding``; ``was`` and ``now``, None where it is missing; ``moved``, the change of the
        effect in standard errors of the record, which its interval gives; ``remark``, one of
        :data:`ORDER`, or empty.
    """
    was, now = by_setting(record), by_setting(measured)
    rows = [
        {"finding": "{}, {}: {}".format(*key), "was": was.get(key), "now": now.get(key)}
        for key in sorted(was.keys() | now.keys())
    ]
    for row in rows:
        row |= {"moved": moved(row["was"], row["now"]), "remark": remark(row["was"], row["now"])}
    return sorted(rows, key=lambda row: (*ORDER, "").index(row["remark"]))


def moved(was: dict | None, now: dict | None) -> float:
    """The change of an effect in standard errors of the record; NaN where one side is missing."""
    if was is None or now is None:
        return math.nan
    low, high = was["interval"]
    error = (high - low) / (2 * NormalDist().inv_cdf((1 + was["level"]) / 2))
    change = now["effect"] - was["effect"]
    return change / error if error else math.copysign(math.inf, change) if change else 0.0


def remark(was: dict | None, now: dict | None) -> str:
    if now is None:
        return "not measured"
    if was is None:
        return "not on record"
    if was["verdict"] != now["verdict"]:
        return "verdict turned"
    low, high = was["interval"]
    return "" if low <= now["effect"] <= high else "left its interval"


def main() -> int:
    if not MEASURED.exists():
        print(f"{MEASURED} does not exist: build the book first (make book)", file=sys.stderr)
        return 1
    rows = compare(load(RECORD), load(MEASURED))
    for row in filter(lambda row: row["remark"], rows):
        print(f"{row['remark']}: {row['finding']}")
        for when in ("was", "now"):
            if found := row[when]:
                low, high = found["interval"]
                print(f"  {when} {found['effect']:.4f} [{low:.4f}, {high:.4f}], {found['verdict']}")
    both = sorted(abs(row["moved"]) for row in rows if not math.isnan(row["moved"]))
    if both:
        equal = sum(change == 0 for change in both)
        print(
            f"{len(both)} findings on record were measured again: {equal} equal to the last digit; "
            f"moved by {both[len(both) // 2]:.2f} standard errors in the median, "
            f"{both[-1]:.2f} at most"
        )
    counts = {word: sum(row["remark"] == word for row in rows) for word in ORDER}
    print(", ".join(f"{word}: {count}" for word, count in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
