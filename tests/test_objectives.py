"""Losses against scikit-learn's, and against the ways in which they are got wrong."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional as F

from tlbook.objectives import classification, l2_sp

from .test_training import linear, sentences, tiny_bert, vectors


def tensors(columns: dict) -> dict:
    return {name: torch.as_tensor(column) for name, column in columns.items()}


def test_classification_is_log_loss_of_one_softmax():
    """A softmax too many would give another number, as the last line shows."""
    model, batch = linear(), tensors(vectors(30))
    loss, logs = classification()(model, batch)
    logits = model(batch["x"]).detach().numpy()
    assert loss.item() == pytest.approx(log_loss(batch["labels"], softmax(logits, 1)), abs=1e-6)
    right = np.mean(logits.argmax(1) == batch["labels"].numpy())
    assert logs["accuracy"] == pytest.approx(right)
    doubled = F.cross_entropy(torch.from_numpy(softmax(logits, 1)), batch["labels"])
    assert doubled.item() != pytest.approx(loss.item(), abs=1e-2)


def test_label_smoothing_mixes_in_the_uniform_distribution():
    model, batch = linear(), tensors(vectors(30))
    loss, _ = classification(label_smoothing=0.2)(model, batch)
    log_q = F.log_softmax(model(batch["x"]), -1)
    truth = 0.8 * F.one_hot(batch["labels"], 2) + 0.2 / 2
    assert loss.item() == pytest.approx(-(truth * log_q).sum(1).mean().item(), abs=1e-6)


def test_labels_that_are_missing_are_named_where_transformers_returns_none():
    model = tiny_bert()
    ids = torch.tensor([sentences(1)["input_ids"][0]])
    assert model(input_ids=ids).loss is None
    with pytest.raises(KeyError, match="a batch of input_ids has no labels"):
        classification()(model, {"input_ids": ids})


def test_the_anchor_of_l2_sp_is_no_alias():
    model, batch = linear(), tensors(vectors(30))
    anchored = l2_sp(classification(), model, strength=2.0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    loss, logs = anchored(model, batch)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert logs["distance"] == pytest.approx(count)
    plain, _ = classification()(model, batch)
    assert loss.item() == pytest.approx(plain.item() + count)


def test_l2_sp_leaves_the_head_and_what_is_frozen_alone():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "free": nn.Linear(2, 2)})
    model["classifier"] = nn.Linear(2, 2)
    model["body"].requires_grad_(False)
    anchored = l2_sp(lambda model, batch: (torch.tensor(0.0), {}), model, strength=1.0)
    with torch.no_grad():
        for name in ("body", "classifier"):
            model[name].weight += 5
    assert anchored(model, {})[1]["distance"] == 0
    with torch.no_grad():
        model["free"].bias += 1
    assert anchored(model, {})[1]["distance"] == pytest.approx(2)
