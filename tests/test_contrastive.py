"""Contrastive tuning, by hand and against sentence-transformers' formula, on a tiny BERT."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.helpers import tiny_bert, weights
from tlbook.learning.batches import Batches
from tlbook.learning.features import features
from tlbook.learning.freezing import last_layers
from tlbook.methods.contrastive import (
    LabeledPairs,
    contrastive_arm,
    cosine_similarity,
    draw_pairs,
    tune_on_pairs,
)
from tlbook.sources.encoders import TextEncoder


class Words:
    """A tokenizer of numbers: "7 12" becomes the ids 1, 7, 12, 2."""

    pad_token_id = 0

    def __call__(self, texts, truncation=True, max_length=64, **options):
        return {"input_ids": [[1, *map(int, text.split()), 2][:max_length] for text in texts]}

    def pad(self, batch, **options):
        length = max(map(len, batch["input_ids"]))
        rows = [(ids, length - len(ids)) for ids in batch["input_ids"]]
        return SimpleNamespace(
            input_ids=torch.tensor([[*ids, *[0] * rest] for ids, rest in rows]),
            attention_mask=torch.tensor([[1] * len(ids) + [0] * rest for ids, rest in rows]),
        )


def encoder(pool: str = "mean") -> TextEncoder:
    return TextEncoder("tiny", tiny_bert().bert.eval(), Words(), pool, True, 30, 32)


def texts(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Numbers from 10 to 49; every other text begins with 7, which is its label."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    words = [rng.integers(10, 50, rng.integers(3, 12)) for _ in range(n)]
    found = [
        " ".join(map(str, [7] * label + list(w))) for w, label in zip(words, labels, strict=True)
    ]
    return np.array(found, object), labels


# --- pairs --------------------------------------------------------------------------------------
@pytest.mark.parametrize("sizes", [(2, 2), (8, 8), (1, 5, 9)])
def test_half_of_the_pairs_are_of_one_class_and_none_of_a_row_with_itself(sizes):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    pairs = draw_pairs(labels, 120, seed=0)
    assert pairs.shape == (120, 2) and (pairs[:, 0] != pairs[:, 1]).all()
    same = labels[pairs[:, 0]] == labels[pairs[:, 1]]
    assert same.sum() == 60
    for kind, rows in ((same, np.flatnonzero(np.isin(labels, np.flatnonzero(np.array(sizes) > 1)))),
                       (~same, np.arange(len(labels)))):  # fmt: skip
        turns = np.bincount(pairs[kind, 0], minlength=len(labels))[rows]
        assert turns.max() - turns.min() <= 1
    assert set(np.unique(pairs)) == set(range(len(labels)))
    assert 0 < same[:60].sum() < 60  # in mixed order


def test_pairs_are_of_the_seed():
    labels = np.arange(20) % 2
    assert (draw_pairs(labels, 30, 1) == draw_pairs(labels, 30, 1)).all()
    assert (draw_pairs(labels, 30, 1) != draw_pairs(labels, 30, 2)).any()
    assert len(draw_pairs(labels, 7, 0)) == 7


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_labels_that_make_no_pairs_are_refused(labels):
    with pytest.raises(ValueError, match="pairs need two classes"):
        draw_pairs(labels, 4, 0)
    with pytest.raises(ValueError, match="number"):
        draw_pairs([0, 0, 1], 1, 0)
    with pytest.raises(ValueError, match="seed=None"):
        LabeledPairs({"labels": np.array([0, 0, 1])}, 2, seed=None, number=4)


def test_batches_hold_both_texts_of_a_pair_and_new_pairs_each_epoch():
    ids = [[5], [6, 6], [7, 7, 7], [8, 8]]
    columns = {"input_ids": ids, "labels": np.array([0, 1, 0, 1])}
    pairs = LabeledPairs(columns, 4, epochs=2, seed=0, number=10)
    batches = list(pairs)
    assert len(pairs) == len(batches) == 6 and [len(b.rows) for b in batches] == [4, 4, 2] * 2
    for batch in batches:
        for row, pair in enumerate(batch.rows):
            for side in (0, 1):
                tokens = batch["input_ids"][row, side][batch["attention_mask"][row, side] == 1]
                assert tokens.tolist() == ids[pair[side]]
            assert batch["same"][row] == (pair[0] % 2 == pair[1] % 2)
    first, second = ([b.rows.tolist() for b in batches[i : i + 3]] for i in (0, 3))
    assert first != second
    again = [rows.tolist() for rows in pairs.rows(4)]
    assert again == [b.rows.tolist() for b in batches[4:]]  # resumable
    parts = pairs.parts(batches[0].rows, tokens=6)
    assert len(parts) > 1 and sorted(map(tuple, np.concatenate(parts))) == sorted(
        map(tuple, batches[0].rows)
    )


# --- the loss -----------------------------------------------------------------------------------
class Given(nn.Module):
    """A body whose tokens have given vectors."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = torch.tensor(vectors)

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(last_hidden_state=self.vectors[input_ids])


