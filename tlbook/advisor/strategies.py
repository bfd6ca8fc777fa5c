"""What can be tried on labeled texts or images, from guessing to training all layers.

A :class:`Strategy` is an arm that knows what it costs. All of them see the same rows, weigh classes
equally, and choose what they choose on their training rows alone.
"""

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.utils.class_weight import compute_class_weight
from threadpoolctl import threadpool_limits
from torch import nn

from tlbook.advisor.audit import thumbnails
from tlbook.data import Dataset
from tlbook.errors import TrainingError
from tlbook.learning.batches import Batch, Batches, tokenized
from tlbook.learning.features import features, preprocess
from tlbook.learning.freezing import ALL, head_only, last_layers
from tlbook.learning.heads import linear_head
from tlbook.learning.loop import predict
from tlbook.learning.losses import classification
from tlbook.learning.protocol import Loss
from tlbook.methods.contrastive import RATE, tune_on_pairs
from tlbook.methods.finetuning import (
    BATCH_SIZE,
    CHOSEN,
    HEAD,
    LORA,
    epochs_for,
    fine_tune,
    image_classifier,
    pretrained,
    with_lora,
)
from tlbook.sources.encoders import ImageEncoder, TextEncoder

#: Strengths of the penalty to choose among, by cross-validation on the training rows.
PENALTIES = (1.0, 10.0, 100.0)
#: Pieces that a fine-tuned encoder reads of a text.
LENGTH = 256
#: With more texts than this, what occurs in a single one is not counted.
FREQUENT = 500
#: Learning rate of image networks: the middle of those that *What fine-tuning breaks* tries. Those
#: of texts are the ones that the book chose on validation rows.
IMAGE_RATE = 1e-3
#: What all others are compared with: no pretrained encoder.
CONTROL = {"text": "word counts", "image": "pixels"}


class OutOfTime(Exception):
    """The minutes are over."""


@dataclass(frozen=True)
class Run:
    """Hold what one run of a strategy gave and cost.

    Attributes
    ----------
    predicted : (n_test,) numpy.ndarray of int64
        Predicted labels.
    train_seconds : float
        CPU seconds of training, features of the training rows included.
    predict_seconds : float
        CPU seconds per 1,000 predictions.
    """

    predicted: np.ndarray
    train_seconds: float
    predict_seconds: float


#: ``fit(rows, seed, deadline)`` returns the model that a strategy makes of labeled rows.
Fit = Callable[[np.ndarray, int, float], object]


@dataclass(frozen=True)
class Strategy:
    """Describe a way to solve the task.

    Attributes
    ----------
    name : str
        What it is called.
    run : callable
        ``run(train, test, seed, deadline)`` returns a :class:`Run`. It raises :class:`OutOfTime`
        where it is not done at the deadline, a reading of ``time.monotonic``.
    forecast : callable
        ``forecast(n_train, n_test)`` returns about how many seconds a run takes.
    megabytes : float
        Size of what has to be kept to predict.
    is_linear : bool, default False
        Whether it is a linear model of fixed features, which trains in seconds.
    fit : callable, optional
        ``fit(rows, seed, deadline)`` returns the fitted model: a pipeline, a network, or a tuned
        encoder with its classifier.
    kind : str, default ""
        What that is, for :func:`tlbook.advisor.saving.save`: ``"counts"``, ``"pixels"``,
        ``"features"``, ``"tuned"`` or ``"network"``.
    encoder : TextEncoder, ImageEncoder or SavedModelEncoder, optional
        The encoder that it reads or starts from.
    """

    name: str
    run: Callable[[np.ndarray, np.ndarray, int, float], Run]
    forecast: Callable[[int, int], float]
    megabytes: float
    is_linear: bool = False
    fit: Fit | None = None
    kind: str = ""
    encoder: object = None


@dataclass(frozen=True)
class Encoded:
    """Hold an encoder with the features of all examples, and what they cost.

    Attributes
    ----------
    handle : str
        Name of the encoder.
    encoder : TextEncoder, ImageEncoder or SavedModelEncoder
        The encoder.
    vectors : (n, d) numpy.ndarray of float32
        The features.
    cpu, wall : float
        Seconds for one example, on the processor and on the clock.
    megabytes : float
        Size of its weights.
    """

    handle: str
    encoder: object
    vectors: np.ndarray
    cpu: float
    wall: float
    megabytes: float


def timed(encoder, x: np.ndarray, *, examples: int = 48, seed: int = 0) -> tuple[float, float]:
    """Measure how long an encoder takes for an example.

    Parameters
    ----------
    encoder : TextEncoder, ImageEncoder or SavedModelEncoder
        The encoder.
    x : (n, ...) numpy.ndarray
        Examples, of which some are encoded.
    examples : int, default 48
        How many.
    seed : int, default 0
        Seed of the draw.

    Returns
    -------
    (float, float)
        CPU seconds and seconds for one example.
    """
    chosen = np.random.default_rng(seed).permutation(len(x))[:examples]
    features(encoder, x[chosen[:4]], cache=False, progress=False)  # what is loaded on first use
    cpu, wall = time.process_time(), time.monotonic()
    features(encoder, x[chosen], cache=False, progress=False)
    return (time.process_time() - cpu) / len(chosen), (time.monotonic() - wall) / len(chosen)


