"""How far annotators agree: raw, Cohen's kappa, Krippendorff's alpha, each with an interval.

Each is a function of sums over items, so a resample of the items is a draw of how often each kind of item appears:
items with the same labels are drawn together, and 2,000 resamples of any number of items take milliseconds.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import polars as pl

from rewardscale.curation.judgements import Judgements
from rewardscale.evaluation import statistics

RESAMPLES = 2000
LEVEL = 0.95
_MATRIX = pl.Schema(
    {
        "one": pl.String,
        "other": pl.String,
        "items": pl.Int64,
        "agreement": pl.Float64,
        "kappa": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
    }
)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """A coefficient of agreement; nan where it is undefined (no item labelled twice, or one label only).

    Attributes:
      value: the coefficient. low, high: its 95 % percentile bootstrap interval over items.
      items: labelled twice or more.
    """

    value: float
    low: float
    high: float
    items: int


def raw_agreement(judgements: Judgements, *, seed: int = 0) -> Agreement:
    """The share of pairs of judgements of one item that are equal, over all such pairs."""
    counts = _labelled_twice(judgements)
    total = counts.sum(1)
    equal = (counts * (counts - 1)).sum(1)
    return _with_interval(np.stack([equal, total * (total - 1)], 1), lambda s: s[:, 0] / s[:, 1], seed)


def krippendorff_alpha(judgements: Judgements, *, seed: int = 0) -> Agreement:
    """Krippendorff's alpha for nominal labels; any number of judgements an item, those judged once left out.

    Source: K. Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), section C and D: 1 minus observed over
    expected disagreement, from the coincidence matrix.
    """
    counts = _labelled_twice(judgements)
    total = counts.sum(1, keepdims=True)
    disagreement = (counts * (total - counts)).sum(1, keepdims=True) / (total - 1)

    def alpha(sums: np.ndarray) -> np.ndarray:
        observed, by_label = sums[:, 0], sums[:, 1:]
        n = by_label.sum(1)
        return 1 - (n - 1) * observed / (n**2 - (by_label**2).sum(1))

    return _with_interval(np.hstack([disagreement, counts]), alpha, seed)


def cohen_kappa(one: np.ndarray, other: np.ndarray, classes: int, *, seed: int = 0) -> Agreement:
    """Cohen's kappa (1960) of two annotators' labels of the same items.

    Args:
      one, other: int [items], 0 to classes - 1.
    """
    table = np.zeros((len(one), classes, classes))
    table[np.arange(len(one)), one, other] = 1

    def kappa(sums: np.ndarray) -> np.ndarray:
        return statistics.kappa(sums.reshape(-1, classes, classes))

    return _with_interval(table.reshape(len(one), classes**2), kappa, seed)


def agreement_matrix(judgements: Judgements, *, seed: int = 0) -> pl.DataFrame:
    """Each two annotators on the items that both labelled (of repeated labels the last).

    Returns: one, other, items, agreement (raw), kappa with its interval low, high; no row for two who share no item.
    """
    latest = np.full((len(judgements.annotators), len(judgements.items)), -1)
    latest[judgements.annotator, judgements.item] = judgements.label
    records = []
    for i, one in enumerate(judgements.annotators):
        for j, other in enumerate(judgements.annotators[:i]):
            both = (latest[i] >= 0) & (latest[j] >= 0)
            if both.any():
                a, b = latest[j][both], latest[i][both]
                kappa = cohen_kappa(a, b, judgements.classes, seed=seed)
                values = (float((a == b).mean()), kappa.value, kappa.low, kappa.high)
                records.append((str(other), str(one), int(both.sum()), *values))
    return pl.DataFrame(records, schema=_MATRIX, orient="row")


def _labelled_twice(judgements: Judgements) -> np.ndarray:
    counts = judgements.counts()
    return counts[counts.sum(1) >= 2]


def _with_interval(
    per_item: np.ndarray, statistic: Callable[[np.ndarray], np.ndarray], seed: int
) -> Agreement:
    """The statistic of the sums of `per_item` [items, s], and its percentile bootstrap interval."""
    n = len(per_item)
    if not n:
        return Agreement(float("nan"), float("nan"), float("nan"), 0)
    kinds, times = np.unique(per_item, axis=0, return_counts=True)
    drawn = np.random.default_rng(seed).multinomial(n, times / n, RESAMPLES)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(statistic(per_item.sum(0, keepdims=True))[0])
        resampled = statistic(drawn @ kinds)
    resampled = resampled[np.isfinite(resampled)]
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(resampled, tails) if len(resampled) else (float("nan"), float("nan"))
    return Agreement(value, float(low), float(high), n)
