"""Loss curves of one level on many resampled means at once, read both ways and with derivatives.

Two readings: ``Fitted``, a power law with a floor refitted to each resample, and ``Interpolated``, which
assumes no form: means made non-increasing by isotonic regression and joined by straight lines in (log pairs,
log loss). Both give the derivative of what they read in every mean, which is what ``resample`` needs for
standard errors.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.fit import Fit, FitError, fit
from rewardscale.scaling.forms import POWER_FLOOR
from rewardscale.scaling.points import Points
from rewardscale.scaling.resample import of_fit

METHODS = ("fit", "interpolate")


class Curves(Protocol):
    """R curves, each a function of k means."""

    def log_pairs(self, loss: NDArray) -> tuple[NDArray, NDArray]:
        """log D at which losses ([s], or [R, s]) are reached, [R, s], and its derivative in the means [R, s, k].

        +inf where a curve never gets down to the loss, -inf where it is below it from its first point on; the
        derivative is 0 there.
        """
        ...

    def log_loss(self, log_pairs: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """log L at log D [R, s]: values [R, s], derivatives in log D [R, s] and in the means [R, s, k]."""
        ...


@dataclass(frozen=True, eq=False)
class Fitted:
    """L = E + B D^-beta with theta = (E, B, beta) [R, 3] and its derivative in the means [R, 3, k]."""

    theta: NDArray
    influence: NDArray

    def log_pairs(self, loss: NDArray) -> tuple[NDArray, NDArray]:
        floor, scale, exponent = (self.theta[:, i, None] for i in range(3))
        above = loss - floor
        reached = (above > 0) & (scale > 0)
        gap, size = np.where(reached, above, 1.0), np.where(scale > 0, scale, 1.0)
        value = (np.log(size) - np.log(gap)) / exponent
        slopes = np.stack([1 / (gap * exponent), 1 / (size * exponent) + 0 * gap, -value / exponent], -1)
        slope = np.einsum("rsp,rpk->rsk", slopes, self.influence)
        # A loss that does not fall at all is at its floor from the first pair on.
        missed = np.where(above > 0, -np.inf, np.inf)
        return np.where(reached, value, missed), np.where(reached[..., None], slope, 0.0)

    def log_loss(self, log_pairs: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        floor, scale, exponent = (self.theta[:, i, None] for i in range(3))
        decay = np.exp(-exponent * log_pairs)
        loss = floor + scale * decay
        slopes = np.stack([1 / loss, decay / loss, -log_pairs * scale * decay / loss], -1)
        slope = np.einsum("rsp,rpk->rsk", slopes, self.influence)
        return np.log(loss), -exponent * scale * decay / loss, slope


@dataclass(frozen=True, eq=False)
class Interpolated:
    """Lines between knots: log pairs ``x`` [k] (increasing) and log losses ``y`` [R, k] (non-increasing).

    ``slope`` [R, k, k] is the derivative of y in the means.
    """

    x: NDArray
    y: NDArray
    slope: NDArray

    def log_pairs(self, loss: NDArray) -> tuple[NDArray, NDArray]:
        wanted = np.log(loss)
        down = self.y[:, None, :] <= wanted[..., None]  # [R, s, k]
        right = np.where(down.any(-1), down.argmax(-1), len(self.x))
        inside = (right > 0) & (right < len(self.x))
        j = np.where(inside, right, 1)
        row = np.arange(len(self.y))[:, None]
        before, after = self.y[row, j - 1], self.y[row, j]
        drop = np.where(inside, before - after, 1.0)
        share = (before - wanted) / drop
        step = self.x[j] - self.x[j - 1]
        value = self.x[j - 1] + share * step
        slope = (step / drop)[..., None] * (
            (1 - share)[..., None] * self.slope[row, j - 1] + share[..., None] * self.slope[row, j]
        )
        # The very loss of the first point is read at the first point.
        first = (right == 0) & np.isclose(self.y[:, :1], wanted, rtol=0, atol=1e-12)
        missed = np.where(first, self.x[0], np.where(right == 0, -np.inf, np.inf))
        return np.where(inside, value, missed), np.where(inside[..., None], slope, 0.0)

    def log_loss(self, log_pairs: NDArray) -> tuple[NDArray, NDArray, NDArray]:
        """Beyond the ends the first and the last line go on."""
        j = np.clip(np.searchsorted(self.x, log_pairs, side="right"), 1, len(self.x) - 1)
        row = np.arange(len(self.y))[:, None]
        step = self.x[j] - self.x[j - 1]
        share = (log_pairs - self.x[j - 1]) / step
        before, after = self.y[row, j - 1], self.y[row, j]
        slope = (1 - share)[..., None] * self.slope[row, j - 1] + share[..., None] * self.slope[row, j]
        return before + share * (after - before), (after - before) / step, slope


def non_increasing(means: NDArray, weight: NDArray) -> tuple[NDArray, NDArray]:
    """Isotonic regression of each row of means [R, k]: values [R, k], their derivatives in the means [R, k, k].

    By the min-max formula (Barlow et al. 1972, theorem 1.4), value_i = min_{a <= i} max_{b >= i} of the
    weighted mean of a..b: k is small, and all rows go at once.
    """
    k = means.shape[1]
    first, last = np.arange(k)[:, None, None], np.arange(k)[None, :, None]
    within = (np.arange(k) >= first) & (np.arange(k) <= last)  # [a, b, k]
    share = within * weight
    share = share / np.where(within.any(-1), share.sum(-1), 1.0)[..., None]
    averages = np.einsum("abk,rk->rab", share, means)
    value, slope = np.empty_like(means), np.empty((*means.shape, k))
    row = np.arange(len(means))
    for i in range(k):
        block = averages[:, : i + 1, i:]
        end = block.argmax(-1)
        start = np.take_along_axis(block, end[..., None], -1)[..., 0].argmin(-1)
        stop = end[row, start] + i
        value[:, i], slope[:, i] = averages[row, start, stop], share[start, stop]
    return value, slope


@dataclass(frozen=True, eq=False)
class Reader:
    """One level's curve as a function of the means at all points.

    Attributes:
      level: its name. index: which of the n points are its own, by pairs. total: n.
      pairs, mean: its sizes and mean losses [k]. smooth: the means made non-increasing [k].
      fit: the fit to the means, None for interpolation. make: means at its own points [R, k] -> Curves.
    """

    level: str
    index: NDArray
    total: int
    pairs: NDArray
    mean: NDArray
    smooth: NDArray
    fit: Fit | None
    make: Callable[[NDArray], Curves]

    def __call__(self, means: NDArray) -> Curves:
        """Curves on means at all points [R, n]."""
        return self.make(means[:, self.index])

    def spread(self, slope: NDArray) -> NDArray:
        """Derivatives in its own means [R, s, k] as derivatives in all means [R, s, n]."""
        out = np.zeros((*slope.shape[:2], self.total))
        out[..., self.index] = slope
        return out

    @property
    def losses(self) -> tuple[float, float]:
        """The lowest and the highest loss it was observed at (means made non-increasing)."""
        return float(self.smooth[-1]), float(self.smooth[0])


def reader(
    points: Points, level: str, method: str = "fit", *, log: bool = True, delta: float | None = None
) -> Reader:
    """The curve of ``level``, at one model size.

    Args:
      method: "fit" (E + B D^-beta, points weighted by their numbers of draws; ``log`` and ``delta`` as in
        ``fit.fit``) or "interpolate" (no form assumed).

    Raises:
      ScalingError: an unknown method or level, several model sizes, points without a table of levels.
      FitError: too few sizes for the form, or data that don't pin it down.
    """
    if method not in METHODS:
        raise ScalingError(f"method={method!r} must be one of {METHODS}")
    index = _own(points, level)
    pairs, mean = points.x["pairs"][index], points.mean[index]
    weight = points.draws[index].astype(float)
    smooth = non_increasing(mean[None], weight)[0][0]
    if method == "interpolate":
        if len(pairs) < 3:
            raise FitError(f"level {level!r} has {len(pairs)} sizes: its curve needs at least 3 to be read")
        make, found = _interpolated(np.log(pairs), weight), None
    else:
        try:
            found = fit(POWER_FLOOR, {"pairs": pairs}, mean, weight=weight, log=log, delta=delta)
        except FitError as error:
            raise FitError(f"level {level!r}: {error}") from None
        make = _fitted(found)
    return Reader(level, index, len(points), pairs, mean, smooth, found, make)


def _own(points: Points, level: str) -> NDArray:
    if "level" not in points.table.columns:
        raise ScalingError(
            "these points have no table of levels: make them with points(), or give from_draws a table"
        )
    known = points.table["level"].unique(maintain_order=True).to_list()
    if level not in known:
        raise ScalingError(f"no level {level!r} among these points; they have {known}")
    index = np.flatnonzero((points.table["level"] == level).to_numpy())
    models = [name for name in ("family", "model") if name in points.table.columns]
    if models and len(points.table[index].select(models).unique()) > 1:
        names = points.table[index]["model"].unique(maintain_order=True).to_list()
        raise ScalingError(
            f"one curve is one model's; these points have {names}: points(sweep, ..., models=[one])"
        )
    index = index[np.argsort(points.x["pairs"][index], kind="stable")]
    if (np.diff(points.x["pairs"][index]) <= 0).any():
        raise ScalingError(f"level {level!r} has several points of the same number of pairs")
    return index


def _fitted(found: Fit) -> Callable[[NDArray], Curves]:
    refit = of_fit(found)
    return _remembered(lambda means: Fitted(*refit(means)))


def _remembered(make: Callable[[NDArray], Curves]) -> Callable[[NDArray], Curves]:
    """``make``, but not twice for the last two arrays of means: statistics of one curve share its refits."""
    last: list[tuple[NDArray, Curves]] = []

    def made(means: NDArray) -> Curves:
        for known, curves in last:
            if np.array_equal(known, means):
                return curves
        last.append((means.copy(), make(means)))
        del last[:-2]
        return last[-1][1]

    return made


def _interpolated(x: NDArray, weight: NDArray) -> Callable[[NDArray], Curves]:
    def make(means: NDArray) -> Curves:
        value, slope = non_increasing(means, weight)
        if (value <= 0).any():
            raise FitError(
                "losses are not all above 0: the means are known too badly to be read on a log scale"
            )
        return Interpolated(x, np.log(value), slope / value[..., None])

    return make


@dataclass(frozen=True, eq=False)
class Axis:
    """What pairs are counted in: a monotone map between log pairs and log size, straight between the points.

    Beyond the ends the first and the last line go on. The map is taken as known: sizes are means over draws.
    """

    x: NDArray
    y: NDArray

    def size(self, log_pairs: ArrayLike) -> tuple[NDArray, NDArray]:
        """log size and its derivative in log pairs; infinities stay what they are."""
        return _straight(self.x, self.y, np.asarray(log_pairs, np.float64))

    def pairs(self, log_size: ArrayLike) -> tuple[NDArray, NDArray]:
        """log pairs and their derivative in log size."""
        return _straight(self.y, self.x, np.asarray(log_size, np.float64))


def axis_of(read: Reader, size: ArrayLike, name: str) -> Axis:
    """The axis on which ``read``'s points have these sizes [k]. Raises ScalingError unless they are finite and grow."""
    sizes = np.asarray(size, np.float64)
    if not np.isfinite(sizes).all() or (sizes <= 0).any() or (np.diff(sizes) <= 0).any():
        raise ScalingError(
            f"{name} of level {read.level!r} must be above 0 and grow with pairs to be an axis; it is {sizes.tolist()}"
        )
    return Axis(np.log(read.pairs), np.log(sizes))


def _straight(x: NDArray, y: NDArray, at: NDArray) -> tuple[NDArray, NDArray]:
    j = np.clip(np.searchsorted(x, at, side="right"), 1, len(x) - 1)
    slope = (y[j] - y[j - 1]) / (x[j] - x[j - 1])
    finite = np.isfinite(at)
    value = y[j - 1] + slope * (np.where(finite, at, 0.0) - x[j - 1])
    return np.where(finite, value, at), slope
