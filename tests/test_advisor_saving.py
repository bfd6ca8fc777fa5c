"""A saved strategy predicts as the fitted one did; what was tampered with is refused."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from transformers import pipeline as opened

from tests.test_advisor_audit import planted
from tlbook import __main__ as command
from tlbook.advisor import advice, files, saving
from tlbook.advisor.reading import read
from tlbook.advisor.strategies import Encoded, strategies
from tlbook.learning.batches import Batches, tokenized
from tlbook.learning.features import features
from tlbook.learning.loop import predict
from tlbook.sources.pretrained import load


@pytest.fixture(scope="module")
def data():
    return read(planted(80)).data


@pytest.fixture(scope="module")
def fitted(data):
    found = {s.name: s for s in strategies(data, [])}
    return {n: fit(found[n], data) for n in ("word counts", "letter counts")}


def fit(strategy, data):
    return strategy.fit(np.arange(len(data)), 0, float("inf"))


def write(folder, model, data, kind="counts", modality="text", **about):
    about = {"column": "text", "modality": modality} | about
    return saving.save(folder, kind, model, data.classes, "# card\n", **about)


@pytest.fixture
def folder(fitted, data, tmp_path):
    return write(tmp_path / "saved", fitted["word counts"], data)


def test_it_predicts_as_it_was_fitted(fitted, data, tmp_path):
    new = [*data.x, "unseen words only", "ħ ünï 漢字", ""]
    for name, pipeline in fitted.items():
        saved = saving.load_saved(write(tmp_path / name, pipeline, data))
        expected = np.array(data.classes)[pipeline.predict(new)]
        assert saved.predict(new).tolist() == expected.tolist()
        given = pipeline.decision_function(new)
        assert np.allclose(saved.scores(new).ravel(), given)
    assert saved.predict([]).tolist() == []


def test_three_classes_too(data, tmp_path):
    y = np.arange(len(data)) % 3
    three = advice.replace(data, y=y, classes=("a", "b", "c"))
    pipeline = fit(strategies(three, [])[1], three)
    saved = saving.load_saved(write(tmp_path / "three", pipeline, three))
    assert (
        saved.predict(data.x).tolist()
        == np.array(["a", "b", "c"])[pipeline.predict(data.x)].tolist()
    )


def test_frozen_features_keep_their_encoder(data, tmp_path, monkeypatch):
    class Encoder:
        handle, fingerprint = "toy", "f1"

    def vectors(encoder, texts, **options):
        return np.array([[len(t), t.count("a"), t.count("e"), 1] for t in texts], np.float32)

    monkeypatch.setattr(saving, "features", vectors)
    monkeypatch.setattr(saving, "load", lambda handle: Encoder())
    encoded = Encoded("toy", Encoder(), vectors(None, data.x), 0.01, 0.01, 1.0)
    own = next(s for s in strategies(data, [encoded]) if s.name == "frozen features")
    pipeline = fit(own, data)
    place = write(tmp_path / "f", pipeline, data, "features", encoder=own.encoder)
    expected = np.array(data.classes)[pipeline.predict(encoded.vectors)]
    assert saving.load_saved(place).predict(data.x).tolist() == expected.tolist()
    Encoder.fingerprint = "f2"
    with pytest.raises(ValueError, match="encoder toy is not the one"):
        saving.load_saved(place)


@pytest.fixture(scope="module")
def texts(data):
    encoder = load("minilm-l6")
    small = data.take(np.arange(24))
    vectors = np.zeros((24, encoder.dimension), np.float32)
    each = Encoded("minilm-l6", encoder, vectors, 0.01, 0.01, 90.0)
    return small, {s.name: s for s in strategies(small, [each])}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["head only", "LoRA", "contrastive"])
def test_what_was_trained_comes_back(name, texts, tmp_path):
    data, found = texts
    own = found[name]
    model = fit(own, data)
    place = write(tmp_path / "t", model, data, own.kind, encoder=own.encoder)
    saved = saving.load_saved(place)
    if own.kind == "network":
        expected = predict(model, Batches(tokenized(own.encoder.tokenizer, data.x), 32, seed=None))
        # it is a folder of transformers, too
        pipe = opened("text-classification", str(place / "network"))
        names = [one["label"] for one in pipe(list(data.x), truncation=True)]
        assert names == saved.predict(data.x).tolist()
    else:
        tuned, head = model
        expected = head.decision_function(features(tuned, data.x, progress=False))[:, None]
    assert np.abs(saved.scores(data.x) - expected).max() < 1e-4
    assert len(np.unique(saved.predict(data.x))) == 2
    (place / "network").mkdir(exist_ok=True)
    (place / "network" / "more.bin").write_bytes(b"")
    with pytest.raises(ValueError, match=r"more\.bin was changed"):
        saving.load_saved(place)


@pytest.mark.parametrize("name", ["pixels", "frozen features", "all layers"])
def test_images_too(name, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    folder = tmp_path / "images"
    for row, label in enumerate(y):
        shade = np.full((40, 40, 3), 80 * label, np.uint8) + rng.integers(0, 20, (40, 40, 3))
        place = folder / "abc"[label] / f"{row}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shade.astype(np.uint8)).save(place)
    data = read(folder).data
    encoder = replace(load("mobilenet-v2"), size=32)
    vectors = features(encoder, data.x, progress=False)
    each = Encoded("mobilenet-v2", encoder, vectors, 0.001, 0.001, 14.0)
    own = next(s for s in strategies(data, [each]) if s.name == name)
    place = write(tmp_path / "i", fit(own, data), data, own.kind, "image", encoder=own.encoder)
    run = own.run(np.arange(24), np.arange(24), 0, float("inf"))
    expected = np.array(data.classes)[run.predicted]
    saved = saving.load_saved(place)
    assert saved.predict(data.x).tolist() == expected.tolist()
    (folder / "broken.png").write_bytes(b"no image")
    out = tmp_path / "out.csv"
    assert files.predict_file(place, folder, out, chunk=7) == 25
    table = pd.read_csv(out, keep_default_na=False).set_index("image")["label"]
    assert table.pop("broken.png") == "" and table.tolist() == expected.tolist()
    if name == "pixels":
        assert (table.index.str[0] == table).all()


def test_what_is_foreign_or_changed_is_refused(folder, fitted, data, tmp_path):
    with pytest.raises(FileExistsError, match="new folder"):
        write(folder, fitted["word counts"], data)
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ValueError, match="holds no strategy"):
            saving.load_saved(place)
    about = json.loads((folder / "model.json").read_text())
    weights = (folder / "weights.safetensors").read_bytes()
    (folder / "weights.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(ValueError, match=r"weights\.safetensors was changed"):
        saving.load_saved(folder)
    (folder / "weights.safetensors").write_bytes(weights)
    for change, words in (
        ({"classes": ["a", "b", "c"]}, "does not fit"),
        ({"format": "other"}, "holds no strategy"),
        ({"counting": {}}, "does not fit"),
    ):
        (folder / "model.json").write_text(json.dumps(about | change))
        with pytest.raises(ValueError, match=words):
            saving.load_saved(folder)


def test_the_commands(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(advice, "_encoders", lambda reading, *rest: ([], reading))
    monkeypatch.setattr(advice, "_more_labels", lambda *rest: (None, "Unknown.", ()))
    table, place = tmp_path / "my.csv", tmp_path / "saved"
    planted(80).to_csv(table, index=False)
    assert command.main(["advise", str(table), "--minutes", "1", "--save", str(place)]) == 0
    assert (
        "# " in (place / "README.md").read_text() and "Expect" in (place / "README.md").read_text()
    )
    out = tmp_path / "out.csv"
    assert command.main(["predict", str(place), str(table), "--out", str(out)]) == 0
    assert "80 rows" in capsys.readouterr().out
    right = pd.read_csv(out)["label"].astype(str) == planted(80)["label"].astype(str)
    assert right.mean() > 0.9
    assert command.main(["advise", str(table), "--save", str(place)]) == 1
    assert "new folder" in capsys.readouterr().err
