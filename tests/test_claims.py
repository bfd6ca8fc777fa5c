"""Recorded numbers, findings, and the ledger they fill."""

import json

import pandas as pd
import pytest
from nbformat import v4

from tlbook.code import lines_of_code
from tlbook.evidence import claims
from tlbook.evidence.effects import Effect
from tools import ledger, replicate


@pytest.fixture
def shown(monkeypatch):
    """What was displayed, as mime bundles."""
    bundles = []

    def display(content, raw=False):
        bundles.append(content if raw else {"text/markdown": content.data})

    monkeypatch.setattr(claims, "display", display)
    monkeypatch.setattr(claims, "recorded", {})
    return bundles


def test_say_shows_recorded_numbers(shown):
    claims.record(gain=12.345, setting="at five")
    claims.say("A gain of <<gain:.1f>> points <<setting:s>>, $a < b$ and {braces} untouched.")
    assert shown[-1]["text/markdown"] == (
        "A gain of 12.3 points at five, $a < b$ and {braces} untouched."
    )


def test_say_names_what_is_missing(shown):
    with pytest.raises(KeyError, match="'gain' is not recorded yet"):
        claims.say("<<gain:.1f>>")


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (Effect(0.1, 0.05, 0.15, 5), "supported"),
        (Effect(-0.1, -0.15, -0.05, 5), "refuted"),
        (Effect(0.1, -0.05, 0.25, 5), "not shown"),
    ],
)
def test_verdict_follows_the_interval(effect, verdict):
    assert claims.verdict(effect) == verdict


def test_a_claim_that_nobody_made_is_refused(shown):
    with pytest.raises(KeyError, match="no claim 'C99'"):  # no id
        claims.finding("C99", Effect(0, 0, 0, 5), setting="anywhere")  # no id


def test_every_claim_has_a_text_and_a_place():
    table = claims.table()
    assert list(table["claims"]) == [f"C{number}" for number in range(1, 25)]
    assert all(claim["text"] and claim["where"] for claim in table["claims"].values())


def chapter(shown, *findings):
    """An executed chapter with these findings: (claim, value, half width, setting)."""
    start = len(shown)
    for claim, value, half, setting in findings:
        claims.finding(claim, Effect(value, value - half, value + half, 5), setting=setting)
    outputs = [v4.new_output("display_data", data=bundle) for bundle in shown[start:]]
    return v4.new_notebook(cells=[v4.new_code_cell("...", outputs=outputs)])


@pytest.fixture
def measured(shown, tmp_path, monkeypatch):
    """A build that measures these findings; returns what its comparison with the record says."""
    monkeypatch.chdir(tmp_path)

    def measure(*findings):
        ledger.collect({"01-a": chapter(shown, *findings)})
        return replicate.compare(ledger.load(ledger.RECORD), ledger.load(ledger.MEASURED))

    return measure


def test_what_was_accepted_is_replicated(measured, capsys):
    assert [row["remark"] for row in measured(("C2", 0.2, 0.1, "here"))] == ["not on record"]
    ledger.accept()
    (row,) = measured(("C2", 0.25, 0.1, "here"))
    assert row["remark"] == ""
    assert row["moved"] == pytest.approx(0.05 / (0.2 / 3.92), rel=1e-3)
    assert replicate.main() == 0
    assert "1 findings on record were measured again: 0 equal" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("again", "remark", "said"),
    [
        (("C2", 0.02, 0.1, "here"), "verdict turned", "now 0.0200 [-0.0800, 0.1200], not shown"),
        (("C2", -0.2, 0.1, "here"), "verdict turned", "refuted"),
        (("C2", 0.35, 0.1, "here"), "left its interval", "was 0.2000 [0.1000, 0.3000], supported"),
        (("C2", 0.2, 0.1, "there"), "not measured", "not on record: C2, 01-a: there"),
        (("C7", 0.2, 0.1, "here"), "not measured", "not on record: C7, 01-a: here"),
    ],
)
def test_what_changed_is_reported_and_fails_nothing(measured, capsys, again, remark, said):
    measured(("C2", 0.2, 0.1, "here"))
    ledger.accept()
    assert measured(again)[0]["remark"] == remark
    assert replicate.main() == 0
    out = capsys.readouterr().out
    assert said in out and f"{remark}: 1" in out
    assert ledger.check({"01-a": {"C2"}}) == []  # the record is what it was


def test_without_a_build_there_is_nothing_to_replicate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert replicate.main() == 1
    assert "build the book first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"verdict": "refuted"}, "'refuted', but the interval says 'supported'"),
        ({"effect": 0.5}, "the effect lies outside of its interval"),
        ({"seeds": 1}, "a single run is never a result"),
        ({"chapter": "02-b"}, "C2, 01-a: stated, not on record"),
        ({"chapter": "02-b"}, "C2, 02-b: on record, but not stated there"),
    ],
)
def test_a_fault_of_the_record_is_seen(measured, change, problem):
    measured(("C2", 0.2, 0.1, "here"))
    ledger.accept()
    assert ledger.check({"01-a": {"C2"}}) == []
    record = ledger.load(ledger.RECORD)
    record["C2"]["findings"][0] |= change
    ledger.RECORD.write_text(json.dumps(record))
    assert any(problem in line for line in ledger.check({"01-a": {"C2"}}))


