"""Read a reader's own data: a table, a folder of images by class, or a column of image paths.

What cannot be used is refused in one sentence, a :class:`ValueError`, that says what was wrong and
what to do. What can be done without, such as a row without a label, is left out and said.
"""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError

from tlbook.data import Dataset, content_key, labeled

#: Names by which columns are found, the surest first.
TEXT_NAMES = ("text", "sentence", "review", "content", "body", "message", "document", "comment")
IMAGE_NAMES = ("image", "path", "file", "filename", "picture", "photo")
LABEL_NAMES = ("label", "class", "category", "target", "topic", "sentiment", "y")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
#: Fewer labeled rows than this cannot be learned from and tested on.
LEAST_ROWS = 20
#: More classes than this are not measured.
MOST_CLASSES = 100
#: A class of fewer rows is kept, but what is said of it is a guess.
SMALL = 10
#: Height and width of images in pixels.
SIZE = 160


@dataclass(frozen=True)
class Reading:
    """Hold a reader's data as it was understood.

    Attributes
    ----------
    data : Dataset
        The labeled examples, without duplicates. ``extra["row"]`` is each one's position in
        ``table``.
    table : pandas.DataFrame
        All rows and columns as they were read.
    columns : dict of str to str
        The column of the ``"input"``, of the ``"label"`` and, if there is one, of the ``"group"``.
    unlabeled : (m,) numpy.ndarray of int64
        Rows of ``table`` that have an input and no label.
    unlabeled_x : (m, ...) numpy.ndarray
        Their texts or images.
    copies : tuple of tuple of int
        Rows of ``table`` that hold the same input, set by set.
    contradictory : tuple of tuple of int
        Those of them that have different labels, which are left out.
    notes : tuple of str
        Sentences on what was left out or is too little.
    """

    data: Dataset
    table: pd.DataFrame
    columns: dict[str, str]
    unlabeled: np.ndarray
    unlabeled_x: np.ndarray
    copies: tuple[tuple[int, ...], ...]
    contradictory: tuple[tuple[int, ...], ...]
    notes: tuple[str, ...]

    @property
    def modality(self) -> str:
        """Return ``"text"`` or ``"image"``."""
        return "image" if self.data.x.ndim > 1 else "text"


