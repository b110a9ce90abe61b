"""Whether rewards mean the probabilities they claim: sigmoid(r_better - r_worse) against how often that is right.

Of a pair the model claims that the response it prefers is better with confidence sigmoid(|margin|), between 1/2 and 1;
it is right, wrong, or tied (confidence 1/2, half right). All is told raw and after one temperature, which is fitted
on other clusters than it is judged on: clusters are dealt into two halves, and each half's margins are divided by
the temperature of the other.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from rewardscale.data.comparison import DataError
from rewardscale.data.describe.frames import wilson
from rewardscale.evaluation import resampling, statistics
from rewardscale.evaluation.resampling import RESAMPLES, Interval

BINS = 10


@dataclasses.dataclass(frozen=True)
class Bin:
    """Pairs of neighbouring confidence.

    Attributes:
      pairs, clusters: counts. confidence: mean. right: share of right pairs, ties half.
      low, high: 95 % Wilson interval of `right`, of as many independent pairs as these clustered ones are worth.
      variance: of `right`, by clusters.
    """

    pairs: int
    clusters: int
    confidence: float
    right: float
    low: float
    high: float
    variance: float


@dataclasses.dataclass(frozen=True)
class CalibrationScores:
    """Calibration of some margins.

    Attributes:
      pairs: how many. accuracy: with ties half right.
      nll: mean log-loss, nats a pair. brier: mean squared distance of sigmoid(margin) from 1.
      ece: expected calibration error over the bins: mean over pairs of |right - confidence| of their bin.
      ece_debiased, rms_debiased: less what noise alone adds to it; the root mean square of the same gaps (`ece`).
      bins: the reliability diagram, by rising confidence.
    """

    pairs: int
    accuracy: float
    nll: float
    brier: float
    ece: float
    ece_debiased: float
    rms_debiased: float
    bins: tuple[Bin, ...]


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Calibration of a model on labelled pairs.

    Attributes:
      pairs, clusters: counts. unscored: pairs left out because a response has no reward.
      raw, scaled: scores as they are and at temperatures of the other half; `scaled` is None where `note` says why.
      temperatures: of the two halves, each fitted on it and used on the other.
      temperature: fitted on all pairs, the one to keep with the model; None where no finite one fits best, for all
        pairs are right, or the margins are not above 0 on average.
      intervals: of "nll", "brier" raw, with "_scaled" at the temperatures found, with "_gain" raw less scaled.
      groups: grouping ("domain", "length") -> group -> (raw, scaled), at the same temperatures.
    """

    pairs: int
    clusters: int
    unscored: int
    raw: CalibrationScores
    scaled: CalibrationScores | None
    temperatures: tuple[float, float] | None
    temperature: float | None
    intervals: Mapping[str, Interval]
    groups: Mapping[str, Mapping[str, tuple[CalibrationScores, CalibrationScores | None]]]
    note: str = ""