def test_a_damaged_record_is_seen(measured):
    measured(("C2", 0.2, 0.1, "here"))
    ledger.accept()
    ledger.RECORD.write_text(ledger.RECORD.read_text()[:-9])
    assert "no whole record" in ledger.check({"01-a": {"C2"}})[0]


def test_a_finding_on_record_twice_and_an_unknown_claim_are_seen(measured):
    measured(("C2", 0.2, 0.1, "here"))
    ledger.accept()
    record = ledger.load(ledger.RECORD)
    record["C2"]["findings"] *= 2
    record["C99"] = {"findings": [], "verdict": "not shown"}  # no id
    ledger.RECORD.write_text(json.dumps(record))
    problems = " ".join(ledger.check({"01-a": {"C2"}}))
    assert "twice on record" in problems and "is no claim of the documents" in problems


def test_the_ledger_gathers_settings_into_one_verdict(measured):
    measured(("C2", 0.2, 0.1, "here"), ("C2", -0.2, 0.1, "there"), ("C3", -0.2, 0.1, "here"))
    rows = json.loads(ledger.MEASURED.read_text())
    assert rows["C2"]["verdict"] == "supported only when: here"
    assert rows["C3"]["verdict"] == "refuted"
    assert rows["C2"]["findings"][0] == {
        "chapter": "01-a",
        "setting": "here",
        "effect": 0.2,
        "interval": [0.1, 0.3],
        "level": 0.95,
        "seeds": 5,
        "verdict": "supported",
    }


def test_the_readme_figure_goes_with_the_record(measured, shown):
    figure = v4.new_output("display_data", data={"image/svg+xml": "<svg/>"})
    cell = v4.new_code_cell("...", outputs=[figure], metadata={"tags": ["readme-figure"]})
    ledger.collect({"01-a": v4.new_notebook(cells=[cell])})
    ledger.accept()
    assert ledger.FIGURE.read_text() == "<svg/>"


def test_tables_go_with_the_record(measured, shown):
    claims.keep_table("the-table", pd.DataFrame({"arm": ["a", "b"], "score": [1 / 3, 1]}))
    (bundle,) = shown
    assert "0.333" in bundle["text/html"]
    output = v4.new_output("display_data", data=bundle)
    notebook = v4.new_notebook(cells=[v4.new_code_cell("...", outputs=[output])])
    ledger.collect({"01-a": notebook})
    ledger.accept()
    assert (ledger.TABLES / "the-table.csv").read_text() == "arm,score\na,0.333333\nb,1\n"
    ledger.collect({})
    ledger.accept()
    assert not list(ledger.TABLES.iterdir())
    with pytest.raises(ValueError, match="lowercase letters"):
        claims.keep_table("../a", pd.DataFrame())


def documented(x):
    """Two lines

    and a docstring."""
    # a comment
    text = """of two
    lines"""

    return text, x


class Method:
    """Nothing."""

    def call(self):
        return (
            1,  # on a line
        )


def test_lines_of_code_hold_code():
    assert lines_of_code(documented) == 4
    assert lines_of_code(Method) == 5
    assert lines_of_code(Method.call) == 4


def test_methods_of_all_chapters_share_one_table(measured, shown):
    def executed(name, gain, code):
        claims.method(
            name, Effect(gain, 0, 0.2, 5), control="none", setting="a, b", cpu_seconds=2, code=code
        )
        stored = json.loads(json.dumps(shown[-1], sort_keys=True))  # as a notebook's file has it
        output = v4.new_output("display_data", data=stored)
        return v4.new_notebook(cells=[v4.new_code_cell("...", outputs=[output])])

    late = executed("late", 0.1, [documented, Method])
    early = executed("early", -1 / 3, documented)
    assert "points over none" in shown[-1]["text/markdown"]
    ledger.collect({"10-b": late, "09-a": early})
    ledger.accept()
    rows = (ledger.TABLES / "methods.csv").read_text().splitlines()
    assert rows == [
        "chapter,method,setting,control,gain,low,high,unit,seeds,cpu_seconds,lines_of_code",
        '09-a,early,"a, b",none,-0.3333,0,0.2,points,5,2,4',
        '10-b,late,"a, b",none,0.1,0,0.2,points,5,2,9',
    ]


def test_two_findings_in_one_setting_are_refused(measured):
    with pytest.raises(ValueError, match="two findings in 'here'"):
        measured(("C2", 0.2, 0.1, "here"), ("C2", 0.3, 0.1, "here"))


def test_nothing_to_accept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="build the book first"):
        ledger.accept()
