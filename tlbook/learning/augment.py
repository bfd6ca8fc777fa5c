"""Random changes to whole batches of images, for training and for contrastive views.

Images are floats (n, 3, height, width) in 0..1. Every image gets parameters of its own, drawn from
a ``torch.Generator``, and the whole batch is computed at once: crop, mirror, rotation and shift
together cost one interpolation.

:func:`augment` draws random parameters and applies them. It uses :func:`warp` and :func:`recolor`,
which take the parameters from the caller.
"""

import math

import torch
from torch.nn import functional as F

#: Shares of red, green and blue in a pixel's gray (ITU-R BT.601, as in PIL).
LUMA = (0.299, 0.587, 0.114)


@torch.no_grad()
def augment(
    images: torch.Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.3, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: float = 0.5,
    degrees: float = 0.0,
    shift: float = 0.0,
    brightness: float = 0.4,
    contrast: float = 0.4,
    saturation: float = 0.4,
    gray: float = 0.2,
) -> torch.Tensor:
    """Return randomly cropped, mirrored, turned and recolored copies of a batch of images.

    The defaults are near those of SimCLR (Chen et al. 2020, arXiv 2002.05709), without blur and
    changes of hue. An option that is switched off does not change what is drawn for the others.

    Parameters
    ----------
    images : (n, 3, height, width) torch.Tensor
        Images as floats in 0..1.
    generator : torch.Generator
        Source of all random numbers.
    scale : (float, float), optional
        Range of the crop's share of the image's area; (1, 1) for the whole area. A crop that would
        not fit is made smaller.
    ratio : (float, float), optional
        Range of the crop's width over its height, relative to the image's; (1, 1) keeps its
        proportions.
    flip : float, optional
        Probability of mirroring left and right.
    degrees : float, optional
        Largest rotation to either side, in degrees.
    shift : float, optional
        Largest shift to each of the four sides, as a share of the image's size.
    brightness, contrast, saturation : float, optional
        Half-widths of the ranges of factors, which are drawn from 1 - value to 1 + value.
    gray : float, optional
        Probability of losing all color.

    Returns
    -------
    (n, 3, height, width) torch.Tensor
        New images in 0..1, on the device and of the type of ``images``.

    Raises
    ------
    ValueError
        The images have another type, shape or range, or an option is out of its range.
    """
    _check(images)
    if not (0 < scale[0] <= scale[1] <= 1 and 0 < ratio[0] <= ratio[1]):
        raise ValueError(f"scale={scale} must be a range within 0..1, ratio={ratio} a positive one")
    options = {"flip": flip, "shift": shift, "gray": gray}
    options |= {"brightness": brightness, "contrast": contrast, "saturation": saturation}
    if wrong := {name: value for name, value in options.items() if not 0 <= value <= 1}:
        raise ValueError(f"{wrong}: each must be within 0..1")
    n, _, height, width = images.shape
    # Always draw everything, so that an option changes only its own effect
    draws = torch.rand(12, n, generator=generator, device=generator.device).to(images)
    boxes = _boxes(draws[:4], height, width, scale, ratio)
    around_0, around_1 = 2 * draws - 1, lambda row, value: 1 + value * (2 * draws[row] - 1)
    warped = warp(
        images,
        boxes,
        mirrored=draws[4] < flip,
        degrees=degrees * around_0[5],
        shifts=shift * around_0[6:8].T,
    )
    return recolor(
        warped,
        brightness=around_1(8, brightness),
        contrast=around_1(9, contrast),
        saturation=torch.where(draws[11] < gray, 0, around_1(10, saturation)),
    )


