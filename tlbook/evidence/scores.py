"""What arms score and gain, on one split of a data set or on several."""

import abc
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tlbook.evidence.balanced import BalancedMeans, balanced_accuracy, balanced_means
from tlbook.evidence.effects import Effect
from tlbook.evidence.splits import SplitMeans


class Scores(abc.ABC):
    """Say what arms score and gain: all that comparisons on one and on several splits share."""

    name: str
    budgets: tuple[int | None, ...]
    seeds: tuple[int, ...]
    arms: list[str]
    cpu_seconds: dict[str, np.ndarray]

    @abc.abstractmethod
    def _effect(self, budget: int | None, arm: str, control: str | None = None) -> Effect:
        """The score of an arm, or its gain over a control."""

    @abc.abstractmethod
    def _means(self, runs: list[tuple[str, int | None]]) -> BalancedMeans | SplitMeans:
        """The means of these arms at these budgets."""

    def score(self, arm: str, budget: int | None) -> Effect:
        """Compute the balanced accuracy of one arm at one budget.

        Parameters
        ----------
        arm : str
            Name of the arm.
        budget : int or None
            Labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            The mean over seeds, and splits if there are several, with its interval, in shares of
            one.

        Raises
        ------
        KeyError
            If there is no such arm or budget.
        """
        return self._effect(budget, arm)

    def gain(self, arm: str, control: str, budget: int | None) -> Effect:
        """Compute the paired difference of two arms at one budget.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str
            Name of the arm that it is compared with.
        budget : int or None
            Labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            Balanced accuracy of the arm minus that of the control, in shares of one, with its
            interval.

        Raises
        ------
        KeyError
            If there is no such arm or budget.
        """
        return self._effect(budget, arm, control)

    def equivalent_budget(self, arm: str, control: str, budget: int | None) -> Effect:
        """Compute how many labels per class the control needs to score as the arm does.

        The control's curve is read between its budgets on a logarithmic scale, and never falls: at
        each budget it counts as good as at any smaller one. The result is the smallest budget at
        which the curve reaches the arm's score, so it never exceeds the arm's own budget where the
        two score alike.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str
            Name of the arm that it is compared with.
        budget : int or None
            The arm's labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            Labels per class. The limits enclose the budgets at which the control's score is not
            clearly below or above the arm's, by the interval of a gain. The
            smallest of all budgets means "at most", and the largest means "at least", because the
            curve does not go further.

        Raises
        ------
        KeyError
            If there is no such arm or budget.
        """
        budgets = np.sort([number for number in self.budgets if number is not None])
        if not len(budgets):
            raise ValueError("the curve needs budgets in labels per class, and there is None alone")
        runs = [(arm, budget), *((control, int(number)) for number in budgets)]
        means = self._means(runs)
        score, *curve = means.values.mean(1)
        x = np.log(budgets)
        value = _reached(score, np.maximum.accumulate(curve), x)
        # Fieller's interval: where the arm's score less the curve's may be zero, up to rounding. A
        # jackknife or a gradient of the budget itself would fail at the curve's kinks and ends
        places = np.unique([value, *x, *np.linspace(x[0], x[-1], 50 * (len(x) - 1) + 1)])
        on_curve = np.stack([np.interp(places, x, row) for row in np.eye(len(x))], 1)
        ahead = [means.contrast(np.array([1, *-weights])) for weights in on_curve]
        low = next((at for at, e in zip(places, ahead, strict=True) if e.low <= 1e-12), x[-1])
        high = next((at for at, e in zip(places, ahead, strict=True) if e.high <= 1e-12), x[-1])
        least, most = float(budgets[0]), float(budgets[-1])
        value, low, high = (float(np.clip(np.exp(at), least, most)) for at in (value, low, high))
        effect = Effect(
            value, min(low, value), max(high, value), len(self.seeds), unit="labels per class"
        )
        for one in np.eye(len(runs)):
            if reason := means.contrast(one).unreliable:
                return replace(effect, low=least, high=most, unreliable=reason)
        return effect

    def saving(self, arm: str, control: str, budget: int | None) -> Effect:
        """Compute the share of the control's CPU seconds that an arm saves.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str
            Name of the arm that it is compared with.
        budget : int or None
            Labels per class; None stands for all labeled rows.

        Returns
        -------
        Effect
            The share, negative if the arm takes longer, with an interval over seeds.

        Raises
        ------
        KeyError
            If there is no such arm.
        ValueError
            If there is no such budget.
        """
        position = self.budgets.index(budget)
        ours, theirs = (self.cpu_seconds[name][position] for name in (arm, control))
        return Effect.over_seeds(1 - ours / theirs)

    def table(self) -> pd.DataFrame:
        """List the score of each arm at each budget.

        Returns
        -------
        pandas.DataFrame
            One row per arm and budget: labels per class, score, ends of its interval, and mean CPU
            seconds.
        """
        return pd.DataFrame(
            [
                {"arm": arm, "labels per class": budget, "score": effect.value}
                | effect.limits
                | {"CPU seconds": self.cpu_seconds[arm][position].mean()}
                for arm in self.arms
                for position, budget in enumerate(self.budgets)
                for effect in [self.score(arm, budget)]
            ]
        )

    def gains(self, control: str) -> pd.DataFrame:
        """List the gain of each other arm over a control at each budget.

        Parameters
        ----------
        control : str
            Name of the arm that the others are compared with.

        Returns
        -------
        pandas.DataFrame
            One row per other arm and budget: labels per class, gain, and ends of its interval.

        Raises
        ------
        KeyError
            If there is no such arm.
        """
        return pd.DataFrame(
            [
                {"arm": arm, "labels per class": budget, "gain": effect.value} | effect.limits
                for arm in self.arms
                if arm != control
                for budget in self.budgets
                for effect in [self.gain(arm, control, budget)]
            ]
        )


