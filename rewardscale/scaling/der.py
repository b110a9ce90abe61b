"""The data-equivalence ratio: how much of the base level one unit of the target level is worth, at equal
loss.

DER(L) = D_base(L) / D_target(L), with D_q(L) the pairs (or cost, raw pairs, distinct responses) at which
level q reaches loss L. Under an offset it is the constant (B_base / B_target)^(1/beta), under different
exponents it changes with L, and under a floor it is infinite for losses beneath the base level's floor. All
of it is on the log scale, with both levels moved by the same draws and evaluation clusters: what these do to
both cancels. So that it does, what is held fixed in a resample is the *target's size*, not the loss: a
resample with harder debates asks for the base pairs that match the target's loss on those debates.

Where the base level never gets to a loss there is no ratio, only a bound, found by inverting a test (Fieller
1954): the largest x for which base data x times the target's still give a loss significantly (5 %,
one-sided) above L. x is never larger than the base level's largest size allows, so bounds are never
extrapolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.curves import METHODS, Axis, Reader, axis_of, reader
from rewardscale.scaling.points import Points
from rewardscale.scaling.resample import RESAMPLES, Interval, Resampled, resample

AXES = ("pairs", "cost", "raw_pairs", "distinct")
TARGETS = 3  # losses that the summary averages over
_GRID = 21  # losses of the curve
_RATIOS = 25  # ratios tried for a bound
_ONE_SIDED = 0.90  # the confidence of a two-sided interval whose ends are one-sided 95 % bounds

_CURVE = {"loss": pl.Float64, "target_size": pl.Float64, "base_size": pl.Float64, "ratio": pl.Float64}
_CURVE |= {
    "low": pl.Float64,
    "high": pl.Float64,
    "extrapolated": pl.Boolean,
    "bound": pl.String,
    "note": pl.String,
}


@dataclass(frozen=True, eq=False)
class Der:
    """Data-equivalence ratio of ``target`` in units of ``base``.

    Attributes:
      curve: a row a loss (nats a pair, from high to low): loss, target_size, base_size (on ``axis``; null where
        never reached), ratio, low, high (95 %), extrapolated (outside either observed range), bound ("more than":
        low is a one-sided 95 % bound and there is no high; "fewer than": the other way round; "" elsewhere), note.
      targets: three losses inside both observed ranges, a quarter, half and three quarters along in log target size.
      summary: geometric mean of the ratio over the targets.
      trend: the ratio at the lowest target loss over that at the highest: above 1, the ratio grows with scale.
      observed: level -> lowest and highest loss (means made non-increasing).
      notes: what a reader must know.
    """

    base: str
    target: str
    axis: str
    method: str
    curve: pl.DataFrame
    targets: tuple[float, ...]
    summary: Interval
    trend: Interval
    observed: dict[str, tuple[float, float]]
    notes: tuple[str, ...]
    pair: _Pair
    logs: Resampled

    def at(self, loss: float) -> Interval:
        """The ratio at one loss, nats a pair; its note says if it is extrapolated or only a bound."""
        row = _curve(self.pair, np.array([loss])).row(0, named=True)
        said = ["extrapolated"] if row["extrapolated"] else []
        said += [f"{row['bound']} this: one-sided 95 % bound"] if row["bound"] else []
        said += [row["note"]] if row["note"] else []
        estimate = float("nan") if row["ratio"] is None else row["ratio"]
        return Interval(estimate, row["low"], row["high"], None, note="; ".join(said))

    def p_value(self, ratio: float = 1.0) -> float | None:
        """Two-sided p-value of the summary being ``ratio``; None where there is no interval."""
        return self.logs.p_value(TARGETS, float(np.log(ratio)))

    @property
    def statement(self) -> str:
        """The summary in one sentence."""
        losses = ", ".join(f"{loss:.3f}" for loss in self.targets)
        unit = self.axis.replace("_", " ")
        return (
            f"one unit of {self.target} is worth {self.summary} of {self.base} ({unit}; "
            f"geometric mean at losses {losses}, inside both observed ranges)"
        )


def der(
    points: Points,
    base: str,
    target: str,
    *,
    axis: str = "pairs",
    method: str = "fit",
    losses: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
    log: bool = True,
    delta: float | None = None,
) -> Der:
    """The data-equivalence ratio of ``target`` in units of ``base``, at one model size.

    Args:
      points: of one model, both levels (and others, which are left alone).
      axis: what is counted: "pairs", or a column of ``points.table``: "cost", "raw_pairs", "distinct".
      method: "fit" (a power law with a floor for each level) or "interpolate" (no form assumed).
      losses: of the curve, nats a pair; by default 21 over what either level was observed at.
      log, delta: the fits' objective (see ``fit.fit``).

    With fewer than 5 draws there are estimates and no intervals; the notes say so.

    Raises:
      ScalingError: unknown names, several model sizes, no axis column, losses that aren't above 0, or observed
        ranges of loss that don't overlap.
      FitError: too few sizes, or data that don't pin the form down.
    """
    pair = _pair(points, base, target, axis, method, resamples, seed, log, delta)
    targets = _targets(pair)
    logs = resample(
        pair.points, lambda m: _summary(pair, m, np.array(targets)), resamples=resamples, seed=seed
    )
    table = _curve(pair, _grid(pair) if losses is None else _losses(losses))
    return Der(
        base=base,
        target=target,
        axis=axis,
        method=method,
        curve=table,
        targets=targets,
        summary=logs.interval(TARGETS).map(_exp),
        trend=logs.interval(TARGETS + 1).map(_exp),
        observed={read.level: read.losses for read in (pair.base, pair.target)},
        notes=tuple(_notes(pair, table, logs)),
        pair=pair,
        logs=logs,
    )


@dataclass(frozen=True, eq=False)
class _Pair:
    """Two levels ready to be read on every resample."""

    points: Points
    base: Reader
    target: Reader
    base_axis: Axis
    target_axis: Axis
    resamples: int
    seed: int

    @property
    def overlap(self) -> tuple[float, float]:
        """The lowest and highest loss inside both observed ranges."""
        return max(self.base.losses[0], self.target.losses[0]), min(
            self.base.losses[1], self.target.losses[1]
        )


def _pair(
    points: Points,
    base: str,
    target: str,
    axis: str,
    method: str,
    resamples: int,
    seed: int,
    log: bool,
    delta: float | None,
) -> _Pair:
    if axis not in AXES:
        raise ScalingError(f"axis={axis!r} must be one of {AXES}")
    if method not in METHODS:
        raise ScalingError(f"method={method!r} must be one of {METHODS}")
    if base == target:
        raise ScalingError(f"base and target are both {base!r}: a ratio needs two levels")
    reads = [reader(points, level, method, log=log, delta=delta) for level in (base, target)]
    # Only these two levels' points: resamples then don't depend on what else was in the sweep.
    index = np.concatenate([read.index for read in reads])
    own = points.select(index)
    models = (
        [set(points.table["model"][read.index]) for read in reads] if "model" in points.table.columns else []
    )
    if models and models[0] != models[1]:
        raise ScalingError(f"{base!r} and {target!r} are of different models, {models[0]} and {models[1]}")
    count = len(reads[0].index)
    reads[0] = replace(reads[0], index=np.arange(count), total=len(index))
    reads[1] = replace(reads[1], index=np.arange(count, len(index)), total=len(index))
    axes = [axis_of(read, _sizes(own, read, axis), axis) for read in reads]
    made = _Pair(own, reads[0], reads[1], axes[0], axes[1], resamples, seed)
    low, high = made.overlap
    if low >= high:
        said = " and ".join(f"{r.level} {r.losses[1]:.4g} to {r.losses[0]:.4g}" for r in reads)
        raise ScalingError(
            f"no loss was observed at both levels ({said}): "
            "give the better level fewer pairs, or the worse one more"
        )
    return made


def _sizes(points: Points, read: Reader, axis: str) -> NDArray:
    if axis == "pairs":
        return read.pairs
    if axis not in points.table.columns:
        raise ScalingError(
            f"axis={axis!r}: these points' table has no such column; it has {points.table.columns}"
        )
    return points.table[axis].cast(pl.Float64).fill_null(float("nan")).to_numpy()[read.index]


def _losses(losses: ArrayLike) -> NDArray:
    values = np.atleast_1d(np.asarray(losses, np.float64))
    if values.ndim != 1 or not (np.isfinite(values).all() and (values > 0).all()):
        raise ScalingError("losses must be a list of finite numbers above 0, nats a pair")
    return values


def _grid(pair: _Pair) -> NDArray:
    ends = [loss for read in (pair.base, pair.target) for loss in read.losses]
    return np.geomspace(max(ends), min(ends), _GRID)


def _targets(pair: _Pair) -> tuple[float, ...]:
    """Losses a quarter, half and three quarters along the overlap, in the target's log pairs."""
    low, high = pair.overlap
    x, y = np.log(pair.target.pairs), np.log(pair.target.smooth)
    fall = np.concatenate([[True], np.diff(y) < 0])  # the first point of each flat piece
    ends = np.interp(-np.log([high, low]), -y[fall], x[fall])
    places = ends[0] + np.arange(1, TARGETS + 1) / (TARGETS + 1) * (ends[1] - ends[0])
    return tuple(float(loss) for loss in np.exp(np.interp(places, x, y)))


