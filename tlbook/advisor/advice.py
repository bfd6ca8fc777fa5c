"""Advise on a reader's own data: read it, look at it, try strategies, answer.

``tlbook.advise("my.csv")`` and ``python -m tlbook advise my.csv`` do the same.
"""

import importlib.util
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tlbook import checks
from tlbook.advisor.answer import Answer, answer
from tlbook.advisor.audit import Audit, audit, read_by
from tlbook.advisor.curve import Curve, Gain, measure, worth
from tlbook.advisor.labeling import margins, next_to_label
from tlbook.advisor.reading import Reading, read
from tlbook.advisor.search import LEAST_RUNS, Results, search
from tlbook.advisor.strategies import CONTROL, Encoded, Strategy, strategies, timed
from tlbook.advisor.transferability import logme, nearest_neighbor, probe
from tlbook.data import Dataset
from tlbook.evidence.wording import amount, capitalized
from tlbook.sources import hubs
from tlbook.sources.catalog import packaged

#: The encoder of each kind of data, and the one for texts in languages that it does not know.
ENCODER = {"text": "minilm-l6", "image": "efficientnet-lite0"}
MULTILINGUAL = "use-multilingual"
#: Share of the minutes that may go into frozen features, and the share kept for the answer.
ON_FEATURES, ON_ANSWER = 0.35, 0.06
#: A likely group is kept whole if a split that tears it apart pretends more than this.
LEAK = 0.02
#: Examples that encoders are ranked by.
RANKED = 600
#: How many examples to label next, and among how many at most they are looked for.
NEXT, LOOKED_THROUGH = 20, 2000


@dataclass(frozen=True)
class Advice:
    """Hold the answer with all that it rests on; it shows itself in Jupyter.

    Attributes
    ----------
    answer : Answer
        What is recommended, and why.
    reading : Reading
        The data as it was understood.
    audit : Audit
        What was noticed on looking at it.
    encoders : pandas.DataFrame
        One row per encoder: measures that need no training.
    results : Results
        All runs.
    data : Dataset
        The examples that were used, with the groups that were kept whole.
    seconds : float
        How long it took.
    notes : tuple of str
        What to know about the data.
    remarks : tuple of str
        What to know about the search, such as what there was no time for.
    to_label : pandas.DataFrame
        One row per example to label next, if some have no label: those that the best linear
        strategy is unsure of, and that differ from each other.
    more : Gain, optional
        What more labels are worth, where that was measured.
    curves : tuple of Curve
        Learning curves of the recommended strategy and of the control, where they were measured.
    strategy : Strategy, optional
        The recommended strategy, to be saved.
    """

    answer: Answer
    reading: Reading
    audit: Audit
    encoders: pd.DataFrame
    results: Results
    data: Dataset
    seconds: float
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    to_label: pd.DataFrame
    more: Gain | None = None
    curves: tuple[Curve, ...] = ()
    strategy: Strategy | None = None

    def __str__(self) -> str:
        table = self.answer.table.to_string(
            index=False, float_format=lambda v: f"{v:.3f}", na_rep=""
        )
        lines = [*self.answer.sentences, "", table]
        lines += ["", *(f"- {note}" for note in (*self.notes, *self.remarks))]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from tlbook.advisor import report

        return report.body(self)

    def to_dict(self) -> dict:
        """Return what was found as numbers, strings, lists and dictionaries, to save as JSON.

        Returns
        -------
        dict
            The answer, its effects as shares of one, the table and the notes.
        """

        from tlbook.advisor.report import shown

        def effect(found) -> dict:
            return {"value": found.value, **found.limits, "reason": found.unreliable}

        return {
            "recommended": self.answer.recommended,
            "best": self.answer.best,
            "control": self.answer.control,
            "margin": self.answer.margin,
            "expected": effect(self.answer.expected),
            "gain": effect(self.answer.gain),
            "to best": effect(self.answer.to_best),
            "more labels": None if self.more is None else asdict(self.more),
            "sentences": list(self.answer.sentences),
            "strategies": _records(self.answer.table),
            "left out": self.results.left_out,
            "notes": list(self.notes),
            "remarks": list(self.remarks),
            "suspects": _records(shown(self.audit.suspects)),
            "to label": _records(shown(self.to_label)),
            "encoders": _records(self.encoders),
            "classes": _records(self.audit.classes),
            "examples": len(self.data),
            "columns": self.reading.columns,
            "seconds": self.seconds,
            "interrupted": self.results.interrupted,
        }

    def save(self, folder: Path | str, *, seed: int = 0) -> Path:
        """Fit the recommended strategy to all examples and write it, without pickle.

        Parameters
        ----------
        folder : Path or str
            A new folder. :func:`tlbook.advisor.saving.load_saved` reads it.
        seed : int, default 0
            Seed of training, and of the parts that a penalty is chosen on.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        FileExistsError
            If there is such a folder.
        ValueError
            If what is recommended is to answer with the largest class: that is no model.
        """
        from tlbook.advisor import saving

        own = self.strategy
        if not own.kind:
            raise ValueError(
                f"{own.name} is no model to save: every answer is the largest class. Label more"
            )
        return saving.save(
            folder,
            own.kind,
            own.fit(np.arange(len(self.data)), seed, float("inf")),
            self.data.classes,
            self._card(),
            strategy=own.name,
            modality=self.reading.modality,
            column=self.reading.columns["input"],
            encoder=own.encoder,
        )

    def _card(self) -> str:
        """What a reader of the saved strategy has to know."""
        classes = ", ".join(self.data.classes)
        what = f"{len(self.data):,} {self.reading.modality}s of {len(self.data.classes)} classes"
        notes = "".join(f"- {note}\n" for note in self.notes)
        sentences = "\n\n".join(self.answer.sentences)
        return (
            f"# {self.answer.recommended} for {self.data.name}\n\n"
            f"Fitted to {what}: {classes}.\n\n"
            f"## Why this one\n\n{sentences}\n\n"
            "## What was not tested\n\n"
            "The score was measured on held-out rows of the same data. Inputs of another source, "
            "time or language may be labeled worse, and so may classes that are not among those "
            "above: each input gets one of them. Scores of single groups of people were not "
            f"compared.\n\n## What to know about the data\n\n{notes or 'Nothing was noticed.'}\n"
        )

    def report(self) -> str:
        """Return a page that needs no other file and no network.

        Returns
        -------
        str
            The page as HTML.
        """
        from tlbook.advisor import report

        return report.page(self)


