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
    """Cross-entropy (交叉熵, formulas F1 and F2) of the logits with ``batch["labels"]``.

    ``class_weights``: (classes,), what an example counts by its class, as scikit-learn's
    ``compute_class_weight("balanced")`` gives it. The loss is divided by the number of examples,
    not by the sum of their weights as in torch: so it does not depend on how a batch is cut.

    The loss raises KeyError for a batch without ``labels``, where transformers returns ``None``.
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
    """Pull the weights to where they start from, not to zero (Li et al., 2018, arXiv 1802.01483).

    Adds ``weight / 2 * ||w - w0||^2`` over trained parameters outside the new head, whose
    start is random. The anchor ``w0`` is a copy: an alias would move along and pull nothing.
    """
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
    """The joint objective ``L_T + weight * L_S`` (formula F4, where the weight is lambda; S14).

    ``target`` sees the target's columns, ``source`` the source's, each in a pass of its own: batch
    normalization, where there is any, normalizes each domain by itself. A ``weight`` of 0 is
    fine-tuning alone: the source is not even looked at. The logs hold the source's as
    ``source_…``, and the weight.

    ``weight`` may change over training, such as ``lambda progress: 1 - progress``. The batches
    are those of :class:`tlbook.learning.batches.Pairs`.

    The loss raises ValueError for a batch without source columns, or as :func:`weight_at`.
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
    """Mean entropy of the predictions, in nats: it needs no labels, and draws the boundary
    between classes away from where examples are (Grandvalet & Bengio 2004, *Semi-supervised
    Learning by Entropy Minimization*).

    Alone, it is least where all examples are of one class. So it goes with a loss on labels, such
    as ``joint(target=classification(), source=entropy_minimization(), weight=ramp)`` for
    ``Pairs(labeled, source=unlabeled, ...)``: a weight that grows does not make sure of guesses
    that come early. The logs hold the mean probability of the predicted class (``confidence``).
    """

    def loss_fn(model, batch):
        log_p = F.log_softmax(logits_of(model, batch), -1)
        entropy = -(log_p.exp() * log_p).sum(-1).mean()
        return entropy, {"confidence": log_p.max(-1).values.exp().mean().item()}

    return loss_fn
