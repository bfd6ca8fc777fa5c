"""Episodes and what learns from them, against closed forms and other implementations."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import nn
from torch.func import functional_call, replace_all_batch_norm_modules_
from torch.nn import functional as F
from torch.optim import SGD, Adam

from tlbook.learning.batches import Batches
from tlbook.learning.loop import fit, steps
from tlbook.learning.networks import MLP, ConvEncoder
from tlbook.methods.meta import (
    Episodes,
    adapt,
    finetune_learner,
    maml,
    maml_learner,
    nearest_prototype,
    prototype_logits,
    prototypical,
    query_losses,
    reptile,
    score_episodes,
    sinusoids,
    split_classes,
)


def clusters(classes: int = 12, each: int = 20, d: int = 4, seed: int = 0, spread: float = 1.0):
    """x (n, d) float32 around a center for each class, and y (n,), in mixed order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(classes), each))
    centers = 2 * rng.normal(size=(classes, d))
    return (centers[y] + spread * rng.normal(size=(len(y), d))).astype(np.float32), y


def weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def gradient(model: nn.Module, loss: torch.Tensor) -> torch.Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(model.parameters()))])


# --- tasks --------------------------------------------------------------------------------------


def test_an_episode_repeats_neither_class_nor_example():
    x, y = clusters()
    first_classes = set()
    for batch in Episodes(x, y, ways=5, shots=3, queries=4, number=20, batch_size=2):
        for task, rows in enumerate(batch.rows):
            classes = y[rows]
            assert rows.shape == (5, 7) and len(np.unique(rows)) == 35
            assert (classes == classes[:, :1]).all() and len(np.unique(classes)) == 5
            first_classes.add(classes[0, 0])
            for half, part in (("support", rows[:, :3]), ("query", rows[:, 3:])):
                assert np.array_equal(batch[f"{half}_x"][task], x[part.ravel()])
                labels = np.repeat(np.arange(5), part.shape[1])
                assert batch[f"{half}_y"][task].tolist() == labels.tolist()
    assert len(first_classes) > 6  # a class is not always given the same label


def test_episodes_are_of_the_seed_wherever_they_begin():
    x, y = clusters()

    def rows(start=0, **options):
        episodes = Episodes(x, y, queries=4, batch_size=2, **{"number": 6, "seed": 1} | options)
        return [found.tolist() for found in episodes.rows(start)]

    assert rows() == rows() and len(rows()) == 6
    assert rows(4) == rows()[4:]
    assert rows(number=9)[:6] == rows() != rows(seed=2)
    flat = [tuple(np.ravel(task)) for batch in rows() for task in batch]
    assert len(set(flat)) == 12


def test_no_two_examples_of_a_group_stand_in_one_class():
    x, y = clusters(each=30)
    groups = np.random.default_rng(0).integers(0, 8, len(y))  # 8 groups, in all classes
    episodes = Episodes(x, y, shots=2, queries=3, groups=groups, number=50)
    found = np.concatenate([groups[rows[0]] for rows in episodes.rows()])
    assert all(len(set(row)) == 5 for row in found)
    assert set(found.ravel()) == set(range(8))
    plain = Episodes(x, y, shots=2, queries=3, number=50)
    assert not all(len(set(groups[row])) == 5 for rows in plain.rows() for row in rows[0])


def test_classes_are_split_and_seeded():
    _, y = clusters()
    parts = split_classes(y, test=3, validation=2, seed=0)
    of = [set(y[rows]) for rows in parts]
    assert [len(found) for found in of] == [7, 2, 3]
    assert set.union(*of) == set(range(12)) and sum(map(len, parts)) == len(y)
    assert all(map(np.array_equal, parts, split_classes(y, test=3, validation=2, seed=0)))
    assert of[2] == set(y[split_classes(y, test=3).test])
    assert len({frozenset(y[split_classes(y, test=3, seed=s).test]) for s in range(5)}) > 1
    assert len(split_classes(y, test=3).validation) == 0


