"""Comparisons over several splits, and their intervals."""

import numpy as np
import pytest
from scipy.stats import t
from sklearn.metrics import balanced_accuracy_score

from tlbook import data
from tlbook.evidence.splits import compare_splits


def points(n: int = 240, seed: int = 0) -> data.Dataset:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return data.Dataset("points", rng.normal(y[:, None], 1.0, (n, 2)), y, ("a", "b"), np.arange(n))


def test_each_split_has_its_own_rows_and_seeds():
    some, seen = points(), []

    def arm(train, test, seed):
        seen.append((seed, tuple(test)))
        return some.y[test]

    splits = [data.split(some, test=1 / 3, seed=seed) for seed in range(3)]
    found = compare_splits({"arm": arm}, some, splits, budgets=[5], seeds=2)
    assert [seed for seed, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert [rows for _, rows in seen[::2]] == [tuple(split.test) for split in splits]
    assert found.arms == ["arm"]
    assert found.budgets == (5,)
    assert found.name == "points"
    assert found.score("arm", 5).value == 1


def test_the_interval_counts_splits_corrected_and_seeds_once():
    some = points()
    splits = [data.split(some, test=1 / 3, seed=seed) for seed in range(4)]

    def of_one_axis(axis):
        return lambda train, test, seed: (some.x[test, axis] > 0.1 * seed).astype(int)

    arms = {"first": of_one_axis(0), "second": of_one_axis(1)}
    found = compare_splits(arms, some, splits, budgets=[5], seeds=3)
    gains = np.array(
        [
            [
                balanced_accuracy_score(part.y, part.predictions["first"][0, seed])
                - balanced_accuracy_score(part.y, part.predictions["second"][0, seed])
                for seed in range(3)
            ]
            for part in found.parts
        ]
    )
    gain = found.gain("first", "second", 5)
    seeds_alone = np.mean(np.var(gains, axis=1, ddof=1)) / 3
    splits_alone = np.var(gains.mean(1), ddof=1) - seeds_alone
    assert splits_alone > 0
    # test rows are a third of all, training rows two thirds: their ratio is one half
    error = np.sqrt((splits_alone + seeds_alone) / 4 + splits_alone / 2)
    assert gain.value == pytest.approx(gains.mean())
    assert gain.high - gain.value == pytest.approx(t.ppf(0.975, 3) * error)
    assert gain.value - gain.low == pytest.approx(t.ppf(0.975, 3) * error)
    assert gain.seeds == 12
    score = found.score("first", 5)
    assert score.value - found.score("second", 5).value == pytest.approx(gain.value)


def test_seeds_that_differ_alone_are_no_variance_of_splits():
    """One seed right, the other wrong, on every split: splits do not differ at all."""
    some = points()
    splits = [data.split(some, test=1 / 3, seed=seed) for seed in range(4)]
    arms = {"arm": lambda train, test, seed: some.y[test] if seed % 2 else 1 - some.y[test]}
    score = compare_splits(arms, some, splits, budgets=[5]).score("arm", 5)
    assert (score.value, score.low, score.high) == (0.5, 0.5, 0.5)


@pytest.mark.slow
def test_the_interval_covers_the_truth_as_often_as_it_says():
    """Two fixed rules, whose true gain is known, on 200 data sets of five splits each."""
    covered = []
    for seed in range(200):
        some = points(120, seed)
        splits = [data.split(some, test=1 / 3, seed=s) for s in range(5)]
        arms = {
            "one": lambda train, test, seed, d=some: (d.x[test, 0] > 0.5).astype(int),
            "other": lambda train, test, seed, d=some: (d.x[test, 1] > 0.5).astype(int),
        }
        gain = compare_splits(arms, some, splits, budgets=[5], seeds=2).gain("one", "other", 5)
        covered.append(gain.low <= 0 <= gain.high)
    assert 0.9 <= np.mean(covered) <= 0.995


def test_one_split_is_refused():
    some = points()
    with pytest.raises(ValueError, match="two or more"):
        compare_splits({"arm": None}, some, [data.split(some)], budgets=[5])
