"""Freezing and training in Keras 3 and in tf_keras, against Keras itself and loops by hand."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from scipy.special import softmax
from sklearn.datasets import load_digits
from sklearn.metrics import balanced_accuracy_score, log_loss
from tqdm import tqdm

import tlbook.keras as tk
from tlbook.errors import TrainingError
from tlbook.keras import allowed

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(params=[keras, tf_keras], ids=["keras", "tf_keras"])
def package(request):
    return request.param


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y


def dense(package, *between, n_classes=10, activation="softmax", seed=0):
    """The network of listing L3, smaller, with layers between its two hidden ones."""
    package.utils.set_random_seed(seed)
    layers = package.layers
    return package.Sequential(
        [
            package.Input((64,)),
            layers.Dense(16, activation="relu", name="first"),
            *between,
            layers.Dense(12, activation="relu", name="second"),
            layers.Dense(n_classes, activation=activation, name="answer"),
        ]
    )


def with_norm_and_dropout(package):
    package.utils.set_random_seed(0)
    normalization = package.layers.BatchNormalization(name="normalization")
    return dense(package, normalization, package.layers.Dropout(0.5, name="dropout"))


def weights(model, name):
    return model.get_layer(name).get_weights()


def same(ours, theirs):
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


# --- freezing -----------------------------------------------------------------------------------


def test_frozen_layers_stay_bit_for_bit(package, digits):
    model = with_norm_and_dropout(package)
    frozen = weights(model, "first") + weights(model, "normalization")
    second = weights(model, "second")
    tk.freeze(model, [("first|normalization|dropout", None), (".*", 1.0)])
    tk.fit(model, digits, epochs=2)
    assert same(weights(model, "first") + weights(model, "normalization"), frozen)
    assert not same(weights(model, "second"), second)


def test_normalization_that_is_not_frozen_follows_the_batches(package, digits):
    model = with_norm_and_dropout(package)
    before = weights(model, "normalization")
    tk.freeze(model, [("first", None), (".*", 1.0)])
    tk.fit(model, digits, epochs=1)
    after = weights(model, "normalization")
    assert not any(np.array_equal(a, b) for a, b in zip(after, before, strict=True))


def test_frozen_dropout_drops_nothing(package, digits):
    dropping = dense(package, package.layers.Dropout(0.9, name="dropout"))
    plain = dense(package)
    plain.set_weights(dropping.get_weights())
    for model in dropping, plain:
        tk.freeze(model, [("answer", 1.0), (".*", None)])
        tk.fit(model, digits, epochs=1)
    assert same(dropping.get_weights(), plain.get_weights())
    # and it is on again once it is no longer frozen
    tk.freeze(dropping, [("answer|dropout", 1.0), (".*", None)])
    for model in dropping, plain:
        tk.fit(model, digits, epochs=1)
    assert not same(dropping.get_weights(), plain.get_weights())


def test_layers_toggled_after_compiling_train_on_in_plain_keras_but_not_here(package, digits):
    model = dense(package)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*digits, verbose=0)

    before = weights(model, "first")
    model.get_layer("first").trainable = False
    model.fit(*digits, verbose=0)
    assert not same(weights(model, "first"), before)  # the pitfall

    before = weights(model, "first")
    tk.fit(model, digits, epochs=1)
    assert same(weights(model, "first"), before)

    model.get_layer("first").trainable = True
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*digits, verbose=0)
    tk.freeze(model, [("first", None), (".*", 1.0)])
    before = weights(model, "first"), weights(model, "second")
    model.fit(*digits, verbose=0)
    assert same(weights(model, "first"), before[0])
    assert not same(weights(model, "second"), before[1])


def test_table_decides_inside_of_nested_models_also_if_they_are_frozen_as_a_whole(package, digits):
    body = package.Sequential(dense(package).layers[:-1], name="body")
    model = package.Sequential(
        [package.Input((64,)), body, package.layers.Dense(10, name="answer")]
    )
    body.trainable = False
    tk.freeze(model, [("body/first", None), (".*", 1.0)])
    assert list(tk.describe(model).index) == ["body/first", "body/second", "answer"]
    assert list(tk.describe(model)["trained"]) == [0, 16 * 12 + 12, 12 * 10 + 10]
    before = weights(body, "first"), weights(body, "second")
    tk.fit(model, digits, epochs=1)
    assert same(weights(body, "first"), before[0])
    assert not same(weights(body, "second"), before[1])


def test_describe(package):
    model = with_norm_and_dropout(package)
    tk.freeze(model, [("answer", 1.0), ("second|norm", 0.1), (".*", None)])
    table = tk.describe(model)
    assert list(table.index) == ["first", "normalization", "dropout", "second", "answer"]
    assert list(table["parameters"]) == [1040, 64, 0, 204, 130]
    assert list(table["trained"]) == [0, 32, 0, 204, 130]  # moving statistics are not trained
    assert list(table["factor"]) == ["frozen", "0.1", "frozen", "0.1", "1"]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([("frist", None), (".*", 1.0)], "'frist' decides over no layer"),
        ([(".*", None), ("answer", 1.0)], "'answer' decides over no layer"),
        ([("answer", 1.0)], "no pattern covers 'first'"),
        ([("answer", 0.0), (".*", None)], "positive, or None"),
        ([("answer", -1.0), (".*", None)], "positive, or None"),
    ],
)
def test_wrong_tables_are_refused_and_change_nothing(table, message):
    model = dense(keras)
    tk.freeze(model, [("first", None), (".*", 0.5)])
    before = tk.describe(model)
    with pytest.raises(ValueError, match=message):
        tk.freeze(model, table)
    assert tk.describe(model).equals(before)


def test_weights_outside_of_layers_are_refused(package, digits):
    class Scaled(package.Model):
        def __init__(self):
            super().__init__()
            self.dense = package.layers.Dense(10)
            self.scale = self.add_weight(shape=(64,), name="scale", initializer="ones")

        def call(self, x):
            return self.dense(x * self.scale)

    model = Scaled()
    tk.fit(model, digits, epochs=1)
    with pytest.raises(ValueError, match=r"outside of layers.*scale"):
        tk.freeze(model, [(".*", None)])


@pytest.mark.filterwarnings("ignore:The object being serialized includes a `lambda`")
def test_models_compiled_with_code_must_be_compiled_by_hand(package, digits):
    model = dense(package)
    loss = package.losses.sparse_categorical_crossentropy
    model.compile("sgd", lambda true, found: loss(true, found))
    model.fit(*digits, verbose=0)
    with pytest.raises(ValueError, match=r"compile.* again"):
        tk.freeze(model, [("first", None), (".*", 1.0)])
    before = weights(model, "first")
    with suppress(ValueError):  # tf_keras refuses; Keras 3 goes on with the old loss
        model.fit(*digits, verbose=0)
    assert same(weights(model, "first"), before)


def test_nothing_left_to_train(package, digits):
    with pytest.raises(ValueError, match="every layer is frozen"):
        tk.fit(tk.freeze(dense(package), [(".*", None)]), digits)


# --- heads and losses ---------------------------------------------------------------------------


def test_replace_head_keeps_the_body_and_gives_logits(package, digits):
    x, _ = digits
    source = dense(package)
    model, again = tk.replace_head(source, 3, seed=1), tk.replace_head(source, 3, seed=1)
    assert model.get_layer("first") is source.get_layer("first")
    assert same(model.get_weights()[:4], source.get_weights()[:4])
    assert same(weights(model, "head"), weights(again, "head"))
    assert not same(weights(model, "head"), weights(tk.replace_head(source, 3, seed=2), "head"))
    hidden = x
    for kernel, bias in (weights(source, "first"), weights(source, "second")):
        hidden = np.maximum(hidden @ kernel + bias, 0)
    kernel, bias = weights(model, "head")
    logits = hidden @ kernel + bias
    np.testing.assert_allclose(model.predict_on_batch(x), logits, atol=1e-5)
    np.testing.assert_allclose(tk.predict(model, x), logits, atol=1e-5)
    odds = np.exp(logits)
    certain = package.Sequential([model, package.layers.Softmax()])
    found = np.exp(tk.predict(certain, x))
    np.testing.assert_allclose(found, odds / odds.sum(1, keepdims=True), atol=1e-5)


def test_replace_head_takes_a_softmax_layer_off_too(package):
    source = dense(package, activation=None)
    source.add(package.layers.Softmax())
    model = tk.replace_head(tk.replace_head(source, 3), 4)
    names = [layer.name for layer in model.layers]
    assert names[1:] == ["first", "second", "head"]
    assert model.output_shape == (None, 4)


def test_replace_head_needs_a_head(package):
    with pytest.raises(ValueError, match="no inputs yet"):
        tk.replace_head(package.Sequential([package.layers.Dense(2)]), 3)
    layers = [package.Input((4,)), package.layers.Dense(2), package.layers.Dropout(0.1)]
    with pytest.raises(ValueError, match="no head"):
        tk.replace_head(package.Sequential(layers), 3)
    with pytest.raises(TypeError, match="keras or tf_keras model"):
        tk.fit(object(), (np.zeros((2, 2)), np.zeros(2, int)))


@pytest.mark.parametrize("activation", ["softmax", None])
def test_loss_is_log_loss_of_the_predictions(package, digits, activation):
    model = dense(package, activation=activation)
    expected = log_loss(digits[1], softmax(tk.predict(model, digits[0]), axis=1))
    for size in len(digits[1]), 500:  # also in batches of different sizes
        history = tk.fit(model, digits, epochs=1, batch_size=size, lr=0.0)
        assert history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_softmax_and_logits_train_alike(package, digits):
    """Double softmax would make the one with a softmax learn much more slowly."""
    losses = []
    for activation in "softmax", None:
        losses.append(tk.fit(dense(package, activation=activation), digits, epochs=2)["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_unclear_outputs_are_refused(package, digits):
    with pytest.raises(ValueError, match="activation sigmoid"):
        tk.fit(dense(package, activation="sigmoid"), digits)
    hidden_softmax = package.layers.Activation("linear")
    model = dense(package)
    model.add(hidden_softmax)
    with pytest.raises(ValueError, match="are probabilities"):
        tk.fit(model, digits)


# --- fit ----------------------------------------------------------------------------------------


def test_fit_equals_a_loop_by_hand(package, digits):
    """Same batches, the gradient from a tape, and theta - factor * lr * gradient."""
    x, y = digits[0][:250], digits[1][:250]
    ours, theirs = (dense(package, activation=None) for _ in range(2))
    table = [("answer", 1.0), ("second", 0.1), (".*", None)]
    tk.freeze(ours, table)
    history = tk.fit(
        ours, (x, y), epochs=3, lr=0.5, seed=3, optimizer=package.optimizers.SGD, batch_size=32
    )

    factors = [0.1, 0.1, 1.0, 1.0]
    rng, losses = np.random.default_rng(3), []
    for _ in range(3):
        order, total = rng.permutation(250), 0.0
        for start in range(0, 250, 32):
            rows = order[start : start + 32]
            with tf.GradientTape() as tape:
                odds = tf.exp(theirs(x[rows]))
                p = tf.reduce_sum(odds * tf.one_hot(y[rows], 10), 1) / tf.reduce_sum(odds, 1)
                loss = -tf.reduce_mean(tf.math.log(p))
            trained = theirs.trainable_weights[2:]
            for w, g, factor in zip(trained, tape.gradient(loss, trained), factors, strict=True):
                w.assign(w - factor * 0.5 * g)
            total += float(loss) * len(rows)
        losses.append(total / 250)
    np.testing.assert_allclose(history["loss"], losses, rtol=1e-5)
    assert list(history["step"]) == [8, 16, 24]
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_fit_equals_keras_with_adam_and_regularization(package, digits):
    x, y = digits
    regularized = package.layers.Dense(12, kernel_regularizer="l2", name="middle")
    ours, theirs = dense(package, regularized), None
    theirs = package.models.clone_model(ours)
    theirs.set_weights(ours.get_weights())
    theirs.compile(package.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    tk.fit(ours, digits, epochs=2, lr=0.01, seed=5)
    rng = np.random.default_rng(5)
    for _ in range(2):
        order = rng.permutation(len(y))
        theirs.fit(x[order], y[order], shuffle=False, verbose=0)
    for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)


def test_runs_repeat(package, digits):
    runs = []
    for seed in 0, 0, 1:
        model = with_norm_and_dropout(package)
        tk.fit(model, digits, epochs=1, seed=seed)
        runs.append(model.get_weights())
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_best_weights_are_restored_and_training_stops(package, digits):
    x, y = digits
    train, validation = (x[:100], y[:100]), (x[100:600], y[100:600])
    model = with_norm_and_dropout(package)
    history = tk.fit(
        model, train, validation=validation, epochs=60, lr=0.2, batch_size=8, patience=4
    )
    best = history["score"].idxmax()
    assert len(history) == best + 1 + 4 < 60
    assert history["score"].iloc[-1] < history["score"].max()
    assert tk.evaluate(model, validation) == history["score"].max()
    predicted = model.predict(validation[0], verbose=0).argmax(1)
    assert balanced_accuracy_score(validation[1], predicted) == history["score"].max()


def test_metric_chooses(package, digits):
    """A metric that falls from the first epoch on keeps the weights of the first."""
    calls = iter(range(100))
    model, one = dense(package), dense(package)
    tk.fit(model, digits, validation=digits, epochs=3, metric=lambda true, found: -next(calls))
    tk.fit(one, digits, epochs=1)
    assert same(model.get_weights(), one.get_weights())


def test_training_that_fails_says_where_and_leaves_good_weights(package, digits):
    x, y = digits
    model = dense(package, activation=None)  # whose relu makes 0 of NaN
    start = model.get_weights()
    broken = x.copy()
    broken[7, 3] = np.nan
    with pytest.raises(TrainingError, match=r"gradient nan, at step 0, rows .*\b7\b"):
        tk.fit(model, (broken, y), batch_size=len(y))
    assert same(model.get_weights(), start)
    with pytest.raises(TrainingError, match="weights are not finite at step 1, epoch 1"):
        tk.fit(model, digits, batch_size=len(y), lr=np.inf, optimizer=package.optimizers.SGD)
    assert same(model.get_weights(), start)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x, np.eye(10)[y]), "argmax"),
        (lambda x, y: (x, y.astype(float)), "must be integers"),
        (lambda x, y: (x, y + 1), "1 to 10, but the model has 10 outputs"),
        (lambda x, y: (x, y - 1), "-1 to 8"),
        (lambda x, y: (x[1:], y), "1796 examples and 1797 classes"),
        (lambda x, y: (x[:0], y[:0]), "at least one"),
    ],
)
def test_wrong_data_are_refused(digits, change, message):
    with pytest.raises(ValueError, match=message):
        tk.fit(dense(keras), change(*digits))
    with pytest.raises(ValueError, match=message):
        tk.fit(dense(keras), digits, validation=change(*digits))


def test_patience_needs_validation(digits):
    with pytest.raises(ValueError, match="needs validation"):
        tk.fit(dense(keras), digits, patience=1)
    with pytest.raises(ValueError, match="must be at least 1"):
        tk.fit(dense(keras), digits, epochs=0)


def test_models_built_by_their_first_batch(package, digits):
    layers = [package.layers.Dense(8, activation="relu"), package.layers.Dense(10)]
    history = tk.fit(package.Sequential(layers), (digits[0].astype(float), digits[1]), epochs=2)
    assert history["loss"][1] < history["loss"][0]


def test_bar(digits, monkeypatch, capsys):
    monkeypatch.setattr(
        "tlbook.keras.training.tqdm", lambda **options: tqdm(**options | {"delay": 0})
    )
    history = tk.fit(dense(keras), digits, epochs=1, progress=False)
    assert list(history["step"]) == [57]
    assert capsys.readouterr().err == ""
    tk.fit(dense(keras), digits, epochs=1)
    assert ("/57" in capsys.readouterr().err) == ("TQDM_DISABLE" not in os.environ)


def test_hub_layers_are_frozen_and_trained(tmp_path):
    """A SavedModel in the hub's format, texts in: ``KerasLayer`` in a tf_keras model."""
    hub = pytest.importorskip("tensorflow_hub")

    class Lengths(tf.train.Checkpoint):
        def __init__(self):
            super().__init__()
            self.scale = tf.Variable([[1.0, 2.0]])
            self.variables = self.trainable_variables = [self.scale]
            self.regularization_losses = []

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def __call__(self, texts):
            return tf.cast(tf.strings.length(texts), tf.float32)[:, None] * self.scale

    tf.saved_model.save(Lengths(), str(tmp_path))
    texts, y = ["a", "bb", "a much longer one", "another long one"] * 8, np.array([0, 0, 1, 1] * 8)
    body = hub.KerasLayer(str(tmp_path), input_shape=[], dtype=tf.string, name="body")
    model = tf_keras.Sequential([body, tf_keras.layers.Dense(2, name="head")])
    tk.freeze(model, [("head", 1.0), (".*", None)])
    assert list(tk.describe(model)["factor"]) == ["frozen", "1"]
    tk.fit(model, (texts, y), epochs=1)
    assert same(body.get_weights(), [[[1.0, 2.0]]])
    tk.freeze(model, [("head", 1.0), ("body", 0.01)])
    tk.fit(model, (texts, y), epochs=20, lr=0.1)
    assert not same(body.get_weights(), [[[1.0, 2.0]]])
    assert tk.evaluate(model, (texts, y)) == 1.0


