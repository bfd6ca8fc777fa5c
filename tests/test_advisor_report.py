"""Figures and the page: numbers by hand, nothing from outside, names of users as they are."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from tlbook.advisor import report
from tlbook.advisor.curve import Curve, Gain
from tlbook.advisor.search import Results
from tlbook.advisor.strategies import Run
from tlbook.data import labeled

CLASSES = ("<b>", "$5", "漢_字")


@pytest.fixture
def results():
    data = labeled([f"text {i}" for i in range(9)], [CLASSES[i // 3] for i in range(9)])
    order = [data.classes.index(name) for name in CLASSES]
    parts = [(np.arange(0), np.arange(9)), (np.arange(0), np.arange(6))]
    answers = np.array([0, 0, 1, 1, 1, 1, 0, 2, 2])
    runs = [Run(np.array(order)[answers], 1, 1), Run(np.array(order)[answers[:6]], 1, 1)]
    return Results(data, parts, {"one": runs}), order


def test_confusions_by_hand(results):
    found, order = results
    table = report.confusions(found, "one")[np.ix_(order, order)]
    assert table == pytest.approx(np.array([[2 / 3, 1 / 3, 0], [0, 1, 0], [1 / 3, 0, 2 / 3]]))
    rows = report.by_class(found, "one").set_index("class").loc[list(CLASSES)]
    assert rows["taken for"].to_list() == ["$5 (33 %)", "", "<b> (33 %)"]
    assert rows["examples"].to_list() == [3, 3, 3]
    found.parts[:] = [(np.arange(0), test[:6]) for _, test in found.parts]
    for run in found.runs["one"][:1]:
        object.__setattr__(run, "predicted", run.predicted[:6])
    last = report.by_class(found, "one").set_index("class").loc[CLASSES[2]]
    assert np.isnan(last["right"]) and last["taken for"] == ""


def svg(figure):
    text = report.as_svg(figure)
    assert "http" not in text and "<script" not in text and "#000000" not in text
    return BeautifulSoup(text, "html.parser")


def test_figures_hold_the_names_as_they_are(results):
    found, _ = results
    words = svg(report.draw_confusions(report.confusions(found, "one"), found.data.classes)).text
    assert all(name in words for name in CLASSES) and "33" in words and "100" in words


def test_gains_and_curves():
    table = pd.DataFrame(
        {
            "strategy": ["words", "frozen"],
            "gain": [np.nan, 0.02],
            "low": [np.nan, -0.01],
            "high": [np.nan, 0.05],
        }
    )
    figure = report.draw_gains(table, "frozen", "words")
    dot, line = figure.axes[0].lines[:2]
    assert dot.get_xdata() == pytest.approx(2) and line.get_xdata() == pytest.approx([-1, 5])
    assert "gain over words" in svg(figure).text
    labels = np.array([4.0, 8, 16, 32, 50])
    curve = Curve("frozen", labels, np.tile(np.linspace(0.5, 0.7, 5), (3, 1)))
    more = Gain(50, 100, 0.03, 0.01, 0.05, {})
    figure = report.draw_curves((curve,), more)
    dotted, span = figure.axes[0].lines[-2:]
    assert dotted.get_ydata() == pytest.approx([70, 73])
    assert span.get_ydata() == pytest.approx([71, 75]) and span.get_xdata()[0] == 150
    assert "labels per class" in svg(figure).text
