"""Use frozen features as a step of scikit-learn: in a pipeline, beside other columns, in a grid.

A vector is kept on disk for each text or image, not for each call. The folds of a cross-validation
show the same texts again and again in other combinations. So they cost one pass of the encoder, and
so does a grid of heads on top of it.
"""

import sqlite3
import threading
import warnings
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import validate_data

from tlbook import checks
from tlbook.sources import cache as disk

if TYPE_CHECKING:
    from tlbook.sources.encoders import ImageEncoder, SavedModelEncoder, TextEncoder

    Encoder = TextEncoder | ImageEncoder | SavedModelEncoder

#: Encoders that stay in memory for the next fit. A grid goes from one encoder to the next and may
#: come back for each value of another parameter; more than these are rarely compared.
KEPT = 4
#: Tokenizers change their state while they work, so two threads must not share one.
_ALONE = threading.Lock()


class FrozenFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Turn texts or images into the features of a pretrained encoder that stays as it is.

    Fitting learns nothing: it checks the inputs and loads the encoder. So ``transform`` also works
    without ``fit``, and nothing leaks from a test fold into a training fold. The features are those
    of :func:`tlbook.learning.features.features`.

    Parameters
    ----------
    encoder : str, Path or encoder, default "minilm-l6"
        A handle, as :func:`tlbook.sources.pretrained.load` takes it, or the encoder that it
        returned. Equal handles share one model in memory, so do not train that model. If you want
        to train one, give a folder or load your own.
    revision : str, optional
        Branch, tag or commit of a handle on the Hugging Face Hub.
    pool : {"mean", "cls"}, optional
        How a handle's text encoder turns the vectors of the tokens into one. By default its files
        decide.
    normalize : bool, optional
        Whether a handle's text encoder scales vectors to length one. By default its files decide.
    batch_size : int, optional
        Images in a batch, or texts of 32 tokens. By default it is what is fastest on a CPU.
    cache : bool, default True
        Whether to keep the vectors on disk. Only vectors and hashes are kept, not the texts.
    progress : bool, default False
        Whether to show a progress bar when the work takes longer than five seconds.

    Attributes
    ----------
    n_features_in_ : int
        1, for the column of texts. It is absent for images.
    feature_names_in_ : (1,) numpy.ndarray of str
        The name of the column, if ``fit`` saw a table.
    fingerprint_ : str
        A hash of the encoder that ``fit`` saw. ``transform`` refuses an encoder with other weights,
        because what was trained on top would not fit it.
    encoder_ : TextEncoder, ImageEncoder or SavedModelEncoder
        The loaded encoder.

    Notes
    -----
    Texts come as a list, a one-dimensional array, a Series, or a table or array with one column.
    Images come as a uint8 array of shape (n, height, width, 3). A pickle holds the handle and no
    weights. Where it is opened, the encoder is loaded from the handle.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from sklearn.pipeline import make_pipeline
    >>> from tlbook.sources import reviews
    >>> products = reviews("amazon")
    >>> model = make_pipeline(FrozenFeatures("minilm-l6"), LogisticRegression())
    >>> scores = cross_val_score(model, products.x, products.y)  # doctest: +SKIP
    """

    def __init__(
        self,
        encoder: "str | Path | Encoder" = "minilm-l6",
        *,
        revision: str | None = None,
        pool: str | None = None,
        normalize: bool | None = None,
        batch_size: int | None = None,
        cache: bool = True,
        progress: bool = False,
    ):
        self.encoder = encoder
        self.revision = revision
        self.pool = pool
        self.normalize = normalize
        self.batch_size = batch_size
        self.cache = cache
        self.progress = progress

    def fit(self, X: Sequence[str] | np.ndarray, y: object = None) -> "FrozenFeatures":
        """Check the inputs and load the encoder.

        Parameters
        ----------
        X : (n,) or (n, 1) sequence of str, or (n, height, width, 3) numpy.ndarray of uint8
            Texts (a list, array, Series or table), or images.
        y : None
            It has no effect; scikit-learn passes it.

        Returns
        -------
        FrozenFeatures
            The object itself.

        Raises
        ------
        ValueError
            If the inputs are not what the encoder takes, or a parameter is wrong.
        FileNotFoundError
            If there is no such encoder, or it is on a hub that cannot be reached.
        """
        column = _is_column(X)
        if column:
            _texts(X)  # what is no text shall not cost the loading of a model
        encoder, identity = self._ready()
        self._inputs(encoder, X)
        validate_data(self, X, skip_check_array=True, ensure_2d=False)  # the column's name
        vars(self).pop("n_features_in_", None)
        if column:
            self.n_features_in_ = 1
        self.fingerprint_ = identity
        return self

    def transform(self, X: Sequence[str] | np.ndarray) -> np.ndarray:
        """Compute the features, or read them from the disk.

        Parameters
        ----------
        X : (n,) or (n, 1) sequence of str, or (n, height, width, 3) numpy.ndarray of uint8
            Texts (a list, array, Series or table), or images.

        Returns
        -------
        (n, d) numpy.ndarray of float32
            The features, one row per text or image.

        Raises
        ------
        ValueError
            If the inputs are not what the encoder takes, or it has other weights than the encoder
            that ``fit`` saw.
        FileNotFoundError
            If there is no such encoder, or it is on a hub that cannot be reached.
        """
        if _is_column(X):
            _texts(X)
        if hasattr(X, "columns") and hasattr(self, "feature_names_in_"):
            validate_data(self, X, reset=False, skip_check_array=True, ensure_2d=False)
        encoder, identity = self._ready()
        inputs = self._inputs(encoder, X)
        if identity != getattr(self, "fingerprint_", identity):
            raise ValueError(
                f"{encoder.handle!r} is another model than the one of fit, so what was trained on "
                "its features does not fit: call fit again"
            )
        with _ALONE:
            if not self.cache:
                return self._compute(encoder, inputs)
            return self._cached(encoder, inputs, identity)

    @property
    def encoder_(self) -> "Encoder":
        """Return the encoder, which is loaded first if necessary.

        Returns
        -------
        TextEncoder, ImageEncoder or SavedModelEncoder
            The loaded encoder.
        """
        return self._ready()[0]

    def _ready(self) -> tuple["Encoder", str]:
        """The encoder, and a hash of all that its features depend on."""
        given = self.encoder
        options = (self.revision, self.pool, self.normalize)
        if isinstance(given, str | Path):
            with _ALONE:
                shared = _loaded(str(given), *options, _stamp(Path(given)))
                return shared.encoder, shared.identity
        if not hasattr(type(given), "fingerprint"):
            raise ValueError(f"encoder is a handle or what tlbook.load gives, not {given!r:.50}")
        if options != (None, None, None):
            raise ValueError(
                "revision, pool and normalize are for a handle, and this encoder is loaded"
            )
        return given, _identity(given)

    @property
    def _n_features_out(self) -> int:
        return self.encoder_.dimension

    def _inputs(self, encoder: "Encoder", X: Sequence) -> list[str] | np.ndarray:
        """The inputs as ``features`` takes them; they and the batch size are checked."""
        if self.batch_size is not None:
            checks.integer("batch_size", self.batch_size, least=1)
        reads_text = getattr(encoder, "modality", None) == "text" or hasattr(encoder, "tokenizer")
        if reads_text != _is_column(X):
            kind = "texts" if reads_text else "images, a uint8 array (n, height, width, 3)"
            raise ValueError(f"{encoder.handle!r} reads {kind}, not {_what(X)}")
        return _texts(X) if reads_text else _images(X)

    def _compute(self, encoder: "Encoder", inputs: list[str] | np.ndarray) -> np.ndarray:
        from tlbook.learning import features

        return features.features(
            encoder, inputs, batch_size=self.batch_size, cache=False, progress=self.progress
        )

    def _cached(
        self, encoder: "Encoder", inputs: list[str] | np.ndarray, identity: str
    ) -> np.ndarray:
        from tlbook.learning import features

        units = inputs
        if hasattr(encoder, "tokenizer"):  # texts that differ in what is cut off count as equal
            units = [np.array(ids) for ids in features.token_ids(encoder, inputs)]
        keys = [disk.digest(features.VERSION, identity, unit) for unit in units]
        found = _fetch(keys, 4 * encoder.dimension)
        missing = {key: row for row, key in enumerate(keys) if key not in found}
        if missing:
            rows = list(missing.values())
            new = inputs[rows] if isinstance(inputs, np.ndarray) else [inputs[i] for i in rows]
            with warnings.catch_warnings():  # said above, of all texts
                warnings.filterwarnings("ignore", message=".*only their beginning counts")
                vectors = self._compute(encoder, new)
            found |= dict(zip(missing, vectors, strict=True))
            _keep(dict(zip(missing, vectors, strict=True)))
        return np.stack([found[key] for key in keys])

    # scikit-learn's protocols

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags

    def __sklearn_clone__(self) -> "FrozenFeatures":
        # A loaded encoder is shared, since nothing here changes it: the copies of a grid would
        # each take as much memory as the model
        hollow = object.__new__(type(self))
        vars(hollow).update(vars(self), encoder=None)
        clone = BaseEstimator.__sklearn_clone__(hollow)
        clone.encoder = self.encoder
        return clone

    def __getstate__(self) -> dict:
        state = dict(super().__getstate__())
        encoder = self.encoder
        if not isinstance(encoder, str | Path) and hasattr(type(encoder), "fingerprint"):
            rebuilt = {
                "encoder": encoder.handle,
                "pool": getattr(encoder, "pool", None),
                "normalize": getattr(encoder, "normalize", None),
            }
            if FrozenFeatures(**rebuilt)._ready()[1] != _identity(encoder):
                raise ValueError(
                    f"a pickle holds no weights, and the handle {encoder.handle!r} has others than "
                    "this encoder: save the model to a folder and give that as the encoder"
                )
            state |= rebuilt
        return state


# Encoders


class _Shared:
    """An encoder that was loaded from a handle, for all who ask for it."""

    def __init__(self, encoder: "Encoder"):
        self.encoder = encoder
        self._seen, self._identity = None, ""

    @property
    def identity(self) -> str:
        # Hashing the weights takes a tenth of a second, and a grid asks a hundred times. So they
        # are hashed again only if torch has counted a change in place, or a tensor was replaced.
        tensors = getattr(self.encoder.model, "state_dict", dict)()  # none in a SavedModel
        settings = {**vars(self.encoder), "model": None, "tokenizer": None}
        seen = settings, {n: (t.data_ptr(), t._version) for n, t in tensors.items()}
        if seen != self._seen:
            self._seen, self._identity = seen, _identity(self.encoder)
            self._tensors = tensors  # holds their memory, so that no other can have their address
        return self._identity


@lru_cache(maxsize=KEPT)
def _loaded(
    handle: str, revision: str | None, pool: str | None, normalize: bool | None, stamp: tuple
) -> _Shared:
    from tlbook.sources.pretrained import load

    return _Shared(load(handle, revision=revision, pool=pool, normalize=normalize))


def _stamp(folder: Path) -> tuple:
    """What tells a folder from the same folder after someone saved another model there."""
    if not folder.is_dir():
        return ()
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return tuple((str(file), (at := file.stat()).st_mtime_ns, at.st_size) for file in files)


def _identity(encoder: "Encoder") -> str:
    """The fingerprint, and where texts are cut, which it leaves out."""
    return disk.digest(encoder.fingerprint, str(getattr(encoder, "max_length", "")))


# Inputs


def _is_column(X: Sequence) -> bool:
    return not (isinstance(X, np.ndarray) and X.ndim > 2)


def _what(X: Sequence) -> str:
    return f"an array {X.shape}" if isinstance(X, np.ndarray) else "texts"


def _texts(X: Sequence) -> list[str]:
    """The texts of a list, a Series, or the single column of a table or an array."""
    if isinstance(X, str):
        return checks.texts("X", X)  # which refuses it
    if not (hasattr(X, "__len__") or hasattr(X, "shape")) or not hasattr(X, "__getitem__"):
        raise ValueError(f"X: texts are a list, an array or a column, not {type(X).__name__}")
    shape = getattr(X, "shape", (len(X),) if hasattr(X, "__len__") else ())
    if len(shape) == 2:
        if shape[1] != 1:
            raise ValueError(
                f"X has {shape[1]} columns, and texts are one: choose it, for example by "
                "ColumnTransformer([('text', FrozenFeatures(), 'name of the column')])"
            )
        X = X[next(iter(X.columns))] if hasattr(X, "columns") else X[:, 0]
    if isinstance(X, np.ndarray):
        X = X.tolist()  # Python's own strings
    texts = checks.texts("X", X)
    if not texts:
        raise ValueError("X: there are no texts")
    return texts


def _images(X: np.ndarray) -> np.ndarray:
    if X.ndim != 4 or X.shape[3] != 3 or X.dtype != np.uint8 or not X.size:
        raise ValueError(
            f"X: images are a uint8 array (n, height, width, 3), not {X.dtype} {X.shape}"
        )
    return X


# Vectors on disk


def _file() -> Path:
    return disk.folder() / "frozen.sqlite"


def _fetch(keys: list[str], size: int) -> dict[str, np.ndarray]:
    """The vectors of ``size`` bytes that are there, by key."""
    found = {}
    # What cannot be read is computed again
    if _file().exists():
        with suppress(sqlite3.Error), closing(sqlite3.connect(_file(), timeout=60)) as store:
            for start in range(0, len(keys), 500):  # SQLite allows some hundred parameters
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                found.update(
                    store.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", part)
                )
    return {
        key: np.frombuffer(vector, "<f4") for key, vector in found.items() if len(vector) == size
    }


def _keep(vectors: dict[str, np.ndarray]) -> None:
    """Add vectors to the file, all or none; several processes may do so at once."""
    rows = [(key, vector.astype("<f4").tobytes()) for key, vector in vectors.items()]
    try:
        _file().parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(_file(), timeout=60)) as store, store:
            store.execute(
                "CREATE TABLE IF NOT EXISTS vectors (key TEXT PRIMARY KEY, vector BLOB NOT NULL)"
            )
            store.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)
    except (sqlite3.Error, OSError) as error:
        warnings.warn(
            f"Computed, but not kept for next time: cannot write {_file()} ({error}). Delete that "
            "file if it is damaged, or set TLBOOK_CACHE to a folder that you can write to.",
            stacklevel=4,
        )
