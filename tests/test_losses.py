"""Losses against scikit-learn's, and against the ways in which they are got wrong."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.metrics import log_loss
from torch import nn
from torch.nn import functional as F

from tests.helpers import linear, sentences, tiny_bert, vectors
from tlbook.learning.augment import two_views
from tlbook.learning.batches import Batches, Pairs
from tlbook.learning.freezing import ALL, freeze
from tlbook.learning.loop import evaluate, steps
from tlbook.learning.losses import classification, entropy_minimization, joint, l2_sp
from tlbook.learning.networks import MLP, ConvDecoder, ConvEncoder, WithAuxiliary, mini_bert
from tlbook.learning.protocol import activations, auxiliary_of, split_columns, split_domains
from tlbook.methods.selfsupervised import (
    denoising,
    hidden_patches,
    mask_tokens,
    masked_lm,
    masked_reconstruction,
    nt_xent,
    reconstruction,
    simclr,
)


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
    anchored = l2_sp(classification(), model, weight=2.0)
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
    anchored = l2_sp(lambda model, batch: (torch.tensor(0.0), {}), model, weight=1.0)
    with torch.no_grad():
        for name in ("body", "classifier"):
            model[name].weight += 5
    assert anchored(model, {})[1]["distance"] == 0
    with torch.no_grad():
        model["free"].bias += 1
    assert anchored(model, {})[1]["distance"] == pytest.approx(2)


# --- layers on the way --------------------------------------------------------------------------


def test_activations_are_what_the_layers_put_out():
    model, x = MLP([3, 5, 4, 2]), torch.randn(6, 3)
    logits, (last, first) = activations(model, {"x": x, "labels": None}, ["3", "0"])
    assert torch.equal(logits, model(x))
    assert torch.equal(first, model[0](x))
    assert torch.equal(last, model[3](model[2](model[1](first))))
    assert not any(module._forward_hooks for module in model.modules())
    bert, batch = tiny_bert(), next(iter(Batches(sentences(4), batch_size=4)))
    logits, (pooled,) = activations(bert, batch, ["bert.pooler"])
    torch.testing.assert_close(bert.classifier(pooled), logits)


def test_activations_pass_through_what_wraps_a_model():
    class DataParallel(nn.Module):  # names its parts as torch does for several processes
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, x):
            return self.module(x)

    model, x = MLP([3, 5, 2]), torch.randn(6, 3)
    _, (found,) = activations(DataParallel(model), {"x": x}, ["1"])
    assert torch.equal(found, model[1](model[0](x)))
    with pytest.raises(ValueError, match=r"use tlbook\.learning\.networks\.WithAuxiliary"):
        auxiliary_of(DataParallel(WithAuxiliary(model, model)))


def test_layers_that_cannot_be_looked_at_are_named():
    bert, batch = tiny_bert(), next(iter(Batches(sentences(4), batch_size=4)))
    with pytest.raises(ValueError, match=r"no layer \['body'\]"):
        activations(bert, batch, ["bert.pooler", "body"])
    with pytest.raises(ValueError, match="'bert' puts out a BaseModelOutput"):
        activations(bert, batch, ["bert"])
    with pytest.raises(RuntimeError):
        activations(model := MLP([3, 2]), {"x": torch.randn(2, 4)}, ["0"])
    assert not model[0]._forward_hooks  # also after a pass that failed


# --- two domains --------------------------------------------------------------------------------


def both_domains(seed: int = 0) -> dict[str, torch.Tensor]:
    source = {f"source_{name}": column for name, column in vectors(20, seed=seed + 1).items()}
    return tensors(vectors(20, seed=seed) | source | {"progress": np.full(20, 0.25)})


def test_columns_are_told_apart_by_their_names():
    batch = both_domains()
    source, target = split_domains(batch)
    assert set(target) == set(source) == {"x", "labels"}
    assert target["x"] is batch["x"]
    assert source["x"] is batch["source_x"]
    assert set(batch) == {"x", "labels", "source_x", "source_labels", "progress"}
    own, other = split_columns({"x": 1, "teacher_logits": 2}, "teacher_")
    assert (own, other) == ({"x": 1}, {"logits": 2})
    with pytest.raises(ValueError, match=r"a batch of x, labels has no column source_\.\.\."):
        split_domains(tensors(vectors(3)))


@pytest.mark.parametrize(("weight", "now"), [(0.7, 0.7), (lambda progress: 1 - progress, 0.75)])
def test_joint_is_the_sum_of_both_losses(weight, now):
    model, batch = linear(), both_domains()
    loss, logs = joint(target=classification(), source=classification(0.1), weight=weight)(
        model, batch
    )
    target, found = classification()(model, tensors(vectors(20)))
    source, other = classification(0.1)(model, tensors(vectors(20, seed=1)))
    assert loss.item() == pytest.approx((target + now * source).item())
    assert logs == {**found, "source_accuracy": other["accuracy"], "weight": now}
    for negative in (-1.0, lambda progress: progress - 1, float("nan")):
        with pytest.raises(ValueError, match="must not be negative"):
            joint(target=classification(), source=classification(), weight=negative)(model, batch)
    del batch["progress"]
    with pytest.raises(ValueError, match=r"use tlbook\.learning\.batches\.Pairs"):
        joint(target=classification(), source=classification(), weight=lambda progress: 1)(
            model, batch
        )


def trained(loss_fn, batches, model: nn.Module, **options) -> torch.Tensor:
    """All that training leaves, with the statistics of batch normalization."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in steps(model, loss_fn, batches, optimizer, **options):
        pass
    return torch.cat([tensor.flatten().float() for tensor in model.state_dict().values()])


