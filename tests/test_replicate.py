"""The rule that says when a build contradicts the record."""

import json

import numpy as np
import pytest

from tlbook.evidence import claims
from tools import replicate
from tools.ledger import verdict_of

RECORD = claims.ledger()
#: How far, in standard errors, each of the findings moved that did move between two machines, out
#: of 110; the last two as an Intel processor's build had them, the others between two of AMD.
MOVED = [0.01, 0.01, 0.01, 0.01, 0.02, 0.02, 0.02, 0.02, 0.02, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03]
MOVED += [0.03, 0.04, 0.05, 0.06, 0.08, 0.15, 0.18, 0.19, 0.27, 0.3, 0.3, 0.51, 0.63, 0.71, 1.15]
#: In points, what the largest change of an exact finding was.
EXACTLY = 0.13


def finding(effect, error=0.02, kind="trained", margin=0.02, **other):
    data = {
        **{"effect": effect, "interval": [effect - 1.96 * error, effect + 1.96 * error]},
        **{"level": 0.95, "seeds": 5, "error": error, "components": None, "unreliable": ""},
        **{"kind": kind, "margin": margin, "by_seed": [], "scores": []},
    }
    return data | {"verdict": verdict_of(data)} | other


def moved_by(was, moved, verdict=None):
    """The finding, measured again as another machine might."""
    interval = [limit + moved for limit in was["interval"]]
    now = was | {"effect": was["effect"] + moved, "interval": interval}
    return now | {"verdict": verdict_of(now)}


@pytest.mark.parametrize(
    ("was", "moved", "color", "reason"),
    [
        (finding(0.1), 0.014, "green", None),
        (finding(0.1), -0.016, "yellow", "the effect moved by -0.80 standard errors"),
        (finding(0.1), -0.031, "red", "the effect moved by -1.55 standard errors"),
        (finding(0.045), -0.01, "fragile", "supported on record, undecided here"),
        (finding(0.045), -0.02, "yellow", "supported on record, undecided here"),
        (finding(0.005, 0.007), 0.002, "fragile", "negligible on record, undecided here"),
        (finding(0.1, kind="exact"), 0.0029, "green", None),
        (finding(0.1, kind="exact"), -0.0031, "red", "moved by -0.3, and exact ones move by 0.3"),
        (finding(0.04, 0.5, kind="timing"), -0.099, "green", None),
        (finding(0.04, 0.5, kind="timing"), -0.109, "red", "turned its sign, by -11"),
        (finding(0.6, 0.02, kind="timing"), 0.3, "green", None),
        (finding(0.05, 0.01, kind="timing", margin=0), -0.09, "fragile", "refuted here"),
        # where nothing varied, what exact arms may move by stands for the error
        (finding(0.0, 0.0), 0.002, "green", None),
        (finding(0.0, 0.0), 0.0031, "yellow", None),
        (finding(0.0, 0.0), 0.0046, "red", None),
    ],
)
def test_the_color_of_a_finding(was, moved, color, reason):
    said = replicate.judge(was, moved_by(was, moved))
    assert said["color"] == color
    assert reason is None or any(reason in r for r in said["reasons"])
    assert said["moved"] == pytest.approx(moved)


def test_support_that_turned_into_refutation_is_red():
    was = finding(0.003, 0.001, margin=0)  # moved by less than the least error that counts
    now = moved_by(was, -0.0055) | {"verdict": "refuted"}
    was |= {"error": 0.01}
    assert replicate.judge(was, now)["color"] == "red"
    assert replicate.judge(was, now)["reasons"] == ["supported on record, refuted here"]


def test_other_seeds_of_an_exact_finding_are_red_whatever_their_mean():
    was = finding(0.1, kind="exact", by_seed=[0.05, 0.15, 0.08, 0.12])
    assert replicate.judge(was, was | {"by_seed": [0.05, 0.15, 0.09, 0.11]})["color"] == "green"
    said = replicate.judge(was, was | {"by_seed": was["by_seed"][::-1]})
    assert said["reasons"] == ["single seeds moved by 7.0, and exact ones may by 1"]
    other = finding(0.1, by_seed=was["by_seed"])
    assert replicate.judge(other, other | {"by_seed": was["by_seed"][::-1]})["color"] == "green"


@pytest.mark.parametrize(("kind", "color"), [("exact", "red"), ("trained", "red")])
def test_what_breaks_both_arms_alike_shows_in_their_scores(kind, color):
    """Labels shuffled in a test set: two scores fall to chance, a small difference stays."""
    scores = [{"effect": level, "error": 0.03} for level in (0.9, 0.88)]
    was = finding(0.02, kind=kind, scores=scores)
    now = finding(0.02, kind=kind, scores=[{"effect": 0.5, "error": 0.03}] * 2)
    assert replicate.judge(was, was)["color"] == "green"
    said = replicate.judge(was, now)
    assert said["color"] == color and any("the arm's score" in r for r in said["reasons"])


def in_ledger(findings):
    rows = [{"chapter": "01-a", "setting": f"{i}"} | f for i, f in enumerate(findings)]
    return {"C2": {"findings": rows}}


@pytest.mark.parametrize(
    ("moves", "problems"),
    [
        ([0.55] * 20, []),
        ([0.65] * 20, ["0.65 standard errors in the root mean square"]),
        ([0.8] * 5 + [0.0] * 20, []),
        ([0.8] * 6 + [0.0] * 20, ["6 findings are yellow, and 5 may be"]),
    ],
)
def test_all_findings_together(moves, problems):
    was = [finding(0.1) for _ in moves]
    now = [moved_by(f, 0.02 * m) for f, m in zip(was, moves, strict=True)]
    found = replicate.together(replicate.compare(in_ledger(was), in_ledger(now)))
    assert len(found) == len(problems)
    assert all(part in said for part, said in zip(problems, found, strict=True))


