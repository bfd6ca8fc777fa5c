"""How often 95 % intervals hold the truth, over simulated experiments in which it is known.

``python -m benchmarks.coverage`` prints a table in Markdown: for each design, number of seeds and
share of the variance that is due to seeds, the percentage of experiments whose interval held the
truth, by components of variance and, in parentheses, by the percentile bootstrap. Gains are normal:
a seed's, a group's, an item's, and what is left to each pair of seed and item.

With ``--splits`` the table is of several splits of one finite set of examples, which overlap. Two
nearest centroids learn from some labels per class, one in 20 dimensions and the other in 5, so that
both the gain and how it varies come from learning. The percentage in parentheses is of the
corrected resampled t-test (Nadeau and Bengio, 2003); after it stands half of the interval's width,
in standard deviations of the estimate, of which 1.96 would be the ideal.
"""

import argparse
import time

import numpy as np
from scipy.stats import norm, t

from tlbook.evidence.balanced import balanced_means, pigeonhole_interval
from tlbook.evidence.splits import SplitMeans

SEEDS = (3, 5, 10, 20, 40)
SHARES = (0, 0.25, 0.5, 0.75, 0.9, 1)
#: Sizes of 20 groups of 200 items together, the largest a quarter of them.
UNEVEN = (49, 29, 21, 17, 14, 12, 10, 8, 7, 6, 5, 4, 4, 3, 3, 2, 2, 2, 1, 1)
#: Labels and groups of the test items by design.
DESIGNS = {
    "200 items": (np.zeros(200, int), np.arange(200)),
    "20 equal groups": (np.zeros(200, int), np.repeat(np.arange(20), 10)),
    "20 unequal groups": (np.zeros(200, int), np.repeat(np.arange(20), UNEVEN)),
    "a class of 10 in 200": (np.repeat([0, 1], [190, 10]), np.arange(200)),
    "a class of one group": (np.repeat([0, 1, 2], [100, 99, 1]), np.arange(200)),
}


def experiments(design: str, seeds: int, share: float, number: int, rng: np.random.Generator):
    """Yield gains (seeds, n) of which the true mean is zero in every class.

    Half of an item's variance is its group's, where there are groups. ``share`` is the part of
    seeds in the variance of the mean that seeds and items have together.
    """
    y, group = DESIGNS[design]
    weight = 1 / np.bincount(y)[y] / len(np.unique(y))
    together = 0.5 if len(np.unique(group)) < len(y) else 0.0
    of_items = together * (np.bincount(group, weight) ** 2).sum()
    of_items += (1 - together) * (weight**2).sum()
    seed = np.sqrt(seeds * share)
    item = np.sqrt((1 - share) / of_items)
    for _ in range(number):
        items = np.sqrt(together) * rng.normal(size=group.max() + 1)[group]
        items = items + np.sqrt(1 - together) * rng.normal(size=len(y))
        pairs = rng.normal(size=(seeds, len(y)))
        yield seed * rng.normal(size=(seeds, 1)) + item * (items + pairs)


def coverage(
    design: str,
    seeds: int,
    share: float,
    number: int,
    rng: np.random.Generator,
    resamples: int = 0,
) -> float:
    """Return how often the interval holds the truth: of components, or of some resamples."""
    y, group = DESIGNS[design]
    held = []
    for gains in experiments(design, seeds, share, number, rng):
        if resamples:
            found = pigeonhole_interval(
                lambda scores: scores[0], y, gains[None], group, resamples=resamples
            )
        else:
            # gains are in standard errors of the mean, so far below the 10 points of a failure
            found = balanced_means(y, gains[None] / 1000, group).contrast(np.ones(1))
        held.append(found.low <= 0 <= found.high)
    return float(np.mean(held))


#: Dimensions of the two nearest centroids, and how far the classes lie apart in each.
LEARNERS = ((20, 2.2), (5, 1.6))
#: Numbers of splits, and of seeds of each.
CROSSED = ((5, 2), (5, 4), (10, 2), (10, 4))
ONES = np.ones(1)


def true_gain(labels: int, rng: np.random.Generator, number: int = 50_000) -> float:
    """The mean accuracy of the first learner less that of the second, by the normal integral."""
    accuracy = []
    for dims, apart in LEARNERS:
        means = np.stack([np.zeros(dims), np.full(dims, apart / np.sqrt(dims))])
        center = means + rng.normal(size=(number, 2, dims)) / np.sqrt(labels)
        way = center[:, 1] - center[:, 0]
        cut = (center.sum(1) * way).sum(1) / 2
        size = np.linalg.norm(way, axis=1)
        right = norm.cdf((cut - way @ means[0]) / size) + norm.cdf((way @ means[1] - cut) / size)
        accuracy.append(right.mean() / 2)
    return accuracy[0] - accuracy[1]


