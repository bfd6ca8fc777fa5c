"""The frozen first layers of a model, computed once for all epochs."""

import copy
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn
from tqdm.auto import tqdm

from tlbook.learning.features import TOKENS, batches_by_length
from tlbook.learning.freezing import eval_mode
from tlbook.sources import imagenets


def frozen_prefix(
    model: nn.Module, columns: Mapping[str, Sequence], batch_size: int = 32, progress: bool = True
) -> tuple[nn.Module, dict[str, Sequence]]:
    """Compute the outputs of the frozen first layers once, to train only the rest on them.

    Training the rest on the new columns has the same gradients as training the whole model on the
    old ones, and is several times faster. The rest shares its layers with the model: training one
    trains the other.

    Parameters
    ----------
    model : torch.nn.Module
        A BERT-like model of transformers (embeddings, then ``encoder.layer``), or a
        :class:`tlbook.sources.imagenets.MobileNet`, frozen by
        :func:`tlbook.learning.freezing.freeze`.
    columns : mapping of str to sequence
        Columns for :class:`tlbook.learning.batches.Batches`: ``input_ids`` of different lengths for
        a text model, ``x`` (n, 3, height, width) for an image model. Others are passed on. Augment
        inputs at random before: the same activations serve every epoch.
    batch_size : int, optional
        Images computed at once, or texts of 32 tokens (twice as many texts of 16).
    progress : bool, optional
        Show a bar when the work takes longer than five seconds.

    Returns
    -------
    rest : torch.nn.Module
        The rest of the model.
    columns : dict of str to sequence
        Columns for the rest, with ``inputs_embeds`` in the place of ``input_ids``, or a new ``x``.
        The activations lie in a temporary file, not in memory. It is removed when nothing refers to
        the columns.

    Raises
    ------
    ValueError
        The first layer is trained, so nothing can be computed once.
    TypeError
        The model is of neither kind.
    """
    if isinstance(model, imagenets.MobileNet):
        count = _frozen_layers([model.stem, *model.blocks]) - 1
        prefix = nn.Sequential(model.stem, *model.blocks[:count])
        rest = _with(model, stem=nn.Identity(), blocks=model.blocks[count:])
        name, run = "x", partial(_activate_images, prefix)
    elif hasattr(base := getattr(model, "base_model", None), "embeddings"):
        layers = base.encoder.layer
        count = _frozen_layers([base.embeddings, *layers]) - 1
        first, last = (_with(base.encoder, layer=part) for part in (layers[:count], layers[count:]))
        prefix = _with(base, encoder=first, pooler=None)
        end = {model.base_model_prefix: _with(base, embeddings=_PassOn(), encoder=last)}
        rest = _with(model, **end)
        name, run = "input_ids", partial(_activate_texts, prefix)
    else:
        raise TypeError(
            f"{type(model).__name__} is neither a BERT-like model of transformers nor a MobileNet"
        )
    hidden = {} if progress else {"disable": True}
    with (
        tqdm(total=len(columns[name]), desc="frozen prefix", delay=5, leave=False, **hidden) as bar,
        torch.inference_mode(),
        eval_mode(prefix),
    ):
        activations = run(columns[name], batch_size, bar)
    others = {key: column for key, column in columns.items() if key != name}
    return rest, {"x" if name == "x" else "inputs_embeds": activations} | others


class _PassOn(nn.Module):
    """Take the place of the embeddings, whose outputs are there already."""

    def forward(self, inputs_embeds: torch.Tensor, **_) -> torch.Tensor:
        return inputs_embeds


def _frozen_layers(layers: Sequence[nn.Module]) -> int:
    """How many of the first layers are frozen."""
    trained = [any(p.requires_grad for p in layer.parameters()) for layer in layers]
    count = trained.index(True) if True in trained else len(layers)
    if not count:
        raise ValueError(
            "The first layer is trained, so there is nothing to compute once. Freeze it first: "
            "freeze(model, last_layers(model, 2), lr)"
        )
    return count


def _with(module: nn.Module, **children: nn.Module | None) -> nn.Module:
    """A copy of a module with other children; it shares the rest, parameters too."""
    twin = copy.copy(module)
    twin._modules = module._modules | children
    return twin


def _activate_texts(prefix: nn.Module, ids: Sequence, batch_size: int, bar: tqdm) -> list:
    lengths = np.array([len(text) for text in ids])
    ends = lengths.cumsum()
    flat = _on_disk((ends[-1], prefix.config.hidden_size))
    rows = [flat[end - length : end] for end, length in zip(ends, lengths, strict=True)]
    order = np.argsort(-lengths)
    device = next(prefix.parameters()).device
    done = 0
    for texts in batches_by_length(
        [torch.as_tensor(ids[row]) for row in order], batch_size * TOKENS
    ):
        batch = order[done : done + len(texts)]
        done += len(texts)
        padded = nn.utils.rnn.pad_sequence(texts, batch_first=True).to(device)
        mask = (torch.arange(padded.shape[1]) < torch.as_tensor(lengths[batch])[:, None]).long()
        hidden = prefix(input_ids=padded, attention_mask=mask.to(device)).last_hidden_state.cpu()
        for row, vectors in zip(batch, hidden, strict=True):
            rows[row][:] = vectors[: lengths[row]].numpy()
        bar.update(len(batch))
    return rows


def _activate_images(prefix: nn.Module, x: Sequence, batch_size: int, bar: tqdm) -> np.ndarray:
    device = next(prefix.parameters()).device
    activations = None
    for start in range(0, len(x), batch_size):
        hidden = prefix(torch.as_tensor(x[start : start + batch_size]).to(device)).cpu().numpy()
        if activations is None:
            activations = _on_disk((len(x), *hidden.shape[1:]))
        activations[start : start + batch_size] = hidden
        bar.update(len(hidden))
    return activations


def _on_disk(shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array in a file without a name, which is removed when nothing refers to it."""
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.float32, shape=shape)
