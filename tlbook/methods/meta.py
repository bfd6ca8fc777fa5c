"""Learn from few shots (小样本学习, S18) and learn to learn (元学习, S17), on episodes.

A *task* is a few labeled examples to learn from, the support, and others to be judged on, the
query. :class:`Episodes` draws tasks from a labeled set, and :func:`sinusoids` makes curves to
regress. To :func:`tlbook.learning.loop.steps` a task is one example of a batch, so meta-learning
needs no loop of its own: :func:`prototypical`, :func:`maml` and :func:`reptile` are losses. Their
batches hold four columns::

    support_x (tasks, n, ...)   support_y (tasks, n, ...)   labels 0 ... ways - 1, or values
    query_x   (tasks, m, ...)   query_y   (tasks, m, ...)

A *learner* solves one task: ``learner(support_x, support_y, query_x)`` returns (m,) labels. Plain
controls (:func:`finetune_learner`) and meta-trained networks are both learners, so
:func:`score_episodes` compares them on the same episodes.
:func:`tlbook.evidence.episodes.episode_accuracy` computes the interval.

Batch normalization needs care where weights are adapted to a task (MAML, Reptile), because running
statistics cannot follow many tasks at once. ``torch.func.replace_all_batch_norm_modules_(model)``
makes a network normalize by the batch in hand, in training and later. Then a query's outputs depend
on the other queries: they are *transductive*, as the MAML paper's were. See :func:`maml_learner`.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import ClassifierMixin, clone
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from tlbook.data import Split
from tlbook.learning.batches import Batch
from tlbook.learning.protocol import Loss

#: Function of outputs and targets that returns their mean loss, such as
#: ``F.cross_entropy`` or ``F.mse_loss``.
Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
#: Tensors by the names of a model's parameters.
Weights = dict[str, torch.Tensor]
#: Function of one task's support x, support y and query x that returns (m,) predicted labels.
Learner = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor | np.ndarray]


# --- tasks --------------------------------------------------------------------------------------


def split_classes(
    y: np.ndarray,
    *,
    test: int,
    validation: int = 0,
    groups: np.ndarray | None = None,
    seed: int = 0,
) -> Split:
    """Split rows by class: some classes to train on, others to select on, and others to test on.

    No class is in two parts, so the test shows how well new classes are learned. The seed alone
    decides the split. The test classes are the same for every value of ``validation``.

    Parameters
    ----------
    y : (n,) numpy.ndarray
        Labels.
    test : int
        Number of classes to test on, at least 1.
    validation : int, default 0
        Number of classes to select on.
    groups : (n,) numpy.ndarray, optional
        Group of each example, to check that no group stands in several parts.
    seed : int, default 0
        Seed of the order of the classes.

    Returns
    -------
    tlbook.data.Split
        Positions of the rows of each part.

    Raises
    ------
    ValueError
        If no class is left to train on or to test on, or examples of one group stand in different
        parts.
    """
    classes = np.random.default_rng(seed).permutation(np.unique(y))
    if test < 1 or validation < 0 or test + validation >= len(classes):
        raise ValueError(
            f"test={test} and validation={validation} of {len(classes)} classes: test needs one at "
            "least, and one at least must be left to train on"
        )
    parts = np.split(classes, [test, test + validation])
    rows = [np.flatnonzero(np.isin(y, part)) for part in (parts[2], parts[1], parts[0])]
    if groups is not None:
        found = np.concatenate([np.unique(groups[part]) for part in rows])
        names, counts = np.unique(found, return_counts=True)
        if shared := names[counts > 1].tolist():
            raise ValueError(
                f"{len(shared)} groups, such as {shared[0]!r}, stand in several parts: "
                "leave their examples out, or put their classes together"
            )
    return Split(*rows)


@dataclass(frozen=True, eq=False)
class Episodes:
    """Draw tasks of ``ways`` classes with ``shots`` labeled examples each from a labeled set.

    Iterate over it, or give it to :func:`tlbook.learning.loop.steps` in place of ``Batches``.

    The classes of a task differ, and so do its examples. Its labels are 0 ... ``ways`` - 1 in a new
    random order for each task, so that a network cannot learn them by heart. A batch has the
    columns named at the top of this module. Its ``rows`` are positions in the set, of shape
    (batch_size, ways, shots + queries).

    Parameters
    ----------
    x : (n, ...) numpy.ndarray or torch.Tensor
        Examples: images or frozen features.
    y : (n,) numpy.ndarray
        Integer labels.
    ways : int, default 5
        Classes of a task.
    shots : int, default 1
        Examples of each class in the support.
    queries : int, default 15
        Examples of each class in the query.
    number : int, default 1000
        Number of batches.
    batch_size : int, default 1
        Tasks in each batch.
    seed : int, default 0
        Seed that decides everything. Batch ``i`` is the same whether or not those before it were
        drawn.
    groups : (n,) numpy.ndarray, optional
        Group of each example. A class of a task gets at most one example of a group, so that no
        query is a variant of an example in the support. By default each example is a group of its
        own.

    Attributes
    ----------
    members : list of numpy.ndarray
        Rows of each class.

    Raises
    ------
    ValueError
        If a number is below 1, ``x``, ``y`` and ``groups`` differ in length, there are fewer
        classes than ``ways``, or a class has too few examples.
    """

    x: np.ndarray | torch.Tensor
    y: np.ndarray
    ways: int = 5
    shots: int = 1
    queries: int = 15
    number: int = 1000
    batch_size: int = 1
    seed: int = 0
    groups: np.ndarray | None = None
    members: list[np.ndarray] = field(init=False, repr=False)  # rows of each class

    def __post_init__(self):
        numbers = {name: getattr(self, name) for name in ("ways", "shots", "queries")}
        numbers |= {"number": self.number, "batch_size": self.batch_size}
        if min(numbers.values()) < 1:
            raise ValueError(f"{numbers}: each must be at least 1")
        y, groups = np.asarray(self.y), self.groups
        if len(y) != len(self.x) or (groups is not None and len(groups) != len(y)):
            raise ValueError(f"x, y and groups must have as many rows: x has {len(self.x)}")
        classes = np.unique(y)
        if len(classes) < self.ways:
            raise ValueError(f"ways={self.ways}, but there are {len(classes)} classes")
        members = [np.flatnonzero(y == label) for label in classes]
        for label, rows in zip(classes, members, strict=True):
            found = len(rows if groups is None else np.unique(groups[rows]))
            if found < self.shots + self.queries:
                raise ValueError(
                    f"class {label} has {found} examples{'' if groups is None else ' apart'}, but "
                    f"an episode needs {self.shots} + {self.queries}: leave the class out, or ask "
                    "for fewer"
                )
        object.__setattr__(self, "members", members)

    def __len__(self) -> int:
        return self.number

    @property
    def per_epoch(self) -> int:
        """Return the number of batches, all of which are one epoch.

        Returns
        -------
        int
            Number of batches.
        """
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, self.rows())

    def rows(self, start: int = 0) -> Iterator[np.ndarray]:
        """Draw the rows of each batch, from the given batch on.

        Parameters
        ----------
        start : int, default 0
            Index of the first batch.

        Yields
        ------
        (batch_size, ways, shots + queries) numpy.ndarray
            Positions in the set, for one batch.
        """
        for index in range(start, self.number):
            rng = np.random.default_rng((self.seed, index))
            yield np.stack([self._episode(rng) for _ in range(self.batch_size)])

    def _episode(self, rng: np.random.Generator) -> np.ndarray:
        chosen = rng.choice(len(self.members), self.ways, replace=False)
        return np.stack([self._examples(self.members[label], rng) for label in chosen])

    def _examples(self, rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        rows = rng.permutation(rows)
        if self.groups is not None:
            _, first = np.unique(self.groups[rows], return_index=True)
            rows = rows[np.sort(first)]
        return rows[: self.shots + self.queries]

    def parts(self, rows: np.ndarray, tokens: float) -> list[np.ndarray]:
        """Return the batch in one piece, because episodes are not cut.

        :meth:`tlbook.learning.batches.Batches.parts` cuts the batches of other data.

        Parameters
        ----------
        rows : (batch_size, ways, shots + queries) numpy.ndarray
            Positions of one batch.
        tokens : float
            Not used.

        Returns
        -------
        list of numpy.ndarray
            The rows, as the only part.
        """
        return [rows]

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch that holds the examples at the given rows.

        Parameters
        ----------
        rows : (batch_size, ways, shots + queries) numpy.ndarray
            Positions in the set, as :meth:`rows` yields them.

        Returns
        -------
        tlbook.learning.batches.Batch
            The four columns of support and query.
        """
        columns = {}
        halves = {"support": rows[:, :, : self.shots], "query": rows[:, :, self.shots :]}
        for name, half in halves.items():
            tasks, ways, count = half.shape
            columns[f"{name}_x"] = torch.as_tensor(self.x[half.reshape(tasks, -1)])
            columns[f"{name}_y"] = torch.arange(ways).repeat_interleave(count).repeat(tasks, 1)
        return Batch(rows, columns)


