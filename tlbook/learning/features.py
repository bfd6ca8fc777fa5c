"""Compute once what is frozen: the features of an encoder.

Features come in the order of the inputs and are cached by content.

Padding decides how fast texts are encoded. They are sorted by length, so that the texts of a batch
are about as long as each other. A batch holds a number of tokens, not of texts, so that it fits the
processor's cache whether texts are short or long.
"""

import warnings
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from tlbook import checks
from tlbook.sources.cache import array, digest
from tlbook.sources.encoders import ImageEncoder, SavedModelEncoder, TextEncoder

TEXTS, IMAGES = 32, 4  # in a batch: what a CPU's cache holds, and so the fastest there
TOKENS = 32  # that a text counts for
CHARACTERS = 128  # the same, for a model that takes strings
VERSION = "1"  # of the features in the cache: raise it when a change here changes them


def features(
    encoder: TextEncoder | ImageEncoder | SavedModelEncoder,
    inputs: Sequence[str] | np.ndarray,
    batch_size: int | None = None,
    cache: bool = True,
    progress: bool = True,
) -> np.ndarray:
    """Compute one vector for each text or image with an encoder that stays as it is.

    Parameters
    ----------
    encoder : TextEncoder, ImageEncoder or SavedModelEncoder
        What :func:`tlbook.sources.pretrained.load` returns, in eval mode. It runs on the device of
        its model. A SavedModel of TensorFlow Hub always runs in inference mode.
    inputs : sequence of n str, or (n, height, width, 3) numpy.ndarray of uint8
        Texts, or images; see :func:`preprocess`.
    batch_size : int, optional
        Images in a batch, or texts of 32 tokens (twice as many texts of 16). By default it is what
        is fastest on a CPU: 4 images or 32 texts.
    cache : bool, default True
        Whether to keep the result on disk, by weights, preprocessing, pooling and inputs.
    progress : bool, default True
        Whether to show a progress bar when the work takes longer than five seconds.

    Returns
    -------
    (n, encoder.dimension) numpy.ndarray of float32
        The features, in the order of the inputs. They do not depend on the batches, except for
        rounding (1e-6 for texts of unit length, 1e-4 for images).

    Raises
    ------
    ValueError
        If the model or a part of it is in training mode, the inputs are not what the encoder takes,
        or ``batch_size`` is below 1. Nothing random can thus come before or into features that are
        computed once.
    """
    saved_model = isinstance(encoder, SavedModelEncoder)
    if not saved_model and any(module.training for module in encoder.model.modules()):
        raise ValueError(
            "The model is in training mode: dropout and batch statistics would make its features "
            "random. Call encoder.model.eval() first."
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}.")
    if saved_model:
        text = encoder.modality == "text"
        prepared = np.array(_checked_texts(inputs), object) if text else _checked_images(inputs)
        key = [prepared]
        embed, unit = _embed_by_saved_model, encoder.modality
    elif isinstance(encoder, TextEncoder):
        prepared = token_ids(encoder, inputs)
        key = [np.array([len(text) for text in prepared]), np.concatenate(prepared)]
        embed, unit = _embed_texts, "token"  # a bar of texts would start slow: long ones are first
    else:
        prepared = _checked_images(inputs)
        key = [prepared]
        embed, unit = _embed_images, "image"

    def compute() -> np.ndarray:
        hidden = {} if progress else {"disable": True}  # by default $TQDM_DISABLE decides
        bar = tqdm(desc=encoder.handle, unit=unit, unit_scale=True, delay=5, leave=False, **hidden)
        with bar, torch.inference_mode():
            return embed(encoder, prepared, batch_size, bar)

    # What a hook does to the outputs is not in the fingerprint: nothing is kept, nothing read.
    if not cache or (not saved_model and _hooked(encoder.model)):
        return compute()
    return array("features", digest(VERSION, encoder.fingerprint, *key), compute)


def _hooked(model: torch.nn.Module) -> bool:
    everywhere = torch.nn.modules.module
    return bool(
        everywhere._global_forward_hooks
        or everywhere._global_forward_pre_hooks
        or any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    )


# Texts


