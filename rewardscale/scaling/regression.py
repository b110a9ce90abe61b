"""Straight lines in log-log: the exponent of y ~ x^a, as the scaling-law papers regress it.

For exponents of *derived* quantities, such as the best model size at each compute budget (Hoffmann et al.
2022, approaches 1 and 2; Porian et al. 2024). Losses have floors, which no line in log-log has: those are what
``fit`` is for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardscale.scaling.fit import FitError


@dataclass(frozen=True)
class LogLog:
    """y = exp(intercept) x^exponent.

    ``se_exponent`` and ``se_intercept`` are the usual standard errors of (weighted) least squares, from the
    residuals with n - 2 degrees of freedom; None with two points. They take the points as independent, with
    variances proportional to 1 / weight: points that share runs need ``resample`` instead. ``r2`` is the
    (weighted) share of variance explained.
    """

    exponent: float
    intercept: float
    se_exponent: float | None
    se_intercept: float | None
    r2: float

    def predict(self, x: ArrayLike) -> NDArray[np.float64]:
        """exp(intercept) x^exponent, elementwise."""
        return np.exp(self.intercept + self.exponent * np.log(np.asarray(x, np.float64)))


def log_log(x: ArrayLike, y: ArrayLike, weight: ArrayLike | None = None) -> LogLog:
    """Weighted least squares of log y on log x, all [n].

    ``weight`` [n] multiplies squared residuals: 1 / variance of log y makes it efficient, which is the
    "weighted" fit of Porian et al. 2024 (arXiv 2406.19146): residuals of log N* over their bootstrap standard
    deviations.

    Raises FitError for arrays that are not finite numbers above 0 of one length, and for fewer than two different x.
    """
    arrays = {"x": x, "y": y, "weight": np.ones(np.shape(x)) if weight is None else weight}
    xs, ys, w = (_positive(name, values) for name, values in arrays.items())
    if not xs.shape == ys.shape == w.shape:
        raise FitError(f"x, y and weight must have one length, got {len(xs)}, {len(ys)} and {len(w)}")
    u, v, w = np.log(xs), np.log(ys), w / w.sum()
    if len(u) < 2 or np.ptp(u) == 0:
        raise FitError(f"a slope needs two different x; all {len(u)} are {xs[:1]}: add budgets or sizes")
    centre_u, centre_v = w @ u, w @ v
    spread = w @ (u - centre_u) ** 2
    exponent = float(w @ ((u - centre_u) * (v - centre_v)) / spread)
    intercept = float(centre_v - exponent * centre_u)
    left = float(w @ (v - intercept - exponent * u) ** 2)
    total = float(w @ (v - centre_v) ** 2)
    r2 = 1 - left / total if total > 0 else 1.0
    if len(u) == 2:
        return LogLog(exponent, intercept, None, None, r2)
    se = np.sqrt(left / (len(u) - 2) / spread)
    return LogLog(exponent, intercept, float(se), float(se * np.sqrt(w @ u**2)), r2)


def _positive(name: str, values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    bad = ~(np.isfinite(array) & (array > 0))
    if array.ndim != 1 or bad.any():
        what = f"{array[bad][0]} is not" if array.ndim == 1 else f"shape {array.shape}"
        raise FitError(f"{name} must be a 1-D array of finite numbers above 0: {what}")
    return array
