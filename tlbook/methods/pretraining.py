"""Pretrain one small image encoder in several ways, on equal terms.

Every method trains the same :class:`~tlbook.learning.networks.ConvEncoder` on the same images, in
the same order and equally often. Methods that augment see two views of an image each time. The
methods differ in the head on top of the encoder and in the loss. :data:`METHODS` lists them, all
but the GAN, which has a loop of its own. :func:`tlbook.learning.trained.train_once` keeps the
trained weights in the cache, so that each method is trained once.
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
    """Describe a way to pretrain: the head on top of an encoder, and the loss that trains both.

    Attributes
    ----------
    head : callable
        Function of the encoder and the number of classes that returns the head.
    loss : callable
        Function of a seed that returns the loss.
    labels : bool, default False
        Whether the method needs labels.
    """

    head: Callable[[ConvEncoder, int], nn.Module]
    loss: Callable[[int], Loss]
    labels: bool = False


def projection(encoder: ConvEncoder, classes: int) -> nn.Module:
    """Return the head for the contrastive loss, which is thrown away afterwards (Chen et al. 2020).

    Parameters
    ----------
    encoder : tlbook.learning.networks.ConvEncoder
        Encoder below the head.
    classes : int
        Not used.

    Returns
    -------
    tlbook.learning.networks.MLP
        Head, (n, dimension) to (n, 64).
    """
    return MLP([encoder.dimension, encoder.dimension, 64])


def linear(encoder: ConvEncoder, classes: int) -> nn.Module:
    """Return a linear classifier as the head.

    Parameters
    ----------
    encoder : tlbook.learning.networks.ConvEncoder
        Encoder below the head.
    classes : int
        Number of logits.

    Returns
    -------
    torch.nn.Linear
        Head, (n, dimension) to (n, classes).
    """
    return nn.Linear(encoder.dimension, classes)


def decoder(encoder: ConvEncoder, classes: int) -> nn.Module:
    """Return a decoder as the head, which turns the encoder's vectors back into images.

    Parameters
    ----------
    encoder : tlbook.learning.networks.ConvEncoder
        Encoder below the head.
    classes : int
        Not used.

    Returns
    -------
    tlbook.learning.networks.ConvDecoder
        Head, (n, dimension) to images of the encoder's size.
    """
    return ConvDecoder(encoder.dimension, size=encoder.size, width=encoder.width)


def contrastive(seed: int) -> Loss:
    """Return the loss of SimCLR on two augmented views of each image, at temperature 0.2.

    Parameters
    ----------
    seed : int
        Seed of the augmentation.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss.
    """
    generator = torch.Generator().manual_seed(seed)
    return simclr(0.2, lambda images: two_views(images, generator))


def supervised(seed: int) -> Loss:
    """Return the cross-entropy of two views of each image, augmented as for :func:`contrastive`.

    Parameters
    ----------
    seed : int
        Seed of the augmentation.

    Returns
    -------
    tlbook.learning.protocol.Loss
        The loss. Batches hold ``x`` and ``labels``.
    """
    generator, loss_fn = torch.Generator().manual_seed(seed), classification()

    def of_views(model, batch):
        views = torch.cat(two_views(batch["x"], generator))
        return loss_fn(model, {"x": views, "labels": batch["labels"].repeat(2)})

    return of_views


#: Ways to pretrain by name, all but ``"GAN"``.
METHODS = {
    "autoencoder": Method(decoder, lambda seed: reconstruction()),
    "denoising": Method(decoder, lambda seed: denoising(0.3, seed)),
    "masked": Method(decoder, lambda seed: masked_reconstruction(8, 0.5, seed)),
    "SimCLR": Method(projection, contrastive),
    "supervised": Method(linear, supervised, labels=True),
}


@dataclass(frozen=True, eq=False)
class Pretrained:
    """Hold an encoder in eval mode, the head it was trained with, and the cost of training.

    Attributes
    ----------
    encoder : tlbook.learning.networks.ConvEncoder
        Trained encoder.
    head : torch.nn.Module
        Trained head. For a GAN it is the last layer of the discriminator.
    losses : (epochs,) numpy.ndarray
        Mean loss over the batches of each epoch. For a GAN it is the discriminator's.
    cpu_seconds : float
        CPU time of training, in seconds.
    generator : tlbook.methods.adversarial.Generator or None
        Trained generator of a GAN, and None for the other methods.
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
    lr: float | None = None,
    progress: bool = True,
) -> Pretrained:
    """Train an encoder on images by a method of :data:`METHODS`, or by ``"GAN"``.

    The book compares the methods in *Which of the two*.

    The same arguments give the same weights. The second time they come from the cache.

    Parameters
    ----------
    method : str
        Name of the method: a key of :data:`METHODS`, or ``"GAN"``.
    images : (n, side, side, 3) numpy.ndarray of uint8
        Images. The side is a power of 2 and at least 8 pixels, or 16 for ``"masked"``.
    labels : (n,) numpy.ndarray, optional
        Classes from 0 up, for ``"supervised"`` only.
    epochs : int, default 20
        Passes over the images.
    seed : int, default 0
        Seed of the weights, the order of the images, and what the loss draws.
    dimension : int, default 128
        Length of the encoder's vectors.
    width : int, default 16
        Channels of the encoder's first convolution.
    batch_size : int, default 128
        Images per batch.
    lr : float, optional
        Largest learning rate of AdamW; by default 1e-3 for a GAN and 3e-3 for all others.
    progress : bool, default True
        Whether to show a progress bar.

    Returns
    -------
    Pretrained
        The trained encoder with its head and losses.

    Raises
    ------
    ValueError
        If the method is unknown, labels are given but not needed or needed but not given, the
        images are of another kind or shape, or the last batch of a method that compares images
        would hold a single one.
    tlbook.errors.TrainingError
        If the loss is not finite. Nothing is kept then.
    """
    chosen = METHODS.get(method)
    if not chosen and method != "GAN":
        raise ValueError(f"no method {method!r}: choose one of {', '.join([*METHODS, 'GAN'])}")
    if (labels is not None) != bool(chosen and chosen.labels):
        needs = "needs" if labels is None else "cannot use"
        raise ValueError(f"{method} {needs} labels")
    lr = lr or (1e-3 if method == "GAN" else 3e-3)
    columns = {"x": pixels(images)}
    n, _, side, width_of_images = columns["x"].shape
    if side != width_of_images:
        raise ValueError(f"images must be square, not {side} x {width_of_images} pixels")
    if chosen and needs_whole(chosen.loss(seed)) and n % batch_size == 1:
        raise ValueError(
            f"{method} compares the images of a batch, and of {n} images in batches of "
            f"{batch_size} the last would hold a single one: choose another batch_size"
        )
    classes = 0
    if labels is not None:
        columns["labels"] = np.asarray(labels, np.int64)
        classes = int(columns["labels"].max()) + 1
    batches = Batches(columns, batch_size, epochs, seed=seed)

    def train() -> np.ndarray:
        if method == "GAN":
            losses = _gan(parts, batches, lr, seed)
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
    """Return the features that the convolutions of an encoder compute from images.

    The features are taken before the encoder's last linear layer. The layers near a loss fit its
    task most and are worse for another (Chen et al. 2020 throw their projection away for the same
    reason).

    Parameters
    ----------
    encoder : tlbook.learning.networks.ConvEncoder
        Trained encoder. It is put in eval mode.
    images : (n, side, side, 3) numpy.ndarray of uint8
        Images of the encoder's size.

    Returns
    -------
    (n, d) numpy.ndarray
        Features, d being 16 times the channels of the last convolution.
    """
    encoder.eval()
    device = next(encoder.parameters()).device
    batches = pixels(images).split(256)
    return torch.cat([encoder.embed(batch.to(device)).cpu() for batch in batches]).numpy()
