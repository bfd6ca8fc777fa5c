"""Choices without target labels, against risks that are known."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import entropy, norm
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import PolynomialFeatures

from tlbook.methods.selection import (
    choose,
    dev_risk,
    entropy_risk,
    importance_weighted_risk,
    take_chosen,
)
from tlbook.methods.weighting import density_ratio

SOURCE, TARGET = norm(0, 1), norm(1, 0.8)


def error_rate(x):
    """Chance of an error at x of a model that is good in the source's middle."""
    return 0.05 + 0.9 * norm.cdf(2 * (x - 1))


def samples(n: int, draws: int):
    """Losses of 0 and 1 and true density ratios of n source examples, so often."""
    rng = np.random.default_rng(0)
    for _ in range(draws):
        x = SOURCE.rvs(n, random_state=rng)
        yield (rng.random(n) < error_rate(x)).astype(float), TARGET.pdf(x) / SOURCE.pdf(x)


def test_importance_weighting_has_the_target_s_risk_and_dev_less_variance():
    exact = quad(lambda x: error_rate(x) * TARGET.pdf(x), -9, 9)[0]
    found = np.array(
        [
            (losses.mean(), importance_weighted_risk(losses, weights), dev_risk(losses, weights))
            for losses, weights in samples(n=200, draws=3000)
        ]
    )
    plain, weighted, dev = found.mean(0)
    assert weighted == pytest.approx(exact, abs=4 * found[:, 1].std() / np.sqrt(3000))
    assert dev == pytest.approx(exact, abs=0.01)  # its slope is estimated, so not quite unbiased
    assert abs(plain - exact) > 0.2
    assert found[:, 2].var() < 0.5 * found[:, 1].var()


def test_dev_by_hand():
    """The control variate of You et al. (2019), written down."""
    losses, weights = next(samples(n=50, draws=1))
    weighted = losses * weights
    n, mean, mean_weight = 50, sum(weighted) / 50, sum(weights) / 50
    pairs = list(zip(weighted, weights, strict=True))
    covariance = sum((a - mean) * (b - mean_weight) for a, b in pairs) / (n - 1)
    eta = -covariance / (sum((b - mean_weight) ** 2 for b in weights) / (n - 1))
    assert dev_risk(losses, weights) == pytest.approx(mean + eta * mean_weight - eta)


def test_risks_in_closed_form():
    weights = np.array([0.5, 3.0, 1.0, 0.0])
    assert importance_weighted_risk([1, 0, 2, 5], weights) == pytest.approx(2.5 / 4)
    # a loss that is the same everywhere is known, however the weights came out
    assert dev_risk(np.full(4, 0.3), weights) == pytest.approx(0.3)
    assert importance_weighted_risk(np.full(4, 0.3), weights) == pytest.approx(0.3 * 4.5 / 4)
    for risk in (importance_weighted_risk, dev_risk):  # no shift: the source's risk
        assert risk([1, 0, 0, 1], np.ones(4)) == pytest.approx(0.5)


@pytest.mark.parametrize("risk", [importance_weighted_risk, dev_risk])
def test_losses_and_weights_that_do_not_fit_are_refused(risk):
    for losses, weights in (([1, 2], [1]), ([], []), ([[1]], [[1]])):
        with pytest.raises(ValueError, match="one loss and one weight"):
            risk(losses, weights)
    for losses, weights in (([1, np.nan], [1, 1]), ([1, 1], [1, np.inf]), ([1, 1], [1, -1])):
        with pytest.raises(ValueError, match="must be finite, and weights not negative"):
            risk(losses, weights)


def test_dev_needs_a_variance():
    with pytest.raises(ValueError, match="at least two examples"):
        dev_risk([1], [1])


def test_entropy_is_scipys():
    p = np.random.default_rng(0).dirichlet([0.3, 0.3, 0.3], 50)
    p[:2] = np.eye(3)[:2]  # certain
    assert entropy_risk(p) == pytest.approx(entropy(p, axis=1).mean())
    information = entropy(p.mean(0)) - entropy(p, axis=1).mean()
    assert entropy_risk(p, diversity=1) == pytest.approx(-information)
    assert entropy_risk(p, diversity=0.5) == pytest.approx(
        entropy(p, axis=1).mean() - 0.5 * entropy(p.mean(0))
    )


