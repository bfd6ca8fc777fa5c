"""The loop against independent implementations, and its promises."""

import copy
import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from torch import nn
from torch.optim import SGD, AdamW

from tests.helpers import CHECKOUT, linear, sentences, tiny_bert, vectors, weights
from tlbook.errors import TrainingError
from tlbook.learning.batches import Batches, Pairs, tokenized
from tlbook.learning.freezing import ALL, freeze, head_only, last_layers
from tlbook.learning.loop import evaluate, fit, predict, steps, warmup_linear
from tlbook.learning.losses import classification, joint, l2_sp
from tlbook.learning.protocol import needs_whole
from tlbook.methods.alignment import aligned, coral_loss, domain_adversarial
from tlbook.methods.distillation import rkd_angle, with_teacher
from tlbook.methods.meta import reptile
from tlbook.methods.multitask import multitask, pcgrad
from tlbook.methods.selfsupervised import simclr

# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [None, 0])
def test_every_epoch_sees_every_example_once(seed):
    batches = Batches(sentences(50), batch_size=8, epochs=3, seed=seed)
    rows = [batch.rows for batch in batches]
    assert len(rows) == len(batches) == 21
    for epoch in range(3):
        assert sorted(np.concatenate(rows[7 * epoch : 7 * epoch + 7])) == list(range(50))


def test_order_is_of_the_seed_and_differs_between_epochs():
    one, same, other = (
        [tuple(batch.rows) for batch in Batches(sentences(), batch_size=8, epochs=2, seed=seed)]
        for seed in (3, 3, 4)
    )
    assert one == same != other
    assert one[:8] != one[8:]
    assert set(map(frozenset, one[:8])) != set(map(frozenset, one[8:]))  # not only shuffled


@pytest.mark.parametrize("start", [0, 3, 8, 13])
def test_starting_later_gives_the_same_batches(start):
    batches = Batches(sentences(), batch_size=8, epochs=2)
    late = [tuple(batch.rows) for batch in batches.starting_at(start)]
    assert late == [tuple(batch.rows) for batch in batches][start:]


def test_texts_are_padded_little_and_masked_right():
    columns = sentences(300)
    batches = Batches(columns, batch_size=16)
    tokens = padded = 0
    for batch in batches:
        lengths = [len(columns["input_ids"][row]) for row in batch.rows]
        assert batch["attention_mask"].sum(1).tolist() == lengths
        for ids, row, length in zip(batch["input_ids"], batch.rows, lengths, strict=True):
            assert ids[:length].tolist() == columns["input_ids"][row]
            assert not ids[length:].any()
        tokens, padded = tokens + sum(lengths), padded + batch["input_ids"].numel()
    assert padded < 1.12 * tokens  # without buckets it is about 1.7
    assert batch["labels"].tolist() == columns["labels"][batch.rows].tolist()


def test_columns_must_agree():
    with pytest.raises(ValueError, match="same number of examples"):
        Batches({"x": np.zeros((3, 2)), "labels": np.zeros(4)}, batch_size=2)
    with pytest.raises(ValueError, match="must be at least 1"):
        Batches(vectors(), batch_size=0)


# --- pairs of domains ---------------------------------------------------------------------------


def pairs(n: int = 10, m: int = 26, **options) -> Pairs:
    """Columns that hold their own rows: the target's from 0, the source's from 100."""
    source = {"x": 100 + np.arange(m), "labels": np.arange(m) % 2}
    return Pairs({"x": np.arange(n)}, source=source, **{"batch_size": 8, "epochs": 3} | options)


@pytest.mark.parametrize(("n", "m"), [(10, 26), (26, 10), (5, 5), (16, 16)])
def test_an_epoch_of_pairs_passes_over_the_larger_domain(n, m):
    """The smaller starts over: its rows come equally often, but for one."""
    batches = pairs(n, m)
    found = list(batches)
    per_epoch = math.ceil(max(n, m) / 8)
    assert len(found) == len(batches) == 3 * per_epoch
    for batch in found:
        assert set(batch) == {"x", "source_x", "source_labels", "progress"}
        assert all(len(column) == len(batch.rows) == 8 for column in batch.values())
        np.testing.assert_array_equal(batch["x"], batch.rows[:, 0])
        np.testing.assert_array_equal(batch["source_x"], 100 + batch.rows[:, 1])
        assert torch.equal(batch["source_labels"], batch["source_x"] % 2)
    for start in range(0, len(found), per_epoch):
        rows = np.concatenate([batch.rows for batch in found[start : start + per_epoch]])
        for column, count in zip(rows.T, (n, m), strict=True):
            times = np.bincount(column, minlength=count)
            assert times.min() >= 1
            assert times.max() - times.min() <= 1