def test_a_source_that_weighs_nothing_is_not_looked_at():
    """Formula F4 with 0 is fine-tuning alone: the same weights and statistics, bit for bit."""

    def network():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    source = vectors(64, seed=1)
    pairs = Pairs(vectors(64), 16, 2, source={**source, "x": source["x"] + np.float32(9)})
    alone = trained(classification(), Batches(vectors(64), 16, 2), network())
    loss_fn = classification()
    assert torch.equal(
        trained(joint(target=loss_fn, source=loss_fn, weight=0.0), pairs, network()), alone
    )
    assert not torch.allclose(
        trained(joint(target=loss_fn, source=loss_fn, weight=1.0), pairs, network()), alone
    )


def test_a_joint_loss_may_be_cut_into_parts(monkeypatch):
    pairs = Pairs(sentences(20), 10, source=sentences(40, seed=1))
    loss_fn = joint(target=classification(), source=classification(), weight=0.5)
    whole = trained(loss_fn, pairs, tiny_bert())
    monkeypatch.setattr("tlbook.learning.loop.TOKENS", 90)
    torch.testing.assert_close(trained(loss_fn, pairs, tiny_bert()), whole, atol=1e-5, rtol=1e-4)


def few_and_many(seed: int, related: bool) -> tuple[dict, dict, dict]:
    """Six labeled rows of the target in 20 dimensions, 300 of the source, 500 for the test."""
    rng = np.random.default_rng(seed)
    direction, other = rng.normal(size=(2, 20))

    def rows(n, direction):
        x = rng.normal(size=(n, 20))
        return {"x": x.astype(np.float32), "labels": (x @ direction > 0).astype(np.int64)}

    source = rows(300, direction + 0.3 * other if related else -direction)
    return rows(6, direction), source, rows(500, direction)


@pytest.mark.parametrize("seed", range(3))
def test_a_source_helps_few_labels_if_it_is_related(seed):
    scores = {}
    for related in (True, False):
        target, source, test = few_and_many(seed, related)
        for weight in (0.0, 1.0):
            model = linear(20, seed)
            loss_fn = joint(target=classification(), source=classification(), weight=weight)
            trained(loss_fn, Pairs(target, 16, 10, source=source), model)
            scores[related, weight] = evaluate(model, Batches(test, 500, seed=None))
    assert scores[True, 1.0] > scores[True, 0.0] + 0.1
    assert scores[False, 1.0] < scores[False, 0.0] - 0.1  # negative transfer


def test_entropy_is_that_of_scipy():
    model, batch = linear(), tensors(vectors(30))
    loss, logs = entropy_minimization()(model, {"x": batch["x"]})
    p = softmax(model(batch["x"]).detach().numpy().astype(float), 1)
    assert loss.item() == pytest.approx(entropy(p, axis=1).mean(), abs=1e-6)
    assert logs["confidence"] == pytest.approx(p.max(1).mean(), abs=1e-6)
    certain, _ = entropy_minimization()(lambda x: x, {"x": torch.tensor([[1e4, 0.0], [0.0, 1e4]])})
    assert certain.item() == 0


