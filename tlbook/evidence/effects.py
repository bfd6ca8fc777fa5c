"""Effects with intervals that count both what varies: seeds and test examples.

The score is balanced accuracy: the mean over classes of the share of correct predictions, so chance
is one over the number of classes however uneven they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import bootstrap, t

from tlbook import checks


@dataclass(frozen=True)
class Effect:
    """Hold a mean, or a difference of two, with its interval.

    Attributes
    ----------
    value : float
        The mean or the difference, as a share of one.
    low, high : float
        Limits of the interval, as shares of one.
    seeds : int
        Number of seeds, runs or episodes behind it.
    level : float
        Confidence level of the interval.
    unit : str
        ``"points"`` for shares of one, which are shown as percentage points; else what the value
        counts, such as ``"labels per class"``.
    """

    value: float
    low: float
    high: float
    seeds: int
    level: float = 0.95
    unit: str = "points"

    @classmethod
    def over_seeds(
        cls, values: Sequence[float], *, level: float = 0.95, unit: str = "points"
    ) -> "Effect":
        """Return the mean of one value for each seed, with Student's t-interval.

        Parameters
        ----------
        values : (seeds,) array-like of float
            At least two, each finite.
        level, unit
            See :class:`Effect`.

        Raises
        ------
        ValueError
            There are fewer than two values, or one is not finite.
        """
        values = np.asarray(values, dtype=float)
        if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
            raise ValueError(f"an interval needs two or more finite values, got {values!r:.100}")
        mean, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))
        half = error * float(t.ppf((1 + level) / 2, len(values) - 1))
        return cls(mean, mean - half, mean + half, len(values), level, unit)

    def __neg__(self) -> "Effect":
        """Return the effect seen from the other side: what one gains the other loses."""
        return replace(self, value=-self.value, low=-self.high, high=-self.low)

    @property
    def sign(self) -> int:
        """Return 1 or -1 where the whole interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        if self.unit == "points":
            text = f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        else:
            text = f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] {self.unit}"
        return text.replace("-", "−")  # a minus sign, not a hyphen, which would break the line


def balanced_accuracy(
    y: np.ndarray,
    predictions: np.ndarray,
    control: np.ndarray | None = None,
    *,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    resamples: int = 2000,
) -> Effect:
    """Compute balanced accuracy over seeds, or the gain over a control on the same seeds.

    Two things vary: the seed (which examples are labeled, initialization) and the test examples, a
    finite sample. For the interval, both are resampled, independently of each other: the pigeonhole
    bootstrap (Owen, 2007, doi 10.1214/07-AOAS122), with percentile limits. It errs on the wide
    side. Test examples of one group are resampled together.

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
    return pigeonhole_interval(lambda scores: scores[0], y, gain[None], groups, level, resamples)


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


def episode_accuracy(
    scores: np.ndarray,
    classes: np.ndarray,
    control: np.ndarray | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
) -> Effect:
    """Compute accuracy over few-shot episodes, or the gain over a control on the same ones.

    Episodes can be drawn without end from a test set that stays small, so an interval over episodes
    alone comes out too narrow (Lafargue et al. 2024, arXiv 2409.02850). Three things vary: the
    episodes (which classes meet, which examples are labeled), the classes with all of their
    examples, and the runs, if there are several. Each is resampled independently of the others, as
    in :func:`balanced_accuracy`. The limits are percentiles, and a little narrow: in simulations of
    the tests, with 20 test classes, they hold the truth somewhat less often than they should.

    Parameters
    ----------
    scores : (episodes, ways) or (runs, episodes, ways) array
        Share of correct predictions for each class, as :func:`tlbook.methods.meta.score_episodes`
        returns it; with an axis of runs for networks that were trained with several seeds.
    classes : (episodes, ways) array
        The class that each score is of.
    control : array of the shape of ``scores``, optional
        Scores of another learner on the same episodes; the result is then the difference.
    level : float, optional
        Confidence level of the interval.
    resamples : int, optional
        Number of bootstrap resamples.

    Returns
    -------
    Effect
        The mean or the difference, with its interval. Its ``seeds`` counts the runs, or the
        episodes where there is no axis of runs.

    Raises
    ------
    ValueError
        Shapes do not match, or there are fewer than two runs, ten episodes or two classes.
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
    if scores.ndim == 2:  # doubled, because scipy refuses a sample of one; the result is the same
        scores = np.stack([scores, scores])
    # by[r, e, c]: score of run r on class c in episode e; met[e, c]: 1 where the episode has it
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
    if groups is not None and len(groups) != len(y):
        raise ValueError(f"{len(groups)} groups for {len(y)} test examples")
    # sums[r, s, g, c]: what group g's examples of class c gain with seed s; counts[g, c]: how many
    _, group = np.unique(np.arange(len(y)) if groups is None else groups, return_inverse=True)
    classes, label = np.unique(y, return_inverse=True)
    n_runs, n_seeds, _ = gains.shape
    n_groups = group.max(initial=-1) + 1
    if n_groups < 2:
        raise ValueError(f"an interval needs two groups of test examples, and there are {n_groups}")
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

    The statistic gets positions below each of ``counts``, (resamples, k) each, and returns
    (resamples,). ``batch`` of them are computed at once.
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
    value = float(statistic(*(rows[None] for rows in every))[0])
    # Where a class is one group, most resamples can lie on one side of what was measured
    return value, min(value, float(limits.low)), max(value, float(limits.high))


def _times_drawn(rows: np.ndarray, n: int) -> np.ndarray:
    """(batch, k) positions below n to (batch, n) counts of how often each was drawn."""
    rows = rows.reshape(-1, rows.shape[-1])
    cells = rows + n * np.arange(len(rows))[:, None]
    return np.bincount(cells.ravel(), minlength=n * len(rows)).reshape(-1, n).astype(float)
