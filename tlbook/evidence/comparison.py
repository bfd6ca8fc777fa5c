"""Compare arms on the same rows with the same seeds.

An *arm* is a way to solve the task: a function ``arm(train, test, seed)`` that gets the positions
of the labeled rows and of the test rows, and returns a predicted label for each test row. Every arm
sees the same rows with the same seeds, so arms differ by the method and by nothing else.
:func:`estimator_arm` makes one of a scikit-learn estimator.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.utils import _safe_indexing
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from tlbook import checks
from tlbook.data import Dataset, sample
from tlbook.evidence.effects import Effect, balanced_accuracy, balanced_means

#: (labeled rows, test rows, seed) -> predicted labels, or (predicted labels, CPU seconds) of an arm
#: that times its training alone.
Arm = Callable[[np.ndarray, np.ndarray, int], np.ndarray | tuple[np.ndarray, float]]


def estimator_arm(estimator: BaseEstimator, x: Sequence | np.ndarray, y: np.ndarray) -> Arm:
    """Make an arm that trains a scikit-learn estimator on the labeled rows alone.

    Each call fits a new copy, so no run sees what another one learned. The seed of a run chooses
    its labeled rows; random numbers of the estimator come from its own ``random_state``.

    Parameters
    ----------
    estimator : sklearn.base.BaseEstimator
        Estimator with ``fit`` and ``predict``, such as a classifier or a pipeline.
    x : (n, ...) array-like, sparse matrix or pandas.DataFrame
        Inputs of all examples: texts, images or features that were computed without labels.
    y : (n,) array-like of int
        Labels of all examples.

    Returns
    -------
    Arm
        Function of labeled rows, test rows and seed that returns a label for each test row.

    Raises
    ------
    ValueError
        If ``estimator`` is not an estimator that predicts, or there are not as many labels as
        inputs.
    """
    methods = ("fit", "predict", "get_params")
    if isinstance(estimator, type) or not all(hasattr(estimator, name) for name in methods):
        raise ValueError(
            f"estimator={estimator!r:.60} must be a scikit-learn estimator with fit and predict, "
            "such as LogisticRegression() with its parentheses"
        )
    n, y = x.shape[0] if hasattr(x, "shape") else len(x), np.asarray(y)
    if y.shape != (n,):
        raise ValueError(f"x has {n} rows and y the shape {y.shape}: one label for each is needed")
    template = clone(estimator)

    def arm(train: np.ndarray, test: np.ndarray, seed: int) -> np.ndarray:
        model = clone(template).fit(_safe_indexing(x, train), y[train])
        return model.predict(_safe_indexing(x, test))

    return arm


@dataclass(frozen=True)
class Comparison:
    """Hold what :func:`compare` measured.

    Attributes
    ----------
    name : str
        Name of the data set.
    budgets : tuple of int or None
        Labels per class; None stands for all labeled rows.
    seeds : tuple of int
        Seeds of the runs.
    y : (n_test,) numpy.ndarray of int
        True labels of the test examples.
    groups : (n_test,) numpy.ndarray
        Groups of the test examples.
    predictions : dict of str to (budgets, seeds, n_test) numpy.ndarray of int
        Predicted labels by arm.
    cpu_seconds : dict of str to (budgets, seeds) numpy.ndarray
        CPU seconds of each run by arm.
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
        """Return the names of the arms.

        Returns
        -------
        list of str
            The names, in the order in which the arms were given.
        """
        return list(self.predictions)

    def subset(self, tests: np.ndarray, name: str | None = None) -> "Comparison":
        """Return the same runs, scored on some of the test examples.

        Parameters
        ----------
        tests : (k,) numpy.ndarray of int, or (n_test,) numpy.ndarray of bool
            Positions of the test examples to keep, or a mask.
        name : str, optional
            Name of the result. By default it is the comparison's own.

        Returns
        -------
        Comparison
            The comparison on these examples.
        """
        return replace(
            self,
            name=name or self.name,
            y=self.y[tests],
            groups=self.groups[tests],
            predictions={arm: found[..., tests] for arm, found in self.predictions.items()},
        )

    def beside(self, other: "Comparison") -> "Comparison":
        """Return these arms and those of another comparison on the same rows with the same seeds.

        So an arm that is cheap can run anew beside arms that were recorded.

        Parameters
        ----------
        other : Comparison
            Its arms have other names.

        Returns
        -------
        Comparison
            The other's arms, then these.

        Raises
        ------
        ValueError
            If budgets, seeds or test examples differ, or both have an arm of the same name.
        """
        same = (self.budgets, self.seeds) == (other.budgets, other.seeds)
        if not same or any(
            not np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("y", "groups")
        ):
            raise ValueError("the comparisons differ in their budgets, seeds or test examples")
        if shared := set(self.arms) & set(other.arms):
            raise ValueError(f"both comparisons have an arm {min(shared)!r}: rename one")
        return replace(
            self,
            predictions=other.predictions | self.predictions,
            cpu_seconds=other.cpu_seconds | self.cpu_seconds,
        )

    def score(self, arm: str, budget: int | None) -> Effect:
        """Compute the balanced accuracy of one arm at one budget.

        Parameters
        ----------
        arm : str
            Name of the arm.
        budget : int or None
            Labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            The mean over seeds with its interval, in shares of one.

        Raises
        ------
        KeyError
            If there is no such arm or budget.
        """
        return balanced_accuracy(self.y, self._at(arm, budget), groups=self.groups)

    def gain(self, arm: str, control: str, budget: int | None) -> Effect:
        """Compute the paired difference of two arms at one budget.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str
            Name of the arm that it is compared with.
        budget : int or None
            Labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            Balanced accuracy of the arm minus that of the control, in shares of one, with its
            interval.

        Raises
        ------
        KeyError
            If there is no such arm or budget.
        """
        return balanced_accuracy(
            self.y, self._at(arm, budget), self._at(control, budget), groups=self.groups
        )

    def equivalent_budget(self, arm: str, control: str, budget: int | None) -> Effect:
        """Compute how many labels per class the control needs to score as the arm does.

        The control's curve is read between its budgets on a logarithmic scale, and never falls: at
        each budget it counts as good as at any smaller one. The result is the smallest budget at
        which the curve reaches the arm's score, so it never exceeds the arm's own budget where the
        two score alike.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str
            Name of the arm that it is compared with.
        budget : int or None
            The arm's labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            Labels per class. The limits enclose the budgets at which the control's score is not
            clearly below or above the arm's, by the interval of :func:`balanced_accuracy`. The
            smallest of all budgets means "at most", and the largest means "at least", because the
            curve does not go further.

        Raises
        ------
        KeyError
            If there is no such arm or budget.
        """
        budgets = np.sort([number for number in self.budgets if number is not None])
        if not len(budgets):
            raise ValueError("the curve needs budgets in labels per class, and there is None alone")
        runs = [self._at(arm, budget), *(self._at(control, int(number)) for number in budgets)]
        means = balanced_means(self.y, (np.stack(runs) == self.y).astype(float), self.groups)
        score, *curve = means.values.mean(1)
        x = np.log(budgets)
        value = _reached(score, np.maximum.accumulate(curve), x)
        # Fieller's interval: where the arm's score less the curve's may be zero, up to rounding. A
        # jackknife or a gradient of the budget itself would fail at the curve's kinks and ends
        places = np.unique([value, *x, *np.linspace(x[0], x[-1], 50 * (len(x) - 1) + 1)])
        on_curve = np.stack([np.interp(places, x, row) for row in np.eye(len(x))], 1)
        ahead = [means.contrast(np.array([1, *-weights])) for weights in on_curve]
        low = next((at for at, e in zip(places, ahead, strict=True) if e.low <= 1e-12), x[-1])
        high = next((at for at, e in zip(places, ahead, strict=True) if e.high <= 1e-12), x[-1])
        least, most = float(budgets[0]), float(budgets[-1])
        value, low, high = (float(np.clip(np.exp(at), least, most)) for at in (value, low, high))
        effect = Effect(
            value, min(low, value), max(high, value), len(self.seeds), unit="labels per class"
        )
        for one in np.eye(len(runs)):
            if reason := means.contrast(one).unreliable:
                return replace(effect, low=least, high=most, unreliable=reason)
        return effect

    def saving(self, arm: str, control: str, budget: int | None) -> Effect:
        """Compute the share of the control's CPU seconds that an arm saves.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str
            Name of the arm that it is compared with.
        budget : int or None
            Labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            The share, negative if the arm takes longer, with an interval over seeds.

        Raises
        ------
        KeyError
            If there is no such arm.
        ValueError
            If there is no such budget.
        """
        position = self.budgets.index(budget)
        ours, theirs = (self.cpu_seconds[name][position] for name in (arm, control))
        return Effect.over_seeds(1 - ours / theirs)

    def table(self) -> pd.DataFrame:
        """List the score of each arm at each budget.

        Returns
        -------
        pandas.DataFrame
            One row per arm and budget: labels per class, score, ends of its interval, and mean CPU
            seconds.
        """
        return pd.DataFrame(
            [
                {"arm": arm, "labels per class": budget, "score": effect.value}
                | effect.limits
                | {"CPU seconds": self.cpu_seconds[arm][position].mean()}
                for arm in self.arms
                for position, budget in enumerate(self.budgets)
                for effect in [self.score(arm, budget)]
            ]
        )

    def gains(self, control: str) -> pd.DataFrame:
        """List the gain of each other arm over a control at each budget.

        Parameters
        ----------
        control : str
            Name of the arm that the others are compared with.

        Returns
        -------
        pandas.DataFrame
            One row per other arm and budget: labels per class, gain, and ends of its interval.

        Raises
        ------
        KeyError
            If there is no such arm.
        """
        return pd.DataFrame(
            [
                {"arm": arm, "labels per class": budget, "gain": effect.value} | effect.limits
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


def _reached(score: float, curve: np.ndarray, x: np.ndarray) -> float:
    """Where a curve that never falls first reaches a score; its ends where it does not or begins.

    (``np.interp`` gives the right end of a plateau, which would favor the arm.)
    """
    above = np.flatnonzero(curve >= score - 1e-12)  # a plateau holds in spite of rounding
    if not len(above) or above[0] == 0:
        return x[0] if len(above) else x[-1]
    i = above[0]
    share = min(1.0, (score - curve[i - 1]) / (curve[i] - curve[i - 1]))
    return x[i - 1] + share * (x[i] - x[i - 1])


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

    The book builds it up in ten lines in *How to read a result*.

    Parameters
    ----------
    arms : dict of str to Arm
        Functions by name. Each gets the labeled rows, the test rows and a seed, and returns the
        predicted labels.
    data : Dataset
        The examples.
    train : (n_train,) numpy.ndarray of int
        Positions of the rows that may be labeled.
    test : (n_test,) numpy.ndarray of int
        Positions of the test rows.
    budgets : iterable of int or None
        Labels per class; None stands for all of ``train``.
    seeds : sequence of int, default range(10)
        Each seed draws its own labeled rows. At least two are needed, and five or more for a
        result.
    jobs : int, default 1
        Processes side by side, each with one thread; 1 stays in this process.

    Returns
    -------
    Comparison
        All predictions and CPU seconds.

    Raises
    ------
    ValueError
        Before anything runs: if there are no arms, rows are not positions, train and test share
        rows or groups, a budget is not positive or given twice, or seeds are fewer than two or
        given twice. Later: if an arm returns something else than one class number for each test
        row.

    Warns
    -----
    UserWarning
        If a class has fewer rows than the largest budget, whose rows are then all labeled, or than
        twice as many: then the draws of different seeds are nearly the same.
    """
    budgets, seeds, train, test = _checked(arms, data, train, test, budgets, seeds)
    predictions = {a: np.empty((len(budgets), len(seeds), len(test)), data.y.dtype) for a in arms}
    cpu_seconds = {a: np.empty((len(budgets), len(seeds))) for a in arms}
    positions = [(b, s, a) for b in range(len(budgets)) for s in range(len(seeds)) for a in arms]

    def run(b: int, s: int, name: str) -> tuple[np.ndarray, float]:
        rows = train
        if budgets[b] is not None:
            rows = sample(data, train, per_class=budgets[b], seed=seeds[s], fewer=True)
        start = time.process_time()
        # small linear models spend more on waking BLAS threads than on their own arithmetic;
        # beside other processes, no library may take more than one core
        with threadpool_limits(1, user_api="blas" if jobs == 1 else None):
            found = arms[name](rows, test, seeds[s])
        predicted, seconds = (
            found if isinstance(found, tuple) else (found, time.process_time() - start)
        )
        return _class_numbers(name, predicted, len(test), len(data.classes)), seconds

    found = Parallel(jobs, return_as="generator", pre_dispatch=2 * jobs)(
        delayed(run)(*position) for position in positions
    )
    bar = tqdm(found, desc=data.name, total=len(positions), unit="run", leave=False, delay=5)
    for (b, s, name), (predicted, seconds) in zip(positions, bar, strict=True):
        predictions[name][b, s], cpu_seconds[name][b, s] = predicted, seconds
    return Comparison(
        data.name, budgets, seeds, data.y[test], data.groups[test], predictions, cpu_seconds
    )


def _checked(arms, data, train, test, budgets, seeds) -> tuple:
    """The arguments of :func:`compare`, refused before the first arm runs rather than after."""
    if not arms:
        raise ValueError("there are no arms to compare")
    train = checks.positions("train", train, len(data))
    test = checks.positions("test", test, len(data))
    if not len(train) or not len(test):
        raise ValueError(f"{len(train)} rows to train on and {len(test)} to test on: none is empty")
    if len(shared := np.intersect1d(train, test)):
        raise ValueError(f"{len(shared)} rows stand in both train and test: split them apart")
    straddling = set(data.groups[train]) & set(data.groups[test])
    if straddling:
        raise ValueError(
            f"{len(straddling)} groups stand in both train and test, such as "
            f"{next(iter(straddling))!r}: split with tlbook.data.split, which keeps them whole"
        )
    if len(np.unique(data.groups[test])) < 2:
        raise ValueError("the test rows are a single group: an interval needs at least two")
    budgets = tuple(budgets)
    numbers = [
        checks.integer("budget", budget, least=1) for budget in budgets if budget is not None
    ]
    if not budgets or len(set(budgets)) < len(budgets):
        raise ValueError(f"budgets={list(budgets)}: one or more are needed, each once")
    counts = np.bincount(data.y[train], minlength=len(data.classes))
    if numbers and max(numbers) > counts.max():
        raise ValueError(
            f"budgets={list(budgets)}: no class has {max(numbers)} rows to train on, the largest "
            f"{counts.max()}"
        )
    if numbers and counts.min() < max(numbers):
        small = ", ".join(
            f"{name!r} ({count} rows)"
            for name, count in zip(data.classes, counts, strict=True)
            if count < max(numbers)
        )
        warnings.warn(
            f"{data.name}: fewer rows than the budget of {max(numbers)} labels per class have "
            f"{small}; there all rows are labeled",
            stacklevel=3,
        )
    elif numbers and 2 * max(numbers) > counts.min():
        warnings.warn(
            f"{data.name}: a budget of {max(numbers)} labels per class draws more than half of the "
            f"{counts.min()} rows of {data.classes[counts.argmin()]!r}: its seeds share most of "
            "their rows, so the interval hardly counts which rows are labeled",
            stacklevel=3,
        )
    return budgets, checks.seeds(seeds, least=2), train, test


def _class_numbers(arm: str, predicted: np.ndarray, n: int, classes: int) -> np.ndarray:
    """What an arm returned, if it is a class number for each test row."""
    predicted = np.asarray(predicted)
    if predicted.shape != (n,):
        raise ValueError(
            f"arm {arm!r} returned shape {predicted.shape}: expected one label for each of the {n} "
            "test rows"
        )
    whole = np.issubdtype(predicted.dtype, np.integer)
    if not whole or predicted.min() < 0 or predicted.max() >= classes:
        raise ValueError(
            f"arm {arm!r} returned {predicted.dtype} values such as {predicted.flat[0]!r:.30}: "
            f"expected class numbers from 0 to {classes - 1}, as in data.y (of probabilities, the "
            "argmax)"
        )
    return predicted
