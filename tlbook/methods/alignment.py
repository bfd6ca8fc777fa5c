"""Domain adaptation (领域自适应, S15) by alignment: source and target are made to look alike.

The target has no labels; those of the source train the classifier. What differs between methods is
how far apart two domains are said to be:

- :func:`coral_loss` compares covariances, :func:`mmd` means in the space of a kernel.
  :func:`aligned` trains a network on the source's labels and against such a distance between its
  features.
- :func:`domain_adversarial` trains against a discriminator of domains instead.
- :class:`CORAL` and :class:`OTMapping` leave the features as they are and map those of the source
  onto the target's, for scikit-learn's classifiers.
- :func:`mmd_test` tells whether two samples differ at all.

Losses take batches of :class:`tlbook.learning.batches.Pairs`, and ask the loop for them in one
piece, since they compare the examples of a batch.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.covariance import empirical_covariance, ledoit_wolf, shrunk_covariance
from sklearn.metrics import pairwise_distances, pairwise_distances_argmin
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import nn
from torch.nn import functional as F

from tlbook.learning.protocol import (
    Logs,
    Loss,
    Weight,
    accuracy_of,
    activations,
    auxiliary_of,
    labels_of,
    split_domains,
    weight_at,
)
from tlbook.methods.weighting import checked_source


# --- how far apart two samples are --------------------------------------------------------------
def coral_loss(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Squared distance of the covariances of (n, d) and (m, d) features, over 4 d^2: Deep CORAL
    (Sun & Saenko 2016, arXiv 1607.01719). Means are not compared.

    Raises ValueError for different dimensions or fewer than two examples of a domain.
    """
    source, target = _vectors(source, target)
    difference = torch.atleast_2d(source.T.cov() - target.T.cov())
    return difference.square().sum() / (4 * source.shape[1] ** 2)


def mmd(
    source: torch.Tensor,
    target: torch.Tensor,
    bandwidths: Sequence[float] | None = None,
    unbiased: bool = False,
) -> torch.Tensor:
    """Squared maximum mean discrepancy of (n, d) and (m, d) samples (Gretton et al. 2012, *A Kernel
    Two-Sample Test*, JMLR 13).

    The kernel is the mean of Gaussian ones, ``exp(-distance^2 / (2 bandwidth^2))``, as in deep
    adaptation networks (Long et al. 2015, arXiv 1502.02791).

    Parameters
    ----------
    bandwidths : in units of the features; by default 1/4, 1/2, 1, 2 and 4 times the median distance
        of all examples, which counts as a constant in the gradient
    unbiased : leave out the similarity of each example with itself. Its mean is 0 for samples of
        one distribution, so it may be negative; the biased one is never below 0

    Raises ValueError for different dimensions, fewer than two examples of a domain, or bandwidths
    that are not positive.
    """
    source, target = _vectors(source, target)
    n = len(source)
    kernel = _kernel(torch.cat([source, target]), bandwidths)
    ours, theirs, between = kernel[:n, :n], kernel[n:, n:], kernel[:n, n:]
    if not unbiased:
        return ours.mean() + theirs.mean() - 2 * between.mean()
    within = [(k.sum() - k.trace()) / (len(k) * (len(k) - 1)) for k in (ours, theirs)]
    return sum(within) - 2 * between.mean()


def transport_plan(cost: np.ndarray, regularization: float = 0.0) -> np.ndarray:
    """(n, m) shares of mass to move from each row to each column at the least cost, by POT.

    All rows have the same mass, and so have all columns; together they have 1. A
    ``regularization`` above 0, in units of the mean cost, spreads the plan out: it is then
    Sinkhorn's (Cuturi 2013, arXiv 1306.0895).

    Raises ValueError for costs that are not finite or a negative ``regularization``.
    """
    if not np.isfinite(cost).all() or not regularization >= 0:
        raise ValueError(f"costs must be finite, and regularization={regularization} at least 0")
    ot, cost = _pot(), np.ascontiguousarray(cost, dtype=np.float64)
    rows, columns = (np.full(count, 1 / count) for count in cost.shape)
    if not regularization:
        return ot.emd(rows, columns, cost, numItermax=1_000_000)
    strength = regularization * (cost.mean() or 1.0)
    # in logarithms: kernels of large costs would underflow
    return ot.sinkhorn(rows, columns, cost, strength, method="sinkhorn_log")


def _pot():
    """POT, without the frameworks it would load for its own use if they are installed: TensorFlow
    alone takes seconds."""
    for framework in ("TENSORFLOW", "JAX", "CUPY"):
        os.environ.setdefault(f"POT_BACKEND_DISABLE_{framework}", "1")
    try:
        import ot
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("optimal transport is POT's: pip install POT") from error
    return ot


