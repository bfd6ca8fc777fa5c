"""Losses of a student against plain loops and closed forms, and what they leave free."""

import itertools

import numpy as np
import pytest
import torch
from scipy.special import rel_entr, softmax
from torch import nn
from torch.nn import functional as F

from tests.helpers import linear, sentences, tiny_bert, vectors
from tlbook.learning.batches import Batches
from tlbook.learning.freezing import ALL, freeze
from tlbook.learning.loop import predict, steps
from tlbook.learning.losses import classification
from tlbook.learning.networks import MLP, WithAuxiliary
from tlbook.methods.distillation import (
    distillation,
    hint,
    rkd_angle,
    rkd_distance,
    teacher_columns,
    with_teacher,
)

CLASSES = 4


def logits(n: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    student, teacher = (torch.tensor(rng.normal(0, 2, (n, CLASSES))) for _ in range(2))
    return student.requires_grad_(), teacher


def loss_of(loss_fn, student: torch.Tensor, **columns) -> tuple[torch.Tensor, dict]:
    return loss_fn(nn.Identity(), {"x": student} | columns)


# --- soft targets -------------------------------------------------------------------------------


def test_a_teacher_without_doubt_at_temperature_one_is_cross_entropy():
    student, _ = logits()
    labels = torch.arange(12) % CLASSES
    sure = 1e4 * F.one_hot(labels, CLASSES).double()
    loss, logs = loss_of(distillation(1.0, alpha=1.0), student, teacher_logits=sure)
    expected = F.cross_entropy(student, labels)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-12)
    right = (student.argmax(1) == labels).double().mean().item()
    assert logs == {"agreement": pytest.approx(right)}
    found, by_hand = (torch.autograd.grad(value, student)[0] for value in (loss, expected))
    torch.testing.assert_close(found, by_hand)


@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 1.0), (3.0, 0.4), (8.0, 0.0)])
def test_distillation_is_scipys_divergence_and_cross_entropy(temperature, alpha):
    student, teacher = logits()
    labels = torch.arange(12) % CLASSES
    loss_fn = distillation(temperature, alpha)
    loss, logs = loss_of(loss_fn, student, teacher_logits=teacher, labels=labels)
    p, q = (softmax(z.detach().numpy() / temperature, 1) for z in (teacher, student))
    soft = temperature**2 * rel_entr(p, q).sum(1).mean()
    hard = F.cross_entropy(student, labels).item()
    assert loss.item() == pytest.approx(alpha * soft + (1 - alpha) * hard, rel=1e-10)
    agreement = np.mean(p.argmax(1) == q.argmax(1))
    assert logs["agreement"] == pytest.approx(agreement)
    if alpha < 1:
        assert logs["accuracy"] == pytest.approx(np.mean(q.argmax(1) == labels.numpy()))


def test_at_high_temperature_logits_are_matched():
    """Hinton et al., equation 4: with logits of mean zero, the gradient tends to (z - v) / N."""
    student, teacher = logits()
    apart = student - teacher - (student - teacher).mean(1, keepdim=True)
    limit = apart.detach() / CLASSES / len(student)
    errors = []
    for temperature in (1e1, 1e2, 1e3):
        loss, _ = loss_of(distillation(temperature, 1.0), student, teacher_logits=teacher)
        (gradient,) = torch.autograd.grad(loss, student)
        errors.append(((gradient - limit).norm() / limit.norm()).item())
    assert errors[2] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(10, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(10, rel=0.2)


def test_impossible_distillation_is_refused():
    student, teacher = logits()
    for temperature, alpha in ((0.0, 0.5), (1.0, 1.1), (1.0, -0.1)):
        with pytest.raises(ValueError, match="must be positive, and alpha"):
            distillation(temperature, alpha)
    with pytest.raises(KeyError, match="has no labels"):
        loss_of(distillation(), student, teacher_logits=teacher)
    with pytest.raises(ValueError, match="has no column teacher_"):
        loss_of(distillation(), student, labels=torch.zeros(12))


# --- what a teacher says ------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [False, True])
def test_a_teacher_is_computed_once_in_eval_mode_and_in_order(texts):
    if texts:
        teacher, columns, layer = tiny_bert(dropout=0.5), sentences(50), "bert.pooler"
    else:
        teacher = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), linear(8))
        columns, layer = vectors(50), "0"
    next(teacher.train().children()).eval()  # as where a part is frozen
    modes = [module.training for module in teacher.modules()]
    found = teacher_columns(teacher, columns, [layer], batch_size=16)
    assert [module.training for module in teacher.modules()] == modes
    assert set(found) == {"teacher_logits", f"teacher_{layer}"}
    inputs = {name: column for name, column in columns.items() if name != "labels"}
    expected = predict(teacher, Batches(inputs, 7, seed=None))
    np.testing.assert_allclose(found["teacher_logits"], expected, atol=1e-5)
    teacher.eval()
    head = teacher.classifier if texts else teacher[1:]
    again = head(torch.from_numpy(found[f"teacher_{layer}"])).detach()
    np.testing.assert_allclose(again, expected, atol=1e-5)
    student = tiny_bert(seed=1) if texts else linear()
    batch = next(iter(Batches(columns | found, 50, seed=3)))
    agreement = distillation(alpha=1.0)(student, batch)[1]["agreement"]
    own = predict(student.eval(), Batches(inputs, 50, seed=None)).argmax(1)
    assert agreement == pytest.approx(np.mean(own == expected.argmax(1)))


