"""Paired comparisons and their intervals."""

import itertools
import json
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import norm
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from tlbook import data
from tlbook.evidence import comparison, recording
from tlbook.evidence.balanced import balanced_accuracy, balanced_means
from tlbook.evidence.comparison import Comparison, compare, estimator_arm
from tlbook.evidence.effects import Effect
from tlbook.evidence.episodes import episode_accuracy
from tlbook.evidence.recording import recorded
from tlbook.evidence.scores import _reached


def runs(rng, seeds: int, n: int, skills=(1.0, 0.8)):
    """Labels and the predictions of two arms; skill varies by seed, difficulty by example."""
    y = rng.integers(0, 2, n)
    difficulty = rng.normal(size=n)
    arms = []
    for skill in skills:
        by_seed = skill + rng.normal(0, 0.15, seeds)
        right = rng.random((seeds, n)) < norm.cdf(by_seed[:, None] + difficulty)
        arms.append(np.where(right, y, 1 - y))
    return y, arms


def test_score_equals_scikit_learns():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 4, 200)
    predictions = np.where(rng.random((3, 200)) < 0.6, y, rng.integers(0, 4, (3, 200)))
    expected = np.mean([balanced_accuracy_score(y, row) for row in predictions])
    assert balanced_accuracy(y, predictions).value == pytest.approx(expected, abs=1e-12)


def test_gain_is_the_difference_of_scores():
    y, (one, other) = runs(np.random.default_rng(0), 5, 300)
    gain = balanced_accuracy(y, one, other)
    assert gain.value == pytest.approx(
        balanced_accuracy(y, one).value - balanced_accuracy(y, other).value
    )


def test_pairing_narrows_the_interval():
    y, (one, other) = runs(np.random.default_rng(2), 10, 500)
    gain = balanced_accuracy(y, one, other)
    apart = [balanced_accuracy(y, arm) for arm in (one, other)]
    unpaired = np.hypot(*(arm.high - arm.low for arm in apart))
    assert gain.high - gain.low < unpaired


def test_groups_widen_the_interval():
    """Ten copies of each example carry no more information than one."""
    y, (one, other) = runs(np.random.default_rng(3), 10, 100)
    copies = np.repeat(np.arange(100), 10)
    alone = balanced_accuracy(y[copies], one[:, copies], other[:, copies])
    together = balanced_accuracy(y[copies], one[:, copies], other[:, copies], groups=copies)
    single = balanced_accuracy(y, one, other)
    assert together.high - together.low > alone.high - alone.low
    assert together.components.items > 4 * alone.components.items
    assert (together.low, together.high) == pytest.approx((single.low, single.high))


def test_intervals_are_reproducible():
    y, (one, other) = runs(np.random.default_rng(4), 5, 200)
    assert balanced_accuracy(y, one, other) == balanced_accuracy(y, one, other)


def test_a_class_may_be_missing_from_a_resample():
    y = np.array([0] * 50 + [1])
    predictions = np.zeros((3, 51), dtype=int)
    effect = balanced_accuracy(y, predictions, method="bootstrap")
    assert effect.value == pytest.approx(0.5)
    assert np.isfinite([effect.low, effect.high]).all()


def test_a_single_run_is_refused():
    with pytest.raises(ValueError, match="a single run is never a result"):
        balanced_accuracy(np.array([0, 1]), np.array([[0, 1]]))


def test_shapes_that_do_not_match_are_refused():
    y = np.array([0, 1, 1])
    with pytest.raises(ValueError, match=r"must be \(seeds, 3\)"):
        balanced_accuracy(y, np.zeros((2, 4), int))
    with pytest.raises(ValueError, match="control has shape"):
        balanced_accuracy(y, np.zeros((2, 3), int), np.zeros((3, 3), int))


@pytest.mark.parametrize(
    ("low", "high", "sign"), [(0.01, 0.1, 1), (-0.1, -0.01, -1), (-0.1, 0.1, 0), (0.0, 0.1, 0)]
)
def test_sign_needs_the_whole_interval(low, high, sign):
    assert Effect((low + high) / 2, low, high, seeds=5).sign == sign


# --- compare ---------------------------------------------------------------------------------


@pytest.fixture
def task():
    rng = np.random.default_rng(0)
    y = np.arange(200) % 2
    x = rng.normal(size=(200, 5)) + y[:, None]
    return data.labeled([f"row {i}" for i in range(200)], y), x


def parts(labeled):
    rows = data.split(labeled)
    return {"train": rows.train, "test": rows.test}


def nearest_mean(x, y):
    def arm(train, test, seed):
        means = np.stack([x[train][y[train] == label].mean(0) for label in (0, 1)])
        return ((x[test, None] - means) ** 2).sum(-1).argmin(1)

    return arm