def _vectors(source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both as (n, d), with whatever dimensions an example has in a row."""
    alike = source.ndim > 1 and source.shape[1:] == target.shape[1:]
    if not alike or min(len(source), len(target)) < 2:
        raise ValueError(
            "two or more examples of each domain are needed, as (n, d) and (m, d), not "
            f"{tuple(source.shape)} and {tuple(target.shape)}"
        )
    return source.flatten(1), target.flatten(1)


def _squared_distances(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    # the faster way through a matrix product loses small distances to rounding
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def _kernel(x: torch.Tensor, bandwidths: Sequence[float] | None) -> torch.Tensor:
    """(n, n) similarities of all examples (n, d) with each other."""
    if bandwidths is not None and not (len(bandwidths) and min(bandwidths) > 0):
        raise ValueError(f"bandwidths={bandwidths} must be one or more positive numbers")
    squared = _squared_distances(x, x)
    if bandwidths is None:
        apart = ~torch.eye(len(x), dtype=torch.bool, device=x.device)
        median = squared[apart].median().sqrt().item() or 1.0
        bandwidths = [median * 2.0**power for power in range(-2, 3)]
    return sum(torch.exp(-squared / (2 * width**2)) for width in bandwidths) / len(bandwidths)


class PermutationTest(NamedTuple):
    """What :func:`mmd_test` finds."""

    statistic: float
    pvalue: float


def mmd_test(
    x: np.ndarray,
    y: np.ndarray,
    bandwidths: Sequence[float] | None = None,
    *,
    permutations: int = 999,
    seed: int = 0,
) -> PermutationTest:
    """Do two samples (n, d) and (m, d) come from one distribution? A permutation test.

    If they do, it does not matter which examples are said to be of the one and which of the other:
    the p-value is the share of such divisions, the true one among them, whose :func:`mmd` (biased)
    is at least as large. Under the null hypothesis it is at most 0.05 in at most 5 % of cases,
    whatever the sizes. Examples must be independent: groups of like ones make it too small.

    Raises ValueError as :func:`mmd`, for numbers that are not finite, or fewer than one
    permutation.
    """
    if permutations < 1:
        raise ValueError(f"permutations={permutations} must be at least 1")
    x, y = _vectors(*(torch.as_tensor(sample, dtype=torch.float64) for sample in (x, y)))
    both = torch.cat([x, y])
    if not both.isfinite().all():  # no comparison with NaN holds: the p-value would be 0
        raise ValueError("samples must be finite: leave out rows with missing numbers")
    kernel = _kernel(both, bandwidths).numpy()
    # with signs 1/n for the one and -1/m for the other, the squared MMD is signs @ kernel @ signs
    signs = np.repeat([1 / len(x), -1 / len(y)], [len(x), len(y)])
    rng = np.random.default_rng(seed)
    divisions = np.vstack([signs, rng.permuted(np.tile(signs, (permutations, 1)), axis=1)])
    found = ((divisions @ kernel) * divisions).sum(axis=1)
    # the same division may come again, and its sum in another order
    return PermutationTest(float(found[0]), float(np.mean(found >= found[0] - 1e-12)))


# --- training on both domains -------------------------------------------------------------------
def aligned(
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    *layers: str,
    weight: Weight = 1.0,
) -> Loss:
    """Cross-entropy on the source, plus ``weight`` times a distance of the domains, summed over
    layers: of what these put out for the source and for the target.

    ``distance`` is :func:`coral_loss`, :func:`mmd`, or any other function
    of (n, d) and (m, d) features. Labels of the target are not used, also where the batch has
    them. Both domains pass the network together, so batch normalization sees them as one. The
    logs hold the ``accuracy`` on the source and the ``distance``.

    Raises ValueError for no layers. The loss raises ValueError or KeyError for a batch without
    source columns or their labels, or domains whose columns differ.
    """
    if not layers:
        raise ValueError("name one or more layers whose outputs to align")

    def loss_fn(model, batch):
        loss, logs, features = _source_loss(model, batch, layers)
        far = sum(distance(source, target) for source, target in features)
        logs |= {"distance": far.item()}
        return loss + weight_at(weight, batch) * far, logs

    loss_fn.whole = True  # domains are compared by all of a batch
    return loss_fn


def dann_schedule(progress: float) -> float:
    """``2 / (1 + exp(-10 progress)) - 1``: from 0, so that a new discriminator does no harm, to
    nearly 1 (Ganin et al. 2016, arXiv 1505.07818)."""
    return 2 / (1 + math.exp(-10 * progress)) - 1


def domain_adversarial(layer: str, weight: Weight = dann_schedule) -> Loss:
    """Cross-entropy on the source, and a discriminator of domains that the features are to deceive
    (DANN: Ganin et al. 2016, arXiv 1505.07818).

    ``model`` is a :class:`tlbook.learning.networks.WithAuxiliary`, whose ``auxiliary`` makes of the
    features that ``layer`` puts out one logit, positive for the source, such as ``MLP([d, 64,
    1])``. It learns to tell the domains apart; its gradient reaches the features reversed, times
    ``weight``. Otherwise as :func:`aligned`. The logs hold the discriminator's
    ``domain_accuracy``, 0.5 where it guesses, and the ``weight``.

    The loss raises ValueError for a model without ``auxiliary``, or for one that does not make one
    logit of each example.
    """

    def loss_fn(model, batch):
        loss, logs, ((source, target),) = _source_loss(model, batch, [layer])
        now = weight_at(weight, batch)
        features = reverse_gradient(torch.cat([source, target]), now)
        logits = auxiliary_of(model)(features).squeeze(-1)
        truth = torch.cat([torch.ones(len(source)), torch.zeros(len(target))]).to(logits)
        if logits.shape != truth.shape:
            raise ValueError(
                f"the discriminator makes {tuple(logits.shape)} of {len(truth)} examples: it must "
                "make one logit of each"
            )
        right = ((logits > 0) == (truth > 0)).float().mean().item()
        logs |= {"domain_accuracy": right, "weight": now}
        return loss + F.binary_cross_entropy_with_logits(logits, truth), logs

    loss_fn.whole = True  # both domains pass the network together
    return loss_fn


def reverse_gradient(x: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """``x`` itself; its gradient is multiplied by ``-weight`` (Ganin & Lempitsky 2015, arXiv
    1409.7495)."""
    return _ReverseGradient.apply(x, weight)


class _ReverseGradient(torch.autograd.Function):
    @staticmethod
    def forward(context, x, weight):
        context.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(context, gradient):
        return -context.weight * gradient, None


def _source_loss(
    model: nn.Module, batch: Mapping[str, torch.Tensor], layers: Sequence[str]
) -> tuple[torch.Tensor, Logs, list[tuple[torch.Tensor, torch.Tensor]]]:
    """Cross-entropy on the source, its logs, and for each layer the features of source and target.

    Both go through the network in one pass, the source first.
    """
    source, target = split_domains(batch)
    labels = labels_of(source)
    inputs = source.keys() - {"labels"}
    if missing := inputs - target.keys():
        raise KeyError(f"the target has no column {sorted(missing)}, but the source has")
    # sequences are padded with what the mask leaves out
    stack = _padded if "attention_mask" in inputs else _stacked
    both = {name: stack(source[name], target[name]) for name in inputs}
    logits, outputs = activations(model, both, layers)
    n, logits = len(labels), logits[: len(labels)]
    features = [(output[:n], output[n:]) for output in outputs]
    return F.cross_entropy(logits, labels), {"accuracy": accuracy_of(logits, labels)}, features


def _padded(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return nn.utils.rnn.pad_sequence([*source, *target], batch_first=True)


def _stacked(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    if source.shape[1:] != target.shape[1:]:
        raise ValueError(
            f"an example of the source is {tuple(source.shape[1:])}, one of the target "
            f"{tuple(target.shape[1:])}: one network needs inputs of one shape"
        )
    return torch.cat([source, target])


# --- features mapped onto the target ------------------------------------------------------------
class _SourceMapping(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """What :class:`CORAL` and :class:`OTMapping` share: which rows are moved, and which are not."""

    def fit(self, X, y=None, source=None):
        """Learn the map from rows of both domains.

        Parameters
        ----------
        X : (n, d) features of both domains
        y : not used
        source : (n,) booleans, True for rows of the source. Without it all rows are the target's,
            so there is nothing to align, and :meth:`transform` changes nothing

        Raises ValueError for a ``source`` of another type or shape, or fewer than two rows of one
        domain.
        """
        X = validate_data(self, X, dtype=(np.float64, np.float32))
        rows = _source_rows(X, source)
        self.aligned_ = source is not None
        if self.aligned_:
            if min(rows.sum(), (~rows).sum()) < 2:
                raise ValueError(
                    f"{rows.sum()} rows are of the source and {(~rows).sum()} of the target, but "
                    "two or more of each are needed to align them"
                )
            self._fit(X[rows].astype(np.float64), X[~rows].astype(np.float64))
        return self

    def transform(self, X, source=None):
        """``X`` with the rows of the source moved onto the target, and the target's as they are.

        Without ``source`` all rows are the target's, as they are when a classifier that was fitted
        on the moved source predicts.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False, copy=True)
        rows = _source_rows(X, source)
        if self.aligned_ and rows.any():
            X[rows] = self._map(X[rows].astype(np.float64))
        return X

    def fit_transform(self, X, y=None, source=None):
        """:meth:`fit`, then :meth:`transform`, both with this ``source``."""
        return self.fit(X, y, source=source).transform(X, source=source)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _source_rows(X: np.ndarray, source) -> np.ndarray:
    return checked_source(np.zeros(len(X), dtype=bool) if source is None else source, len(X))


