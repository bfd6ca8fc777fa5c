"""Compare arms over several splits of one data set, so that no single split decides."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from tlbook.data import Dataset, Split
from tlbook.evidence.comparison import Arm, Comparison, compare
from tlbook.evidence.effects import Components, Effect


@dataclass(frozen=True)
class SplitComparison:
    """Hold what :func:`compare_splits` measured.

    Attributes
    ----------
    parts : tuple of Comparison
        The comparison on each split.
    ratio : float
        Mean number of test rows for each row that may be labeled.
    """

    parts: tuple[Comparison, ...]
    ratio: float

    @property
    def name(self) -> str:
        """Return the name of the data set."""
        return self.parts[0].name

    @property
    def arms(self) -> list[str]:
        """Return the names of the arms."""
        return self.parts[0].arms

    @property
    def budgets(self) -> tuple[int | None, ...]:
        """Return the budgets in labels per class."""
        return self.parts[0].budgets

    @property
    def y(self) -> np.ndarray:
        """Return the true labels of the first split's test examples."""
        return self.parts[0].y

    def score(self, arm: str, budget: int | None) -> Effect:
        """Compute the balanced accuracy of one arm at one budget, over splits.

        Parameters
        ----------
        arm : str
            Name of the arm.
        budget : int or None
            Labels per class; None stands for all rows that may be labeled.

        Returns
        -------
        Effect
            The mean over splits and seeds with its interval, in shares of one.
        """
        return self._over(np.stack([_by_seed(part, arm, budget) for part in self.parts]))

    def gain(self, arm: str, control: str, budget: int | None) -> Effect:
        """Compute the paired difference of two arms at one budget, over splits.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str
            Name of the arm that it is compared with.
        budget : int or None
            Labels per class; None stands for all rows that may be labeled.

        Returns
        -------
        Effect
            Balanced accuracy of the arm minus that of the control, in shares of one, with its
            interval.
        """
        gains = [
            _by_seed(part, arm, budget) - _by_seed(part, control, budget) for part in self.parts
        ]
        scores = self.score(arm, budget), self.score(control, budget)
        return replace(self._over(np.stack(gains)), scores=scores)

    def _over(self, values: np.ndarray) -> Effect:
        """The mean of (splits, seeds), with the limits that :func:`compare_splits` describes."""
        n, seeds = values.shape
        of_means = values.mean(1).var(ddof=1)
        of_seeds = values.var(axis=1, ddof=1).mean() / seeds
        parts = Components(of_means / n, self.ratio * max(0.0, of_means - of_seeds), n - 1)
        effect = Effect(values.mean(), np.nan, np.nan, values.size, components=parts)
        return replace(effect.at(0.95), by_seed=tuple(values.ravel().tolist()))


def _by_seed(part: Comparison, arm: str, budget: int | None) -> np.ndarray:
    """(seeds,) balanced accuracies."""
    return np.array(part.score(arm, budget).by_seed)


def compare_splits(
    arms: dict[str, Arm],
    data: Dataset,
    splits: Iterable[Split],
    *,
    budgets: Iterable[int | None],
    seeds: int = 2,
) -> SplitComparison:
    """Run :func:`tlbook.compare` on several splits, each with seeds of its own.

    Splits of one data set share most of their examples, so an interval that took them for
    independent would be too narrow. The variance that a split causes, by its examples to learn from
    and its test examples, counts ``1 / splits + test rows / training rows`` times instead (the
    corrected resampled t-test: Nadeau and Bengio, 2003, doi 10.1023/A:1024068626366). Seeds are
    drawn anew for each split, so their variance counts once; it is what differs within a split. The
    limits are those of Student's t with one degree of freedom less than there are splits.

    Parameters
    ----------
    arms : dict of str to Arm
        Functions by name, as for :func:`tlbook.compare`.
    data : Dataset
        The examples.
    splits : iterable of Split
        At least two, such as ``[data.split(news, test=1 / 3, seed=seed) for seed in range(10)]``.
        Validation rows are not used.
    budgets : iterable of int or None
        Labels per class; None stands for all of a split's training rows.
    seeds : int, default 2
        Seeds of each split, at least two. No two splits share one.

    Returns
    -------
    SplitComparison
        The comparisons, which give scores and gains over all splits.

    Raises
    ------
    ValueError
        If there are fewer than two splits, or :func:`tlbook.compare` refuses an argument.
    """
    splits, budgets = list(splits), tuple(budgets)
    if len(splits) < 2:
        raise ValueError(f"{len(splits)} splits: two or more are needed, and ten for a result")
    parts = tuple(
        compare(
            arms,
            data,
            train=split.train,
            test=split.test,
            budgets=budgets,
            seeds=range(seeds * position, seeds * (position + 1)),
        )
        for position, split in enumerate(splits)
    )
    ratio = np.mean([len(split.test) / len(split.train) for split in splits])
    return SplitComparison(parts, float(ratio))
