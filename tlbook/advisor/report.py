"""Draw what was found: figures of an advice, and a page that needs no other file and no network."""

import html
import io
import re
import warnings

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from tlbook.advisor.curve import Curve
from tlbook.advisor.search import Results
from tlbook.evidence.plots import COLORS

#: With more classes than this, which are taken for which is told in the table alone.
MOST_SHOWN = 12
#: Text stays text, for search and for who cannot see; equal drawings have equal bytes.
LOOK = {
    "svg.fonttype": "none",
    "svg.hashsalt": "tlbook",
    "font.size": 11,
    "text.parse_math": False,  # a class may be called $5
    "axes.spines.right": False,
    "axes.spines.top": False,
    "figure.constrained_layout.use": True,
}
#: Columns of shares of one, shown in percent; gains are in points of it.
PERCENT = ("score", "gain", "low", "high", "right", "nearest neighbor", "probe", "confidence")
GRAY = "#8c8c8c"  # readable on white and on black
STYLE = """
:root { color-scheme: light dark; --line: #8886; }
body { font: 1rem/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
.words { text-align: left; overflow-wrap: anywhere; min-width: 8rem; }
figure { margin: 1.5rem 0; }
figure svg { max-width: 100%; height: auto; }
figcaption { font-size: .9rem; }
@media print { main { max-width: none; } figure, tr { break-inside: avoid; } }
"""


def by_class(results: Results, name: str) -> pd.DataFrame:
    """Count for each class how often a strategy is right, and what it takes it for.

    Parameters
    ----------
    results : Results
        All runs.
    name : str
        The strategy.

    Returns
    -------
    pandas.DataFrame
        Columns ``class``, ``examples``, ``right``, a share of one, and ``taken for``, the class
        that it is most often taken for, with how often. A class that was never tested has none.
    """
    table, classes = confusions(results, name), results.data.classes
    wrong = table.copy()
    np.fill_diagonal(wrong, 0)
    other = np.nan_to_num(wrong).argmax(1)
    most = wrong[np.arange(len(classes)), other]
    taken = [
        f"{classes[o]} ({100 * m:.0f} %)" if m > 0 else "" for o, m in zip(other, most, strict=True)
    ]
    return pd.DataFrame(
        {
            "class": classes,
            "examples": np.bincount(results.data.y, minlength=len(classes)),
            "right": np.diag(table),
            "taken for": taken,
        }
    )


def confusions(results: Results, name: str) -> np.ndarray:
    """Compute how often a strategy takes each class for each other.

    Parameters
    ----------
    results : Results
        All runs.
    name : str
        The strategy.

    Returns
    -------
    (k, k) numpy.ndarray of float
        Shares of the test examples of the row's class that got the column's; NaN where none was
        tested.
    """
    count = len(results.data.classes)
    table = np.zeros((count, count))
    for run, (_, test) in zip(results.runs[name], results.parts, strict=False):
        np.add.at(table, (results.data.y[test], run.predicted), 1)
    total = table.sum(1, keepdims=True)
    return np.divide(table, total, out=np.full_like(table, np.nan), where=total > 0)


@rc_context(LOOK)
def draw_gains(table: pd.DataFrame, recommended: str, control: str) -> Figure:
    """Draw what each strategy gains over the control.

    Parameters
    ----------
    table : pandas.DataFrame
        The table of an :class:`tlbook.advisor.answer.Answer`.
    recommended, control : str
        Strategies.

    Returns
    -------
    matplotlib.figure.Figure
        A row per strategy, the cheapest at the top.
    """
    rows = table[table["strategy"] != control].reset_index(drop=True)
    figure = Figure(figsize=(6.5, 0.8 + 0.36 * len(rows)))
    ax = figure.subplots()
    for place, row in rows.iterrows():
        color = COLORS[0] if row["strategy"] == recommended else GRAY
        ax.plot(100 * row["gain"], place, "o", color=color)
        ax.plot([100 * row["low"], 100 * row["high"]], [place, place], color=color, lw=2)
    ax.axvline(0, color=GRAY, lw=1)
    ax.set_yticks(range(len(rows)), rows["strategy"])
    for label in ax.get_yticklabels():
        label.set_fontweight("bold" if label.get_text() == recommended else "normal")
    ax.set(ylim=(len(rows) - 0.5, -0.5), xlabel=f"gain over {control} (points)")
    return figure


