"""Intervals of any score whose formula takes weights: a cluster bootstrap with expanded percentiles.

Items of one cluster (a prompt, a debate) are drawn together. A resample draws as many clusters as there are, with
replacement; an item's weight is how often its cluster was drawn, so one call of a formula gives the score of many
resamples, and the same weights given to two models pair them.

A percentile interval of few clusters is too narrow: for a mean it is about +- z s sqrt((n - 1) / n), where Student's
would be +- t s. The quantiles taken here are farther out, so that for a symmetric mean the two agree: the expanded
percentile interval of Hesterberg, "What teachers should know about the bootstrap" (arXiv 1411.5279). It stays
inside a score's range, as t +- se does not, and needs no derivative of the formula, as a studentised one does.
Its coverage of shares in 8 to 150 clusters of correlated pairs is simulated in tests/evaluation/test_resampling.py
(`make test-slow`): 91.5 to 97 %.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from scipy import special

from rewardscale.evaluation.benchmarks.base import Benchmark, Scores

RESAMPLES = 2000
FEWEST = 5  # clusters of which an interval is made
CONFIDENCE = 0.95
_BYTES = 2**24  # of one chunk's weights; a formula makes a few arrays of that size


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score with its 95 % interval.

    Attributes:
      estimate: on the items themselves.
      low, high: None where there is no interval; `note` then says why.
      se: standard deviation over resamples, times sqrt(n / (n - 1)) for n clusters; None with fewer than two.
      clusters, items: how many were drawn from.
    """

    estimate: float
    low: float | None
    high: float | None
    se: float | None
    clusters: int
    items: int
    note: str = ""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.estimate:.4g} ({self.note})" if self.note else f"{self.estimate:.4g}"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"


