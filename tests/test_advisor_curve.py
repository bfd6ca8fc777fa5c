"""Learning curves whose truth is known: gains, intervals, and what is refused."""

from itertools import pairwise

import numpy as np
import pytest

from tests.test_advisor_audit import planted
from tlbook.advisor.curve import Curve, budgets, gain, measure, needed, nested, worth
from tlbook.advisor.reading import read
from tlbook.advisor.strategies import OutOfTime, Run, Strategy

LABELS = 4.0 * 2 ** np.arange(7)


def power(n, a=0.9, b=0.6, c=0.5):
    return a - b * np.asarray(n, dtype=float) ** -c


def curve(truth=power, noise=0.002, draws=6, seed=0, name="it", labels=LABELS):
    drawn = truth(labels) + noise * np.random.default_rng(seed).standard_normal(
        (draws, len(labels))
    )
    return Curve(name, labels, drawn)


def test_a_power_law_is_recovered():
    for c in (0.3, 0.5, 1.0):

        def truth(n, c=c):
            return power(n, c=c)

        found = gain(curve(truth, noise=1e-4), 3 * 256)
        assert found.value == pytest.approx(truth(1024) - truth(256), abs=0.003)
        assert sum(found.weights.values()) == pytest.approx(1)
    assert found.low <= found.value <= found.high
    assert gain(curve(noise=1e-4), 768).weights["last value"] < 0.01


def test_the_interval_holds_the_truth():
    held = []
    for seed in range(60):
        c = (0.3, 0.5, 0.8)[seed % 3]
        found = gain(curve(lambda n, c=c: power(n, c=c), 0.015, 5, seed), 768, resamples=300)
        held.append(found.low <= power(1024, c=c) - power(256, c=c) <= found.high)
    assert np.mean(held) >= 0.9


def test_a_wider_scatter_widens_the_interval_and_shared_examples_too():
    narrow, wide = (gain(curve(noise=noise), 256) for noise in (0.001, 0.02))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)
    alone = curve(noise=0.01)
    shared = Curve("it", LABELS, alone.scores, shared=0.25)
    of_shared, of_alone = gain(shared, 256), gain(alone, 256)
    assert of_shared.high - of_shared.low > 1.1 * (of_alone.high - of_alone.low)


def test_nothing_is_said_beyond_four_times_what_was_measured():
    gain(curve(), 768)
    with pytest.raises(ValueError, match="1025 labels per class are more than 4 times the 256"):
        gain(curve(), 769)
    found, text = worth(curve(), labels=320, more=5000)
    assert found.more == 704 and text.startswith("704 more labels per class: +")


def test_flat_rising_and_scattered_curves_are_told_apart():
    flat, text = worth(curve(lambda n: 0.8 + 0 * n), labels=256)
    assert text.startswith("More labels are not worth it") and flat.high < 0.01
    _, text = worth(curve(), labels=256, more=512)
    assert text.startswith("512 more labels per class: +") and "[" in text
    _, text = worth(curve(lambda n: 0.7 + 0 * n, noise=0.08), labels=256, more=768)
    assert text.startswith("We cannot tell what 768 more labels")


def test_the_control_needs_more_labels():
    better, control = curve(), curve(lambda n: power(n / 2), name="word counts")
    assert needed(control, power(256)) == pytest.approx(512, rel=0.2)
    _, text = worth(better, control, labels=256)
    assert "Word counts would need about" in text and "times as many labels" in text
    far = curve(lambda n: power(n, a=0.7), name="word counts")
    assert needed(far, power(256)) is None
    assert "more than 4 times" in worth(better, far, labels=256)[1]
    assert "would need" not in worth(better, better, labels=256)[1]


def test_too_little_is_refused():
    with pytest.raises(ValueError, match="2 draws at 7 budgets are too few"):
        curve(draws=2)
    with pytest.raises(ValueError, match="6 draws at 4 budgets are too few"):
        curve(labels=LABELS[:4])
    with pytest.raises(ValueError, match="ascend"):
        curve(labels=LABELS[::-1])


def test_budgets_and_beginnings():
    assert budgets(100.0).tolist() == [4, 8, 16, 32, 64, 100]
    assert budgets(70.0).tolist() == [4, 8, 16, 32, 70]
    y = np.repeat([0, 1, 2], [90, 9, 1])
    ordered = nested(np.arange(100), y, 0)
    assert set(y[ordered[:3]]) == {0, 1, 2} and sorted(ordered) == list(range(100))
    assert (y[ordered[:52]] == 1).sum() == 5 and not np.array_equal(ordered, nested(ordered, y, 1))


def test_a_strategy_is_measured_at_nested_budgets():
    data, seen = read(planted(400)).data, []

    def run(train, test, seed, deadline):
        assert not set(train) & set(test)
        if len(seen) > 40:
            raise OutOfTime
        seen.append(set(train))
        hit = np.random.default_rng(len(train)).random(len(test)) < power(len(train) / 2)
        return Run(np.where(hit, data.y[test], 1 - data.y[test]), 0.1, 0.1)

    known = Strategy("known", run, lambda n_train, n_test: 0.0, 1.0)
    found = measure(known, data, deadline=np.inf)
    assert found.labels.tolist() == [4, 8, 16, 32, 64, 160] and found.scores.shape == (5, 6)
    assert all(small < large for small, large in pairwise(seen[:6]))
    assert found.shared == 0.25
    with pytest.raises(ValueError, match="1 draws at 6 budgets"):
        measure(known, data, deadline=np.inf)
    with pytest.raises(ValueError, match="0 draws at 6 budgets"):
        measure(known, data, deadline=-1)
    with pytest.raises(ValueError, match="too few"):
        measure(known, data.take(np.arange(60)), deadline=np.inf)
