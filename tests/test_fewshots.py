"""The tasks of the chapter on few shots."""

import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt
from torch import nn

from tlbook.methods.fewshots import (
    augmented,
    draw_episode,
    draw_learned_start,
    emoji_kinds,
    gaussian_process,
    recognized,
    solved,
)
from tlbook.methods.meta import nearest_prototype, sinusoids


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
