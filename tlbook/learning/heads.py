"""The linear head that reads frozen features, chosen once for the whole book."""

from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import Normalizer

from tlbook import checks


def linear_head(C: float = 100.0) -> Pipeline:
    """Return a logistic regression on features of length 1, for few labels and many.

    It is fair to whatever it reads, an encoder's features or raw pixels: bringing each vector to
    length 1 looks at that vector alone. Scaling every feature by its standard deviation instead
    looks at all labeled examples. Nine of them estimate a thousand standard deviations poorly,
    which costs an image encoder more than four points of balanced accuracy.

    The scaling and the penalty were chosen among 17 heads, over 1 to 50 labels per class, on three
    data sets of images and three of texts that no finding of the book uses, by the mean over six
    representations: ``benchmarks/heads.py`` repeats it.

    Parameters
    ----------
    C : float, default 100.0
        Inverse of the strength of the penalty. Where a comparison tunes its other arms, choose this
        number on the same validation examples.

    Returns
    -------
    sklearn.pipeline.Pipeline
        An estimator that is not fitted yet.

    Raises
    ------
    ValueError
        If ``C`` is not a positive number.

    Examples
    --------
    >>> linear_head().fit(vectors[train], y[train]).predict(vectors[test])  # doctest: +SKIP
    """
    checks.number("C", C, above=0)
    return make_pipeline(Normalizer(), LogisticRegression(C=C, max_iter=2000))
