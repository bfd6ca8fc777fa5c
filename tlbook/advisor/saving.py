"""Save a recommended linear strategy without pickle, load it, and label new files with it.

A folder holds ``model.json`` (what it is, with the hashes of the other files), the vocabulary as
JSON, the weights as safetensors and a card. Nothing in it is executed.
"""

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors import SafetensorError
from safetensors.numpy import load as load_weights
from safetensors.numpy import save as dump_weights
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

from tlbook import checks
from tlbook.learning.features import features
from tlbook.sources.cache import whole

FORMAT = "tlbook advice 1"
#: What a vectorizer of counts is made by.
COUNTING = ("analyzer", "ngram_range", "token_pattern", "sublinear_tf")
#: Rows that are read, labeled and written at a time.
CHUNK = 2000


@dataclass(frozen=True, eq=False)
class Saved:
    """Hold a saved strategy.

    Attributes
    ----------
    about : dict
        The contents of ``model.json``.
    weights : dict of str to numpy.ndarray
        ``"coef"`` and ``"intercept"``, and ``"idf"`` of counts.
    reader : TfidfVectorizer, TextEncoder or SavedModelEncoder
        What turns texts into vectors.
    """

    about: dict
    weights: dict[str, np.ndarray]
    reader: object

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Label texts.

        Parameters
        ----------
        texts : (n,) sequence of str
            New texts.

        Returns
        -------
        (n,) numpy.ndarray of str
            Names of classes.
        """
        texts = checks.texts("texts", texts)
        if not texts:
            return np.array([], dtype=object)
        if self.about["encoder"] is None:
            x = self.reader.transform(texts)
        else:
            x = normalize(features(self.reader, texts, cache=False, progress=False))
        decision = x @ self.weights["coef"].T + self.weights["intercept"]
        best = decision.argmax(1) if decision.shape[1] > 1 else (decision[:, 0] > 0).astype(int)
        return np.array(self.about["classes"], dtype=object)[best]


def save(folder: Path | str, pipeline, classes: Sequence[str], card: str, **about) -> Path:
    """Write a fitted pipeline of counts or of frozen features, and its card.

    Parameters
    ----------
    folder : Path or str
        A new folder.
    pipeline : sklearn.pipeline.Pipeline
        The fitted pipeline of a linear strategy.
    classes : sequence of str
        Names of the classes; the pipeline predicts positions in it.
    card : str
        What ``README.md`` says.
    **about
        What else ``model.json`` holds: ``encoder``, its handle or None, its ``fingerprint``, the
        ``strategy`` and the ``column`` of the texts.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    FileExistsError
        If there is such a folder.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists; save into a new folder")
    first, head = pipeline[0], pipeline[-1]
    weights = {"coef": head.coef_, "intercept": head.intercept_}
    files = {}
    if isinstance(first, TfidfVectorizer):
        weights["idf"] = first.idf_
        files["vocabulary.json"] = json.dumps(first.get_feature_names_out().tolist()).encode()
        about["counting"] = {key: first.get_params()[key] for key in COUNTING}
    arrays = {key: np.ascontiguousarray(value) for key, value in weights.items()}
    files["weights.safetensors"] = dump_weights(arrays)
    about |= {
        "format": FORMAT,
        "classes": [classes[label] for label in head.classes_],
        "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
    }
    with whole(folder) as part:
        part.mkdir(exist_ok=True)
        for name, content in files.items():
            (part / name).write_bytes(content)
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        (part / "model.json").write_text(text, encoding="utf-8")
        (part / "README.md").write_text(card, encoding="utf-8")
    return folder


