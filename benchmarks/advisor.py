"""Is the advice good? Its regret, its promises and its time, on fourteen tasks.

``python -m benchmarks.advisor`` gives :func:`tlbook.advise` a table of each task and ``--minutes``.
Then it fits every strategy to the whole table, and scores it on rows that the advisor never saw.
The *regret* is what the recommended strategy loses there against the best. A task is written when
it is done, to ``results/benchmarks/advisor-MINUTES.json``, and is not run again. It takes the
minutes once for each task, and about as long again for what the advice is held against; nothing
else should run.

Learning rates were tuned on product reviews and Twemoji, the linear head on the tasks of
:mod:`benchmarks.heads`; what nothing was tuned on is marked ``untouched``.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

import tlbook
from benchmarks import RESULTS, heads, save
from tlbook.advisor.advice import CONTROL, ENCODER
from tlbook.advisor.reading import read
from tlbook.advisor.search import score
from tlbook.advisor.strategies import Encoded, strategies, timed
from tlbook.data import Dataset, concat, distinct, labeled
from tlbook.learning.features import features
from tlbook.sources.images import digits, emoji
from tlbook.sources.pretrained import load
from tlbook.sources.printed import letters
from tlbook.sources.texts import bbc, chinese_reviews, reviews

TEST = 800


def headlines() -> Dataset:
    news = bbc()
    first = [text.split("\n")[0] for text in news.x]
    found = labeled(first, [news.classes[y] for y in news.y], name="headlines")
    return found.take(distinct(found))


def newsgroups() -> Dataset:
    return heads.tab_file("newsgroups", "20newsgroups-train", "20newsgroups-test")


def reuters() -> Dataset:
    return heads.tab_file("reuters", "reuters-r8-train", "reuters-r8-test")


#: Where the examples come from, how many the table has, and whether nothing was tuned on them.
TASKS = {
    "product reviews": (lambda: reviews("amazon"), 400, False),
    "few product reviews": (lambda: reviews("amazon"), 100, False),
    "film reviews": (lambda: reviews("movie"), 400, True),
    "tweets": (lambda: reviews("tweets"), 300, True),
    "editorials": (lambda: reviews("nyt"), 400, True),
    "headlines, five topics": (headlines, 200, True),
    "Chinese reviews": (chinese_reviews, 300, True),
    "newsgroups, twenty": (newsgroups, 600, False),
    "Reuters, eight unequal": (reuters, 300, False),
    "names of emoji": (lambda: heads.text_tasks()[2], 240, False),
    "Twemoji, nine unequal": (emoji, 360, False),
    "OpenMoji, nine unequal": (lambda: emoji("openmoji"), 180, True),
    "handwritten digits": (digits, 200, True),
    "printed letters": (lambda: letters("abcdefghijklmnop", size=32, copies=5), 240, False),
}


def parts(data: Dataset, number: int, seed: int) -> tuple[Dataset, Dataset]:
    """A table of ``number`` rows, and other rows to test on, of other groups."""
    rows = np.random.default_rng(seed).permutation(len(data))
    table, rest = rows[:number], rows[number:]
    rest = rest[~np.isin(data.groups[rest], data.groups[table])]
    rest = rest[np.isin(data.y[rest], data.y[table])][:TEST]
    return data.take(table), data.take(rest)


def written(table: Dataset, folder: Path) -> Path:
    """The table as a user would have it: a CSV of texts, or a folder of images by class."""
    labels = [table.classes[y] for y in table.y]
    if table.x.ndim == 1:
        path = folder / "table.csv"
        pd.DataFrame({"text": table.x, "label": labels}).to_csv(path, index=False)
        return path
    for row, (image, label) in enumerate(zip(table.x, labels, strict=True)):
        place = folder / label.replace("/", "-") / f"{row}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(place)
    return folder


def exhaustive(table: Dataset, test: Dataset, seed: int) -> dict[str, float]:
    """The test score of each strategy, fitted to the whole table."""
    data = concat(table.name, table, test)
    kind = "text" if data.x.ndim == 1 else "image"
    handle, encoder = ENCODER[kind], load(ENCODER[kind])
    if kind == "image":
        encoder = replace(encoder, size=min(encoder.size, data.x.shape[1]))
    vectors = features(encoder, data.x, progress=False)
    each = Encoded(handle, encoder, vectors, *timed(encoder, data.x), 0.0)
    train, rest = np.split(np.arange(len(data)), [len(table)])
    return {
        strategy.name: score(data.y[rest], strategy.run(train, rest, seed, float("inf")).predicted)
        for strategy in strategies(data, [each])
    }


def tried(name: str, minutes: float, seed: int) -> dict:
    """The advice on a task, and what it is held against."""
    make, number, untouched = TASKS[name]
    table, test = parts(make(), number, seed)
    with tempfile.TemporaryDirectory() as folder:
        source = written(table, Path(folder))
        if table.x.ndim > 1:  # as the advisor reads them, so that both see the same pictures
            table = read(source).data
            side = table.x.shape[1]
            images = [np.asarray(Image.fromarray(x).resize((side, side))) for x in test.x]
            names = [test.classes[y].replace("/", "-") for y in test.y]
            test = labeled(np.stack(images), names, classes=table.classes)
        began = time.monotonic()
        found = tlbook.advise(source, minutes=minutes, seed=seed)
        seconds = time.monotonic() - began
    known = exhaustive(table, test, seed)
    answer, own = found.answer, known.get(found.answer.recommended)
    control = known[CONTROL[found.reading.modality]]
    return {
        "untouched": untouched,
        "rows": len(table),
        "classes": len(table.classes),
        "seconds": seconds,
        "recommended": answer.recommended,
        "best": max(known, key=known.get),
        "regret": None if own is None else max(known.values()) - own,
        "over the control": None if own is None else own - control,
        "expected": [answer.expected.value, answer.expected.low, answer.expected.high],
        "came": own,
        "scores": known,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    name = f"advisor-{options.minutes:g}"
    file = RESULTS / f"{name}.json"
    done = json.loads(file.read_text(encoding="utf-8"))["tasks"] if file.exists() else {}
    for task in TASKS:
        if task not in done:
            done[task] = tried(task, options.minutes, options.seed)
            print(task, json.dumps(done[task]), flush=True)
        known = [one for one in done.values() if one["regret"] is not None]
        regrets = 100 * np.array([one["regret"] for one in known])
        inside = [one["expected"][1] <= one["came"] <= one["expected"][2] for one in known]
        summary = {
            "mean regret": regrets.mean(),
            "worst regret": regrets.max(),
            "worst over the control": 100 * min(one["over the control"] for one in known),
            "expected score held": float(np.mean(inside)),
            "most seconds": max(one["seconds"] for one in done.values()),
        }
        save(name, {"minutes": options.minutes, **summary, "tasks": done}, ["torch"])
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    main()