class CORAL(_SourceMapping):
    """Correlation alignment: the source gets the target's mean and covariance (Sun et al. 2016,
    arXiv 1511.05547).

    Rows of the source are whitened with their own covariance and colored with the target's. What
    that does depends on the units of the features: the paper starts from standardized ones, whose
    means agree; here means are aligned as well.

    >>> Z = CORAL().fit_transform(X, source=source)                     # doctest: +SKIP
    >>> LogisticRegression().fit(Z[source], y[source]).predict(X_test)  # doctest: +SKIP

    Parameters
    ----------
    shrinkage : of the covariances, as in scikit-learn's ``LinearDiscriminantAnalysis``: ``"auto"``
        by the lemma of Ledoit and Wolf, or a number from 0, not at all, to 1

    Attributes
    ----------
    source_mean_, target_mean_ : (d,)
    matrix_ : (d, d); a centered row times this is the row mapped
    """

    def __init__(self, shrinkage: float | str = "auto"):
        self.shrinkage = shrinkage

    def _fit(self, source: np.ndarray, target: np.ndarray) -> None:
        self.source_mean_, self.target_mean_ = source.mean(axis=0), target.mean(axis=0)
        whiten = _power(_covariance(source, self.shrinkage), -0.5)
        self.matrix_ = whiten @ _power(_covariance(target, self.shrinkage), 0.5)

    def _map(self, rows: np.ndarray) -> np.ndarray:
        return (rows - self.source_mean_) @ self.matrix_ + self.target_mean_