def turned(n: int, seed: int, degrees: float) -> dict:
    """Two classes far apart, on a line that is turned around the middle."""
    rng = np.random.default_rng(seed)
    labels, angle = rng.integers(0, 2, n), np.deg2rad(degrees)
    x = np.outer(2 * labels - 1, [1.5 * np.cos(angle), 1.5 * np.sin(angle)])
    return {"x": (x + 0.4 * rng.normal(size=(n, 2))).astype(np.float32), "labels": labels}


@pytest.mark.parametrize("seed", range(3))
def test_entropy_minimization_turns_the_boundary_with_the_classes(seed):
    """Where source only fails a fifth of the target, and where there is nothing to do."""
    scores = {}
    for degrees in (78, 0):
        for weight in (0.0, lambda progress: 0.3 * progress):
            torch.manual_seed(seed)
            model = MLP([2, 16, 2])
            unlabeled = {"x": turned(400, seed + 100, degrees)["x"]}
            pairs = Pairs(turned(400, seed, 0), 64, 20, source=unlabeled)
            loss_fn = joint(target=classification(), source=entropy_minimization(), weight=weight)
            optimizer = torch.optim.AdamW(freeze(model, ALL, lr=1e-2))
            for _ in steps(model, loss_fn, pairs, optimizer):
                pass
            test = Batches(turned(500, seed + 200, degrees), 500, seed=None)
            scores[degrees, callable(weight)] = evaluate(model, test)
    assert scores[78, False] < 0.93
    assert scores[78, True] > 0.98
    assert min(scores[0, False], scores[0, True]) > 0.99


# --- reconstruction -----------------------------------------------------------------------------


def blobs(n: int = 96, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Images (n, 3, size, size): a colored disc each, on white."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    images = np.ones((n, 3, size, size), dtype=np.float32)
    for image in images:
        cx, cy, r = rng.uniform(0.3, 0.7) * size, rng.uniform(0.3, 0.7) * size, rng.uniform(2, 5)
        image[:, (x - cx) ** 2 + (y - cy) ** 2 < r**2] = rng.uniform(0, 1, (3, 1))
    return torch.from_numpy(images)


def autoencoder(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    shape = {"dimension": 16, "size": 16, "width": 8}
    return nn.Sequential(ConvEncoder(**shape), ConvDecoder(**shape))


@pytest.mark.parametrize(
    "loss_fn", [reconstruction(), denoising(0.2), masked_reconstruction(4, 0.5)]
)
def test_an_autoencoder_learns(loss_fn):
    model = autoencoder()
    optimizer = torch.optim.AdamW(freeze(model, ALL, lr=3e-3))
    batches = Batches({"x": blobs()}, batch_size=32, epochs=15)
    losses = [step.loss for step in steps(model, loss_fn, batches, optimizer)]
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])


def test_reconstruction_is_mean_squared_error():
    x = blobs(4)
    loss, _ = reconstruction()(lambda x: x * 0.5, {"x": x})
    assert loss.item() == pytest.approx((x**2).mean().item() / 4, rel=1e-6)
    with pytest.raises(ValueError, match="makes \\(4, 1, 16, 16\\) of x"):
        reconstruction()(lambda x: x[:, :1], {"x": x})


def test_denoising_compares_with_what_was_clean():
    """For a model that gives back its input, the loss is the variance of the noise."""
    x = torch.zeros(50, 3, 16, 16)
    loss, _ = denoising(0.3)(nn.Identity(), {"x": x})
    assert loss.item() == pytest.approx(0.09, rel=0.03)
    assert denoising(0.0)(nn.Identity(), {"x": x})[0].item() == 0
    with pytest.raises(ValueError, match="cannot be negative"):
        denoising(-0.1)


@pytest.mark.parametrize("build", [denoising, masked_reconstruction])
def test_what_is_drawn_is_of_the_seed_and_new_each_time(build):
    def draws(seed: int | None) -> list[torch.Tensor]:
        seen, loss_fn = [], build(seed=seed)
        for _ in range(2):
            loss_fn(lambda x: seen.append(x) or x, {"x": blobs(3)})
        return seen

    one, again, other = draws(1), draws(1), draws(2)
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert not torch.equal(one[0], one[1])
    assert not torch.equal(one[0], other[0])
    torch.manual_seed(5)
    unseeded = draws(None)
    torch.manual_seed(5)
    assert torch.equal(unseeded[1], draws(None)[1])  # of torch's generator, which fit saves


