"""The money frontier: what a budget buys at each level, and the price up to which curation pays.

What D pairs of a level cost, in labels, curation and training, against the loss they buy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.curves import Axis, Reader, axis_of, reader
from rewardscale.scaling.der import der
from rewardscale.scaling.frontier import exp, positive, within
from rewardscale.scaling.points import Points
from rewardscale.scaling.resample import RESAMPLES, Interval, Statistic, resample


@dataclass(frozen=True, eq=False)
class Money:
    """What money buys at each level, at one model size.

    Attributes:
      best: a row a (budget, level): budget, level, pairs, loss, low, high (95 %), against_base (loss over the base's,
        less 1), against_low, against_high, extrapolated (outside the sizes that were run), best (lowest loss at this
        budget).
      cheapest: a row a (loss, level): loss, level, spend (null where never reached), low, high, extrapolated, note.
      break_even: level -> the price of curating one raw pair at which the level costs as much as the base, at equal
        loss (its own curation price aside); below 0: it would not pay at any price. A string says why there is none.
      notes: what a reader must know.
    """

    best: pl.DataFrame
    cheapest: pl.DataFrame
    break_even: dict[str, Interval | str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Prices:
    """Prices, in any one currency.

    Attributes:
      label: of one unit of the sweep's cost (a raw pair labelled, a vote).
      curation: level -> of curating one raw pair (0 where not named).
      flop: of one training FLOP.
    """

    label: float = 1.0
    curation: Mapping[str, float] | None = None
    flop: float = 0.0

    def of(self, level: str) -> float:
        return float((self.curation or {}).get(level, 0.0))


def money(
    points: Points,
    prices: Prices,
    budgets: ArrayLike,
    *,
    base: str,
    losses: ArrayLike | None = None,
    method: str = "fit",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Money:
    """What each level costs, spend(D) = label cost(D) + curation raw_pairs(D) + flop flops(D), and what that buys.

    cost, raw_pairs and flops are those of ``points.table``, of one model; between and beyond the sizes they are read
    straight in logs. ``losses``: for ``cheapest``; by default five inside every level's observed range, or the base's.

    Raises:
      ScalingError: several models, an unknown base or level in the prices, prices that are below 0 or all 0, budgets
        or losses that aren't above 0, or a column that a price needs and the table lacks.
      FitError: too few sizes, or data that don't pin a curve down.
    """
    levels = _priced(points, prices, base)
    wanted = positive(budgets, "budgets")
    reads = {level: reader(points, level, method) for level in levels}
    axes = {level: axis_of(reads[level], _spend(points, reads[level], prices), "spend") for level in levels}
    at = _common(reads, base) if losses is None else positive(losses, "losses")
    return Money(
        best=_best(points, reads, axes, base, wanted, resamples, seed),
        cheapest=_cheapest(points, reads, axes, at, resamples, seed),
        break_even={
            q: _break_even(points, prices, base, q, method, resamples, seed) for q in levels if q != base
        },
        notes=(*points.notes, *filter(None, [points.why_no_interval()])),
    )


def _priced(points: Points, prices: Prices, base: str) -> list[str]:
    if "level" not in points.table.columns:
        raise ScalingError("these points have no table of levels: make them with points(sweep, ...)")
    levels = points.table["level"].unique(maintain_order=True).to_list()
    unknown = sorted({base, *(prices.curation or {})} - set(levels))
    if unknown:
        raise ScalingError(f"no levels {unknown} among these points; they have {levels}")
    every = [prices.label, prices.flop, *(prices.curation or {}).values()]
    if any(not np.isfinite(p) or p < 0 for p in every) or not any(every):
        raise ScalingError(f"prices must be finite, not below 0 and not all 0; they are {prices}")
    return levels


def _spend(points: Points, read: Reader, prices: Prices) -> NDArray:
    wanted = {"cost": prices.label, "raw_pairs": prices.of(read.level), "flops": prices.flop}
    total = np.zeros(len(read.index))
    for column, price in wanted.items():
        if price:
            total = total + price * _column(points, column)[read.index]
    if not total.any():
        raise ScalingError(f"level {read.level!r} costs nothing at these prices: give label or flop a price")
    return total


def _column(points: Points, name: str) -> NDArray:
    if name not in points.table.columns:
        raise ScalingError(f"a price needs the column {name!r}, which these points' table lacks")
    return points.table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()


def _common(reads: Mapping[str, Reader], base: str) -> NDArray:
    low = max(read.losses[0] for read in reads.values())
    high = min(read.losses[1] for read in reads.values())
    if low >= high:
        low, high = reads[base].losses
    return np.geomspace(high, low, 7)[1:-1]


def _best(
    points: Points,
    reads: Mapping[str, Reader],
    axes: Mapping[str, Axis],
    base: str,
    budgets: NDArray,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    levels = list(reads)
    logs = resample(points, _losses_at(reads, axes, base, np.log(budgets)), resamples=resamples, seed=seed)
    count, rows = len(levels) * len(budgets), []
    for i, budget in enumerate(budgets):
        losses = logs.estimate[i : count : len(budgets)]
        for j, level in enumerate(levels):
            index = j * len(budgets) + i
            pairs = exp(axes[level].pairs(np.log(budget))[0])
            loss = logs.interval(index).map(exp)
            against = logs.interval(count + index).map(lambda v: exp(v) - 1)
            outside = not within(reads[level].pairs, pairs)
            row = {"budget": float(budget), "level": level, "pairs": pairs, "loss": loss.estimate}
            row |= {
                "low": loss.low,
                "high": loss.high,
                "against_base": against.estimate if level != base else None,
            }
            row |= {"against_low": against.low, "against_high": against.high, "extrapolated": outside}
            rows.append(row | {"best": bool(losses[j] == losses.min())})
    schema = dict.fromkeys(
        ("pairs", "loss", "low", "high", "against_base", "against_low", "against_high"), pl.Float64
    )
    return pl.DataFrame(
        rows,
        schema={
            "budget": pl.Float64,
            "level": pl.String,
            **schema,
            "extrapolated": pl.Boolean,
            "best": pl.Boolean,
        },
    )


def _losses_at(
    reads: Mapping[str, Reader], axes: Mapping[str, Axis], base: str, log_budgets: NDArray
) -> Statistic:
    """log loss of each level at each budget, then the same less the base's: [R, 2 levels budgets]."""

    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        values, slopes = {}, {}
        for level, read in reads.items():
            pairs = np.broadcast_to(axes[level].pairs(log_budgets)[0], (len(means), len(log_budgets)))
            values[level], _, slope = read(means).log_loss(pairs)
            slopes[level] = read.spread(slope)
        gaps = [values[level] - values[base] for level in reads]
        steeps = [slopes[level] - slopes[base] for level in reads]
        return np.concatenate([*values.values(), *gaps], 1), np.concatenate([*slopes.values(), *steeps], 1)

    return statistic


