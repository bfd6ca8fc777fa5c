"""Learn from a teacher's outputs, features, or relations: distillation (知识蒸馏, S4).

A frozen teacher is computed once. :func:`teacher_columns` turns its outputs for each example into
columns ``teacher_…``, which batches then hold beside the student's own::

    columns = columns | teacher_columns(teacher, columns, ["body"])
    loss_fn = with_teacher(rkd_angle, {"body": "body"}, weight=2.0)
    for step in steps(student, loss_fn, Batches(columns, batch_size=32), optimizer): ...

:func:`distillation` compares logits. :func:`with_teacher` compares layers, by a function
``(student, teacher) -> mean over the examples``. :func:`hint` asks for the same features.
:func:`rkd_distance` and :func:`rkd_angle` ask only for the same relations among the examples, so
student and teacher may differ in dimensions.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from tlbook.learning.batches import Batches
from tlbook.learning.freezing import eval_mode
from tlbook.learning.protocol import (
    Loss,
    accuracy_of,
    activations,
    auxiliary_of,
    labels_of,
    logits_of,
    split_columns,
)

#: Function of the student's and the teacher's outputs of a layer for the same n examples that
#: returns how far apart they are.
Distance = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@torch.no_grad()
def teacher_columns(
    teacher: nn.Module, columns: Mapping, layers: Sequence[str] = (), batch_size: int = 256
) -> dict[str, np.ndarray]:
    """Compute what a teacher puts out for each example, in eval mode, as columns for batches.

    The columns hold for the examples as they are in ``columns``. Do not use them for a student that
    sees the examples augmented, because the teacher has not seen them so.

    Parameters
    ----------
    teacher : torch.nn.Module
        Trained network that makes logits. It is not changed.
    columns : mapping of str to (n, ...) arrays
        Columns of the examples, as :class:`tlbook.learning.batches.Batches` takes them. The column
        ``labels`` is left out.
    layers : sequence of str, default ()
        Names of the teacher's layers whose outputs to keep.
    batch_size : int, default 256
        Examples per batch of the computation.

    Returns
    -------
    dict of str to numpy.ndarray
        ``teacher_logits`` (n, classes), and ``teacher_NAME`` (n, ...) for each of the ``layers``.

    Raises
    ------
    ValueError
        If a layer is not in the teacher, or puts out sequences of different lengths.
    """
    device = next(teacher.parameters()).device
    found: dict[str, list] = {f"teacher_{name}": [] for name in ("logits", *layers)}
    rows = []
    inputs = {name: column for name, column in columns.items() if name != "labels"}
    with eval_mode(teacher):
        for batch in Batches(inputs, batch_size):
            batch_on = {name: column.to(device) for name, column in batch.items()}
            logits, outputs = activations(teacher, batch_on, layers)
            for kept, output in zip(found.values(), (logits, *outputs), strict=True):
                kept.append(output.float().cpu().numpy())
            rows.append(batch.rows)
    if ragged := [name for name, kept in found.items() if len({k.shape[1:] for k in kept}) > 1]:
        raise ValueError(f"{ragged} differ in shape between examples: name a layer that pools them")
    order = np.concatenate(rows).argsort()
    return {name: np.concatenate(kept)[order] for name, kept in found.items()}


def distillation(temperature: float = 4.0, alpha: float = 0.9) -> Loss:
    """Return a loss with the teacher's logits as soft targets.

    The method is that of Hinton et al. 2015 (arXiv 1503.02531). The loss is ``alpha * T^2 *
    KL(teacher || student) + (1 - alpha) * cross-entropy``. The divergence compares the
    probabilities at ``temperature`` T. Its gradients shrink as 1 / T^2, so the factor keeps the
    balance while T changes. The divergence is the paper's cross-entropy minus the teacher's
    entropy: the gradient is the same, and 0 means agreement.

    Parameters
    ----------
    temperature : float, default 4.0
        Temperature T that both sets of logits are divided by, above 0.
    alpha : float, default 0.9
        Weight of the teacher in 0..1. With 1, no labels are needed.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Batches hold ``teacher_logits`` (n, classes), and ``labels`` unless ``alpha`` is
        1. The logs hold ``agreement``, the share of examples where student and teacher choose the
        same class, and with labels the ``accuracy``.

    Raises
    ------
    ValueError
        If ``temperature`` is not positive, or ``alpha`` is outside 0..1.
    """
    if not temperature > 0 or not 0 <= alpha <= 1:
        raise ValueError(f"temperature={temperature} must be positive, and alpha={alpha} in 0..1")

    def loss_fn(model, batch):
        own, teacher = split_columns(batch, "teacher_")
        logits, soft = logits_of(model, own), _said(teacher, "logits")
        log_q = F.log_softmax(logits / temperature, -1)
        divergence = F.kl_div(log_q, F.softmax(soft / temperature, -1), reduction="batchmean")
        loss = alpha * temperature**2 * divergence
        logs = {"agreement": accuracy_of(logits, soft.argmax(-1))}
        if alpha < 1:
            labels = labels_of(own)
            loss = loss + (1 - alpha) * F.cross_entropy(logits, labels)
            logs["accuracy"] = accuracy_of(logits, labels)
        return loss, logs

    return loss_fn


def with_teacher(
    distance: Distance,
    layers: Mapping[str, str],
    *,
    weight: float = 1.0,
    labels: bool = True,
    regressor: bool = False,
) -> Loss:
    """Return a loss that adds a distance from the teacher's layers to the cross-entropy.

    The distance is multiplied by ``weight`` and summed over layers. :func:`rkd_distance` and
    :func:`rkd_angle` compare the examples of a batch with each other, so the loss asks for batches
    in one piece.

    Parameters
    ----------
    distance : callable
        Function of the student's and the teacher's outputs, such as :func:`hint`,
        :func:`rkd_distance` or :func:`rkd_angle`.
    layers : mapping of str to str
        For each layer of the student, the teacher's layer to compare it with. For example,
        ``{"body": "encoder"}`` compares the output of ``body`` with the column ``teacher_encoder``.
    weight : float, default 1.0
        Weight of the distance beside the cross-entropy.
    labels : bool, default True
        Whether to add the cross-entropy of the labels. Give False to learn from the teacher alone,
        as in FitNets' first stage.
    regressor : bool, default False
        Whether the student's output first goes through ``model.auxiliary``, which trains along with
        the student (:class:`tlbook.learning.networks.WithAuxiliary`).

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold the distance as ``transfer``, and with labels the ``accuracy``. It
        raises KeyError for a batch without the teacher's layer, or without ``labels`` where they
        are needed.

    Raises
    ------
    ValueError
        If ``layers`` is empty.
    """
    if not layers:
        raise ValueError("name a layer of the student and the teacher's to compare it with")

    def loss_fn(model, batch):
        own, teacher = split_columns(batch, "teacher_")
        logits, outputs = activations(model, own, layers)
        if regressor:
            outputs = [auxiliary_of(model)(output) for output in outputs]
        pairs = zip(outputs, layers.values(), strict=True)
        transfer = sum(distance(output, _said(teacher, name)) for output, name in pairs)
        loss, logs = weight * transfer, {"transfer": transfer.item()}
        if labels:
            truth = labels_of(own)
            loss = loss + F.cross_entropy(logits, truth)
            logs["accuracy"] = accuracy_of(logits, truth)
        return loss, logs

    loss_fn.whole = True  # relations are among the examples of a batch
    return loss_fn


def _said(teacher: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in teacher:
        raise KeyError(
            f"a batch with the teacher's {', '.join(teacher)} has no column teacher_{name}: name "
            "the layer in teacher_columns"
        )
    return teacher[name]


# --- distances between what a student and a teacher make of the same examples -------------------


def hint(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute half the squared distance of two sets of features, the mean over examples.

    This is FitNets' hint (Romero et al. 2015, arXiv 1412.6550). Where the dimensions differ, the
    paper puts a regressor between the two, which trains along with the student. Here that is
    ``WithAuxiliary(student, nn.Linear(d_student, d_teacher))`` as the model, and
    ``with_teacher(hint, {"network.body": "body"}, regressor=True)`` as the loss.

    Parameters
    ----------
    student : (n, ...) torch.Tensor
        Features of the student.
    teacher : (n, ...) torch.Tensor
        Features of the teacher for the same examples, of the same shape.

    Returns
    -------
    () torch.Tensor
        The distance.

    Raises
    ------
    ValueError
        If the features differ in shape.
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"the student's features are {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}: put a regressor between them, see with_teacher"
        )
    return (student - teacher).square().flatten(1).sum(1).mean() / 2


def rkd_distance(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute by how much the distances between examples differ: relational distillation.

    The result is the mean, over pairs of examples, of the Huber loss between the student's and the
    teacher's distance (Park et al. 2019, arXiv 1904.05068). Distances are in units of their mean
    over the batch. So neither the scale, nor a rotation, nor the dimension of the features matters.

    Parameters
    ----------
    student : (n, d) torch.Tensor
        Features of the student, two examples or more.
    teacher : (n, e) torch.Tensor
        Features of the teacher for the same examples.

    Returns
    -------
    () torch.Tensor
        The mean Huber loss.

    Raises
    ------
    ValueError
        If there are fewer than two examples, or the numbers of examples differ.
    """
    _check_examples(student, teacher, 2)
    ours, theirs = (F.pdist(x.flatten(1)) for x in (student, teacher))
    return F.huber_loss(ours / _positive(ours.mean()), theirs / _positive(theirs.mean()))


