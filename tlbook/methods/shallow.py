"""Adapt a small network on frozen features to a domain (领域自适应, S15), each method alike.

A method here is a function of its trade-off weight, the source, the target without labels, the
number of classes and a seed, as :func:`tlbook.methods.adaptation.run_grid` calls it. It returns a
network, and how it moves examples of the source. All of them train the same network of one hidden
layer, in as many updates. What they minimize is :mod:`tlbook.methods.alignment`'s.

The book explains it in *Two domains, one without labels*.
"""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.axes import Axes
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch.optim import AdamW

from tlbook.learning.batches import Batches, Pairs
from tlbook.learning.loop import train_model
from tlbook.learning.losses import classification, entropy_minimization, joint
from tlbook.learning.networks import MLP, WithAuxiliary
from tlbook.learning.protocol import Logs, Loss, activations
from tlbook.methods import alignment
from tlbook.methods.adaptation import Columns, Domains, Method, draw_domains

#: Hidden units, and examples of a domain in a batch.
WIDTH = 64
#: Passes over the larger domain.
EPOCHS = 8


def trained(
    loss_fn: Loss, batches: Batches, classes: int, seed: int, adversary: bool = False
) -> tuple[MLP, Logs]:
    """Train a network of one hidden layer.

    Parameters
    ----------
    loss_fn : Loss
        The loss.
    batches : Batches
        The batches of all epochs, with a column ``x`` (n, d).
    classes : int
        Number of classes.
    seed : int
        Seed of the first weights.
    adversary : bool, default False
        Whether to train a discriminator of domains beside it, as ``auxiliary``.

    Returns
    -------
    tuple of MLP and dict of str to float
        The network, whose layer "1" puts out its features, and the logs of the last update.
    """
    torch.manual_seed(seed)
    network = MLP([batches.columns["x"].shape[1], WIDTH, classes])
    model = WithAuxiliary(network, MLP([WIDTH, WIDTH, 1])) if adversary else network
    optimizer = AdamW(model.parameters(), lr=3e-3)
    return network, train_model(model, loss_fn, batches, optimizer)[-1].logs


def supervised(labeled: Columns, classes: int, seed: int) -> MLP:
    """Train the network on labeled examples alone.

    Parameters
    ----------
    labeled : dict of str to array
        Columns ``x`` (n, d) and ``labels`` (n,).
    classes : int
        Number of classes.
    seed : int
        Seed of the weights and of the order.

    Returns
    -------
    MLP
        The network.
    """
    batches = Batches(labeled, WIDTH, EPOCHS, seed=seed)
    return trained(classification(), batches, classes, seed)[0]


