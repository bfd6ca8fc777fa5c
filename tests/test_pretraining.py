"""Pretraining methods against their loops written out, and what the cache keeps of them."""

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from tests.helpers import FOLDER, imports
from tlbook.errors import TrainingError
from tlbook.learning import trained
from tlbook.learning.augment import two_views
from tlbook.learning.batches import Batches, pixels
from tlbook.learning.networks import MLP, ConvDecoder, ConvEncoder, mini_bert
from tlbook.learning.trained import train_once
from tlbook.methods import pretraining
from tlbook.methods.adversarial import Generator, diversity, gan_steps
from tlbook.methods.pretraining import METHODS, pretrain, representation
from tlbook.methods.selfsupervised import hidden_patches

ALL = [*METHODS, "GAN"]
TINY = {"epochs": 2, "dimension": 16, "width": 4, "batch_size": 8, "lr": 1e-3, "progress": False}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Of the cache; empty."""
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path))
    return tmp_path / "pretrained"


def stripes(n: int, seed: int, side: int = 16) -> tuple[np.ndarray, np.ndarray]:
    """Images of faint stripes under noise; the label is whether they run down or across."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    phases = np.arange(side) * rng.uniform(0.12, 0.25, (n, 1)) + rng.random((n, 1))
    waves = np.sin(2 * np.pi * phases)
    images = np.where(labels[:, None, None] == 0, waves[:, :, None], waves[:, None, :])
    noisy = 128 + 40 * images[..., None] + 60 * rng.normal(size=(n, side, side, 3))
    return noisy.clip(0, 255).astype(np.uint8), labels


def squares(n: int, seed: int, side: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Images of one color each, but for a little noise; the label is whether it is warm or cold."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 2
    colors = rng.uniform((180, 60, 0), (255, 140, 60), (n, 3))
    colors[labels == 1] = colors[labels == 1, ::-1]
    noisy = colors[:, None, None] + 20 * rng.normal(size=(n, side, side, 3))
    return noisy.clip(0, 255).astype(np.uint8), labels


def run(method: str, n: int = 20, seed: int = 0, **options) -> pretraining.Pretrained:
    """A method on a few images as small as it takes."""
    images, labels = stripes(n, 0, side=16 if method == "masked" else 8)
    given = [labels] if method == "supervised" else []
    return pretrain(method, images, *given, seed=seed, **(TINY | options))


def networks(found: pretraining.Pretrained) -> dict[str, nn.Module]:
    parts = {"encoder": found.encoder, "head": found.head, "generator": found.generator}
    return {name: network for name, network in parts.items() if network is not None}


def state(found: pretraining.Pretrained) -> dict[str, torch.Tensor]:
    return nn.ModuleDict(networks(found)).state_dict()


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def trainings(monkeypatch) -> list:
    """Grows by one whenever a network is trained and not found in the cache."""
    counted = []
    for name in ("steps", "gan_steps"):
        original = getattr(pretraining, name)

        def counting(*args, original=original, **options):
            counted.append(original.__name__)
            return original(*args, **options)

        monkeypatch.setattr(pretraining, name, counting)
    return counted


# --- what each method is ------------------------------------------------------------------------


def by_hand(method: str, seed: int) -> tuple[dict[str, torch.Tensor], list[float]]:
    """The same as ``run(method, seed=seed)``, written out with torch alone."""
    images, labels = stripes(20, 0, side=16 if method == "masked" else 8)
    columns = {"x": torch.tensor(images.transpose(0, 3, 1, 2) / np.float32(255)), "labels": labels}
    torch.manual_seed(seed)
    encoder = ConvEncoder(16, size=images.shape[1], width=4)
    if method == "SimCLR":
        head = MLP([16, 16, 64])
    elif method == "supervised":
        head = nn.Linear(16, 2)
    else:
        head = ConvDecoder(16, size=images.shape[1], width=4)
    model, drawn = nn.Sequential(encoder, head), torch.Generator().manual_seed(seed)

    def loss_of(x, y):
        if method == "autoencoder":
            return F.mse_loss(model(x), x)
        if method == "denoising":
            return F.mse_loss(model(x + 0.3 * torch.randn(x.shape, generator=drawn)), x)
        if method == "masked":
            hidden = hidden_patches(x, 8, 0.5, drawn).expand_as(x)
            return F.mse_loss(model(torch.where(hidden, 0.5, x))[hidden], x[hidden])
        out = model(torch.cat(two_views(x, drawn)))
        if method == "supervised":
            return F.cross_entropy(out, torch.cat([y, y]))
        similarity = F.cosine_similarity(out[:, None], out[None], dim=2) / 0.2
        similarity.fill_diagonal_(-math.inf)
        return F.cross_entropy(similarity, torch.arange(len(out)).roll(len(x)))

    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-4)
    losses = []
    for index, batch in enumerate(Batches(columns, 8, 2, seed=seed)):  # six of them
        optimizer.param_groups[0]["lr"] = 1e-3 * (6 - index) / 6  # a tenth of six: no warmup
        loss = loss_of(batch["x"], batch["labels"])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return nn.ModuleDict({"encoder": encoder, "head": head}).state_dict(), losses


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_its_loop_written_out(method):
    found = run(method, seed=3)
    expected, losses = by_hand(method, seed=3)
    for name, value in state(found).items():
        torch.testing.assert_close(value, expected[name], atol=1e-5, rtol=1e-4, msg=name)
    assert found.losses == pytest.approx(np.reshape(losses, (2, 3)).mean(1), abs=1e-5)


