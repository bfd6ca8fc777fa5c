"""What *Pretraining without labels* trains and draws: views of digits, words of film reviews."""

from collections.abc import Callable, Sequence
from types import SimpleNamespace

import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from torch.optim import AdamW

from tlbook.data import Dataset
from tlbook.evidence.comparison import Arm
from tlbook.learning.batches import Batches, pixels
from tlbook.learning.features import mean_pool
from tlbook.learning.heads import linear_head
from tlbook.learning.loop import predict, train_model, warmup_linear
from tlbook.learning.losses import classification
from tlbook.learning.networks import MLP, ConvEncoder, mini_bert
from tlbook.learning.protocol import Loss
from tlbook.learning.trained import train_once
from tlbook.methods import selfsupervised
from tlbook.methods.pretraining import representation
from tlbook.methods.selfsupervised import masked_lm

#: Ids of the special tokens of :func:`word_pieces`.
PADDING, UNKNOWN, MASK = range(3)


def kept(
    model: nn.Module, loss_fn: Loss, batches: Batches, rate: float, decay: float, *content
) -> tuple[np.ndarray, float]:
    """Train a network in place, or take what the same training gave before.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    loss_fn : Loss
        A function ``loss_fn(model, batch)`` that returns the mean loss and logs.
    batches : Batches
        The batches of all epochs.
    rate : float
        Largest learning rate.
    decay : float
        Weight decay.
    *content : str or array
        All that the result depends on beside the network.

    Returns
    -------
    losses : (steps,) numpy.ndarray
        Loss of each step.
    cpu_seconds : float
        What training took.
    """

    def run():
        optimizer = AdamW(model.parameters(), rate, weight_decay=decay)
        trained = train_model(model, loss_fn, batches, optimizer, schedule=warmup_linear())
        return np.array([step.loss for step in trained])

    return train_once(model, run, *content, code=[selfsupervised])


# --- views of small images ----------------------------------------------------------------------
def projected_encoder(seed: int) -> nn.Sequential:
    """Return an encoder of images of 16 x 16 pixels with its projection, with new weights.

    Parameters
    ----------
    seed : int
        Seed of the weights.

    Returns
    -------
    torch.nn.Sequential
        The encoder and its projection, (n, 3, 16, 16) to (n, 32).
    """
    torch.manual_seed(seed)
    return nn.Sequential(ConvEncoder(64, size=16, width=16), MLP([64, 64, 32]))


def contrasted(
    loss_of: Callable[[torch.Generator], Loss], images: np.ndarray, seed: int, *content: str
) -> nn.Sequential:
    """Train an encoder with its projection on images without labels, in twenty passes.

    Parameters
    ----------
    loss_of : callable
        Function of a random generator that returns the loss.
    images : (n, 16, 16, 3) numpy.ndarray of uint8
        The images.
    seed : int
        Seed of the weights, the order and the views.
    *content : str
        All that the loss depends on.

    Returns
    -------
    torch.nn.Sequential
        The network of :func:`projected_encoder`, trained, in eval mode.
    """
    model = projected_encoder(seed)
    batches = Batches({"x": pixels(images)}, 128, epochs=20, seed=seed)
    loss_fn = loss_of(torch.Generator().manual_seed(seed))
    kept(model, loss_fn, batches, 3e-3, 1e-4, f"chapter 12, {seed}, 20", *content, images)
    return model.eval()


def probe(trained: Callable[[int], nn.Sequential], data: Dataset, *, top: bool = False) -> Arm:
    """Make an arm that fits a linear head on what a trained network makes of images.

    Parameters
    ----------
    trained : callable
        Function of a seed that returns an encoder with its projection, in eval mode.
    data : tlbook.data.Dataset
        Labeled images.
    top : bool, default False
        Whether the head reads the projection; else it reads what the convolutions see.

    Returns
    -------
    Arm
        Function of labeled rows, test rows and seed that returns predicted labels.
    """

    def read(model, rows):
        if not top:
            return representation(model[0], data.x[rows])
        with torch.inference_mode():
            return model(pixels(data.x[rows])).numpy()

    def arm(rows, tests, seed):
        model = trained(seed)
        head = linear_head().fit(read(model, rows), data.y[rows])
        return head.predict(read(model, tests))

    return arm


