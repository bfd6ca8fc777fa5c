"""Two findings of the record, derived anew: of the package, the data and the features alone.

What draws the runs, scores them and puts an interval around their difference is written a second
time here, in plain loops, after the formulas of the module of effects. A record that this does not
repeat is wrong, whatever the build says.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from tlbook import data, sources
from tlbook.learning.features import features
from tlbook.sources.pretrained import load

RECORD = Path(__file__).parents[1] / "tlbook" / "evidence" / "ledger.json"


def recorded(claim, setting):
    findings = json.loads(RECORD.read_text("utf-8"))[claim]["findings"]
    (found,) = [finding for finding in findings if finding["setting"] == setting]
    return found


def on_counts(texts, y, train, test):
    words = TfidfVectorizer().fit(texts[train])
    model = LogisticRegression().fit(words.transform(texts[train]), y[train])
    return model.predict(words.transform(texts[test]))


def on_vectors(vectors, y, train, test):
    return LogisticRegression().fit(vectors[train], y[train]).predict(vectors[test])


def on_directions(vectors, y, train, test):
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    model = LogisticRegression(C=100, max_iter=2000).fit(vectors[train], y[train])
    return model.predict(vectors[test])


def gain_with_interval(gains, y, groups):
    """The mean over classes of gains (seeds, n), and the limits of its 95 percent interval."""
    seeds, classes, names = len(gains), np.unique(y), np.unique(groups)
    means = np.array([[gain[y == label].mean() for label in classes] for gain in gains])
    adds = np.zeros((seeds, len(names)))
    for s in range(seeds):
        for g, name in enumerate(names):
            for c, label in enumerate(classes):
                rows = (groups == name) & (y == label)
                off = gains[s, rows] - means[s, c]
                adds[s, g] += off.sum() / (y == label).sum() / len(classes)
    n = len(names)
    of_seeds = means.mean(1).var(ddof=1) / seeds
    of_groups = n * adds.mean(0).var(ddof=1)
    rest = adds - adds.mean(0)
    rest = n * sum(row.var(ddof=1) for row in rest) / (seeds * (seeds - 1))
    variance = max(of_seeds + of_groups - rest, of_seeds, of_groups)
    df = variance**2 / (of_seeds**2 / (seeds - 1) + of_groups**2 / (n - 1))
    half = t.ppf(0.975, df) * variance**0.5
    return means.mean(), means.mean() - half, means.mean() + half


def derived(dataset, arm, control, per_class, seeds):
    """What the arm gains over the control; both are functions of labeled rows and test rows."""
    train, _, test = data.split(dataset, test=1 / 3, seed=0)
    gains = gains_of(dataset, arm, control, train, test, per_class, range(seeds))
    return gain_with_interval(gains, dataset.y[test], dataset.groups[test])


def gains_of(dataset, arm, control, train, test, per_class, seeds):
    """(seeds, test rows) 1 where the arm alone is right, -1 where the control alone is."""
    gains = []
    for seed in seeds:
        rows = data.sample(dataset, train, per_class=per_class, seed=seed)
        ours, theirs = (predict(rows, test) == dataset.y[test] for predict in (arm, control))
        gains.append(ours.astype(float) - theirs)
    return np.array(gains)


def derived_on_splits(dataset, arm, control, per_class, splits, seeds):
    """The same over several splits, with what they share counted once and not for each."""
    values, of_groups, own, rest = [], [], [], []
    for position in range(splits):
        train, _, test = data.split(dataset, test=1 / 3, seed=position)
        drawn = range(seeds * position, seeds * (position + 1))
        gains = gains_of(dataset, arm, control, train, test, per_class, drawn)
        y, groups = dataset.y[test], dataset.groups[test]
        classes, names = np.unique(y), np.unique(groups)
        off = gains - sum((y == c) * gains[:, y == c].mean(1, keepdims=True) for c in classes)
        weight = sum((y == c) / (y == c).sum() / len(classes) for c in classes)
        adds = np.stack([(off * weight)[:, groups == name].sum(1) for name in names], 1)
        by_group = dict(zip(names, adds.mean(0), strict=True))
        values.append([(gain * weight).sum() for gain in gains])
        of_groups.append(by_group)
        own.append(sum(add**2 for add in by_group.values()))
        rest.append(((adds - adds.mean(0)) ** 2).sum() / (seeds - 1) / seeds)
    values = np.array(values)
    pairs = [
        sum(of_groups[p][name] * of_groups[q].get(name, 0) for name in of_groups[p])
        for p in range(splits)
        for q in range(splits)
        if p != q
    ]
    shared = max(0.0, np.mean(pairs))
    alone = max(0.0, np.mean(own) - np.mean(rest) - shared)
    within, between = values.var(1, ddof=1).mean(), values.mean(1).var(ddof=1)
    of_splits = max(0.0, between - within / seeds - alone)
    terms = [
        (within / values.size, values.size - splits),
        (of_splits / splits, splits - 1),
        (shared + alone / splits, len(of_groups[0]) - 1),
    ]
    variance = sum(term for term, _ in terms)
    half = t.ppf(0.975, variance**2 / sum(v**2 / df for v, df in terms)) * variance**0.5
    return values.mean(), values.mean() - half, values.mean() + half


def compared(found, record):
    effect, low, high = found
    # arms are linear, so another machine changes no more than a few of a thousand answers
    assert effect == pytest.approx(record["effect"], abs=0.003)
    # the package also corrects for classes of few groups
    near = 0.1 * (record["interval"][1] - record["interval"][0])
    assert [low, high] == pytest.approx(record["interval"], abs=near)


@pytest.mark.slow
def test_a_frozen_encoder_against_scratch_on_reviews():
    products = sources.reviews("amazon")
    vectors = features(load("minilm-l6"), products.x, progress=False)
    found = derived(
        products,
        lambda train, test: on_vectors(vectors, products.y, train, test),
        lambda train, test: on_counts(products.x, products.y, train, test),
        per_class=8,
        seeds=10,
    )
    setting = "product reviews, 8 labels per class: frozen encoder against scratch"
    compared(found, recorded("C2", setting))


@pytest.mark.slow
def test_a_frozen_encoder_against_pixels_on_emoji():
    """The finding that the first edition had with the wrong sign."""
    emoji = sources.emoji("twemoji")
    vectors = features(load("efficientnet-lite0"), emoji.x, progress=False)
    images = torch.from_numpy(emoji.x).permute(0, 3, 1, 2) / 255
    small = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    pixels = small.flatten(1).numpy()
    found = derived_on_splits(
        emoji,
        lambda train, test: on_directions(vectors, emoji.y, train, test),
        lambda train, test: on_directions(pixels, emoji.y, train, test),
        per_class=1,
        splits=5,
        seeds=4,
    )
    setting = "emoji, 1 label per class: frozen encoder against raw pixels"
    compared(found, recorded("C2", setting))
