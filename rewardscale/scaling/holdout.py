"""Predicting the largest sizes from the rest: the test of a form that a good fit is not.

The largest ``factor`` of an axis is hidden, the form is fitted to what is left and predicts what is hidden; beside it
stand baselines that know no floor, or nothing at all (reference list: power law without a floor, the last point
seen, a straight line in log size, and a broken power law where 12 sizes are left: Caballero et al. 2023).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rewardscale.scaling import resample
from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.fit import FitError, fit
from rewardscale.scaling.forms import FLOORLESS_EXPONENT, Form, Nonlinear, one_break
from rewardscale.scaling.points import Points

BASELINES = ("power law", "last point", "log-linear", "one break")
AXES = ("pairs", "params")
_BREAK_SIZES = 12  # six parameters
_SCHEMA = {
    "form": pl.String,
    "point": pl.Int64,
    "level": pl.String,
    "pairs": pl.Float64,
    "params": pl.Float64,
    "predicted": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
    "observed": pl.Float64,
    "relative_error": pl.Float64,
    "inside": pl.Boolean,
}


@dataclass(frozen=True, eq=False)
class Holdout:
    """Predictions of hidden points.

    Attributes:
      axis, largest_kept: what was hidden: every point whose ``axis`` is above ``largest_kept``.
      table: a row a (form, hidden point): form, point (its position in the points), level, pairs, params, predicted,
        low and high (95 %: where the observed mean should lie if the form is right; the noise of the fitted
        means and of the observed one, correlated as they are; null without 5 draws), observed, relative_error
        (predicted / observed - 1), inside. Losses in nats a pair.
      summary: a row a form, the form asked about first: form, mean_absolute_relative_error, inside (share), note.
    """

    axis: str
    largest_kept: float
    table: pl.DataFrame
    summary: pl.DataFrame

    def error(self, form: str) -> float:
        """Mean |relative error| of ``form`` (NaN where it could not be fitted)."""
        rows = self.summary.filter(pl.col("form") == form)
        if rows.is_empty():
            raise ScalingError(f"no form {form!r} was held out; there are {self.summary['form'].to_list()}")
        value = rows["mean_absolute_relative_error"][0]
        return float("nan") if value is None else float(value)


def split(points: Points, axis: str = "pairs", factor: float = 4.0, least: int = 4) -> NDArray[np.bool_]:
    """True [n] at points to fit: ``axis`` up to 1/factor of its largest; False at those to hide.

    Raises ScalingError for an unknown axis, a factor that hides nothing, and fewer than ``least`` sizes left in
    a curve.
    """
    if axis not in AXES or axis not in points.x:
        raise ScalingError(
            f"axis={axis!r}: must be one of {[a for a in AXES if a in points.x]} for these points"
        )
    if not factor > 1:
        raise ScalingError(f"factor={factor}: must be above 1, or no size would be hidden")
    sizes = points.x[axis]
    kept = sizes <= sizes.max() / factor * (1 + 1e-9)
    for name, own in curves(points, axis).items():
        left = np.unique(sizes[own & kept])
        if len(left) < least:
            raise ScalingError(
                f"hiding the largest {factor:g}x of {axis} leaves {len(left)} sizes of {name} ({_listed(left)}), "
                f"a fit needs at least {least}: use a smaller factor, or add smaller sizes"
            )
    return kept


def curves(points: Points, axis: str) -> dict[str, NDArray[np.bool_]]:
    """Masks [n] of the points that differ in ``axis`` alone (of one level, and of one size along the other axis)."""
    keys = [points.x[name] for name in ("level", *AXES) if name in points.x and name != axis]
    names = [name for name in ("level", *AXES) if name in points.x and name != axis]
    if not keys:
        return {"the curve": np.ones(len(points), bool)}
    rows, which = np.unique(np.stack(keys, -1), axis=0, return_inverse=True)
    said = (", ".join(f"{n} {v:g}" for n, v in zip(names, row, strict=True)) for row in rows)
    return {name: which.ravel() == i for i, name in enumerate(said)}


def held_out_error(points: Points, form: Form, kept: NDArray, *, delta: float | None = None) -> float:
    """Mean |predicted / observed - 1| at the hidden points of a fit to the kept ones. Raises what ``fit`` raises."""
    seen, hidden = points.select(kept), points.select(~kept)
    found = fit(form, seen.x, seen.mean, delta=delta)
    return float(np.abs(found.predict(hidden.x) / hidden.mean - 1).mean())


def holdout(
    points: Points,
    form: Form,
    *,
    axis: str = "pairs",
    factor: float = 4.0,
    baselines: Sequence[str] = BASELINES,
    delta: float | None = None,
    resamples: int = resample.RESAMPLES,
    seed: int = 0,
) -> Holdout:
    """Hides the largest ``factor`` of ``axis`` and predicts it with ``form`` and with ``baselines``, one curve each.

    ``form`` reads the inputs of ``points`` (``by_level`` forms need "level": numbers from 0). ``delta`` as in ``fit``.
    The baseline "one break" is left out, with a note, where fewer than 12 sizes are left.

    Raises:
      ScalingError: see ``split``; unknown baselines. FitError: the form cannot be fitted to what is left.
    """
    unknown = sorted(set(baselines) - set(BASELINES))
    if unknown:
        raise ScalingError(f"baselines {unknown} are unknown; there are {list(BASELINES)}")
    kept = split(points, axis, factor, 4 if any(name.startswith("floor") for name in form.linear) else 2)
    hidden = np.flatnonzero(~kept)
    asked = _of_form(points, form, np.flatnonzero(kept), hidden, delta)
    statistics: dict[str, resample.Statistic | str] = {form.name: asked}
    for name in baselines:
        title = f"{name} (baseline)" if name == form.name else name
        try:
            statistics[title] = _baseline(name, points, axis, kept, delta)
        except FitError as error:
            statistics[title] = str(error)
    tables, rows = [], []
    for name, statistic in statistics.items():
        if isinstance(statistic, str):
            rows.append((name, None, None, statistic))
            continue
        table, note = _predicted(points, name, statistic, hidden, resamples, seed)
        tables.append(table)
        inside = table["inside"].mean()
        rows.append((name, table["relative_error"].abs().mean(), inside, note))
    schema = {
        "form": pl.String,
        "mean_absolute_relative_error": pl.Float64,
        "inside": pl.Float64,
        "note": pl.String,
    }
    summary = pl.DataFrame(rows, schema=schema, orient="row")
    return Holdout(axis, float(points.x[axis][kept].max()), pl.concat(tables), summary)


def _predicted(
    points: Points, name: str, statistic: resample.Statistic, hidden: NDArray, resamples: int, seed: int
) -> tuple[pl.DataFrame, str]:
    """One form's rows, from a statistic that is (predicted - observed) at the hidden points."""
    found = resample.resample(points, statistic, resamples=resamples, seed=seed)
    rows, notes = [], {found.note}
    levels = points.table["level"] if "level" in points.table.columns else None
    for i, point in enumerate(hidden):
        observed, gap = float(points.mean[point]), float(found.estimate[i])
        interval = found.interval(i)
        notes.add(interval.note)
        predicted = observed + gap
        low = high = inside = None
        if interval.low is not None and interval.high is not None:
            low, high = predicted + interval.low - gap, predicted + interval.high - gap
            inside = interval.low <= 0 <= interval.high
        where = [float(points.x[a][point]) if a in points.x else None for a in AXES]
        level = str(levels[int(point)]) if levels is not None else None
        rows.append((name, int(point), level, *where, predicted, low, high, observed, gap / observed, inside))
    return pl.DataFrame(rows, schema=_SCHEMA, orient="row"), "; ".join(sorted(notes - {""}))