def test_a_gan_is_its_loop_written_out():
    """Its discriminator is the encoder under one linear unit."""
    images, _ = stripes(20, 0, side=8)
    found = run("GAN", seed=3, lr=None)  # 1e-3, where other methods have 3e-3
    torch.manual_seed(3)
    encoder, head = ConvEncoder(16, size=8, width=4), nn.Linear(16, 1)
    generator = Generator(size=8, width=4)
    discriminator = nn.Sequential(encoder, head, nn.Flatten(0))
    optimizers = [
        torch.optim.AdamW(network.parameters(), 1e-3, betas=(0.5, 0.999), weight_decay=1e-4)
        for network in (generator, discriminator)
    ]
    batches = Batches({"x": pixels(images)}, 8, 2, seed=3)
    steps = gan_steps(generator, discriminator, batches, *optimizers, smoothing=0.1, seed=3)
    losses = [step.discriminator_loss for step in steps]
    expected = {"encoder": encoder, "head": head, "generator": generator}
    for name, value in state(found).items():
        torch.testing.assert_close(value, nn.ModuleDict(expected).state_dict()[name], msg=name)
    assert found.losses == pytest.approx(np.reshape(losses, (2, 3)).mean(1), abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("method", METHODS)
def test_losses_fall(method, seed):
    images, labels = squares(64, 0, side=16 if method == "masked" else 8)
    given = [labels] if method == "supervised" else []
    options = TINY | {"epochs": 12, "batch_size": 16, "lr": 1e-2, "seed": seed}
    losses = pretrain(method, images, *given, **options).losses
    assert losses.shape == (12,)
    assert losses[-3:].mean() < (0.95 if method == "SimCLR" else 0.7) * losses[0]


@pytest.mark.parametrize("seed", range(5))
def test_a_gan_neither_diverges_nor_collapses(seed):
    """The generator learns both kinds of colors, and none of the two players wins."""
    images, _ = squares(128, seed)
    options = {"epochs": 40, "dimension": 32, "width": 8, "batch_size": 16, "progress": False}
    found = pretrain("GAN", images, seed=seed, **options)
    assert np.isfinite(found.losses).all()
    assert 0.8 < found.losses[-20:].mean() < 1.6  # 2 log 2 = 1.39 by guessing
    with torch.no_grad():
        made = found.generator(torch.randn(256, 64, generator=torch.Generator().manual_seed(1)))
    assert 0.6 < diversity(made, pixels(images)) < 1.2
    warmth = made.mean((2, 3)) @ torch.tensor([1.0, 0, -1])  # of the data 0.73 or -0.73
    assert warmth.abs().mean() > 0.3  # below 0.15 at first
    assert 0.2 < (warmth > 0).float().mean() < 0.8


@pytest.mark.parametrize("method", ALL)
def test_every_method_sees_every_image_equally_often_and_in_one_order(method, monkeypatch):
    seen, rows_in = [], []
    original, forward = Batches.batch, ConvEncoder.forward

    def batch(self, rows):
        seen.append((sorted(self.columns), rows.tolist()))
        return original(self, rows)

    def counting(self, images):
        rows_in.append(len(images))
        return forward(self, images)

    monkeypatch.setattr(Batches, "batch", batch)
    monkeypatch.setattr(ConvEncoder, "forward", counting)
    run(method, epochs=3)
    order = Batches({"x": np.zeros(20)}, 8, 3, seed=0)
    assert [rows for _, rows in seen] == [rows.tolist() for rows in order.rows()]
    # labels come to the method that is taught by them, and to no other
    expected = ["labels", "x"] if method == "supervised" else ["x"]
    assert all(names == expected for names, _ in seen)
    # two views of an image; of a GAN, generated images once for each player
    passes = {"SimCLR": 2, "supervised": 2, "GAN": 3}.get(method, 1)
    assert sum(rows_in) == passes * 20 * 3


def test_true_labels_teach_and_shuffled_ones_do_not():
    """Three seeds: a linear probe on 20 images tells the direction of stripes."""
    images, labels = stripes(384, 0)
    test = stripes(600, 1)
    options = {"epochs": 10, "dimension": 32, "width": 8, "batch_size": 64, "lr": 1e-2}
    scores = []
    for seed in range(3):
        few = stripes(20, 2 + seed)
        torch.manual_seed(seed)
        encoders = [ConvEncoder(32, size=16, width=8)]
        shuffled = np.random.default_rng(seed).permutation(labels)
        for given in (labels, shuffled):
            found = pretrain("supervised", images, given, seed=seed, progress=False, **options)
            encoders.append(found.encoder)
        scores.append([])
        for encoder in encoders:
            x, x_test = (representation(encoder, part[0]) for part in (few, test))
            mean, spread = x.mean(0), x.std(0) + 1e-6
            probe = LogisticRegression(C=0.01).fit((x - mean) / spread, few[1])
            scores[-1].append(probe.score((x_test - mean) / spread, test[1]))
    random, taught, mistaught = np.mean(scores, axis=0)
    assert taught > 0.9
    assert max(random, mistaught) < 0.65


@pytest.mark.parametrize("method", ALL)
def test_networks_come_back_in_eval_mode_and_the_random_numbers_undisturbed(method):
    torch.manual_seed(5)
    expected = torch.rand(3)
    for _ in range(2):  # trained, and found
        torch.manual_seed(5)
        found = run(method)
        assert torch.equal(torch.rand(3), expected)
        assert not any(m.training for net in networks(found).values() for m in net.modules())
    assert (found.generator is not None) == (method == "GAN")


# --- what the cache keeps -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ALL)
def test_the_same_arguments_are_trained_once(method, trainings, folder, monkeypatch, tmp_path):
    first, again = run(method), run(method)
    assert len(trainings) == 1
    assert same(state(first), state(again))
    np.testing.assert_array_equal(first.losses, again.losses)
    assert first.cpu_seconds == again.cpu_seconds > 0
    assert [file.suffix for file in folder.iterdir()] == [".safetensors"]
    monkeypatch.setenv("TLBOOK_CACHE", str(tmp_path / "another"))
    anew = run(method)
    assert len(trainings) == 2
    assert same(state(first), state(anew))
    np.testing.assert_array_equal(first.losses, anew.losses)
    assert anew.cpu_seconds != first.cpu_seconds


@pytest.mark.parametrize(
    "change", ["image", "label", "seed", "epochs", "batch_size", "lr", "dimension", "width", "code"]
)
def test_other_arguments_are_trained_anew(change, trainings, monkeypatch):
    images, labels = stripes(20, 0, side=8)
    options = TINY | {"epochs": 1, "seed": 0}
    first = pretrain("supervised", images, labels, **options)
    if change == "image":
        images[7, 3, 3, 1] ^= 1
    elif change == "label":
        labels[7] = 1 - labels[7]
    elif change == "code":
        monkeypatch.setattr(trained, "learning_code", lambda: "new")
    else:
        options[change] *= 2
        options["seed"] += change == "seed"
    other = pretrain("supervised", images, labels, **options)
    assert len(trainings) == 2
    if change == "code":
        assert same(state(first), state(other))
    elif change not in ("dimension", "width"):
        assert not same(state(first), state(other))


def test_methods_are_kept_apart(trainings):
    """Also where networks and images are the same."""
    images, _ = stripes(20, 0)
    for method in ("autoencoder", "denoising", "masked", "autoencoder"):
        pretrain(method, images, **TINY)
    assert len(trainings) == 3


def test_progress_is_not_part_of_the_key(trainings, capsys):
    run("autoencoder")
    run("autoencoder", progress=True)
    assert len(trainings) == 1


EDITED = r'''
import importlib, pathlib, sys
import numpy as np
import tlbook
from tlbook import code
from tlbook.learning import trained
from tlbook.methods import pretraining

folder = pathlib.Path(tlbook.__file__).parent
assert folder == pathlib.Path(sys.argv[1], "tlbook")

def key():
    importlib.reload(trained)  # takes its snapshot anew
    found = []

    def caught(model, train, *content, code):
        found.extend(code)
        raise StopIteration

    pretraining.train_once = caught
    try:
        pretraining.pretrain("SimCLR", np.zeros((4, 8, 8, 3), np.uint8))
    except StopIteration:
        return trained.learning_code() + code.digest(*found)

def edited(name, edit):
    file = folder / (name.replace(".", "/") + ".py")
    text = file.read_text()
    assert edit(text) != text
    file.write_text(edit(text))
    found = key()
    file.write_text(text)
    return found

print(key())
for name in sys.argv[2:]:
    print(edited(name, lambda text: text.replace("\n\n\n", "\n\n\n# more\n", 1)))
    print(edited(name, lambda text: text.replace('"""', '"""More. ', 1)))
    print(edited(name, lambda text: text + "\nmore = 1\n"))
'''


@pytest.mark.slow
def test_a_change_of_any_code_that_trains_counts(tmp_path):
    """But not of a comment or a docstring."""
    found, new = set(), {"methods.pretraining"}
    while new:
        found |= new
        new = set().union(*(imports(FOLDER)[module] for module in new)) - found
    learning = sorted(name for name in found if name.startswith(("learning.", "methods.")))
    assert {"learning.losses", "learning.freezing", "methods.selfsupervised"} < set(learning)
    shutil.copytree(FOLDER, tmp_path / "tlbook")
    command = [sys.executable, "-c", EDITED, str(tmp_path), *learning]
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    first, *edited = run.stdout.split()
    assert edited[0::3] == edited[1::3] == [first] * len(learning)
    assert len({first, *edited[2::3]}) == 1 + len(learning)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbage"])
def test_a_damaged_file_is_trained_again(damage, trainings, folder):
    first = run("autoencoder")
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "cut": whole[:-10], "garbage": b"\xff" * 100}[damage])
    again = run("autoencoder")
    assert len(trainings) == 2
    assert same(state(first), state(again))
    run("autoencoder")
    assert len(trainings) == 2
    assert list(folder.iterdir()) == [file]


