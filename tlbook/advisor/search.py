"""Spend the minutes where the answer is open: paired splits and successive halving.

Every strategy is tried on one split, the cheapest first. Then the better half of the expensive ones
goes on, and so on (Jamieson and Talwalkar, 2016, arXiv 1502.07943). What costs next to nothing is
tried on all splits, since it may be the answer even where it is not the best.
"""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from tlbook.advisor.strategies import OutOfTime, Run, Strategy
from tlbook.data import Dataset

#: Parts that the examples are cut into; each is tested on once before a new cut is made.
FOLDS = 5
#: Splits at most, and those after which half of the expensive strategies is dropped.
SPLITS, HALVINGS = 10, (1, 2, 4)
#: A strategy is cheap if all of its runs take less than this share of the time that is left.
CHEAP = 0.05


@dataclass
class Results:
    """Hold all runs on the same splits.

    Attributes
    ----------
    data : Dataset
        The examples.
    parts : list of (numpy.ndarray, numpy.ndarray)
        Training and test rows of each split.
    runs : dict of str to list of Run
        By strategy the runs on the first splits.
    left_out : dict of str to str
        Strategies that were not tried, or no longer, and why.
    interrupted : bool
        Whether the user stopped the search.
    """

    data: Dataset
    parts: list[tuple[np.ndarray, np.ndarray]]
    runs: dict[str, list[Run]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    interrupted: bool = False

    def scores(self, name: str) -> np.ndarray:
        """Return the (splits,) balanced accuracies of a strategy.

        Parameters
        ----------
        name : str
            The strategy.
        """
        return np.array(
            [
                score(self.data.y[test], run.predicted)
                for run, (_, test) in zip(self.runs[name], self.parts, strict=False)
            ]
        )

    def best(self) -> str:
        """Return the strategy with the highest mean score, among those with the most runs if any
        was run more than once."""
        tried = [name for name, runs in self.runs.items() if len(runs) > 1] or list(self.runs)
        return max(tried, key=lambda name: self.scores(name).mean())


def score(y: np.ndarray, predicted: np.ndarray) -> float:
    """Compute balanced accuracy over the classes that are there.

    Parameters
    ----------
    y : (n,) numpy.ndarray of int
        True labels.
    predicted : (n,) numpy.ndarray of int
        Predicted labels.

    Returns
    -------
    float
        The mean over classes of the share of correct predictions.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a rare class may be predicted and not there
        return float(balanced_accuracy_score(y, predicted))


def folds(data: Dataset, number: int = SPLITS, seed: int = 0) -> list[tuple]:
    """Cut the examples into parts again and again: stratified, groups whole.

    Parameters
    ----------
    data : Dataset
        The examples.
    number : int, default 10
        Number of splits.
    seed : int, default 0
        Seed of the first cut.

    Returns
    -------
    list of (numpy.ndarray, numpy.ndarray)
        Training and test rows of each split.

    Raises
    ------
    ValueError
        If there are fewer groups than parts.
    """
    n_groups = len(np.unique(data.groups))
    if n_groups < FOLDS:
        raise ValueError(
            f"{data.name}: {n_groups} groups cannot be cut into {FOLDS} parts: choose a finer group"
        )
    grouped = n_groups < len(data)
    found = []
    while len(found) < number:
        folder = StratifiedGroupKFold if grouped else StratifiedKFold
        cut = folder(FOLDS, shuffle=True, random_state=seed + len(found) // FOLDS)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # classes of fewer rows than parts
            found += list(cut.split(data.y, data.y, data.groups if grouped else None))
    return found[:number]


def search(
    strategies: list[Strategy],
    data: Dataset,
    *,
    deadline: float,
    splits: int = SPLITS,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Results:
    """Run strategies on the same splits until the time is over.

    Parameters
    ----------
    strategies : list of Strategy
        What to try.
    data : Dataset
        The examples.
    deadline : float
        When to stop, as a reading of ``time.monotonic``.
    splits : int, default 10
        Number of splits at most.
    seed : int, default 0
        Seed of the splits and the strategies.
    say : callable, optional
        Gets a line for each run, and the best so far.

    Returns
    -------
    Results
        All runs, also if the user interrupted.
    """
    results = Results(data, folds(data, splits, seed))
    seconds: dict[str, float] = {}
    alive = list(strategies)
    try:
        for index, (train, test) in enumerate(results.parts):
            expected = {
                s.name: seconds.get(s.name, s.forecast(len(train), len(test))) for s in alive
            }
            for strategy in sorted(alive, key=lambda s: expected[s.name]):
                name, began = strategy.name, time.monotonic()
                if began + expected[name] > deadline:
                    results.left_out[name] = (
                        f"a run takes about {expected[name]:.0f} s, and {deadline - began:.0f} are "
                        "left"
                    )
                    continue
                try:
                    run = strategy.run(train, test, seed + index, deadline)
                except OutOfTime:
                    results.left_out[name] = "it was not done when the time was over"
                    continue
                seconds[name] = time.monotonic() - began
                results.runs.setdefault(name, []).append(run)
                found = results.scores(name)
                say(
                    f"split {index + 1}: {name} {100 * found[-1]:.1f} ({seconds[name]:.1f} s); "
                    f"best so far {results.best()}"
                )
            alive = [s for s in alive if len(results.runs.get(s.name, [])) == index + 1]
            if index + 1 in HALVINGS:
                alive = _halved(alive, results, seconds, splits - index - 1, deadline)
            if not alive or time.monotonic() > deadline:
                break
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _halved(
    alive: list[Strategy], results: Results, seconds: dict, left: int, deadline: float
) -> list[Strategy]:
    """The cheap strategies, and the better half of the others."""
    time_left = max(0.0, deadline - time.monotonic())
    means = {s.name: results.scores(s.name).mean() for s in alive}
    if not means or sum(seconds[name] for name in means) * left < time_left:
        return alive  # there is time for all
    expensive = [s for s in alive if seconds[s.name] * left > CHEAP * time_left]
    expensive.sort(key=lambda s: -means[s.name])
    kept = expensive[: max(1, (len(expensive) + 1) // 2)]
    for strategy in expensive[len(kept) :]:
        behind = 100 * (max(means.values()) - means[strategy.name])
        results.left_out[strategy.name] = (
            f"given up after {len(results.runs[strategy.name])} splits, {behind:.1f} points behind"
        )
    return [s for s in alive if s not in expensive or s in kept]
