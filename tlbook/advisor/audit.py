"""Look at a reader's data before anything is trained: what would spoil or flatter a result.

Nothing here loads a network: :func:`audit` takes the tokenizer of an encoder and its features if
the caller has them.
"""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, cross_val_predict
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from tlbook.advisor.reading import Reading
from tlbook.data import Dataset

#: As many examples at most are compared with each other, or tokenized, drawn at random.
COMPARED = 4000
#: Cosine of the five-letter pieces of two texts above which one is nearly a copy of the other.
NEAR = 0.9
#: Mean difference of two small gray images, from 0 to 255, below which they are nearly copies.
NEAR_IMAGES = 2.0
#: Pieces per word above which a tokenizer breaks up many words, as those of a foreign language.
#: That of BERT has 1.0 to 1.1 for five sources of English, 1.6 to 2.4 for eleven other languages.
BROKEN = 1.5
#: Share of unknown pieces, and of letters in one script, that counts.
UNKNOWN, SCRIPT = 0.02, 0.1
#: A tokenizer with fewer entries in a script was not made for it.
ENTRIES = 2000
#: Scripts that put no spaces between words.
UNSPACED = {"CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"}
#: Labels that look wrong are listed up to this number.
SUSPECTS = 20
#: The largest class has this many times the examples of the smallest where it is said.
UNEQUAL = 5


@dataclass(frozen=True)
class Grouping:
    """Describe a column whose equal values seem to belong together.

    Attributes
    ----------
    column : str
        Its name, or how its groups are read from it.
    groups : (n,) numpy.ndarray of str
        The group of each example of the data set.
    pretended : float
        By how much a split that tears groups apart scores better than one that keeps them whole,
        as a share of one.
    """

    column: str
    groups: np.ndarray
    pretended: float


@dataclass(frozen=True)
class Language:
    """Describe how a tokenizer reads texts.

    Attributes
    ----------
    pieces : float
        Pieces per word, in scripts that put spaces between words.
    unknown : float
        Share of pieces that the tokenizer does not know.
    scripts : dict of str to float
        Share of each script among the letters, the most frequent first.
    tokens : float
        Median length of a text, in pieces.
    cut : float
        Share of texts longer than what the encoder reads.
    unread : tuple of str
        Scripts of the texts that the tokenizer has few entries for.
    """

    pieces: float
    unknown: float
    scripts: dict[str, float]
    tokens: float
    cut: float
    unread: tuple[str, ...] = ()

    @property
    def is_foreign(self) -> bool:
        """Return whether the texts are likely in a language that the tokenizer was not made for."""
        return bool(self.unread) or self.pieces > BROKEN or self.unknown > UNKNOWN


@dataclass(frozen=True)
class Audit:
    """Hold what was found on looking at the data.

    Attributes
    ----------
    classes : pandas.DataFrame
        One row per class: ``class``, ``examples`` and their ``share``, the most frequent first.
    near : (n,) numpy.ndarray of int64
        The same number for examples that are nearly copies of each other.
    groupings : tuple of Grouping
        Columns that seem to say what belongs together, the most harmful first.
    language : Language or None
        How the encoder's tokenizer reads the texts; None for images.
    suspects : pandas.DataFrame
        Labels that look wrong, the worst first: ``row`` of the table, ``input``, ``label``,
        ``looks like``, and ``confidence`` in the latter.
    notes : tuple of str
        Sentences on what should be known before a result is read.
    """

    classes: pd.DataFrame
    near: np.ndarray
    groupings: tuple[Grouping, ...]
    language: Language | None
    suspects: pd.DataFrame
    notes: tuple[str, ...]