def test_groups_may_not_be_split_between_classes():
    y = np.repeat(np.arange(4), 5)
    apart = np.arange(20)
    assert len(split_classes(y, test=2, groups=apart).train) == 10
    with pytest.raises(ValueError, match="1 groups, such as 7, stand in several parts"):
        split_classes(y, test=2, groups=np.where(np.arange(20) % 5 == 0, 7, 100 + apart))


@pytest.mark.parametrize("counts", [{"test": 0}, {"test": 8, "validation": 4}, {"test": 12}])
def test_no_part_of_the_classes_may_be_empty(counts):
    with pytest.raises(ValueError, match="of 12 classes"):
        split_classes(np.arange(12), **counts)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ways": 13}, "ways=13, but there are 12 classes"),
        ({"shots": 6}, r"class 3 has 20 examples, but an episode needs 6 \+ 15"),
        ({"groups": np.zeros(240)}, r"class 0 has 1 examples apart"),
        ({"queries": 0}, "each must be at least 1"),
        ({"y": np.arange(5)}, "x has 240"),
    ],
)
def test_episodes_that_cannot_be_drawn_are_refused(options, message):
    x, y = clusters()
    if "shots" in options:  # all classes but one have more
        more = np.flatnonzero(y != 3)
        x, y = np.concatenate([x, x[more]]), np.concatenate([y, y[more]])
    with pytest.raises(ValueError, match=message):
        Episodes(**{"x": x, "y": y} | options)


def test_sinusoids_are_those_of_the_paper():
    tasks = sinusoids(2000, shots=5, queries=3, seed=0)
    a, phase = (tasks[name][:, None, None] for name in ("amplitude", "phase"))
    for half, count in (("support", 5), ("query", 3)):
        x, y = tasks[f"{half}_x"], tasks[f"{half}_y"]
        assert x.shape == y.shape == (2000, count, 1) and y.dtype == np.float32
        assert y == pytest.approx(a * np.sin(x - phase), abs=1e-5)
    for values, low, high in ((a, 0.1, 5), (phase, 0, math.pi), (tasks["query_x"], -5, 5)):
        assert low <= values.min() < low + 0.01 * (high - low)
        assert high >= values.max() > high - 0.01 * (high - low)
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    assert np.array_equal(sinusoids(3, seed=1)["query_y"], sinusoids(3, seed=1)["query_y"])
    assert not np.array_equal(sinusoids(3, seed=1)["query_y"], sinusoids(3, seed=2)["query_y"])


# --- prototypes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("shots", [1, 2, 5])
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")  # scikit-learn's, at one shot
def test_prototypes_of_raw_features_are_scikit_learns_nearest_centroid(shots):
    x, y = clusters(spread=3.0)
    ours, theirs = nearest_prototype(nn.Identity()), finetune_learner(NearestCentroid())
    for batch in Episodes(x, y, shots=shots, queries=10, number=30):
        task = [batch[name][0] for name in ("support_x", "support_y", "query_x")]
        assert ours(*task).tolist() == theirs(*task).tolist()
        loss, logs = prototypical()(nn.Identity(), batch)
        right = (ours(*task) == batch["query_y"][0]).float().mean()
        assert logs["accuracy"] == pytest.approx(right.item())
        distances = (
            (x[batch.rows[0, :, shots:]][:, :, None] - x[batch.rows[0, :, :shots]].mean(1)) ** 2
        ).sum(-1)
        expected = -np.diagonal(log_softmax(-distances, -1), axis1=0, axis2=2).mean()
        assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_tasks_of_a_batch_do_not_mix():
    x, y = clusters(spread=3.0)
    episodes = Episodes(x, y, shots=2, queries=3, batch_size=4, number=1)
    (batch,) = episodes
    alone = [prototypical()(nn.Identity(), episodes.batch(rows[None]))[0] for rows in batch.rows]
    assert len({round(loss.item(), 3) for loss in alone}) == 4
    together, _ = prototypical()(nn.Identity(), batch)
    assert together.item() == pytest.approx(np.mean([loss.item() for loss in alone]), rel=1e-6)


