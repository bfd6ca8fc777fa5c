"""Check what a Keras file asks for when it is loaded: only exact classes of Keras's own."""

from pathlib import Path

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
ALLOWED = {
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

ALLOWED = {module: set(names.split()) for module, names in ALLOWED.items()}

#: Without a module, as in an ``.h5`` of any age, Keras looks the name up among its own.
ALLOWED[None] = set().union(
    *ALLOWED.values(),
    {"__keras_tensor__", "__numpy__", "__tensor__", "__tuple__", "TensorShape"},  # values
)

#: Settings of layers that may be a list, or the path of a file to read.
_INLINE = ("vocabulary", "idf_weights")


def check_config(config: object, path: Path) -> None:
    """Refuse a configuration that names anything but what is known to be harmless.

    Keras 3 itself refuses part of the rest. ``tf_keras`` imports whatever module a file names.

    Parameters
    ----------
    config : object
        The configuration of a model, as read from its JSON.
    path : pathlib.Path
        The file that it comes from, for messages.

    Raises
    ------
    ValueError
        If it is not the configuration of a model.
    Refused
        If it names a class that is not listed, or a file to read.
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
                    raise refused(path, f"reads {key} from {part[key]!r}, which is not inside it")
            left += part.values()
        elif isinstance(part, list):
            left += part


def _check_name(part: dict, path: Path) -> None:
    name, module = part["class_name"], part.get("module")
    known = str(module).removeprefix("tf_") if module is not None else None
    if not isinstance(name, str) or name not in ALLOWED.get(known, ()):
        raise refused(path, f"asks for {name!r} of {module or 'Keras'}, which can be any code")
    if (registered := part.get("registered_name")) not in (None, name):
        raise refused(path, f"asks for {registered!r} in place of {name!r}")


class Refused(ValueError):
    """Report that a model file asks for what can be code, or reaches beyond itself."""


def refused(path: Path, what: str) -> Refused:
    """Make the error for a file that is not loaded.

    Parameters
    ----------
    path : pathlib.Path
        The file.
    what : str
        What the file does, as the rest of a sentence.

    Returns
    -------
    Refused
        The error. Its message says how to load the file all the same.
    """
    return Refused(
        f"{path} {what}. If you trust its author, load it with load_model of Keras itself."
    )


def line(error: Exception) -> str:
    """Return the message of an error in one line that can be read.

    Parameters
    ----------
    error : Exception
        The error.

    Returns
    -------
    str
        The message, cut after 300 characters, or the name of the error's type if it is empty.
    """
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:300]} ..."
