"""The methods of fine-tuning, on a tiny BERT."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers import sentences, tiny_bert
from tlbook.learning.freezing import ALL, freeze, last_layers
from tlbook.methods import finetuning
from tlbook.methods.finetuning import (
    HEAD,
    LORA,
    epochs_for,
    fine_tune,
    image_classifier,
    mixed,
    network_arm,
    with_lora,
)
from tlbook.sources.imagenets import efficientnet_lite0


def start(seed: int, fill: float | None = None):
    model = tiny_bert(0.0)
    torch.manual_seed(seed)
    if fill is not None:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(fill)
    return model


def distance(model, other, part="bert"):
    ours, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    return sum((ours[n] - theirs[n]).norm().item() for n in ours if n.startswith(part))


def test_the_fewer_labels_the_more_epochs():
    assert [epochs_for(n) for n in (1, 16, 64, 256, 10**6)] == [64, 16, 8, 4, 1]
    with pytest.raises(ValueError, match="labels"):
        epochs_for(0)


def test_what_the_table_freezes_stays_and_the_rest_moves():
    model, before = start(0), start(0)
    fine_tune(model, sentences(20), last_layers(model, 1, HEAD), 1e-2, epochs=2)
    last = len(model.bert.encoder.layer) - 1
    for name, parameter in model.named_parameters():
        frozen = "embeddings" in name or ("layer." in name and f"layer.{last}." not in name)
        assert torch.equal(parameter, before.get_parameter(name)) == frozen, name


def test_from_scratch_forgets_what_it_was_given():
    columns = sentences(16)
    trained = [
        finetuning.from_scratch(partial(start, fill=fill), columns, 3, rate=1e-3)
        for fill in (None, 0.5)
    ]
    assert distance(*trained, part="") == 0


def test_gradual_unfreezing_goes_from_the_top_down_and_reaches_all(monkeypatch):
    unfrozen = []

    def watched(model, optimizer, pattern, rate):
        unfrozen.append(pattern)
        return original(model, optimizer, pattern, rate)

    original = finetuning.unfreeze
    monkeypatch.setattr(finetuning, "unfreeze", watched)
    model = finetuning.gradual(start, sentences(16), 0, rate=1e-2)
    layers = len(model.bert.encoder.layer)
    assert unfrozen == [rf"layer\.{number}\." for number in reversed(range(layers))]
    assert distance(model, start(0), "bert.encoder.layer.0") > 0
    assert distance(model, start(0), "bert.embeddings") == 0


def test_an_anchor_keeps_the_body_near_its_start():
    free, held = (
        finetuning.anchored(start, sentences(16), 0, rate=1e-2, weight=weight)
        for weight in (0.0, 1e3)
    )
    assert distance(held, start(0), "bert.encoder") < 0.5 * distance(free, start(0), "bert.encoder")


def test_lp_ft_begins_where_the_head_alone_ends():
    columns = sentences(16)
    probed = finetuning.METHODS["head only"](start, columns, 0, rate=1e-2)
    both = finetuning.probe_then_all(start, columns, 0, head_rate=1e-2, rate=0.0)
    assert distance(both, probed, part="") == 0


def test_at_its_ends_a_mixture_is_the_models_and_between_it_is_their_weighted_mean():
    ends = [nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)) for _ in range(2)]
    with torch.no_grad():
        ends[1](torch.randn(8, 3))  # statistics of its own, and a counter
    x = torch.randn(5, 3)
    for alpha, end in zip((0, 1), ends, strict=True):
        assert torch.allclose(mixed(*ends, alpha).eval()(x), end.eval()(x))
    middle, states = mixed(*ends, 0.25).state_dict(), [end.state_dict() for end in ends]
    for name in ("0.weight", "1.running_mean", "1.running_var"):
        expected = 0.75 * states[0][name] + 0.25 * states[1][name]
        assert torch.allclose(middle[name], expected, atol=1e-6), name
    with pytest.raises(ValueError, match="alpha"):
        mixed(*ends, 1.5)


def test_an_arm_predicts_the_test_rows_in_their_order():
    columns = sentences(40)

    def of(rows):
        return {name: [column[row] for row in rows] for name, column in columns.items()} | {
            "labels": np.asarray(columns["labels"])[rows]
        }

    arm = network_arm(finetuning.METHODS["all layers"], start, of, rate=1e-2)
    rows = np.arange(30, 40)
    found, seconds = arm(np.arange(30), rows, 0)
    again, _ = arm(np.arange(30), rows[::-1], 0)
    assert found.shape == (10,) and (found == again[::-1]).all() and seconds > 0


def test_each_method_has_a_rate_that_was_tried():
    assert set(finetuning.CHOSEN) == set(finetuning.RATES) == set(finetuning.METHODS)
    assert all(rate in finetuning.RATES[name] for name, rate in finetuning.CHOSEN.items())
    assert set(finetuning.at_rates()) == {*finetuning.METHODS, "LP-FT", "L2-SP"}


def test_all_layers_is_a_table_that_freezes_nothing():
    model = finetuning.METHODS["all layers"](start, sentences(16), 0, rate=1e-3)
    by_hand = fine_tune(start(0), sentences(16), ALL, 1e-3)
    assert distance(model, by_hand, part="") == 0


def test_a_new_last_layer_depends_on_its_seed_and_leaves_the_encoder_alone():
    encoder = SimpleNamespace(model=efficientnet_lite0())
    model, same, other = (image_classifier(encoder, 4, seed) for seed in (0, 0, 1))
    assert model.classifier.out_features == 4 and encoder.model.classifier.out_features == 1000
    assert torch.equal(model.classifier.weight, same.classifier.weight)
    assert not torch.equal(model.classifier.weight, other.classifier.weight)
    assert {m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert {m.momentum for m in encoder.model.modules() if isinstance(m, nn.BatchNorm2d)} != {0.1}


def test_the_table_of_lora_moves_its_corrections_and_the_new_head_alone():
    model = with_lora(tiny_bert())
    freeze(model, LORA, 1e-3)
    moving = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert all("lora_" in name or "modules_to_save" in name for name in moving)
    parts = ("query.lora_A", "value.lora_B", "classifier.modules_to_save", "pooler.modules_to_save")
    assert all(any(part in name for name in moving) for part in parts)
