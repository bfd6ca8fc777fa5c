"""Fine-tune a pretrained encoder: what moves, how far, and in which order.

The chapters *Fine-tuning, step by step*, *What to freeze* and *What fine-tuning breaks* write these
methods out and compare them. A method is a function ``method(start, columns, seed, **rates)`` that
returns a trained model; ``start(seed)`` makes the model that it begins with.
"""

import copy
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn
from torch.optim import AdamW

from tlbook import checks
from tlbook.data import Dataset, concat, sample, split
from tlbook.evidence.comparison import Arm, estimator_arm
from tlbook.learning.batches import Batches, tokenized
from tlbook.learning.features import features, preprocess
from tlbook.learning.freezing import ALL, freeze, head_only, last_layers, unfreeze
from tlbook.learning.loop import predict, steps, train_model, warmup_linear
from tlbook.learning.losses import classification, l2_sp
from tlbook.learning.prefix import frozen_prefix
from tlbook.learning.protocol import Loss
from tlbook.learning.table import Table
from tlbook.sources import images, texts
from tlbook.sources.encoders import ImageEncoder, TextEncoder
from tlbook.sources.imagenets import efficientnet_lite0
from tlbook.sources.pretrained import classifier, load

#: Columns of examples, as :class:`tlbook.learning.batches.Batches` takes them.
Columns = Mapping[str, Sequence]
Start = Callable[[int], nn.Module]
#: Pattern of a text classifier's head: the pooler of BERT is new too.
HEAD = "classifier|pooler"
CATEGORIES = 9  # of emoji
#: Learning rates to try on validation rows, by method.
RATES = {
    "from scratch": (5e-5, 2e-4, 1e-3),
    "head only": (1e-3, 5e-3, 2e-2),
    "last two layers": (1e-4, 2e-4, 5e-4),
    "all layers": (1e-4, 2e-4, 4e-4),
    "gradual unfreezing": (1e-4, 2e-4, 5e-4),
    "LoRA": (2e-3, 4e-3, 8e-3),
}
#: The rates that validation chose for the chapters, which check them, and L2-SP's trade-off weight.
CHOSEN = {
    "from scratch": 2e-4,
    "head only": 5e-3,
    "last two layers": 2e-4,
    "all layers": 2e-4,
    "gradual unfreezing": 2e-4,
    "LoRA": 4e-3,
}
ANCHOR = 0.1
BATCH_SIZE = 16


def epochs_for(labels: int) -> int:
    """Return how often each example is seen: the fewer there are, the more often.

    With the usual three epochs, few examples give a handful of updates, a common reason for
    fine-tuning to look worse than it is (Mosbach et al., 2021, arXiv 2006.04884).

    Parameters
    ----------
    labels : int
        Number of labeled examples.

    Returns
    -------
    int
        Epochs, at least one: 64 divided by the square root of ``labels``.

    Raises
    ------
    ValueError
        ``labels`` is below 1.
    """
    return max(1, round(64 / checks.integer("labels", labels, least=1) ** 0.5))


def pretrained(classes: Sequence[str], seed: int = 0, handle: str = "minilm-l6") -> nn.Module:
    """Load a pretrained encoder under a new head, and seed the dropout of its training.

    Parameters
    ----------
    classes : sequence of str
        Names of the classes.
    seed : int, default 0
        Seed of the head, and of torch's generator from here on.
    handle : str, default "minilm-l6"
        The encoder, as for :func:`tlbook.sources.pretrained.load`.

    Returns
    -------
    torch.nn.Module
        A classifier of transformers.
    """
    model, _ = classifier(handle, classes, seed=seed)
    torch.manual_seed(seed)
    return model


