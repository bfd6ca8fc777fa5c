"""SavedModels in TensorFlow Hub's format, with the hub's reusable interface.

Each has ``__call__``, ``variables``, ``trainable_variables`` and ``regularization_losses``, so that
``hub.KerasLayer(..., trainable=True)`` really trains it.
"""

from collections.abc import Sequence
from pathlib import Path

import keras
import tensorflow as tf

from tlbook.sources.cache import whole


class Reusable(tf.train.Checkpoint):
    """Let a SavedModel be trained further: a base class with the hub's reusable interface.

    A plain ``tf.Module`` would be saved without the lists of variables, and ``hub.KerasLayer``
    would find nothing to train in it.

    Parameters
    ----------
    trainable : sequence of tf.Variable
        Variables to train.
    fixed : sequence of tf.Variable, optional
        All other variables.

    Attributes
    ----------
    trainable_variables : list of tf.Variable
        Variables to train.
    variables : list of tf.Variable
        All variables, those to train first.
    regularization_losses : list
        Empty: there are no penalties on weights.
    """

    def __init__(self, trainable: Sequence[tf.Variable], fixed: Sequence[tf.Variable] = ()):
        super().__init__()
        self.trainable_variables = list(trainable)
        self.variables = [*trainable, *fixed]
        self.regularization_losses = []


class CallableModel(Reusable):
    """Wrap a model of Keras 3 or ``tf_keras``: call it with a batch, and a switch for training.

    Parameters
    ----------
    model : keras.Model or tf_keras.Model
        A built model with one input.
    """

    def __init__(self, model):
        self.model = model
        trainable = [_tf_variable(v) for v in model.trainable_variables]
        known = {id(v) for v in trainable}
        # In Keras 3 the state of dropout's random numbers is a variable, but not a weight
        every = [_tf_variable(v) for v in model.variables]
        super().__init__(trainable, [v for v in every if id(v) not in known])
        (inputs,) = model.inputs
        spec = tf.TensorSpec(inputs.shape, inputs.dtype)
        for training in (False, True):
            self.__call__.get_concrete_function(spec, training=training)

    @tf.function
    def __call__(self, inputs, training=False):
        return self.model(inputs, training=training)


def _tf_variable(variable) -> tf.Variable:
    return variable.value if isinstance(variable, keras.Variable) else variable


def save(module: tf.train.Checkpoint, target: Path) -> None:
    """Save a SavedModel, whole or not at all, without TensorFlow's messages.

    If the folder is there already because another process was quicker, it is kept.

    Parameters
    ----------
    module : tf.train.Checkpoint
        The model, such as a :class:`Reusable`.
    target : pathlib.Path
        Folder to make.

    Raises
    ------
    OSError
        The folder cannot be written.
    """
    level = tf.get_logger().level
    tf.get_logger().setLevel("ERROR")
    try:
        with whole(target) as part:
            tf.saved_model.save(module, str(part))
    except OSError:
        if not target.is_dir():  # otherwise another process was quicker
            raise
    finally:
        tf.get_logger().setLevel(level)
