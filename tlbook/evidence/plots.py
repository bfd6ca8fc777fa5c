"""The figures that every chapter draws the same way.

All words that a figure shows beside the names of its arms stand in :data:`WORDS`, so that an
edition in another language changes them in one place.
"""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike

from tlbook.evidence.effects import Effect
from tlbook.evidence.scores import Scores

#: All words that the figures show.
WORDS = {
    "score": "balanced accuracy (%)",
    "budget": "labels per class",
    "all": "all",
    "chance": "chance",
    "gain": "gain (points of balanced accuracy)",
    "trained": "trained on",
    "tested": "tested on",
}

#: Okabe and Ito's colors, told apart with any color vision; black is left to axes and text.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999")
#: A marker for each color.
MARKERS = "osD^vPX"


#: A place in COLORS for what the book compares again and again, by a pattern of its name: so it
#: looks the same on every page.
PLACES = {
    "frozen|encoder": 0,
    "all layers|fine-tuned": 1,
    "LoRA": 2,
    "word|counts|characters|pixels": 3,
    "last": 4,
    "head": 5,
    "scratch|untrained": 6,
}


def looks(names: Sequence[str]) -> list[tuple[str, str]]:
    """Return a color and a marker for each name, those of the book where it has one.

    Parameters
    ----------
    names : sequence of str
        Names of arms, at most as many as there are :data:`COLORS`.

    Returns
    -------
    list of (str, str)
        A color and a marker by name. Names without a place, and those whose place is taken, get
        the first that are free.

    Raises
    ------
    ValueError
        There are more names than colors to tell them apart.
    """
    if len(names) > len(COLORS):
        raise ValueError(f"{len(names)} arms, but {len(COLORS)} colors: choose some by arms=")
    known = {name: [PLACES[p] for p in PLACES if re.search(p, name)] for name in names}
    taken = {}
    for name in sorted(names, key=lambda name: not known[name]):  # those with a place come first
        free = [place for place in range(len(COLORS)) if place not in taken.values()]
        taken[name] = next((place for place in known[name] if place in free), free[0])
    return [(COLORS[taken[name]], MARKERS[taken[name]]) for name in names]


def style() -> None:
    """Set matplotlib and pandas up for the book: vector figures, quiet axes, readable tables."""
    pd.options.display.max_colwidth = 120
    from matplotlib_inline.backend_inline import set_matplotlib_formats

    set_matplotlib_formats("svg", metadata={"Date": None})  # equal drawings have equal bytes
    plt.rcParams.update(
        {
            "axes.prop_cycle": plt.cycler(color=COLORS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#e6e6e6",
            "figure.constrained_layout.use": True,
            "figure.figsize": (7, 4.5),
            "font.size": 11,
            "legend.frameon": False,
            "svg.hashsalt": "tlbook",
            "svg.fonttype": "none",  # text stays text, for search and screen readers
        }
    )


def learning_curves(
    comparison: Scores, ax: Axes | None = None, arms: Sequence[str] | None = None
) -> Axes:
    """Draw score against label budget, a line per arm with its interval as a band.

    Parameters
    ----------
    comparison : Comparison or SplitComparison
        Predictions of each arm at each budget.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.
    arms : sequence of str, optional
        Arms to draw; by default all.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, with scores in percent.

    Raises
    ------
    ValueError
        There are more arms than colors to tell them apart: choose some.
    """
    arms = comparison.arms if arms is None else arms
    styles = looks(arms)
    ax = ax or plt.subplots()[1]
    position = _positions(comparison.budgets)
    for arm, (color, marker) in zip(arms, styles, strict=True):
        effects = [comparison.score(arm, budget) for budget in comparison.budgets]
        low, value, high = (
            [100 * getattr(effect, part) for effect in effects] for part in ("low", "value", "high")
        )
        ax.plot(position, value, color=color, marker=marker, markersize=5, label=arm)
        ax.fill_between(position, low, high, color=color, alpha=0.15, linewidth=0)
    chance = 100 / len(np.unique(comparison.y))
    ax.axhline(chance, color="#666666", linewidth=1, linestyle=":", label=WORDS["chance"])
    ax.set_xticks(position, [_budget_name(budget) for budget in comparison.budgets])
    ax.set(xlabel=WORDS["budget"], ylabel=WORDS["score"], title=comparison.name)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)  # never on a curve
    return ax


def transfer_table(values: np.ndarray, domains: Sequence[str], ax: Axes | None = None) -> Axes:
    """Draw the scores of every pair of domains: trained on the row, tested on the column.

    Parameters
    ----------
    values : (domains, domains) array
        Scores as shares of one; they are drawn in percent.
    domains : sequence of str
        Names of the domains.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes.
    """
    ax = ax or plt.subplots()[1]
    ax.imshow(100 * values, cmap="cividis", vmin=50, vmax=90, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ink = "black" if value > 0.7 else "white"
        ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=ink)
    ax.set_xticks(range(len(domains)), domains)
    ax.set_yticks(range(len(domains)), domains)
    ax.set(xlabel=WORDS["tested"], ylabel=WORDS["trained"])
    ax.tick_params(length=0)
    ax.grid(False)
    ax.spines[:].set_visible(False)
    return ax


