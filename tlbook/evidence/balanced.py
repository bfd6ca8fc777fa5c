"""Balanced accuracy with an interval that counts both what varies: seeds and test examples.

The score is balanced accuracy: the mean over classes of the share of correct predictions, so chance
is one over the number of classes however uneven they are.

Two things vary, crossed with each other: the seed s (which examples are labeled, initialization)
and the test example i, a finite sample, or the group g of test examples that belong together. With
gain = mean + seed effect + group effect + rest of the pair, the mean of S seeds and G groups has
the variance

    var(seed) / S + var(group) / G + var(rest) / (S G).

Three sums of squares estimate it without assuming equal groups. V_s, the variance of the seeds'
means over S, expects the first and the last term; V_i, the sum of squares of what each group adds
to the mean, expects the last two; V_r, the same of what a group adds with one seed beyond what it
adds with all, expects the last alone. So V = V_s + V_i - V_r, and at least the larger of V_s and
V_i. Owen (2007, doi 10.1214/07-AOAS122) derives the three terms, and shows that no resampling of
one factor alone finds them. V is a sum of mean squares, so it is taken for a multiple of a
chi-square variable with Satterthwaite's (1946, doi 10.2307/3002019) degrees of freedom,

    df = V^2 / (V_s^2 / (S - 1) + V_i^2 / df_i),

and the interval is mean +- t(df) sqrt(V). A bootstrap knows neither the factor S / (S - 1) of a
variance estimated from few seeds nor the t: see ``benchmarks/coverage.py`` for how often each holds
the truth.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from tlbook import checks
from tlbook.evidence.effects import Components, Effect
from tlbook.evidence.resampling import times_drawn, with_limits


def balanced_accuracy(
    y: np.ndarray,
    predictions: np.ndarray,
    control: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    method: str = "components",
    resamples: int = 2000,
) -> Effect:
    """Compute balanced accuracy over seeds, or the gain over a control on the same seeds.

    Two things vary: the seed and the test examples. The interval counts both by components of
    variance, with Student's t (see :mod:`tlbook.evidence.balanced`). Test examples of one group
    count together. Where nothing varies, as between an arm and itself, the limits equal the value:
    no difference was seen, on as many examples as there are.

    Where a few runs lie far from the others, no interval of a mean holds the truth. Then the effect
    says so instead: see the field ``unreliable`` of
    :class:`~tlbook.evidence.effects.Effect`.

    Parameters
    ----------
    y : (n,) array
        True labels of the test examples.
    predictions : (seeds, n) array
        Predicted labels.
    control : (seeds, n) array, optional
        Predicted labels of another arm; the result is then the difference.
    groups : (n,) array, optional
        Test examples with equal values belong together; by default each stands alone.
    level : float, optional
        Confidence level of the interval.
    method : {"components", "bootstrap"}, optional
        Whether to compute the interval or to resample it, by :func:`pigeonhole_interval`, which
        comes out too narrow where seeds are few and matter.
    resamples : int, optional
        Number of bootstrap resamples.

    Returns
    -------
    Effect
        The mean or the difference, with its interval.

    Raises
    ------
    ValueError
        Shapes do not match, or there are fewer than two seeds.
    """
    checks.number("level", level, above=0, below=1)
    checks.integer("resamples", resamples, least=1)
    checks.choice("method", method, ("components", "bootstrap"))
    y = np.asarray(y)
    predictions = _labels("predictions", predictions, y)
    if len(predictions) < 2:
        raise ValueError("an interval needs at least two seeds: a single run is never a result")
    gain = (predictions == y).astype(float)
    if control is not None:
        control = _labels("control", control, y)
        if control.shape != predictions.shape:
            raise ValueError(f"control has shape {control.shape}, not {predictions.shape}")
        gain -= control == y
    if method == "bootstrap":
        return pigeonhole_interval(
            lambda scores: scores[0], y, gain[None], groups, level, resamples
        )
    least = 0.0 if control is None else -1.0
    means = balanced_means(y, gain[None], groups)
    effect = means.contrast(np.ones(1), level, least=least, most=1.0)
    if control is None:
        return effect
    arms = (predictions, control)
    scores = tuple(balanced_accuracy(y, arm, groups=groups, level=level) for arm in arms)
    return replace(effect, scores=scores)


def _labels(name: str, found: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Predicted labels (seeds, n), if they can equal true ones: probabilities never would."""
    found = np.asarray(found)
    if found.ndim != 2 or found.shape[1] != len(y):
        raise ValueError(f"{name} must be (seeds, {len(y)}), got {found.shape}")
    if found.dtype.kind == "f" and y.dtype.kind in "iu":
        raise ValueError(
            f"{name} are {found.dtype} values such as {found.flat[0]!r:.30}: labels like those of "
            "y are needed (of probabilities, the argmax)"
        )
    return found


