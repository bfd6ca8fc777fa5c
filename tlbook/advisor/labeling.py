"""Say which unlabeled examples to label next.

A model is least sure where its two largest probabilities are close. The examples where it is least
sure of all are often much alike, and labeling one of them is enough. So the unsure ones are cut
into clusters, in which an unsure example weighs more, and the one nearest to each center is taken
(Zhdanov, 2019, arXiv 1901.05954).
"""

import warnings

import numpy as np
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning

from tlbook import checks

#: Of how many unsure examples each one to label is chosen.
POOL = 10


def margins(probabilities: np.ndarray) -> np.ndarray:
    """Compute how sure a model is: the largest probability less the second largest.

    Parameters
    ----------
    probabilities : (n, k) numpy.ndarray of float
        Probabilities of k classes, at least two.

    Returns
    -------
    (n,) numpy.ndarray of float
        Margins from 0 to 1.

    Raises
    ------
    ValueError
        If that is no table of probabilities of two classes or more.
    """
    probabilities = np.asarray(probabilities)
    if probabilities.ndim != 2 or probabilities.shape[1] < 2:
        raise ValueError(
            f"probabilities of shape {probabilities.shape}: give one row per example, and a column "
            "for each of two classes or more"
        )
    second, first = np.sort(probabilities, axis=1)[:, -2:].T
    return first - second


def next_to_label(
    probabilities: np.ndarray, vectors: np.ndarray | sparse.spmatrix, count: int, *, seed: int = 0
) -> np.ndarray:
    """Choose examples that a model is unsure of and that differ from each other.

    Parameters
    ----------
    probabilities : (n, k) numpy.ndarray of float
        What the model says of the unlabeled examples.
    vectors : (n, d) numpy.ndarray or scipy.sparse matrix of float
        The examples, as the model sees them.
    count : int
        How many to choose; all of them if there are no more.
    seed : int, default 0
        Seed of the clusters.

    Returns
    -------
    (count,) numpy.ndarray of int
        Positions of the chosen examples, the one with the smallest margin first.

    Raises
    ------
    ValueError
        If there is not one vector for each row of probabilities, or ``count`` is below 1.
    """
    checks.integer("count", count, least=1)
    sure = margins(probabilities)
    if vectors.shape[0] != len(sure):
        raise ValueError(
            f"{vectors.shape[0]} vectors and {len(sure)} rows of probabilities: give one of each "
            "for every example"
        )
    unsure = np.argsort(sure, kind="stable")[: POOL * count]
    if len(unsure) <= count:
        return unsure
    clusters = KMeans(count, n_init=1, random_state=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # copies make fewer clusters
        distances = clusters.fit_transform(vectors[unsure], sample_weight=1 - sure[unsure] + 1e-6)
    distances[clusters.labels_[:, None] != np.arange(count)] = np.inf
    chosen = set(distances[:, np.isfinite(distances).any(0)].argmin(0))
    rest = [row for row in range(len(unsure)) if row not in chosen]
    return unsure[np.sort([*chosen, *rest[: count - len(chosen)]])]
