"""Recorded numbers, findings, and the ledger they fill."""

import json

import pandas as pd
import pytest
from nbformat import v4

from tlbook.code import lines_of_code
from tlbook.evidence import claims
from tlbook.evidence.effects import Components, Effect
from tools import ledger


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
    ("effect", "options", "verdict", "kind"),
    [
        (Effect(0.1, 0.05, 0.15, 5), {}, "supported", "trained"),
        (Effect(-0.1, -0.15, -0.05, 5), {"kind": "exact"}, "refuted", "exact"),
        (Effect(0.1, -0.05, 0.25, 5), {}, "undecided", "trained"),
        (Effect(0.01, 0.005, 0.015, 5), {}, "negligible", "trained"),
        (Effect(0.01, 0.005, 0.015, 5), {"margin": 0.001}, "supported", "trained"),
        # nobody agreed which share of a loss or of the time does not matter
        (Effect(0.01, 0.005, 0.015, 5), {"unit": "percent of the loss"}, "supported", "trained"),
        (Effect(0.01, 0.005, 0.015, 5), {"unit": "percent of CPU seconds"}, "supported", "timing"),
        (
            Effect(0.01, 0.005, 0.015, 5),
            {"unit": "percent", "margin": 0.02},
            "negligible",
            "trained",
        ),
    ],
)
def test_a_finding_has_its_verdict_and_kind(shown, effect, options, verdict, kind):
    claims.finding("C2", effect, setting="here", **options)
    data = shown[-1][claims.FINDING]
    assert (data["verdict"], data["kind"]) == (verdict, kind)
    assert f"→ **{verdict}**" in shown[-1]["text/markdown"]


def test_undecided_says_what_would_have_been_seen(shown):
    effect = Effect.over_seeds([0.1, -0.1, 0.05, -0.05, 0.02])
    claims.finding("C2", effect, setting="here")
    # standard error times the quantiles of Student's t with four degrees of freedom
    error = (sum((v - 0.004) ** 2 for v in [0.1, -0.1, 0.05, -0.05, 0.02]) / 20) ** 0.5
    size = 100 * error * (2.776445 + 0.940965)
    assert f"undecided**: an effect of {size:.1f} points" in shown[-1]["text/markdown"]


def test_a_finding_carries_what_its_interval_is_made_of(shown):
    parts = Components(0.0004, 0.0012, 9.5)
    score = Effect(0.9, 0.82, 0.98, 2, components=parts)
    effect = Effect(0.1, 0.02, 0.18, 2, components=parts, by_seed=(0.1, 0.1), scores=(score, score))
    claims.finding("C2", effect, setting="here", chosen_after_looking=True)
    data = json.loads(json.dumps(shown[-1][claims.FINDING]))
    assert data["error"] == pytest.approx(0.04)
    assert data["components"] == {"seeds": 0.0004, "items": 0.0012, "df": 9.5, "splits": 0.0}
    assert [score["interval"] for score in data["scores"]] == [[0.82, 0.98]] * 2
    assert data["by_seed"] == [0.1, 0.1] and data["chosen_after_looking"] is True
    assert claims.effect_of(data) == effect


def test_where_runs_failed_nothing_is_decided(shown, measured):
    reason = "1 of 5 runs lies far from the others"
    failed = Effect(0.9, -1.0, 1.0, 5, unreliable=reason)
    claims.finding("C2", failed, setting="here")
    assert "**undecided**" in shown[-1]["text/markdown"] and reason in shown[-1]["text/markdown"]
    cells = [v4.new_code_cell(outputs=[v4.new_output("display_data", data=shown[-1])])]
    whole = chapter(shown, *(("C2", 0.1, 0.05, f"{k}") for k in range(3)))
    ledger.collect({"01-a": v4.new_notebook(cells=cells), "02-b": whole})
    row = ledger.load(ledger.MEASURED)["C2"]
    assert row["findings"][0]["unreliable"] == reason and not row["findings"][0]["survives_fdr"]
    assert row["counts"]["undecided"] == 1 and row["pooled"]["findings"] == 3


def test_an_unknown_kind_is_refused(shown):
    with pytest.raises(ValueError, match="kind"):
        claims.finding("C2", Effect(0, 0, 0, 5), setting="anywhere", kind="sure")


def test_a_claim_that_nobody_made_is_refused(shown):
    with pytest.raises(KeyError, match="no claim 'C99'"):  # no id
        claims.finding("C99", Effect(0, 0, 0, 5), setting="anywhere")  # no id