def test_pairs_say_how_far_training_is():
    progress = [batch["progress"] for batch in pairs()]
    assert all(torch.all(column == column[0]) for column in progress)
    np.testing.assert_allclose([column[0] for column in progress], np.arange(12) / 12, atol=1e-6)


@pytest.mark.parametrize("start", [0, 3, 4, 9])
def test_pairs_that_start_later_are_the_same(start):
    late, found = list(pairs().starting_at(start)), list(pairs())[start:]
    assert len(late) == len(found)
    for one, other in zip(late, found, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_rows_of_two_domains_are_not_matched():
    """Of as many examples with the same seed: their orders are independent, and new each time."""
    batches = pairs(64, 64, batch_size=64, epochs=20)
    rows = np.stack([batch.rows for batch in batches])
    matched = np.mean(rows[:, :, 0] == rows[:, :, 1])
    assert matched < 3 / 64
    assert len({tuple(order) for epoch in rows for order in epoch.T}) == 40
    other = np.stack([batch.rows for batch in pairs(64, 64, batch_size=64, epochs=20, seed=1)])
    assert not np.array_equal(rows[:, :, 0], other[:, :, 0])
    assert not np.array_equal(rows[:, :, 1], other[:, :, 1])
    in_order = next(iter(pairs(seed=None)))
    np.testing.assert_array_equal(in_order["source_x"] - 100, in_order["x"])


def test_a_small_domain_comes_in_a_new_order_each_time():
    rows = np.concatenate([batch.rows[:, 0] for batch in pairs(8, 32, batch_size=8, epochs=2)])
    assert len({tuple(order) for order in rows.reshape(8, 8)}) == 8


def test_pairs_of_texts_are_padded_and_cut_each_for_itself():
    source = sentences(50, seed=1)
    batches = Pairs({"input_ids": sentences(30)["input_ids"]}, 16, padding=9, source=source)
    for rows in batches.rows():
        batch = batches.batch(rows)
        for prefix in ("", "source_"):
            ids, mask = batch[f"{prefix}input_ids"], batch[f"{prefix}attention_mask"]
            assert torch.all(ids[mask == 0] == 9)
            assert mask.sum(1).max() == ids.shape[1]
        parts = batches.parts(rows, tokens=60)
        np.testing.assert_array_equal(np.concatenate(parts), rows)
        cut = [batches.batch(part) for part in parts]
        assert max(p["input_ids"].numel() + p["source_input_ids"].numel() for p in cut) < 150
        assert len(parts) > 3
        assert len(batches.parts(rows, math.inf)) == 1
        assert [len(part) for part in batches.parts(rows, tokens=1)] == [1] * len(rows)
    assert len(pairs().parts(next(pairs().rows()), tokens=1)) == 1  # no sequences, nothing to cut


# --- the loop against others --------------------------------------------------------------------


def test_the_loop_equals_trainer_bit_for_bit(tmp_path):
    """Same model, same order, dropout 0: transformers' Trainer ends with the same weights."""
    from transformers import Trainer, TrainingArguments

    columns = sentences(40)
    batches = Batches(columns, batch_size=8, epochs=2, seed=1)
    ordered = [dict(batch) for batch in batches]

    class InOurOrder(Trainer):
        def get_train_dataloader(self):
            return self.accelerator.prepare(ordered[: len(ordered)])

    theirs = tiny_bert()
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        learning_rate=1e-3,
        weight_decay=0.0,
        lr_scheduler_type="linear",
        warmup_steps=2,
        max_steps=len(ordered),
        max_grad_norm=1.0,
        optim="adamw_torch",
        report_to=[],
        save_strategy="no",
        logging_steps=1000,
        disable_tqdm=True,
        use_cpu=True,
    )
    InOurOrder(theirs, arguments).train()

    ours = tiny_bert()
    optimizer = AdamW(freeze(ours, ALL, lr=1e-3, weight_decay=0.0))
    for _ in steps(ours, classification(), batches, optimizer, schedule=warmup_linear(0.2)):
        pass
    assert torch.equal(weights(ours), weights(theirs))
    assert not torch.equal(weights(ours), weights(tiny_bert()))


