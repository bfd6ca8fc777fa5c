"""How often 95 % intervals hold the truth, over simulated experiments in which it is known.

``python -m benchmarks.coverage`` prints a table in Markdown: for each design, number of seeds and
share of the variance that is due to seeds, the percentage of experiments whose interval held the
truth, by components of variance and, in parentheses, by the percentile bootstrap. Gains are normal:
a seed's, a group's, an item's, and what is left to each pair of seed and item.
"""

import argparse
import time

import numpy as np

from tlbook.evidence.balanced import balanced_means, pigeonhole_interval

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--number", type=int, default=1000, help="experiments in each cell")
    parser.add_argument("--bootstrap", type=int, default=100, help="of them, resampled as well")
    options = parser.parse_args()
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