def strategies(data: Dataset, encoded: list[Encoded]) -> list[Strategy]:
    """List what can be tried, the cheapest first.

    Parameters
    ----------
    data : Dataset
        Texts or images. Groups stay whole where a penalty is chosen.
    encoded : list of Encoded
        Encoders with their features. The first that can be is fine-tuned too.

    Returns
    -------
    list of Strategy
        The strategies.
    """
    found = [_estimator("majority", DummyClassifier(), np.zeros((len(data), 1)), data, 0.001)]
    if data.x.ndim > 1:
        pixels = thumbnails(data.x).reshape(len(data), -1)
        found.append(_estimator("pixels", linear_head(), pixels, data, 0.1, "pixels"))
    else:
        least = {"sublinear_tf": True, "min_df": 2 if len(data) > FREQUENT else 1}
        words = {"token_pattern": r"(?u)\b\w+\b", "ngram_range": (1, 2)}
        letters = {"analyzer": "char_wb", "ngram_range": (2, 4)}
        found += [
            _estimator(name, _counting(**least, **how), data.x, data, 2.0, "counts")
            for name, how in (("word counts", words), ("letter counts", letters))
        ]
    for each in encoded:
        name = f"frozen {each.handle}" if len(encoded) > 1 else "frozen features"
        found.append(
            _estimator(
                name,
                linear_head(),
                each.vectors,
                data,
                each.megabytes,
                "features",
                per_example=each.cpu,
                encoder=each.encoder,
            )
        )
    for each in encoded:
        if isinstance(each.encoder, TextEncoder):
            return found + _text_networks(data, each)
        if isinstance(each.encoder, ImageEncoder):
            return found + _image_networks(data, each)
    return found


def _strategy(
    name: str,
    fit: Fit,
    answer: Callable[[object, np.ndarray, float], np.ndarray],
    forecast: Callable[[int, int], float],
    megabytes: float,
    data: Dataset,
    *,
    per_example: float = 0.0,
    **about,
) -> Strategy:
    """A strategy that fits and answers; ``per_example``: seconds its kept features took."""

    def run(train: np.ndarray, test: np.ndarray, seed: int, deadline: float) -> Run:
        began = time.process_time()
        try:
            model = fit(train, seed, deadline)
        except TrainingError:  # it diverged, and knows no more than which class is the largest
            model = None
        middle = time.process_time()
        if model is None:
            predicted = np.full(len(test), np.bincount(data.y[train]).argmax())
        else:
            predicted = answer(model, test, deadline)
        seconds = (time.process_time() - middle) / len(test)
        training = middle - began + per_example * len(train)
        return Run(predicted, training, 1000 * (per_example + seconds))

    return Strategy(name, run, forecast, megabytes, fit=fit, **about)


# --- linear models ------------------------------------------------------------------------------
def _counting(**how) -> BaseEstimator:
    return make_pipeline(TfidfVectorizer(**how), LogisticRegression(max_iter=1000))