def test_a_linear_probe_equals_logistic_regression():
    columns = vectors(200)
    model = linear()
    x, y = torch.from_numpy(columns["x"]), torch.from_numpy(columns["labels"])
    penalty = 1 / len(y)  # scikit-learn's C=1, per example; bias free
    batch = Batches(columns, batch_size=200, epochs=400, seed=None)
    optimizer = SGD(model.parameters(), lr=2.0)

    def loss_fn(model, batch):
        loss, logs = classification()(model, batch)
        return loss + penalty / 2 * (model[0].weight ** 2).sum(), logs

    for _ in steps(model, loss_fn, batch, optimizer, clip=None):
        pass
    # two logits with a penalty on each are one logit with half the penalty
    oracle = LogisticRegression(C=2.0, tol=1e-8, max_iter=1000).fit(x, y)
    difference = (model[0].weight[1] - model[0].weight[0]).detach().numpy()
    assert difference == pytest.approx(oracle.coef_[0], abs=1e-3)
    assert (
        predict(model, Batches(columns, 64, seed=None)).argmax(1).tolist()
        == oracle.predict(x).tolist()
    )


@pytest.mark.parametrize("accumulate", [2, 3, 5])
def test_accumulation_equals_the_large_batch(accumulate):
    """Also where batches differ in size and the last window is not full: 22 rows in 4s."""
    columns = vectors(22)
    large, small = linear(), linear()
    order = Batches(columns, batch_size=4, seed=None)
    rows = [batch.rows for batch in order]
    for start in range(0, len(rows), accumulate):
        window = np.concatenate(rows[start : start + accumulate])
        loss, _ = classification()(large, order.batch(window))
        loss.backward()
        with torch.no_grad():
            for parameter in large.parameters():
                parameter -= 0.1 * parameter.grad
                parameter.grad = None
    optimizer = SGD(small.parameters(), lr=0.1)
    done = list(steps(small, classification(), order, optimizer, clip=None, accumulate=accumulate))
    assert [step.examples for step in done] == [
        len(np.concatenate(rows[s : s + accumulate])) for s in range(0, len(rows), accumulate)
    ]
    assert weights(small) == pytest.approx(weights(large), abs=1e-6)


@pytest.mark.parametrize("limit", [1, 40, 100])
def test_cutting_long_texts_changes_neither_steps_nor_weights(monkeypatch, limit):
    """On a CPU a batch of many tokens is computed in parts: with the largest limit none is cut."""
    runs = []
    for tokens in (10_000, limit):
        monkeypatch.setattr("tlbook.learning.loop.TOKENS", tokens)
        model, shapes = tiny_bert(), []
        model.register_forward_pre_hook(
            lambda _, __, inputs, shapes=shapes: shapes.append(tuple(inputs["input_ids"].shape)),
            with_kwargs=True,
        )
        optimizer = SGD(freeze(model, ALL, lr=0.1, weight_decay=0.0))
        done = list(steps(model, classification(), Batches(sentences(60), 8), optimizer))
        runs.append((done, weights(model), shapes))
    (whole, ends, shapes), (cut, cut_ends, cut_shapes) = runs
    assert [step.examples for step in cut] == [step.examples for step in whole]
    assert [step.loss for step in cut] == pytest.approx([step.loss for step in whole], abs=1e-5)
    assert cut_ends == pytest.approx(ends, abs=1e-5)
    assert len(shapes) == 8 < len(cut_shapes)
    assert sum(n * length for n, length in cut_shapes) < sum(n * length for n, length in shapes)


