"""Comparisons of arms on the same rows with the same seeds.

An *arm* is a way to solve the task: a function ``arm(train, test, seed)`` that gets the positions
of the labeled rows and of the test rows, and returns a predicted label for each test row. Every
arm sees the same rows with the same seeds, so arms differ by the method and by nothing else.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import ttest_1samp
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from tlbook.data import Dataset, sample
from tlbook.evidence.effects import Effect, balanced_accuracy, pigeonhole_interval

#: (labeled rows, test rows, seed) -> predicted labels, or (predicted labels, CPU seconds) of an arm
#: that times its training alone.
Arm = Callable[[np.ndarray, np.ndarray, int], np.ndarray | tuple[np.ndarray, float]]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` measured.

    ``predictions[arm]`` is (budgets, seeds, test examples), ``cpu_seconds[arm]`` (budgets, seeds).
    """

    name: str
    budgets: tuple[int | None, ...]
    seeds: tuple[int, ...]
    y: np.ndarray
    groups: np.ndarray
    predictions: dict[str, np.ndarray]
    cpu_seconds: dict[str, np.ndarray]

    @property
    def arms(self) -> list[str]:
        return list(self.predictions)

    def only(self, tests: np.ndarray, name: str | None = None) -> "Comparison":
        """The same runs, looked at on some of the test examples (positions or a mask)."""
        return replace(
            self,
            name=name or self.name,
            y=self.y[tests],
            groups=self.groups[tests],
            predictions={arm: found[..., tests] for arm, found in self.predictions.items()},
        )

    def score(self, arm: str, budget: int | None) -> Effect:
        """Balanced accuracy of one arm at one budget."""
        return balanced_accuracy(self.y, self._at(arm, budget), groups=self.groups)

    def gain(self, arm: str, control: str, budget: int | None) -> Effect:
        """The paired difference of two arms at one budget."""
        return balanced_accuracy(
            self.y, self._at(arm, budget), self._at(control, budget), groups=self.groups
        )

    def worth(self, arm: str, budget: int | None, control: str) -> Effect:
        """How many labels per class the control needs to score as an arm does with ``budget``.

        The control's curve is read between its budgets on a logarithmic scale, and never falls: at
        each budget it counts as good as at any smaller one. Where the arm lies below or above the
        whole curve, the result is the smallest or the largest budget: then read it as "at most" or
        "at least". The interval counts what :func:`balanced_accuracy` counts.
        """
        budgets = np.array([number for number in self.budgets if number is not None])
        runs = [self._at(arm, budget), *(self._at(control, number) for number in budgets)]

        def needed(scores: np.ndarray) -> np.ndarray:
            curves = np.maximum.accumulate(scores[1:], axis=0).T
            found = [
                np.interp(score, curve, np.log(budgets))
                for score, curve in zip(scores[0], curves, strict=True)
            ]
            return np.exp(found)

        return pigeonhole_interval(needed, self.y, np.stack(runs) == self.y, self.groups)

    def saving(self, arm: str, control: str, budget: int | None) -> Effect:
        """The share of the control's CPU seconds that an arm saves; a t-interval over seeds."""
        position = self.budgets.index(budget)
        ours, theirs = (self.cpu_seconds[name][position] for name in (arm, control))
        shares = 1 - ours / theirs
        limits = ttest_1samp(shares, 0).confidence_interval()
        return Effect(float(shares.mean()), float(limits.low), float(limits.high), len(shares))

    def table(self) -> pd.DataFrame:
        """One row per arm and budget: score, interval, mean CPU seconds."""
        return pd.DataFrame(
            [
                {"arm": arm, "labels per class": budget, "score": effect.value}
                | {"low": effect.low, "high": effect.high}
                | {"CPU seconds": self.cpu_seconds[arm][position].mean()}
                for arm in self.arms
                for position, budget in enumerate(self.budgets)
                for effect in [self.score(arm, budget)]
            ]
        )

    def gains(self, control: str) -> pd.DataFrame:
        """One row per other arm and budget: the gain over the control, with its interval."""
        return pd.DataFrame(
            [
                {"arm": arm, "labels per class": budget, "gain": effect.value}
                | {"low": effect.low, "high": effect.high}
                for arm in self.arms
                if arm != control
                for budget in self.budgets
                for effect in [self.gain(arm, control, budget)]
            ]
        )

    def _at(self, arm: str, budget: int | None) -> np.ndarray:
        if arm not in self.predictions:
            raise KeyError(f"no arm {arm!r}: choose one of {self.arms}")
        if budget not in self.budgets:
            raise KeyError(f"no budget {budget!r}: choose one of {list(self.budgets)}")
        return self.predictions[arm][self.budgets.index(budget)]


def compare(
    arms: dict[str, Arm],
    data: Dataset,
    *,
    train: np.ndarray,
    test: np.ndarray,
    budgets: Iterable[int | None],
    seeds: Sequence[int] = range(10),
    jobs: int = 1,
) -> Comparison:
    """Run every arm on every label budget with every seed, all on the same rows.

    Parameters
    ----------
    arms : name -> function of (labeled rows, test rows, seed) that returns predicted labels
    train, test : positions of the rows that may be labeled, and of the test rows
    budgets : labels per class; ``None`` for all of ``train``
    seeds : each draws its own labeled rows; at least two, and five or more for a result
    jobs : processes side by side, each with one thread; 1 stays in this process

    Raises
    ------
    ValueError : train and test share rows, or an arm returns something else than one label per
        test row
    """
    budgets, seeds = tuple(budgets), tuple(seeds)
    if shared := set(train) & set(test):
        raise ValueError(f"{len(shared)} rows stand in both train and test: split them apart")
    predictions = {a: np.empty((len(budgets), len(seeds), len(test)), data.y.dtype) for a in arms}
    cpu_seconds = {a: np.empty((len(budgets), len(seeds))) for a in arms}
    positions = [(b, s, a) for b in range(len(budgets)) for s in range(len(seeds)) for a in arms]

    def run(b: int, s: int, name: str) -> tuple[np.ndarray, float]:
        rows = train
        if budgets[b] is not None:
            rows = sample(data, train, per_class=budgets[b], seed=seeds[s])
        start = time.process_time()
        # small linear models spend more on waking BLAS threads than on their own arithmetic;
        # beside other processes, no library may take more than one core
        with threadpool_limits(1, user_api="blas" if jobs == 1 else None):
            found = arms[name](rows, test, seeds[s])
        predicted, seconds = (
            found if isinstance(found, tuple) else (found, time.process_time() - start)
        )
        predicted = np.asarray(predicted)
        if predicted.shape != (len(test),):
            raise ValueError(
                f"arm {name!r} returned shape {predicted.shape}: "
                f"expected one label for each of the {len(test)} test rows"
            )
        return predicted, seconds

    found = Parallel(jobs, return_as="generator", pre_dispatch=2 * jobs)(
        delayed(run)(*position) for position in positions
    )
    bar = tqdm(found, desc=data.name, total=len(positions), unit="run", leave=False, delay=5)
    for (b, s, name), (predicted, seconds) in zip(positions, bar, strict=True):
        predictions[name][b, s], cpu_seconds[name][b, s] = predicted, seconds
    return Comparison(
        data.name, budgets, seeds, data.y[test], data.groups[test], predictions, cpu_seconds
    )
