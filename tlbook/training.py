"""The training loop, in sight.

:func:`steps` is the loop itself: it yields after every update of the optimizer, so evaluating,
unfreezing and plotting are ordinary Python in the body of a ``for``. :func:`fit` is the loop for
when the loop is not the subject: validation, early stopping, checkpoints, exact resume, a bar.

Devices, mixed precision and several processes are Accelerate's. Every process builds the same
batches and trains on its share of each, so two processes compute what one would.
"""

import json
import math
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn.metrics import accuracy_score
from torch import nn
from torch.optim import Optimizer
from tqdm.auto import tqdm

from tlbook.freezing import eval_mode, train_mode
from tlbook.objectives import Loss, logits_of


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


# --- batches ------------------------------------------------------------------------------------

TOKENS = 2048  # in one pass of a CPU: what it computes between the layers still fits its cache


class Batch(dict):
    """Tensors by name, and the ``rows`` of the data they come from."""

    def __init__(self, rows: np.ndarray, columns: Mapping[str, torch.Tensor]):
        super().__init__(columns)
        self.rows = rows


@dataclass(frozen=True)
class Batches:
    """Batches of examples over epochs, in an order that only the seed decides.

    Attributes
    ----------
    columns : name -> n examples each: an array or tensor, or a list of sequences of different
        lengths (token ids, or hidden states of shape (length, d)), which are padded in each batch
        and come with an ``attention_mask``
    size : examples per batch; the last of an epoch may be smaller
    epochs : passes over the data
    seed : of the order; None keeps the order of the data (for evaluation)
    padding : what token ids are padded with

    Sequences are batched with others of about their length: less padding, less work. Lengths are
    jittered by a tenth in each epoch, so that the batches differ, and batches are shuffled.
    """

    columns: Mapping[str, Sequence | np.ndarray | torch.Tensor]
    size: int
    epochs: int = 1
    seed: int | None = 0
    padding: int = 0
    lengths: np.ndarray | None = field(init=False)

    def __post_init__(self):
        counts = {name: len(column) for name, column in self.columns.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"columns must have the same number of examples, not {counts}")
        if self.size < 1 or self.epochs < 1:
            raise ValueError(f"size={self.size} and epochs={self.epochs} must be at least 1")
        ragged = [column for column in self.columns.values() if _is_ragged(column)]
        lengths = np.array([len(example) for example in ragged[0]]) if ragged else None
        object.__setattr__(self, "lengths", lengths)

    @property
    def examples(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.examples / self.size)

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.starting_at(0)

    def starting_at(self, index: int) -> Iterator[Batch]:
        """The batches from the given one on: the same as if those before had been drawn."""
        return map(self.batch, self.rows(index))

    def rows(self, start: int = 0) -> Iterator[np.ndarray]:
        """The rows of each batch, from the given batch on."""
        for epoch in range(start // self.per_epoch, self.epochs):
            order = self._order(epoch)
            yield from order[max(0, start - epoch * self.per_epoch) :]

    def _order(self, epoch: int) -> list[np.ndarray]:
        """The rows of each batch of an epoch."""
        rows = np.arange(self.examples)
        if self.seed is None:
            return self._cut(rows)
        rng = np.random.default_rng((self.seed, epoch))
        rows = rng.permutation(rows)
        if self.lengths is not None:
            jittered = self.lengths[rows] * rng.uniform(0.9, 1.1, len(rows))
            rows = rows[np.argsort(jittered, kind="stable")]
        batches = self._cut(rows)
        return [batches[position] for position in rng.permutation(len(batches))]

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[start : start + self.size] for start in range(0, len(rows), self.size)]

    def parts(self, rows: np.ndarray, tokens: float) -> list[np.ndarray]:
        """These rows in parts of about equal lengths, so many that none has many more than
        ``tokens`` tokens once padded; as they are if they have fewer or are no sequences."""
        if self.lengths is None:
            return [rows]
        count = math.ceil(len(rows) * self.lengths[rows].max() / tokens)
        if count <= 1:
            return [rows]
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        return np.array_split(rows, min(count, len(rows)))

    def batch(self, rows: np.ndarray) -> Batch:
        columns = {}
        for name, column in self.columns.items():
            if _is_ragged(column):
                examples = [torch.as_tensor(column[row]) for row in rows]
                columns[name] = nn.utils.rnn.pad_sequence(
                    examples, batch_first=True, padding_value=self.padding
                )
                lengths = torch.tensor([len(example) for example in examples])
                positions = torch.arange(columns[name].shape[1])
                columns["attention_mask"] = (positions < lengths[:, None]).long()
            else:
                columns[name] = torch.as_tensor(column[rows])
        return Batch(rows, columns)


