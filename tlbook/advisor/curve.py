"""Say how many more labels are worth it: learning curves, and how they go on.

Families of curves are fitted to the scores at nested budgets: the last value goes on, a power law
``a - b n^-c``, and one that is shifted, ``a - b (n + d)^-c``. What each foretells of the two
largest budgets from the smaller ones sets its weight, since no family is right for all curves
(Viering and Loog, 2023, doi 10.1109/TPAMI.2022.3220744). Nothing is said beyond four times the
largest measured budget.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import softmax

from tlbook import checks
from tlbook.advisor.search import folds, score
from tlbook.advisor.strategies import OutOfTime, Strategy
from tlbook.data import Dataset
from tlbook.evidence.wording import capitalized

#: Labels per class of the smallest budget: fewer cannot be cut into parts to choose a penalty.
LEAST = 4
#: Draws at most, and those without which nothing is said.
DRAWS, LEAST_DRAWS = 5, 3
#: Budgets without which nothing is said, and the largest ones that families are judged by.
LEAST_BUDGETS, HELD_OUT = 5, 2
#: How far curves are continued, in times of the largest measured budget.
REACH = 4.0
#: Repetitions with other draws, for the interval.
RESAMPLES = 1000
#: Exponents c, and shifts d as shares of the smallest budget, among which the best is taken.
EXPONENTS, SHIFTS = np.geomspace(0.1, 2, 30), (-0.5, 0.5, 1, 2, 4, 8)
#: Scores that differ by less than this fit equally well.
ROUNDING = 0.003


@dataclass(frozen=True)
class Curve:
    """Hold scores of a strategy at nested budgets.

    Attributes
    ----------
    strategy : str
        Name of the strategy.
    labels : (b,) numpy.ndarray of float
        Mean labels per class of each budget, ascending.
    scores : (d, b) numpy.ndarray of float
        Balanced accuracies of each draw.
    shared : float
        Test rows by training rows: draws of the same examples tell less than as many new ones
        (Nadeau and Bengio, 2003, doi 10.1023/A:1024068626366). 0 for independent draws.
    """

    strategy: str
    labels: np.ndarray
    scores: np.ndarray
    shared: float = 0.0

    def __post_init__(self):
        if self.scores.ndim != 2 or self.scores.shape[1] != len(self.labels):
            raise ValueError(
                f"{self.strategy}: scores of shape {self.scores.shape} do not fit "
                f"{len(self.labels)} budgets: give one row per draw"
            )
        if self.scores.shape[0] < LEAST_DRAWS or len(self.labels) < LEAST_BUDGETS:
            raise ValueError(
                f"{self.strategy}: {self.scores.shape[0]} draws at {len(self.labels)} budgets are "
                f"too few to continue a curve: at least {LEAST_DRAWS} at {LEAST_BUDGETS} are needed"
            )
        if (np.diff(self.labels) <= 0).any() or self.labels[0] <= 0:
            raise ValueError(f"{self.strategy}: budgets must be positive and ascend")

    @property
    def limit(self) -> float:
        """Return the most labels per class about which something can be said."""
        return REACH * float(self.labels[-1])


@dataclass(frozen=True)
class Gain:
    """Hold what more labels are worth.

    Attributes
    ----------
    labels, more : float
        Labels per class to begin with, and how many more.
    value, low, high : float
        Gain in balanced accuracy with its 95 percent interval, as shares of one.
    weights : dict of str to float
        Weight of each family; they add up to one.
    """

    labels: float
    more: float
    value: float
    low: float
    high: float
    weights: dict[str, float]


def measure(
    strategy: Strategy,
    data: Dataset,
    *,
    deadline: float,
    draws: int = DRAWS,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Curve:
    """Score a strategy at nested budgets: powers of two, and all training rows.

    Parameters
    ----------
    strategy : Strategy
        What to run.
    data : Dataset
        The examples.
    deadline : float
        When to stop, as a reading of ``time.monotonic``.
    draws : int, default 5
        Draws at most; each has training and test rows of its own, and each budget of a draw holds
        the smaller ones.
    seed : int, default 0
        Seed of the draws.
    say : callable, optional
        Gets a line for each draw.

    Returns
    -------
    Curve
        The scores of the draws that were done in time.

    Raises
    ------
    ValueError
        If there are too few rows for five budgets, or there was no time for three draws.
    """
    parts, found = folds(data, checks.integer("draws", draws, least=LEAST_DRAWS), seed), []
    labels = budgets(min(len(train) for train, _ in parts) / len(data.classes))
    for index, (train, test) in enumerate(parts if len(labels) >= LEAST_BUDGETS else []):
        ordered, scores, began = nested(train, data.y, seed + index), [], time.monotonic()
        now, took = began, 0.0
        try:
            for count in labels:
                rows = ordered[: round(count * len(data.classes))]
                # twice the rows take twice as long as the budget before, whatever was forecast
                if now + max(2 * took, strategy.forecast(len(rows), len(test))) > deadline:
                    raise OutOfTime
                run = strategy.run(rows, test, seed + index, deadline)
                scores.append(score(data.y[test], run.predicted))
                now, took = time.monotonic(), time.monotonic() - now
        except OutOfTime:
            break
        found.append(scores)
        say(f"curve {index + 1}: {strategy.name} ({time.monotonic() - began:.1f} s)")
    shape = (len(found), len(labels))
    train, test = parts[0]
    shared = len(test) / len(train)
    return Curve(strategy.name, labels, np.array(found).reshape(shape), shared)


def budgets(most: float) -> np.ndarray:
    """List labels per class: powers of two from 4, and all there are.

    Parameters
    ----------
    most : float
        How many there are, as a mean over classes.

    Returns
    -------
    (b,) numpy.ndarray of float
        The budgets. A power of two close to all there are is left out.
    """
    powers = [count for count in LEAST * 2.0 ** np.arange(30) if count < 0.8 * most]
    return np.array([*powers, most])


def nested(rows: np.ndarray, y: np.ndarray, seed: int) -> np.ndarray:
    """Order rows at random so that each beginning holds the classes by their shares.

    Parameters
    ----------
    rows : (k,) numpy.ndarray of int
        Training rows.
    y : (n,) numpy.ndarray of int
        Labels of all rows.
    seed : int
        Seed of the order.

    Returns
    -------
    (k,) numpy.ndarray of int
        The rows, one of each class first.
    """
    rows = np.random.default_rng(seed).permutation(rows)
    place = np.empty(len(rows))
    for label in np.unique(y[rows]):
        own = np.flatnonzero(y[rows] == label)
        place[own] = np.arange(len(own)) / len(own)
    return rows[np.argsort(place, kind="stable")]


# --- families -----------------------------------------------------------------------------------
def _fitted(labels: np.ndarray, scores: np.ndarray, at: np.ndarray, family: str) -> np.ndarray:
    """The (r, k) values at other budgets of a family that is fitted to each of (r, b) curves.

    With exponent and shift given, a and b are a weighted linear fit: so all are tried, and no
    search ends in a hollow. No curve falls (b is at least 0) or goes above 1 (nor does a).
    """
    if family == "last value":
        return np.repeat(scores[:, -1:], len(at), axis=1)
    shifts = labels[0] * np.array((0.0,) if family == "pow3" else SHIFTS)
    c, d = (grid.reshape(-1, 1) for grid in np.meshgrid(EXPONENTS, shifts))
    basis = (labels + d) ** -c
    weight = np.sqrt(labels) / np.sqrt(labels).sum()  # scores of small budgets scatter more
    middle = basis @ weight
    centered = basis - middle[:, None]
    slope = -(centered * weight) @ scores.T / (centered**2 @ weight)[:, None]
    slope = np.maximum(slope, 0)
    top = scores @ weight + slope * middle[:, None]
    capped = (basis * weight) @ (1 - scores).T / (basis**2 @ weight)[:, None]
    top, slope = np.where(top > 1, 1, top), np.where(top > 1, capped, slope)
    values = top[..., None] - slope[..., None] * basis[:, None, :]  # (grid, r, b)
    best = ((values - scores) ** 2 @ weight).argmin(0)
    each = np.arange(len(scores))
    ahead = (at[None] + d[best]) ** -c[best]
    return top[best, each][:, None] - slope[best, each][:, None] * ahead


FAMILIES = ("last value", "pow3", "pow4")


def _weights(labels: np.ndarray, scores: np.ndarray, error: np.ndarray) -> np.ndarray:
    """The (r, f) weights of families by what they foretell of the largest budgets."""
    known = slice(None, -HELD_OUT)
    fits = []
    for family in FAMILIES:
        if family == "pow4" and len(labels) - HELD_OUT < 4:  # it would go through any three
            fits.append(np.full(len(scores), -np.inf))
            continue
        foretold = _fitted(labels[known], scores[:, known], labels[-HELD_OUT:], family)
        missed = (foretold - scores[:, -HELD_OUT:]) / np.hypot(error[-HELD_OUT:], ROUNDING)
        fits.append(-(missed**2).sum(1) / 2)
    return softmax(np.array(fits).T, axis=1)


def gain(
    curve: Curve,
    more: float,
    *,
    labels: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Gain:
    """Foretell what more labels are worth.

    Parameters
    ----------
    curve : Curve
        The measured scores.
    more : float
        How many more labels per class.
    labels : float, optional
        Labels per class to begin with. By default the largest measured budget.
    resamples : int, default 1000
        Repetitions with other draws, each with one family, for the interval.
    seed : int, default 0
        Seed of the repetitions.

    Returns
    -------
    Gain
        The gain with its interval.

    Raises
    ------
    ValueError
        If that is more than four times what was measured.
    """
    checks.number("more", more, above=0)
    start = float(curve.labels[-1]) if labels is None else checks.number("labels", labels, above=0)
    if start + more > curve.limit * (1 + 1e-9):
        raise ValueError(
            f"{start + more:.0f} labels per class are more than {REACH:g} times the "
            f"{curve.labels[-1]:.0f} that were measured: ask for at most "
            f"{max(0, curve.limit - start):.0f} more"
        )
    at = np.array([start, start + more])
    mean, draws, error = _resampled(curve, resamples, seed)
    every = np.concatenate([mean[None], draws])
    weights = _weights(curve.labels, every, error)
    values = np.array([_fitted(curve.labels, every, at, family) for family in FAMILIES])
    gains = (values[..., 1] - values[..., 0]).T  # (1 + r, families)
    # half of the families by the weights of all draws, half by those of the repetition
    share = (weights[0] + weights[1:]) / 2
    rng = np.random.default_rng(seed)
    drawn = (rng.random((resamples, 1)) > share.cumsum(1)[:, :-1]).sum(1)
    low, high = np.quantile(gains[1:][np.arange(resamples), drawn], [0.025, 0.975])
    value = float(gains[0] @ weights[0])
    shown = dict(zip(FAMILIES, map(float, weights[0]), strict=True))
    return Gain(start, more, value, min(value, float(low)), max(value, float(high)), shown)


def _resampled(curve: Curve, resamples: int, seed: int) -> tuple:
    """Mean scores; such means of other draws, t-distributed about them; and their errors."""
    scores, rng = curve.scores, np.random.default_rng(seed)
    count = len(scores)
    mean, apart = scores.mean(0), (scores - scores.mean(0)) / np.sqrt(count - 1)
    spread = np.sqrt(1 / count + curve.shared)
    error = spread * np.sqrt((apart**2).sum(0))
    wide = np.sqrt((count - 1) / rng.chisquare(count - 1, (resamples, 1)))
    draws = mean + spread * wide * (rng.standard_normal((resamples, count)) @ apart)
    return mean, np.clip(draws, 0, 1), error


def needed(curve: Curve, aim: float) -> float | None:
    """Find how many labels per class a score takes.

    Parameters
    ----------
    curve : Curve
        The measured scores.
    aim : float
        Balanced accuracy to be reached.

    Returns
    -------
    float or None
        Labels per class, or None if it takes more than four times what was measured.
    """
    at = np.geomspace(curve.labels[0], curve.limit, 400)
    mean, _, error = _resampled(curve, 1, 0)
    weights = _weights(curve.labels, mean[None], error)[0]
    values = [_fitted(curve.labels, mean[None], at, family)[0] for family in FAMILIES]
    # what was measured is not replaced by the last value
    values[0] = np.interp(np.log(at), np.log(curve.labels), mean)
    reached = np.flatnonzero(weights @ np.array(values) >= aim)
    return float(at[reached[0]]) if len(reached) else None


def worth(
    curve: Curve,
    control: Curve | None = None,
    *,
    labels: float,
    more: float = 100,
    margin: float = 0.01,
) -> tuple[Gain, str]:
    """Say whether more labels are worth it.

    Parameters
    ----------
    curve : Curve
        Scores of the recommended strategy.
    control : Curve, optional
        Scores of the control: how many labels it would need for the same score is said too.
    labels : float
        Labels per class that there are.
    more : float, default 100
        How many more to ask for; fewer if that is beyond four times what was measured.
    margin : float, default 0.01
        A gain up to this share of one does not matter.

    Returns
    -------
    (Gain, str)
        The gain, and one or two sentences.
    """
    more = min(more, max(1, int(curve.limit - labels)))
    found = gain(curve, more, labels=labels)
    which = f"{more:.0f} more label{'s' * (more > 1)} per class"
    limits = f"[{100 * found.low:.1f}, {100 * found.high:.1f}]"
    if found.high <= margin:
        text = f"More labels are not worth it: {which} bring at most {100 * found.high:.1f} points."
    elif found.low < 0.0005:
        text = f"We cannot tell what {which} bring: {100 * found.value:+.1f} points {limits}."
    else:
        text = f"{which}: {100 * found.value:+.1f} points {limits}."
    if control is not None and control.strategy != curve.strategy:
        now = curve.scores[:, -1].mean()
        ahead = now - control.scores[:, -1].mean()
        times = needed(control, now)
        if ahead > margin:
            how = (
                f"more than {REACH:g} times as many labels"
                if times is None
                else f"about {times / control.labels[-1]:.1f} times as many labels"
            )
            text += f" {capitalized(control.strategy)} would need {how} for the same score."
    return found, text
