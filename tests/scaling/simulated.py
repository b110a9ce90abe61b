"""SIMULATED students for the tests of the theory: Gaussian features, planted gold, logistic regression.

Gold weights lie along the first feature, with length sd, so margins are N(0, sd^2) nats. Nothing is taken
from the code under test.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, ndtr

Array = NDArray[np.float64]
Labels = NDArray[np.bool_]
# (rng, pairs, dimension) -> features (n, dimension) and labels (n,), n <= pairs where a curator drops some.
World = Callable[[np.random.Generator, int, int], tuple[Array, Labels]]
GAUSS_X, GAUSS_W = np.polynomial.hermite_e.hermegauss(61)
GAUSS_W = GAUSS_W / GAUSS_W.sum()


def fit(features: Array, labels: Labels, ridge: float = 1e-6) -> Array:
    """Weights (d,) of the logistic regression of ``labels``, by Newton's method with step halving."""
    signed = np.where(labels, 1.0, -1.0)[:, None] * features
    weights = np.zeros(features.shape[1])
    loss = np.log(2) * len(signed)
    for _ in range(200):
        miss = expit(-(signed @ weights))
        gradient = ridge * weights - signed.T @ miss
        hessian = (signed * (miss * (1 - miss))[:, None]).T @ signed
        hessian[np.diag_indices_from(hessian)] += ridge
        step = -np.linalg.solve(hessian, gradient)
        promised = -(gradient @ step)
        if promised < 1e-9 * max(loss, 1e-3):
            return weights
        size = 1.0
        while (new := _loss(signed, weights + size * step, ridge)) > loss - 1e-4 * size * promised:
            size /= 2
            assert size > 1e-12, "the simulated logistic regression did not converge"
        weights, loss = weights + size * step, new
    raise AssertionError("the simulated logistic regression did not converge in 200 Newton steps")


def _loss(signed: Array, weights: Array, ridge: float) -> float:
    return float(np.logaddexp(0, -(signed @ weights)).sum() + ridge / 2 * weights @ weights)


def sampled(sd: float, eta: float = 0.0) -> World:
    """Bradley-Terry labels of gold, flipped at rate eta."""

    def draw(rng: np.random.Generator, pairs: int, dimension: int) -> tuple[Array, Labels]:
        x = rng.normal(size=(pairs, dimension))
        return x, (rng.random(pairs) < expit(sd * x[:, 0])) ^ (rng.random(pairs) < eta)

    return draw


def deterministic(eta: float = 0.0) -> World:
    """Gold's sign, flipped at rate eta."""

    def draw(rng: np.random.Generator, pairs: int, dimension: int) -> tuple[Array, Labels]:
        x = rng.normal(size=(pairs, dimension))
        return x, (x[:, 0] > 0) ^ (rng.random(pairs) < eta)

    return draw


def angle(weights: Array) -> float:
    """Between ``weights`` and gold, radians."""
    return float(np.arctan2(np.linalg.norm(weights[1:]), weights[0]))


def angles(seed: int, world: World, *, pairs: int, dimension: int, repeats: int) -> Array:
    """Angle (repeats,) of students trained on fresh pairs, radians."""
    rng = np.random.default_rng(seed)
    found = np.empty(repeats)
    for i in range(repeats):
        found[i] = angle(fit(*world(rng, pairs, dimension)))
    return found


def variance(seed: int, world: World, *, pairs: int, dimension: int, repeats: int) -> tuple[float, float]:
    """pairs · tan^2(angle) / (dimension - 1), its mean over students and that mean's standard error.

    The tangent is the ratio of orthogonal to parallel weight: closer to linear in the noise than the angle.
    """
    tangent = np.tan(angles(seed, world, pairs=pairs, dimension=dimension, repeats=repeats))
    return mean_and_error(pairs * tangent**2 / (dimension - 1))


def mean_and_error(values: Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def ratio(upper: tuple[float, float], lower: tuple[float, float]) -> tuple[float, float]:
    """Of two independent means with their standard errors: the ratio and its standard error."""
    value = upper[0] / lower[0]
    return value, value * np.hypot(upper[1] / upper[0], lower[1] / lower[0])


def slope(pairs: list[int], errors: list[Array]) -> tuple[float, float]:
    """Of log(mean error) against log(pairs), and its standard error from the spread over students."""
    x = np.log(pairs)
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    means = [mean_and_error(e) for e in errors]
    value = sum(xi * np.log(m) for xi, (m, _) in zip(x, means, strict=True))
    return float(value), float(np.sqrt(sum((xi * s / m) ** 2 for xi, (m, s) in zip(x, means, strict=True))))


def recalibrated_loss(tilt: float, sd: float | None) -> float:
    """Least log-loss over all temperatures of a student at angle ``tilt`` from gold, nats a pair.

    Test labels are Bradley-Terry with margins of that ``sd``, or gold's sign if it is None. Quadrature, so
    the test set is infinite: the student's score u is standard normal, gold given u is N(u cos, sin^2).
    """
    u = 10 * np.linspace(0, 1, 1001) ** 4  # both signs are alike; fine near zero, where the signs disagree
    weight = np.gradient(u) * np.exp(-(u**2) / 2)
    weight /= weight.sum()
    if sd is None:
        wrong = ndtr(-u / np.tan(tilt))
    else:
        wrong = expit(-sd * (np.cos(tilt) * u[:, None] + np.sin(tilt) * GAUSS_X)) @ GAUSS_W

    def loss(log_scale: float) -> float:
        margin = np.exp(log_scale) * u
        return float(weight @ (np.logaddexp(0, -margin) + wrong * margin))

    best: Any = minimize_scalar(loss, bounds=(-4, 12), method="bounded", options={"xatol": 1e-9})
    return float(best.fun)
