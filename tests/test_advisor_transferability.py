"""Transferability measures against oracles: exact ones, published ones, and by hand."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import multivariate_normal
from sklearn.datasets import load_iris, load_wine

from tlbook.advisor.transferability import (
    h_score,
    leep,
    log_evidence,
    logme,
    nce,
    nearest_neighbor,
    probe,
)

SHAPES = [(60, 5), (12, 40), (20, 20)]


def random_task(n: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(n) % 2)
    return rng.normal(size=(n, d)) + 0.7 * y[:, None] * (np.arange(d) < 3), y


def test_logme_of_iris_is_the_published_one():
    """N > D: the value of the authors' own code, -0.16006 on thuml/LogME's example."""
    assert logme(*load_iris(return_X_y=True)) == pytest.approx(-0.16006, abs=5e-5)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_evidence_is_that_of_the_normal_distribution(n, d):
    features, y = random_task(n, d)
    for alpha, beta in ((1.0, 1.0), (30.0, 4.0), (0.2, 9.0)):
        exact = multivariate_normal.logpdf(
            y, np.zeros(n), np.eye(n) / beta + features @ features.T / alpha
        )
        assert log_evidence(features, y, alpha, beta) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_logme_is_the_maximum(n, d):
    features, y = random_task(n, d)

    def loss(logs, target):
        return -log_evidence(features, target, *np.exp(logs)) / n

    best = []
    for label in (0, 1):
        target = (y == label).astype(float)
        starts = [(a, b) for a in (-2, 1, 4) for b in (-1, 2)]
        options = {"xatol": 1e-8, "fatol": 1e-12, "maxiter": 4000}
        found = [
            minimize(loss, s, (target,), method="Nelder-Mead", options=options) for s in starts
        ]
        best.append(-min(f.fun for f in found))
    assert logme(features, y) >= np.mean(best) - 1e-6
    assert logme(features, y) == pytest.approx(np.mean(best), abs=1e-3)


def test_logme_prefers_what_informs_where_examples_are_few():
    """Noise of 768 features against informative ones of 128, 64 examples, 20 seeds."""
    won = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        y = rng.permutation(np.arange(64) % 2)
        informative = rng.normal(size=(64, 128))
        informative[:, :16] += y[:, None]
        won += logme(informative, y) > logme(rng.normal(size=(64, 768)), y)
    assert won >= 19


def test_h_score_is_pillais_trace():
    x, y = load_wine(return_X_y=True)
    total = (x - x.mean(0)).T @ (x - x.mean(0))
    within = sum(
        (x[y == c] - x[y == c].mean(0)).T @ (x[y == c] - x[y == c].mean(0)) for c in (0, 1, 2)
    )
    pillai = np.trace((total - within) @ np.linalg.inv(total))
    assert h_score(x, y) == pytest.approx(pillai, rel=1e-8)
    assert h_score(x @ np.diag(np.arange(1.0, 14)), y) == pytest.approx(pillai, rel=1e-8)


def test_the_shrunk_h_score_is_its_formula():
    features, y = random_task(40, 6)
    centered = features - features.mean(0)
    covariance = centered.T @ centered / 40
    means = np.stack([centered[y == c].mean(0) for c in (0, 1)])[y]
    shrunk = 0.7 * covariance + 0.3 * np.trace(covariance) / 6 * np.eye(6)
    expected = 0.7 * np.trace(np.linalg.inv(shrunk) @ (means.T @ means / 40))
    assert h_score(features, y, shrinkage=0.3) == pytest.approx(expected)


def test_only_the_shrunk_h_score_ranks_where_features_outnumber_examples():
    """Unshrunk, every task with N < D looks solved."""
    informative, y = random_task(40, 200)
    informative[:, :20] += y[:, None]
    noise = np.random.default_rng(1).normal(size=(40, 200))
    assert h_score(noise, y) == pytest.approx(1) == h_score(informative, y)
    assert h_score(informative, y, shrinkage="auto") > h_score(noise, y, shrinkage="auto")


def test_leep_and_nce_by_hand():
    p = np.array([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]])
    y = np.array([0, 0, 1])
    # label 0 goes with source class 0 always (1.5 of 1.5), with class 1 in .5 of 1.5
    by_hand = np.log([0.5 + 0.5 / 3, 1.0, 2 / 3]).mean()
    assert leep(p, y) == pytest.approx(by_hand)
    assert nce(np.array([3, 3, 7, 7]), np.array([0, 0, 0, 1])) == pytest.approx(np.log(0.5) / 2)
    assert nce(np.array([3, 3, 7]), np.array([1, 1, 0])) == pytest.approx(0)


def test_controls_find_what_is_there():
    features, y = load_iris(return_X_y=True)
    assert probe(features, y) > 0.93 and nearest_neighbor(features, y) > 0.93
    noise = np.random.default_rng(0).normal(size=features.shape)
    assert probe(noise, y) < 0.5 and nearest_neighbor(noise, y) < 0.5


def test_a_score_does_not_depend_on_names_or_order():
    features, y = random_task(30, 8)
    order = np.random.default_rng(0).permutation(30)
    for measure in (logme, h_score):
        assert measure(features[order], 7 - 3 * y[order]) == pytest.approx(measure(features, y))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: logme(np.zeros((3, 2)), [0, 1]), "features are"),
        (lambda: logme(np.zeros((3, 2)), [0, 0, 0]), "two classes"),
        (lambda: h_score(np.full((2, 2), np.nan), [0, 1]), "not finite"),
        (lambda: h_score(np.eye(2), [0, 1], shrinkage=2), "shrinkage=2"),
        (lambda: leep(np.ones((2, 2)), [0, 1]), "add up to 1"),
        (lambda: leep(np.eye(2), [0, 1, 1]), "2 examples, but 3"),
        (lambda: nce(np.eye(2), [0, 1]), "take the argmax"),
        (lambda: probe(np.eye(3), [0, 1, 1]), "two of each"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_copies_of_an_example_do_not_make_an_encoder_better():
    """Without limits of the noise, an exact copy makes any encoder infinitely good."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 16)
    noise = rng.normal(size=(32, 64))
    copied = np.concatenate([noise, noise[:3]])
    assert logme(copied, np.append(y, y[:3])) == pytest.approx(logme(noise, y), abs=1e-9)
