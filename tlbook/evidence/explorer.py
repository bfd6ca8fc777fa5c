"""A table of gains that becomes a figure with knobs where the book's script runs.

In Jupyter, on paper and without scripts it stays the table. ``_static/explorer.js`` reads nothing
but the table, so it needs no server and no file beside the page.
"""

from collections.abc import Mapping
from html import escape

from tlbook.evidence.effects import Effect
from tlbook.evidence.scores import Scores


class Explorer:
    """Show what arms gain over a control on several data sets, at each budget.

    Parameters
    ----------
    comparisons : mapping of str to Scores
        What was measured, by the name of the data set.
    control : str
        The arm that the others are compared with.

    Raises
    ------
    ValueError
        If there is no comparison, or one of them lacks the control.
    """

    def __init__(self, comparisons: Mapping[str, Scores], control: str) -> None:
        if not comparisons:
            raise ValueError("there are no comparisons to explore")
        for name, found in comparisons.items():
            if control not in found.arms:
                raise ValueError(f"{name} has no arm {control!r}: it has {', '.join(found.arms)}")
        self.control = control
        self.gains = {
            name: {
                arm: {budget: found.gain(arm, control, budget) for budget in found.budgets}
                for arm in found.arms
                if arm != control
            }
            for name, found in comparisons.items()
        }

    def __repr__(self) -> str:
        return f"Explorer of {', '.join(self.gains)}: gains over {self.control}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f'<tr data-set="{escape(name)}" data-arm="{escape(arm)}"><th scope="row" class="words">'
            f'{escape(name)}</th><td class="words">{escape(arm)}</td>{_cells(gains)}</tr>'
            for name, arms in self.gains.items()
            for arm, gains in arms.items()
        )
        most = max(len(gains) for arms in self.gains.values() for gains in arms.values())
        return (
            f'<div class="explorer" data-control="{escape(self.control)}">'
            '<table class="dataframe"><thead><tr><th scope="col" class="words">data</th>'
            f'<th scope="col" class="words">method</th><th scope="colgroup" colspan="{most}">gain '
            f"over {escape(self.control)} in points, by labels per class</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div>"
        )


def _cells(gains: Mapping[int | None, Effect]) -> str:
    return "".join(
        f'<td data-budget="{"all" if budget is None else budget}" '
        f'data-gain="{100 * e.value:.2f} {100 * e.low:.2f} {100 * e.high:.2f}">'
        f"{'all' if budget is None else budget}: {100 * e.value:+.1f} "
        f"[{100 * e.low:.1f}, {100 * e.high:.1f}]</td>"
        for budget, e in gains.items()
    )
