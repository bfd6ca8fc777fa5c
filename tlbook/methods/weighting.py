"""Choose or weight the source examples that help the target: instance-based transfer (S3).

Three functions weight source rows by where the target's rows lie: :func:`nearest_source`,
:func:`density_ratio` and :func:`kernel_mean_matching`. They take two arrays and return one number
for each source row, which any scikit-learn estimator takes as ``sample_weight``. They need no
labels, and assume that only the distribution of x differs (covariate shift, 协变量偏移). Where a
label means something else in the source, no such weight helps. :class:`TrAdaBoostClassifier` then
finds out from a few target labels which source examples to believe.

The two classifiers take all rows at once and ``source``, booleans that say which rows are of the
source. So they work in pipelines and searches, which pass them each fold's share of it::

    pipeline = make_pipeline(StandardScaler(), WeightedClassifier())
    pipeline.fit(X, y, weightedclassifier__source=source)

The book explains it in *Choosing source examples*.
"""

from collections.abc import Callable

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import euclidean_distances
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from sklearn.svm import OneClassSVM
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import check_array, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, has_fit_parameter, validate_data


def effective_sample_size(weights: np.ndarray) -> float:
    """Compute how many rows of equal weight are worth as much as these weighted rows (Kish 1965).

    The result is ``(sum w)^2 / sum w^2``. It is n where all n weights are equal, and 1 where a
    single row has all the weight. Look at it before you trust weights: a result from a small
    effective sample varies as much as one from few examples.

    Parameters
    ----------
    weights : (n,) numpy.ndarray
        Weights, none negative.

    Returns
    -------
    float
        Effective number of rows, from 1 to n.

    Raises
    ------
    ValueError
        If a weight is negative, or all weights are zero.
    """
    weights = np.asarray(weights, dtype=float)
    if (weights < 0).any() or not weights.sum() > 0:
        raise ValueError("weights must not be negative, and at least one must be positive")
    return float(weights.sum() ** 2 / (weights**2).sum())


# --- weights of source rows ---------------------------------------------------------------------


def nearest_source(
    source: np.ndarray, target: np.ndarray, *, k: int = 10, metric: str = "euclidean"
) -> np.ndarray:
    """Choose the source rows that are among the ``k`` nearest of any target row.

    This is the nearest-neighbor filter of Turhan et al. (2009, doi 10.1007/s10664-008-9103-7). As
    weights, the booleans count as ones and zeros.

    Parameters
    ----------
    source : (n_source, d) array-like or sparse matrix
        Features of source rows.
    target : (n_target, d) array-like or sparse matrix
        Features of target rows.
    k : int, default 10
        Number of source rows that each target row chooses. Many are chosen several times.
    metric : str, default "euclidean"
        Metric of scikit-learn's ``NearestNeighbors``, such as ``"cosine"``.

    Returns
    -------
    (n_source,) numpy.ndarray of bool
        True for the chosen rows.

    Raises
    ------
    ValueError
        If the arrays do not match, ``k`` is below 1, or there are fewer than ``k`` source rows.
    """
    source, target = _domains(source, target)
    if not 1 <= k <= source.shape[0]:
        raise ValueError(f"k={k} must be at least 1 and at most the {source.shape[0]} source rows")
    neighbors = NearestNeighbors(n_neighbors=k, metric=metric).fit(source)
    chosen = np.zeros(source.shape[0], dtype=bool)
    chosen[neighbors.kneighbors(target, return_distance=False)] = True
    return chosen


