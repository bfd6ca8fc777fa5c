"""Tune a text encoder on pairs of labeled texts, then classify its vectors (SetFit).

A few labels make many pairs: 16 texts have 120. Texts of one class are pulled together and texts of
different classes pushed apart; then a linear model is fitted on the vectors of the tuned encoder
(Tunstall et al., 2022, arXiv 2209.11055). The book explains it in *Few shots, and learning to
learn*.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from torch.optim import AdamW

from tlbook import checks
from tlbook.evidence.comparison import Arm
from tlbook.learning.batches import Batch, Batches, tokenized
from tlbook.learning.features import features, mean_pool
from tlbook.learning.freezing import ALL, freeze
from tlbook.learning.loop import train_model, warmup_linear
from tlbook.learning.protocol import Loss
from tlbook.learning.table import Table
from tlbook.sources.encoders import TextEncoder

#: The learning rate that validation chose in *Few shots*, which checks it.
RATE = 2e-4


def draw_pairs(
    labels: np.ndarray, number: int, seed: int | tuple[int, ...] | np.random.Generator
) -> np.ndarray:
    """Draw pairs of rows, half of them of one class and half of two classes.

    First rows take turns, so that each comes about as often; second rows are random. No row is
    paired with itself.

    Parameters
    ----------
    labels : (n,) numpy.ndarray
        Labels of the rows.
    number : int
        Number of pairs. If it is odd, one more is of two classes.
    seed : int, tuple of int or numpy.random.Generator
        Seed of the pairs and of their order.

    Returns
    -------
    (number, 2) numpy.ndarray of int
        Positions of the two rows of each pair.

    Raises
    ------
    ValueError
        ``number`` is below 2, there is only one class, or no class has two rows.
    """
    checks.integer("number", number, least=2)
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    classes, counts = np.unique(labels, return_counts=True)
    if len(classes) < 2 or counts.max() < 2:
        raise ValueError(
            f"{len(labels)} rows of {len(classes)} classes: pairs need two classes at least, and a "
            "class with two rows"
        )
    paired = np.flatnonzero(np.isin(labels, classes[counts > 1]))  # rows with one of their class

    def partner(row: int, alike: bool) -> int:
        others = np.flatnonzero((labels == labels[row]) == alike)
        return rng.choice(others[others != row])

    pairs = [
        (row, partner(row, alike))
        for alike, rows, count in (
            (True, paired, number // 2),
            (False, np.arange(len(labels)), number - number // 2),
        )
        for row in np.resize(rng.permutation(rows), count)
    ]
    return rng.permutation(np.array(pairs))


@dataclass(frozen=True)
class LabeledPairs(Batches):
    """Iterate over batches of pairs that :func:`draw_pairs` draws anew in each epoch.

    A pair is one example of a batch. Its column ``same`` (n,) is 1 where both are of one class and
    else 0; other columns are those of :class:`tlbook.learning.batches.Batches` with an axis of
    length two after the first, such as ``input_ids`` (n, 2, tokens).

    Attributes
    ----------
    columns : mapping of str to array, torch.Tensor or sequence
        Columns of labeled examples, with ``labels``.
    batch_size : int
        Pairs per batch; the last batch of an epoch may be smaller.
    epochs : int
        How often new pairs are drawn.
    seed : int
        Seed of the pairs.
    padding : int
        Value that sequences are padded with.
    number : int
        Pairs in an epoch.

    Raises
    ------
    ValueError
        As for ``Batches``, or ``seed`` is None. :func:`draw_pairs` may refuse the labels.
    """

    number: int = field(kw_only=True)

    def __post_init__(self):
        super().__post_init__()
        if self.seed is None:
            raise ValueError("seed=None, but pairs are random: give a number")
        draw_pairs(self.columns["labels"], self.number, 0)  # an error now, not in training

    @property
    def per_epoch(self) -> int:
        """Return the number of batches in an epoch."""
        return math.ceil(self.number / self.batch_size)

    def _order(self, epoch: int) -> list[np.ndarray]:
        return self._cut(draw_pairs(self.columns["labels"], self.number, (self.seed, epoch)))

    def _cut(self, rows: np.ndarray) -> list[np.ndarray]:
        return [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]

    def parts(self, rows: np.ndarray, tokens: float) -> list[np.ndarray]:
        """Divide the pairs of a batch into parts of a limited size, as ``Batches.parts`` does.

        Parameters
        ----------
        rows : (n, 2) numpy.ndarray of int
            Pairs of a batch, as :meth:`rows` yields them.
        tokens : float
            Tokens of a part, with padding.

        Returns
        -------
        list of numpy.ndarray
            The pairs of each part.
        """
        if self.lengths is None:
            return [rows]
        longest = self.lengths[rows].max(1)
        count = math.ceil(2 * len(rows) * longest.max() / tokens)
        rows = rows[np.argsort(longest, kind="stable")]
        return np.array_split(rows, min(max(count, 1), len(rows)))

    def batch(self, rows: np.ndarray) -> Batch:
        """Return the batch of these pairs, both texts of a pair padded to one length.

        Parameters
        ----------
        rows : (n, 2) numpy.ndarray of int
            Pairs of a batch, as :meth:`rows` yields them.

        Returns
        -------
        Batch
            Tensors of n pairs each.
        """
        columns = {name: c.unflatten(0, (-1, 2)) for name, c in super().batch(rows.ravel()).items()}
        labels = columns.pop("labels")
        return Batch(rows, columns | {"same": (labels[:, 0] == labels[:, 1]).float()})


def cosine_similarity(pool: str = "mean") -> Loss:
    """Return the squared error of the cosine of two texts' vectors: 1 if of one class, else 0.

    It is SetFit's loss, ``CosineSimilarityLoss`` of sentence-transformers. A batch is one of
    :class:`LabeledPairs`; the model is the body of a transformer, without a head.

    Parameters
    ----------
    pool : {"mean", "cls"}, default "mean"
        A text's vector: the mean over its tokens, or the first token's.

    Returns
    -------
    Loss
        The loss. Its log ``accuracy`` is the share of pairs whose cosine lies on the right side of
        one half.
    """

    def loss_fn(model, batch):
        ids, mask = batch["input_ids"].flatten(0, 1), batch["attention_mask"].flatten(0, 1)
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        vectors = mean_pool(hidden, mask) if pool == "mean" else hidden[:, 0]
        first, second = F.normalize(vectors.float()).unflatten(0, (-1, 2)).unbind(1)
        cosine, same = (first * second).sum(-1), batch["same"]
        right = (cosine > 0.5) == (same == 1)
        return F.mse_loss(cosine, same), {"accuracy": right.float().mean().item()}

    return loss_fn


def tune_on_pairs(
    encoder: TextEncoder,
    texts: Sequence[str],
    labels: np.ndarray,
    rate: float,
    *,
    table: Table = ALL,
    number: int = 128,
    batch_size: int = 8,
    epochs: int = 1,
    seed: int = 0,
) -> TextEncoder:
    """Tune a copy of an encoder on pairs of labeled texts.

    Parameters
    ----------
    encoder : TextEncoder
        The encoder to start from, which stays as it is.
    texts : sequence of str
        n labeled texts.
    labels : (n,) numpy.ndarray of int
        Their labels.
    rate : float
        Largest learning rate.
    table : Table, default ALL
        What may move, as for :func:`tlbook.learning.freezing.freeze`.
    number : int, default 128
        Pairs in an epoch. SetFit's library goes on until every pair has come.
    batch_size : int, default 8
        Pairs in a batch.
    epochs : int, default 1
        How often new pairs are drawn.
    seed : int, default 0
        Seed of the pairs and of dropout.

    Returns
    -------
    TextEncoder
        The tuned encoder, in eval mode, for :func:`tlbook.learning.features.features`.

    Raises
    ------
    ValueError
        If :func:`draw_pairs` refuses the labels, or ``freeze`` the table.
    """
    columns = tokenized(encoder.tokenizer, texts, labels, encoder.max_length)
    pairs = LabeledPairs(columns, batch_size, epochs, seed, number=number)
    model = copy.deepcopy(encoder.model)
    torch.manual_seed(seed)
    optimizer = AdamW(freeze(model, table, rate), fused=True)
    train_model(model, cosine_similarity(encoder.pool), pairs, optimizer, schedule=warmup_linear())
    return replace(encoder, model=model.eval())


def contrastive_arm(
    encoder: TextEncoder, texts: Sequence[str], labels: np.ndarray, **options
) -> Arm:
    """Make an arm that tunes an encoder on pairs and fits logistic regression on its vectors.

    Parameters
    ----------
    encoder : TextEncoder
        The encoder to start from.
    texts : sequence of str
        All texts.
    labels : (n,) numpy.ndarray of int
        Labels of all texts.
    **options
        Passed on to :func:`tune_on_pairs`, such as ``rate``.

    Returns
    -------
    Arm
        Function of labeled rows, test rows and seed that returns predicted labels and the CPU
        seconds of tuning and fitting.
    """
    texts, labels = np.asarray(texts, object), np.asarray(labels)

    def vectors(tuned: TextEncoder, rows: np.ndarray) -> np.ndarray:
        return features(tuned, texts[rows], cache=False, progress=False)

    def arm(train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        began = time.process_time()
        tuned = tune_on_pairs(encoder, texts[train], labels[train], seed=seed, **options)
        model = LogisticRegression().fit(vectors(tuned, train), labels[train])
        seconds = time.process_time() - began
        return model.predict(vectors(tuned, test)), seconds

    return arm