def token_ids(encoder: TextEncoder, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Compute the token ids of each text, cut to what the encoder reads.

    A warning says how many texts were cut.

    Parameters
    ----------
    encoder : TextEncoder
        The encoder whose tokenizer is used. Texts are cut to ``encoder.max_length`` tokens.
    texts : sequence of str
        One or more texts.

    Returns
    -------
    list of tuple of int
        The token ids of each text, special tokens included.

    Raises
    ------
    ValueError
        If ``texts`` is not a collection of one or more strings, or a text has no token.
    """
    texts = _checked_texts(texts)
    options = {"padding": False, "return_attention_mask": False, "verbose": False}
    ids = encoder.tokenizer(texts, truncation=True, max_length=encoder.max_length, **options)
    tokens = [tuple(text) for text in ids["input_ids"]]
    if () in tokens:
        raise ValueError(f"Text {tokens.index(())} is empty for {encoder.handle}: it has no token.")
    full = [text for text, cut in zip(texts, tokens, strict=True) if len(cut) == encoder.max_length]
    whole = encoder.tokenizer(full, truncation=False, **options)["input_ids"] if full else []
    if count := sum(len(text) > encoder.max_length for text in whole):
        warnings.warn(
            f"{count} of {len(texts)} texts are longer than the {encoder.max_length} tokens that "
            f"{encoder.handle} reads: only their beginning counts.",
            stacklevel=3,
        )
    return tokens


def _checked_texts(texts: Sequence[str]) -> list[str]:
    return checks.texts("texts", _sized(texts, "a list of texts"))


def pad(encoder: TextEncoder, tokens: Sequence[tuple[int, ...]]) -> tuple[torch.Tensor, ...]:
    """Pad token ids to one length.

    Parameters
    ----------
    encoder : TextEncoder
        The encoder that is to read them.
    tokens : sequence of tuple of int
        Token ids of n texts.

    Returns
    -------
    ids : (n, longest) torch.Tensor of int64
        Token ids, on the device of the model.
    mask : (n, longest) torch.Tensor of int64
        Attention mask, on the same device: 1 for a token and 0 for padding.
    """
    shape = (len(tokens), max(map(len, tokens)))
    ids = np.full(shape, encoder.tokenizer.pad_token_id or 0)
    mask = np.zeros(shape, dtype=np.int64)
    for row, text in enumerate(tokens):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    device = encoder.model.device
    return torch.from_numpy(ids).to(device), torch.from_numpy(mask).to(device)


def mean_pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Compute the mean over the tokens of each text, without padding.

    Parameters
    ----------
    hidden : (n, tokens, d) torch.Tensor
        Vectors of the tokens.
    mask : (n, tokens) torch.Tensor
        Attention mask: 1 for a token and 0 for padding.

    Returns
    -------
    (n, d) torch.Tensor
        The means. A row without tokens gives zeros.
    """
    mask = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)


def _embed_texts(
    encoder: TextEncoder, tokens: list[tuple[int, ...]], batch_size: int | None, bar: tqdm
) -> np.ndarray:
    # A text that comes twice is embedded once. Longest first: if memory ends, it ends at once.
    distinct = sorted(set(tokens), key=lambda text: (len(text), text), reverse=True)
    bar.total = sum(map(len, distinct))
    vectors = []
    for batch in batches_by_length(distinct, (batch_size or TEXTS) * TOKENS):
        ids, mask = pad(encoder, batch)
        hidden = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        pooled = mean_pool(hidden, mask) if encoder.pool == "mean" else hidden[:, 0]
        vectors.append(F.normalize(pooled) if encoder.normalize else pooled)
        bar.update(sum(map(len, batch)))
    row = {text: index for index, text in enumerate(distinct)}
    return torch.cat(vectors).cpu().numpy()[[row[text] for text in tokens]]