# --- files --------------------------------------------------------------------------------------


def test_pretrain_save_load_and_fine_tune(package, digits, tmp_path):
    """Listings L3 and L2 in one: digits 0 to 4 are the source task, 5 to 9 the target task."""
    x, y = digits
    low, high = y < 5, y >= 5
    source = dense(package, n_classes=5)
    tk.fit(source, (x[low], y[low]), epochs=10, lr=0.01)
    tk.save(source, tmp_path / "pretrained_model.h5")
    model = tk.replace_head(tk.load(tmp_path / "pretrained_model.h5"), 5)
    tk.freeze(model, [("head", 1.0), (".*", None)])
    target, test = (x[high][:300], y[high][:300] - 5), (x[high][300:], y[high][300:] - 5)
    assert tk.evaluate(model, test) < 0.4
    tk.fit(model, target, epochs=20, lr=0.01)
    with_head = tk.evaluate(model, test)
    assert same(weights(model, "first"), weights(source, "first"))
    assert with_head > 0.5
    tk.freeze(model, [("head", 1.0), (".*", 0.3)])
    tk.fit(model, target, epochs=20, lr=0.01)
    assert tk.evaluate(model, test) > max(0.9, with_head)


@pytest.mark.slow
def test_files_give_the_same_predictions_in_another_process(digits, tmp_path):
    expected = {}
    for package in keras, tf_keras:
        model = with_norm_and_dropout(package)
        tk.freeze(model, [("first|norm", None), (".*", 0.5)])
        tk.fit(model, digits, epochs=1)
        for suffix in ".keras", ".h5":
            name = package.__name__ + suffix
            tk.save(model, tmp_path / name)
            expected[name] = tk.predict(model, digits[0])
            expected[name + " trained"] = tk.describe(model)["trained"].to_numpy()
    assert len(list(tmp_path.iterdir())) == 4  # no parts are left behind
    np.save(tmp_path / "x.npy", digits[0])
    code = f"""
import sys
import numpy as np
import tlbook.keras as tk
assert "torch" not in sys.modules
x, found = np.load(r"{tmp_path}/x.npy"), {{}}
for name in {[name for name in expected if " " not in name]}:
    model = tk.load(rf"{tmp_path}/{{name}}")
    assert type(model).__module__.split(".")[0] == name.split(".")[0]
    found[name] = tk.predict(model, x)
    found[name + " trained"] = tk.describe(model)["trained"].to_numpy()
np.savez(r"{tmp_path}/found.npz", **found)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "found.npz")
    assert set(found) == set(expected)
    for name, predictions in expected.items():
        assert np.array_equal(found[name], predictions), name


def test_code_in_a_legacy_file_does_not_run(tmp_path):
    """A Lambda in ``.h5`` is bytecode: ``tf_keras`` runs it, whatever it does."""
    marker = tmp_path / "marker"
    code = eval(f"lambda x: (open({str(marker)!r}, 'w').close(), x)[1]")
    model = tf_keras.Sequential([tf_keras.Input((2,)), tf_keras.layers.Lambda(code)])
    model.save(tmp_path / "bad.h5")
    marker.unlink()
    with pytest.raises(ValueError, match="can be any code"):
        tk.load(tmp_path / "bad.h5")
    assert not marker.exists()
    tf_keras.models.load_model(tmp_path / "bad.h5")
    assert marker.exists()  # it was dangerous


def test_modules_that_a_file_names_are_not_imported(tmp_path, monkeypatch):
    (tmp_path / "intruder.py").write_text("from tf_keras import Sequential as Intruder")
    monkeypatch.syspath_prepend(tmp_path)
    dense(tf_keras).save(tmp_path / "good.keras")
    with zipfile.ZipFile(tmp_path / "good.keras") as good:
        config = json.loads(good.read("config.json"))
        intruder = {"module": "intruder", "class_name": "Intruder", "registered_name": "Intruder"}
        config |= intruder
        with zipfile.ZipFile(tmp_path / "bad.keras", "w") as bad:
            for name in good.namelist():
                content = json.dumps(config) if name == "config.json" else good.read(name)
                bad.writestr(name, content)
    with pytest.raises(ValueError, match="intruder"):
        tk.load(tmp_path / "bad.keras")
    assert "intruder" not in sys.modules
    tf_keras.models.load_model(tmp_path / "bad.keras")
    assert "intruder" in sys.modules  # it was dangerous


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.keras"):
        tk.save(dense(keras), tmp_path / "model.pkl")
    with pytest.raises(FileNotFoundError, match="there is no model"):
        tk.load(tmp_path / "model.keras")
    for name in "model.keras", "model.h5":
        (tmp_path / name).write_bytes(b"not a model")
        with pytest.raises(ValueError, match="not a whole Keras model"):
            tk.load(tmp_path / name)
    whole = tmp_path / "whole.keras"
    tk.save(dense(keras), whole)
    shutil.copy(whole, tmp_path / "half.keras")
    (tmp_path / "half.keras").write_bytes(whole.read_bytes()[:5000])
    with pytest.raises(ValueError, match="not a whole Keras model"):
        tk.load(tmp_path / "half.keras")


# Files of strangers


def rewritten(path, change):
    """A good model file with another configuration: what ``change`` makes of the good one."""
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["model_config"] = json.dumps(change(json.loads(file.attrs["model_config"])))
        return path
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = change(json.loads(members["config.json"]))
    members["config.json"] = config if isinstance(config, str) else json.dumps(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def with_layer(layer):
    """Changes the last layer of a Sequential model into this one."""

    def change(config):
        config["config"]["layers"][-1] = layer
        return config

    return change


@pytest.fixture(params=[".keras", ".h5"])
def file(request, package, tmp_path):
    path = tmp_path / f"model{request.param}"
    tk.save(dense(package), path)
    return path


def refusal(path):
    with pytest.raises(ValueError) as caught:
        tk.load(path)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and len(message) < 700
    return message


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("keras.layers", "Lambda"),
        (None, "Lambda"),
        ("keras.layers", "TFSMLayer"),
        ("keras.layers", "TorchModuleWrapper"),
        ("keras.layers", "JaxLayer"),
        ("keras.layers", "DenseFeatures"),
        ("keras", "layers.TFSMLayer"),
        ("keras", "config.enable_unsafe_deserialization"),
        ("keras", "utils.get_file"),
        ("keras.layers", "src.layers.core.lambda_layer.Lambda"),
        ("tf_keras.src.engine.base_layer", "TensorFlowOpLayer"),
        ("tf_keras.src.layers.core.tf_op_layer", "TFOpLambda"),
        (None, "TensorFlowOpLayer"),
        (None, "TFOpLambda"),
        (None, "SlicingOpLambda"),
        (None, "ClassMethod"),
        (None, "__lambda__"),
        (None, "__typespec__"),
        (None, "TypeSpec"),
        (None, "CompositeTensor"),
        ("builtins", "function"),
        ("builtins", "eval"),
        ("os", "system"),
        ("keras.src.ops.core", "WhileLoop"),
        ("keras.src.ops.numpy", "Vectorize"),
        ("", "Dense"),
        ("keras.layers.", "Dense"),
        ("keras.initializers", "Dense"),
        (["keras.layers"], "Dense"),
        ("keras.layers", ["Dense"]),
        ("keras.layers", None),
    ],
)
def test_only_known_classes_are_made(file, module, name):
    layer = {"module": module, "class_name": name, "config": {"name": "answer"}}
    message = refusal(rewritten(file, with_layer(layer)))
    assert repr(name) in message and "can be any code" in message and "load_model" in message


def test_a_class_is_not_exchanged_for_a_registered_one(file):
    """A class that somebody's package registered would be made in place of the named one."""

    def change(config):
        config["config"]["layers"][-1]["registered_name"] = "package>Other"
        return config

    assert "'package>Other' in place of 'Dense'" in refusal(rewritten(file, change))