@threadpool_limits.wrap(limits=1, user_api="blas")
def audit(
    reading: Reading,
    tokenizer=None,
    *,
    limit: int = 256,
    vectors: np.ndarray | None = None,
    seed: int = 0,
) -> Audit:
    """Look at classes, copies, groups, lengths, language and labels.

    Parameters
    ----------
    reading : Reading
        The data.
    tokenizer : transformers.PreTrainedTokenizerBase, optional
        The tokenizer of the encoder that will read the texts.
    limit : int, default 256
        Pieces that the encoder reads of a text.
    vectors : (n, d) numpy.ndarray of float, optional
        Frozen features of the examples, to judge labels by. By default words or pixels do.
    seed : int, default 0
        Seed of what is drawn at random.

    Returns
    -------
    Audit
        What was found.
    """
    data, notes = reading.data, list(reading.notes)
    simple = simple_features(data)
    classes = class_table(data)
    most, least = classes.iloc[0], classes.iloc[-1]
    if most["examples"] >= UNEQUAL * least["examples"]:
        notes.append(
            f"Classes are unequal: {most['class']!r} has {most['examples']} examples, "
            f"{least['class']!r} {least['examples']}. Scores are balanced accuracy, where every "
            "class counts the same; by guessing it is "
            f"{100 / len(data.classes):.0f} percent."
        )
    if dropped := sum(
        len(rows) - 1 for rows in reading.copies if rows not in reading.contradictory
    ):
        notes.append(f"{dropped} {_copies(dropped)} left out, so that none is learned and tested.")
    if reading.contradictory:
        shown = " and ".join(f"{row + 1}" for row in reading.contradictory[0][:3])
        notes.append(
            f"{sum(map(len, reading.contradictory))} rows are left out because the same input has "
            f"different labels, such as rows {shown}."
        )
    near = near_duplicates(data, seed=seed)
    if pairs := len(near) - len(np.unique(near)):
        first = np.flatnonzero(near == np.flatnonzero(np.bincount(near) > 1)[0])[:2]
        shown = " and ".join(str(data.extra["row"][row] + 1) for row in first)
        notes.append(
            f"{pairs} examples are nearly copies of others, such as rows {shown}: they stay on one "
            "side of each split."
        )
    groupings = tuple(
        sorted(
            (
                Grouping(column, groups, pretended(simple, data.y, groups, seed=seed))
                for column, groups in likely_groups(reading)
            ),
            key=lambda found: -found.pretended,
        )
    )
    notes += [
        f"Rows with the same {found.column} ({len(np.unique(found.groups))} different) may belong "
        "together. A split that tears them apart would have pretended "
        f"{100 * found.pretended:+.1f} points of a linear model's score."
        for found in groupings
    ]
    language = None
    if tokenizer is not None and reading.modality == "text":
        language = read_by(tokenizer, _drawn(data.x, seed), limit)
        notes += _on_language(language, limit)
    suspects = suspicious_labels(data, simple if vectors is None else vectors, seed=seed)
    if len(suspects):
        worst = suspects.iloc[0]
        more = " or more" if len(suspects) == SUSPECTS else ""
        notes.append(
            f"Labels that look wrong to a linear model: {len(suspects)}{more}, most of all that of "
            f"row {worst['row'] + 1}, {worst['label']!r}, which looks like "
            f"{worst['looks like']!r}. Look at them."
        )
    if any(" row" in note for note in notes):
        notes.append("Rows are counted from 1, the header aside.")
    return Audit(classes, near, groupings, language, suspects, tuple(notes))


def class_table(data: Dataset) -> pd.DataFrame:
    """Count the examples of each class.

    Parameters
    ----------
    data : Dataset
        The examples.

    Returns
    -------
    pandas.DataFrame
        One row per class: ``class``, ``examples`` and their ``share``, the most frequent first.
    """
    counts = np.bincount(data.y, minlength=len(data.classes))
    table = pd.DataFrame({"class": data.classes, "examples": counts, "share": counts / len(data)})
    return table.sort_values("examples", ascending=False, ignore_index=True)


def simple_features(data: Dataset):
    """Compute features that no training and no encoder is needed for.

    Parameters
    ----------
    data : Dataset
        Texts or images.

    Returns
    -------
    (n, d) scipy.sparse matrix or numpy.ndarray of float
        TF-IDF of the words, or small pictures.
    """
    if data.x.ndim > 1:
        return thumbnails(data.x).reshape(len(data), -1) / 255
    try:
        return TfidfVectorizer(token_pattern=r"(?u)\b\w+\b", sublinear_tf=True).fit_transform(
            data.x
        )
    except ValueError:  # no words, as in texts of emoji alone
        return TfidfVectorizer(analyzer="char").fit_transform(data.x)


def thumbnails(images: np.ndarray, size: int = 16) -> np.ndarray:
    """Shrink images by taking means over blocks of pixels.

    Parameters
    ----------
    images : (n, height, width, 3) numpy.ndarray of uint8
        The images, at least ``size`` pixels high and wide.
    size : int, default 16
        Height and width of the result.

    Returns
    -------
    (n, size, size, 3) numpy.ndarray of float32
        Means from 0 to 255.
    """
    rows, columns = (
        np.linspace(0, side, size, endpoint=False).astype(int) for side in images.shape[1:3]
    )
    found = np.add.reduceat(images.astype(np.float32), rows, axis=1)
    found = np.add.reduceat(found, columns, axis=2)
    heights, widths = np.diff([*rows, images.shape[1]]), np.diff([*columns, images.shape[2]])
    return found / (heights[:, None, None] * widths[:, None])