def density_ratio(
    source: np.ndarray,
    target: np.ndarray,
    *,
    estimator: BaseEstimator | None = None,
    clip: float | None = None,
    folds: int | None = 5,
    seed: int = 0,
) -> np.ndarray:
    """Estimate the density ratio of each source row from a classifier of the domains.

    The weights are ``p_target(x) / p_source(x)``. By Bayes' rule this ratio is
    ``n_source / n_target * p(target | x) / p(source | x)`` (Bickel et al. 2007, *Discriminative
    Learning for Differing Training and Test Distributions*, ICML). It is only as good as the
    calibration of these probabilities. The mean of true ratios is about 1. The further the mean of
    the weights is from 1, the less you can trust them.

    Parameters
    ----------
    source : (n_source, d) array-like or sparse matrix
        Features of source rows.
    target : (n_target, d) array-like or sparse matrix
        Features of target rows.
    estimator : sklearn.base.BaseEstimator, optional
        Classifier that tells target from source by ``predict_proba``. By default it is logistic
        regression, regularized as strongly as cross-validated log loss asks for, because without
        regularization ratios explode where x has many dimensions. It must not balance the domains
        (no ``class_weight``), because their sizes are accounted for here.
    clip : float, optional
        Largest weight. A smaller one trades bias for variance (:func:`effective_sample_size`).
    folds : int or None, default 5
        Number of folds of cross-fitting. Each row is judged by a classifier trained without its
        fold, because a classifier that has seen a row knows its domain better than x tells. With
        None there are no folds.
    seed : int, default 0
        Seed of the folds.

    Returns
    -------
    (n_source,) numpy.ndarray
        Weights, not scaled.

    Raises
    ------
    ValueError
        If the arrays do not match, a domain has fewer rows than ``folds``, ``clip`` is not
        positive, or the classifier is so sure that a weight is infinite.
    """
    source, target = _domains(source, target)
    n_source, n_target = source.shape[0], target.shape[0]
    if clip is not None and clip <= 0:
        raise ValueError(f"clip={clip} is the largest weight and must be positive")
    if folds is not None and not 2 <= folds <= min(n_source, n_target):
        raise ValueError(
            f"folds={folds} must be at least 2 and at most the number of rows of the smaller "
            f"domain, {min(n_source, n_target)}; None for no folds"
        )
    x = (sparse.vstack if sparse.issparse(source) else np.vstack)([source, target])
    is_target = np.arange(n_source + n_target) >= n_source
    if estimator is None:
        estimator = GridSearchCV(
            LogisticRegression(max_iter=1000),
            {"C": 10.0 ** np.arange(-4, 3)},
            scoring="neg_log_loss",
            cv=StratifiedKFold(3, shuffle=True, random_state=seed),
        )
    if folds is None:
        p = clone(estimator).fit(x, is_target).predict_proba(source)
    else:
        splits = StratifiedKFold(folds, shuffle=True, random_state=seed)
        p = cross_val_predict(estimator, x, is_target, cv=splits, method="predict_proba")[:n_source]
    with np.errstate(divide="ignore"):
        weights = n_source / n_target * p[:, 1] / p[:, 0]
    if clip is not None:
        weights = np.minimum(weights, clip)
    if not np.isfinite(weights).all():
        raise ValueError(
            f"the classifier is certain of {np.sum(~np.isfinite(weights))} source rows that they "
            "are of the target: set clip, or regularize the estimator more"
        )
    return weights