def test_layers_of_a_teacher_must_have_one_shape():
    teacher = tiny_bert().train()
    with pytest.raises(ValueError, match="differ in shape between examples"):
        teacher_columns(teacher, sentences(50), ["bert.embeddings"], batch_size=8)
    with pytest.raises(ValueError, match=r"no layer \['body'\]"):
        teacher_columns(teacher, sentences(50), ["body"])
    assert all(module.training for module in teacher.modules())


# --- features and relations ---------------------------------------------------------------------


def features(n: int = 7, d: int = 3, e: int = 5, seed: int = 0) -> tuple[torch.Tensor, ...]:
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=(n, d))), torch.tensor(rng.normal(size=(n, e)))


def huber(x: float) -> float:
    return 0.5 * x**2 if abs(x) <= 1 else abs(x) - 0.5


def rkd_distance_by_loops(student, teacher):
    pairs = list(itertools.permutations(range(len(student)), 2))

    def distances(x):
        found = [np.linalg.norm(x[i] - x[j]) for i, j in pairs]
        return np.array(found) / np.mean(found)

    return np.mean([huber(x) for x in distances(student) - distances(teacher)])


def rkd_angle_by_loops(student, teacher):
    def cosine(x, i, j, k):
        to_i, to_k = x[i] - x[j], x[k] - x[j]
        return to_i @ to_k / (np.linalg.norm(to_i) * np.linalg.norm(to_k))

    triplets = itertools.permutations(range(len(student)), 3)
    return np.mean([huber(cosine(student, *t) - cosine(teacher, *t)) for t in triplets])


@pytest.mark.parametrize("n", [3, 8])
@pytest.mark.parametrize(
    ("loss", "loops"),
    [(rkd_distance, rkd_distance_by_loops), (rkd_angle, rkd_angle_by_loops)],
)
def test_relations_by_loops(loss, loops, n):
    student, teacher = features(n)
    student[0] *= 20  # far enough for the linear part of the Huber loss
    expected = loops(student.numpy(), teacher.numpy())
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
def test_relations_leave_place_scale_rotation_and_dimension_free(loss):
    student, _ = features()
    rotation = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    moved = F.pad(3 * student @ rotation + 5, (0, 2))
    assert loss(student, moved).item() == pytest.approx(0, abs=1e-20)
    assert loss(student, moved * torch.tensor([1, 1, 4, 1, 1])).item() > 1e-3


@pytest.mark.parametrize("loss", [rkd_distance, rkd_angle])
def test_gradients_of_relations_are_finite_where_examples_coincide(loss):
    student, teacher = features()
    assert torch.autograd.gradcheck(loss, (student.clone().requires_grad_(), teacher))
    for coinciding in (student[[0, 0, 1, 1, 2, 3, 3]], torch.zeros(7, 3).double()):
        x = coinciding.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(loss(x, teacher), x)
        assert gradient.abs().max() < 10
        assert loss(x, teacher).isfinite()
        assert loss(teacher, coinciding).isfinite()