def _cheapest(
    points: Points,
    reads: Mapping[str, Reader],
    axes: Mapping[str, Axis],
    losses: NDArray,
    resamples: int,
    seed: int,
) -> pl.DataFrame:
    def statistic(means: NDArray) -> tuple[NDArray, NDArray]:
        values, slopes = [], []
        for level, read in reads.items():
            pairs, slope = read(means).log_pairs(losses)
            size, steep = axes[level].size(pairs)
            values.append(size)
            slopes.append(read.spread(slope * steep[..., None]))
        return np.concatenate(values, 1), np.concatenate(slopes, 1)

    logs = resample(points, statistic, resamples=resamples, seed=seed)
    rows = []
    for i, loss in enumerate(losses):
        for j, (level, read) in enumerate(reads.items()):
            spend = logs.interval(j * len(losses) + i).map(exp)
            reached = np.isfinite(spend.estimate) and spend.estimate > 0
            outside = not read.losses[0] <= loss <= read.losses[1]
            row = {"loss": float(loss), "level": level, "spend": spend.estimate if reached else None}
            row |= {"low": spend.low, "high": spend.high, "extrapolated": outside}
            rows.append(row | {"note": spend.note if reached else "never at this loss"})
    numbers = dict.fromkeys(("spend", "low", "high"), pl.Float64)
    schema = {
        "loss": pl.Float64,
        "level": pl.String,
        **numbers,
        "extrapolated": pl.Boolean,
        "note": pl.String,
    }
    return pl.DataFrame(rows, schema=schema)


def _break_even(
    points: Points, prices: Prices, base: str, level: str, method: str, resamples: int, seed: int
) -> Interval | str:
    """Price c of curating a raw pair at which spend_level = spend_base at equal loss.

    With u the level's spend a raw pair without curation and DER the ratio of spends without it, c = u (DER - 1).
    """
    try:
        free = replace(prices, curation={base: prices.of(base)})
        reads = [reader(points, q, "interpolate") for q in (base, level)]
        spend = np.ones(len(points))
        for read in reads:
            spend[read.index] = _spend(points, read, free)
        priced = replace(points, table=points.table.with_columns(cost=pl.Series(spend)))
        ratio = der(priced, base, level, axis="cost", method=method, resamples=resamples, seed=seed).summary
        own = reads[1].index
        each = float(np.exp(np.log(spend[own] / _column(points, "raw_pairs")[own]).mean()))
    except ScalingError as reason:
        return str(reason)
    return ratio.map(lambda value: each * (value - 1))
