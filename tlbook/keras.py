"""Freezing and fine-tuning in Keras: the twin of :mod:`tlbook.learning.freezing` and :mod:`tlbook.learning.loop`.

Models are Keras 3's (``keras``, which is ``tf.keras``) or those of ``tf_keras``, where TensorFlow
Hub's ``KerasLayer`` lives; they take one array and give one column per class (documents D1 4.1 and
4.2, listings L2 and L3)::

    model = replace_head(load("pretrained_model.h5"), n_classes=3)
    freeze(model, [("head", 1.0), (".*", None)])
    history = fit(model, (x, y), validation=(x_val, y_val), epochs=20, patience=3)

Keras compiles the training step once, so a layer frozen later goes on training until the model is
compiled again. Here every :func:`fit` makes its own step from what is trainable at that moment.
"""

import gzip
import inspect
import json
import re
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.metrics import accuracy_score
from tqdm.auto import tqdm

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow before it is "
        "imported"
    )

#: Rows of (regular expression searched in layer names, factor of the learning rate or None).
Table = Sequence[tuple[str, float | None]]
#: Examples (n, ...), numbers or strings, and their classes 0 ... k - 1, (n,).
Data = tuple[np.ndarray, np.ndarray]


class TrainingError(RuntimeError):
    """Training cannot go on; the message says at which step and why."""


# --- freezing -----------------------------------------------------------------------------------


def freeze(model, table: Table):
    """Freeze layers and set their learning rates by a table; the first pattern found decides.

    Names are those of :func:`describe`. ``None`` means frozen (冻结): in :func:`fit`, no gradient,
    no BatchNorm statistics, no dropout. A dropout layer has a name, and so a row, of its own.

    Returns
    -------
    The model. If it was compiled it is compiled again, with a new optimizer, so that Keras's own
    ``fit`` heeds the table too (but not its factors, nor does it switch frozen dropout off).

    Raises
    ------
    ValueError : a pattern decides over no layer, no pattern covers a layer, a factor is not
        positive, or the model has weights outside of layers; the model is then as it was.
        Or it was compiled with a function that Keras cannot restore, such as a lambda: it is frozen
        as asked, and must be compiled by hand
    """
    factors, decided = {}, set()
    for name, layer in _layers(model):
        for pattern, factor in table:
            if re.search(pattern, name):
                factors[layer] = factor
                decided.add(pattern)
                break
        else:
            raise ValueError(
                f"no pattern covers {name!r}: end the table with ('.*', None) or ('.*', 1.0)"
            )
    for pattern, factor in table:
        if pattern not in decided:
            raise ValueError(
                f"pattern {pattern!r} decides over no layer (a typo, or the rows above it take "
                f"them all). Names are {', '.join(name for name, _ in _layers(model))}"
            )
        if factor is not None and not factor > 0:
            raise ValueError(f"factor {factor} of {pattern!r}: positive, or None for frozen")
    inside = {id(weight) for layer in factors for weight in layer.weights}
    if outside := [weight.name for weight in model.weights if id(weight) not in inside]:
        raise ValueError(f"weights outside of layers, which no pattern reaches: {outside}")
    compiled = model.get_compile_config()
    model.trainable = True  # a model that is frozen as a whole hides its layers' own flags
    for layer, factor in factors.items():
        layer.trainable = factor is not None
        layer.lr_factor = factor or 1.0
    if compiled:
        try:
            model.compile_from_config(compiled)
        except (TypeError, ValueError) as error:
            model.compile()  # forgets the step made for what was trainable before
            raise ValueError(
                "the model is frozen as asked, but was compiled with a function that Keras cannot "
                "restore: call model.compile(...) again"
            ) from error
    return model


def describe(model) -> pd.DataFrame:
    """One row per layer: parameters, how many of them are trained, factor of the learning rate."""
    trained = {id(weight) for weight in model.trainable_weights}
    rows = [
        {
            "layer": name,
            "parameters": layer.count_params(),
            "trained": sum(int(np.prod(w.shape)) for w in layer.weights if id(w) in trained),
            "factor": f"{_factor(layer):.3g}" if layer.trainable else "frozen",
        }
        for name, layer in _layers(model)
    ]
    return pd.DataFrame(rows).set_index("layer")