@dataclass(frozen=True)
class Comparison(Scores):
    """Hold what :func:`tlbook.compare` measured on one split.

    Attributes
    ----------
    name : str
        Name of the data set.
    budgets : tuple of int or None
        Labels per class; None stands for all labeled rows.
    seeds : tuple of int
        Seeds of the runs.
    y : (n_test,) numpy.ndarray of int
        True labels of the test examples.
    groups : (n_test,) numpy.ndarray
        Groups of the test examples.
    predictions : dict of str to (budgets, seeds, n_test) numpy.ndarray of int
        Predicted labels by arm.
    cpu_seconds : dict of str to (budgets, seeds) numpy.ndarray
        CPU seconds of each run by arm.
    """

    name: str
    budgets: tuple[int | None, ...]
    seeds: tuple[int, ...]
    y: np.ndarray
    groups: np.ndarray
    predictions: dict[str, np.ndarray]
    cpu_seconds: dict[str, np.ndarray]

    @property
    def arms(self) -> list[str]:
        """Return the names of the arms.

        Returns
        -------
        list of str
            The names, in the order in which the arms were given.
        """
        return list(self.predictions)

    def subset(self, tests: np.ndarray, name: str | None = None) -> "Comparison":
        """Return the same runs, scored on some of the test examples.

        Parameters
        ----------
        tests : (k,) numpy.ndarray of int, or (n_test,) numpy.ndarray of bool
            Positions of the test examples to keep, or a mask.
        name : str, optional
            Name of the result. By default it is the comparison's own.

        Returns
        -------
        Comparison
            The comparison on these examples.
        """
        return replace(
            self,
            name=name or self.name,
            y=self.y[tests],
            groups=self.groups[tests],
            predictions={arm: found[..., tests] for arm, found in self.predictions.items()},
        )

    def beside(self, other: "Comparison") -> "Comparison":
        """Return these arms and those of another comparison on the same rows with the same seeds.

        So an arm that is cheap can run anew beside arms that were recorded.

        Parameters
        ----------
        other : Comparison
            Its arms have other names.

        Returns
        -------
        Comparison
            The other's arms, then these.

        Raises
        ------
        ValueError
            If budgets, seeds or test examples differ, or both have an arm of the same name.
        """
        same = (self.budgets, self.seeds) == (other.budgets, other.seeds)
        if not same or any(
            not np.array_equal(getattr(self, name), getattr(other, name))
            for name in ("y", "groups")
        ):
            raise ValueError("the comparisons differ in their budgets, seeds or test examples")
        if shared := set(self.arms) & set(other.arms):
            raise ValueError(f"both comparisons have an arm {min(shared)!r}: rename one")
        return replace(
            self,
            predictions=other.predictions | self.predictions,
            cpu_seconds=other.cpu_seconds | self.cpu_seconds,
        )

    def _effect(self, budget: int | None, arm: str, control: str | None = None) -> Effect:
        others = [] if control is None else [self._at(control, budget)]
        return balanced_accuracy(self.y, self._at(arm, budget), *others, groups=self.groups)

    def _means(self, runs: list[tuple[str, int | None]]) -> BalancedMeans:
        right = np.stack([self._at(*run) for run in runs]) == self.y
        return balanced_means(self.y, right.astype(float), self.groups)

    def _at(self, arm: str, budget: int | None) -> np.ndarray:
        if arm not in self.predictions:
            raise KeyError(f"no arm {arm!r}: choose one of {self.arms}")
        if budget not in self.budgets:
            raise KeyError(f"no budget {budget!r}: choose one of {list(self.budgets)}")
        return self.predictions[arm][self.budgets.index(budget)]