def build(record, rng):
    """The record as a sound build on another machine has it: most equal, some moved as seen."""

    def again(was):
        if rng.random() > len(MOVED) / 110:
            return was
        step = rng.choice(MOVED) * max(was["error"], replicate.EXACT)
        if was["kind"] == "exact":
            step = rng.uniform(0, EXACTLY / 100)
        now = moved_by(was, rng.choice([-1, 1]) * step)
        if was["kind"] == "exact" and was["by_seed"]:  # at worst, all of it in one seed
            first, *others = was["by_seed"]
            moved = (now["effect"] - was["effect"]) * len(was["by_seed"])
            now["by_seed"] = [first + moved, *others]
        return now

    return {claim: {"findings": [*map(again, row["findings"])]} for claim, row in record.items()}


def is_red(record, measured):
    rows = replicate.compare(record, measured)
    return bool(replicate.together(rows)) or any(row["color"] == "red" for row in rows)


def test_unchanged_builds_fail_in_at_most_one_of_two_hundred():
    rng = np.random.default_rng(0)
    assert sum(is_red(RECORD, build(RECORD, rng)) for _ in range(400)) <= 2


CHAPTERS = sorted({f["chapter"] for row in RECORD.values() for f in row["findings"]})


@pytest.mark.parametrize("broken", CHAPTERS)
def test_a_chapter_with_shuffled_labels_is_red(broken):
    """Every arm of it is at chance: what one gains over another is noise around zero.

    A chapter whose differences are noise anyway is told by its arms' scores.
    """
    rng = np.random.default_rng(0)
    for _ in range(20):
        measured = build(RECORD, rng)
        for row in measured.values():
            for i, f in enumerate(row["findings"]):
                if f["chapter"] == broken and f["kind"] != "timing":
                    broken_one = moved_by(f, rng.normal(0, f["error"]) - f["effect"])
                    at_chance = [score | {"effect": score["effect"] / 2} for score in f["scores"]]
                    row["findings"][i] = broken_one | {"scores": at_chance}
        assert is_red(RECORD, measured)


@pytest.mark.parametrize("shift", [-0.03, 0.03])
def test_a_small_shift_of_all_effects_is_red(shift):
    """As a leak or another split gives it, where no trained finding need be far off alone."""
    rng = np.random.default_rng(0)
    measured = build(RECORD, rng)
    for row in measured.values():  # exact ones stay: each of them would be red by itself
        row["findings"] = [
            f if f["kind"] == "exact" else moved_by(f, shift) for f in row["findings"]
        ]
    assert replicate.together(replicate.compare(RECORD, measured))


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write a record and a build, each a list of findings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(replicate, "machine", lambda: {"id": "a-processor"})

    def write(record, measured):
        for path, findings in ((replicate.RECORD, record), (replicate.MEASURED, measured)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(in_ledger(findings)))

    return write


def test_the_report_fails_only_if_asked_to(files, capsys):
    was = [finding(0.1), finding(0.1), finding(0.045)]
    files(was, [moved_by(was[0], 0.1), was[1], moved_by(was[2], -0.01), finding(0.2)])
    assert replicate.main([]) == 0
    out = capsys.readouterr().out
    assert "red: C2, 01-a: 0\n  was 0.1000 [0.0608, 0.1392], supported\n  now 0.2000" in out
    assert "  the effect moved by +5.00 standard errors\n" in out
    assert "fragile: C2, 01-a: 2" in out and "not on record: C2, 01-a: 3" in out
    assert "red: trained findings moved by 2.90 standard errors in the root mean square" in out
    assert "3 findings on record were measured again: 1 equal to the last digit" in out
    assert "red: 1, yellow: 0, fragile: 1, not measured: 0, not on record: 1, green: 1" in out
    assert replicate.main(["--strict"]) == 1
    files(was, was)
    assert replicate.main(["--strict"]) == 0
    assert not replicate.KEPT.exists()


def test_a_replication_is_kept_for_each_kind_of_machine(files):
    was = [finding(0.1), finding(0.2)]
    files(was, [moved_by(was[0], 0.02)])
    assert replicate.main(["--keep"]) == 0
    kept = json.loads((replicate.KEPT / "a-processor.json").read_text())
    assert kept == json.loads(replicate.REPORT.read_text())
    assert {"machine", "date", "versions", "together"} < kept.keys()
    assert kept["versions"].keys() >= {"python", "torch", "numpy"}
    moved, missing = kept["findings"]
    assert moved["color"] == "yellow" and moved["effect"] == pytest.approx(0.12)
    assert moved["moved"] == pytest.approx(0.02) and moved["in_errors"] == pytest.approx(1.0)
    assert moved["error"] == 0.02 and moved["kind"] == "trained"
    assert missing["color"] == "not measured" and "effect" not in missing


def test_the_machine_has_a_name_for_a_file(monkeypatch):
    monkeypatch.setattr(replicate, "processor", lambda: "Intel(R) Xeon(R) CPU @ 2.20GHz / x")
    found = replicate.machine()
    assert found["id"].startswith("intel-r-xeon-r-cpu-2-20ghz-x-")
    assert set(found["id"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")


def test_without_a_build_there_is_nothing_to_replicate(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert replicate.main([]) == 1
    assert "build the book first" in capsys.readouterr().err


def test_a_build_of_another_version_is_named(files, capsys):
    was = finding(0.1)
    files([was], [{name: value for name, value in was.items() if name != "error"}])
    assert replicate.main([]) == 1
    assert "no 'error': another version wrote it; run make book" in capsys.readouterr().err
