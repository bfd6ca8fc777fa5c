"""Distances between domains against other implementations and closed forms; adaptation where it
is needed, and where it is not."""

import os
import subprocess
import sys

import numpy as np
import pytest
import sklearn
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import permutation_test, wasserstein_distance
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import _num_samples
from torch import nn
from torch.nn import functional as F

from tests.helpers import sentences, tiny_bert
from tlbook.learning.batches import Batches, Pairs
from tlbook.learning.freezing import ALL, freeze
from tlbook.learning.loop import evaluate, steps
from tlbook.learning.networks import MLP, WithAuxiliary
from tlbook.methods.alignment import (
    CORAL,
    OTMapping,
    aligned,
    coral_loss,
    dann_schedule,
    domain_adversarial,
    mmd,
    mmd_test,
    moved_onto,
    reverse_gradient,
    transport_plan,
)


def samples(n: int = 12, m: int = 10, d: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(0.4, 1.5, size=(m, d))


def as_tensors(*arrays: np.ndarray) -> list[torch.Tensor]:
    return [torch.tensor(array, requires_grad=True) for array in arrays]


# --- how far apart two samples are --------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 4])
def test_coral_loss_compares_covariances(d):
    x, y = samples(d=d)
    covariances = np.cov(x, rowvar=False) - np.cov(y, rowvar=False)
    expected = np.square(covariances).sum() / (4 * d**2)
    assert coral_loss(*as_tensors(x, y)).item() == pytest.approx(expected, rel=1e-12)
    assert coral_loss(*as_tensors(x, x + 5)).item() == pytest.approx(0, abs=1e-12)


def mmd_by_loops(x, y, bandwidths, unbiased):
    def similarity(a, b, skip):
        total, count = 0.0, 0
        for i, u in enumerate(a):
            for j, v in enumerate(b):
                if not (skip and i == j):
                    widths = [np.exp(-np.sum((u - v) ** 2) / (2 * w**2)) for w in bandwidths]
                    total, count = total + np.mean(widths), count + 1
        return total / count

    same = similarity(x, x, unbiased) + similarity(y, y, unbiased)
    return same - 2 * similarity(x, y, False)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("bandwidths", [[1.0], [0.5, 3.0], None])
def test_mmd_by_loops(bandwidths, unbiased):
    x, y = samples()
    found = mmd(*as_tensors(x, y), bandwidths, unbiased).item()
    if bandwidths is None:
        both = np.concatenate([x, y])
        distances = [np.linalg.norm(u - v) for i, u in enumerate(both) for v in both[:i]]
        bandwidths = np.median(distances) * np.array([0.25, 0.5, 1, 2, 4])
    assert found == pytest.approx(mmd_by_loops(x, y, bandwidths, unbiased), abs=1e-12)


def test_mmd_of_two_gaussians_in_closed_form():
    """The mean of a Gaussian kernel under Gaussians is a Gaussian integral."""
    rng = np.random.default_rng(0)
    width, mean = 1.3, np.array([1.5, -0.7])
    first, second = np.array([[1.0, 0.3], [0.3, 0.5]]), np.array([[0.6, 0.0], [0.0, 1.5]])

    def expected(one, other, apart):
        total = one + other + width**2 * np.eye(2)
        power = -apart @ np.linalg.solve(total, apart) / 2
        return np.exp(power) / np.sqrt(np.linalg.det(total / width**2))

    population = expected(first, first, 0 * mean) + expected(second, second, 0 * mean)
    population -= 2 * expected(first, second, mean)
    found = [
        mmd(
            *map(
                torch.from_numpy,
                (
                    rng.multivariate_normal(np.zeros(2), first, 500),
                    rng.multivariate_normal(mean, second, 500),
                ),
            ),
            [width],
            unbiased=True,
        ).item()
        for _ in range(20)
    ]
    error = np.std(found, ddof=1) / np.sqrt(len(found))
    assert error < 0.02 * population
    assert np.mean(found) == pytest.approx(population, abs=3 * error)


@pytest.mark.parametrize("bandwidths", [[], [1.0, 0.0], [-1.0]])
def test_bandwidths_must_be_positive(bandwidths):
    x, y = samples()
    for of in (lambda: mmd(*as_tensors(x, y), bandwidths), lambda: mmd_test(x, y, bandwidths)):
        with pytest.raises(ValueError, match="one or more positive numbers"):
            of()


def test_the_unbiased_mmd_of_one_distribution_is_zero_on_average():
    rng = np.random.default_rng(0)
    pairs = [torch.from_numpy(rng.normal(size=(2, 8, 3))) for _ in range(300)]
    biased, unbiased = ([mmd(x, y, [1.0], u).item() for x, y in pairs] for u in (False, True))
    assert abs(np.mean(unbiased)) < 3 * np.std(unbiased) / np.sqrt(300)
    assert min(biased) > 0 > min(unbiased)


@pytest.mark.parametrize("distance", [coral_loss, mmd])
def test_gradients_are_those_of_finite_differences(distance):
    def with_fixed_bandwidth(x, y):  # the median counts as a constant
        return distance(x, y, [1.0, 2.0]) if distance is mmd else distance(x, y)

    assert torch.autograd.gradcheck(with_fixed_bandwidth, as_tensors(*samples(n=5, m=4)))


@pytest.mark.parametrize("distance", [coral_loss, mmd])
def test_samples_that_coincide(distance):
    """No distance, and no gradient that is not finite, where examples repeat or are all alike."""
    x = torch.randn(6, 3).repeat(2, 1).requires_grad_()
    assert distance(x, x.detach()).item() == pytest.approx(0, abs=1e-6)
    for y in (x.detach(), torch.ones(4, 3)):
        (gradient,) = torch.autograd.grad(distance(x, y), x)
        assert gradient.isfinite().all()
    assert distance(torch.ones(4, 3), torch.ones(5, 3)).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("distance", [coral_loss, mmd])
def test_samples_that_cannot_be_compared_are_refused(distance):
    x = torch.randn(5, 3)
    for one, other in ((x, x[:1]), (x, x[:, :2]), (x[0], x[0])):
        with pytest.raises(ValueError, match="two or more examples of each domain"):
            distance(one, other)
    images = torch.randn(2, 5, 2, 4, 4)  # whatever an example has counts as its dimensions
    assert distance(*images).item() == pytest.approx(distance(*images.flatten(2)).item())


@pytest.mark.parametrize(("n", "m"), [(20, 20), (13, 31)])
def test_transport_in_one_dimension_is_scipys_wasserstein_distance(n, m):
    x, y = samples(n, m, d=1)
    cost = np.abs(x - y.T)
    found = (transport_plan(cost) * cost).sum()
    assert found == pytest.approx(wasserstein_distance(x[:, 0], y[:, 0]), rel=1e-10)


def test_impossible_transport_is_refused():
    for cost, regularization in ((np.array([[1.0, np.nan]]), 0.0), (np.ones((2, 2)), -1.0)):
        with pytest.raises(ValueError, match="costs must be finite"):
            transport_plan(cost, regularization)


def test_pot_does_not_bring_tensorflow():
    code = "import sys, numpy, tlbook.methods.alignment as a; a.transport_plan(numpy.ones((2, 2)))"
    code += "; print('ot' in sys.modules, 'tensorflow' in sys.modules)"
    environment = {k: v for k, v in os.environ.items() if not k.startswith("POT_")}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert run.stdout.split() == ["True", "False"]


# --- the permutation test -----------------------------------------------------------------------


def test_p_values_are_uniform_under_the_null_hypothesis():
    """With 99 permutations, p <= 0.05 has probability 0.05 exactly, and 400 trials an error."""
    rng = np.random.default_rng(0)
    trials = 400
    found = [
        mmd_test(*np.split(rng.normal(size=(25, 2)), [10]), permutations=99, seed=trial).pvalue
        for trial in range(trials)
    ]
    for level in (0.05, 0.5):
        rejected = np.sum(np.array(found) <= level)
        assert abs(rejected - level * trials) < 3 * np.sqrt(trials * level * (1 - level))


def test_a_difference_that_means_do_not_show_is_found():
    rng = np.random.default_rng(0)
    pairs = [(rng.normal(size=(40, 2)), rng.normal(0, 2, size=(40, 2))) for _ in range(30)]
    assert np.mean([mmd_test(x, y, permutations=99).pvalue <= 0.05 for x, y in pairs]) > 0.8


def test_the_p_value_is_that_of_all_divisions():
    x, y = samples(4, 4, d=2, seed=0)

    def statistic(i, j):
        both = np.concatenate([x, y])
        i, j = i.astype(int), j.astype(int)
        return mmd_by_loops(both[i], both[j], [1.0], False)

    index = np.arange(8)
    exact = permutation_test(
        (index[:4], index[4:]), statistic, n_resamples=np.inf, alternative="greater"
    )
    found = mmd_test(x, y, [1.0], permutations=20_000)
    assert found.statistic == pytest.approx(exact.statistic, abs=1e-12)
    assert found.pvalue == pytest.approx(exact.pvalue, abs=3 * np.sqrt(0.25 / 20_000))
    assert found == mmd_test(x, y, [1.0], permutations=20_000)
    assert found != mmd_test(x, y, [1.0], permutations=20_000, seed=1)


def test_the_statistic_is_the_biased_mmd():
    x, y = samples(12, 7)
    for bandwidths in (None, [0.7]):
        found = mmd_test(x, y, bandwidths, permutations=1).statistic
        assert found == pytest.approx(mmd(*as_tensors(x, y), bandwidths).item(), abs=1e-12)


def test_the_least_p_value_counts_the_true_division():
    x = np.random.default_rng(0).normal(size=(20, 2))
    assert mmd_test(x, x + 9, permutations=99).pvalue == 0.01
    with pytest.raises(ValueError, match="permutations=0"):
        mmd_test(x, x, permutations=0)


def test_a_sample_with_missing_numbers_has_no_p_value():
    x, y = samples()
    x[0, 0] = np.nan
    with pytest.raises(ValueError, match="samples must be finite"):
        mmd_test(x, y)


# --- losses on both domains ---------------------------------------------------------------------


def two_domains(seed: int = 0, n: int = 8) -> dict[str, torch.Tensor]:
    x, y = samples(n, n, seed=seed)
    labels = torch.arange(n) % 2
    columns = {"x": y, "source_x": x}
    return {k: torch.from_numpy(v).float() for k, v in columns.items()} | {"source_labels": labels}


def gradients(model: nn.Module, loss: torch.Tensor) -> list[torch.Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("distance", [coral_loss, mmd])
def test_aligned_is_cross_entropy_and_distances(distance):
    torch.manual_seed(0)
    model, batch = MLP([3, 6, 4, 2]), two_domains()
    loss, logs = aligned(distance, "1", "3", weight=0.7)(model, batch)
    source, target = batch["source_x"], batch["x"]
    parts = [nn.Sequential(*list(model)[:k]) for k in (2, 4)]
    far = sum(distance(part(source), part(target)) for part in parts)
    expected = F.cross_entropy(model(source), batch["source_labels"]) + 0.7 * far
    assert logs["distance"] == pytest.approx(far.item(), rel=1e-5)
    right = model(source).argmax(-1) == batch["source_labels"]
    assert logs["accuracy"] == pytest.approx(right.float().mean().item())
    for found, by_hand in zip(gradients(model, loss), gradients(model, expected), strict=True):
        torch.testing.assert_close(found, by_hand)


def test_labels_of_the_target_are_not_looked_at():
    torch.manual_seed(0)
    model, batch = MLP([3, 4, 2]), two_domains()
    poisoned = batch | {"labels": torch.full((8,), 99)}
    for loss_fn in (aligned(mmd, "1"), aligned(coral_loss, "2")):
        assert loss_fn(model, poisoned)[0].item() == loss_fn(model, batch)[0].item()


def test_batch_normalization_sees_both_domains_as_one():
    model, batch = nn.Sequential(nn.BatchNorm1d(3, momentum=1.0), nn.Linear(3, 2)), two_domains()
    aligned(mmd, "0")(model, batch)
    mean = torch.cat([batch["x"], batch["source_x"]]).mean(0)
    torch.testing.assert_close(model[0].running_mean, mean)


def test_the_weight_may_change_over_training():
    model, batch = MLP([3, 4, 2]), two_domains()
    plain = aligned(mmd, "1", weight=0.0)(model, batch)[0].item()
    loss_fn = aligned(mmd, "1", weight=lambda progress: 2 * progress)
    loss, logs = loss_fn(model, batch | {"progress": torch.full((8,), 0.25)})
    assert loss.item() == pytest.approx(plain + 0.5 * logs["distance"])
    with pytest.raises(ValueError, match=r"use tlbook\.learning\.batches\.Pairs"):
        loss_fn(model, batch)


def test_texts_of_different_lengths_pass_together():
    model = tiny_bert().eval()
    with torch.no_grad():  # new weights hardly look at anything
        for parameter in model.parameters():
            parameter *= 4
    short, long = sentences(8, seed=0), sentences(8, seed=1)
    short["input_ids"] = [row[:4] for row in short["input_ids"]]
    pairs = Pairs({"input_ids": long["input_ids"]}, 8, source=short)
    batch = next(iter(pairs))
    assert batch["input_ids"].shape[1] > batch["source_input_ids"].shape[1]
    loss, logs = aligned(coral_loss, "bert.pooler", weight=3.0)(model, batch)
    alone = [
        model(input_ids=batch[f"{p}input_ids"], attention_mask=batch[f"{p}attention_mask"]).logits
        for p in ("source_", "")
    ]
    expected = F.cross_entropy(alone[0], batch["source_labels"]).item()
    assert loss.item() == pytest.approx(expected + 3 * logs["distance"], rel=1e-4)
    _, logits = aligned(coral_loss, "classifier")(model, batch)
    assert logits["distance"] == pytest.approx(coral_loss(*alone).item(), rel=1e-4)


def test_batches_that_do_not_fit_are_named():
    model, batch = MLP([3, 4, 2]), two_domains()
    with pytest.raises(ValueError, match="one or more layers"):
        aligned(mmd)
    with pytest.raises(ValueError, match="has no column source_"):
        aligned(mmd, "1")(model, {"x": batch["x"]})
    for wrong in (batch["x"][:, :2], F.pad(batch["x"], (0, 1))):  # nor padded with zeros
        with pytest.raises(ValueError, match="one network needs inputs of one shape"):
            aligned(mmd, "1")(model, batch | {"x": wrong})
    with pytest.raises(KeyError, match=r"the target has no column \['y'\]"):
        aligned(mmd, "1")(model, batch | {"source_y": batch["x"]})
    with pytest.raises(ValueError, match="must not be negative"):
        aligned(mmd, "1", weight=-0.1)(model, batch)
    del batch["source_labels"]
    with pytest.raises(KeyError, match="has no labels"):
        aligned(mmd, "1")(model, batch)


def test_a_reversed_gradient_is_minus_that_of_finite_differences():
    x = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(reverse_gradient(x, 0.3), x)
    (gradient,) = torch.autograd.grad(reverse_gradient(x, 0.3).sin().sum(), x)
    step = 1e-6
    numeric = ((x + step).sin() - (x - step).sin()) / (2 * step)
    torch.testing.assert_close(gradient, -0.3 * numeric, atol=1e-9, rtol=0)


def test_a_discriminator_learns_what_the_features_unlearn():
    """The discriminator's gradient is that of its loss; the body's, minus 0.3 times it."""
    torch.manual_seed(0)
    model, batch = WithAuxiliary(MLP([3, 5, 2]), MLP([5, 4, 1])), two_domains()
    loss, logs = domain_adversarial("network.1", 0.3)(model, batch)
    body, source = nn.Sequential(*list(model.network)[:2]), batch["source_x"]
    classifying = F.cross_entropy(model.network(source), batch["source_labels"])
    logits = model.auxiliary(body(torch.cat([source, batch["x"]]))).squeeze(1)
    truth = torch.tensor([1.0] * 8 + [0.0] * 8)
    telling = F.binary_cross_entropy_with_logits(logits, truth)
    assert loss.item() == pytest.approx((classifying + telling).item(), rel=1e-6)
    assert logs["weight"] == 0.3
    right = ((logits > 0) == truth.bool()).float().mean().item()
    assert logs["domain_accuracy"] == pytest.approx(right)
    found = gradients(model, loss)
    of_classes, of_domains = gradients(model, classifying), gradients(model, telling)
    for name, both in zip(dict(model.named_parameters()), found, strict=True):
        one, other = of_classes.pop(0), of_domains.pop(0)
        if name.startswith("auxiliary"):
            torch.testing.assert_close(both, other)
        else:
            other = torch.zeros_like(one) if other is None else other
            torch.testing.assert_close(both, one - 0.3 * other)


def test_the_schedule_of_dann():
    assert dann_schedule(0) == 0
    assert dann_schedule(0.5) == pytest.approx(np.tanh(2.5))
    assert dann_schedule(1) == pytest.approx(np.tanh(5))
    model, batch = WithAuxiliary(MLP([3, 5, 2]), MLP([5, 1])), two_domains()
    batch["progress"] = torch.full((8,), 0.1)
    assert domain_adversarial("network.1")(model, batch)[1]["weight"] == pytest.approx(
        np.tanh(0.5), abs=1e-6
    )


def test_discriminators_that_are_missing_or_wrong_are_named():
    batch = two_domains()
    with pytest.raises(ValueError, match=r"use tlbook\.learning\.networks\.WithAuxiliary"):
        domain_adversarial("1", 1.0)(MLP([3, 5, 2]), batch)
    with pytest.raises(ValueError, match=r"makes \(16, 2\) of 16 examples"):
        model = WithAuxiliary(MLP([3, 5, 2]), MLP([5, 2]))
        domain_adversarial("network.1", 1.0)(model, batch)


# --- networks where adaptation is needed, and where it is not -----------------------------------


def shortcut(n: int = 400, seed: int = 0, holds: bool = True) -> dict:
    """Classes differ in x0 by two standard deviations to either side. In the source, x1 gives them
    away more easily; in a shifted target it is the same for both."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    side = 2 * labels - 1
    x = np.stack([side, 2 * side if holds else np.full(n, 2)], axis=1)
    return {"x": (x + 0.45 * rng.normal(size=(n, 2))).astype(np.float32), "labels": labels}


def nothing(source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return torch.zeros(())


METHODS = {
    "source only": (aligned(nothing, "3"), 15),
    "Deep CORAL": (aligned(coral_loss, "3", weight=100.0), 15),
    "MMD": (aligned(mmd, "3", weight=3.0), 15),
    "DANN": (domain_adversarial("network.3", weight=3.0), 20),
}


def accuracy(method: str, shifted: bool, seed: int) -> float:
    loss_fn, epochs = METHODS[method]
    torch.manual_seed(seed)
    model, momentum = MLP([2, 16, 8, 2]), 0.9
    if method == "DANN":  # two players: with the usual momentum they miss each other
        model, momentum = WithAuxiliary(model, MLP([8, 32, 1])), 0.5
    target, test = (shortcut(seed=seed + k, holds=not shifted) for k in (100, 200))
    pairs = Pairs({"x": target["x"]}, 64, epochs, seed, source=shortcut(seed=seed))
    groups = freeze(model, ALL, lr=2e-2)
    optimizer = torch.optim.AdamW(groups, betas=(momentum, 0.999))
    for _ in steps(model, loss_fn, pairs, optimizer):
        pass
    return evaluate(model, Batches(test, batch_size=200, seed=None))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_adapted_networks_pass_where_source_only_fails(method, seed):
    """Without a shift, all pass: adaptation does no harm here."""
    shifted = accuracy(method, shifted=True, seed=seed)
    assert shifted < 0.65 if method == "source only" else shifted > 0.9
    assert accuracy(method, shifted=False, seed=seed) > 0.97


# --- features mapped onto the target ------------------------------------------------------------


def stretched(n: int = 150, m: int = 120, seed: int = 0, shifted: bool = True):
    """Rows of both domains, labels, and which are of the source. A shifted target is turned by a
    symmetric map and moved away, so that the source's boundary has both classes on one side."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n + m)
    X = np.outer(2 * labels - 1, [1.5, 0.5, 0]) + 0.4 * rng.normal(size=(n + m, 3))
    source = rng.permutation(n + m) < n
    if shifted:
        root = np.array([[0.6, 0.4, 0.1], [0.4, 2.0, 0.3], [0.1, 0.3, 1.0]])
        X[~source] = X[~source] @ root + [4, -3, 1]
    return X, labels, source


@pytest.mark.parametrize("n", [150, 5])
def test_coral_gives_the_source_the_mean_and_covariance_of_the_target(n):
    X, _, source = stretched(n)
    Z = CORAL(shrinkage=0.0).fit_transform(X, source=source)
    np.testing.assert_array_equal(Z[~source], X[~source])
    moved, target = Z[source], X[~source]
    np.testing.assert_allclose(moved.mean(0), target.mean(0), atol=1e-10)
    covariances = (np.cov(rows, rowvar=False, bias=True) for rows in (moved, target))
    np.testing.assert_allclose(*covariances, atol=1e-10)


@pytest.mark.parametrize(("shrinkage", "theirs"), [(0.0, None), (0.3, 0.3), ("auto", "auto")])
def test_coral_is_that_of_skada(shrinkage, theirs):
    """But for the means, which skada takes off both domains."""
    X, _, source = stretched()
    with sklearn.config_context():  # skada switches metadata routing on for the whole process
        from skada import CORALAdapter

        adapter = CORALAdapter(reg=theirs)
        expected = adapter.fit_transform(X, sample_domain=np.where(source, 1, -2))
    found = CORAL(shrinkage).fit_transform(X, source=source)
    np.testing.assert_allclose(found - X[~source].mean(0), expected, atol=1e-10)


def test_a_source_that_is_moved_onto_the_target_comes_alone():
    X, _, source = stretched()
    found = moved_onto(OTMapping(), X[source], X[~source])
    both = OTMapping().fit_transform(X, source=source)
    np.testing.assert_allclose(found, both[source], atol=1e-12)


def test_a_covariance_without_inverse_is_refused_unless_shrunk():
    """Fewer rows than features, a feature that is constant, one that is there twice."""
    rng = np.random.default_rng(0)
    for n, spoil in ((8, lambda X: None), (60, lambda X: 1.0), (60, lambda X: X[:, 0])):
        X, source = rng.normal(size=(2 * n, 12)), np.arange(2 * n) < n
        if (column := spoil(X)) is not None:
            X[:, 5] = column
        with pytest.raises(ValueError, match="covariance of the source has no inverse"):
            CORAL(shrinkage=0.0).fit(X, source=source)
        assert np.isfinite(CORAL().fit_transform(X, source=source)).all()
    for shrinkage in ("none", 1.5):
        with pytest.raises(ValueError, match="must be 'auto' or a number"):
            CORAL(shrinkage).fit(X, source=source)


@pytest.mark.parametrize("regularization", [0.0, 0.1])
def test_optimal_transport_maps_as_pot_does(regularization):
    """Rows that were there in fit, and new ones, which move as their nearest."""
    from ot.da import EMDTransport, SinkhornTransport

    X, _, source = stretched()
    new = stretched(seed=1)[0][:40]
    mapping = OTMapping(regularization).fit(X, source=source)
    strength = regularization * ((X[source][:, None] - X[~source]) ** 2).sum(-1).mean()
    sinkhorn = {"reg_e": strength, "method": "sinkhorn_log", "out_of_sample_map": "ferradans"}
    theirs = SinkhornTransport(**sinkhorn) if regularization else EMDTransport()
    theirs.fit(Xs=X[source], Xt=X[~source])
    for rows in (X[source], new):
        found = mapping.transform(rows, source=np.ones(len(rows), dtype=bool))
        np.testing.assert_allclose(found, theirs.transform(Xs=rows), atol=1e-6)
    np.testing.assert_array_equal(mapping.transform(X, source=source)[~source], X[~source])


def test_transport_between_as_many_rows_is_onto_rows_of_the_target():
    X, _, source = stretched(30, 30)
    moved = OTMapping().fit_transform(X, source=source)[source]
    order = linear_sum_assignment(((X[source][:, None] - X[~source]) ** 2).sum(-1))[1]
    np.testing.assert_allclose(moved, X[~source][order], atol=1e-12)
    everything = OTMapping(regularization=1e4).fit_transform(X, source=source)[source]
    np.testing.assert_allclose(everything - X[~source].mean(0), 0, atol=1e-2)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("mapping", [CORAL(), OTMapping(), OTMapping(0.05)])
def test_a_mapped_source_passes_where_the_source_fails(mapping, seed):
    for shifted in (True, False):
        X, y, source = stretched(seed=seed, shifted=shifted)
        test, truth, of_source = stretched(seed=seed + 10, shifted=shifted)
        test, truth = test[~of_source], truth[~of_source]
        plain = LogisticRegression().fit(X[source], y[source])
        Z = mapping.fit_transform(X, source=source)
        adapted = LogisticRegression().fit(Z[source], y[source])
        assert (plain.score(test, truth) < 0.7) == shifted
        assert adapted.score(mapping.transform(test), truth) > 0.9


@pytest.mark.parametrize("mapping", [CORAL(), OTMapping()])
def test_mappings_stand_in_pipelines(mapping):
    """Rows of the target weigh nothing in the classifier; what is predicted is of the target."""
    X, y, source = stretched()
    Z = mapping.fit_transform(X, source=source)
    expected = LogisticRegression().fit(Z[source], y[source]).predict_proba(X[~source])
    unlabeled = np.where(source, y, 0)
    name = type(mapping).__name__.lower()
    fit = {f"{name}__source": source, "logisticregression__sample_weight": source.astype(float)}
    plain = make_pipeline(mapping, LogisticRegression()).fit(X, unlabeled, **fit)
    np.testing.assert_allclose(plain.predict_proba(X[~source]), expected, atol=1e-3)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = make_pipeline(
            mapping.set_fit_request(source=True).set_transform_request(source=True),
            LogisticRegression().set_fit_request(sample_weight=True),
        )
        routed.fit(X, unlabeled, source=source, sample_weight=source.astype(float))
        np.testing.assert_allclose(routed.predict_proba(X[~source]), expected, atol=1e-3)


@pytest.mark.parametrize("mapping", [CORAL(), OTMapping()])
def test_without_a_source_nothing_moves(mapping):
    X, _, source = stretched()
    np.testing.assert_array_equal(mapping.fit_transform(X), X)
    np.testing.assert_array_equal(mapping.transform(X, source=source), X)
    before = X.copy()
    mapping.fit(X, source=source)
    assert np.abs(mapping.transform(X, source=source) - X)[source].min(1).max() > 0.1
    np.testing.assert_array_equal(mapping.transform(X), X)
    np.testing.assert_array_equal(X, before)  # nor in place
    assert mapping.fit_transform(X.astype(np.float32), source=source).dtype == np.float32
    assert get_tags(mapping).transformer_tags.preserves_dtype == ["float64", "float32"]


@pytest.mark.parametrize("mapping", [CORAL(), OTMapping()])
def test_sources_that_are_no_masks_are_refused(mapping):
    X, _, source = stretched()
    for wrong in (np.flatnonzero(source), source[:-1], source.astype(int)):
        with pytest.raises(ValueError, match="source must be 270 booleans"):
            mapping.fit(X, source=wrong)
    for few in (np.ones(270, bool), np.arange(270) == 0):
        with pytest.raises(ValueError, match="two or more of each are needed"):
            mapping.fit(X, source=few)
    with pytest.raises(ValueError, match="source must be 2 booleans"):
        mapping.fit(X, source=source).transform(X[:2], source=source)


class Halved:
    """Every other row of ``fit`` is of the source, all of ``transform`` are: so that the checks see
    rows move. They call neither with a source."""

    def fit(self, X, y=None, source=None):
        n = _num_samples(X)
        return super().fit(X, y, source=np.arange(n) % 2 == 0 if n > 3 else None)

    def transform(self, X, source=None):
        return super().transform(X, source=np.ones(_num_samples(X), dtype=bool))


class HalvedCORAL(Halved, CORAL):
    pass


class HalvedOTMapping(Halved, OTMapping):
    pass


@parametrize_with_checks(
    [CORAL(), CORAL(0.0), OTMapping(), HalvedCORAL(), HalvedOTMapping(), HalvedOTMapping(1.0)]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)
