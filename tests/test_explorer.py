"""The table of gains that a script turns into a figure with knobs."""

import numpy as np
import pytest
from bs4 import BeautifulSoup

from tlbook.evidence.explorer import Explorer
from tlbook.evidence.scores import Comparison


def compared(name, *, arms=("control", "other <b>")):
    rng = np.random.default_rng(0)
    y = np.arange(40) % 2
    predictions = {arm: rng.integers(0, 2, (2, 3, 40)) for arm in arms}
    seconds = {arm: np.zeros((2, 3)) for arm in arms}
    return Comparison(name, (2, None), (0, 1, 2), y, np.arange(40), predictions, seconds)


def test_the_table_holds_every_gain_and_escapes_names():
    found = compared("a & b")
    html = Explorer({"a & b": found}, "control")._repr_html_()
    cells = [cell.text for cell in BeautifulSoup(html, "html.parser").select("tbody tr > *")]
    gain = found.gain("other <b>", "control", 2)
    assert cells[:2] == ["a & b", "other <b>"]
    low, high = 100 * gain.low, 100 * gain.high
    assert cells[2] == f"2: {100 * gain.value:+.1f} [{low:.1f}, {high:.1f}]"
    assert cells[3].startswith("all: ")
    assert "<b>" not in html
    assert f'data-gain="{100 * gain.value:.2f} ' in html


def test_what_cannot_be_shown_is_refused():
    with pytest.raises(ValueError, match="there are no comparisons"):
        Explorer({}, "control")
    with pytest.raises(ValueError, match="a has no arm 'nothing': it has control, other"):
        Explorer({"a": compared("a")}, "nothing")
