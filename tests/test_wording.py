"""Effects in words: worked cases, boundaries, and what holds of any effect."""

import re
from dataclasses import replace
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

from tests.helpers import build, chapter, write
from tlbook.evidence.effects import Effect
from tlbook.evidence.wording import amount, detectable, in_words, span, verdict
from tools import export
from tools.source import Book


def effect(value, low, high, level=0.95):
    """In points."""
    return Effect(value / 100, low / 100, high / 100, 5, level)


@pytest.mark.parametrize(
    ("measured", "outcome", "words"),
    [
        (effect(10.7, 8, 13), "supported", "gains 10.7 points"),
        (effect(-3.2, -5, -1), "refuted", "loses 3.2 points"),
        (effect(1.04, 0.2, 2.5), "supported", "gains 1 point"),
        (effect(-1, -2.5, -0.1), "refuted", "loses 1 point"),
        (effect(0.9, 0.1, 2.1), "supported", "gains 0.9 points"),
        (
            effect(0.5, 0.1, 1.5),
            "negligible",
            "makes no difference that matters (within 2 points)",
        ),
        (
            effect(1, -4, 6),
            "undecided",
            "makes no clear difference: anything from 4 points less to 6 more",
        ),
        (
            effect(2, -1, 5.25),
            "undecided",
            "makes no clear difference: anything from 1 point less to 5.2 more",
        ),
        (
            effect(3, 0, 6),
            "undecided",
            "makes no clear difference: anything from no difference to 6 points more",
        ),
        (
            effect(-3, -6, 0.04),
            "undecided",
            "makes no clear difference: anything from 6 points less to no difference",
        ),
    ],
)
def test_worked_cases(measured, outcome, words):
    assert verdict(measured) == outcome
    assert in_words(measured) == words


@pytest.mark.parametrize(
    ("measured", "margin", "outcome"),
    [
        (effect(0, -2, 2), 0.02, "negligible"),  # the ends of the margin lie within it
        (effect(0, -2.001, 2), 0.02, "undecided"),
        (effect(1, 0.1, 2.001), 0.02, "supported"),
        (effect(-1, -2.001, -0.1), 0.02, "refuted"),
        (effect(1, 0.1, 2), 0.02, "negligible"),  # clear, and too small to matter
        (effect(1, 0.1, 2), 0.01, "supported"),
        (effect(1, 0, 3), 0.02, "undecided"),  # zero is not above zero
        (effect(0, 0, 0), 0, "negligible"),
        (effect(0.001, -0.001, 0.002), 0, "undecided"),
    ],
)
def test_boundaries(measured, margin, outcome):
    assert verdict(measured, margin) == outcome


def test_subjects_units_and_decimals():
    gain, loss = effect(10.74, 8, 13), effect(-1, -3, -0.5)
    assert in_words(gain, plural=True) == "gain 10.7 points"
    assert in_words(loss, plural=True) == "lose 1 point"
    assert in_words(effect(0, -1, 1), plural=True).startswith("make no difference that matters")
    assert in_words(effect(0, -9, 9), plural=True).startswith("make no clear difference")
    assert in_words(gain, unit="percent") == "gains 10.7 percent"
    assert in_words(gain, digits=0) == "gains 11 points"
    assert in_words(effect(100, 90, 110), digits=0) == "gains 100 points"
    assert in_words(gain, digits=2) == "gains 10.74 points"
    assert in_words(effect(0, -1, 1), 0.015).endswith("(within 1.5 points)")
    assert in_words(effect(0, -1, 1), 0.01).endswith("(within 1 point)")


def test_what_rounds_to_nothing():
    assert in_words(effect(0.01, 0.005, 0.02), 0) == "gains less than 0.1 points"
    assert in_words(effect(0, 0, 0), 0) == "makes no difference"
    assert span(effect(0, -0.01, 0.02)) == "less than 0.1 points either way"
    assert span(effect(0, -0.01, 0.02), digits=0) == "less than 1 point either way"
    assert amount(0) == "0 points"
    assert amount(-0.0107) == "1.1 points"


def test_any_object_with_three_numbers_is_an_effect():
    measured = SimpleNamespace(value=np.float64(0.1), low=np.float32(0.05), high=0.2)
    assert in_words(measured) == "gains 10 points"


@pytest.mark.parametrize(
    ("measured", "margin", "message"),
    [
        (effect(float("nan"), -1, 1), 0.02, "value=nan must be a finite number"),
        (effect(1, -1, float("inf")), 0.02, "high=inf must be"),
        (effect(0, 1, -1), 0.02, "check its limits"),
        (effect(-1, 1, 2), 0.02, "check its limits"),
        (effect(1, -2, -1), 0.02, "check its limits"),
        (effect(0, -1, 1, level=0.8), 0.02, "level=0.8 must be"),
        (effect(0, -1, 1), -0.01, "margin=-0.01 must be"),
    ],
)
def test_what_is_no_effect_is_refused(measured, margin, message):
    for function in (verdict, in_words):
        with pytest.raises(ValueError, match=message):
            function(measured, margin)