def kernel_mean_matching(
    source: np.ndarray,
    target: np.ndarray,
    *,
    gamma: float | None = None,
    bound: float = 1000.0,
    slack: float | None = None,
    ridge: float = 0.01,
) -> np.ndarray:
    """Compute weights that bring the source's mean in kernel space to the target's.

    With a Gaussian kernel K of source rows, and kappa_i = n_source times the mean kernel of source
    row i with target rows, the weights minimize ``w' (K + ridge I) w / 2 - kappa' w`` subject to
    ``0 <= w <= bound`` and ``|mean(w) - 1| <= slack`` (Huang et al. 2006, *Correcting Sample
    Selection Bias by Unlabeled Data*, NIPS, without the ridge). No density is estimated.

    Parameters
    ----------
    source : (n_source, d) array-like or sparse matrix
        Features of source rows.
    target : (n_target, d) array-like or sparse matrix
        Features of target rows.
    gamma : float, optional
        Gamma of the kernel ``exp(-gamma * ||x - z||^2)``, in units of one over a squared distance.
        By default it is one over the median squared distance between a source row and a target row.
    bound : float, default 1000.0
        Largest weight, at least 1. The default is that of the paper, which is hardly a limit.
    slack : float, optional
        How far the mean weight may be from 1. The default is that of the paper,
        ``(sqrt(n_source) - 1) / sqrt(n_source)``. With 0 the weights have mean 1.
    ridge : float, default 0.01
        Strength of the ridge, which prefers more even weights among those that match about as well.
        With 0, as in the paper, many weights match equally well where x has few dimensions, and a
        few rows get all the weight.

    Returns
    -------
    (n_source,) numpy.ndarray
        Weights.

    Raises
    ------
    ValueError
        If the arrays do not match, or an option is out of its range.
    """
    source, target = _domains(source, target)
    n = source.shape[0]
    slack = 1 - 1 / np.sqrt(n) if slack is None else slack
    if bound < 1 or not 0 <= slack < 1 or ridge < 0 or (gamma is not None and gamma <= 0):
        raise ValueError(
            f"bound={bound} must be at least 1, slack={slack} at least 0 and below 1, "
            f"ridge={ridge} at least 0, and gamma={gamma} positive"
        )
    if gamma is None:
        gamma = 1 / (np.median(euclidean_distances(source, target, squared=True)) or 1)
    kernel = rbf_kernel(source, gamma=gamma) + ridge * np.eye(n)
    mean_kernel = rbf_kernel(source, target, gamma=gamma).mean(axis=1)
    # In a = w / n this is the problem of a one-class SVM but for the linear term and the free sum,
    # and libsvm solves it fast. A dummy row of kernel zero takes what the sum may vary by; then
    # sum(a) = total, so the linear term is a quadratic one: mean_kernel' a = a' mean_kernel 1' a /
    # total. Up to a constant, it is the kernel seen from the mean of the target.
    total = 1 + slack
    largest = np.full(n, bound / n)
    if slack > 0:
        kernel, mean_kernel = np.pad(kernel, (0, 1)), np.append(mean_kernel, 0)
        largest = np.append(largest, 2 * slack)
    seen_from_target = kernel - (mean_kernel[:, None] + mean_kernel) / total
    nu = min(total / largest.sum(), 1 - 1e-9)  # at 1, by rounding, libsvm may leave its arrays
    svm = OneClassSVM(kernel="precomputed", nu=nu, tol=1e-7)
    svm.fit(seen_from_target, sample_weight=largest)  # 0 <= a <= largest, sum(a) = total
    weights = np.zeros(len(kernel))
    weights[svm.support_] = n * svm.dual_coef_[0]
    return weights[:n]


def _domains(source, target) -> tuple[np.ndarray, np.ndarray]:
    """Both as float arrays, or both sparse in CSR format."""
    source = check_array(source, accept_sparse="csr", dtype=float, input_name="source")
    target = check_array(target, accept_sparse="csr", dtype=float, input_name="target")
    if source.shape[1] != target.shape[1]:
        raise ValueError(
            f"source has {source.shape[1]} columns, but target has {target.shape[1]}: give both "
            "the same features"
        )
    if sparse.issparse(source) != sparse.issparse(target):
        raise ValueError("source and target must both be dense, or both be sparse")
    return source, target


# --- classifiers --------------------------------------------------------------------------------


class WeightedClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Train a classifier on source rows, each weighted by where the target's rows lie.

    Parameters
    ----------
    estimator : sklearn.base.BaseEstimator, optional
        Classifier that takes ``sample_weight``. By default it is logistic regression.
    weigh : callable, default density_ratio
        Function of source x and target x that returns a weight of each source row:
        :func:`density_ratio`, :func:`kernel_mean_matching`, :func:`nearest_source`, one of them
        with options through ``functools.partial``, or your own. Weights are scaled to mean 1, so
        that regularization keeps its strength.
    target_weight : float, default 0.0
        Weight of each labeled target row in training, beside the source rows. With 0, labels of
        target rows are not looked at and may be any, such as -1.

    Attributes
    ----------
    estimator_ : sklearn.base.BaseEstimator
        The fitted classifier.
    weights_ : (n_source,) numpy.ndarray
        Weights of the source rows, in their order.
    classes_ : (classes,) numpy.ndarray
        The labels.
    """

    def __init__(
        self,
        estimator: BaseEstimator | None = None,
        weigh: Callable[[np.ndarray, np.ndarray], np.ndarray] = density_ratio,
        target_weight: float = 0.0,
    ):
        self.estimator = estimator
        self.weigh = weigh
        self.target_weight = target_weight

    def fit(self, X, y, source=None):
        """Weight the source rows, and train.

        Parameters
        ----------
        X : (n, d) array-like or sparse matrix
            Features of both domains.
        y : (n,) array-like
            Labels. Those of target rows are needed only where ``target_weight`` is above 0.
        source : (n,) array-like of bool, optional
            True for source rows. By default there is only one domain, and nothing to weight.

        Returns
        -------
        self
            The fitted classifier.

        Raises
        ------
        ValueError
            If there are no source or no target rows, ``source`` is not booleans, ``target_weight``
            is negative, the estimator takes no ``sample_weight``, or the weights are not one for
            each source row, negative, or all zero.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr")
        if self.target_weight < 0:
            raise ValueError(f"target_weight={self.target_weight} must not be negative")
        weights = np.ones(len(y))
        if source is None:
            source = np.ones(len(y), dtype=bool)
        else:
            source = checked_source(source, len(y))
            if source.all() or not source.any():
                raise ValueError("source must be True for some rows and False for others")
            weights[source] = self._weights(X[source], X[~source])
            weights[~source] = self.target_weight
        used = source | (self.target_weight > 0)
        check_classification_targets(y[used])
        estimator = _weightable(self._estimator())
        self.estimator_ = estimator.fit(X[used], y[used], sample_weight=weights[used])
        self.classes_ = self.estimator_.classes_
        self.weights_ = weights[source]
        return self

    def _weights(self, source, target) -> np.ndarray:
        weights = np.asarray(self.weigh(source, target), dtype=float)
        if weights.shape != (source.shape[0],) or not (weights >= 0).all() or not weights.any():
            raise ValueError(
                f"weigh gave weights of shape {weights.shape} for {source.shape[0]} source rows: "
                "one for each is needed, none negative and not all of them zero"
            )
        return weights / weights.mean()

    def _estimator(self) -> BaseEstimator:
        return LogisticRegression(max_iter=1000) if self.estimator is None else self.estimator

    def _ask(self, method: str, X) -> np.ndarray:
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        return getattr(self.estimator_, method)(X)

    def predict(self, X):
        """Return the predicted label of each row.

        Parameters
        ----------
        X : (n, d) array-like or sparse matrix
            Features.

        Returns
        -------
        (n,) numpy.ndarray
            Labels.
        """
        return self._ask("predict", X)

    @available_if(lambda self: hasattr(self._estimator(), "predict_proba"))
    def predict_proba(self, X):
        """Return class probabilities, where the estimator has them.

        Parameters
        ----------
        X : (n, d) array-like or sparse matrix
            Features.

        Returns
        -------
        (n, classes) numpy.ndarray
            Probabilities, in the order of ``classes_``.
        """
        return self._ask("predict_proba", X)

    @available_if(lambda self: hasattr(self._estimator(), "decision_function"))
    def decision_function(self, X):
        """Return the estimator's scores, where it has them.

        Parameters
        ----------
        X : (n, d) array-like or sparse matrix
            Features.

        Returns
        -------
        (n,) or (n, classes) numpy.ndarray
            Scores of the estimator's ``decision_function``.
        """
        return self._ask("decision_function", X)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = get_tags(self._estimator()).input_tags.sparse
        return tags