def two_views(
    images: torch.Tensor, generator: torch.Generator, **options
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two independent augmentations of the same images, with the same options.

    Parameters
    ----------
    images : (n, 3, height, width) torch.Tensor
        Images as floats in 0..1.
    generator : torch.Generator
        Source of all random numbers.
    **options
        Options of :func:`augment`.

    Returns
    -------
    first, second : (n, 3, height, width) torch.Tensor
        Row i of both comes from row i of ``images``.
    """
    return augment(images, generator, **options), augment(images, generator, **options)


@torch.no_grad()
def warp(
    images: torch.Tensor,
    boxes: torch.Tensor,
    *,
    mirrored: torch.Tensor | None = None,
    degrees: torch.Tensor | None = None,
    shifts: torch.Tensor | None = None,
) -> torch.Tensor:
    """Cut a box out of each image, resize it to the image's size, mirror, turn and shift it.

    All of it is one bilinear interpolation. Pixels from outside of a box repeat those at its edge.

    Parameters
    ----------
    images : (n, 3, height, width) torch.Tensor
        Images as floats in 0..1.
    boxes : (n, 4) torch.Tensor
        Left, top, width and height of each box in pixels, at least one pixel wide and high.
    mirrored : (n,) bool torch.Tensor, optional
        Whether left and right change places; by default they do not.
    degrees : (n,) torch.Tensor, optional
        Rotations around the center, counterclockwise, in degrees; by default none.
    shifts : (n, 2) torch.Tensor, optional
        Shifts to the right and down, as shares of the image's size; by default none.

    Returns
    -------
    (n, 3, height, width) torch.Tensor
        The new images, in 0..1.

    Raises
    ------
    ValueError
        The images have another type, shape or range, or a box reaches beyond its image or is empty.
    """
    _check(images)
    n, _, height, width = images.shape
    size = images.new_tensor([width, height])
    corners, sides = boxes[:, :2], boxes[:, 2:]
    if (corners < 0).any() or (sides < 1).any() or (corners + sides > size + 1e-3).any():
        raise ValueError(f"a box reaches beyond an image of {width} x {height} pixels, or is empty")
    # From a pixel of the result back to the box: unshift, turn back, mirror, then scale and move.
    # Everything is in pixels from the center: a rotation needs the same units for x and y.
    matrix = torch.eye(2).to(images).repeat(n, 1, 1)
    if degrees is not None:
        cos, sin = torch.deg2rad(degrees).cos(), torch.deg2rad(degrees).sin()
        matrix = torch.stack([cos, -sin, sin, cos], dim=1).view(n, 2, 2)
    if mirrored is not None:
        matrix[:, 0] *= torch.where(mirrored, -1.0, 1.0).to(images)[:, None]
    matrix = matrix * (sides / size)[:, :, None]
    offset = corners + sides / 2 - size / 2
    if shifts is not None:
        offset = offset - (matrix @ (shifts * size)[:, :, None]).squeeze(2)
    # grid_sample counts from -1 to 1 over the width and over the height. The grid is laid out as
    # all x, then all y, which is several times as fast as in pairs.
    across = torch.arange(width).to(images) + (0.5 - width / 2)
    down = torch.arange(height).to(images) + (0.5 - height / 2)

    def planes(values: torch.Tensor) -> torch.Tensor:
        """(n, 2) numbers for x and y as (2, n, 1, 1), in the units of grid_sample."""
        return (2 * values / size).T[:, :, None, None]

    grid = planes(matrix[:, :, 0]) * across
    grid = grid + (planes(matrix[:, :, 1]) * down[:, None] + planes(offset))
    low = planes(corners + 0.5) - 1
    high = planes(corners + sides - 0.5) - 1
    torch.maximum(grid, low, out=grid)
    torch.minimum(grid, high, out=grid)
    grid = grid.permute(1, 2, 3, 0)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


@torch.no_grad()
def recolor(
    images: torch.Tensor,
    *,
    brightness: torch.Tensor,
    contrast: torch.Tensor,
    saturation: torch.Tensor,
) -> torch.Tensor:
    """Change brightness, contrast and saturation of each image by factors of its own.

    The changes are made in this order: ``brightness`` moves each image from black (0) to itself (1)
    and beyond, ``contrast`` from the mean of its gray, ``saturation`` from each pixel's gray.
    Values are cut off at 0 and 1 after each change, as PIL's ``ImageEnhance`` does.

    Parameters
    ----------
    images : (n, 3, height, width) torch.Tensor
        Images as floats in 0..1.
    brightness, contrast, saturation : (n,) torch.Tensor
        Factors; 1 changes nothing, 0 leaves black, the mean gray, or each pixel's gray.

    Returns
    -------
    (n, 3, height, width) torch.Tensor
        The new images, in 0..1.
    """

    def factor(values: torch.Tensor) -> torch.Tensor:
        return values.view(-1, 1, 1, 1)

    def gray_of(colors: torch.Tensor) -> torch.Tensor:
        red, green, blue = colors.split(1, dim=1)
        return (LUMA[0] * red).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])

    out = (images * factor(brightness)).clamp_(0, 1)
    mean = gray_of(out.mean((2, 3), keepdim=True))
    out.mul_(factor(contrast)).add_(mean * (1 - factor(contrast))).clamp_(0, 1)
    gray = gray_of(out)
    return out.mul_(factor(saturation)).add_(gray * (1 - factor(saturation))).clamp_(0, 1)


def _boxes(
    draws: torch.Tensor,
    height: int,
    width: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> torch.Tensor:
    """(n, 4) left, top, width, height in pixels, from (4, n) numbers in 0..1."""
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    shape = (low + (high - low) * draws[1]).exp() * (width / height)
    sides = torch.stack([(area * shape).sqrt(), (area / shape).sqrt()], dim=1)
    size = sides.new_tensor([width, height])
    sides = sides.clamp(min=1).minimum(size)
    return torch.cat([draws[2:].T * (size - sides), sides], dim=1)


def _check(images: torch.Tensor) -> None:
    if not images.is_floating_point() or images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(
            "images must be floats of shape (n, 3, height, width), not "
            f"{images.dtype} of {tuple(images.shape)}"
        )
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise ValueError(f"images must be within 0..1, not {low:.3g}..{high:.3g}: divide by 255")
