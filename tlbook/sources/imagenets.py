"""Networks that were pretrained on ImageNet: MobileNetV2 and EfficientNet-Lite0."""

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from tlbook.sources.encoders import ImageEncoder


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


# The packaged images
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

    Raises ValueError unless number, shapes and last parts of the names ("weight", "running_mean")
    agree all along.
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