# --- words --------------------------------------------------------------------------------------
def word_pieces(texts: Sequence[str], size: int = 2000) -> Tokenizer:
    """Learn a vocabulary of word pieces by byte pair encoding.

    Parameters
    ----------
    texts : sequence of str
        Texts to learn from.
    size : int, default 2000
        Number of pieces at most, with the special tokens for padding, unknown and hidden pieces.

    Returns
    -------
    tokenizers.Tokenizer
        It cuts lowercase texts into such pieces.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[MASK]"]
    options = {"vocab_size": size, "special_tokens": special, "show_progress": False}
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(**options))
    return tokenizer


def small_bert(vocabulary: int, seed: int) -> nn.Module:
    """Return a small BERT for texts of at most 64 tokens, with new weights.

    Parameters
    ----------
    vocabulary : int
        Number of different tokens.
    seed : int
        Seed of the weights.

    Returns
    -------
    torch.nn.Module
        The network of :func:`tlbook.learning.networks.mini_bert`.
    """
    torch.manual_seed(seed)
    return mini_bert(vocabulary, length=64)


def language_model(
    texts: Sequence[Sequence[int]], vocabulary: int, seed: int, epochs: int = 5
) -> tuple[nn.Module, np.ndarray, float]:
    """Train a small masked language model, or take what the same training gave before.

    Parameters
    ----------
    texts : sequence of sequence of int
        Tokens of each text.
    vocabulary : int
        Number of different tokens.
    seed : int
        Seed of the weights, the order and the hidden tokens.
    epochs : int, default 5
        Passes over the texts.

    Returns
    -------
    model : torch.nn.Module
        The model.
    losses : (steps,) numpy.ndarray
        Loss of each step.
    cpu_seconds : float
        What training took.
    """
    model = small_bert(vocabulary, seed)
    batches = Batches({"input_ids": texts}, 32, epochs, seed=seed)
    content = np.concatenate(texts), np.array([len(ids) for ids in texts])
    special = [PADDING, UNKNOWN, MASK]
    loss_fn = masked_lm(mask=MASK, special=special, vocabulary_size=vocabulary, seed=seed)
    settings = f"chapter 12, {seed}, {epochs}"
    return model, *kept(model, loss_fn, batches, 1e-3, 0.01, settings, *content)


def guesses(model: nn.Module, tokenizer: Tokenizer, text: str, n: int = 5) -> list[str]:
    """Return the likeliest word pieces for a gap.

    Parameters
    ----------
    model : torch.nn.Module
        A masked language model. It is put in eval mode.
    tokenizer : tokenizers.Tokenizer
        Its tokenizer.
    text : str
        A text with one gap, written ``___``.
    n : int, default 5
        Number of pieces.

    Returns
    -------
    list of str
        Pieces with their probabilities, the likeliest first.
    """
    before, after = (tokenizer.encode(part).ids for part in text.split("___"))
    ids = torch.tensor([[*before, MASK, *after]])
    with torch.inference_mode():
        logits = model.eval()(input_ids=ids).logits[0, len(before)]
    best = logits.softmax(-1).topk(n)
    found = zip(best.values, best.indices, strict=True)
    return [f"{tokenizer.id_to_token(i)} ({p:.0%})" for p, i in found]


class Classifier(nn.Module):
    """Put a linear head on the mean of a BERT's outputs.

    Parameters
    ----------
    model : torch.nn.Module
        A BERT for masked language modeling, whose body is taken.
    labels : int
        Number of different labels.
    """

    def __init__(self, model: nn.Module, labels: int):
        super().__init__()
        self.bert, self.head = model.bert, nn.Linear(model.config.hidden_size, labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> SimpleNamespace:
        """Compute logits.

        Parameters
        ----------
        input_ids : (n, length) torch.Tensor of int
            Tokens.
        attention_mask : (n, length) torch.Tensor
            0 for padding.

        Returns
        -------
        types.SimpleNamespace
            Its ``logits`` are (n, labels).
        """
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask)[0]
        return SimpleNamespace(logits=self.head(mean_pool(hidden, attention_mask)))


def fine_tuned(
    start: Callable[[int], nn.Module], tokens: Sequence[Sequence[int]], y: np.ndarray
) -> Arm:
    """Make an arm that fine-tunes a BERT with a new head for two labels.

    Parameters
    ----------
    start : callable
        Function of a seed that returns the BERT to start from.
    tokens : sequence of sequence of int
        Tokens of all texts.
    y : (n,) numpy.ndarray of int
        Labels of all texts, 0 or 1.

    Returns
    -------
    Arm
        Function of labeled rows, test rows and seed that returns predicted labels.
    """

    def arm(rows, tests, seed):
        body = start(seed)
        torch.manual_seed(1000 + seed)
        model = Classifier(body, 2)
        size = min(32, len(rows))
        columns = {"input_ids": [tokens[row] for row in rows], "labels": y[rows]}
        batches = Batches(columns, size, max(3, 150 * size // len(rows)), seed=seed)
        optimizer = AdamW(model.parameters(), 5e-4, weight_decay=0.01)
        train_model(model, classification(), batches, optimizer, schedule=warmup_linear())
        read = Batches({"input_ids": [tokens[row] for row in tests]}, 256, seed=None)
        return predict(model, read).argmax(1)

    return arm


# --- drawings -----------------------------------------------------------------------------------
def draw_views(views: tuple[torch.Tensor, torch.Tensor], vectors: torch.Tensor) -> Figure:
    """Draw two views of each image, and how alike the vectors of all views are.

    Parameters
    ----------
    views : pair of (n, 3, height, width) torch.Tensor
        Two views of each image.
    vectors : (2n, d) torch.Tensor
        Vectors of the first views, then of the second views.

    Returns
    -------
    matplotlib.figure.Figure
        The views at the left, their cosine similarities at the right, with the partner of each
        view framed.
    """
    n, z = len(views[0]), F.normalize(vectors)
    fig = plt.figure(figsize=(7, 4))
    left, right = fig.subfigures(1, 2, width_ratios=[1, 2.2])
    for line, pair in zip(left.subplots(n, 2), zip(*views, strict=True), strict=True):
        for ax, view in zip(line, pair, strict=True):
            ax.imshow(view.permute(1, 2, 0).numpy())
            ax.set(xticks=[], yticks=[])
    ax = right.subplots()
    similarity = (z @ z.T).fill_diagonal_(torch.nan).numpy()
    shown = ax.imshow(similarity, cmap="cividis", vmin=-1, vmax=1)
    frame = {"width": 1, "height": 1, "fill": False, "ec": "red", "lw": 1.5}
    for i in range(2 * n):
        ax.add_patch(plt.Rectangle(((i + n) % (2 * n) - 0.5, i - 0.5), **frame))
    halves = [n / 2 - 0.5, 3 * n / 2 - 0.5]
    ax.set_xticks(halves, ["first views", "second views"])
    ax.set_yticks(halves, ["first views", "second views"], rotation=90, va="center")
    ax.grid(False)
    right.colorbar(shown, label="cosine similarity")
    return fig
