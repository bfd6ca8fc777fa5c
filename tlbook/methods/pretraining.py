"""Pretraining one small image encoder in several ways, on equal terms.

Every method trains the same :class:`~tlbook.learning.networks.ConvEncoder` on the same images, in
the same order and equally often; where views are augmented, each time on two views of an image.
Methods differ by what stands upon the encoder, and by the loss: :data:`METHODS` lists them, all but
the GAN, which has a loop of its own. :func:`train_once` keeps what was trained in the cache, so that it
is trained once.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.optim import AdamW
from tqdm.auto import tqdm

from tlbook.learning.augment import two_views
from tlbook.learning.batches import Batches, pixels
from tlbook.learning.loop import steps, warmup_linear
from tlbook.learning.losses import classification
from tlbook.learning.networks import MLP, ConvDecoder, ConvEncoder
from tlbook.learning.protocol import Loss, needs_whole
from tlbook.learning.trained import train_once
from tlbook.methods import adversarial, selfsupervised
from tlbook.methods.adversarial import Generator, gan_steps
from tlbook.methods.selfsupervised import denoising, masked_reconstruction, reconstruction, simclr


@dataclass(frozen=True)
class Method:
    """What stands upon an encoder, and the loss that trains both."""

    head: Callable[[ConvEncoder, int], nn.Module]  # of the encoder and the number of classes
    loss: Callable[[int], Loss]  # of a seed
    labels: bool = False


def projection(encoder: ConvEncoder, classes: int) -> nn.Module:
    """What the contrastive loss looks at, thrown away afterwards (Chen et al. 2020)."""
    return MLP([encoder.dimension, encoder.dimension, 64])


def linear(encoder: ConvEncoder, classes: int) -> nn.Module:
    return nn.Linear(encoder.dimension, classes)


def decoder(encoder: ConvEncoder, classes: int) -> nn.Module:
    return ConvDecoder(encoder.dimension, size=encoder.size, width=encoder.width)


def contrastive(seed: int) -> Loss:
    generator = torch.Generator().manual_seed(seed)
    return simclr(0.2, lambda images: two_views(images, generator))


def supervised(seed: int) -> Loss:
    """Cross-entropy of two views of each image, augmented as for :func:`contrastive`."""
    generator, loss_fn = torch.Generator().manual_seed(seed), classification()

    def of_views(model, batch):
        views = torch.cat(two_views(batch["x"], generator))
        return loss_fn(model, {"x": views, "labels": batch["labels"].repeat(2)})

    return of_views


METHODS = {
    "autoencoder": Method(decoder, lambda seed: reconstruction()),
    "denoising": Method(decoder, lambda seed: denoising(0.3, seed)),
    "masked": Method(decoder, lambda seed: masked_reconstruction(8, 0.5, seed)),
    "SimCLR": Method(projection, contrastive),
    "supervised": Method(linear, supervised, labels=True),
}


@dataclass(frozen=True, eq=False)
class Pretrained:
    """An encoder in eval mode, the head it was trained under, and what that took.

    ``losses`` is the mean over the batches of each epoch; a GAN's is the discriminator's. Of a GAN,
    ``head`` is the discriminator's last layer and ``generator`` draws.
    """

    encoder: ConvEncoder
    head: nn.Module
    losses: np.ndarray
    cpu_seconds: float
    generator: Generator | None = None


def pretrain(
    method: str,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    epochs: int = 20,
    seed: int = 0,
    dimension: int = 128,
    width: int = 16,
    batch_size: int = 128,
    lr: float = 3e-3,
    progress: bool = True,
) -> Pretrained:
    """Train an encoder on images by a method of :data:`METHODS`, or by ``"GAN"``.

    The same arguments give the same weights: they come from the cache the second time.

    Parameters
    ----------
    images : (n, side, side, 3) uint8, the side a power of 2 and at least 8, for ``"masked"`` 16
    labels : (n,) classes from 0 up, for ``"supervised"`` only
    dimension, width : of the :class:`~tlbook.learning.networks.ConvEncoder`
    batch_size, lr : images per batch, and AdamW's largest learning rate; a GAN's is ``1e-3`` at most

    Raises
    ------
    ValueError : an unknown method; labels where none are asked for, or the reverse; images of
        another kind or shape; or a single image in the last batch of a method that compares images
    tlbook.errors.TrainingError : the loss is not finite; nothing is kept
    """
    chosen = METHODS.get(method)
    if not chosen and method != "GAN":
        raise ValueError(f"no method {method!r}: choose one of {', '.join([*METHODS, 'GAN'])}")
    if (labels is not None) != bool(chosen and chosen.labels):
        needs = "needs" if labels is None else "cannot use"
        raise ValueError(f"{method} {needs} labels")
    columns = {"x": pixels(images)}
    n, _, side, width_of_images = columns["x"].shape
    if side != width_of_images:
        raise ValueError(f"images must be square, not {side} x {width_of_images} pixels")
    if chosen and needs_whole(chosen.loss(seed)) and n % batch_size == 1:
        raise ValueError(
            f"{method} compares the images of a batch, and of {n} images in batches of {batch_size} the "
            "last would hold a single one: choose another batch_size"
        )
    classes = 0
    if labels is not None:
        columns["labels"] = np.asarray(labels, np.int64)
        classes = int(columns["labels"].max()) + 1
    batches = Batches(columns, batch_size, epochs, seed=seed)

    def train() -> np.ndarray:
        if method == "GAN":
            losses = _gan(parts, batches, min(lr, 1e-3), seed)
        else:
            losses = _method(chosen, parts, batches, lr, seed)
        if progress:
            losses = tqdm(losses, method, len(batches), unit="step", leave=False, delay=5)
        return np.array(list(losses)).reshape(epochs, -1).mean(1)

    settings = f"{method} {epochs} {seed} {batch_size} {lr}"
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed GPUs as well
        parts = _parts(method, side, classes, dimension, width)
        # a pixel's channels side by side in memory: convolutions are faster
        model = nn.ModuleDict(parts).to(memory_format=torch.channels_last)
        losses, seconds = train_once(
            model,
            train,
            settings,
            *map(np.asarray, columns.values()),
            code=[adversarial, selfsupervised, sys.modules[__name__]],
        )
    model.cpu().eval()  # a GPU may have trained it
    return Pretrained(losses=losses, cpu_seconds=seconds, **parts)


def _parts(method, side, classes, dimension, width) -> dict[str, nn.Module]:
    """The networks that a method trains, by their names in :class:`Pretrained`."""
    encoder = ConvEncoder(dimension, size=side, width=width)
    if method != "GAN":
        return {"encoder": encoder, "head": METHODS[method].head(encoder, classes)}
    parts = {"encoder": encoder, "head": linear(encoder, 1)}
    return parts | {"generator": Generator(size=side, width=width)}


def _method(chosen: Method, parts, batches, lr, seed) -> Iterator[float]:
    model = nn.Sequential(parts["encoder"], parts["head"])
    optimizer = AdamW(model.parameters(), lr, weight_decay=1e-4)
    schedule = warmup_linear(0.1)
    for step in steps(model, chosen.loss(seed), batches, optimizer, schedule=schedule):
        yield step.loss


def _gan(parts, batches, lr, seed) -> Iterator[float]:
    discriminator = nn.Sequential(parts["encoder"], parts["head"], nn.Flatten(0))
    optimizers = [
        AdamW(network.parameters(), lr, betas=(0.5, 0.999), weight_decay=1e-4)
        for network in (parts["generator"], discriminator)
    ]
    for step in gan_steps(
        parts["generator"], discriminator, batches, *optimizers, smoothing=0.1, seed=seed
    ):
        yield step.discriminator_loss


@torch.inference_mode()
def representation(encoder: ConvEncoder, images: np.ndarray) -> np.ndarray:
    """(n, d) what the convolutions of an encoder in eval mode see in uint8 images.

    It is taken before the encoder's last linear layer: the layers near a loss fit its task most,
    and are worse for another (Chen et al. 2020 throw their projection away for the same reason).
    """
    encoder.eval()
    device = next(encoder.parameters()).device
    batches = pixels(images).split(256)
    return torch.cat([encoder.embed(batch.to(device)).cpu() for batch in batches]).numpy()
