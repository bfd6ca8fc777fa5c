"""Train a network in a loop that you can see.

:func:`steps` is the loop itself. It yields after every update of the optimizer, so evaluating,
unfreezing and plotting are ordinary Python in the body of a ``for``. :func:`fit` runs that loop for
you, with validation, early stopping, checkpoints, exact resume and a progress bar.

Accelerate takes care of devices, mixed precision and several processes. Every process builds the
same batches and trains on its share of each, so two processes compute what one would.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from sklearn.metrics import balanced_accuracy_score
from torch import nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from tlbook import checks
from tlbook.errors import TrainingError
from tlbook.learning.batches import Batch, Batches
from tlbook.learning.checkpoint import State
from tlbook.learning.freezing import eval_mode, train_mode
from tlbook.learning.protocol import Loss, logits_of, needs_whole
from tlbook.sources.cache import digest

TOKENS = 2048  # in one pass of a CPU: what it computes between the layers still fits its cache


# --- schedules ----------------------------------------------------------------------------------
#: (step, number of steps) -> factor of the learning rate.
Schedule = Callable[[int, int], float]


def constant(step: int, total: int) -> float:
    """Return 1 at every step, which leaves the learning rate as it is.

    Parameters
    ----------
    step : int
        Updates already done. It has no effect.
    total : int
        Updates in all. It has no effect.

    Returns
    -------
    float
        Factor of the learning rate.
    """
    return 1.0


def warmup_linear(warmup: float = 0.1) -> Schedule:
    """Make a schedule that rises from 0 to 1, then falls to 0, both in a straight line.

    Parameters
    ----------
    warmup : float, default 0.1
        Share of the steps on which the factor rises.

    Returns
    -------
    Schedule
        A function ``(step, total)`` that returns the factor of the learning rate.
    """

    def schedule(step: int, total: int) -> float:
        rising = int(warmup * total)
        if step < rising:
            return step / rising
        return (total - step) / max(1, total - rising)

    return schedule


# --- the loop -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """Describe an update of the optimizer that was just done.

    Attributes
    ----------
    index : int
        Number of the update, counted from 0.
    loss : float
        Mean loss over the examples of the step.
    logs : dict of str to float
        Numbers that the loss reports, each a mean over the examples of the step.
    gradient_norm : float
        Norm of the gradient before clipping.
    examples : int
        How many examples the step used.
    """

    index: int
    loss: float
    logs: dict[str, float]
    gradient_norm: float
    examples: int


def steps(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    optimizer: Optimizer,
    *,
    schedule: Schedule = constant,
    clip: float | None = 1.0,
    accumulate: int = 1,
    start: int = 0,
    accelerator: Accelerator | None = None,
) -> Iterator[Step]:
    """Train a model, and yield after every update.

    The update is that of formula F3, with the optimizer's own step. Frozen parts of the model stay
    in eval mode (:mod:`tlbook.learning.freezing`).

    Parameters
    ----------
    model : torch.nn.Module
        The model to train.
    loss_fn : Loss
        A function ``loss_fn(model, batch)`` that returns the mean loss and logs; see
        :mod:`tlbook.learning.losses`.
    batches : Batches
        The batches of all epochs. Meta-learning gives :class:`tlbook.methods.meta.Episodes`, where
        a task is an example.
    optimizer : torch.optim.Optimizer
        An optimizer of the model's parameters.
    schedule : Schedule, default :func:`constant`
        Factor of each group's learning rate at each step, such as :func:`warmup_linear` makes.
    clip : float or None, default 1.0
        Largest norm of the gradient; None sets no limit. A loss that has its own ``clip`` overrides
        this value.
    accumulate : int, default 1
        Batches per update. Their gradients are weighted by their sizes, so the update is that of
        one large batch, also where the last window is not full. On a CPU the loop also cuts batches
        of long texts in this way by itself, which saves time and memory.
    start : int, default 0
        Updates already done, for resuming.
    accelerator : accelerate.Accelerator, optional
        Accelerate's object for mixed precision or several processes. By default a new one is made.

    Yields
    ------
    Step
        The update that was just done.

    Raises
    ------
    ValueError
        If an argument is out of range, the optimizer holds parameters of another model or none that
        is trained, or the loss needs whole batches (``loss_fn.whole``) but ``accumulate`` or
        several processes would divide them.
    TrainingError
        If the loss is not finite. The model is not updated by such a loss.
    """
    accelerator = accelerator or Accelerator()
    checks.integer("accumulate", accumulate, least=1)
    if clip is not None:
        checks.number("clip", clip, above=0)
    check_optimizer(model, optimizer)
    whole, clip = needs_whole(loss_fn), getattr(loss_fn, "clip", clip)
    if whole and (accumulate > 1 or accelerator.num_processes > 1):
        raise ValueError(
            f"this loss needs whole batches, but accumulate={accumulate} and there are "
            f"{accelerator.num_processes} processes"
        )
    model, optimizer = accelerator.prepare(model, optimizer)
    total = math.ceil(len(batches) / accumulate)
    stream = batches.rows(start * accumulate)
    cut = accelerator.device.type == "cpu" and not whole
    tokens = TOKENS * accelerator.num_processes if cut else math.inf
    for index in range(start, total):
        train_mode(model)  # whoever looked at the last step may have evaluated
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * schedule(index, total)
        window = [p for rows in islice(stream, accumulate) for p in batches.parts(rows, tokens)]
        examples = sum(map(len, window))
        mean_loss, logs = 0.0, {}
        for batch in map(batches.batch, window):
            share = len(batch.rows) / examples
            loss, weight, found = _loss(model, loss_fn, batch, accelerator)
            if not math.isfinite(loss.item()):
                optimizer.zero_grad()
                raise TrainingError(
                    f"the loss is {loss.item()} at step {index}, on rows {batch.rows.tolist()}: "
                    "look at these examples, or lower the learning rate"
                )
            accelerator.backward(loss * (weight * share))
            mean_loss += _mean(loss.detach() * weight, accelerator) * share
            for name, value in found.items():
                logs[name] = logs.get(name, 0.0) + share * value
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        norm = accelerator.clip_grad_norm_(parameters, clip or math.inf)
        optimizer.step()
        optimizer.zero_grad()
        yield Step(index, mean_loss, logs, float(norm), examples)


def train_model(
    model: nn.Module, loss_fn: Loss, batches: Batches, optimizer: Optimizer, **options
) -> list[Step]:
    """Train to the end of the batches.

    This runs :func:`steps` where nothing is to be done in between.

    Parameters
    ----------
    model : torch.nn.Module
        The model to train.
    loss_fn : Loss
        A function ``loss_fn(model, batch)`` that returns the mean loss and logs.
    batches : Batches
        The batches of all epochs.
    optimizer : torch.optim.Optimizer
        An optimizer of the model's parameters.
    **options
        Further arguments of :func:`steps`.

    Returns
    -------
    list of Step
        All updates, with their losses and logs.

    Raises
    ------
    ValueError
        If :func:`steps` refuses an argument.
    TrainingError
        If the loss is not finite.
    """
    return list(steps(model, loss_fn, batches, optimizer, **options))


def check_optimizer(model: nn.Module, optimizer: Optimizer) -> None:
    """Check that an optimizer trains this model, and no other.

    Parameters
    ----------
    model : torch.nn.Module
        The model that is to be trained.
    optimizer : torch.optim.Optimizer
        The optimizer to check.

    Raises
    ------
    ValueError
        If the optimizer holds parameters that are not the model's (as after the model was loaded or
        built anew), it holds none that is trained, or its learning rate is negative or not finite.
    """
    held = [p for group in optimizer.param_groups for p in group["params"]]
    own = {id(parameter) for parameter in model.parameters()}
    # those that are frozen may be gone: frozen_prefix cuts their layers off
    if foreign := sum(p.requires_grad and id(p) not in own for p in held):
        raise ValueError(
            f"{foreign} of the optimizer's {len(held)} parameters are not the model's: make the "
            "optimizer after the model, from its own parameters"
        )
    if not any(parameter.requires_grad for parameter in held):
        raise ValueError("the optimizer holds no parameter that is trained: all are frozen")
    for group in optimizer.param_groups:
        checks.number("lr", float(group["lr"]), least=0)


def _loss(model, loss_fn, batch, accelerator) -> tuple[torch.Tensor, float, dict]:
    """This process's loss, its weight in the mean over processes, and logs.

    Process r of W takes rows r, r + W, ... Gradients are averaged over processes, so a process
    with n of the N rows weighs n * W / N; one without a row computes on the first and weighs 0.
    """
    rank, world, rows = accelerator.process_index, accelerator.num_processes, len(batch.rows)
    mine = range(rank, rows, world) or range(1)
    device = accelerator.device
    share = {
        name: (column[list(mine)] if world > 1 else column).to(device)
        for name, column in batch.items()
    }
    weight = len(range(rank, rows, world)) * world / rows
    with accelerator.autocast():
        loss, logs = loss_fn(model, share)
    return loss, weight, logs


def _mean(value: torch.Tensor, accelerator: Accelerator) -> float:
    if accelerator.num_processes > 1:
        value = accelerator.reduce(value, reduction="mean")
    return value.item()


@torch.inference_mode()
def predict(
    model: nn.Module, batches: Iterable[Batch], accelerator: Accelerator | None = None
) -> np.ndarray:
    """Compute the logits of examples, with the model in eval mode.

    With several processes, each computes its share and all get the whole.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    batches : iterable of Batch
        Batches that hold each example once.
    accelerator : accelerate.Accelerator, optional
        Accelerate's object for several processes. By default a new one is made.

    Returns
    -------
    (n, classes) numpy.ndarray of float32
        The logits, one row per example, in the order of the data.
    """
    accelerator = accelerator or Accelerator()
    model = accelerator.unwrap_model(model)
    rows, logits = [], []
    device = next(model.parameters()).device
    with eval_mode(model):
        for index, batch in enumerate(batches):
            if index % accelerator.num_processes == accelerator.process_index:
                columns = {name: column.to(device) for name, column in batch.items()}
                logits.append(logits_of(model, columns).float().cpu())
                rows.append(torch.from_numpy(batch.rows))
    rows, logits = torch.cat(rows or [torch.empty(0)]), torch.cat(logits or [torch.empty(0)])
    if accelerator.num_processes > 1:
        from accelerate.utils import gather_object

        parts = gather_object([(rows, logits)])
        rows = torch.cat([part for part, _ in parts if len(part)])
        logits = torch.cat([part for _, part in parts if len(part)])
    return logits.numpy()[rows.argsort().numpy()]


def evaluate(
    model: nn.Module,
    batches: Batches,
    metric: Callable[[np.ndarray, np.ndarray], float] = balanced_accuracy_score,
    accelerator: Accelerator | None = None,
) -> float:
    """Score the classes that a model predicts.

    Parameters
    ----------
    model : torch.nn.Module
        The model.
    batches : Batches
        Batches that hold each example once, with a column ``labels``.
    metric : callable, default balanced accuracy
        A metric of scikit-learn, called as ``metric(true, predicted)``.
    accelerator : accelerate.Accelerator, optional
        Accelerate's object for several processes. By default a new one is made.

    Returns
    -------
    float
        The score.
    """
    predicted = predict(model, batches, accelerator).argmax(-1)
    return float(metric(np.asarray(batches.columns["labels"]), predicted))


# --- fit ----------------------------------------------------------------------------------------


def fit(
    model: nn.Module,
    loss_fn: Loss,
    batches: Batches,
    optimizer: Optimizer,
    *,
    validation: Batches | None = None,
    metric: Callable[[np.ndarray, np.ndarray], float] = balanced_accuracy_score,
    every: int | None = None,
    patience: int | None = None,
    checkpoint: Path | str | None = None,
    identity: str = "",
    accelerator: Accelerator | None = None,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Train to the end, or until validation stops improving.

    The weights that scored best on the validation data are restored at the end. Without validation
    the last weights stay.

    Parameters
    ----------
    model : torch.nn.Module
        The model to train.
    loss_fn : Loss
        A function ``loss_fn(model, batch)`` that returns the mean loss and logs.
    batches : Batches
        The training batches of all epochs.
    optimizer : torch.optim.Optimizer
        An optimizer of the model's parameters.
    validation : Batches, optional
        Batches of the examples to select on.
    metric : callable, default balanced accuracy
        A metric of scikit-learn, called as ``metric(true, predicted)``. A larger score is better.
    every : int, optional
        Steps between validations. By default there is one per epoch.
    patience : int, optional
        Training stops after this many validations without a better score (early stopping, 早停). By
        default it goes to the end.
    checkpoint : Path or str, optional
        A file that is written after each validation, whole or not at all. If it exists, training
        goes on from it and gives bit for bit what it would have given without the interruption.
        (With several processes this holds except for dropout, whose random numbers each process
        draws for itself.) The file holds what training changes, not what is frozen.
    identity : str, default ""
        Whatever else the run depends on, such as a digest of its texts. A checkpoint with another
        identity is refused. Labels, batches and learning rates are compared anyway.
    accelerator : accelerate.Accelerator, optional
        Accelerate's object for mixed precision or several processes. By default a new one is made.
    progress : bool, default True
        Whether to show a progress bar when training takes longer than five seconds.
    **options
        ``schedule``, ``clip`` and ``accumulate`` of :func:`steps`.

    Returns
    -------
    pandas.DataFrame
        One row per validation: step, epoch, training loss since the last validation, score (with
        validation), and CPU seconds.

    Raises
    ------
    ValueError
        If an argument is out of range, ``patience`` is given without ``validation``, or the
        checkpoint belongs to a run with other batches, learning rates or layers.
    TrainingError
        If the loss is not finite. The checkpoint keeps the last good state.
    """
    accelerator = accelerator or Accelerator()
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data: early stopping selects on it")
    for name, value in (("patience", patience), ("every", every)):
        if value is not None:
            checks.integer(name, value, least=1)
    accumulate = checks.integer("accumulate", options.get("accumulate", 1), least=1)
    every = every or math.ceil(batches.per_epoch / accumulate)
    total = math.ceil(len(batches) / accumulate)
    run = {
        "batches": len(batches),
        "size": batches.batch_size,
        "seed": batches.seed,
        "every": every,
    }
    run["rates"] = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    known = [
        found.columns["labels"]
        for found in (batches, validation)
        if "labels" in getattr(found, "columns", ())
    ]
    run["content"] = digest(identity, *map(np.asarray, known))
    state = State(run)
    if checkpoint is not None:
        checkpoint = Path(checkpoint)
        if checkpoint.exists():
            state.load(checkpoint, model, optimizer)
    began, losses = time.process_time(), []
    hidden = {} if progress and accelerator.is_main_process else {"disable": True}
    training = steps(
        model, loss_fn, batches, optimizer, start=state.done, accelerator=accelerator, **options
    )
    with tqdm(total=total, initial=state.done, unit="step", leave=False, delay=5, **hidden) as bar:
        for step in training if not state.stopped else ():
            losses.append((step.loss, step.examples))
            bar.update()
            bar.set_postfix(loss=f"{step.loss:.3f}", refresh=False)
            state.done = step.index + 1
            if state.done % every and state.done != total:
                continue
            row = {"step": state.done, "epoch": state.done * accumulate / batches.per_epoch}
            means, sizes = zip(*losses, strict=True)
            row["loss"] = float(np.average(means, weights=sizes))
            if validation is not None:
                row["score"] = evaluate(model, validation, metric, accelerator)
                state.consider(row["score"], model, patience)
            seconds = time.process_time() - began
            began, losses = time.process_time(), []
            state.history.append(row | {"CPU seconds": seconds})
            if checkpoint is not None and accelerator.is_main_process:
                state.save(checkpoint, model, optimizer)
            if state.stopped:
                break
    if state.best:
        model.load_state_dict(state.best, strict=False)
    return pd.DataFrame(state.history)
