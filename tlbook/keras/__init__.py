"""The TensorFlow side: freezing, training and files of Keras models.

Models are Keras 3's (``keras``, which is ``tf.keras``) or those of ``tf_keras``, where TensorFlow
Hub's ``KerasLayer`` lives; they take one array and give one column per class.
"""

import keras

if keras.backend.backend() != "tensorflow":
    raise ImportError(
        f"Keras runs on {keras.backend.backend()}: set KERAS_BACKEND=tensorflow before it is "
        "imported"
    )

from tlbook.keras.files import archive, export, load, save
from tlbook.keras.freezing import describe, freeze, hub_classifier, replace_head
from tlbook.keras.training import evaluate, fit, predict

__all__ = [
    "archive",
    "describe",
    "evaluate",
    "export",
    "fit",
    "freeze",
    "hub_classifier",
    "load",
    "predict",
    "replace_head",
    "save",
]
