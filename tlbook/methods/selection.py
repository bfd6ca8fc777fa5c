"""Choose a model for a target domain without its labels.

Adaptation is for targets without labels, so its settings (lambda, epochs, the method itself) must
be chosen without them, too. The criteria here need only labeled source examples that were not
trained on, and the target's x. Each criterion is a risk: smaller is better. :func:`choose` lets
each seed choose by such risks, and :func:`take_chosen` gives what the seeds chose. How much the
choice costs, an oracle that sees the target's labels can tell (Musgrave et al. 2021, arXiv
2111.15672): its risk is another mapping for :func:`choose`.
"""

from collections.abc import Hashable, Mapping, Sequence

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


def choose(risks: Mapping[Hashable, Sequence[float]]) -> list[Hashable]:
    """Choose the candidate of smallest risk, for each seed by itself.

    Where candidates are equal, the first is taken.

    Parameters
    ----------
    risks : mapping of hashable to (seeds,) array-like
        For each candidate (a name, a value of lambda) its risk with each seed. Smaller is better.

    Returns
    -------
    list of hashable
        The candidate that each seed chooses.

    Raises
    ------
    ValueError
        If there are no candidates, they differ in the number of seeds, or a risk is not finite.
    """
    shapes = {name: np.shape(of_seeds) for name, of_seeds in risks.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 1:
        raise ValueError(f"each candidate needs one risk for each seed, not shapes {shapes}")
    table = np.array(list(risks.values()), dtype=float)
    if not np.isfinite(table).all():
        raise ValueError(f"risks {dict(risks)} must be finite")
    candidates = list(risks)
    return [candidates[first] for first in table.argmin(axis=0)]


def take_chosen(values: Mapping[Hashable, np.ndarray], chosen: Sequence[Hashable]) -> np.ndarray:
    """Take from each seed's run what belongs to the candidate that this seed chose.

    Parameters
    ----------
    values : mapping of hashable to (seeds, ...) array-like
        For each candidate what its runs gave, such as predictions, seed by seed.
    chosen : sequence of hashable
        The candidate of each seed, as :func:`choose` returns it.

    Returns
    -------
    (seeds, ...) numpy.ndarray
        The values of the first seed's choice with the first seed, and so on.

    Raises
    ------
    KeyError
        If a chosen candidate has no values.
    ValueError
        If a chosen candidate has values of more or fewer seeds than there are choices.
    """
    for candidate in chosen:
        if len(values[candidate]) != len(chosen):
            raise ValueError(
                f"{len(chosen)} choices, but {candidate!r} has {len(values[candidate])} seeds"
            )
    return np.stack([values[candidate][s] for s, candidate in enumerate(chosen)])


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