def effects(named: dict[str, Effect], ax: Axes | None = None) -> Axes:
    """Draw effects as points with their intervals, one below the other, and the line of no effect.

    An effect that is unreliable is a cross without an interval.

    Parameters
    ----------
    named : dict of str to tlbook.evidence.effects.Effect
        Effects by the names to show, from top to bottom.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in points of balanced accuracy.
    """
    ax = ax or plt.subplots(figsize=(7, 0.8 + 0.4 * len(named)))[1]
    for row, effect in enumerate(named.values()):
        color = {1: COLORS[2], 0: COLORS[6], -1: COLORS[1]}[effect.sign]
        if effect.unreliable:
            ax.plot(100 * effect.value, row, "x", color=color)
            continue
        ax.plot([100 * effect.low, 100 * effect.high], [row, row], color=color, linewidth=2)
        ax.plot(100 * effect.value, row, "o", color=color)
    ax.axvline(0, color="black", linewidth=1)
    ax.set_yticks(range(len(named)), list(named))
    ax.invert_yaxis()
    ax.set(xlabel=WORDS["gain"])
    return ax


def bands(x: Sequence[float], named: dict[str, Sequence[Effect]], ax: Axes | None = None) -> Axes:
    """Draw effects or scores over a number, a line for each name with its interval as a band.

    Parameters
    ----------
    x : sequence of float
        Where the effects stand; each is a tick.
    named : dict of str to sequence of tlbook.evidence.effects.Effect
        One effect for each of ``x``, by the names to show in the legend.
    ax : matplotlib.axes.Axes, optional
        Axes to draw on; by default those of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, in points or percent, without labels of the axes and without a legend.

    Raises
    ------
    ValueError
        There are more names than colors to tell them apart, or not one effect for each of ``x``.
    """
    if len(named) > len(COLORS):
        raise ValueError(f"{len(named)} lines, but {len(COLORS)} colors: draw fewer")
    ax = ax or plt.subplots()[1]
    for (name, found), color, marker in zip(named.items(), COLORS, MARKERS, strict=False):
        values = [(100 * e.low, 100 * e.value, 100 * e.high) for _, e in zip(x, found, strict=True)]
        low, value, high = zip(*values, strict=True)
        ax.plot(x, value, color=color, marker=marker, markersize=5, label=name)
        ax.fill_between(x, low, high, color=color, alpha=0.12, linewidth=0)
    ax.set_xticks(x, [f"{place:g}" for place in x])
    return ax


def image_rows(named: dict[str, Sequence[ArrayLike]], size: float = 0.7) -> Figure:
    """Draw a row of images for each name.

    Parameters
    ----------
    named : dict of str to sequence of array
        Images by the name of their row, of shape (height, width, 3), or (3, height, width) as torch
        has them; the rows are equally long.
    size : float, default 0.7
        Width and height of an image, in inches.

    Returns
    -------
    matplotlib.figure.Figure
        The figure.
    """
    columns = max(map(len, named.values()))
    shape = len(named), columns
    fig, axes = plt.subplots(*shape, figsize=(size * columns, size * len(named)), squeeze=False)
    for line, (name, images) in zip(axes, named.items(), strict=True):
        line[0].set_ylabel(name, rotation=0, ha="right", va="center")
        for ax, image in zip(line, images, strict=True):
            ax.imshow(np.moveaxis(np.asarray(image), 0, -1) if len(image) == 3 else image)
            ax.set(xticks=[], yticks=[])
    return fig


def diagram(
    boxes: dict[str, tuple[float, float, str, str]],
    arrows: dict[tuple[str, str], str],
    size: tuple[float, float] = (8, 2.4),
) -> Axes:
    """Draw words in boxes, and arrows from box to box.

    Parameters
    ----------
    boxes : dict of str to (float, float, str, str)
        Middle of each box (x and y, in inches from the lower left), its words and its color.
    arrows : dict of (str, str) to str
        Words that stand on an arrow, by the names of the boxes that it joins.
    size : (float, float), default (8, 2.4)
        Width and height of the figure, in inches.

    Returns
    -------
    matplotlib.axes.Axes
        The axes, without lines and ticks.

    Raises
    ------
    KeyError
        An arrow joins a box that does not exist.
    """
    ax = plt.subplots(figsize=size)[1]
    ax.set(xlim=(0, size[0]), ylim=(0, size[1]))
    ax.axis("off")
    middle = {"ha": "center", "va": "center"}
    patches = {}
    for name, (x, y, words, color) in boxes.items():
        box = {"boxstyle": "round,pad=0.5", "facecolor": color, "edgecolor": "#666666"}
        patches[name] = ax.text(x, y, words, **middle, bbox=box).get_bbox_patch()
    for (start, end), words in arrows.items():
        ends = [boxes[end][:2], boxes[start][:2]]
        edges = {"patchA": patches[start], "patchB": patches[end]}  # from edge to edge
        ax.annotate("", *ends, arrowprops={"arrowstyle": "->"} | edges)
        if words:
            white = {"facecolor": "white", "edgecolor": "none", "pad": 1}
            ax.text(*np.mean(ends, axis=0), words, **middle, bbox=white)
    return ax


def _positions(budgets: Sequence[int | None]) -> np.ndarray:
    """Budgets on a logarithmic axis; ``None`` (all labels) one step beyond the largest."""
    known = [max(budget, 0.5) for budget in budgets if budget is not None]
    logs = list(np.log2(known)) if known else [0.0]
    step = np.diff(logs).mean() if len(logs) > 1 else 1.0
    return np.array(logs[: len(known)] + [logs[-1] + step] * (len(budgets) - len(known)))


def _budget_name(budget: int | None) -> str:
    return WORDS["all"] if budget is None else str(budget)
