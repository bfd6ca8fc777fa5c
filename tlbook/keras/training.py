"""Train in Keras: the twin of :mod:`tlbook.learning.loop`.

Keras compiles the training step once, so a layer frozen later goes on training until the model is
compiled again. Here every :func:`fit` makes its own step from what is trainable at that moment.
"""

import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score
from tqdm.auto import tqdm

from tlbook.errors import TrainingError
from tlbook.keras.freezing import factor_of, layers_of, package_of

#: Examples (n, ...), numbers or strings, and their classes 0 ... k - 1, (n,).
Data = tuple[np.ndarray, np.ndarray]


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
    metric: Callable[[np.ndarray, np.ndarray], float] = balanced_accuracy_score,
    patience: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train to the end, or until validation stops improving.

    The weights that scored best on the validation data are restored at the end. Without validation
    the last weights stay.

    The loss is the mean cross-entropy, plus the regularization that layers ask for. It is computed
    from logits if the last layer has no activation, and from probabilities if it has a softmax, so
    there is no double softmax.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model, with weights in float32, or mixed with bfloat16. (With float16, losses need
        scaling.)
    train : tuple of (n, ...) numpy.ndarray and (n,) numpy.ndarray of int
        Examples and their classes, counted from 0.
    validation : tuple of (m, ...) numpy.ndarray and (m,) numpy.ndarray of int, optional
        Examples and classes to select on.
    epochs : int, default 10
        Passes over the data.
    batch_size : int, default 32
        Examples per batch. The last batch of an epoch may be smaller.
    lr : float, default 1e-3
        Learning rate. A layer's own rate is this times its factor; see :func:`freeze`.
    optimizer : callable, optional
        A function that makes an optimizer from a learning rate. By default it is Adam, as in the
        listings. Each call of ``fit`` makes new optimizers, one for each factor.
    metric : callable, default balanced accuracy
        A metric of scikit-learn, called as ``metric(true, predicted)``. A larger score is better.
    patience : int, optional
        Training stops after this many epochs without a better score (early stopping, 早停). By
        default it goes to the end.
    seed : int, default 0
        Seed of the order of examples. Dropout follows the seed that Keras's ``set_random_seed`` was
        given before the model was made.
    progress : bool, default True
        Whether to show a progress bar when training takes longer than five seconds.

    Returns
    -------
    pandas.DataFrame
        One row per epoch: step, epoch, training loss, score (with validation), and CPU seconds.

    Raises
    ------
    ValueError
        If an argument is out of range, the data do not fit the model, or nothing is left to train.
    TrainingError
        If the loss or a weight is not finite. The model gets its best weights so far back, or those
        that it started with.
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
    """Compute the logits of examples, as :func:`tlbook.learning.loop.predict` does.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        A model that gives logits, or probabilities. Of probabilities the logarithms are returned,
        which have the same softmax.
    x : (n, ...) numpy.ndarray
        Examples.
    batch_size : int, default 256
        Examples computed at once.

    Returns
    -------
    (n, classes) numpy.ndarray of float32
        The logits, one row per example, in the order of the data.

    Raises
    ------
    ValueError
        If the model gives neither logits nor probabilities.
    """
    x = _array(x)
    batches = [tf.constant(x[start : start + batch_size]) for start in range(0, len(x), batch_size)]
    outputs = np.concatenate([model(batch, training=False).numpy() for batch in batches])
    tiny = np.finfo(np.float32).tiny
    return outputs if _gives_logits(model) else np.log(np.maximum(outputs, tiny))


def evaluate(
    model, data: Data, metric: Callable[[np.ndarray, np.ndarray], float] = balanced_accuracy_score
) -> float:
    """Score the classes that a model predicts.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model.
    data : tuple of (n, ...) numpy.ndarray and (n,) numpy.ndarray of int
        Examples and their classes.
    metric : callable, default balanced accuracy
        A metric of scikit-learn, called as ``metric(true, predicted)``.

    Returns
    -------
    float
        The score.
    """
    x, y = data
    return float(metric(np.asarray(y), predict(model, x).argmax(-1)))


def _step(model, x: np.ndarray, lr: float, optimizer: Callable | None) -> Callable:
    """A function of a batch like ``x`` that updates the weights that are trainable now.

    Returns the loss and the norm of the gradient: relu makes 0 of NaN, so the loss alone may hide
    that the gradient is not finite.
    """
    if not model.trainable_weights:
        raise ValueError("every layer is frozen: there is nothing left to train")
    factors = {id(w): factor_of(layer) for _, layer in layers_of(model) for w in layer.weights}
    groups: dict[float, list] = {}
    for weight in model.trainable_weights:
        groups.setdefault(factors.get(id(weight), 1.0), []).append(weight)
    optimizer = optimizer or package_of(model).optimizers.Adam
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
    *_, (name, last) = layers_of(model)
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

    frozen = [layer for _, layer in layers_of(model) if not layer.trainable]
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
    package_of(model)
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
