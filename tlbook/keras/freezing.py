"""Freeze layers in Keras, and replace heads: the twin of :mod:`tlbook.learning.freezing`.

Models are Keras 3's (``keras``, which is ``tf.keras``) or those of ``tf_keras``, where TensorFlow
Hub's ``KerasLayer`` lives. They take one array and give one column per class (documents D1 4.1 and
4.2, listings L2 and L3)::

    model = replace_head(load("pretrained_model.h5"), n_classes=3)
    freeze(model, [("head", 1.0), (".*", None)])
    history = fit(model, (x, y), validation=(x_val, y_val), epochs=20, patience=3)

Keras compiles the training step once, so a layer frozen later goes on training until the model is
compiled again. Here every :func:`fit` makes its own step from what is trainable at that moment.
"""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from tlbook.learning.table import Table, factors_of

# --- freezing -----------------------------------------------------------------------------------


def freeze(model, table: Table):
    """Freeze layers and set their learning rates by a table.

    The first pattern found in a layer's name decides over the layer. Names are those of
    :func:`describe`. A dropout layer has a name, and so a row, of its own.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model, which is changed in place.
    table : Table
        Rows of a regular expression and a factor of the learning rate. ``None`` in place of a
        factor means frozen (冻结): in :func:`fit`, the layer has no gradient, no BatchNorm
        statistics and no dropout.

    Returns
    -------
    keras.Model or tf_keras.Model
        The same model. If it was compiled it is compiled again with a new optimizer, so that
        Keras's own ``fit`` heeds the table too. (Keras's ``fit`` ignores the factors, and does not
        switch frozen dropout off.)

    Raises
    ------
    ValueError
        If a pattern decides over no layer, no pattern covers a layer, a factor is not positive, or
        the model has weights outside of layers. The model is then as it was. Also if the model was
        compiled with a function that Keras cannot restore, such as a lambda. It is then frozen as
        asked, and you must compile it yourself.
    """
    layers = dict(layers_of(model))
    found = factors_of(layers, table, "layer")
    factors = {layer: found[name] for name, layer in layers.items()}
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
    """List the layers of a model.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model.

    Returns
    -------
    pandas.DataFrame
        One row per layer, by name: its parameters, how many of them are trained, and the factor of
        its learning rate or "frozen".
    """
    trained = {id(weight) for weight in model.trainable_weights}
    rows = [
        {
            "layer": name,
            "parameters": layer.count_params(),
            "trained": sum(int(np.prod(w.shape)) for w in layer.weights if id(w) in trained),
            "factor": f"{factor_of(layer):.3g}" if layer.trainable else "frozen",
        }
        for name, layer in layers_of(model)
    ]
    return pd.DataFrame(rows).set_index("layer")


def replace_head(model, n_classes: int, seed: int = 0):
    """Make a model with the same body and a new, random output layer named ``head``.

    The body is shared with the given model, not copied: training one trains the other. The new head
    gives logits. A softmax belongs in the loss; see :func:`fit`.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        A model that ends in a dense layer, perhaps with a softmax or another activation after it.
    n_classes : int
        Number of classes.
    seed : int, default 0
        Seed of the new weights.

    Returns
    -------
    keras.Model or tf_keras.Model
        The new model, of the same package as the given one.

    Raises
    ------
    ValueError
        If the model was not built yet, or does not end in a dense layer.
    """
    if not getattr(model, "inputs", None):
        raise ValueError("the model has no inputs yet: begin it with Input(shape), or call it once")
    layers = list(model.layers)
    while type(layers[-1]).__name__ in ("Activation", "Softmax"):
        layers.pop()
    if type(layers[-1]).__name__ != "Dense":
        raise ValueError(f"the last layer, {layers[-1].name!r}, is not Dense: there is no head")
    package = package_of(model)
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
    """Make a model of ``tf_keras``: an encoder of TensorFlow Hub under a new, random head.

    The encoder is a ``hub.KerasLayer`` named ``encoder``. After it come dropout and a dense layer
    named ``head`` that gives logits. ``hub.KerasLayer`` works in models of ``tf_keras`` only, not
    in those of Keras 3.

    Parameters
    ----------
    handle : Path or str
        A packaged SavedModel, a folder, or an address, as for :func:`tlbook.sources.hubs.folder`.
    n_classes : int
        Number of classes.
    trainable : bool, default True
        Whether to fine-tune the encoder too. Only then do its variables change. :func:`freeze` can
        change this later.
    dropout : float, default 0.0
        Share of the features left out in training.
    seed : int, default 0
        Seed of the head and of dropout.

    Returns
    -------
    tf_keras.Sequential
        The model, not compiled.

    Raises
    ------
    FileNotFoundError
        If the encoder is not found; see :func:`tlbook.sources.hubs.folder`.
    ValueError
        If it is not an encoder of strings or images, or ``trainable`` is True and it has no
        variable that can be trained, as a plain ``tf.Module`` saves it.
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


def layers_of(model, prefix: str = "") -> Iterator[tuple[str, keras.Layer]]:
    """Iterate over the layers of a model, also over those of models inside it.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model.
    prefix : str, default ""
        Text before each name.

    Yields
    ------
    name : str
        Name of the layer. A layer of a model inside the model is called ``model/layer``.
    layer : keras.Layer
        The layer. Input layers are left out.
    """
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layers_of(layer, f"{prefix}{layer.name}/")
        elif type(layer).__name__ != "InputLayer":
            yield prefix + layer.name, layer


def factor_of(layer) -> float:
    """Return the factor of a layer's learning rate.

    Parameters
    ----------
    layer : keras.Layer
        The layer.

    Returns
    -------
    float
        The factor that :func:`freeze` set, or 1.
    """
    return getattr(layer, "lr_factor", 1.0)


def package_of(model):
    """Return the package that a model is made of.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        The model.

    Returns
    -------
    module
        ``keras`` or ``tf_keras``.

    Raises
    ------
    TypeError
        If it is not a model of either.
    """
    if isinstance(model, keras.Model):
        return keras
    import tf_keras

    if isinstance(model, tf_keras.Model):
        return tf_keras
    raise TypeError(f"a keras or tf_keras model is needed, not {type(model).__name__}")
