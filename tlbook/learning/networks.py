"""Small networks as plain torch modules, for the chapters to train.

There is a multilayer perceptron, an encoder and a decoder of images, a masked language model, and
the blocks that build them. Networks whose weights were published are in
:mod:`tlbook.sources.imagenets`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

# --- small networks, trained by the chapters ----------------------------------------------------


class MLP(nn.Sequential):
    """Map vectors (n, sizes[0]) to (n, sizes[-1]) by linear layers with ReLU between them.

    Parameters
    ----------
    sizes : sequence of int
        Widths of the input, of each hidden layer, and of the output.

    Raises
    ------
    ValueError
        There are fewer than two sizes, or a size is below 1.
    """

    def __init__(self, sizes: Sequence[int]):
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"sizes={list(sizes)}: at least two are needed, each at least 1")
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        super().__init__(*layers[:-1])


class WithAuxiliary(nn.Module):
    """Hold a network and an ``auxiliary`` module that a loss trains along with it.

    The auxiliary module can be a discriminator of domains
    (:func:`tlbook.methods.alignment.domain_adversarial`), or a regressor from the student's
    features to the teacher's (:func:`tlbook.methods.distillation.hint`). In one module, both share
    the device, the optimizer and the checkpoint. The outputs are the network's alone. Its layers
    are now named ``network.…``; once trained, take ``model.network``.

    Parameters
    ----------
    network : torch.nn.Module
        The model to train; its inputs and outputs are those of the whole.
    auxiliary : torch.nn.Module
        The module that only the loss calls.
    """

    def __init__(self, network: nn.Module, auxiliary: nn.Module):
        super().__init__()
        self.network, self.auxiliary = network, auxiliary

    def forward(self, *inputs, **columns):
        """Return what the network returns for these inputs."""
        return self.network(*inputs, **columns)


class ConvEncoder(nn.Module):
    """Encode images (n, channels, size, size) as vectors (n, dimension).

    Convolutions of stride 2, each with batch normalization and ReLU, bring an image down to 4 x 4
    pixels; a linear layer follows. The first convolution has ``width`` channels, and each after it
    twice as many.

    Parameters
    ----------
    dimension : int, optional
        Length of the vectors.
    size : int, optional
        Height and width of the images in pixels.
    width : int, optional
        Channels of the first convolution.
    channels : int, optional
        Channels of the images.

    Raises
    ------
    ValueError
        ``size`` is not 8, 16, 32, ...
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
        """Return the vectors (n, dimension) of images (n, channels, size, size)."""
        return self.project(self.embed(images))

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Return the flattened outputs of the last convolution.

        Parameters
        ----------
        images : (n, channels, size, size) torch.Tensor
            Images as the network is trained on.

        Returns
        -------
        (n, 16 * channels of the last convolution) torch.Tensor
            The features that the linear layer gets.
        """
        return self.blocks(images).flatten(1)


class ConvDecoder(nn.Module):
    """Decode vectors (n, dimension) to images (n, channels, size, size) in 0..1.

    It mirrors the :class:`ConvEncoder` with the same arguments, and ends with a sigmoid.

    Parameters
    ----------
    dimension : int, optional
        Length of the vectors.
    size : int, optional
        Height and width of the images in pixels.
    width : int, optional
        Channels that the last layer gets.
    channels : int, optional
        Channels of the images.

    Raises
    ------
    ValueError
        ``size`` is not 8, 16, 32, ...
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
        """Return images (n, channels, size, size) in 0..1 from vectors (n, dimension)."""
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
    """Return a small, untrained ``transformers.BertForMaskedLM``.

    The architecture is BERT's (Devlin et al. 2019, arXiv 1810.04805): the inner layers are four
    times as wide as ``dimension``.

    Parameters
    ----------
    vocabulary_size : int
        Number of different tokens.
    dimension : int, optional
        Length of a token's vector.
    layers : int, optional
        Number of transformer layers.
    heads : int, optional
        Attention heads of a layer.
    length : int, optional
        Largest number of tokens of a text.
    dropout : float, optional
        Probability of dropping a hidden value or an attention weight.
    padding : int, optional
        Id of the padding token.

    Returns
    -------
    transformers.BertForMaskedLM
        The model with random weights.

    Raises
    ------
    ValueError
        ``dimension`` is not a multiple of ``heads``.
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
    """Return the channels of the blocks that halve an image until 4 x 4 pixels are left.

    Parameters
    ----------
    size : int
        Height and width of the image in pixels.
    width : int
        Channels of the first block; each block after it has twice as many.

    Returns
    -------
    list of int
        Channels of each block.

    Raises
    ------
    ValueError
        ``size`` is not a power of 2, or below 8.
    """
    if size < 8 or size & (size - 1):
        raise ValueError(f"size={size} must be a power of 2, and at least 8")
    return [width * 2**index for index in range(int(math.log2(size)) - 2)]


def halving(inputs: int, outputs: int, activation: nn.Module | None = None) -> nn.Sequential:
    """Return a convolution with batch normalization that halves height and width.

    Parameters
    ----------
    inputs : int
        Channels before.
    outputs : int
        Channels after.
    activation : torch.nn.Module, optional
        What follows the normalization; by default ReLU.

    Returns
    -------
    torch.nn.Sequential
        The block: (n, inputs, 2 h, 2 w) to (n, outputs, h, w).
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        activation or nn.ReLU(),
    )


def doubling(inputs: int, outputs: int) -> nn.Sequential:
    """Return a transposed convolution, normalized and with ReLU, that doubles height and width.

    Parameters
    ----------
    inputs : int
        Channels before.
    outputs : int
        Channels after.

    Returns
    -------
    torch.nn.Sequential
        The block: (n, inputs, h, w) to (n, outputs, 2 h, 2 w).
    """
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
