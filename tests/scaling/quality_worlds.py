"""SYNTHETIC levels of quality with a planted mechanism: losses from a formula, no model was trained.

L_q(D) = E_q + B_q D^-beta_q, times 1 + noise. The noise of a draw is correlated along sizes (subsets are
nested) and partly shared by levels (a draw's permutation serves all), as in a sweep.
"""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rewardscale.scaling.points import Points, from_draws

SIZES = np.geomspace(500, 32_000, 7)
# As measured for flips of Bradley-Terry labels, for biased labels, and for flips of labels that follow gold.
MECHANISMS = {
    "shared": ([0.30, 0.30, 0.30], [3.0, 3.0, 3.0], [0.40, 0.40, 0.40]),
    "offset": ([0.30, 0.30, 0.30], [4.5, 3.6, 3.0], [0.40, 0.40, 0.40]),
    "floor": ([0.128, 0.030, 0.006], [2.2, 2.2, 2.2], [0.50, 0.50, 0.50]),
    "exponent": ([0.0, 0.0, 0.0], [2.4, 2.6, 60.0], [0.50, 0.55, 0.97]),
}


def correlated_noise(rng: np.random.Generator, draws: int, levels: int) -> NDArray[np.float64]:
    """[draws, levels * sizes], unit variance: half is shared by levels, neighbours along size correlate by 0.7."""

    def along_sizes(count: int) -> NDArray[np.float64]:
        fresh = rng.standard_normal((draws, count, len(SIZES)))
        out = fresh.copy()
        for i in range(1, len(SIZES)):
            out[..., i] = 0.7 * out[..., i - 1] + np.sqrt(1 - 0.7**2) * fresh[..., i]
        return out

    mixed = np.sqrt(0.5) * (along_sizes(levels) + along_sizes(1))
    return mixed.reshape(draws, -1)


def synthetic_levels(
    mechanism: str, *, draws: int = 8, noise: float = 0.02, levels: int = 3, seed: int = 0
) -> Points:
    """SYNTHETIC points of levels "raw", "filtered", "gold" (the first ``levels`` of them) with a planted mechanism."""
    rng = np.random.default_rng([seed, 0x51])
    number = np.repeat(np.arange(levels), len(SIZES))
    pairs = np.tile(SIZES, levels)
    floor, scale, exponent = (np.array(v)[number] for v in MECHANISMS[mechanism])
    truth = floor + scale * pairs**-exponent
    losses = truth * (1 + noise * (pairs / 500) ** -0.15 * correlated_noise(rng, draws, levels))
    names = [("raw", "filtered", "gold")[q] for q in number]
    return from_draws({"pairs": pairs}, losses, pl.DataFrame({"level": names, "pairs": pairs}))