def load_saved(folder: Path | str) -> Saved:
    """Load what :func:`save` wrote.

    Parameters
    ----------
    folder : Path or str
        The folder.

    Returns
    -------
    Saved
        The strategy.

    Raises
    ------
    ValueError
        If the folder was not written by :func:`save`, or was changed since.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise KeyError("format")
        counts = about["encoder"] is None
        names = {"weights.safetensors"} | ({"vocabulary.json"} if counts else set())
        files = {name: (folder / name).read_bytes() for name in names}
        hashes = {name: about["files"][name] for name in names}
        classes = about["classes"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(
            f"{folder} holds no strategy of the advisor: save one with advise --save FOLDER"
        ) from None
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != hashes[name]:
            raise ValueError(f"{folder}: {name} was changed since it was saved: save it anew")
    try:
        weights = load_weights(files["weights.safetensors"])
        if counts:
            terms, how = json.loads(files["vocabulary.json"]), about["counting"]
            how = {key: how[key] for key in COUNTING} | {"ngram_range": tuple(how["ngram_range"])}
            reader = TfidfVectorizer(vocabulary=terms, **how)
            reader.idf_ = weights["idf"]
        rows = 1 if len(classes) == 2 else len(classes)
        fits = weights["coef"].shape[0] == rows == len(weights["intercept"])
    except (SafetensorError, ValueError, KeyError, TypeError):
        fits = False
    if not fits:
        raise ValueError(f"{folder}: model.json does not fit its weights: save it anew")
    if not counts:
        from tlbook.sources.pretrained import load

        reader = load(about["encoder"])
        if reader.fingerprint != about["fingerprint"]:
            raise ValueError(
                f"{folder}: the encoder {about['encoder']} is not the one that it was saved with: "
                "advise again"
            )
    return Saved(about, weights, reader)


def predict_file(
    folder: Path | str, source: Path, out: Path, *, column: str | None = None, chunk: int = CHUNK
) -> int:
    """Label the texts of a file piece by piece; what was interrupted goes on where it stopped.

    Parameters
    ----------
    folder : Path or str
        A saved strategy.
    source : Path
        A CSV or TSV table with a header, or JSON lines.
    out : Path
        The CSV file to write: a row number, from 1, and a label. A text that is empty has none.
        While it is not complete, a file beside it, ``.progress``, says how far it is.
    column : str, optional
        Column of the texts. By default the one of the table that was learned from.
    chunk : int, default 2000
        Rows at a time.

    Returns
    -------
    int
        Number of rows in ``out``.

    Raises
    ------
    ValueError
        If the file cannot be read, or ``out`` is of something else.
    """
    source, out, model = Path(source), Path(out), load_saved(folder)
    column = column or model.about["column"]
    if not source.is_file():
        raise ValueError(f"there is no file {source}: check the path")
    state = source.stat()
    same = {
        "source": [str(source.resolve()), state.st_size, state.st_mtime_ns, column],
        "model": model.about["files"],
    }
    progress = out.with_name(out.name + ".progress")
    done, length = _so_far(out, progress, same)
    if not done:
        progress.write_text(json.dumps({"rows": 0, "bytes": 0}), encoding="utf-8")
    with out.open("r+b" if done else "wb") as file:
        file.truncate(length)  # what was written after the last note of progress comes again
        file.seek(length)
        if not done:
            file.write(b"row,label\r\n")
        position = 0
        for texts in _chunks(source, column, chunk):
            start, position = position, position + len(texts)
            if position <= done:
                continue
            texts = texts[max(0, done - start) :]
            filled = np.array([bool(text.strip()) for text in texts])
            labels = np.full(len(texts), "", dtype=object)
            labels[filled] = model.predict([t for t in texts if t.strip()])
            file.write(_lines(position - len(texts), labels))
            file.flush()
            note = {"rows": position, "bytes": file.tell(), **same}
            part = progress.with_name(progress.name + ".part")
            part.write_text(json.dumps(note), encoding="utf-8")
            part.replace(progress)
    progress.unlink(missing_ok=True)
    return position


def _so_far(out: Path, progress: Path, same: dict) -> tuple[int, int]:
    """Rows that are written, and their bytes."""
    if not out.exists():
        return 0, 0
    try:
        note = json.loads(progress.read_text(encoding="utf-8"))
        if note["rows"] == 0:
            return 0, 0
        if {key: note[key] for key in same} == same and note["bytes"] <= out.stat().st_size:
            return note["rows"], note["bytes"]
    except (OSError, ValueError, KeyError):
        pass
    raise ValueError(f"{out} exists and is no part of this work: remove it, or name another file")


def _lines(start: int, labels: np.ndarray) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows((start + i, label) for i, label in enumerate(labels, 1))
    return text.getvalue().encode("utf-8")


def _chunks(source: Path, column: str, size: int) -> Iterator[list[str]]:
    """The texts of a file, some rows at a time."""
    kind = source.suffix.lower()
    try:
        if kind in (".jsonl", ".ndjson", ".json"):
            tables = pd.read_json(source, lines=True, dtype=False, chunksize=size)
        elif kind in (".csv", ".tsv", ".txt"):
            with source.open(encoding="utf-8-sig") as file:
                separator = max(",;\t", key=file.readline().count)
            options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
            tables = pd.read_csv(source, sep=separator, chunksize=size, **options)
        else:
            raise ValueError("it is not CSV, TSV or JSON lines")
        for table in tables:
            if column not in table:
                found = ", ".join(map(repr, table.columns))
                raise ValueError(f"it has no column {column!r}: choose one of {found} by --text")
            texts = table[column]
            yield texts.astype(object).where(texts.notna(), "").astype(str).to_list()
    except ValueError as error:  # pandas' own errors and UnicodeDecodeError are such too
        reason = " ".join(str(error).split())
        raise ValueError(f"{source.name} cannot be labeled: {reason:.300}") from None