def near_duplicates(data: Dataset, *, seed: int = 0) -> np.ndarray:
    """Number examples so that those that are nearly copies of each other share a number.

    Texts are compared by their pieces of five letters, images at 16 x 16 pixels.

    Parameters
    ----------
    data : Dataset
        Texts or images.
    seed : int, default 0
        Seed of the examples that are compared where there are more than :data:`COMPARED`.

    Returns
    -------
    (n,) numpy.ndarray of int64
        A number for each example, from 0.
    """
    chosen = _drawn(np.arange(len(data)), seed)
    if data.x.ndim > 1:
        vectors = thumbnails(data.x[chosen]).mean(-1).reshape(len(chosen), -1)
        search = NearestNeighbors(radius=NEAR_IMAGES * vectors.shape[1], metric="manhattan")
    else:
        pieces = TfidfVectorizer(analyzer="char_wb", ngram_range=(5, 5), sublinear_tf=True)
        try:
            vectors = pieces.fit_transform([re.sub(r"\W+", " ", text) for text in data.x[chosen]])
        except ValueError:  # all texts are shorter
            return np.arange(len(data))
        search = NearestNeighbors(radius=1 - NEAR, metric="cosine")
        empty = np.diff(vectors.indptr) == 0  # a text too short is like none
        chosen, vectors = chosen[~empty], vectors[~empty]
    graph = search.fit(vectors).radius_neighbors_graph(mode="connectivity").tocoo()
    links = coo_array(
        (np.ones(graph.nnz), (chosen[graph.row], chosen[graph.col])), shape=(len(data),) * 2
    )
    return connected_components(links, directed=False)[1].astype(np.int64)


def likely_groups(reading: Reading) -> list[tuple[str, np.ndarray]]:
    """Find columns whose repeated values may say which rows belong together.

    Numbered names such as ``12_3`` are read as row 3 of document 12. A column is likely if it has
    at least ten values, most of them more than once, and no class is found with fewer than five.

    Parameters
    ----------
    reading : Reading
        The data.

    Returns
    -------
    list of (str, (n,) numpy.ndarray of str)
        What the groups are, and the group of each example.
    """
    found, data = [], reading.data
    for column in reading.table.columns.difference(list(reading.columns.values()), sort=False):
        values = reading.table[column].iloc[data.extra["row"]].astype(str).str.strip()
        if values.str.contains(r"\.\d*[1-9]", regex=True).all():
            continue  # measurements
        numbered = values.str.extract(r"^(.+?)[_\-/:#]\d+$")[0]
        if numbered.notna().all():
            found += [(f"{column} before its last number", numbered.to_numpy(object))]
        found += [(column, values.to_numpy(object))]
    return [(name, groups) for name, groups in found if _can_be_groups(groups, data.y)]


def _can_be_groups(groups: np.ndarray, y: np.ndarray) -> bool:
    counts = pd.Series(groups).value_counts()
    if len(counts) < 10 or counts[counts > 1].sum() < len(groups) / 2:
        return False
    return bool((pd.Series(groups).groupby(y).nunique() >= 5).all())


def pretended(
    vectors, y: np.ndarray, groups: np.ndarray, *, folds: int = 5, repeats: int = 2, seed: int = 0
) -> float:
    """Measure by how much a split flatters that tears groups apart.

    Parameters
    ----------
    vectors : (n, d) array or sparse matrix
        Features.
    y : (n,) numpy.ndarray of int
        Labels.
    groups : (n,) numpy.ndarray
        Examples with equal values belong together.
    folds : int, default 5
        Folds of cross-validation.
    repeats : int, default 2
        How often the folds are drawn.
    seed : int, default 0
        Seed of the folds.

    Returns
    -------
    float
        Balanced accuracy of a logistic regression by folds that ignore the groups, less that by
        folds that keep them whole.
    """
    model, differences = LogisticRegression(C=10, max_iter=300), []
    for repeat in range(repeats):
        options = {"n_splits": folds, "shuffle": True, "random_state": seed + repeat}
        torn, whole = (
            balanced_accuracy_score(
                y, cross_val_predict(model, vectors, y, groups=groups, cv=folder(**options))
            )
            for folder in (_Stratified, StratifiedGroupKFold)
        )
        differences.append(torn - whole)
    return float(np.mean(differences))


class _Stratified(StratifiedKFold):
    """Folds that ignore groups, and classes of fewer rows than folds, in silence."""

    def split(self, X, y, groups=None):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield from super().split(X, y)


