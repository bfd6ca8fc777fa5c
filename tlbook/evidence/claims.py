"""Record numbers that prose names, and findings about the documents' claims.

A chapter records each number it wants to name, and states each finding with its effect. Both travel
in the outputs of the executed chapter: the book's prose shows the numbers, and the build collects
the findings into the ledger, ``ledger.json`` beside this file. Tables behind a figure travel the
same way to ``results/tables``. So does what each method gained, into one table of all chapters.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from typing import Any

import pandas as pd
from IPython.display import Markdown, display

from tlbook import checks
from tlbook.code import lines_of_code
from tlbook.evidence.effects import Components, Effect
from tlbook.evidence.wording import MARGIN, detectable, verdict

#: The type of the output that carries a finding.
FINDING = "application/vnd.tlbook.finding+json"
#: The type of the output that carries a table.
TABLE = "application/vnd.tlbook.table+json"
#: The type of the output that carries what a method gained.
METHOD = "application/vnd.tlbook.method+json"
#: What a finding can say of its claim.
VERDICTS = ("supported", "refuted", "negligible", "undecided")
#: What a finding was measured with, from the most to the least repeatable on another machine.
KINDS = ("exact", "trained", "timing")
#: Every number recorded in this process, by name.
recorded: dict[str, float | str] = {}


@cache
def ledger() -> dict[str, dict[str, Any]]:
    """Return what the book found, by claim: the ledger on record.

    Returns
    -------
    dict of str to dict
        Of each claim its ``text``, ``findings``, ``counts``, ``verdict`` and ``pooled`` effect.
    """
    return json.loads(resources.files("tlbook.evidence").joinpath("ledger.json").read_text("utf-8"))


@cache
def table() -> dict[str, dict[str, dict[str, Any]]]:
    """Return what the documents say, by kind and id.

    Returns
    -------
    dict of str to dict
        The content of ``claims.toml``, such as ``table()["claims"]["C2"]["text"]``.
    """
    return tomllib.loads(
        resources.files("tlbook.evidence").joinpath("claims.toml").read_text("utf-8")
    )


def record(**numbers: float | str) -> None:
    """Give names to numbers or words so that prose can show them.

    In the book, a paragraph shows a recorded number with the ``glue`` role. Where MyST-NB is not
    installed, recording works as well, and :func:`say` shows the numbers.

    Parameters
    ----------
    **numbers : float or str
        Numbers or words by name.
    """
    try:
        from myst_nb import glue
    except ImportError:
        glue = None
    for name, number in numbers.items():
        value = number if isinstance(number, str) else float(number)
        recorded[name] = value
        if glue is not None:
            glue(name, value, display=False)


def say(text: str) -> None:
    """Show Markdown in which ``<<name:format>>`` stands for a recorded number.

    Parameters
    ----------
    text : str
        Markdown. The format is that of Python's :func:`format`, and may be left out.

    Raises
    ------
    KeyError
        If a name was not recorded yet.
    """

    def fill(match: re.Match) -> str:
        name, _, spec = match[1].partition(":")
        if name not in recorded:
            raise KeyError(f"{name!r} is not recorded yet: run the cells above first")
        return format(recorded[name], spec)

    display(Markdown(re.sub(r"<<(.+?)>>", fill, text)))


def keep_table(name: str, table: pd.DataFrame) -> None:
    """Show a table, and pass it on to ``results/tables/NAME.csv``.

    Parameters
    ----------
    name : str
        Name of the file: lowercase letters, digits and hyphens.
    table : pandas.DataFrame
        The table. Its index is left out of the file.

    Raises
    ------
    ValueError
        If the name has other characters.
    """
    if not re.fullmatch(r"[a-z0-9-]+", name):
        raise ValueError(f"{name!r}: use lowercase letters, digits and hyphens")
    content = {"name": name, "csv": table.to_csv(index=False, float_format="%.6g")}
    shown = {"text/html": table.round(3).to_html(index=False), "text/plain": table.to_string()}
    display({TABLE: content} | shown, raw=True)


def method(
    name: str,
    gain: Effect,
    *,
    control: str,
    setting: str,
    cpu_seconds: float,
    code: Callable | list[Callable],
    unit: str = "points",
) -> None:
    """State what a method gained over its control: one line of the table that chapters share.

    Parameters
    ----------
    name : str
        Name of the method.
    gain : Effect
        The gain over the control, in shares of one, such as a difference of accuracies.
    control : str
        What the method is compared with, in a few words.
    setting : str
        The data and the budget of the comparison, in a few words.
    cpu_seconds : float
        CPU seconds of one run of the method.
    code : callable or list of callable
        The functions and classes that are the method. Their lines of code are counted.
    unit : str, default "points"
        What a hundredth of the gain is called.
    """
    parts = code if isinstance(code, list) else [code]
    data = {
        "method": name,
        "setting": setting,
        "control": control,
        "gain": gain.value,
        "low": gain.low,
        "high": gain.high,
        "unit": unit,
        "seeds": gain.seeds,
        "cpu_seconds": cpu_seconds,
        "lines_of_code": sum(map(lines_of_code, parts)),
    }
    sentence = (
        f"**{name}**, {setting}: {gain} {unit} over {control} "
        f"({gain.level:.0%} interval, {gain.seeds} seeds), {cpu_seconds:.2g} CPU seconds, "
        f"{data['lines_of_code']} lines of code"
    )
    display({METHOD: data, "text/markdown": sentence, "text/plain": sentence}, raw=True)


def finding(
    claim: str,
    effect: Effect,
    *,
    setting: str,
    unit: str = "points",
    margin: float | None = None,
    kind: str | None = None,
    chosen_after_looking: bool = False,
) -> None:
    """State what an experiment says of a claim, and pass it on to the ledger.

    Parameters
    ----------
    claim : str
        The id of a claim of the documents, such as ``"C2"``.
    effect : Effect
        What was measured, signed so that a positive effect supports the claim.
    setting : str
        The data and the budget of the experiment, in a few words. One claim has one finding in each
        setting.
    unit : str, default "points"
        What a hundredth of the effect is called.
    margin : float, optional
        The margin of practical equivalence, in shares of one. By default that of
        :mod:`tlbook.evidence.wording` for points. In other units it is 0, so that nothing is
        negligible: nobody agreed how many percent of a time or a loss do not matter.
    kind : {"exact", "trained", "timing"}, optional
        How closely another machine must repeat the effect. "exact": all arms are linear or convex
        models on fixed features, which differ by rounding alone. "trained": a network was trained,
        and another machine trains another network. "timing": the effect is of times. By default
        "timing" if the unit counts seconds, else "trained", for which the rule is the more lenient.
    chosen_after_looking : bool, default False
        Whether the setting was chosen after its result or that of its neighbors had been seen.

    Raises
    ------
    KeyError
        If the documents make no such claim.
    ValueError
        If the kind is another one, or :func:`tlbook.evidence.wording.verdict` refuses the effect.
    """
    claims = table()["claims"]
    if claim not in claims:
        raise KeyError(f"no claim {claim!r}: the documents make {', '.join(claims)}")
    if margin is None:
        margin = MARGIN if unit == "points" else 0.0
    if kind is None:
        kind = "timing" if "seconds" in unit else "trained"
    outcome = verdict(effect, margin)
    data = {
        "claim": claim,
        "setting": setting,
        "unit": unit,
        "kind": checks.choice("kind", kind, KINDS),
        "chosen_after_looking": bool(chosen_after_looking),
        **_measured(effect),
        "by_seed": list(effect.by_seed),
        "scores": [_measured(score) for score in effect.scores],
        "margin": margin,
        "verdict": outcome,
    }
    on = f" on {effect.splits} splits" if effect.splits > 1 else ""
    sentence = (
        f"**{claim}** *{claims[claim]['text']}*<br>{setting}: {effect} {unit} "
        f"({effect.level:.0%} interval, {effect.seeds} seeds{on}) → **{outcome}**"
    )
    if outcome == "undecided" and unit == "points":
        sentence += f": {detectable(effect)}"
    display({FINDING: data, "text/markdown": sentence, "text/plain": sentence}, raw=True)


def _measured(effect: Effect) -> dict[str, Any]:
    """An effect as JSON."""
    return {
        "effect": float(effect.value),
        "interval": [float(effect.low), float(effect.high)],
        "level": effect.level,
        "seeds": effect.seeds,
        "splits": effect.splits,
        "error": float(effect.error),
        "components": effect.components and asdict(effect.components),
        "unreliable": effect.unreliable,
    }


def effect_of(finding: Mapping[str, Any]) -> Effect:
    """Return the effect of a finding, as a chapter stated it or as the ledger has it.

    Parameters
    ----------
    finding : dict
        A finding.

    Returns
    -------
    Effect
        Its effect, with what the variance consists of, where that is known.
    """
    return Effect(
        finding["effect"],
        *finding["interval"],
        finding["seeds"],
        finding["level"],
        components=finding["components"] and Components(**finding["components"]),
        unreliable=finding["unreliable"],
        splits=finding.get("splits", 1),
    )


def overall(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return one word for a claim, from its findings in all settings.

    A claim comes without conditions. So one setting that clearly refutes it is enough to say that
    it needs some, however many support it: "mixed". And one that supports it is not enough, since
    it may be the one of many that was looked for: a verdict needs more than half of the findings.
    What speaks for or against is a finding that survives the false discovery rate; another one is
    as good as undecided here.

    Parameters
    ----------
    findings : sequence of dict
        Findings as the ledger has them.

    Returns
    -------
    {"mixed", "supported", "refuted", "negligible", "undecided"}
        "mixed" if some support and some refute; else the verdict of more than half of the findings;
        else "undecided". Verdicts are counted, not weighed, which is why the effects are pooled
        beside them: counting finds little where each experiment is small (Hedges and Olkin, 1980,
        doi 10.1037/0033-2909.88.2.359).
    """
    words = [
        f["verdict"] if f["survives_fdr"] or f["verdict"] == "negligible" else "undecided"
        for f in findings
    ]
    if {"supported", "refuted"} <= set(words):
        return "mixed"
    return next((v for v in VERDICTS if 2 * words.count(v) > len(words)), "undecided")


def in_counts(counts: Mapping[str, int]) -> str:
    """Word how many findings of a claim have each verdict: all of them, not the supporting alone.

    Parameters
    ----------
    counts : dict of str to int
        Number of findings by verdict.

    Returns
    -------
    str
        "supported 3, refuted 1, negligible 2, undecided 4 of 10".
    """
    shown = ", ".join(f"{verdict} {counts[verdict]}" for verdict in VERDICTS)
    return f"{shown} of {sum(counts.values())}"
