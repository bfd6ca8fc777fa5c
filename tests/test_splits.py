"""Comparisons over several splits, and their intervals."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import balanced_accuracy_score

from benchmarks.coverage import over_splits
from tlbook import compare, data
from tlbook.evidence import plots
from tlbook.evidence.effects import Components, Effect
from tlbook.evidence.splits import SplitMeans


def points(n: int = 240, seed: int = 0) -> data.Dataset:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return data.Dataset("points", rng.normal(y[:, None], 1.0, (n, 2)), y, ("a", "b"), np.arange(n))


def splits_of(some, number):
    return [data.split(some, test=1 / 3, seed=seed) for seed in range(number)]


def of_one_axis(some, axis):
    """An arm that is the better, the smaller the seed."""
    return lambda train, test, seed: (some.x[test, axis] > 0.1 * (seed % 5)).astype(int)


def by_table(some, right):
    """An arm of which a function of split number, seed and rows says what it gets right."""
    number = {}

    def arm(train, test, seed):
        split = number.setdefault(tuple(test), len(number))
        return np.where(right(split, seed, test), some.y[test], 1 - some.y[test])

    return arm


def test_each_split_has_its_own_rows_and_seeds():
    some, seen = points(), []

    def arm(train, test, seed):
        seen.append((seed, tuple(test)))
        return some.y[test]

    splits = splits_of(some, 3)
    found = compare({"arm": arm}, some, splits=splits, budgets=[5], seeds=range(6))
    assert [seed for seed, _ in seen] == [0, 1, 2, 3, 4, 5]
    assert [rows for _, rows in seen[::2]] == [tuple(split.test) for split in splits]
    assert found.arms == ["arm"] and found.budgets == (5,) and found.name == "points"
    assert found.seeds == tuple(range(6))
    score = found.score("arm", 5)
    assert (score.value, score.seeds, score.splits) == (1, 6, 3)


def test_five_splits_of_four_seeds_are_the_default():
    some = points()
    found = compare({"arm": of_one_axis(some, 0)}, some, budgets=[5])
    assert found.seeds == tuple(range(20))
    for part, split in zip(found.parts, splits_of(some, 5), strict=True):
        np.testing.assert_array_equal(part.groups, some.groups[split.test])
    two = compare({"arm": of_one_axis(some, 0)}, some, splits=2, budgets=[5])
    assert [part.seeds for part in two.parts] == [(0, 1, 2, 3), (4, 5, 6, 7)]


def derived(some, splits, gains, labels):
    """Value, error and degrees of freedom, from gains by split (seeds, n), in plain loops."""
    n, seeds = len(splits), len(gains[0])
    z, rests, items_df = [], [], []
    for split, gain in zip(splits, gains, strict=True):
        adds = np.zeros((seeds, len(some)))
        for label in (0, 1):
            at = np.flatnonzero(some.y[split.test] == label)
            off = gain[:, at] - gain[:, at].mean(1, keepdims=True)
            adds[:, split.test[at]] = off / len(at) / 2 / np.sqrt(1 - 1 / len(at))
        z.append(adds.mean(0))
        rests.append(((adds - adds.mean(0)) ** 2).sum() / (seeds - 1))
        per_class = [(adds.mean(0)[some.y == label] ** 2).sum() for label in (0, 1)]
        counts = [(some.y[split.test] == label).sum() for label in (0, 1)]
        share = np.array(per_class) / sum(per_class)
        items_df.append(1 / sum(share**2 / (np.array(counts) - 1)))
    pairs = [(z[p] * z[q]).sum() for p in range(n) for q in range(n) if p != q]
    rest, shared = np.mean(rests), max(0, np.mean(pairs))
    own = max(shared, np.mean([(row**2).sum() for row in z]) - rest / seeds)
    means = np.array(
        [[np.mean([g[some.y[s.test] == c].mean() for c in (0, 1)]) for g in gain]
         for s, gain in zip(splits, gains, strict=True)]
    )  # fmt: skip
    within = means.var(1, ddof=1).mean()
    of_splits = max(0, means.mean(1).var(ddof=1) - within / seeds - (own - shared))
    carried = labels / (len(some) / 2 - labels)
    terms = [
        (within / (n * seeds) + carried * max(0, within - rest), n * (seeds - 1)),
        (of_splits * (1 / n + carried), n - 1),
        (own / n + shared * (1 - 1 / n), 1 / np.mean(1 / np.array(items_df))),
    ]
    variance = sum(term for term, _ in terms)
    df = variance**2 / sum(term**2 / df for term, df in terms)
    return means.mean(), variance**0.5, df, (of_splits, within, own)


@pytest.mark.parametrize("seed", range(3))
def test_the_interval_is_that_of_its_formula(seed):
    some = points(seed=seed)
    splits = splits_of(some, 4)
    arms = {"first": of_one_axis(some, 0), "second": of_one_axis(some, 1)}
    found = compare(arms, some, splits=splits, budgets=[30], seeds=range(12))
    gains = [
        (part.predictions["first"][0] == part.y) * 1.0 - (part.predictions["second"][0] == part.y)
        for part in found.parts
    ]
    value, error, df, parts = derived(some, splits, gains, 30)
    gain = found.gain("first", "second", 30)
    assert (gain.value, gain.error, gain.df) == pytest.approx((value, error, df))
    half = t.ppf(0.975, df) * error
    assert (gain.low, gain.high) == pytest.approx((value - half, value + half))
    table = found.variance("first", "second")
    assert table["one run"][0] == pytest.approx(sum(parts) ** 0.5)
    shares = table[["split", "seed", "test examples"]].loc[0]
    assert list(shares) == pytest.approx(np.array(parts) / sum(parts))
    first, second = gain.scores
    assert first == found.score("first", 30) and second == found.score("second", 30)
    assert first.value - second.value == pytest.approx(gain.value)


def test_variance_goes_to_where_it_comes_from():
    some, place = points(600), 37 * np.arange(600) % 101
    arms = {
        "split": by_table(some, lambda p, s, rows: place[rows] < 60 + 10 * (p % 4)),
        "seed": by_table(some, lambda p, s, rows: place[rows] < 60 + 10 * (s % 4)),
        "test examples": by_table(some, lambda p, s, rows: place[rows] < 70),
    }
    found = compare(arms, some, budgets=[5])
    for name in arms:
        assert found.variance(name)[name][0] > 0.8
    alone = found.variance("test examples")
    assert alone["one run"][0] == pytest.approx((0.3 * 0.7 / 200) ** 0.5, rel=0.1)
    assert pd.isna(alone["seeds needed"][0])


def test_seeds_that_differ_alone_shrink_with_seeds():
    some = points()
    arms = {"arm": lambda train, test, seed: some.y[test] if seed % 2 else 1 - some.y[test]}
    score = compare(arms, some, splits=4, budgets=[5]).score("arm", 5)
    assert score.value == 0.5
    assert score.components.splits == 0
    assert score.components.seeds == pytest.approx(1 / 3 / 16)  # of 0, 1, 0, 1 in each split
    assert score.components.items == pytest.approx(5 / 115 / 3)


def test_equal_arms_have_no_difference():
    some = points()
    arms = {"one": of_one_axis(some, 0), "same": of_one_axis(some, 0)}
    found = compare(arms, some, budgets=[5, 20])
    gain = found.gain("one", "same", 5)
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert found.equivalent_budget("one", "same", 5).low == 5


def test_tables_and_curves_are_those_of_one_split():
    some = points()
    arms = {"one": of_one_axis(some, 0), "other": of_one_axis(some, 1)}
    found = compare(arms, some, budgets=[5, 20])
    row = found.table().loc[1]
    effect = found.score("one", 20)
    assert (row.arm, row["labels per class"], row.score) == ("one", 20, effect.value)
    assert (row.low, row.high) == (effect.low, effect.high)
    assert found.gains("other").loc[0].gain == found.gain("one", "other", 5).value
    assert found.saving("one", "other", 5).high > -1
    ax = plots.learning_curves(found)
    np.testing.assert_allclose(ax.lines[0].get_ydata()[1], 100 * effect.value)
    value = np.mean(
        [balanced_accuracy_score(p.y, row) for p in found.parts for row in p.predictions["one"][1]]
    )
    assert effect.value == pytest.approx(value)


def test_the_control_needs_as_many_labels_as_its_curve_says():
    """The control gets 60, 70 and 80 percent right, the arm 75 with the least budget."""
    some = points(1200)
    budget = {5: 0.6, 20: 0.7, 80: 0.8}

    def control(train, test, seed):
        easy = (7 * np.arange(len(some)) % 100)[test] < 100 * budget[len(train) // 2]
        return np.where(easy, some.y[test], 1 - some.y[test])

    def arm(train, test, seed):
        easy = (7 * np.arange(len(some)) % 100)[test] < 75
        return np.where(easy, some.y[test], 1 - some.y[test])

    found = compare({"arm": arm, "control": control}, some, budgets=list(budget))
    needed = found.equivalent_budget("arm", "control", 5)
    assert 30 < needed.value < 55 and 20 <= needed.low <= 40 <= needed.high <= 80


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"splits": splits_of(points(), 1)}, "1 split: two or more"),
        ({"splits": 1}, "splits"),
        ({"splits": 2, "train": [0, 1]}, "train= and test= of one split, or splits="),
        ({"train": [0, 1]}, "train= and test= of one split, or splits="),
        ({"splits": 2, "seeds": range(3)}, "seeds"),
        ({"splits": 2, "seeds": range(5)}, "5 seeds for 2 splits"),
        ({"splits": 2, "seeds": [0, 1, 2, 0]}, "twice"),
    ],
)
def test_what_is_no_comparison_over_splits_is_refused(ask, message):
    with pytest.raises(ValueError, match=message):
        compare({"arm": None}, points(), budgets=[5], **ask)


def test_one_run_that_failed_is_said_and_one_split_that_differs_is_not():
    some = points()
    fails = by_table(some, lambda p, s, rows: np.arange(len(rows)) % 10 < (9, 2)[s == 6])
    differs = by_table(some, lambda p, s, rows: np.arange(len(rows)) % 10 < (9, 2)[p == 2])
    found = compare({"fails": fails, "differs": differs}, some, budgets=[5])
    assert "1 of 20 runs lies far from the others, number 7" in found.score("fails", 5).unreliable
    assert not found.score("differs", 5).unreliable
    assert np.isnan(found.variance("fails")["half-width"][0])


def test_how_many_splits_or_seeds_it_takes():
    parts = Components(seeds=0.0004, items=0.0001, df=12.0, splits=0.0002)
    effect = Effect(0.1, 0.04, 0.16, 20, components=parts, splits=5)
    assert effect.error == pytest.approx(0.0007**0.5)
    many = effect.splits_for(0.03)
    half = [
        t.ppf(0.975, 12 * n / 5) * (0.0006 * 5 / n + 0.0001) ** 0.5 for n in (many - 1, many)
    ]  # fmt: skip
    assert half[0] > 0.03 >= half[1]
    assert effect.splits_for(0.019) is None and effect.seeds_for(0.03) is None
    seeds = effect.seeds_for(0.055)
    assert seeds > 20 and seeds % 5 == 0
    with pytest.raises(ValueError, match="one split does not say"):
        Effect(0.1, 0.0, 0.2, 20, components=parts).splits_for(0.01)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("n", "labels", "crossed"), [(600, 5, (5, 4)), (600, 100, (5, 4)), (150, None, (10, 2))]
)
def test_the_interval_covers_the_truth_as_often_as_it_says(n, labels, crossed):
    held = over_splits(n, labels, *crossed, 300, np.random.default_rng(0))
    assert float(held.partition(" ")[0]) > 91


def test_means_of_all_splits_stand_side_by_side():
    some = points()
    found = compare({"arm": of_one_axis(some, 0)}, some, splits=2, budgets=[5])
    means = found._means([("arm", 5)])
    assert isinstance(means, SplitMeans) and means.values.shape == (1, 8)
    assert means.values.mean() == pytest.approx(found.score("arm", 5).value)
