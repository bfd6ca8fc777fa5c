"""What a run of training keeps so that it can go on after an interruption."""

import json
import math
import random
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim import Optimizer

from tlbook.sources.cache import whole


class State:
    """Hold what a run needs to go on as if it had not been interrupted.

    Parameters
    ----------
    run : dict
        Settings of the run; a checkpoint is loaded only into a run with equal ones.

    Attributes
    ----------
    run : dict
        Settings of the run.
    done : int
        Updates of the optimizer that are done.
    history : list of dict
        One row per validation.
    best : dict of str to torch.Tensor
        Best weights so far, by name; empty before the first validation.
    best_score : float
        Their score.
    waited : int
        Validations since the best one.
    stopped : bool
        Whether training has been stopped early.
    """

    def __init__(self, run: dict):
        self.run = run
        self.done = 0
        self.history: list[dict] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_score = -math.inf
        self.waited = 0
        self.stopped = False

    def consider(self, score: float, model: nn.Module, patience: int | None) -> None:
        """Keep the weights if they are the best so far; stop if none were for too long.

        Parameters
        ----------
        score : float
            Score of the weights on validation data; larger is better.
        model : torch.nn.Module
            The model with these weights.
        patience : int or None
            Validations without a better score after which to stop; None never stops.
        """
        if score > self.best_score:
            self.best_score, self.waited = score, 0
            self.best = _copy(_own(model))
        else:
            self.waited += 1
            self.stopped = patience is not None and self.waited >= patience

    def save(self, file: Path, model: nn.Module, optimizer: Optimizer) -> None:
        """Write a checkpoint, whole or not at all.

        It holds what training changes: trained parameters, buffers, the optimizer's state, the best
        weights and all random numbers' states. Frozen parameters are left out.

        Parameters
        ----------
        file : pathlib.Path
            The file to write, in safetensors format; its folder is made if needed.
        model : torch.nn.Module
            The model that is trained.
        optimizer : torch.optim.Optimizer
            Its optimizer.
        """
        moments = optimizer.state_dict()
        tensors = {f"model:{name}": t for name, t in _own(model).items()}
        tensors |= {f"best:{name}": t for name, t in self.best.items()}
        tensors |= {
            f"optimizer:{index}:{name}": value
            for index, entry in moments["state"].items()
            for name, value in entry.items()
        }
        tensors["random:torch"] = torch.get_rng_state()
        for index in range(torch.cuda.device_count()):
            tensors[f"random:cuda:{index}"] = torch.cuda.get_rng_state(index)
        state = vars(self) | {"best": None, "groups": moments["param_groups"]}
        state |= {"python": random.getstate(), "numpy": _numpy_state()}
        for left in file.parent.glob(f".part-{file.name}-*"):
            shutil.rmtree(left, ignore_errors=True)  # of a run that was killed while it wrote
        with whole(file) as part:
            save_file(_copy(tensors), part, metadata={"state": json.dumps(state)})

    def load(self, file: Path, model: nn.Module, optimizer: Optimizer) -> None:
        """Read a checkpoint into this state, the model, the optimizer and the random generators.

        Parameters
        ----------
        file : pathlib.Path
            A file written by :meth:`save`.
        model : torch.nn.Module
            The model, with the same layers frozen as when the checkpoint was written.
        optimizer : torch.optim.Optimizer
            Its optimizer.

        Raises
        ------
        ValueError
            The file is no checkpoint, or of another run: its settings, its data or its trained
            layers differ.
        """
        state, tensors = read(file)
        other = "remove it, or name another file"
        if differing := [key for key in self.run if state["run"].get(key) != self.run[key]]:
            raise ValueError(
                f"{file} belongs to another run, with other {' and '.join(differing)} (content: "
                f"data, classes or settings): {other}"
            )
        weights, own = _part(tensors, "model:"), _own(model)
        if names := weights.keys() ^ own.keys():
            raise ValueError(
                f"{file} belongs to another run, which trained other layers, such as "
                f"{min(names)}: {other}"
            )
        if shapes := [name for name in own if own[name].shape != weights[name].shape]:
            raise ValueError(
                f"{file} belongs to another run, where {shapes[0]} has the shape "
                f"{tuple(weights[shapes[0]].shape)} and here {tuple(own[shapes[0]].shape)}: {other}"
            )
        groups, python, legacy = (state.pop(name) for name in ("groups", "python", "numpy"))
        vars(self).update(state | {"best": _part(tensors, "best:")})
        model.load_state_dict(weights, strict=False)
        moments: dict[int, dict] = {}
        for name, tensor in _part(tensors, "optimizer:").items():
            index, _, key = name.partition(":")
            moments.setdefault(int(index), {})[key] = tensor
        optimizer.load_state_dict({"state": moments, "param_groups": groups})
        torch.set_rng_state(tensors["random:torch"])
        for name, tensor in _part(tensors, "random:cuda:").items():
            torch.cuda.set_rng_state(tensor, int(name))
        random.setstate((python[0], tuple(python[1]), python[2]))
        np.random.set_state((legacy[0], np.array(legacy[1], dtype=np.uint32), *legacy[2:]))  # noqa: NPY002 - the legacy generator is part of the state


def read(file: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Read a checkpoint: its state and its tensors.

    Raises
    ------
    ValueError
        The file is no checkpoint, or not whole.
    """
    try:
        with safe_open(file, framework="pt") as content:
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
            return json.loads(content.metadata()["state"]), tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{file} is no checkpoint, or a damaged one ({reason}): remove it, or name another file"
        ) from error


def _numpy_state() -> list:
    kind, keys, *rest = np.random.get_state()  # noqa: NPY002
    return [kind, keys.tolist(), *rest]


def _own(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trained parameters and all buffers: what training can change. Frozen ones need no copy."""
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    return {name: tensor for name, tensor in model.state_dict().items() if name not in frozen}


def _copy(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}


def _part(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