@rc_context(LOOK)
def draw_curves(curves: tuple[Curve, ...], more=None) -> Figure:
    """Draw learning curves, and what more labels are expected to bring.

    Parameters
    ----------
    curves : tuple of Curve
        The recommended strategy's first.
    more : Gain, optional
        What more labels are worth to it.

    Returns
    -------
    matplotlib.figure.Figure
        Balanced accuracy against labels per class.
    """
    figure = Figure(figsize=(6.5, 3.6))
    ax = figure.subplots()
    for color, curve in zip((COLORS[0], GRAY), curves, strict=False):
        mean = 100 * curve.scores.mean(0)
        ax.plot(curve.labels, mean, "o-", color=color, label=curve.strategy)
        ax.plot(
            np.tile(curve.labels, (len(curve.scores), 1)).T,
            100 * curve.scores.T,
            ".",
            color=color,
            alpha=0.3,
            ms=3,
        )
    if more is not None:
        start = 100 * curves[0].scores[:, -1].mean()
        ends = more.labels + more.more
        begins = curves[0].labels[-1]
        ax.plot([begins, ends], [start, start + 100 * more.value], ":", color=COLORS[0])
        span = [start + 100 * more.low, start + 100 * more.high]
        ax.plot([ends, ends], span, color=COLORS[0], lw=2, label="expected, 95 %")
    ax.set(xscale="log", xlabel="labels per class", ylabel="balanced accuracy (%)")
    ticks = curves[0].labels
    ax.set_xticks(ticks, [f"{tick:.0f}" for tick in ticks], minor=False)
    ax.minorticks_off()
    ax.legend(frameon=False)
    return figure


@rc_context(LOOK)
def draw_confusions(table: np.ndarray, classes: tuple[str, ...]) -> Figure:
    """Draw how often each class is taken for each other.

    Parameters
    ----------
    table : (k, k) numpy.ndarray of float
        Shares, as from :func:`confusions`.
    classes : tuple of str
        Their names.

    Returns
    -------
    matplotlib.figure.Figure
        A square table in shades, with percentages.
    """
    size = 1.6 + 0.55 * len(classes)
    figure = Figure(figsize=(size + 0.6, size))
    ax = figure.subplots()
    shown = np.nan_to_num(table)
    ax.imshow(shown, cmap="Blues", vmin=0, vmax=1)
    for (row, column), value in np.ndenumerate(shown):
        color = "white" if value > 0.5 else "#000001"  # not turned with the theme: it is on a shade
        if value >= 0.005:
            ax.text(column, row, f"{100 * value:.0f}", ha="center", va="center", color=color)
    names = [name if len(name) <= 18 else name[:17] + "…" for name in classes]
    ax.set_xticks(range(len(names)), names, rotation=45, ha="right")
    ax.set_yticks(range(len(names)), names)
    ax.set(xlabel="answered", ylabel="true class")
    return figure


@rc_context(LOOK)
def as_svg(figure: Figure) -> str:
    """Return a figure as SVG for a page: its black lines and words follow the page's color.

    Parameters
    ----------
    figure : matplotlib.figure.Figure
        The figure.

    Returns
    -------
    str
        The element.
    """
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that are not in matplotlib's font
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text[text.index("<svg") :])
    text = text.replace("stroke: #000000", "stroke: currentColor")
    text = text.replace("fill: #000000", "fill: currentColor")
    return text.replace("<text ", '<text fill="currentColor" ')


