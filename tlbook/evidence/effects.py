"""Effects with intervals that count both what varies: seeds and test examples.

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

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import bootstrap, t

from tlbook import checks

#: A run nearer than this to the median of the runs, 10 points, has not failed however alike the
#: others are.
FAR = 0.1
#: How often :func:`failing` may find something among runs that differ by chance alone.
FALSE_ALARM = 0.005


@dataclass(frozen=True)
class Components:
    """Hold what the variance of a mean consists of.

    Attributes
    ----------
    seeds : float
        The part that shrinks as one over the number of seeds.
    items : float
        The part that stays however many seeds are run: the test examples are the same.
    df : float
        Satterthwaite's degrees of freedom of their sum.
    """

    seeds: float
    items: float
    df: float


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
    components : Components or None
        What the variance of the value consists of, in squared shares of one; None where it is not
        known, as of an interval that was resampled.
    unreliable : str
        Why there is no interval, such as a run that failed; empty where there is one. The limits
        are then the least and the largest value that can be, so that whatever reads them finds the
        effect undecided.
    by_seed : tuple of float
        The value with each seed; empty where it is not known. It does not count when effects are
        compared, nor do ``scores``.
    scores : tuple of Effect
        Of a difference of two arms the score of each, so that a fault that hits both shows.
    """

    value: float
    low: float
    high: float
    seeds: int
    level: float = 0.95
    unit: str = "points"
    components: Components | None = None
    unreliable: str = ""
    by_seed: tuple[float, ...] = field(default=(), compare=False, repr=False)
    scores: tuple["Effect", ...] = field(default=(), compare=False, repr=False)

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
        parts = Components(float(values.var(ddof=1)) / len(values), 0.0, len(values) - 1)
        return cls._of(values, parts, level, unit=unit)

    @classmethod
    def _of(cls, by_seed, parts, level, *, unit="points", least=-np.inf, most=np.inf) -> "Effect":
        value, by_seed = float(by_seed.mean()), tuple(by_seed.tolist())
        half = float(t.ppf((1 + level) / 2, parts.df)) * (parts.seeds + parts.items) ** 0.5
        low, high = max(value - half, least), min(value + half, most)
        low, high = min(value, low), max(value, high)
        return cls(value, low, high, len(by_seed), level, unit, parts, by_seed=by_seed)

    def __neg__(self) -> "Effect":
        """Return the effect seen from the other side: what one gains the other loses."""
        turned = tuple(-value for value in self.by_seed)
        return replace(
            self,
            value=-self.value,
            low=-self.high,
            high=-self.low,
            by_seed=turned,
            scores=self.scores[::-1],
        )

    @property
    def sign(self) -> int:
        """Return 1 or -1 where the whole interval lies on one side of zero, else 0."""
        return int(self.low > 0) - int(self.high < 0)

    @property
    def limits(self) -> dict[str, float]:
        """Return the ends of the interval by name, as tables want them: NaN if unreliable."""
        if self.unreliable:
            return {"low": np.nan, "high": np.nan}
        return {"low": self.low, "high": self.high}

    @property
    def error(self) -> float:
        """Return the standard error; without components, that of a normal variable as wide."""
        if self.components:
            return (self.components.seeds + self.components.items) ** 0.5
        return (self.high - self.low) / (2 * float(t.ppf((1 + self.level) / 2, np.inf)))

    @property
    def df(self) -> float:
        """Return the degrees of freedom of the standard error, infinite without components."""
        return self.components.df if self.components else np.inf

    @property
    def p_value(self) -> float:
        """Return the probability of a value as far from zero if the effect is none (two-sided).

        It is 1 of an unreliable effect.
        """
        if self.unreliable or not self.error:
            return float(bool(self.unreliable) or self.value == 0)
        return float(2 * t.sf(abs(self.value) / self.error, self.df))

    def at(self, level: float) -> "Effect":
        """Return the effect with its interval at another confidence level.

        Parameters
        ----------
        level : float
            Above 0 and below 1.

        Returns
        -------
        Effect
            The value plus and minus t times the standard error; unreliable limits stay as they are.
        """
        checks.number("level", level, above=0, below=1)
        if self.unreliable:
            return replace(self, level=level)
        half = self.error * float(t.ppf((1 + level) / 2, self.df))
        return replace(self, low=self.value - half, high=self.value + half, level=level)

    def detectable(self, power: float = 0.8) -> float:
        """Return the smallest true effect that an interval of this width would find.

        Parameters
        ----------
        power : float, default 0.8
            How often the interval would lie on the right side of zero.

        Returns
        -------
        float
            The effect, as a share of one.
        """
        checks.number("power", power, least=0.5, below=1)
        return self.error * float(t.ppf((1 + self.level) / 2, self.df) + t.ppf(power, self.df))

    def seeds_for(self, half_width: float) -> int | None:
        """Compute how many seeds an interval of this half-width would need.

        Parameters
        ----------
        half_width : float
            The wanted half of the interval's width, as a share of one.

        Returns
        -------
        int or None
            The smallest number of seeds, an estimate as rough as the components are. None if 10,000
            are not enough: then it takes more test examples.

        Raises
        ------
        ValueError
            The components are not known.
        """
        checks.number("half_width", half_width, above=0)
        if not self.components:
            raise ValueError("this effect has no components of variance to compute with")
        of_seeds, items, df = (getattr(self.components, n) for n in ("seeds", "items", "df"))
        # what the test examples' own degrees of freedom take from those of the sum
        fixed = max(0.0, (of_seeds + items) ** 2 / df - of_seeds**2 / (self.seeds - 1))
        seeds = np.arange(2, 10_001)
        of_seeds = of_seeds * self.seeds / seeds
        variance = of_seeds + items
        if not variance[0]:
            return 2
        df = variance**2 / (of_seeds**2 / (seeds - 1) + fixed)
        enough = t.ppf((1 + self.level) / 2, df) * np.sqrt(variance) <= half_width
        return int(seeds[enough.argmax()]) if enough.any() else None

    def __str__(self) -> str:
        if self.unreliable:
            size = f"{100 * self.value:+.1f}" if self.unit == "points" else f"{self.value:.3g}"
            text = f"{size} (no interval: {self.unreliable})"
        elif self.unit == "points":
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
    method: str = "components",
    resamples: int = 2000,
) -> Effect:
    """Compute balanced accuracy over seeds, or the gain over a control on the same seeds.

    Two things vary: the seed and the test examples. The interval counts both by components of
    variance, with Student's t (see :mod:`tlbook.evidence.effects`). Test examples of one group
    count together. Where nothing varies, as between an arm and itself, the limits equal the value:
    no difference was seen, on as many examples as there are.

    Where a few runs lie far from the others, no interval of a mean holds the truth. Then the effect
    says so instead: see :func:`failing` and the field ``unreliable`` of :class:`Effect`.

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


def episode_accuracy(
    scores: np.ndarray,
    classes: np.ndarray,
    control: np.ndarray | None = None,
    *,
    level: float = 0.95,
    method: str = "components",
    resamples: int = 2000,
) -> Effect:
    """Compute accuracy over few-shot episodes, or the gain over a control on the same ones.

    Episodes can be drawn without end from a test set that stays small, so an interval over episodes
    alone comes out too narrow (Lafargue et al. 2024, arXiv 2409.02850). Three things vary: the
    episodes (which classes meet, which examples are labeled), the classes with all of their
    examples, and the runs, if there are several. The interval counts each, by components of
    variance as in :func:`balanced_accuracy`. Scores of few classes are skewed, and the limits do
    not follow: in simulations with 10 to 50 classes they hold the truth in 92 to 95 of 100.

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
    method : {"components", "bootstrap"}, optional
        Whether to compute the interval or to resample it, each of the three independently of the
        others: with few runs that matter, this comes out too narrow.
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
    checks.choice("method", method, ("components", "bootstrap"))
    scores = np.asarray(scores, dtype=float)
    classes, label = np.unique(classes, return_inverse=True)
    if scores.ndim not in (2, 3) or scores.shape[-2:] != label.shape:
        raise ValueError(f"scores of shape {scores.shape} do not fit classes {label.shape}")
    if label.shape[0] < 10 or len(classes) < 2:
        raise ValueError(
            f"an interval needs at least 10 episodes and 2 classes, got {label.shape[0]} and "
            f"{len(classes)}"
        )
    least = 0.0 if control is None else -1.0
    if control is not None:
        if np.shape(control) != scores.shape:
            raise ValueError(f"control has shape {np.shape(control)}, not {scores.shape}")
        scores = scores - control
    if scores.ndim == 3 and len(scores) < 2:
        raise ValueError("runs need at least two seeds: a single run is never a result")
    runs = scores if scores.ndim == 3 else scores[None]
    # by[r, e, c]: score of run r on class c in episode e; met[e, c]: 1 where the episode has it
    by, met = np.zeros((len(runs), len(label), len(classes))), np.zeros((len(label), len(classes)))
    episodes = np.arange(len(label))[:, None]
    by[:, episodes, label], met[episodes, label] = runs, 1
    if method == "bootstrap":
        return Effect(*_resampled_episodes(by, met, level, resamples), len(scores), level)
    by_run = runs.mean((1, 2))
    parts = _components_of_episodes(by, met, by_run)
    effect = Effect._of(by_run, parts, level, least=least, most=1.0)
    if scores.ndim == 2:
        effect = replace(effect, seeds=len(scores), by_seed=())
    return _unless_failing(effect, by_run, least, 1.0)