def read_by(tokenizer, texts: Sequence[str], limit: int) -> Language:
    """Count into how many pieces a tokenizer breaks words, and what it does not know.

    A tokenizer keeps frequent words of the languages that it was made for in one piece and breaks
    up those of others. This is a sign, no proof: names and jargon are broken up too, and a
    multilingual tokenizer has whole words of languages that its encoder hardly saw.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        The tokenizer.
    texts : sequence of str
        Texts.
    limit : int
        Pieces that the encoder reads of a text, special ones included.

    Returns
    -------
    Language
        What was counted.
    """
    words, lengths = [], []
    for text in texts:
        words += re.findall(r"[^\W\d_]+", text)
        lengths.append(len(tokenizer(text[: 20 * limit], verbose=False)["input_ids"]))
    letters = Counter(_script(letter) for word in words for letter in word)
    scripts = {script: count / letters.total() for script, count in letters.most_common()}
    entries = Counter(_script(entry.lstrip("#▁Ġ")[:1]) for entry in tokenizer.get_vocab())
    pieces, counted = Counter(), []
    for word in words[: 10 * COMPARED]:
        own = tokenizer.tokenize(word)
        pieces.update(own)
        if _script(word[0]) not in UNSPACED:
            counted.append(len(own))
    return Language(
        pieces=float(np.mean(counted)) if counted else 1.0,
        unknown=pieces[tokenizer.unk_token] / max(1, pieces.total()),
        scripts=scripts,
        tokens=float(np.median(lengths)),
        cut=float(np.mean(np.array(lengths) > limit)),
        unread=tuple(s for s, share in scripts.items() if share > SCRIPT and entries[s] < ENTRIES),
    )


def _script(letter: str) -> str:
    return unicodedata.name(letter, "NONE").split()[0].split("-")[0] if letter else "NONE"


def _on_language(found: Language, limit: int) -> list[str]:
    notes = []
    if found.is_foreign:
        if found.unread:
            script = found.unread[0]
            why = f"{100 * found.scripts[script]:.0f} percent of the letters are {script.title()}"
            why += ", and its tokenizer has hardly any"
        elif found.pieces > BROKEN:
            why = f"its tokenizer breaks a word into {found.pieces:.1f} pieces in the mean, where "
            why += "it should be nearer to one"
        else:
            why = f"its tokenizer does not know {100 * found.unknown:.0f} percent of the pieces"
        notes.append(
            f"The texts seem to be in a language that the encoder hardly knows: {why}. A "
            "multilingual encoder, or counting words, may do better."
        )
    if found.cut > 0.02:
        notes.append(
            f"{100 * found.cut:.0f} percent of the texts are longer than the {limit} pieces that "
            "the encoder reads: their ends do not count."
        )
    return notes


def suspicious_labels(
    data: Dataset, vectors, *, folds: int = 5, most: int = SUSPECTS, seed: int = 0
) -> pd.DataFrame:
    """List examples that a model trained without them takes, with confidence, for another class.

    This is confident learning (Northcutt et al., 2021, arXiv 1911.00068): an example looks like a
    class if its out-of-sample probability is at least the mean of those that carry the label.

    Parameters
    ----------
    data : Dataset
        The examples.
    vectors : (n, d) array or sparse matrix
        Their features.
    folds : int, default 5
        Folds of cross-validation.
    most : int, default 20
        How many examples are listed at most.
    seed : int, default 0
        Seed of the folds.

    Returns
    -------
    pandas.DataFrame
        ``row`` of the reader's table, ``input`` (of a text), ``label``, ``looks like`` and
        ``confidence``, the worst first.
    """
    common = np.flatnonzero(np.bincount(data.y)[data.y] >= folds)  # rarer classes cannot be judged
    classes, y = np.unique(data.y[common], return_inverse=True)
    if len(classes) < 2:
        return pd.DataFrame(columns=["row", "label", "looks like", "confidence"])
    p = cross_val_predict(
        LogisticRegression(C=10, max_iter=300),
        vectors[common],
        y,
        cv=StratifiedKFold(folds, shuffle=True, random_state=seed),
        method="predict_proba",
    )
    typical = np.array([p[y == label, label].mean() for label in range(len(classes))])
    looks, own = np.where(p >= typical, p, 0).argmax(1), p[np.arange(len(y)), y]
    confidence = p[np.arange(len(y)), looks]
    wrong = (confidence >= typical[looks]) & (confidence > own)
    worst = np.flatnonzero(wrong)[np.argsort((own - confidence)[wrong], kind="stable")][:most]
    rows, names = common[worst], np.array(data.classes, dtype=object)
    inputs = {"input": data.x[rows]} if data.x.ndim == 1 else {}
    return pd.DataFrame(
        {"row": data.extra["row"][rows]}
        | inputs
        | {
            "label": names[data.y[rows]],
            "looks like": names[classes[looks[worst]]],
            "confidence": confidence[worst],
        }
    )


def _drawn(values: np.ndarray, seed: int) -> np.ndarray:
    """At most :data:`COMPARED` of the values, in their order."""
    if len(values) <= COMPARED:
        return values
    return values[np.sort(np.random.default_rng(seed).permutation(len(values))[:COMPARED])]


def _copies(count: int) -> str:
    return "copy of another row is" if count == 1 else "copies of other rows are"
