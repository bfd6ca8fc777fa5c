"""Printed characters, drawn from the fonts that come with matplotlib and distorted at random."""

import string
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from tlbook.data import Dataset, labeled


def letters(
    characters: str = "0123456789", *, size: int = 8, copies: int = 20, seed: int = 0
) -> Dataset:
    """Return printed characters, distorted at random, as images in white on black.

    They are a labeled source for :func:`tlbook.sources.images.digits`, which has the same classes
    and colors: each character fills the image as there, then is turned, sheared, scaled and moved a
    little.

    The fonts are the 22 text fonts that come with matplotlib: DejaVu (Bitstream Vera's license; its
    changes are in the public domain), STIX (a license based on the SIL Open Font License) and
    BaKoMa's Computer Modern (free to copy and use). A group is a family of fonts, because its bold
    and italic cuts differ by little more than a distortion.

    Parameters
    ----------
    characters : str, optional
        Digits and Latin letters, the classes.
    size : int, optional
        Height and width of the images in pixels, at least 4.
    copies : int, optional
        Random distortions of each character in each font.
    seed : int, optional
        Seed of the distortions.

    Returns
    -------
    tlbook.data.Dataset
        Images (n, size, size, 3). ``extra["font"]`` (n,) names the file of each example's font.

    Raises
    ------
    ValueError
        A character occurs twice or is not in all fonts, or a number is too small.
    """
    if len(set(characters)) < len(characters) or not set(characters) <= _IN_ALL_FONTS:
        raise ValueError(f"{characters!r}: digits and Latin letters only, and each of them once")
    if size < 4 or copies < 1:
        raise ValueError(f"size={size} must be at least 4, and copies={copies} at least 1")
    rng = np.random.default_rng(seed)
    rows = [
        (_distorted(glyph, size, rng), character, family, file)
        for file, family in _FONTS.items()
        for character, glyph in _glyphs(file, characters).items()
        for _ in range(copies)
    ]
    images, labels, families, files = zip(*rows, strict=True)
    return labeled(
        np.repeat(np.stack(images)[..., None], 3, axis=-1),
        labels,
        families,
        name="printed letters",
        classes=tuple(characters),
        license="fonts: Bitstream Vera, STIX (SIL OFL), BaKoMa",
        citation="fonts of matplotlib",
        extra={"font": np.array(files, dtype=object)},
    )


_FONTS = {
    f"{family}{cut}.ttf": family
    for family, cuts in {
        "DejaVuSans": ("", "-Bold", "-BoldOblique", "-Oblique"),
        "DejaVuSansMono": ("", "-Bold", "-BoldOblique", "-Oblique"),
        "DejaVuSerif": ("", "-Bold", "-BoldItalic", "-Italic"),
        "STIXGeneral": ("", "Bol", "BolIta", "Italic"),
    }.items()
    for cut in cuts
} | {
    f"{cut}10.ttf": family
    for family, cuts in {
        "cmr": ("cmr", "cmb", "cmti", "cmmi"),
        "cmss": ("cmss",),
        "cmtt": ("cmtt",),
    }.items()
    for cut in cuts
}

_IN_ALL_FONTS = set("0123456789" + string.ascii_letters)
_PIXELS = 64  # height and width of a glyph before it is distorted and made small


def _glyphs(file: str, characters: str) -> dict[str, Image.Image]:
    """Each character as a gray image of ``_PIXELS`` x ``_PIXELS``, white on black, which it fills.

    Like the handwritten digits: to the full height or width, in their own proportions.
    """
    from matplotlib import get_data_path

    font = ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", file), 2 * _PIXELS)
    found = {}
    for character in characters:
        left, top, right, bottom = font.getbbox(character)
        glyph = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(glyph).text((-left, -top), character, font=font, fill=255)
        scale = _PIXELS / max(glyph.size)
        fitted = glyph.resize([max(1, round(scale * side)) for side in glyph.size])
        found[character] = Image.new("L", (_PIXELS, _PIXELS))
        corner = [(_PIXELS - side) // 2 for side in fitted.size]
        found[character].paste(fitted, corner)
    return found


def _distorted(glyph: Image.Image, size: int, rng: np.random.Generator) -> np.ndarray:
    """The glyph as (size, size) uint8: turned, sheared, scaled and moved a little at random."""
    angle, shear = rng.uniform(-0.2, 0.2, 2)
    zoom, stretch = rng.uniform(0.95, 1.25), rng.uniform(0.9, 1.1)
    cos, sin = np.cos(angle), np.sin(angle)
    # From a pixel of the result to one of the glyph, both counted from the center
    matrix = (
        zoom
        * np.array([[cos, -sin], [sin, cos]])
        @ [[1, shear], [0, 1]]
        @ np.diag([stretch, 1 / stretch])
    )
    center = (_PIXELS - 1) / 2
    offset = center - matrix @ [center, center] + rng.uniform(-0.06, 0.06, 2) * _PIXELS
    moved = glyph.transform(
        glyph.size,
        Image.Transform.AFFINE,
        (*matrix[0], offset[0], *matrix[1], offset[1]),
        Image.Resampling.BILINEAR,
    )
    return np.asarray(moved.resize((size, size), Image.Resampling.BOX))
