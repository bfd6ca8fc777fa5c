"""The tasks of *Few shots, and learning to learn*: emoji of new kinds, and how they are solved."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from torch import nn
from torch.func import functional_call, replace_all_batch_norm_modules_
from torch.nn import functional as F
from torch.optim import AdamW

from tlbook.evidence import plots
from tlbook.evidence.effects import Effect
from tlbook.evidence.episodes import episode_accuracy
from tlbook.evidence.wording import verdict
from tlbook.learning.augment import augment
from tlbook.learning.batches import Batches, pixels
from tlbook.learning.features import features
from tlbook.learning.loop import steps, warmup_linear
from tlbook.learning.losses import classification
from tlbook.learning.networks import MLP, ConvEncoder
from tlbook.learning.protocol import Loss
from tlbook.learning.trained import train_once
from tlbook.methods import meta
from tlbook.methods.meta import (
    Episodes,
    Learner,
    adapt,
    maml,
    nearest_prototype,
    prototypical,
    query_losses,
    score_episodes,
    sinusoids,
    split_classes,
)
from tlbook.sources import images
from tlbook.sources.pretrained import load

#: Mild augmentation: emoji stay what they are.
MILD = {"scale": (0.6, 1.0), "gray": 0.0, "shift": 0.1, "degrees": 15.0}
MILD |= {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2}
SIZE = 16  # of an image that the networks see
#: Seeds of curves to choose on and to test on; those of training are below.
VALIDATION, TEST = 10_000, 20_000
#: What an effect shows, in the words of the page.
SAY = {"supported": "it clearly gains with", "refuted": "it clearly loses with"}
SAY |= {"negligible": "it makes no difference that matters with"}
SAY |= {"undecided": "we cannot tell with"}


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


def by_styles(kinds: Kinds, seed: int) -> ConvEncoder:
    """Train a prototypical network to recognize a training emoji by its drawing in another style.

    Parameters
    ----------
    kinds : Kinds
        The emoji.
    seed : int
        Seed of weights and episodes.

    Returns
    -------
    ConvEncoder
        The encoder.
    """
    model = encoder(seed)
    x = torch.cat([kinds.x[kinds.train], kinds.x_others[kinds.train]])
    same = np.tile(np.arange(len(kinds.train)), 2)
    tasks = Episodes(x, same, ways=20, queries=1, number=100, seed=seed)
    train(model, prototypical(), tasks, 1e-3, f"styles {seed}", x.numpy(), same)
    return model


def directions(backbone: str, x: np.ndarray) -> torch.Tensor:
    """Compute frozen features of images, scaled to unit length.

    Parameters
    ----------
    backbone : str
        Name of a pretrained network, as for :func:`tlbook.load`.
    x : (n, height, width, 3) numpy.ndarray of uint8
        The images.

    Returns
    -------
    (n, d) torch.Tensor
        Features of length 1.
    """
    return F.normalize(torch.from_numpy(features(load(backbone), x, progress=False)))


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


class Answers(NamedTuple):
    """Hold what several ways got right on the same episodes.

    Attributes
    ----------
    right : dict of str to (runs, episodes, ways) numpy.ndarray
        Share of right answers of each class in each episode, by name.
    classes : (episodes, ways) numpy.ndarray
        The classes, or things, that met.
    """

    right: dict[str, np.ndarray]
    classes: np.ndarray

    def gain(self, name: str, control: str) -> Effect:
        """Compute how much more accurate one way is than another.

        Parameters
        ----------
        name : str
            Name of the way.
        control : str
            Name of the other.

        Returns
        -------
        Effect
            The difference, as :func:`tlbook.evidence.episodes.episode_accuracy` computes it.
        """
        return episode_accuracy(self.right[name], self.classes, self.right[control])

    def table(self, control: str) -> pd.DataFrame:
        """Return a table of accuracies and gains, a row for each way.

        Parameters
        ----------
        control : str
            Name of the way to compare with.

        Returns
        -------
        pandas.DataFrame
            Accuracies in percent and gains with their intervals, as text.
        """
        accuracy = {name: f"{100 * right.mean():.1f}" for name, right in self.right.items()}
        gains = {name: str(self.gain(name, control)) for name in self.right}
        table = pd.DataFrame({"accuracy (%)": accuracy, f"gain over {control}": gains})
        return table.rename_axis("method")


def gather(found: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Answers:
    """Put together what several ways got right on the same episodes.

    Parameters
    ----------
    found : mapping of str to pair of numpy.ndarray
        What :func:`solved` or :func:`recognized` returned, by name.

    Returns
    -------
    Answers
        All of it.

    Raises
    ------
    ValueError
        If the episodes of one are not those of the others.
    """
    (classes, *others) = (met for _, met in found.values())
    if not all(np.array_equal(classes, met) for met in others):
        raise ValueError("other episodes for one than for another: give all the same options")
    return Answers({name: right for name, (right, _) in found.items()}, classes)


def compared(ways: Mapping[str, tuple], y: np.ndarray, shots: int, *, number: int = 80) -> Answers:
    """Let several ways solve the same five-way episodes.

    Parameters
    ----------
    ways : mapping of str to pair of sequence
        Learners and what each of them sees, as for :func:`solved`, by name.
    y : (n,) numpy.ndarray
        Labels.
    shots : int
        Labeled examples of each class.
    number : int, default 80
        Number of episodes.

    Returns
    -------
    Answers
        What each got right, in as many runs as there are learners of one way.
    """
    options = {"number": number, "runs": max(len(learners) for learners, _ in ways.values())}
    return gather({name: solved(*way, y, shots, **options) for name, way in ways.items()})


@torch.no_grad()
def by_centroid(models: Sequence[nn.Module], *images: torch.Tensor) -> tuple[list, ...]:
    """Give each encoder the nearest centroid, and compute what it makes of images.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        Encoders. They are put in eval mode.
    *images : (n, 3, height, width) torch.Tensor
        Images that all of them see.

    Returns
    -------
    tuple of list
        A learner for each encoder, and for each of the images the features of each encoder.
    """
    learners = [nearest_prototype(nn.Flatten()) for _ in models]
    return learners, *([model.eval()(x) for model in models] for x in images)


def class_by_class(learner: Learner, queries: int = 5) -> Learner:
    """Return a learner that is asked the queries of one class at a time.

    Parameters
    ----------
    learner : callable
        A learner whose answer to a query may depend on the others.
    queries : int, default 5
        Queries of each class, which stand one after the other.

    Returns
    -------
    callable
        The learner.
    """

    def asked(support_x, support_y, query_x):
        parts = query_x.split(queries)
        return torch.cat([torch.as_tensor(learner(support_x, support_y, part)) for part in parts])

    return asked


def half_widths(right: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """Compute half the width of two intervals for the accuracy of one run.

    Parameters
    ----------
    right : (episodes, ways) numpy.ndarray
        Share of right answers of each class in each episode.
    classes : (episodes, ways) numpy.ndarray
        The classes that met.

    Returns
    -------
    dict of str to float
        In points: of the usual interval, which counts episodes as independent, and of
        :func:`tlbook.evidence.episodes.episode_accuracy`, which counts classes as well.
    """
    usual = 196 * right.mean(1).std(ddof=1) / len(right) ** 0.5
    whole = episode_accuracy(right, classes)
    return {
        "over episodes": usual,
        "episodes, classes and images": 50 * (whole.high - whole.low),
    }


def said_by_budget(effects: Mapping[int, Effect]) -> str:
    """Say what an effect shows at which budgets.

    Parameters
    ----------
    effects : mapping of int to Effect
        An effect for each number of labels.

    Returns
    -------
    str
        Such as "we cannot tell with 8 and 32; it clearly gains with 128".
    """
    budgets: dict[str, list[str]] = {}
    for budget, effect in effects.items():
        budgets.setdefault(verdict(effect), []).append(str(budget))
    listed = {
        shown: " and ".join(filter(None, [", ".join(some[:-1]), some[-1]]))
        for shown, some in budgets.items()
    }
    return "; ".join(f"{SAY[shown]} {some}" for shown, some in listed.items())


# --- curves -------------------------------------------------------------------------------------
def curve_network(seed: int) -> MLP:
    """Return a network of two hidden layers, from a number to a number, with new weights.

    Parameters
    ----------
    seed : int
        Seed of the weights.

    Returns
    -------
    MLP
        The network, (n, 1) to (n, 1).
    """
    torch.manual_seed(seed)
    return MLP([1, 40, 40, 1])


def train_starts(
    losses: Mapping[str, Loss | None],
    seeds: int,
    rate: float,
    *,
    updates: int = 100,
    tasks: int = 50,
) -> tuple[dict[str, list[MLP]], dict[str, float]]:
    """Train networks on curves, by each loss with each seed.

    Parameters
    ----------
    losses : mapping of str to Loss or None
        Losses on tasks by name; None leaves the networks as they are.
    seeds : int
        Number of networks for each loss.
    rate : float
        Rate of the steps within a task, which tells trainings apart.
    updates : int, default 100
        Number of updates.
    tasks : int, default 50
        Curves in each update.

    Returns
    -------
    starts : dict of str to list of MLP
        The networks of each loss.
    cpu_seconds : dict of str to float
        What training one of them took, on average.
    """
    starts, seconds = {}, {}
    for name, loss_fn in losses.items():
        starts[name], took = [], []
        for seed in range(seeds):
            starts[name].append(curve_network(seed))
            if loss_fn:
                batches = Batches(sinusoids(updates * tasks, seed=seed), batch_size=tasks)
                clip = getattr(loss_fn, "clip", 1.0)
                key = f"{name} {rate} {tasks} {seed}"
                took.append(train(starts[name][-1], loss_fn, batches, 0.02, key, clip=clip))
        if loss_fn:
            seconds[name] = float(np.mean(took))
    return starts, seconds


def curves(first: int, seed: int) -> dict:
    """Draw a hundred curves to choose or to test on.

    Parameters
    ----------
    first : int
        :data:`VALIDATION` or :data:`TEST`.
    seed : int
        Seed of the run that they belong to.

    Returns
    -------
    dict of str to numpy.ndarray
        Tasks of ten points, as :func:`tlbook.methods.meta.sinusoids` draws them.
    """
    return sinusoids(100, shots=10, queries=50, seed=first + seed)


def adaptation(networks: Sequence[nn.Module], rate: float, first: int) -> np.ndarray:
    """Compute the loss on new curves while networks adapt to them.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        A network for each seed.
    rate : float
        Rate of the steps.
    first : int
        :data:`VALIDATION` or :data:`TEST`; each seed has curves of its own.

    Returns
    -------
    (seeds, 11) numpy.ndarray
        Mean squared error after 0, 1, ..., 10 steps.
    """
    options = {"inner_steps": 10, "lr": rate}
    found = [
        query_losses(network, F.mse_loss, curves(first, seed), **options)
        for seed, network in enumerate(networks)
    ]
    return np.stack([losses.mean(0) for losses in found])


def fitting_rate(networks: Sequence[nn.Module], rates: Sequence[float]) -> float:
    """Choose the rate with the smallest loss after five steps on validation curves.

    Parameters
    ----------
    networks : sequence of torch.nn.Module
        A network for each seed.
    rates : sequence of float
        Rates to try; one at which a network diverges is not chosen.

    Returns
    -------
    float
        The rate.
    """
    loss = {rate: adaptation(networks, rate, VALIDATION)[:, 5].mean() for rate in rates}
    return min(rates, key=lambda rate: loss[rate] if np.isfinite(loss[rate]) else np.inf)


def smoothed(length: float, first: int, seeds: int) -> np.ndarray:
    """Compute the loss of a Gaussian process on the curves of each seed.

    Parameters
    ----------
    length : float
        How smooth: the length scale of its kernel.
    first : int
        :data:`VALIDATION` or :data:`TEST`.
    seeds : int
        Number of seeds.

    Returns
    -------
    (seeds,) numpy.ndarray
        Mean squared errors.
    """
    return np.array([gaussian_process(curves(first, seed), length) for seed in range(seeds)])


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
def draw_points(tasks: Mapping) -> Figure:
    """Draw the support of a few curves, a panel for each.

    Parameters
    ----------
    tasks : mapping of str to numpy.ndarray
        Curves, as :func:`tlbook.methods.meta.sinusoids` draws them.

    Returns
    -------
    matplotlib.figure.Figure
        The drawing.
    """
    panels = list(zip(tasks["support_x"], tasks["support_y"], strict=True))
    fig, axes = plt.subplots(1, len(panels), figsize=(9, 1.8), sharey=True)
    for ax, points in zip(axes, panels, strict=True):
        ax.plot(*points, "k^", markersize=4)
    return fig


def draw_adaptation(
    network: nn.Module, rate: float, losses: Mapping[str, np.ndarray], process: np.ndarray
) -> Figure:
    """Draw how a network adapts to one steep curve, and the losses of all starts step by step.

    Parameters
    ----------
    network : torch.nn.Module
        The network to adapt.
    rate : float
        Rate of its steps.
    losses : mapping of str to (seeds, 11) numpy.ndarray
        Losses by start, as :func:`adaptation` computes them.
    process : (seeds,) numpy.ndarray
        Losses of a Gaussian process.

    Returns
    -------
    matplotlib.figure.Figure
        The drawing: the curve at the left, the losses with their intervals at the right.
    """
    tasks, x = curves(TEST, 0), torch.linspace(-5, 5, 200)[:, None]
    task = int(np.flatnonzero(tasks["amplitude"] > 3.5)[0])
    points = [torch.from_numpy(tasks[f"support_{axis}"][task]) for axis in "xy"]
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8))
    with torch.no_grad():
        path = adapt(network, F.mse_loss, points, inner_steps=10, lr=rate)
        for count, color in zip((0, 1, 10), plots.COLORS, strict=False):
            found = functional_call(network, path[count], (x,))
            left.plot(x, found, color=color, label=f"after {count} steps")
    truth = tasks["amplitude"][task] * np.sin(x.numpy() - tasks["phase"][task])
    left.plot(x, truth, color="black", ls=":", label="the curve")
    left.plot(*points, "k^")
    left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    for (name, found), color, marker in zip(
        losses.items(), plots.COLORS, plots.MARKERS, strict=False
    ):
        effects = [Effect.over_seeds(loss) for loss in found.T]
        right.plot([e.value for e in effects], marker=marker, color=color, label=name)
        band = [e.low for e in effects], [e.high for e in effects]
        right.fill_between(range(found.shape[1]), *band, color=color, alpha=0.15, lw=0)
    right.axhline(process.mean(), color="black", ls="--", label="Gaussian process")
    right.set(xlabel="gradient steps", ylabel="mean squared error", ylim=(0, None))
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return fig


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