# ------------------------------------------------------------------------------------------------ statistics


def _log_ratio(pair: _Pair, means: NDArray, losses: NDArray) -> tuple[NDArray, NDArray]:
    """log DER at the target sizes that reach losses [s] on the means seen, and its derivative: [R, s], [R, s, n].

    Infinite or NaN where a curve isn't there.
    """
    fixed = pair.target(pair.points.mean[None]).log_pairs(losses)[0][0]
    there = np.isfinite(fixed)
    loss, _, by_target = pair.target(means).log_loss(np.where(there, fixed, 0.0)[None])
    curves = pair.base(means)
    pairs, by_base = curves.log_pairs(np.exp(loss))
    reached = np.isfinite(pairs)
    along = curves.log_loss(np.where(reached, pairs, 0.0))[1]  # d log L / d log D of the base curve
    size, steep = pair.base_axis.size(pairs)
    value = np.where(there, size - pair.target_axis.size(np.where(there, fixed, 0.0))[0], -fixed)
    with np.errstate(divide="ignore", invalid="ignore"):
        chain = np.where(reached & (along < 0), steep / along, 0.0)
    slope = pair.base.spread(by_base * steep[..., None]) + pair.target.spread(chain[..., None] * by_target)
    return value, np.where((reached & there)[..., None], slope, 0.0)


