"""What a loss and a model agree on: columns of a batch, logits, labels, activations.

A loss is a function ``loss_fn(model, batch) -> (mean loss, logs)``; a batch maps names of columns
to tensors of as many rows.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

Logs = dict[str, float]


Loss = Callable[[nn.Module, Mapping[str, torch.Tensor]], tuple[torch.Tensor, Logs]]


#: A number, or a function of the progress of training, from 0 at its start to 1 at its end.
Weight = float | Callable[[float], float]


def needs_whole(loss_fn: Loss) -> bool:
    """Whether a loss compares the examples of a batch with each other.

    Such a loss says so by ``loss_fn.whole = True``, and the loop neither cuts its batches nor
    shares them out. In the same way ``loss_fn.clip = None`` keeps its gradients unclipped.
    """
    return getattr(loss_fn, "whole", False)


def logits_of(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(n, classes) logits: of a plain network on ``batch["x"]``, of a transformers model on all
    of the batch but its labels."""
    if "x" in batch:
        return model(batch["x"])
    return model(**{name: column for name, column in batch.items() if name != "labels"}).logits


def labels_of(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """(n,) labels; KeyError for a batch without them, where transformers' loss is ``None``."""
    if "labels" not in batch:
        raise KeyError(f"a batch of {', '.join(batch)} has no labels: add a column 'labels'")
    return batch["labels"]


def accuracy_of(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """The share of examples whose largest logit (n, classes) is that of their label (n,)."""
    return (logits.argmax(-1) == labels).float().mean().item()


def activations(
    model: nn.Module, batch: Mapping[str, torch.Tensor], layers: Iterable[str]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Logits of a batch, and what the named layers put out on the way there, in one pass.

    ``layers`` are named as in ``model.named_modules()``, such as ``"body"`` or ``"bert.pooler"``.

    Raises ValueError for a layer that is not in the model, or whose output is no single tensor.
    """
    modules, outputs = dict(model.named_modules()), dict.fromkeys(layers)
    # named "module.…" where the model is wrapped for several processes
    wrapped = "module." if "module" in modules and not outputs.keys() <= modules.keys() else ""
    if missing := [name for name in outputs if wrapped + name not in modules]:
        raise ValueError(f"the model has no layer {missing}: model.named_modules() lists them")

    def keep(name):
        return lambda module, inputs, output: outputs.update({name: output})

    hooks = [modules[wrapped + name].register_forward_hook(keep(name)) for name in outputs]
    try:
        logits = logits_of(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    for name, output in outputs.items():
        if not isinstance(output, torch.Tensor):
            raise ValueError(
                f"the layer {name!r} puts out a {type(output).__name__}, not a tensor: name a "
                "layer inside of it"
            )
    return logits, list(outputs.values())


def auxiliary_of(model: nn.Module) -> nn.Module:
    """``model.auxiliary``; ValueError for a model without one, also for one that is wrapped for
    several processes, which would not share what the auxiliary module learns."""
    if not hasattr(model, "auxiliary"):
        raise ValueError(
            "this loss trains an auxiliary module: use tlbook.learning.networks.WithAuxiliary(network, "
            "auxiliary), in one process"
        )
    return model.auxiliary


# --- two domains --------------------------------------------------------------------------------
#
# A batch of :class:`tlbook.learning.batches.Pairs` holds the target's columns under their own
# names, the source's as ``source_…``, and ``progress``: how far training is, from 0 to 1.
def split_columns(batch: Mapping[str, torch.Tensor], prefix: str) -> tuple[dict, dict]:
    """The columns whose names do not begin with ``prefix``, and those that do, without it."""
    own = {name: column for name, column in batch.items() if not name.startswith(prefix)}
    other = {name.removeprefix(prefix): batch[name] for name in batch if name not in own}
    if not other:
        raise ValueError(f"a batch of {', '.join(batch)} has no column {prefix}...")
    return own, other


def split_domains(batch: Mapping[str, torch.Tensor]) -> tuple[dict, dict]:
    """The source's and the target's columns of a batch of both, each as if it were alone.

    Raises ValueError for a batch without source columns.
    """
    target, source = split_columns(batch, "source_")
    target.pop("progress", None)
    return source, target


def weight_at(weight: Weight, batch: Mapping[str, torch.Tensor]) -> float:
    """The weight as it is now.

    Raises ValueError where it changes and the batch has no ``progress``, or where it is negative.
    """
    if callable(weight):
        if "progress" not in batch:
            raise ValueError(
                "a weight that changes needs to know how far training is: use tlbook.learning.batches.Pairs"
            )
        weight = weight(batch["progress"][0].item())
    if not weight >= 0:
        raise ValueError(f"weight={weight} must not be negative")
    return float(weight)
