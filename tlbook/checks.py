"""Arguments checked in one place, with messages that say what was wrong and what is asked for.

Each function returns the checked value, so that a check and its use stand on one line::

    batch_size = checks.integer("batch_size", batch_size, least=1)
"""

import math
import numbers
from collections.abc import Collection, Iterable, Sequence

import numpy as np


def integer(name: str, value: object, least: int = 0) -> int:
    """Check that a value is a whole number.

    Parameters
    ----------
    name : str
        What the value is called where the reader gave it.
    value : object
    least : int
        The smallest number that is accepted.

    Returns
    -------
    int

    Raises
    ------
    ValueError
        The value is a truth value, no whole number, or below ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name}={value!r} must be a whole number, at least {least}")
    return int(value)


def number(
    name: str,
    value: object,
    *,
    above: float = -math.inf,
    least: float = -math.inf,
    below: float = math.inf,
    most: float = math.inf,
) -> float:
    """Check that a value is a finite number within limits.

    Parameters
    ----------
    name : str
        What the value is called where the reader gave it.
    value : object
    above, least, below, most : float
        The limits; ``above`` and ``below`` themselves are outside, ``least`` and ``most`` inside.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        The value is no number, not finite, or outside of the limits.
    """
    inside = (
        isinstance(value, numbers.Real)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > above
        and value >= least
        and value < below
        and value <= most
    )
    if not inside:
        limits = [
            f"{word} {limit:g}"
            for word, limit in (
                ("above", above),
                ("at least", least),
                ("below", below),
                ("at most", most),
            )
            if math.isfinite(limit)
        ]
        raise ValueError(f"{name}={value!r} must be a finite number" + ", ".join(["", *limits]))
    return float(value)


def choice(name: str, value: object, choices: Collection) -> object:
    """Check that a value is one of the choices; ValueError names them all otherwise."""
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(str, choices))}")
    return value


def seeds(values: Iterable[int], least: int = 1) -> tuple[int, ...]:
    """Check seeds: whole numbers from 0, each once.

    Raises
    ------
    ValueError
        A seed is negative, no whole number or given twice (the same run counted as two), or there
        are fewer than ``least``.
    """
    found = tuple(integer("seed", value) for value in values)
    if len(set(found)) < len(found):
        raise ValueError(
            f"seeds={list(found)} name a seed twice: the same run is no second observation"
        )
    if len(found) < least:
        raise ValueError(f"seeds={list(found)}: at least {least} are needed")
    return found


def positions(name: str, rows: Sequence | np.ndarray, n: int) -> np.ndarray:
    """Check positions of examples.

    Parameters
    ----------
    name : str
        What the positions are called where the reader gave them.
    rows : array-like of int or bool
        Positions from 0 to n - 1, each once; or a mask of n truth values.
    n : int
        How many examples there are.

    Returns
    -------
    (k,) array of int64

    Raises
    ------
    ValueError
        A position is negative (it would count from the end and hide a row that is shared), too
        large, given twice, or no whole number; or a mask has another length.
    """
    rows = np.asarray(rows)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise ValueError(
                f"{name} is a mask of shape {rows.shape}: one truth value for each of the {n} "
                "examples is needed"
            )
        return np.flatnonzero(rows)
    if rows.ndim != 1 or (rows.size and not np.issubdtype(rows.dtype, np.integer)):
        raise ValueError(f"{name} must be a list of positions, got {rows.dtype} {rows.shape}")
    if rows.size and not (rows.min() >= 0 and rows.max() < n):
        wrong = rows[(rows < 0) | (rows >= n)][0]
        raise ValueError(f"{name} holds the position {wrong}: there are rows 0 to {n - 1}")
    if len(np.unique(rows)) < len(rows):
        raise ValueError(f"{name} names {len(rows) - len(np.unique(rows))} rows more than once")
    return rows.astype(np.int64)


def texts(name: str, values: Iterable) -> list[str]:
    """Check texts: a list, an array or a column of strings that can be written as UTF-8.

    Parameters
    ----------
    name : str
        What the texts are called where the reader gave them.
    values : iterable of str

    Returns
    -------
    list of str

    Raises
    ------
    ValueError
        A single string, a table or a dictionary was given (iterating over one gives the names of
        its columns), or a value is missing, no string, or holds half of a surrogate pair.
    """
    if isinstance(values, str):
        raise ValueError(f"{name}: one string was given; pass a list of texts, also for one")
    if hasattr(values, "columns") or isinstance(values, dict):
        raise ValueError(
            f"{name}: a table or a dictionary was given; pass one column, such as table['text']"
        )
    found = list(values)
    for row, value in enumerate(found):
        if not isinstance(value, str):
            # pandas' NA compares to no truth value
            missing = str(value) in ("None", "nan", "NaT", "<NA>")
            what = "is missing" if missing else f"is not a string but {value!r:.50}"
            raise ValueError(f"{name}: row {row} {what}; fill it in or leave the row out")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise ValueError(
                f"{name}: row {row} holds half of a surrogate pair, which is no character: "
                "replace it (text.encode('utf-8', 'replace').decode())"
            ) from None
    return found