def test_classes_are_checked_wherever_they_stand(file):
    bad = {"module": "os", "class_name": "system", "config": "true"}
    for key in "kernel_initializer", "activation", "dtype", "build_config", "whatever":

        def change(config, key=key):
            config["config"]["layers"][-1]["config"][key] = [{"deeper": [bad]}]
            return config

        assert "'system' of os" in refusal(rewritten(file, change))


def test_an_operation_of_tensorflow_writes_no_file(tmp_path):
    """The layer of old Keras 2 that wraps a node of a graph, here WriteFile."""
    marker = tmp_path / "written"
    from tf_keras.src.engine.base_layer import TensorFlowOpLayer

    node = {"name": "write", "op": "WriteFile", "input": ["name", "text"]}
    config = {"name": "write", "node_def": node, "constants": {"0": str(marker)}}
    path = tmp_path / "model.h5"
    tk.save(dense(tf_keras), path)
    rewritten(path, with_layer({"class_name": "TensorFlowOpLayer", "config": config}))
    assert "'TensorFlowOpLayer'" in refusal(path)
    assert not marker.exists()
    layer = TensorFlowOpLayer.from_config(config)
    tf.function(lambda text: layer._make_op([text]))(tf.constant("of a stranger"))
    assert marker.read_text() == "of a stranger"  # it was dangerous