def test_an_angle_at_coinciding_points_counts_as_a_right_one():
    student = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]])
    teacher = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]])  # cosines 0, 1/sqrt(2), 1/sqrt(2)
    # at the coinciding points 0 instead of 0 and 0.71, at the third 1 instead of 0.71; each twice
    expected = 2 * (huber(0.5**0.5) + huber(1 - 0.5**0.5)) / 6
    assert rkd_angle(student, teacher).item() == pytest.approx(expected, abs=1e-6)


def test_relations_need_examples():
    student, teacher = features(3)
    for loss, few in ((rkd_distance, 1), (rkd_angle, 2)):
        with pytest.raises(ValueError, match=f"need {few + 1} or more examples"):
            loss(student[:few], teacher[:few])
        with pytest.raises(ValueError, match="3 of the student's and 2 of the teacher's"):
            loss(student, teacher[:2])


def test_a_hint_is_half_the_squared_distance():
    student, teacher = features(e=3)
    expected = np.square(student.numpy() - teacher.numpy()).sum() / 2 / len(student)
    assert hint(student, teacher).item() == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match="put a regressor between"):
        hint(student, teacher[:, :2])


# --- students -----------------------------------------------------------------------------------


def lesson(layer: str = "1") -> tuple[nn.Module, dict[str, np.ndarray]]:
    """A student, and columns with what a wider teacher says of them."""
    torch.manual_seed(0)
    teacher, student = MLP([5, 16, 2]), MLP([5, 4, 2])
    columns = vectors(64)
    return student, columns | teacher_columns(teacher, columns, [layer])


def test_taught_is_cross_entropy_and_distances():
    student, columns = lesson()
    batch = next(iter(Batches(columns, 64, seed=None)))
    x, truth = batch["x"], batch["labels"]
    loss_fn = with_teacher(rkd_angle, {"1": "1", "2": "logits"}, weight=3.0)
    loss, logs = loss_fn(student, batch)
    distance = rkd_angle(student[1](student[0](x)), batch["teacher_1"])
    distance = distance + rkd_angle(student(x), batch["teacher_logits"])
    plain, of_plain = classification()(student, {"x": x, "labels": truth})
    assert loss.item() == pytest.approx((plain + 3 * distance).item(), rel=1e-5)
    assert logs == {"transfer": pytest.approx(distance.item(), rel=1e-5), **of_plain}
    without = with_teacher(rkd_angle, {"1": "1"}, labels=False)
    del batch["labels"]
    loss, logs = without(student, batch)
    assert loss.item() == pytest.approx(logs["transfer"], rel=1e-5)
    with pytest.raises(KeyError, match="has no labels"):
        loss_fn(student, batch)
    batch["labels"] = truth
    with pytest.raises(KeyError, match="logits, 1 has no column teacher_body"):
        with_teacher(rkd_angle, {"1": "body"})(student, batch)
    with pytest.raises(ValueError, match="name a layer of the student"):
        with_teacher(rkd_angle, {})


@pytest.mark.parametrize(
    "build",
    [
        lambda: distillation(2.0, alpha=1.0),
        lambda: with_teacher(rkd_distance, {"network.1": "1"}, labels=False),
        lambda: with_teacher(rkd_angle, {"network.1": "1"}, labels=False),
        lambda: with_teacher(hint, {"network.1": "1"}, labels=False, regressor=True),
    ],
)
def test_a_student_learns_what_the_teacher_teaches(build):
    network, columns = lesson()
    model = WithAuxiliary(network, nn.Linear(4, 16))
    before = model.auxiliary.weight.detach().clone()
    optimizer = torch.optim.AdamW(freeze(model, ALL, lr=1e-2))
    batches = Batches(columns, batch_size=32, epochs=40)
    losses = [step.loss for step in steps(model, build(), batches, optimizer)]
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])
    moved = (model.auxiliary.weight - before).abs().max() > 0.05
    assert moved == ("hint" in build.__code__.co_names)  # what no loss uses only decays


def test_a_regressor_that_is_missing_is_named():
    student, columns = lesson()
    batch = next(iter(Batches(columns, 64)))
    with pytest.raises(ValueError, match="trains an auxiliary module"):
        with_teacher(hint, {"1": "1"}, regressor=True)(student, batch)
    with pytest.raises(ValueError, match=r"are \(64, 4\), the teacher's \(64, 16\)"):
        with_teacher(hint, {"1": "1"})(student, batch)