def test_hidden_patches_are_squares_and_equally_many():
    hidden = hidden_patches(torch.zeros(99, 3, 16, 24), 4, 0.25, torch.Generator().manual_seed(0))
    assert hidden.shape == (99, 1, 16, 24)
    patches = hidden.view(99, 4, 4, 6, 4).permute(0, 1, 3, 2, 4).flatten(3)
    assert torch.equal(patches.all(-1), patches.any(-1))  # whole patches
    assert torch.all(patches.any(-1).sum((1, 2)) == 6)  # a quarter of 24
    assert len({tuple(image.flatten().tolist()) for image in hidden}) > 95  # others in each
    assert torch.all(hidden.any(0))  # and none is safe


def test_masked_reconstruction_depends_on_hidden_pixels_only():
    x, seen = blobs(6), []

    def constant(inputs):
        seen.append(inputs)
        return torch.full_like(inputs, 0.25)

    loss, _ = masked_reconstruction(4, 0.5, seed=0)(constant, {"x": x})
    hidden = hidden_patches(x, 4, 0.5, torch.Generator().manual_seed(0)).expand_as(x)
    assert torch.all(seen[0][hidden] == 0.5)
    assert torch.equal(seen[0][~hidden], x[~hidden])
    assert loss.item() == pytest.approx(((0.25 - x[hidden]) ** 2).mean().item(), rel=1e-6)

    visible_off = torch.where(hidden, x, torch.rand_like(x))  # other pixels in sight, same hidden
    again, _ = masked_reconstruction(4, 0.5, seed=0)(constant, {"x": visible_off})
    assert again.item() == loss.item()
    hidden_off = torch.where(hidden, torch.rand_like(x), x)
    other, _ = masked_reconstruction(4, 0.5, seed=0)(constant, {"x": hidden_off})
    assert other.item() != pytest.approx(loss.item(), rel=1e-3)


def test_patches_that_do_not_fit_are_refused():
    for patch, share in ((0, 0.5), (4, 0.0), (4, 1.0)):
        with pytest.raises(ValueError, match="must be at least 1"):
            masked_reconstruction(patch, share)
    for patch, share in ((5, 0.5), (8, 0.05), (8, 0.95)):
        with pytest.raises(ValueError, match="images of 16 x 16 pixels"):
            masked_reconstruction(patch, share)(nn.Identity(), {"x": blobs(2)})


# --- contrastive --------------------------------------------------------------------------------


