"""The head of frozen features: what it is, what it is not, and why."""

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.helpers import CHECKOUT
from tlbook import linear_head


def features(seed: int, n: int, d: int = 50):
    """Two classes along one direction, and features of very different size."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    return (rng.normal(size=(n, d)) + y[:, None]) * np.exp(rng.normal(size=d)), y


def test_the_length_of_a_vector_plays_no_part():
    x, y = features(0, 60)
    lengths = np.random.default_rng(1).uniform(0.1, 10, (60, 1))
    head, stretched = linear_head().fit(x, y), linear_head().fit(x * lengths, y)
    assert head.predict_proba(x) == pytest.approx(stretched.predict_proba(x), abs=1e-4)


def test_it_learns_nothing_of_the_features_but_by_their_labels():
    """What a single example becomes does not depend on the other examples."""
    x, y = features(1, 40)
    head = linear_head().fit(x, y)
    alone = linear_head().fit(x[:2], y[:2])
    assert np.array_equal(head[:-1].transform(x), alone[:-1].transform(x))


def test_it_is_logistic_regression_on_unit_vectors():
    x, y = features(2, 40)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    expected = LogisticRegression(C=7, max_iter=2000).fit(unit, y).predict_proba(unit)
    assert linear_head(7).fit(x, y).predict_proba(x) == pytest.approx(expected, abs=1e-6)


def test_it_is_the_one_that_the_benchmark_chose():
    found = json.loads((CHECKOUT / "results/benchmarks/heads.json").read_text("utf-8"))
    assert found["chosen"] == max(found["score"], key=found["score"].get) == "length 1, C=100"
    by_standard_deviation = [
        score
        for head, score in found["score by representation"]["efficientnet-lite0"].items()
        if head.startswith("standardized")
    ]
    chosen = found["score by representation"]["efficientnet-lite0"][found["chosen"]]
    assert chosen - max(by_standard_deviation) > 4  # what the docstring says it costs
    assert linear_head()[-1].C == 100
    assert [type(step).__name__ for step in linear_head()] == ["Normalizer", "LogisticRegression"]


@pytest.mark.parametrize("C", [0, -1, float("nan"), "1"])
def test_a_penalty_without_sense_is_refused(C):
    with pytest.raises(ValueError, match="C"):
        linear_head(C)