def test_parts_hold_every_row_once_and_few_tokens():
    columns = sentences(60)
    batches = Batches(columns, batch_size=16, seed=None)
    for rows in batches.rows():
        for limit in (1, 50, 120, math.inf):
            parts = batches.parts(rows, limit)
            assert sorted(np.concatenate(parts)) == sorted(rows)
            longest = max(batches.lengths[rows])
            for part in parts:  # an even cut may round up by one row
                assert (len(part) - 1) * longest < limit or len(part) == 1
        assert np.array_equal(batches.parts(rows, math.inf)[0], rows)
    (alone,) = Batches(vectors(), batch_size=64).parts(np.arange(64), 1)
    assert len(alone) == 64


def test_class_weights_do_not_depend_on_the_cut():
    columns = vectors(24)
    loss_fn = classification(class_weights=torch.tensor([0.3, 3.0]))
    whole, cut = linear(), linear()
    for model, size, accumulate in ((whole, 24, 1), (cut, 5, 5)):
        optimizer = SGD(model.parameters(), lr=0.1)
        batches = Batches(columns, batch_size=size, seed=None)
        list(steps(model, loss_fn, batches, optimizer, accumulate=accumulate))
    assert weights(cut) == pytest.approx(weights(whole), abs=1e-6)


def test_gradients_are_clipped():
    columns = vectors()
    model = linear()
    before = weights(model)
    (step,) = steps(
        model, classification(), Batches(columns, 64), SGD(model.parameters(), lr=1.0), clip=0.01
    )
    assert step.gradient_norm > 0.01
    assert torch.linalg.norm(weights(model) - before) == pytest.approx(0.01, rel=1e-3)


def test_schedule_rises_and_falls():
    schedule = warmup_linear(0.2)
    factors = [schedule(step, 10) for step in range(10)]
    assert factors[:3] == [0, 0.5, 1]
    assert factors[-1] == pytest.approx(1 / 8)
    assert all(np.diff(factors[2:]) < 0)


def test_l2_sp_pulls_to_the_start_and_spares_the_head():
    model = tiny_bert()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    drift = {}
    for strength in (0.0, 10.0):
        trained = tiny_bert()
        loss_fn = l2_sp(classification(), trained, strength)
        optimizer = AdamW(freeze(trained, ALL, lr=1e-3))
        logs = [
            step.logs["distance"]
            for step in steps(trained, loss_fn, Batches(sentences(), 8), optimizer)
        ]
        assert logs[0] == 0 < logs[-1]
        drift[strength] = sum(
            ((p - start[name]) ** 2).sum().item()
            for name, p in trained.named_parameters()
            if "classifier" not in name
        )
    assert drift[10.0] < 0.5 * drift[0.0]


def test_l2_sp_equals_ridge_on_the_residual():
    """For a linear model with squared loss, pulling to w0 is ridge regression of what w0 leaves."""
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 4)).astype(np.float32)
    y = (x @ rng.normal(size=4) + rng.normal(0, 0.1, 50)).astype(np.float32)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 1, bias=False))
    w0 = model[0].weight.detach().numpy().copy()[0]

    def squared(model, batch):
        return ((model(batch["x"])[:, 0] - batch["labels"]) ** 2).mean(), {}

    strength = 0.8  # strength / 2 * |w - w0|^2 beside a mean: ridge's alpha is n * strength / 2
    batches = Batches({"x": x, "labels": y}, batch_size=50, epochs=500, seed=None)
    optimizer = SGD(model.parameters(), lr=0.1)
    list(steps(model, l2_sp(squared, model, strength), batches, optimizer, clip=None))
    ridge = Ridge(alpha=50 * strength / 2, fit_intercept=False).fit(x, y - x @ w0)
    assert model[0].weight.detach().numpy()[0] == pytest.approx(w0 + ridge.coef_, abs=1e-4)


# --- promises -----------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_and_rows():
    columns = vectors()
    columns["x"][13, 0] = np.nan
    model = linear()
    with pytest.raises(TrainingError, match=r"loss is nan at step \d, on rows \[.*13.*\]"):
        list(steps(model, classification(), Batches(columns, 16), SGD(model.parameters(), lr=0.1)))
    assert torch.isfinite(weights(model)).all()


