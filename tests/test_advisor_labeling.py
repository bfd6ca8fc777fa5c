"""What to label next: unsure, and unlike each other."""

import numpy as np
import pytest
from scipy import sparse

from tlbook.advisor.labeling import POOL, margins, next_to_label


def two_classes(margin):
    first = (1 + np.asarray(margin)) / 2
    return np.stack([first, 1 - first], axis=1)


def test_margins_by_hand():
    given = np.array([[0.2, 0.5, 0.3], [1, 0, 0], [0.4, 0.4, 0.2]])
    assert margins(given) == pytest.approx([0.2, 1, 0])
    with pytest.raises(ValueError, match="two classes or more"):
        margins(np.ones((3, 1)))


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix])
def test_they_are_unsure_and_unlike_each_other(kind):
    rng = np.random.default_rng(0)
    # 40 unsure examples at four corners, the least sure ones all at the first; 200 sure ones
    corners = np.repeat(np.eye(4), 10, axis=0)
    margin = np.concatenate([np.linspace(0, 0.2, 40), np.full(200, 0.9)])
    vectors = np.concatenate([corners, rng.normal(size=(200, 4))])
    vectors[:40] += rng.normal(0, 0.01, (40, 4))
    chosen = next_to_label(two_classes(margin), kind(vectors), 4)
    assert sorted(chosen // 10) == [0, 1, 2, 3]  # one of each corner, none of the sure
    assert (np.diff(margin[chosen]) >= 0).all()
    # the margin alone takes them all from one corner
    assert (np.argsort(margin)[:4] < 10).all()


def test_copies_and_few_examples():
    same = np.ones((50, 3))
    chosen = next_to_label(two_classes(np.linspace(0, 1, 50)), same, 4)
    assert len(set(chosen)) == 4 and (chosen < POOL * 4).all()
    assert next_to_label(two_classes([0.3, 0.1]), same[:2], 5).tolist() == [1, 0]
    with pytest.raises(ValueError, match="one of each"):
        next_to_label(two_classes([0.3, 0.1]), same, 5)
    with pytest.raises(ValueError, match="count"):
        next_to_label(two_classes([0.3, 0.1]), same[:2], 0)


def test_the_seed_decides_alone():
    rng = np.random.default_rng(1)
    given = two_classes(rng.random(300)), rng.normal(size=(300, 5))
    assert (next_to_label(*given, 10) == next_to_label(*given, 10)).all()


def test_the_unsure_weigh_more_in_a_cluster():
    """Two unsure examples at 0 and eight nearly sure ones at 10: the center is near 0."""
    vectors = np.array([[0.0], [0.0]] + [[10.0]] * 8)
    chosen = next_to_label(two_classes([0.0, 0.01] + [0.99] * 8), vectors, 1)
    assert chosen.tolist() == [0]