KILLED = """
import sys
from tests.test_pretraining import run
from tlbook.methods import pretraining

original = pretraining.steps

def slowly(*args, **options):
    for step in original(*args, **options):
        print(step.index, flush=True)
        sys.stdin.readline()
        yield step

pretraining.steps = slowly
run("autoencoder")
"""


def test_a_process_killed_midway_leaves_nothing(folder, trainings):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=FOLDER.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    for index in range(3):
        assert process.stdout.readline() == f"{index}\n"
        process.stdin.write("\n")
        process.stdin.flush()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not folder.exists()
    run("autoencoder")
    assert len(trainings) == 1


def test_a_training_that_fails_leaves_nothing(folder, monkeypatch):
    def spoiled(*args, **options):
        raise TrainingError("the loss is nan at step 0")
        yield

    monkeypatch.setattr(pretraining, "steps", spoiled)
    with pytest.raises(TrainingError):
        run("autoencoder")
    assert not folder.exists()


# --- once, for models of one's own --------------------------------------------------------------


def noisy_line() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))


def fit_line(model: nn.Module, calls: list):
    def train() -> list[float]:
        calls.append(1)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        losses = []
        for _ in range(3):
            loss = model(torch.ones(8, 4)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    return train


def test_once_trains_in_place_and_leaves_the_same_random_numbers():
    """A dropout layer draws from torch's own: what follows must not depend on the cache."""
    calls, drawn, losses, weights = [], [], [], []
    for _ in range(2):
        model = noisy_line()
        before = model[0].weight.clone()
        found, _ = train_once(model, fit_line(model, calls), "line")
        assert not torch.equal(model[0].weight, before)
        drawn.append(torch.rand(4))
        losses.append(found)
        weights.append(model.state_dict())
    assert len(calls) == 1
    assert torch.equal(*drawn)
    assert same(*weights)
    np.testing.assert_array_equal(*losses)
    assert losses[1].dtype == np.float64
    assert losses[1].shape == (3,)


def test_once_sees_first_weights_names_random_numbers_and_content():
    calls = []

    def go(model, *content):
        train_once(model, fit_line(model, calls), *content)
        return len(calls)

    assert go(noisy_line(), "a", np.arange(3)) == 1
    assert go(noisy_line(), "a", np.arange(3)) == 1
    assert go(noisy_line(), "b", np.arange(3)) == 2
    assert go(noisy_line(), "a", np.arange(3) + 1) == 3
    shifted = noisy_line()
    with torch.no_grad():
        shifted[0].bias[0] += 1e-3
    assert go(shifted, "a", np.arange(3)) == 4
    drawn = noisy_line()
    torch.rand(1)
    assert go(drawn, "a", np.arange(3)) == 5  # dropout would draw other numbers
    layers = dict(zip("abc", noisy_line(), strict=True))
    assert go(nn.Sequential(*layers.values()), "a", np.arange(3)) == 5
    named = nn.Sequential()
    for name, layer in layers.items():
        named.add_module(name, layer)
    torch.manual_seed(0)
    noisy_line()
    assert go(named, "a", np.arange(3)) == 6


def test_once_keeps_weights_that_two_layers_share():
    """As the words of a masked language model: read by its first layer, written by its last."""
    trained = []
    for _ in range(2):
        torch.manual_seed(0)
        model = mini_bert(30, dimension=8, layers=1)
        words = model.bert.embeddings.word_embeddings.weight

        def train(words=words):
            trained.append(1)
            with torch.no_grad():
                words += 1
            return [0.0]

        before = words.detach().clone()
        train_once(model, train, "words")
        assert words is model.cls.predictions.decoder.weight
        assert torch.equal(words, before + 1)
    assert len(trained) == 1


# --- what an encoder sees -----------------------------------------------------------------------


def test_pixels_are_floats_in_the_order_of_torch():
    images, _ = stripes(3, 0)
    x = pixels(images[:, :, :12])
    assert x.shape == (3, 3, 16, 12)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    np.testing.assert_allclose(x.numpy(), images[:, :, :12].transpose(0, 3, 1, 2) / 255, rtol=1e-6)


@pytest.mark.filterwarnings("error")
def test_images_that_are_read_only_are_read():
    images, _ = stripes(3, 0)
    images.flags.writeable = False
    expected = pixels(images).clone()
    assert pixels(images).fill_(0).eq(0).all()
    assert torch.equal(pixels(images), expected)


def test_a_representation_is_of_each_image_alone():
    """Not of its batch, though the encoder normalizes by batches in training."""
    encoder = run("SimCLR").encoder
    images, _ = stripes(300, 1, side=8)  # more than one batch
    found = representation(encoder, images)
    assert found.shape == (300, 16 * 4)
    alone = [representation(encoder, images[row : row + 1])[0] for row in (0, 17, 255, 256, 299)]
    np.testing.assert_allclose(found[[0, 17, 255, 256, 299]], alone, atol=1e-5)
    with torch.no_grad():
        conv, norm, _ = encoder.blocks[0]
        out = F.conv2d(pixels(images), conv.weight, stride=2, padding=1)
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        out = (out - norm.running_mean[:, None, None]) * scale[:, None, None]
        expected = (out + norm.bias[:, None, None]).clamp(min=0).flatten(1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_an_encoder_in_training_is_only_looked_at():
    encoder = ConvEncoder(16, size=8, width=4)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    images, _ = stripes(20, 1, side=8)
    found = representation(encoder, images)
    assert same(before, encoder.state_dict())
    np.testing.assert_allclose(found[:1], representation(encoder, images[:1]), atol=1e-6)


# --- what is refused ----------------------------------------------------------------------------


def test_what_cannot_be_trained_is_refused():
    images, labels = stripes(20, 0)
    with pytest.raises(ValueError, match=r"no method 'simclr': choose one of .*SimCLR.*, GAN"):
        pretrain("simclr", images)
    with pytest.raises(ValueError, match="supervised needs labels"):
        pretrain("supervised", images)
    for method in set(ALL) - {"supervised"}:
        with pytest.raises(ValueError, match=f"{method} cannot use labels"):
            pretrain(method, images, labels)
    with pytest.raises(ValueError, match="same number of examples"):
        pretrain("supervised", images, labels[:19])
    for wrong in (images / 255, images[0], images[..., :1], images.transpose(0, 3, 1, 2)):
        with pytest.raises(ValueError, match=r"must be uint8 of shape \(n, height, width, 3\)"):
            pretrain("autoencoder", wrong)
    with pytest.raises(ValueError, match="square, not 16 x 12"):
        pretrain("autoencoder", images[:, :, :12])
    with pytest.raises(ValueError, match="power of 2"):
        pretrain("autoencoder", images[:, :12, :12])
    with pytest.raises(ValueError, match="patches"):
        pretrain("masked", images[:, :8, :8])


def test_a_batch_of_one_image_has_nothing_to_compare_it_with():
    with pytest.raises(ValueError, match="of 17 images in batches of 8 the last would hold a sing"):
        run("SimCLR", n=17)
    for method in ("autoencoder", "supervised", "GAN"):
        assert np.isfinite(run(method, n=17, epochs=1).losses).all()
