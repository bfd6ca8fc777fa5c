"""Answer "What should I do?" from the ledger: questions, the findings they hang on, and words.

A :class:`Rule` is a question; ``guide.toml`` has them. Each of its :class:`Case` looks at findings
(:class:`Look`) and has words for whatever they may say. So an answer follows the ledger: where a
measurement changes its sign, or is no longer clear, the advice changes with it. A finding that a
rule needs and that the ledger does not have is an error, never a silent omission.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import resources
from typing import Any

from tlbook.evidence import claims
from tlbook.evidence.effects import Effect
from tlbook.evidence.pooling import pool
from tlbook.evidence.wording import amount, capitalized, in_words, span

#: What a finding says when it is seen from the other side.
TURNED = {"supported": "refuted", "refuted": "supported"}
#: Why findings may not decide.
DOUBTS = {"mixed": "it depends on the data", "undecided": "we cannot tell"}
#: With fewer findings in points, a case says nothing of new data.
POOLED_FROM = 5

Ledger = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Look:
    """Name a finding that a rule looks at.

    Attributes
    ----------
    subject : str
        What was tried: the subject of the sentence, such as "Adding film reviews".
    claim : str
        The id of the claim, such as ``"C2"``.
    setting : str
        The setting of the finding, as the ledger has it.
    sign : int
        -1 where the subject is what the finding's effect is *against*.
    """

    subject: str
    claim: str
    setting: str
    sign: int = 1


@dataclass(frozen=True)
class Case:
    """Hold what to do in one case of a question, for each verdict that its findings may have.

    Each advice is a few words, which the flow chart shows, a colon, and the rest of the sentence.

    Attributes
    ----------
    when : str
        The case, such as "many labels".
    looks : tuple of Look
        The findings, all signed so that a positive effect speaks for ``yes``.
    yes, no, same : str
        Advice if it helps, if it hurts, and if it makes no difference that matters.
    unclear : str
        Advice if the findings contradict each other or cannot tell.
    """

    when: str
    looks: tuple[Look, ...]
    yes: str
    no: str
    same: str
    unclear: str


@dataclass(frozen=True)
class Rule:
    """Hold a question and its cases.

    Attributes
    ----------
    question : str
        A question about the reader's project.
    cases : tuple of Case
        What the answer may depend on.
    tried : tuple of Look
        All that bears on the question and says, taken together, what to expect of new data; may
        be empty. The setting of such a look is a part of the settings meant, its subject is empty.
    note : str
        A sentence that explains the question's words; may be empty.
    """

    question: str
    cases: tuple[Case, ...]
    tried: tuple[Look, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Answer:
    """Hold the answer to a question as Markdown, which notebooks show.

    Attributes
    ----------
    question : str
        The question.
    short : dict of str to str
        A few words of advice for each case.
    text : str
        The answer in full, with a link to the chapter that measured it.
    expected : tuple of Effect
        Predictions for one more data set, one for each line of the text that has one.
    """

    question: str
    short: dict[str, str]
    text: str
    expected: tuple[Effect, ...] = ()

    def _repr_markdown_(self) -> str:
        return self.text


def answer(rule: Rule | str, ledger: Ledger | None = None) -> Answer:
    """Answer a question by what the ledger says now.

    Parameters
    ----------
    rule : Rule or str
        A rule, or the name of one in :data:`RULES`.
    ledger : dict, optional
        A ledger; by default the one on record.

    Returns
    -------
    Answer
        The answer, in short and in full.

    Raises
    ------
    LookupError
        If there is no such rule, or the ledger lacks a finding or a claim that the rule needs.
    """
    if isinstance(rule, str):
        if rule not in RULES:
            raise LookupError(f"no rule {rule!r}: choose one of {', '.join(RULES)}")
        rule = RULES[rule]
    ledger = claims.ledger() if ledger is None else ledger
    short, parts, expected = {}, [rule.note] if rule.note else [], []

    def expect(findings: Sequence[Mapping[str, Any]], start: str = "") -> None:
        effects = [claims.effect_of(f) for f in findings if f["unit"] == "points"]
        if len(effects) >= POOLED_FROM:
            pooled = pool(effects)
            expected.append(pooled.prediction)
            parts.append(start + _expected(pooled.mean.value, pooled.prediction, len(effects)))

    for case in rule.cases:
        findings = [find(look, ledger, rule.question) for look in case.looks]
        doubt, lead, why = advice(case, findings)
        short[case.when] = f"{lead} ({doubt})" if doubt else lead
        said = f"{capitalized(doubt)}. " if doubt else ""
        parts.append(f"*{capitalized(case.when)}* → {said}**{capitalized(lead)}:** {why}")
        parts.append("\n".join(map(_line, case.looks, findings)))
        if not rule.tried:
            expect(findings)
    if rule.tried:
        expect(alike(rule, ledger), "All that we tried of this question, also elsewhere: ")
    return Answer(rule.question, short, "\n\n".join(parts), tuple(expected))


def alike(rule: Rule, ledger: Ledger) -> list[dict[str, Any]]:
    """Return all findings that bear on a question, each once, signed as its rule wants them.

    Parameters
    ----------
    rule : Rule
        The rule; its ``tried`` name claims and parts of settings.
    ledger : dict
        The ledger.

    Returns
    -------
    list of dict
        The findings.

    Raises
    ------
    LookupError
        If nothing in the ledger has one of the parts.
    """
    found = {}
    for look in rule.tried:
        rows = ledger.get(look.claim, {}).get("findings", [])
        rows = [row for row in rows if look.setting in row["setting"]]
        if not rows:
            raise LookupError(
                f"the rule {rule.question!r} needs findings of {look.claim} with "
                f"{look.setting!r} in their setting, and the ledger has none"
            )
        for row in rows:
            turned = dict(row) if look.sign > 0 else _turned(row)
            found.setdefault((look.claim, row["chapter"], row["setting"]), turned)
    return list(found.values())


def find(look: Look, ledger: Ledger, question: str = "") -> dict[str, Any]:
    """Return the finding that a rule looks at, signed as the rule wants it.

    Parameters
    ----------
    look : Look
        Its claim and setting. The chapter is whichever the ledger names.
    ledger : dict
        The ledger.
    question : str, optional
        Whose rule it is, for the message of the error.

    Returns
    -------
    dict
        The finding.

    Raises
    ------
    LookupError
        If the ledger has no such finding, or has it from two chapters.
    """
    settings = {}
    for row in ledger.get(look.claim, {}).get("findings", []):
        settings.setdefault(row["setting"], []).append(row)
    found = settings.get(look.setting, [])
    if len(found) != 1:
        near = get_close_matches(look.setting, settings, 1, 0.3) if not found else []
        raise LookupError(
            f"the rule {question!r} needs the finding {look.claim}, {look.setting!r}, and the "
            f"ledger has {len(found)} of them"
            + (f" (the nearest is {near[0]!r})" if near else "")
            + ": mend the rule in tlbook/evidence/guide.toml, or the ledger"
        )
    return dict(found[0]) if look.sign > 0 else _turned(found[0])


def advice(case: Case, findings: Sequence[Mapping[str, Any]]) -> tuple[str, str, str]:
    """Return the advice of a case by the verdict of its findings.

    Parameters
    ----------
    case : Case
        The case.
    findings : sequence of dict
        Its findings, signed as the case wants them.

    Returns
    -------
    doubt : str
        Why the findings do not decide; empty if they do.
    lead, why : str
        The advice in a few words, and the rest of it.
    """
    verdict = claims.overall(findings)
    decided = {"supported": case.yes, "refuted": case.no, "negligible": case.same}
    lead, _, why = decided.get(verdict, case.unclear).partition(": ")
    return DOUBTS.get(verdict, ""), lead, why


def _turned(finding: Mapping[str, Any]) -> dict[str, Any]:
    low, high = finding["interval"]
    return finding | {
        "effect": -finding["effect"],
        "interval": [-high, -low],
        "verdict": TURNED.get(finding["verdict"], finding["verdict"]),
    }


def _line(look: Look, finding: Mapping[str, Any]) -> str:
    """What was tried, what came out, and where: the chapter that the ledger names."""
    chapter, unit, margin = finding["chapter"], finding["unit"], finding["margin"]
    effect = claims.effect_of(finding)
    if unit == "points":
        words = in_words(effect, margin)
    else:
        verbs = ("save", "waste") if "seconds" in unit else ("gain", "lose")
        words = in_words(effect, margin, unit="percent", digits=0, verbs=verbs)
        words += unit.removeprefix("percent")
    notes = [f"[{TITLES.get(chapter, chapter)}]({chapter}.md)"]
    if finding["chosen_after_looking"]:
        notes.append("this setting was chosen after looking")
    if finding["verdict"] in TURNED and not finding["survives_fdr"]:
        notes.append("among so many looks it may be luck")
    return f"- {capitalized(look.subject)} {words} ({'; '.join(notes)})."


def _expected(mean: float, prediction: Effect, settings: int) -> str:
    """The mean over settings and the prediction for a new one, in words."""
    side = "gain" if mean > 0 else "loss"
    return (
        f"{settings} settings, a mean {side} of {amount(mean)}. "
        f"**On data of your own, expect {span(prediction)}.**"
    )


def _read() -> tuple[dict[str, str], dict[str, Rule]]:
    text = resources.files("tlbook.evidence").joinpath("guide.toml").read_text("utf-8")
    table = tomllib.loads(text)
    titles, rules = table.pop("titles"), {}
    for name, rule in table.items():
        cases = tuple(
            Case(**case | {"looks": tuple(Look(*look) for look in case["looks"])})
            for case in rule.pop("cases")
        )
        tried = tuple(Look("", *look) for look in rule.pop("tried", []))
        rules[name] = Rule(cases=cases, tried=tried, **rule)
    return titles, rules


#: Titles of chapters by file name, and the questions by name, in the order in which to ask them.
TITLES, RULES = _read()
