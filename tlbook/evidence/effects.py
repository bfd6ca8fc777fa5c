"""A mean or a difference with its interval, and the runs that spoil one.

What the variance of a mean consists of is for others to estimate:
:mod:`tlbook.evidence.balanced` over seeds and test examples, :mod:`tlbook.evidence.episodes` over
few-shot episodes. Here it becomes an interval, mean +- t(df) sqrt(V).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import t

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
        The part that stays however many seeds are run: the test examples are the same. Over several
        splits: the part that they share, as all are drawn from the same examples.
    df : float
        Satterthwaite's degrees of freedom of their sum.
    splits : float
        The part that shrinks as one over the number of splits, beside that of seeds.
    """

    seeds: float
    items: float
    df: float
    splits: float = 0.0

    @property
    def variance(self) -> float:
        """Return the sum of the parts."""
        return self.seeds + self.items + self.splits


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
    splits : int
        Number of splits behind it, each with as many seeds of its own.
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
    splits: int = 1

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
        return cls.of_components(values, parts, level, unit=unit)

    @classmethod
    def of_components(
        cls,
        by_seed: np.ndarray,
        components: Components,
        level: float = 0.95,
        *,
        unit: str = "points",
        least: float = -np.inf,
        most: float = np.inf,
    ) -> "Effect":
        """Return the mean over seeds with Student's t-interval of a known variance.

        Parameters
        ----------
        by_seed : (seeds,) numpy.ndarray
            The value with each seed.
        components : Components
            What the variance of their mean consists of.
        level, unit
            See :class:`Effect`.
        least, most : float, optional
            The smallest and the largest value that can be. By default there is no such limit.
        """
        value, by_seed = float(by_seed.mean()), tuple(by_seed.tolist())
        half = float(t.ppf((1 + level) / 2, components.df)) * components.variance**0.5
        low, high = max(value - half, least), min(value + half, most)
        low, high = min(value, low), max(value, high)
        return cls(value, low, high, len(by_seed), level, unit, components, by_seed=by_seed)

    def unless_failing(self, least: float = -np.inf, most: float = np.inf) -> "Effect":
        """Return the effect, or, if :func:`failing` finds runs, without an interval.

        Where all runs of a split are found, it is the split that differs, and nothing failed.

        Parameters
        ----------
        least, most : float, optional
            The smallest and the largest value that can be: the limits of an unreliable effect.
        """
        found, each = failing(self.by_seed), len(self.by_seed) // self.splits
        found = found[np.bincount(found // each, minlength=self.splits)[found // each] < each]
        if not len(found):
            return self
        off = 100 * (self.by_seed[found[0]] - np.median(self.by_seed))
        reason = (
            f"{len(found)} of {len(self.by_seed)} runs lie{'s' * (len(found) == 1)} far from the "
            f"others, number {found[0] + 1} by {off:+.0f} points".replace("-", "−")
        )
        return replace(self, low=least, high=most, components=None, unreliable=reason)

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
            return self.components.variance**0.5
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
            The smallest number of seeds, all splits together, an estimate as rough as the
            components are. None if 10,000 a split are not enough: then it takes more splits or
            more examples.

        Raises
        ------
        ValueError
            The components are not known.
        """
        parts = self._parts(half_width)
        # what all else has of the degrees of freedom of the sum
        fixed = parts.seeds**2 / (self.seeds - self.splits)
        fixed = max(0.0, parts.variance**2 / parts.df - fixed)
        seeds = np.arange(2, 10_001) * self.splits
        of_seeds = parts.seeds * self.seeds / seeds
        variance = of_seeds + parts.items + parts.splits
        if not variance[0]:
            return int(seeds[0])
        df = variance**2 / (of_seeds**2 / (seeds - self.splits) + fixed)
        return self._first(seeds, variance, df, half_width)

    def splits_for(self, half_width: float) -> int | None:
        """Compute how many splits, of as many seeds each, this half-width would need.

        Parameters
        ----------
        half_width : float
            The wanted half of the interval's width, as a share of one.

        Returns
        -------
        int or None
            The smallest number of splits, an estimate as rough as the components are. None if
            10,000 are not enough: then it takes more examples.

        Raises
        ------
        ValueError
            The components are not known, or the effect is of one split.
        """
        parts = self._parts(half_width)
        if self.splits < 2:
            raise ValueError("an effect of one split does not say how splits differ")
        splits = np.arange(2, 10_001)
        variance = (parts.seeds + parts.splits) * self.splits / splits + parts.items
        return self._first(splits, variance, parts.df * splits / self.splits, half_width)

    def _parts(self, half_width: float) -> Components:
        checks.number("half_width", half_width, above=0)
        if not self.components:
            raise ValueError("this effect has no components of variance to compute with")
        return self.components

    def _first(self, numbers, variance, df, half_width) -> int | None:
        enough = t.ppf((1 + self.level) / 2, df) * np.sqrt(variance) <= half_width
        return int(numbers[enough.argmax()]) if enough.any() else None

    def __str__(self) -> str:
        if self.unreliable:
            size = f"{100 * self.value:+.1f}" if self.unit == "points" else f"{self.value:.3g}"
            text = f"{size} (no interval: {self.unreliable})"
        elif self.unit == "points":
            text = f"{100 * self.value:+.1f} [{100 * self.low:+.1f}, {100 * self.high:+.1f}]"
        else:
            text = f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] {self.unit}"
        return text.replace("-", "−")  # a minus sign, not a hyphen, which would break the line


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
