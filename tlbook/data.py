"""Labeled data sets as arrays, and splits that do not leak.

Rows are named by integer positions: :func:`split` and :func:`sample` return positions, so features
computed once for the whole set serve every split and every budget. Data sets that come with the
book are in :mod:`tlbook.sources`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold


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
    keys = pd.Series([content_key(example) for example in data.x])
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


def sample(data: Dataset, rows: np.ndarray, *, per_class: int, seed: int) -> np.ndarray:
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


# --- the pieces ---------------------------------------------------------------------------------
def _is_image_array(x: Sequence) -> bool:
    return isinstance(x, np.ndarray) and x.ndim > 1


def content_key(example) -> str | bytes:
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
