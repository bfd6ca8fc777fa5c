"""Invariants on random input: a fast profile in the tests, a long one as ``make fuzz``.

``$FUZZ`` says how many cases each invariant is tried on. The fast profile tries the same ones every
time, so that a red test is about the change.
"""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tlbook import checks, data
from tlbook.evidence.balanced import balanced_accuracy
from tlbook.evidence.comparison import Comparison, compare
from tlbook.learning.batches import Batches, Pairs

CASES = int(os.environ.get("FUZZ", "0"))
settings.register_profile(
    "tlbook",
    max_examples=CASES or 25,
    derandomize=not CASES,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.load_profile("tlbook")

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.floats(allow_nan=True, allow_infinity=True),
    st.text(max_size=3),
    st.lists(st.integers(), max_size=2),
)


@st.composite
def datasets(draw, least: int = 24, most: int = 60):
    """Texts with copies and contradictions, two to four classes, groups of uneven size."""
    n = draw(st.integers(least, most))
    classes = draw(st.integers(2, 4))
    words = draw(st.integers(n // 2, 3 * n))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    texts = [f"text {word}" for word in rng.integers(words, size=n)] + [
        f"own text {label} {copy}" for label in range(classes) for copy in range(12)
    ]
    y = [*rng.integers(classes, size=n), *np.repeat(np.arange(classes), 12)]
    groups = None
    if draw(st.booleans()):
        groups = [*rng.integers(n, size=n), *range(n, n + 12 * classes)]
    return data.labeled(texts, [f"class {label}" for label in y], groups)


@given(datasets(), st.sampled_from([0.2, 0.25, 0.3, 0.4, 0.5]), st.booleans(), st.integers(0, 99))
def test_a_split_is_a_partition_without_leaks(examples, share, validation, seed):
    asked = {"test": share, "validation": 0.2 * validation, "seed": seed}
    parts = data.split(examples, **asked)
    rows = np.concatenate(parts)
    assert sorted(rows) == list(range(len(examples)))  # labeled has left out all copies
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not set(examples.groups[parts[one]]) & set(examples.groups[parts[other]])
    assert all(
        np.array_equal(a, b) for a, b in zip(parts, data.split(examples, **asked), strict=True)
    )


@given(datasets(), st.integers(1, 8), st.integers(0, 4), st.integers(0, 99))
def test_budgets_are_nested_and_fewer_changes_nothing_else(examples, small, more, seed):
    first = data.sample(examples, per_class=small, seed=seed)
    second = data.sample(examples, per_class=small + more, seed=seed)
    assert set(first) <= set(second)
    assert set(np.bincount(examples.y[first], minlength=len(examples.classes))) == {small}
    assert np.array_equal(first, data.sample(examples, per_class=small, seed=seed, fewer=True))
    counts = np.bincount(examples.y[data.sample(examples, per_class=1000, fewer=True)])
    assert np.array_equal(counts, np.bincount(examples.y))


@given(datasets())
def test_labeled_counts_what_it_leaves_out(examples):
    again = data.labeled(examples.x, [examples.classes[label] for label in examples.y])
    assert not again.left_out and np.array_equal(again.x, examples.x)
    twice = data.concat("twice", examples, examples)
    assert np.array_equal(data.distinct(twice), np.arange(len(examples)))


@given(st.lists(ODD, max_size=4), st.lists(ODD, max_size=4), st.none() | st.lists(ODD, max_size=4))
def test_labeled_works_or_says_why(x, labels, groups):
    try:
        data.labeled(x, labels, groups)
    except ValueError as error:
        assert len(str(error)) > 10 and "\n" not in str(error)


@given(ODD, ODD, ODD)
def test_odd_arguments_are_named(least, share, rows):
    for call in (
        lambda: checks.integer("number", least, least=1),
        lambda: checks.number("share", share, above=0, below=1),
        lambda: checks.positions("rows", rows if isinstance(rows, list) else [rows], 3),
        lambda: checks.texts("texts", rows if isinstance(rows, list | str) else [rows]),
        lambda: checks.seeds(rows if isinstance(rows, list) else [rows]),
    ):
        try:
            call()
        except ValueError as error:
            assert any(name in str(error) for name in ("number", "share", "rows", "texts", "seed"))


@given(
    st.integers(1, 30), st.integers(1, 12), st.integers(1, 3), st.none() | st.integers(0, 9),
    st.integers(0, 40), st.booleans(),
)  # fmt: skip
def test_batches_show_every_row_once_an_epoch_and_resume(n, size, epochs, seed, start, ragged):
    rng = np.random.default_rng(n)
    column = (
        [rng.integers(9, size=k) for k in rng.integers(1, 7, size=n)] if ragged else np.arange(n)
    )
    batches = Batches({"x": column, "labels": np.arange(n)}, size, epochs, seed=seed)
    order = list(batches.rows(0))
    assert len(order) == len(batches) and all(len(rows) <= size for rows in order)
    for epoch in range(epochs):
        part = order[epoch * batches.per_epoch : (epoch + 1) * batches.per_epoch]
        assert sorted(np.concatenate(part)) == list(range(n))
    resumed = list(batches.rows(min(start, len(order))))
    assert all(
        np.array_equal(a, b)
        for a, b in zip(order[len(order) - len(resumed) :], resumed, strict=True)
    )
    for rows in order:
        parts = batches.parts(rows, 12)
        assert sorted(np.concatenate(parts)) == sorted(rows)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 8), st.integers(0, 9))
