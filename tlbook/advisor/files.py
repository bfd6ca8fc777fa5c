"""Label or encode files of any size, piece by piece, in one process or several.

What was interrupted goes on where it stopped. A process needs memory for a piece and the model.
Files are shared out among the processes that ``torchrun`` or ``accelerate launch`` starts, on one
machine or several; each file is the work of one process, and none waits for another.
"""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from accelerate import PartialState
from tqdm.auto import tqdm

from tlbook import checks
from tlbook.advisor.reading import IMAGES, SIZE, pictures
from tlbook.advisor.saving import Saved, load_saved
from tlbook.learning.features import features
from tlbook.sources.cache import whole
from tlbook.sources.encoders import TextEncoder
from tlbook.sources.pretrained import load

#: Rows that are read and labeled at a time.
CHUNK = {"text": 2000, "image": 200}
BAR = {"unit": "row", "unit_scale": True, "delay": 5, "leave": False}


def share(sources: Sequence[Path]) -> list[Path]:
    """Choose the files of this process: about an equal part of the bytes.

    Parameters
    ----------
    sources : sequence of Path
        All files, in the same order in each process.

    Returns
    -------
    list of Path
        Those of this process; all of them if it is alone.
    """
    state = _processes()
    loads, own = [0] * state.num_processes, []
    for source in sorted(sources, key=lambda source: (-source.stat().st_size, str(source))):
        least = loads.index(min(loads))
        loads[least] += source.stat().st_size
        own += [source] * (least == state.process_index)
    return own


def predict_files(
    folder: Path | str, sources: Sequence[Path], out: Path, *, column: str | None = None
) -> int:
    """Label several files, one output for each, shared out among processes.

    Parameters
    ----------
    folder : Path or str
        A saved strategy.
    sources : sequence of Path
        Files, as for :func:`predict_file`, of different names.
    out : Path
        A folder. ``reviews-7.csv`` becomes ``reviews-7.csv`` in it, ``reviews-8.jsonl``
        ``reviews-8.csv``. What is complete there is left as it is.
    column : str, optional
        Column of the inputs.

    Returns
    -------
    int
        Number of rows that this process wrote.

    Raises
    ------
    ValueError
        If two files would have the same output, or one cannot be read.
    """
    places, model = _places(sources, Path(out), ".csv"), load_saved(folder, _device())
    return sum(
        predict_file(model, source, places[source], column=column, keep_note=True)
        for source in share(list(places))
    )


def predict_file(
    saved: Saved | Path | str,
    source: Path,
    out: Path,
    *,
    column: str | None = None,
    chunk: int | None = None,
    keep_note: bool = False,
) -> int:
    """Label the inputs of a file piece by piece; what was interrupted goes on where it stopped.

    Parameters
    ----------
    saved : Saved, Path or str
        A saved strategy, or its folder.
    source : Path
        CSV, TSV, Parquet or JSON lines with texts or paths of images, or a folder of images.
    out : Path
        CSV to write: the number of each row, counted from 1, and a label. For a folder of images,
        their paths in place of numbers. What is empty or cannot be opened has no label. A file
        beside it, ``.progress``, says how far it is.
    column : str, optional
        Column of the inputs. By default the one of the table that was learned from.
    chunk : int, optional
        Rows at a time. By default 2,000 texts or 200 images.
    keep_note : bool, default False
        Whether the note stays when all is done: then the same work, asked for again, is not done
        again.

    Returns
    -------
    int
        Number of rows in ``out``.

    Raises
    ------
    ValueError
        If the file cannot be read, or ``out`` is of something else.
    """
    source, out = Path(source), Path(out)
    model = saved if isinstance(saved, Saved) else load_saved(saved, _device())
    column, modality = column or model.about["column"], model.about["modality"]
    chunk = CHUNK[modality] if chunk is None else checks.integer("chunk", chunk, least=1)
    if not (source.is_file() or (source.is_dir() and modality == "image")):
        raise ValueError(f"there is no file {source}: check the path")
    same = {"source": _state(source, column), "model": model.about["files"]}
    progress = out.with_name(out.name + ".progress")
    note = _so_far(out, progress, same)
    if note.get("complete"):
        return note["rows"]
    done, length = note.get("rows", 0), note.get("bytes", 0)
    if not done:
        progress.write_text(json.dumps({"rows": 0, "bytes": 0}), encoding="utf-8")
    with out.open("r+b" if done else "wb") as file, tqdm(desc=source.name, **BAR) as bar:
        file.truncate(length)  # what was written after the last note of progress comes again
        file.seek(length)
        if not done:
            file.write(b"image,label\r\n" if source.is_dir() else b"row,label\r\n")
        position = 0
        for inputs in _chunks(source, column, chunk):
            start, position = position, position + len(inputs)
            bar.update(len(inputs))
            if position <= done:
                continue
            inputs = inputs[max(0, done - start) :]
            names = inputs if source.is_dir() else range(position - len(inputs) + 1, position + 1)
            base = source if source.is_dir() else source.parent
            file.write(_lines(names, _labels(model, inputs, base)))
            file.flush()
            _write(progress, {"rows": position, "bytes": file.tell(), **same})
    if keep_note:
        _write(progress, {"rows": position, "bytes": 0, "complete": True, **same})
    else:
        progress.unlink(missing_ok=True)
    return position