def outputs(network: MLP, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute what a network makes of examples.

    Parameters
    ----------
    network : MLP
        The network.
    x : (n, d) numpy.ndarray of float32
        The examples.

    Returns
    -------
    tuple of numpy.ndarray
        Class probabilities (n, classes) and features (n, 64).
    """
    with torch.no_grad():
        logits, (inside,) = activations(network, {"x": torch.from_numpy(x)}, ["1"])
    return logits.softmax(-1).numpy(), inside.numpy()


def unmoved(x: np.ndarray) -> np.ndarray:
    """Return the examples where they are.

    Parameters
    ----------
    x : (n, d) numpy.ndarray
        Examples of the source.

    Returns
    -------
    (n, d) numpy.ndarray
        The same.
    """
    return x


def moving(make: Callable) -> Method:
    """Make a method that moves the source a share of the way to the target.

    Parameters
    ----------
    make : callable
        Function without arguments that makes a transformer, such as
        :class:`tlbook.methods.alignment.CORAL`.

    Returns
    -------
    Method
        The method. Its weight is the share of the way, 1 for all of it.
    """

    def method(share, source, target, classes, seed):
        is_source = np.repeat([True, False], [len(source["x"]), len(target["x"])])
        both = np.concatenate([source["x"], target["x"]])
        transformer = make().fit(both, source=is_source)

        def move(x):
            there = transformer.transform(x, source=np.ones(len(x), dtype=bool))
            return ((1 - share) * x + share * there).astype(np.float32)

        return supervised(source | {"x": move(source["x"])}, classes, seed), move

    return method


def ramp(weight: float) -> Callable[[float], float]:
    """Make a weight that grows from 0 as in the paper on DANN.

    Parameters
    ----------
    weight : float
        The weight at the end.

    Returns
    -------
    callable
        Function of the progress of training in 0..1 that returns the weight.
    """
    return lambda progress: weight * alignment.dann_schedule(progress)


def aligning(distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> Method:
    """Make a method that learns features whose domains lie near each other.

    Parameters
    ----------
    distance : callable
        Function of source and target features, such as
        :func:`tlbook.methods.alignment.coral_loss`.

    Returns
    -------
    Method
        The method. The weight of the distance grows, see :func:`ramp`.
    """

    def method(weight, source, target, classes, seed):
        batches = Pairs(target, WIDTH, EPOCHS, source=source, seed=seed)
        loss_fn = alignment.aligned(distance, "1", weight=ramp(weight))
        return trained(loss_fn, batches, classes, seed)[0], unmoved

    return method


def deceiving(
    weight: float, source: Columns, target: Columns, classes: int, seed: int
) -> tuple[MLP, Callable]:
    """Train against a discriminator of domains (DANN).

    Parameters
    ----------
    weight : float
        Weight of the reversed gradient at the end, see :func:`ramp`.
    source : dict of str to array
        The source's columns ``x`` and ``labels``.
    target : dict of str to array
        The target's column ``x``.
    classes : int
        Number of classes.
    seed : int
        Seed of the weights and of the order.

    Returns
    -------
    tuple of MLP and callable
        The network, and :func:`unmoved`.
    """
    batches = Pairs(target, WIDTH, EPOCHS, source=source, seed=seed)
    loss_fn = alignment.domain_adversarial("network.1", ramp(weight))
    return trained(loss_fn, batches, classes, seed, adversary=True)[0], unmoved


def certain(
    weight: float, source: Columns, target: Columns, classes: int, seed: int
) -> tuple[MLP, Callable]:
    """Train for sure answers on the target: entropy minimization.

    Parameters
    ----------
    weight : float
        Weight of the entropy at the end, see :func:`ramp`.
    source : dict of str to array
        The source's columns ``x`` and ``labels``.
    target : dict of str to array
        The target's column ``x``.
    classes : int
        Number of classes.
    seed : int
        Seed of the weights and of the order.

    Returns
    -------
    tuple of MLP and callable
        The network, and :func:`unmoved`.
    """
    # the second loss sees what comes as "source": here the unlabeled examples
    batches = Pairs(source, WIDTH, EPOCHS, source=target, seed=seed)
    unsure = entropy_minimization()
    loss_fn = joint(target=classification(), source=unsure, weight=ramp(weight))
    return trained(loss_fn, batches, classes, seed)[0], unmoved


def discriminated(domains: Domains, weight: float, seed: int) -> tuple[float, float]:
    """Compute how often DANN's features give the domain away.

    Parameters
    ----------
    domains : Domains
        The two domains.
    weight : float
        Weight of the reversed gradient at the end.
    seed : int
        Seed of the run.

    Returns
    -------
    own : float
        Share of the last batch whose domain DANN's own discriminator knows.
    new : float
        Balanced accuracy of a new linear classifier that learned the domain from the finished
        features, on held-out examples of both domains.
    """
    source, target = domains.drawn(seed)
    batches = Pairs({"x": target["x"]}, WIDTH, EPOCHS, source=source, seed=seed)
    loss_fn = alignment.domain_adversarial("network.1", ramp(weight))
    network, logs = trained(loss_fn, batches, domains.classes, seed, adversary=True)
    (inside, side), (fresh, truth) = (
        (
            np.concatenate([outputs(network, part["x"])[1] for part in parts]),
            np.repeat([0, 1], [len(part["x"]) for part in parts]),
        )
        for parts in ((source, target), (domains.held_out, domains.validation))
    )
    model = LogisticRegression(max_iter=2000).fit(inside, side)
    return logs["domain_accuracy"], balanced_accuracy_score(truth, model.predict(fresh))


def draw_features(
    ax: Axes, network: MLP, move: Callable, source: Columns, target: Columns, n: int = 200
) -> None:
    """Draw a network's features of two domains, in their first two principal components.

    Parameters
    ----------
    ax : matplotlib.axes.Axes
        Axes to draw on.
    network : MLP
        The network.
    move : callable
        How it wants the source's examples moved.
    source : dict of str to array
        The source's columns ``x`` and ``labels``.
    target : dict of str to array
        The target's columns ``x`` and ``labels``.
    n : int, default 200
        How many examples of each domain to draw. The components are those of all.
    """
    inside = [outputs(network, x)[1] for x in (move(source["x"]), target["x"])]
    dots, crosses = map(PCA(2).fit(np.concatenate(inside)).transform, inside)
    draw_domains(ax, dots[:n], source["labels"][:n], crosses[:n], target["labels"][:n])
    ax.set(xticks=[], yticks=[])
