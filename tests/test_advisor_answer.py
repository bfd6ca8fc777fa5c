"""The rule and its numbers, on runs whose truth is known."""

import numpy as np
import pytest

from tlbook.advisor.advice import _remarks
from tlbook.advisor.answer import answer, difference, expected_score, recommend
from tlbook.advisor.search import Results, folds
from tlbook.advisor.strategies import Run
from tlbook.data import Dataset


def results(accuracies: dict[str, float], n: int = 400, *, seed: int = 0, splits: int = 5, **same):
    """Runs that are right with a probability of their own; the later named, the dearer.

    Strategies of ``same`` err exactly where the named one does.
    """
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    data = Dataset("planted", np.array(["x"] * n, object), y, ("a", "b"), np.arange(n))
    found = Results(data, folds(data, splits, seed))
    hits = {name: rng.random(n) < p for name, p in accuracies.items()}
    hits |= {name: hits[other] for name, other in same.items()}
    for cost, (name, hit) in enumerate(hits.items()):
        found.runs[name] = [
            Run(np.where(hit[test], y[test], 1 - y[test]), 1.0 + cost, 0.1)
            for _, test in found.parts
        ]
    return found


def test_the_cheapest_of_equals_is_recommended():
    runs = results({"control": 0.6, "cheap": 0.9}, dear="cheap")
    runs.runs["dear"][0].predicted[:1] ^= runs.runs["dear"][0].predicted[:1] != 0
    assert recommend(runs, 0.03) == "cheap"
    found = answer(runs, "control", margin=0.03)
    assert found.recommended == "cheap"
    assert found.gain.low > 0.2 and "gains" in found.sentences[2]


def test_a_clearly_worse_one_is_not_recommended_however_cheap():
    runs = results({"control": 0.6, "cheap": 0.8, "dear": 0.95})
    found = answer(runs, "control", margin=0.01)
    assert found.recommended == found.best == "dear"
    assert "scored best, and no cheaper one is shown to be within 1 point" in found.sentences[0]


def test_not_shown_to_be_worse_is_not_enough():
    """Independent errors on few rows: a difference of ten points could not be seen."""
    runs = results({"cheap": 0.8, "dear": 0.9}, n=60, seed=1)
    effect = difference(runs, "cheap", "dear")
    assert runs.best() == "dear" and effect.low < -0.01 < 0 < effect.high
    assert recommend(runs, 0.01) == "dear"
    within = 0.01 - effect.value  # it lies within the margin, but its interval does not
    assert effect.at(0.9).low < -within and recommend(runs, within) == "dear"
    assert recommend(runs, 0.9) == "cheap"


def test_what_was_best_on_two_splits_is_named_and_not_recommended():
    runs = results({"control": 0.6, "cheap": 0.8, "dear": 0.95})
    runs.runs["dear"] = runs.runs["dear"][:2]
    runs.left_out["dear"] = "it was not done when the time was over"
    found = answer(runs, "control", margin=0.01)
    assert found.recommended == found.best == "cheap"
    (remark,) = _remarks(runs, found)
    assert "On 2 splits it was 1" in remark and "points better than cheap" in remark
    runs.left_out["cheap"] = "given up"  # it ran on all splits
    assert len(_remarks(runs, found)) == 1
    equal = results({"control": 0.6, "cheap": 0.9}, dear="cheap")
    equal.runs["cheap"] = equal.runs["cheap"][:2]  # as good and cheaper, on two splits
    assert recommend(equal, 0.2) == "dear"
    one = results({"control": 0.6, "cheap": 0.8}, splits=2)
    assert recommend(one, 0.01) == "cheap"  # where none ran more often


def test_agreeing_on_all_rows_still_leaves_some_doubt():
    small = difference(results({"a": 0.8}, n=40, b="a"), "a", "b")
    large = difference(results({"a": 0.8}, n=4000, b="a"), "a", "b")
    assert small.value == large.value == 0
    assert small.low < -0.05 and -0.005 < large.low < 0


def test_a_difference_is_paired_and_its_interval_holds_the_truth():
    held, truth = 0, 0.1
    for seed in range(60):
        effect = difference(results({"a": 0.9, "b": 0.8}, n=300, seed=seed, splits=10), "a", "b")
        held += effect.low <= truth <= effect.high
    assert held >= 55


def test_the_expected_score_is_corrected_for_the_choice():
    """Twelve strategies of the same worth: the winner's own score is too high, the other is not."""
    own, corrected = [], []
    for seed in range(12):
        runs = results({f"s{i}": 0.7 for i in range(12)}, n=120, seed=seed)
        own.append(difference(runs, runs.best()).value)
        corrected.append(expected_score(runs, 0.0, resamples=30).value)
    assert np.mean(own) > 0.74
    assert np.mean(corrected) == pytest.approx(0.7, abs=0.025)


def test_a_rare_class_counts_in_the_expected_score():
    """One strategy, right on all but the rare class of four, which resamples often lack."""
    runs = results({"a": 1.0}, n=80)
    y = np.where(np.arange(80) < 4, 2, np.arange(80) % 2)
    object.__setattr__(runs.data, "y", y)
    for run, (_, test) in zip(runs.runs["a"], runs.parts, strict=True):
        run.predicted[:] = np.where(y[test] == 2, 0, y[test])
    assert expected_score(runs, 0.01, resamples=50).value == pytest.approx(2 / 3)


def test_one_split_gives_no_interval():
    runs = results({"control": 0.6, "a": 0.9})
    runs.runs = {name: found[:1] for name, found in runs.runs.items()}
    found = answer(runs, "control")
    assert found.recommended == "a" and found.expected.unreliable
    assert "No interval is known: only one split" in found.sentences[1]
    assert found.table["low"].isna().all()


def test_groups_count_as_one():
    runs = results({"a": 0.9, "b": 0.7}, n=200)
    alone = difference(runs, "a", "b")
    tenfold = results({"a": 0.9, "b": 0.7}, n=200)
    object.__setattr__(tenfold.data, "groups", np.arange(200) // 20)
    block = np.repeat(np.random.default_rng(0).random(10) < 0.6, 20)
    for run, (_, test) in zip(tenfold.runs["b"], tenfold.parts, strict=True):
        y = tenfold.data.y[test]
        run.predicted[:] = np.where(block[test], y, 1 - y)
    assert difference(tenfold, "a", "b").error > 2 * alone.error


def test_no_runs_and_a_control_that_was_not_run():
    runs = results({"a": 0.9, "b": 0.8})
    assert answer(runs, "word counts").control == "a"
    with pytest.raises(ValueError, match="margin=-1"):
        answer(runs, "a", margin=-1)
    runs.runs = {}
    with pytest.raises(ValueError, match="more minutes"):
        answer(runs, "a")