def test_the_loss_by_hand():
    # cosine of (3, 4) and (1, 0) is 0.6; of the mean of (1, 0) and (0, 1) with (1, 0), 0.7071
    body = Given([[9.0, 9.0], [3.0, 4.0], [1.0, 0.0], [0.0, 1.0]])
    batch = {
        "input_ids": torch.tensor([[[1, 0], [2, 0]], [[2, 3], [2, 0]]]),
        "attention_mask": torch.tensor([[[1, 0], [1, 0]], [[1, 1], [1, 0]]]),
        "same": torch.tensor([1.0, 0.0]),
    }
    loss, logs = cosine_similarity()(body, batch)
    assert loss.item() == pytest.approx(((1 - 0.6) ** 2 + 0.5) / 2, rel=1e-6)
    assert logs == {"accuracy": 0.5}
    first, _ = cosine_similarity("cls")(body, batch)
    assert first.item() == pytest.approx(((1 - 0.6) ** 2 + 1) / 2, rel=1e-6)


def test_the_loss_is_that_of_sentence_transformers():
    """CosineSimilarityLoss: two passes, mean pooling, torch.cosine_similarity, MSELoss."""
    data, labels = texts(12)
    columns = {"input_ids": Words()(data)["input_ids"], "labels": labels}
    (batch,) = LabeledPairs(columns, 10, number=10)
    body = tiny_bert().bert.eval()
    loss, _ = cosine_similarity()(body, batch)
    sides = []
    for side in (0, 1):
        mask = batch["attention_mask"][:, side].unsqueeze(-1)
        found = body(input_ids=batch["input_ids"][:, side], attention_mask=mask[..., 0])
        sides.append((found[0] * mask).sum(1) / mask.sum(1))
    theirs = nn.MSELoss()(torch.cosine_similarity(*sides), batch["same"])
    torch.testing.assert_close(loss, theirs)
    ours, expected = (
        torch.cat([g.flatten() for g in torch.autograd.grad(x, body.encoder.parameters())])
        for x in (loss, theirs)
    )
    torch.testing.assert_close(ours, expected)


# --- tuning -------------------------------------------------------------------------------------
def test_what_is_frozen_stays_and_so_does_the_encoder_that_was_given():
    start, (data, labels) = encoder(), texts(12)
    before = weights(start.model)
    table = last_layers(start.model, 1, "pooler")
    tuned = tune_on_pairs(start, data, labels, 1e-2, table=table, number=16)
    assert torch.equal(weights(start.model), before) and not tuned.model.training
    for name, parameter in tuned.model.named_parameters():
        moved = "layer.2." in name
        assert torch.equal(parameter, start.model.get_parameter(name)) != moved, name


def test_tuning_is_of_the_seed():
    start, (data, labels) = encoder(), texts(12)
    first, again, other = (
        weights(tune_on_pairs(start, data, labels, 1e-3, number=16, seed=s).model)
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_vectors_of_one_class_come_together_and_the_arm_learns():
    start, (data, labels) = encoder("cls"), texts(60)
    train, test = np.arange(40), np.arange(40, 60)

    def apart(vectors):
        z = F.normalize(torch.from_numpy(vectors[test]))
        cosine, same = z @ z.T, torch.from_numpy(labels[test][:, None] == labels[test])
        return (cosine[same].mean() - cosine[~same].mean()).item()

    options = {"rate": 1e-2, "number": 200}
    tuned = tune_on_pairs(start, data[train], labels[train], seed=1, **options)
    before, after = (features(e, list(data), cache=False) for e in (start, tuned))
    assert apart(before) < 0.2 < 0.5 < apart(after)
    predicted, seconds = contrastive_arm(start, data, labels, **options)(train, test, 1)
    assert (predicted == labels[test]).mean() > 0.9 and seconds > 0


def test_the_loop_cuts_batches_of_pairs_without_changing_the_loss():
    data, labels = texts(20)
    columns = {"input_ids": Words()(data)["input_ids"], "labels": labels}
    pairs = LabeledPairs(columns, 12, number=12)
    (rows,) = pairs.rows()
    body, loss_fn = tiny_bert().bert.eval(), cosine_similarity()
    whole = loss_fn(body, pairs.batch(rows))[0].item()
    parts = pairs.parts(rows, 60)
    found = sum(len(part) * loss_fn(body, pairs.batch(part))[0].item() for part in parts) / 12
    assert len(parts) > 2 and found == pytest.approx(whole, rel=1e-5)
    assert isinstance(pairs, Batches)