def test_an_estimator_s_arm_is_the_arm_written_out(task):
    labeled, x = task

    def written_out(train, test, seed):
        return LogisticRegression().fit(x[train], labeled.y[train]).predict(x[test])

    estimator = LogisticRegression()
    arms = {"out": written_out, "short": estimator_arm(estimator, x, labeled.y)}
    for jobs in (1, 2):  # also in processes of its own
        result = compare(arms, labeled, **parts(labeled), budgets=[2, 8], seeds=[0, 1], jobs=jobs)
        np.testing.assert_array_equal(*result.predictions.values())
    assert not hasattr(estimator, "coef_")  # the reader's own is left as it was


def test_an_estimator_learns_of_the_labeled_rows_alone(task):
    """Scaled by all rows, the few would be classified in another way."""
    labeled, x = task
    x, y = x * np.arange(1, 201)[:, None], labeled.y
    train, test = np.arange(8), np.arange(100, 200)
    arm = estimator_arm(make_pipeline(StandardScaler(), LogisticRegression()), x, y)
    scaled = StandardScaler().fit(x[train])
    head = LogisticRegression().fit(scaled.transform(x[train]), y[train])
    expected = head.predict(scaled.transform(x[test]))
    np.testing.assert_array_equal(arm(train, test, 0), expected)


def test_an_estimator_starts_anew_in_each_run(task):
    """Also one that would go on where it stopped, or that the reader changes later."""
    labeled, x = task
    train, test = np.arange(20), np.arange(100, 200)
    forest = RandomForestClassifier(3, random_state=0, warm_start=True)
    arm = estimator_arm(forest, x, labeled.y)
    forest.set_params(max_depth=1, random_state=1)
    alone = RandomForestClassifier(3, random_state=0).fit(x[train], labeled.y[train])
    for rows in (np.arange(50, 90), train):
        found = arm(rows, test, 0)
    np.testing.assert_array_equal(found, alone.predict(x[test]))


def test_an_estimator_s_random_numbers_are_its_own(task):
    labeled, x = task
    rows = np.arange(20), np.arange(100, 200)
    fixed = estimator_arm(RandomForestClassifier(3, random_state=0), x, labeled.y)
    np.testing.assert_array_equal(fixed(*rows, 0), fixed(*rows, 1))
    free = estimator_arm(RandomForestClassifier(3), x, labeled.y)
    assert (free(*rows, 0) != free(*rows, 0)).any()


def test_an_estimator_takes_whatever_has_rows(task):
    """Tables and sparse matrices by position, lists and arrays of texts."""
    labeled, x = task
    rows = np.arange(100, 150), np.arange(20)
    expected = estimator_arm(LogisticRegression(), x, labeled.y)(*rows, 0)
    table = pd.DataFrame(x, index=np.arange(200)[::-1])  # its labels are no positions
    for same in (table, sparse.csr_array(x), x.tolist()):
        arm = estimator_arm(LogisticRegression(), same, labeled.y)
        np.testing.assert_array_equal(arm(*rows, 0), expected)
    words = make_pipeline(CountVectorizer(), LogisticRegression())
    texts = np.array([f"good {i}" if y else f"bad {i}" for i, y in enumerate(labeled.y)], object)
    for same in (texts, texts.tolist()):
        found = estimator_arm(words, same, labeled.y)(*rows, 0)
        np.testing.assert_array_equal(found, labeled.y[rows[1]])


@pytest.mark.parametrize("estimator", [LogisticRegression, StandardScaler(), "svm", lambda: 0])
def test_what_does_not_predict_is_no_arm(estimator):
    with pytest.raises(ValueError, match="must be a scikit-learn estimator with fit and predict"):
        estimator_arm(estimator, np.zeros((3, 1)), np.zeros(3, int))


@pytest.mark.parametrize("x", [np.zeros((3, 1)), sparse.csr_array((3, 1)), ["a", "b", "c"]])
def test_an_arm_needs_a_label_for_each_row(x):
    for y in (np.zeros(2, int), np.zeros((3, 1), int)):
        with pytest.raises(ValueError, match="x has 3 rows and y the shape"):
            estimator_arm(LogisticRegression(), x, y)


def test_compare_pairs_the_arms(task):
    """Two copies of one arm see the same rows, so their difference is exactly zero."""
    labeled, x = task
    arm = nearest_mean(x, labeled.y)
    result = compare(
        {"one": arm, "two": arm},
        labeled,
        **parts(labeled),
        budgets=[2, 8],
        seeds=[0, 1],
    )
    gain = result.gain("two", "one", 2)
    assert (gain.value, gain.low, gain.high) == (0, 0, 0)
    assert result.score("one", 8).value > 0.6
    assert list(result.table()["arm"]) == ["one", "one", "two", "two"]
    assert list(result.gains("one")["labels per class"]) == [2, 8]


