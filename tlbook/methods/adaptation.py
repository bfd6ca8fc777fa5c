"""Compare methods of domain adaptation (领域自适应, S15): run them all, and choose without labels.

The labels of the source train, those of the target are missing. :func:`two_domains` cuts two data
sets into the parts that such a comparison needs. :func:`run_grid` runs each method with each
trade-off weight and each seed on them, and judges each run by criteria that see no label of the
target. The :class:`Grid` that it returns chooses among the runs, seed by seed (see
:func:`tlbook.methods.selection.choose`), and says what a choice gains. :func:`gains` and
:func:`costs` are tables of that over several pairs of domains.

A run never sees the test rows, not even without their labels. Labels of the target's validation
rows serve the oracle's choice alone. The methods themselves are the caller's, in any framework.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from threadpoolctl import threadpool_limits

from tlbook import checks
from tlbook.data import Dataset, split
from tlbook.evidence import plots
from tlbook.evidence.balanced import balanced_accuracy
from tlbook.evidence.effects import Effect
from tlbook.methods.selection import choose, take_chosen
from tlbook.methods.weighting import density_ratio

#: Examples by column: ``x`` (n, d) and, where they are known, ``labels`` (n,).
Columns = dict[str, np.ndarray]
#: The candidate of every method at weight 0: training on the source alone.
SOURCE_ONLY = ("source only", 0.0)
#: The choice by labeled validation rows of the target, which nobody has who needs adaptation.
ORACLE = "oracle"


class Domains(NamedTuple):
    """Hold two domains, in parts.

    Attributes
    ----------
    source : dict of str to numpy.ndarray
        Source rows to train on, as columns ``x`` (n, d) and ``labels`` (n,).
    held_out : dict of str to numpy.ndarray
        Source rows that no run trains on, to judge by.
    target : dict of str to numpy.ndarray
        Target rows that methods see without labels. Their labels are for the ceiling.
    validation : dict of str to numpy.ndarray
        Target rows for the oracle.
    test : dict of str to numpy.ndarray
        Target rows that no run sees.
    groups : (n_test,) numpy.ndarray
        Groups of the test rows.
    n : int
        How many rows of each domain a seed draws.
    """

    source: Columns
    held_out: Columns
    target: Columns
    validation: Columns
    test: Columns
    groups: np.ndarray
    n: int

    @property
    def classes(self) -> int:
        """Return the number of classes in the source.

        Returns
        -------
        int
            One more than the largest label.
        """
        return int(self.source["labels"].max()) + 1

    def drawn(self, seed: int) -> tuple[Columns, Columns]:
        """Draw the rows of one seed: of the source, and of the target.

        Parameters
        ----------
        seed : int
            Seed of the draw.

        Returns
        -------
        tuple of dict
            The source's and the target's columns, both with labels.
        """
        return draw(self.source, self.n, seed), draw(self.target, self.n, seed)

    def few(self, seed: int, per_class: int) -> Columns:
        """Draw a few labeled rows of the target.

        Parameters
        ----------
        seed : int
            Seed of the draw.
        per_class : int
            How many rows to draw of each class; of a class with fewer rows, all.

        Returns
        -------
        dict of str to numpy.ndarray
            The target's columns of these rows, class by class.
        """
        order = np.random.default_rng(seed).permutation(len(self.target["x"]))
        labels = self.target["labels"][order]
        rows = np.concatenate([order[labels == k][:per_class] for k in np.unique(labels)])
        return {name: column[rows] for name, column in self.target.items()}


def draw(columns: Columns, n: int, seed: int) -> Columns:
    """Draw rows without replacement.

    Parameters
    ----------
    columns : dict of str to numpy.ndarray
        Columns of one length, with one named ``x``.
    n : int
        How many rows to draw. If there are fewer, all are taken, in random order.
    seed : int
        Seed of the draw.

    Returns
    -------
    dict of str to numpy.ndarray
        The same columns, of these rows.
    """
    rows = np.random.default_rng(seed).permutation(len(columns["x"]))[:n]
    return {name: column[rows] for name, column in columns.items()}


def two_domains(
    source: Dataset,
    source_x: np.ndarray,
    target: Dataset,
    target_x: np.ndarray,
    *,
    rows: Sequence[np.ndarray] | None = None,
    n: int = 500,
    components: int = 64,
) -> Domains:
    """Cut two data sets into the parts of a comparison; groups stay whole.

    Features are reduced to the principal components of the source's training rows, and scaled by
    one number, so that the two domains keep their distance.

    Parameters
    ----------
    source : Dataset
        The domain with labels.
    source_x : (n_source, d) numpy.ndarray
        Features of the source's examples.
    target : Dataset
        The domain to adapt to. Its classes are those of the source, in the same order.
    target_x : (n_target, d) numpy.ndarray
        Features of the target's examples.
    rows : three arrays of int, optional
        Positions of the source, of the target without its test rows, and of the test rows. By
        default they are all of the source, two thirds and one third of the target. Give them where
        the same object stands in both domains, so that it is not both seen and tested.
    n : int, default 500
        How many rows of each domain a seed draws.
    components : int, default 64
        Number of principal components.

    Returns
    -------
    Domains
        The parts: of the source and of the rest of the target, a third is held out. Held-out and
        validation rows are at most 300 each, test rows at most 500.

    Raises
    ------
    ValueError
        If the domains differ in their classes, there are not as many features as examples, or a
        part would be too small.
    """
    if source.classes != target.classes:
        raise ValueError(
            f"{source.name} has classes {list(source.classes)}, but {target.name} "
            f"{list(target.classes)}: domains share their classes"
        )
    for domain, x in ((source, source_x), (target, target_x)):
        if len(x) != len(domain):
            raise ValueError(
                f"{domain.name}: {len(domain)} examples, but {len(x)} rows of features"
            )
    checks.integer("n", n, least=2)
    if rows is None:
        seen, test = _parted(target, np.arange(len(target)), 1 / 3)
        rows = np.arange(len(source)), seen, test
    train, held_out = _parted(source, rows[0], 1 / 3)
    unlabeled, validation = _parted(target, rows[1], 1 / 3)
    test = np.sort(np.random.default_rng(0).permutation(rows[2])[:500])
    pca = PCA(components, random_state=0).fit(source_x[train])
    scale = pca.transform(source_x[train]).std()

    def part(domain: Dataset, x: np.ndarray, rows: np.ndarray) -> Columns:
        inputs = (pca.transform(x[rows]) / scale).astype(np.float32)
        return {"x": inputs, "labels": domain.y[rows]}

    return Domains(
        part(source, source_x, train),
        draw(part(source, source_x, held_out), 300, 0),
        part(target, target_x, unlabeled),
        draw(part(target, target_x, validation), 300, 0),
        part(target, target_x, test),
        target.groups[test],
        n,
    )


def _parted(domain: Dataset, rows: np.ndarray, share: float) -> tuple[np.ndarray, np.ndarray]:
    """These rows in two parts, the second of about this share; groups stay whole."""
    parts = split(domain.take(rows), test=share)
    return rows[parts.train], rows[parts.test]


class Seen(NamedTuple):
    """Hold what is seen of one run without a label of the target; criteria judge by it.

    Attributes
    ----------
    weight : float
        The trade-off weight, 0 for source only.
    wrong : (n_held_out,) numpy.ndarray of bool
        Whether the model errs on held-out source rows.
    input_ratios : (n_held_out,) numpy.ndarray
        How much more frequent such rows are in the target, at most 20 times.
    feature_ratios : (n_held_out,) numpy.ndarray
        The same by the features of the model that is judged.
    probabilities : (n, classes) numpy.ndarray
        What the model predicts of the unlabeled target rows.
    """

    weight: float
    wrong: np.ndarray
    input_ratios: np.ndarray
    feature_ratios: np.ndarray
    probabilities: np.ndarray


class Candidate(NamedTuple):
    """Hold the runs of one method at one weight.

    Attributes
    ----------
    risks : dict of str to (seeds,) numpy.ndarray
        The risk by each criterion. Smaller is better. By :data:`ORACLE` it is minus the balanced
        accuracy on the target's validation rows.
    predicted : (seeds, n_test) numpy.ndarray of int
        Predicted labels of the test rows.
    cpu_seconds : (seeds,) numpy.ndarray
        CPU seconds of the method.
    """

    risks: dict[str, np.ndarray]
    predicted: np.ndarray
    cpu_seconds: np.ndarray


#: (weight, source columns, target columns without labels, number of classes, seed) -> a model, and
#: the function that maps rows x of the source to where the model expects them.
Method = Callable[[float, Columns, Columns, int, int], tuple[Any, Callable]]


@dataclass(frozen=True)
class Grid:
    """Hold all runs on two domains.

    Attributes
    ----------
    domains : Domains
        The two domains.
    candidates : dict of (str, float) to Candidate
        The runs by method and weight, :data:`SOURCE_ONLY` first.
    ceiling : (seeds, n_test) numpy.ndarray of int
        Predictions of a model that was trained on labels of the target, as many as the source has.
    """

    domains: Domains
    candidates: dict[tuple[str, float], Candidate]
    ceiling: np.ndarray

    @property
    def methods(self) -> list[str]:
        """Return the names of the methods, without the control.

        Returns
        -------
        list of str
            The names, in the order in which they were run.
        """
        return list(dict.fromkeys(name for name, _ in self.candidates if name != SOURCE_ONLY[0]))

    @property
    def source_only(self) -> np.ndarray:
        """Return the predictions of the control.

        Returns
        -------
        (seeds, n_test) numpy.ndarray of int
            What training on the source alone predicts.
        """
        return self.candidates[SOURCE_ONLY].predicted

    def chosen(self, by: str, method: str | None = None) -> list[tuple[str, float]]:
        """Choose a candidate for each seed.

        Parameters
        ----------
        by : str
            Name of the criterion, or :data:`ORACLE`.
        method : str, optional
            Choose among the weights of this method, with 0 (source only). By default the choice is
            among all methods and weights.

        Returns
        -------
        list of (str, float)
            Method and weight of each seed.

        Raises
        ------
        ValueError
            If there is no such criterion or method.
        """
        checks.choice("by", by, list(self.candidates[SOURCE_ONLY].risks))
        if method is not None:
            checks.choice("method", method, {name: 0 for name, _ in self.candidates})
        return choose(
            {
                key: candidate.risks[by]
                for key, candidate in self.candidates.items()
                if method is None or key[0] == method or key == SOURCE_ONLY
            }
        )

    def predictions(self, by: str, method: str | None = None) -> np.ndarray:
        """Return what the chosen candidates predict of the test rows.

        Parameters
        ----------
        by : str
            Name of the criterion, or :data:`ORACLE`.
        method : str, optional
            Choose among the weights of this method, as in :meth:`chosen`.

        Returns
        -------
        (seeds, n_test) numpy.ndarray of int
            Predicted labels, of each seed those of its own choice.

        Raises
        ------
        ValueError
            If there is no such criterion or method.
        """
        predicted = {key: candidate.predicted for key, candidate in self.candidates.items()}
        return take_chosen(predicted, self.chosen(by, method))

    def difference(self, ours: np.ndarray, theirs: np.ndarray) -> Effect:
        """Compute the paired difference of two sets of predictions of the test rows.

        Parameters
        ----------
        ours : (seeds, n_test) numpy.ndarray of int
            Predicted labels.
        theirs : (seeds, n_test) numpy.ndarray of int
            Those that they are compared with.

        Returns
        -------
        Effect
            Difference of balanced accuracies, in shares of one, with its interval.
        """
        test, groups = self.domains.test["labels"], self.domains.groups
        return balanced_accuracy(test, ours, theirs, groups=groups)


@threadpool_limits.wrap(limits=1, user_api="blas")  # with so few numbers threads only wait
def run_grid(
    domains: Domains,
    methods: Mapping[str, tuple[Method, Sequence[float]]],
    *,
    supervised: Callable[[Columns, int, int], Any],
    outputs: Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]],
    criteria: Mapping[str, Callable[[Seen], float]],
    seeds: Sequence[int] = range(5),
) -> Grid:
    """Run every method with every weight and every seed, and judge each run without labels.

    Parameters
    ----------
    domains : Domains
        The two domains, as :func:`two_domains` returns them. Each seed draws its own rows.
    methods : mapping of str to (Method, sequence of float)
        For each method its function and its trade-off weights, all above 0. At weight 0 every
        method is training on the source alone, which is run once.
    supervised : callable
        ``supervised(columns, classes, seed)`` trains a model on labeled rows: the control on the
        source's, the ceiling on the target's.
    outputs : callable
        ``outputs(model, x)`` returns the class probabilities (n, classes) and the features (n, k)
        of rows x.
    criteria : mapping of str to callable
        Functions of :class:`Seen` that return a risk.
    seeds : sequence of int, default range(5)
        Seeds of the runs.

    Returns
    -------
    Grid
        All runs.

    Raises
    ------
    ValueError
        If a weight is not positive or given twice, a method is called as the control is, or a
        criterion as the oracle.
    """
    seeds = checks.seeds(seeds, least=2)
    if ORACLE in criteria:
        raise ValueError(f"a criterion is called {ORACLE!r}: that is the choice with labels")

    def alone(weight, source, target, classes, seed):
        return supervised(source, classes, seed), lambda x: x

    arms = {SOURCE_ONLY: alone}
    for name, (method, weights) in methods.items():
        for weight in weights:
            key = name, checks.number(f"a weight of {name}", weight, above=0)
            if key in arms or name == SOURCE_ONLY[0]:
                raise ValueError(f"{name!r} with the weight {weight:g} is there already")
            arms[key] = method
    runs, ceiling = {key: [] for key in arms}, []
    for seed in seeds:
        source, target = domains.drawn(seed)
        ratios = _ratios(domains.held_out["x"], target["x"])
        for key, method in arms.items():
            start = time.process_time()
            unlabeled = {"x": target["x"]}
            model, move = method(key[1], dict(source), unlabeled, domains.classes, seed)
            seconds = time.process_time() - start
            seen = _seen(key[1], model, move, domains, target["x"], ratios, outputs)
            risks = {name: criterion(seen) for name, criterion in criteria.items()}
            guessed, predicted = (
                outputs(model, part["x"])[0].argmax(1)
                for part in (domains.validation, domains.test)
            )
            risks[ORACLE] = -balanced_accuracy_score(domains.validation["labels"], guessed)
            runs[key].append((risks, predicted, seconds))
        model = supervised(target, domains.classes, seed)
        ceiling.append(outputs(model, domains.test["x"])[0].argmax(1))
    return Grid(domains, {key: _stacked(found) for key, found in runs.items()}, np.stack(ceiling))


def _seen(weight, model, move, domains, x, ratios, outputs) -> Seen:
    """What a run shows without labels of the target; ``x`` are its unlabeled rows."""
    p_source, source_features = outputs(model, move(domains.held_out["x"]))
    p_target, target_features = outputs(model, x)
    wrong = p_source.argmax(1) != domains.held_out["labels"]
    return Seen(weight, wrong, ratios, _ratios(source_features, target_features), p_target)


def _ratios(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """How much more frequent the source's rows are in the target, at most 20 times."""
    learner = LogisticRegression(max_iter=1000)
    return density_ratio(source, target, estimator=learner, clip=20, folds=2)


