"""Spend the minutes where the answer is open: paired splits and successive halving.

What costs next to nothing is tried on all splits first, since it may be the answer even where it is
not the best. Then the others are tried on one split, the cheapest first; the better half of them
goes on, and so on (Jamieson and Talwalkar, 2016, arXiv 1502.07943).
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
#: Splits at most, and those after which half of the strategies is dropped if time is short.
SPLITS, HALVINGS = 10, (1, 2, 4)
#: Splits without which a strategy is not recommended, if another has as many: two may be luck.
LEAST_RUNS = 3
#: With more examples than this, one cut into parts is enough: each part is tested on many.
MANY = 1500
#: Strategies cost next to nothing while all runs of all of them take less than this share of time.
CHEAP = 0.3


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

    @property
    def reference(self) -> str:
        """Return the strategy with the most runs; of several, the first that was run."""
        return max(self.runs, key=lambda name: len(self.runs[name]))

    def mean(self, name: str) -> float:
        """Return the mean score of a strategy over all splits that any ran on.

        What it gains on the strategy with the most runs, on the splits of both, is added to that
        one's mean: so nobody is the better for having seen easy splits only.

        Parameters
        ----------
        name : str
            The strategy.
        """
        own, reference = self.scores(name), self.scores(self.reference)
        return float(reference.mean() + (own - reference[: len(own)]).mean())

    def tried(self) -> list[str]:
        """Return the strategies that were run on three splits or more, or all if none was."""
        several = [name for name, runs in self.runs.items() if len(runs) >= LEAST_RUNS]
        return several or list(self.runs)

    def best(self) -> str:
        """Return the strategy with the highest mean score among :meth:`tried`."""
        return max(self.tried(), key=self.mean)


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
    splits: int | None = None,
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
    splits : int, optional
        Number of splits at most. By default 10, or 5 of more than 1,500 examples.
    seed : int, default 0
        Seed of the splits and the strategies.
    say : callable, optional
        Gets a line for each run, and the best so far.

    Returns
    -------
    Results
        All runs, also if the user interrupted.
    """
    splits = splits or (SPLITS if len(data) <= MANY else FOLDS)
    results, seconds = Results(data, folds(data, splits, seed)), {}
    sizes = tuple(map(len, results.parts[0]))
    ordered = sorted(strategies, key=lambda s: s.forecast(*sizes))
    total = splits * np.cumsum([s.forecast(*sizes) for s in ordered])
    count = int((total <= CHEAP * (deadline - time.monotonic())).sum())
    quick, others = ordered[:count], ordered[count:]
    try:
        _rounds(quick, results, seconds, deadline, seed, say, halving=False)
        _rounds(others, results, seconds, deadline, seed, say, halving=True)
    except KeyboardInterrupt:
        results.interrupted = True
    return results


def _rounds(
    alive: list[Strategy],
    results: Results,
    seconds: dict[str, float],
    deadline: float,
    seed: int,
    say: Callable[[str], None],
    *,
    halving: bool,
) -> None:
    """Split after split, run what is left of the strategies."""
    pace = 1.0  # how much longer runs take than was forecast

    def expected(strategy: Strategy) -> float:
        return seconds.get(strategy.name, pace * strategy.forecast(len(train), len(test)))

    for index, (train, test) in enumerate(results.parts):
        for strategy in sorted(alive, key=expected):
            name, began = strategy.name, time.monotonic()
            # what could not be recommended is not begun
            runs = LEAST_RUNS if halving and index == 0 else 1
            if began + runs * expected(strategy) > deadline:
                results.left_out[name] = (
                    f"a run takes about {expected(strategy):.0f} s, and "
                    f"{max(0, deadline - began):.0f} were left"
                )
                continue
            forecast = strategy.forecast(len(train), len(test))
            try:
                run = strategy.run(train, test, seed + index, deadline)
            except OutOfTime:
                results.left_out[name] = "it was not done when the time was over"
                continue
            seconds[name] = time.monotonic() - began
            pace = max(pace, seconds[name] / max(forecast, 0.1)) if halving else pace
            results.runs.setdefault(name, []).append(run)
            say(
                f"split {index + 1}: {name} {100 * results.scores(name)[-1]:.1f} "
                f"({seconds[name]:.1f} s); best so far {results.best()}"
            )
        alive = [s for s in alive if len(results.runs.get(s.name, [])) == index + 1]
        if halving and index + 1 in HALVINGS:
            left = len(results.parts) - index - 1
            alive = _halved(alive, results, seconds, left, deadline)
        if not alive or time.monotonic() > deadline:
            return


def _halved(
    alive: list[Strategy], results: Results, seconds: dict, left: int, deadline: float
) -> list[Strategy]:
    """All strategies if there is time for them, or the better half."""
    if sum(seconds[s.name] for s in alive) * left < deadline - time.monotonic():
        return alive
    ranked = sorted(alive, key=lambda s: -results.mean(s.name))
    kept = ranked[: max(1, (len(ranked) + 1) // 2)]
    best = max(map(results.mean, results.runs))
    for strategy in ranked[len(kept) :]:
        count, behind = len(results.runs[strategy.name]), best - results.mean(strategy.name)
        results.left_out[strategy.name] = (
            f"given up after {count} split{'s' * (count > 1)}, {100 * behind:.1f} points behind"
        )
    return kept
