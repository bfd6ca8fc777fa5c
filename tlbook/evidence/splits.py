"""Balanced accuracy over several splits of one data set, so that no single split decides.

The mean of P splits with S seeds each has the variance

    V = (between splits) / P + (what any two splits share),

where the first term is taken from how far the splits' means lie apart, and the second is what makes
splits of one finite set of examples look too much alike. Two things are shared.

*Test examples.* What a group of test examples adds to the mean of a split (the V_i of
:mod:`tlbook.evidence.balanced`) is known by group, so the mean product of what it adds to two
splits estimates their covariance, however much the two overlap.

*Labeled examples.* Say that each labeled example adds to what a run gains, independently of the
others. Drawing a share f of the examples without replacement, runs differ by 1 - f of the variance
that they would have on examples of their own, and f is common to all of them. So what is seen of
it, within splits and between them, counts f / (1 - f) times once more. A share of one third that is
held out to test, with all else labeled, makes this 2.

Nadeau and Bengio (2003, doi 10.1023/A:1024068626366) put a factor of the test share in place of
both terms, as cross-validation on all training rows suggests. Where a few labels are drawn from a
split, that came out too narrow. Over nine designs of 150 and 600 examples, nominal 95 percent
intervals of 5 splits with 4 seeds held the truth in 91.6 to 97.8 of 100, theirs in 83 to 97; of 10
with 2, in 92.7 to 98.0, theirs in 78 to 97 (``python -m benchmarks.coverage --splits``; 400
experiments each).
"""

from dataclasses import dataclass, replace

import numpy as np

from tlbook.evidence.balanced import BalancedMeans, squared
from tlbook.evidence.effects import Components, Effect


@dataclass(frozen=True)
class Variances:
    """Hold what the variance of one run consists of: one split, one seed.

    Attributes
    ----------
    splits : float
        Which examples there are to label and learn from.
    seeds : float
        Which of them are labeled, and what else a seed draws.
    items : float
        Which examples are there to test.
    """

    splits: float
    seeds: float
    items: float


@dataclass(frozen=True)
class SplitMeans:
    """Hold the means of several runs on several splits, to compute any contrast of them.

    Attributes
    ----------
    parts : tuple of BalancedMeans
        The means on each split.
    carried : float
        Labeled examples for each one of the data set that is not, f / (1 - f).
    """

    parts: tuple[BalancedMeans, ...]
    carried: float

    @property
    def values(self) -> np.ndarray:
        """Return the (runs, seeds of all splits) means."""
        return np.concatenate([part.values for part in self.parts], axis=1)

    def contrast(
        self,
        weights: np.ndarray,
        level: float = 0.95,
        *,
        least: float = -np.inf,
        most: float = np.inf,
    ) -> Effect:
        """Compute a weighted sum of the runs' means with its interval.

        Parameters
        ----------
        weights : (runs,) array
            The weight of each run.
        level : float, default 0.95
            Confidence level of the interval.
        least, most : float, optional
            The smallest and the largest value that can be. By default there is no such limit.

        Returns
        -------
        Effect
            The sum, with its interval, unless runs failed.
        """
        by_seed = weights @ self.values
        n = len(self.parts)
        own, shared, found = self._of(weights)
        labeled = self.carried * max(0.0, found.seeds - self._rest(weights))
        # each term with its degrees of freedom, for Satterthwaite's of their sum
        items = shared + (own - shared) / n
        inverse = np.mean([part.inverse_df(weights) for part in self.parts])
        terms = (
            (found.seeds / len(by_seed) + labeled, 1 / (len(by_seed) - n)),
            (found.splits * (1 / n + self.carried), 1 / (n - 1)),
            (items, inverse),
        )
        variance = sum(term for term, _ in terms) or 1.0
        over_df = sum((term / variance) ** 2 * over for term, over in terms)
        df = float(1 / over_df) if over_df else float(len(by_seed) - n)
        parts = Components(
            seeds=found.seeds / len(by_seed),
            items=shared + labeled + found.splits * self.carried,
            df=df,
            splits=(found.splits + own - shared) / n,
        )
        effect = Effect.of_components(by_seed, parts, level, least=least, most=most)
        return replace(effect, splits=n).unless_failing(least, most)

    def variances(self, weights: np.ndarray) -> Variances:
        """Estimate what the variance of one run consists of.

        Parameters
        ----------
        weights : (runs,) array
            The weight of each run.
        """
        return self._of(weights)[2]

    def _of(self, weights: np.ndarray) -> tuple[float, float, Variances]:
        """What test examples have in the variance of a split's mean, alone and shared with another
        split, and the variances of one run."""
        adds = [weights @ part.by_group for part in self.parts]
        names, place = np.unique(
            np.concatenate([part.names for part in self.parts]), return_inverse=True
        )
        total = np.bincount(place, np.concatenate(adds), len(names))
        n, alone = len(adds), sum(float(z @ z) for z in adds)
        shared = max(0.0, float(total @ total) - alone) / (n * (n - 1))
        by_split = (weights @ self.values).reshape(n, -1)
        seeds = by_split.shape[1]
        own = max(shared, alone / n - self._rest(weights) / seeds)
        within = float(by_split.var(axis=1, ddof=1).mean())
        between = float(by_split.mean(1).var(ddof=1))
        splits = max(0.0, between - within / seeds - (own - shared))
        return own, shared, Variances(splits, within, own)

    def _rest(self, weights: np.ndarray) -> float:
        """What is left to pairs of seed and test example in the variance of a run."""
        seeds = self.parts[0].values.shape[1]
        return seeds * float(np.mean([squared(weights, part.of_rest) for part in self.parts]))