@dataclass(frozen=True)
class BalancedMeans:
    """Hold the means of several runs with what varies in them, to compute any contrast of them.

    Attributes
    ----------
    values : (runs, seeds) numpy.ndarray
        The mean over classes, by run and seed.
    by_group : (runs, groups) numpy.ndarray
        What each group of test examples adds to the mean over seeds.
    names : (groups,) numpy.ndarray
        The groups.
    of_seeds, of_rest : (runs, runs) numpy.ndarray
        The covariances V_s and V_r of :mod:`tlbook.evidence.balanced`.
    of_classes : (classes, runs, runs) numpy.ndarray
        The part of the covariance V_i that each class has.
    weights : (groups, classes) numpy.ndarray
        Which part of a class's variance each group has, scaled for the degrees of freedom.
    """

    values: np.ndarray
    by_group: np.ndarray
    names: np.ndarray
    of_seeds: np.ndarray
    of_rest: np.ndarray
    of_classes: np.ndarray
    weights: np.ndarray

    def contrast(
        self,
        weights: np.ndarray,
        level: float = 0.95,
        *,
        least: float = -np.inf,
        most: float = np.inf,
    ) -> Effect:
        """Compute a weighted sum of the runs' means with its interval.

        Parameters
        ----------
        weights : (runs,) array
            The weight of each run.
        level : float, default 0.95
            Confidence level of the interval.
        least, most : float, optional
            The smallest and the largest value that can be. By default there is no such limit.

        Returns
        -------
        Effect
            The sum, with its interval, unless runs failed.
        """
        by_seed = weights @ self.values
        seeds = squared(weights, self.of_seeds)
        items = squared(weights, self.by_group @ self.by_group.T)
        variance = max(seeds + items - squared(weights, self.of_rest), seeds, items)
        df = len(by_seed) - 1.0
        if items and (of_items := self.inverse_df(weights)):
            # by ratios to the variance, as its square may underflow
            df = float(1 / ((seeds / variance) ** 2 / df + (items / variance) ** 2 * of_items))
        parts = Components(seeds, variance - seeds, df)
        effect = Effect.of_components(by_seed, parts, level, least=least, most=most)
        return effect.unless_failing(least, most)

    def inverse_df(self, weights: np.ndarray) -> float:
        """Return one over the degrees of freedom that the test examples give a contrast's V_i.

        Parameters
        ----------
        weights : (runs,) array
            The weight of each run.
        """
        by_class = np.maximum(self.of_classes @ weights @ weights, 0)
        if not by_class.sum():
            return 0.0
        return float(((self.weights @ (by_class / by_class.sum())) ** 2).sum())


def squared(weights: np.ndarray, covariance: np.ndarray) -> float:
    """The variance of a contrast; nothing, where rounding is all that is left of equal runs."""
    size = np.abs(weights) @ np.abs(covariance) @ np.abs(weights)
    found = float(weights @ covariance @ weights)
    return found if found > 1e-12 * size else 0.0


