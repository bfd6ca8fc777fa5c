"""The guide says what the ledger says, and follows it when it changes."""

import copy
import re
from pathlib import Path

import pytest

from tlbook.evidence import claims, guide
from tlbook.evidence.effects import Components

LOOK = guide.Look("Adding films", "C2", "here")
CASE = guide.Case(
    "always", (LOOK,), "pool it: now.", "leave it: it hurts.", "as you like: so.", "try: both."
)


def finding(effect, low, high, verdict, setting="here", chapter="some-chapter", **other):
    return {
        **{"chapter": chapter, "setting": setting, "unit": "points", "margin": 0.02},
        **{"effect": effect, "interval": [low, high], "level": 0.95, "seeds": 5, "unreliable": ""},
        **{"components": None, "chosen_after_looking": False, "survives_fdr": True},
    } | {"verdict": verdict, **other}


def ledger(*findings, pooled=None):
    return {"C2": {"findings": list(findings), "pooled": pooled}}


@pytest.mark.parametrize(
    ("measured", "short", "text"),
    [
        ((0.1, 0.05, 0.15, "supported"), "pool it", "**Pool it:** now."),
        ((-0.1, -0.15, -0.05, "refuted"), "leave it", "Adding films loses 10 points"),
        ((0.0, -0.01, 0.01, "negligible"), "as you like", "makes no difference that matters"),
        ((0.1, -0.1, 0.3, "undecided"), "try (we cannot tell)", "We cannot tell. **Try:** both."),
    ],
)
def test_the_words_follow_the_finding(measured, short, text):
    found = guide.answer(guide.Rule("?", (CASE,)), ledger(finding(*measured)))
    assert found.short == {"always": short}
    assert text in found.text and "([some-chapter](some-chapter.md))" in found.text
    assert found._repr_markdown_() == found.text


def test_a_finding_is_seen_from_the_other_side():
    look = guide.Look("Leaving films out", "C2", "here", -1)
    parts = Components(0.0004, 0.0001, 5.0)
    asked = finding(0.1, 0.05, 0.15, "supported", components=vars(parts))
    turned = guide.find(look, ledger(asked))
    assert claims.effect_of(turned) == -claims.effect_of(asked)
    assert turned["verdict"] == "refuted"
    rule = guide.Rule("?", (guide.Case("x", (look,), "a: b", "leave them in: c", "d: e", "f: g"),))
    assert "Leaving films out loses 10 points" in guide.answer(rule, ledger(asked)).text


def test_findings_that_contradict_each_other_depend_on_the_data():
    looks = (LOOK, guide.Look("Adding news", "C2", "there"))
    case = guide.Case("x", looks, "a: b", "c: d", "e: f", "try: both.")
    both = ledger(
        finding(0.1, 0.05, 0.15, "supported"),
        finding(-0.1, -0.15, -0.05, "refuted", setting="there"),
    )
    assert guide.answer(guide.Rule("?", (case,)), both).short == {
        "x": "try (it depends on the data)"
    }


def test_luck_and_settings_chosen_after_looking_are_named():
    looked = finding(0.1, 0.05, 0.15, "supported", survives_fdr=False, chosen_after_looking=True)
    found = guide.answer(guide.Rule("?", (CASE,)), ledger(looked))
    assert found.short == {"always": "try (we cannot tell)"}
    assert "chosen after looking; among so many looks it may be luck)" in found.text


def test_seconds_are_saved_or_wasted():
    unit = "percent of the CPU seconds"
    for share, verdict, words in [(0.64, "supported", "saves"), (-0.64, "refuted", "wastes")]:
        found = finding(share, share - 0.1, share + 0.1, verdict, unit=unit, margin=0)
        text = guide.answer(guide.Rule("?", (CASE,)), ledger(found)).text
        assert f"Adding films {words} 64 percent of the CPU seconds (" in text


def test_new_data_are_predicted_from_all_that_bears_on_the_question():
    rows = [finding(0.1, 0.05, 0.15, "supported", setting=f"{k} films") for k in range(5)]
    record = ledger(finding(0.9, 0.8, 1.0, "supported"), *rows)
    tried = (guide.Look("", "C2", "films"), guide.Look("", "C2", "4 films"))
    found = guide.answer(guide.Rule("?", (CASE,), tried, "What it *means*."), record)
    assert found.text.startswith("What it *means*.")
    assert (
        "All that we tried of this question, also elsewhere: 5 settings, a mean gain" in found.text
    )
    assert [round(e.value, 2) for e in found.expected] == [0.1]
    turned = guide.Rule("?", (CASE,), (guide.Look("", "C2", "films", -1),))
    assert "5 settings, a mean loss of 10 points." in guide.answer(turned, record).text
    few = guide.Rule("?", (CASE,), (guide.Look("", "C2", "4 films"),))
    assert "expect" not in guide.answer(few, record).text
    looks = tuple(guide.Look(f"{k}", "C2", f"{k} films") for k in range(5))
    case = guide.Case("x", looks, "a: b", "c: d", "e: f", "g: h")
    assert (
        "5 settings, a mean gain of 10 points."
        in guide.answer(guide.Rule("?", (case,)), record).text
    )


def test_titles_are_those_of_the_chapters():
    for file in Path("chapters").glob("*.md"):
        title = re.search(r"^# (.+)$", file.read_text("utf-8"), re.MULTILINE)[1]
        assert guide.TITLES[file.stem] == title
    chapters = {f["chapter"] for claim in claims.ledger().values() for f in claim["findings"]}
    assert chapters <= set(guide.TITLES)


@pytest.mark.parametrize(
    ("rule", "record", "said"),
    [
        ("nothing", ledger(), "no rule 'nothing': choose one of control, "),
        (
            guide.Rule("Why?", (CASE,)),
            ledger(finding(0.1, 0, 0.2, "supported", setting="hare")),
            r"the rule 'Why\?' needs the finding C2, 'here', and the ledger has 0 of them "
            r"\(the nearest is 'hare'\): mend the rule",
        ),
        (guide.Rule("Why?", (CASE,)), {}, "the ledger has 0 of them: mend"),
        (
            guide.Rule("Why?", (CASE,)),
            ledger(*(finding(0.1, 0, 0.2, "supported", chapter=c) for c in "ab")),
            "the ledger has 2 of them",
        ),
        (
            guide.Rule("Why?", (CASE,), (guide.Look("", "C3", "films"),)),
            ledger(finding(0.1, 0.05, 0.15, "supported")),
            r"needs findings of C3 with 'films' in their setting, and the ledger has none",
        ),
    ],
)
def test_what_is_missing_is_an_error(rule, record, said):
    with pytest.raises(LookupError, match=said):
        guide.answer(rule, record)


@pytest.mark.parametrize("name", guide.RULES)
def test_the_record_answers_every_question(name):
    rule, record = guide.RULES[name], copy.deepcopy(claims.ledger())
    found = guide.answer(name)
    assert found.question == rule.question and len(found.short) == len(rule.cases)
    for case in rule.cases:
        assert all(": " in words for words in (case.yes, case.no, case.same, case.unclear))
    # the other side of all that it looks at is other advice; two cases may look at one finding
    for claim, setting in {(k.claim, k.setting) for case in rule.cases for k in case.looks}:
        for row in record[claim]["findings"]:
            if row["setting"] == setting:
                row |= guide._turned(row)
    decided = {"supported": "refuted", "refuted": "supported"}
    for case in rule.cases:
        was = claims.overall([guide.find(look, claims.ledger()) for look in case.looks])
        now = claims.overall([guide.find(look, record) for look in case.looks])
        assert now == decided.get(was, was)
