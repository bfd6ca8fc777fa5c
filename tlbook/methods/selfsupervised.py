"""Return losses that need no labels: reconstruction, contrast, hidden words."""

from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tlbook.learning.protocol import Loss


# --- pretraining without labels -----------------------------------------------------------------
#
# A ``seed`` fixes what a loss draws, call after call. With ``seed=None`` it draws from torch's own
# generator, whose state is in the checkpoints of ``fit``: so a resumed run goes on exactly.
def reconstruction() -> Loss:
    """Return the loss of an autoencoder, the mean squared error of its output.

    ``model(x)`` is compared with ``x = batch["x"]``.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. It raises ValueError where the output has another shape than the input.
    """

    def loss_fn(model, batch):
        return _squared_error(model(batch["x"]), batch["x"]).mean(), {}

    return loss_fn


def denoising(noise: float = 0.1, seed: int | None = 0) -> Loss:
    """Return the loss of a denoising autoencoder, the mean squared error of its output.

    ``model(x + noise)`` is compared with the clean ``x = batch["x"]``. The noise is Gaussian.
    Vincent et al. 2008 (*Extracting and Composing Robust Features with Denoising Autoencoders*) set
    pixels to zero instead.

    Parameters
    ----------
    noise : float, default 0.1
        Standard deviation of the noise, in units of ``x``.
    seed : int or None, default 0
        Seed of the noise. With None, the noise is drawn from torch's own generator.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. It raises ValueError where the output has another shape than the input.

    Raises
    ------
    ValueError
        If ``noise`` is negative.
    """
    if noise < 0:
        raise ValueError(f"noise={noise} is a standard deviation and cannot be negative")
    generator = _generator(seed)

    def loss_fn(model, batch):
        x = batch["x"]
        added = noise * torch.randn(x.shape, generator=generator).to(x)
        return _squared_error(model(x + added), x).mean(), {}

    return loss_fn


def masked_reconstruction(
    patch: int = 8, share: float = 0.5, seed: int | None = 0, fill: float = 0.5
) -> Loss:
    """Return a loss that hides square patches of images and compares their reconstruction.

    The book explains it in *Pretraining without labels*.

    The loss is the mean squared error of hidden pixels only. In each image of ``batch["x"]``, (n,
    channels, height, width), equally many patches are hidden under gray, at other places in each.
    The idea is that of masked autoencoders (He et al. 2022, arXiv 2111.06377) in its plain
    convolutional form. Here the network sees the gray patches. The paper's transformer leaves
    hidden patches out, and so saves most of the work.

    Parameters
    ----------
    patch : int, default 8
        Side of a patch, in pixels.
    share : float, default 0.5
        Share of the patches to hide, between 0 and 1.
    seed : int or None, default 0
        Seed of the choice of patches. With None, it is drawn from torch's own generator.
    fill : float, default 0.5
        Value of hidden pixels, in units of ``x``.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. It raises ValueError where the images cannot be cut into such patches, the share
        hides none or all of them, or the output has another shape than the input.

    Raises
    ------
    ValueError
        If ``patch`` or ``share`` is out of range.
    """
    if patch < 1 or not 0 < share < 1:
        raise ValueError(f"patch={patch} must be at least 1, and share={share} between 0 and 1")
    generator = _generator(seed)

    def loss_fn(model, batch):
        x = batch["x"]
        hidden = hidden_patches(x, patch, share, generator)
        errors = _squared_error(model(x.masked_fill(hidden, fill)), x)
        return errors[hidden.expand_as(x)].mean(), {}

    return loss_fn


