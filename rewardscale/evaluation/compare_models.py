"""Two or more models on the same items: who is better, and how alike they judge.

A difference of two scores is much surer than either score, for both models meet the same hard items: so the two share
every resample. Of pairs judged right or wrong, McNemar's exact test asks whether those that only one of the two gets
right are shared out like coins. Pairs of one prompt are no independent coins; its clustered form flips whole clusters.
"""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np
import polars as pl
from scipy import signal, stats

from rewardscale.evaluation import resampling, statistics
from rewardscale.evaluation.benchmarks.base import Benchmark, Scores
from rewardscale.evaluation.resampling import RESAMPLES, Interval

MATRIX = pl.Schema(
    {
        "one": pl.String,
        "other": pl.String,
        "pairs": pl.Int64,
        "clusters": pl.Int64,
        **{f"{name}{end}": pl.Float64 for name in ("agreement", "kappa") for end in ("", "_low", "_high")},
    }
)


@dataclasses.dataclass(frozen=True)
class McNemar:
    """McNemar's test of two models on pairs both judged; p-values are two-sided.

    Attributes:
      pairs: judged by both. only_one, only_other: right by that model alone.
      p: exact: of n = only_one + only_other tosses of a coin.
      p_mid: half of the outcome seen counted: less conservative, for few discordant pairs the one to read (Fagerland,
        Lydersen and Laake, BMC Medical Research Methodology 13:91, 2013).
      clusters, p_clustered, p_clustered_mid: the same with whole clusters as the coins (`sign_flip`).
    """

    pairs: int
    only_one: int
    only_other: int
    p: float
    p_mid: float
    clusters: int
    p_clustered: float
    p_clustered_mid: float


def mcnemar(margin_one: np.ndarray, margin_other: np.ndarray, clusters: np.ndarray) -> McNemar:
    """The test on margins [pairs] of two models; a tie is wrong, a pair that has no margin (NaN) left out.

    Args:
      clusters: [pairs], the cluster of each pair.
    """
    both = np.isfinite(margin_one) & np.isfinite(margin_other)
    difference = (margin_one[both] > 0).astype(np.int64) - (margin_other[both] > 0)
    names, number = np.unique(np.asarray(clusters)[both], return_inverse=True)
    sums = np.bincount(number, weights=difference, minlength=len(names)).astype(np.int64)
    p, p_mid = sign_flip(difference)
    p_clustered, p_clustered_mid = sign_flip(sums)
    return McNemar(
        pairs=int(both.sum()),
        only_one=int((difference > 0).sum()),
        only_other=int((difference < 0).sum()),
        p=p,
        p_mid=p_mid,
        clusters=len(names),
        p_clustered=p_clustered,
        p_clustered_mid=p_clustered_mid,
    )


def sign_flip(differences: np.ndarray) -> tuple[float, float]:
    """(p, mid-p), two-sided, that a sum of int64 [n] differences is as large if each has either sign by a fair coin.

    Exact, but for rounding to about 1e-14 where sums are large: the distribution is the convolution of one binomial for
    each size of difference. With differences of 1 this is McNemar's exact test. The null hypothesis is that within a
    cluster the two models are exchangeable.
    """
    sizes, counts = np.unique(np.abs(differences[differences != 0]), return_counts=True)
    chances = np.ones(1)  # of the sum's values -total, ..., total
    for size, count in zip(sizes.tolist(), counts.tolist(), strict=True):
        own = np.zeros(2 * size * count + 1)
        own[:: 2 * size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.maximum(signal.convolve(chances, own), 0)  # of many by FFT, to about 1e-16
    total = len(chances) // 2
    seen = abs(int(differences.sum()))
    beyond = 2 * float(chances[total + seen + 1 :].sum())
    at = float(chances[total + seen]) * (2 if seen else 1)
    return min(1.0, beyond + at), min(1.0, beyond + at / 2)


def score_differences(
    benchmark: Benchmark, one: np.ndarray, other: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Interval]:
    """Each score of `one` minus that of `other`, with its paired interval, on the items that both have scored.

    Args:
      one, other: rewards float64 [items, most responses] of two models.
    """

    def formula(weights: np.ndarray) -> Scores:
        ours, theirs = benchmark.scores(one, weights), benchmark.scores(other, weights)
        return {name: ours[name] - theirs[name] for name in ours}

    return resampling.benchmark_intervals(
        benchmark, formula, benchmark.scored(one) & benchmark.scored(other), resamples, seed
    )


def agreement_matrix(
    margins: Mapping[str, np.ndarray], clusters: np.ndarray, resamples: int = RESAMPLES, seed: int = 0
) -> pl.DataFrame:
    """How alike each two models judge, a row each two: columns of MATRIX.

    `agreement` is the share of pairs judged alike: right, wrong or a tie by both. Two accurate models agree on most
    pairs whatever they have in common; `kappa` is the agreement beyond what their own shares of right, tied and
    wrong pairs give (the error consistency of Geirhos, Meding and Wichmann, NeurIPS 2020). NaN where there is no
    interval or no kappa.

    Args:
      margins: of each model float64 [pairs] in one order of pairs; NaN where it has none, which leaves the pair out.
      clusters: [pairs].
    """
    clusters = np.asarray(clusters)
    records = []
    for (one, a), (other, b) in itertools.combinations(margins.items(), 2):
        both = np.isfinite(a) & np.isfinite(b)
        cell = (3 * np.sign(a[both]) + np.sign(b[both]) + 4).astype(np.int64)
        sums = resampling.cluster_sums(np.eye(9)[cell], clusters[both])

        def formula(weights: np.ndarray, sums: np.ndarray = sums) -> Scores:
            tables = (weights @ sums).reshape(-1, 3, 3)
            total = tables.sum((1, 2))
            alike = np.trace(tables, axis1=1, axis2=2)
            share = np.divide(alike, total, out=np.full(len(total), np.nan), where=total > 0)
            return {"agreement": share, "kappa": statistics.kappa(tables)}

        found = resampling.intervals(formula, np.arange(len(sums)), resamples, seed)
        row = {"one": one, "other": other, "pairs": int(both.sum()), "clusters": found["kappa"].clusters}
        for name, value in found.items():
            row |= {name: value.estimate, f"{name}_low": value.low, f"{name}_high": value.high}
        records.append(row)
    return pl.DataFrame(records, schema=MATRIX).with_columns(pl.col(pl.Float64).fill_null(float("nan")))
