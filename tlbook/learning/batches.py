"""Batches of examples: in a seeded order, padded, resumable at any step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn


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
    batch_size : examples per batch; the last of an epoch may be smaller
    epochs : passes over the data
    seed : of the order; None keeps the order of the data (for evaluation)
    padding : what token ids are padded with

    Sequences are batched with others of about their length: less padding, less work. Lengths are
    jittered by a tenth in each epoch, so that the batches differ, and batches are shuffled.
    """

    columns: Mapping[str, Sequence | np.ndarray | torch.Tensor]
    batch_size: int
    epochs: int = 1
    seed: int | None = 0
    padding: int = 0
    lengths: np.ndarray | None = field(init=False)

    def __post_init__(self):
        counts = {name: len(column) for name, column in self.columns.items()}
        if len(set(counts.values())) != 1 or 0 in counts.values():
            raise ValueError(f"columns must have the same number of examples, not {counts}")
        if self.batch_size < 1 or self.epochs < 1:
            raise ValueError(
                f"batch_size={self.batch_size} and epochs={self.epochs} must be at least 1"
            )
        ragged = [column for column in self.columns.values() if _is_ragged(column)]
        lengths = np.array([len(example) for example in ragged[0]]) if ragged else None
        object.__setattr__(self, "lengths", lengths)

    @property
    def examples(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def per_epoch(self) -> int:
        return math.ceil(self.examples / self.batch_size)

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
        return [
            rows[start : start + self.batch_size] for start in range(0, len(rows), self.batch_size)
        ]

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
    whose weight changes over training. See :func:`tlbook.learning.losses.joint` and
    :mod:`tlbook.methods.alignment`.

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
        target = Batches(self.columns, self.batch_size, seed=self.seed, padding=self.padding)
        source = Batches(self.source, self.batch_size, seed=seed, padding=self.padding)
        object.__setattr__(self, "_domains", (target, source))

    @property
    def per_epoch(self) -> int:
        return math.ceil(max(domain.examples for domain in self._domains) / self.batch_size)

    def _order(self, epoch: int) -> list[np.ndarray]:
        """Of each batch of an epoch, (batch_size, 3): target rows, source rows, the batch's index."""
        count = self.per_epoch * self.batch_size
        target, source = (_endless(domain, epoch, count) for domain in self._domains)
        index = epoch * self.per_epoch + np.arange(count) // self.batch_size
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
    beginnings = [_beginning(tokenizer, text, max_length) for text in texts]
    ids = tokenizer(beginnings, truncation=True, max_length=max_length)["input_ids"]
    return {"input_ids": ids} | ({} if labels is None else {"labels": np.asarray(labels)})


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, height, width, 3) to floats (n, 3, height, width) in 0..1.

    Raises ValueError for another type or shape.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise ValueError(
            "images must be uint8 of shape (n, height, width, 3), not "
            f"{images.dtype} of {images.shape}"
        )
    # A copy, which may be written to: arrays shared among processes are read-only
    return torch.tensor(images).permute(0, 3, 1, 2).float().div(255).contiguous()


def _beginning(tokenizer, text: str, max_length: int) -> str:
    """As much of a long text as fills ``max_length`` tokens, so that a book in a cell costs little.

    It is cut at white space, where tokenizers cut as well, so the tokens are those of the whole.
    """
    length = 100 * max_length
    while length < len(text):
        cut = next((i for i in range(length, len(text)) if text[i].isspace()), len(text))
        ids = tokenizer(text[:cut], truncation=True, max_length=max_length)["input_ids"]
        if len(ids) == max_length:
            return text[:cut]
        length = 4 * cut
    return text
