"""Accuracy over few-shot episodes, with an interval that counts episodes, classes and runs."""

from dataclasses import replace

import numpy as np

from tlbook import checks
from tlbook.evidence.effects import Components, Effect
from tlbook.evidence.resampling import times_drawn, with_limits


def episode_accuracy(
    scores: np.ndarray,
    classes: np.ndarray,
    control: np.ndarray | None = None,
    *,
    level: float = 0.95,
    method: str = "components",
    resamples: int = 2000,
) -> Effect:
    """Compute accuracy over few-shot episodes, or the gain over a control on the same ones.

    Episodes can be drawn without end from a test set that stays small, so an interval over episodes
    alone comes out too narrow (Lafargue et al. 2024, arXiv 2409.02850). Three things vary: the
    episodes (which classes meet, which examples are labeled), the classes with all of their
    examples, and the runs, if there are several. The interval counts each, by components of
    variance as in :mod:`tlbook.evidence.balanced`. Scores of few classes are skewed, and the limits
    do not follow: in simulations with 10 to 50 classes they hold the truth in 92 to 95 of 100.

    Parameters
    ----------
    scores : (episodes, ways) or (runs, episodes, ways) array
        Share of correct predictions for each class, as :func:`tlbook.methods.meta.score_episodes`
        returns it; with an axis of runs for networks that were trained with several seeds.
    classes : (episodes, ways) array
        The class that each score is of.
    control : array of the shape of ``scores``, optional
        Scores of another learner on the same episodes; the result is then the difference.
    level : float, optional
        Confidence level of the interval.
    method : {"components", "bootstrap"}, optional
        Whether to compute the interval or to resample it, each of the three independently of the
        others: with few runs that matter, this comes out too narrow.
    resamples : int, optional
        Number of bootstrap resamples.

    Returns
    -------
    Effect
        The mean or the difference, with its interval. Its ``seeds`` counts the runs, or the
        episodes where there is no axis of runs.

    Raises
    ------
    ValueError
        Shapes do not match, or there are fewer than two runs, ten episodes or two classes.
    """
    checks.choice("method", method, ("components", "bootstrap"))
    scores = np.asarray(scores, dtype=float)
    classes, label = np.unique(classes, return_inverse=True)
    if scores.ndim not in (2, 3) or scores.shape[-2:] != label.shape:
        raise ValueError(f"scores of shape {scores.shape} do not fit classes {label.shape}")
    if label.shape[0] < 10 or len(classes) < 2:
        raise ValueError(
            f"an interval needs at least 10 episodes and 2 classes, got {label.shape[0]} and "
            f"{len(classes)}"
        )
    least = 0.0 if control is None else -1.0
    if control is not None:
        if np.shape(control) != scores.shape:
            raise ValueError(f"control has shape {np.shape(control)}, not {scores.shape}")
        scores = scores - control
    if scores.ndim == 3 and len(scores) < 2:
        raise ValueError("runs need at least two seeds: a single run is never a result")
    runs = scores if scores.ndim == 3 else scores[None]
    # by[r, e, c]: score of run r on class c in episode e; met[e, c]: 1 where the episode has it
    by, met = np.zeros((len(runs), len(label), len(classes))), np.zeros((len(label), len(classes)))
    episodes = np.arange(len(label))[:, None]
    by[:, episodes, label], met[episodes, label] = runs, 1
    if method == "bootstrap":
        return Effect(*_resampled_episodes(by, met, level, resamples), len(scores), level)
    by_run = runs.mean((1, 2))
    parts = _components_of_episodes(by, met, by_run)
    effect = Effect.of_components(by_run, parts, level, least=least, most=1.0)
    if scores.ndim == 2:
        return replace(effect, seeds=len(scores), by_seed=())
    return effect.unless_failing(least, 1.0)


def _components_of_episodes(by: np.ndarray, met: np.ndarray, by_run: np.ndarray) -> Components:
    """The components of a mean over runs, if several, episodes and the classes that they meet.

    As with two factors, where those of episodes and classes, crossed as they are, take the place of
    the test examples': first of the mean over runs, then of what each run adds to it. "seeds" are
    the runs, or the episodes if there is one run.
    """
    n_runs, cells = len(by_run), met.sum()
    # one over the sum of squared shares: as many classes as would weigh as much if met equally
    sizes = np.array([len(met), cells**2 / (met.sum(0) ** 2).sum()])
    adds = (by - by_run[:, None, None] * met) / cells
    over_runs = adds.mean(0)

    def squares(x: np.ndarray) -> tuple[np.ndarray, float]:
        """Of what episodes and classes add, and of what their pairs add beyond that."""
        factors = np.array([(x.sum(-1) ** 2).sum(), (x.sum(-2) ** 2).sum()]) * sizes / (sizes - 1)
        free = cells - sum(met.shape) + 1
        for _ in range(10):  # until neither episodes nor classes have a mean left
            for axis in (-1, -2):
                x = x - met * (x.sum(axis, keepdims=True) / met.sum(axis, keepdims=True))
        return factors, float((x**2).sum() * cells / free) if free > 0 else 0.0

    factors, pairs = squares(over_runs)
    degrees = sizes - 1
    total = factors.sum() - pairs
    if n_runs > 1:
        rest, of_rest = squares(adds - over_runs)
        total -= (rest.sum() - of_rest) / (n_runs * (n_runs - 1))
        factors, degrees = np.append(factors, by_run.var(ddof=1) / n_runs), [*degrees, n_runs - 1]
        total += factors[-1]
    variance = float(max(total, *factors))
    df = float(1 / ((factors / variance) ** 2 / degrees).sum()) if variance else 1.0
    seeds = float(factors[-1] if n_runs > 1 else factors[0])
    return Components(seeds, variance - seeds, df)


def _resampled_episodes(
    by: np.ndarray, met: np.ndarray, level: float, resamples: int
) -> tuple[float, float, float]:
    if len(by) == 1:  # doubled, because scipy refuses a sample of one; the result is the same
        by = np.concatenate([by, by])
    n = by.shape

    def mean(*rows: np.ndarray, axis: int = -1) -> np.ndarray:
        runs, episodes, classes = map(times_drawn, rows, n)
        over_runs = np.tensordot(runs / n[0], by, 1)
        total = np.einsum("be,bec,bc->b", episodes, over_runs, classes, optimize=True)
        return total / np.einsum("be,ec,bc->b", episodes, met, classes, optimize=True)

    return with_limits(mean, n, level, resamples, batch=100)
