"""Adapt to a domain (领域自适应, S15) by alignment: make source and target look alike.

The target has no labels; those of the source train the classifier. The methods differ in how they
measure the distance between two domains:

- :func:`coral_loss` compares covariances, :func:`mmd` means in the space of a kernel.
  :func:`aligned` trains a network on the source's labels and against such a distance between its
  features.
- :func:`domain_adversarial` trains against a discriminator of domains instead.
- :class:`CORAL` and :class:`OTMapping` leave the target's features as they are and map those of the
  source onto them, for scikit-learn's classifiers.
- :func:`mmd_test` tells whether two samples differ at all.

Losses take batches of :class:`tlbook.learning.batches.Pairs`. They compare the examples of a batch,
so they ask the loop for it in one piece.

The book explains it in *Two domains, one without labels*.
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
    """Compute the squared distance of two covariance matrices, over 4 d^2 (Deep CORAL).

    This is the loss of Sun & Saenko 2016 (arXiv 1607.01719). It does not compare means.

    Parameters
    ----------
    source : (n, d) torch.Tensor
        Features of source examples, two or more.
    target : (m, d) torch.Tensor
        Features of target examples, two or more.

    Returns
    -------
    () torch.Tensor
        The loss.

    Raises
    ------
    ValueError
        If the dimensions differ, or a domain has fewer than two examples.
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
    """Compute the squared maximum mean discrepancy of two samples.

    The discrepancy is that of Gretton et al. 2012 (*A Kernel Two-Sample Test*, JMLR 13). The kernel
    is the mean of Gaussian ones, ``exp(-distance^2 / (2 bandwidth^2))``, as in deep adaptation
    networks (Long et al. 2015, arXiv 1502.02791).

    Parameters
    ----------
    source : (n, d) torch.Tensor
        Features of source examples, two or more.
    target : (m, d) torch.Tensor
        Features of target examples, two or more.
    bandwidths : sequence of float, optional
        Widths of the kernels, in units of the features. By default they are 1/4, 1/2, 1, 2 and 4
        times the median distance between examples, which counts as a constant in the gradient.
    unbiased : bool, default False
        Whether to leave out the similarity of each example with itself. The unbiased estimate has
        mean 0 for samples of one distribution, so it may be negative. The biased one is never below
        0.

    Returns
    -------
    () torch.Tensor
        The squared discrepancy.

    Raises
    ------
    ValueError
        If the dimensions differ, a domain has fewer than two examples, or a bandwidth is not
        positive.
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
    """Compute how to move mass from rows to columns at the least cost, with POT.

    All rows have the same mass, and so have all columns. The rows together have mass 1, and so do
    the columns.

    Parameters
    ----------
    cost : (n, m) numpy.ndarray
        Cost of moving one unit of mass from each row to each column.
    regularization : float, default 0.0
        Strength of the entropy term, in units of the mean cost. A value above 0 spreads the plan
        out and gives Sinkhorn's plan (Cuturi 2013, arXiv 1306.0895). With 0 the plan is exact.

    Returns
    -------
    (n, m) numpy.ndarray
        Mass to move from each row to each column.

    Raises
    ------
    ValueError
        If a cost is not finite, or ``regularization`` is negative.
    ModuleNotFoundError
        If POT is not installed.
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
    """Hold the result of :func:`mmd_test`.

    Attributes
    ----------
    statistic : float
        Squared maximum mean discrepancy of the two samples, the biased estimate.
    pvalue : float
        Share of the divisions of the examples whose discrepancy is at least as large.
    """

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
    """Test by permutation whether two samples come from one distribution.

    If they do, it does not matter which examples belong to which sample. The p-value is the share
    of such divisions, the true one among them, whose :func:`mmd` (biased) is at least as large.
    Under the null hypothesis it is at most 0.05 in at most 5 % of cases, for samples of any size.
    Examples must be independent: groups of similar examples make the p-value too small.

    Parameters
    ----------
    x : (n, d) numpy.ndarray
        First sample, two or more examples.
    y : (m, d) numpy.ndarray
        Second sample, two or more examples.
    bandwidths : sequence of float, optional
        Widths of the kernels, in units of the features, as for :func:`mmd`.
    permutations : int, default 999
        Number of random divisions to compare with the true one.
    seed : int, default 0
        Seed of the random divisions.

    Returns
    -------
    PermutationTest
        The discrepancy and its p-value.

    Raises
    ------
    ValueError
        If a number is not finite, there is fewer than one permutation, or :func:`mmd` would refuse
        the samples or bandwidths.
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
    """Return a loss that trains on the source and pulls the features of both domains together.

    The loss is the cross-entropy on the source plus ``weight`` times a distance of the domains. The
    distance compares what a layer puts out for the source and for the target, and is summed over
    layers. Labels of the target are not used, even where the batch has them. Both domains pass
    through the network together, so batch normalization sees them as one.

    Parameters
    ----------
    distance : callable
        Function of (n, d) source and (m, d) target features, such as :func:`coral_loss` or
        :func:`mmd`.
    *layers : str
        Names of the layers whose outputs are compared, one or more.
    weight : float or callable, default 1.0
        Weight of the distance, or a function that gives it for the progress of training in 0..1.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold the ``accuracy`` on the source and the ``distance``. It raises
        ValueError or KeyError for a batch without source columns or their labels, or where the
        columns of the domains differ.

    Raises
    ------
    ValueError
        If no layer is named.
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
    """Return the weight of the reversed gradient for the progress of training.

    The weight is ``2 / (1 + exp(-10 progress)) - 1``. It starts at 0, so that a new discriminator
    does no harm, and rises to nearly 1 (Ganin et al. 2016, arXiv 1505.07818).

    Parameters
    ----------
    progress : float
        Share of training that is done, in 0..1.

    Returns
    -------
    float
        Weight in 0..1.
    """
    return 2 / (1 + math.exp(-10 * progress)) - 1


