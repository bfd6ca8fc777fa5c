"""Train a generator and a discriminator against each other: a GAN.

Goodfellow et al. 2014 (arXiv 1406.2661). :func:`gan_steps` is the loop. Like
:func:`tlbook.learning.loop.steps`, it yields after each pair of updates, so you look at images with
ordinary Python in the body of a ``for`` loop. :func:`diversity` tells whether the generator has
collapsed to a few images.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import Optimizer

from tlbook.errors import TrainingError
from tlbook.learning.batches import Batches
from tlbook.learning.freezing import train_mode
from tlbook.learning.networks import channel_widths, doubling, halving


class Generator(nn.Module):
    """Turn noise into images with transposed convolutions, as a DCGAN does.

    The network follows Radford et al. 2016 (arXiv 1511.06434): transposed convolutions of stride 2
    start from 4 x 4 pixels, batch normalization and ReLU follow each but the last, and tanh stands
    at the end. Here its output is moved from -1..1 to 0..1.

    Parameters
    ----------
    latent : int, default 64
        Number of noise values for each image.
    size : int, default 32
        Height and width of the images, in pixels.
    width : int, default 32
        Channels of the last block. Each block before it has twice as many as the one that follows.
    channels : int, default 3
        Color channels of the images.

    Attributes
    ----------
    latent : int
        Number of noise values for each image.
    """

    def __init__(self, latent: int = 64, *, size: int = 32, width: int = 32, channels: int = 3):
        super().__init__()
        self.latent = latent
        widths = channel_widths(size, width)[::-1]
        self.blocks = nn.Sequential(
            nn.ConvTranspose2d(latent, widths[0], 4, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(doubling(inputs, outputs) for inputs, outputs in pairwise(widths)),
            nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1),
        )
        _start_as_dcgan(self)

    def forward(self, noise: torch.Tensor) -> torch.Tensor:
        """Return the images that the generator makes from noise.

        Parameters
        ----------
        noise : (n, latent) torch.Tensor
            Noise from a normal distribution.

        Returns
        -------
        (n, channels, size, size) torch.Tensor
            Images with values in 0..1.
        """
        return (self.blocks(noise[:, :, None, None]).tanh() + 1) / 2


class Discriminator(nn.Module):
    """Tell real images from generated ones with strided convolutions, as a DCGAN does.

    The network follows Radford et al. 2016 (arXiv 1511.06434): convolutions of stride 2 with leaky
    ReLU, and batch normalization in all but the first.

    Parameters
    ----------
    size : int, default 32
        Height and width of the images, in pixels.
    width : int, default 32
        Channels of the first block. Each later block has twice as many as the one before it.
    channels : int, default 3
        Color channels of the images.

    Attributes
    ----------
    dimension : int
        Number of features that :meth:`embed` returns for each image.
    """

    def __init__(self, *, size: int = 32, width: int = 32, channels: int = 3):
        super().__init__()
        widths = channel_widths(size, width)
        self.dimension = 16 * sum(widths)
        first = nn.Sequential(
            nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)
        )
        self.blocks = nn.Sequential(
            first,
            *(halving(i, o, activation=nn.LeakyReLU(0.2)) for i, o in pairwise(widths)),
        )
        self.classifier = nn.Conv2d(widths[-1], 1, 4)
        _start_as_dcgan(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return one logit for each image, positive for what looks real.

        Parameters
        ----------
        images : (n, channels, size, size) torch.Tensor
            Images with values in 0..1.

        Returns
        -------
        (n,) torch.Tensor
            Logits.
        """
        return self.classifier(self.blocks(2 * images - 1)).flatten()

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return features of images: the outputs of all blocks, max-pooled to 4 x 4, side by side.

        Call it in eval mode. In training mode, an image's features depend on the others of its
        batch.

        Parameters
        ----------
        images : (n, channels, size, size) torch.Tensor
            Images with values in 0..1.

        Returns
        -------
        (n, dimension) torch.Tensor
            Features.
        """
        features, x = [], 2 * images - 1
        for block in self.blocks:
            x = block(x)
            features.append(F.adaptive_max_pool2d(x, 4).flatten(1))
        return torch.cat(features, dim=1)


def _start_as_dcgan(model: nn.Module) -> None:
    """Radford et al. 2016: all weights start from a normal distribution of 0.02."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)


@dataclass(frozen=True)
class GanStep:
    """Report one pair of updates that was just done.

    Attributes
    ----------
    index : int
        Position of the pair in training, counted from 0.
    discriminator_loss : float
        Cross-entropy on real plus cross-entropy on generated examples, in nats. It is 2 log 2 where
        the discriminator guesses.
    generator_loss : float
        Loss of the generator, in nats. It is log 2 where the discriminator guesses.
    real : float
        Mean probability of being real that the discriminator gave real examples, before the
        updates.
    generated : float
        Mean probability of being real that it gave generated examples, before the updates.
    """

    index: int
    discriminator_loss: float
    generator_loss: float
    real: float
    generated: float


