"""Best-of-n: its distance from the initial policy, the unbiased estimator of what it is worth, Gao et al.'s form.

Best-of-n draws n responses and takes the one a proxy reward ranks first; what it is worth is the *gold*
reward of that one. d = sqrt(KL) is the distance from the initial policy, in square roots of nats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def kl(n: ArrayLike) -> Array:
    """KL(best-of-n || initial policy) in nats: log n - (n-1)/n, elementwise.

    Gao, Schulman and Hilton 2022 (arXiv 2210.10760), section 2. Exact where the proxy has no ties; else an
    upper bound (Beirami et al. 2024, arXiv 2401.01879). Raises ValueError for n < 1.
    """
    count = at_least_one(n)
    return np.log(count) - (count - 1) / count


def gao(d: ArrayLike, alpha: float, beta: float) -> Array:
    """Gold reward of best-of-n at distance d, R = d (alpha - beta d): Gao et al. 2022, section 3.1."""
    distance = np.asarray(d, dtype=np.float64)
    return distance * (alpha - beta * distance)


def gao_peak(alpha: float, beta: float) -> tuple[float, float]:
    """(d*, R*) where ``gao`` is largest: alpha/(2 beta), alpha^2/(4 beta).

    (inf, inf) if beta <= 0: nothing is over-optimised. ValueError unless alpha > 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha must be positive for best-of-n to help at all; got {alpha}")
    if beta <= 0:
        return np.inf, np.inf
    return alpha / (2 * beta), alpha**2 / (4 * beta)


def rank_weights(samples: int, n: int) -> Array:
    """Probability, (samples,), that the i-th lowest of N samples is the best of n drawn without replacement.

    C(i-1, n-1)/C(N, n), zero for i < n; by the recursion w_N = n/N, w_(i-1) = w_i (i-n)/(i-1) in logs, so no
    factorial is formed. ValueError unless 1 <= n <= samples.
    """
    if not 1 <= n <= samples:
        raise ValueError(f"n must lie in 1..{samples}, the number of samples; got {n}")
    weight = np.zeros(samples)
    i = np.arange(samples, n, -1, dtype=np.float64)  # steps from N down to n+1
    steps = np.concatenate([[0.0], np.cumsum(np.log1p(-(n - 1) / (i - 1)))])
    weight[n - 1 :] = (n / samples * np.exp(steps))[::-1]
    return weight


def estimate(proxy: ArrayLike, gold: ArrayLike, n: ArrayLike) -> Array:
    """Gold reward of best-of-n by ``proxy``, estimated without bias from N samples a prompt.

    ``proxy`` and ``gold`` are (..., samples); returns (...,) + shape of ``n``. The mean over all subsets of
    n samples, sum_i C(i-1, n-1)/C(N, n) gold_i over samples in rising order of proxy: Nakano et al. 2021
    (WebGPT, arXiv 2112.09332), appendix I. Samples of equal proxy share their weight, as if the tie were
    broken at random. Raises ValueError where shapes differ, n is not whole or n > samples.
    """
    scores, rewards = np.asarray(proxy, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    counts = np.asarray(n)
    if scores.shape != rewards.shape or scores.ndim < 1:
        raise ValueError(f"proxy and gold must share a shape; got {scores.shape} and {rewards.shape}")
    if not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(f"n must be whole numbers; got {n}")
    samples = scores.shape[-1]
    order = np.argsort(scores, axis=-1, kind="stable")
    ranked = np.take_along_axis(rewards, order, axis=-1)
    shared = _tie_means(np.take_along_axis(scores, order, axis=-1), ranked)
    weights = np.stack([rank_weights(samples, int(count)) for count in counts.ravel()])
    return (shared @ weights.T).reshape(scores.shape[:-1] + counts.shape)[()]


def _tie_means(ranked_scores: Array, ranked_gold: Array) -> Array:
    """Gold, in order of proxy, each replaced by the mean over the samples of the same prompt and proxy."""
    starts = np.ones(ranked_scores.shape, dtype=bool)
    starts[..., 1:] = ranked_scores[..., 1:] != ranked_scores[..., :-1]
    group = np.cumsum(starts.ravel()) - 1  # every prompt begins a group
    mean = np.bincount(group, weights=ranked_gold.ravel()) / np.bincount(group)
    return mean[group].reshape(ranked_gold.shape)


def at_least_one(n: ArrayLike) -> Array:
    """`n` as float64. Raises ValueError for any n < 1."""
    count = np.asarray(n, dtype=np.float64)
    if not np.all(count >= 1):
        raise ValueError(f"n must be at least 1; got {n}")
    return count
