"""What a reward model is worth as a chooser: the quality of its best of n responses, and how far that can be pushed.

Of K sampled responses a prompt, the expected quality of the one that the reward ranks first among n of them is the
mean over all subsets of n, without bias (rewardscale/best_of_n.py); tied responses share. Its mean over prompts is a
curve over n, or over KL = log n - (n - 1) / n from the policy that was sampled. Between two bounds: a response drawn at
random (n = 1), and the oracle, which ranks by quality itself. With a gold reward for the quality, the same curve is
Goodhart's: proxy against gold.
"""

import dataclasses

import numpy as np

from rewardscale import best_of_n
from rewardscale.data.comparison import DataError
from rewardscale.evaluation import resampling
from rewardscale.evaluation.benchmarks.base import Scores
from rewardscale.evaluation.resampling import RESAMPLES, Interval


@dataclasses.dataclass(frozen=True)
class BestOfN:
    """Expected quality of the best of n, for n = 1, ..., the number of samples used.

    Attributes:
      n: int64 [N]. kl: nats [N].
      chosen, low, high: mean quality of the reward's choice, with pointwise 95 % limits (NaN where there are none).
      oracle: of the best response there is [N]. random: of a response at random.
      captured, captured_low, captured_high: share of the oracle's gain over random that the choice has [N]; NaN at
        n = 1.
      prompts, clusters: how many the means are over.
      too_few, unscored: prompts left out: of fewer than N samples; with a sample that has a quality and no reward.
    """

    n: np.ndarray
    kl: np.ndarray
    chosen: np.ndarray
    low: np.ndarray
    high: np.ndarray
    oracle: np.ndarray
    random: float
    captured: np.ndarray
    captured_low: np.ndarray
    captured_high: np.ndarray
    prompts: int
    clusters: int
    too_few: int
    unscored: int


@dataclasses.dataclass(frozen=True)
class Goodhart:
    """Gold and proxy reward of the proxy's best of n, over n = 1; each in standard deviations within a prompt.

    Attributes:
      n, distance: int64 [N], and d = sqrt(KL).
      gold, gold_low, gold_high, proxy, proxy_low, proxy_high: gains [N] with pointwise 95 % limits.
      gold_sd, proxy_sd: the units.
      alpha, beta: of R(d) = d (alpha - beta d) fitted to the gold gains.
      peak: the d where that form is largest; inf if beta <= 0, nan if alpha <= 0.
      prompts, clusters, too_few, unscored: as of BestOfN.
    """

    n: np.ndarray
    distance: np.ndarray
    gold: np.ndarray
    gold_low: np.ndarray
    gold_high: np.ndarray
    proxy: np.ndarray
    proxy_low: np.ndarray
    proxy_high: np.ndarray
    gold_sd: float
    proxy_sd: float
    alpha: Interval
    beta: Interval
    peak: float
    prompts: int
    clusters: int
    too_few: int
    unscored: int