def weight_chunks(
    clusters: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    used: np.ndarray | None = None,
    chunk_bytes: int = _BYTES,
) -> Iterator[np.ndarray]:
    """The rows of `cluster_weights`, some at a time: float64 [about chunk_bytes / (8 items), items].

    How they are cut changes no number. Raises ValueError for clusters that are not [items].
    """
    clusters = np.asarray(clusters)
    if clusters.ndim != 1:
        raise ValueError(f"clusters must be [items], not of shape {clusters.shape}")
    there = np.ones(len(clusters), bool) if used is None else np.asarray(used, bool)
    names, number = np.unique(clusters[there], return_inverse=True)
    n = len(names)
    rows = max(1, chunk_bytes // (8 * max(len(clusters), 1)))
    random = np.random.default_rng([0xB007, seed])
    for start in range(0, resamples, rows):
        count = min(rows, resamples - start)
        weights = np.zeros((count, len(clusters)))
        if n:
            drawn = random.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
            times = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
            weights[:, there] = times[:, number]
        yield weights


def cluster_weights(
    clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0, *, used: np.ndarray | None = None
) -> np.ndarray:
    """float64 [resamples, items]: how often each item's cluster was drawn, multinomially.

    Args:
      clusters: [items], a number or name each. used: bool [items]; the others have weight 0 and a cluster of them
        alone is not drawn from.
    """
    whole = [np.zeros((0, len(clusters))), *weight_chunks(clusters, resamples, seed, used=used)]
    return np.concatenate(whole)


def resampled(
    formula: Callable[[np.ndarray], Scores | Mapping[str, np.ndarray]],
    clusters: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    used: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Scores of resamples by name: float64 [resamples, ...], NaN where a resample has none.

    Args:
      formula: weights float64 [r, items] -> scores by name, [r, ...] each.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for weights in weight_chunks(clusters, resamples, seed, used=used):
        for name, values in formula(weights).items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def expanded_tail(clusters: int, confidence: float = CONFIDENCE) -> float:
    """The lower quantile's level: Phi(-sqrt(n / (n - 1)) t), with t of n - 1 degrees of freedom; tends to 0.025."""
    t = special.stdtrit(clusters - 1, (1 + confidence) / 2)
    return float(special.ndtr(-np.sqrt(clusters / (clusters - 1)) * t))


def limits(values: np.ndarray, clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """(low, high) over the first axis of resampled values [resamples, ...], NaN ones left out.

    NaN for fewer than 5 clusters, and where over a tenth of the resamples have no value.
    """
    flat = values.reshape(len(values), int(np.prod(values.shape[1:])))
    ends = np.full((2, flat.shape[1]), np.nan)
    if clusters >= FEWEST and len(flat):
        tail = expanded_tail(clusters)
        for column in range(flat.shape[1]):
            known = flat[:, column]
            known = known[np.isfinite(known)]
            if len(known) >= 0.9 * len(flat):
                ends[:, column] = np.quantile(known, [tail, 1 - tail], method="weibull")  # rank / (R + 1)
    low, high = ends.reshape(2, *values.shape[1:])
    return low, high


def interval(estimate: float, values: np.ndarray, clusters: int, items: int) -> Interval:
    """The interval of a score from its value on resamples [resamples]; none, with a note, of

    fewer than 5 clusters; a score that is not a number; one that over a tenth of the resamples do not have; one that
    all resamples share, for then every item was judged alike and the bootstrap knows no other outcome.
    """
    known = values[np.isfinite(values)]
    if clusters < FEWEST:
        note = f"{clusters} cluster{'' if clusters == 1 else 's'}: no interval of fewer than {FEWEST}"
        return Interval(estimate, None, None, None, clusters, items, note)
    if not np.isfinite(estimate):
        return Interval(estimate, None, None, None, clusters, items, "no value on the items themselves")
    if len(known) < 0.9 * len(values):
        note = f"{len(values) - len(known)} of {len(values)} resamples have no value: no interval"
        return Interval(estimate, None, None, None, clusters, items, note)
    se = float(known.std() * np.sqrt(clusters / (clusters - 1)))
    if np.ptp(known) <= 1e-12 * max(1.0, abs(estimate)):
        note = "all resamples give the same: no interval"
        return Interval(estimate, None, None, se, clusters, items, note)
    low, high = limits(known, clusters)
    return Interval(estimate, float(low), float(high), se, clusters, items)


def intervals(
    formula: Callable[[np.ndarray], Scores | Mapping[str, np.ndarray]],
    clusters: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
    *,
    used: np.ndarray | None = None,
    rests_on: Mapping[str, np.ndarray] | None = None,
) -> dict[str, Interval]:
    """Every score of a formula, weights [r, items] -> scores [r] by name, with its interval.

    Args:
      rests_on: bool [items] for a score that some items alone decide: its clusters are counted among them.
    """
    clusters = np.asarray(clusters)
    there = np.ones(len(clusters), bool) if used is None else np.asarray(used, bool)
    estimates = formula(there[None].astype(np.float64))
    values = resampled(formula, clusters, resamples, seed, used=there)
    found = {}
    for name, estimate in estimates.items():
        own = there & rests_on[name] if rests_on and name in rests_on else there
        n = len(np.unique(clusters[own]))
        found[name] = interval(float(estimate[0]), values[name], n, int(own.sum()))
    return found


def cluster_sums(columns: np.ndarray, clusters: np.ndarray) -> np.ndarray:
    """float64 [clusters, s]: sums of columns [items, s] over each cluster, by rising cluster.

    A function of sums over items can be resampled by these alone, with clusters 0, 1, ...: the same numbers, and a
    million pairs of ten thousand prompts cost what ten thousand do.
    """
    names, number = np.unique(np.asarray(clusters), return_inverse=True)
    sums = [np.bincount(number, weights=column, minlength=len(names)) for column in columns.T]
    return np.stack(sums, axis=1) if sums else np.zeros((len(names), 0))


def mean_intervals(
    values: Mapping[str, np.ndarray], clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Means of values [items], finite ones, each with its interval."""
    columns = np.stack([*values.values(), np.ones(len(clusters))], axis=1)
    sums = cluster_sums(columns, clusters)

    def formula(weights: np.ndarray) -> Scores:
        drawn = weights @ sums
        return {name: drawn[:, place] / drawn[:, -1] for place, name in enumerate(values)}

    found = intervals(formula, np.arange(len(sums)), resamples, seed)
    return {name: dataclasses.replace(one, items=len(clusters)) for name, one in found.items()}


def benchmark_intervals(
    benchmark: Benchmark,
    formula: Callable[[np.ndarray], Scores],
    used: np.ndarray,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of scores over the items `used` (bool [items]) of a benchmark, drawn by its clusters.

    A score that bears a subset's name rests on that subset.
    """
    subsets = np.array([item.subset for item in benchmark.items])
    rests_on = {str(name): subsets == name for name in np.unique(subsets)}
    return intervals(formula, benchmark.clusters(), resamples, seed, used=used, rests_on=rests_on)


def score_intervals(
    benchmark: Benchmark, rewards: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Every score of a benchmark with its interval, headline first; drawn from are the items that were scored.

    Args:
      rewards: float64 [items, most responses], as for Benchmark.scores.
    """
    return benchmark_intervals(
        benchmark,
        lambda weights: benchmark.scores(rewards, weights),
        benchmark.scored(rewards),
        resamples,
        seed,
    )
