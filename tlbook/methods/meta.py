"""Few-shot learning (小样本学习, S18) and meta-learning (元学习, S17), on episodes.

A *task* is a few labeled examples to learn from, the support, and others to be judged on, the
query. :class:`Episodes` draws tasks from a labeled set, :func:`sinusoids` makes curves to regress.
To :func:`tlbook.learning.loop.steps` a task is one example of a batch, so meta-learning needs no
loop of its own: :func:`prototypical`, :func:`maml` and :func:`reptile` are losses. Their batches
hold four
columns::

    support_x (tasks, n, ...)   support_y (tasks, n, ...)   labels 0 ... ways - 1, or values
    query_x   (tasks, m, ...)   query_y   (tasks, m, ...)

A *learner* solves one task: ``learner(support_x, support_y, query_x)`` returns (m,) labels. Plain
controls (:func:`finetune_learner`) and meta-trained networks are learners alike, so :func:`score_episodes`
compares them on the same episodes; :func:`tlbook.evidence.effects.episode_accuracy` has the
interval.

Batch normalization needs care where weights are adapted to a task (MAML, Reptile): running
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

#: (outputs, targets) -> their mean loss, such as ``F.cross_entropy`` or ``F.mse_loss``.
Criterion = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


Weights = dict[str, torch.Tensor]


#: (support x, support y, query x) of one task -> (m,) predicted labels
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
    """Rows of classes to train on, of others to select on, and of others again to test on.

    ``y``: (n,) labels; ``test`` and ``validation`` are numbers of classes. No class is in two
    parts, so what is tested is learning classes that are new. The seed alone decides; the test
    classes are the same whatever ``validation`` is.

    Raises
    ------
    ValueError : no class is left to train on or to test on; or examples of one of the ``groups``
        stand in different parts
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
    """Tasks of ``ways`` classes with ``shots`` labeled examples of each, drawn from a labeled set.

    Iterate over it, or give it to :func:`tlbook.learning.loop.steps` in place of ``Batches``.

    Attributes
    ----------
    x, y : n examples (images or frozen features) and their integer labels (n,)
    ways, shots, queries : classes of a task; examples of each in its support, and in its query
    number, batch_size : batches, and tasks in each of them
    seed : decides everything: batch ``i`` is the same whether those before it were drawn or not
    groups : (n,) at most one example of a group comes into a class of a task, so that a query is
        no variant of what is in the support; by default each example stands alone

    The classes of a task differ, and so do its examples. Its labels are 0 ... ``ways`` - 1 in an
    order drawn anew, so that a network cannot learn them by heart. A batch has the columns named
    at the top of this module, and as ``rows`` (batch_size, ways, shots + queries) positions.

    Raises
    ------
    ValueError : a number is below 1, there are fewer classes than ``ways``, or a class has too few
        examples
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
        return self.number

    def __iter__(self) -> Iterator[Batch]:
        return map(self.batch, self.rows())

    def rows(self, start: int = 0) -> Iterator[np.ndarray]:
        """The rows of each batch, from the given batch on."""
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
        """A batch is not cut: see :meth:`tlbook.learning.batches.Batches.parts`."""
        return [rows]

    def batch(self, rows: np.ndarray) -> Batch:
        columns = {}
        halves = {"support": rows[:, :, : self.shots], "query": rows[:, :, self.shots :]}
        for name, half in halves.items():
            tasks, ways, count = half.shape
            columns[f"{name}_x"] = torch.as_tensor(self.x[half.reshape(tasks, -1)])
            columns[f"{name}_y"] = torch.arange(ways).repeat_interleave(count).repeat(tasks, 1)
        return Batch(rows, columns)


def sinusoids(tasks: int, *, shots: int = 10, queries: int = 10, seed: int = 0) -> dict:
    """Columns of regression tasks for :class:`tlbook.learning.batches.Batches`: sine curves.

    ``amplitude * sin(x - phase)`` with amplitudes from 0.1 to 5, phases from 0 to pi and x from -5
    to 5, each uniform, as in the MAML paper. Arrays (tasks, shots, 1) and (tasks, queries, 1) of
    float32, with ``amplitude`` and ``phase`` (tasks,) beside them. A network that learns all curves
    jointly can learn their mean only, which is -1.62 cos(x).
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
    """Prototypical networks: classify a query by the nearest class mean of what ``model`` makes.

    ``model`` is an encoder, (n, ...) to (n, d). The loss is the cross-entropy of
    :func:`prototype_logits` (Snell et al. 2017, arXiv 1703.05175). As there, support and query go
    through the encoder together, so batch normalization sees whole tasks while training; in eval
    mode its running statistics serve any classes.
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
    """Minus the squared distance of each query to the mean of each class.

    ``support`` (..., n, d) with ``labels`` (..., n), ``query`` (..., m, d) to (..., m, ways).
    Raises ValueError where a class has no example.
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
    """The model's weights after 0, 1, ..., ``inner_steps`` gradient steps on one task's support.

    The model itself stays as it is: ``torch.func.functional_call(model, weights, x)`` applies what
    is returned. Only parameters that are not frozen are adapted. Gradients flow through all of it
    back to the model's parameters, unless it is called under ``torch.no_grad()``; with
    ``first_order``, each step's gradient counts as a constant.

    Raises
    ------
    ValueError : ``inner_steps`` is negative; the model has batch normalization that updates running
        statistics (the top of this module says what to do), or is shared by several processes
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
    """Model-agnostic meta-learning: the loss on the query after ``inner_steps`` on the support.

    Its gradient says how the start should move for these steps to serve better (Finn et al. 2017,
    arXiv 1703.03400). It goes through the steps, second derivatives and all; with ``first_order``
    it is the query's gradient at the adapted weights (FOMAML in that paper). ``inner_steps=0`` is
    ordinary training on all tasks together: the control. All tasks of a batch are adapted at once
    (``vmap``), several times as fast as one by one where networks are small.

    ``lr`` is the learning rate of the steps; that of the start is the optimizer's.
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
    """Reptile: move the start toward the weights that ``inner_steps`` on each task arrive at.

    Support and query together are what a task is learned from; nothing is held out (Nichol et al.
    2018, arXiv 1803.02999). The loss is half the squared distance of the start to where it ends,
    the end taken as fixed. Its gradient is the start minus the mean of the ends, so SGD with
    learning rate ``e`` moves by ``e`` times the way, as in the paper; Adam works too. Gradients are
    not clipped: here their length means something. The logs hold the tasks' own loss at the end
    (``task_loss``).
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
    """(tasks, steps + 1): each task's loss on its query after 0, 1, ..., ``inner_steps`` of adaptation.

    ``tasks`` has the columns of a batch. The model is put in eval mode, and stays as it is.
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
    """A scikit-learn classifier that is fitted to each task's support: the plain control.

    Such as ``LogisticRegression()``, on frozen features or on pixels. Examples are flattened. The
    nearest centroid is ``nearest_prototype(nn.Flatten())``; scikit-learn's divides by zero where
    each class has one example.
    """

    def learner(support_x, support_y, query_x):
        return clone(estimator).fit(support_x.flatten(1), support_y).predict(query_x.flatten(1))

    return learner


def nearest_prototype(model: nn.Module) -> Learner:
    """Each query goes to the nearest class mean of what an encoder makes, in eval mode."""

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
    """The model after ``inner_steps`` on the support, in eval mode, itself unchanged.

    ``transductive`` lets batch normalization without running statistics see all queries at once;
    without, each query is seen beside the support only (both are in Nichol et al. 2018, arXiv
    1803.02999), and learns nothing from the others, as with the other learners. To networks
    without such layers it makes no difference.
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
    """What a learner got right.

    Attributes
    ----------
    accuracy : (episodes, ways) share of the queries of each class that were right; the mean over
        ``ways`` is an episode's accuracy
    classes : (episodes, ways) which classes these were
    """

    accuracy: np.ndarray
    classes: np.ndarray


def score_episodes(learner: Learner, episodes: Episodes) -> EpisodeScores:
    """Let a learner solve all episodes, each on its own.

    Raises ValueError where it returns something else than one label per query.
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
