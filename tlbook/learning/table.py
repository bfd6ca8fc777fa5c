"""The table that freezing is told by: rows of a pattern and a factor, for both frameworks."""

import re
from collections.abc import Iterable, Sequence

#: Rows of a regular expression searched in names, and a factor of the learning rate or None.
Table = Sequence[tuple[str, float | None]]


def factors_of(names: Iterable[str], table: Table, kind: str) -> dict[str, float | None]:
    """Decide over each name by the first pattern that is found in it.

    Parameters
    ----------
    names : iterable of str
        Names of parameters or layers.
    table : Table
        The rows. ``None`` in place of a factor means frozen.
    kind : str
        What is named, for messages, such as "layer".

    Returns
    -------
    dict of str to float or None
        The factor of each name.

    Raises
    ------
    ValueError
        If no pattern covers a name, a pattern decides over none, or a factor is not positive.
    """
    names, factors, idle = list(names), {}, dict(table)
    for name in names:
        for pattern, factor in table:
            if re.search(pattern, name):
                factors[name] = factor
                idle.pop(pattern, None)
                break
        else:
            raise ValueError(
                f"no pattern covers {name!r}: end the table with ('.*', None) or ('.*', 1.0)"
            )
    for pattern in idle:
        raise ValueError(
            f"pattern {pattern!r} decides over no {kind} (a typo, or the rows above it take them "
            f"all). Names are like {', '.join(map(repr, names[:1] + names[1:][-1:]))}"
        )
    for pattern, factor in table:
        if factor is not None and not factor > 0:
            raise ValueError(f"factor {factor} of {pattern!r}: positive, or None for frozen")
    return factors