def replace_head(model, n_classes: int, seed: int = 0):
    """A model with the same body and a new, random output layer named ``head``.

    The body is shared with the given model, not copied: training one trains the other. The new
    head gives logits. A softmax belongs into the loss: see :func:`fit`.

    Raises
    ------
    ValueError : the model was not built yet, or does not end in a dense layer
    """
    if not getattr(model, "inputs", None):
        raise ValueError("the model has no inputs yet: begin it with Input(shape), or call it once")
    layers = list(model.layers)
    while type(layers[-1]).__name__ in ("Activation", "Softmax"):
        layers.pop()
    if type(layers[-1]).__name__ != "Dense":
        raise ValueError(f"the last layer, {layers[-1].name!r}, is not Dense: there is no head")
    package = _package(model)
    # float32 also after a body in mixed precision
    head = package.layers.Dense(
        n_classes,
        kernel_initializer=package.initializers.GlorotUniform(seed),
        dtype="float32",
        name="head",
    )
    return package.Model(model.inputs, head(layers[-1].input))


def hub_classifier(
    handle: Path | str,
    n_classes: int,
    *,
    trainable: bool = True,
    dropout: float = 0.0,
    seed: int = 0,
):
    """A model of ``tf_keras``: an encoder of TensorFlow Hub under a new, random head.

    It is ``hub.KerasLayer``, named ``encoder``, then dropout, then a dense layer named ``head``
    that gives logits. ``hub.KerasLayer`` works in models of ``tf_keras`` only, not of Keras 3.

    Parameters
    ----------
    handle : a packaged SavedModel, a folder, or an address, as for :func:`tlbook.sources.hubs.folder`
    trainable : fine-tune the encoder too; its variables move only then. :func:`freeze` can change
        it later
    dropout : share of the features left out in training
    seed : of the head and of dropout

    Raises
    ------
    FileNotFoundError : see :func:`tlbook.sources.hubs.folder`
    ValueError : it is no encoder of strings or images; or ``trainable``, and it has no variable
        that can be trained, as a plain ``tf.Module`` saves it
    """
    import tensorflow_hub
    import tf_keras

    from tlbook import sources
    from tlbook.sources import encoders

    encoder = sources.load(handle)
    if not isinstance(encoder, encoders.SavedModelEncoder):
        raise ValueError(f"{str(handle)!r} is not a SavedModel of TensorFlow Hub")
    if trainable and not getattr(encoder.model, "trainable_variables", ()):
        raise ValueError(
            f"{str(handle)!r} has nothing to train: hub.KerasLayer would leave it as it is. It was "
            "saved without its list of variables; use trainable=False, or save it again"
        )
    if encoder.modality == "text":
        inputs = tf_keras.layers.Input((), dtype=tf.string)
    else:
        inputs = tf_keras.layers.Input((encoder.size, encoder.size, 3))
    layer = tensorflow_hub.KerasLayer(str(encoder.folder), trainable=trainable, name="encoder")
    stack = [inputs, layer]
    if dropout:
        stack.append(tf_keras.layers.Dropout(dropout, seed=seed, name="dropout"))
    kernel = tf_keras.initializers.GlorotUniform(seed)
    stack.append(tf_keras.layers.Dense(n_classes, kernel_initializer=kernel, name="head"))
    return tf_keras.Sequential(stack)