def _stacked(runs: list[tuple[dict[str, float], np.ndarray, float]]) -> Candidate:
    risks, predicted, seconds = zip(*runs, strict=True)
    by_name = {name: np.array([of_seed[name] for of_seed in risks]) for name in risks[0]}
    return Candidate(by_name, np.stack(predicted), np.array(seconds))


def two_classes(n: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make up a domain of two classes in the plane, side by side.

    Parameters
    ----------
    n : int
        How many examples.
    share : float
        Chance of class 1, in 0..1.
    rng : numpy.random.Generator
        Where they are drawn from.

    Returns
    -------
    tuple of numpy.ndarray
        Examples (n, 2) and labels (n,).
    """
    y = (rng.random(n) < share).astype(int)
    return rng.normal(size=(n, 2)) * (0.5, 1.0) + np.outer(2 * y - 1, (1.4, 0)), y


# --- tables and drawings ------------------------------------------------------------------------


def gains(grids: Mapping[str, Grid], by: Sequence[str]) -> pd.DataFrame:
    """Tabulate what methods, and labels of the target, gain over the source alone.

    Parameters
    ----------
    grids : mapping of str to Grid
        The runs by the name of their pair of domains.
    by : sequence of str
        Criteria that choose the weight of a method.

    Returns
    -------
    pandas.DataFrame
        A line for each pair, method and criterion, and one for the ceiling of each pair, with
        columns ``pair``, ``method``, ``chosen by``, ``gain``, ``low`` and ``high``; the last three
        are shares of one.
    """
    lines = []
    for pair, grid in grids.items():
        arms = {(name, b): grid.predictions(b, name) for name in grid.methods for b in by}
        arms["labels of the target", "none"] = grid.ceiling
        for (method, chosen), predicted in arms.items():
            gain = grid.difference(predicted, grid.source_only)
            line = {"pair": pair, "method": method, "chosen by": chosen, "gain": gain.value}
            lines.append(line | gain.limits)
    return pd.DataFrame(lines)


def costs(grids: Mapping[str, Grid], by: Sequence[str]) -> pd.DataFrame:
    """Tabulate what it costs to choose a method's weight by a criterion and not by the oracle.

    Parameters
    ----------
    grids : mapping of str to Grid
        The runs by the name of their pair of domains.
    by : sequence of str
        The criteria.

    Returns
    -------
    pandas.DataFrame
        A line for each pair, method and criterion, with columns ``pair``, ``method``,
        ``criterion``, ``gap``, ``low`` and ``high``; the last three are shares of one.
    """
    lines = []
    for pair, grid in grids.items():
        for method in grid.methods:
            best = grid.predictions(ORACLE, method)
            for criterion in by:
                gap = grid.difference(best, grid.predictions(criterion, method))
                line = {"pair": pair, "method": method, "criterion": criterion}
                lines.append(line | {"gap": gap.value} | gap.limits)
    return pd.DataFrame(lines)


def draw_gains(
    table: pd.DataFrame,
    by: Mapping[str, str],
    ceiling: Mapping[str, Effect],
    rival: Mapping[str, Effect],
    rival_name: str,
) -> Figure:
    """Draw what methods gain over the source alone, a panel for each pair of domains.

    Parameters
    ----------
    table : pandas.DataFrame
        The table of :func:`gains`.
    by : mapping of str to str
        For each criterion to draw, its name in the legend.
    ceiling : mapping of str to Effect
        For each pair what all labels of the target gain; its value is drawn as a dashed line.
    rival : mapping of str to Effect
        For each pair what something else gains; it stands below the methods.
    rival_name : str
        Its name.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, in points of balanced accuracy.
    """
    width = 1.8 * len(ceiling) + 3
    fig, axes = plt.subplots(1, len(ceiling), figsize=(width, 3.9), sharey=True, squeeze=False)
    for ax, pair in zip(axes[0], ceiling, strict=True):
        here = table[table["pair"] == pair]
        for k, (criterion, name) in enumerate(by.items()):
            part, color = here[here["chosen by"] == criterion], plots.COLORS[k]
            height = np.arange(len(part)) + 0.3 * k
            ax.hlines(height, 100 * part["low"], 100 * part["high"], color=color)
            ax.plot(100 * part["gain"], height, "o", ms=4, color=color, label=name)
        names, found, color = [*part["method"], rival_name], rival[pair], plots.COLORS[len(by)]
        ax.hlines(len(part), 100 * found.low, 100 * found.high, color=color)
        ax.plot(100 * found.value, len(part), "s", ms=5, color=color)
        top = 100 * ceiling[pair].value
        ax.axvline(top, color="black", ls="--", lw=1, label="all labels of the target")
        ax.axvline(0, color="black", lw=1)
        ax.set_title(pair, fontsize=9 if len(ceiling) > 2 else 11)
    axes[0, 0].set_yticks(np.arange(len(names)) + 0.15 * (len(by) - 1), names)
    axes[0, 0].invert_yaxis()
    fig.supxlabel("gain over source only (points of balanced accuracy)", fontsize=10)
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=3, fontsize=9)
    return fig


def draw_domains(
    ax: Axes, source: np.ndarray, y: np.ndarray, target: np.ndarray, truth: np.ndarray
) -> None:
    """Draw two domains in the plane: dots are the source, crosses the target, colors the classes.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    source : (n, 2) numpy.ndarray
        Examples of the source.
    y : (n,) numpy.ndarray of int
        Their labels.
    target : (m, 2) numpy.ndarray
        Examples of the target.
    truth : (m,) numpy.ndarray of int
        Their labels.
    """
    for name, x, labels, marker in (("source", source, y, "."), ("target", target, truth, "x")):
        for k in np.unique(labels):
            style = {"marker": marker, "color": plots.COLORS[k], "s": 16, "lw": 0.7, "alpha": 0.8}
            ax.scatter(*x[labels == k].T, label=f"{name}, {k}", **style)
