"""Losses as plain functions: ``loss_fn(model, batch) -> (loss, logs)``.

``loss`` is the mean over the examples of the batch, so that a batch may be cut into smaller ones
whose losses, weighted by their sizes, add up to the same. ``logs`` are numbers to show.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

Logs = dict[str, float]
Loss = Callable[[nn.Module, Mapping[str, torch.Tensor]], tuple[torch.Tensor, Logs]]


def logits_of(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(n, classes) logits: of a plain network on ``batch["x"]``, of a transformers model on all
    of the batch but its labels."""
    if "x" in batch:
        return model(batch["x"])
    return model(**{name: column for name, column in batch.items() if name != "labels"}).logits


def classification(label_smoothing: float = 0.0, class_weights: torch.Tensor | None = None) -> Loss:
    """Cross-entropy (交叉熵, formulas F1 and F2) of the logits with ``batch["labels"]``.

    ``class_weights``: (classes,), what an example counts by its class, as scikit-learn's
    ``compute_class_weight("balanced")`` gives it. The loss is divided by the number of examples,
    not by the sum of their weights as in torch: so it does not depend on how a batch is cut.

    The loss raises KeyError for a batch without ``labels``, where transformers returns ``None``.
    """

    def loss_fn(model, batch):
        if "labels" not in batch:
            raise KeyError(f"a batch of {', '.join(batch)} has no labels: add a column 'labels'")
        logits, labels = logits_of(model, batch), batch["labels"]
        weights = None if class_weights is None else class_weights.to(logits)
        losses = F.cross_entropy(
            logits, labels, weight=weights, reduction="none", label_smoothing=label_smoothing
        )
        return losses.mean(), {"accuracy": (logits.argmax(-1) == labels).float().mean().item()}

    return loss_fn


def l2_sp(loss_fn: Loss, model: nn.Module, strength: float, head: str = "classifier") -> Loss:
    """Pull the weights to where they start from, not to zero (Li et al., 2018, arXiv 1802.01483).

    Adds ``strength / 2 * ||w - w0||^2`` over trained parameters outside the new head, whose
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
        return loss + strength / 2 * distance, logs | {"distance": distance.item()}

    return anchored
