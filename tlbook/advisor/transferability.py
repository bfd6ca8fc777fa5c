"""Score encoders without training them: how well frozen features or a source head fit labels.

Larger is better in each. They are a pre-filter, no answer: a cross-validated probe
(:func:`probe`) and the nearest neighbor (:func:`nearest_neighbor`) are the controls that any of
them has to beat.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.base import BaseEstimator
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.neighbors import KNeighborsClassifier

from tlbook import checks
from tlbook.learning.heads import linear_head


def log_evidence(features: np.ndarray, target: np.ndarray, alpha: float, beta: float) -> float:
    """Compute the log evidence of a Bayesian linear model of one target.

    With w ~ N(0, I / alpha) and y ~ N(F w, I / beta), the evidence is N(y; 0, C) with
    C = I / beta + F F' / alpha, here by the singular values of F, so exact for any N and D: the
    D - k directions that N < D examples leave open count (D - k) log alpha on both sides, and
    cancel.

    Parameters
    ----------
    features : (n, d) numpy.ndarray of float
        The features F.
    target : (n,) numpy.ndarray of float
        The target y.
    alpha, beta : float
        Precision of the weights and of the noise.

    Returns
    -------
    float
        The log evidence, in nats.
    """
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    return _evidence(*_rotated(u, s, target), len(target), alpha, beta)


def logme(features: np.ndarray, y: np.ndarray) -> float:
    """Compute LogME: the largest log evidence of a linear model per example and class.

    Each class in turn is a target of zeros and ones; alpha and beta maximize its evidence (You et
    al., 2021, arXiv 2102.11005). The authors' fixed-point iteration stops short, and their
    determinant leaves out what N < D examples leave open, so that wide features of noise can win
    with few labels. Here the maximum is searched for on the exact evidence: along
    alpha / beta, where the best beta is known. Where examples are fewer than features, exact copies
    count once.

    Parameters
    ----------
    features : (n, d) numpy.ndarray of float
        Frozen features.
    y : (n,) numpy.ndarray of int
        Labels.

    Returns
    -------
    float
        The mean over classes of the largest log evidence per example, in nats.

    Raises
    ------
    ValueError
        If there are not as many labels as examples, fewer than two classes, or a feature is not
        finite.
    """
    features, y = _checked(features, y)
    if len(y) <= features.shape[1]:
        # without noise, a second copy of an example would be infinitely probable
        _, first = np.unique(np.column_stack([features, y]), axis=0, return_index=True)
        features, y = features[first], y[first]
    u, s, _ = np.linalg.svd(features, full_matrices=False)
    best = [
        _largest_evidence(*_rotated(u, s, (y == label).astype(float)), len(y))
        for label in np.unique(y)
    ]
    return float(np.mean(best) / len(y))


def _rotated(u: np.ndarray, s: np.ndarray, target: np.ndarray) -> tuple:
    """Squared singular values, the target's squared share of each direction, and the rest."""
    share = (u.T @ target) ** 2
    return s**2, share, max(0.0, float(target @ target - share.sum()))


def _evidence(s2, share, rest, n: int, alpha: float, beta: float) -> float:
    variance = 1 / beta + s2 / alpha
    outside = (n - len(s2)) * np.log(1 / beta) + beta * rest if n > len(s2) else 0.0
    inside = np.log(variance).sum() + (share / variance).sum()
    return float(-0.5 * (n * np.log(2 * np.pi) + outside + inside))


def _largest_evidence(s2, share, rest, n: int) -> float:
    """With alpha = ratio * beta, the best 1 / beta is the mean of y' (I + F F' / ratio)^-1 y."""

    def of(log_ratio: float) -> float:
        relative = 1 + s2 / np.exp(log_ratio)
        variance = max(((share / relative).sum() + rest) / n, 1e-30)  # linear targets leave none
        return _evidence(s2, share, rest, n, np.exp(log_ratio) / variance, 1 / variance)

    low, high = np.log(max(s2.max(), 1e-12)) + np.log([1e-6, 1e6])
    grid = np.linspace(low, high, 57)  # it can have several maxima
    start = grid[np.argmax([of(point) for point in grid])]
    near = max(low, start - 0.5), min(high, start + 0.5)
    found = minimize_scalar(lambda point: -of(point), bounds=near, method="bounded")
    return max(of(start), -float(found.fun))


def h_score(features: np.ndarray, y: np.ndarray, *, shrinkage: float | str = 0.0) -> float:
    """Compute the H-score: how much of the features' variance lies between classes.

    It is trace(cov(F)^-1 cov(E[F | y])) (Bao et al., 2019), which is Pillai's trace of a
    multivariate analysis of variance. With few examples the covariance must be shrunk to a multiple
    of the identity (Ibrahim et al., 2022, arXiv 2110.06893); the between part is scaled with it.

    Parameters
    ----------
    features : (n, d) numpy.ndarray of float
        Frozen features.
    y : (n,) numpy.ndarray of int
        Labels.
    shrinkage : float or "auto", default 0.0
        Share of the multiple of the identity, from 0 to 1; "auto" estimates it by Ledoit and Wolf.

    Returns
    -------
    float
        The score, from 0 to the number of classes less one.

    Raises
    ------
    ValueError
        As for :func:`logme`, or if the shrinkage is out of range.
    """
    features, y = _checked(features, y)
    centered = features - features.mean(0)
    if shrinkage == "auto":
        _, shrinkage = ledoit_wolf(centered, assume_centered=True)
    checks.number("shrinkage", shrinkage, least=0, most=1)
    labels, position, counts = np.unique(y, return_inverse=True, return_counts=True)
    means = np.stack([centered[position == c].mean(0) for c in range(len(labels))])
    # In the space of the singular vectors, where the covariance is diagonal; the means lie in it
    _, s, vt = np.linalg.svd(centered, full_matrices=False)
    kept = s > s.max(initial=0) * 1e-10
    variances = s[kept] ** 2 / len(y)
    typical = variances.sum() / features.shape[1]
    shrunk = (1 - shrinkage) * variances + shrinkage * typical
    within = (means @ vt[kept].T) ** 2 / shrunk
    return float((1 - shrinkage) * (counts / len(y)) @ within.sum(1))


