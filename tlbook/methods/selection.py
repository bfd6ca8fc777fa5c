"""Choosing a model for a target domain without its labels.

Adaptation is for targets without labels, so its settings (lambda, epochs, the method itself) must
be chosen without them, too. The criteria here need none: labeled source examples that were not
trained on, and the target's x. Each is a risk: smaller is better. :func:`choose` tells what such
a choice costs against the oracle's, who sees the target's labels (Musgrave et al. 2021, arXiv
2111.15672).
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

import numpy as np


def importance_weighted_risk(losses: np.ndarray, weights: np.ndarray) -> float:
    """The target's risk from source validation examples: the mean of ``weights * losses``.

    Importance-weighted validation (Sugiyama et al. 2007, *Covariate Shift Adaptation by Importance
    Weighted Cross Validation*, JMLR 8). Where only the distribution of x differs and the weights
    are ``p_target(x) / p_source(x)``, its expectation is the target's risk; where they vary much,
    it may be far from it.

    Parameters
    ----------
    losses : (n,) losses of the model on source examples that it was not trained on, such as
        ``predicted != y``
    weights : (n,) density ratios of these examples, as
        :func:`tlbook.methods.weighting.density_ratio` estimates them, not scaled

    Raises ValueError for other shapes, numbers that are not finite, or negative weights.
    """
    losses, weights = _checked(losses, weights)
    return float(np.mean(weights * losses))


def dev_risk(losses: np.ndarray, weights: np.ndarray) -> float:
    """Deep embedded validation: :func:`importance_weighted_risk` with less variance.

    The mean of true density ratios is 1. By as much as that of these examples is off, the risk is
    corrected, with the slope by which weighted losses follow weights (a control variate; You et
    al. 2019, *Towards Accurate Model Selection in Deep Unsupervised Domain Adaptation*, ICML). The
    paper takes weights from the features of the model that is judged. The result may be negative.

    Arguments and errors are as of :func:`importance_weighted_risk`, of two examples or more.
    """
    losses, weights = _checked(losses, weights)
    if len(weights) < 2:
        raise ValueError("a variance needs at least two examples")
    (_, covariance), (_, variance) = np.cov(weights * losses, weights)
    slope = covariance / variance if variance > 0 else 0.0  # equal weights: no shift
    return float(np.mean(weights * losses) - slope * (weights.mean() - 1))


def entropy_risk(probabilities: np.ndarray, *, diversity: float = 0.0) -> float:
    """How unsure a model is of target examples: the mean entropy of its predictions, in nats.

    A model that says the same of every example with certainty has the smallest entropy there is.
    ``diversity`` is the weight of what speaks against it: the entropy of the mean prediction, which
    is subtracted. With 1 the result is minus the mutual information of example and prediction
    (Shi and Sha 2012, arXiv 1206.6438); it suits targets whose classes are about equally frequent.

    Parameters
    ----------
    probabilities : (n, classes), each row adding up to 1

    Raises ValueError for anything else.
    """
    p = np.asarray(probabilities, dtype=float)
    if p.ndim != 2 or not len(p) or not (p >= 0).all() or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise ValueError("probabilities must be (n, classes), not negative, and add up to 1 by row")
    return float(_entropy(p).mean() - diversity * _entropy(p.mean(0)))


@dataclass(frozen=True)
class Choice:
    """The candidate chosen without labels, and the one that the oracle would choose."""

    chosen: Hashable
    oracle: Hashable
    gap: float  # of their scores: what having no labels costs, 0 where both agree


def choose(risks: Mapping[Hashable, float], scores: Mapping[Hashable, float]) -> Choice:
    """The candidate of smallest risk, beside that of the largest score on target labels.

    Parameters
    ----------
    risks : candidate (a name, a value of lambda) -> label-free criterion, smaller is better
    scores : the same candidates -> score with target labels, larger is better. Only the gap and
        the oracle depend on it

    Of candidates that are equal, the first is taken.

    Raises ValueError for no candidates, different ones, or numbers that are not finite.
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
    """Of distributions in the last axis; 0 log 0 is 0."""
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