def nt_xent_by_loops(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
    """Equation 1 of Chen et al. (2020), written down."""
    z = np.concatenate([z1, z2]).astype(float)
    n, total = len(z1), 0.0

    def similarity(i, j):
        return z[i] @ z[j] / (np.linalg.norm(z[i]) * np.linalg.norm(z[j]))

    for i in range(2 * n):
        j = i + n if i < n else i - n
        others = [np.exp(similarity(i, k) / temperature) for k in range(2 * n) if k != i]
        total -= np.log(np.exp(similarity(i, j) / temperature) / sum(others))
    return total / (2 * n)


@pytest.mark.parametrize(("n", "temperature"), [(2, 0.5), (7, 0.1), (16, 1.0)])
def test_nt_xent_is_equation_1(n, temperature):
    rng = np.random.default_rng(n)
    z1, z2 = rng.normal(size=(2, n, 5)) * rng.uniform(0.1, 9, (2, n, 1))
    loss = nt_xent(torch.from_numpy(z1), torch.from_numpy(z2), temperature)
    assert loss.item() == pytest.approx(nt_xent_by_loops(z1, z2, temperature), abs=1e-6)


def test_nt_xent_in_closed_form():
    """Views that agree, examples at right angles: e^(1/t) against 2n - 2 others of e^0."""
    z = torch.eye(4)
    expected = np.log(1 + 6 * np.exp(-1 / 0.5))
    assert nt_xent(z, 3 * z, 0.5).item() == pytest.approx(expected, abs=1e-6)
    same = torch.ones(4, 3)  # nothing to tell apart: a guess among 7
    assert nt_xent(same, same).item() == pytest.approx(np.log(7), abs=1e-6)


def test_views_that_cannot_be_compared_are_refused():
    z = torch.randn(4, 3)
    for other in (z[:3], z[:, :2]):
        with pytest.raises(ValueError, match="two views of the same"):
            nt_xent(z, other)
    with pytest.raises(ValueError, match="two or more examples"):
        nt_xent(z[:1], z[:1])
    with pytest.raises(ValueError, match="must be positive"):
        nt_xent(z, z, 0.0)


def test_simclr_takes_views_of_the_batch_or_makes_them():
    x = torch.randn(6, 4)
    model = nn.Linear(4, 3)
    loss, logs = simclr(0.2)(model, {"view1": x, "view2": x + 0.01})
    made, _ = simclr(0.2, lambda x: (x, x + 0.01))(model, {"x": x})
    assert (
        loss.item() == made.item() == pytest.approx(nt_xent(model(x), model(x + 0.01), 0.2).item())
    )
    assert logs["accuracy"] == 1
    assert logs["alignment"] == pytest.approx(1, abs=1e-2)


def test_simclr_learns_to_find_the_other_view():
    torch.manual_seed(0)
    model = nn.Sequential(ConvEncoder(16, size=16, width=8), nn.ReLU(), MLP([16, 32, 16]))
    generator = torch.Generator().manual_seed(0)
    loss_fn = simclr(0.2, lambda x: two_views(x, generator, scale=(0.5, 1)))
    batches = Batches({"x": blobs(128)}, batch_size=64, epochs=30)
    optimizer = torch.optim.AdamW(freeze(model, ALL, lr=3e-3))
    logs = [step.logs for step in steps(model, loss_fn, batches, optimizer)]
    found = np.mean([log["accuracy"] for log in logs[-6:]])
    assert found > 10 / 127  # ten times chance
    assert found > 1.3 * np.mean([log["accuracy"] for log in logs[:3]])
    # agreement beyond that of any two images, which a collapsed network has as well
    model.eval()
    with torch.no_grad():
        z1, z2 = (F.normalize(model(view)) for view in two_views(blobs(64, seed=1), generator))
    cosines = z1 @ z2.T
    assert cosines.diagonal().mean() > cosines.mean() + 0.3


# --- masked language models ---------------------------------------------------------------------

WORDS = 60  # of a made-up vocabulary, which starts with these five
PAD, UNK, CLS, SEP, MASK = range(5)
IDS = {"mask": MASK, "special": [PAD, UNK, CLS, SEP], "vocabulary_size": WORDS}


def texts(n: int, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[CLS, *rng.integers(5, WORDS, rng.integers(5, 30)).tolist(), SEP] for _ in range(n)]


def masking_rates(ids: torch.Tensor, masked: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Counts: words, chosen, turned to the mask token, to another word, unchanged."""
    chosen = labels != -100
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(masked[~chosen], ids[~chosen])
    assert not torch.isin(ids[chosen], torch.tensor([PAD, UNK, CLS, SEP, MASK])).any()
    kept, hidden = masked[chosen] == ids[chosen], masked[chosen] == MASK
    counts = [(ids >= 5).sum(), chosen.sum(), hidden.sum(), (~kept & ~hidden).sum(), kept.sum()]
    return np.array([int(count) for count in counts])


def test_masking_has_the_statistics_of_transformers():
    from tokenizers import Tokenizer, models
    from transformers import DataCollatorForLanguageModeling, PreTrainedTokenizerFast

    names = {0: "[PAD]", 1: "[UNK]", 2: "[CLS]", 3: "[SEP]", 4: "[MASK]"}
    vocabulary = {names.get(i, f"w{i}"): i for i in range(WORDS)}
    roles = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(vocabulary, "[UNK]")),
        **dict(zip(roles, names.values(), strict=True)),
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = np.zeros(5), np.zeros(5)
    for batch in Batches({"input_ids": texts(6400)}, batch_size=64):
        ids, attention = batch["input_ids"], batch["attention_mask"]
        ours += masking_rates(ids, *mask_tokens(ids, attention, generator=generator, **IDS))
        rows = [
            {"input_ids": row[present.bool()]} for row, present in zip(ids, attention, strict=True)
        ]
        found = collator(rows)
        theirs += masking_rates(ids, found["input_ids"], found["labels"])
    assert ours[0] == theirs[0] > 90_000
    # a drawn word is the old one, or the mask token, once in so many
    drawn = 0.1 / WORDS
    expected = [0.15, 0.8 + drawn, 0.1 - 2 * drawn, 0.1 + drawn]
    for counts in (ours, theirs):
        totals = counts[[0, 1, 1, 1]]
        error = np.sqrt(np.multiply(expected, np.subtract(1, expected)) / totals)
        assert np.all(np.abs(counts[1:] / totals - expected) < 4 * error)


def test_padding_and_special_tokens_are_never_masked():
    """Nor is padding whose id is that of a word, which only the mask tells."""
    ids = torch.tensor([[CLS, 9, 10, SEP, 7, 7], [CLS, 11, 12, UNK, 13, SEP]])
    mask = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])
    masked, labels = mask_tokens(ids, mask, share=1.0, **IDS)
    expected = torch.tensor([[0, 1, 1, 0, 0, 0], [0, 1, 1, 0, 1, 0]]).bool()
    assert torch.equal(labels != -100, expected)
    assert torch.equal(masked[~expected], ids[~expected])
    everything = mask_tokens(ids, share=1.0, **IDS)[1] != -100
    assert everything[0].tolist() == [False, True, True, False, True, True]
    untouchable = torch.tensor([[PAD, UNK, CLS, SEP, MASK]])
    assert not (mask_tokens(untouchable, share=1.0, **IDS)[1] != -100).any()


def test_masking_is_seeded_and_leaves_its_input_alone():
    ids = torch.tensor(texts(1)[0]).repeat(50, 1)
    before = ids.clone()
    one, again = (
        mask_tokens(ids, generator=torch.Generator().manual_seed(1), **IDS) for _ in range(2)
    )
    assert torch.equal(one[0], again[0])
    assert torch.equal(one[1], again[1])
    assert torch.equal(ids, before)
    assert len({tuple(row.tolist()) for row in one[1]}) > 40  # other places in each text


def test_impossible_masking_is_refused():
    ids = torch.tensor(texts(1))
    with pytest.raises(ValueError, match="share=0"):
        mask_tokens(ids, share=0, **IDS)
    with pytest.raises(ValueError, match="\\[60\\] are not in a vocabulary of 60"):
        mask_tokens(ids, **(IDS | {"mask": 60}))


def test_masked_lm_is_the_loss_of_transformers():
    torch.manual_seed(0)
    model = mini_bert(WORDS, dimension=16, length=40, dropout=0.0)
    batch = next(iter(Batches({"input_ids": texts(20)}, batch_size=20)))
    loss, logs = masked_lm(**IDS, seed=4)(model, batch)
    ids, labels = mask_tokens(
        batch["input_ids"],
        batch["attention_mask"],
        generator=torch.Generator().manual_seed(4),
        **IDS,
    )
    theirs = model(input_ids=ids, attention_mask=batch["attention_mask"], labels=labels)
    assert loss.item() == pytest.approx(theirs.loss.item(), abs=1e-5)
    hidden = labels != -100

    class Wrapped(nn.Module):  # as for several processes: its parts are out of sight
        def forward(self, **columns):
            return model(**columns)

    assert masked_lm(**IDS, seed=4)(Wrapped(), batch)[0].item() == pytest.approx(loss.item())
    right = theirs.logits.argmax(-1)[hidden] == labels[hidden]
    assert logs["accuracy"] == pytest.approx(right.float().mean().item())


def test_a_batch_without_a_hidden_token_costs_nothing():
    model = mini_bert(WORDS, dimension=16)
    ids = torch.tensor([[CLS, SEP]])
    loss, logs = masked_lm(**IDS)(model, {"input_ids": ids})
    assert loss.item() == logs["accuracy"] == 0
    loss.backward()


def test_a_masked_language_model_learns():
    """Texts that repeat one word: the words in sight give the hidden ones away."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    ids = [[CLS, *[int(word)] * 12, SEP] for word in rng.integers(5, 15, 256)]
    model = mini_bert(15, dimension=32, length=16, dropout=0.0)
    optimizer = torch.optim.AdamW(freeze(model, ALL, lr=3e-3))
    loss_fn = masked_lm(mask=MASK, special=[PAD, UNK, CLS, SEP], vocabulary_size=15)
    batches = Batches({"input_ids": ids}, batch_size=64, epochs=25)
    losses = [step.loss for step in steps(model, loss_fn, batches, optimizer)]
    assert losses[0] > 2
    assert np.mean(losses[-5:]) < 0.5
