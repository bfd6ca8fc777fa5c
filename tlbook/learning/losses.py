"""Losses as plain functions: ``loss_fn(model, batch) -> (loss, logs)``.

``loss`` is the mean over the examples of the batch, so that a batch may be cut into smaller ones
whose losses, weighted by their sizes, add up to the same. ``logs`` are numbers to show.
"""

import torch
from torch import nn
from torch.nn import functional as F

from tlbook.learning.protocol import (
    Loss,
    Weight,
    accuracy_of,
    labels_of,
    logits_of,
    needs_whole,
    split_domains,
    weight_at,
)


def classification(label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None) -> Loss:
    """Return the cross-entropy loss (交叉熵, formulas F1 and F2) of logits with labels.

    It compares the logits with ``batch["labels"]``. It is divided by the number of examples, not by
    the sum of their weights as in torch, so that it does not depend on how a batch is cut.

    Parameters
    ----------
    label_smoothing : float, optional
        Share of each label, in 0..1, that is spread evenly over all classes.
    class_weights : (classes,) torch.Tensor, optional
        Weight of an example by its class, as scikit-learn's ``compute_class_weight("balanced")``
        gives it; by default all examples weigh the same.

    Returns
    -------
    Loss
        The loss, in nats, with ``accuracy`` in its logs. It raises KeyError for a batch without
        ``labels``, where transformers returns ``None``.
    """

    def loss_fn(model, batch):
        labels, logits = labels_of(batch), logits_of(model, batch)
        weights = None if class_weights is None else class_weights.to(logits)
        losses = F.cross_entropy(
            logits, labels, weight=weights, reduction="none", label_smoothing=label_smoothing
        )
        return losses.mean(), {"accuracy": accuracy_of(logits, labels)}

    return loss_fn


def l2_sp(loss_fn: Loss, model: nn.Module, weight: float, head: str = "classifier") -> Loss:
    """Add a penalty that pulls the weights to where they start from, not to zero.

    The penalty is ``weight / 2 * ||w - w0||^2`` over trained parameters outside the new head, whose
    start is random (Li et al., 2018, arXiv 1802.01483).

    Parameters
    ----------
    loss_fn : Loss
        The loss on the task.
    model : torch.nn.Module
        The model as it starts; the anchor ``w0`` is a copy of its weights at the time of the call.
    weight : float
        Trade-off weight of the penalty.
    head : str, optional
        Part of the names of the parameters that are left out.

    Returns
    -------
    Loss
        The sum of loss and penalty, with ``||w - w0||^2`` as ``distance`` in its logs.
    """
    # A copy: an alias would move along with the weights and pull nothing
    anchor = {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and head not in name
    }

    def anchored(model, batch):
        loss, logs = loss_fn(model, batch)
        parameters = dict(model.named_parameters())
        # named "module.…" where the model is wrapped for several processes
        wrapped = "module." if all(name.startswith("module.") for name in parameters) else ""
        distance = sum(((parameters[wrapped + n] - w0) ** 2).sum() for n, w0 in anchor.items())
        return loss + weight / 2 * distance, logs | {"distance": distance.item()}

    return anchored


def joint(*, target: Loss, source: Loss, weight: Weight = 1.0) -> Loss:
    """Return the joint objective ``L_T + weight * L_S`` of a target and a source (formula F4; S14).

    In F4 the weight is lambda. Each of the two losses sees the columns of its own domain in a pass
    of its own, so that batch normalization, where there is any, normalizes each domain by itself.
    With a ``weight`` of 0 this is fine-tuning alone: the source is not even computed. The batches
    are those of :class:`tlbook.learning.batches.Pairs`. The book explains it in *The mathematics of
    it*.

    Parameters
    ----------
    target : Loss
        The loss on the target's columns.
    source : Loss
        The loss on the source's columns.
    weight : float or callable, optional
        Trade-off weight of the source. It may change over training, such as
        ``lambda progress: 1 - progress``.

    Returns
    -------
    Loss
        The joint loss. Its logs hold the source's as ``source_…``, and the ``weight``. It raises
        ValueError for a batch without source columns, or as
        :func:`tlbook.learning.protocol.weight_at`.
    """

    def loss_fn(model, batch):
        theirs, ours = split_domains(batch)
        balance = weight_at(weight, batch)
        loss, logs = target(model, ours)
        if balance:
            other, found = source(model, theirs)
            loss = loss + balance * other
            logs = logs | {f"source_{name}": value for name, value in found.items()}
        return loss, logs | {"weight": balance}

    loss_fn.whole = needs_whole(source) or needs_whole(target)
    return loss_fn


def entropy_minimization() -> Loss:
    """Return the mean entropy of the predictions, in nats, a loss that needs no labels.

    It draws the boundary between classes away from where examples are (Grandvalet & Bengio 2004,
    *Semi-supervised Learning by Entropy Minimization*). Alone, it is least where all examples are
    of one class, so combine it with a loss on labels: ``joint(target=classification(),
    source=entropy_minimization(), weight=ramp)`` for ``Pairs(labeled, source=unlabeled, ...)``. A
    weight that grows keeps early guesses from being made certain.

    Returns
    -------
    Loss
        The loss, with the mean probability of the predicted class as ``confidence`` in its logs.
    """

    def loss_fn(model, batch):
        log_p = F.log_softmax(logits_of(model, batch), -1)
        entropy = -(log_p.exp() * log_p).sum(-1).mean()
        return entropy, {"confidence": log_p.max(-1).values.exp().mean().item()}

    return loss_fn