@dataclass(frozen=True)
class Pairs(Batches):
    """Batches of a target and a source domain side by side, as many examples of each.

    The target's columns keep their names, the source's come as ``source_…``. With them comes
    ``progress``, (n,): the share of the batches that is done, from 0 to just below 1, for losses
    whose weight changes over training. See :func:`tlbook.objectives.joint` and
    :mod:`tlbook.alignment`.

    ``columns`` are the target's, ``source`` the source's. An epoch passes once over the larger
    domain; the other starts over, in a new order, as often as it takes. Every batch is full: the
    last of an epoch is filled up in the same way, since domains are not compared by three
    examples. The orders of the two are independent, so rows are not matched, even where row i of
    the one belongs to row i of the other.
    """

    source: Mapping[str, Sequence | np.ndarray | torch.Tensor] = field(kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        seed = self.seed
        if seed is not None:  # one of its own, or equally many examples would come in one order
            seed = int(np.random.default_rng((seed, 1, 1)).integers(2**32))
        target = Batches(self.columns, self.size, seed=self.seed, padding=self.padding)
        source = Batches(self.source, self.size, seed=seed, padding=self.padding)
        object.__setattr__(self, "_domains", (target, source))

    @property
    def per_epoch(self) -> int:
        return math.ceil(max(domain.examples for domain in self._domains) / self.size)

    def _order(self, epoch: int) -> list[np.ndarray]:
        """Of each batch of an epoch, (size, 3): target rows, source rows, the batch's index."""
        count = self.per_epoch * self.size
        target, source = (_endless(domain, epoch, count) for domain in self._domains)
        index = epoch * self.per_epoch + np.arange(count) // self.size
        return self._cut(np.stack([target, source, index], axis=1))

    def parts(self, rows: np.ndarray, tokens: float) -> list[np.ndarray]:
        longest = sum(
            domain.lengths[own].max()
            for domain, own in zip(self._domains, rows.T[:2], strict=True)
            if domain.lengths is not None
        )
        count = math.ceil(len(rows) * longest / tokens)
        return np.array_split(rows, min(max(count, 1), len(rows)))

    def batch(self, rows: np.ndarray) -> Batch:
        target, source = (d.batch(own) for d, own in zip(self._domains, rows.T[:2], strict=True))
        columns = dict(target) | {f"source_{name}": column for name, column in source.items()}
        columns["progress"] = torch.as_tensor(rows[:, 2] / len(self), dtype=torch.float)
        return Batch(rows[:, :2], columns)


def _endless(domain: Batches, epoch: int, count: int) -> np.ndarray:
    """``count`` rows for an epoch: all rows in the domain's order, then all in the next one."""
    rounds = math.ceil(count / domain.examples)
    orders = range(epoch * rounds, (epoch + 1) * rounds)
    return np.concatenate([rows for order in orders for rows in domain._order(order)])[:count]


def _is_ragged(column) -> bool:
    return not isinstance(column, np.ndarray | torch.Tensor)


def tokenized(tokenizer, texts: Sequence[str], labels=None, max_length: int = 256) -> dict:
    """Columns for :class:`Batches` from texts: ``input_ids`` of different lengths, ``labels``."""
    ids = tokenizer(list(texts), truncation=True, max_length=max_length)["input_ids"]
    return {"input_ids": ids} | ({} if labels is None else {"labels": np.asarray(labels)})


# --- schedules ----------------------------------------------------------------------------------

#: (step, number of steps) -> factor of the learning rate.
Schedule = Callable[[int, int], float]


def constant(step: int, total: int) -> float:
    return 1.0


def warmup_linear(warmup: float = 0.1) -> Schedule:
    """Up from zero over a share of the steps, then down to zero, both in a straight line."""

    def schedule(step: int, total: int) -> float:
        rising = int(warmup * total)
        if step < rising:
            return step / rising
        return (total - step) / max(1, total - rising)

    return schedule


# --- the loop -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """An update of the optimizer that was just done: the ``index``-th, counting from 0."""

    index: int
    loss: float  # mean over the examples of the step
    logs: dict[str, float]
    gradient_norm: float  # before clipping
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
    whole: bool = False,
    start: int = 0,
    accelerator: Accelerator | None = None,
) -> Iterator[Step]:
    """Train, and yield after every update (formula F3, with the optimizer's own step).

    Parameters
    ----------
    model, optimizer : frozen parts stay in eval mode (:mod:`tlbook.freezing`)
    batches : or the :class:`tlbook.meta.Episodes` of meta-learning, where a task is an example
    loss_fn : ``loss_fn(model, batch) -> (mean loss, logs)``, see :mod:`tlbook.objectives`
    schedule : factor of each group's learning rate, from :func:`constant` or
        :func:`warmup_linear`
    clip : largest norm of the gradient; None for no limit
    accumulate : batches per update; their gradients are weighted by their sizes, so the update is
        that of one large batch, also where the last window is not full. A CPU cuts batches of long
        texts in the same way, which saves time and memory
    whole : the loss compares the examples of a batch with each other (contrastive losses, those of
        :mod:`tlbook.alignment`), so it must see each batch in one piece: nothing is cut or shared
        out
    start : updates already done, for resuming
    accelerator : Accelerate's, for mixed precision or several processes

    Raises
    ------
    ValueError : ``whole`` batches with ``accumulate`` or several processes, which divide them
    TrainingError : the loss is not finite; nothing was updated by it
    """
    accelerator = accelerator or Accelerator()
    if whole and (accumulate > 1 or accelerator.num_processes > 1):
        raise ValueError(
            f"whole batches cannot be divided, but accumulate={accumulate} and there are "
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
    """Logits (n, classes) in the order of the data, each example once, the model in eval mode.

    With several processes, each computes its share and all get the whole.
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
    metric: Callable[[np.ndarray, np.ndarray], float] = accuracy_score,
    accelerator: Accelerator | None = None,
) -> float:
    """A scikit-learn metric, ``metric(true, predicted)``, of the classes the model predicts."""
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
    metric: Callable[[np.ndarray, np.ndarray], float] = accuracy_score,
    every: int | None = None,
    patience: int | None = None,
    checkpoint: Path | str | None = None,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    **options,
) -> pd.DataFrame:
    """Train to the end, or until validation stops improving; the best weights are restored.

    Parameters
    ----------
    validation, metric : what to select on; a larger metric is better. Without validation the last
        weights stay
    every : steps between validations; by default once an epoch
    patience : stop after so many validations without a better one (early stopping, 早停)
    checkpoint : a file, written after each validation, whole or not at all. If it is there,
        training goes on from it, and gives bit for bit what it would have given without the
        interruption (with several processes: but for dropout, which each draws for itself). It
        holds what training changes, not what is frozen
    options : ``schedule``, ``clip``, ``accumulate``, ``whole`` of :func:`steps`

    Returns
    -------
    One row per validation: step, epoch, training loss since the last, score, CPU seconds.

    Raises
    ------
    ValueError : the checkpoint belongs to another run: other batches, learning rates, or layers
    TrainingError : the loss is not finite; the checkpoint keeps the last good state
    """
    accelerator = accelerator or Accelerator()
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data: early stopping selects on it")
    accumulate = options.get("accumulate", 1)
    every = every or math.ceil(batches.per_epoch / accumulate)
    total = math.ceil(len(batches) / accumulate)
    run = {"batches": len(batches), "size": batches.size, "seed": batches.seed, "every": every}
    run["rates"] = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    state = _State(run)
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


class _State:
    """What a run needs to go on as if nothing had happened."""

    def __init__(self, run: dict):
        self.run = run
        self.done = 0
        self.history: list[dict] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_score = -math.inf
        self.waited = 0
        self.stopped = False

    def consider(self, score: float, model: nn.Module, patience: int | None) -> None:
        """Keep the weights if they are the best so far; stop if none were for too long."""
        if score > self.best_score:
            self.best_score, self.waited = score, 0
            self.best = _copy(_own(model))
        else:
            self.waited += 1
            self.stopped = patience is not None and self.waited >= patience

    def save(self, file: Path, model: nn.Module, optimizer: Optimizer) -> None:
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
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as part:
            whole = Path(part, "checkpoint")
            save_file(_copy(tensors), whole, metadata={"state": json.dumps(state)})
            whole.replace(file)

    def load(self, file: Path, model: nn.Module, optimizer: Optimizer) -> None:
        with safe_open(file, framework="pt") as content:
            state = json.loads(content.metadata()["state"])
            tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        if state["run"] != self.run:
            raise ValueError(
                f"{file} belongs to another run ({state['run']}, now {self.run}): "
                "remove it, or name another file"
            )
        weights = _part(tensors, "model:")
        if other := weights.keys() ^ _own(model).keys():
            raise ValueError(
                f"{file} belongs to another run (which trained other layers, such as "
                f"{min(other)}): remove it, or name another file"
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
        np.random.set_state(  # noqa: NPY002 - the legacy generator is part of the state to restore
            (legacy[0], np.array(legacy[1], dtype=np.uint32), *legacy[2:])
        )


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
