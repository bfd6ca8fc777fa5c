"""Arguments: what is accepted comes back, what is not is named."""

import numpy as np
import pandas as pd
import pytest

from tlbook import checks


@pytest.mark.parametrize("value", [-1, 0.5, 2.0, True, None, "3", float("nan")])
def test_integer_refuses(value):
    with pytest.raises(ValueError, match=r"size=.* must be a whole number, at least 0"):
        checks.integer("size", value)


def test_integer_accepts_those_of_numpy():
    found = checks.integer("size", np.int32(3), least=3)
    assert found == 3 and type(found) is int


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), None, "1", True])
def test_number_refuses(value):
    with pytest.raises(ValueError, match=r"lr=.* finite number, above 0"):
        checks.number("lr", value, above=0)


def test_number_knows_which_limits_are_inside():
    assert checks.number("share", 0, least=0, below=1) == 0
    assert checks.number("share", 1, above=0, most=1) == 1
    with pytest.raises(ValueError, match="below 1"):
        checks.number("share", 1, least=0, below=1)
    with pytest.raises(ValueError, match="above 0"):
        checks.number("share", 0, above=0, most=1)


def test_choice_names_the_choices():
    assert checks.choice("train", "all", {"all": 1, "head": 2}) == "all"
    with pytest.raises(ValueError, match="train='none': choose one of all, head"):
        checks.choice("train", "none", {"all": 1, "head": 2})


def test_seeds_count_once():
    assert checks.seeds(range(3)) == (0, 1, 2)
    with pytest.raises(ValueError, match="twice"):
        checks.seeds([0, 1, 0])
    with pytest.raises(ValueError, match="at least 2"):
        checks.seeds([0], least=2)
    with pytest.raises(ValueError, match="seed=-1"):
        checks.seeds([-1])


def test_positions():
    assert checks.positions("test", [2, 0], 3).tolist() == [2, 0]
    assert checks.positions("test", np.array([True, False, True]), 3).tolist() == [0, 2]
    assert checks.positions("test", [], 3).tolist() == []
    for rows, message in [
        ([0, -1], "position -1"),
        ([3], "position 3"),
        ([1, 1], "more than once"),
        ([0.5], "list of positions"),
        ([[0, 1]], "list of positions"),
        ([True, False], "mask"),
    ]:
        with pytest.raises(ValueError, match=message):
            checks.positions("test", rows, 3)


def test_texts():
    column = pd.Series(["a", "b"], index=[7, 9])
    assert checks.texts("text", column) == ["a", "b"]
    for values, message in [
        ("one", "one string"),
        (column.to_frame("text"), "a table"),
        ({"text": ["a"]}, "a table or a dictionary"),
        (["a", None], "row 1 is missing"),
        (["a", float("nan")], "row 1 is missing"),
        (["a", pd.NA], "row 1 is missing"),
        (["a", 3], "row 1 is not a string but 3"),
        (["a", b"b"], "not a string"),
        (["\ud83d"], "surrogate"),
    ]:
        with pytest.raises(ValueError, match=message):
            checks.texts("text", values)