def test_predictions_come_in_order_and_leave_the_mode():
    model = tiny_bert(dropout=0.5)
    model.train()
    columns = sentences(30)
    shuffled = predict(model, Batches(columns, batch_size=4, seed=3))
    ordered = predict(model, Batches(columns, batch_size=1, seed=None))
    assert shuffled == pytest.approx(ordered, abs=1e-5)
    assert model.training and model.bert.encoder.layer[0].training
    assert evaluate(model, Batches(columns, 7), f1_score) == pytest.approx(
        f1_score(columns["labels"], ordered.argmax(1))
    )


def test_the_body_of_the_loop_may_evaluate():
    """Whatever mode the body leaves the model in, the next step trains what is trained: its
    dropout on, that of frozen layers off."""
    model = tiny_bert(dropout=0.1)
    optimizer = AdamW(freeze(model, last_layers(model, 1), lr=1e-3))
    modes = set()

    def watching(model, batch):
        layers = model.bert.encoder.layer
        modes.add((layers[0].output.dropout.training, layers[2].output.dropout.training))
        return classification()(model, batch)

    for step in steps(model, watching, Batches(sentences(), 8), optimizer):
        evaluate(model, Batches(sentences(), 8))
        model.train(step.index % 2 == 0)
    assert modes == {(False, True)}


# --- fit ----------------------------------------------------------------------------------------


def trained(dropout=0.2, epochs=6, checkpoint=None, stop_at=None, **options):
    """A run of ``fit``; ``stop_at`` interrupts it in the middle as Ctrl-C would."""
    model = tiny_bert(dropout)
    optimizer = AdamW(freeze(model, ALL, lr=2e-3), fused=True)
    torch.manual_seed(1)
    loss_fn, count = classification(), 0

    def interrupting(model, batch):
        nonlocal count
        count += 1
        if count == stop_at:
            raise KeyboardInterrupt
        return loss_fn(model, batch)

    history = fit(
        model,
        interrupting,
        Batches(sentences(60), batch_size=8, epochs=epochs, seed=2),
        optimizer,
        validation=Batches(sentences(40, seed=5), batch_size=16, seed=None),
        checkpoint=checkpoint,
        schedule=warmup_linear(),
        **options,
    )
    return model, history


@pytest.mark.parametrize(("every", "stop_at"), [(8, 20), (5, 33), (3, 7)])
def test_a_resumed_run_is_the_straight_run_bit_for_bit(tmp_path, every, stop_at):
    """With dropout, a schedule, momentum, and the interruption in the middle of an epoch."""
    straight, history = trained(every=every)
    file = tmp_path / "run.safetensors"
    with pytest.raises(KeyboardInterrupt):
        trained(every=every, checkpoint=file, stop_at=stop_at)
    resumed, resumed_history = trained(every=every, checkpoint=file)
    assert torch.equal(weights(straight), weights(resumed))
    columns = ["step", "epoch", "loss", "score"]
    assert history[columns].equals(resumed_history[columns])


def test_a_finished_run_is_not_run_again(tmp_path):
    file = tmp_path / "run.safetensors"
    model, history = trained(checkpoint=file)
    again, same = trained(checkpoint=file, stop_at=1)  # would be interrupted at its first batch
    assert torch.equal(weights(model), weights(again))
    assert history.equals(same)


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    trained(checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="belongs to another run"):
        trained(checkpoint=tmp_path / "run", epochs=7)


@pytest.mark.parametrize(
    ("table", "rate", "message"),
    [
        (ALL, 1e-3, "belongs to another run, with other rates"),
        (last_layers, 2e-3, "trained other layers, such as bert.embeddings"),
    ],
)
def test_a_checkpoint_of_other_rates_or_layers_is_refused(tmp_path, table, rate, message):
    file = tmp_path / "run"
    for first in (True, False):
        model = tiny_bert()
        now = ALL if first or table == ALL else last_layers(model, 1)
        groups = freeze(model, now, lr=2e-3 if first else rate)
        batches = Batches(sentences(16), batch_size=8)
        if first:
            fit(model, classification(), batches, AdamW(groups), checkpoint=file)
        else:
            before = weights(model)
            with pytest.raises(ValueError, match=message):
                fit(model, classification(), batches, AdamW(groups), checkpoint=file)
            assert torch.equal(weights(model), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulate": 0}, "accumulate=0"),
        ({"accumulate": -1}, "accumulate=-1"),
        ({"clip": 0}, "clip=0"),
        ({"clip": -1.0}, "clip=-1.0"),
        ({"every": 0}, "every=0"),
        ({"patience": 0}, "patience=0"),
    ],
)
def test_fit_refuses_numbers_out_of_range(options, message):
    model = nn.Linear(3, 2)
    batches = Batches({"x": torch.zeros(4, 3), "labels": np.array([0, 1, 0, 1])}, 2)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    with pytest.raises(ValueError, match=message):
        fit(model, classification(), batches, optimizer, validation=batches, **options)