def _of_form(
    points: Points, form: Form, kept: NDArray, hidden: NDArray, delta: float | None
) -> resample.Statistic:
    """(predicted - observed) [R, hidden] of a form fitted to the points at the positions ``kept``."""
    seen = points.select(kept)
    found = fit(form, seen.x, seen.mean, delta=delta)
    targets = {name: points.x[name][hidden] for name in form.inputs}
    linear = len(form.linear)

    def predict(theta: NDArray) -> NDArray:
        terms = form.basis(targets, theta[:, linear:])
        return np.einsum("mrn,rm->rn", np.stack(np.broadcast_arrays(*terms)), theta[:, :linear])

    return _against_observed(resample.of_fit(found, predict), kept, hidden)


def _against_observed(predict: resample.Statistic, kept: NDArray, hidden: NDArray) -> resample.Statistic:
    """From predictions out of the kept means to their differences from the hidden means."""

    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        values, own = predict(means[:, kept])
        slopes = np.zeros((*values.shape, means.shape[1]))
        slopes[:, :, kept] = own
        slopes[:, np.arange(len(hidden)), hidden] -= 1
        return values - means[:, hidden], slopes

    return statistic


def _baseline(name: str, points: Points, axis: str, kept: NDArray, delta: float | None) -> resample.Statistic:
    """(predicted - observed) [R, hidden] of a baseline, put together from the curves."""
    hidden = np.flatnonzero(~kept)
    parts = []
    for own in curves(points, axis).values():
        seen, away = np.flatnonzero(own & kept), np.flatnonzero(own & ~kept)
        if len(away):
            parts.append((np.searchsorted(hidden, away), _curve(name, points, axis, seen, away, delta)))

    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        values = np.zeros((len(means), len(hidden)))
        slopes = np.zeros((len(means), len(hidden), len(points)))
        for place, part in parts:
            values[:, place], slopes[:, place] = part(means)
        return values, slopes

    return statistic