def balanced_means(
    y: np.ndarray, gains: np.ndarray, groups: np.ndarray | None = None
) -> BalancedMeans:
    """Compute the means over classes of several runs, and what varies in them.

    A class of few groups, or of groups of unequal size, has as many degrees of freedom as its
    effective number of groups, one over the sum of their squared shares (Kish, 1965), less one; and
    its sum of squares is divided by what centering at the class's own mean leaves of it. So a rare
    class counts as what it is, the mean of few examples. A class of a single group has no variance
    of its own to look at: its examples are compared with the mean over all classes instead, which
    errs on the wide side (the survey samplers' adjustment for a lonely unit; Lumley, 2010, Complex
    Surveys).

    Parameters
    ----------
    y : (n,) array
        True labels of the test examples.
    gains : (runs, seeds, n) array
        What each run gains on each test example, such as 1 for a correct prediction.
    groups : (n,) array, optional
        Test examples with equal values belong together; by default each stands alone.

    Returns
    -------
    BalancedMeans
        The means with their components.

    Raises
    ------
    ValueError
        There are fewer than two seeds or groups, or not one group for each test example.
    """
    sums, counts, names = _sums(y, gains, groups)
    n_seeds, total = sums.shape[1], counts.sum(0)
    if n_seeds < 2:
        raise ValueError("an interval needs at least two seeds: a single run is never a result")
    by_class = sums.sum(2) / total
    values = by_class.mean(-1)
    effective = 1 / ((counts / total) ** 2).sum(0)
    lonely = (counts > 0).sum(0) == 1
    kept = np.where(lonely, 1, 1 - 1 / effective)
    center = np.where(lonely, values[..., None], by_class)[:, :, None]
    # adds[r, s, g, c]: what group g's examples of class c add to the mean of run r with seed s
    adds = (sums - counts * center) / (len(total) * total * np.sqrt(kept))
    over_seeds = adds.mean(1)
    by_group, rest = over_seeds.sum(-1), (adds - over_seeds[:, None]).sum(-1)
    return BalancedMeans(
        values,
        by_group,
        names,
        np.atleast_2d(np.cov(values)) / n_seeds,
        np.einsum("rsg,qsg->rq", rest, rest) / (n_seeds * (n_seeds - 1)),
        np.einsum("rgc,qgc->crq", over_seeds, over_seeds),
        counts / total * np.sqrt(effective / np.maximum(effective - 1, 1)),
    )


def _sums(y: np.ndarray, gains: np.ndarray, groups: np.ndarray | None) -> tuple:
    """sums[r, s, g, c]: what group g's examples of class c gain with seed s; counts[g, c]; [g]."""
    if groups is not None and len(groups) != len(y):
        raise ValueError(f"{len(groups)} groups for {len(y)} test examples")
    names, group = np.unique(np.arange(len(y)) if groups is None else groups, return_inverse=True)
    classes, label = np.unique(y, return_inverse=True)
    n_groups = group.max(initial=-1) + 1
    if n_groups < 2:
        raise ValueError(f"an interval needs two groups of test examples, and there are {n_groups}")
    counts = np.zeros((n_groups, len(classes)))
    np.add.at(counts, (group, label), 1)
    sums = np.zeros((*gains.shape[:2], *counts.shape))
    np.add.at(sums, (slice(None), slice(None), group, label), gains)
    return sums, counts, names


def pigeonhole_interval(
    statistic: Callable[[np.ndarray], np.ndarray],
    y: np.ndarray,
    gains: np.ndarray,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Effect:
    """Compute a statistic of balanced accuracies, with the interval of the pigeonhole bootstrap.

    Parameters
    ----------
    statistic : callable
        Function of the runs' means over seeds and classes, (runs, batch), that returns (batch,).
    y : (n,) array
        True labels of the test examples.
    gains : (runs, seeds, n) array
        What each run gains on each test example, such as 1 for a correct prediction.
    groups : (n,) array, optional
        Test examples with equal values belong together; by default each stands alone.
    level : float, optional
        Confidence level of the interval.
    resamples : int, optional
        Number of bootstrap resamples.

    Returns
    -------
    Effect
        The statistic with its interval.

    Raises
    ------
    ValueError
        There are fewer than two groups, or not one for each test example.
    """
    sums, counts, _ = _sums(y, gains, groups)
    n_seeds, n_groups = sums.shape[1:3]

    def score(seed_rows: np.ndarray, group_rows: np.ndarray, axis: int = -1) -> np.ndarray:
        times_group = times_drawn(group_rows, n_groups)
        times_seed = times_drawn(seed_rows, n_seeds) / n_seeds
        total = np.einsum("bs,rsbc->rbc", times_seed, times_group @ sums)
        # a rare class can be missing from a resample: the mean is over the classes that are there
        with np.errstate(invalid="ignore"):
            return statistic(np.nanmean(total / (times_group @ counts), axis=-1))

    found = with_limits(score, (n_seeds, n_groups), level, resamples, batch=200)
    return Effect(*found, n_seeds, level)
