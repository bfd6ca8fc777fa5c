"""What turns texts or images into vectors: a network with its preprocessing and its pooling."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tlbook.sources.cache import digest


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
    model: nn.Module
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dimension: int

    @property
    def fingerprint(self) -> str:
        """A hash of all that turns an image into a vector; it follows the weights of now."""
        return _fingerprint(self.model, str((self.size, self.mean, self.std)))


@dataclass
class SavedModelEncoder:
    """A SavedModel in TensorFlow Hub's format: called with a batch, it gives a vector for each.

    ``modality`` is "text": a batch is strings (n,); or "image": float32 from 0 to 1,
    (n, size, size, 3), in NHWC order, the hub's convention for images.
    """

    handle: str
    folder: Path
    model: Any  # what tensorflow_hub.load gives
    modality: str
    size: int | None  # of images
    dimension: int

    @property
    def fingerprint(self) -> str:
        """A hash of all that turns an input into a vector; it follows the weights of now."""
        # The files too: a model saved without its list of variables has weights all the same
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        variables = getattr(self.model, "variables", ())
        return digest(*(file.read_bytes() for file in files), *(v.numpy() for v in variables))

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Vectors (n, dimension) of a batch, in inference mode."""
        import tensorflow as tf

        options = {"training": False} if self._has_modes else {}
        return self.model(tf.constant(batch), **options).numpy()

    @property
    def _has_modes(self) -> bool:
        names = self.model.__call__.function_spec.fullargspec.args
        return "training" in names


def _fingerprint(model: nn.Module, settings: str) -> str:
    # All weights are hashed each time, so that a fine-tuned model can never pass for the one it
    # came from. It takes about 0.1 s for the 90 MB of MiniLM.
    parts = [str(model), settings]
    for name, tensor in model.state_dict().items():
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        parts += [name, str(tensor.dtype), str(tuple(tensor.shape)), raw.numpy()]
    return digest(*parts)