def test_compare_gives_every_arm_the_budget_of_its_seed(task):
    labeled, _ = task
    rows = data.split(labeled)
    seen = []

    def arm(train, test, seed):
        seen.append((seed, tuple(train)))
        return labeled.y[test]

    compare(
        {"a": arm, "b": arm},
        labeled,
        **parts(labeled),
        budgets=[3, None],
        seeds=[4, 5],
    )
    assert seen[0] == seen[1] == (4, tuple(data.sample(labeled, rows.train, per_class=3, seed=4)))
    assert len({train for _, train in seen[:4]}) == 2  # another seed, other rows
    assert all(train == tuple(rows.train) for _, train in seen[4:])  # None: all of them


def test_compare_refuses_a_leak(task):
    labeled, x = task
    with pytest.raises(ValueError, match="10 rows stand in both train and test"):
        compare(
            {"a": nearest_mean(x, labeled.y)},
            labeled,
            train=np.arange(110),
            test=np.arange(100, 200),
            budgets=[2],
        )


def test_compare_names_the_arm_that_returns_nonsense(task):
    labeled, _ = task
    with pytest.raises(ValueError, match="arm 'odd' returned shape"):
        compare({"odd": lambda *_: np.zeros(3)}, labeled, **parts(labeled), budgets=[2])


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda n: np.full(n, 0.9), r"returned float64 values such as .*0\.9.*: expected class"),
        (lambda n: np.full(n, np.nan), "returned float64 values"),
        (lambda n: np.full(n, 2), "returned int64 values such as .*2.*from 0 to 1"),
        (lambda n: np.full(n, -1), "returned int64 values such as .*-1.*from 0 to 1"),
        (lambda n: np.array(["0"] * n), "returned <U1 values"),
        (lambda n: np.zeros((n, 2), int), r"returned shape \(\d+, 2\)"),
        (lambda n: np.zeros(n, bool), "returned bool values"),
    ],
)
def test_compare_takes_class_numbers_only(task, returned, message):
    labeled, _ = task
    arms = {"odd": lambda train, test, seed: returned(len(test))}
    with pytest.raises(ValueError, match=f"arm 'odd' {message}"):
        compare(arms, labeled, **parts(labeled), budgets=[2], seeds=[0, 1])


@pytest.mark.parametrize("bad", [0.9, np.nan])
def test_probabilities_are_no_labels(bad):
    y, labels = np.array([0, 1] * 10), np.zeros((2, 20), int)
    with pytest.raises(ValueError, match="predictions are float64 values such as"):
        balanced_accuracy(y, np.full((2, 20), bad))
    with pytest.raises(ValueError, match="control are float64 values"):
        balanced_accuracy(y, labels, np.full((2, 20), bad))


def test_groups_must_be_two_and_one_for_each_example():
    y, labels = np.array([0, 1] * 10), np.zeros((2, 20), int)
    with pytest.raises(ValueError, match="needs two groups of test examples, and there are 1"):
        balanced_accuracy(y, labels, groups=np.zeros(20))
    with pytest.raises(ValueError, match="19 groups for 20 test examples"):
        balanced_accuracy(y, labels, groups=np.arange(19))


def test_an_interval_holds_what_was_measured():
    """Ten classes of one example each are right, one class of ten examples is wrong."""
    y = np.array([0] * 10 + list(range(1, 11)))
    predictions = np.tile(np.where(y == 0, 1, y), (2, 1))
    effect = balanced_accuracy(y, predictions)
    assert effect.low <= effect.value <= effect.high


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seeds": [0]}, "at least 2"),
        ({"budgets": [2, 10_000]}, "no class has 10000 rows to train on"),
        ({"seeds": [0] * 50}, "twice"),
        ({"seeds": [0, -1]}, "seed=-1"),
        ({"budgets": []}, "one or more"),
        ({"budgets": [4, 4]}, "each once"),
        ({"budgets": [0]}, "budget=0"),
        ({"budgets": [-3]}, "budget=-3"),
        ({"budgets": [2.5]}, "budget=2.5"),
        ({"train": [0, -1]}, "train holds the position -1"),
        ({"train": [0, 1, 1]}, "train names 1 rows more than once"),
        ({"train": [], "test": [1, 2]}, "0 rows to train on"),
        ({"test": [200]}, "test holds the position 200"),
        ({"train": np.arange(100), "test": [150]}, "a single group"),
        ({"arms": {}}, "no arms"),
    ],
)
def test_compare_refuses_before_anything_runs(task, changed, message):
    labeled, _ = task
    asked = {"arms": {"a": None}, "budgets": [2], "seeds": [0, 1], **parts(labeled)} | changed
    with pytest.raises(ValueError, match=message):
        compare(asked.pop("arms"), labeled, **asked)