def calibrate(
    margin: np.ndarray,
    clusters: np.ndarray,
    groups: Mapping[str, np.ndarray] | None = None,
    *,
    bins: int = BINS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Calibration:
    """Calibration of margins float64 [pairs] = r_better - r_worse; NaN where a pair has none.

    Args:
      clusters: [pairs]. groups: of each grouping a name a pair: {"domain": [pairs], "length": length_groups(...)}.

    Raises DataError if no pair has a margin.
    """
    known = np.isfinite(margin)
    if not known.any():
        raise DataError(
            f"none of {len(margin)} pairs has the rewards of both responses: nothing to calibrate"
        )
    kept, drawn = margin[known], np.asarray(clusters)[known]
    scaled, temperatures, note = cross_fitted(kept, drawn, seed)

    def scores(which: np.ndarray) -> tuple[CalibrationScores, CalibrationScores | None]:
        after = None if scaled is None else calibration_scores(scaled[which], drawn[which], bins)
        return calibration_scores(kept[which], drawn[which], bins), after

    by_group = {}
    for grouping, names in (groups or {}).items():
        own = np.asarray(names)[known]
        by_group[grouping] = {str(name): scores(own == name) for name in np.unique(own)}
    raw, after = scores(np.ones(len(kept), bool))
    return Calibration(
        pairs=len(kept),
        clusters=len(np.unique(drawn)),
        unscored=int((~known).sum()),
        raw=raw,
        scaled=after,
        temperatures=temperatures,
        temperature=None if _all_right(kept) or kept.mean() <= 0 else statistics.fit_temperature(kept),
        intervals=_intervals(kept, scaled, drawn, resamples, seed),
        groups=by_group,
        note=note,
    )


def calibration_scores(margin: np.ndarray, clusters: np.ndarray, bins: int = BINS) -> CalibrationScores:
    """Scores of margins [pairs], all finite, at least one."""
    diagram = reliability(margin, clusters, bins)
    error, debiased, rms = ece(diagram)
    return CalibrationScores(
        pairs=len(margin),
        accuracy=float(_right(margin).mean()),
        nll=statistics.log_loss(margin),
        brier=float(_brier(margin).mean()),
        ece=error,
        ece_debiased=debiased,
        rms_debiased=rms,
        bins=diagram,
    )


def reliability(margin: np.ndarray, clusters: np.ndarray, bins: int = BINS) -> tuple[Bin, ...]:
    """The reliability diagram in at most `bins` bins of about equally many pairs.

    Pairs of one confidence share a bin, so the order of pairs decides nothing and ties stay together.
    """
    confidence, right = special.expit(np.abs(margin)), _right(margin)
    _, which, counts = np.unique(np.abs(margin), return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2  # of the ranks that a value holds
    number = np.minimum((bins * middle / len(margin)).astype(np.int64), bins - 1)[which]
    found = []
    for own in (number == one for one in np.unique(number)):
        share, n = float(right[own].mean()), int(own.sum())
        variance, independent = _clustered(right[own], np.asarray(clusters)[own])
        low, high = (
            float(end[0]) for end in wilson(np.array([share * independent]), np.array([independent]))
        )
        of_clusters = len(np.unique(np.asarray(clusters)[own]))
        found.append(Bin(n, of_clusters, float(confidence[own].mean()), share, low, high, variance))
    return tuple(found)


def _clustered(right: np.ndarray, clusters: np.ndarray) -> tuple[float, float]:
    """(variance of the mean by clusters, how many independent pairs would have it), at most as many as there are.

    The number is n over the design effect; where clusters cannot tell (one, or all right), Kish's (sum n)^2 / sum n^2.
    """
    share, n = right.mean(), len(right)
    names, number, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    kish = float(n**2 / (sizes**2).sum())
    residual = np.bincount(number, weights=right - share, minlength=len(names))
    variance = float((residual**2).sum() / n**2 * len(names) / max(len(names) - 1, 1))
    spread = float(share * (1 - share))
    if len(names) < 2 or variance <= 0 or spread <= 0:
        return spread / kish, kish
    effect = variance / (spread / (n - 1))
    return variance, float(np.clip(n / effect, 1.0, n))


def ece(bins: Sequence[Bin]) -> tuple[float, float, float]:
    """(expected calibration error, the same with less bias, root mean square calibration error without bias).

    The plain one is above 0 for a perfectly calibrated model, for each bin's share is noisy. If it is normal around
    the truth with the bin's variance s^2, a gap d grows to E|N(d, s^2)|: what noise would add to the gaps seen is taken
    off once, which leaves some 60 % of a calibrated model's error. Squares can be rid of it all: d^2 - s^2 has the
    right mean. Kumar, Liang and Ma, "Verified uncertainty calibration" (NeurIPS 2019), section 5 for the squares; the
    first is what the library they publish simulates, in closed form. Variances are by clusters; neither is below 0.
    """
    weight = np.array([b.pairs for b in bins], np.float64)
    weight /= weight.sum()
    gap = np.abs([b.right - b.confidence for b in bins])
    variance = np.array([b.variance for b in bins])
    sd = np.sqrt(variance)
    z = np.divide(gap, sd, out=np.full(len(gap), np.inf), where=sd > 0)
    folded = sd * np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2) + gap * (1 - 2 * special.ndtr(-z))
    debiased, square = float(weight @ (2 * gap - folded)), float(weight @ (gap**2 - variance))
    return float(weight @ gap), max(0.0, debiased), float(np.sqrt(max(0.0, square)))


def cross_fitted(
    margin: np.ndarray, clusters: np.ndarray, seed: int = 0
) -> tuple[np.ndarray | None, tuple[float, float] | None, str]:
    """(margins over the temperature of the other half, the temperature fitted on each half, "").

    (None, None, why) if there is one cluster, or a half without a single wrong pair: its likelihood grows for ever as
    the temperature falls.
    """
    first = halves(clusters, seed)
    if first.all() or not first.any():
        return None, None, "one cluster: no second half to fit a temperature on"
    for own in (first, ~first):
        if _all_right(margin[own]):
            return None, None, f"all {own.sum()} pairs of a half are right: no temperature fits them best"
    one, other = (statistics.fit_temperature(margin[own]) for own in (first, ~first))
    return margin / np.where(first, other, one), (one, other), ""


def halves(clusters: np.ndarray, seed: int = 0) -> np.ndarray:
    """bool [pairs]: the first of two random halves of about equally many pairs, whole clusters in each."""
    names, number, sizes = np.unique(np.asarray(clusters), return_inverse=True, return_counts=True)
    order = np.random.default_rng([0xCA1, seed]).permutation(len(names))
    before = np.cumsum(sizes[order]) - sizes[order] / 2
    first = np.zeros(len(names), bool)
    first[order] = before <= len(number) / 2
    return first[number]


def length_groups(lengths: np.ndarray, groups: int = 4) -> np.ndarray:
    """A name [pairs] by quantiles of the lengths [pairs]: "1: 12-80", "2: 81-200", ... by rising length; 9 at most."""
    edges = np.unique(np.quantile(lengths, np.arange(1, groups) / groups, method="inverted_cdf"))
    number = np.searchsorted(edges, lengths, side="left")
    names = {}
    for one in np.unique(number):
        own = lengths[number == one]
        names[one] = f"{len(names) + 1}: {own.min():,.0f}-{own.max():,.0f}"
    return np.array([names[one] for one in number])


def _right(margin: np.ndarray) -> np.ndarray:
    """1 for a right pair, 1/2 for a tie, 0 for a wrong one."""
    return (np.sign(margin) + 1) / 2


def _brier(margin: np.ndarray) -> np.ndarray:
    return special.expit(-margin) ** 2


def _all_right(margin: np.ndarray) -> bool:
    return bool((margin >= 0).all() and (margin > 0).any())


def _intervals(
    raw: np.ndarray, scaled: np.ndarray | None, clusters: np.ndarray, resamples: int, seed: int
) -> dict[str, Interval]:
    each = {"nll": np.logaddexp(0.0, -raw), "brier": _brier(raw)}
    if scaled is not None:
        after = {"nll": np.logaddexp(0.0, -scaled), "brier": _brier(scaled)}
        each |= {f"{name}_scaled": values for name, values in after.items()}
        each |= {f"{name}_gain": each[name] - values for name, values in after.items()}
    return resampling.mean_intervals(each, clusters, resamples, seed)
