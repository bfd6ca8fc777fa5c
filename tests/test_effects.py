"""Intervals: their components, how often they hold the truth, and runs that failed."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm, t

from benchmarks.coverage import coverage
from tlbook.evidence import effects
from tlbook.evidence.balanced import balanced_accuracy, balanced_means
from tlbook.evidence.comparison import Comparison
from tlbook.evidence.effects import Components, Effect, failing


def mean_of(gains, y=None, groups=None, **options):
    gains = np.asarray(gains, dtype=float)
    y = np.zeros(gains.shape[1], int) if y is None else y
    return balanced_means(y, gains[None], groups).contrast(np.ones(1), **options)


def labels(rng, seeds=10, n=300, by_seed=0.05, classes=2):
    """True labels, and predictions that are right in about 80 percent, by seed more or less."""
    y = np.arange(n) % classes
    right = rng.random((seeds, n)) < np.clip(0.8 + by_seed * rng.normal(size=(seeds, 1)), 0, 1)
    return y, np.where(right, y, (y + 1) % classes)


# Components


def test_components_are_the_mean_squares_of_a_two_way_table():
    """Of one class and single items: the analysis of variance of textbooks."""
    x = np.random.default_rng(0).normal(size=(4, 6)) + 3 * np.arange(6)
    effect = mean_of(x)
    seed, item = x.mean(1, keepdims=True) - x.mean(), x.mean(0) - x.mean()
    ms_seed, ms_item = 6 * (seed**2).sum() / 3, 4 * (item**2).sum() / 5
    ms_rest = ((x - x.mean() - seed - item) ** 2).sum() / 15
    variance = (ms_seed + ms_item - ms_rest) / 24
    assert variance > max(ms_seed, ms_item) / 24
    assert effect.components.seeds == pytest.approx(ms_seed / 24)
    assert effect.error**2 == pytest.approx(variance)
    assert effect.df == pytest.approx(
        variance**2 / ((ms_seed / 24) ** 2 / 3 + (ms_item / 24) ** 2 / 5)
    )
    half = t.ppf(0.975, effect.df) * np.sqrt(variance)
    assert (effect.low, effect.high) == pytest.approx((x.mean() - half, x.mean() + half))


def test_seeds_alone_give_students_interval():
    """Every item gains the same, so that the rest is a t-test over seeds."""
    by_seed = np.array([0.1, 0.14, 0.02, 0.11])
    effect = mean_of(np.tile(by_seed[:, None], 50))
    assert effect == replace(Effect.over_seeds(by_seed), components=effect.components)
    assert effect.df == 3 and effect.components.items == pytest.approx(0, abs=1e-12)


def test_items_alone_give_students_interval_over_items():
    by_item = np.random.default_rng(0).normal(size=30)
    effect = mean_of(np.tile(by_item, (5, 1)))
    assert effect.df == pytest.approx(29)
    assert effect.error == pytest.approx(by_item.std(ddof=1) / np.sqrt(30))


def test_a_rare_class_counts_as_few_examples():
    """The error of a mean of two means, with Welch's degrees of freedom."""
    rng = np.random.default_rng(0)
    common, rare = rng.normal(size=100), rng.normal(size=5)
    x, y = np.tile(np.r_[common, rare], (3, 1)), np.repeat([0, 1], [100, 5])
    effect = mean_of(x, y)
    parts = np.array([common.var(ddof=1) / 100, rare.var(ddof=1) / 5]) / 4
    assert effect.value == pytest.approx((common.mean() + rare.mean()) / 2)
    assert effect.error**2 == pytest.approx(parts.sum())
    assert effect.df == pytest.approx(parts.sum() ** 2 / (parts**2 / [99, 4]).sum())


def test_a_class_of_one_group_is_compared_with_the_others():
    y = np.repeat([0, 1], [50, 1])
    gains = np.tile(np.r_[np.zeros(50), 1.0], (3, 1))
    effect = mean_of(gains, y)
    assert effect.error == pytest.approx((1 - 0.5) / 2)
    assert effect.df == pytest.approx(1)  # one example
    assert effect.low < 0 < 1 < effect.high
    assert mean_of(gains, y, least=0, most=1).high == 1  # no score is above one