def _summary(pair: _Pair, means: NDArray, targets: NDArray) -> tuple[NDArray, NDArray]:
    """log DER at the targets, their mean, and the last less the first: [R, TARGETS + 2]."""
    value, slope = _log_ratio(pair, means, targets)
    with np.errstate(invalid="ignore"):
        more = np.stack([value.mean(1), value[:, -1] - value[:, 0]], 1)
    steep = np.stack([slope.mean(1), slope[:, -1] - slope[:, 0]], 1)
    return np.concatenate([value, more], 1), np.concatenate([slope, steep], 1)


def _log_gap(pair: _Pair, means: NDArray, loss: NDArray, log_ratio: NDArray) -> tuple[NDArray, NDArray]:
    """log L_base(ratio * D_target) - log L_target(D_target) and its derivative: [R, s], [R, s, n].

    D_target is what reaches ``loss`` on the means seen; for pairs of loss and ratio [s].
    """
    fixed = pair.target(pair.points.mean[None]).log_pairs(loss)[0]
    there = np.isfinite(fixed)
    fixed = np.where(there, fixed, 0.0)
    pairs = pair.base_axis.pairs(pair.target_axis.size(fixed)[0] + log_ratio)[0]
    value, _, by_base = pair.base(means).log_loss(pairs)
    aim, _, by_target = pair.target(means).log_loss(fixed)
    return np.where(there, value - aim, np.nan), pair.base.spread(by_base) - pair.target.spread(by_target)


# ------------------------------------------------------------------------------------------------- the curve


def _curve(pair: _Pair, losses: NDArray) -> pl.DataFrame:
    logs = resample(
        pair.points, lambda m: _log_ratio(pair, m, losses), resamples=pair.resamples, seed=pair.seed
    )
    base, target = _sizes_at(pair, losses)
    low, high = pair.overlap
    rows = []
    for i, loss in enumerate(losses):
        with np.errstate(over="ignore"):
            row = {"loss": float(loss), "target_size": _finite(target[i]), "base_size": _finite(base[i])}
        ratio = logs.interval(i).map(_exp)
        rows.append(
            row
            | {"ratio": _finite(ratio.estimate), "low": ratio.low, "high": ratio.high}
            | {"extrapolated": not low <= loss <= high, "bound": "", "note": ratio.note}
        )
    open_ = [i for i, row in enumerate(rows) if row["low"] is None and not logs.note and row["target_size"]]
    for i, (bound, value) in zip(open_, _bounds(pair, losses[open_], logs.values[:, open_]), strict=True):
        never = _share(logs.values[:, i], np.inf)
        rows[i] |= {"bound": bound, "low" if bound == "more than" else "high": value}
        rows[i]["note"] = _said(pair, bound, never)
    return pl.DataFrame(rows, schema=_CURVE)


