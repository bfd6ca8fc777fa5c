"""Published networks against independent implementations with the same weights; small ones."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from tlbook.learning import networks
from tlbook.learning.features import preprocess
from tlbook.methods import adversarial
from tlbook.sources import imagenets
from tlbook.sources.imagenets import load_in_order
from tlbook.sources.pretrained import load


@pytest.fixture(scope="module")
def photographs():
    """The middle squares of scikit-learn's two photographs: a Chinese palace, a dahlia."""
    return np.stack([image[:, 106 : 106 + 427] for image in load_sample_images().images])


@pytest.mark.parametrize(
    ("build", "millions"), [(imagenets.mobilenet_v2, 3.50), (imagenets.efficientnet_lite0, 4.65)]
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
    convolution = imagenets.SamePadding(2, 3, kernel, stride)
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
        load_in_order(imagenets.mobilenet_v2(), imagenets.efficientnet_lite0().state_dict())


# --- small networks -----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [8, 32])
def test_encoder_and_decoder_mirror_each_other(size):
    torch.manual_seed(0)
    encoder = networks.ConvEncoder(24, size=size, width=8)
    decoder = networks.ConvDecoder(24, size=size, width=8)
    images = torch.rand(5, 3, size, size)
    vectors = encoder(images)
    assert vectors.shape == (5, encoder.dimension) == (5, 24)
    out = decoder(vectors)
    assert out.shape == images.shape
    assert 0 <= out.min() < out.max() <= 1
    convolutions = [
        [m.weight.shape[:2] for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
        for net in (encoder, decoder)
    ]
    # a transposed convolution holds (in, out) where a convolution holds (out, in)
    assert convolutions[0] == convolutions[1][::-1]
    assert any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules())


@pytest.mark.parametrize(
    ("build", "inputs"),
    [
        (lambda: networks.ConvEncoder(8, size=16, width=4), lambda: torch.rand(4, 3, 16, 16)),
        (lambda: networks.ConvDecoder(8, size=16, width=4), lambda: torch.rand(4, 8)),
        (lambda: adversarial.Generator(8, size=16, width=4), lambda: torch.randn(4, 8)),
        (lambda: adversarial.Discriminator(size=16, width=4), lambda: torch.rand(4, 3, 16, 16)),
        (lambda: networks.MLP([6, 5, 2]), lambda: torch.rand(4, 6)),
    ],
)
def test_every_weight_is_reached_and_seeded(build, inputs):
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        model = build()
        out = model(inputs())
        (out * torch.randn_like(out)).sum().backward()
        silent = [
            name
            for name, parameter in model.named_parameters()
            if parameter.grad is None or not parameter.grad.isfinite().all()
        ]
        assert not silent
        assert sum(parameter.grad.abs().sum() for parameter in model.parameters()) > 0
        outputs.append(out)
    torch.testing.assert_close(*outputs)


def test_an_auxiliary_module_is_part_of_the_model_but_not_of_its_outputs():
    network, auxiliary = networks.MLP([3, 4, 2]), nn.Linear(4, 1)
    model, x = networks.WithAuxiliary(network, auxiliary), torch.randn(5, 3)
    assert torch.equal(model(x), network(x))
    assert torch.equal(model(input=x), network(x))
    assert {id(p) for p in model.parameters()} == {
        id(p) for part in (network, auxiliary) for p in part.parameters()
    }


def test_mlp_is_linear_layers_with_relu_between_them():
    mlp = networks.MLP([3, 4, 2])
    x = torch.randn(5, 3)
    expected = (x @ mlp[0].weight.T + mlp[0].bias).clamp(min=0) @ mlp[2].weight.T + mlp[2].bias
    torch.testing.assert_close(mlp(x), expected)
    with pytest.raises(ValueError, match="at least two"):
        networks.MLP([3])


@pytest.mark.parametrize("size", [4, 24])
def test_sizes_that_do_not_halve_to_four_are_refused(size):
    with pytest.raises(ValueError, match=f"size={size} must be a power of 2"):
        networks.ConvEncoder(size=size)


def test_mini_bert_is_a_small_masked_language_model():
    from transformers import BertForMaskedLM

    bert = networks.mini_bert(50, dimension=32, layers=3, heads=4, length=16, padding=1)
    assert isinstance(bert, BertForMaskedLM)
    assert bert(input_ids=torch.ones(2, 16, dtype=torch.long)).logits.shape == (2, 16, 50)
    config = bert.config
    assert (config.num_hidden_layers, config.intermediate_size, config.pad_token_id) == (3, 128, 1)
    with pytest.raises(ValueError, match="not a multiple"):
        networks.mini_bert(50, dimension=30, heads=4)


def test_importing_networks_loads_no_transformers():
    code = "import sys, tlbook.learning.networks; print('transformers' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("size", [8, 32])
def test_dcgan_keeps_the_rules_of_its_paper(size):
    """Radford et al. 2016, section 3: where batch normalization stands, and where it does not."""
    torch.manual_seed(0)
    generator = adversarial.Generator(10, size=size, width=8)
    discriminator = adversarial.Discriminator(size=size, width=8)
    images = generator(torch.randn(6, 10))
    assert images.shape == (6, 3, size, size)
    assert 0 <= images.min() < images.max() <= 1
    assert discriminator(images).shape == (6,)
    parts = [m for m in generator.modules() if not list(m.children())]
    assert isinstance(parts[1], nn.BatchNorm2d)
    assert isinstance(parts[-1], nn.ConvTranspose2d)  # none at its output
    first, *others = discriminator.blocks
    assert not any(isinstance(m, nn.BatchNorm2d) for m in first)
    assert all(isinstance(block[1], nn.BatchNorm2d) for block in others)
    assert all(isinstance(block[-1], nn.LeakyReLU) for block in discriminator.blocks)
    weights = torch.cat(
        [m.weight.flatten() for m in discriminator.modules() if hasattr(m, "stride")]
    )
    assert weights.std().item() == pytest.approx(0.02, rel=0.1)


@torch.inference_mode()
def test_features_of_a_discriminator_are_its_blocks_pooled_to_four_by_four():
    torch.manual_seed(0)
    discriminator = adversarial.Discriminator(width=8).eval()
    images = torch.rand(3, 3, 32, 32)
    features = discriminator.embed(images)
    assert features.shape == (3, discriminator.dimension) == (3, 16 * (8 + 16 + 32))
    first = discriminator.blocks[0](2 * images - 1)  # 16 x 16: windows of 4
    torch.testing.assert_close(features[:, : 16 * 8], nn.functional.max_pool2d(first, 4).flatten(1))
    last = features[:, -16 * 32 :].view(3, 32, 4, 4)
    torch.testing.assert_close(discriminator.classifier(last).flatten(), discriminator(images))
    torch.testing.assert_close(discriminator.embed(images[:1]), features[:1])  # alone the same
