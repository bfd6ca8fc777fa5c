"""Batches of examples: in a seeded order, padded, resumable at any step."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn


class Batch(dict):
    """Hold the tensors of a batch by name, and the ``rows`` of the data they come from.

    Parameters
    ----------
    rows : (n,) int array
        Positions of the examples in the data.
    columns : mapping of str to torch.Tensor
        Tensors of n examples each.
    """

    def __init__(self, rows: np.ndarray, columns: Mapping[str, torch.Tensor]):
        super().__init__(columns)
        self.rows = rows


@dataclass(frozen=True)
class Batches:
    """Iterate over batches of examples for some epochs, in an order that only the seed decides.

    Sequences are batched with others of about their length, so that there is less padding and less
    work. Lengths are jittered by a tenth in each epoch, so that the batches differ, and batches are
    shuffled.

    Attributes
    ----------
    columns : mapping of str to array, torch.Tensor or sequence
        Columns of n examples each: an array or tensor, or a list of sequences of different lengths
        (token ids, or hidden states of shape (length, d)). Sequences are padded in each batch and
        come with an ``attention_mask``.
    batch_size : int
        Examples per batch; the last batch of an epoch may be smaller.
    epochs : int
        Passes over the data.
    seed : int or None
        Seed of the order; None keeps the order of the data (for evaluation).
    padding : int
        Value that sequences are padded with.
    lengths : (n,) int array or None
        Lengths of the sequences; None where no column holds sequences.

    Raises
    ------
    ValueError
        The columns are empty or differ in their number of examples, or ``batch_size`` or ``epochs``
        is below 1.
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
        """Return the number of examples."""
        return len(next(iter(self.columns.values())))

    @property
    def per_epoch(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(self.examples / self.batch_size)

    def __len__(self) -> int:
        return self.epochs * self.per_epoch

    def __iter__(self) -> Iterator[Batch]:
        return self.starting_at(0)

    def starting_at(self, index: int) -> Iterator[Batch]:
        """Return the batches from the given one on, the same as in a whole pass.

        Parameters
        ----------
        index : int
            Number of batches to skip, over all epochs.

        Returns
        -------
        iterator of Batch
            The remaining batches.
        """
        return map(self.batch, self.rows(index))

    def rows(self, start: int = 0) -> Iterator[np.ndarray]:
        """Return the rows of each batch, from the given batch on.

        Parameters
        ----------
        start : int, optional
            Number of batches to skip, over all epochs.

        Yields
        ------
        (n,) int array
            What :meth:`batch` takes: the positions of the examples of a batch.
        """
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
        """Divide the rows of a batch of long sequences into parts of similar lengths.

        There are so many parts that none has many more than ``tokens`` tokens once padded. Rows
        stay in one part if they have fewer, or are not sequences.

        Parameters
        ----------
        rows : (n,) int array
            Rows of a batch, as :meth:`rows` yields them.
        tokens : float
            Tokens of a part, with padding.

        Returns
        -------
        list of int array
            The rows of each part.
        """
        if self.lengths is None:
            return [rows]
        count = math.ceil(len(rows) * self.lengths[rows].max() / tokens)
        if count <= 1:
            return [rows]
        rows = rows[np.argsort(self.lengths[rows], kind="stable")]
        return np.array_split(rows, min(count, len(rows)))

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch of these rows, with its sequences padded.

        Parameters
        ----------
        rows : (n,) int array
            Rows of a batch, as :meth:`rows` yields them.

        Returns
        -------
        Batch
            A tensor of n examples for each column, and an ``attention_mask`` (n, length) for
            sequences.
        """
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
    """Iterate over batches of a target and a source domain side by side, as many examples of each.

    The target's columns keep their names, the source's come as ``source_…``. With them comes
    ``progress``, (n,): the share of the batches that is done, from 0 to just below 1, for losses
    whose weight changes over training. See :func:`tlbook.learning.losses.joint` and
    :mod:`tlbook.methods.alignment`.

    An epoch passes once over the larger domain; the other starts over, in a new order, as often as
    needed. Every batch is full: the last of an epoch is filled up in the same way, because a few
    examples are too few to compare domains. The orders of the two are independent, so rows are not
    matched, even where row i of the one belongs to row i of the other.

    Attributes
    ----------
    columns : mapping of str to array, torch.Tensor or sequence
        Columns of the target, as in :class:`Batches`.
    batch_size : int
        Examples of each domain per batch.
    epochs : int
        Passes over the larger domain.
    seed : int or None
        Seed of both orders; None keeps the order of the data.
    padding : int
        Value that sequences are padded with.
    source : mapping of str to array, torch.Tensor or sequence
        Columns of the source, as in :class:`Batches`.
    """

    source: Mapping[str, Sequence | np.ndarray | torch.Tensor] = field(kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        seed = self.seed
        if seed is not None:  # its own seed, or domains of equal size would come in the same order
            seed = int(np.random.default_rng((seed, 1, 1)).integers(2**32))
        target = Batches(self.columns, self.batch_size, seed=self.seed, padding=self.padding)
        source = Batches(self.source, self.batch_size, seed=seed, padding=self.padding)
        object.__setattr__(self, "_domains", (target, source))

    @property
    def per_epoch(self) -> int:
        """Return the number of batches in an epoch, which passes once over the larger domain."""
        return math.ceil(max(domain.examples for domain in self._domains) / self.batch_size)

    def _order(self, epoch: int) -> list[np.ndarray]:
        """For each batch, (batch_size, 3): target rows, source rows, index of the batch."""
        count = self.per_epoch * self.batch_size
        target, source = (_endless(domain, epoch, count) for domain in self._domains)
        index = epoch * self.per_epoch + np.arange(count) // self.batch_size
        return self._cut(np.stack([target, source, index], axis=1))

    def parts(self, rows: np.ndarray, tokens: float) -> list[np.ndarray]:
        """Divide the rows of a batch into parts, as :meth:`Batches.parts` does.

        Parameters
        ----------
        rows : (n, 3) int array
            Target row, source row and index of the batch for each pair.
        tokens : float
            Tokens of a part, of both domains together, with padding.

        Returns
        -------
        list of int array
            The rows of each part.
        """
        longest = sum(
            domain.lengths[own].max()
            for domain, own in zip(self._domains, rows.T[:2], strict=True)
            if domain.lengths is not None
        )
        count = math.ceil(len(rows) * longest / tokens)
        return np.array_split(rows, min(max(count, 1), len(rows)))

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch of these rows, with its sequences padded.

        Parameters
        ----------
        rows : (n, 3) int array
            Target row, source row and index of the batch for each pair.

        Returns
        -------
        Batch
            Tensors of n examples each: the target's columns, the source's as ``source_…``, and
            ``progress``. Its ``rows`` (n, 2) are those of the target and of the source.
        """
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
    """Return columns for :class:`Batches` from texts.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The tokenizer of the model to train.
    texts : sequence of str
        n texts.
    labels : (n,) sequence, optional
        Labels of the texts, as integers.
    max_length : int, optional
        Largest number of tokens of a text, special ones included; longer texts are cut.

    Returns
    -------
    dict
        ``input_ids``, n lists of different lengths, and ``labels``, an (n,) array, if they are
        given.
    """
    beginnings = [_beginning(tokenizer, text, max_length) for text in texts]
    ids = tokenizer(beginnings, truncation=True, max_length=max_length)["input_ids"]
    return {"input_ids": ids} | ({} if labels is None else {"labels": np.asarray(labels)})


def pixels(images: np.ndarray) -> torch.Tensor:
    """Convert images to the floats that image networks take.

    Parameters
    ----------
    images : (n, height, width, 3) uint8 array
        Images with values from 0 to 255.

    Returns
    -------
    (n, 3, height, width) torch.Tensor
        The images as floats in 0..1.

    Raises
    ------
    ValueError
        The images have another type or shape.
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
    if getattr(tokenizer, "truncation_side", "right") == "left":
        return text  # its end is what is read
    length = 100 * max_length
    while length < len(text):
        cut = next((i for i in range(length, len(text)) if text[i].isspace()), len(text))
        ids = tokenizer(text[:cut], truncation=True, max_length=max_length)["input_ids"]
        if len(ids) == max_length:
            return text[:cut]
        length = 4 * cut
    return text