def _sizes_at(pair: _Pair, losses: NDArray) -> tuple[NDArray, NDArray]:
    """Sizes of base and target at losses, on the means seen; infinite or 0 where not reached."""
    sizes = []
    for read, axis in ((pair.base, pair.base_axis), (pair.target, pair.target_axis)):
        pairs = read(pair.points.mean[None]).log_pairs(losses)[0][0]
        with np.errstate(over="ignore"):
            sizes.append(np.exp(axis.size(pairs)[0]))
    return sizes[0], sizes[1]


def _bounds(pair: _Pair, losses: NDArray, logs: NDArray) -> list[tuple[str, float | None]]:
    """For losses where the ratio has no interval: ("more than" | "fewer than" | "", one-sided 95 % bound)."""
    if not len(losses):
        return []
    _, target = _sizes_at(pair, losses)
    span = np.linspace(pair.base_axis.y[0], pair.base_axis.y[-1], _RATIOS)
    ratios = span[None] - np.log(target)[:, None]  # [losses, _RATIOS]
    flat = np.repeat(losses, _RATIOS), ratios.ravel()
    gaps = resample(pair.points, lambda m: _log_gap(pair, m, *flat), resamples=pair.resamples, seed=pair.seed)
    out: list[tuple[str, float | None]] = []
    for i in range(len(losses)):
        ends = [gaps.interval(i * _RATIOS + j, _ONE_SIDED) for j in range(_RATIOS)]
        worse = [e.low is not None and e.low > 0 for e in ends]
        better = [e.high is not None and e.high < 0 for e in ends]
        if _share(logs[:, i], -np.inf) > _share(logs[:, i], np.inf):
            count = _leading(better[::-1])
            out.append(("fewer than", _exp(ratios[i, -count]) if count else None))
        else:
            count = _leading(worse)
            out.append(("more than", _exp(ratios[i, count - 1]) if count else None))
    return [(bound if value is not None else "", value) for bound, value in out]


def _leading(flags: Sequence[bool]) -> int:
    """How many are true before the first that isn't."""
    return next((i for i, flag in enumerate(flags) if not flag), len(flags))


def _said(pair: _Pair, bound: str, never: float) -> str:
    if not bound:
        return "neither an interval nor a bound: the loss lies too near an end of the curves, for these draws"
    if bound == "fewer than":
        return f"{pair.base.level} is at this loss before its smallest size"
    if never <= 0.5:
        return f"{pair.base.level} never gets to this loss in {never:.0%} of resamples"
    if pair.base.fit is None:
        return f"{pair.base.level} does not get to this loss within its sizes"
    why = f"its fitted floor lies above this loss in {never:.0%} of resamples"
    return f"no number of {pair.base.level} pairs in sight: {why}"


def _share(values: NDArray, what: float) -> float:
    return float((values == what).mean()) if len(values) else 0.0


def _notes(pair: _Pair, table: pl.DataFrame, logs: Resampled) -> list[str]:
    notes = [*pair.points.notes]
    if logs.note:
        notes.append(logs.note)
    never = table.filter((pl.col("bound") == "more than") & pl.col("ratio").is_null())
    if len(never):
        best = never.sort("low", descending=True).row(0, named=True)
        sight = "never reached within its sizes" if pair.base.fit is None else "with no number in sight"
        notes.append(
            f"{pair.base.level} gets to no loss of {never['loss'].max():.4g} and less, {sight}: at {best['loss']:.4g} "
            f"one unit of {pair.target.level} is worth more than {best['low']:.3g} of it (one-sided 95 % bound)"
        )
    for read in (pair.base, pair.target):
        notes += [f"{read.level}: {note}" for note in (read.fit.notes if read.fit else ())]
    return notes


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) and value > 0 else None


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.exp(value))
