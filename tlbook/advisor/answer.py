"""From runs to a recommendation: the cheapest strategy that is as good as the best.

*As good* means not worse by more than a margin, by a one-sided test at 5 percent: the half of an
equivalence test (Schuirmann, 1987, doi 10.1007/BF01068419) that can speak against a cheaper
strategy. The other half would refuse one for possibly being better.

Runs on splits of the same examples are not independent. Their variance counts one half by the
number of splits and one by the share of test rows (Nadeau and Bengio, 2003, doi
10.1023/A:1024068626366), and is at least what the test examples alone make of it.

The winner's own score is too high, as it was chosen for being high. What to expect on new data is
told by examples that had no part in a choice: of resampled examples the rule chooses a strategy,
and the examples left out of the resample judge it (Tsamardinos et al., 2018, doi
10.1007/s10994-018-5714-4).
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from tlbook import checks
from tlbook.advisor.search import Results
from tlbook.evidence.effects import Components, Effect
from tlbook.evidence.resampling import times_drawn
from tlbook.evidence.wording import amount, in_words, verdict

#: Resamples of the examples, to correct the score for the choice.
RESAMPLES = 200


@dataclass(frozen=True)
class Answer:
    """Hold what is recommended and why.

    Attributes
    ----------
    recommended : str
        The cheapest strategy that is not worse than the best by more than the margin.
    best : str
        The strategy with the highest mean score.
    control : str
        The strategy without a pretrained encoder that gains are measured against.
    margin : float
        The margin, as a share of one.
    expected : Effect
        Balanced accuracy to expect on new data, corrected for the choice.
    gain : Effect
        What the recommended strategy gains on the control.
    to_best : Effect
        What it gains on the best, less than zero where it loses.
    table : pandas.DataFrame
        One row per strategy that was run, the cheapest first.
    sentences : tuple of str
        The answer in words; the first names the strategy and the rule.
    """

    recommended: str
    best: str
    control: str
    margin: float
    expected: Effect
    gain: Effect
    to_best: Effect
    table: pd.DataFrame
    sentences: tuple[str, ...]


def difference(
    results: Results, name: str, other: str | None = None, weights: np.ndarray | None = None
) -> Effect:
    """Compute by how much a strategy scores better than another on the splits that both ran on.

    Parameters
    ----------
    results : Results
        All runs.
    name : str
        The strategy.
    other : str, optional
        The other one. By default the score itself is returned.
    weights : (n,) numpy.ndarray of float, optional
        How often each example counts. By default each counts once.

    Returns
    -------
    Effect
        The mean difference in balanced accuracy. It has no interval after a single split.
    """
    y = results.data.y
    weights = np.ones(len(y)) if weights is None else weights
    seen, total, values, shares = np.zeros(len(y)), np.zeros(len(y)), [], []
    for run, against, (train, test) in zip(
        results.runs[name], results.runs[other or name], results.parts, strict=False
    ):
        gain = (run.predicted == y[test]).astype(float)
        if other is not None:
            gain -= against.predicted == y[test]
        seen[test] += 1
        total[test] += gain
        values.append(_balanced(gain, y[test], weights[test]))
        shares.append(len(test) / len(train))
    values, least = np.array(values), 0.0 if other is None else -1.0
    if len(values) < 2:
        reason = "only one split was run, more minutes give more"
        return Effect(float(values.mean()), least, 1.0, 1, unreliable=reason)
    rows = np.flatnonzero((seen > 0) & (weights > 0))
    items = _of_examples(total[rows] / seen[rows], y[rows], results.data.groups[rows])
    of_splits = float(values.var(ddof=1))
    shared = max(of_splits * np.mean(shares), items - of_splits / len(values))
    parts = Components(of_splits / len(values), shared, len(values) - 1)
    return Effect.of_components(values, parts, least=least, most=1.0)


def _balanced(gain: np.ndarray, y: np.ndarray, weights: np.ndarray) -> float:
    counts = np.bincount(y, weights)
    there = counts > 0
    return (
        float((np.bincount(y, weights * gain)[there] / counts[there]).mean()) if any(there) else 0.0
    )


def _of_examples(gain: np.ndarray, y: np.ndarray, groups: np.ndarray) -> float:
    """Variance of a mean over classes due to the examples tested on, groups counting as one.

    One more example that differs is added to each class: where two strategies agreed on all that
    were seen, they may yet differ on others.
    """
    _, label, counts = np.unique(y, return_inverse=True, return_counts=True)
    share = 1 / (len(counts) * counts)
    adds = (gain - (np.bincount(label, gain) / counts)[label]) * share[label]
    by_group = np.bincount(np.unique(groups, return_inverse=True)[1], adds)
    return float((by_group**2).sum() + (share**2).sum())


def costs(results: Results) -> dict[str, float]:
    """Compute what strategies are ordered by: CPU seconds to train and to predict 1,000 examples.

    Parameters
    ----------
    results : Results
        All runs.

    Returns
    -------
    dict of str to float
        The mean over runs of each strategy, the cheapest first.
    """
    found = {
        name: float(np.mean([run.train_seconds + run.predict_seconds for run in runs]))
        for name, runs in results.runs.items()
    }
    return dict(sorted(found.items(), key=lambda pair: pair[1]))


def recommend(results: Results, margin: float, weights: np.ndarray | None = None) -> str:
    """Choose the cheapest strategy that is not worse than the best by more than a margin.

    Parameters
    ----------
    results : Results
        All runs.
    margin : float
        The margin, as a share of one.
    weights : (n,) numpy.ndarray of float, optional
        How often each example counts.

    Returns
    -------
    str
        Name of the strategy.
    """
    best, tried = _best(results, weights), results.tried()
    for name in filter(tried.__contains__, costs(results)):
        if name == best:
            break
        effect = difference(results, name, best, weights)
        if not effect.unreliable and effect.at(0.9).low >= -margin:
            return name
    return best


def _best(results: Results, weights: np.ndarray | None) -> str:
    if weights is None:
        return results.best()
    reference = results.reference
    return max(
        results.tried(), key=lambda name: difference(results, name, reference, weights).value
    )


def expected_score(
    results: Results, margin: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> Effect:
    """Estimate what the recommended strategy scores on new data, corrected for the choice.

    Parameters
    ----------
    results : Results
        All runs.
    margin : float
        The margin of the rule that chooses, as a share of one.
    resamples : int, default 200
        Resamples of the examples, groups whole.
    seed : int, default 0
        Seed of the resamples.

    Returns
    -------
    Effect
        Balanced accuracy, with an interval as wide as that of the recommended strategy's score.
    """
    own = difference(results, recommend(results, margin))
    y = results.data.y
    names, group = np.unique(results.data.groups, return_inverse=True)
    right = {name: _right(results, name) for name in results.runs}
    rng, found = np.random.default_rng(seed), []
    for _ in range(resamples):
        drawn = times_drawn(rng.integers(0, len(names), (1, len(names))), len(names))[0][group]
        chosen = right[recommend(results, margin, drawn)]
        out = (drawn == 0) & ~np.isnan(chosen)
        counts = np.bincount(y[out], minlength=y.max() + 1)
        sums = np.bincount(y[out], chosen[out], minlength=y.max() + 1)
        found.append(np.where(counts > 0, sums / np.maximum(counts, 1), np.nan))
    # class by class, as a rare one is missing from many resamples
    by_class = np.array(found)
    by_class = by_class[:, ~np.isnan(by_class).all(0)]
    value = float(np.nanmean(by_class, axis=0).mean())
    if own.unreliable:
        return replace(own, value=value)
    low, high = max(0.0, value - own.value + own.low), min(1.0, value - own.value + own.high)
    return replace(own, value=value, low=min(value, low), high=max(value, high), by_seed=())


def _right(results: Results, name: str) -> np.ndarray:
    """How often a strategy was right on each example; NaN where it was not tested."""
    seen, total = np.zeros(len(results.data)), np.zeros(len(results.data))
    for run, (_, test) in zip(results.runs[name], results.parts, strict=False):
        seen[test] += 1
        total[test] += run.predicted == results.data.y[test]
    return np.where(seen > 0, total / np.maximum(seen, 1), np.nan)


def answer(
    results: Results, control: str, *, margin: float = 0.01, sizes: dict | None = None
) -> Answer:
    """Recommend a strategy and say why.

    Parameters
    ----------
    results : Results
        All runs.
    control : str
        The strategy that gains are measured against.
    margin : float, default 0.01
        Differences up to this share of one do not matter.
    sizes : dict of str to float, optional
        Megabytes to keep of each strategy.

    Returns
    -------
    Answer
        The recommendation with its reasons.

    Raises
    ------
    ValueError
        If no strategy was run, or the margin is negative.
    """
    checks.number("margin", margin, least=0, below=1)
    if not results.runs:
        raise ValueError("no strategy was run to its end: give it more minutes")
    if control not in results.runs:
        control = next(iter(costs(results)))
    recommended, best = recommend(results, margin), results.best()
    expected = expected_score(results, margin)
    gain, to_best = (difference(results, recommended, other) for other in (control, best))
    table = _table(results, control, sizes or {})
    sentences = _sentences(
        table, recommended, best, control, margin, expected, gain, to_best, len(results.runs)
    )
    return Answer(
        recommended, best, control, margin, expected, gain, to_best, table, tuple(sentences)
    )


def _table(results: Results, control: str, sizes: dict[str, float]) -> pd.DataFrame:
    rows = []
    for name in costs(results):
        runs, gain = results.runs[name], difference(results, name, control)
        interval = {"low": np.nan, "high": np.nan} if name == control else gain.limits
        rows.append(
            {
                "strategy": name,
                "splits": len(runs),
                "score": results.mean(name),
                "gain": np.nan if name == control else gain.value,
                **interval,
                "train CPU s": np.mean([run.train_seconds for run in runs]),
                "CPU s per 1,000": np.mean([run.predict_seconds for run in runs]),
                "MB": sizes.get(name, np.nan),
            }
        )
    return pd.DataFrame(rows)


def _sentences(
    table, recommended, best, control, margin, expected, gain, to_best, tried
) -> list[str]:
    within = amount(margin)
    if recommended == best:
        why = f"it scored best, and no cheaper one is shown to be within {within} of it"
    else:
        why = (
            f"it is the cheapest strategy shown to be no more than {within} worse than the best, "
            f"{best} (one-sided test at 5 percent)"
        )
    row = table.set_index("strategy").loc[recommended]
    score = f"{100 * expected.value:.1f} percent balanced accuracy"
    if not expected.unreliable:
        score += f" [{100 * expected.low:.1f}, {100 * expected.high:.1f}]"
    doubt = f" No interval is known: {expected.unreliable}." if expected.unreliable else ""
    found = [
        f"Use {recommended}: {why}.",
        f"Expect {score} on new data like these, corrected for having chosen among {tried}.{doubt}",
    ]
    if recommended != control:
        limits = f" [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"
        limits = "" if verdict(gain, margin) == "undecided" else limits  # which says them in words
        found.append(f"Compared with {control}, it {in_words(gain, margin)}{limits}.")
    found.append(
        f"It trains in {row['train CPU s']:.1f} CPU seconds on four fifths of these rows and "
        f"predicts 1,000 in {row['CPU s per 1,000']:.1f}."
    )
    return found