def test_groups_of_a_class_count_by_their_sizes():
    """A group as large as all others together leaves fewer degrees of freedom."""
    rng = np.random.default_rng(0)
    even = mean_of(np.tile(rng.normal(size=40), (2, 1)), groups=np.repeat(np.arange(8), 5))
    uneven = np.repeat(np.arange(8), [20, 3, 3, 3, 3, 3, 3, 2])
    assert even.df == pytest.approx(7)
    found = mean_of(np.tile(rng.normal(size=40), (2, 1)), groups=uneven).df
    assert found == pytest.approx(40**2 / (400 + 6 * 9 + 4) - 1)


def test_nothing_varies():
    y = np.array([0, 1] * 10)
    effect = balanced_accuracy(y, np.tile(y, (3, 1)))
    assert (effect.low, effect.value, effect.high, effect.p_value) == (1, 1, 1, 0)
    same = balanced_accuracy(y, np.tile(y, (3, 1)), np.tile(y, (3, 1)))
    assert (same.low, same.high, same.p_value, same.components.seeds) == (0, 0, 1, 0)


def test_a_contrast_is_the_effect_of_the_contrasted_gains():
    rng = np.random.default_rng(0)
    y, groups, gains = np.arange(60) % 3, np.arange(60) // 2, rng.normal(size=(3, 5, 60))
    weights = np.array([1, -0.3, -0.7])
    found = balanced_means(y, gains, groups).contrast(weights)
    expected = mean_of(np.tensordot(weights, gains, 1), y, groups)
    assert found.value == pytest.approx(expected.value)
    assert (found.low, found.high, found.df) == pytest.approx(
        (expected.low, expected.high, expected.df)
    )


def test_a_contrast_of_equal_runs_has_no_variance():
    """Not that of rounding, either: its root would be a millionth."""
    gains = np.random.default_rng(0).random((1, 2, 30)) < 0.3
    means = balanced_means(np.arange(30) % 3, np.repeat(gains, 3, 0).astype(float))
    effect = means.contrast(np.array([1, -0.3, -0.7]))
    assert effect.error == 0 and effect.value == pytest.approx(0, abs=1e-15)


def test_the_bootstrap_agrees_where_seeds_are_many():
    y, found = labels(np.random.default_rng(0), seeds=60)
    ours, theirs = (balanced_accuracy(y, found, method=m) for m in ("components", "bootstrap"))
    assert ours.value == pytest.approx(theirs.value)
    assert theirs.high - theirs.low == pytest.approx(ours.high - ours.low, rel=0.15)
    assert theirs.components is None
    with pytest.raises(ValueError, match="method='magic': choose one of components, bootstrap"):
        balanced_accuracy(y, found, method="magic")


