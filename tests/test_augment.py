"""Augmentations against PIL and torch, image by image."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance
from sklearn.datasets import load_sample_images
from torch.nn import functional as F

from tlbook.learning.augment import augment, recolor, two_views, warp

#: Options that leave images as they are.
NOTHING = {"scale": (1, 1), "ratio": (1, 1), "flip": 0, "degrees": 0, "shift": 0}
NOTHING |= {"brightness": 0, "contrast": 0, "saturation": 0, "gray": 0}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """(12, 3, 32, 40): patches of scikit-learn's two photographs."""
    photographs = np.stack(load_sample_images().images)
    patches = [photographs[i % 2, 60 + 20 * i :, 40 * i :][:32, :40] for i in range(12)]
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2) / 255


def whole(images: torch.Tensor) -> torch.Tensor:
    """Boxes around whole images."""
    height, width = images.shape[2:]
    return torch.tensor([0.0, 0.0, width, height]).repeat(len(images), 1)


def same(images: torch.Tensor) -> dict:
    """Factors that leave colors as they are."""
    return {n: torch.ones(len(images)) for n in ("brightness", "contrast", "saturation")}


def to_pil(image: torch.Tensor) -> Image.Image:
    return Image.fromarray((image.permute(1, 2, 0) * 255).round().byte().numpy())