def test_examples_of_the_support_may_stand_in_any_order():
    x, labels = torch.randn(9, 4), torch.arange(3).repeat(3)
    order = torch.tensor([4, 0, 8, 2, 6, 1, 3, 7, 5])
    query = torch.randn(5, 4)
    torch.testing.assert_close(
        prototype_logits(x, labels, query), prototype_logits(x[order], labels[order], query)
    )
    with pytest.raises(ValueError, match="a class has no example"):
        prototype_logits(x, labels * 2, query)


def test_prototypical_networks_learn_what_tells_new_classes_apart():
    """Classes differ in 2 numbers of 22; the others are noise that drowns distances."""
    rng = np.random.default_rng(0)
    signal, y = clusters(classes=40, d=2, spread=0.2)
    x = np.hstack([signal, 4 * rng.normal(size=(len(y), 20))]).astype(np.float32)
    train, _, test = split_classes(y, test=10)
    torch.manual_seed(0)
    model = MLP([22, 32, 8])
    episodes = Episodes(x[train], y[train], queries=10, number=300)
    for _ in steps(model, prototypical(), episodes, Adam(model.parameters(), lr=5e-3)):
        pass
    new = Episodes(x[test], y[test], queries=10, number=50, seed=1)
    before = score_episodes(nearest_prototype(nn.Identity()), new).accuracy.mean()
    assert before < 0.45 < 0.75 < score_episodes(nearest_prototype(model), new).accuracy.mean()


# --- adaptation: closed forms -------------------------------------------------------------------


def quadratics(tasks: int = 3, n: int = 6, d: int = 4, seed: int = 0) -> dict:
    """Regressions whose squared error is quadratic in the weights of a linear model."""
    rng = np.random.default_rng(seed)
    columns = {}
    for half in ("support", "query"):
        x = rng.normal(size=(tasks, n, d))
        columns[f"{half}_x"] = x
        columns[f"{half}_y"] = x @ rng.normal(size=(tasks, d, 1)) + rng.normal(size=(tasks, n, 1))
    return columns


