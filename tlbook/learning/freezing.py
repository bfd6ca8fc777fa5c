r"""Freezing as a table of (pattern, factor), one row per group of layers.

The first pattern found in a parameter's name decides. A factor multiplies the learning rate; the
factor ``None`` means frozen (冻结)::

    table = [("classifier", 1.0), (r"layer\.[45]\.", 0.3), (".*", None)]
    groups = freeze(model, table, lr=5e-5)
    optimizer = torch.optim.AdamW(groups)

A frozen layer has no gradient, no weight decay, no BatchNorm statistics and no dropout, and is not
in the optimizer. :func:`train_mode` sees to the layers, :func:`audit_frozen` proves it.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd
import torch
from torch import nn
from torch.optim import Optimizer

from tlbook.learning.table import Table, factors_of

#: A table that trains every parameter.
ALL: Table = ((".*", 1.0),)


def head_only(head: str = "classifier") -> Table:
    """Return a table that trains the head and freezes everything else.

    Parameters
    ----------
    head : str, optional
        Pattern of the head's parameter names.

    Returns
    -------
    Table
        Rows for :func:`freeze`.
    """
    return (head, 1.0), (".*", None)


def last_layers(model: nn.Module, k: int, head: str = "classifier|pooler") -> Table:
    """Return a table that trains the head and the last ``k`` numbered layers.

    Layers are numbered by their names, such as ``layer.4.`` or ``blocks.15.``.

    Parameters
    ----------
    model : torch.nn.Module
        The model whose layers are counted.
    k : int
        Number of layers to train besides the head.
    head : str, optional
        Pattern of the head's parameter names.

    Returns
    -------
    Table
        Rows for :func:`freeze`.

    Raises
    ------
    ValueError
        ``k`` is negative, or larger than the number of layers.
    """
    numbers = _layer_numbers(model)
    if not 0 <= k <= len(numbers):
        raise ValueError(f"k={k}, but the model has {len(numbers)} numbered layers")
    chosen = "|".join(str(number) for number in numbers[len(numbers) - k :])
    layers = [(_layer(f"(?:{chosen})"), 1.0)] if k else []
    return (head, 1.0), *layers, (".*", None)


def _layer(number: str) -> str:
    """A pattern for the parameters of numbered layers."""
    return rf"(?:layers?|blocks?|h)\.{number}\."


def _layer_numbers(model: nn.Module) -> list[int]:
    names = (re.search(_layer(r"(\d+)"), name) for name, _ in model.named_parameters())
    return sorted({int(found[1]) for found in names if found})


def freeze(model: nn.Module, table: Table, lr: float, weight_decay: float = 0.01) -> list[dict]:
    """Freeze a model by a table, and return the parameter groups for an optimizer.

    Weight decay goes on matrices only: biases and normalization are left alone.

    Parameters
    ----------
    model : torch.nn.Module
        The model to freeze, in place.
    table : Table
        Rows of (pattern, factor); the first pattern found in a parameter's name decides.
    lr : float
        Learning rate where the factor is 1.
    weight_decay : float, optional
        Weight decay of matrices.

    Returns
    -------
    list of dict
        One group per learning rate and weight decay, with ``params``, ``lr`` and ``weight_decay``.
        Frozen parameters are in none.

    Raises
    ------
    ValueError
        A pattern decides over no parameter, no pattern covers a parameter, or all are frozen.
    """
    factor = factors_of((name for name, _ in model.named_parameters()), table, "parameter")
    groups: dict[tuple, list] = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(factor[name] is not None)
        if parameter.requires_grad:
            decayed = weight_decay if parameter.ndim >= 2 else 0.0
            groups.setdefault((lr * factor[name], decayed), []).append(parameter)
        else:
            parameter.grad = None
    if not groups:
        raise ValueError("the table freezes every parameter: there is nothing left to train")
    return [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (rate, decay), parameters in groups.items()
    ]


def unfreeze(
    model: nn.Module, optimizer: Optimizer, pattern: str, lr: float, weight_decay: float = 0.01
) -> int:
    """Train frozen parameters from now on, in the middle of a run (gradual unfreezing, 逐步解冻).

    Parameters
    ----------
    model : torch.nn.Module
        The model that is being trained.
    optimizer : torch.optim.Optimizer
        Its optimizer, which gets the parameters as new groups.
    pattern : str
        Regular expression searched in the names of frozen parameters.
    lr : float
        Learning rate of the new groups.
    weight_decay : float, optional
        Weight decay of matrices.

    Returns
    -------
    int
        Number of elements of the parameters that were unfrozen.

    Raises
    ------
    ValueError
        The pattern finds no frozen parameter.
    """
    found = [
        parameter
        for name, parameter in model.named_parameters()
        if re.search(pattern, name) and not parameter.requires_grad
    ]
    if not found:
        raise ValueError(f"pattern {pattern!r} finds no frozen parameter")
    for decay, kind in ((weight_decay, True), (0.0, False)):
        if parameters := [p for p in found if (p.ndim >= 2) == kind]:
            optimizer.add_param_group({"params": parameters, "lr": lr, "weight_decay": decay})
    for parameter in found:
        parameter.requires_grad_(True)
    return sum(parameter.numel() for parameter in found)


def is_frozen(module: nn.Module) -> bool:
    """Return whether a module has parameters, and none of them is trained.

    Parameters
    ----------
    module : torch.nn.Module
        A model or a part of it.

    Returns
    -------
    bool
        False for a module without parameters.
    """
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def train_mode(model: nn.Module) -> None:
    """Set a model to train mode, but keep its frozen parts in eval mode.

    ``model.train()`` alone would switch the dropout of a frozen body on and let its BatchNorm
    statistics follow the batches.

    Parameters
    ----------
    model : torch.nn.Module
        The model to switch, in place.
    """
    frozen = is_frozen(model)
    model.train(not frozen)
    if not frozen:
        for child in model.children():
            if any(True for _ in child.parameters()):
                train_mode(child)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Keep a model in eval mode inside the ``with`` block, and restore each part's mode after it.

    Parameters
    ----------
    model : torch.nn.Module
        The model to switch, in place.

    Yields
    ------
    None
        The model is in eval mode until the block ends.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def audit_frozen(model: nn.Module) -> Iterator[None]:
    """Prove that training inside the ``with`` block leaves what is frozen as it was, bit for bit.

    It compares the parameters that are frozen when the block begins, and the buffers of frozen
    modules (such as BatchNorm statistics).

    Parameters
    ----------
    model : torch.nn.Module
        The model that is trained in the block.

    Yields
    ------
    None
        The comparison is made when the block ends without an error.

    Raises
    ------
    RuntimeError
        Something frozen changed; the message names it.
    """
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    for prefix, module in model.named_modules():
        if is_frozen(module):
            frozen |= {f"{prefix}.{name}".lstrip(".") for name, _ in module.named_buffers()}
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    before = {name: tensors[name].detach().clone() for name in frozen}
    yield
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    if moved := [name for name, was in before.items() if not torch.equal(was, tensors[name])]:
        raise RuntimeError(f"frozen, but moved during training: {', '.join(sorted(moved))}")


def describe(model: nn.Module, groups: Sequence[dict] = ()) -> pd.DataFrame:
    """Return a table of layers: parameters, how many of them are trained, learning rates.

    Parameters
    ----------
    model : torch.nn.Module
        The model to describe.
    groups : sequence of dict, optional
        Groups of :func:`freeze`, or ``optimizer.param_groups``; without them the learning
        rates stay empty.

    Returns
    -------
    pandas.DataFrame
        One row per layer, with columns ``parameters``, ``trained`` and ``learning rate``.
    """
    rates = {id(p): group["lr"] for group in groups for p in group["params"]}
    rows: dict[str, dict] = {}
    for name, parameter in model.named_parameters():
        row = rows.setdefault(_stem(name), {"parameters": 0, "trained": 0, "learning rate": set()})
        row["parameters"] += parameter.numel()
        row["trained"] += parameter.numel() * parameter.requires_grad
        if id(parameter) in rates:
            row["learning rate"].add(rates[id(parameter)])
    table = pd.DataFrame.from_dict(rows, orient="index")
    table["learning rate"] = [
        ", ".join(f"{rate:.3g}" for rate in sorted(found)) or "frozen" * bool(groups)
        for found in table["learning rate"]
    ]
    return table.rename_axis("layer")


def _stem(name: str) -> str:
    """The layer a parameter belongs to: up to its number, or its first two parts."""
    parts = name.split(".")
    numbered = [position for position, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[: numbered[0] + 1] if numbered else parts[:-1][:2])
