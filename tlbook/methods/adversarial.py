"""Training a generator and a discriminator against each other (a GAN).

Goodfellow et al. 2014 (arXiv 1406.2661). :func:`gan_steps` is the loop, in the manner of
:func:`tlbook.learning.loop.steps`: it yields after each pair of updates, and looking at images is
ordinary Python in the body of a ``for``. :func:`diversity` tells whether the generator has
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
    """Noise (n, latent) to images (n, channels, size, size) in 0..1, as a DCGAN draws them.

    Radford et al. 2016 (arXiv 1511.06434): transposed convolutions of stride 2 from 4 x 4 pixels
    up, batch normalization and ReLU after each but the last, tanh at the end, here moved from
    -1..1 to 0..1. The last block has ``width`` channels, and each before it twice as many.
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
        return (self.blocks(noise[:, :, None, None]).tanh() + 1) / 2


class Discriminator(nn.Module):
    """Images (n, channels, size, size) in 0..1 to logits (n,): positive for what looks real.

    Radford et al. 2016 (arXiv 1511.06434): convolutions of stride 2 with leaky ReLU, batch
    normalization in all but the first. ``dimension`` is that of :meth:`embed`.
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
        return self.classifier(self.blocks(2 * images - 1)).flatten()

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Features (n, dimension): the outputs of all blocks, each max-pooled to 4 x 4, side by
        side. Call it in eval mode, or an image's features depend on the others of its batch."""
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
    """A pair of updates that was just done: the ``index``-th, counting from 0."""

    index: int
    discriminator_loss: float  # cross-entropy of real and of generated, added: 2 log 2 by guessing
    generator_loss: float  # log 2 where the discriminator guesses
    real: float  # mean probability that the discriminator gives real examples
    generated: float  # and generated ones, both before the updates


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
    """Train both, and yield after every pair of updates: the discriminator's, the generator's.

    The generator maximizes ``log D(G(z))``, the non-saturating form: its gradient does not vanish
    where the discriminator is sure (Goodfellow et al. 2014).

    Parameters
    ----------
    generator : makes of noise (n, latent) what ``batch["x"]`` holds
    discriminator : makes (n,) logits of it, positive for what looks real
    latent : numbers of noise, from a normal distribution; by default ``generator.latent``
    smoothing : real examples count as real with 1 - ``smoothing`` only, generated ones not at all:
        one-sided label smoothing (Salimans et al. 2016, arXiv 1606.03498), 0.1 there
    seed : of the noise

    Raises
    ------
    ValueError : ``smoothing`` out of range, or the shapes of real and generated examples differ
    TrainingError : a loss is not finite; its network was not updated by it
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
    """Mean pairwise distance of generated examples over that of the data's.

    About 1 for a generator that varies as much as the data, near 0 for one that makes a single
    image whatever the noise (mode collapse). It does not tell whether the images are good: noise
    varies, too. Distances are Euclidean, of (n, ...) and (m, ...) examples.

    Raises ValueError for fewer than two examples of either, different shapes, or data all alike.
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
