"""The search on planted strategies: paired splits, time kept, halving, interruption."""

from dataclasses import replace

import numpy as np
import pytest

from tests.test_advisor_audit import planted
from tlbook.advisor import search as module
from tlbook.advisor.reading import read
from tlbook.advisor.search import folds, search
from tlbook.advisor.strategies import OutOfTime, Run, Strategy, strategies


@pytest.fixture(scope="module")
def data():
    return read(planted(150)).data


class Clock:
    """A clock that moves when a strategy works, however busy the machine is."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    Clock.now = 0.0
    monkeypatch.setattr(module, "time", Clock())


def known(data, name: str, right: float, seconds: float = 0.0, forecast: float | None = None):
    """A strategy that is right about as often as it is told, and takes its time."""

    def run(train, test, seed, deadline):
        assert not set(train) & set(test)
        Clock.now += seconds
        if Clock.now > deadline:
            raise OutOfTime
        hit = np.random.default_rng(seed).random(len(test)) < right
        return Run(np.where(hit, data.y[test], 1 - data.y[test]), seconds, seconds)

    expected = seconds if forecast is None else forecast
    return Strategy(name, run, lambda n_train, n_test: expected, 1.0)


def test_each_example_is_tested_once_a_cut_and_groups_stay_whole(data):
    parts = folds(data, 10)
    for cut in (parts[:5], parts[5:]):
        assert np.array_equal(np.sort(np.concatenate([test for _, test in cut])), np.arange(150))
    assert not np.array_equal(parts[0][1], parts[5][1])
    grouped = replace(data, groups=np.arange(150) // 3)
    for train, test in folds(grouped, 5):
        assert not set(grouped.groups[train]) & set(grouped.groups[test])
    with pytest.raises(ValueError, match="3 groups cannot be cut into 5 parts"):
        folds(replace(data, groups=np.arange(150) % 3))


def test_all_are_run_on_the_same_splits_where_there_is_time(data):
    tried = [known(data, "a", 0.9), known(data, "b", 0.6), known(data, "c", 0.7)]
    results = search(tried, data, deadline=30)
    assert {name: len(runs) for name, runs in results.runs.items()} == dict.fromkeys("abc", 10)
    assert results.best() == "a" and results.left_out == {}
    assert results.scores("a").mean() > 0.85


def test_where_time_is_short_the_worse_expensive_ones_are_dropped(data):
    tried = [known(data, "cheap", 0.55)]
    tried += [known(data, f"right {r}", r / 100, 1.0) for r in (60, 70, 80, 95)]
    results = search(tried, data, deadline=18)
    count = {name: len(runs) for name, runs in results.runs.items()}
    assert count["cheap"] == 10 >= count["right 95"] > count["right 60"] == 1
    assert "points behind" in results.left_out["right 60"]


def test_a_mean_does_not_profit_from_easy_splits(data):
    results = search([known(data, "a", 0.9), known(data, "b", 0.9)], data,
                     deadline=30)  # fmt: skip
    first = int(results.scores("a").argmax())
    results.parts = results.parts[first:]
    results.runs = {"a": results.runs["a"][first:], "b": results.runs["a"][first : first + 1]}
    assert results.scores("b").mean() > results.scores("a").mean()
    assert results.mean("b") == pytest.approx(results.mean("a"))


def test_time_is_kept_and_what_is_too_slow_is_said(data):
    slow = known(data, "slow", 0.9, 1, forecast=1000.0)
    wrong = known(data, "takes longer than it says", 0.9, 15, forecast=1)
    results = search([known(data, "a", 0.9), slow, wrong], data, deadline=10, splits=5)
    assert "about 1000 s" in results.left_out["slow"]
    assert "was not done" in results.left_out["takes longer than it says"]
    assert list(results.runs) == ["a"]


def test_what_was_slower_than_forecast_makes_the_others_expected_slower(data):
    tried = [known(data, "first", 0.9, 4, forecast=1), known(data, "next", 0.9, 8, forecast=2)]
    results = search(tried, data, deadline=14, splits=5)
    assert "about 8 s, and 10 were left" in results.left_out["next"]
    assert len(results.runs["first"]) == 3


def test_an_interruption_keeps_what_was_found(data):
    def stop(*arguments):
        raise KeyboardInterrupt

    stopping = Strategy("stops", stop, lambda n_train, n_test: 1.0, 1.0)
    results = search([known(data, "a", 0.9), stopping], data, deadline=30)
    assert results.interrupted and results.best() == "a"


def test_linear_strategies_learn_and_say_what_they_cost(data):
    found = {s.name: s for s in strategies(data, [])}
    assert list(found) == ["majority", "word counts", "letter counts"]
    results = search(list(found.values()), data, deadline=60, splits=2)
    assert results.scores("word counts").mean() > 0.9 > 0.6 > results.scores("majority").mean()
    run = results.runs["word counts"][0]
    assert run.train_seconds > 0 and run.predict_seconds > 0


def test_images_have_pixels(data):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (150, 32, 32, 3), dtype=np.uint8)
    images[data.y == 1, :16] += 50
    found = strategies(replace(data, x=images), [])
    assert [s.name for s in found] == ["majority", "pixels"]
    results = search(found, data, deadline=60, splits=2)
    assert results.scores("pixels").mean() > 0.9