def read(
    source: Path | str | pd.DataFrame,
    *,
    text: str | None = None,
    image: str | None = None,
    label: str | None = None,
    group: str | None = None,
    size: int = SIZE,
) -> Reading:
    """Read labeled texts or images.

    Parameters
    ----------
    source : Path, str or pandas.DataFrame
        A table: CSV or TSV with a header, Parquet, or JSON lines. Or a folder with a folder of
        images for each class.
    text, image : str, optional
        Column of the texts, or of the paths of images, from the table's own folder. By default it
        is found.
    label : str, optional
        Column of the class names. By default it is found.
    group : str, optional
        Column of values that say which rows belong together, such as an author.
    size : int, default 160
        Height and width to which images are brought, in pixels.

    Returns
    -------
    Reading
        The data and what was noticed.

    Raises
    ------
    ValueError
        If the source cannot be used. The message says why and what to do.
    """
    if isinstance(source, pd.DataFrame):
        name, folder, table = "the table", Path(), source.reset_index(drop=True)
    elif (path := Path(source)).is_dir():
        name, folder, table = path.name or str(path), path, _folder(path)
        image, label = "image", "label"
    else:
        name, folder, table = path.name, path.parent, _table(path)
    table = table.rename(columns=str)
    columns = _columns(name, table, folder, text or image, label, group)
    is_image = image is not None or (text is None and _are_images(table[columns["input"]], folder))
    inputs, labels = (_strings(table[columns[role]]) for role in ("input", "label"))
    notes = []
    for role, values in (("input", inputs), ("label", labels)):
        if (values == "").all():
            raise ValueError(
                f"{name}: column {columns[role]!r} is empty: fill it in, or name another column"
            )
        if count := int((values == "").sum()):
            what = "nothing to read" if role == "input" else "no label"
            notes.append(f"{count} row{'s have' if count > 1 else ' has'} {what}.")
    filled = (inputs != "").to_numpy(copy=True)
    if is_image:
        opened, damaged = pictures(inputs[filled], folder, size)
        filled[damaged] = False
        if damaged:
            shown = ", ".join(inputs[row] for row in damaged[:3])
            notes.append(f"{len(damaged)} images cannot be opened, such as {shown}.")
    has_label = (labels != "").to_numpy()
    rows = np.flatnonzero(filled & has_label)
    labels = _classes(name, columns["label"], labels[rows], notes)
    rows = labels.index.to_numpy()
    groups = None if group is None else _groups(table[group], rows)
    x = np.stack([opened[row] for row in rows]) if is_image else inputs[rows].to_list()
    copies, contradictory = _copies(x, labels.to_numpy(), rows)
    with_rows = {"extra": {"row": rows}}
    data = labeled(x, labels.to_list(), groups, name=name, **with_rows)
    data, small = _without_lonely(data)
    notes += small
    if len(data) < LEAST_ROWS:
        raise ValueError(_too_few(name, len(data), "different "))
    unlabeled = np.flatnonzero(filled & ~has_label)
    others = np.empty((0, *data.x.shape[1:]), data.x.dtype)
    if len(unlabeled):
        others = inputs[unlabeled].to_numpy(object)
        others = np.stack([opened[row] for row in unlabeled]) if is_image else others
    return Reading(data, table, columns, unlabeled, others, copies, contradictory, tuple(notes))


# --- files --------------------------------------------------------------------------------------
def _table(path: Path) -> pd.DataFrame:
    if not path.is_file():
        raise ValueError(f"there is no file or folder {path}: check the path")
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            table = pd.read_parquet(path)
        elif kind in (".jsonl", ".ndjson", ".json"):
            table = pd.read_json(path, lines=True, dtype=False)
        else:
            return _separated(path)
    except (OSError, ValueError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path.name} cannot be read ({reason:.200}): repair it") from None
    return table


def _separated(path: Path) -> pd.DataFrame:
    """A CSV or TSV table with everything as strings: a label "NA" is no missing value."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            header = file.readline()
        # Excel writes semicolons where the decimal sign is a comma
        separator = max(",;\t", key=header.count)
        options = {"dtype": str, "keep_default_na": False, "index_col": False}
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            table = pd.read_csv(path, sep=separator, encoding="utf-8-sig", **options)
    except UnicodeDecodeError:
        raise ValueError(f"{path.name} is not in UTF-8: save it as UTF-8 and try again") from None
    except pd.errors.ParserWarning:
        raise ValueError(
            f"{path.name} has rows with more fields than its header: put texts that hold a "
            "separator in double quotes"
        ) from None
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{path.name} cannot be read as a table ({reason:.200}): repair it"
        ) from None
    table = table.fillna("")
    if _is_headless(table):
        raise ValueError(
            f"{path.name} seems to have no header, since its first row looks like the others: add "
            "a first row with the names of the columns, such as text,label"
        )
    return table


def _is_headless(table: pd.DataFrame) -> bool:
    """Whether a column's name is one of its values, or as long as a text."""
    names = [str(name) for name in table.columns]
    known = {*TEXT_NAMES, *IMAGE_NAMES, *LABEL_NAMES}
    if any(name.strip().casefold() in known for name in names):
        return False
    repeated = any(
        (table[column] == name).sum() > 1 for column, name in zip(table, names, strict=True)
    )
    return repeated or any(len(name) > 60 and " " in name for name in names)


