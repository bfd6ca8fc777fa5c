"""Hold labeled data sets as arrays, and split them without leaks.

Rows are named by integer positions. :func:`split` and :func:`sample` return positions, so features
computed once for the whole set serve every split and every budget. Data sets that come with the
book are in :mod:`tlbook.sources`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from tlbook import checks


@dataclass(frozen=True, eq=False)
class Dataset:
    """Hold examples with their labels.

    Attributes
    ----------
    name : str
        What the data set is called in tables and figures.
    x : (n,) numpy.ndarray of str, or (n, height, width, 3) numpy.ndarray of uint8
        Texts or images.
    y : (n,) numpy.ndarray of int64
        Labels, as positions in ``classes``.
    classes : tuple of str
        The names of the labels.
    groups : (n,) numpy.ndarray
        Examples with equal values belong together (sentences of one review, variants of one emoji)
        and never stand on both sides of a split.
    license : str, default ""
        License of the source.
    citation : str, default ""
        The reference that the source asks for.
    extra : dict of str to (n, ...) numpy.ndarray
        Further arrays of n rows, such as ratings, names or masks.
    left_out : dict of str to int
        What :func:`labeled` left out, and how many examples of it. ``repr`` shows it.

    Raises
    ------
    ValueError
        If the labels, the groups or an extra array have another number of rows than ``x``.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    classes: tuple[str, ...]
    groups: np.ndarray
    license: str = ""
    citation: str = ""
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)

    def __post_init__(self):
        lengths = {"y": len(self.y), "groups": len(self.groups)}
        lengths |= {key: len(values) for key, values in self.extra.items()}
        for key, length in lengths.items():
            if length != len(self.x):
                raise ValueError(f"{self.name}: {len(self.x)} examples, but {length} rows of {key}")

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        left_out = "".join(f", {count} {what} left out" for what, count in self.left_out.items())
        shown = f"{self.name!r}, {len(self):,} examples{left_out}, classes {list(self.classes)}"
        return f"Dataset({shown})"

    def take(self, rows: np.ndarray) -> "Dataset":
        """Return the data set with only some of its rows.

        Parameters
        ----------
        rows : (k,) numpy.ndarray of int, or (n,) numpy.ndarray of bool
            Positions of the rows to keep, or a mask.

        Returns
        -------
        Dataset
            The rows in the order of the positions.
        """
        return replace(
            self,
            x=self.x[rows],
            y=self.y[rows],
            groups=self.groups[rows],
            extra={key: values[rows] for key, values in self.extra.items()},
        )

    def with_x(self, x: np.ndarray) -> "Dataset":
        """Return the data set with other inputs, such as features or smaller images.

        Parameters
        ----------
        x : (n, ...) numpy.ndarray
            New inputs, row by row.

        Returns
        -------
        Dataset
            The same labels, groups and extras with the new inputs.

        Raises
        ------
        ValueError
            If there are not as many inputs as before.
        """
        return replace(self, x=x)


