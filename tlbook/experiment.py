"""Paired-seed comparisons, and intervals that count both what varies.

An *arm* is a way to solve the task: a function ``arm(train, test, seed)`` that gets the positions
of the labeled rows and of the test rows, and returns a predicted label for each test row. Every
arm sees the same rows with the same seeds, so arms differ by the method and by nothing else.

The score is balanced accuracy: the mean over classes of the share of correct predictions, so
chance is one over the number of classes however uneven they are.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from scipy.stats import bootstrap, ttest_1samp
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from tlbook.cache import digest
from tlbook.data import Dataset, limit

#: (labeled rows, test rows, seed) -> predicted labels, or (predicted labels, CPU seconds) of an arm
#: that times its training alone.
Arm = Callable[[np.ndarray, np.ndarray, int], np.ndarray | tuple[np.ndarray, float]]

#: Larger comparisons than a chapter has time for, as ``make experiments`` measured them.
RECORDED = Path(__file__).with_name("recorded")


@dataclass(frozen=True)
class Effect:
    """A mean score, or a difference of two, with its interval (in shares of one)."""

    value: float
    low: float
    high: float
    seeds: int
    level: float = 0.95

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        points = f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        return points.replace("-", "−")  # a minus sign, not a hyphen, which would break the line


def balanced_accuracy(
    y: np.ndarray,
    predictions: np.ndarray,
    control: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Effect:
    """Balanced accuracy over seeds, or the gain over a control on the same seeds, with interval.

    Two things vary: the seed (which examples are labeled, initialization) and the test examples,
    a finite sample. Both are resampled, independently of each other: the pigeonhole bootstrap
    (Owen, 2007, doi 10.1214/07-AOAS122), with percentile limits. It errs on the wide side.
    Test examples of one group are resampled together.

    Parameters
    ----------
    y : (n,) true labels of the test examples
    predictions : (seeds, n) predicted labels
    control : (seeds, n) predicted labels of another arm; the result is then the difference
    groups : (n,) which test examples belong together; by default each stands alone

    Raises
    ------
    ValueError : shapes do not match, or there are fewer than two seeds
    """
    predictions = np.asarray(predictions)
    if predictions.ndim != 2 or predictions.shape[1] != len(y):
        raise ValueError(f"predictions must be (seeds, {len(y)}), got {predictions.shape}")
    if len(predictions) < 2:
        raise ValueError("an interval needs at least two seeds: a single run is never a result")
    gain = (predictions == y).astype(float)
    if control is not None:
        if np.shape(control) != predictions.shape:
            raise ValueError(f"control has shape {np.shape(control)}, not {predictions.shape}")
        gain -= np.asarray(control) == y
    return _interval(lambda scores: scores[0], y, gain[None], groups, level, resamples)


def episode_accuracy(
    scores: np.ndarray,
    classes: np.ndarray,
    control: np.ndarray | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
) -> Effect:
    """Accuracy over few-shot episodes, or the gain over a control on the same ones, with interval.

    Episodes can be drawn without end from a test set that stays small, so an interval over
    episodes alone comes out too narrow (Lafargue et al. 2024, arXiv 2409.02850). What varies is
    resampled here, each independently of the others, as in :func:`balanced_accuracy`: the episodes
    (which classes meet, which examples are labeled), the classes with all of their examples, and
    the runs, if there are several. The limits are percentiles, and a little narrow: in simulations
    of the tests, with 20 test classes, they hold the truth somewhat less often than they should.

    Parameters
    ----------
    scores : (episodes, ways) share right of each class, as :func:`tlbook.meta.score_episodes`
        returns it; (runs, episodes, ways) for networks that were trained with several seeds.
        ``seeds`` of the result counts the runs, or the episodes where there is no axis of runs
    classes : (episodes, ways) which class each is of
    control : scores of another learner on the same episodes; the result is then the difference

    Raises
    ------
    ValueError : shapes do not match, or there are fewer than two runs, ten episodes or two classes
    """
    scores = np.asarray(scores, dtype=float)
    classes, label = np.unique(classes, return_inverse=True)
    if scores.ndim not in (2, 3) or scores.shape[-2:] != label.shape:
        raise ValueError(f"scores of shape {scores.shape} do not fit classes {label.shape}")
    if label.shape[0] < 10 or len(classes) < 2:
        raise ValueError(
            f"an interval needs at least 10 episodes and 2 classes, got {label.shape[0]} and "
            f"{len(classes)}"
        )
    if control is not None:
        if np.shape(control) != scores.shape:
            raise ValueError(f"control has shape {np.shape(control)}, not {scores.shape}")
        scores = scores - control
    if scores.ndim == 3 and len(scores) < 2:
        raise ValueError("runs need at least two seeds: a single run is never a result")
    seeds = len(scores)
    if scores.ndim == 2:  # twice, because scipy resamples no sample of one; it changes nothing
        scores = np.stack([scores, scores])
    # by[r, e, c]: what run r scored on class c in episode e; met[e, c]: whether it was there
    n = (len(scores), len(label), len(classes))
    by, met = np.zeros(n), np.zeros(n[1:])
    episodes = np.arange(len(label))[:, None]
    by[:, episodes, label], met[episodes, label] = scores, 1

    def mean(*rows: np.ndarray, axis: int = -1) -> np.ndarray:
        runs, episodes, classes = map(_times_drawn, rows, n)
        over_runs = np.tensordot(runs / n[0], by, 1)
        total = np.einsum("be,bec,bc->b", episodes, over_runs, classes, optimize=True)
        return total / np.einsum("be,ec,bc->b", episodes, met, classes, optimize=True)

    return Effect(*_with_limits(mean, n, level, resamples, batch=100), seeds, level)


def _interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    y: np.ndarray,
    gains: np.ndarray,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Effect:
    """A statistic of balanced accuracies, with the interval of the pigeonhole bootstrap.

    ``gains`` (runs, seeds, n) says what each run gains on each test example; the statistic gets
    the runs' means over seeds and classes, (runs, batch), and returns (batch,).
    """
    # sums[r, s, g, c]: what group g's examples of class c gain with seed s; counts[g, c]: how many
    _, group = np.unique(np.arange(len(y)) if groups is None else groups, return_inverse=True)
    classes, label = np.unique(y, return_inverse=True)
    n_runs, n_seeds, _ = gains.shape
    n_groups = group.max() + 1
    counts = np.zeros((n_groups, len(classes)))
    np.add.at(counts, (group, label), 1)
    sums = np.zeros((n_runs, n_seeds, n_groups, len(classes)))
    np.add.at(sums, (slice(None), slice(None), group, label), gains)

    def score(seed_rows: np.ndarray, group_rows: np.ndarray, axis: int = -1) -> np.ndarray:
        times_group = _times_drawn(group_rows, n_groups)
        times_seed = _times_drawn(seed_rows, n_seeds) / n_seeds
        total = np.einsum("bs,rsbc->rbc", times_seed, times_group @ sums)
        # a rare class can be missing from a resample: the mean is over the classes that are there
        with np.errstate(invalid="ignore"):
            return statistic(np.nanmean(total / (times_group @ counts), axis=-1))

    found = _with_limits(score, (n_seeds, n_groups), level, resamples, batch=200)
    return Effect(*found, n_seeds, level)


def _with_limits(
    statistic: Callable[..., np.ndarray],
    counts: Sequence[int],
    level: float,
    resamples: int,
    batch: int,
) -> tuple[float, float, float]:
    """A statistic of positions, and its percentile limits where each sample is resampled by itself.

    It gets positions below each of ``counts``, (resamples, k) each, and returns (resamples,).
    ``batch`` of them are computed at once.
    """
    every = [np.arange(count) for count in counts]
    limits = bootstrap(
        every,
        statistic,
        n_resamples=resamples,
        batch=batch,
        method="percentile",
        confidence_level=level,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    value = statistic(*(rows[None] for rows in every))[0]
    return float(value), float(limits.low), float(limits.high)


def _times_drawn(rows: np.ndarray, n: int) -> np.ndarray:
    """(batch, k) positions below n to (batch, n) counts of how often each was drawn."""
    rows = rows.reshape(-1, rows.shape[-1])
    cells = rows + n * np.arange(len(rows))[:, None]
    return np.bincount(cells.ravel(), minlength=n * len(rows)).reshape(-1, n).astype(float)


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

        return _interval(needed, self.y, np.stack(runs) == self.y, self.groups)

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
            rows = limit(data, train, per_class=budgets[b], seed=seeds[s])
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


def recorded(
    name: str,
    arms: dict[str, Arm],
    data: Dataset,
    *,
    train: np.ndarray,
    test: np.ndarray,
    budgets: Iterable[int | None],
    seeds: Sequence[int] = range(5),
) -> Comparison:
    """What :func:`compare` gives for the same arguments, measured beforehand.

    A comparison that takes longer than a chapter may is run by ``make experiments``, which sets
    ``$TLBOOK_EXPERIMENTS`` to the names to run, separated by commas, and kept in
    ``tlbook/recorded/NAME.json`` with versions, machine and date. Otherwise it is read from there.

    Raises
    ------
    FileNotFoundError : nothing is recorded under this name
    ValueError : what is recorded has other arms, budgets, seeds or rows than those asked for; or
        the data have more than ten classes, which cannot be recorded
    """
    if len(data.classes) > 10:
        raise ValueError(f"{data.name} has {len(data.classes)} classes; ten can be recorded")
    file = RECORDED / f"{name}.json"
    budgets, seeds = tuple(budgets), tuple(seeds)
    asked = {
        "arms": list(arms),
        "budgets": list(budgets),
        "seeds": list(seeds),
        "rows": digest(data.x[train], data.y[train], data.x[test], data.y[test]),
    }
    if name in os.environ.get("TLBOOK_EXPERIMENTS", "").split(","):
        rows = {"train": train, "test": test}
        jobs = os.cpu_count() or 1
        _write(file, compare(arms, data, **rows, budgets=budgets, seeds=seeds, jobs=jobs), asked)
    if not file.exists():
        raise FileNotFoundError(f"nothing is recorded as {name!r}: run make experiments")
    content = json.loads(file.read_text("utf-8"))
    if differing := [key for key, value in asked.items() if content[key] != value]:
        raise ValueError(
            f"{name!r} was recorded with other {' and '.join(differing)} than asked for: "
            "run make experiments"
        )
    predictions = {
        arm: np.array([[list(map(int, run)) for run in runs] for runs in content["labels"][arm]])
        for arm in arms
    }
    cpu_seconds = {arm: np.array(content["cpu_seconds"][arm]) for arm in arms}
    return Comparison(
        data.name, budgets, seeds, data.y[test], data.groups[test], predictions, cpu_seconds
    )


def _write(file: Path, comparison: Comparison, asked: dict) -> None:
    """One digit per predicted label, so that the file stays small and can be read."""
    content = {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": {name: version(name) for name in ("torch", "transformers", "scikit-learn")},
        **asked,
        "cpu_seconds": {arm: t.round(2).tolist() for arm, t in comparison.cpu_seconds.items()},
        "labels": {
            arm: [["".join(map(str, run)) for run in runs] for runs in found.tolist()]
            for arm, found in comparison.predictions.items()
        },
    }
    file.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as part:
        whole = Path(part, file.name)
        whole.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        whole.replace(file)