def test_every_claim_has_a_text_and_a_place():
    table = claims.table()
    assert list(table["claims"]) == [f"C{number}" for number in range(1, 25)]
    assert all(claim["text"] and claim["where"] for claim in table["claims"].values())


def test_what_the_documents_say_stands_in_a_section_that_the_book_names():
    said = claims.table()
    places = {f"{d} {section}" for d, sections in said["sections"].items() for section in sections}
    for kind in ("systems", "claims", "formulas", "listings"):
        for name, entry in said[kind].items():
            for where in entry["where"]:
                assert any(f"{place}.".startswith(f"{where}.") for place in places), (name, where)


def chapter(shown, *findings):
    """An executed chapter with these findings: (claim, value, half width, setting)."""
    start = len(shown)
    for claim, value, half, setting in findings:
        claims.finding(claim, Effect(value, value - half, value + half, 5), setting=setting)
    outputs = [v4.new_output("display_data", data=bundle) for bundle in shown[start:]]
    return v4.new_notebook(cells=[v4.new_code_cell("...", outputs=outputs)])


@pytest.fixture
def measured(shown, tmp_path, monkeypatch):
    """A build that measures these findings; returns the ledger of it, which is the record too."""
    monkeypatch.chdir(tmp_path)

    def measure(*findings):
        ledger.collect({"01-a": chapter(shown, *findings)})
        ledger.accept()
        return ledger.load(ledger.RECORD)

    return measure


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"verdict": "refuted"}, "'refuted', but the interval says 'supported'"),
        ({"verdict": "not shown"}, "'not shown', but the interval says 'supported'"),
        ({"margin": 0.5}, "'supported', but the interval says 'negligible'"),
        ({"effect": 0.5}, "the effect lies outside of its interval"),
        ({"seeds": 1}, "a single run is never a result"),
        ({"kind": "sure"}, "no kind 'sure'"),
        ({"survives_fdr": False}, "its counts or verdicts are not those of its findings"),
        ({"chapter": "02-b"}, "C2, 01-a: stated, not on record"),
        ({"chapter": "02-b"}, "C2, 02-b: on record, but not stated there"),
    ],
)
def test_a_fault_of_the_record_is_seen(measured, change, problem):
    record = measured(("C2", 0.2, 0.1, "here"))
    assert ledger.check({"01-a": {"C2"}}) == []
    record["C2"]["findings"][0] |= change
    ledger.RECORD.write_text(json.dumps(record))
    assert any(problem in line for line in ledger.check({"01-a": {"C2"}}))


def test_a_damaged_record_is_seen(measured):
    measured(("C2", 0.2, 0.1, "here"))
    ledger.accept()
    ledger.RECORD.write_text(ledger.RECORD.read_text()[:-9])
    assert "no whole record" in ledger.check({"01-a": {"C2"}})[0]


@pytest.mark.parametrize("change", [{"verdict": "refuted"}, {"counts": {}}, {"pooled": {}}])
def test_what_does_not_follow_from_the_findings_is_seen(measured, change):
    record = measured(("C2", 0.2, 0.1, "here"))
    record["C2"] |= change
    ledger.RECORD.write_text(json.dumps(record))
    (problem,) = ledger.check({"01-a": {"C2"}})
    assert "C2: its counts or verdicts are not those of its findings" in problem


def test_a_finding_on_record_twice_and_an_unknown_claim_are_seen(measured):
    record = measured(("C2", 0.2, 0.1, "here"))
    record["C2"]["findings"] *= 2
    record["C99"] = {"findings": [], "verdict": "undecided"}  # no id
    ledger.RECORD.write_text(json.dumps(record))
    problems = " ".join(ledger.check({"01-a": {"C2"}}))
    assert "twice on record" in problems and "is no claim of the documents" in problems


def test_another_processor_may_round_what_is_pooled(measured):
    record = measured(*(("C2", 0.1 + k / 10, 0.05, f"{k}") for k in range(3)))
    for moved, seen in [(1 + 1e-5, 0), (1.01, 1)]:
        changed = json.loads(json.dumps(record))
        changed["C2"]["pooled"]["mean"] *= moved
        ledger.RECORD.write_text(json.dumps(changed))
        problems = ledger.check({"01-a": {"C2"}})
        assert sum("are not those of its findings" in line for line in problems) == seen