def fine_tune(
    model: nn.Module,
    columns: Columns,
    table: Table,
    rate: float,
    *,
    loss_fn: Loss | None = None,
    batch_size: int = BATCH_SIZE,
    epochs: int | None = None,
    seed: int = 0,
) -> nn.Module:
    """Train what a table leaves free, and compute once what is frozen below it.

    Parameters
    ----------
    model : torch.nn.Module
        The model, trained in place.
    columns : mapping of str to sequence
        Labeled examples.
    table : Table
        Rows for :func:`tlbook.learning.freezing.freeze`.
    rate : float
        Learning rate where the table's factor is 1.
    loss_fn : Loss, optional
        By default cross-entropy.
    batch_size : int, default 16
        Examples in a batch.
    epochs : int, optional
        By default :func:`epochs_for` the number of examples.
    seed : int, default 0
        Seed of the order of the examples.

    Returns
    -------
    torch.nn.Module
        The model.

    Raises
    ------
    ValueError
        If :func:`tlbook.learning.freezing.freeze` refuses the table.
    """
    optimizer = AdamW(freeze(model, table, rate), fused=True)
    network = model
    if (".*", None) in table and not hasattr(model, "peft_config"):
        network, columns = frozen_prefix(model, columns)
    stream = Batches(columns, batch_size, epochs or epochs_for(len(columns["labels"])), seed=seed)
    train_model(network, loss_fn or classification(), stream, optimizer, schedule=warmup_linear())
    return model


# --- the methods --------------------------------------------------------------------------------
def by_table(
    start: Start,
    columns: Columns,
    seed: int,
    *,
    rate: float,
    table: Callable[[nn.Module], Table],
    **options,
) -> nn.Module:
    """Fine-tune by a freezing table.

    Parameters
    ----------
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns : mapping of str to sequence
        Labeled examples.
    seed : int
        Seed of the start and of the order of the examples.
    rate : float
        Learning rate.
    table : callable
        Returns the table for a model.
    **options
        Passed on to :func:`fine_tune`.

    Returns
    -------
    torch.nn.Module
        The trained model.
    """
    model = start(seed)
    return fine_tune(model, columns, table(model), rate, seed=seed, **options)


def in_stages(start: Start, columns: Columns, seed: int, *, stages: Sequence[tuple]) -> nn.Module:
    """Fine-tune in stages, one after the other.

    Parameters
    ----------
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns : mapping of str to sequence
        Labeled examples.
    seed : int
        Seed of the start and of the order of the examples.
    stages : sequence of (callable, float)
        For each stage a function that returns the freezing table for a model, and a learning rate.

    Returns
    -------
    torch.nn.Module
        The trained model.
    """
    model = start(seed)
    for table, rate in stages:
        fine_tune(model, columns, table(model), rate, seed=seed)
    return model


def from_scratch(start: Start, columns: Columns, seed: int, *, rate: float) -> nn.Module:
    """Train the same architecture with all its weights new.

    Parameters
    ----------
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns : mapping of str to sequence
        Labeled examples.
    seed : int
        Seed of the start and of the order of the examples.
    rate : float
        Learning rate.

    Returns
    -------
    torch.nn.Module
        The trained model.
    """
    model = start(seed)
    torch.manual_seed(seed)
    return fine_tune(type(model)(model.config), columns, ALL, rate, seed=seed)


def gradual(start: Start, columns: Columns, seed: int, *, rate: float) -> nn.Module:
    """Train the head first, then one more layer from the top after each share of the steps.

    Howard and Ruder, 2018, arXiv 1801.06146.

    Parameters
    ----------
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns : mapping of str to sequence
        Labeled examples.
    seed : int
        Seed of the start and of the order of the examples.
    rate : float
        Learning rate.

    Returns
    -------
    torch.nn.Module
        The trained model.
    """
    model = start(seed)
    frozen = list(range(model.config.num_hidden_layers))
    parts = len(frozen) + 1
    optimizer = AdamW(freeze(model, head_only(HEAD), rate), fused=True)
    stream = Batches(columns, BATCH_SIZE, epochs_for(len(columns["labels"])), seed=seed)
    for step in steps(model, classification(), stream, optimizer, schedule=warmup_linear()):
        if frozen and step.index + 1 >= len(stream) * (parts - len(frozen)) / parts:
            unfreeze(model, optimizer, rf"layer\.{frozen.pop()}\.", rate)
    return model


#: Table for a model from :func:`with_lora`: its corrections and its new head move.
LORA = [("lora_|modules_to_save", 1.0), (".*", None)]