class TrAdaBoostClassifier(MetaEstimatorMixin, ClassifierMixin, BaseEstimator):
    """Boost a classifier that learns which source examples to believe (Dai et al. 2007).

    The method is that of *Boosting for Transfer Learning*, ICML, doi 10.1145/1273496.1273521. Each
    round trains on all rows. As in AdaBoost, target rows that the round gets wrong count more in
    the next. Source rows that it gets wrong count less, because they seem to follow another rule.
    The second half of the rounds votes. Target rows must be labeled; a few are enough.

    For K > 2 classes a round's vote is that of SAMME (Zhu et al. 2009, doi
    10.4310/SII.2009.v2.n3.a8), which adds log(K - 1). For two classes it is that of the paper. A
    round that does no better than chance on the target has no vote, and leaves target weights as
    they are.

    Parameters
    ----------
    estimator : sklearn.base.BaseEstimator, optional
        Classifier that takes ``sample_weight``. By default it is a decision tree of one split.
        Weights have mean 1, so that regularization keeps its strength.
    n_estimators : int, default 50
        Number of rounds.

    Attributes
    ----------
    estimators_ : list of sklearn.base.BaseEstimator
        Classifiers of all rounds.
    estimator_errors_ : (n_estimators,) numpy.ndarray
        Their weighted errors on target rows, in 0..1.
    estimator_weights_ : (n_estimators,) numpy.ndarray
        Their votes. Those of the first half are 0.
    weights_ : (n,) numpy.ndarray
        Weights of all rows after the last round, with mean 1.
    classes_ : (classes,) numpy.ndarray
        The labels.
    """

    def __init__(self, estimator: BaseEstimator | None = None, n_estimators: int = 50):
        self.estimator = estimator
        self.n_estimators = n_estimators

    def fit(self, X, y, source=None):
        """Train on the rows of both domains.

        Parameters
        ----------
        X : (n, d) array-like or sparse matrix
            Features of both domains.
        y : (n,) array-like
            Labels of all rows.
        source : (n,) array-like of bool, optional
            True for source rows. By default all rows are of the target, and this is AdaBoost whose
            later half votes.

        Returns
        -------
        self
            The fitted classifier.

        Raises
        ------
        ValueError
            If there are no target rows, fewer than two classes or no rounds, ``source`` is not
            booleans, or the estimator takes no ``sample_weight``.
        """
        X, y = validate_data(self, X, y, accept_sparse="csr")
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        others = len(self.classes_) - 1
        source = checked_source(np.zeros(len(y), bool) if source is None else source, len(y))
        if others < 1 or self.n_estimators < 1 or source.all():
            raise ValueError(
                "at least two classes, one round and one target row are needed, not "
                f"{len(self.classes_)} class, n_estimators={self.n_estimators} and "
                f"{np.sum(~source)} target rows"
            )
        estimator = _weightable(self._estimator())
        # the less, the longer a source row is trusted that is often wrong
        discount = np.log1p(np.sqrt(2 * np.log(max(1, source.sum())) / self.n_estimators))
        weights = np.ones(len(y))
        self.estimators_, errors, votes = [], [], np.empty(self.n_estimators)
        for t in range(self.n_estimators):
            learner = clone(estimator).fit(X, y, sample_weight=weights)
            wrong = learner.predict(X) != y
            error = np.average(wrong[~source], weights=weights[~source])
            # neither an infinite vote of a round without errors, nor one against the classifier
            bounded = np.clip(error, 1e-10, others / (others + 1) - 1e-10)
            vote = votes[t] = np.log((1 - bounded) / bounded * others)
            weights *= np.exp(np.where(source, -discount, vote) * wrong)
            weights /= weights.mean()
            self.estimators_.append(learner)
            errors.append(error)
        votes[: (self.n_estimators + 1) // 2 - 1] = 0
        self.estimator_errors_, self.estimator_weights_ = np.array(errors), votes
        self.weights_ = weights
        return self

    def predict_proba(self, X):
        """Return each class's share of the vote, which is not a calibrated probability.

        Parameters
        ----------
        X : (n, d) array-like or sparse matrix
            Features.

        Returns
        -------
        (n, classes) numpy.ndarray
            Shares in 0..1, in the order of ``classes_``.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", reset=False)
        votes = sum(
            vote * (learner.predict(X)[:, None] == self.classes_)
            for learner, vote in zip(self.estimators_, self.estimator_weights_, strict=True)
            if vote
        )
        return votes / votes.sum(axis=1, keepdims=True)

    def predict(self, X):
        """Return the label with most votes for each row.

        Parameters
        ----------
        X : (n, d) array-like or sparse matrix
            Features.

        Returns
        -------
        (n,) numpy.ndarray
            Labels.
        """
        winners = self.predict_proba(X).argmax(axis=1)
        return self.classes_[winners]

    def _estimator(self) -> BaseEstimator:
        if self.estimator is None:
            return DecisionTreeClassifier(max_depth=1, random_state=0)
        return self.estimator

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = get_tags(self._estimator()).input_tags.sparse
        return tags


def checked_source(source, n: int) -> np.ndarray:
    """Return ``source`` as an array of booleans, and refuse anything else.

    Parameters
    ----------
    source : (n,) array-like of bool
        True for source rows.
    n : int
        Number of rows.

    Returns
    -------
    (n,) numpy.ndarray of bool
        True for source rows.

    Raises
    ------
    ValueError
        If ``source`` is not n booleans.
    """
    source = np.asarray(source)
    if source.dtype != bool or source.shape != (n,):
        raise ValueError(
            f"source must be {n} booleans, True for source rows, not {source.dtype} of shape "
            f"{source.shape}"
        )
    return source


def _weightable(estimator: BaseEstimator) -> BaseEstimator:
    """A fresh copy of an estimator that takes weights."""
    if not has_fit_parameter(estimator, "sample_weight"):
        raise ValueError(
            f"{type(estimator).__name__} takes no sample_weight: choose an estimator that does, "
            "and put scaling and the like before this classifier, in a pipeline"
        )
    return clone(estimator)
