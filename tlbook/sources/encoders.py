"""Encoders of texts and images: a network with its preprocessing and its pooling."""

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
    """Hold a transformer with its tokenizer, and how to make one vector of a text.

    Attributes
    ----------
    handle : str
        Name of the model.
    model : transformers.PreTrainedModel
        The transformer.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer.
    pool : {"mean", "cls"}
        Mean over the tokens of the text, or the first token's vector.
    normalize : bool
        Whether each vector is scaled to length one.
    max_length : int
        Largest number of tokens, special ones included; longer texts are cut.
    dimension : int
        Length of the vectors.
    """

    handle: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    pool: str
    normalize: bool
    max_length: int
    dimension: int

    @property
    def fingerprint(self) -> str:
        """Hash all that turns tokens into a vector, with the weights as they are now."""
        config = self.model.config.to_dict()
        for key in ("_name_or_path", "transformers_version"):  # differ between equal models
            config.pop(key, None)
        settings = json.dumps([config, self.pool, self.normalize], sort_keys=True, default=str)
        return _fingerprint(self.model, settings)


@dataclass
class ImageEncoder:
    """Hold an image network, and what it expects of its input.

    Images are resized to ``size`` x ``size`` and become ``(pixel - mean) / std`` per channel, with
    pixels from 0 to 255.

    Attributes
    ----------
    handle : str
        Name of the model.
    model : torch.nn.Module
        The network.
    size : int
        Height and width of its images in pixels.
    mean : (float, float, float)
        Mean of red, green and blue, in 0..255.
    std : (float, float, float)
        Standard deviation of red, green and blue, in 0..255.
    dimension : int
        Length of the vectors.
    """

    handle: str
    model: nn.Module
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    dimension: int

    @property
    def fingerprint(self) -> str:
        """Hash all that turns an image into a vector, with the weights as they are now."""
        return _fingerprint(self.model, str((self.size, self.mean, self.std)))


@dataclass
class SavedModelEncoder:
    """Hold a SavedModel in TensorFlow Hub's format, which gives a vector for each input of a batch.

    Attributes
    ----------
    handle : str
        Name of the model.
    folder : pathlib.Path
        Folder of its files.
    model : object
        What ``tensorflow_hub.load`` returns.
    modality : {"text", "image"}
        A batch is (n,) strings, or float32 images (n, size, size, 3) in 0..1: in NHWC order, the
        hub's convention for images.
    size : int or None
        Height and width of images in pixels; None for texts.
    dimension : int
        Length of the vectors.
    """

    handle: str
    folder: Path
    model: Any
    modality: str
    size: int | None
    dimension: int

    @property
    def fingerprint(self) -> str:
        """Hash all that turns an input into a vector, with the weights as they are now."""
        # The files too: a model saved without its list of variables has weights all the same
        files = sorted(file for file in self.folder.rglob("*") if file.is_file())
        variables = getattr(self.model, "variables", ())
        return digest(*(file.read_bytes() for file in files), *(v.numpy() for v in variables))

    def embed(self, batch: np.ndarray) -> np.ndarray:
        """Compute the vectors of a batch, in inference mode.

        Parameters
        ----------
        batch : (n,) array of str, or (n, size, size, 3) float32 array
            Texts, or images in 0..1.

        Returns
        -------
        (n, dimension) array
            One vector for each input.
        """
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