@pytest.mark.parametrize(
    ("design", "seeds", "share"),
    [
        ("200 items", 3, 0.9),
        ("200 items", 5, 0),
        ("200 items", 5, 1),
        ("200 items", 10, 0.5),
        ("20 unequal groups", 5, 0.5),
        ("a class of 10 in 200", 10, 0),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(design, seeds, share):
    assert 0.925 <= coverage(design, seeds, share, 500, np.random.default_rng(0)) <= 0.985


def test_the_bootstrap_does_not_where_seeds_are_few_and_matter():
    assert coverage("200 items", 5, 0.9, 200, np.random.default_rng(0), 200) < 0.91


def test_intervals_of_labels_hold_the_truth():
    """Skill varies by seed, difficulty by example; labels are right or wrong, and arms paired."""
    rng = np.random.default_rng(1)
    truth = norm.cdf(1 / np.sqrt(2.0225)) - norm.cdf(0.8 / np.sqrt(2.0225))
    held, y = [], np.arange(300) % 2
    for _ in range(400):
        difficulty = rng.normal(size=300)
        one, other = (
            np.where(
                rng.random((5, 300)) < norm.cdf(s + 0.15 * rng.normal(size=(5, 1)) + difficulty),
                y,
                1 - y,
            )
            for s in (1.0, 0.8)
        )
        gain = balanced_accuracy(y, one, other)
        held.append(gain.low <= truth <= gain.high)
    assert 0.92 <= np.mean(held) <= 0.98


def test_intervals_of_equivalent_budgets_hold_the_truth():
    """The arm scores 0.70, the control 0.55, 0.65, 0.74 and 0.80; seeds and items vary."""
    truth = 4 ** (1 + 5 / 9)
    rng, held = np.random.default_rng(1), []
    y, budgets, seeds = np.zeros(150, int), (1, 4, 16, 64), tuple(range(5))
    for _ in range(80):
        item = rng.uniform(-0.1, 0.1, 150)  # harder and easier ones, and lucky seeds
        right = {
            arm: rng.random((4, 5, 150)) < means + rng.uniform(-0.1, 0.1, (4, 5, 1)) + item
            for arm, means in {
                "arm": np.full((4, 1, 1), 0.70),
                "control": np.reshape([0.55, 0.65, 0.74, 0.80], (4, 1, 1)),
            }.items()
        }
        predictions = {arm: 1 - found.astype(int) for arm, found in right.items()}
        compared = Comparison("a", budgets, seeds, y, np.arange(150), predictions, {})
        effect = compared.equivalent_budget("arm", "control", 4)
        held.append(effect.low <= truth <= effect.high)
    assert 0.9 <= np.mean(held) < 1


# What an effect says about itself


def test_error_and_p_value_of_what_is_recorded_without_components():
    effect = Effect(0.1, 0.1 - 0.0196, 0.1 + 0.0196, 5)
    assert effect.error == pytest.approx(0.01, rel=1e-3) and effect.df == np.inf
    assert Effect(0.0196, 0, 0.0392, 5).p_value == pytest.approx(0.05)


def test_p_value_is_below_five_percent_where_zero_is_outside():
    rng = np.random.default_rng(0)
    for _ in range(200):
        effect = Effect.over_seeds(rng.normal(0.3, 1, size=5))
        assert (effect.p_value < 0.05) == (effect.sign != 0)


def test_another_level():
    effect = Effect.over_seeds([0.1, 0.2, 0.4, 0.2])
    assert effect.at(0.9) == Effect.over_seeds([0.1, 0.2, 0.4, 0.2], level=0.9)
    with pytest.raises(ValueError, match="level=1 must be"):
        effect.at(1)


def test_the_detectable_effect_is_detected_as_often_as_it_says():
    rng = np.random.default_rng(0)
    draws = rng.normal(size=(4000, 8))
    size = np.mean([Effect.over_seeds(row).detectable(0.8) for row in draws])
    found = np.mean([Effect.over_seeds(row + size).sign == 1 for row in draws])
    assert found == pytest.approx(0.8, abs=0.04)


def test_seeds_for_a_half_width():
    values = np.random.default_rng(0).normal(0.1, 0.05, 10)
    effect = Effect.over_seeds(values)
    needed = effect.seeds_for(0.01)
    sd = values.std(ddof=1)
    assert t.ppf(0.975, needed - 1) * sd / np.sqrt(needed) <= 0.01
    assert t.ppf(0.975, needed - 2) * sd / np.sqrt(needed - 1) > 0.01
    assert effect.seeds_for((effect.high - effect.low) / 2 * (1 + 1e-9)) == 10
    # what is due to test examples stays
    both = replace(effect, components=Components(effect.components.seeds, 0.01**2, 15.0))
    assert both.seeds_for(0.03) > effect.seeds_for(0.03)
    assert both.seeds_for(0.015) is None
    assert Effect.over_seeds([0.5, 0.5]).seeds_for(0.01) == 2
    with pytest.raises(ValueError, match="no components"):
        Effect(0.1, 0, 0.2, 5).seeds_for(0.01)


def test_as_many_seeds_as_there_were_give_the_width_that_there_is():
    """With few test examples, which have few degrees of freedom."""
    rng = np.random.default_rng(0)
    effect = mean_of(rng.normal(size=(6, 4)) + rng.normal(size=4) + rng.normal(size=(6, 1)))
    half = (effect.high - effect.low) / 2
    assert effect.seeds_for(half * (1 + 1e-9)) == 6
    assert effect.seeds_for(half * (1 - 1e-3)) == 7


def test_seeds_for_foretells_the_width():
    y, found = labels(np.random.default_rng(1), seeds=400, n=400)
    few, many = balanced_accuracy(y, found[:10]), balanced_accuracy(y, found[10:60])
    assert few.seeds_for((many.high - many.low) / 2) == pytest.approx(50, rel=0.6)


# Runs that failed


@pytest.mark.parametrize("seeds", [4, 5, 8, 10, 20])
def test_false_alarms_are_rarer_than_one_in_a_hundred(seeds):
    draws = np.random.default_rng(seeds).normal(size=(1500, seeds))
    assert np.mean([len(failing(row)) > 0 for row in draws]) < 0.01


@pytest.mark.parametrize("seeds", [5, 10])
def test_false_alarms_are_rare_on_few_examples_too(seeds):
    """Where scores tie: some of five runs are often right on equally many of fifty."""
    rng, y = np.random.default_rng(0), np.zeros(50, int)
    found = [
        balanced_accuracy(y, rng.random((seeds, 50)) < 0.15).unreliable != "" for _ in range(800)
    ]
    assert np.mean(found) <= 0.01


@pytest.mark.parametrize(("seeds", "bad"), [(5, [3]), (10, [0, 7]), (20, [1, 2, 3, 4])])
def test_runs_that_collapsed_are_found(seeds, bad):
    rng = np.random.default_rng(0)
    values = rng.uniform(0.78, 0.82, seeds)
    values[bad] = rng.uniform(0.45, 0.5, len(bad))
    assert sorted(failing(values)) == bad


def test_failing_runs_by_rosners_own_example(monkeypatch):
    """The 54 values of his article, of which three are found at 5 percent among ten looked for."""
    values = """-0.25 0.68 0.94 1.15 1.20 1.26 1.26 1.34 1.38 1.43 1.49 1.49 1.55 1.56 1.58 1.65
    1.69 1.70 1.76 1.77 1.81 1.91 1.94 1.96 1.99 2.06 2.09 2.10 2.14 2.15 2.23 2.24
    2.26 2.35 2.37 2.40 2.47 2.54 2.62 2.64 2.90 2.92 2.92 2.93 3.21 3.26 3.30 3.59
    3.68 4.30 4.64 5.34 5.42 6.01"""
    monkeypatch.setattr(effects, "FALSE_ALARM", 0.05)
    assert sorted(failing(list(map(float, values.split())))) == [51, 52, 53]


def test_alike_runs_do_not_make_a_small_step_a_failure():
    assert not len(failing([0.8] * 9 + [0.75])) and not len(failing([0.8, 0.2]))
    assert failing([0.8] * 9 + [0.65]).tolist() == [9]


def test_failed_runs_take_the_interval_away():
    y, found = labels(np.random.default_rng(0), by_seed=0.01)
    control = np.array(found)
    found[4] = 0  # one class for everything
    score, gain = balanced_accuracy(y, found), balanced_accuracy(y, found, control)
    assert (score.low, score.high, gain.low, gain.high) == (0, 1, -1, 1)
    assert (gain.sign, gain.components, gain.at(0.9).low) == (0, None, -1)
    assert gain.unreliable.startswith("1 of 10 runs lies far from the others, number 5 by −")
    assert str(gain) == f"−3.0 (no interval: {gain.unreliable})"
    assert (-gain).unreliable == gain.unreliable


def test_failed_runs_are_carried_into_equivalent_budgets():
    y, found = labels(np.random.default_rng(0), by_seed=0.01)
    failed = found.copy()
    failed[2] = 0
    predictions = {"arm": np.stack([found, found]), "control": np.stack([failed, found])}
    compared = Comparison("a", (4, 16), tuple(range(10)), y, np.arange(300), predictions, {})
    effect = compared.equivalent_budget("arm", "control", 4)
    assert (effect.low, effect.high) == (4, 16) and "1 of 10 runs" in effect.unreliable
    assert not compared.equivalent_budget("arm", "arm", 4).unreliable


def test_a_difference_carries_its_seeds_and_the_scores_of_both_arms():
    y, found = labels(np.random.default_rng(0))
    control = np.zeros_like(found)
    effect = balanced_accuracy(y, found, control)
    assert len(effect.by_seed) == len(found)
    assert np.mean(effect.by_seed) == pytest.approx(effect.value)
    assert effect.scores == (balanced_accuracy(y, found), balanced_accuracy(y, control))
    other = balanced_accuracy(y, control, found)
    assert (-effect).scores == other.scores
    assert (-effect).by_seed == pytest.approx(other.by_seed)


def test_what_is_unreliable_has_no_limits_to_draw():
    assert Effect(0.1, 0.0, 0.2, 5).limits == {"low": 0.0, "high": 0.2}
    failed = Effect(0.1, -1.0, 1.0, 5, unreliable="a run failed")
    assert all(np.isnan(end) for end in failed.limits.values())
