"""Frozen means frozen."""

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from tests.helpers import sentences, tiny_bert, weights
from tlbook.learning.batches import Batches
from tlbook.learning.freezing import (
    ALL,
    audit_frozen,
    describe,
    eval_mode,
    freeze,
    head_only,
    last_layers,
    train_mode,
    unfreeze,
)
from tlbook.learning.loop import steps
from tlbook.learning.losses import classification


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Module()
    model.body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    model.classifier = nn.Linear(4, 2)
    model.forward = lambda x: model.classifier(model.body(x).mean((2, 3)))
    return model


def images():
    torch.manual_seed(0)
    return {"x": torch.randn(32, 1, 8, 8), "labels": torch.arange(32) % 2}


def train(model, table, columns, optimizer=AdamW, n=3, **options):
    groups = freeze(model, table, lr=0.1, weight_decay=0.5)
    return list(
        steps(model, classification(), Batches(columns, 8, n), optimizer(groups), **options)
    )


def trained_names(model):
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


# --- the table ------------------------------------------------------------------------------------


def test_the_first_pattern_decides():
    model = tiny_bert()
    table = [("classifier", 1.0), (r"layer\.2\.", 0.3), (r"layer\.", 0.1), (".*", None)]
    groups = freeze(model, table, lr=1e-3)
    rate = {id(p): group["lr"] for group in groups for p in group["params"]}
    named = dict(model.named_parameters())
    assert rate[id(named["classifier.weight"])] == pytest.approx(1e-3)
    assert rate[id(named["bert.encoder.layer.2.output.dense.weight"])] == pytest.approx(3e-4)
    assert rate[id(named["bert.encoder.layer.0.output.dense.weight"])] == pytest.approx(1e-4)
    assert id(named["bert.embeddings.word_embeddings.weight"]) not in rate


def test_weight_decay_goes_on_matrices_only():
    for group in freeze(tiny_bert(), ALL, lr=1.0, weight_decay=0.1):
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim >= 2 else 0.0)


def test_a_pattern_that_decides_nothing_is_an_error():
    with pytest.raises(ValueError, match=r"pattern 'layers.*9' decides over no parameter"):
        freeze(tiny_bert(), [(r"layers\.9", 1.0), (".*", None)], lr=1.0)
    with pytest.raises(ValueError, match="pattern 'classifier' decides"):  # shadowed
        freeze(tiny_bert(), [(".*", 1.0), ("classifier", None)], lr=1.0)


def test_a_parameter_that_no_pattern_covers_is_an_error():
    with pytest.raises(ValueError, match=r"no pattern covers 'bert.embeddings"):
        freeze(tiny_bert(), [("classifier", 1.0)], lr=1.0)


def test_freezing_everything_is_an_error():
    with pytest.raises(ValueError, match="nothing left to train"):
        freeze(tiny_bert(), [(".*", None)], lr=1.0)


@pytest.mark.parametrize(
    ("table", "trained"),
    [
        (lambda m: head_only(), {"classifier"}),
        (lambda m: last_layers(m, 1), {"classifier", "pooler", "layer.2"}),
        (lambda m: last_layers(m, 0), {"classifier", "pooler"}),
        (lambda m: last_layers(m, 3), {"classifier", "pooler", "layer.0", "layer.1", "layer.2"}),
    ],
)
def test_tables_train_what_they_say(table, trained):
    model = tiny_bert()
    freeze(model, table(model), lr=1.0)
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == any(part in name for part in trained), name


def test_more_layers_than_there_are():
    with pytest.raises(ValueError, match="3 numbered layers"):
        last_layers(tiny_bert(), 4)


def test_describe_shows_what_is_trained():
    model = tiny_bert()
    groups = freeze(model, last_layers(model, 1), lr=1e-3)
    table = describe(model, groups)
    assert table["parameters"].sum() == sum(p.numel() for p in model.parameters())
    assert table["trained"].sum() == sum(p.numel() for g in groups for p in g["params"])
    assert table.loc["bert.encoder.layer.0", "learning rate"] == "frozen"
    assert table.loc["bert.encoder.layer.2", "learning rate"] == "0.001"