def labeled(
    x: Sequence,
    labels: Sequence,
    groups: Sequence | None = None,
    *,
    name: str = "my data",
    classes: Sequence[str] | None = None,
    **about,
) -> Dataset:
    """Make a :class:`Dataset` of examples and labels of your own, without duplicates.

    If an example occurs more than once, the first copy stays. If copies have different labels, all
    of them are left out. ``left_out`` of the result says how many, and ``extra["row"]`` which rows
    stayed.

    Parameters
    ----------
    x : (n,) sequence of str, or (n, height, width, 3) array of uint8
        Texts or images.
    labels : (n,) sequence of str or int
        Class names. None may be missing: leave such rows out first.
    groups : (n,) sequence, optional
        Values that say which examples belong together. By default each example stands alone.
    name : str, default "my data"
        What the data set is called in tables and figures.
    classes : sequence of str, optional
        The order of the class names. By default they are sorted.
    **about
        ``license``, ``citation`` and ``extra`` of the data set.

    Returns
    -------
    Dataset
        The examples that stay, in their order.

    Raises
    ------
    ValueError
        If lengths differ, a text, label or group is missing, a text is not a string, there are
        fewer than two classes, or a label is not in ``classes``.
    """
    x = np.asarray(x) if _is_image_array(x) else np.array(checks.texts("x", x), dtype=object)
    labels = [str(label) for label in checks.present("labels", labels)]
    if "" in labels:
        raise ValueError(f"labels: row {labels.index('')} has an empty label; leave the row out")
    if groups is not None:
        groups = np.asarray(checks.present("groups", groups))
        if groups.ndim != 1:
            raise ValueError("groups: one value for each example is needed, such as a string")
    classes = tuple(sorted(set(labels)) if classes is None else map(str, classes))
    if len(set(classes)) < len(classes):
        raise ValueError(f"{name}: the classes {classes} name one twice")
    if unknown := set(labels) - set(classes):
        raise ValueError(f"{name}: labels {sorted(unknown)} are not among the classes {classes}")
    if len(classes) < 2:
        raise ValueError(f"{name}: a classifier needs at least two classes, got {list(classes)}")
    position = {label: index for index, label in enumerate(classes)}
    y = np.array([position[label] for label in labels], dtype=np.int64)
    if len(y) != len(x):
        raise ValueError(f"{name}: {len(x)} examples, but {len(y)} labels")
    groups = np.arange(len(x)) if groups is None else groups
    about["extra"] = {"row": np.arange(len(x))} | about.get("extra", {})
    data = Dataset(name, x, y, classes, groups, **about)
    copy, contradictory = _copies(data)
    counts = {
        "copies": int((copy & ~contradictory).sum()),
        "examples with contradictory labels": int(contradictory.sum()),
    }
    left_out = {what: count for what, count in counts.items() if count}
    return replace(data.take(~copy & ~contradictory), left_out=left_out)


def distinct(data: Dataset) -> np.ndarray:
    """Find the first copy of each example.

    Texts count as copies when they differ only in case and white space. If copies have different
    labels, all of them are left out.

    Parameters
    ----------
    data : Dataset
        The examples.

    Returns
    -------
    (k,) numpy.ndarray of int64
        Positions of the examples that stay, in rising order.
    """
    copy, contradictory = _copies(data)
    return np.flatnonzero(~copy & ~contradictory)


def concat(name: str, *parts: Dataset) -> Dataset:
    """Join data sets of the same classes.

    Groups of different parts stay apart.

    Parameters
    ----------
    name : str
        What the whole is called.
    *parts : Dataset
        The data sets. Their inputs must be of one shape and their classes the same, in the same
        order.

    Returns
    -------
    Dataset
        The rows of the first part, then those of the second, and so on. ``extra["part"]`` says
        where each row came from, counted from 0. Other extras stay where all parts have them.

    Raises
    ------
    ValueError
        If there are no parts, or their classes differ.
    """
    if not parts:
        raise ValueError("there is nothing to join")
    for part in parts:
        if part.classes != parts[0].classes:
            raise ValueError(f"{part.name} has the classes {part.classes}, not {parts[0].classes}")
    shared = set.intersection(*(set(part.extra) for part in parts)) - {"part"}
    offsets = np.cumsum([0, *(len(np.unique(part.groups)) for part in parts)])
    return Dataset(
        name,
        np.concatenate([part.x for part in parts]),
        np.concatenate([part.y for part in parts]),
        parts[0].classes,
        np.concatenate(
            [
                offset + np.unique(part.groups, return_inverse=True)[1]
                for offset, part in zip(offsets, parts, strict=False)
            ]
        ),
        license="; ".join(dict.fromkeys(part.license for part in parts if part.license)),
        citation="; ".join(dict.fromkeys(part.citation for part in parts if part.citation)),
        extra={key: np.concatenate([part.extra[key] for part in parts]) for key in sorted(shared)}
        | {"part": np.repeat(np.arange(len(parts)), [len(part) for part in parts])},
    )


