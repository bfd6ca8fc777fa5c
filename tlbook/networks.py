"""Networks as plain torch modules: two published ones, and small ones for chapters to train.

MobileNetV2 and EfficientNet-Lite0 are a stem, a row of inverted residual blocks, a head and a
linear classifier, and differ only in the table of their blocks and in conventions
(:class:`Convolution`). So one freezing table serves both: ``stem``, ``blocks.0`` ... ``blocks.15``,
``head``, ``classifier``.

The small ones are encoders of images and texts with what pretrains them: a decoder, the two parts
of a GAN, a masked language model. An encoder gives vectors of its ``dimension``.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F


class SamePadding(nn.Conv2d):
    """A convolution padded as TensorFlow's ``SAME``: to ``ceil(size / stride)`` outputs.

    Where the padding cannot be even on both sides, the odd pixel goes to the right and the bottom.
    A symmetric padding would see the image shifted by one pixel at each stride of two.
    """

    def forward(self, x):
        pad = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pad) if any(pad) else x)


class Convolution(nn.Sequential):
    """Convolution (no bias), batch normalization and, unless ``linear``, ReLU6.

    ``tensorflow=True`` keeps the conventions of weights trained there: ``SAME`` padding, and 1e-3
    as the epsilon and 0.01 as the momentum of batch normalization.
    """

    def __init__(
        self, inputs, outputs, kernel=1, stride=1, groups=1, linear=False, tensorflow=False
    ):
        shape = (inputs, outputs, kernel, stride)
        if tensorflow:
            conv = SamePadding(*shape, groups=groups, bias=False)
            norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)
        else:
            conv = nn.Conv2d(*shape, padding=kernel // 2, groups=groups, bias=False)
            norm = nn.BatchNorm2d(outputs)
        parts = OrderedDict(conv=conv, norm=norm)
        if not linear:
            parts["relu"] = nn.ReLU6(inplace=True)
        super().__init__(parts)


class InvertedResidual(nn.Module):
    """Expand the channels, filter each of them, project back; add the input where shapes agree.

    Sandler et al. 2018, *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, section 3
    (arXiv 1801.04381).
    """

    def __init__(self, inputs, outputs, kernel, stride, expansion, tensorflow=False):
        super().__init__()
        hidden = inputs * expansion
        kind = {"tensorflow": tensorflow}
        self.expand = Convolution(inputs, hidden, **kind) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(hidden, hidden, kernel, stride, groups=hidden, **kind)
        self.project = Convolution(hidden, outputs, linear=True, **kind)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x):
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNet(nn.Module):
    """Stem, inverted residual blocks, head and classifier.

    Parameters
    ----------
    stages : list of (expansion, channels, repeats, stride, kernel); the stride is the first block's
    classes : outputs of the classifier
    tensorflow : see :class:`Convolution`

    Stochastic depth, which the authors of EfficientNet use in training, is left out.
    """

    dimension = 1280  # of the pooled features

    def __init__(self, stages, classes=1000, tensorflow=False):
        super().__init__()
        kind = {"tensorflow": tensorflow}
        self.stem = Convolution(3, 32, kernel=3, stride=2, **kind)
        blocks, inputs = [], 32
        for expansion, outputs, repeats, stride, kernel in stages:
            for index in range(repeats):
                first = stride if index == 0 else 1
                blocks.append(InvertedResidual(inputs, outputs, kernel, first, expansion, **kind))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(inputs, self.dimension, **kind)
        self.dropout = nn.Dropout(0.2)
        self.classifier = nn.Linear(self.dimension, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Pooled features (n, 1280) of normalized images (n, 3, height, width)."""
        return self.head(self.blocks(self.stem(images))).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (n, classes) of normalized images (n, 3, height, width)."""
        return self.classifier(self.dropout(self.embed(images)))


def mobilenet_v2(classes: int = 1000) -> MobileNet:
    """MobileNetV2 at width 1.0, 3.5M parameters (Sandler et al. 2018, table 2)."""
    stages = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 32, 3, 2, 3),
        (6, 64, 4, 2, 3),
        (6, 96, 3, 1, 3),
        (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    ]
    return MobileNet(stages, classes)


def efficientnet_lite0(classes: int = 1000) -> MobileNet:
    """EfficientNet-Lite0, 4.65M parameters, trained in TensorFlow.

    EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1) without squeeze-and-excitation and
    with ReLU6 for swish.
    """
    stages = [
        (1, 16, 1, 1, 3),
        (6, 24, 2, 2, 3),
        (6, 40, 2, 2, 5),
        (6, 80, 3, 2, 3),
        (6, 112, 3, 1, 5),
        (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    ]
    return MobileNet(stages, classes, tensorflow=True)


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

    Such as a discriminator of domains (:func:`tlbook.alignment.domain_adversarial`), or a regressor
    from the student's features to the teacher's (:func:`tlbook.distillation.hint`). In one module,
    both share the device, the optimizer and the checkpoint. The outputs are the network's alone,
    whose layers are now named ``network.…``; once trained, take ``model.network``.
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
        widths = _widths(size, width)
        self.blocks = nn.Sequential(
            *(_down(inputs, outputs) for inputs, outputs in pairwise([channels, *widths]))
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
        widths = _widths(size, width)[::-1]
        self.expand = nn.Linear(dimension, widths[0] * 16)
        self.blocks = nn.Sequential(
            *(_up(inputs, outputs) for inputs, outputs in pairwise(widths)),
            nn.ConvTranspose2d(widths[-1], channels, 4, stride=2, padding=1),
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.expand(vectors).unflatten(1, (-1, 4, 4))).sigmoid()


class GRUEncoder(nn.Module):
    """Token ids (n, length) to vectors (n, dimension): a GRU in each direction, half of it each.

    Cho et al. 2014 (arXiv 1406.1078). Each vector is the state after the last token of a text,
    read forward, beside the state after the first, read backward. Padding is not read at all.

    Raises
    ------
    ValueError : ``dimension`` is odd; or, when called, a text has no token, or its tokens do not
        stand before its padding
    """

    def __init__(self, vocabulary_size: int, dimension: int = 128, *, embedding: int = 64):
        super().__init__()
        if dimension % 2:
            raise ValueError(f"dimension={dimension} must be even: one half for each direction")
        self.dimension = dimension
        self.embedding = nn.Embedding(vocabulary_size, embedding)
        self.gru = nn.GRU(embedding, dimension // 2, batch_first=True, bidirectional=True)

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """``attention_mask``: (n, length), 1 for tokens and 0 for padding; None for no padding."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if (attention_mask[:, 0] == 0).any() or (attention_mask.diff(dim=1) > 0).any():
            raise ValueError("each text needs a token, and its padding must follow its tokens")
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(input_ids),
            attention_mask.sum(1).cpu(),
            batch_first=True,
            enforce_sorted=False,
        )
        _, last = self.gru(packed)
        return torch.cat([last[0], last[1]], dim=1)


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