# --- frozen means frozen --------------------------------------------------------------------------


def test_frozen_parameters_and_statistics_stay_bit_for_bit():
    model = convolutional()
    freeze(model, head_only(), lr=0.1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with audit_frozen(model):
        train(model, head_only(), images())
    after = model.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == (not name.startswith("classifier")), name


def test_frozen_dropout_is_off_and_the_rest_on():
    model = tiny_bert(dropout=0.5)
    freeze(model, last_layers(model, 1), lr=1.0)
    train_mode(model)
    layers = model.bert.encoder.layer
    assert not any(module.training for module in layers[0].modules())
    assert not any(module.training for module in model.bert.embeddings.modules())
    assert all(module.training for module in layers[2].modules())
    assert model.dropout.training  # between the trained pooler and head


def test_eval_mode_ends_with_the_block_also_by_an_error():
    model = convolutional().train()
    model.body[1].eval()
    modes = [module.training for module in model.modules()]
    with pytest.raises(RuntimeError, match="inside"), eval_mode(model):
        assert not any(module.training for module in model.modules())
        raise RuntimeError("inside")
    assert [module.training for module in model.modules()] == modes


def test_a_model_with_nothing_frozen_is_all_in_training_mode():
    model = tiny_bert(dropout=0.5)
    freeze(model, ALL, lr=1.0)
    train_mode(model)
    assert all(module.training for module in model.modules())


def test_plain_train_moves_frozen_statistics_and_the_audit_says_so():
    """The pitfall: requires_grad=False alone does not freeze BatchNorm."""
    model = convolutional()
    groups = freeze(model, head_only(), lr=0.1)
    optimizer = SGD(groups)
    with (
        pytest.raises(RuntimeError, match=r"moved during training: body\.1\.num_batches_tracked"),
        audit_frozen(model),
    ):
        model.train()
        loss, _ = classification()(model, images())
        loss.backward()
        optimizer.step()


def test_weight_decay_moves_frozen_weights_in_an_optimizer_that_holds_them():
    """The pitfall: zero gradients are not frozen weights; and our groups leave them out."""
    model = tiny_bert()
    frozen = model.bert.encoder.layer[0].output.dense.weight
    before = frozen.detach().clone()
    optimizer = AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    frozen.grad = torch.zeros_like(frozen)
    optimizer.step()
    assert not torch.equal(before, frozen)

    model = tiny_bert()
    groups = freeze(model, head_only(), lr=0.1, weight_decay=0.5)
    held = {id(parameter) for group in groups for parameter in group["params"]}
    assert id(model.bert.encoder.layer[0].output.dense.weight) not in held


def test_unfreezing_in_the_middle_of_a_run():
    model = tiny_bert()
    optimizer = AdamW(freeze(model, head_only(), lr=1e-2))
    batches = Batches(sentences(), 8, epochs=2)
    layer = model.bert.encoder.layer[2].output.dense.weight
    start = layer.detach().clone()
    for step in steps(model, classification(), batches, optimizer):
        if step.index < 7:
            assert torch.equal(layer, start)
        if step.index == 7:
            assert unfreeze(model, optimizer, r"layer\.2\.", lr=1e-2) > 0
    assert not torch.equal(layer, start)
    with pytest.raises(ValueError, match="finds no frozen parameter"):
        unfreeze(model, optimizer, r"layer\.2\.", lr=1e-2)


def test_a_frozen_body_gets_no_gradient():
    model = tiny_bert()
    train(model, head_only(), sentences(), n=1)
    assert all(p.grad is None for n, p in model.named_parameters() if "classifier" not in n)
    assert not torch.equal(weights(model), weights(tiny_bert()))
