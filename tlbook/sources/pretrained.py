"""Load a pretrained encoder by handle: a packaged name, a local folder, or a model of a hub.

:mod:`tlbook.sources.hubs` finds the files, and this module makes a model of them. Weights are read
from safetensors, or by ``torch.load(weights_only=True)``: no code of such a model is ever executed.
A SavedModel of TensorFlow is different: it *is* a program made of TensorFlow's operations.
:mod:`tlbook.sources.graphs` reads it first, and refuses one that does more than compute.
"""

import copy
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from tlbook.sources import hubs
from tlbook.sources.encoders import ImageEncoder, SavedModelEncoder, TextEncoder
from tlbook.sources.imagenets import READERS


def load(
    handle: str | Path,
    revision: str | None = None,
    pool: str | None = None,
    normalize: bool | None = None,
) -> TextEncoder | ImageEncoder | SavedModelEncoder:
    """Load a pretrained encoder in eval mode, on the CPU, in float32.

    Parameters
    ----------
    handle : str or Path
        The encoder, tried in this order:

        - a packaged name; ``python -m tlbook models`` lists them;
        - a local folder: a text encoder with its tokenizer, as ``save_pretrained`` writes it, or a
          SavedModel;
        - the address of a SavedModel on TensorFlow Hub or Kaggle Models;
        - the id of a text encoder on the Hugging Face Hub, "owner/name".
    revision : str, optional
        Branch, tag or commit, for an id on the Hugging Face Hub only.
    pool : {"mean", "cls"}, optional
        How a text encoder turns the vectors of the tokens into one; see :class:`TextEncoder`. By
        default the model's own sentence-transformers files decide, or it is "mean".
    normalize : bool, optional
        Whether a text encoder scales vectors to length one. By default the model's own
        sentence-transformers files decide, or it does not.

    Returns
    -------
    TextEncoder, ImageEncoder or SavedModelEncoder
        The encoder.

    Raises
    ------
    FileNotFoundError
        If there is no such model, or it is on a hub that cannot be reached.
    ValueError
        If the model cannot be used: its own code would have to run, weights are missing or are not
        plain tensors, there is no tokenizer, or its pooling is not known here. Also if a SavedModel
        does not turn a batch of strings or images into vectors, or does more than that.
    tlbook.sources.assets.AssetError
        If it is a packaged model that cannot be fetched.
    """
    name = str(handle)
    place = hubs.folder(handle, revision)
    saved_model = (place / "saved_model.pb").is_file()
    if (name in READERS or saved_model) and (pool, normalize) != (None, None):
        raise ValueError(f"{name!r} makes its vectors itself: pool and normalize are for tokens.")
    if name in READERS:
        return READERS[name](name, place)
    return _saved_model(name, place) if saved_model else _text_encoder(name, place, pool, normalize)


