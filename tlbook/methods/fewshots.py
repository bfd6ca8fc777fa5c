"""The tasks of *Few shots, and learning to learn*: emoji of new kinds, and how they are solved."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from torch import nn
from torch.func import replace_all_batch_norm_modules_
from torch.nn import functional as F
from torch.optim import AdamW

from tlbook.evidence import plots
from tlbook.learning.augment import augment
from tlbook.learning.batches import Batches, pixels
from tlbook.learning.loop import steps, warmup_linear
from tlbook.learning.losses import classification
from tlbook.learning.networks import ConvEncoder
from tlbook.learning.protocol import Loss
from tlbook.learning.trained import train_once
from tlbook.methods import meta
from tlbook.methods.meta import Episodes, Learner, maml, score_episodes, split_classes
from tlbook.sources import images

#: Mild augmentation: emoji stay what they are.
MILD = {"scale": (0.6, 1.0), "gray": 0.0, "shift": 0.1, "degrees": 15.0}
MILD |= {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
SIZE = 16  # of an image that the networks see


class Kinds(NamedTuple):
    """Hold emoji in two styles, and a split of their subcategories.

    Attributes
    ----------
    images : (n, height, width, 3) numpy.ndarray of uint8
        Twemoji.
    others : (n, height, width, 3) numpy.ndarray of uint8
        The same emoji of OpenMoji.
    x : (n, 3, 16, 16) torch.Tensor
        Twemoji, small, from 0 to 1.
    x_others : (n, 3, 16, 16) torch.Tensor
        OpenMoji, small, from 0 to 1.
    y : (n,) numpy.ndarray of int
        Subcategories.
    names : (subcategories,) numpy.ndarray of str
        Their names.
    train : (n_train,) numpy.ndarray of int
        Rows of the classes to train on.
    validation : (n_validation,) numpy.ndarray of int
        Rows of the classes to choose on.
    test : (n_test,) numpy.ndarray of int
        Rows of the classes to test on.
    used : (n,) numpy.ndarray of int
        Positions of these emoji among all Twemoji.
    """

    images: np.ndarray
    others: np.ndarray
    x: torch.Tensor
    x_others: torch.Tensor
    y: np.ndarray
    names: np.ndarray
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    used: np.ndarray


def emoji_kinds() -> Kinds:
    """Load emoji by subcategory: one of each group, no rare subcategories, at most 40 of each.

    Returns
    -------
    Kinds
        The images, their subcategories, and a split by subcategory.
    """
    twemoji, openmoji = (images.emoji(style) for style in ("twemoji", "openmoji"))
    _, one_each = np.unique(twemoji.groups, return_index=True)  # no variants by gender
    one_each = np.random.default_rng(0).permutation(one_each)
    kinds = pd.Series(twemoji.extra["subcategory"][one_each])
    size = kinds.groupby(kinds).transform("size").to_numpy()
    # at most 40 of each, or flags would be a fifth of everything
    used = one_each[(size >= 10) & (kinds.groupby(kinds).cumcount().to_numpy() < 40)]
    names, y = np.unique(twemoji.extra["subcategory"][used].astype(str), return_inverse=True)
    both = [style.x[used] for style in (twemoji, openmoji)]
    small = [F.adaptive_avg_pool2d(pixels(found), SIZE) for found in both]
    return Kinds(*both, *small, y, names, *split_classes(y, test=16, validation=10), used)


def train(
    model: nn.Module, loss_fn: Loss, batches, rate: float, *content, clip: float | None = 1.0
) -> float:
    """Train a network in place, or take what the same training gave before.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    loss_fn : Loss
        A function ``loss_fn(model, batch)`` that returns the mean loss and logs.
    batches : Batches or Episodes
        The batches of all epochs.
    rate : float
        Largest learning rate.
    *content : str or array
        All that the result depends on beside these arguments.
    clip : float or None, default 1.0
        Largest norm of the gradient.

    Returns
    -------
    float
        The CPU seconds that training took.
    """

    def run():
        optimizer = AdamW(model.parameters(), rate, weight_decay=1e-4)
        options = {"schedule": warmup_linear(), "clip": clip}
        return [step.loss for step in steps(model, loss_fn, batches, optimizer, **options)]

    settings = f"{rate} {clip} {len(batches)}"
    return train_once(model, run, settings, *content, code=[meta])[1]


def augmented(loss_fn: Loss, seed: int) -> Loss:
    """Compute a loss on randomly changed images, whose labels stay.

    Parameters
    ----------
    loss_fn : Loss
        The loss on the images.
    seed : int
        Seed of the changes.

    Returns
    -------
    Loss
        The loss on changed images.
    """
    generator = torch.Generator().manual_seed(seed)

    def changed(column):
        if not column.is_floating_point():
            return column
        found = column.reshape(-1, *column.shape[-3:])
        return augment(found, generator, **MILD).view_as(column)

    return lambda model, batch: loss_fn(model, {name: changed(c) for name, c in batch.items()})


def encoder(seed: int) -> ConvEncoder:
    """Return a small encoder of images with new weights.

    Parameters
    ----------
    seed : int
        Seed of the weights.

    Returns
    -------
    ConvEncoder
        The encoder, (n, 3, 16, 16) to (n, 64).
    """
    torch.manual_seed(seed)
    return ConvEncoder(64, size=SIZE, width=32)


def by_maml(kinds: Kinds, seed: int) -> tuple[nn.Module, float]:
    """Meta-train a classifier of five kinds by MAML, on the training classes.

    Parameters
    ----------
    kinds : Kinds
        The emoji.
    seed : int
        Seed of weights, episodes and augmentation.

    Returns
    -------
    model : torch.nn.Module
        The classifier, narrower than :func:`encoder`, to save time.
    cpu_seconds : float
        What training took.
    """
    torch.manual_seed(seed)
    model = nn.Sequential(ConvEncoder(64, size=SIZE, width=8), nn.Linear(64, 5))
    replace_all_batch_norm_modules_(model)
    x, labels = kinds.x[kinds.train], kinds.y[kinds.train]
    tasks = Episodes(x, labels, ways=5, queries=5, number=50, batch_size=4, seed=seed)
    loss_fn = augmented(maml(F.cross_entropy, inner_steps=3, lr=0.1), seed)
    content = (f"MAML 3 0.1 {MILD} {seed}", x.numpy(), labels)
    return model, train(model, loss_fn, tasks, 3e-3, *content)


def by_classifying(kinds: Kinds, seed: int) -> tuple[nn.Module, float]:
    """Train an encoder under a classifier of all training classes, without episodes.

    Parameters
    ----------
    kinds : Kinds
        The emoji.
    seed : int
        Seed of weights, order and augmentation.

    Returns
    -------
    model : torch.nn.Module
        The encoder alone.
    cpu_seconds : float
        What training took.
    """
    model, x = encoder(seed), kinds.x[kinds.train]
    _, labels = np.unique(kinds.y[kinds.train], return_inverse=True)
    whole = nn.Sequential(model, nn.Linear(64, labels.max() + 1))
    batches = Batches({"x": x, "labels": labels}, 32, 6, seed=seed)
    content = (f"classifier {MILD} {seed}", x.numpy(), labels)
    return model, train(whole, augmented(classification(), seed), batches, 3e-3, *content)


def solved(
    learners: Sequence[Learner], x: Sequence, y: np.ndarray, shots: int, *, number: int, runs: int
) -> tuple[np.ndarray, np.ndarray]:
    """Let learners solve the same five-way episodes.

    Parameters
    ----------
    learners : sequence of callable
        One learner for each run, or one without randomness, which counts as all runs.
    x : sequence of array
        What each learner sees of the n examples.
    y : (n,) numpy.ndarray
        Labels.
    shots : int
        Labeled examples of each class.
    number : int
        Number of episodes.
    runs : int
        Number of runs.

    Returns
    -------
    right : (runs, number, 5) numpy.ndarray
        Share of right answers of each class in each episode.
    classes : (number, 5) numpy.ndarray
        The classes that met.
    """
    options = {"shots": shots, "queries": 5, "number": number, "seed": 1}
    found = [
        score_episodes(learner, Episodes(x_, y, **options))
        for learner, x_ in zip(learners, x, strict=True)
    ]
    right = np.stack([scores.accuracy for scores in found])
    return np.broadcast_to(right, (runs, *right.shape[1:])), found[0].classes


def recognized(
    learners: Sequence[Learner],
    supports: Sequence,
    queries: Sequence,
    *,
    runs: int,
    ways: int = 20,
    number: int = 200,
) -> tuple[np.ndarray, np.ndarray]:
    """Let learners recognize in one style what they saw once in another.

    Parameters
    ----------
    learners : sequence of callable
        One learner for each run, or one without randomness, which counts as all runs.
    supports : sequence of array
        What each learner sees of n things in the style of the support.
    queries : sequence of array
        What it sees of the same things, in the same order, in the style of the query.
    runs : int
        Number of runs.
    ways : int, default 20
        Things that meet in an episode.
    number : int, default 200
        Number of episodes.

    Returns
    -------
    right : (runs, number, ways) numpy.ndarray of float
        1 where a thing was recognized, else 0.
    met : (number, ways) numpy.ndarray of int
        The things that met.
    """
    rng, count = np.random.default_rng(1), len(supports[0])
    met = np.stack([rng.choice(count, ways, replace=False) for _ in range(number)])
    labels = torch.arange(ways)
    right = np.stack(
        [
            [np.asarray(learner(x[rows], labels, q[rows])) == labels.numpy() for rows in met]
            for learner, x, q in zip(learners, supports, queries, strict=True)
        ]
    )
    return np.broadcast_to(right, (runs, *met.shape)).astype(float), met


def gaussian_process(tasks: dict, length: float) -> float:
    """Compute the mean squared error of a Gaussian process that is fitted to each curve alone.

    Parameters
    ----------
    tasks : dict of str to numpy.ndarray
        Curves, as :func:`tlbook.methods.meta.sinusoids` draws them.
    length : float
        How smooth: the length scale of its kernel.

    Returns
    -------
    float
        Mean over the curves.
    """

    def loss(sx, sy, qx, qy):
        process = GaussianProcessRegressor(RBF(length), alpha=1e-4, optimizer=None)
        return np.mean((process.fit(sx, sy[:, 0]).predict(qx) - qy[:, 0]) ** 2)

    columns = (tasks[f"{half}_{axis}"] for half in ("support", "query") for axis in "xy")
    return float(np.mean(list(map(loss, *columns))))


# --- drawings -----------------------------------------------------------------------------------
def draw_learned_start() -> Figure:
    """Draw a start from which the solutions of three tasks are near.

    Returns
    -------
    matplotlib.figure.Figure
        The drawing.
    """
    fig, ax = plt.subplots(figsize=(6, 2.4))
    way = np.linspace(0, 1, 50)
    ax.plot(2 * way, 0.6 * np.sin(2.2 * way), color="black", lw=3)
    start, places = np.array([2, 0.6 * np.sin(2.2)]), [(2.9, 1.0), (3.1, 0.45), (2.7, -0.1)]
    for number, (place, color) in enumerate(zip(places, plots.COLORS, strict=False), 1):
        ax.annotate("", place, start, arrowprops={"arrowstyle": "->", "color": color, "lw": 2})
        ax.text(place[0] + 0.05, place[1], f"solution of task {number}", color=color)
    ax.text(0.1, 0.65, "training on many tasks")
    ax.text(1.45, 0.2, "learned start")
    ax.set(xlim=(0, 4.3), ylim=(-0.3, 1.2))
    ax.axis("off")
    return fig


def draw_episode(
    found: np.ndarray, y: np.ndarray, names: Sequence[str], rows: np.ndarray
) -> Figure:
    """Draw an episode of images with one shot: a row for each class, the support at its left.

    Parameters
    ----------
    found : (n, height, width, 3) numpy.ndarray of uint8
        All images.
    y : (n,) numpy.ndarray of int
        Their labels.
    names : sequence of str
        Names of the classes.
    rows : (ways, 1 + queries) numpy.ndarray of int
        Positions of the episode's images.

    Returns
    -------
    matplotlib.figure.Figure
        The drawing.
    """
    fig, axes = plt.subplots(*rows.shape, figsize=(6, 4.6))
    for ax, index in zip(axes.flat, rows.flat, strict=True):
        ax.imshow(found[index])
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    options = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 9}
    for first, index in zip(axes[:, 0], rows[:, 0], strict=True):
        first.set_ylabel(names[y[index]], **options)
    axes[0, 0].set_title("support", fontsize=9)
    axes[0, rows.shape[1] // 2].set_title("queries", fontsize=9)
    return fig