def domain_adversarial(layer: str, weight: Weight = dann_schedule) -> Loss:
    """Return a loss whose features must fool a discriminator of domains (DANN).

    The loss is the cross-entropy on the source plus that of the discriminator, which learns to tell
    the domains apart. The discriminator's gradient reaches the features reversed, times ``weight``
    (Ganin et al. 2016, arXiv 1505.07818). As in :func:`aligned`, labels of the target are not used,
    and both domains pass through the network together.

    The model is a :class:`tlbook.learning.networks.WithAuxiliary`. Its ``auxiliary`` is the
    discriminator: it turns the features of ``layer`` into one logit, positive for the source. An
    example is ``MLP([d, 64, 1])``.

    Parameters
    ----------
    layer : str
        Name of the layer whose output the discriminator sees.
    weight : float or callable, default dann_schedule
        Weight of the reversed gradient, or a function that gives it for the progress of training in
        0..1.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold the ``accuracy`` on the source, the ``weight``, and the
        discriminator's ``domain_accuracy``, which is 0.5 where it guesses. It raises ValueError for
        a model without ``auxiliary``, or where ``auxiliary`` does not make one logit for each
        example. It raises the errors of :func:`aligned`'s loss as well.
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
    """Return the input itself, and multiply its gradient by ``-weight`` on the way back.

    This is the gradient reversal of Ganin & Lempitsky 2015 (arXiv 1409.7495).

    Parameters
    ----------
    x : (...) torch.Tensor
        Any tensor.
    weight : float, default 1.0
        Factor of the reversed gradient.

    Returns
    -------
    (...) torch.Tensor
        The values of ``x``.
    """
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
    """Share what :class:`CORAL` and :class:`OTMapping` have in common: which rows are moved."""

    def fit(self, X, y=None, source=None):
        """Learn the map from rows of both domains.

        Parameters
        ----------
        X : (n, d) array-like
            Features of both domains.
        y : None
            Not used.
        source : (n,) array-like of bool, optional
            True for rows of the source. Without it all rows are the target's. Then there is nothing
            to align, and :meth:`transform` changes nothing.

        Returns
        -------
        self
            The fitted transformer.

        Raises
        ------
        ValueError
            If ``source`` has another type or shape, or a domain has fewer than two rows.
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
        """Move the rows of the source onto the target, and leave the target's as they are.

        Parameters
        ----------
        X : (n, d) array-like
            Features of either domain or of both.
        source : (n,) array-like of bool, optional
            True for rows of the source. Without it all rows are the target's, as they are when a
            classifier that was fitted on the moved source predicts.

        Returns
        -------
        (n, d) numpy.ndarray
            A copy of ``X`` with the rows of the source moved.

        Raises
        ------
        ValueError
            If ``source`` has another type or shape.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=(np.float64, np.float32), reset=False, copy=True)
        rows = _source_rows(X, source)
        if self.aligned_ and rows.any():
            X[rows] = self._map(X[rows].astype(np.float64))
        return X

    def fit_transform(self, X, y=None, source=None):
        """Call :meth:`fit`, then :meth:`transform`, both with this ``source``.

        Parameters
        ----------
        X : (n, d) array-like
            Features of both domains.
        y : None
            Not used.
        source : (n,) array-like of bool, optional
            True for rows of the source, as in :meth:`fit`.

        Returns
        -------
        (n, d) numpy.ndarray
            A copy of ``X`` with the rows of the source moved.

        Raises
        ------
        ValueError
            If ``source`` has another type or shape, or a domain has fewer than two rows.
        """
        return self.fit(X, y, source=source).transform(X, source=source)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _source_rows(X: np.ndarray, source) -> np.ndarray:
    return checked_source(np.zeros(len(X), dtype=bool) if source is None else source, len(X))


class CORAL(_SourceMapping):
    """Give the source the target's mean and covariance: correlation alignment.

    The method is that of Sun et al. 2016 (arXiv 1511.05547). Rows of the source are whitened with
    their own covariance and colored with the target's. The effect depends on the units of the
    features. The paper starts from standardized features, whose means agree; here means are aligned
    as well.

    Parameters
    ----------
    shrinkage : float or "auto", default "auto"
        How far to shrink the covariances, as in scikit-learn's ``LinearDiscriminantAnalysis``:
        ``"auto"`` applies the lemma of Ledoit and Wolf, and a number goes from 0, not at all, to 1.

    Attributes
    ----------
    source_mean_ : (d,) numpy.ndarray
        Mean of the source in :meth:`fit`.
    target_mean_ : (d,) numpy.ndarray
        Mean of the target in :meth:`fit`.
    matrix_ : (d, d) numpy.ndarray
        Matrix that maps a centered row by multiplication from the right.

    Examples
    --------
    >>> Z = CORAL().fit_transform(X, source=source)                     # doctest: +SKIP
    >>> LogisticRegression().fit(Z[source], y[source]).predict(X_test)  # doctest: +SKIP
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
    """Move the source onto the target by optimal transport.

    The method is that of Courty et al. 2017 (arXiv 1507.00504). Each row of the source moves to the
    mean of the target rows that receive its mass (the barycentric map). A row that was not there in
    :meth:`fit` moves in the same way as the nearest one that was (Ferradans et al. 2014, arXiv
    1307.5551).

    Parameters
    ----------
    regularization : float, default 0.0
        Strength of the entropy term, as in :func:`transport_plan`. With 0 the plan is exact. Larger
        values spread it out, up to a plan that moves all rows to the mean of the target.

    Attributes
    ----------
    source_ : (n_source, d) numpy.ndarray
        Rows of the source in :meth:`fit`.
    shift_ : (n_source, d) numpy.ndarray
        Shift of each of these rows, in units of the features.
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


def moved_onto(
    transformer: CORAL | OTMapping, source: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """Fit a transformer to both domains, and move the source.

    Parameters
    ----------
    transformer : CORAL or OTMapping
        The transformer.
    source : (n, d) numpy.ndarray
        Examples of the source.
    target : (m, d) numpy.ndarray
        Examples of the target.

    Returns
    -------
    (n, d) numpy.ndarray
        The examples of the source, moved.
    """
    is_source = np.arange(len(source) + len(target)) < len(source)
    both = np.concatenate([source, target])
    return transformer.fit_transform(both, source=is_source)[is_source]


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