def batches_by_length(texts: list[Sequence], size: int) -> Iterator[list[Sequence]]:
    """Cut sorted texts into batches of a limited size.

    Parameters
    ----------
    texts : list of sequence
        Texts as token ids or as strings, the longest first.
    size : int
        Tokens, or characters of strings, that a batch holds at most once it is padded. A text that
        is longer forms a batch by itself.

    Yields
    ------
    list of sequence
        The texts of a batch, at least one.
    """
    start = 0
    while start < len(texts):
        count = max(1, size // max(1, len(texts[start])))
        yield texts[start : start + count]
        start += count


# Images


def preprocess(encoder: ImageEncoder, images: np.ndarray) -> torch.Tensor:
    """Turn images into what the network reads.

    The whole image is resized without keeping its proportions. Crop it beforehand if they matter.

    Parameters
    ----------
    encoder : ImageEncoder
        The encoder that is to read them.
    images : (n, height, width, 3) numpy.ndarray of uint8
        Images with values from 0 to 255.

    Returns
    -------
    (n, 3, size, size) torch.Tensor of float32
        Normalized pixels, on the device of the model. ``size`` is the encoder's.

    Raises
    ------
    ValueError
        If the images are not a uint8 array of that shape, or there are none.
    """
    device = next(encoder.model.parameters()).device
    pixels = _resized(_checked_images(images), encoder.size, device)
    mean, std = (
        torch.tensor(values, device=device).view(3, 1, 1) for values in (encoder.mean, encoder.std)
    )
    return (pixels - mean) / std


def _resized(images: np.ndarray, size: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """float32 (n, 3, size, size), from 0 to 255."""
    pixels = torch.from_numpy(images.copy()).to(device)  # whatever the strides
    # A view: memory stays channels last, faster on a CPU
    pixels = pixels.permute(0, 3, 1, 2).float()
    if pixels.shape[2:] != (size, size):
        pixels = F.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    return pixels


def _checked_images(images: np.ndarray) -> np.ndarray:
    _sized(images, "an array of images")
    if not isinstance(images, np.ndarray):
        raise ValueError(f"Images are a numpy array, not {type(images).__name__}: np.stack them.")
    if images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape:
        hint = " Compose the alpha channel on a background." if images.shape[-1] == 4 else ""
        raise ValueError(f"Images have shape (n, height, width, 3), not {images.shape}.{hint}")
    if images.dtype != np.uint8:
        raise ValueError(f"Images are uint8 from 0 to 255, not {images.dtype}.")
    return images


def _embed_images(
    encoder: ImageEncoder, images: np.ndarray, batch_size: int | None, bar: tqdm
) -> np.ndarray:
    bar.total = len(images)
    vectors, size = [], batch_size or IMAGES
    for start in range(0, len(images), size):
        batch = preprocess(encoder, images[start : start + size])
        vectors.append(encoder.model.embed(batch))
        bar.update(len(batch))
    return torch.cat(vectors).cpu().numpy()


# SavedModels


def _embed_by_saved_model(
    encoder: SavedModelEncoder, inputs: np.ndarray, batch_size: int | None, bar: tqdm
) -> np.ndarray:
    bar.total = len(inputs)
    if encoder.modality == "image":
        order, size = np.arange(len(inputs)), batch_size or IMAGES
        batches = (inputs[start : start + size] for start in range(0, len(inputs), size))
        prepare = partial(_channels_last, encoder.size)
    else:
        # Texts of about one length side by side, since many models pad
        order = np.argsort([-len(text) for text in inputs], kind="stable")
        batches = batches_by_length(list(inputs[order]), (batch_size or TEXTS) * CHARACTERS)
        prepare = partial(np.array, dtype=object)
    vectors = []
    for batch in batches:
        vectors.append(encoder.embed(prepare(batch)))
        bar.update(len(batch))
    return np.concatenate(vectors)[np.argsort(order)]


def _channels_last(size: int, images: np.ndarray) -> np.ndarray:
    """Images as the hub has them: float32 (n, size, size, 3) from 0 to 1."""
    return (_resized(images, size) / 255).permute(0, 2, 3, 1).contiguous().numpy()


# Inputs


def _sized(inputs: Sequence, expected: str) -> Sequence:
    """The inputs, if they are a collection at rest and not empty."""
    if not (hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__")):
        raise ValueError(
            f"Inputs are {expected}, not {type(inputs).__name__}. Features are computed once: "
            "random augmentation, which draws anew each time, cannot come before them."
        )
    if len(inputs) == 0:
        raise ValueError(f"Inputs are {expected}, and there are none.")
    return inputs
