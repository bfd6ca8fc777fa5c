"""The tasks of the chapter on few shots."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

from tlbook.evidence.effects import Effect
from tlbook.methods.fewshots import (
    TEST,
    VALIDATION,
    adaptation,
    augmented,
    by_centroid,
    class_by_class,
    compared,
    curve_network,
    curves,
    draw_adaptation,
    draw_episode,
    draw_learned_start,
    draw_points,
    emoji_kinds,
    fitting_rate,
    gather,
    gaussian_process,
    half_widths,
    recognized,
    said_by_budget,
    smoothed,
    solved,
    train_starts,
)
from tlbook.methods.meta import maml, nearest_prototype, query_losses, reptile, sinusoids


@pytest.fixture(scope="module")
def kinds():
    return emoji_kinds()


def test_no_kind_is_on_two_sides_and_both_styles_stand_in_the_same_order(kinds):
    parts = [set(kinds.y[rows]) for rows in (kinds.train, kinds.validation, kinds.test)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(kinds.names)
    assert [len(part) for part in parts[1:]] == [10, 16]
    counts = np.bincount(kinds.y)
    assert counts.min() >= 10 and counts.max() <= 40
    assert kinds.x.shape == kinds.x_others.shape == (len(kinds.y), 3, 16, 16)
    flat = [x.flatten(1) - x.flatten(1).mean(0) for x in (kinds.x, kinds.x_others)]
    nearest = torch.cdist(*flat)[:200].argmin(1)
    assert (nearest == torch.arange(200)).float().mean() > 0.1  # by chance 1 in 1,000


def test_augmentation_changes_images_and_not_labels():
    batch = {"x": torch.rand(4, 3, 16, 16), "labels": torch.arange(4)}
    seen = {}
    augmented(lambda model, found: seen.update(found), seed=0)(None, batch)
    assert torch.equal(seen["labels"], batch["labels"])
    assert seen["x"].shape == batch["x"].shape and not torch.equal(seen["x"], batch["x"])


def test_whoever_knows_everything_is_always_right():
    y = np.repeat(np.arange(8), 10)
    x = torch.eye(8)[torch.from_numpy(y)]
    learner = nearest_prototype(nn.Identity())
    right, classes = solved([learner], [x], y, 1, number=6, runs=3)
    assert right.shape == (3, 6, 5) and classes.shape == (6, 5) and (right == 1).all()
    things = torch.randn(30, 4)
    right, met = recognized([learner], [things], [things + 1e-3], runs=2, ways=4, number=9)
    assert right.shape == (2, 9, 4) and met.shape == (9, 4) and (right == 1).all()
    wrong, _ = recognized([learner], [things], [things.roll(1, 0)], runs=2, ways=20, number=9)
    assert wrong.mean() < 0.2


def test_ways_are_compared_on_the_same_episodes_only():
    y = np.repeat(np.arange(8), 10)
    known = torch.eye(8)[torch.from_numpy(y)]
    learner = nearest_prototype(nn.Identity())
    ways = {"all": ([learner], [known]), "none": ([learner] * 2, [torch.randn(80, 8)] * 2)}
    found = compared(ways, y, 1, number=12)
    assert found.right["all"].shape == found.right["none"].shape == (2, 12, 5)
    gain = found.gain("all", "none")
    assert gain.value == pytest.approx(1 - found.right["none"].mean())
    table = found.table("none")
    assert list(table.index) == ["all", "none"] and table.index.name == "method"
    assert table.loc["all", "accuracy (%)"] == "100.0"
    assert table.loc["all", "gain over none"] == str(gain)
    other = {name: (right, found.classes[::-1]) for name, right in found.right.items()}
    with pytest.raises(ValueError, match="other episodes"):
        gather({"all": (found.right["all"], found.classes), "none": other["none"]})


def test_an_encoder_lends_its_vectors_to_the_nearest_centroid():
    models = [nn.Sequential(nn.Flatten(), nn.BatchNorm1d(12), nn.Linear(12, 3)) for _ in range(2)]
    first, second = torch.randn(2, 6, 3, 2, 2)
    learners, x, other = by_centroid(models, first, second)
    assert len(learners) == len(x) == len(other) == 2
    torch.testing.assert_close(other[1], models[1].eval()(second).detach())
    assert learners[0](x[0], torch.arange(6), x[0]).tolist() == list(range(6))


def test_queries_are_asked_class_by_class():
    asked = []

    def learner(support_x, support_y, query_x):
        asked.append(query_x.tolist())
        return query_x.numpy() + 1

    answer = class_by_class(learner, queries=2)(None, None, torch.arange(6))
    assert asked == [[0, 1], [2, 3], [4, 5]] and answer.tolist() == [1, 2, 3, 4, 5, 6]


def test_only_one_of_two_intervals_shrinks_with_the_episodes():
    rng = np.random.default_rng(0)
    skill = rng.uniform(0.3, 0.9, 6)  # of six classes
    widths = []
    for number in (50, 5000):
        classes = np.stack([rng.choice(6, 5, replace=False) for _ in range(number)])
        right = (rng.random((number, 5, 5)) < skill[classes][..., None]).mean(2)
        widths.append(half_widths(right, classes))
    ratios = [widths[0][name] / widths[1][name] for name in widths[0]]
    assert ratios[0] == pytest.approx(10, rel=0.2) and ratios[1] < 2
    assert widths[1]["over episodes"] < widths[1]["episodes, classes and images"] / 5


def test_budgets_with_one_answer_are_said_together():
    gain, unclear = Effect(0.1, 0.05, 0.15, 5), Effect(0.1, -0.05, 0.25, 5)
    said = said_by_budget({8: unclear, 32: gain, 64: unclear, 128: unclear})
    assert said == "we cannot tell with 8, 64 and 128; it clearly gains with 32"


def test_starts_are_trained_by_their_loss_and_from_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path))
    losses = {
        "none": None,
        "maml": maml(nn.functional.mse_loss, inner_steps=1, lr=0.02),
        "reptile": reptile(nn.functional.mse_loss, inner_steps=1, lr=0.02),
    }
    starts, seconds = train_starts(losses, 2, 0.02, updates=3, tasks=4)
    first = [curve_network(seed)[0].weight for seed in (0, 1)]
    assert set(seconds) == {"maml", "reptile"} and min(seconds.values()) > 0
    for found, expected in zip(starts["none"], first, strict=True):
        assert torch.equal(found[0].weight, expected)
    for name in seconds:
        assert not torch.equal(starts[name][1][0].weight, first[1])


def test_a_rate_that_diverges_is_not_chosen():
    networks = [curve_network(seed) for seed in range(2)]
    found = adaptation(networks, 0.01, TEST)
    assert found.shape == (2, 11) and (found[:, 10] < found[:, 0]).all()
    losses = query_losses(
        networks[1], nn.functional.mse_loss, curves(TEST, 1), inner_steps=10, lr=0.01
    )
    assert found[1] == pytest.approx(losses.mean(0))
    assert fitting_rate(networks, (1e-9, 0.01, 1e3)) == 0.01


def test_a_process_is_measured_on_the_curves_of_each_seed():
    found = smoothed(2.0, VALIDATION, 2)
    assert found[1] == gaussian_process(curves(VALIDATION, 1), 2.0) != found[0]


def test_a_process_as_smooth_as_the_curves_is_best():
    tasks = sinusoids(20, shots=10, queries=20, seed=0)
    losses = {length: gaussian_process(tasks, length) for length in (0.1, 2.0)}
    assert losses[2.0] < 1 < losses[0.1]


def test_drawings_name_each_task_and_each_class(kinds):
    said = [text.get_text() for text in draw_learned_start().axes[0].texts]
    assert [f"solution of task {n}" in said for n in (1, 2, 3)] == [True] * 3
    rows = np.array([np.flatnonzero(kinds.y == kind)[:4] for kind in (3, 7)])
    axes = np.reshape(draw_episode(kinds.images, kinds.y, kinds.names, rows).axes, (2, 4))
    assert [ax.get_ylabel() for ax in axes[:, 0]] == [kinds.names[3], kinds.names[7]]
    assert np.array_equal(axes[1, 2].images[0].get_array(), kinds.images[rows[1, 2]])
    plt.close("all")


def test_drawings_of_curves_hold_points_steps_and_starts():
    tasks = sinusoids(3, shots=4)
    axes = draw_points(tasks).axes
    assert [list(ax.lines[0].get_ydata()) for ax in axes] == tasks["support_y"][..., 0].tolist()
    losses = {name: np.arange(22.0).reshape(2, 11) + name.count("b") for name in ("a", "b")}
    left, right = draw_adaptation(curve_network(0), 0.01, losses, np.array([3.0, 5.0])).axes
    said = [text.get_text() for text in left.get_legend().get_texts()]
    assert said == ["after 0 steps", "after 1 steps", "after 10 steps", "the curve"]
    assert list(right.lines[1].get_ydata()) == pytest.approx(losses["b"].mean(0))
    assert list(right.lines[2].get_ydata()) == [4, 4]
    plt.close("all")
