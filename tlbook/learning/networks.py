"""Networks as plain torch modules: two published ones, and small ones for chapters to train.

MobileNetV2 and EfficientNet-Lite0 are a stem, a row of inverted residual blocks, a head and a
linear classifier, and differ only in the table of their blocks and in conventions
(:class:`Convolution`). So one freezing table serves both: ``stem``, ``blocks.0`` ... ``blocks.15``,
``head``, ``classifier``.

The small ones are encoders of images and texts with what pretrains them: a decoder, the two parts
of a GAN, a masked language model. An encoder gives vectors of its ``dimension``.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn


# --- small networks, trained by the chapters ----------------------------------------------------
class MLP(nn.Sequential):
    """Linear layers with ReLU between them: (n, sizes[0]) to (n, sizes[-1]).

    Raises ValueError for fewer than two sizes or a size below 1.
    """

    def __init__(self, sizes: Sequence[int]):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes={list(sizes)}: at least two are needed, each at least 1")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


class WithAuxiliary(nn.Module):
    """A network, and an ``auxiliary`` module that a loss trains along with it.

    Such as a discriminator of domains (:func:`tlbook.methods.alignment.domain_adversarial`), or a
    regressor from the student's features to the teacher's
    (:func:`tlbook.methods.distillation.hint`). In one module, both share the device, the optimizer
    and the checkpoint. The outputs are the network's alone, whose layers are now named
    ``network.…``; once trained, take ``model.network``.
    """

    def __init__(self, network: nn.Module, auxiliary: nn.Module):
        super().__init__()
        self.network, self.auxiliary = network, auxiliary

    def forward(self, *inputs, **columns):
        return self.network(*inputs, **columns)


class ConvEncoder(nn.Module):
    """Images (n, channels, size, size) to vectors (n, dimension).

    Convolutions of stride 2, each with batch normalization and ReLU, down to 4 x 4 pixels, then a
    linear layer. The first has ``width`` channels, and each after it twice as many.

    Raises ValueError where ``size`` is not 8, 16, 32, ...
    """

    def __init__(self, dimension: int = 64, *, size: int = 32, width: int = 32, channels: int = 3):
        super().__init__()
        self.dimension, self.size, self.width = dimension, size, width
        widths = channel_widths(size, width)
        self.blocks = nn.Sequential(
            *(halving(inputs, outputs) for inputs, outputs in pairwise([channels, *widths]))
        )
        self.project = nn.Linear(widths[-1] * 16, dimension)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.project(self.embed(images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """What the convolutions see, (n, 16 * channels of the last one)."""
        return self.blocks(images).flatten(1)


class ConvDecoder(nn.Module):
    """Vectors (n, dimension) to images (n, channels, size, size) in 0..1.

    The mirror of :class:`ConvEncoder` with the same arguments; a sigmoid ends it.
    """

    def __init__(self, dimension: int = 64, *, size: int = 32, width: int = 32, channels: int = 3):
        super().__init__()
        self.dimension = dimension
        widths = channel_widths(size, width)[::-1]
        self.expand = nn.Linear(dimension, widths[0] * 16)
        self.blocks = nn.Sequential(
            *(doubling(inputs, outputs) for inputs, outputs in pairwise(widths)),
            nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1),
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.expand(vectors).unflatten(1, (-1, 4, 4))).sigmoid()


def mini_bert(
    vocabulary_size: int,
    *,
    dimension: int = 128,
    layers: int = 2,
    heads: int = 2,
    length: int = 128,
    dropout: float = 0.1,
    padding: int = 0,
) -> nn.Module:
    """A small, untrained ``transformers.BertForMaskedLM`` (Devlin et al. 2019, arXiv 1810.04805).

    ``length`` is the most tokens of a text, ``padding`` the id of the padding token. As in BERT,
    the inner layers are four times as wide as ``dimension``.

    Raises ValueError where ``dimension`` cannot be shared out among the heads.
    """
    from transformers import BertConfig, BertForMaskedLM  # slow to import, and rarely needed

    if dimension % heads:
        raise ValueError(f"dimension={dimension} is not a multiple of heads={heads}")
    config = BertConfig(
        vocab_size=vocabulary_size,
        hidden_size=dimension,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * dimension,
        max_position_embeddings=length,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        pad_token_id=padding,
    )
    return BertForMaskedLM(config)


def channel_widths(size: int, width: int) -> list[int]:
    """Channels of the blocks that halve an image of this size until 4 x 4 pixels are left."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"size={size} must be a power of 2, and at least 8")
    return [width * 2**index for index in range(int(math.log2(size)) - 2)]


def halving(inputs: int, outputs: int, activation: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        activation or nn.ReLU(),
    )


def doubling(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
