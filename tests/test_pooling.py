"""Effects pooled over settings, and the rate of false discoveries."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import t

from tlbook.evidence.effects import Components, Effect
from tlbook.evidence.pooling import adjusted_p_values, pool


def effect(value, error, df=np.inf):
    half = t.ppf(0.975, df) * error
    return Effect(value, value - half, value + half, 5, components=Components(error**2, 0.0, df))


def drawn(rng, k, tau, mean=0.05):
    errors = rng.uniform(0.005, 0.03, k)
    values = mean + tau * rng.normal(size=k) + errors * rng.normal(size=k)
    return [effect(value, error) for value, error in zip(values, errors, strict=True)]


def test_the_mean_maximizes_the_likelihood_at_its_spread():
    effects = drawn(np.random.default_rng(0), 8, 0.04)
    found = pool(effects)
    values, variance = np.transpose([(e.value, e.error**2 + found.tau**2) for e in effects])
    best = minimize(lambda m: ((values - m) ** 2 / variance).sum(), [0.0], tol=1e-12)
    assert found.mean.value == pytest.approx(best.x[0], abs=1e-6)
    assert best.fun == pytest.approx(7, abs=1e-4)  # Paule and Mandel's equation
    # Hartung and Knapp's own formula
    q = ((values - best.x[0]) ** 2 / variance).sum() / 7
    half = t.ppf(0.975, 7) * np.sqrt(q / (1 / variance).sum())
    assert found.mean.high - found.mean.value == pytest.approx(half, rel=1e-4)
    half = t.ppf(0.975, 6) * np.sqrt(found.tau**2 + 1 / (1 / variance).sum())
    assert found.prediction.value - found.prediction.low == pytest.approx(half)


def test_equal_errors_give_students_interval_of_the_values():
    values = np.array([0.01, 0.05, 0.09, 0.2])
    found = pool([effect(value, 0.01) for value in values])
    expected = Effect.over_seeds(values)
    limits = found.mean.low, found.mean.value, found.mean.high
    assert limits == pytest.approx((expected.low, expected.value, expected.high))
    assert found.tau**2 == pytest.approx(values.var(ddof=1) - 0.01**2)
    assert found.mean.seeds == 4


def test_effects_that_agree_by_chance_do_not_narrow_the_interval():
    found = pool([effect(0.05, 0.01) for _ in range(4)])
    assert found.tau == 0
    assert found.mean.high - 0.05 == pytest.approx(t.ppf(0.975, 3) * 0.005)


def test_an_effect_without_variance_does_not_break_the_mean():
    found = pool([effect(0.0, 0.0), effect(0.1, 0.01), effect(0.2, 0.02)])
    assert 0.08 < found.mean.value < 0.12
    same = pool([effect(0.1, 0.0), effect(0.1, 0.0)])
    assert same.mean.value == pytest.approx(0.1) and same.prediction is None


@pytest.mark.parametrize(("k", "tau"), [(5, 0.03), (12, 0.03), (12, 0.1)])
def test_means_and_predictions_hold_what_they_should(k, tau):
    rng = np.random.default_rng(k)
    held, foretold = [], []
    for _ in range(600):
        found = pool(drawn(rng, k, tau))
        held.append(found.mean.low <= 0.05 <= found.mean.high)
        new = 0.05 + tau * rng.normal()
        foretold.append(found.prediction.low <= new <= found.prediction.high)
    assert 0.925 <= np.mean(held) <= 0.98
    assert 0.925 <= np.mean(foretold) <= 0.98


def test_what_cannot_be_pooled_is_refused():
    good = effect(0.1, 0.01)
    odd = Effect(4.0, 2.0, 8.0, 5, unit="labels per class")
    failed = Effect(0.1, -1, 1, 5, unreliable="1 of 5 runs lies far from the others")
    for effects, message in (
        ([good], "two or more effects, got 1"),
        ([good, odd], "labels per class cannot be pooled"),
        ([good, failed], r"effect 1 has no interval \(1 of 5 runs"),
    ):
        with pytest.raises(ValueError, match=message):
            pool(effects)


def test_false_discoveries_are_as_rare_as_said():
    """Nine of ten effects are none; of those that pass, one in twenty may be."""
    rng = np.random.default_rng(0)
    false = []
    for _ in range(100):
        true = np.arange(100) < 10
        effects = [effect(0.05 * one + 0.01 * rng.normal(), 0.01) for one in true]
        passed = adjusted_p_values(effects) <= 0.05
        false.append((passed & ~true).sum() / max(1, passed.sum()))
        assert passed[:10].sum() >= 5
    assert 0.03 < np.mean(false) < 0.06


def test_adjusted_p_values_by_hand():
    effects = [effect(value, 0.01) for value in (0.03, 0.02, 0.0)]
    p = np.array([e.p_value for e in effects])
    assert adjusted_p_values(effects) == pytest.approx([3 * p[0], 1.5 * p[1], 1])
    failed = Effect(0.9, -1, 1, 5, unreliable="1 of 5 runs lies far from the others")
    assert adjusted_p_values([effects[0], failed]) == pytest.approx([2 * p[0], 1])