def rkd_angle(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Compute by how much the angles between examples differ: relational distillation.

    The result is the mean, over triplets of different examples, of the Huber loss between the
    cosines of the student's and the teacher's angle (Park et al. 2019, arXiv 1904.05068). An angle
    at a point that coincides with one of its neighbors counts as a right angle. Memory grows with
    the cube of n.

    Parameters
    ----------
    student : (n, d) torch.Tensor
        Features of the student, three examples or more.
    teacher : (n, e) torch.Tensor
        Features of the teacher for the same examples.

    Returns
    -------
    () torch.Tensor
        The mean Huber loss.

    Raises
    ------
    ValueError
        If there are fewer than three examples, or the numbers of examples differ.
    """
    _check_examples(student, teacher, 3)
    n = len(student)
    ours, theirs = _cosines(student.flatten(1)), _cosines(teacher.flatten(1))
    return F.huber_loss(ours, theirs, reduction="sum") / (n * (n - 1) * (n - 2))


def _cosines(x: torch.Tensor) -> torch.Tensor:
    """(n, n, n) cosines of the angle at j between i and k, at [j, i, k], of (n, d) points; 0 where
    two of the three are the same."""
    edges = x[None] - x[:, None]
    # F.normalize would divide by 1e-12 where points coincide, and so would its gradient
    edges = edges / _positive(edges.norm(dim=-1, keepdim=True))
    same = torch.eye(len(x), dtype=torch.bool, device=x.device)
    return (edges @ edges.mT).masked_fill(same, 0)


def _positive(lengths: torch.Tensor) -> torch.Tensor:
    """Lengths to divide by: 1 instead of 0."""
    return lengths.masked_fill(lengths == 0, 1)


def _check_examples(student: torch.Tensor, teacher: torch.Tensor, least: int) -> None:
    if len(student) != len(teacher) or len(student) < least:
        raise ValueError(
            f"relations need {least} or more examples that both have seen, not {len(student)} of "
            f"the student's and {len(teacher)} of the teacher's: larger or whole batches"
        )
