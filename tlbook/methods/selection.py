"""Choose a model for a target domain without its labels.

Adaptation is for targets without labels, so its settings (lambda, epochs, the method itself) must
be chosen without them, too. The criteria here need only labeled source examples that were not
trained on, and the target's x. Each criterion is a risk: smaller is better. :func:`choose` tells
how much such a choice costs, compared with that of an oracle that sees the target's labels
(Musgrave et al. 2021, arXiv 2111.15672).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np


def importance_weighted_risk(losses: np.ndarray, weights: np.ndarray) -> float:
    """Estimate the target's risk from source examples: the mean of ``weights * losses``.

    This is importance-weighted validation (Sugiyama et al. 2007, *Covariate Shift Adaptation by
    Importance Weighted Cross Validation*, JMLR 8). Where only the distribution of x differs and the
    weights are ``p_target(x) / p_source(x)``, its expectation is the target's risk. Where the
    weights vary much, the estimate may be far from it.

    Parameters
    ----------
    losses : (n,) array-like
        Losses of the model on source examples that it was not trained on, such as ``predicted !=
        y``.
    weights : (n,) array-like
        Density ratios of these examples, as :func:`tlbook.methods.weighting.density_ratio`
        estimates them, not scaled.

    Returns
    -------
    float
        Estimated risk, in units of the losses.

    Raises
    ------
    ValueError
        If the shapes differ or are not (n,), a number is not finite, or a weight is negative.
    """
    losses, weights = _checked(losses, weights)
    return float(np.mean(weights * losses))


def dev_risk(losses: np.ndarray, weights: np.ndarray) -> float:
    """Estimate the target's risk with less variance, by deep embedded validation.

    The mean of true density ratios is 1. Where the mean of these weights is off, the estimate of
    :func:`importance_weighted_risk` is corrected. The correction is the difference times the slope
    by which weighted losses follow weights (a control variate; You et al. 2019, *Towards Accurate
    Model Selection in Deep Unsupervised Domain Adaptation*, ICML). The paper takes weights from the
    features of the model that is judged.

    Parameters
    ----------
    losses : (n,) array-like
        Losses of the model on two or more source examples that it was not trained on.
    weights : (n,) array-like
        Density ratios of these examples, not scaled.

    Returns
    -------
    float
        Estimated risk, in units of the losses. It may be negative.

    Raises
    ------
    ValueError
        If there are fewer than two examples, the shapes differ or are not (n,), a number is not
        finite, or a weight is negative.
    """
    losses, weights = _checked(losses, weights)
    if len(weights) < 2:
        raise ValueError("a variance needs at least two examples")
    (_, covariance), (_, variance) = np.cov(weights * losses, weights)
    slope = covariance / variance if variance > 0 else 0.0  # equal weights: no shift
    return float(np.mean(weights * losses) - slope * (weights.mean() - 1))


def entropy_risk(probabilities: np.ndarray, *, diversity: float = 0.0) -> float:
    """Compute how unsure a model is of target examples: the mean entropy of its predictions.

    The smallest entropy belongs to a model that gives every example the same answer with certainty.
    ``diversity`` weighs a term against this: the entropy of the mean prediction, which is
    subtracted. With 1, the result is minus the mutual information of example and prediction (Shi
    and Sha 2012, arXiv 1206.6438). This suits targets whose classes are about equally frequent.

    Parameters
    ----------
    probabilities : (n, classes) array-like
        Predicted probabilities of target examples. Each row adds up to 1.
    diversity : float, default 0.0
        Weight of the entropy of the mean prediction.

    Returns
    -------
    float
        Risk, in nats.

    Raises
    ------
    ValueError
        If ``probabilities`` is not (n, classes), has a negative number, or a row does not add up to
        1.
    """
    p = np.asarray(probabilities, dtype=float)
    if p.ndim != 2 or not len(p) or not (p >= 0).all() or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise ValueError("probabilities must be (n, classes), not negative, and add up to 1 by row")
    return float(_entropy(p).mean() - diversity * _entropy(p.mean(0)))


@dataclass(frozen=True)
class Choice:
    """Hold the candidate chosen without labels, and the one that the oracle would choose.

    Attributes
    ----------
    chosen : hashable
        Candidate of smallest risk.
    oracle : hashable
        Candidate of largest score on target labels.
    gap : float
        Score of the oracle's candidate minus that of the chosen one, in units of the score. This is
        the cost of having no labels. It is 0 where both agree.
    """

    chosen: Hashable
    oracle: Hashable
    gap: float


def choose(risks: Mapping[Hashable, float], scores: Mapping[Hashable, float]) -> Choice:
    """Choose the candidate of smallest risk, and compare it with that of the largest score.

    Where candidates are equal, the first is taken.

    Parameters
    ----------
    risks : mapping of hashable to float
        For each candidate (a name, a value of lambda), a criterion that needs no labels. Smaller is
        better.
    scores : mapping of hashable to float
        For the same candidates, the score on target labels. Larger is better. Only the oracle and
        the gap depend on it.

    Returns
    -------
    Choice
        Both candidates, and the gap between their scores.

    Raises
    ------
    ValueError
        If there are no candidates, the candidates differ, or a number is not finite.
    """
    if not risks or risks.keys() != scores.keys():
        raise ValueError(
            f"risks and scores must be of the same candidates, not {list(risks)} and {list(scores)}"
        )
    if not np.isfinite([*risks.values(), *scores.values()]).all():
        raise ValueError(f"risks {dict(risks)} and scores {dict(scores)} must be finite")
    chosen, oracle = min(risks, key=risks.get), max(risks, key=scores.get)
    return Choice(chosen, oracle, float(scores[oracle] - scores[chosen]))


def _entropy(p: np.ndarray) -> np.ndarray:
    """Return the entropy of distributions in the last axis; 0 log 0 counts as 0."""
    return -(p * np.log(np.where(p > 0, p, 1))).sum(-1)


def _checked(losses, weights) -> tuple[np.ndarray, np.ndarray]:
    losses, weights = np.asarray(losses, dtype=float), np.asarray(weights, dtype=float)
    if losses.ndim != 1 or losses.shape != weights.shape or not len(losses):
        raise ValueError(
            "one loss and one weight of each example are needed, not shapes "
            f"{losses.shape} and {weights.shape}"
        )
    if not np.isfinite([losses, weights]).all() or (weights < 0).any():
        raise ValueError("losses and weights must be finite, and weights not negative")
    return losses, weights