class Split(NamedTuple):
    """Hold the positions of the rows to train on, to select on, and to look at once.

    Attributes
    ----------
    train : (n_train,) numpy.ndarray of int64
        Rows to train on.
    validation : (n_validation,) numpy.ndarray of int64
        Rows to select on.
    test : (n_test,) numpy.ndarray of int64
        Rows to look at once.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split(data: Dataset, *, test: float = 0.25, validation: float = 0.0, seed: int = 0) -> Split:
    """Split into train, validation and test rows: stratified, groups whole, without duplicates.

    Parameters
    ----------
    data : Dataset
        The examples to split.
    test : float, default 0.25
        Share of the test rows in the whole set. They are one of k folds, so the nearest of the
        shares 1/2, 1/3, 1/4, ... is taken: 0.3 gives 1/3 and 0.4 gives 1/2.
    validation : float, default 0.0
        Share of the validation rows in the whole set. They are a fold of the remaining rows in the
        same way.
    seed : int, default 0
        Seed that chooses one of the possible splits.

    Returns
    -------
    Split
        Positions of the three parts.

    Raises
    ------
    ValueError
        If a share is out of range, too little would be left to train on, or a class has too few
        rows or groups.
    """
    checks.number("test", test, above=0, most=0.5)
    checks.number("validation", validation, least=0)
    checks.integer("seed", seed)
    if test + validation >= 1:
        raise ValueError(f"test={test} and validation={validation} leave nothing to train on")
    rows = distinct(data)
    rest, test_rows = _hold_out(data, rows, test, seed)
    if not validation:
        return Split(rest, np.empty(0, dtype=np.int64), test_rows)
    train, validation_rows = _hold_out(data, rest, validation / (1 - test), seed)
    return Split(train, validation_rows, test_rows)


def sample(
    data: Dataset,
    rows: np.ndarray | None = None,
    *,
    per_class: int,
    seed: int = 0,
    fewer: bool = False,
) -> np.ndarray:
    """Draw the same number of rows of each class: a label budget.

    Budgets are nested: the rows of a smaller budget are among those of a larger one with the same
    seed. So two budgets differ by the labels added and by nothing else.

    Parameters
    ----------
    data : Dataset
        The examples to draw from.
    rows : (n,) array of int, optional
        Positions to draw from. By default these are all rows.
    per_class : int
        How many rows of each class to draw.
    seed : int, default 0
        Seed that chooses one of the possible draws.
    fewer : bool, default False
        Whether to take all rows of a class that has fewer, in place of an error.

    Returns
    -------
    (k,) numpy.ndarray of int64
        Positions in rising order.

    Raises
    ------
    ValueError
        If a class has fewer rows than asked for and ``fewer`` is False, or ``per_class`` is below
        1.
    """
    checks.integer("per_class", per_class, least=1)
    rng = np.random.default_rng(checks.integer("seed", seed))
    rows = np.arange(len(data)) if rows is None else checks.positions("rows", rows, len(data))
    chosen = []
    for label, name in enumerate(data.classes):
        candidates = rng.permutation(rows[data.y[rows] == label])
        if len(candidates) < per_class and not fewer:
            raise ValueError(
                f"{data.name}: {per_class} labels per class asked for, but class {name!r} has "
                f"{len(candidates)} rows here"
            )
        chosen.append(candidates[:per_class])
    return np.sort(np.concatenate(chosen))


# --- the pieces ---------------------------------------------------------------------------------


def _is_image_array(x: Sequence) -> bool:
    if isinstance(x, np.ndarray) and x.ndim > 1 and x.dtype.kind in "OUS":
        raise ValueError(f"x: texts are one column, not of shape {x.shape}; pass table['text']")
    return isinstance(x, np.ndarray) and x.ndim > 1


def _copies(data: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Which examples stood before, and which stand with different labels: two masks."""
    keys = pd.Series([content_key(example) for example in data.x])
    contradictory = pd.Series(data.y).groupby(keys).transform("nunique") > 1
    return keys.duplicated().to_numpy(), contradictory.to_numpy()


def content_key(example) -> str | bytes:
    """Return what two copies of an example have in common.

    Parameters
    ----------
    example : str or numpy.ndarray
        A text or an image.

    Returns
    -------
    str or bytes
        The text without differences in case and white space, or the bytes of the image.
    """
    return " ".join(example.casefold().split()) if isinstance(example, str) else example.tobytes()


def _hold_out(
    data: Dataset, rows: np.ndarray, share: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows without and with one stratified fold of about this share, groups kept whole."""
    folds = max(2, round(1 / share))
    distinct_groups = len(np.unique(data.groups[rows]))
    if distinct_groups < folds:
        raise ValueError(
            f"{data.name}: {distinct_groups} groups cannot be split into {folds} parts, of which "
            "one is held out: a larger share, a finer grouping, or more data"
        )
    grouped = distinct_groups < len(rows)
    folder = StratifiedGroupKFold if grouped else StratifiedKFold
    chosen = folder(folds, shuffle=True, random_state=seed).split(
        rows, data.y[rows], data.groups[rows] if grouped else None
    )
    inside, outside = next(chosen)
    return rows[inside], rows[outside]
