"""Training the rest on the output of the frozen prefix equals training the whole."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tests.helpers import sentences, tiny_bert, weights
from tlbook.learning.batches import Batches
from tlbook.learning.freezing import (
    ALL,
    audit_frozen,
    freeze,
    head_only,
    last_layers,
    train_mode,
)
from tlbook.learning.loop import predict, steps
from tlbook.learning.losses import classification
from tlbook.learning.prefix import frozen_prefix
from tlbook.sources import imagenets


def small_net() -> imagenets.MobileNet:
    torch.manual_seed(0)
    return imagenets.MobileNet([(1, 8, 1, 1, 3), (2, 16, 2, 2, 3), (2, 24, 1, 1, 3)], classes=2)


def images(n: int = 24) -> dict:
    torch.manual_seed(1)
    return {"x": torch.randn(n, 3, 32, 32), "labels": np.arange(n) % 2}


CASES = [(tiny_bert, sentences, k) for k in (0, 1, 2)] + [(small_net, images, k) for k in (0, 1, 3)]


@pytest.mark.parametrize(("make", "columns", "k"), CASES)
def test_gradients_equal_those_of_the_whole_model(make, columns, k):
    """With dropout drawn alike in the trained part: none here, or it would be drawn in another
    order. The frozen part has none in either."""
    whole, model = make(), make()
    for network in (whole, model):
        freeze(network, last_layers(network, k, "classifier|pooler|head"), lr=1.0)
        for module in network.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    rest, short = frozen_prefix(model, columns())
    batch, activations = (
        next(iter(Batches(c, batch_size=12, seed=None))) for c in (columns(), short)
    )
    for network, inputs in ((whole, batch), (rest, activations)):
        train_mode(network)
        loss, _ = classification()(network, inputs)
        loss.backward()
    own = dict(model.named_parameters())
    compared = 0
    for name, parameter in whole.named_parameters():
        if parameter.requires_grad:
            assert own[name].grad == pytest.approx(parameter.grad, rel=1e-4, abs=1e-6), name
            compared += 1
        else:
            assert own[name].grad is None
    assert compared >= 2


def test_a_whole_run_ends_alike():
    ends = []
    for once in (False, True):
        model = tiny_bert()
        optimizer = AdamW(freeze(model, last_layers(model, 1), lr=1e-3))
        network, columns = frozen_prefix(model, sentences()) if once else (model, sentences())
        with audit_frozen(model):
            for _ in steps(network, classification(), Batches(columns, 8, epochs=3), optimizer):
                pass
        ends.append(weights(model))
        logits = predict(network, Batches(columns, 8, seed=None))
        assert logits == pytest.approx(predict(model, Batches(sentences(), 8, seed=None)), abs=1e-5)
    assert ends[1] == pytest.approx(ends[0], abs=1e-4)
    assert not torch.equal(ends[0], weights(tiny_bert()))


def test_dropout_inside_the_prefix_is_off():
    """Whatever mode the model is in: the activations are those of eval mode, and the mode stays."""
    activations = []
    for training in (False, True):
        model = tiny_bert(dropout=0.5)
        freeze(model, head_only(), lr=1.0)
        model.train(training)
        _, columns = frozen_prefix(model, sentences(10))
        activations.append(np.concatenate(columns["inputs_embeds"]))
        assert model.bert.encoder.layer[0].training == training
    assert np.array_equal(*activations)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_activations_stand_with_their_texts_however_batched(batch_size):
    """Texts are computed longest first, by tokens, and come back in order."""
    model = tiny_bert()
    freeze(model, head_only(), lr=1.0)
    columns = sentences(25)
    _, found = frozen_prefix(model, columns, batch_size=batch_size)
    model.eval()
    for ids, rows in zip(columns["input_ids"], found["inputs_embeds"], strict=True):
        alone = model.bert(input_ids=torch.tensor([ids])).last_hidden_state[0]
        assert rows == pytest.approx(alone.detach().numpy(), abs=1e-5)


def test_batch_statistics_of_the_prefix_stay():
    model = small_net()
    freeze(model, last_layers(model, 1, "classifier|head"), lr=1.0)
    with audit_frozen(model):
        frozen_prefix(model, images())


def test_a_trained_prefix_is_refused():
    model = tiny_bert()
    freeze(model, ALL, lr=1.0)
    with pytest.raises(ValueError, match="The first layer is trained"):
        frozen_prefix(model, sentences())


def test_an_unknown_kind_of_model_is_refused():
    with pytest.raises(TypeError, match="neither a BERT-like model"):
        frozen_prefix(nn.Sequential(nn.Linear(2, 2)), {"x": np.zeros((2, 2))})


def test_activations_are_not_held_in_memory():
    model = tiny_bert()
    freeze(model, head_only(), lr=1.0)
    _, columns = frozen_prefix(model, sentences(10))
    assert all(isinstance(rows, np.memmap) for rows in columns["inputs_embeds"])