def classifier(
    handle: str | Path,
    classes: Sequence[str],
    *,
    seed: int = 0,
    revision: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a pretrained text encoder under a new classification head, for fine-tuning.

    The model is what ``AutoModelForSequenceClassification`` builds on the encoder, in eval mode, on
    the CPU, in float32. Called with token ids it gives logits (n, classes). The head is always new,
    also where the checkpoint has one. So is a pooler that the checkpoint lacks. Both depend on the
    seed alone, and the random state of the caller stays as it is.

    Parameters
    ----------
    handle : str or Path
        The text encoder, as for :func:`load`.
    classes : sequence of str
        The names of the classes, in the order of the logits. They go into the model's
        configuration, where ``transformers.pipeline`` finds them.
    seed : int, default 0
        Seed of the new weights.
    revision : str, optional
        Branch, tag or commit, for an id on the Hugging Face Hub only.

    Returns
    -------
    model : transformers.PreTrainedModel
        The model with its new head.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer. ``tokenizer.model_max_length`` is what the model can read, in tokens.

    Raises
    ------
    FileNotFoundError
        If :func:`load` would raise it.
    ValueError
        If :func:`load` would raise it, the handle is of an image encoder, there are fewer than two
        classes, two classes have the same name, or transformers has no classifier on this encoder.
    tlbook.sources.assets.AssetError
        If it is a packaged model that cannot be fetched.
    """
    name, classes = str(handle), [str(label) for label in classes]
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise ValueError(f"classes are two or more different names, not {classes}.")
    if name in READERS:
        raise ValueError(
            f"{name!r} is an image encoder, and this makes classifiers of texts. For images, put a "
            "linear layer on load(...).model."
        )
    body, tokenizer, new = _transformer(name, hubs.folder(handle, revision))
    config = copy.deepcopy(body.config)
    config.id2label = dict(enumerate(classes))
    config.label2id = {label: index for index, label in enumerate(classes)}
    config.problem_type = "single_label_classification"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well
        try:
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise ValueError(
                f"transformers has no text classifier on {name!r}, which is of the type "
                f"{config.model_type!r}."
            ) from error
    weights = {key: value for key, value in body.state_dict().items() if key not in new}
    report = model.base_model.load_state_dict(weights, strict=False)
    if lost := [
        key
        for key in (*report.missing_keys, *report.unexpected_keys)
        if not key.startswith("pooler.")
    ]:
        raise ValueError(f"The classifier on {name!r} has another body: {', '.join(lost[:3])} ...")
    return model.eval(), tokenizer


# Text


def _text_encoder(
    handle: str, folder: Path, pool: str | None, normalize: bool | None
) -> TextEncoder:
    own_pool, own_normalize = _sentence_settings(handle, folder, pool)
    model, tokenizer, _ = _transformer(handle, folder)
    # Never used here, and in many checkpoints absent, that is, random: a different model each time
    if hasattr(model, "pooler"):
        model.pooler = None
    return TextEncoder(
        handle=handle,
        model=model,
        tokenizer=tokenizer,
        pool=own_pool if pool is None else pool,
        normalize=own_normalize if normalize is None else normalize,
        max_length=tokenizer.model_max_length,
        dimension=model.config.hidden_size,
    )


def _transformer(
    handle: str, folder: Path
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, set[str]]:
    """A transformer in eval mode, its tokenizer with the length it may have, and what is random:
    the names of weights that the checkpoint lacks, which can be the pooler's only."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{handle!r} has no config.json: it is not a model of transformers.")
    _refuse_foreign(handle, folder)
    with _quiet(), torch.random.fork_rng(devices=[]):
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model, report = AutoModel.from_pretrained(
                folder,
                dtype=torch.float32,
                weights_only=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
        except Exception as error:  # transformers raises many kinds
            line = " ".join(str(error).split())
            raise ValueError(f"{handle!r} cannot be loaded as a text encoder: {line}") from error
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ValueError(
            f"{handle!r} has no tokenizer: no vocabulary was found beside the weights."
        )
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise ValueError(
            f"{handle!r} lacks weights for {', '.join(sorted(missing)[:3])} and so on "
            f"({len(missing)} in all): they would be random."
        )
    own = _read(folder / "sentence_bert_config.json")
    limits = (
        own.get("max_seq_length") if isinstance(own, dict) else None,
        tokenizer.model_max_length,
        getattr(model.config, "max_position_embeddings", None),
    )
    try:
        tokenizer.model_max_length = min(limit for limit in limits if limit)
    except TypeError as error:
        raise ValueError(f"{handle!r} reads no number of tokens: {limits}.") from error
    return model.eval(), tokenizer, set(report["missing_keys"])


def _refuse_foreign(handle: str, folder: Path) -> None:
    """Refuse a folder that has transformers or peft take something from outside of it.

    An adapter makes peft import a module by its name, an attention or expert implementation named
    like a repository is code from the Hub, and a library of quantization brings formats of its own.
    """
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{handle!r} is, or has, an adapter on a model (adapter_config.json), which is not "
            "loaded here. Merge it into its model with peft's merge_and_unload, and save that."
        )
    for key, value in _settings(_read(folder / "config.json")):
        if key == "quantization_config" and value:
            raise ValueError(f"{handle!r} is quantized; a model in plain tensors is needed.")
        if key.endswith("_implementation") and "/" in str(value):
            raise ValueError(f"{handle!r} asks for code from the Hub: {key} is {value!r}.")
    for key, value in _settings(_read(folder / "tokenizer_config.json")):
        if key in ("init_inputs", "vocab", "merges") or key.endswith("_file"):
            for name in value if isinstance(value, list) else [value]:
                if isinstance(name, str) and _is_foreign(folder, name):
                    raise ValueError(
                        f"{handle!r} reads {key} of its tokenizer from {name!r}, which is not "
                        "inside it."
                    )
    for index in folder.glob("*.index.json"):
        content = _read(index)
        for _, name in _settings(content.get("weight_map") if isinstance(content, dict) else None):
            if isinstance(name, str) and not _is_plain(name):
                raise ValueError(
                    f"{handle!r} reads weights from {name!r}, says {index.name}, which is not "
                    "inside it."
                )


def _settings(part: object) -> Iterator[tuple[str, object]]:
    """Each key of a configuration with its value, at any depth."""
    left = [part]
    while left:
        part = left.pop()
        if isinstance(part, dict):
            yield from part.items()
            left += part.values()
        elif isinstance(part, list):
            left += part


def _is_foreign(folder: Path, name: str) -> bool:
    """Whether a name leads to a file that is not in the folder; old paths lead nowhere."""
    with suppress(OSError, ValueError):
        return Path(name).is_file() and not Path(name).resolve().is_relative_to(folder.resolve())
    return False


def _is_plain(name: str) -> bool:
    return not set("/\\\0") & set(name) and name not in ("", ".", "..")


def _sentence_settings(handle: str, folder: Path, pool: str | None) -> tuple[str, bool]:
    """Pooling and normalization as the files of sentence-transformers say."""
    if pool not in (None, "mean", "cls"):
        raise ValueError(f"pool is 'mean' or 'cls', not {pool!r}.")
    try:
        return _sentence_files(handle, folder, pool)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{handle!r} has files of sentence-transformers (modules.json and those it names) that "
            f"make no sense: {error!r}."
        ) from error


