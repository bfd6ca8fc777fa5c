"""Several tasks over one encoder, against single tasks and formulas worked by hand."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from tlbook.learning.batches import Batches
from tlbook.learning.loop import evaluate, steps
from tlbook.learning.losses import classification
from tlbook.learning.networks import MLP
from tlbook.methods.multitask import (
    MultiTask,
    gradient_cosine,
    multitask,
    pcgrad,
    project_conflicting,
    task_gradients,
    task_losses,
)

BOTH = {"kind": 1.0, "size": 1.0}


def columns(n: int = 40, d: int = 5, seed: int = 0) -> dict:
    """x (n, d), three kinds and a size: both of the same two directions of x."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)).astype(np.float32)
    kind = np.digitize(x[:, 0] + x[:, 1], [-0.7, 0.7])
    size = (x[:, 0] - x[:, 1] + 0.1 * rng.normal(size=n)).astype(np.float32)
    return {"x": x, "kind": kind, "size": size}


def tensors(columns: dict) -> dict:
    return {name: torch.as_tensor(column) for name, column in columns.items()}


def network(seed: int = 0, **options) -> MultiTask:
    torch.manual_seed(seed)
    heads = {"kind": nn.Linear(8, 3), "size": nn.Linear(8, 1)}
    return MultiTask(nn.Sequential(nn.Linear(5, 8), nn.Tanh()), heads, **options)


# --- the joint loss -----------------------------------------------------------------------------


def test_one_task_is_the_single_task_loss():
    batch, model = tensors(columns()), network()
    kind, _ = multitask({"kind": 1.0})(model, batch)
    single, _ = classification()(model.task("kind"), {"x": batch["x"], "labels": batch["kind"]})
    assert kind.item() == pytest.approx(single.item(), rel=1e-6)
    size, _ = multitask({"size": 1.0})(model, batch)
    expected = F.mse_loss(model.task("size")(batch["x"]).squeeze(1), batch["size"])
    assert size.item() == pytest.approx(expected.item(), rel=1e-6)
    assert size.item() != pytest.approx(  # (n, 1) stretched over (n,) would be another number
        ((model.task("size")(batch["x"]) - batch["size"]) ** 2).mean().item(), rel=1e-2
    )
    both, logs = multitask({"kind": 0.5, "size": 2.0})(model, batch)
    assert both.item() == pytest.approx(0.5 * kind.item() + 2 * size.item(), rel=1e-6)
    assert logs == pytest.approx({"kind": 0.5 * kind.item(), "size": 2 * size.item()})


def test_missing_labels_count_for_nothing():
    full, model = tensors(columns()), network()
    known = torch.arange(40) % 4 == 0
    batch = full | {
        "kind": full["kind"].masked_fill(~known, -100),
        "size": full["size"].masked_fill(known, math.nan),
    }
    losses = task_losses(model, batch, BOTH)
    kind = F.cross_entropy(model.task("kind")(full["x"][known]), full["kind"][known])
    size = F.mse_loss(model.task("size")(full["x"][~known])[:, 0], full["size"][~known])
    assert losses["kind"].item() == pytest.approx(kind.item() / 4, rel=1e-5)
    assert losses["size"].item() == pytest.approx(size.item() * 3 / 4, rel=1e-5)
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    none = full | {"kind": torch.full((40,), -100), "size": torch.full((40,), math.nan)}
    model.zero_grad()
    loss, _ = multitask(BOTH)(model, none)
    loss.backward()
    assert loss.item() == 0
    assert not any(p.grad.any() for p in model.parameters())


def test_the_loss_does_not_depend_on_how_a_batch_is_cut():
    batch, model = tensors(columns()), network()
    batch["kind"][:25] = -100
    batch["size"][::3] = math.nan
    whole, _ = multitask(BOTH)(model, batch)
    parts = [{n: c[rows] for n, c in batch.items()} for rows in (slice(0, 10), slice(10, 40))]
    first, second = (multitask(BOTH)(model, part)[0] for part in parts)
    assert whole.item() == pytest.approx((first.item() + 3 * second.item()) / 4, rel=1e-6)


def test_values_may_be_doubles_or_columns_of_one():
    batch, model = tensors(columns()), network()
    expected, _ = multitask(BOTH)(model, batch)
    for size in (batch["size"].double(), batch["size"][:, None]):
        loss, _ = multitask(BOTH)(model, batch | {"size": size})
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