def _components_of_episodes(by: np.ndarray, met: np.ndarray, by_run: np.ndarray) -> Components:
    """The components of a mean over runs, if several, episodes and the classes that they meet.

    As with two factors, where those of episodes and classes, crossed as they are, take the place of
    the test examples': first of the mean over runs, then of what each run adds to it. "seeds" are
    the runs, or the episodes if there is one run.
    """
    n_runs, cells = len(by_run), met.sum()
    # one over the sum of squared shares: as many classes as would weigh as much if met equally
    sizes = np.array([len(met), cells**2 / (met.sum(0) ** 2).sum()])
    adds = (by - by_run[:, None, None] * met) / cells
    over_runs = adds.mean(0)

    def squares(x: np.ndarray) -> tuple[np.ndarray, float]:
        """Of what episodes and classes add, and of what their pairs add beyond that."""
        factors = np.array([(x.sum(-1) ** 2).sum(), (x.sum(-2) ** 2).sum()]) * sizes / (sizes - 1)
        free = cells - sum(met.shape) + 1
        for _ in range(10):  # until neither episodes nor classes have a mean left
            for axis in (-1, -2):
                x = x - met * (x.sum(axis, keepdims=True) / met.sum(axis, keepdims=True))
        return factors, float((x**2).sum() * cells / free) if free > 0 else 0.0

    factors, pairs = squares(over_runs)
    degrees = sizes - 1
    total = factors.sum() - pairs
    if n_runs > 1:
        rest, of_rest = squares(adds - over_runs)
        total -= (rest.sum() - of_rest) / (n_runs * (n_runs - 1))
        factors, degrees = np.append(factors, by_run.var(ddof=1) / n_runs), [*degrees, n_runs - 1]
        total += factors[-1]
    variance = float(max(total, *factors))
    df = float(1 / ((factors / variance) ** 2 / degrees).sum()) if variance else 1.0
    seeds = float(factors[-1] if n_runs > 1 else factors[0])
    return Components(seeds, variance - seeds, df)


