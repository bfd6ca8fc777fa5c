"""What a loss and a model agree on: columns of a batch, logits, labels, activations.

A loss is a function ``loss_fn(model, batch) -> (mean loss, logs)``; a batch maps names of columns
to tensors with one row per example.
"""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

#: Numbers to show, by name.
Logs = dict[str, float]
#: ``loss_fn(model, batch)``, which returns the mean loss of the batch and its logs.
Loss = Callable[[nn.Module, Mapping[str, torch.Tensor]], tuple[torch.Tensor, Logs]]
#: A number, or a function of the progress of training, from 0 at its start to 1 at its end.
Weight = float | Callable[[float], float]


def needs_whole(loss_fn: Loss) -> bool:
    """Return whether a loss compares the examples of a batch with each other.

    Such a loss says so by ``loss_fn.whole = True``, and the loop neither cuts its batches nor
    distributes them over processes. In the same way ``loss_fn.clip = None`` keeps its gradients
    unclipped.

    Parameters
    ----------
    loss_fn : Loss
        The loss to ask.

    Returns
    -------
    bool
        The loss's ``whole``, or False where it has none.
    """
    return getattr(loss_fn, "whole", False)


def logits_of(model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Compute the logits of a batch.

    A plain network is called with ``batch["x"]``, a transformers model with all columns of the
    batch but its labels.

    Parameters
    ----------
    model : torch.nn.Module
        The network or transformers model.
    batch : mapping of str to torch.Tensor
        Columns of n examples each.

    Returns
    -------
    (n, classes) torch.Tensor
        The logits.
    """
    if "x" in batch:
        return model(batch["x"])
    return model(**{name: column for name, column in batch.items() if name != "labels"}).logits


def labels_of(batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the labels of a batch.

    Parameters
    ----------
    batch : mapping of str to torch.Tensor
        Columns of n examples each.

    Returns
    -------
    (n,) torch.Tensor
        The column ``labels``.

    Raises
    ------
    KeyError
        The batch has no labels, where transformers' loss would be ``None``.
    """
    if "labels" not in batch:
        raise KeyError(f"a batch of {', '.join(batch)} has no labels: add a column 'labels'")
    return batch["labels"]


def accuracy_of(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """Compute the share of examples whose largest logit is that of their label.

    Parameters
    ----------
    logits : (n, classes) torch.Tensor
        Logits of each example.
    labels : (n,) torch.Tensor
        Classes as integers.

    Returns
    -------
    float
        The accuracy, in 0..1.
    """
    return (logits.argmax(-1) == labels).float().mean().item()


def activations(
    model: nn.Module, batch: Mapping[str, torch.Tensor], layers: Iterable[str]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Compute the logits of a batch and the outputs of named layers, in one pass.

    Parameters
    ----------
    model : torch.nn.Module
        The network or transformers model, see :func:`logits_of`.
    batch : mapping of str to torch.Tensor
        Columns of n examples each.
    layers : iterable of str
        Layers named as in ``model.named_modules()``, such as ``"body"`` or ``"bert.pooler"``.

    Returns
    -------
    logits : (n, classes) torch.Tensor
        The logits.
    outputs : list of torch.Tensor
        The output of each layer, in the order of ``layers``.

    Raises
    ------
    ValueError
        A layer is not in the model, or its output is not a single tensor.
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
    """Return the module that a loss trains along with a network.

    Parameters
    ----------
    model : tlbook.learning.networks.WithAuxiliary
        The network with its auxiliary module.

    Returns
    -------
    torch.nn.Module
        ``model.auxiliary``.

    Raises
    ------
    ValueError
        The model has no such module, or is wrapped for several processes, which would not share
        what the auxiliary module learns.
    """
    if not hasattr(model, "auxiliary"):
        raise ValueError(
            "this loss trains an auxiliary module: use "
            "tlbook.learning.networks.WithAuxiliary(network, auxiliary), in one process"
        )
    return model.auxiliary


# --- two domains --------------------------------------------------------------------------------
#
# A batch of tlbook.learning.batches.Pairs holds the target's columns under their own
# names, the source's as source_…, and progress: how far training is, from 0 to 1.
def split_columns(batch: Mapping[str, torch.Tensor], prefix: str) -> tuple[dict, dict]:
    """Split a batch by the names of its columns.

    Parameters
    ----------
    batch : mapping of str to torch.Tensor
        Columns of a batch.
    prefix : str
        Beginning of a name, such as ``"source_"``.

    Returns
    -------
    own : dict of str to torch.Tensor
        The columns whose names do not begin with the prefix.
    other : dict of str to torch.Tensor
        The columns whose names do, named without it.

    Raises
    ------
    ValueError
        No column has the prefix.
    """
    own = {name: column for name, column in batch.items() if not name.startswith(prefix)}
    other = {name.removeprefix(prefix): batch[name] for name in batch if name not in own}
    if not other:
        raise ValueError(f"a batch of {', '.join(batch)} has no column {prefix}...")
    return own, other


def split_domains(batch: Mapping[str, torch.Tensor]) -> tuple[dict, dict]:
    """Return the source's and the target's columns of a batch of both, each as a batch of its own.

    Parameters
    ----------
    batch : mapping of str to torch.Tensor
        A batch of :class:`tlbook.learning.batches.Pairs`.

    Returns
    -------
    source : dict of str to torch.Tensor
        The source's columns, named without ``source_``.
    target : dict of str to torch.Tensor
        The target's columns, without ``progress``.

    Raises
    ------
    ValueError
        The batch has no source columns.
    """
    target, source = split_columns(batch, "source_")
    target.pop("progress", None)
    return source, target


def weight_at(weight: Weight, batch: Mapping[str, torch.Tensor]) -> float:
    """Return the value of a trade-off weight at the time of a batch.

    Parameters
    ----------
    weight : float or callable
        A number, or a function of the progress of training, from 0 to 1.
    batch : mapping of str to torch.Tensor
        A batch of :class:`tlbook.learning.batches.Pairs`, with its column ``progress``.

    Returns
    -------
    float
        The weight, not negative.

    Raises
    ------
    ValueError
        The weight changes and the batch has no ``progress``, or the weight is negative.
    """
    if callable(weight):
        if "progress" not in batch:
            raise ValueError(
                "a weight that changes needs to know how far training is: use "
                "tlbook.learning.batches.Pairs"
            )
        weight = weight(batch["progress"][0].item())
    if not weight >= 0:
        raise ValueError(f"weight={weight} must not be negative")
    return float(weight)