def _sentence_files(handle: str, folder: Path, pool: str | None) -> tuple[str, bool]:
    steps = {step["type"].split(".")[-1]: step["path"] for step in _read(folder / "modules.json")}
    if foreign := [path for path in steps.values() if ".." in path or Path(path).is_absolute()]:
        raise ValueError(f"{handle!r} has the folder {foreign[0]!r}, which is not inside it.")
    if pool is None and (unknown := set(steps) - {"Transformer", "Pooling", "Normalize"}):
        raise ValueError(
            f"{handle!r} also applies {', '.join(sorted(unknown))}, which is not known here. "
            "Give pool='mean' or pool='cls' to do without."
        )
    config = _read(folder / steps.get("Pooling", "1_Pooling") / "config.json")
    # Two generations of the file: {"pooling_mode": "mean"}, {"pooling_mode_mean_tokens": true, ...}
    own = config.get("pooling_mode") or "+".join(
        re.sub("pooling_mode_|_tokens?", "", key)
        for key, value in config.items()
        if key.startswith("pooling_mode_") and value is True
    )
    if pool is None and own not in ("", "mean", "cls"):
        raise ValueError(
            f"{handle!r} pools by {own!r}, which is not known here. Give pool='mean' or pool='cls'."
        )
    return own or "mean", "Normalize" in steps


def _read(file: Path) -> dict | list:
    try:
        return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{file} is not JSON that can be read: {error}.") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the bar that transformers shows for a load of milliseconds, and without its report
    on weights, which is judged here."""
    shown, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


# SavedModels


def _saved_model(handle: str, place: Path) -> SavedModelEncoder:
    import tensorflow as tf
    import tensorflow_hub

    with suppress(ImportError):  # registers the operations of tokenizers, if the model has one
        import tensorflow_text  # noqa: F401
    try:
        model = tensorflow_hub.load(str(place))
        signatures = [f.structured_input_signature[0] for f in model.__call__.concrete_functions]
        spec = signatures[0][0]
    except Exception as error:  # TensorFlow raises many kinds
        line = " ".join(str(error).split())
        raise ValueError(
            f"{handle!r} cannot be loaded as an encoder: {line}. If it has signatures only, "
            f"tensorflow_hub.load({str(place)!r}).signatures lists them."
        ) from error
    shape = tuple(spec.shape)
    if spec.dtype == tf.string and len(shape) == 1:
        modality, size, example = "text", None, tf.constant(["a text"])
    elif spec.dtype == tf.float32 and len(shape) == 4 and shape[3] == 3:
        size = shape[1] or 224
        modality, example = "image", tf.zeros((1, size, size, 3))
    else:
        raise ValueError(f"{handle!r} takes {spec}: neither strings (n,) nor images (n, h, w, 3).")
    encoder = SavedModelEncoder(handle, place, model, modality, size, 0)
    vectors = encoder.embed(example)
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2:
        raise ValueError(f"{handle!r} does not give one vector per input.")
    encoder.dimension = vectors.shape[1]
    return encoder
