"""Over-optimisation in theory: Gao et al.'s form for RL, and a world where best-of-n is known in closed form.

Distances, the form for best-of-n and the unbiased estimator: rewardscale/best_of_n.py. d = sqrt(KL) is the distance
from the initial policy, in square roots of nats.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import log_ndtr

from rewardscale.best_of_n import at_least_one

Array = NDArray[np.float64]


def gao_rl(d: ArrayLike, alpha: float, beta: float) -> Array:
    """Gold reward of RL at distance d, R = d (alpha - beta log d), 0 at d = 0: Gao et al. 2022, section 3.1.

    Its slope at d = 0 is infinite; its authors expect it to fail there.
    """
    distance = np.asarray(d, dtype=np.float64)
    log = np.log(np.where(distance > 0, distance, 1.0))
    return distance * (alpha - beta * log)


def gao_rl_peak(alpha: float, beta: float) -> tuple[float, float]:
    """(d*, R*) where ``gao_rl`` is largest: exp(alpha/beta - 1), beta d*; (inf, inf) if beta <= 0."""
    if beta <= 0:
        return np.inf, np.inf
    peak = float(np.exp(alpha / beta - 1))
    return peak, beta * peak


def expected_maximum(n: ArrayLike) -> Array:
    """E[largest of n standard normals], elementwise, for 1 <= n <= 1e15: integral of 1 - Phi^n, to 1e-10.

    Real n are allowed. For large n it is below sqrt(2 log n).
    """
    count = at_least_one(n)
    if np.any(count > 1e15):
        raise ValueError(f"n must be at most 1e15; got {n}")
    # The integrand is 1 at one end and 0 at the other, flat at both: the trapezoid rule converges fast.
    x = np.linspace(-12.0, 12.0, 2401)
    above = -np.expm1(count[..., None] * log_ndtr(x))
    return np.trapezoid(above, x, axis=-1) - 12.0


def gaussian_best_of_n_gold(n: ArrayLike, correlation: float, gold_sd: float = 1.0) -> Array:
    """Gold reward of best-of-n, over the initial policy's, where proxy and gold are jointly Gaussian:
    gold_sd · correlation · E[largest of n standard normals].

    A linear student of a linear gold on Gaussian responses. It grows for ever, nearly as sqrt(2) d: this
    world has no over-optimisation peak whatever the noise, and Gao's beta fitted to it is negative. A peak
    needs a proxy whose error has the heavier tail, i.e. a student that is wrong in kind.
    """
    if not -1 <= correlation <= 1 or not gold_sd > 0:
        raise ValueError(f"need correlation in [-1, 1] and gold_sd > 0; got {correlation} and {gold_sd}")
    return gold_sd * correlation * expected_maximum(n)