@pytest.mark.parametrize("kind", ["StringLookup", "IntegerLookup", "TextVectorization"])
@pytest.mark.parametrize("key", ["vocabulary", "idf_weights"])
def test_no_vocabulary_is_read_from_elsewhere(file, tmp_path, kind, key):
    (tmp_path / "secret").write_text("secret\n")
    for value in str(tmp_path / "secret"), "https://127.0.0.1:9/", {"class_name": "__tensor__"}:
        layer = {"module": "keras.layers", "class_name": kind, "config": {key: value}}
        message = refusal(rewritten(file, with_layer(layer)))
        assert f"reads {key} from" in message and "not inside it" in message


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (None, "null"),
        ([], "a list"),
        ("text", "a str"),
        (3, "a int"),
        ({}, "a dict"),
        ({"class_name": None}, "a dict"),
        ({"class_name": "Sequential"}, "cannot be loaded"),
        ({"class_name": "Sequential", "config": None}, "cannot be loaded"),
        ({"class_name": "Sequential", "config": {"layers": 3}}, "cannot be loaded"),
        ({"class_name": "Sequential", "config": {"layers": [None]}}, "cannot be loaded"),
        ({"class_name": "Functional", "config": {"layers": [{}]}}, "cannot be loaded"),
    ],
)
def test_configurations_without_sense(file, config, what):
    def change(_):
        return json.dumps(config) if file.suffix == ".keras" else config

    assert what in refusal(rewritten(file, change))


