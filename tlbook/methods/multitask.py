"""Several tasks at once, over shared layers (multi-task learning, 多任务学习, S16).

:class:`MultiTask` is one encoder under a head for each task, and :func:`multitask` its loss: hard
parameter sharing (Caruana 1997, *Multitask Learning*, Machine Learning 28). A batch holds, besides
the encoder's input, a column for each task, named as the task. Its type says which kind of task it
is: integers are classes and have a cross-entropy, floats are values and have a squared error. A
label that is missing is -100 or NaN.

Tasks can pull the shared weights in opposite directions: :func:`task_gradients` and
:func:`gradient_cosine` measure it, :func:`pcgrad` projects it away.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional as F

from tlbook.learning.protocol import Loss

MISSING = -100  # a class that is not known, as for torch's cross-entropy


class MultiTask(nn.Module):
    """An encoder under one head per task: inputs to ``{task: outputs}``.

    Parameters
    ----------
    encoder : makes vectors (n, d) of its inputs
    heads : task -> makes of them logits (n, classes) or values (n, 1)
    shared : False gives each task an encoder of its own, a copy with the same initial weights. It
        is the control: the same loss and loop then train separate models, none of which learns
        from another's labels
    """

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module], *, shared: bool = True):
        super().__init__()
        self.encoder = encoder if shared else None
        self.encoders = None if shared else nn.ModuleDict({t: deepcopy(encoder) for t in heads})
        self.heads = nn.ModuleDict(heads)

    def forward(self, *args, **kwargs) -> dict[str, torch.Tensor]:
        if self.encoder is not None:
            vectors = self.encoder(*args, **kwargs)
            return {task: head(vectors) for task, head in self.heads.items()}
        return {
            task: head(self.encoders[task](*args, **kwargs)) for task, head in self.heads.items()
        }

    def task(self, name: str) -> nn.Sequential:
        """The network of one task alone, as :func:`tlbook.learning.loop.evaluate` takes it."""
        encoder = self.encoders[name] if self.encoder is None else self.encoder
        return nn.Sequential(encoder, self.heads[name])


def task_losses(
    model: nn.Module, batch: Mapping[str, torch.Tensor], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Each task's weighted loss over a batch, to be added up.

    The sum over the labels that are there is divided by the number of rows, labeled or not: so
    every label counts the same, whichever batch it is in, and a batch may be cut into parts. A
    task with a label in one row of ten thus weighs a tenth; its weight can make up for it.

    ``model`` gets ``batch["x"]``, or all columns that are no tasks by name.

    Raises
    ------
    KeyError : a task has no column, or no head
    ValueError : the outputs do not fit the column
    """
    if absent := weights.keys() - batch.keys():
        raise KeyError(f"tasks {sorted(absent)} have no column in a batch of {', '.join(batch)}")
    if "x" in batch:
        outputs = model(batch["x"])
    else:
        outputs = model(**{name: c for name, c in batch.items() if name not in weights})
    return {
        task: weight * _mean_over_rows(outputs[task], batch[task], task)
        for task, weight in weights.items()
    }


def _mean_over_rows(outputs: torch.Tensor, labels: torch.Tensor, task: str) -> torch.Tensor:
    if not labels.is_floating_point():
        if outputs.ndim != 2:
            raise ValueError(f"task {task!r}: {tuple(outputs.shape)} is not (n, classes)")
        total = F.cross_entropy(outputs, labels, ignore_index=MISSING, reduction="sum")
        return total / len(labels)
    if outputs.numel() != labels.numel():  # torch would stretch one over the other
        raise ValueError(
            f"task {task!r}: outputs {tuple(outputs.shape)} for values {tuple(labels.shape)}"
        )
    known = ~labels.isnan()
    # selected before they are compared: a gradient through NaN is NaN, even times zero
    errors = (outputs.reshape(labels.shape)[known] - labels[known].to(outputs)) ** 2
    return errors.sum() / len(labels)


def multitask(weights: Mapping[str, float]) -> Loss:
    """The sum of the tasks' losses, each times its weight (:func:`task_losses`).

    The logs hold each task's part. Values and classes differ in scale: bring values to a standard
    deviation of about 1, or let the weights see to it.
    """

    def loss_fn(model, batch):
        losses = task_losses(model, batch, weights)
        return sum(losses.values()), {task: loss.item() for task, loss in losses.items()}

    loss_fn.whole, loss_fn.clip = True, None  # a shared limit would tie the tasks together
    return loss_fn


# --- conflict -----------------------------------------------------------------------------------
def task_gradients(
    losses: Mapping[str, torch.Tensor], parameters: list[nn.Parameter]
) -> torch.Tensor:
    """(tasks, p): the gradient of each loss in p shared parameters, side by side.

    ``losses`` as :func:`task_losses` returns them, ``parameters`` such as
    ``list(model.encoder.parameters())``. Frozen ones are left out. The losses can be
    differentiated again.
    """
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    rows = [
        torch.autograd.grad(
            loss, parameters, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for loss in losses.values()
    ]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def gradient_cosine(gradients: torch.Tensor) -> torch.Tensor:
    """(tasks, tasks) cosines of gradients (tasks, p): below 0 where two tasks are in conflict.

    0 where a gradient is zero, as for a task without labels in the batch.
    """
    unit = F.normalize(gradients, dim=1)
    return unit @ unit.T


def project_conflicting(
    gradients: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Gradients (tasks, p) without what in each runs against the others.

    Each gradient meets the others in random order; where their product is negative, its part
    along the other is taken away (PCGrad: Yu et al. 2020, arXiv 2001.06782).
    """
    projected = gradients.clone()
    for i, mine in enumerate(projected):
        for j in torch.randperm(len(gradients), generator=generator).tolist():
            other = gradients[j]
            along = mine @ other
            if j != i and along < 0:
                mine -= along / (other @ other) * other
    return projected


def pcgrad(weights: Mapping[str, float], seed: int | None = 0) -> Loss:
    """:func:`multitask`, with the tasks' conflicts projected out of the encoder's gradient.

    The value of the loss and the gradients of the heads are those of :func:`multitask`; that of
    the encoder is the sum of :func:`project_conflicting`. The logs add ``cosine``, the least of
    any two tasks. Costs a backward pass more for each task. ``seed`` decides the random order;
    with None it is drawn from torch's own generator.

    Raises ValueError for a model without a shared encoder, and as :func:`task_losses`.
    """
    generator = None if seed is None else torch.Generator().manual_seed(seed)

    def loss_fn(model, batch):
        if getattr(model, "encoder", None) is None:
            raise ValueError(
                "only tasks that share an encoder conflict: give a MultiTask in one process"
            )
        losses = task_losses(model, batch, weights)
        shared = [p for p in model.encoder.parameters() if p.requires_grad]
        gradients = task_gradients(losses, shared)
        shift = (project_conflicting(gradients, generator) - gradients).sum(0)
        # worth nothing, but its gradient is the shift
        flat = torch.cat([parameter.flatten() for parameter in shared])
        nothing = (flat - flat.detach()) @ shift
        logs = {task: loss.item() for task, loss in losses.items()}
        logs["cosine"] = gradient_cosine(gradients).min().item()
        return sum(losses.values()) + nothing, logs

    loss_fn.whole, loss_fn.clip = True, None  # a projection is of a whole batch
    return loss_fn