def advise(
    source: Path | str | pd.DataFrame,
    *,
    text: str | None = None,
    image: str | None = None,
    label: str | None = None,
    group: str | None = None,
    minutes: float = 5.0,
    margin: float = 0.01,
    encoders: Sequence[str] | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> Advice:
    """Find out which strategy suits labeled texts or images, within some minutes.

    Parameters
    ----------
    source : Path, str or pandas.DataFrame
        A table (CSV, TSV, Parquet, JSON lines), or a folder with a folder of images per class.
    text, image, label : str, optional
        Names of columns. By default they are found.
    group : str, optional
        Column that says which rows belong together. By default a column is taken whose groups leak.
    minutes : float, default 5
        How long it may take.
    margin : float, default 0.01
        Differences in balanced accuracy up to this share of one do not matter.
    encoders : sequence of str, optional
        Handles of encoders. By default the book's own for the kind of data, and a multilingual one
        for texts in a language that it does not know, if it is in the cache.
    seed : int, default 0
        Seed of the splits and of training.
    say : callable, optional
        Gets a line on each step.

    Returns
    -------
    Advice
        The answer with all that it rests on.

    Raises
    ------
    ValueError
        If the data cannot be used, or there is no time for a single run.
    """
    began = time.monotonic()
    checks.number("minutes", minutes, above=0)
    checks.number("margin", margin, least=0, below=1)
    checks.integer("seed", seed)
    reading = read(source, text=text, image=image, label=label, group=group)
    notes: list[str] = []
    loaded, reading = _encoders(reading, encoders, began, 60 * minutes, seed, notes, say)
    tokenizer = getattr(loaded[0].encoder, "tokenizer", None) if loaded else None
    limit = getattr(loaded[0].encoder, "max_length", 256) if loaded else 256
    vectors = loaded[0].vectors if loaded else None
    seen = audit(reading, tokenizer, limit=limit, vectors=vectors, seed=seed)
    for note in seen.notes:
        say(note)
    data = replace(reading.data, groups=_kept_whole(reading, seen, group, notes))
    ranked = _ranked(loaded, data, seed)
    chosen = strategies(data, loaded)
    deadline = began + 60 * minutes * (1 - ON_ANSWER)
    results = search(chosen, data, deadline=deadline, seed=seed, say=say)
    found = answer(
        results,
        CONTROL[reading.modality],
        margin=margin,
        sizes={strategy.name: strategy.megabytes for strategy in chosen},
    )
    more, curves = None, ()
    if not results.interrupted:
        ends = began + 60 * minutes * (1 - ON_ANSWER / 3)
        more, text, curves = _more_labels(found, chosen, data, ends, seed, say)
        found = replace(found, sentences=(*found.sentences, text))
    to_label = pd.DataFrame()
    by_name = {strategy.name: strategy for strategy in chosen}
    linear = [name for name in results.tried() if by_name[name].is_linear]
    if len(reading.unlabeled) and linear:
        own = found.recommended if found.recommended in linear else max(linear, key=results.mean)
        wall = max([one.wall for one in loaded if one.encoder is by_name[own].encoder], default=0)
        left = began + 60 * minutes - time.monotonic()
        most = LOOKED_THROUGH if not wall else max(10 * NEXT, min(LOOKED_THROUGH, int(left / wall)))
        to_label = _to_label(by_name[own], reading, data, most, seed)
        rows = ", ".join(str(row + 1) for row in to_label["row"][:5])
        notes.append(
            f"Of the rows without a label, label these first: {rows}. {capitalized(own)} is unsure "
            "of them, and they differ from each other. They are harder than most: keep a random "
            "sample to test on."
        )
    remarks = _remarks(results, found)
    return Advice(
        found,
        reading,
        seen,
        ranked,
        results,
        data,
        time.monotonic() - began,
        (*seen.notes, *notes),
        tuple(remarks),
        to_label,
        more,
        curves,
        next(strategy for strategy in chosen if strategy.name == found.recommended),
    )


def _remarks(results: Results, found: Answer) -> list[str]:
    """What there was no time for, and what looked good on too few splits to be recommended."""
    remarks = ["Interrupted: this is the best answer so far."] if results.interrupted else []
    for name, why in results.left_out.items():
        runs, text = len(results.runs.get(name, [])), f"{name}: {why}."
        if runs >= LEAST_RUNS:
            continue
        ahead = results.mean(name) - results.mean(found.recommended) if runs else 0
        if ahead > found.margin:
            text += (
                f" On {runs} split{'s' * (runs > 1)} it was {amount(ahead)} better than "
                f"{found.recommended}, which may be luck: more minutes will tell."
            )
        remarks.append(text)
    return remarks


def _to_label(
    strategy: Strategy, reading: Reading, data: Dataset, most: int, seed: int
) -> pd.DataFrame:
    """The examples to label next, by a linear strategy that is fitted to all labels."""
    from tlbook.advisor.audit import thumbnails
    from tlbook.learning.features import features

    some = np.random.default_rng(seed).permutation(len(reading.unlabeled))[:most]
    x = reading.unlabeled_x[some]
    if strategy.kind == "features":
        raw = features(strategy.encoder, x, cache=False, progress=False)
    else:
        raw = thumbnails(x).reshape(len(x), -1) if strategy.kind == "pixels" else x
    fitted = strategy.fit(np.arange(len(data)), seed, float("inf"))
    vectors = fitted[:-1].transform(raw)
    probabilities = fitted[-1].predict_proba(vectors)
    chosen = next_to_label(probabilities, vectors, NEXT, seed=seed)
    found = {
        "row": reading.unlabeled[some[chosen]],
        "likely": np.array(data.classes)[fitted[-1].classes_[probabilities[chosen].argmax(1)]],
        "margin": margins(probabilities[chosen]),
    }
    column = reading.table[reading.columns["input"]]
    return pd.DataFrame(found | {"input": column.to_numpy(object)[found["row"]].astype(str)})


def _more_labels(
    found: Answer,
    chosen: list[Strategy],
    data: Dataset,
    deadline: float,
    seed: int,
    say: Callable[[str], None],
) -> tuple[Gain | None, str, tuple[Curve, ...]]:
    """What more labels are worth to the recommended strategy, if the minutes left suffice."""
    unknown = "How many more labels are worth it was not measured"
    by_name = {strategy.name: strategy for strategy in chosen}
    own = by_name[found.recommended]
    if not own.is_linear:
        why = f"{own.name} trains a network, which takes too long for a curve"
        return None, f"{unknown}: {why}.", ()
    try:
        curve = measure(own, data, deadline=deadline, seed=seed, say=say)
    except KeyboardInterrupt:
        return None, f"{unknown}: it was interrupted.", ()
    except ValueError as error:
        return None, f"{unknown}: {error}.", ()
    control = None
    if found.control not in (own.name, "majority"):
        with suppress(ValueError, KeyboardInterrupt):
            control = measure(by_name[found.control], data, deadline=deadline, seed=seed, say=say)
    labels = len(data) / len(data.classes)
    gained, text = worth(curve, control, labels=labels, margin=found.margin)
    return gained, text, (curve,) if control is None else (curve, control)


def _encoders(
    reading: Reading,
    handles: Sequence[str] | None,
    began: float,
    seconds: float,
    seed: int,
    notes: list[str],
    say: Callable[[str], None],
) -> tuple[list[Encoded], Reading]:
    """Encoders with the features of as many examples as there is time for."""
    from tlbook.learning.features import features
    from tlbook.sources.pretrained import load

    own = [ENCODER[reading.modality]] if handles is None else list(handles)
    opened = {handle: load(handle) for handle in own}
    if handles is None and reading.modality == "text" and _has_tensorflow():
        first = opened[own[0]]
        some = reading.data.x[np.random.default_rng(seed).permutation(len(reading.data))[:300]]
        if read_by(first.tokenizer, some, first.max_length).is_foreign and hubs.present(
            packaged()[MULTILINGUAL]
        ):
            say(f"The language is foreign to {own[0]}: {MULTILINGUAL} is tried too.")
            opened[MULTILINGUAL] = load(MULTILINGUAL)
    if reading.modality == "image":
        side = reading.data.x.shape[1]
        opened = {
            handle: replace(one, size=min(one.size, side)) if hasattr(one, "mean") else one
            for handle, one in opened.items()
        }
    costs = {handle: timed(one, reading.data.x, seed=seed) for handle, one in opened.items()}
    left = ON_FEATURES * max(0.0, seconds - (time.monotonic() - began))
    most = max(100, int(left / sum(wall for _, wall in costs.values())))
    if most < len(reading.data):
        notes.append(f"Time allowed to use {most:,} of {len(reading.data):,} examples, at random.")
        say(notes[-1])
        reading = replace(reading, data=_some(reading.data, most, seed))
    found = []
    for handle, one in opened.items():
        say(f"Features of {len(reading.data):,} examples by {handle}")
        vectors = features(one, reading.data.x, progress=False)
        size = hubs.bytes_in(hubs.folder(handle)) / 1e6
        found.append(Encoded(handle, one, vectors, *costs[handle], size))
    return found, reading


def _has_tensorflow() -> bool:
    return all(importlib.util.find_spec(name) for name in ("tensorflow_hub", "tensorflow_text"))


def _some(data: Dataset, most: int, seed: int) -> Dataset:
    """Part of the examples, with each class's share and at least two of each."""
    rng, share = np.random.default_rng(seed), most / len(data)
    rows = [rng.permutation(np.flatnonzero(data.y == label)) for label in range(len(data.classes))]
    return data.take(np.sort(np.concatenate([r[: max(2, round(share * len(r)))] for r in rows])))


def _kept_whole(reading: Reading, seen: Audit, group: str | None, notes: list[str]) -> np.ndarray:
    """Groups of what must not stand on both sides: near copies, and given or leaking groups."""
    columns = [seen.near, reading.data.groups]
    leaking = [] if group else [found for found in seen.groupings if found.pretended > LEAK]
    for found in leaking[:1]:
        notes.append(f"Rows with the same {found.column} are kept on one side of each split.")
        columns.append(found.groups)
    numbers = [np.unique(column, return_inverse=True)[1] for column in columns]
    n, offset, links = len(seen.near), len(seen.near), []
    for number in numbers:  # each example is linked with its value in each column
        links.append(np.stack([np.arange(n), offset + number]))
        offset += number.max() + 1
    ends = np.concatenate(links, axis=1)
    graph = coo_array((np.ones(ends.shape[1]), (ends[0], ends[1])), shape=(offset, offset))
    joined = connected_components(graph, directed=False)[1][:n]
    if len(np.unique(joined)) < 10 and group is None:
        return seen.near  # chains of links left too little to split
    return joined


def _ranked(loaded: list[Encoded], data: Dataset, seed: int) -> pd.DataFrame:
    rows = np.random.default_rng(seed).permutation(len(data))[:RANKED]
    rows = rows[np.bincount(data.y[rows], minlength=len(data.classes))[data.y[rows]] > 1]
    return pd.DataFrame(
        [
            {
                "encoder": one.handle,
                "LogME": logme(one.vectors[rows], data.y[rows]),
                "nearest neighbor": nearest_neighbor(one.vectors[rows], data.y[rows]),
                "probe": probe(one.vectors[rows], data.y[rows], seed=seed),
                "MB": one.megabytes,
                "CPU s per 1,000": 1000 * one.cpu,
            }
            for one in loaded
        ]
    )


def _records(table: pd.DataFrame) -> list[dict]:
    """Rows as dictionaries of plain values; None for what is missing."""
    plain = table.astype(object).where(table.notna(), None)
    return [
        {key: value.item() if hasattr(value, "item") else value for key, value in row.items()}
        for row in plain.to_dict("records")
    ]