def test_one_measurement_is_one_finding(measured):
    """The harm and the help of one source are one number with two signs."""
    record = measured(
        *(("C2", 0.2, 0.1, "here"), ("C3", -0.2, 0.1, "there"), ("C7", 0.2, 0.1, "again")),
        *(("C8", 0.2, 0.11, "wider"), ("C4", 0.0, 0.0, "none"), ("C5", 0.0, 0.0, "none either")),
    )
    assert ledger.repeated(record) == [
        "one measurement is one finding: C2, 01-a: here; C3, 01-a: there; C7, 01-a: again"
    ]
    ledger.RECORD.write_text(json.dumps(record))
    assert any("one measurement is one finding" in line for line in ledger.check({}))
    del record["C3"], record["C7"]
    assert ledger.repeated(record) == []


def test_a_row_of_the_ledger(measured):
    record = measured(("C2", 0.2, 0.1, "here"), ("C2", 0.01, 0.005, "there"))
    assert record["C2"]["findings"][0] == {
        **{"chapter": "01-a", "setting": "here", "unit": "points", "kind": "trained"},
        **{"chosen_after_looking": False, "effect": 0.2, "interval": [0.1, 0.3], "level": 0.95},
        **{"seeds": 5, "splits": 1, "error": 0.0510213, "components": None},  # 0.2 / 3.92
        **{"by_seed": [], "scores": [], "margin": 0.02, "verdict": "supported"},
        **{"unreliable": "", "planned": "before the rule", "survives_fdr": True},
    }
    counts = {"supported": 1, "refuted": 0, "negligible": 1, "undecided": 0}
    assert record["C2"]["counts"] == counts and record["C2"]["pooled"] is None
    assert claims.in_counts(counts) == "supported 1, refuted 0, negligible 1, undecided 0 of 2"


@pytest.mark.parametrize(
    ("verdicts", "word"),
    [
        (["supported"], "supported"),
        (["supported", "undecided"], "undecided"),
        (["supported", "supported", "undecided"], "supported"),
        (["supported", "supported", "doubtful", "undecided"], "undecided"),
        (["supported"] * 9 + ["refuted"], "mixed"),
        (["supported", "supported", "doubtful against"], "supported"),
        (["refuted", "refuted", "negligible"], "refuted"),
        (["supported", "negligible", "negligible"], "negligible"),
        (["undecided"], "undecided"),
        ([], "undecided"),
    ],
)
def test_a_claim_needs_more_than_half_of_its_findings_and_none_against(verdicts, word):
    raw = {"doubtful": "supported", "doubtful against": "refuted"}
    findings = [
        {"verdict": raw.get(v, v), "survives_fdr": v in ("supported", "refuted")} for v in verdicts
    ]
    assert ledger.overall(findings) == word


def test_the_false_discovery_rate_counts_every_finding(measured):
    """By hand: p = 0.0286 is clear alone and the third of 20 that may be below 0.05 * 3 / 20."""
    alone = [("C2", 0.1, 0.0895, "close")]
    (finding,) = measured(*alone)["C2"]["findings"]
    assert finding["verdict"] == "supported" and finding["survives_fdr"]
    many = [("C3", 0.3, 0.1, "a"), ("C3", 0.4, 0.1, "b")]
    many += [("C4", 0.001 * k, 0.1, f"nothing {k}") for k in range(17)]
    record = measured(*alone, *many)
    assert not record["C2"]["findings"][0]["survives_fdr"]
    assert record["C2"]["findings"][0]["verdict"] == "supported"  # beside it, not in its place
    assert record["C2"]["verdict"] == "undecided"
    assert [f["survives_fdr"] for f in record["C3"]["findings"]] == [True, True]


def test_effects_in_points_are_pooled(measured):
    settings = [("C2", value, 0.1, f"at {value}") for value in (0.1, 0.2, 0.3)]
    pooled = measured(*settings)["C2"]["pooled"]
    # equal variances: the mean, and Student's t with two and with one degree of freedom
    assert pooled["mean"] == pytest.approx(0.2)
    half = 4.302653 * 0.1 / 3**0.5
    assert pooled["interval"] == pytest.approx([0.2 - half, 0.2 + half], abs=1e-5)
    half = 12.7062 * (0.01 * 4 / 3 - 0.0510214**2) ** 0.5
    assert pooled["prediction"] == pytest.approx([0.2 - half, 0.2 + half], abs=1e-4)


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