def with_lora(model: nn.Module) -> nn.Module:
    """Add low-rank corrections of queries and values to a classifier of transformers, by peft.

    Parameters
    ----------
    model : torch.nn.Module
        The classifier, such as :func:`pretrained` makes it.

    Returns
    -------
    torch.nn.Module
        The model of peft around it, to be trained by the table :data:`LORA`.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        task_type="SEQ_CLS",
        r=8,
        lora_alpha=16,
        target_modules=["query", "value"],
        modules_to_save=["classifier", "pooler"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an old name
        return get_peft_model(model, config)


def lora(start: Start, columns: Columns, seed: int, *, rate: float) -> nn.Module:
    """Train low-rank corrections of queries and values, by peft, and a new head.

    Hu et al., 2022, arXiv 2106.09685.

    Parameters
    ----------
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns : mapping of str to sequence
        Labeled examples.
    seed : int
        Seed of the start and of the order of the examples.
    rate : float
        Learning rate.

    Returns
    -------
    torch.nn.Module
        The trained model.
    """
    return fine_tune(with_lora(start(seed)), columns, LORA, rate, seed=seed)


def probe_then_all(
    start: Start, columns: Columns, seed: int, *, head_rate: float, rate: float
) -> nn.Module:
    """Train the head alone, and all layers from there (LP-FT).

    Kumar et al., 2022, arXiv 2202.10054.

    Parameters
    ----------
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns : mapping of str to sequence
        Labeled examples.
    seed : int
        Seed of the start and of the order of the examples.
    head_rate : float
        Learning rate of the head alone.
    rate : float
        Learning rate of all layers.

    Returns
    -------
    torch.nn.Module
        The trained model.
    """
    model = fine_tune(start(seed), columns, head_only(HEAD), head_rate, seed=seed)
    return fine_tune(model, columns, ALL, rate, seed=seed)


def anchored(start: Start, columns: Columns, seed: int, *, rate: float, weight: float) -> nn.Module:
    """Train all layers, pulled back to where they start (L2-SP).

    Li et al., 2018, arXiv 1802.01483.

    Parameters
    ----------
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns : mapping of str to sequence
        Labeled examples.
    seed : int
        Seed of the start and of the order of the examples.
    rate : float
        Learning rate.
    weight : float
        Trade-off weight of the pull.

    Returns
    -------
    torch.nn.Module
        The trained model.
    """
    model = start(seed)
    loss_fn = l2_sp(classification(), model, weight)
    return fine_tune(model, columns, ALL, rate, loss_fn=loss_fn, seed=seed)


#: Methods with one learning rate each.
METHODS = {
    "from scratch": from_scratch,
    "head only": partial(by_table, table=lambda model: head_only(HEAD)),
    "last two layers": partial(by_table, table=lambda model: last_layers(model, 2, HEAD)),
    "all layers": partial(by_table, table=lambda model: ALL),
    "gradual unfreezing": gradual,
    "LoRA": lora,
}


def at_rates(rates: Mapping[str, float] = CHOSEN, weight: float = ANCHOR) -> dict[str, Callable]:
    """Return all eight methods at chosen settings.

    Parameters
    ----------
    rates : mapping of str to float, optional
        A learning rate for each of :data:`METHODS`; by default those of the chapters.
    weight : float, optional
        Trade-off weight of L2-SP.

    Returns
    -------
    dict of str to callable
        Functions ``method(start, columns, seed)`` by name.
    """
    chosen = {name: partial(METHODS[name], rate=rate) for name, rate in rates.items()}
    every = rates["all layers"]
    chosen["LP-FT"] = partial(probe_then_all, head_rate=rates["head only"], rate=every)
    return chosen | {"L2-SP": partial(anchored, rate=every, weight=weight)}


def image_classifier(encoder: ImageEncoder, classes: int, seed: int) -> nn.Module:
    """Put a new last layer on a copy of an image encoder.

    Parameters
    ----------
    encoder : ImageEncoder
        The encoder, which stays as it is.
    classes : int
        Number of classes.
    seed : int
        Seed of the last layer.

    Returns
    -------
    torch.nn.Module
        The network, whose batch statistics follow within tens of steps.
    """
    model = copy.deepcopy(encoder.model)
    torch.manual_seed(seed)
    model.classifier = nn.Linear(model.dimension, classes)
    return _quick(model)


def network_arm(
    method: Callable[..., nn.Module],
    start: Start,
    columns_of: Callable[[np.ndarray], Columns],
    **options,
) -> Arm:
    """Make an arm that trains by a method, times the training alone, and predicts.

    Parameters
    ----------
    method : callable
        A function ``method(start, columns, seed, **options)`` that returns a model.
    start : callable
        ``start(seed)`` returns the model to begin with.
    columns_of : callable
        Returns the columns of rows, with ``labels``.
    **options
        Passed on to the method, such as ``rate``.

    Returns
    -------
    Arm
        Function of labeled rows, test rows and seed that returns predicted labels and CPU seconds.
    """

    def arm(train: np.ndarray, test: np.ndarray, seed: int) -> tuple[np.ndarray, float]:
        began = time.process_time()
        model = method(start, columns_of(train), seed, **options)
        seconds = time.process_time() - began
        return predict(model, Batches(columns_of(test), 32, seed=None)).argmax(1), seconds

    return arm


def mixed(start: nn.Module, end: nn.Module, alpha: float) -> nn.Module:
    """Mix the weights of two models of one architecture (WiSE-FT).

    Running statistics of batch normalization are mixed too. Wortsman et al., 2022, arXiv
    2109.01903.

    Parameters
    ----------
    start : torch.nn.Module
        The model at ``alpha = 0``.
    end : torch.nn.Module
        The model at ``alpha = 1``.
    alpha : float
        Share of ``end``, from 0 to 1.

    Returns
    -------
    torch.nn.Module
        A new model with ``(1 - alpha) * start + alpha * end``.

    Raises
    ------
    ValueError
        ``alpha`` is not from 0 to 1.
    """
    checks.number("alpha", alpha, least=0, most=1)
    model, first, last = copy.deepcopy(end), start.state_dict(), end.state_dict()
    between = {
        name: torch.lerp(first[name], value, alpha) if value.is_floating_point() else value
        for name, value in last.items()
    }
    model.load_state_dict(between)
    return model


# --- the data of the chapters -------------------------------------------------------------------
class Reviews(NamedTuple):
    """Hold product reviews to train on, and sentences of other places to look at.

    Attributes
    ----------
    data : Dataset
        Product reviews, then film reviews, tweets and editorials.
    products : Dataset
        The product reviews alone, whose rows come first in ``data``.
    train : (n_train,) numpy.ndarray of int
        Half of the product reviews.
    validation : (200,) numpy.ndarray of int
        Product reviews to choose on.
    test : (200,) numpy.ndarray of int
        Product reviews to test on.
    looked_at : (500,) numpy.ndarray of int
        The test rows, then those of other places.
    encoder : TextEncoder
        MiniLM.
    vectors : (n, 384) numpy.ndarray of float32
        Frozen features of all sentences.
    ids : list of list of int
        Token ids of all sentences.
    """

    data: Dataset
    products: Dataset
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    looked_at: np.ndarray
    encoder: TextEncoder
    vectors: np.ndarray
    ids: list

    def columns(self, rows: np.ndarray) -> Columns:
        """Return token ids and labels of rows.

        Parameters
        ----------
        rows : (n,) numpy.ndarray of int
            Positions in ``data``.

        Returns
        -------
        mapping of str to sequence
            Columns ``input_ids`` and ``labels``.
        """
        return {"input_ids": [self.ids[row] for row in rows], "labels": self.data.y[rows]}

    def start(self, seed: int) -> nn.Module:
        """Return the pretrained encoder under a new head.

        Parameters
        ----------
        seed : int
            Seed of the head and of dropout.

        Returns
        -------
        torch.nn.Module
            A classifier of transformers.
        """
        return pretrained(self.products.classes, seed)

    def arm(self, method: Callable[..., nn.Module], **options) -> Arm:
        """Return an arm that trains by a method.

        Parameters
        ----------
        method : callable
            A function ``method(start, columns, seed, **options)``.
        **options
            Passed on to the method, such as ``rate``.

        Returns
        -------
        Arm
            The arm, as :func:`network_arm` makes it.
        """
        return network_arm(method, self.start, self.columns, **options)

    def arms(self) -> dict[str, Arm]:
        """Return the ten arms of the chapters: two linear controls and eight networks.

        Returns
        -------
        dict of str to Arm
            The arms by name.
        """
        counts = make_pipeline(TfidfVectorizer(), LogisticRegression())
        controls = {
            "word counts": estimator_arm(counts, self.data.x, self.data.y),
            "frozen features": estimator_arm(LogisticRegression(), self.vectors, self.data.y),
        }
        return controls | {name: self.arm(method) for name, method in at_rates().items()}


def reviews() -> Reviews:
    """Load product reviews, split in three, and 100 sentences each of three other places.

    Returns
    -------
    Reviews
        The data, its rows, features and tokens.
    """
    products = texts.reviews("amazon")
    train, validation, test = split(products, test=1 / 4, validation=1 / 4)
    validation, test = (
        sample(products, part, per_class=100, seed=0) for part in (validation, test)
    )
    others = [texts.reviews(name) for name in ("movie", "tweets", "nyt")]
    sets = [products, *(o.take(sample(o, per_class=50, seed=0)) for o in others)]
    data = concat("reviews", *sets)
    encoder = load("minilm-l6")
    vectors = np.concatenate([features(encoder, part.x) for part in sets])
    ids = tokenized(encoder.tokenizer, data.x)["input_ids"]
    looked_at = np.concatenate([test, np.arange(len(products), len(data))])
    return Reviews(data, products, train, validation, test, looked_at, encoder, vectors, ids)


class Emoji(NamedTuple):
    """Hold the emoji of one artist to train on, and the same ones by others to look at.

    Attributes
    ----------
    data : Dataset
        Twemoji, then the same emoji of OpenMoji.
    train : (n_train,) numpy.ndarray of int
        Half of Twemoji.
    validation : (250,) numpy.ndarray of int
        Twemoji to choose on.
    test : (500,) numpy.ndarray of int
        250 emoji to test on: of Twemoji, then of OpenMoji.
    encoder : ImageEncoder
        EfficientNet-Lite0 on small images.
    vectors : (n, 1280) numpy.ndarray of float32
        Frozen features of all emoji.
    """

    data: Dataset
    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray
    encoder: ImageEncoder
    vectors: np.ndarray

    def columns(self, rows: np.ndarray) -> Columns:
        """Return pixels and labels of rows.

        Parameters
        ----------
        rows : (n,) numpy.ndarray of int
            Positions in ``data``.

        Returns
        -------
        mapping of str to sequence
            Columns ``x`` and ``labels``.
        """
        return {"x": preprocess(self.encoder, self.data.x[rows]), "labels": self.data.y[rows]}

    def start(self, seed: int) -> nn.Module:
        """Return the network trained on photographs under a new last layer.

        Parameters
        ----------
        seed : int
            Seed of the last layer.

        Returns
        -------
        tlbook.sources.imagenets.MobileNet
            The network, whose batch statistics follow within tens of steps.
        """
        return image_classifier(self.encoder, CATEGORIES, seed)

    def untrained(self, seed: int) -> nn.Module:
        """Return the same network with all its weights new.

        Parameters
        ----------
        seed : int
            Seed of the weights.

        Returns
        -------
        tlbook.sources.imagenets.MobileNet
            The network, whose batch statistics follow within tens of steps.
        """
        torch.manual_seed(seed)
        return _quick(efficientnet_lite0(CATEGORIES))


def _quick(model: nn.Module) -> nn.Module:
    """The network's own momentum, 0.01, is made for many thousand steps."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.1
    return model


def emoji() -> Emoji:
    """Load emoji in two styles, split in three; an emoji is on one side in both styles.

    Returns
    -------
    Emoji
        The data, its rows and features.
    """
    first, second = (images.emoji(style) for style in ("twemoji", "openmoji"))
    train, *held_out = split(first, test=1 / 4, validation=1 / 4)
    order = np.random.default_rng(0)
    validation, test = (np.sort(order.permutation(rows)[:250]) for rows in held_out)
    x, y, groups = (
        np.concatenate([getattr(style, part) for style in (first, second)])
        for part in ("x", "y", "groups")
    )
    data = Dataset("emoji", x, y, first.classes, groups)
    encoder = replace(load("efficientnet-lite0"), size=72)  # small images, for speed
    both = np.concatenate([test, test + len(first)])
    return Emoji(data, train, validation, both, encoder, features(encoder, data.x))