class OTMapping(_SourceMapping):
    """Optimal transport of the source onto the target (Courty et al. 2017, arXiv 1507.00504).

    A row of the source goes to the mean of the target rows that its mass goes to (the barycentric
    map). A row that was not there in :meth:`fit` moves as the nearest one that was (Ferradans et
    al. 2014, arXiv 1307.5551).

    Parameters
    ----------
    regularization : as in :func:`transport_plan`: 0 for the exact plan; more spreads it out, up
        to one where all rows go to the mean of the target

    Attributes
    ----------
    source_, shift_ : (n_source, d) rows of the source in :meth:`fit`, and how they move
    """

    def __init__(self, regularization: float = 0.0):
        self.regularization = regularization

    def _fit(self, source: np.ndarray, target: np.ndarray) -> None:
        cost = pairwise_distances(source, target, metric="sqeuclidean")
        plan = transport_plan(cost, self.regularization)
        self.source_ = source
        self.shift_ = plan @ target / plan.sum(axis=1, keepdims=True) - source

    def _map(self, rows: np.ndarray) -> np.ndarray:
        return rows + self.shift_[pairwise_distances_argmin(rows, self.source_)]


def _covariance(x: np.ndarray, shrinkage: float | str) -> np.ndarray:
    if shrinkage == "auto":
        # in units of the standard deviations, so that no feature is shrunk for its unit
        scale = x.std(axis=0)
        scale[scale == 0] = 1
        return ledoit_wolf(x / scale)[0] * np.outer(scale, scale)
    if isinstance(shrinkage, str) or not 0 <= shrinkage <= 1:
        raise ValueError(f"shrinkage={shrinkage!r} must be 'auto' or a number in 0..1")
    return shrunk_covariance(empirical_covariance(x), shrinkage)


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """A symmetric power of a covariance."""
    values, vectors = np.linalg.eigh(covariance)
    least = values.max() * len(values) * np.finfo(float).eps
    if exponent < 0 and values.min() <= least:
        raise ValueError(
            "the covariance of the source has no inverse: more rows than features are needed, or "
            "a shrinkage above 0"
        )
    return (vectors * np.clip(values, 0, None) ** exponent) @ vectors.T
