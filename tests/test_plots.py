"""The figures that chapters share."""

import matplotlib
import numpy as np
import pytest

from tlbook.evidence import plots
from tlbook.evidence.comparison import Comparison
from tlbook.evidence.effects import Effect

matplotlib.use("agg")


@pytest.fixture
def comparison():
    rng = np.random.default_rng(0)
    y = np.arange(40) % 4
    predictions = {
        name: np.where(rng.random((3, 5, 40)) < 0.5, y, rng.integers(0, 4, (3, 5, 40)))
        for name in ("one", "two")
    }
    seconds = {name: np.ones((3, 5)) for name in predictions}
    return Comparison("made", (2, 8, None), tuple(range(5)), y, np.arange(40), predictions, seconds)


def test_learning_curves_draw_scores_with_their_bands(comparison):
    ax = plots.learning_curves(comparison)
    one, two, chance = ax.lines
    scores = [100 * comparison.score("one", budget).value for budget in (2, 8, None)]
    assert list(one.get_ydata()) == pytest.approx(scores)
    assert list(chance.get_ydata()) == [25, 25]  # four classes
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["one", "two", "chance"]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "8", "all"]
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    effects = [comparison.score("one", budget) for budget in (2, 8, None)]
    assert band.min() == pytest.approx(100 * min(effect.low for effect in effects))
    assert band.max() == pytest.approx(100 * max(effect.high for effect in effects))
    assert np.all(np.diff(two.get_xdata()) > 0)


def test_more_arms_than_colors_are_refused_and_some_can_be_chosen(comparison):
    names = [f"arm {index}" for index in range(8)]
    for name in names:
        comparison.predictions[name] = comparison.predictions["one"]
    with pytest.raises(ValueError, match="10 arms, but 7 colors"):
        plots.learning_curves(comparison)
    ax = plots.learning_curves(comparison, arms=["two", "arm 3"])
    assert [line.get_label() for line in ax.lines] == ["two", "arm 3", "chance"]


def test_a_method_looks_the_same_among_others():
    blue, gray = (plots.COLORS[0], plots.MARKERS[0]), (plots.COLORS[6], plots.MARKERS[6])
    assert plots.looks(["mine", "from scratch", "frozen features"])[1:] == [gray, blue]
    assert plots.looks(["frozen encoder, logistic regression"]) == [blue]
    # a place that is taken, and names without one, get what is free
    found = plots.looks(["frozen a", "frozen b", "mine", "word counts"])
    assert found[0] == blue and found[3][0] == plots.COLORS[3] and len(set(found)) == 4
    assert plots.looks([str(i) for i in range(7)]) == list(
        zip(plots.COLORS, plots.MARKERS, strict=True)
    )


def test_effects_are_colored_by_what_they_show():
    named = {
        "gain": Effect(0.1, 0.05, 0.15, 5),
        "nothing": Effect(0.0, -0.1, 0.1, 5),
        "loss": Effect(-0.1, -0.15, -0.05, 5),
    }
    ax = plots.effects(named)
    assert len({line.get_color() for line in ax.lines[:6]}) == 3
    assert list(ax.lines[0].get_xdata()) == [5, 15]
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(named)


def test_an_unreliable_effect_is_a_cross_without_an_interval():
    failed = Effect(0.1, -1, 1, 5, unreliable="1 of 5 runs lies far from the others")
    ax = plots.effects({"fine": Effect(0.1, 0.05, 0.15, 5), "failed": failed})
    assert [line.get_marker() for line in ax.lines] == ["None", "o", "x", "None"]
    assert list(ax.lines[2].get_xdata()) == [10] and ax.get_xlim()[1] < 20


def test_transfer_table_names_rows_and_columns():
    ax = plots.transfer_table(np.array([[0.8, 0.6], [0.55, 0.9]]), ["a", "b"])
    assert [text.get_text() for text in ax.texts] == ["80", "60", "55", "90"]
    assert (ax.get_ylabel(), ax.get_xlabel()) == ("trained on", "tested on")


def test_bands_follow_their_effects_and_tick_where_these_stand():
    rising = [Effect(v, v - 0.1, v + 0.2, 5) for v in (0.1, 0.3)]
    ax = plots.bands([2, 60], {"one": rising, "two": rising[::-1]})
    assert [list(line.get_ydata()) for line in ax.lines] == [[10, 30], [30, 10]]
    ends = ax.collections[0].get_paths()[0].vertices
    assert set(map(tuple, ends.round(6))) >= {(2, 0), (2, 30), (60, 20), (60, 50)}
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["2", "60"]
    with pytest.raises(ValueError, match="8 lines, but 7 colors"):
        plots.bands([1], {str(n): rising[:1] for n in range(8)})
    with pytest.raises(ValueError, match="shorter"):
        plots.bands([1, 2], {"one": rising[:1]})


def test_rows_of_images_are_named_and_unequal_ones_refused():
    images = np.zeros((3, 4, 5, 3))
    torch_order = np.moveaxis(images + 1, -1, 1)
    fig = plots.image_rows({"first": images, "second": torch_order})
    named = [ax.get_ylabel() for ax in fig.axes if ax.get_ylabel()]
    assert len(fig.axes) == 6 and named == ["first", "second"]
    shown = fig.axes[3].images[0].get_array()
    assert shown.shape == (4, 5, 3) and shown.max() == 1
    with pytest.raises(ValueError, match="shorter"):
        plots.image_rows({"first": images, "second": images[:2]})


def test_a_diagram_s_arrows_join_the_boxes_they_name():
    boxes = {"a": (1, 1, "an input", "white"), "b": (4, 1, "a network", "#dbe9f6")}
    ax = plots.diagram(boxes, {("a", "b"): "once"}, size=(5, 2))
    assert [text.get_text() for text in ax.texts] == ["an input", "a network", "", "once"]
    one, other, arrow, words = ax.texts
    assert arrow.get_position() == (1, 1) and arrow.xy == (4, 1)
    assert words.get_position() == (2.5, 1)
    assert arrow.arrow_patch.patchA is one.get_bbox_patch()
    assert arrow.arrow_patch.patchB is other.get_bbox_patch()
    assert other.get_bbox_patch().get_facecolor() == matplotlib.colors.to_rgba("#dbe9f6")
    with pytest.raises(KeyError, match="'c'"):
        plots.diagram(boxes, {("a", "c"): ""})