@pytest.mark.parametrize("depth", [500, 100_000])
def test_very_deep_configurations(file, depth):
    deep = f'{{"class_name": "Sequential", "config": {"[" * depth}{"]" * depth}}}'
    if file.suffix == ".h5":
        with h5py.File(file, "r+") as opened:
            opened.attrs.pop("model_config")
            opened.attrs.create("model_config", deep[:60_000] if depth > 60_000 else deep)
    else:
        rewritten(file, lambda _: deep)
    refusal(file)


def test_members_that_keras_does_not_write(package, tmp_path):
    """Weights as ``.npz`` would be read as well, and anything is unpacked beside the assets."""
    for name in "model.weights.npz", "config.json/../x", "assets/../../x", "/etc/x", "code.py":
        path = tmp_path / "model.keras"
        tk.save(dense(package), path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(name, "x")
        assert repr(name) in refusal(path)


def test_a_file_that_unpacks_to_more_and_more(package, tmp_path):
    path = tmp_path / "model.keras"
    tk.save(dense(package), path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/zeros", bytes(50_000_000))
    assert "unpacks to more than 100 times" in refusal(path)


@pytest.mark.parametrize("how", ["external", "virtual", "link", "soft", "huge"])
def test_weights_are_those_of_the_file(file, tmp_path, how):
    """HDF5 can take them from any file of this machine, where a trained copy would carry them."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret" * 100)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.zeros((12, 10), np.float32)
    inside = file if file.suffix == ".h5" else tmp_path / "model.weights.h5"
    if inside != file:
        with zipfile.ZipFile(file) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        inside.write_bytes(members[inside.name])
    with h5py.File(inside, "r+") as weights:
        names = []
        weights.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        name = next(name for name in names if weights[name].shape == (12, 10))
        del weights[name]
        if how == "external":
            weights.create_dataset(
                name, (12, 10), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)]
            )
        elif how == "virtual":
            layout = h5py.VirtualLayout((12, 10), "f4")
            layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "secret", (12, 10))
            weights.create_virtual_dataset(name, layout)
        elif how == "link":
            weights[name] = h5py.ExternalLink(str(tmp_path / "other.h5"), "secret")
        elif how == "soft":
            weights[name] = h5py.SoftLink("/")
        else:
            weights.create_dataset(name, (1 << 40, 10), "f4", chunks=(1024, 10))
    if inside != file:
        members[inside.name] = inside.read_bytes()
        with zipfile.ZipFile(file, "w") as archive:
            for member, content in members.items():
                archive.writestr(member, content)
    message = refusal(file)
    assert "weights" in message and "load_model" in message


def honest(package):
    """Models with what people use, a compiled one inside of another among them."""
    layers = package.layers
    sequence = package.Input((10,))
    words = layers.Embedding(20, 4, embeddings_regularizer="l2")(sequence)
    words = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(words)
    words = layers.MultiHeadAttention(1, 2)(words, words)
    words = layers.RNN(layers.StackedRNNCells([layers.GRUCell(3)]))(words)
    yield package.Model(sequence, layers.Dense(2, activation="softmax")(words))
    images = package.Input((8, 8, 3))
    same = layers.Conv2D(3, 3, padding="same", kernel_constraint="max_norm")
    maps = layers.Add()([same(layers.Rescaling(1 / 255)(images)), same(images)])
    maps = layers.BatchNormalization()(layers.ReLU(6.0)(maps))
    pooled = layers.Dense(4, dtype="mixed_bfloat16")(layers.GlobalAveragePooling2D()(maps))
    yield package.Model(images, layers.Concatenate()([pooled, layers.Dropout(0.1)(pooled)]))
    scaled = layers.Normalization()
    scaled.adapt(np.arange(12.0).reshape(4, 3))
    inner = package.Sequential([package.Input((3,)), layers.Dense(3, activation="gelu")])
    schedule = package.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    loss, metric = package.losses.MeanSquaredError(), package.metrics.MeanSquaredError()
    inner.compile(package.optimizers.Adam(schedule), loss, metrics=[metric])
    outer = package.Sequential([package.Input((3,)), scaled, inner, layers.Softmax()])
    outer.compile("adam", "mse")
    yield outer


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_honest_models_are_loaded(package, tmp_path, suffix):
    for model in honest(package):
        x = np.random.default_rng(0).integers(1, 9, (2, *model.input_shape[1:])).astype(np.float32)
        tk.save(model, tmp_path / f"model{suffix}")
        loaded = tk.load(tmp_path / f"model{suffix}")
        assert type(loaded).__module__.split(".")[0] == package.__name__
        np.testing.assert_allclose(loaded(x), model(x), atol=1e-6)


def test_operations_on_numbers_are_loaded(tmp_path):
    inputs = keras.Input((4,))
    hidden = keras.ops.relu(keras.layers.Dense(3)(inputs) * 2.0 + 1.0)
    model = keras.Model(inputs, keras.ops.matmul(hidden, keras.ops.transpose(hidden)))
    tk.save(model, tmp_path / "model.keras")
    x = np.ones((2, 4), np.float32)
    np.testing.assert_allclose(tk.load(tmp_path / "model.keras")(x), model(x), atol=1e-6)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_inline_vocabularies_are_loaded(package, tmp_path, suffix):
    words = package.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)
    model = package.Sequential([package.Input((1,), dtype="string"), words])
    tk.save(model, tmp_path / f"model{suffix}")
    loaded = tk.load(tmp_path / f"model{suffix}")
    np.testing.assert_array_equal(loaded(tf.constant([["b a c"]])), [[3, 2, 1]])


def test_what_is_allowed_is_a_class_of_keras():
    """Each name is known to one of the two, as a class that it defines itself."""
    values = {"__keras_tensor__", "__numpy__", "__tensor__", "__tuple__", "TensorShape"}
    known = set()
    for package in keras, tf_keras:
        for part in allowed.ALLOWED:
            module = package
            for name in (part or "keras").split(".")[1:]:
                module = getattr(module, name, None)
            for name in allowed.ALLOWED[part]:
                made = getattr(module, name, None)
                if made is not None:
                    assert isinstance(made, type)
                    assert made.__module__.startswith(package.__name__ + ".")
                    known.add(name)
    assert known | {"Functional"} == allowed.ALLOWED[None] - values
    forbidden = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "Layer"}
    assert not allowed.ALLOWED[None] & forbidden