def test_what_holds_of_any_effect():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        scale, margin = 10.0 ** rng.uniform(-4, 0), rng.choice([0, 0.01, 0.02, 0.05])
        low, value, high = np.sort(rng.normal(0, scale, 3))
        ours, mirrored = (
            SimpleNamespace(value=value, low=low, high=high),
            SimpleNamespace(value=-value, low=-high, high=-low),
        )
        words, outcome = in_words(ours, margin), verdict(ours, margin)
        # A sign or a hyphen never stands before a number, and a single point is no plural
        assert not re.search(r"[-−+]\d", words)
        assert not re.search(r"(?<![\d.])1 points|[02-9] point\b|\.1 point\b", words)
        assert "nan" not in words and "0 more" not in re.sub(r"\d0 more", "", words)
        # The other way round, a gain is a loss and nothing else changes
        turned = {"supported": "refuted", "refuted": "supported"}
        assert verdict(mirrored, margin) == turned.get(outcome, outcome)
        if outcome in turned:
            swapped = words.replace("gains", "?").replace("loses", "gains").replace("?", "loses")
            assert in_words(mirrored, margin) == swapped
        # A wider margin makes more differences negligible and decides nothing else
        assert verdict(ours, margin + 0.01) in (outcome, "negligible")
        # Words and outcome are one rule
        start = {
            "supported": "gains ",
            "refuted": "loses ",
            "negligible": "makes no difference",
            "undecided": "makes no clear difference: ",
        }
        assert words.startswith(start[outcome])


def test_negligible_asks_for_the_interval_of_two_one_sided_tests():
    """The 95 percent interval leaves the margin, the 90 percent one does not."""
    measured = Effect.over_seeds([-0.010, 0.01, 0.02, 0.016, 0.002])
    assert measured.high > 0.02 > measured.at(0.9).high
    assert verdict(measured) == verdict(-measured) == "negligible"
    assert verdict(replace(measured, components=None)) == "undecided"
    assert verdict(measured, 0.01) == "undecided"


def test_what_could_have_been_seen():
    undecided = Effect.over_seeds([0.1, -0.05, 0.02, 0.04])
    assert verdict(undecided) == "undecided"
    size = amount(undecided.detectable())
    assert detectable(undecided) == (
        f"an effect of {size} would be found in 80 percent of such experiments"
    )


def test_an_unreliable_effect_is_undecided_and_says_why():
    failed = Effect(0.01, -1, 1, 5, unreliable="1 of 5 runs lies far from the others")
    for margin in (0.02, 2):
        assert verdict(failed, margin) == "undecided"
    assert in_words(failed) == "makes no clear difference: 1 of 5 runs lies far from the others"
    assert detectable(failed).startswith("no telling")


# In the book


CODE = """from tlbook.evidence.claims import record
from tlbook.evidence.effects import Effect
from tlbook.evidence.wording import in_words

record(
    one=in_words(Effect(0.107, 0.08, 0.13, 5)),
    two=in_words(Effect(0.01, -0.04, 0.06, 5)),
)"""
PROSE = "\nThe encoder {glue:text}`one`, and freezing {glue:text}`two`.\n"
SENTENCE = (
    "The encoder gains 10.7 points, and freezing makes no clear difference: anything from 4 points "
    "less to 6 more."
)


@pytest.fixture
def root(tmp_path, kernels_find_the_tools):
    """A book of one chapter that glues words."""
    write(tmp_path, a=chapter("A", CODE) + PROSE)
    with (tmp_path / "_config.yml").open("a") as config:
        config.write("repository: {url: https://github.com/sample/book, branch: main}\n")
    return tmp_path


def test_the_exported_notebook_says_the_words(root):
    book = Book(root)
    [text] = export.export(book)[0].values()
    notebook = nbformat.reads(text, as_version=4)
    executed = NotebookClient(
        notebook, timeout=60, resources={"metadata": {"path": root}}
    ).execute()
    assert executed.cells[-1].outputs[0].data["text/markdown"].strip() == SENTENCE


@pytest.mark.slow
def test_the_book_shows_the_words(root):
    status, output = build(root)
    assert status == 0, output
    html = (root / "_build" / "html" / "chapters" / "a.html").read_text("utf-8")
    assert SENTENCE in " ".join(re.sub("<[^>]+>", "", html).split())