def test_an_optimizer_of_another_model_is_refused():
    """Scores would stay as they are, and nothing would be said."""
    model, other = nn.Linear(3, 2), nn.Linear(3, 2)
    batches = Batches({"x": torch.zeros(4, 3), "labels": np.array([0, 1, 0, 1])}, 2)

    def step(parameters, lr=0.1):
        return next(steps(model, classification(), batches, torch.optim.SGD(parameters, lr)))

    with pytest.raises(ValueError, match="2 of the optimizer's 2 parameters are not the model's"):
        step(other.parameters())
    with pytest.raises(ValueError, match="1 of the optimizer's 3 parameters"):
        step([*model.parameters(), other.bias])
    with pytest.raises(ValueError, match="lr=nan must be a finite number"):
        step(model.parameters(), float("nan"))
    assert step(model.parameters()).index == 0
    with pytest.raises(ValueError, match="no parameter that is trained"):
        step(model.requires_grad_(False).parameters())


def test_whole_batches_are_never_divided(monkeypatch):
    from tlbook.learning import loop

    monkeypatch.setattr(loop, "TOKENS", 20)  # so that every batch would be cut
    for whole, expected in ((True, {8, 4}), (False, None)):
        model, sizes = tiny_bert(), []

        def watching(model, batch, sizes=sizes):
            sizes.append(len(batch["labels"]))
            return classification()(model, batch)

        watching.whole = whole
        optimizer = AdamW(model.parameters())
        list(steps(model, watching, Batches(sentences(20), batch_size=8), optimizer))
        assert set(sizes) == expected if whole else max(sizes) < 8
    watching.whole = True
    with pytest.raises(ValueError, match="needs whole batches"):
        next(steps(model, watching, Batches(sentences(20), 8), optimizer, accumulate=2))


@pytest.mark.parametrize(
    ("make", "whole", "clips"),
    [
        (lambda: classification(), False, True),
        (lambda: simclr(), True, True),
        (lambda: aligned(coral_loss, "1"), True, True),
        (lambda: domain_adversarial("1"), True, True),
        (lambda: with_teacher(rkd_angle, {"body": "body"}), True, True),
        (lambda: multitask({"kind": 1.0}), True, False),
        (lambda: pcgrad({"kind": 1.0}), True, False),
        (lambda: reptile(torch.nn.functional.mse_loss, inner_steps=1, lr=0.1), False, False),
        (lambda: joint(target=classification(), source=classification()), False, True),
        (lambda: joint(target=classification(), source=simclr()), True, True),
    ],
)
def test_a_loss_says_what_it_needs_of_the_loop(make, whole, clips):
    loss_fn = make()
    assert needs_whole(loss_fn) is whole
    assert getattr(loss_fn, "clip", 1.0) == (1.0 if clips else None)


def test_a_loss_may_keep_its_gradients_unclipped():
    torch.manual_seed(0)
    model = nn.Linear(3, 2)

    def moved(clip):
        def loss_fn(model, batch):
            return 100 * classification()(model, batch)[0], {}

        if clip is None:
            loss_fn.clip = None
        copy_ = copy.deepcopy(model)
        batches = Batches({"x": torch.ones(4, 3), "labels": np.array([0, 1, 1, 1])}, 4)
        list(steps(copy_, loss_fn, batches, SGD(copy_.parameters(), 1.0)))
        return float((copy_.weight - model.weight).norm())

    assert moved("default") < 1 < moved(None)


