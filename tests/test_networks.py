"""Both networks against independent implementations with the same weights."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from tlbook import networks
from tlbook.features import preprocess
from tlbook.pretrained import load, load_in_order


@pytest.fixture(scope="module")
def photographs():
    """The middle squares of scikit-learn's two photographs: a Chinese palace, a dahlia."""
    return np.stack([image[:, 106 : 106 + 427] for image in load_sample_images().images])


@pytest.mark.parametrize(
    ("build", "millions"), [(networks.mobilenet_v2, 3.50), (networks.efficientnet_lite0, 4.65)]
)
def test_size_is_the_published_one(build, millions):
    count = sum(parameter.numel() for parameter in build().parameters())
    assert round(count / 1e6, 2) == millions
    assert build(classes=9).classifier.out_features == 9


@torch.inference_mode()
def test_mobilenet_v2_equals_transformers(photographs):
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    encoder = load("mobilenet-v2")
    config = MobileNetV2Config(
        num_labels=1000, tf_padding=False, layer_norm_eps=1e-5, finegrained_output=True
    )
    other = MobileNetV2ForImageClassification(config).eval()
    load_in_order(other, encoder.model.state_dict())
    images = preprocess(encoder, photographs)
    torch.testing.assert_close(encoder.model(images), other(images).logits, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_efficientnet_lite0_equals_keras(photographs):
    """Keras's builder of the EfficientNets, told to leave out what the Lite ones leave out."""
    keras = pytest.importorskip("keras")
    from keras.src.applications import efficientnet

    encoder = load("efficientnet-lite0")
    blocks = [dict(block, se_ratio=0) for block in efficientnet.DEFAULT_BLOCKS_ARGS]
    other = efficientnet.EfficientNet(
        width_coefficient=1.0,
        depth_coefficient=1.0,
        default_size=224,
        activation="relu6",
        blocks_args=blocks,
        weights=None,
        weights_name=None,
        classifier_activation=None,
    )
    kinds = ("Conv2D", "DepthwiseConv2D", "BatchNormalization", "Dense")
    theirs = [layer for layer in other.layers if type(layer).__name__ in kinds]
    ours = [
        module
        for module in encoder.model.modules()
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d | nn.Linear)
    ]
    for layer, module in zip(theirs, ours, strict=True):
        if isinstance(module, nn.BatchNorm2d):
            values = [module.weight, module.bias, module.running_mean, module.running_var]
        elif isinstance(module, nn.Linear):
            values = [module.weight.T, module.bias]
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            values = [module.weight.permute(2, 3, 0, 1)]  # height, width, channels, 1
        else:
            values = [module.weight.permute(2, 3, 1, 0)]  # height, width, in, out
        layer.set_weights([value.numpy() for value in values])

    images = preprocess(encoder, photographs)
    # Keras divides by 255 inside of the network
    logits = other(255 * images.permute(0, 2, 3, 1).numpy(), training=False)
    expected = torch.tensor(np.asarray(logits))
    torch.testing.assert_close(encoder.model(images), expected, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [7, 8, 15, 16])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_same_padding_equals_tensorflow(size, stride, kernel):
    tf = pytest.importorskip("tensorflow")
    convolution = networks.SamePadding(2, 3, kernel, stride)
    x = torch.randn(1, 2, size, size + 1)
    expected = tf.nn.conv2d(
        x.permute(0, 2, 3, 1).numpy(),
        convolution.weight.detach().permute(2, 3, 1, 0).numpy(),
        strides=stride,
        padding="SAME",
    )
    out = convolution(x).detach() - convolution.bias.detach().view(3, 1, 1)
    np.testing.assert_allclose(out.permute(0, 2, 3, 1), expected, atol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("handle", ["mobilenet-v2", "efficientnet-lite0"])
def test_photographs_get_sensible_classes(handle, photographs):
    encoder = load(handle)
    palace, flower = encoder.model(preprocess(encoder, photographs)).topk(3).indices
    assert palace[0] in (698, 442, 663)  # palace, bell cote, monastery
    if handle == "efficientnet-lite0":  # ImageNet has no dahlia; MobileNetV2 takes it for a fungus
        assert flower[0] == 985  # daisy


def test_weights_of_another_network_are_refused():
    with pytest.raises(ValueError, match="not those of MobileNet"):
        load_in_order(networks.mobilenet_v2(), networks.efficientnet_lite0().state_dict())
