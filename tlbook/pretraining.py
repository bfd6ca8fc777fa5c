"""Pretraining one small image encoder in several ways, on equal terms.

Every method trains the same :class:`~tlbook.networks.ConvEncoder` on the same images, equally
often. Methods differ by what stands upon the encoder, and by the loss: :data:`METHODS` is the whole
list. :func:`once` keeps what was trained in the cache, so that it is trained once.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn
from torch.optim import AdamW
from tqdm.auto import tqdm

from tlbook import adversarial, augment, cache, freezing, networks, objectives, training
from tlbook.adversarial import gan_steps
from tlbook.augment import two_views
from tlbook.networks import MLP, ConvDecoder, ConvEncoder, Generator
from tlbook.objectives import (
    Loss,
    classification,
    denoising,
    masked_reconstruction,
    reconstruction,
    simclr,
)
from tlbook.training import Batches, steps, warmup_linear

#: What trained weights depend on beside data and settings: this code, and torch
CODE = cache.digest(
    torch.__version__,
    *(
        Path(module.__file__).read_text("utf-8")
        for module in (adversarial, augment, freezing, networks, objectives, training)
    ),
    Path(__file__).read_text("utf-8"),
)


@dataclass(frozen=True)
class Method:
    """What stands upon an encoder, and the loss that trains both."""

    head: Callable[[ConvEncoder, int], nn.Module]  # of the encoder and the number of classes
    loss: Callable[[int], Loss]  # of a seed
    labels: bool = False
    whole: bool = False  # compares the examples of a batch with each other


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
    "SimCLR": Method(projection, contrastive, whole=True),
    "supervised": Method(linear, supervised, labels=True),
}


@dataclass(frozen=True)
class Pretrained:
    """An encoder, the head it was trained under, and what that took.

    ``losses`` is one number per epoch; a GAN's is the discriminator's. Of a GAN, ``head`` is the
    discriminator's last layer and ``generator`` draws.
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
    size: int = 128,
    lr: float = 3e-3,
    progress: bool = True,
) -> Pretrained:
    """Train an encoder on images by a method of :data:`METHODS`, or by ``"GAN"``.

    The same arguments give the same weights: they come from the cache the second time.

    Parameters
    ----------
    images : (n, side, side, 3) uint8, the side a power of 2
    labels : (n,) classes from 0 up, for ``"supervised"`` only
    dimension, width : of the :class:`~tlbook.networks.ConvEncoder`
    size, lr : images per batch, and AdamW's largest learning rate; a GAN's is ``1e-3`` at most

    Raises ValueError for an unknown method, or labels where none are asked for or the reverse.
    """
    chosen = METHODS.get(method)
    if not chosen and method != "GAN":
        raise ValueError(f"no method {method!r}: choose one of {', '.join([*METHODS, 'GAN'])}")
    if (labels is not None) != bool(chosen and chosen.labels):
        needs = "needs" if labels is None else "cannot use"
        raise ValueError(f"{method} {needs} labels")
    x = pixels(images)
    columns = {"x": x} if labels is None else {"x": x, "labels": np.asarray(labels, np.int64)}
    torch.manual_seed(seed)
    encoder = ConvEncoder(dimension, size=x.shape[2], width=width)
    parts = {"encoder": encoder}
    if method == "GAN":
        parts |= {"head": linear(encoder, 1), "generator": Generator(size=x.shape[2], width=width)}
    else:
        parts["head"] = chosen.head(encoder, 0 if labels is None else int(labels.max()) + 1)
    batches = Batches(columns, size, epochs, seed=seed)

    def train() -> np.ndarray:
        if method == "GAN":
            losses = _gan(parts, batches, min(lr, 1e-3), seed)
        else:
            losses = _method(chosen, parts, batches, lr, seed)
        bar = tqdm(losses, method, len(batches), unit="step", leave=False, delay=5)
        return np.array(list(bar if progress else losses)).reshape(epochs, -1).mean(1)

    settings = f"{method} {epochs} {seed} {size} {lr}"
    model = nn.ModuleDict(parts)
    losses, seconds = once(model, train, settings, images, *([] if labels is None else [labels]))
    model.eval()
    return Pretrained(losses=losses, cpu_seconds=seconds, **parts)


def _method(chosen: Method, parts, batches, lr, seed) -> Iterator[float]:
    model = nn.Sequential(parts["encoder"], parts["head"])
    optimizer = AdamW(model.parameters(), lr, weight_decay=1e-4)
    schedule = warmup_linear(0.1)
    for step in steps(
        model, chosen.loss(seed), batches, optimizer, schedule=schedule, whole=chosen.whole
    ):
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


def once(
    model: nn.Module, train: Callable[[], np.ndarray], *content: str | np.ndarray
) -> tuple[np.ndarray, float]:
    """Train a model in place, or give it the weights that the same training had before.

    Parameters
    ----------
    train : trains the model and returns losses, to be looked at later
    content : all that the result depends on beside the model's first weights: data, settings. The
        code of this package's learning modules counts by itself

    Returns
    -------
    losses, and the CPU seconds that training took when it was done
    """
    first = [part.numpy() for part in model.state_dict().values()]
    key = cache.digest(CODE, *model.state_dict(), *first, *content)

    def run() -> dict:
        start = time.process_time()
        losses = torch.as_tensor(np.asarray(train(), np.float64))
        seconds = torch.tensor(time.process_time() - start, dtype=torch.float64)
        return {"losses": losses, "cpu_seconds": seconds} | {
            f"model.{name}": value for name, value in model.state_dict().items()
        }

    found = cache.stored(
        f"pretrained/{key}.safetensors",
        run,
        save=lambda stream, tensors: stream.write(save(tensors)),
        load=_load,
    )
    model.load_state_dict(
        {name.removeprefix("model."): v for name, v in found.items() if name.startswith("model.")}
    )
    return found["losses"].numpy(), found["cpu_seconds"].item()


def _load(path: Path) -> dict:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def pixels(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, height, width, 3) to floats (n, 3, height, width) in 0..1."""
    return torch.tensor(images).permute(0, 3, 1, 2).float().div(255).contiguous()


@torch.inference_mode()
def representation(encoder: ConvEncoder, images: np.ndarray) -> np.ndarray:
    """(n, d) what the convolutions of an encoder in eval mode see in uint8 images.

    It is taken before the encoder's last linear layer: the layers near a loss fit its task most,
    and are worse for another (Chen et al. 2020 throw their projection away for the same reason).
    """
    encoder.eval()
    return torch.cat([encoder.embed(batch) for batch in pixels(images).split(256)]).numpy()
