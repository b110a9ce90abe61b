"""A fitted curve for each (family, model, level) of a sweep, with its band and the sizes held out of it.

Each curve is fitted alone: L(D) = E + B D^-beta on its means that have left the chance plateau. The largest sizes
(about a factor of four in D) are hidden from the fit that is drawn, so that a figure shows what it predicts;
the parameters reported are those of the fit to all sizes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rewardscale.scaling.collect import ScalingError, Sweep
from rewardscale.scaling.fit import Fit, fit
from rewardscale.scaling.forms import POWER_FLOOR
from rewardscale.scaling.points import Points, points
from rewardscale.scaling.resample import Interval, of_fit, resample

PLATEAU = (
    0.1  # share of a model's best gain on chance (ln 2) below which a point is still on the chance plateau
)
LEAST_SIZES = 4  # three parameters: with three sizes any curve would fit exactly
LAW_SIZES = 7  # data sizes that a law in D needs
HELD_OUT = 4.0  # the factor in D that is hidden
POOR = 0.02  # relative root mean square residual above which a fit is not drawn
BAND_RESAMPLES = 500

# The level that others are measured against, and the one named in a headline: the first of these a sweep has.
BASE_LEVELS = ("raw", "one_vote", "strict+flip0.2", "key+flip0.2")
TARGET_LEVELS = ("gold", "strict", "key", "corrected", "filtered", "majority_5", "majority_3")


@dataclass(frozen=True, eq=False)
class CurveFit:
    """A level's curve at one model size.

    Attributes:
      family, model, params, level: which.
      sizes: distinct numbers of pairs below the plateau. decades: that they span.
      whole: the fit to all of them, None where ``note`` says why not.
      parameters: intervals of the whole fit by name ("floor", "scale", "exponent").
      line: columns x, y, low, high (null without an interval), extrapolated: the drawn fit, to the sizes not
        held out.
      held_out: numbers of pairs hidden from it.
      note: empty, or what a reader must know.
    """

    family: str
    model: str
    params: int
    level: str
    sizes: int
    decades: float
    whole: Fit | None
    parameters: dict[str, Interval]
    line: pl.DataFrame
    held_out: tuple[int, ...]
    note: str


def fit_curves(
    sweep: Sweep, y: str = "loss_recalibrated", eval_set: str | None = None, *, units: str = "draws"
) -> list[CurveFit]:
    """Fits every curve of a sweep; a curve that can't be fitted says so in its note. Raises what ``points`` raises.

    Bands are over draws by default: they are about these curves on this test set.
    """
    every = points(sweep, y, eval_set=eval_set, units=units)
    every = every.with_inputs(learned=learned(every))
    return [_fit_curve(own, *key) for key, own in each_curve(every)]


def each_curve(every: Points) -> Iterator[tuple[tuple[str, str, int, str], Points]]:
    """((family, model, params, level), its points), in the order of the points."""
    keys = every.table.select("family", "model", "params", "level")
    for key in keys.unique(maintain_order=True).iter_rows(named=True):
        mask = pl.all_horizontal(pl.col(name) == value for name, value in key.items())
        own = keys.select(mask.alias("own"))["own"].to_numpy()
        yield (key["family"], key["model"], key["params"], key["level"]), every.select(own)


def best_units(sweep: Sweep) -> str:
    """What intervals are over: draws and clusters of the evaluation set where both were recorded, else draws."""
    return "draws" if sweep.clusters is None or sweep.clusters.is_empty() else "both"


def below_plateau(every: Points) -> Points:
    """The points that have left the chance plateau, where a power law says nothing (see ``learned``)."""
    return every.select(learned(every))


def learned(every: Points) -> NDArray[np.bool_]:
    """Which points have made at least a tenth of the best gain on chance that their model makes at any level, bool [n].

    Relative to the model, since a test set may leave little to gain: labels with 30 % flips cannot be predicted
    better than .61 nats, answers without their question hardly better than chance.
    """
    gain = math.log(2) - every.mean
    keys = every.table.select("family", "model").rows()
    best = {key: max(g for g, other in zip(gain, keys, strict=True) if other == key) for key in set(keys)}
    return np.array([g >= PLATEAU * best[key] and g > 0 for g, key in zip(gain, keys, strict=True)], bool)


def base_level(levels: list[str]) -> str | None:
    """The uncurated level of a sweep that has these, or None."""
    return next((level for level in BASE_LEVELS if level in levels), None)


def target_level(levels: list[str]) -> str | None:
    """The best-curated level of a sweep that has these, or None."""
    return next((level for level in TARGET_LEVELS if level in levels), None)


def held_out(sizes: NDArray) -> NDArray:
    """Which sizes are hidden: the largest ~4x, if at least four remain. bool, shape of ``sizes``."""
    hidden = sizes > sizes.max() / HELD_OUT * 1.001
    remain = len(np.unique(sizes[~hidden]))
    return hidden if remain >= LEAST_SIZES else np.zeros(len(sizes), bool)


def _fit_curve(own: Points, family: str, model: str, params: int, level: str) -> CurveFit:
    used = own.select(own.x["learned"] > 0)
    sizes = used.x["pairs"]
    count = len(np.unique(sizes))
    decades = float(np.log10(sizes.max() / sizes.min())) if count else 0.0
    made: dict[str, Any] = {"whole": None, "parameters": {}, "line": _no_line(), "held_out": ()}
    try:
        if count < LEAST_SIZES:
            raise ScalingError(
                f"{count} sizes have left the chance plateau; a curve needs at least {LEAST_SIZES}"
            )
        made["whole"] = whole = fit(POWER_FLOOR, used.x, used.mean)
        seen = resample(used, of_fit(whole), resamples=BAND_RESAMPLES)
        made["parameters"] = {name: seen.interval(i) for i, name in enumerate(POWER_FLOOR.parameters)}
        hidden = held_out(sizes)
        shown = used.select(~hidden)
        made["line"] = _line(
            shown, fit(POWER_FLOOR, shown.x, shown.mean) if hidden.any() else whole, sizes.max()
        )
        made["held_out"] = tuple(int(d) for d in sizes[hidden])
        notes = [*whole.notes]
        if whole.rms > POOR:
            notes.append(f"misses the means by {whole.rms:.1%}: this form does not describe the curve")
    except ScalingError as reason:
        notes = [f"no fit: {reason}"]
    if count < LAW_SIZES and made["whole"] is not None:
        notes.append(f"{count} sizes: too few for a law")
    return CurveFit(family, model, params, level, count, decades, note="; ".join(notes), **made)


def _line(fitted: Points, found: Fit, to: float) -> pl.DataFrame:
    """The fit ``found`` to these points on a fine grid up to ``to`` pairs, with its band."""
    if found.rms > POOR:
        return _no_line()
    low, high = fitted.x["pairs"].min(), fitted.x["pairs"].max()
    grid = np.unique(np.concatenate([np.geomspace(low, high, 24), np.geomspace(high, max(to, high), 9)]))

    def log_loss(theta: NDArray) -> NDArray:
        floor, scale, exponent = (theta[:, [i]] for i in range(3))
        return np.log(floor + scale * grid**-exponent)

    seen = resample(fitted, of_fit(found, log_loss), resamples=BAND_RESAMPLES)
    bands = [seen.interval(i).map(lambda v: float(np.exp(v))) for i in range(len(grid))]
    columns = {
        "x": grid,
        "y": [b.estimate for b in bands],
        "low": [b.low for b in bands],
        "high": [b.high for b in bands],
    }
    return pl.DataFrame(columns | {"extrapolated": grid > high * 1.0001}, schema=_LINE)


_LINE = {"x": pl.Float64, "y": pl.Float64, "low": pl.Float64, "high": pl.Float64, "extrapolated": pl.Boolean}


def _no_line() -> pl.DataFrame:
    return pl.DataFrame(schema=_LINE)
