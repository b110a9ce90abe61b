"""Intervals that cover with few draws: a studentised cluster resampling of means, refitted each time.

Draws are few, and a percentile bootstrap over five of them covers 84 % instead of 95. Here a resample is
*simulated*: each kind of unit (draws, evaluation clusters) has K shifts u_j (see ``points``); with z ~ N(0, I)
and a K x K matrix G of standard normals with its column means taken out,

    mean* = mean + sum_j z_j u_j,        u*_k = sum_j G_kj u_j / sqrt(K - 1),

which are the mean and the shifts that K fresh draws would have had if draws were normal with the covariance
seen. What is estimated is refitted on mean*, its standard error se* is taken from u* through the influence of
each mean, and the quantiles of t* = (theta* - theta) / se* make the interval theta - q se. For anything linear
in the means t* is exactly Student's t with K - 1 degrees of freedom; for what isn't, the refits know its
curvature. This is the bootstrap-t of Efron (1982) over clusters, with the normal weights of the multiplier
bootstrap; whole draws stay together, so intervals of differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rewardscale.scaling import solver
from rewardscale.scaling.fit import Fit
from rewardscale.scaling.points import Points

RESAMPLES = 2_000
# A statistic: means [R, n] -> values [R, s] and their derivatives in the means [R, s, n].
Statistic = Callable[[NDArray], tuple[NDArray, NDArray]]


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval; ``low`` and ``high`` are None, and ``note`` says why, where there is none.

    ``se`` is the standard error from the units' influence, ``confidence`` the nominal coverage.
    """

    estimate: float
    low: float | None
    high: float | None
    se: float | None
    confidence: float = 0.95
    note: str = ""

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.estimate:.4g} ({self.note})" if self.note else f"{self.estimate:.4g}"
        return f"{self.estimate:.4g} [{self.low:.4g}, {self.high:.4g}]"

    def map(self, function: Callable[[float], float]) -> Interval:
        """The interval of an increasing function of the estimate (its standard error is dropped)."""
        low, high = (None if e is None else function(e) for e in (self.low, self.high))
        return Interval(function(self.estimate), low, high, None, self.confidence, self.note)


@dataclass(frozen=True, eq=False)
class Resampled:
    """A statistic on the means seen and on resamples of them.

    Attributes:
      estimate, se: [s]. t: studentised resamples [R, s], NaN where a resample could not be fitted.
      values: resampled values [R, s]. note: empty, or why there are no intervals.
    """

    estimate: NDArray
    se: NDArray
    t: NDArray
    values: NDArray
    note: str = ""

    def interval(self, index: int, confidence: float = 0.95) -> Interval:
        """The two-sided interval of the statistic's component ``index``."""
        estimate = float(self.estimate[index])
        if self.note:
            return Interval(estimate, None, None, None, confidence, self.note)
        se = float(self.se[index])
        if not np.isfinite(estimate) or not np.isfinite(se):
            return Interval(estimate, None, None, None, confidence, "not finite on the means themselves")
        if se == 0:
            return Interval(estimate, None, None, se, confidence, "held at a bound: no interval")
        t = self.t[:, index]
        good = t[np.isfinite(t)]
        if len(good) < 0.9 * len(t):
            lost = len(t) - len(good)
            return Interval(
                estimate, None, None, se, confidence, f"{lost} of {len(t)} resamples gave no value"
            )
        tail = (1 - confidence) / 2
        low, high = np.quantile(good, [1 - tail, tail], method="weibull")  # rank / (R + 1)
        return Interval(estimate, estimate - float(low) * se, estimate - float(high) * se, se, confidence)

    def p_value(self, index: int, null: float) -> float | None:
        """Two-sided p-value of the component being ``null``, from the same studentised resamples; None without
        them."""
        if self.note or not self.se[index] > 0:
            return None
        t = self.t[:, index]
        t = t[np.isfinite(t)]
        seen = (self.estimate[index] - null) / self.se[index]
        above, below = (t >= seen).sum(), (t <= seen).sum()
        return float(min(1.0, 2 * (min(above, below) + 1) / (len(t) + 1)))


def resample(points: Points, statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0) -> Resampled:
    """Resamples ``statistic`` (see the module's docstring); reproducible for a seed.

    Under 5 draws (or clusters) the estimate comes back without resamples, and with the reason in ``note``.
    """
    estimate, slope = (a[0] for a in statistic(points.mean[None]))
    se = _standard_error({kind: s[None] for kind, s in points.shifts.items()}, slope[None])[0]
    note = points.why_no_interval()
    if note:
        empty = np.zeros((0, len(estimate)))
        return Resampled(estimate, se, empty, empty, note)
    means, shifts = simulate(points, resamples, seed)
    values, slopes = statistic(means)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = (values - estimate) / _standard_error(shifts, slopes)
    return Resampled(estimate, se, t, values)


def simulate(
    points: Points, resamples: int, seed: int, around: NDArray | None = None
) -> tuple[NDArray, dict[str, NDArray]]:
    """Means [R, n] and shifts (kind -> [R, units, n]) of simulated repetitions of the sweep.

    ``around`` [n] are the true means to simulate at, those seen by default.
    """
    random = np.random.default_rng([0xB007, seed])
    means = np.repeat((points.mean if around is None else around)[None], resamples, 0)
    shifts = {}
    for kind, u in points.shifts.items():
        units = len(u)
        means = means + random.standard_normal((resamples, units)) @ u
        mix = random.standard_normal((resamples, units, units))
        shifts[kind] = (mix - mix.mean(1, keepdims=True)) @ u / np.sqrt(units - 1)
    return means, shifts


def _standard_error(shifts: dict[str, NDArray], slope: NDArray) -> NDArray:
    """[R, s] from shifts (kind -> [R, units, n]) and slopes [R, s, n]."""
    total = np.zeros(slope.shape[:2])
    for u in shifts.values():
        total += (np.einsum("run,rsn->rsu", u, slope) ** 2).sum(-1)
    return np.sqrt(total)


def of_fit(fit: Fit, transform: solver.Transform | None = None) -> Statistic:
    """The statistic transform(theta) of refits of ``fit`` (its form, weights and Huber's delta), theta by default.

    ``transform`` maps parameters [R, p], in the order of ``fit.form.parameters``, to [R, s]. Refits start from
    the fit. Means that are not above 0 cannot be fitted on a log scale: their values are NaN.
    """
    problem = solver.Problem(fit.form, fit.x, fit.weight, fit.loss)
    incumbent = problem.internal(fit.theta[None])

    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        fits = (means > 0).all(-1) if problem.loss.log else np.ones(len(means), bool)
        found = _refit(problem, np.where(fits[:, None], means, fit.y), incumbent)
        function = transform or (lambda theta: theta)
        value, slope = solver.transformed(
            lambda theta: function(problem.external(theta)), found.theta, found.influence
        )
        return np.where(fits[:, None], value, np.nan), slope

    return statistic


def _refit(problem: solver.Problem, means: NDArray, incumbent: NDArray) -> solver.Solution:
    """Refits [R] from the incumbent, its coefficients off their bounds."""
    start = np.repeat(incumbent, len(means), 0)
    if problem.form.nonnegative:
        size = np.abs(means).mean(-1, keepdims=True)
        start[:, : problem.m] = np.maximum(start[:, : problem.m], 1e-3 * size)
    return solver.polish(problem, means, start)