def _folder(path: Path) -> pd.DataFrame:
    """The images of a folder with a folder for each class."""
    found = [
        (str(file.relative_to(path)), file.relative_to(path).parts[0])
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in IMAGES and file.parent != path
    ]
    if not found:
        raise ValueError(
            f"{path} holds no folders of images: make one folder for each class, with its images "
            f"({', '.join(IMAGES[:3])}, ...)"
        )
    return pd.DataFrame(found, columns=["image", "label"])


def pictures(paths: pd.Series, folder: Path, size: int) -> tuple[dict[int, np.ndarray], list[int]]:
    """Open images, put them on white, and bring them to one size.

    Parameters
    ----------
    paths : pandas.Series of str
        Paths from the folder.
    folder : Path
        The folder.
    size : int
        Height and width of the result, in pixels.

    Returns
    -------
    opened : dict of int to (size, size, 3) numpy.ndarray of uint8
        The images by the index of ``paths``.
    damaged : list of int
        Those that cannot be opened.
    """
    opened, damaged = {}, []
    for row, path in paths.items():
        try:
            with Image.open(folder / path) as file:
                picture = file.convert("RGBA").resize((size, size))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            damaged.append(row)
            continue
        white = Image.new("RGBA", picture.size, "white")
        opened[row] = np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    return opened, damaged


# --- columns ------------------------------------------------------------------------------------
def _columns(
    name: str,
    table: pd.DataFrame,
    folder: Path,
    given: str | None,
    label: str | None,
    group: str | None,
) -> dict[str, str]:
    if table.columns.has_duplicates:
        double = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{name} has two columns {double!r}: rename one")
    for column in filter(None, (given, label, group)):
        if column not in table:
            found = ", ".join(map(repr, table.columns))
            raise ValueError(f"{name} has no column {column!r}: choose one of {found}")
    if len(table) < LEAST_ROWS:
        raise ValueError(_too_few(name, len(table)))
    label = label or _found(
        name,
        "label",
        "the labels",
        [c for c in table if c not in (given, group) and _are_labels(table[c])],
        LABEL_NAMES,
        [c for c in table if c != given],
    )
    inputs = [c for c in table if c not in (label, group)]
    images = [c for c in inputs if _are_images(table[c], folder)]
    given = given or _found(
        name,
        "text",
        "the texts or images",
        images or [c for c in inputs if _are_texts(table[c])],
        IMAGE_NAMES if images else TEXT_NAMES,
        inputs,
    )
    roles = {"input": given, "label": label}
    return roles if group is None else roles | {"group": group}


def _found(
    name: str, option: str, what: str, candidates: list[str], names: tuple, others: list[str]
) -> str:
    """The one column that can be meant; by its name if there are several."""
    folded = {column.strip().casefold(): column for column in others}
    for known in names:
        if known in folded:
            return folded[known]
    if len(candidates) == 1:
        return candidates[0]
    if not candidates:
        shown = ", ".join(map(repr, others)) or "none"
        raise ValueError(
            f"{name}: no column looks like {what}: name it with {option}= (on the command line "
            f"--{option}); there are {shown}"
        )
    raise ValueError(
        f"{name}: {' and '.join(map(repr, candidates[:4]))} cannot be told apart, each could hold "
        f"{what}: name one with {option}= (on the command line --{option})"
    )


def _strings(column: pd.Series) -> pd.Series:
    """A column as strings without white space around them; what is missing is empty."""
    if pd.api.types.is_float_dtype(column) and (column.dropna() % 1 == 0).all():
        column = column.astype("Int64")  # 1 that stands beside a missing value
    return column.astype(object).where(column.notna(), "").astype(str).str.strip().astype(object)