def from_pil(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def test_identity_is_identity(images):
    torch.testing.assert_close(augment(images, seeded(), **NOTHING), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(warp(images, whole(images)), images, atol=1e-5, rtol=0)
    torch.testing.assert_close(recolor(images, **same(images)), images, atol=1e-6, rtol=0)


def test_seeds_reproduce_and_differ(images):
    options = {"degrees": 20, "shift": 0.1}
    before = images.clone()
    one, again, other = (augment(images, seeded(seed), **options) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.allclose(one, other, atol=0.05)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "option",
    [
        {"scale": (0.2, 0.9)},
        {"ratio": (0.5, 2)},
        {"degrees": 30},
        {"shift": 0.2},
        {"brightness": 0.5},
        {"contrast": 0.5},
        {"saturation": 1},
    ],
    ids=lambda option: next(iter(option)),
)
def test_each_image_gets_its_own_parameters(images, option):
    copies = images[:1].repeat(16, 1, 1, 1)
    out = augment(copies, seeded(), **(NOTHING | option))
    assert out.shape == copies.shape
    assert 0 <= out.min() < out.max() <= 1
    assert len({row.numpy().tobytes() for row in out}) >= 15


@pytest.mark.parametrize(("option", "change"), [("flip", lambda x: x.flip(3)), ("gray", None)])
def test_chances_are_met(images, option, change):
    copies = images[:1].repeat(2000, 1, 1, 1)
    out = augment(copies, seeded(), **(NOTHING | {option: 0.3}))
    changed = (out - copies).abs().amax((1, 2, 3)) > 0.01
    assert changed.float().mean().item() == pytest.approx(0.3, abs=0.04)
    if change:
        torch.testing.assert_close(out[changed], change(copies[changed]), atol=1e-5, rtol=0)
    else:
        assert (out[changed].amax(1) - out[changed].amin(1)).max() < 1e-5


def test_chances_are_independent(images):
    """An image that is mirrored is no more likely to lose its color."""
    copies = images[:1].repeat(2000, 1, 1, 1)
    out = augment(copies, seeded(), **(NOTHING | {"flip": 0.5, "gray": 0.5}))
    gray = (out.amax(1) - out.amin(1)).amax((1, 2)) < 1e-5
    luma = (out * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    mirrored = (luma - luma[(~gray).nonzero()[0]]).abs().amax((1, 2)) > 0.01
    both, one, other = (x.float().mean().item() for x in (gray & mirrored, gray, mirrored))
    assert both == pytest.approx(one * other, abs=0.04)


def test_an_option_does_not_change_what_else_is_drawn(images):
    """Turning colors off leaves the crops: so two arms of an experiment differ in one thing."""
    colorful = augment(images, seeded())
    plain = augment(images, seeded(), brightness=0, contrast=0, saturation=0, gray=0)
    recolored = augment(images, seeded(), gray=1)
    boxes_only = {"brightness": 0, "contrast": 0, "saturation": 0}
    luma = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    expected = (plain * luma).sum(1, keepdim=True).expand_as(plain)
    torch.testing.assert_close(
        augment(images, seeded(), **boxes_only, gray=1), expected, atol=1e-5, rtol=0
    )
    assert not torch.allclose(colorful, recolored)


def test_two_views_differ(images):
    one, other = two_views(images, seeded())
    assert one.shape == other.shape == images.shape
    assert (one - other).abs().amax((1, 2, 3)).min() > 0.01
    torch.testing.assert_close(one, augment(images, seeded()))


BOXES = [[0, 0, 40, 32], [3, 5, 20, 16], [20, 0, 20, 32], [39, 31, 1, 1], [7, 9, 31, 11]]


@pytest.mark.parametrize("box", BOXES)
def test_a_crop_is_that_of_torch_and_pil(images, box):
    """Other images get other boxes at the same time."""
    boxes = whole(images)
    boxes[::2] = torch.tensor(box, dtype=torch.float)
    out = warp(images, boxes)
    left, top, width, height = box
    cut = images[::2, :, top : top + height, left : left + width]
    expected = F.interpolate(cut, size=(32, 40), mode="bilinear", align_corners=False)
    torch.testing.assert_close(out[::2], expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(out[1::2], images[1::2], atol=1e-4, rtol=0)
    edges = (left, top, left + width, top + height)
    pil = to_pil(images[0]).crop(edges).resize((40, 32), Image.Resampling.BILINEAR)
    torch.testing.assert_close(out[0], from_pil(pil), atol=2 / 255, rtol=0)


@pytest.mark.parametrize("degrees", [90.0, -25.0, 10.0])
def test_a_rotation_is_that_of_pil(images, degrees):
    """In the middle: PIL fills corners with black, and half a pixel of the edge with it."""
    turned = warp(images, whole(images), degrees=torch.full((len(images),), degrees))
    for image, out in zip(images, turned, strict=True):
        expected = from_pil(to_pil(image).rotate(degrees, Image.Resampling.BILINEAR))
        middle = np.s_[:, 9:23, 13:27]
        torch.testing.assert_close(out[middle], expected[middle], atol=3 / 255, rtol=0)


def test_shifts_are_to_the_right_and_down(images):
    shifts = torch.tensor([[3 / 40, 0.0], [0.0, -5 / 32]]).repeat(6, 1)
    out = warp(images, whole(images), shifts=shifts)
    torch.testing.assert_close(out[::2, ..., 3:], images[::2, ..., :-3], atol=1e-4, rtol=0)
    edge = images[::2, ..., :1].expand(-1, -1, -1, 3)  # what comes in repeats the edge
    torch.testing.assert_close(out[::2, ..., :3], edge, atol=1e-4, rtol=0)
    torch.testing.assert_close(out[1::2, :, :-5], images[1::2, :, 5:], atol=1e-4, rtol=0)


def test_all_at_once_is_one_after_the_other(images):
    """Crop, mirror, turn, shift, in this order; quarter turns of squares are exact."""
    square = images[..., :32]
    n = len(square)
    boxes = torch.tensor([[4.0, 6.0, 20.0, 24.0]]).repeat(n, 1)
    mirrored = torch.arange(n) % 2 == 0
    shifts = torch.tensor([[4 / 32, -2 / 32]]).repeat(n, 1)
    quarter = torch.full((n,), 90.0)
    out = warp(square, boxes, mirrored=mirrored, degrees=quarter, shifts=shifts)
    cut = warp(square, boxes)
    cut[mirrored] = cut[mirrored].flip(3)
    turned = torch.rot90(cut, 1, (2, 3))
    expected = warp(turned, whole(turned), shifts=shifts)
    torch.testing.assert_close(out, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("name", "enhance"),
    [
        ("brightness", ImageEnhance.Brightness),
        ("contrast", ImageEnhance.Contrast),
        ("saturation", ImageEnhance.Color),
    ],
)
def test_colors_change_as_in_pil(images, name, enhance):
    factors = torch.linspace(0, 2, len(images))
    out = recolor(images, **(same(images) | {name: factors}))
    for image, changed, factor in zip(images, out, factors.tolist(), strict=True):
        expected = from_pil(enhance(to_pil(image)).enhance(factor))
        torch.testing.assert_close(changed, expected, atol=3 / 255, rtol=0)


def test_crops_cover_the_image_and_keep_to_their_range():
    """A ramp tells where a crop was: the ends of its values are the ends of its box."""
    ramp = (torch.arange(64) / 63).expand(1, 3, 64, 64).repeat(500, 1, 1, 1)
    out = augment(ramp, seeded(), **(NOTHING | {"scale": (0.25, 0.25)}))
    left, right = out[..., 0].mean((1, 2)), out[..., -1].mean((1, 2))
    torch.testing.assert_close(right - left, torch.full((500,), 31 / 63), atol=1e-2, rtol=0)
    assert left.min() < 0.02
    assert right.max() > 0.98
    assert left.mean().item() == pytest.approx(16 / 63, abs=0.02)


def test_what_are_no_images_is_refused(images):
    for wrong in ((images * 255).byte(), images[0], images[:, :1], images.permute(0, 2, 3, 1)):
        with pytest.raises(ValueError, match="floats of shape"):
            augment(wrong, seeded())
    for wrong in (images * 255, images - 1, images * float("nan")):
        with pytest.raises(ValueError, match="divide by 255"):
            augment(wrong, seeded())


def test_options_out_of_range_are_refused(images):
    for options in ({"scale": (0, 1)}, {"scale": (0.5, 1.5)}, {"ratio": (2, 1)}):
        with pytest.raises(ValueError, match="must be a range"):
            augment(images, seeded(), **options)
    for options in ({"flip": 1.5}, {"brightness": -0.1}):
        with pytest.raises(ValueError, match="each must be within"):
            augment(images, seeded(), **options)
    for box in ([-1, 0, 5, 5], [30, 0, 11, 5], [0, 0, 0.5, 5]):
        with pytest.raises(ValueError, match="40 x 32 pixels"):
            warp(images, torch.tensor(box, dtype=torch.float).repeat(len(images), 1))