def gan_steps(
    generator: nn.Module,
    discriminator: nn.Module,
    batches: Batches,
    generator_optimizer: Optimizer,
    discriminator_optimizer: Optimizer,
    *,
    latent: int | None = None,
    smoothing: float = 0.0,
    seed: int = 0,
) -> Iterator[GanStep]:
    """Train both networks, and yield after each pair of updates.

    The book explains it in *Pretraining without labels*.

    The discriminator is updated first, then the generator. The generator maximizes ``log D(G(z))``,
    the non-saturating form: its gradient does not vanish where the discriminator is sure
    (Goodfellow et al. 2014).

    Parameters
    ----------
    generator : torch.nn.Module
        Network that turns noise (n, latent) into examples of the shape of ``batch["x"]``.
    discriminator : torch.nn.Module
        Network that turns such examples into (n,) logits, positive for what looks real.
    batches : tlbook.learning.batches.Batches
        Batches of real examples in the column ``x``. Each batch gives one pair of updates.
    generator_optimizer : torch.optim.Optimizer
        Optimizer that holds the generator's parameters.
    discriminator_optimizer : torch.optim.Optimizer
        Optimizer that holds the discriminator's parameters.
    latent : int, optional
        Number of noise values for each example. By default it is ``generator.latent``.
    smoothing : float, default 0.0
        Real examples count as real with a target of 1 - ``smoothing``, and generated ones keep the
        target 0. This is one-sided label smoothing (Salimans et al. 2016, arXiv 1606.03498), where
        the value is 0.1.
    seed : int, default 0
        Seed of the noise, which comes from a normal distribution.

    Yields
    ------
    GanStep
        The losses and probabilities of the pair of updates.

    Raises
    ------
    ValueError
        If ``smoothing`` is out of range, or real and generated examples differ in shape.
    tlbook.learning.loop.TrainingError
        If a loss is not finite. That loss has not updated its network.
    """
    if not 0 <= smoothing < 0.5:
        raise ValueError(f"smoothing={smoothing} must be at least 0 and below 0.5")
    latent = generator.latent if latent is None else latent
    device = next(generator.parameters()).device
    random = torch.Generator().manual_seed(seed)
    for index, batch in enumerate(batches):
        train_mode(generator)
        train_mode(discriminator)
        real = batch["x"].to(device)
        fake = generator(torch.randn(len(real), latent, generator=random).to(device))
        if fake.shape != real.shape:
            raise ValueError(
                f"the generator makes {tuple(fake.shape)}, but the data is {tuple(real.shape)}"
            )
        on_real, on_fake = discriminator(real), discriminator(fake.detach())
        truth = torch.full_like(on_real, 1 - smoothing)
        loss = F.binary_cross_entropy_with_logits(on_real, truth) + F.softplus(on_fake).mean()
        _update(loss, discriminator_optimizer, f"discriminator's loss is {loss.item()}", index)
        generator_loss = F.softplus(-discriminator(fake)).mean()
        message = f"generator's loss is {generator_loss.item()}"
        _update(generator_loss, generator_optimizer, message, index)
        yield GanStep(
            index,
            loss.item(),
            generator_loss.item(),
            on_real.detach().sigmoid().mean().item(),
            on_fake.detach().sigmoid().mean().item(),
        )


def _update(loss: torch.Tensor, optimizer: Optimizer, message: str, index: int) -> None:
    """One update of what the optimizer holds, and of nothing else."""
    if not math.isfinite(loss.item()):
        raise TrainingError(
            f"the {message} at step {index}: look at the data, or lower the learning rates"
        )
    optimizer.zero_grad()
    # The other network is on the way, but its gradients are not wanted and cost time
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    loss.backward(inputs=[p for p in parameters if p.requires_grad])
    optimizer.step()


@torch.no_grad()
def diversity(generated: torch.Tensor, data: torch.Tensor) -> float:
    """Compute how much generated examples vary, relative to the data.

    The result is the mean pairwise Euclidean distance of the generated examples over that of the
    data. It is about 1 for a generator that varies as much as the data, and near 0 for one that
    makes a single image from any noise (mode collapse). It does not tell whether the images are
    good, because noise varies, too.

    Parameters
    ----------
    generated : (n, ...) torch.Tensor
        Generated examples, two or more.
    data : (m, ...) torch.Tensor
        Real examples of the same shape, two or more.

    Returns
    -------
    float
        Ratio of the two mean distances.

    Raises
    ------
    ValueError
        If there are fewer than two examples of either kind, their shapes differ, or the examples of
        the data are all alike.
    """
    if generated.shape[1:] != data.shape[1:] or min(len(generated), len(data)) < 2:
        raise ValueError(
            "two or more examples of one shape are needed of each, not "
            f"{tuple(generated.shape)} and {tuple(data.shape)}"
        )
    ours, theirs = (F.pdist(x.flatten(1)).mean().item() for x in (generated, data))
    if theirs == 0:
        raise ValueError("all examples of the data are alike: there is no diversity to compare to")
    return ours / theirs
