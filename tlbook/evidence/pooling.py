"""Combine the effects that speak of one claim, and count how many were looked at.

Each setting (a data set, a budget, a method) has its own true effect. The *mean* over settings says
what to expect on average. The *prediction* says what to expect in one setting more, such as your
own data, which is wider by how much settings differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import false_discovery_control, t

from tlbook import checks
from tlbook.evidence.effects import Components, Effect

#: The smallest variance that counts: an effect without any would outweigh all others.
LEAST = 1e-12


@dataclass(frozen=True)
class Pooled:
    """Hold what several effects say together.

    Attributes
    ----------
    mean : Effect
        The mean over settings. Its ``seeds`` count the settings.
    prediction : Effect or None
        The same value with the limits between which the true effect of a new setting lies; None of
        two settings, which say too little of others.
    tau : float
        Standard deviation of the true effects of settings, as a share of one.
    """

    mean: Effect
    prediction: Effect | None
    tau: float


def pool(effects: Sequence[Effect], level: float = 0.95) -> Pooled:
    """Compute the random-effects mean of several effects, and the prediction for a new setting.

    The variance between settings is Paule and Mandel's (1982, doi 10.6028/jres.087.022): the one
    with which the weighted squares of the deviations sum to their degrees of freedom. The mean's
    interval is that of Hartung and Knapp (2001, doi 10.1002/sim.1009), with Student's t, and with
    their factor not below one, so that effects alike by chance do not narrow it (Roever et al.,
    2015, doi 10.1186/s12874-015-0091-1); the estimate of Paule and Mandel makes it one, if above
    zero. The prediction interval
    is that of Higgins, Thompson and Spiegelhalter (2009, doi 10.1111/j.1467-985X.2008.00552.x).
    Effects count as independent, though findings on the same test examples are not, quite.

    Parameters
    ----------
    effects : sequence of Effect
        Two or more, in points, signed alike.
    level : float, default 0.95
        Confidence level of the intervals.

    Returns
    -------
    Pooled
        The mean, the prediction and the spread.

    Raises
    ------
    ValueError
        If there are fewer than two effects, one is not in points, or one is unreliable.
    """
    checks.number("level", level, above=0, below=1)
    if len(effects) < 2:
        raise ValueError(f"pooling needs two or more effects, got {len(effects)}")
    if units := {effect.unit for effect in effects} - {"points"}:
        raise ValueError(f"effects in {', '.join(sorted(units))} cannot be pooled with points")
    for number, effect in enumerate(effects):
        if effect.unreliable:
            raise ValueError(
                f"effect {number} has no interval ({effect.unreliable}): leave it out and say so"
            )
    values = np.array([effect.value for effect in effects])
    variances = np.maximum([effect.error**2 for effect in effects], LEAST)
    k = len(values)

    def mean_at(tau2: float) -> tuple[float, float, float]:
        weights = 1 / (variances + tau2)
        mean = (weights * values).sum() / weights.sum()
        return mean, 1 / weights.sum(), (weights * (values - mean) ** 2).sum() - (k - 1)

    tau2 = 0.0
    if mean_at(0)[2] > 0:  # at the total sum of squares, what is left is below the aim
        tau2 = brentq(lambda at: mean_at(at)[2], 0, k * values.var(), xtol=LEAST)
    value, variance, _ = map(float, mean_at(tau2))
    mean = Effect(value, -np.inf, np.inf, k, components=Components(variance, 0.0, k - 1.0))
    prediction = None
    if k > 2:
        half = float(t.ppf((1 + level) / 2, k - 2) * np.sqrt(tau2 + variance))
        prediction = Effect(value, value - half, value + half, k, level)
    return Pooled(mean.at(level), prediction, float(np.sqrt(tau2)))


def adjusted_p_values(effects: Sequence[Effect]) -> np.ndarray:
    """Compute p-values that count how many effects were looked at.

    Of the effects whose adjusted value is at most 0.05, at most 5 percent are expected to be none:
    the false discovery rate of Benjamini and Hochberg (1995, doi
    10.1111/j.2517-6161.1995.tb02031.x).

    Parameters
    ----------
    effects : sequence of Effect
        All that were measured, not those alone that came out well.

    Returns
    -------
    (k,) numpy.ndarray
        The adjusted two-sided p-values.
    """
    return false_discovery_control([effect.p_value for effect in effects])