def sinusoids(tasks: int, *, shots: int = 10, queries: int = 10, seed: int = 0) -> dict:
    """Draw sine curves to regress, as columns for :class:`tlbook.learning.batches.Batches`.

    The curves are ``amplitude * sin(x - phase)``, with amplitudes from 0.1 to 5, phases from 0 to
    pi and x from -5 to 5, each uniform, as in the MAML paper. A network that learns all curves
    jointly can learn only their mean, which is -1.62 cos(x).

    Parameters
    ----------
    tasks : int
        Number of curves.
    shots : int, default 10
        Points of each curve in the support.
    queries : int, default 10
        Points of each curve in the query.
    seed : int, default 0
        Seed of the curves and points.

    Returns
    -------
    dict of str to numpy.ndarray
        ``support_x`` and ``support_y`` (tasks, shots, 1), ``query_x`` and ``query_y`` (tasks,
        queries, 1), ``amplitude`` and ``phase`` (tasks,), all float32. Phases are in radians.
    """
    rng = np.random.default_rng(seed)
    amplitude, phase = rng.uniform(0.1, 5, tasks), rng.uniform(0, math.pi, tasks)
    columns = {"amplitude": amplitude, "phase": phase}
    for name, count in (("support", shots), ("query", queries)):
        x = rng.uniform(-5, 5, (tasks, count, 1))
        columns[f"{name}_x"] = x
        columns[f"{name}_y"] = amplitude[:, None, None] * np.sin(x - phase[:, None, None])
    return {name: column.astype(np.float32) for name, column in columns.items()}