def _estimator(
    name: str,
    model: BaseEstimator,
    x,
    data: Dataset,
    megabytes: float,
    kind: str = "",
    *,
    per_example: float = 0.0,
    encoder=None,
) -> Strategy:
    """A linear model whose penalty is chosen on the training rows."""
    tuned = hasattr(model, "steps")
    if tuned:
        model.set_params(logisticregression__class_weight="balanced")

    def fit(rows: np.ndarray, seed: int, deadline: float) -> BaseEstimator:
        y, groups, fitted, options = data.y[rows], data.groups[rows], clone(model), {}
        if tuned:
            alone = len(np.unique(groups)) == len(groups)
            folder = StratifiedKFold if alone else StratifiedGroupKFold
            fitted = GridSearchCV(
                fitted,
                {"logisticregression__C": PENALTIES},
                cv=folder(3, shuffle=True, random_state=seed),
                scoring="balanced_accuracy",
                error_score=0.0,
            )
            options = {"groups": groups}
        # small models spend more on waking threads than on their own arithmetic
        with threadpool_limits(1, user_api="blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a rare class may be missing from a fold
            fitted.fit(x[rows], y, **options)
        return fitted.best_estimator_ if tuned else fitted

    def answer(fitted: BaseEstimator, rows: np.ndarray, deadline: float) -> np.ndarray:
        with threadpool_limits(1, user_api="blas"):
            return fitted.predict(x[rows])

    def forecast(n_train: int, n_test: int) -> float:
        return 0.1 + n_train / 1000

    about = {"is_linear": tuned, "kind": kind, "encoder": encoder, "per_example": per_example}
    return _strategy(name, fit, answer, forecast, megabytes, data, **about)


# --- networks -----------------------------------------------------------------------------------
def _text_networks(data: Dataset, each: Encoded) -> list[Strategy]:
    encoder: TextEncoder = each.encoder
    length = min(LENGTH, encoder.max_length)
    ids = tokenized(encoder.tokenizer, data.x, max_length=length)["input_ids"]
    layers = encoder.model.config.num_hidden_layers

    def columns(rows: np.ndarray) -> dict:
        return {"input_ids": [ids[row] for row in rows], "labels": data.y[rows]}

    def start(seed: int) -> nn.Module:
        return pretrained(data.classes, seed, each.handle)

    # forward passes of one example, in place of each pass of training
    kinds = {
        "head only": (start, lambda model: head_only(HEAD), 0.2),
        "last two layers": (start, lambda model: last_layers(model, 2, HEAD), 3 * 2 / layers),
        "LoRA": (lambda seed: with_lora(start(seed)), lambda model: LORA, 2.5),
        "all layers": (start, lambda model: ALL, 3.0),
    }
    found = [
        _network(name, begin, table, passes, columns, data, each, CHOSEN[name])
        for name, (begin, table, passes) in kinds.items()
    ]
    return [*found, _contrastive(data, each)]


def _image_networks(data: Dataset, each: Encoded) -> list[Strategy]:
    encoder: ImageEncoder = each.encoder

    def columns(rows: np.ndarray) -> dict:
        return {"x": preprocess(encoder, data.x[rows]), "labels": data.y[rows]}

    def start(seed: int) -> nn.Module:
        return image_classifier(encoder, len(data.classes), seed)

    return [
        _network(name, start, table, passes, columns, data, each, rate=IMAGE_RATE)
        for name, table, passes in (
            ("last four blocks", lambda model: last_layers(model, 4, "head|classifier"), 0.8),
            ("all layers", lambda model: ALL, 3.0),
        )
    ]


def _network(
    name: str,
    start: Callable[[int], nn.Module],
    table: Callable,
    passes: float,
    columns: Callable[[np.ndarray], dict],
    data: Dataset,
    each: Encoded,
    rate: float,
) -> Strategy:
    """Fine-tuning by a freezing table."""

    def fit(rows: np.ndarray, seed: int, deadline: float) -> nn.Module:
        model, y = start(seed), data.y[rows]
        present = np.unique(y)
        weights = np.zeros(len(data.classes), dtype=np.float32)
        weights[present] = compute_class_weight("balanced", classes=present, y=y)
        loss_fn = _until(deadline, classification(class_weights=torch.from_numpy(weights)))
        return fine_tune(model, columns(rows), table(model), rate, loss_fn=loss_fn, seed=seed)

    def answer(model: nn.Module, rows: np.ndarray, deadline: float) -> np.ndarray:
        batches = Batches(columns(rows), 32, seed=None)
        return predict(model, _each_until(deadline, batches)).argmax(1)

    def forecast(n_train: int, n_test: int) -> float:
        frozen = n_train if passes < 2.5 else 0
        seen = n_train * epochs_for(n_train)
        return 0.5 + each.wall * (frozen + passes * seen + n_test) * (1 + 1 / BATCH_SIZE)

    about = {"kind": "network", "encoder": each.encoder}
    return _strategy(name, fit, answer, forecast, each.megabytes, data, **about)


def _until(deadline: float, loss_fn: Loss) -> Loss:
    """A loss that stops the training when the time is over."""

    def until(model, batch):
        if time.monotonic() > deadline:
            raise OutOfTime
        return loss_fn(model, batch)

    return until


def _each_until(deadline: float, batches: Batches) -> Iterator[Batch]:
    for batch in batches:
        if time.monotonic() > deadline:
            raise OutOfTime
        yield batch


def _contrastive(data: Dataset, each: Encoded) -> Strategy:
    """Tuning on pairs of examples, and a linear model on the vectors."""

    def vectors(encoder: TextEncoder, rows: np.ndarray) -> np.ndarray:
        return features(encoder, data.x[rows], cache=False, progress=False)

    def fit(rows: np.ndarray, seed: int, deadline: float) -> tuple[TextEncoder, BaseEstimator]:
        tuned = tune_on_pairs(each.encoder, data.x[rows], data.y[rows], RATE, seed=seed)
        if time.monotonic() > deadline:
            raise OutOfTime
        head = LogisticRegression(class_weight="balanced")
        return tuned, head.fit(vectors(tuned, rows), data.y[rows])

    def answer(model: tuple, rows: np.ndarray, deadline: float) -> np.ndarray:
        tuned, head = model
        return head.predict(vectors(tuned, rows))

    def forecast(n_train: int, n_test: int) -> float:
        return 1 + each.wall * (2 * 128 * 3 + n_train + n_test)

    about = {"kind": "tuned", "encoder": each.encoder}
    return _strategy("contrastive", fit, answer, forecast, each.megabytes, data, **about)
