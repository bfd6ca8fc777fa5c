"""The percentile bootstrap of samples that are resampled independently of each other.

Intervals of the book are computed (:mod:`tlbook.evidence.balanced`); this is what they are compared
with.
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import bootstrap


def with_limits(
    statistic: Callable[..., np.ndarray],
    counts: Sequence[int],
    level: float,
    resamples: int,
    batch: int,
) -> tuple[float, float, float]:
    """A statistic of positions, and its percentile limits where each sample is resampled by itself.

    The statistic gets positions below each of ``counts``, (resamples, k) each, and returns
    (resamples,). ``batch`` of them are computed at once.
    """
    every = [np.arange(count) for count in counts]
    limits = bootstrap(
        every,
        statistic,
        n_resamples=resamples,
        batch=batch,
        method="percentile",
        confidence_level=level,
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    value = float(statistic(*(rows[None] for rows in every))[0])
    # Where a class is one group, most resamples can lie on one side of what was measured
    return value, min(value, float(limits.low)), max(value, float(limits.high))


def times_drawn(rows: np.ndarray, n: int) -> np.ndarray:
    """(batch, k) positions below n to (batch, n) counts of how often each was drawn."""
    rows = rows.reshape(-1, rows.shape[-1])
    cells = rows + n * np.arange(len(rows))[:, None]
    return np.bincount(cells.ravel(), minlength=n * len(rows)).reshape(-1, n).astype(float)