# --- prototypes ---------------------------------------------------------------------------------


def prototypical() -> Loss:
    """Return the loss of prototypical networks, which classify a query by the nearest class mean.

    The loss is the cross-entropy of :func:`prototype_logits` (Snell et al. 2017, arXiv 1703.05175).
    Its ``model`` is an encoder, (n, ...) to (n, d). As in the paper, support and query pass through
    the encoder together, so batch normalization sees whole tasks in training. In eval mode its
    running statistics serve any classes.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold the ``accuracy`` on the query.
    """

    def loss_fn(model, batch):
        support_y, query_y = batch["support_y"], batch["query_y"]
        x = torch.cat([batch["support_x"], batch["query_x"]], dim=1)
        z = model(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        support, query = z.split([support_y.shape[1], query_y.shape[1]], dim=1)
        logits = prototype_logits(support, support_y, query)
        return F.cross_entropy(logits.mT, query_y), _logs(logits, query_y)

    return loss_fn


def prototype_logits(
    support: torch.Tensor, labels: torch.Tensor, query: torch.Tensor
) -> torch.Tensor:
    """Compute minus the squared distance of each query to the mean of each class.

    Parameters
    ----------
    support : (..., n, d) torch.Tensor
        Features of labeled examples.
    labels : (..., n) torch.Tensor
        Their labels, 0 ... ways - 1.
    query : (..., m, d) torch.Tensor
        Features to classify.

    Returns
    -------
    (..., m, ways) torch.Tensor
        Logits.

    Raises
    ------
    ValueError
        If a class has no example.
    """
    member = F.one_hot(labels).to(support)  # (..., n, ways)
    counts = member.sum(-2)
    if (counts == 0).any():
        raise ValueError("a class has no example in the support: labels must be 0 ... ways - 1")
    prototypes = (member.mT @ support) / counts[..., None]
    return -((query[..., :, None, :] - prototypes[..., None, :, :]) ** 2).sum(-1)


# --- adaptation ---------------------------------------------------------------------------------


def adapt(
    model: nn.Module,
    criterion: Criterion,
    support: tuple[torch.Tensor, torch.Tensor],
    *,
    inner_steps: int,
    lr: float,
    first_order: bool = False,
) -> list[Weights]:
    """Compute a model's weights after 0, 1, ..., ``inner_steps`` gradient steps on one support set.

    The model itself is not changed: ``torch.func.functional_call(model, weights, x)`` applies the
    weights that are returned. Only parameters that are not frozen are adapted. Gradients flow
    through all steps back to the model's parameters, unless you call it under ``torch.no_grad()``.

    Parameters
    ----------
    model : torch.nn.Module
        Network to start from.
    criterion : callable
        Mean loss of outputs and targets, such as ``F.cross_entropy``.
    support : pair of torch.Tensor
        Inputs (n, ...) and targets (n, ...) of the task.
    inner_steps : int
        Number of gradient steps, 0 or more.
    lr : float
        Learning rate of the steps.
    first_order : bool, default False
        Whether each step's gradient counts as a constant.

    Returns
    -------
    list of dict of str to torch.Tensor
        Weights by name, before the first step and after each.

    Raises
    ------
    ValueError
        If ``inner_steps`` is negative, the model has batch normalization that updates running
        statistics (the top of this module says what to do), or several processes share the model.
    """
    if inner_steps < 0:
        raise ValueError(f"inner_steps={inner_steps} cannot be negative")
    _check_adaptable(model)
    x, y = support

    def loss(weights: Weights) -> torch.Tensor:
        return criterion(functional_call(model, weights, (x,)), y)

    trajectory = [{name: p for name, p in model.named_parameters() if p.requires_grad}]
    for _ in range(inner_steps):
        gradient = grad(loss)(trajectory[-1])
        trajectory.append(
            {
                name: weight - lr * (gradient[name].detach() if first_order else gradient[name])
                for name, weight in trajectory[-1].items()
            }
        )
    return trajectory


def maml(criterion: Criterion, *, inner_steps: int, lr: float, first_order: bool = False) -> Loss:
    """Return the loss of model-agnostic meta-learning: the query's loss after ``inner_steps``.

    The steps are taken on the support. The gradient says how the start should move for these steps
    to work better (Finn et al. 2017, arXiv 1703.03400). It goes through the steps, with second
    derivatives. All tasks of a batch are adapted at once (``vmap``), several times as fast as one
    by one where networks are small. The book explains it in *Few shots, and learning to learn*.

    Parameters
    ----------
    criterion : callable
        Mean loss of outputs and targets, such as ``F.cross_entropy``.
    inner_steps : int
        Number of steps on the support. With 0 this is ordinary training on all tasks together, the
        control.
    lr : float
        Learning rate of the steps. That of the start is the optimizer's.
    first_order : bool, default False
        Whether to use the query's gradient at the adapted weights instead (FOMAML in that paper).

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold the ``accuracy`` on the query where targets are classes.
    """

    def loss_fn(model, batch):
        def after_steps(support_x, support_y, query_x, query_y):
            support, rates = (support_x, support_y), {"inner_steps": inner_steps, "lr": lr}
            weights = adapt(model, criterion, support, **rates, first_order=first_order)[-1]
            outputs = functional_call(model, weights, (query_x,))
            return criterion(outputs, query_y), outputs

        losses, outputs = vmap(after_steps, randomness="different")(*_columns(batch))
        return losses.mean(), _logs(outputs, batch["query_y"])

    return loss_fn


def reptile(criterion: Criterion, *, inner_steps: int, lr: float) -> Loss:
    """Return the loss of Reptile, which moves the start toward each task's adapted weights.

    A task is learned from support and query together; nothing is held out (Nichol et al. 2018,
    arXiv 1803.02999). The loss is half the squared distance from the start to the weights after
    ``inner_steps``, which count as fixed. Its gradient is the start minus the mean of these
    weights, so SGD with learning rate ``e`` moves the start by ``e`` times that difference, as in
    the paper. Adam works, too. Gradients are not clipped, because their length means something
    here.

    Parameters
    ----------
    criterion : callable
        Mean loss of outputs and targets, such as ``F.cross_entropy``.
    inner_steps : int
        Number of steps on each task.
    lr : float
        Learning rate of the steps. That of the start is the optimizer's.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold ``task_loss``, the tasks' own mean loss after the steps.
    """

    def loss_fn(model, batch):
        support_x, support_y, query_x, query_y = _columns(batch)
        x, y = torch.cat([support_x, query_x], dim=1), torch.cat([support_y, query_y], dim=1)

        def end(x, y):
            weights = adapt(model, criterion, (x, y), inner_steps=inner_steps, lr=lr)[-1]
            return weights, criterion(functional_call(model, weights, (x,)), y)

        with torch.no_grad():
            ends, losses = vmap(end, randomness="different")(x, y)
        start = dict(model.named_parameters())
        distance = sum(((start[name] - weights) ** 2).sum() for name, weights in ends.items())
        return distance / 2 / len(x), {"task_loss": losses.mean().item()}

    loss_fn.clip = None  # the length of the gradient means something
    return loss_fn


@torch.no_grad()
def query_losses(
    model: nn.Module, criterion: Criterion, tasks: Mapping, *, inner_steps: int, lr: float
) -> np.ndarray:
    """Compute each task's loss on its query after 0, 1, ..., ``inner_steps`` of adaptation.

    The model is put in eval mode, and its weights are not changed.

    Parameters
    ----------
    model : torch.nn.Module
        Network to start from.
    criterion : callable
        Mean loss of outputs and targets, such as ``F.mse_loss``.
    tasks : mapping of str to (tasks, ...) arrays
        The four columns of a batch.
    inner_steps : int
        Number of steps on the support.
    lr : float
        Learning rate of the steps.

    Returns
    -------
    (tasks, inner_steps + 1) numpy.ndarray
        Losses in units of the criterion.
    """
    model.eval()

    def losses(support_x, support_y, query_x, query_y):
        trajectory = adapt(model, criterion, (support_x, support_y), inner_steps=inner_steps, lr=lr)
        return torch.stack(
            [criterion(functional_call(model, w, (query_x,)), query_y) for w in trajectory]
        )

    device = _device(model)
    return vmap(losses)(*(column.to(device) for column in _columns(tasks))).cpu().numpy()


# --- learners, and how good they are ------------------------------------------------------------


def finetune_learner(estimator: ClassifierMixin) -> Learner:
    """Return a learner that fits a scikit-learn classifier to each task's support.

    This is the plain control. Examples are flattened. For the nearest centroid, use
    ``nearest_prototype(nn.Flatten())``, because scikit-learn's divides by zero where each class has
    one example.

    Parameters
    ----------
    estimator : sklearn.base.ClassifierMixin
        Classifier of frozen features or pixels, such as ``LogisticRegression()``. It is cloned for
        each task.

    Returns
    -------
    callable
        The learner.
    """

    def learner(support_x, support_y, query_x):
        return clone(estimator).fit(support_x.flatten(1), support_y).predict(query_x.flatten(1))

    return learner


def nearest_prototype(model: nn.Module) -> Learner:
    """Return a learner that gives each query the class whose mean feature is nearest.

    Parameters
    ----------
    model : torch.nn.Module
        Encoder, (n, ...) to (n, d). It is put in eval mode.

    Returns
    -------
    callable
        The learner.
    """

    @torch.no_grad()
    def learner(support_x, support_y, query_x):
        model.eval()
        device = _device(model)
        support, query = model(support_x.to(device)), model(query_x.to(device))
        return prototype_logits(support, support_y.to(device), query).argmax(-1).cpu()

    return learner


def maml_learner(
    model: nn.Module,
    criterion: Criterion = F.cross_entropy,
    *,
    inner_steps: int,
    lr: float,
    transductive: bool = True,
) -> Learner:
    """Return a learner that adapts the model to the support, in eval mode.

    The weights of the model itself are not changed.

    Parameters
    ----------
    model : torch.nn.Module
        Network to start from.
    criterion : callable, default F.cross_entropy
        Mean loss of outputs and targets.
    inner_steps : int
        Number of steps on the support.
    lr : float
        Learning rate of the steps.
    transductive : bool, default True
        Whether batch normalization without running statistics sees all queries at once. With False,
        each query is seen beside the support only and learns nothing from the others, as with the
        other learners (both are in Nichol et al. 2018, arXiv 1803.02999). For networks without such
        layers it makes no difference.

    Returns
    -------
    callable
        The learner.
    """

    @torch.no_grad()
    def learner(support_x, support_y, query_x):
        model.eval()
        support_x, support_y, query_x = (
            column.to(_device(model)) for column in (support_x, support_y, query_x)
        )
        weights = adapt(model, criterion, (support_x, support_y), inner_steps=inner_steps, lr=lr)[
            -1
        ]

        def beside_support(query):
            return functional_call(model, weights, (torch.cat([support_x, query[None]]),))[-1]

        if transductive:
            return functional_call(model, weights, (query_x,)).argmax(-1).cpu()
        return vmap(beside_support)(query_x).argmax(-1).cpu()

    return learner


class EpisodeScores(NamedTuple):
    """Hold what a learner got right in each episode.

    Attributes
    ----------
    accuracy : (episodes, ways) numpy.ndarray
        Share of the queries of each class that were right. The mean over ``ways`` is an episode's
        accuracy.
    classes : (episodes, ways) numpy.ndarray
        Labels of these classes in the labeled set.
    """

    accuracy: np.ndarray
    classes: np.ndarray


def score_episodes(learner: Learner, episodes: Episodes) -> EpisodeScores:
    """Let a learner solve all episodes, each on its own, and score it.

    Parameters
    ----------
    learner : callable
        Function of support x, support y and query x that returns one label per query.
    episodes : Episodes
        Tasks to solve.

    Returns
    -------
    EpisodeScores
        Accuracy of each class in each episode.

    Raises
    ------
    ValueError
        If the learner does not return one label per query.
    """
    accuracy, classes = [], []
    for batch in episodes:
        classes.extend(np.asarray(episodes.y)[batch.rows[:, :, 0]])
        for support_x, support_y, query_x, query_y in zip(*_columns(batch), strict=True):
            predicted = np.asarray(learner(support_x, support_y, query_x))
            if predicted.shape != query_y.shape:
                raise ValueError(
                    f"the learner returned shape {predicted.shape}: expected one label for each of "
                    f"the {len(query_y)} queries"
                )
            right = predicted == query_y.numpy()
            accuracy.append(right.reshape(episodes.ways, episodes.queries).mean(1))
    return EpisodeScores(np.array(accuracy), np.array(classes))


# --- the pieces ---------------------------------------------------------------------------------


def _columns(batch: Mapping) -> tuple[torch.Tensor, ...]:
    names = ("support_x", "support_y", "query_x", "query_y")
    return tuple(torch.as_tensor(batch[name]) for name in names)


def _logs(outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    if targets.is_floating_point():
        return {}
    return {"accuracy": (outputs.argmax(-1) == targets).float().mean().item()}


def _device(model: nn.Module) -> torch.device:
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))


def _check_adaptable(model: nn.Module) -> None:
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ValueError("weights are adapted in one process only; prototypes can use several")
    for name, module in model.named_modules():
        if (
            isinstance(module, nn.modules.batchnorm._BatchNorm)
            and module.training
            and module.running_mean is not None
        ):
            raise ValueError(
                f"{name or 'the model'} would update running statistics, which cannot follow "
                "several tasks at once: call torch.func.replace_all_batch_norm_modules_(model) "
                "before training"
            )