def test_compare_refuses_groups_on_both_sides(task):
    labeled, _ = task
    pairs = replace(labeled, groups=np.arange(200) // 2)
    with pytest.raises(ValueError, match="100 groups stand in both train and test, such as"):
        even, odd = np.arange(0, 200, 2), np.arange(1, 200, 2)
        compare({"a": None}, pairs, train=even, test=odd, budgets=[2])


def test_a_small_class_gives_what_it_has_and_is_named(task):
    labeled, x = task
    rows = parts(labeled)
    few = rows["train"][labeled.y[rows["train"]] == 1][:3]
    rows["train"] = np.sort([*rows["train"][labeled.y[rows["train"]] == 0], *few])
    seen = []

    def arm(train, test, seed):
        seen.append(np.bincount(labeled.y[train]).tolist())
        return nearest_mean(x, labeled.y)(train, test, seed)

    with pytest.warns(
        UserWarning, match=r"budget of 8 labels per class have '1' \(3 rows\)"
    ) as said:
        compare({"a": arm}, labeled, **rows, budgets=[2, 8], seeds=[0, 1])
    assert len(said) == 1
    assert seen == [[2, 2], [2, 2], [8, 3], [8, 3]]


def test_unknown_arm_or_budget(task):
    labeled, x = task
    result = compare(
        {"a": nearest_mean(x, labeled.y)},
        labeled,
        **parts(labeled),
        budgets=[2],
        seeds=[0, 1],
    )
    with pytest.raises(KeyError, match="no arm 'b'"):
        result.score("b", 2)
    with pytest.raises(KeyError, match="no budget 3"):
        result.score("a", 3)


# --- parts of a comparison, other processes, comparisons measured beforehand --------------------


def nearest(task):
    def arm(train, test, seed):
        distance = np.abs(task.x[test][:, None] - task.x[train][None])
        return task.y[train][distance.argmin(1)]

    return arm


def one_class(train, test, seed):
    return np.zeros(len(test), dtype=int), 2.0 + seed  # and what it says it took


@pytest.fixture
def numbers():
    rng = np.random.default_rng(0)
    y = np.arange(60) % 2
    x = rng.normal(size=60) + 2 * y
    return data.Dataset("numbers", x, y, ("low", "high"), np.arange(60))


def rows(n: int = 60):
    return {"train": np.arange(n // 2), "test": np.arange(n // 2, n)}


def test_only_some_of_the_test_examples(numbers):
    whole = compare({"nearest": nearest(numbers)}, numbers, **rows(), budgets=[2, 5], seeds=[0, 1])
    mask = numbers.x[30:] > 0
    part = whole.subset(mask)
    expected = [
        balanced_accuracy_score(numbers.y[30:][mask], predicted[mask])
        for predicted in whole.predictions["nearest"][1]
    ]
    assert part.score("nearest", 5).value == pytest.approx(np.mean(expected))
    assert part.score("nearest", 5).value != whole.score("nearest", 5).value


def test_processes_side_by_side_change_nothing(numbers):
    arms = {"nearest": nearest(numbers), "one class": one_class}
    here, there = (
        compare(arms, numbers, **rows(), budgets=[2, 5], seeds=[3, 4], jobs=jobs) for jobs in (1, 2)
    )
    for arm in arms:
        assert np.array_equal(here.predictions[arm], there.predictions[arm])
    assert not np.array_equal(*here.predictions["nearest"])


def test_an_arm_may_time_its_training_alone(numbers):
    arms = {"nearest": nearest(numbers), "one class": one_class}
    found = compare(arms, numbers, **rows(), budgets=[2], seeds=[0, 1])
    assert found.cpu_seconds["one class"].tolist() == [[2.0, 3.0]]
    assert (found.cpu_seconds["nearest"] < 1).all()


def test_saving_is_a_share_of_the_control():
    seconds = {"fast": np.array([[1.0, 2.0, 1.0]]), "slow": np.array([[2.0, 4.0, 4.0]])}
    y = np.array([0, 1])
    labels = {arm: np.zeros((1, 3, 2), int) for arm in seconds}
    found = comparison.Comparison("", (4,), (0, 1, 2), y, y, labels, seconds)
    effect = found.saving("fast", "slow", 4)
    shares = np.array([0.5, 0.5, 0.75])
    half = 4.302653 * shares.std(ddof=1) / np.sqrt(3)  # t at 97.5 % with two degrees of freedom
    assert effect.value == pytest.approx(shares.mean())
    assert (effect.low, effect.high) == pytest.approx((effect.value - half, effect.value + half))


def test_what_is_recorded_is_read_again_without_running(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "RECORDED", tmp_path / "recorded")
    monkeypatch.setenv("TLBOOK_BUILD", "1")
    asked = rows() | {"budgets": [2, 5], "seeds": [0, 1]}
    arms = {"nearest": nearest(numbers), "one class": one_class}
    with pytest.raises(ValueError, match="'a-name' was recorded nowhere: run make experiments"):
        recorded("a-name", arms, numbers, **asked)
    monkeypatch.setenv("TLBOOK_EXPERIMENTS", "other,a-name")
    measured = recorded("a-name", arms, numbers, **asked)
    monkeypatch.delenv("TLBOOK_EXPERIMENTS")

    def never(*_):
        raise AssertionError("was run again")

    again = recorded("a-name", dict.fromkeys(arms, never), numbers, **asked)
    plain = compare(arms, numbers, **asked)
    for arm in arms:
        assert np.array_equal(again.predictions[arm], plain.predictions[arm])
        assert np.array_equal(again.predictions[arm], measured.predictions[arm])
    assert again.score("nearest", 5) == plain.score("nearest", 5)
    assert again.cpu_seconds["one class"].tolist() == [[2.0, 3.0], [2.0, 3.0]]
    for other, what in (
        ({"budgets": [2, 6]}, "budgets"),
        ({"seeds": [1, 2]}, "seeds"),
        ({"test": asked["test"][:-1]}, "rows"),
    ):
        with pytest.raises(ValueError, match=f"recorded with other {what} than asked for"):
            recorded("a-name", arms, numbers, **asked | other)
    with pytest.raises(ValueError, match="recorded with other arms"):
        recorded("a-name", {"nearest": never}, numbers, **asked)


def test_what_a_reader_changed_is_measured_with_few_seeds(numbers, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(recording, "RECORDED", tmp_path)
    asked = rows() | {"budgets": [2], "seeds": range(5)}
    arms = {"nearest": nearest(numbers)}
    monkeypatch.setenv("TLBOOK_EXPERIMENTS", "a-name")
    recorded("a-name", arms, numbers, **asked)
    monkeypatch.delenv("TLBOOK_EXPERIMENTS")
    written = (tmp_path / "a-name.json").read_text()
    assert recorded("a-name", arms, numbers, **asked).seeds == (0, 1, 2, 3, 4)
    assert not capsys.readouterr().out

    changed = asked | {"seeds": range(5, 15)}
    found = recorded("a-name", arms, numbers, **changed)
    said = "'a-name' was recorded with other seeds than asked for. Measured here, with 3 seeds:\n"
    assert capsys.readouterr().out == said
    live = compare(arms, numbers, **asked | {"seeds": [5, 6, 7]})
    assert np.array_equal(found.predictions["nearest"], live.predictions["nearest"])
    assert recorded("a-name", {"mine": one_class}, numbers, **asked).arms == ["mine"]
    assert "with other arms than" in capsys.readouterr().out
    assert recorded("new", arms, numbers, **asked | {"seeds": [3, 4]}).seeds == (3, 4)
    assert "recorded nowhere. Measured here, with 2 seeds" in capsys.readouterr().out
    assert (tmp_path / "a-name.json").read_text() == written
    assert len(list(tmp_path.iterdir())) == 1


def test_a_record_is_extended_and_goes_on_where_it_stopped(numbers, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "RECORDED", tmp_path)
    monkeypatch.setenv("TLBOOK_EXPERIMENTS", "a-name")
    asked, ran = rows() | {"budgets": [2, 5]}, []

    def arm(train, test, seed):
        if seed == 13:
            raise KeyboardInterrupt
        ran.append(seed)
        return nearest(numbers)(train, test, seed)

    monkeypatch.setattr(recording.joblib, "cpu_count", lambda: 1)
    recorded("a-name", {"arm": arm}, numbers, **asked, seeds=range(3))
    monkeypatch.setenv("TLBOOK_EXTEND", "1")
    with pytest.raises(KeyboardInterrupt):
        recorded("a-name", {"arm": arm}, numbers, **asked, seeds=range(14))
    assert sorted(set(ran)) == list(range(13))
    ran.clear()
    found = recorded("a-name", {"arm": arm}, numbers, **asked, seeds=range(12))
    assert set(ran) == {8, 9, 10, 11}  # the part that was interrupted, and nothing else
    plain = compare({"arm": nearest(numbers)}, numbers, **asked, seeds=range(12))
    assert np.array_equal(found.predictions["arm"], plain.predictions["arm"])
    runs = json.loads((tmp_path / "a-name.json").read_text())["runs"]
    assert [len(run["seeds"]) for run in runs] == [3, 5, 4]
    monkeypatch.delenv("TLBOOK_EXTEND")
    recorded("a-name", {"arm": arm}, numbers, **asked, seeds=range(2))  # anew
    assert len(json.loads((tmp_path / "a-name.json").read_text())["runs"]) == 1


def test_too_many_classes_are_refused_before_anything_runs(numbers, monkeypatch):
    monkeypatch.setenv("TLBOOK_EXPERIMENTS", "a-name")
    many = replace(numbers, classes=tuple(map(str, range(11))))
    with pytest.raises(ValueError, match="numbers has 11 classes; ten can be recorded"):
        recorded("a-name", {"one class": None}, many, **rows(), budgets=[2], seeds=[0, 1])


def curve(*accuracies, seeds=4, n=4000):
    """Predictions of an arm with these accuracies at budgets 4, 16, 64, all labels ones."""
    rng = np.random.default_rng(0)
    shape = len(accuracies), seeds, n
    return (rng.random(shape) < np.array(accuracies)[:, None, None]).astype(int)


def worth_of(arm, control):
    predictions = {"arm": curve(*arm), "control": curve(*control)}
    seconds = dict.fromkeys(predictions, np.zeros((3, 4)))
    ones, groups = np.ones(4000, dtype=int), np.arange(4000)
    compared = Comparison("a", (4, 16, 64), (0, 1, 2, 3), ones, groups, predictions, seconds)
    return compared.equivalent_budget("arm", "control", 4)


def test_worth_is_read_off_the_control_s_curve():
    between = worth_of((0.7, 0, 0), (0.6, 0.8, 0.9))
    assert between.value == pytest.approx(8, rel=0.15)  # half way from 4 to 16, on a log scale
    assert 4 < between.low < between.value < between.high < 16
    assert between.high / between.low < 3


def test_worth_beyond_the_curve_is_its_end():
    low, high = worth_of((0.5, 0, 0), (0.6, 0.8, 0.9)), worth_of((0.95, 0, 0), (0.6, 0.8, 0.9))
    assert (low.low, low.high) == pytest.approx((4, 4))
    assert (high.low, high.high) == pytest.approx((64, 64))


def test_a_plateau_holds_in_spite_of_rounding():
    curve = np.array([0.8, 0.8, 0.9])
    assert _reached(0.8 + 1e-15, curve, np.array([1.0, 2.0, 3.0])) == 1.0


def test_worth_on_a_plateau_is_its_left_end():
    """``np.interp`` would give the right one, and so favor the arm."""
    flat = worth_of((1.0, 0, 0), (1.0, 1.0, 1.0))
    assert (flat.low, flat.value, flat.high) == pytest.approx((4, 4, 4))
    late = worth_of((1.0, 0, 0), (0.5, 1.0, 1.0))
    assert late.value == pytest.approx(16)


@pytest.mark.parametrize("budget", [4, 16, 64])
def test_an_arm_is_worth_no_more_than_its_own_budget(budget):
    ones = np.ones(4000, dtype=int)
    predictions = {"a": curve(0.8, 0.7, 0.9)}
    compared = Comparison(
        "a", (4, 16, 64), (0, 1, 2, 3), ones, np.arange(4000), predictions, predictions
    )
    assert compared.equivalent_budget("a", "a", budget).high <= budget * (1 + 1e-9)


def test_the_order_of_budgets_does_not_matter():
    ones, predictions = np.ones(4000, dtype=int), {"arm": curve(0.7, 0, 0)}
    predictions["control"] = curve(0.6, 0.8, 0.9)
    rest = ((0, 1, 2, 3), ones, np.arange(4000))
    rising = Comparison("a", (4, 16, 64), *rest, predictions, {})
    falling = Comparison("a", (64, 16, 4), *rest, {k: v[::-1] for k, v in predictions.items()}, {})
    expected = rising.equivalent_budget("arm", "control", 4)
    assert falling.equivalent_budget("arm", "control", 4) == expected
    assert expected.unit == "labels per class" and str(expected).endswith("labels per class")


def test_an_effect_over_seeds_is_students():
    effect = Effect.over_seeds([0.5, 0.5, 0.75])
    half = 4.302653 * np.std([0.5, 0.5, 0.75], ddof=1) / np.sqrt(3)
    mean = 1.75 / 3
    found = (effect.value, effect.low, effect.high)
    assert found == pytest.approx((mean, mean - half, mean + half))
    assert Effect.over_seeds([0.2, 0.2]).low == 0.2  # no spread: no interval, and no warning
    for values in ([0.5], [0.5, float("nan")], [[0.5, 0.5]]):
        with pytest.raises(ValueError, match="two or more finite values"):
            Effect.over_seeds(values)


def test_the_other_side_of_an_effect():
    assert -Effect(0.1, -0.05, 0.3, 5) == Effect(-0.1, -0.3, 0.05, 5)
    assert (-Effect(0.1, 0.05, 0.3, 5)).sign == -1


def test_worth_of_a_control_that_falls_again():
    """The smallest number of labels that is enough counts."""
    effect = worth_of((0.8, 0, 0), (0.6, 0.9, 0.7))
    assert 4 < effect.low < effect.high < 16


# --- few-shot episodes ------------------------------------------------------------------------


def episodes(rng, number=100, classes=12, ways=5, queries=10, skill=1.0, runs=(), luck=0.3):
    """Scores (*runs, number, ways); a class has a difficulty, an episode luck, a run skill."""
    difficulty, luck = rng.normal(size=classes), luck * rng.normal(size=(number, 1))
    met = np.stack([rng.permutation(classes)[:ways] for _ in range(number)])
    ability = skill + 0.4 * rng.normal(size=(*runs, 1, 1)) if runs else skill
    return rng.binomial(queries, norm.cdf(ability + difficulty[met] + luck)) / queries, met


def naive(scores, met, control=None, resamples=2000):
    """The mean and the limits of the bootstrap in plain loops, with lists of what was drawn."""
    rng = np.random.default_rng(5)
    found, labels = [], np.unique(met)
    for _ in range(resamples):
        drawn = rng.choice(labels, len(labels)).tolist()
        times = np.array([[drawn.count(c) for c in row] for row in met])
        rows = rng.integers(0, len(met), len(met))
        seeds = rng.integers(0, len(scores), len(scores))
        part = scores[seeds].mean(0)[rows]
        found.append((part * times[rows]).sum() / times[rows].sum())
    return scores.mean(), *np.quantile(found, [0.025, 0.975])


@pytest.mark.parametrize("runs", [(), (5,)])
@pytest.mark.parametrize("luck", [0.3, 2.0])
def test_intervals_over_episodes_equal_plain_resampling(runs, luck):
    scores, met = episodes(np.random.default_rng(0), number=25, runs=runs, luck=luck)
    effect = episode_accuracy(scores, met, method="bootstrap")
    expected = naive(scores.reshape(-1, 25, 5), met)
    assert (effect.value, effect.low, effect.high) == pytest.approx(expected, abs=0.012)
    assert effect.value == pytest.approx(scores.mean(), abs=1e-12)
    assert effect.seeds == (5 if runs else 25)
    assert effect == episode_accuracy(scores, met, method="bootstrap")


def test_more_episodes_of_the_same_classes_do_not_make_a_result_sure():
    scores, met = episodes(np.random.default_rng(1), number=50)
    few, many = (episode_accuracy(np.tile(scores, (k, 1)), np.tile(met, (k, 1))) for k in (1, 20))
    by_episodes = 2 * 1.96 * scores.mean(1).std() / np.sqrt(20 * 50)
    assert many.high - many.low > max(0.7 * (few.high - few.low), 5 * by_episodes)


def test_a_gain_over_episodes_is_paired():
    rng = np.random.default_rng(2)
    scores, met = episodes(rng)
    control = np.clip(scores - 0.05 - 0.02 * rng.normal(size=scores.shape), 0, 1)
    gain = episode_accuracy(scores, met, control)
    assert gain.value == pytest.approx((scores - control).mean())
    assert gain.low > 0
    alone = episode_accuracy(scores, met)
    assert gain.high - gain.low < 0.3 * (alone.high - alone.low)


@pytest.mark.parametrize("runs", [(), (3,), (10,)])
def test_intervals_over_episodes_cover_the_truth(runs):
    """Of new classes (and seeds), where the usual interval over episodes is far too sure."""
    rng = np.random.default_rng(3)
    truth = norm.cdf(1 / np.sqrt(1 + 1 + 0.3**2 + (0.4**2 if runs else 0)))
    scored, gained, usual = [], [], []
    for _ in range(400):
        scores, met = episodes(rng, classes=20, runs=runs)
        effect = episode_accuracy(scores, met)
        scored.append(effect.low <= truth <= effect.high)
        by_run = 0.02 * rng.normal(size=(*runs, 1, 1)) if runs else 0
        control = scores - 0.05 - 0.03 * rng.normal(size=scores.shape) - by_run
        gain = episode_accuracy(scores, met, control)
        gained.append(gain.low <= 0.05 <= gain.high)
        means = scores.reshape(-1, 100, 5).mean((0, 2))
        usual.append(abs(means.mean() - truth) < 1.96 * means.std() / np.sqrt(len(means)))
    assert 0.90 <= np.mean(scored) <= 0.98
    assert 0.93 <= np.mean(gained) <= 0.995
    assert np.mean(usual) < 0.7


def test_components_over_episodes_are_those_of_a_table_where_each_meets_each():
    """Ten classes in each of twelve episodes: a two-way table, with runs a three-way one."""
    rng = np.random.default_rng(0)
    table = 0.3 * rng.normal(size=(12, 10)) + rng.normal(size=(12, 1)) + rng.normal(size=10)
    met = np.tile(np.arange(10), (12, 1))
    found = episode_accuracy(table / 100, met).components
    two = balanced_means(np.zeros(10, int), table[None] / 100).contrast(np.ones(1))
    assert (found.seeds, found.items, found.df) == pytest.approx(
        (two.components.seeds, two.components.items, two.df)
    )
    x = (table + 2 * rng.normal(size=(4, 1, 1)) + rng.normal(size=(4, 12, 1))) / 100
    x += 0.02 * rng.normal(size=(4, 1, 10)) + 0.005 * rng.normal(size=x.shape)
    # the mean square of each set of axes; the mean over axes that are not in it, less all below
    square = {}
    for axes in itertools.chain.from_iterable(
        itertools.combinations(range(3), k) for k in (1, 2, 3)
    ):
        part = x
        for axis in range(3):
            mean = part.mean(axis, keepdims=True)
            part = part - mean if axis in axes else np.broadcast_to(mean, x.shape)
        square[axes] = (part**2).sum() / np.prod([x.shape[axis] - 1 for axis in axes])
    expected = sum(ms * (-1) ** (len(axes) + 1) for axes, ms in square.items()) / x.size
    assert expected > max(square[0,], square[1,], square[2,]) / x.size
    found = episode_accuracy(x, met)
    assert found.error**2 == pytest.approx(expected)
    assert found.components.seeds == pytest.approx(square[0,] / x.size)


def test_runs_over_episodes_that_failed_are_named():
    scores, met = episodes(np.random.default_rng(0), runs=(8,))
    scores = scores.mean(0) + 0.01 * np.random.default_rng(1).normal(size=scores.shape)
    assert not episode_accuracy(scores, met).unreliable
    scores[5] = 0.2
    effect = episode_accuracy(scores, met)
    assert (effect.low, effect.high) == (0, 1) and "number 6" in effect.unreliable


def test_scores_that_allow_no_interval_are_refused():
    scores, met = episodes(np.random.default_rng(4))
    for arguments, message in (
        ((scores, met[:-1]), "do not fit classes"),
        ((scores[0], met), "do not fit classes"),
        ((scores, met, scores[:-1]), "control has shape"),
        ((scores[:9], met[:9]), "at least 10 episodes"),
        ((scores, np.zeros_like(met)), "at least 10 episodes and 2 classes, got 100 and 1"),
        ((scores[None], met), "a single run is never a result"),
    ):
        with pytest.raises(ValueError, match=message):
            episode_accuracy(*arguments)


def test_a_budget_of_more_than_half_of_a_class_is_told(numbers):
    arms = {"zeros": lambda train, test, seed: np.zeros(len(test), dtype=int)}
    with pytest.warns(UserWarning, match="more than half of the 15 rows of 'low'"):
        compare(arms, numbers, **rows(), budgets=[2, 8], seeds=[0, 1])
    with warnings.catch_warnings(action="error"):
        compare(arms, numbers, **rows(), budgets=[2, 7], seeds=[0, 1])


def test_arms_of_two_comparisons_side_by_side(numbers):
    def above(limit):
        return lambda train, test, seed: (numbers.x[test] > limit).astype(int)

    settings = {**rows(), "budgets": [2, 4], "seeds": [0, 1]}
    one = compare({"one": above(1)}, numbers, **settings)
    other = compare({"other": above(0)}, numbers, **settings)
    both = compare({"other": above(0), "one": above(1)}, numbers, **settings)
    joined = one.beside(other)
    assert joined.arms == both.arms
    assert joined.gain("one", "other", 4) == both.gain("one", "other", 4)
    assert joined.cpu_seconds["other"] is other.cpu_seconds["other"]
    with pytest.raises(ValueError, match="both comparisons have an arm 'one'"):
        one.beside(one)
    for changed in ({"seeds": [0, 2]}, {"budgets": [2, 5]}, {"test": np.arange(31, 60)}):
        different = compare({"other": above(0)}, numbers, **(settings | changed))
        with pytest.raises(ValueError, match="differ in their budgets, seeds or test examples"):
            one.beside(different)