class MeanOfTokens(nn.Module):
    """The mean embedding of the tokens that are there: an encoder of two columns."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)

    def forward(self, input_ids, attention_mask):
        there = attention_mask[..., None].float()
        return (self.embedding(input_ids) * there).sum(1) / there.sum(1)


def test_columns_that_are_no_tasks_go_to_the_encoder():
    torch.manual_seed(0)
    model = MultiTask(MeanOfTokens(), {"kind": nn.Linear(8, 3)})
    batch = {"input_ids": torch.randint(20, (4, 6)), "kind": torch.tensor([0, 1, 2, 0])}
    batch["attention_mask"] = torch.tensor([[1] * 6, [1] * 3 + [0] * 3, [1] * 5 + [0], [1] * 6])
    loss, _ = multitask({"kind": 1.0})(model, batch)
    z = model.encoder(batch["input_ids"], batch["attention_mask"])
    expected = F.cross_entropy(model.heads["kind"](z), batch["kind"])
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_what_does_not_fit_is_refused():
    batch, model = tensors(columns()), network()
    with pytest.raises(KeyError, match=r"tasks \['shape'\] have no column in a batch of x"):
        multitask({"kind": 1.0, "shape": 1.0})(model, batch)
    with pytest.raises(KeyError, match="other"):
        multitask({"other": 1.0})(model, batch | {"other": batch["kind"]})
    with pytest.raises(ValueError, match=r"task 'kind': outputs \(40, 3\) for values \(40,\)"):
        multitask({"kind": 1.0})(model, batch | {"kind": batch["size"]})
    model.heads["kind"] = nn.Sequential(nn.Linear(8, 1), nn.Flatten(0))
    with pytest.raises(ValueError, match=r"\(40,\) is not \(n, classes\)"):
        multitask({"kind": 1.0})(model, batch)


# --- shared or separate -------------------------------------------------------------------------


def test_separate_encoders_train_as_models_of_their_own():
    data = columns()
    apart = network(shared=False)
    for _ in steps(
        apart, multitask(BOTH), Batches(data, 8), SGD(apart.parameters(), 0.1), clip=None
    ):
        pass
    for task in BOTH:
        alone = network()  # starts from the same weights
        optimizer = SGD(alone.parameters(), 0.1)
        for _ in steps(alone, multitask({task: 1.0}), Batches(data, 8), optimizer, clip=None):
            pass
        pairs = zip(apart.task(task).parameters(), alone.task(task).parameters(), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other)
    shared = network()
    assert list(shared.task("kind")) == [shared.encoder, shared.heads["kind"]]  # no copies
    assert sum(p.numel() for p in apart.parameters()) == 48 + sum(
        p.numel() for p in shared.parameters()
    )
    x = torch.from_numpy(data["x"])
    for task in BOTH:
        assert torch.equal(shared(x)[task], shared.task(task)(x))
        assert torch.equal(apart(x)[task], apart.task(task)(x))


def test_a_related_task_helps_where_labels_are_few():
    """20 kinds are known and 600 sizes; kinds are ranges of one direction of 40, as the size is
    in one case, while in the other it is of another direction."""
    data = columns(1600, d=40)
    few = np.where(np.arange(600) < 20, data["kind"][:600], -100)
    test = Batches({"x": data["x"][600:], "labels": data["kind"][600:]}, batch_size=500, seed=None)

    def score(size: np.ndarray, shared: bool) -> float:
        train = {"x": data["x"][:600], "kind": few, "size": size[:600]}
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            heads = {"kind": nn.Linear(4, 3), "size": nn.Linear(4, 1)}
            model = MultiTask(MLP([40, 16, 4]), heads, shared=shared)
            loss_fn = multitask({"kind": 10.0, "size": 1.0})
            batches = Batches(train, batch_size=100, epochs=25, seed=seed)
            for _ in steps(model, loss_fn, batches, AdamW(model.parameters(), 5e-3), clip=None):
                pass
            found.append(evaluate(model.task("kind"), test))
        return np.mean(found)

    x = data["x"]
    control = score(x[:, 0] + x[:, 1], shared=False)
    related, unrelated = (score(x[:, 0] + sign * x[:, 1], shared=True) for sign in (1, -1))
    assert related > control + 0.1
    assert unrelated < control + 0.02


# --- conflict -----------------------------------------------------------------------------------


def test_gradients_and_cosines_are_those_of_autograd():
    batch, model = tensors(columns()), network()
    shared = list(model.encoder.parameters())
    losses = task_losses(model, batch, BOTH)
    found = task_gradients(losses, shared)
    assert found.shape == (2, 48)
    by_hand = []
    for task in BOTH:
        model.zero_grad()
        multitask({task: 1.0})(model, batch)[0].backward()
        by_hand.append(np.concatenate([p.grad.numpy().ravel() for p in shared]))
    assert found.numpy() == pytest.approx(np.array(by_hand), abs=1e-6)
    a, b = by_hand
    expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    cosine = gradient_cosine(found)
    assert cosine.numpy() == pytest.approx(np.array([[1, expected], [expected, 1]]), abs=1e-6)
    assert abs(expected) > 0.01
    sum(losses.values()).backward()  # once more
    model.encoder[0].weight.requires_grad_(False)
    bias = task_gradients(task_losses(model, batch, BOTH), shared)
    assert torch.equal(bias, found[:, 40:])


def test_a_task_without_labels_has_no_direction():
    batch, model = tensors(columns()), network()
    batch["kind"][:] = -100
    gradients = task_gradients(task_losses(model, batch, BOTH), list(model.encoder.parameters()))
    assert not gradients[0].any()
    assert gradient_cosine(gradients).tolist() == [[0, 0], [0, pytest.approx(1)]]
    assert torch.equal(project_conflicting(gradients), gradients)


def test_conflicts_are_projected_by_the_formula():
    a, b = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 2.0])  # a·b = -1, |a|² = 1, |b|² = 5
    found = project_conflicting(torch.stack([a, b]))
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.4], [0.0, 2.0]]))
    assert (found * torch.stack([b, a])).sum(1).tolist() == pytest.approx([0, 0], abs=1e-6)
    for gradients in (torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.tensor([[1.0, 0], [0, 1]])):
        assert torch.equal(project_conflicting(gradients), gradients)


def test_three_tasks_are_projected_one_after_the_other_in_random_order():
    """By hand for the first: against b then c, or c then b; each time the original b and c."""
    a, b, c = (torch.tensor(v) for v in ([1.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [-1.0, -2.0, 1.0]))

    def against(g, other):
        return g - min(g @ other, torch.tensor(0.0)) / (other @ other) * other

    orders = [against(against(a, b), c), against(against(a, c), b)]
    assert not torch.allclose(*orders)
    counts = [0, 0]
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        found = project_conflicting(torch.stack([a, b, c]), generator)[0]
        (which,) = (i for i, expected in enumerate(orders) if torch.allclose(found, expected))
        counts[which] += 1
    assert min(counts) > 70


def opposed() -> tuple[MultiTask, dict]:
    """Two sizes, one nearly minus the other, under heads of the same sign: a conflict."""
    torch.manual_seed(0)
    model = MultiTask(nn.Linear(5, 4), {"kind": nn.Linear(4, 3), "size": nn.Linear(4, 1)})
    model.heads["other"] = nn.Linear(4, 1)
    model.heads["other"].load_state_dict(model.heads["size"].state_dict())
    batch = tensors(columns())
    return model, batch | {"other": -0.8 * batch["size"] + 0.1 * batch["x"][:, 2]}


def gradients_of(model, loss) -> dict:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_pcgrad_changes_the_encoders_gradient_and_nothing_else():
    model, batch = opposed()
    weights = {"size": 1.0, "other": 2.0}
    plain, plain_logs = multitask(weights)(model, batch)
    surgery, logs = pcgrad(weights)(model, batch)
    shared = list(model.encoder.parameters())
    gradients = task_gradients(task_losses(model, batch, weights), shared)
    cosine = gradient_cosine(gradients)[0, 1].item()
    assert cosine < -0.1
    assert surgery.item() == pytest.approx(plain.item(), rel=1e-6)
    assert logs == pytest.approx(plain_logs | {"cosine": cosine}, rel=1e-5)
    before, after = gradients_of(model, plain), gradients_of(model, surgery)
    for name in ("size", "other"):
        for kind in ("weight", "bias"):
            key = f"heads.{name}.{kind}"
            torch.testing.assert_close(after[key], before[key])
    a, b = gradients
    expected = a - (a @ b) / (b @ b) * b + b - (a @ b) / (a @ a) * a
    found = torch.cat([after[f"encoder.{kind}"].flatten() for kind in ("weight", "bias")])
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(before["encoder.weight"], after["encoder.weight"], rtol=0.1)


def test_pcgrad_without_conflict_is_the_plain_loss():
    model, batch = opposed()
    batch["other"] = 1.1 * batch["size"]
    weights = {"size": 1.0, "other": 1.0}
    surgery, logs = pcgrad(weights)(model, batch)
    assert logs["cosine"] > 0.5
    plain = gradients_of(model, multitask(weights)(model, batch)[0])
    for name, found in gradients_of(model, surgery).items():
        torch.testing.assert_close(found, plain[name])


def test_pcgrad_trains_and_its_order_is_of_the_seed():
    ends = []
    for seed in (0, 0, 1):
        model, batch = opposed()
        batch["kind"] = 2 - batch["kind"]
        weights = {"size": 1.0, "other": 1.0, "kind": 3.0}
        optimizer = SGD(model.parameters(), 0.05)
        batches = Batches(batch, batch_size=40, epochs=30)
        done = list(steps(model, pcgrad(weights, seed), batches, optimizer))
        assert done[-1].loss < 0.8 * done[0].loss
        ends.append(model.encoder.weight.detach().clone())
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


def test_pcgrad_needs_a_shared_encoder():
    model = network(shared=False)
    with pytest.raises(ValueError, match="only tasks that share an encoder"):
        pcgrad(BOTH)(model, tensors(columns()))


def test_frozen_layers_of_the_encoder_are_left_out():
    model, batch = opposed()
    model.encoder.weight.requires_grad_(False)
    loss, _ = pcgrad({"size": 1.0, "other": 1.0})(model, batch)
    assert "encoder.weight" not in gradients_of(model, loss)