def nce(source: np.ndarray, y: np.ndarray) -> float:
    """Compute negative conditional entropy of labels given hard source labels.

    Tran et al., 2019, arXiv 1908.08142.

    Parameters
    ----------
    source : (n,) numpy.ndarray of int
        The class that the source head gives each example.
    y : (n,) numpy.ndarray of int
        Labels.

    Returns
    -------
    float
        The mean log probability of a label given the source label, in nats, at most 0.

    Raises
    ------
    ValueError
        If there are not as many source labels as labels.
    """
    source = np.asarray(source)
    if source.ndim != 1:
        raise ValueError(f"source labels are (n,), not {source.shape}: take the argmax")
    classes, position = np.unique(source, return_inverse=True)
    return leep(np.eye(len(classes))[position], y)


def leep(probabilities: np.ndarray, y: np.ndarray) -> float:
    """Compute LEEP: the log likelihood of labels predicted through a source head.

    A source class is drawn from the head's probabilities, a label from the labels that go with it
    (Nguyen et al., 2020, arXiv 2002.12462).

    Parameters
    ----------
    probabilities : (n, source classes) numpy.ndarray of float
        What the source head gives each example; each row adds up to 1.
    y : (n,) numpy.ndarray of int
        Labels.

    Returns
    -------
    float
        The mean log probability of the labels, in nats, at most 0.

    Raises
    ------
    ValueError
        If the rows are no probabilities, or there are not as many labels.
    """
    p = np.asarray(probabilities, dtype=float)
    if p.ndim != 2 or (p < 0).any() or not np.allclose(p.sum(1), 1, atol=1e-4):
        raise ValueError("probabilities must be (n, classes), not negative, and add up to 1 by row")
    if len(p) != len(y):
        raise ValueError(f"{len(p)} examples, but {len(y)} labels")
    _, position = np.unique(y, return_inverse=True)
    joint = np.zeros((p.shape[1], position.max() + 1))
    np.add.at(joint.T, position, p)
    conditional = joint / np.maximum(joint.sum(1, keepdims=True), 1e-300)
    return float(np.log((p @ conditional)[np.arange(len(p)), position]).mean())


def nearest_neighbor(features: np.ndarray, y: np.ndarray) -> float:
    """Compute how often the most similar other example has the same label.

    Parameters
    ----------
    features : (n, d) numpy.ndarray of float
        Frozen features.
    y : (n,) numpy.ndarray of int
        Labels.

    Returns
    -------
    float
        Balanced accuracy of one nearest neighbor by cosine, each example left out once.

    Raises
    ------
    ValueError
        As for :func:`logme`.
    """
    features, y = _checked(features, y)
    search = KNeighborsClassifier(1, metric="cosine").fit(features, y)
    return float(balanced_accuracy_score(y, y[search.kneighbors(return_distance=False)[:, 0]]))


def probe(
    features: np.ndarray,
    y: np.ndarray,
    *,
    folds: int = 5,
    seed: int = 0,
    model: BaseEstimator | None = None,
) -> float:
    """Compute the cross-validated score of a linear head.

    Parameters
    ----------
    features : (n, d) numpy.ndarray of float
        Frozen features.
    y : (n,) numpy.ndarray of int
        Labels.
    folds : int, default 5
        Folds; fewer where the smallest class has fewer examples.
    seed : int, default 0
        Seed of the folds.
    model : sklearn.base.BaseEstimator, optional
        The head. By default :func:`tlbook.learning.heads.linear_head`.

    Returns
    -------
    float
        Balanced accuracy.

    Raises
    ------
    ValueError
        As for :func:`logme`, or if a class has a single example.
    """
    features, y = _checked(features, y)
    folds = min(folds, int(np.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        raise ValueError("a class has a single example: a probe needs two of each")
    cv = StratifiedKFold(folds, shuffle=True, random_state=seed)
    predicted = cross_val_predict(linear_head() if model is None else model, features, y, cv=cv)
    return float(balanced_accuracy_score(y, predicted))


def _checked(features: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    features, y = np.asarray(features, dtype=float), np.asarray(y)
    if features.ndim != 2 or y.shape != (len(features),):
        raise ValueError(f"features are (n, d) and labels (n,), not {features.shape} and {y.shape}")
    if len(np.unique(y)) < 2:
        raise ValueError("a score needs labels of two classes")
    if not np.isfinite(features).all():
        raise ValueError("a feature is not finite: look at the inputs of the encoder")
    return features, y