def _resampled_episodes(
    by: np.ndarray, met: np.ndarray, level: float, resamples: int
) -> tuple[float, float, float]:
    if len(by) == 1:  # doubled, because scipy refuses a sample of one; the result is the same
        by = np.concatenate([by, by])
    n = by.shape

    def mean(*rows: np.ndarray, axis: int = -1) -> np.ndarray:
        runs, episodes, classes = map(_times_drawn, rows, n)
        over_runs = np.tensordot(runs / n[0], by, 1)
        total = np.einsum("be,bec,bc->b", episodes, over_runs, classes, optimize=True)
        return total / np.einsum("be,ec,bc->b", episodes, met, classes, optimize=True)

    return _with_limits(mean, n, level, resamples, batch=100)


@dataclass(frozen=True)
class BalancedMeans:
    """Hold the means of several runs with what varies in them, to compute any contrast of them.

    Attributes
    ----------
    values : (runs, seeds) numpy.ndarray
        The mean over classes, by run and seed.
    of_seeds, of_groups, of_rest : (runs, runs) numpy.ndarray
        The covariances V_s, V_i and V_r of :mod:`tlbook.evidence.effects`.
    of_classes : (classes, runs, runs) numpy.ndarray
        The part of ``of_groups`` that each class has.
    weights : (groups, classes) numpy.ndarray
        Which part of a class's variance each group has, scaled for the degrees of freedom.
    """

    values: np.ndarray
    of_seeds: np.ndarray
    of_groups: np.ndarray
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
            The sum, with its interval. It is unreliable if :func:`failing` finds seeds.
        """
        by_seed = weights @ self.values
        seeds, items, rest = (
            _squared(weights, part) for part in (self.of_seeds, self.of_groups, self.of_rest)
        )
        variance = max(seeds + items - rest, seeds, items)
        by_class = np.maximum(self.of_classes @ weights @ weights, 0)
        df = len(by_seed) - 1.0
        if items and by_class.sum():
            shares = self.weights @ (by_class / by_class.sum())
            # by ratios to the variance, as its square may underflow
            inverse = (seeds / variance) ** 2 / df + (items / variance) ** 2 * (shares**2).sum()
            df = float(1 / inverse)
        parts = Components(seeds, variance - seeds, df)
        effect = Effect._of(by_seed, parts, level, least=least, most=most)
        return _unless_failing(effect, by_seed, least, most)


def _squared(weights: np.ndarray, covariance: np.ndarray) -> float:
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
    sums, counts = _sums(y, gains, groups)
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
        np.atleast_2d(np.cov(values)) / n_seeds,
        by_group @ by_group.T,
        np.einsum("rsg,qsg->rq", rest, rest) / (n_seeds * (n_seeds - 1)),
        np.einsum("rgc,qgc->crq", over_seeds, over_seeds),
        counts / total * np.sqrt(effective / np.maximum(effective - 1, 1)),
    )


def failing(values: Sequence[float]) -> np.ndarray:
    """Find the runs that lie far from all others, as training that collapsed does.

    Up to a fifth of the runs can be found, so none of fewer than five, by Rosner's generalized
    extreme studentized deviates (1983, doi 10.1080/00401706.1983.10487848), which do not let two
    failures hide each other. They must also be 10 points away from the median. Of runs that differ
    by a normal variable, fewer than one set in a hundred has one found; with heavy tails
    (Student's with 5 degrees of freedom), or on 20 test examples or fewer, it can be three in a
    hundred sets of ten. A failure that none of the runs shows cannot be found: of five runs, none
    fails in 59 of 100 experiments where one run in ten does.

    Parameters
    ----------
    values : (seeds,) array-like of float
        The score or gain of each seed, as a share of one.

    Returns
    -------
    (k,) numpy.ndarray of int
        Their positions, the farthest first.
    """
    values = np.asarray(values, dtype=float)
    n, left, found = len(values), np.arange(len(values)), 0
    for i in range(1, n // 5 + 1):
        rest = values[left]
        off = np.abs(rest - rest.mean())
        m = n - i  # what is left without the next
        critical = t.isf(FALSE_ALARM / (2 * (m + 1)), m - 1) ** 2
        if off.max() ** 2 * (m - 1 + critical) * (m + 1) > m**2 * critical * rest.var(ddof=1):
            found = i
        left = np.delete(left, off.argmax())
    far = np.abs(values - np.median(values))
    order = np.argsort(-far, kind="stable")[:found]
    return order[far[order] >= FAR]


def _unless_failing(effect: Effect, values: np.ndarray, least: float, most: float) -> Effect:
    """The effect as it was, or, if runs failed, without an interval and with the reason."""
    found = failing(values)
    if not len(found):
        return effect
    off = 100 * (values[found[0]] - np.median(values))
    reason = (
        f"{len(found)} of {len(values)} runs lie{'s' * (len(found) == 1)} far from the others, "
        f"number {found[0] + 1} by {off:+.0f} points".replace("-", "−")
    )
    return replace(effect, low=least, high=most, components=None, unreliable=reason)


def _sums(y: np.ndarray, gains: np.ndarray, groups: np.ndarray | None) -> tuple:
    """sums[r, s, g, c]: what group g's examples of class c gain with seed s; counts[g, c]."""
    if groups is not None and len(groups) != len(y):
        raise ValueError(f"{len(groups)} groups for {len(y)} test examples")
    _, group = np.unique(np.arange(len(y)) if groups is None else groups, return_inverse=True)
    classes, label = np.unique(y, return_inverse=True)
    n_groups = group.max(initial=-1) + 1
    if n_groups < 2:
        raise ValueError(f"an interval needs two groups of test examples, and there are {n_groups}")
    counts = np.zeros((n_groups, len(classes)))
    np.add.at(counts, (group, label), 1)
    sums = np.zeros((*gains.shape[:2], *counts.shape))
    np.add.at(sums, (slice(None), slice(None), group, label), gains)
    return sums, counts


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
    sums, counts = _sums(y, gains, groups)
    n_seeds, n_groups = sums.shape[1:3]

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
