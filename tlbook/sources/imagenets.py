"""Networks that were pretrained on ImageNet: MobileNetV2 and EfficientNet-Lite0.

Both are a stem, a row of inverted residual blocks, a head and a linear classifier, and differ only
in the table of their blocks and in conventions (:class:`Convolution`). So one freezing table serves
both: ``stem``, ``blocks.0`` ... ``blocks.15``, ``head``, ``classifier``.
"""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from tlbook.sources.encoders import ImageEncoder


class SamePadding(nn.Conv2d):
    """Convolve with the padding that TensorFlow calls ``SAME``: to ``ceil(size / stride)`` outputs.

    Where the padding cannot be even on both sides, the odd pixel goes to the right and the bottom.
    A symmetric padding would see the image shifted by one pixel at each stride of two. The
    parameters are those of ``torch.nn.Conv2d``.
    """

    def forward(self, x):
        """Return the convolution of ``x`` (n, channels, height, width), padded as ``SAME``."""
        pad = []
        for size, kernel, stride in zip(x.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        return super().forward(F.pad(x, pad) if any(pad) else x)


class Convolution(nn.Sequential):
    """Apply a convolution without bias, batch normalization and, unless ``linear``, ReLU6.

    Parameters
    ----------
    inputs : int
        Channels before.
    outputs : int
        Channels after.
    kernel : int, optional
        Height and width of the kernel in pixels.
    stride : int, optional
        Step of the kernel in pixels.
    groups : int, optional
        Groups of channels that are convolved apart.
    linear : bool, optional
        Leave out ReLU6.
    tensorflow : bool, optional
        Keep the conventions of weights trained in TensorFlow: ``SAME`` padding, and 1e-3 as the
        epsilon and 0.01 as the momentum of batch normalization.
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

    Sandler et al. 2018, *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, section 3 (arXiv
    1801.04381).

    Parameters
    ----------
    inputs : int
        Channels before.
    outputs : int
        Channels after.
    kernel : int
        Height and width of the filters in pixels.
    stride : int
        Step of the filters in pixels; with 1, height and width stay.
    expansion : int
        Factor of the channels between expanding and projecting; 1 does not expand.
    tensorflow : bool, optional
        See :class:`Convolution`.
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
        """Return the block's output for ``x`` (n, inputs, height, width)."""
        out = self.project(self.depthwise(self.expand(x)))
        return x + out if self.residual else out


class MobileNet(nn.Module):
    """Classify images by a stem, inverted residual blocks, a head and a linear classifier.

    Stochastic depth, which the authors of EfficientNet use in training, is left out.

    Parameters
    ----------
    stages : sequence of (int, int, int, int, int)
        Expansion, channels, repeats, stride and kernel of each stage. The stride is that of the
        stage's first block.
    classes : int, optional
        Outputs of the classifier.
    tensorflow : bool, optional
        See :class:`Convolution`.

    Attributes
    ----------
    dimension : int
        Length of the pooled features, 1280.
    """

    dimension = 1280

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
        """Compute pooled features.

        Parameters
        ----------
        images : (n, 3, height, width) torch.Tensor
            Normalized images.

        Returns
        -------
        (n, 1280) torch.Tensor
            The features that the classifier gets.
        """
        return self.head(self.blocks(self.stem(images))).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute logits.

        Parameters
        ----------
        images : (n, 3, height, width) torch.Tensor
            Normalized images.

        Returns
        -------
        (n, classes) torch.Tensor
            The logits.
        """
        return self.classifier(self.dropout(self.embed(images)))


def mobilenet_v2(classes: int = 1000) -> MobileNet:
    """Return MobileNetV2 at width 1.0, 3.5M parameters (Sandler et al. 2018, table 2).

    Parameters
    ----------
    classes : int, optional
        Outputs of the classifier.

    Returns
    -------
    MobileNet
        The network with random weights.
    """
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
    """Return EfficientNet-Lite0, 4.65M parameters, in the form in which TensorFlow trained it.

    This is EfficientNet-B0 (Tan and Le 2019, arXiv 1905.11946, table 1) without
    squeeze-and-excitation and with ReLU6 for swish.

    Parameters
    ----------
    classes : int, optional
        Outputs of the classifier.

    Returns
    -------
    MobileNet
        The network with random weights.
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


# --- the packaged networks ----------------------------------------------------------------------


def _image_encoder(
    handle: str,
    place: Path,
    network: Callable[[], MobileNet],
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> ImageEncoder:
    (file,) = place.rglob("*.pth")
    model = network()
    try:
        weights = torch.load(file, weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds
        line = " ".join(str(error).split())
        raise ValueError(f"{file} does not hold plain tensors: {line}") from error
    load_in_order(model, weights)
    return ImageEncoder(handle, model.eval(), 224, mean, std, model.dimension)


def load_in_order(model: nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Load weights whose layers have other names but stand in the model's own order.

    Parameters
    ----------
    model : torch.nn.Module
        The model to load them into, in place.
    weights : dict of str to torch.Tensor
        Weights by their names, in order.

    Raises
    ------
    ValueError
        Number, shapes or last parts of the names ("weight", "running_mean") do not agree.
    """
    own = model.state_dict()
    if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
        raise ValueError(f"These weights are not those of {type(model).__name__}.")
    signature, other = (
        [(key.split(".")[-1], tuple(value.shape)) for key, value in state.items()]
        for state in (own, weights)
    )
    if signature != other:
        raise ValueError(f"These weights are not those of {type(model).__name__}.")
    model.load_state_dict(dict(zip(own, weights.values(), strict=True)))


#: Functions ``(handle, folder)`` that read each packaged network.
READERS: dict[str, Callable[[str, Path], ImageEncoder]] = {
    "efficientnet-lite0": partial(
        _image_encoder,
        network=efficientnet_lite0,
        mean=(127.0, 127.0, 127.0),
        std=(128.0, 128.0, 128.0),
    ),
    "mobilenet-v2": partial(  # ImageNet's mean and deviation, as torchvision trains
        _image_encoder,
        network=mobilenet_v2,
        mean=(123.675, 116.28, 103.53),
        std=(58.395, 57.12, 57.375),
    ),
}