def _layers(model, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Layers with their names, those of models inside the model as ``model/layer``."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from _layers(layer, f"{prefix}{layer.name}/")
        elif type(layer).__name__ != "InputLayer":
            yield prefix + layer.name, layer


def _factor(layer) -> float:
    return getattr(layer, "lr_factor", 1.0)


def _package(model):
    """The module, keras or tf_keras, that a model is made of."""
    if isinstance(model, keras.Model):
        return keras
    import tf_keras

    if isinstance(model, tf_keras.Model):
        return tf_keras
    raise TypeError(f"a keras or tf_keras model is needed, not {type(model).__name__}")


# --- training -----------------------------------------------------------------------------------


def fit(
    model,
    train: Data,
    *,
    validation: Data | None = None,
    epochs: int = 10,
    batch_size: int = 32,
    lr: float = 1e-3,
    optimizer: Callable | None = None,
    metric: Callable[[np.ndarray, np.ndarray], float] = accuracy_score,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train to the end, or until validation stops improving; the best weights are restored.

    The loss is the mean cross-entropy, plus the regularization that layers ask for: from logits if
    the last layer has no activation, from probabilities if it has a softmax (no double softmax).

    Parameters
    ----------
    model : its weights in float32, or mixed with bfloat16 (with float16, losses need scaling)
    train, validation : (examples, classes); without validation the last weights stay
    lr : learning rate; a layer's own is this times its factor, see :func:`freeze`
    optimizer : learning rate -> optimizer; by default Adam, as in the listings. It starts anew
        with each call, one for each factor
    metric : of scikit-learn, ``metric(true, predicted)``; a larger one is better
    patience : stop after so many epochs without a better score (early stopping, 早停)
    seed : of the order of examples. Dropout follows the seed that Keras's ``set_random_seed`` was
        given before the model was made

    Returns
    -------
    One row per epoch: step, epoch, training loss, score (with validation), CPU seconds.

    Raises
    ------
    ValueError : the data do not fit the model, or nothing is left to train
    TrainingError : the loss, or a weight, is not finite. The model gets the best weights back
        that it had, or those at the start
    """
    if patience is not None and validation is None:
        raise ValueError("patience needs validation data: early stopping selects on it")
    if epochs < 1 or batch_size < 1:
        raise ValueError(f"epochs={epochs} and batch_size={batch_size} must be at least 1")
    x, y = _checked(model, train)
    validation = validation and _checked(model, validation)
    rng = np.random.default_rng(seed)
    best, best_score, waited = model.get_weights(), -np.inf, 0
    done, history, hidden = 0, [], {} if progress else {"disable": True}
    total = epochs * -(-len(y) // batch_size)
    with (
        _frozen_layers_infer(model),
        tqdm(total=total, unit="step", leave=False, delay=5, **hidden) as bar,
    ):
        step = _step(model, x, lr, optimizer)
        for epoch in range(1, epochs + 1):
            began, losses = time.process_time(), []
            order = rng.permutation(len(y))
            for start in range(0, len(y), batch_size):
                rows = order[start : start + batch_size]
                loss, norm = map(float, step(tf.constant(x[rows]), tf.constant(y[rows])))
                if not np.isfinite(loss + norm):
                    what = f"the loss is {loss}, the norm of its gradient {norm},"
                    _give_up(model, best, what, done, f"rows {rows.tolist()}")
                losses.append(loss * len(rows))
                done += 1
                bar.update()
            if not all(np.isfinite(weight).all() for weight in model.get_weights()):
                _give_up(model, best, "weights are not finite", done, f"epoch {epoch}")
            row = {"step": done, "epoch": epoch, "loss": sum(losses) / len(y)}
            if validation:
                row["score"] = evaluate(model, validation, metric)
                waited += 1
                if row["score"] > best_score:
                    best, best_score, waited = model.get_weights(), row["score"], 0
            history.append(row | {"CPU seconds": time.process_time() - began})
            if patience is not None and waited >= patience:
                break
    if validation:
        model.set_weights(best)
    return pd.DataFrame(history)


def predict(model, x: np.ndarray, batch_size: int = 256) -> np.ndarray:
    """Probabilities of the classes, float32 (n, k), also of a model that gives logits."""
    x = _array(x)
    batches = [tf.constant(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
    outputs = np.concatenate([model(batch, training=False).numpy() for batch in batches])
    return tf.nn.softmax(outputs).numpy() if _gives_logits(model) else outputs


def evaluate(
    model, data: Data, metric: Callable[[np.ndarray, np.ndarray], float] = accuracy_score
) -> float:
    """A scikit-learn metric, ``metric(true, predicted)``, of the classes the model predicts."""
    x, y = data
    return float(metric(np.asarray(y), predict(model, x).argmax(-1)))


def _step(model, x: np.ndarray, lr: float, optimizer: Callable | None) -> Callable:
    """A function of a batch like ``x`` that updates the weights that are trainable now.

    Returns the loss and the norm of the gradient: relu makes 0 of NaN, so the loss alone may hide
    that the gradient is not finite.
    """
    if not model.trainable_weights:
        raise ValueError("every layer is frozen: there is nothing left to train")
    factors = {id(w): _factor(layer) for _, layer in _layers(model) for w in layer.weights}
    groups: dict[float, list] = {}
    for weight in model.trainable_weights:
        groups.setdefault(factors.get(id(weight), 1.0), []).append(weight)
    optimizer = optimizer or _package(model).optimizers.Adam
    optimizers = {factor: optimizer(lr * factor) for factor in groups}
    for factor, weights in groups.items():
        optimizers[factor].build(weights)
    logits = _gives_logits(model)

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = tf.reduce_mean(_cross_entropy(outputs, y, logits))
            objective = tf.add_n([loss, *(tf.cast(term, loss.dtype) for term in model.losses)])
        gradients = tape.gradient(objective, groups)
        norm = tf.linalg.global_norm(tf.nest.flatten(gradients))
        for factor, weights in groups.items():
            pairs = zip(gradients[factor], weights, strict=True)
            optimizers[factor].apply_gradients([(g, w) for g, w in pairs if g is not None])
        return loss, norm

    batch = tf.TensorSpec([None, *x.shape[1:]], tf.constant(x[:1]).dtype)
    return step.get_concrete_function(batch, tf.TensorSpec([None], tf.int64))


def _cross_entropy(outputs, y, logits: bool):
    """H(p, q) of each example, (n,)."""
    outputs = tf.cast(outputs, tf.float32)
    if logits:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, outputs)
    probabilities = tf.gather(outputs, y, batch_dims=1)
    return -tf.math.log(tf.maximum(probabilities, keras.config.epsilon()))  # as Keras: not log 0


def _gives_logits(model) -> bool:
    *_, (name, last) = _layers(model)
    activation = getattr(last, "activation", None)
    activation = getattr(activation, "__name__", "linear")
    if activation == "softmax" or type(last).__name__ == "Softmax":
        return False
    if activation != "linear":
        raise ValueError(
            f"the last layer, {name!r}, has the activation {activation}: it must give logits (no "
            "activation) or probabilities (softmax), one column per class"
        )
    return True


@contextmanager
def _frozen_layers_infer(model) -> Iterator[None]:
    """Frozen layers run in inference mode: in Keras, BatchNorm does so by itself, dropout not."""

    def inference(call: Callable) -> Callable:
        return lambda *args, training=None, **options: call(*args, training=False, **options)

    frozen = [layer for _, layer in _layers(model) if not layer.trainable]
    frozen = [layer for layer in frozen if "training" in inspect.signature(layer.call).parameters]
    for layer in frozen:
        object.__setattr__(layer, "call", inference(layer.call))  # Keras's own would track it
    try:
        yield
    finally:
        for layer in frozen:
            object.__delattr__(layer, "call")


def _give_up(model, best: list[np.ndarray], what: str, step: int, where: str) -> None:
    model.set_weights(best)
    raise TrainingError(f"{what} at step {step}, {where}: look at the examples, or lower lr")


def _array(x) -> np.ndarray:
    x = np.asarray(x)
    return x.astype(np.float32) if x.dtype == np.float64 else x


def _checked(model, data: Data) -> Data:
    """Examples and classes as arrays; also builds a model that is not built yet."""
    _package(model)
    x, y = _array(data[0]), np.asarray(data[1])
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"classes must be integers (n,), not {y.dtype} {y.shape}; of one-hot rows: argmax(1)"
        )
    if len(x) != len(y) or not len(y):
        raise ValueError(f"{len(x)} examples and {len(y)} classes: as many of each, at least one")
    outputs = model(tf.constant(x[:8]), training=False).numpy()
    if outputs.ndim != 2 or outputs.shape[1] < 2:
        raise ValueError(f"the model gives {outputs.shape[1:]} per example, not a column per class")
    if y.min() < 0 or y.max() >= outputs.shape[1]:
        raise ValueError(
            f"classes are {y.min()} to {y.max()}, but the model has {outputs.shape[1]} outputs, "
            "counted from 0: see replace_head"
        )
    if _gives_logits(model) and (outputs >= 0).all() and np.allclose(outputs.sum(1), 1, atol=1e-5):
        raise ValueError("the outputs are probabilities, but the last layer is no softmax")
    return x, y.astype(np.int64)


# --- files --------------------------------------------------------------------------------------


def save(model, path: Path | str) -> None:
    """Save architecture and weights, whole or not at all: ``.keras``, or ``.h5``, which is legacy.

    Neither keeps the factors of :func:`freeze`; which layers are frozen is kept.
    """
    path = _model_file(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".part-") as part:
        whole = Path(part, path.name)
        model.save(whole)
        whole.replace(path)


def export(model, folder: Path | str) -> None:
    """Save a model as a SavedModel in TensorFlow Hub's format, whole or not at all.

    ``hub.load`` gives a function of a batch; ``hub.KerasLayer(..., trainable=True)`` trains it
    further, but for what is frozen now. Models of Keras 3 become such a SavedModel as well; what
    Keras 3 itself exports can only infer. Regularization that layers ask for is not carried along.
    The folder must not exist.
    """
    from tlbook.sources import savedmodels

    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; export into a new folder")
    _package(model)
    savedmodels.save(savedmodels.CallableModel(model), folder)


def archive(folder: Path | str, file: Path | str) -> None:
    """Pack a SavedModel as TensorFlow Hub serves it: a ``.tar.gz`` with the files at its root.

    Equal files give an equal archive, byte for byte.
    """
    folder, file = Path(folder), Path(file)
    if not (folder / "saved_model.pb").is_file():
        raise ValueError(f"{folder} is not a SavedModel: it has no saved_model.pb")
    if not file.name.endswith(".tar.gz"):
        raise ValueError(f"{file.name}: the archive's name ends in .tar.gz")

    def plain(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = info.mtime = 0  # nothing of this machine or of the moment
        info.uname = info.gname = ""
        info.mode = 0o755 if info.isdir() else 0o644
        return info

    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".part-") as part:
        whole = Path(part, file.name)
        with (
            whole.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w") as tar,
        ):
            for path in sorted(folder.rglob("*")):
                tar.add(path, path.relative_to(folder).as_posix(), recursive=False, filter=plain)
        whole.replace(file)


def load(path: Path | str):
    """A model that :func:`save` or Keras itself saved, by the Keras, 2 or 3, that it is from.

    It is not compiled: the source task's optimizer has no part in the target task.

    Returns
    -------
    A model of ``keras``, or of ``tf_keras`` for a file that Keras 2 wrote.

    Raises
    ------
    FileNotFoundError
    ValueError : it is no such file; or it asks for more than the layers of Keras that compute
        with numbers and inline vocabularies, which can be code, or can read or write files. Keras's
        own ``load_model`` loads such a file, for those who trust its author.
    """
    path = _model_file(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no model {path}")
    try:
        config, version = _unpacked(path)
    except _Refused:
        raise
    except Exception as error:  # of zipfile, h5py or json; RecursionError of one that is too deep
        raise ValueError(f"{path} is not a whole Keras model: {_line(error)}") from error
    _check_config(config, path)
    package = keras
    if str(version).startswith("2"):
        import tf_keras as package
    try:
        model = package.models.load_model(path, compile=False, safe_mode=True)
        _package(model)  # tf_keras gives a configuration that it does not understand back
    except Exception as error:  # Keras raises many kinds for one that makes no sense
        raise ValueError(f"{path} cannot be loaded as a Keras model: {_line(error)}") from error
    return model


def _model_file(path: Path | str) -> Path:
    path = Path(path)
    if path.suffix not in (".keras", ".h5"):
        raise ValueError(f"{path.name}: a model file ends in .keras, or in .h5, which is legacy")
    return path


class _Refused(ValueError):
    """A model file asks for what can be code, or reaches beyond itself."""


def _refused(path: Path, what: str) -> _Refused:
    return _Refused(
        f"{path} {what}. If you trust its author, load it with load_model of Keras itself."
    )


def _line(error: Exception) -> str:
    """The message of an error, in one line that can be read."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."


# What a file holds


def _unpacked(path: Path) -> tuple[object, object]:
    """Configuration and Keras version of a model file, once its weights were found to be its own.

    The values are read just as Keras itself reads them.
    """
    size = path.stat().st_size
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            _check_weights(file, size, path)
            return json.loads(file.attrs["model_config"]), file.attrs.get("keras_version", "3")
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            # Keras also takes weights in other formats; it writes none of them unless asked to
            if name not in _MEMBERS and (".." in name or not name.startswith("assets/")):
                raise _refused(path, f"has the member {name!r}, which Keras does not write")
        if sum(member.file_size for member in archive.infolist()) > EXPANSION * size:
            raise _refused(path, f"unpacks to more than {EXPANSION} times its size")
        with archive.open("model.weights.h5") as stream, h5py.File(stream) as file:
            _check_weights(file, archive.getinfo("model.weights.h5").file_size, path)
        config = json.loads(archive.read("config.json"))
        if isinstance(config, dict):
            config.pop("compile_config", None)  # as load_model does, with compile=False
        return config, json.loads(archive.read("metadata.json"))["keras_version"]


def _check_weights(file: h5py.File, size: int, path: Path) -> None:
    """Refuse weights that lie in another file of this machine, or that are said to be huge.

    HDF5 knows links into other files, data sets whose bytes are in any file, and data sets without
    bytes.
    """

    links = []
    file.visititems_links(lambda name, link: links.append((name, link)))
    for name, link in links:
        if not isinstance(link, h5py.HardLink):
            raise _refused(path, f"has the link {name!r} in place of weights")
        item = file[name]
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise _refused(path, f"takes the weights {name!r} from another file")
            if item.nbytes > EXPANSION * size:
                raise _refused(path, f"says that the weights {name!r} have {item.nbytes} bytes")


#: The members of a ``.keras`` file, beside those in ``assets/``.
_MEMBERS = {"config.json", "metadata.json", "model.weights.h5"}
EXPANSION = 100  # no honest file is more than a hundred times smaller than its content


# What a file asks for

_ACTIVATIONS = "Activation ELU LeakyReLU PReLU ReLU Softmax ThresholdedReLU"
_CONVOLUTIONS = """
Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose DepthwiseConv1D
DepthwiseConv2D LocallyConnected1D LocallyConnected2D SeparableConv1D SeparableConv2D
Convolution1D Convolution1DTranspose Convolution2D Convolution2DTranspose Convolution3D
Convolution3DTranspose SeparableConvolution1D SeparableConvolution2D
"""
_IMAGES = """
CenterCrop RandomBrightness RandomContrast RandomCrop RandomFlip RandomHeight RandomRotation
RandomTranslation RandomWidth RandomZoom Rescaling Resizing
"""
_POOLINGS = """
AveragePooling1D AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D AvgPool3D
GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D GlobalAvgPool1D
GlobalAvgPool2D GlobalAvgPool3D GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D GlobalMaxPooling1D
GlobalMaxPooling2D GlobalMaxPooling3D MaxPool1D MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D
MaxPooling3D
"""
_RECURRENT = """
Bidirectional ConvLSTM1D ConvLSTM2D ConvLSTM3D GRU GRUCell LSTM LSTMCell RNN SimpleRNN
SimpleRNNCell StackedRNNCells TimeDistributed
"""
_SHAPES = """
Cropping1D Cropping2D Cropping3D Flatten Permute RepeatVector Reshape UpSampling1D UpSampling2D
UpSampling3D ZeroPadding1D ZeroPadding2D ZeroPadding3D
"""
_TABLES = """
CategoryEncoding Discretization HashedCrossing Hashing IntegerLookup StringLookup
TextVectorization
"""
_OTHER_LAYERS = """
ActivityRegularization Add AdditiveAttention AlphaDropout Attention Average BatchNormalization
Concatenate Dense Dot Dropout EinsumDense Embedding GaussianDropout GaussianNoise
GroupNormalization GroupQueryAttention Identity InputLayer LayerNormalization Masking Maximum
Minimum MultiHeadAttention Multiply Normalization RMSNormalization SpatialDropout1D
SpatialDropout2D SpatialDropout3D SpectralNormalization Subtract UnitNormalization
"""
_LAYERS = " ".join(
    (_ACTIVATIONS, _CONVOLUTIONS, _IMAGES, _POOLINGS, _RECURRENT, _SHAPES, _TABLES, _OTHER_LAYERS)
)
#: What a model file may name: classes of Keras by their module. All of them compute with numbers
#: and with what stands in the file. Lambda, TFOpLambda, TensorFlowOpLayer, TFSMLayer,
#: TorchModuleWrapper, DenseFeatures and their like are not among them: they hold code or operations
#: of TensorFlow, or read other files.
_ALLOWED = {
    "keras": "DTypePolicy FloatDTypePolicy Functional Model Sequential",
    "keras.constraints": "MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm",
    "keras.dtype_policies": "DTypePolicy FloatDTypePolicy",
    "keras.engine.functional": "Functional",
    "keras.engine.sequential": "Sequential",
    "keras.initializers": """
        Constant GlorotNormal GlorotUniform HeNormal HeUniform Identity IdentityInitializer
        LecunNormal LecunUniform Ones Orthogonal OrthogonalInitializer RandomNormal RandomUniform
        TruncatedNormal VarianceScaling Zeros
    """,
    "keras.layers": _LAYERS,
    "keras.losses": """
        BinaryCrossentropy BinaryFocalCrossentropy CategoricalCrossentropy
        CategoricalFocalCrossentropy CategoricalHinge CosineSimilarity Hinge Huber KLDivergence
        LogCosh MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError
        MeanSquaredLogarithmicError Poisson SparseCategoricalCrossentropy SquaredHinge
    """,
    "keras.metrics": """
        AUC Accuracy BinaryAccuracy BinaryCrossentropy CategoricalAccuracy CategoricalCrossentropy
        CosineSimilarity F1Score KLDivergence Mean MeanAbsoluteError MeanSquaredError Precision
        Recall RootMeanSquaredError SparseCategoricalAccuracy SparseCategoricalCrossentropy
        SparseTopKCategoricalAccuracy TopKCategoricalAccuracy
    """,
    "keras.mixed_precision": "Policy",
    "keras.models": "Functional Model Sequential",
    "keras.optimizers": """
        Adadelta Adafactor Adagrad Adam AdamW Adamax Ftrl Lion Nadam RMSprop SGD
    """,
    "keras.optimizers.schedules": """
        CosineDecay CosineDecayRestarts ExponentialDecay InverseTimeDecay PiecewiseConstantDecay
        PolynomialDecay
    """,
    "keras.regularizers": "L1 L1L2 L2 OrthogonalRegularizer",
    "keras.src.engine.functional": "Functional",
    "keras.src.engine.sequential": "Sequential",
    "keras.src.models.functional": "Functional",
    "keras.src.models.sequential": "Sequential",
    "keras.src.ops.nn": "Gelu LeakyRelu LogSoftmax Relu Relu6 Sigmoid Silu Softmax Softplus",
    "keras.src.ops.numpy": """
        Absolute Add Clip Concatenate Cos Divide Einsum Equal Exp ExpandDims Greater Less Log
        LogicalAnd LogicalNot LogicalOr Matmul Max Maximum Mean Min Minimum Multiply Negative
        NotEqual Power Reshape Sin Sqrt Square Squeeze Stack Subtract Sum Tanh Transpose Where
    """,
}
_ALLOWED = {module: set(names.split()) for module, names in _ALLOWED.items()}
#: Without a module, as in an ``.h5`` of any age, Keras looks the name up among its own.
_ALLOWED[None] = set().union(
    *_ALLOWED.values(),
    {"__keras_tensor__", "__numpy__", "__tensor__", "__tuple__", "TensorShape"},  # values
)
#: Settings of layers that may be a list, or the path of a file to read.
_INLINE = ("vocabulary", "idf_weights")


def _check_config(config: object, path: Path) -> None:
    """Refuse a configuration that names anything but what is known to be harmless.

    Keras 3 refuses a part of the rest itself; ``tf_keras`` imports whatever module a file names.
    """
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        kind = f"a {type(config).__name__}" if config is not None else "null"
        raise ValueError(
            f"{path} is not a whole Keras model: its configuration is {kind} without a class_name"
        )
    left = [config]
    while left:  # not by recursion: a configuration can be deeper than Python's stack
        part = left.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                _check_name(part, path)
            for key in _INLINE:
                if not isinstance(part.get(key), list | None):
                    raise _refused(path, f"reads {key} from {part[key]!r}, which is not inside it")
            left += part.values()
        elif isinstance(part, list):
            left += part


def _check_name(part: dict, path: Path) -> None:
    name, module = part["class_name"], part.get("module")
    known = str(module).removeprefix("tf_") if module is not None else None
    if not isinstance(name, str) or name not in _ALLOWED.get(known, ()):
        raise _refused(path, f"asks for {name!r} of {module or 'Keras'}, which can be any code")
    if (registered := part.get("registered_name")) not in (None, name):
        raise _refused(path, f"asks for {registered!r} in place of {name!r}")