def _curve(
    name: str, points: Points, axis: str, seen: NDArray, away: NDArray, delta: float | None
) -> resample.Statistic:
    """A baseline on one curve: its kept points ``seen``, its hidden ones ``away``."""
    sizes = points.x[axis]
    if name == "power law":
        return _of_form(points, power(axis), seen, away, delta)
    if name == "one break":
        count = len(np.unique(sizes[seen]))
        if count < _BREAK_SIZES or axis != "pairs":
            raise FitError(
                f"needs {_BREAK_SIZES} sizes of pairs below the hidden ones, there are {count} of {axis}"
            )
        return _of_form(
            points, one_break(float(sizes[seen].min()), float(sizes[seen].max())), seen, away, delta
        )
    if name == "last point":
        weights = np.zeros((len(away), len(seen)))
        weights[:, sizes[seen].argmax()] = 1.0
    else:  # a straight line in log size is linear in the means
        design, target = (np.stack([np.ones(len(i)), np.log(sizes[i])], -1) for i in (seen, away))
        weights = target @ np.linalg.pinv(design)
    return _against_observed(_linear(weights), seen, away)


def _linear(weights: NDArray) -> resample.Statistic:
    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        return means @ weights.T, np.repeat(weights[None], len(means), 0)

    return statistic


def power(axis: str) -> Form:
    """B x^-beta along ``axis``, without a floor (Hestness et al. 2017, arXiv 1712.00409)."""

    def basis(x: Mapping[str, NDArray], eta: NDArray) -> list[NDArray]:
        return [np.exp(-np.log(x[axis]) * eta[..., :1])]

    return Form(
        "power law",
        f"L = B · {axis}^−β",
        "Hestness et al. 2017",
        (axis,),
        ("scale",),
        (Nonlinear("exponent", *FLOORLESS_EXPONENT),),
        basis,
    )


def _listed(values: NDArray) -> str:
    return ", ".join(f"{v:,.0f}" for v in values)