def test_pairs_are_full_and_cover_both(n, m, size, seed):
    pairs = Pairs({"x": np.arange(n)}, size, 1, seed=seed, source={"x": np.arange(m)})
    rows = np.concatenate(list(pairs.rows(0)))
    assert all(len(batch) == size for batch in pairs.rows(0))
    assert set(rows[:, 0]) == set(range(n)) and set(rows[:, 1]) == set(range(m))


@st.composite
def comparisons(draw):
    budgets = draw(st.lists(st.integers(1, 500), min_size=1, max_size=4, unique=True))
    seeds, n, classes = draw(st.integers(2, 4)), draw(st.integers(6, 25)), draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    y = np.concatenate([np.arange(classes), rng.integers(classes, size=n)])
    groups = rng.integers(draw(st.integers(2, 30)), size=len(y))
    groups[:2] = 0, 1  # two of them at least
    predictions = {
        arm: np.where(rng.random((len(budgets), seeds, len(y))) < rng.random(), y, 0)
        for arm in ("one", "two")
    }
    return Comparison("fuzz", tuple(budgets), tuple(range(seeds)), y, groups, predictions, {})


@given(comparisons())
def test_intervals_hold_their_value_and_change_sides(comparison):
    budget = comparison.budgets[0]
    gain = comparison.gain("one", "two", budget)
    assert gain.low <= gain.value <= gain.high
    back = comparison.gain("two", "one", budget)
    assert np.isclose(back.value, -gain.value) and np.isclose(back.low, -gain.high, atol=0.02)
    own = comparison.gain("one", "one", budget)
    assert (own.value, own.low, own.high) == (0, 0, 0)
    score = comparison.score("one", budget)
    assert 0 <= score.low <= score.high <= 1


@given(comparisons())
def test_no_arm_is_worth_more_than_its_own_budget(comparison):
    for budget in comparison.budgets:
        own = comparison.equivalent_budget("one", "one", budget)
        assert own.high <= budget * (1 + 1e-9)
        other = comparison.equivalent_budget("one", "two", budget)
        slack = 1 + 1e-9
        assert min(comparison.budgets) / slack <= other.low <= other.high
        assert other.high <= max(comparison.budgets) * slack


@given(comparisons(), st.randoms())
def test_names_of_classes_do_not_matter(comparison, random):
    k = int(comparison.y.max()) + 1
    names = random.sample(range(k), k)
    y, found = (np.array(names)[part] for part in (comparison.y, comparison.predictions["one"][0]))
    renamed = balanced_accuracy(y, found, groups=comparison.groups)
    plain = comparison.score("one", comparison.budgets[0])
    assert np.isclose(renamed.value, plain.value) and np.isclose(renamed.low, plain.low)


@given(ODD, ODD, ODD, ODD)
def test_compare_works_or_says_why(train, test, budgets, seeds):
    examples = data.labeled([f"text {i}" for i in range(8)], [0, 1] * 4)
    lists = [
        value if isinstance(value, list) else [value] for value in (train, test, budgets, seeds)
    ]
    arms = {"ones": lambda train, test, seed: np.ones(len(test), int)}
    asked = dict(zip(("train", "test", "budgets", "seeds"), lists, strict=True))
    try:
        compare(arms, examples, **asked)
    except ValueError as error:
        assert len(str(error)) > 10


@pytest.fixture(scope="module")
def script():
    path = Path(__file__).parents[1] / "examples" / "finetune_csv.py"
    spec = importlib.util.spec_from_file_location("finetune_csv", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, *HealthCheck])
@given(
    content=st.binary(max_size=80)
    | st.text(max_size=80).map(lambda text: text.encode("utf-8", "replace"))
    | st.lists(
        st.tuples(st.text(max_size=9), st.sampled_from(["a", "b", "", "NA"])), max_size=9
    ).map(lambda rows: ("text,label\n" + "\n".join(map(",".join, rows))).encode("utf-8", "replace"))
)
def test_any_file_is_read_or_refused_in_one_sentence(script, tmp_path_factory, content):
    file = tmp_path_factory.mktemp("csv") / "table.csv"
    file.write_bytes(content)
    args = script.options([str(file), "--out", str(file.with_name("out"))])
    try:
        found = script.read(args)
    except script.Refused as error:
        assert len(str(error)) > 10
    else:
        assert len(found.classes) >= 2
        assert replace(found, name="again").x is found.x
