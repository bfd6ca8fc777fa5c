"""Networks trained once: what a training gave is kept by what went into it."""

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from tlbook import code as syntax
from tlbook.learning import (
    augment,
    batches,
    checkpoint,
    freezing,
    loop,
    losses,
    networks,
    protocol,
    table,
)
from tlbook.sources import cache

#: Return a digest of the code that every training depends on.
learning_code = syntax.snapshot(
    *(augment, batches, checkpoint, freezing, loop, losses, networks, protocol, table),
    sys.modules[__name__],
)


def train_once(
    model: nn.Module,
    train: Callable[[], np.ndarray],
    *content: str | np.ndarray,
    code: Sequence[ModuleType | Callable] = (),
) -> tuple[np.ndarray, float]:
    """Train a model in place, or give it the weights that the same training had before.

    What torch draws afterwards is the same whether the model was trained or not.

    Parameters
    ----------
    model : torch.nn.Module
        The model; its first weights are part of what is compared.
    train : callable
        Trains the model and returns losses, to be looked at later.
    *content : str or array
        All that the result depends on beside the model's first weights and the state of torch's
        random numbers: data and settings.
    code : sequence of modules and functions, optional
        What trains beside the modules of this folder, which count by themselves, such as the module
        of a method's loss. Comments and docstrings do not count.

    Returns
    -------
    losses : array
        What ``train`` returned.
    cpu_seconds : float
        What training took when it was done.
    """
    first = [part.cpu().numpy() for part in model.state_dict().values()]
    random = torch.get_rng_state().numpy()  # dropout draws from it
    depends = [torch.__version__, learning_code(), syntax.digest(*code), *content]
    key = cache.digest(*model.state_dict(), *first, random, *depends)

    def run() -> dict:
        start = time.process_time()
        with torch.random.fork_rng(devices=[]):
            losses = torch.as_tensor(np.asarray(train(), np.float64))
        seconds = torch.tensor(time.process_time() - start, dtype=torch.float64)
        # Copies, since a file of safetensors does not hold weights that two layers share
        return {"losses": losses, "cpu_seconds": seconds} | {
            f"model.{name}": value.clone(memory_format=torch.contiguous_format)
            for name, value in model.state_dict().items()
        }

    found = cache.stored(
        f"pretrained/{key}.safetensors",
        run,
        save=lambda stream, tensors: stream.write(save(tensors)),
        load=_load,
    )
    model.load_state_dict(
        {name.removeprefix("model."): v for name, v in found.items() if name.startswith("model.")}
    )
    return found["losses"].numpy(), found["cpu_seconds"].item()


def _load(path: Path) -> dict:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