def learned(n: int, labels: int | None, splits: int, seeds: int, rng) -> SplitMeans:
    """Both learners on splits of n new examples, a third of each class to test."""
    y = np.repeat([0, 1], n // 2)
    x = [rng.normal(size=(n, d)) + y[:, None] * apart / np.sqrt(d) for d, apart in LEARNERS]
    held_out = n // 6
    parts = []
    for _ in range(splits):
        order = np.stack([rng.permutation(np.flatnonzero(y == c)) for c in (0, 1)])
        test, train = order[:, :held_out].ravel(), order[:, held_out:]
        gains = np.zeros((seeds, len(test)))
        for gain in gains:
            rows = rng.permuted(train, axis=1)[:, :labels]
            for inputs, sign in zip(x, (1, -1), strict=True):
                center = inputs[rows].mean(1)
                way = center[1] - center[0]
                gain += sign * ((inputs[test] @ way > center.sum(0) @ way / 2) == y[test])
        parts.append(balanced_means(y[test], gains[None], test))
    drawn = labels or n // 2 - held_out
    return SplitMeans(tuple(parts), drawn / (n // 2 - drawn))


def corrected(means: SplitMeans) -> tuple[float, float]:
    """The mean, and half of its interval by Nadeau and Bengio's correction."""
    values = means.values.reshape(len(means.parts), -1)
    of_means, of_seeds = values.mean(1).var(ddof=1), values.var(1, ddof=1).mean()
    of_splits = max(0.0, of_means - of_seeds / values.shape[1])
    error = np.sqrt(of_means / len(values) + of_splits / 2)  # a third tests, two thirds train
    return float(values.mean()), t.ppf(0.975, len(values) - 1) * error


def over_splits(n: int, labels: int | None, splits: int, seeds: int, number: int, rng) -> str:
    """How often both intervals hold the truth, and how wide they are."""
    truth = true_gain(labels or n // 2 - n // 6, np.random.default_rng(0))
    found = [learned(n, labels, splits, seeds, rng) for _ in range(number)]
    effects = [means.contrast(ONES) for means in found]
    # far from zero or not, no run of these fails: what looks like it is chance
    halves = [e.df and t.ppf(0.975, e.df) * e.error for e in effects if not e.unreliable]
    values = np.array([e.value for e in effects])
    kept = np.array([e.value for e in effects if not e.unreliable])
    theirs = np.array([corrected(means) for means in found])
    ours = np.abs(kept - truth) <= halves
    held = np.abs(theirs[:, 0] - truth) <= theirs[:, 1]
    widths = (np.mean(halves) / values.std(), theirs[:, 1].mean() / values.std())
    return "{:.1f} ({:.0f}), {:.1f} ({:.1f})".format(100 * ours.mean(), 100 * held.mean(), *widths)


def table_of_splits(number: int) -> None:
    """Print how often intervals over splits hold the truth."""
    print("| examples | labels per class |", " | ".join(f"{p} x {s}" for p, s in CROSSED), "|")
    print("|---" * (2 + len(CROSSED)) + "|")
    for n in (600, 150):
        for labels in [*sorted({1, 5, n // 30, n // 6}), None]:
            row = [
                over_splits(n, labels, *crossed, number, np.random.default_rng(0))
                for crossed in CROSSED
            ]
            print("|", " | ".join([str(n), str(labels or "all"), *row]), "|", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=1000, help="experiments in each cell")
    parser.add_argument("--bootstrap", type=int, default=100, help="of them, resampled as well")
    parser.add_argument("--splits", action="store_true", help="the table of several splits")
    options = parser.parse_args()
    if options.splits:
        return table_of_splits(options.number)
    print("| design | seeds |", " | ".join(f"{share:g}" for share in SHARES), "|")
    print("|---" * (2 + len(SHARES)) + "|")
    for design in DESIGNS:
        for seeds in SEEDS:
            row = []
            for share in SHARES:
                ask = (design, seeds, share)
                ours = coverage(*ask, options.number, np.random.default_rng(0))
                theirs = coverage(*ask, options.bootstrap, np.random.default_rng(0), 400)
                row.append(f"{100 * ours:.1f} ({100 * theirs:.0f})")
            print("|", " | ".join([design, str(seeds), *row]), "|", flush=True)


if __name__ == "__main__":
    start = time.process_time()
    main()
    print(f"\n{time.process_time() - start:.0f} CPU seconds")