def _are_labels(column: pd.Series) -> bool:
    values = _strings(column)
    values = values[values != ""]
    distinct = values.nunique()
    return 2 <= distinct <= max(2, len(values) // 5) and values.str.len().median() <= 40


def _are_texts(column: pd.Series) -> bool:
    values = _strings(column)
    values = values[values != ""]
    if not len(values) or pd.to_numeric(values, errors="coerce").notna().mean() > 0.5:
        return False
    spaced = values.str.contains(r"\s|[^\x00-\x7f]", regex=True).mean() > 0.5
    return bool(spaced and values.nunique() > len(values) / 2)


def _are_images(column: pd.Series, folder: Path) -> bool:
    values = _strings(column)
    values = values[values != ""][:20]
    return bool(len(values)) and all(
        value.lower().endswith(IMAGES) and len(value) < 1000 and (folder / value).is_file()
        for value in values
    )


# --- labels -------------------------------------------------------------------------------------
def _classes(name: str, column: str, labels: pd.Series, notes: list[str]) -> pd.Series:
    """The labels of classes with two or more rows, refused where they are not classes."""
    counts = labels.value_counts()
    numbers = pd.to_numeric(pd.Series(counts.index), errors="coerce")
    many = len(counts) > MOST_CLASSES
    if numbers.notna().all() and (many or (numbers % 1 != 0).any()):
        raise ValueError(
            f"{name}: column {column!r} holds numbers such as {counts.index[0]}, not classes: cut "
            "them into ranges first, for example with pandas.cut"
        )
    if len(counts) < 2:
        raise ValueError(
            f"{name}: column {column!r} has one class, {counts.index[0]!r}: add examples of "
            "another, or name another column"
        )
    if len(labels) < LEAST_ROWS:
        raise ValueError(_too_few(name, len(labels)))
    if many:
        raise ValueError(
            f"{name}: column {column!r} has {len(counts)} classes, and {MOST_CLASSES} are the "
            "most: merge the rare ones, or name another column"
        )
    return labels


def _too_few(name: str, count: int, which: str = "") -> str:
    return (
        f"{name}: {count} {which}rows are too few to learn from and to test on: label at least "
        f"{LEAST_ROWS}, better 20 of each class"
    )


def _without_lonely(data: Dataset) -> tuple[Dataset, list[str]]:
    """The data without classes of a single example, which cannot be learned and tested."""
    counts = np.bincount(data.y, minlength=len(data.classes))
    notes = []
    if lonely := [name for name, count in zip(data.classes, counts, strict=True) if count < 2]:
        kept = np.flatnonzero(counts >= 2)
        if len(kept) < 2:
            raise ValueError(
                f"{data.name}: fewer than two classes have two different examples: add some"
            )
        notes.append(
            f"Class{'es' * (len(lonely) > 1)} {', '.join(map(repr, lonely))} left out: a single "
            "example cannot be learned from and tested on."
        )
        rows = np.isin(data.y, kept)
        data = replace(
            data.take(rows),
            y=np.searchsorted(kept, data.y[rows]),
            classes=tuple(data.classes[label] for label in kept),
        )
    notes += [
        f"Class {name!r} has {count} examples only: it is kept, what is said of it is a guess, and "
        "it is left out of the learning curve."
        for name, count in zip(data.classes, np.bincount(data.y), strict=True)
        if count < SMALL
    ]
    return data, notes


def _groups(column: pd.Series, rows: np.ndarray) -> np.ndarray:
    """Groups of rows; a row without one stands alone."""
    values = _strings(column)
    alone = "row " + values.index.astype(str).to_series(index=values.index)
    return values.where(values != "", alone)[rows].to_numpy(object)


def _copies(x: np.ndarray | list, labels: np.ndarray, rows: np.ndarray) -> tuple[tuple, tuple]:
    """Sets of rows with the same input, and those of them with different labels."""
    table = pd.DataFrame({"key": [content_key(one) for one in x], "label": labels, "row": rows})
    table = table[table["key"].duplicated(keep=False)]
    sets, contradictory = [], []
    for _, part in table.groupby("key", sort=False):
        same = tuple(part["row"].tolist())
        sets.append(same)
        if part["label"].nunique() > 1:
            contradictory.append(same)
    return tuple(sets), tuple(contradictory)
