"""Small networks on frozen features, adapted to a domain by each method."""

import matplotlib
import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from tlbook import data
from tlbook.learning.batches import Batches
from tlbook.learning.losses import classification
from tlbook.methods import alignment, shallow
from tlbook.methods.adaptation import two_classes, two_domains


def columns(share=0.5, moved=0.0, seed=0):
    x, y = two_classes(512, share, np.random.default_rng(seed))
    return {"x": (x + moved).astype(np.float32), "labels": y}


SOURCE, TARGET = columns(), columns(moved=(0.0, 2.0), seed=1)
UNLABELED = {"x": TARGET["x"]}


@pytest.fixture(scope="module")
def alone():
    return shallow.supervised(SOURCE, 2, 0)


def test_a_network_learns_its_labels_and_is_the_same_again(alone):
    p, inside = shallow.outputs(alone, SOURCE["x"])
    assert (p.argmax(1) == SOURCE["labels"]).mean() > 0.95
    assert inside.shape == (512, 64) and inside.min() >= 0
    again, other = (shallow.supervised(SOURCE, 2, seed) for seed in (0, 1))
    batches = Batches(SOURCE, 64, 1, seed=0)
    one, two = (shallow.trained(classification(), batches, 2, seed)[0] for seed in (0, 1))
    assert not torch.equal(one[0].weight, two[0].weight)
    np.testing.assert_array_equal(p, shallow.outputs(again, SOURCE["x"])[0])
    assert (p != shallow.outputs(other, SOURCE["x"])[0]).any()


def test_a_share_of_the_way_is_that_of_the_means():
    for share in (0.5, 1.0):
        network, move = shallow.moving(alignment.CORAL)(share, SOURCE, UNLABELED, 2, 0)
        start, end = SOURCE["x"].mean(0), TARGET["x"].mean(0)
        expected = start + share * (end - start)
        assert move(SOURCE["x"]).mean(0) == pytest.approx(expected, abs=1e-5)
        right = shallow.outputs(network, move(SOURCE["x"]))[0].argmax(1) == SOURCE["labels"]
        assert right.mean() > 0.95


def distance(network):
    of_source, of_target = (
        torch.from_numpy(shallow.outputs(network, part["x"])[1]) for part in (SOURCE, TARGET)
    )
    return alignment.mmd(of_source, of_target).item()


def test_aligned_features_lie_nearer(alone):
    network, move = shallow.aligning(alignment.mmd)(10.0, SOURCE, UNLABELED, 2, 0)
    assert move is shallow.unmoved and move(SOURCE["x"]) is SOURCE["x"]
    assert distance(network) < 0.75 * distance(alone)


def test_answers_become_sure(alone):
    network, _ = shallow.certain(1.0, SOURCE, UNLABELED, 2, 0)
    doubt, before = (1 - shallow.outputs(n, TARGET["x"])[0].max(1).mean() for n in (network, alone))
    assert doubt < 0.7 * before
    assert (shallow.outputs(network, SOURCE["x"])[0].argmax(1) == SOURCE["labels"]).mean() > 0.95


@pytest.fixture(scope="module")
def told():
    """How often domains are told apart that differ, by DANN's discriminator and by a new one."""
    x, y = two_classes(900, 0.5, np.random.default_rng(2))
    source, target = (data.labeled([f"{i}" for i in range(900)], y, name=n) for n in "ab")

    def by(far, weight):
        moved = x + np.array([0.0, far])
        domains = two_domains(source, x, target, moved, n=512, components=2)
        return shallow.discriminated(domains, weight, 0)

    return by


def test_domains_are_told_apart_only_where_they_differ(told):
    own, new = told(3.0, 1e-6)
    assert own > 0.85 and new > 0.9
    assert told(0.0, 1e-6)[1] == pytest.approx(0.5, abs=0.1)


def test_a_discriminator_that_is_deceived_knows_less(told):
    assert told(3.0, 10.0)[0] < told(3.0, 1e-6)[0] - 0.02
    network, move = shallow.deceiving(10.0, SOURCE, UNLABELED, 2, 0)
    assert move is shallow.unmoved
    assert (shallow.outputs(network, SOURCE["x"])[0].argmax(1) == SOURCE["labels"]).mean() > 0.9


def test_a_ramp_ends_at_its_weight():
    weight = shallow.ramp(3.0)
    assert weight(0.0) == 0 and weight(1.0) == pytest.approx(3, abs=0.001) and weight(0.1) > 1


def test_features_are_drawn_where_the_source_was_moved(alone):
    def drawn(move):
        ax = matplotlib.figure.Figure().subplots()
        shallow.draw_features(ax, alone, move, SOURCE, TARGET, n=50)
        return {part.get_label(): part.get_offsets() for part in ax.collections}

    inside = np.concatenate([shallow.outputs(alone, part["x"])[1] for part in (SOURCE, TARGET)])
    expected = PCA(2).fit(inside).transform(inside)
    here, moved = drawn(shallow.unmoved), drawn(lambda x: TARGET["x"])
    for part, rows in (("source", expected[:50]), ("target", expected[512:562])):
        found = np.concatenate([dots for name, dots in here.items() if part in name])
        np.testing.assert_allclose(np.sort(found, 0), np.sort(rows, 0), atol=1e-4)
    of_source, of_target = (
        np.concatenate([dots for name, dots in moved.items() if part in name])
        for part in ("source", "target")
    )
    np.testing.assert_allclose(np.sort(of_source, 0), np.sort(of_target, 0), atol=1e-4)
