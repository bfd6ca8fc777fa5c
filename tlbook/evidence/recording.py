"""Read comparisons that take longer than a chapter may, measured beforehand."""

import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np

from tlbook.data import Dataset
from tlbook.evidence.comparison import Arm, compare
from tlbook.evidence.scores import Comparison
from tlbook.sources.cache import digest

#: Larger comparisons than a chapter has time for, as ``make experiments`` measured them.
RECORDED = Path(__file__).with_name("recorded")
#: Seeds at most of a comparison that is measured where a reader changed it.
LIVE_SEEDS = 3
#: Seeds after which a long comparison is written, so that what is interrupted goes on from there.
SEEDS_AT_ONCE = 5
#: What a record has of each arm, budget and seed.
PARTS = ("cpu_seconds", "labels")


def recorded(
    name: str,
    arms: dict[str, Arm],
    data: Dataset,
    *,
    train: np.ndarray,
    test: np.ndarray,
    budgets: Iterable[int | None],
    seeds: Sequence[int] = range(10),
) -> Comparison:
    """Return what :func:`compare` gives for the same arguments, measured beforehand.

    A comparison that takes longer than a chapter may is run by ``make experiments``, which sets
    ``$TLBOOK_EXPERIMENTS`` to the names to run, separated by commas. The result is kept in
    ``tlbook/evidence/recorded/NAME.json`` with versions, machine and date. Otherwise it is read
    from there. With ``$TLBOOK_EXTEND`` set, only seeds that are not recorded yet are run.

    Where something else is asked for than was recorded, because a reader changed it, the comparison
    is measured at once, with the first three seeds, and a printed line says so. The build of the
    book sets ``$TLBOOK_BUILD``: there it is an error, so that no page shows a stale comparison.

    Parameters
    ----------
    name : str
        Name of the experiment and of its file.
    arms : dict of str to Arm
        Functions by name, as for :func:`compare`. They run only when the comparison is measured.
    data : Dataset
        The examples.
    train : (n_train,) numpy.ndarray of int
        Positions of the rows that may be labeled.
    test : (n_test,) numpy.ndarray of int
        Positions of the test rows.
    budgets : iterable of int or None
        Labels per class; None stands for all of ``train``.
    seeds : sequence of int, default range(10)
        Seeds of the runs.

    Returns
    -------
    Comparison
        The recorded predictions and CPU seconds, or those that were measured in their place.

    Raises
    ------
    ValueError
        In the build, if nothing is recorded under this name, or it has other arms, budgets, seeds
        or rows than those asked for. When it is to be written, if the data have more than ten
        classes, which cannot be recorded.
    """
    file = RECORDED / f"{name}.json"
    budgets, seeds = tuple(budgets), tuple(seeds)
    asked = {
        "arms": list(arms),
        "budgets": list(budgets),
        "seeds": list(seeds),
        "rows": digest(data.x[train], data.y[train], data.x[test], data.y[test]),
    }
    rows = {"train": train, "test": test}
    if name in os.environ.get("TLBOOK_EXPERIMENTS", "").split(","):
        if len(data.classes) > 10:
            raise ValueError(f"{data.name} has {len(data.classes)} classes; ten can be recorded")
        _measure(
            file,
            asked,
            lambda some: compare(
                arms, data, **rows, budgets=budgets, seeds=some, jobs=joblib.cpu_count()
            ),
        )
    content = json.loads(file.read_text("utf-8")) if file.exists() else {}
    if differing := [key for key, value in asked.items() if content.get(key) != value]:
        what = f"with other {' and '.join(differing)} than asked for" if content else "nowhere"
        if os.environ.get("TLBOOK_BUILD"):
            raise ValueError(f"{name!r} was recorded {what}: run make experiments")
        few = seeds[:LIVE_SEEDS]
        print(f"{name!r} was recorded {what}. Measured here, with {len(few)} seeds:")
        return compare(arms, data, **rows, budgets=budgets, seeds=few)
    predictions = {
        arm: np.array([[list(map(int, run)) for run in runs] for runs in content["labels"][arm]])
        for arm in arms
    }
    cpu_seconds = {arm: np.array(content["cpu_seconds"][arm]) for arm in arms}
    return Comparison(
        data.name, budgets, seeds, data.y[test], data.groups[test], predictions, cpu_seconds
    )


def _measure(file: Path, asked: dict, run: Callable[[Sequence[int]], Comparison]) -> None:
    """Run the seeds asked for, or those that are missing, a few at a time, and write each time."""
    content = {key: asked[key] for key in ("arms", "budgets", "rows")}
    content |= {"seeds": [], "runs": []}
    content |= {
        key: {arm: [[] for _ in asked["budgets"]] for arm in asked["arms"]} for key in PARTS
    }
    if os.environ.get("TLBOOK_EXTEND") and file.exists():
        before = json.loads(file.read_text("utf-8"))
        if all(before[key] == asked[key] for key in ("arms", "budgets", "rows")):
            content = before
    missing = [seed for seed in asked["seeds"] if seed not in content["seeds"]]
    while missing:
        # a comparison has two seeds at least
        some = missing if len(missing) < SEEDS_AT_ONCE + 2 else missing[:SEEDS_AT_ONCE]
        missing = missing[len(some) :]
        found = run(some)
        content["seeds"] += some
        content["runs"].append(
            {
                "seeds": some,
                "date": datetime.now(UTC).date().isoformat(),
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
                "versions": {n: version(n) for n in ("torch", "transformers", "scikit-learn")},
            }
        )
        for arm, predicted in found.predictions.items():
            for b in range(len(asked["budgets"])):
                content["cpu_seconds"][arm][b] += found.cpu_seconds[arm][b].round(2).tolist()
                # one digit per predicted label, so that the file stays small and can be read
                content["labels"][arm][b] += ["".join(map(str, one)) for one in predicted[b]]
        _write(file, content)


def _write(file: Path, content: dict) -> None:
    """Write a record whole or not at all."""
    file.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as part:
        whole = Path(part, file.name)
        whole.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        whole.replace(file)
