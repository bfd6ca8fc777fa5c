"""Save a recommended strategy without pickle, and load it.

A folder holds ``model.json`` (what it is, with the hashes of the other files), weights as
safetensors, a vocabulary as JSON where words are counted, and a card. A fine-tuned classifier of
texts is a folder of transformers in ``network``, which ``transformers.pipeline`` opens too. Nothing
in it is executed.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from safetensors.torch import load_model, save_model
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize
from torch import nn

from tlbook import checks
from tlbook.advisor.audit import thumbnails
from tlbook.advisor.strategies import LENGTH
from tlbook.learning.batches import Batches, tokenized
from tlbook.learning.features import features, preprocess
from tlbook.learning.loop import predict as logits
from tlbook.methods.finetuning import image_classifier
from tlbook.sources.cache import whole
from tlbook.sources.encoders import ImageEncoder, TextEncoder
from tlbook.sources.pretrained import classifier, load

FORMAT = "tlbook advice 2"
#: What a vectorizer of counts is made by.
COUNTING = ("analyzer", "ngram_range", "token_pattern", "sublinear_tf")
WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, eq=False)
class Saved:
    """Hold a saved strategy.

    Attributes
    ----------
    about : dict
        The contents of ``model.json``.
    scores : callable
        Returns for n inputs (n, k) numbers, the largest for the likeliest of k classes; of two
        classes (n, 1), above zero for the second.
    """

    about: dict
    scores: Callable[[Sequence], np.ndarray]

    def predict(self, inputs: Sequence) -> np.ndarray:
        """Label texts or images.

        Parameters
        ----------
        inputs : (n,) sequence of str, or (n, 160, 160, 3) numpy.ndarray of uint8
            New texts, or images as :func:`tlbook.advisor.reading.pictures` reads them.

        Returns
        -------
        (n,) numpy.ndarray of str
            Names of classes.
        """
        if self.about["modality"] == "text":
            inputs = checks.texts("inputs", inputs)
        if not len(inputs):
            return np.array([], dtype=object)
        found = self.scores(inputs)
        best = found.argmax(1) if found.shape[1] > 1 else (found[:, 0] > 0).astype(int)
        return np.array(self.about["classes"], dtype=object)[best]


def save(folder: Path | str, kind: str, model, classes: Sequence[str], card: str, **about) -> Path:
    """Write the fitted model of a strategy, and its card.

    Parameters
    ----------
    folder : Path or str
        A new folder.
    kind : str
        ``"counts"``, ``"pixels"`` or ``"features"`` for a pipeline that ends in a linear model,
        ``"tuned"`` for an encoder with one, ``"network"`` for a classifier.
    model : object
        What :attr:`tlbook.advisor.strategies.Strategy.fit` returned.
    classes : sequence of str
        Names of the classes; the model predicts positions in it.
    card : str
        What ``README.md`` says.
    **about
        What else to know: ``modality``, ``"text"`` or ``"image"``, the ``strategy``, the ``column``
        of the inputs, and the ``encoder`` that it reads or started from, or None.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If there is such a folder.
    """
    folder, encoder = Path(folder), about.pop("encoder", None)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; save into a new folder")
    about |= {"format": FORMAT, "kind": kind, "encoder": getattr(encoder, "handle", None)}
    about |= {"classes": list(classes), "size": getattr(encoder, "size", None)}
    with whole(folder) as part:
        part.mkdir(exist_ok=True)
        if kind == "network":
            _write_network(part, model, encoder, about)
        else:
            _write_linear(part, model, encoder, about)
        about["files"] = {name: _hash(part / name) for name in _files(part)}
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        (part / "model.json").write_text(text, encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")
    return folder


def _write_linear(part: Path, model, encoder, about: dict) -> None:
    """A linear model, and what turns inputs into its vectors; of encoders those that were tuned."""
    if about["kind"] == "tuned":
        tuned, head = model
        save_model(tuned.model, str(part / "encoder.safetensors"))
    else:
        head = model[-1]
    weights = {"coef": head.coef_, "intercept": head.intercept_}
    about["classes"] = [about["classes"][label] for label in head.classes_]
    if about["kind"] == "features":
        about["fingerprint"] = encoder.fingerprint
    if about["kind"] == "counts":
        first = model[0]
        weights["idf"] = first.idf_
        terms = json.dumps(first.get_feature_names_out().tolist())
        (part / "vocabulary.json").write_text(terms, encoding="utf-8")
        about["counting"] = {key: first.get_params()[key] for key in COUNTING}
    save_file({key: np.ascontiguousarray(v) for key, v in weights.items()}, part / WEIGHTS)


def _write_network(part: Path, model: nn.Module, encoder, about: dict) -> None:
    """A classifier: of texts as a folder of transformers, of images as its weights."""
    if about["modality"] == "image":
        return save_model(model, str(part / WEIGHTS))
    model = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    model.save_pretrained(part / "network")
    encoder.tokenizer.save_pretrained(part / "network")
    about["length"] = min(LENGTH, encoder.max_length)
    return None


def _files(folder: Path) -> list[str]:
    """Names of all files in a folder but the description and the card."""
    found = [file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()]
    return sorted(set(found) - {"model.json", "README.md"})


def _hash(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def load_saved(folder: Path | str, device: str | torch.device = "cpu") -> Saved:
    """Load what :func:`save` wrote.

    Parameters
    ----------
    folder : Path or str
        The folder.
    device : str or torch.device, default "cpu"
        Where networks run.

    Returns
    -------
    Saved
        The strategy.

    Raises
    ------
    ValueError
        If the folder was not written by :func:`save`, or was changed since.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise KeyError("format")
        hashes, there = dict(about["files"]), _files(folder)
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{folder} holds no strategy of the advisor: save one with advise --save FOLDER"
        ) from None
    for name in sorted({*hashes, *there}):
        if name not in there or _hash(folder / name) != hashes.get(name):
            raise ValueError(f"{folder}: {name} was changed since it was saved: save it anew")
    try:
        return Saved(about, _scores(folder, about, device))
    except (SafetensorError, KeyError, TypeError, AttributeError, IndexError, RuntimeError):
        raise ValueError(f"{folder}: model.json does not fit its weights: save it anew") from None