def figures(advice) -> str:
    """Return the figures of an advice as HTML, each with a caption that says what to see.

    Parameters
    ----------
    advice : Advice
        The advice.

    Returns
    -------
    str
        Elements to put into a page.
    """
    answer, found = advice.answer, []
    if len(answer.table) > 1:
        picture = draw_gains(answer.table, answer.recommended, answer.control)
        caption = (
            f"What each strategy gains over {answer.control}, with 95 percent intervals; the "
            f"cheapest is at the top, and {answer.recommended} is recommended. A line that "
            "crosses zero may be a gain or a loss."
        )
        found.append((picture, caption))
    if advice.curves:
        picture = draw_curves(advice.curves, advice.more)
        caption = "What the labels so far have brought, and what more are expected to bring."
        found.append((picture, caption))
    if len(advice.data.classes) <= MOST_SHOWN:
        table = confusions(advice.results, answer.recommended)
        picture = draw_confusions(table, advice.data.classes)
        caption = (
            f"What {answer.recommended} answers for examples of each class that it was not "
            "trained on, in percent. The diagonal is right."
        )
        found.append((picture, caption))
    drawn = [(as_svg(picture), html.escape(caption)) for picture, caption in found]
    return "".join(
        f"<figure>{svg}<figcaption>{caption}</figcaption></figure>" for svg, caption in drawn
    )


def body(advice) -> str:
    """Return what a notebook shows of an advice: sentences, figures and tables.

    Parameters
    ----------
    advice : Advice
        The advice.

    Returns
    -------
    str
        Elements to put into a page.
    """
    first, *rest = map(html.escape, advice.answer.sentences)
    parts = [f"<p><strong>{first}</strong></p>", *(f"<p>{text}</p>" for text in rest)]
    parts.append(figures(advice))
    for title, notes in (
        ("About the data", advice.notes),
        ("What was not tried, or not to the end", advice.remarks),
    ):
        listed = "".join(f"<li>{html.escape(note)}</li>" for note in notes)
        parts.append(f"<h2>{title}</h2><ul>{listed}</ul>" if notes else "")
    tables = {
        "Strategies": advice.answer.table,
        "Classes": by_class(advice.results, advice.answer.recommended),
        "Labels to look at": shown(advice.audit.suspects),
        "To label next": shown(advice.to_label),
        "Encoders": advice.encoders if len(advice.encoders) > 1 else advice.encoders.iloc[:0],
    }
    parts += [f"<h2>{title}</h2>{as_table(rows)}" for title, rows in tables.items() if len(rows)]
    return "".join(parts)


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of rows to look at, counted from 1, with texts cut.

    Parameters
    ----------
    table : pandas.DataFrame
        Columns ``row`` and, of texts, ``input``.

    Returns
    -------
    pandas.DataFrame
        The same columns.
    """
    if table.empty:
        return table
    found = table.assign(row=table["row"] + 1)
    if "input" in found:
        found["input"] = found["input"].str.slice(0, 120)
    return found


def as_table(table: pd.DataFrame) -> str:
    """Return a table as HTML: numbers right, words left, what the user wrote escaped.

    Parameters
    ----------
    table : pandas.DataFrame
        The table.

    Returns
    -------
    str
        The element.
    """
    heads, columns = [], []
    for name, values in table.items():
        percent, number = name in PERCENT, pd.api.types.is_numeric_dtype(values)
        form = "{:.1f}" if percent else "{:,}" if values.dtype.kind in "iu" else "{:.3g}"
        kind = "" if number else ' class="words"'
        heads.append(f"<th{kind}>{html.escape(str(name))}{' (%)' * percent}</th>")
        columns.append(
            [
                f"<td{kind}>"
                + (
                    ""
                    if pd.isna(v)
                    else form.format(100 * v if percent else v)
                    if number
                    else html.escape(str(v))
                )
                + "</td>"
                for v in values
            ]
        )
    rows = "".join(f"<tr>{''.join(row)}</tr>" for row in zip(*columns, strict=True))
    return f"<table><thead><tr>{''.join(heads)}</tr></thead><tbody>{rows}</tbody></table>"


def page(advice) -> str:
    """Return a page that needs no other file and no network.

    Parameters
    ----------
    advice : Advice
        The advice.

    Returns
    -------
    str
        The page as HTML.
    """
    title = f"Advice on {html.escape(advice.data.name)}"
    count = f"{len(advice.data):,} examples in {len(advice.data.classes)} classes"
    count += f", {advice.seconds:.0f} seconds"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{STYLE}</style></head><body><main><h1>{title}</h1>"
        f"<p>{count}.</p>{body(advice)}</main></body></html>\n"
    )