def encode_files(handle: str, sources: Sequence[Path], out: Path, *, column: str = "text") -> int:
    """Compute the features of texts in several files, shared out among processes.

    Parameters
    ----------
    handle : str
        The encoder, as for :func:`tlbook.sources.pretrained.load`.
    sources : sequence of Path
        CSV, TSV, Parquet or JSON lines, of different names.
    out : Path
        A folder. ``reviews-7.csv`` becomes ``reviews-7.npy`` in it, an array (rows, d) of float32
        that ``numpy.load(..., mmap_mode="r")`` reads without filling memory. Beside it,
        ``reviews-7.json`` says what it was computed from; what is complete is left as it is.
    column : str, default "text"
        Column of the texts. One that is empty has features of zero.

    Returns
    -------
    int
        Number of rows that this process has.

    Raises
    ------
    ValueError
        If two files would have the same output, one cannot be read, or an output is of something
        else.
    """
    encoder, places, rows = load(handle), _places(sources, Path(out), ".npy"), 0
    if isinstance(encoder, TextEncoder):
        encoder.model.to(_device())
    for source in share(list(places)):
        place, about = places[source], {"source": _state(source, column)}
        about |= {"encoder": handle, "fingerprint": encoder.fingerprint}
        note = place.with_suffix(".json")
        if place.exists():
            if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != about:
                raise ValueError(f"{place} is of something else: remove it, or name another folder")
            rows += len(np.load(place, mmap_mode="r"))
            continue
        count = sum(map(len, _chunks(source, column, CHUNK["text"])))
        with whole(place) as part, tqdm(desc=source.name, total=count, **BAR) as bar:
            shape, start = (count, encoder.dimension), 0
            array = np.lib.format.open_memmap(part, "w+", dtype=np.float32, shape=shape)
            for texts in _chunks(source, column, CHUNK["text"]):
                filled = [row for row, text in enumerate(texts) if text.strip()]
                if filled:
                    read = [texts[row] for row in filled]
                    found = features(encoder, read, cache=False, progress=False)
                    array[start + np.array(filled)] = found
                start += len(texts)
                bar.update(len(texts))
            array.flush()
            _write(note, about)
        rows += count
    return rows


def _places(sources: Sequence[Path], out: Path, ending: str) -> dict[Path, Path]:
    """The output of each file in a folder, which is made."""
    places = {Path(source): out / (Path(source).stem + ending) for source in sources}
    for source in places:
        if not source.exists():
            raise ValueError(f"there is no file {source}: check the path")
        if sum(place == places[source] for place in places.values()) > 1:
            raise ValueError(f"two files are called {source.stem}: rename one")
    out.mkdir(parents=True, exist_ok=True)
    return places


def _device() -> torch.device:
    """The processor, or the GPU of this process."""
    return _processes().device


def _processes() -> PartialState:
    # without a GPU, Accelerate looks for other processes only if it is told to use the processor
    return PartialState(cpu=not torch.cuda.is_available())


def _state(source: Path, column: str) -> list:
    """What tells whether a file is still the same."""
    found = source.stat()
    return [str(source.resolve()), found.st_size, found.st_mtime_ns, column]


def _write(file: Path, note: dict) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(json.dumps(note), encoding="utf-8")
    part.replace(file)


def _labels(model: Saved, inputs: list[str], base: Path) -> np.ndarray:
    """A label for each input, empty where there is nothing to read."""
    labels = np.full(len(inputs), "", dtype=object)
    if model.about["modality"] == "image":
        opened, _ = pictures(pd.Series(inputs), base, SIZE)
        rows, read = list(opened), list(opened.values())
    else:
        rows = [row for row, text in enumerate(inputs) if text.strip()]
        read = [inputs[row] for row in rows]
    if rows:
        labels[rows] = model.predict(np.stack(read) if isinstance(read[0], np.ndarray) else read)
    return labels


def _so_far(out: Path, progress: Path, same: dict) -> dict:
    """The note of progress of an output; empty where there is nothing."""
    if not out.exists():
        return {}
    try:
        note = json.loads(progress.read_text(encoding="utf-8"))
        if note["rows"] == 0 and not note.get("complete"):
            return {}
        if {key: note[key] for key in same} == same and note["bytes"] <= out.stat().st_size:
            return note
    except (OSError, ValueError, KeyError):
        pass
    raise ValueError(f"{out} exists and is no part of this work: remove it, or name another file")


def _lines(names: Sequence, labels: np.ndarray) -> bytes:
    text = io.StringIO()
    csv.writer(text).writerows(zip(names, labels, strict=True))
    return text.getvalue().encode("utf-8")


def _chunks(source: Path, column: str, size: int) -> Iterator[list[str]]:
    """The texts or paths of a file or folder, some rows at a time."""
    if source.is_dir():
        found = [f for f in sorted(source.rglob("*")) if f.suffix.lower() in IMAGES]
        for start in range(0, len(found), size):
            yield [str(f.relative_to(source)) for f in found[start : start + size]]
        return
    kind = source.suffix.lower()
    try:
        if kind in (".jsonl", ".ndjson", ".json"):
            tables = pd.read_json(source, lines=True, dtype=False, chunksize=size)
        elif kind in (".csv", ".tsv", ".txt"):
            with source.open(encoding="utf-8-sig") as file:
                separator = max(",;\t", key=file.readline().count)
            options = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig"}
            tables = pd.read_csv(source, sep=separator, chunksize=size, **options)
        elif kind == ".parquet":
            from pyarrow import parquet

            batches = parquet.ParquetFile(source).iter_batches(size)
            tables = (batch.to_pandas() for batch in batches)
        else:
            raise ValueError("it is not CSV, TSV, Parquet or JSON lines")
        for table in tables:
            if column not in table:
                found = ", ".join(map(repr, table.columns))
                raise ValueError(f"it has no column {column!r}: choose one of {found} by --text")
            texts = table[column]
            yield texts.astype(object).where(texts.notna(), "").astype(str).to_list()
    except ValueError as error:  # pandas' own errors and UnicodeDecodeError are such too
        reason = " ".join(str(error).split())
        raise ValueError(f"{source.name} cannot be read: {reason:.300}") from None
