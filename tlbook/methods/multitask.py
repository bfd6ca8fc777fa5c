"""Learn several tasks at once, over shared layers (multi-task learning, 多任务学习, S16).

:class:`MultiTask` is one encoder under a head for each task, and :func:`multitask` is its loss:
hard parameter sharing (Caruana 1997, *Multitask Learning*, Machine Learning 28). Besides the
encoder's input, a batch holds a column for each task, named like the task. The type of the column
says which kind of task it is: integers are classes and have a cross-entropy, and floats are values
and have a squared error. A missing label is -100 or NaN.

Tasks can pull the shared weights in opposite directions. :func:`task_gradients` and
:func:`gradient_cosine` measure this conflict, and :func:`pcgrad` removes it by projection.
"""

from collections.abc import Mapping
from copy import deepcopy

import torch
from torch import nn
from torch.nn import functional as F

from tlbook.learning.protocol import Loss

MISSING = -100  # an unknown class, which torch's cross-entropy ignores


class MultiTask(nn.Module):
    """Combine one encoder with a head for each task.

    The book explains it in *Several tasks at once*.

    Parameters
    ----------
    encoder : torch.nn.Module
        Network that turns its inputs into vectors (n, d).
    heads : mapping of str to torch.nn.Module
        For each task, the network that turns these vectors into logits (n, classes) or values (n,
        1).
    shared : bool, default True
        Whether all tasks share the encoder. With False, each task gets an encoder of its own, a
        copy with the same initial weights. This is the control: the same loss and loop then train
        separate models, none of which learns from another's labels.
    """

    def __init__(self, encoder: nn.Module, heads: Mapping[str, nn.Module], *, shared: bool = True):
        super().__init__()
        self.encoder = encoder if shared else None
        self.encoders = None if shared else nn.ModuleDict({t: deepcopy(encoder) for t in heads})
        self.heads = nn.ModuleDict(heads)

    def forward(self, *args, **kwargs) -> dict[str, torch.Tensor]:
        """Return the outputs of all tasks.

        Parameters
        ----------
        *args : torch.Tensor
            Positional inputs of the encoder.
        **kwargs : torch.Tensor
            Named inputs of the encoder.

        Returns
        -------
        dict of str to torch.Tensor
            For each task, logits (n, classes) or values (n, 1).
        """
        if self.encoder is not None:
            vectors = self.encoder(*args, **kwargs)
            return {task: head(vectors) for task, head in self.heads.items()}
        return {
            task: head(self.encoders[task](*args, **kwargs)) for task, head in self.heads.items()
        }

    def task(self, name: str) -> nn.Sequential:
        """Return the network of one task alone, as :func:`tlbook.learning.loop.evaluate` takes it.

        Parameters
        ----------
        name : str
            Name of the task.

        Returns
        -------
        torch.nn.Sequential
            The task's encoder and head, with the same weights, not copies.
        """
        encoder = self.encoders[name] if self.encoder is None else self.encoder
        return nn.Sequential(encoder, self.heads[name])


def task_losses(
    model: nn.Module, batch: Mapping[str, torch.Tensor], weights: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """Compute each task's weighted loss over a batch, to be added up.

    The sum over the labels that are there is divided by the number of rows, labeled or not. So
    every label counts the same in any batch, and a batch may be cut into parts. A task with a label
    in one row of ten therefore counts a tenth; its weight can make up for it.

    Parameters
    ----------
    model : torch.nn.Module
        Network that returns the outputs of each task by name. It gets ``batch["x"]``, or by name
        all columns that are not tasks.
    batch : mapping of str to (n, ...) torch.Tensor
        Inputs, and a column for each task.
    weights : mapping of str to float
        Weight of each task.

    Returns
    -------
    dict of str to () torch.Tensor
        Weighted loss of each task.

    Raises
    ------
    KeyError
        If a task has no column, or no head.
    ValueError
        If the outputs do not fit the column.
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
    """Return a loss that adds up the tasks' losses, each times its weight (:func:`task_losses`).

    Values and classes differ in scale. Bring values to a standard deviation of about 1, or balance
    the scales with the weights.

    Parameters
    ----------
    weights : mapping of str to float
        Weight of each task.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold each task's part.
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
    """Compute the gradient of each loss in the shared parameters, flattened side by side.

    The losses can be differentiated again.

    Parameters
    ----------
    losses : mapping of str to () torch.Tensor
        Losses as :func:`task_losses` returns them.
    parameters : list of torch.nn.Parameter
        Shared parameters, such as ``list(model.encoder.parameters())``. Frozen ones are left out.

    Returns
    -------
    (tasks, p) torch.Tensor
        One row for each loss, over p numbers in the parameters that are not frozen.
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
    """Compute the cosine of each pair of gradients, below 0 where two tasks are in conflict.

    Parameters
    ----------
    gradients : (tasks, p) torch.Tensor
        One gradient for each task.

    Returns
    -------
    (tasks, tasks) torch.Tensor
        Cosines in -1..1. They are 0 where a gradient is zero, as for a task without labels in the
        batch.
    """
    unit = F.normalize(gradients, dim=1)
    return unit @ unit.T


def project_conflicting(
    gradients: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return the gradients without the part of each that runs against the others.

    Each gradient meets the others in random order. Where their product is negative, its part along
    the other is taken away (PCGrad: Yu et al. 2020, arXiv 2001.06782).

    Parameters
    ----------
    gradients : (tasks, p) torch.Tensor
        One gradient for each task. It is not changed.
    generator : torch.Generator, optional
        Source of the random order. By default it is torch's own generator.

    Returns
    -------
    (tasks, p) torch.Tensor
        The projected gradients.
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
    """Return the loss of :func:`multitask` with the tasks' conflicts projected out of the gradient.

    The value of the loss and the gradients of the heads are those of :func:`multitask`. The
    gradient of the encoder is the sum of :func:`project_conflicting`. This costs one more backward
    pass for each task. The book explains it in *Several tasks at once*.

    Parameters
    ----------
    weights : mapping of str to float
        Weight of each task.
    seed : int or None, default 0
        Seed of the random order. With None, the order is drawn from torch's own generator.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold each task's part, and as ``cosine`` the smallest cosine of any two
        tasks. It raises ValueError for a model without a shared encoder, and the errors of
        :func:`task_losses`.
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
        # a term of value 0 whose gradient is the shift
        flat = torch.cat([parameter.flatten() for parameter in shared])
        nothing = (flat - flat.detach()) @ shift
        logs = {task: loss.item() for task, loss in losses.items()}
        logs["cosine"] = gradient_cosine(gradients).min().item()
        return sum(losses.values()) + nothing, logs

    loss_fn.whole, loss_fn.clip = True, None  # a projection is of a whole batch
    return loss_fn