def quadratic_form(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A and b where the gradient of the mean squared error is A w - b."""
    return 2 * x.T @ x / len(x), 2 * x.T @ y[:, 0] / len(x)


def line(d: int = 4, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(d, 1, bias=False).double()


def tensors(columns: dict) -> dict:
    return {name: torch.as_tensor(column) for name, column in columns.items()}


@pytest.mark.parametrize("k", [0, 1, 3])
@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_is_the_closed_form(k, first_order):
    """With A, b of the support and C, e of the query, k steps lead to w_k, and the gradient is
    (I - lr A)^k (C w_k - e), or without its first factor where the steps count as constants."""
    columns, model, lr = quadratics(), line(), 0.1
    loss, _ = maml(F.mse_loss, inner_steps=k, lr=lr, first_order=first_order)(
        model, tensors(columns)
    )
    w0 = model.weight.detach().numpy()[0]
    expected, losses = [], []
    for sx, sy, qx, qy in zip(*(columns[name] for name in columns), strict=True):
        (A, b), (C, e), w = quadratic_form(sx, sy), quadratic_form(qx, qy), w0
        for _ in range(k):
            w = w - lr * (A @ w - b)
        through = np.eye(4) if first_order else np.linalg.matrix_power(np.eye(4) - lr * A, k)
        expected.append(through @ (C @ w - e))
        losses.append(np.mean((qx @ w - qy[:, 0]) ** 2))
    assert loss.item() == pytest.approx(np.mean(losses), rel=1e-12)
    assert gradient(model, loss).numpy() == pytest.approx(np.mean(expected, axis=0), rel=1e-10)


def test_first_order_is_another_gradient_of_the_same_loss():
    batch, model = tensors(quadratics()), line()
    first, second = (
        maml(F.mse_loss, inner_steps=1, lr=0.1, first_order=order)(model, batch)[0]
        for order in (True, False)
    )
    assert first.item() == second.item()
    assert not torch.allclose(gradient(model, first), gradient(model, second), rtol=0.05)


@pytest.mark.parametrize("first_order", [False, True])
def test_maml_of_a_network_equals_plain_autograd_task_by_task(first_order):
    """No functional_call, no vmap: layers by hand, gradients with a graph of their own."""
    torch.manual_seed(0)
    model = MLP([4, 8, 5]).double()
    x, y = clusters()
    (batch,) = Episodes(x.astype(float), y, shots=2, queries=3, batch_size=3, number=1)
    loss, logs = maml(F.cross_entropy, inner_steps=2, lr=0.3, first_order=first_order)(model, batch)
    total, right = 0, []
    for sx, sy, qx, qy in zip(*batch.values(), strict=True):
        params = list(model.parameters())

        def net(x, p):
            return torch.relu(x @ p[0].T + p[1]) @ p[2].T + p[3]

        for _ in range(2):
            inner = F.cross_entropy(net(sx, params), sy)
            found = torch.autograd.grad(inner, params, create_graph=not first_order)
            params = [p - 0.3 * g for p, g in zip(params, found, strict=True)]
        total = total + F.cross_entropy(net(qx, params), qy) / 3
        right.append((net(qx, params).argmax(1) == qy).double().mean().item())
    assert loss.item() == pytest.approx(total.item(), rel=1e-12)
    torch.testing.assert_close(gradient(model, loss), gradient(model, total))
    assert logs["accuracy"] == pytest.approx(np.mean(right))


def test_maml_without_steps_is_ordinary_training():
    batch, model = tensors(quadratics()), line()
    loss, logs = maml(F.mse_loss, inner_steps=0, lr=0.1)(model, batch)
    plain = F.mse_loss(model(batch["query_x"].flatten(0, 1)), batch["query_y"].flatten(0, 1))
    assert loss.item() == pytest.approx(plain.item(), rel=1e-12)
    torch.testing.assert_close(gradient(model, loss), gradient(model, plain))
    assert logs == {}  # values have no accuracy


def test_adaptation_follows_the_closed_form_and_leaves_the_model_alone():
    columns, model, lr = quadratics(tasks=1), line(), 0.05
    x, y = columns["support_x"][0], columns["support_y"][0]
    before = weights(model)
    found = adapt(model, F.mse_loss, tensors({"x": x, "y": y}).values(), inner_steps=4, lr=lr)
    A, b = quadratic_form(x, y)
    best = np.linalg.solve(A, b)
    assert len(found) == 5
    for k, w in enumerate(found):
        shrunk = np.linalg.matrix_power(np.eye(4) - lr * A, k) @ (before.numpy() - best)
        assert w["weight"].detach().numpy()[0] == pytest.approx(best + shrunk, rel=1e-10)
    assert torch.equal(weights(model), before)
    with torch.no_grad():
        apart = adapt(model, F.mse_loss, (torch.tensor(x), torch.tensor(y)), inner_steps=4, lr=lr)
    assert not apart[4]["weight"].requires_grad and found[4]["weight"].requires_grad
    assert torch.equal(apart[4]["weight"], found[4]["weight"])
    with pytest.raises(ValueError, match="steps=-1"):
        adapt(model, F.mse_loss, (x, y), inner_steps=-1, lr=lr)


def test_frozen_parts_are_not_adapted():
    model = MLP([4, 8, 5])
    model[0].requires_grad_(False)
    x, y = torch.randn(10, 4), torch.arange(10) % 5
    last = adapt(model, F.cross_entropy, (x, y), inner_steps=3, lr=0.5)[-1]
    assert set(last) == {"2.weight", "2.bias"}
    assert not torch.allclose(functional_call(model, last, (x,)), model(x))


def test_reptile_with_one_step_is_sgd_on_the_mean_task_loss():
    batch, one, other = tensors(quadratics()), line(), line()
    inner, outer = 0.05, 0.5
    (done,) = steps(
        one,
        reptile(F.mse_loss, inner_steps=1, lr=inner),
        Batches(batch, batch_size=3),
        SGD(one.parameters(), lr=outer),
        clip=None,
    )
    x, y = (torch.cat([batch[f"support_{c}"], batch[f"query_{c}"]], 1) for c in "xy")
    F.mse_loss(other(x.flatten(0, 1)), y.flatten(0, 1)).backward()
    with torch.no_grad():
        other.weight -= outer * inner * other.weight.grad
    assert done.examples == 3
    torch.testing.assert_close(one.weight, other.weight)


def test_reptile_moves_toward_the_mean_of_where_tasks_end():
    columns, model = quadratics(), line()
    batch, start = tensors(columns), weights(model).numpy()
    loss, logs = reptile(F.mse_loss, inner_steps=20, lr=0.05)(model, batch)
    ends, last = [], []
    for sx, sy, qx, qy in zip(*(columns[name] for name in columns), strict=True):
        x, y = np.concatenate([sx, qx]), np.concatenate([sy, qy])
        A, b = quadratic_form(x, y)
        best = np.linalg.solve(A, b)
        ends.append(best + np.linalg.matrix_power(np.eye(4) - 0.05 * A, 20) @ (start - best))
        last.append(np.mean((x @ ends[-1] - y[:, 0]) ** 2))
    assert gradient(model, loss).numpy() == pytest.approx(start - np.mean(ends, axis=0), rel=1e-9)
    assert loss.item() == pytest.approx(np.mean([((start - end) ** 2).sum() / 2 for end in ends]))
    assert logs["task_loss"] == pytest.approx(np.mean(last))


# --- adaptation: networks -----------------------------------------------------------------------


def meta_trained(loss_fn, lr: float = 3e-3, number: int = 700) -> nn.Module:
    torch.manual_seed(0)
    model = MLP([1, 40, 40, 1])
    tasks = Batches(sinusoids(25 * number, seed=0), batch_size=25)
    for _ in steps(model, loss_fn, tasks, Adam(model.parameters(), lr=lr)):
        pass
    return model


def test_maml_adapts_to_a_sinusoid_where_joint_training_cannot():
    """The comparison of the paper's figure on sinusoids: 10 points, the same few steps for both."""
    tasks = sinusoids(300, shots=10, queries=50, seed=1)
    first, joint = (
        query_losses(
            meta_trained(maml(F.mse_loss, inner_steps=k, lr=0.01)),
            F.mse_loss,
            tasks,
            inner_steps=10,
            lr=0.01,
        ).mean(0)
        for k in (1, 0)
    )
    # what is left of the curves without their mean: E A^2 / 2 - (2 E A / pi)^2 E cos^2 x
    floor = (5**3 - 0.1**3) / (3 * 4.9) / 2
    floor -= (2 * 2.55 / math.pi) ** 2 * (1 / 2 + math.sin(10) / 20)
    assert joint[0] == pytest.approx(floor, rel=0.1)
    assert first[0] > 0.9 * floor  # nor does MAML know the task beforehand
    assert first[1] < 0.5 * joint[1]
    assert first[10] < 0.4 * joint[10]


def test_query_losses_are_those_of_each_task():
    tasks, model = sinusoids(4, shots=5, queries=6), nn.Sequential(MLP([1, 8, 1]), nn.Dropout(0.5))
    found = query_losses(model, F.mse_loss, tasks, inner_steps=2, lr=0.1)
    assert found.shape == (4, 3)
    for task in range(4):
        sx, sy, qx, qy = (
            torch.tensor(tasks[f"{half}_{c}"][task]) for half in ("support", "query") for c in "xy"
        )
        for k, w in enumerate(adapt(model, F.mse_loss, (sx, sy), inner_steps=2, lr=0.1)):
            expected = F.mse_loss(functional_call(model, w, (qx,)), qy).item()
            assert found[task, k] == pytest.approx(expected, rel=1e-4)


def images(n: int = 60, classes: int = 6) -> tuple[torch.Tensor, np.ndarray]:
    torch.manual_seed(0)
    y = np.arange(n) % classes
    return torch.rand(n, 3, 8, 8) + torch.tensor(y).view(-1, 1, 1, 1) / 3, y


def convnet(ways: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(ConvEncoder(16, size=8, width=8), nn.Linear(16, ways))


@pytest.mark.parametrize("build", [maml, reptile])
def test_batch_normalization_follows_no_running_statistics(build):
    episodes = Episodes(*images(), ways=3, shots=2, queries=3, number=3, batch_size=2)
    loss_fn, model = build(F.cross_entropy, inner_steps=2, lr=0.1), convnet()
    with pytest.raises(ValueError, match=r"0\.blocks\.0\.1 would update running statistics"):
        next(steps(model, loss_fn, episodes, SGD(model.parameters(), lr=0.1)))
    replace_all_batch_norm_modules_(model)
    before = weights(model)
    done = list(steps(model, loss_fn, episodes, SGD(model.parameters(), lr=0.1), clip=None))
    assert [step.examples for step in done] == [2, 2, 2]
    assert all(math.isfinite(step.loss) for step in done)
    assert not torch.equal(weights(model), before)


def test_prototypes_keep_running_statistics():
    model, episodes = convnet()[0], Episodes(*images(), ways=3, queries=3, number=4, batch_size=2)
    for _ in steps(model, prototypical(), episodes, SGD(model.parameters(), lr=0.01)):
        pass
    assert model.blocks[0][1].num_batches_tracked == 4  # all tasks of a batch in one pass
    learner, (batch, *_) = nearest_prototype(model), episodes
    support, labels, query = (batch[name][0] for name in ("support_x", "support_y", "query_x"))
    whole = learner(support, labels, query)
    assert whole.tolist() == [learner(support, labels, q[None]).item() for q in query]
    assert model.blocks[0][1].num_batches_tracked == 4


def test_only_transductive_predictions_depend_on_the_other_queries():
    x, y = images()
    model = convnet()
    replace_all_batch_norm_modules_(model)
    before = weights(model)
    support, labels, query = x[:6], torch.tensor(y[:6] % 3), x[6:40]
    changed = {}
    for transductive in (True, False):
        learner = maml_learner(model, inner_steps=2, lr=0.5, transductive=transductive)
        whole = learner(support, labels, query)
        changed[transductive] = any(
            (learner(support, labels, query[start : start + 3]) != whole[start : start + 3]).any()
            for start in range(0, 33, 3)
        )
    assert changed == {True: True, False: False}
    assert torch.equal(weights(model), before) and not model.training
    # beside the support, each query alone
    w = adapt(model, F.cross_entropy, (support, labels), inner_steps=2, lr=0.5)[-1]
    outputs = [functional_call(model, w, (torch.cat([support, q[None]]),))[-1] for q in query]
    assert whole.tolist() == torch.stack(outputs).argmax(1).tolist()


def test_without_batch_normalization_both_predictions_agree():
    x, y = clusters()
    torch.manual_seed(0)
    model = MLP([4, 16, 5])
    episodes = Episodes(x, y, queries=5, number=5)
    zero, one, other = (
        score_episodes(
            maml_learner(model, inner_steps=k, lr=0.5, transductive=t), episodes
        ).accuracy
        for k, t in ((0, True), (20, True), (20, False))
    )
    assert np.array_equal(one, other)
    assert zero.mean() < 0.5 < 0.7 < one.mean()


def test_dropout_differs_between_the_tasks_of_a_batch():
    """Each of 64 tasks has one number, which becomes 0 or 2: their mean loss is neither 0 nor 4."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(1, 1, bias=False))
    nn.init.ones_(model[1].weight)
    x = torch.ones(64, 1, 1)
    tasks = {"support_x": x, "support_y": 0 * x, "query_x": x, "query_y": 0 * x}
    loss, _ = maml(F.mse_loss, inner_steps=0, lr=0.1)(model, tasks)
    assert 1 < loss.item() < 3


def test_adaptation_is_refused_in_several_processes():
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(MLP([4, 5]))
        with pytest.raises(ValueError, match="in one process only"):
            maml(F.mse_loss, inner_steps=1, lr=0.1)(model, tensors(quadratics()))
    finally:
        dist.destroy_process_group()


# --- the loop -----------------------------------------------------------------------------------


def test_a_task_is_an_example_of_the_loop(tmp_path):
    """Steps begin anywhere, windows are means over tasks, and fit resumes from a checkpoint."""
    x, y = clusters()
    episodes = Episodes(x, y, queries=5, number=6, batch_size=2)

    def run(**options):
        torch.manual_seed(0)
        model = MLP([4, 8])
        optimizer = SGD(model.parameters(), lr=0.1)
        return model, list(steps(model, prototypical(), episodes, optimizer, **options))

    torch.manual_seed(0)
    untrained = MLP([4, 8])
    losses = [prototypical()(untrained, batch)[0].item() for batch in episodes]
    straight, done = run()
    assert [step.examples for step in done] == [2] * 6
    assert done[0].loss == pytest.approx(losses[0])
    _, windows = run(accumulate=3)
    assert [step.examples for step in windows] == [6, 6]
    assert windows[0].loss == pytest.approx(np.mean(losses[:3]))
    (late,) = run(start=5)[1]
    assert late.loss == pytest.approx(losses[5])

    torch.manual_seed(0)
    model = MLP([4, 8])
    options = {"every": 2, "checkpoint": tmp_path / "run", "progress": False}
    history = fit(model, prototypical(), episodes, SGD(model.parameters(), lr=0.1), **options)
    assert history["step"].tolist() == [2, 4, 6]
    assert history["epoch"].iloc[-1] == 1
    assert torch.equal(weights(model), weights(straight))


# --- learners -----------------------------------------------------------------------------------


def test_a_fitted_learner_is_scikit_learns_fitted_to_the_support():
    x, y = clusters(spread=3.0)
    images = x.reshape(-1, 1, 2, 2)
    estimator = LogisticRegression(C=0.3)
    learner = finetune_learner(estimator)
    for batch in Episodes(images, y, shots=3, queries=5, number=3):
        rows, labels = batch.rows[0], np.repeat(np.arange(5), 3)
        theirs = LogisticRegression(C=0.3).fit(x[rows[:, :3].ravel()], labels)
        found = learner(batch["support_x"][0], batch["support_y"][0], batch["query_x"][0])
        assert found.tolist() == theirs.predict(x[rows[:, 3:].ravel()]).tolist()
    assert not hasattr(estimator, "coef_")


def test_scores_are_shares_by_class_and_name_the_classes():
    """A learner that knows all classes but one: it takes every query of class 4 for label 0."""
    x, y = clusters(classes=6)
    x[:, 0] = y
    episodes = Episodes(x, y, shots=2, queries=3, number=10, batch_size=2)

    def learner(support_x, support_y, query_x):
        known = {float(c): int(label) for c, label in zip(support_x[:, 0], support_y, strict=True)}
        label_4 = known.pop(4.0, None)
        wrong = 0 if label_4 != 0 else 1
        return torch.tensor([known.get(c, wrong) for c in query_x[:, 0].tolist()])

    found = score_episodes(learner, episodes)
    assert found.accuracy.shape == found.classes.shape == (20, 5)
    assert np.array_equal(found.accuracy, (found.classes != 4).astype(float))
    assert np.array_equal(found.classes[:2], y[next(episodes.rows())[:, :, 0]])
    with pytest.raises(ValueError, match=r"shape \(10,\): expected one label for each of the 15"):
        score_episodes(lambda sx, sy, qx: sy, episodes)