def curve(
    rewards: np.ndarray,
    quality: np.ndarray,
    clusters: np.ndarray | None = None,
    *,
    most: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> BestOfN:
    """The curve of `quality` under choice by `rewards`.

    All n are of the same prompts, those with at least `most` samples, for otherwise the curve would also show which
    prompts have many.

    Args:
      rewards, quality: float64 [prompts, samples], NaN beyond a prompt's samples.
      clusters: [prompts]; by default each prompt is one.
      most: the largest n; by default the fewest samples that a prompt has.

    Raises DataError if no prompt is left.
    """
    kept = _Samples.of(rewards, quality, clusters, most)
    n = np.arange(1, kept.most + 1)
    chosen, oracle = kept.best_of(n, kept.quality), kept.best_of(n, kept.quality, by=kept.quality)

    def formula(weights: np.ndarray) -> Scores:
        means, best = _means(weights, chosen), _means(weights, oracle)
        return {"chosen": means, "oracle": best, "captured": _captured(means, best)}

    seen = {name: values[0] for name, values in formula(np.ones((1, len(chosen)))).items()}
    drawn = resampling.resampled(formula, kept.clusters, resamples, seed)
    low, high = resampling.limits(drawn["chosen"], kept.count)
    captured_low, captured_high = resampling.limits(drawn["captured"], kept.count)
    return BestOfN(
        n=n,
        kl=best_of_n.kl(n),
        chosen=seen["chosen"],
        low=low,
        high=high,
        oracle=seen["oracle"],
        random=float(seen["chosen"][0]),
        captured=seen["captured"],
        captured_low=captured_low,
        captured_high=captured_high,
        **kept.counts,
    )


def goodhart(
    proxy: np.ndarray,
    gold: np.ndarray,
    clusters: np.ndarray | None = None,
    *,
    most: int | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Goodhart:
    """Gold against proxy reward along the proxy's best of n; arguments as of `curve`.

    Raises DataError if no prompt is left, or one of the two is constant within every prompt, or most is below 3.
    """
    kept = _Samples.of(proxy, gold, clusters, most)
    if kept.most < 3:
        raise DataError(f"best of {kept.most} samples: a curve of two parameters needs n up to 3 at least")
    n = np.arange(1, kept.most + 1)
    units = {name: _sd_within(values) for name, values in (("gold", kept.quality), ("proxy", kept.rewards))}
    for name, sd in units.items():
        if not sd > 0:
            raise DataError(f"the {name} reward is the same for all responses of every prompt")
    gold_of = kept.best_of(n, kept.quality) / units["gold"]
    proxy_of = kept.best_of(n, kept.rewards) / units["proxy"]
    distance = np.sqrt(best_of_n.kl(n))

    def formula(weights: np.ndarray) -> Scores:
        gains = {"gold": _means(weights, gold_of), "proxy": _means(weights, proxy_of)}
        gains = {name: values - values[:, :1] for name, values in gains.items()}
        alpha, beta = fit_gao(distance, gains["gold"])
        return {**gains, "alpha": alpha, "beta": beta}

    seen = {name: values[0] for name, values in formula(np.ones((1, len(gold_of)))).items()}
    drawn = resampling.resampled(formula, kept.clusters, resamples, seed)
    ends = {name: resampling.limits(drawn[name], kept.count) for name in ("gold", "proxy")}
    alpha, beta = (
        resampling.interval(float(seen[name]), drawn[name], kept.count, len(gold_of))
        for name in ("alpha", "beta")
    )
    return Goodhart(
        n=n,
        distance=distance,
        gold=seen["gold"],
        gold_low=ends["gold"][0],
        gold_high=ends["gold"][1],
        proxy=seen["proxy"],
        proxy_low=ends["proxy"][0],
        proxy_high=ends["proxy"][1],
        gold_sd=units["gold"],
        proxy_sd=units["proxy"],
        alpha=alpha,
        beta=beta,
        peak=best_of_n.gao_peak(alpha.estimate, beta.estimate)[0] if alpha.estimate > 0 else float("nan"),
        **kept.counts,
    )


def fit_gao(distance: np.ndarray, gain: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(alpha, beta) [...] of R(d) = d (alpha - beta d), by least squares over gains [..., N] at distances [N].

    Gao, Schulman and Hilton (arXiv 2210.10760): the form of best-of-n, R_bon, unnumbered in their introduction and
    fitted in section 3.1. A point counts by the stretch of d that it stands for: n is dense where d hardly moves.
    """
    weight = np.sqrt(np.abs(np.gradient(distance)))
    design = np.stack([distance, -(distance**2)], axis=1) * weight[:, None]
    solution = (gain * weight) @ np.linalg.pinv(design).T
    return solution[..., 0], solution[..., 1]


@dataclasses.dataclass(frozen=True)
class _Samples:
    """The prompts whose samples can be used, by rows: rewards, quality [prompts, K], clusters [prompts]."""

    rewards: np.ndarray
    quality: np.ndarray
    clusters: np.ndarray
    most: int
    too_few: int
    unscored: int

    @classmethod
    def of(
        cls, rewards: np.ndarray, quality: np.ndarray, clusters: np.ndarray | None, most: int | None
    ) -> "_Samples":
        if rewards.shape != quality.shape or rewards.ndim != 2:
            raise ValueError(
                f"rewards and quality are of one shape [prompts, samples], not {rewards.shape}, {quality.shape}"
            )
        drawn = np.arange(len(rewards)) if clusters is None else np.asarray(clusters)
        there = np.isfinite(quality)
        scored = (np.isfinite(rewards) | ~there).all(axis=1)
        counts = there.sum(axis=1)
        usable = counts[scored & (counts > 0)]
        largest = most or (int(usable.min()) if len(usable) else 1)
        enough = counts >= largest
        kept = scored & enough
        if not kept.any():
            raise DataError(
                f"none of {len(rewards)} prompts has {largest} responses with rewards: choose a smaller n"
            )
        return cls(
            rewards=np.where(there, rewards, np.nan)[kept],
            quality=np.where(there, quality, np.nan)[kept],
            clusters=drawn[kept],
            most=largest,
            too_few=int((scored & ~enough).sum()),
            unscored=int((~scored).sum()),
        )

    @property
    def count(self) -> int:
        return len(np.unique(self.clusters))

    @property
    def counts(self) -> dict[str, int]:
        return {
            "prompts": len(self.clusters),
            "clusters": self.count,
            "too_few": self.too_few,
            "unscored": self.unscored,
        }

    def best_of(self, n: np.ndarray, values: np.ndarray, by: np.ndarray | None = None) -> np.ndarray:
        """float64 [prompts, N]: expected `values` of the best of n by the rewards, or by `by`."""
        ranked = self.rewards if by is None else by
        sizes = np.isfinite(values).sum(axis=1)
        out = np.empty((len(values), len(n)))
        for size in np.unique(sizes):  # prompts of as many samples at once
            own = sizes == size
            there = np.isfinite(values[own])
            shape = (int(own.sum()), int(size))
            out[own] = best_of_n.estimate(
                ranked[own][there].reshape(shape), values[own][there].reshape(shape), n
            )
        return out


def _means(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted means [resamples, N] of values [prompts, N]."""
    return weights @ values / weights.sum(axis=1, keepdims=True)


def _captured(means: np.ndarray, best: np.ndarray) -> np.ndarray:
    gain, most = means - means[:, :1], best - best[:, :1]
    return np.divide(gain, most, out=np.full(gain.shape, np.nan), where=most > 1e-12)


def _sd_within(values: np.ndarray) -> float:
    """Standard deviation around each prompt's mean, over all samples, NaN left out."""
    known = np.isfinite(values)
    residual = values - np.nanmean(values, axis=1, keepdims=True)
    return float(np.sqrt(np.mean(residual[known] ** 2)))