def _scores(folder: Path, about: dict, device) -> Callable[[Sequence], np.ndarray]:
    """What a saved strategy computes, by its kind."""
    kind, classes = about["kind"], about["classes"]
    if kind == "network" and about["modality"] == "text":
        network, tokenizer = classifier(folder / "network", classes)
        load_model(network.to(device), folder / "network" / "model.safetensors")
        return lambda texts: _logits(network, tokenized(tokenizer, texts, None, about["length"]))
    encoder = None
    if about["encoder"]:
        encoder = load(about["encoder"])
        if isinstance(encoder, TextEncoder | ImageEncoder):
            encoder.model.to(device)
        encoder = replace(encoder, size=about["size"]) if about["size"] else encoder
    if kind == "network":
        network = image_classifier(encoder, len(classes), 0)
        load_model(network.to(device), folder / WEIGHTS)
        return lambda images: _logits(network, {"x": preprocess(encoder, images)})
    if kind == "tuned":
        encoder = replace(encoder, model=copy.deepcopy(encoder.model))
        load_model(encoder.model, folder / "encoder.safetensors")
    if kind == "features" and encoder.fingerprint != about["fingerprint"]:
        raise ValueError(
            f"{folder}: the encoder {about['encoder']} is not the one that it was saved with: "
            "advise again"
        )
    weights = load_file(folder / WEIGHTS)
    vectors = _vectors(folder, about, encoder, weights)
    rows = 1 if len(classes) == 2 else len(classes)
    if not weights["coef"].shape[0] == rows == len(weights["intercept"]):
        raise KeyError("classes")
    return lambda inputs: vectors(inputs) @ weights["coef"].T + weights["intercept"]


def _vectors(folder: Path, about: dict, encoder, weights: dict) -> Callable:
    """What turns inputs into the vectors of a linear model."""
    if about["kind"] == "counts":
        terms = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
        how = {key: about["counting"][key] for key in COUNTING}
        how["ngram_range"] = tuple(how["ngram_range"])
        counter = TfidfVectorizer(vocabulary=terms, **how)
        counter.idf_ = weights["idf"]
        return counter.transform
    if about["kind"] == "pixels":
        return lambda images: normalize(thumbnails(images).reshape(len(images), -1))
    options = {"cache": False, "progress": False}
    if about["kind"] == "tuned":
        return lambda texts: features(encoder, texts, **options)
    return lambda inputs: normalize(features(encoder, inputs, **options))


def _logits(network: nn.Module, columns: dict) -> np.ndarray:
    return logits(network, Batches(columns, 32, seed=None))