@dataclass(frozen=True)
class SplitComparison(Scores):
    """Hold what :func:`tlbook.compare` measured on several splits.

    Attributes
    ----------
    parts : tuple of Comparison
        The comparison on each split, with seeds of its own.
    carried : dict of int or None to float
        By budget: labeled examples for each one of the data set that is not (see
        :mod:`tlbook.evidence.splits`).
    """

    parts: tuple[Comparison, ...]
    carried: dict[int | None, float]

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
    def seeds(self) -> tuple[int, ...]:
        """Return the seeds of all splits."""
        return tuple(seed for part in self.parts for seed in part.seeds)

    @property
    def y(self) -> np.ndarray:
        """Return the true labels of the test examples, split by split."""
        return np.concatenate([part.y for part in self.parts])

    @property
    def cpu_seconds(self) -> dict[str, np.ndarray]:
        """Return the CPU seconds of each run, (budgets, seeds of all splits) by arm."""
        return {
            arm: np.concatenate([part.cpu_seconds[arm] for part in self.parts], axis=1)
            for arm in self.arms
        }

    def variance(self, arm: str, control: str | None = None, half_width: float = 0.02):
        """List what a single run's score or gain varies by, and what a narrower interval takes.

        Parameters
        ----------
        arm : str
            Name of the arm.
        control : str, optional
            Name of the arm that it is compared with. By default the arm's score is looked at.
        half_width : float, default 0.02
            The wanted half of the interval's width, as a share of one.

        Returns
        -------
        pandas.DataFrame
            One row per budget: labels per class; the standard deviation of one run with one split
            and one seed, as a share of one; the shares of its variance that are due to the split's
            examples to learn from, to the seed, and to the split's examples to test; half of the
            interval's width here; and how many seeds on these splits, or splits of as many seeds,
            the wanted one needs, missing where no number is enough.
        """
        rows = []
        for budget in self.budgets:
            parts = self._differences(budget, arm, control).variances(np.ones(1))
            whole = parts.splits + parts.seeds + parts.items
            effect = self._effect(budget, arm, control)
            known = effect.components is not None
            rows.append(
                {
                    "labels per class": budget,
                    "one run": whole**0.5,
                    "split": parts.splits / (whole or 1),
                    "seed": parts.seeds / (whole or 1),
                    "test examples": parts.items / (whole or 1),
                    "half-width": (effect.high - effect.low) / 2 if known else np.nan,
                    "seeds needed": effect.seeds_for(half_width) if known else None,
                    "splits needed": effect.splits_for(half_width) if known else None,
                }
            )
        return pd.DataFrame(rows).astype({"seeds needed": "Int64", "splits needed": "Int64"})

    def _effect(self, budget: int | None, arm: str, control: str | None = None) -> Effect:
        least = 0.0 if control is None else -1.0
        means = self._differences(budget, arm, control)
        effect = means.contrast(np.ones(1), least=least, most=1.0)
        if control is None:
            return effect
        return replace(effect, scores=(self._effect(budget, arm), self._effect(budget, control)))

    def _differences(self, budget: int | None, arm: str, control: str | None) -> SplitMeans:
        """The means of what an arm gets right, or gets right beyond its control."""

        def gain(part: Comparison) -> np.ndarray:
            right = (part._at(arm, budget) == part.y).astype(float)
            return right if control is None else right - (part._at(control, budget) == part.y)

        parts = (balanced_means(part.y, gain(part)[None], part.groups) for part in self.parts)
        return SplitMeans(tuple(parts), self.carried[budget])

    def _means(self, runs: list[tuple[str, int | None]]) -> SplitMeans:
        carried = max(self.carried[budget] for _, budget in runs)
        return SplitMeans(tuple(part._means(runs) for part in self.parts), carried)


def _reached(score: float, curve: np.ndarray, x: np.ndarray) -> float:
    """Where a curve that never falls first reaches a score; its ends where it does not or begins.

    (``np.interp`` gives the right end of a plateau, which would favor the arm.)
    """
    above = np.flatnonzero(curve >= score - 1e-12)  # a plateau holds in spite of rounding
    if not len(above) or above[0] == 0:
        return x[0] if len(above) else x[-1]
    i = above[0]
    share = min(1.0, (score - curve[i - 1]) / (curve[i] - curve[i - 1]))
    return x[i - 1] + share * (x[i] - x[i - 1])
