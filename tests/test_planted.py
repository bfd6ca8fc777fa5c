"""Comparisons broken on purpose: the rule of replication must say so, by the record's code.

Small and real: digits of eight by eight pixels, a layer that was trained on five of them, ten
seeds. A finding is stated as a chapter states it, honestly and broken, and
:func:`tools.replicate.judge`
compares the two. A head whose scaler is fitted to nine rows, the fault of the first edition, is
planted here as well; ``test_rederived.py`` derives the finding that it turned.
"""

import copy
import json

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from torch.nn.functional import cross_entropy

from tlbook import compare, data, linear_head, sources
from tlbook.evidence import claims
from tools import replicate

BUDGETS = (1, 3, 10)


def trained(parameters, model, x, y, steps):
    optimizer = torch.optim.Adam(parameters, 1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        cross_entropy(model(x), y).backward()
        optimizer.step()


@pytest.fixture(scope="module")
def digits():
    """Rows, pixels, the split, and a layer that has learned the digits below five."""
    every = sources.digits()
    some = every.take(data.sample(every, per_class=60, seed=0))
    x = torch.from_numpy(some.x[..., 0].reshape(len(some), -1).astype(np.float32) / 255)
    torch.manual_seed(0)
    layer = nn.Linear(64, 32)
    network = nn.Sequential(layer, nn.ReLU(), nn.Linear(32, 5))
    rows = some.y < 5
    trained(network.parameters(), network, x[rows], torch.from_numpy(some.y)[rows], 200)
    train, _, test = data.split(some, test=1 / 3, seed=0)
    return some, x, layer, train, test


@pytest.fixture
def measured(digits, monkeypatch):
    """State a finding, the gain of the layer over pixels, whole or with a break."""
    some, x, layer, train, test = digits
    y = torch.from_numpy(some.y)
    frozen = layer(x).relu().detach().numpy()

    def measure(kind, budget, broken=None, both=False, noise=0.0):
        def rows_of(labeled, tests, seed):
            if broken == "seed":
                return data.sample(some, train, per_class=budget, seed=seed + 1)
            return np.concatenate([labeled, tests]) if broken == "test rows" else labeled

        def linear(vectors, harmed):
            scaled = make_pipeline(StandardScaler(), LogisticRegression())
            head = scaled if harmed and broken == "scaler" else linear_head()

            def arm(labeled, tests, seed):
                rows = rows_of(labeled, tests, seed) if harmed else labeled
                return head.fit(vectors[rows], some.y[rows]).predict(vectors[tests])

            return arm

        def network(labeled, tests, seed):
            rows = rows_of(labeled, tests, seed)
            torch.manual_seed(seed)
            base, head = copy.deepcopy(layer), nn.Linear(32, 10)
            model = nn.Sequential(base, nn.ReLU(), head)
            moving = model if broken == "layer" else head
            trained(moving.parameters(), model, x[rows] * (1 + noise), y[rows], 60)
            with torch.inference_mode():
                return model(x[tests]).argmax(1).numpy()

        arms = {
            "layer": linear(frozen, True) if kind == "exact" else network,
            "pixels": linear(x.numpy(), both),
        }
        found = compare(arms, some, train=train, test=test, budgets=[budget], seeds=range(10))
        shown = []
        monkeypatch.setattr(claims, "display", lambda carried, raw: shown.append(carried))
        gain = found.gain("layer", "pixels", budget)
        claims.finding("C2", gain, setting=f"{budget} labels", kind=kind)
        return json.loads(json.dumps(shown[0][claims.FINDING]))

    return measure


@pytest.mark.parametrize("budget", BUDGETS)
def test_exact_arms_catch_every_break(measured, budget):
    was = measured("exact", budget)
    assert replicate.judge(was, measured("exact", budget))["color"] == "green"
    for broken in ("seed", "test rows", "scaler"):
        for both in (False, True):
            said = replicate.judge(was, measured("exact", budget, broken, both))
            assert said["color"] == "red", (broken, both)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("broken", ["layer", "test rows"])
def test_networks_catch_what_moves_or_leaks(measured, budget, broken):
    was = measured("trained", budget)
    assert replicate.judge(was, measured("trained", budget, noise=1e-6))["color"] == "green"
    assert replicate.judge(was, measured("trained", budget, broken))["color"] == "red"


def test_a_network_alone_may_miss_a_wrong_seed(measured):
    """Ten draws of ten: another one of them is within the standard error of their mean.

    What catches it is an exact finding of the same chapter, whose seeds must repeat one by one.
    """
    colors = set()
    for budget in BUDGETS:
        was, now = (measured("trained", budget, broken, both=True) for broken in (None, "seed"))
        colors.add(replicate.judge(was, now)["color"])
    assert "red" not in colors
