"""Compare arms on the same rows with the same seeds.

An *arm* is a way to solve the task: a function ``arm(train, test, seed)`` that gets the positions
of the labeled rows and of the test rows, and returns a predicted label for each test row. Every arm
sees the same rows with the same seeds, so arms differ by the method and by nothing else.
:func:`estimator_arm` makes one of a scikit-learn estimator.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, clone
from sklearn.utils import _safe_indexing
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from tlbook import checks
from tlbook.data import Dataset, Split, sample, split
from tlbook.evidence.scores import Comparison, SplitComparison

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


def compare(
    arms: dict[str, Arm],
    data: Dataset,
    *,
    train: np.ndarray | None = None,
    test: np.ndarray | None = None,
    splits: int | Iterable[Split] | None = None,
    budgets: Iterable[int | None],
    seeds: Sequence[int] | None = None,
    jobs: int = 1,
) -> Comparison | SplitComparison:
    """Run every arm on every label budget with every seed, all on the same rows.

    One split into rows to learn from and to test on may favor an arm by chance. So there are
    several splits, with four seeds each, unless ``train`` and ``test`` name the rows of one.
    The book builds it up in ten lines in *How to read a result*.

    Parameters
    ----------
    arms : dict of str to Arm
        Functions by name. Each gets the labeled rows, the test rows and a seed, and returns the
        predicted labels.
    data : Dataset
        The examples.
    train : (n_train,) numpy.ndarray of int, optional
        Positions of the rows that may be labeled.
    test : (n_test,) numpy.ndarray of int, optional
        Positions of the test rows.
    splits : int or iterable of Split, default 5
        In place of ``train`` and ``test``: at least two splits, or how many to draw, each with a
        third of the rows to test. Validation rows are not used.
    budgets : iterable of int or None
        Labels per class; None stands for all rows that may be labeled.
    seeds : sequence of int, optional
        Each seed draws its own labeled rows. At least two are needed, and five or more for a
        result; by default ten. Several splits share them out, so that none is used twice: by
        default four a split.
    jobs : int, default 1
        Processes side by side, each with one thread; 1 stays in this process.

    Returns
    -------
    Comparison or SplitComparison
        All predictions and CPU seconds, of one split or of several.

    Raises
    ------
    ValueError
        Before anything runs: if there are no arms, rows are not positions, train and test share
        rows or groups, a budget is not positive or given twice, or seeds are fewer than two (a
        split) or given twice. Later: if an arm returns something else than one class number for
        each test row.

    Warns
    -----
    UserWarning
        If a class has fewer rows than the largest budget, whose rows are then all labeled, or, of
        one split, than twice as many: then the draws of different seeds are nearly the same.
    """
    if (train is None) != (test is None) or (splits is not None and train is not None):
        raise ValueError("name train= and test= of one split, or splits= of several")
    budgets = tuple(budgets)
    if train is not None:
        asked = _checked(arms, data, train, test, budgets, range(10) if seeds is None else seeds)
        _warn(data, asked, alone=True)
        return _run(arms, data, *asked, jobs)
    if splits is None or isinstance(splits, int):
        number = checks.integer("splits", 5 if splits is None else splits, least=2)
        splits = [split(data, test=1 / 3, seed=seed) for seed in range(number)]
    splits = list(splits)
    if len(splits) < 2:
        raise ValueError(f"{len(splits)} split: two or more are needed, or train= and test=")
    seeds = checks.seeds(range(4 * len(splits)) if seeds is None else seeds, least=2 * len(splits))
    if len(seeds) % len(splits):
        raise ValueError(f"{len(seeds)} seeds for {len(splits)} splits: each needs as many")
    each = len(seeds) // len(splits)
    asked = [
        _checked(arms, data, part.train, part.test, budgets, seeds[i * each : (i + 1) * each])
        for i, part in enumerate(splits)
    ]
    _warn(data, asked[0], alone=False)
    parts = tuple(_run(arms, data, *one, jobs) for one in asked)
    return SplitComparison(parts, {budget: _carried(data, splits, budget) for budget in budgets})


def _carried(data: Dataset, splits: list[Split], budget: int | None) -> float:
    """Labeled rows for each other row of all splits, in the mean over classes and splits."""
    pool = np.unique(np.concatenate([np.concatenate([s.train, s.test]) for s in splits]))
    every = np.bincount(data.y[pool], minlength=len(data.classes))
    rows = np.array([np.bincount(data.y[s.train], minlength=len(every)) for s in splits])
    labeled = rows if budget is None else np.minimum(rows, budget)
    return float(np.mean((labeled / np.maximum(every - labeled, 1))[:, every > 0]))


def _run(arms, data, budgets, seeds, train, test, jobs) -> Comparison:
    """The comparison on one split."""
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
    """The arguments of :func:`_run`, refused before the first arm runs rather than after."""
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
    return budgets, checks.seeds(seeds, least=2), train, test


def _warn(data: Dataset, asked: tuple, *, alone: bool) -> None:
    """Warn of budgets that leave seeds little to draw; ``alone`` if there is one split."""
    budgets, _, train, _ = asked
    numbers = [budget for budget in budgets if budget is not None]
    counts = np.bincount(data.y[train], minlength=len(data.classes))
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
    elif alone and numbers and 2 * max(numbers) > counts.min():
        warnings.warn(
            f"{data.name}: a budget of {max(numbers)} labels per class draws more than half of the "
            f"{counts.min()} rows of {data.classes[counts.argmin()]!r}: its seeds share most of "
            "their rows, so the interval hardly counts which rows are labeled",
            stacklevel=3,
        )


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