def hidden_patches(
    images: torch.Tensor, patch: int, share: float, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Choose the pixels that :func:`masked_reconstruction` hides.

    Parameters
    ----------
    images : (n, channels, height, width) torch.Tensor
        Images, of which only the shape and the device matter.
    patch : int
        Side of a patch, in pixels.
    share : float
        Share of the patches to hide, between 0 and 1.
    generator : torch.Generator, optional
        Source of the choice. By default it is torch's own generator.

    Returns
    -------
    (n, 1, height, width) torch.Tensor of bool
        True for hidden pixels.

    Raises
    ------
    ValueError
        If height or width is not a multiple of ``patch``, or the share hides none or all of the
        patches.
    """
    n, _, height, width = images.shape
    rows, columns = height // patch, width // patch
    count = round(share * rows * columns)
    if height % patch or width % patch or not 0 < count < rows * columns:
        raise ValueError(
            f"images of {height} x {width} pixels cannot have a share of {share} of their patches "
            f"of {patch} x {patch} hidden: sides must be multiples of the patch, and some patches "
            "hidden and some in sight"
        )
    order = torch.rand(n, rows * columns, generator=generator).argsort(1).argsort(1)
    hidden = (order < count).view(n, 1, rows, columns).to(images.device)
    return hidden.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


def nt_xent(z1: torch.Tensor, z2: torch.Tensor, temperature: float = 0.5) -> torch.Tensor:
    """Compute the contrastive loss of SimCLR: each view must find the other view of its example.

    The book explains it in *Pretraining without labels*.

    Each of the 2n vectors is classified among the 2n - 1 others by cosine similarity over
    ``temperature``. The loss is the mean cross-entropy (Chen et al. 2020, arXiv 2002.05709). It
    compares the examples of a batch with each other, so a loss of your own around it must set
    ``loss_fn.whole = True``.

    Parameters
    ----------
    z1 : (n, d) torch.Tensor
        Vectors of the first view of each example, two examples or more.
    z2 : (n, d) torch.Tensor
        Vectors of the second view.
    temperature : float, default 0.5
        Number that similarities are divided by, above 0.

    Returns
    -------
    () torch.Tensor
        The loss, in nats.

    Raises
    ------
    ValueError
        If the views differ in shape, there are fewer than two examples, or ``temperature`` is not
        positive.
    """
    if temperature <= 0:
        raise ValueError(f"temperature={temperature} must be positive")
    similarity, partner = _similarity(z1, z2)
    return F.cross_entropy(similarity / temperature, partner)


def simclr(
    temperature: float = 0.5,
    views: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]] | None = None,
) -> Loss:
    """Return the loss :func:`nt_xent` on two views of each example of a batch.

    The model is an encoder and a projection. It sees both views as one batch, as in the paper. The
    examples of a batch are compared with each other, so the loss asks for batches in one piece.

    Parameters
    ----------
    temperature : float, default 0.5
        Number that similarities are divided by, above 0.
    views : callable, optional
        Function that makes two views of ``batch["x"]``, such as
        :func:`tlbook.learning.augment.two_views`, new ones in every epoch. By default the views are
        ``batch["view1"]`` and ``batch["view2"]``.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold ``accuracy``, the share of views that are nearest to their other
        view, and ``alignment``, the mean cosine similarity of the two.
    """

    def loss_fn(model, batch):
        view1, view2 = views(batch["x"]) if views else (batch["view1"], batch["view2"])
        z1, z2 = model(torch.cat([view1, view2])).chunk(2)
        similarity, partner = _similarity(z1.detach(), z2.detach())
        found = (similarity.argmax(1) == partner).float().mean()
        alignment = similarity.gather(1, partner[:, None]).mean()
        logs = {"accuracy": found.item(), "alignment": alignment.item()}
        return nt_xent(z1, z2, temperature), logs

    loss_fn.whole = True  # a view is looked for among all views of a batch
    return loss_fn


def mask_tokens(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    *,
    mask: int,
    special: Sequence[int],
    vocabulary_size: int,
    share: float = 0.15,
    generator: torch.Generator | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Hide tokens of a whole batch as BERT does (Devlin et al. 2019, arXiv 1810.04805).

    The book explains it in *Pretraining without labels*.

    Each token is chosen with probability ``share``. Of the chosen tokens, 80 % become ``mask``, 10
    % become a random token of the vocabulary, and 10 % stay as they are.

    Parameters
    ----------
    input_ids : (n, length) torch.Tensor of int
        Token ids.
    attention_mask : (n, length) torch.Tensor, optional
        0 for positions that are never chosen.
    mask : int
        Id of the mask token.
    special : sequence of int
        Ids that are never chosen: padding, beginnings and ends of texts, the mask itself.
    vocabulary_size : int
        Number of tokens in the vocabulary.
    share : float, default 0.15
        Probability to choose a token, above 0 and at most 1.
    generator : torch.Generator, optional
        Source of the choice. By default it is torch's own generator.

    Returns
    -------
    ids : (n, length) torch.Tensor
        Token ids after masking.
    labels : (n, length) torch.Tensor
        Original ids of the chosen tokens, and -100 everywhere else, which cross-entropy ignores.

    Raises
    ------
    ValueError
        If ``share`` is outside 0..1, or ``mask`` or a special id is not in the vocabulary.
    """
    if not 0 < share <= 1:
        raise ValueError(f"share={share} must be above 0 and at most 1")
    if outside := [token for token in (mask, *special) if not 0 <= token < vocabulary_size]:
        raise ValueError(f"ids {outside} are not in a vocabulary of {vocabulary_size} tokens")
    device = input_ids.device
    eligible = ~torch.isin(input_ids, torch.tensor([mask, *special], device=device))
    if attention_mask is not None:
        eligible &= attention_mask.bool()
    draws = torch.rand(2, *input_ids.shape, generator=generator).to(device)
    words = torch.randint(vocabulary_size, input_ids.shape, generator=generator).to(input_ids)
    chosen = eligible & (draws[0] < share)
    ids = torch.where(chosen & (draws[1] < 0.8), mask, input_ids)
    ids = torch.where(chosen & (draws[1] >= 0.9), words, ids)
    return ids, input_ids.masked_fill(~chosen, -100)


def masked_lm(
    *,
    mask: int,
    special: Sequence[int],
    vocabulary_size: int,
    share: float = 0.15,
    seed: int | None = 0,
) -> Loss:
    """Return the loss of a masked language model, the cross-entropy of hidden tokens.

    :func:`mask_tokens` hides the tokens. Batches are as :class:`tlbook.learning.batches.Batches`
    makes them from ``input_ids``. Other tokens are hidden each time. The model is a transformers
    model for masked language modeling, such as :func:`tlbook.learning.networks.mini_bert`. The loss
    is the mean over the hidden tokens, as in BERT, and 0 where none is hidden. So a batch that is
    cut into parts gives the tokens of long texts a little less weight; ``loss_fn.whole = True``
    gives the exact mean.

    Parameters
    ----------
    mask : int
        Id of the mask token.
    special : sequence of int
        Ids that are never chosen: padding, beginnings and ends of texts, the mask itself.
    vocabulary_size : int
        Number of tokens in the vocabulary.
    share : float, default 0.15
        Probability to choose a token, above 0 and at most 1.
    seed : int or None, default 0
        Seed of the choice of tokens. With None, it is drawn from torch's own generator.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Its logs hold ``accuracy``, the share of hidden tokens that the model guesses
        right. It raises the errors of :func:`mask_tokens`.
    """
    generator = _generator(seed)

    def loss_fn(model, batch):
        ids, labels = mask_tokens(
            batch["input_ids"],
            batch.get("attention_mask"),
            mask=mask,
            special=special,
            vocabulary_size=vocabulary_size,
            share=share,
            generator=generator,
        )
        hidden = labels != -100
        logits = _logits_at(
            model, hidden, input_ids=ids, attention_mask=batch.get("attention_mask")
        )
        labels = labels[hidden]
        count = max(len(labels), 1)
        loss = F.cross_entropy(logits, labels, reduction="sum") / count
        return loss, {"accuracy": (logits.argmax(-1) == labels).sum().item() / count}

    return loss_fn


def _logits_at(model: nn.Module, hidden: torch.Tensor, **columns) -> torch.Tensor:
    """A masked language model's logits (k, vocabulary) of the k hidden tokens.

    The head of a small BERT, which weighs the whole vocabulary, is most of its work: so it sees the
    hidden tokens alone. That halves the time of a step at 8,000 tokens.
    """
    if hasattr(model, "bert") and hasattr(model, "cls"):
        return model.cls(model.bert(**columns).last_hidden_state[hidden])
    return model(**columns).logits[hidden]


def _generator(seed: int | None) -> torch.Generator | None:
    return None if seed is None else torch.Generator().manual_seed(seed)


def _squared_error(output: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    if output.shape != x.shape:  # torch would stretch one over the other
        raise ValueError(f"the model makes {tuple(output.shape)} of x of shape {tuple(x.shape)}")
    return (output - x) ** 2


def _similarity(z1: torch.Tensor, z2: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(2n, 2n) cosine similarities of all views, each with itself ruled out; (2n,) partners."""
    if z1.shape != z2.shape or z1.ndim != 2 or len(z1) < 2:
        raise ValueError(
            "two views of the same two or more examples are needed, as (n, d) each, not "
            f"{tuple(z1.shape)} and {tuple(z2.shape)}"
        )
    n = len(z1)
    z = F.normalize(torch.cat([z1, z2]))
    similarity = (z @ z.T).masked_fill(
        torch.eye(2 * n, dtype=torch.bool, device=z.device), -torch.inf
    )
    return similarity, torch.arange(2 * n, device=z.device).roll(n)