def test_checkpoints_leave_nothing_half_written(tmp_path, monkeypatch):
    from tlbook.learning import checkpoint

    file = tmp_path / "run"
    trained(checkpoint=file)
    before = file.read_bytes()

    def failing(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", failing)
    file.rename(tmp_path / "kept")
    with pytest.raises(OSError, match="No space"):
        trained(checkpoint=file)
    assert not file.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == before


def test_a_bad_loss_keeps_the_last_good_checkpoint(tmp_path):
    file = tmp_path / "run"
    columns = vectors(64)
    model = linear()
    calls = 0

    def loss_fn(model, batch):
        nonlocal calls
        calls += 1
        loss, logs = classification()(model, batch)
        return (loss * math.inf if calls == 7 else loss), logs

    with pytest.raises(TrainingError, match="loss is inf at step 6"):
        fit(
            model,
            loss_fn,
            Batches(columns, 16, epochs=3),
            SGD(model.parameters(), lr=0.1),
            checkpoint=file,
        )
    from safetensors import safe_open

    with safe_open(file, framework="pt") as content:
        assert json.loads(content.metadata()["state"])["done"] == 4


def test_early_stopping_restores_the_best_weights():
    model, history = trained(epochs=30, patience=3)
    best = history["score"].max()
    assert len(history) < 30
    assert history["score"].argmax() == len(history) - 4
    validation = Batches(sentences(40, seed=5), batch_size=16, seed=None)
    assert evaluate(model, validation) == best


def test_patience_needs_validation():
    model = linear()
    with pytest.raises(ValueError, match="early stopping selects on it"):
        fit(
            model,
            classification(),
            Batches(vectors(), 8),
            SGD(model.parameters(), lr=0.1),
            patience=2,
        )


def test_frozen_layers_are_not_in_the_checkpoint(tmp_path):
    from safetensors import safe_open

    model = tiny_bert()
    optimizer = AdamW(freeze(model, head_only(), lr=1e-3))
    fit(model, classification(), Batches(sentences(), 8), optimizer, checkpoint=tmp_path / "run")
    with safe_open(tmp_path / "run", framework="pt") as content:
        names = [name for name in content.keys() if name.startswith("model:")]  # noqa: SIM118
    assert any("classifier" in name for name in names)
    assert not any("encoder" in name for name in names)


TWO = """
import sys, torch
from accelerate import Accelerator
from torch.optim import SGD
from tests.helpers import sentences, tiny_bert, weights
from tlbook.learning.freezing import ALL, freeze
from tlbook.learning.losses import classification
from tlbook.learning.loop import Batches, evaluate, steps
accelerator = Accelerator(cpu=True)
model = tiny_bert()
optimizer = SGD(freeze(model, ALL, lr=0.1, weight_decay=0.0))
batches = Batches(sentences(21), batch_size=5, epochs=2)  # uneven shares; the last batch is one row
training = steps(model, classification(), batches, optimizer, accelerator=accelerator)
losses = [step.loss for step in training]
score = evaluate(model, Batches(sentences(21), 4, seed=None), accelerator=accelerator)
if accelerator.is_main_process:
    torch.save({"losses": losses, "weights": weights(model), "score": score,
                 "processes": accelerator.num_processes}, sys.argv[1])
"""


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """The same script alone and under torchrun: same losses, weights and score."""
    script = tmp_path / "train.py"
    script.write_text(TWO)
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT)}
    options = {"env": environment, "timeout": 300, "check": False}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    results = []
    for launcher, name in (([], "one"), (torchrun, "two")):
        command = [sys.executable, *launcher, str(script), str(tmp_path / name)]
        run = subprocess.run(command, capture_output=True, text=True, **options)
        assert run.returncode == 0, run.stderr[-2000:]
        results.append(torch.load(tmp_path / name, weights_only=True))
    one, two = results
    assert (one["processes"], two["processes"]) == (1, 2)
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["weights"] == pytest.approx(one["weights"], abs=1e-5)
    assert two["score"] == one["score"]


def test_tokenized_texts_keep_their_lengths():
    from tlbook.sources.pretrained import load

    columns = tokenized(load("minilm-l6").tokenizer, ["one", "one two three"], [0, 1])
    assert [len(ids) for ids in columns["input_ids"]] == [3, 5]
    assert columns["labels"].tolist() == [0, 1]