def test_entropy_takes_a_collapsed_model_for_a_good_one_and_diversity_does_not():
    labels = np.random.default_rng(0).integers(0, 3, 90)
    good = 0.9 * np.eye(3)[labels] + 0.1 / 3
    collapsed = np.tile([1.0, 0.0, 0.0], (90, 1))
    assert entropy_risk(collapsed) == 0 < entropy_risk(good)
    assert entropy_risk(collapsed, diversity=1) > entropy_risk(good, diversity=1)


@pytest.mark.parametrize(
    "p", [[0.5, 0.5], [[0.5, 0.4]], [[1.5, -0.5]], [[np.nan, 1]], np.ones((0, 2))]
)
def test_what_is_no_distribution_is_refused(p):
    with pytest.raises(ValueError, match="probabilities must be"):
        entropy_risk(p)


def test_each_seed_chooses_for_itself_and_the_first_of_equals():
    risks = {"source only": [3, 1, 2], ("CORAL", 0.5): [1, 1, 2], 0.1: [2, 0.5, 2]}
    assert choose(risks) == [("CORAL", 0.5), 0.1, "source only"]


def test_taken_is_each_seed_s_run_of_its_own_choice():
    runs = {"a": np.array([[0, 0], [1, 1], [2, 2]]), "b": np.array([[10, 10], [11, 11], [12, 12]])}
    assert take_chosen(runs, ["b", "a", "b"]).tolist() == [[10, 10], [1, 1], [12, 12]]


@pytest.mark.parametrize(
    ("risks", "message"),
    [
        ({}, "one risk for each seed"),
        ({"a": [1, 2], "b": [1]}, "one risk for each seed"),
        ({"a": 1}, "one risk for each seed"),
        ({"a": [np.nan, 1], "b": [1, 1]}, "must be finite"),
    ],
)
def test_choosing_among_nothing_is_refused(risks, message):
    with pytest.raises(ValueError, match=message):
        choose(risks)


def test_choices_of_other_seeds_or_candidates_are_refused():
    with pytest.raises(ValueError, match="1 choices, but 'a' has 2 seeds"):
        take_chosen({"a": [1, 2]}, ["a"])
    with pytest.raises(KeyError, match="b"):
        take_chosen({"a": [1, 2]}, ["a", "b"])


@pytest.mark.parametrize("target", [TARGET, SOURCE], ids=["shift", "no shift"])
@pytest.mark.parametrize("seed", range(3))
def test_weighted_validation_chooses_for_the_target(target, seed):
    """Two models, wrong on one side each: "left" where the target is dense, "right" where the
    source is. Ratios are estimated."""
    rng = np.random.default_rng(seed)
    x = np.concatenate([SOURCE.rvs(2000, random_state=rng), target.rvs(2000, random_state=rng)])
    y, is_source = (x > -0.6) & (x < 1.2), np.arange(4000) < 2000
    models = {"left": x > -0.6, "right": x < 1.2}
    squares = PolynomialFeatures(2, include_bias=False).fit_transform(x[:, None])
    ratios = density_ratio(squares[is_source], squares[~is_source], estimator=LogisticRegression())
    losses = {name: (predicted != y)[is_source] for name, predicted in models.items()}
    wrong = {name: np.mean((predicted != y)[~is_source]) for name, predicted in models.items()}
    assert choose({name: [loss.mean()] for name, loss in losses.items()}) == ["left"]
    assert wrong["left"] > wrong["right"] + 0.3 or target is SOURCE
    for risk in (importance_weighted_risk, dev_risk):
        chosen = choose({name: [risk(loss, ratios)] for name, loss in losses.items()})
        assert chosen == choose({name: [share] for name, share in wrong.items()})
        assert chosen == ["right" if target is TARGET else "left"]
