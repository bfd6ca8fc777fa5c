"""Check arguments in one place, with messages that say what was wrong and what is asked for.

Each function returns the checked value, so that a check and its use stand on one line::

    batch_size = checks.integer("batch_size", batch_size, least=1)
"""

import math
import numbers
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pandas as pd


def integer(name: str, value: object, least: int = 0) -> int:
    """Check that a value is a whole number.

    Parameters
    ----------
    name : str
        What the value is called where the reader gave it.
    value : object
        The value to check.
    least : int, default 0
        The smallest number that is accepted.

    Returns
    -------
    int
        The value.

    Raises
    ------
    ValueError
        If the value is a truth value, is not a whole number, or is below ``least``.
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
        The value to check.
    above : float, optional
        The value must be larger than this. By default there is no such limit.
    least : float, optional
        The value must not be smaller than this. By default there is no such limit.
    below : float, optional
        The value must be smaller than this. By default there is no such limit.
    most : float, optional
        The value must not be larger than this. By default there is no such limit.

    Returns
    -------
    float
        The value.

    Raises
    ------
    ValueError
        If the value is not a number, not finite, or outside of the limits.
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
    """Check that a value is one of the choices.

    Parameters
    ----------
    name : str
        What the value is called where the reader gave it.
    value : object
        The value to check.
    choices : collection
        The values that are accepted.

    Returns
    -------
    object
        The value.

    Raises
    ------
    ValueError
        If the value is not one of the choices. The message names them all.
    """
    if value not in choices:
        raise ValueError(f"{name}={value!r}: choose one of {', '.join(map(str, choices))}")
    return value


def seeds(values: Iterable[int], least: int = 1) -> tuple[int, ...]:
    """Check that seeds are whole numbers from 0, each given once.

    Parameters
    ----------
    values : iterable of int
        The seeds to check.
    least : int, default 1
        How many seeds are needed at least.

    Returns
    -------
    tuple of int
        The seeds.

    Raises
    ------
    ValueError
        If a seed is negative, is not a whole number or is given twice (the same run would count as
        two), or there are fewer than ``least``.
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
    rows : (k,) array-like of int, or (n,) array-like of bool
        Positions from 0 to n - 1, each once; or a mask.
    n : int
        How many examples there are.

    Returns
    -------
    (k,) numpy.ndarray of int64
        The positions, in the order given.

    Raises
    ------
    ValueError
        If a position is negative (it would count from the end and hide a row that is shared), too
        large, given twice or not a whole number, or a mask has another length.
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
    """Check that texts are a collection of strings that can be written as UTF-8.

    Parameters
    ----------
    name : str
        What the texts are called where the reader gave them.
    values : iterable of str
        A list, an array or a column of texts.

    Returns
    -------
    list of str
        The texts.

    Raises
    ------
    ValueError
        If a single string, a table or a dictionary was given (iterating over one gives the names of
        its columns), or a value is missing, is not a string, or holds half of a surrogate pair.
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
            missing = pd.api.types.is_scalar(value) and pd.isna(value)
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


def present(name: str, values: Iterable) -> list:
    """Check that no value is missing (None, NaN, ``pd.NA`` or ``NaT``).

    Parameters
    ----------
    name : str
        What the values are called where the reader gave them.
    values : iterable
        A list, an array or a column of values.

    Returns
    -------
    list
        The values.

    Raises
    ------
    ValueError
        If a value is missing, or a table or a dictionary was given. The message names the first
        row.
    """
    if hasattr(values, "columns") or isinstance(values, dict):
        raise ValueError(
            f"{name}: a table or a dictionary was given; pass one column, such as table['label']"
        )
    found = list(values)
    missing = [
        row for row, value in enumerate(found) if pd.api.types.is_scalar(value) and pd.isna(value)
    ]
    if missing:
        raise ValueError(
            f"{name}: {len(missing)} values are missing, the first in row {missing[0]}; leave such "
            "rows out first, for example by table.dropna()"
        )
    return found