class Generator(nn.Module):
    """Noise (n, latent) to images (n, channels, size, size) in 0..1, as a DCGAN draws them.

    Radford et al. 2016 (arXiv 1511.06434): transposed convolutions of stride 2 from 4 x 4 pixels
    up, batch normalization and ReLU after each but the last, tanh at the end, here moved from
    -1..1 to 0..1. The last block has ``width`` channels, and each before it twice as many.
    """

    def __init__(self, latent: int = 64, *, size: int = 32, width: int = 32, channels: int = 3):
        super().__init__()
        self.latent = latent
        widths = _widths(size, width)[::-1]
        self.blocks = nn.Sequential(
            nn.ConvTranspose2d(latent, widths[0], 4, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(_up(inputs, outputs) for inputs, outputs in pairwise(widths)),
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
        widths = _widths(size, width)
        self.dimension = 16 * sum(widths)
        first = nn.Sequential(
            nn.Conv2d(channels, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(0.2)
        )
        self.blocks = nn.Sequential(
            first,
            *(_down(i, o, activation=nn.LeakyReLU(0.2)) for i, o in pairwise(widths)),
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


def _widths(size: int, width: int) -> list[int]:
    """Channels of the blocks that halve an image of this size until 4 x 4 pixels are left."""
    if size < 8 or size & (size - 1):
        raise ValueError(f"size={size} must be a power of 2, and at least 8")
    return [width * 2**index for index in range(int(math.log2(size)) - 2)]


def _down(inputs: int, outputs: int, activation: nn.Module | None = None) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        activation or nn.ReLU(),
    )


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _start_as_dcgan(model: nn.Module) -> None:
    """Radford et al. 2016: all weights start from a normal distribution of 0.02."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.normal_(module.weight, std=0.02)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, mean=1.0, std=0.02)
