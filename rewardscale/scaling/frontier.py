"""The compute-optimal frontier: model size against pairs at a budget of training FLOPs.

Under L = E + A N^-alpha + B D^-beta and C = k N D, the loss is least at N* = G (C/k)^a and D* = (C/k)^(1-a)
/ G, with a = beta / (alpha + beta) and G = (alpha A / (beta B))^(1/(alpha + beta)) (Hoffmann et al. 2022,
arXiv 2203.15556, equation 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.curves import non_increasing
from rewardscale.scaling.fit import Fit, fit
from rewardscale.scaling.forms import CHINCHILLA
from rewardscale.scaling.points import Points
from rewardscale.scaling.resample import RESAMPLES, Interval, of_fit, resample

LAW_MODELS, LAW_SIZES = 5, 7  # fewer model or data sizes: no law
_UNEVEN = 1.5  # FLOPs a parameter and pair that differ by more than this factor are said to


@dataclass(frozen=True, eq=False)
class Frontier:
    """The compute-optimal frontier.

    Attributes:
      exponent: a in N* ~ C^a. scale: G. model_exponent, pairs_exponent: alpha, beta.
      table: a row a budget: budget (FLOPs), params, pairs, loss (nats a pair) and each with _low and _high (95 %),
        extrapolated (the optimum lies outside the sizes that were run).
      flops_per: k, FLOPs a parameter and pair. fit: Chinchilla's law.
      law: whether there are enough sizes to call this a law.
      notes: why not, and what else a reader must know.
    """

    exponent: Interval
    scale: Interval
    model_exponent: Interval
    pairs_exponent: Interval
    table: pl.DataFrame
    flops_per: float
    fit: Fit
    law: bool
    notes: tuple[str, ...]


def frontier(
    points: Points,
    budgets: ArrayLike,
    *,
    flops_per: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Frontier:
    """The compute-optimal frontier of one level and family at ``budgets`` (training FLOPs).

    ``flops_per`` is k; by default the geometric mean of flops / (params pairs) over the points.

    Raises:
      ScalingError: several levels or families, budgets that aren't above 0, or no FLOPs to take k from.
      FitError: fewer than 4 model sizes or data sizes, or data that don't pin the law down.
    """
    _one(points, "level", "family")
    wanted = positive(budgets, "budgets")
    k, uneven = _flops_per(points) if flops_per is None else (float(flops_per), "")
    found = fit(CHINCHILLA, points.x, points.mean, weight=points.draws.astype(float))
    logs = resample(points, of_fit(found, lambda t: _optimum(t, wanted / k)), resamples=resamples, seed=seed)
    exponent, model_exponent, pairs_exponent = (logs.interval(i) for i in range(3))
    rows: list[dict[str, Any]] = []
    for i, budget in enumerate(wanted):
        row: dict[str, Any] = {"budget": float(budget)}
        for j, name in enumerate(("params", "pairs", "loss")):
            row |= _columns(name, logs.interval(4 + 3 * i + j).map(exp))
        inside = [within(points.x[name], row[name]) for name in ("params", "pairs")]
        rows.append(row | {"extrapolated": not all(inside)})
    few = _too_few(points)
    zero = [name for name in ("model_scale", "scale") if name in found.at_bound]
    none = [f"{name} is 0: the loss does not fall along that axis and there is no optimum" for name in zero]
    notes = [*few, *none, uneven, logs.note, *points.notes, *found.notes]
    return Frontier(
        exponent=exponent,
        scale=logs.interval(3).map(exp),
        model_exponent=model_exponent,
        pairs_exponent=pairs_exponent,
        table=pl.DataFrame(rows),
        flops_per=k,
        fit=found,
        law=not few,
        notes=tuple(filter(None, notes)),
    )


def _optimum(theta: NDArray, product: NDArray) -> NDArray:
    """theta [R, 5] -> a, alpha, beta, log G, then log N*, log D*, log L* for each N D in ``product`` [b].

    The result is [R, 4 + 3 b].
    """
    floor, model_scale, scale, alpha, beta = theta.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        a = beta / (alpha + beta)
        log_g = (np.log(alpha * model_scale) - np.log(beta * scale)) / (alpha + beta)
        n = log_g[:, None] + a[:, None] * np.log(product)
        d = np.log(product) - n
        reducible = model_scale[:, None] * np.exp(-alpha[:, None] * n) + scale[:, None] * np.exp(
            -beta[:, None] * d
        )
        loss = np.log(floor[:, None] + reducible)
    each = np.stack([n, d, loss], -1).reshape(len(theta), -1)
    return np.concatenate([np.stack([a, alpha, beta, log_g], -1), each], -1)


def _flops_per(points: Points) -> tuple[float, str]:
    if "flops" not in points.table.columns:
        raise ScalingError("these points' table has no flops: give flops_per, FLOPs a parameter and pair")
    flops = points.table["flops"].cast(pl.Float64).fill_null(0.0).to_numpy()
    if (flops <= 0).any():
        raise ScalingError("some points have no FLOPs recorded: give flops_per, FLOPs a parameter and pair")
    each = flops / (points.x["params"] * points.x["pairs"])
    k = float(np.exp(np.log(each).mean()))
    if each.max() / each.min() < _UNEVEN:
        return k, ""
    return k, (
        f"FLOPs a parameter and pair go from {each.min():.3g} to {each.max():.3g}: "
        f"C = k N D with k = {k:.3g} is rough here"
    )


def _too_few(points: Points) -> list[str]:
    models, sizes = (len(np.unique(points.x[name])) for name in ("params", "pairs"))
    said = [f"{models} model sizes ({LAW_MODELS} needed)"] if models < LAW_MODELS else []
    said += [f"{sizes} data sizes ({LAW_SIZES} needed)"] if sizes < LAW_SIZES else []
    return [f"too few for a law: {', '.join(said)}"] if said else []


# ------------------------------------------------------------------------------------------------- isoFLOP


@dataclass(frozen=True, eq=False)
class IsoFlop:
    """Loss against model size at equal compute, for a plot.

    Attributes:
      profiles: budget, params, pairs, loss: each model's curve read at D = C / (k N), inside its sizes only.
      minima: budget, params, loss, note: the lowest point of a parabola in log N; null where there is none inside.
    """

    profiles: pl.DataFrame
    minima: pl.DataFrame


def isoflop(points: Points, budgets: ArrayLike, *, flops_per: float | None = None) -> IsoFlop:
    """IsoFLOP profiles and the minima of their parabolas (Hoffmann et al. 2022, approach 2), to look at and
    not to fit a law to.

    The minima are biased where alpha != beta or profiles are wide or off centre (Open Athena 2026): use
    ``frontier``. Raises ScalingError as ``frontier`` does.
    """
    _one(points, "level", "family")
    wanted = positive(budgets, "budgets")
    k = _flops_per(points)[0] if flops_per is None else float(flops_per)
    profiles = [row for budget in wanted for row in _profile(points, float(budget), k)]
    schema = {"budget": pl.Float64, "params": pl.Float64, "pairs": pl.Float64, "loss": pl.Float64}
    table = pl.DataFrame(profiles, schema=schema)
    minima = [_minimum(float(b), table.filter(pl.col("budget") == b)) for b in wanted]
    lowest = {"budget": pl.Float64, "params": pl.Float64, "loss": pl.Float64, "note": pl.String}
    return IsoFlop(table, pl.DataFrame(minima, schema=lowest))


def _profile(points: Points, budget: float, k: float) -> list[dict[str, float]]:
    rows = []
    for params in np.unique(points.x["params"]):
        own = np.flatnonzero(points.x["params"] == params)
        own = own[np.argsort(points.x["pairs"][own])]
        pairs = budget / (k * params)
        if len(own) < 2 or not within(points.x["pairs"][own], pairs):
            continue
        smooth = non_increasing(points.mean[None, own], points.draws[own].astype(float))[0][0]
        loss = np.exp(np.interp(np.log(pairs), np.log(points.x["pairs"][own]), np.log(smooth)))
        rows.append({"budget": budget, "params": float(params), "pairs": float(pairs), "loss": float(loss)})
    return rows


def _minimum(budget: float, profile: pl.DataFrame) -> dict[str, Any]:
    none = {"budget": budget, "params": None, "loss": None}
    if len(profile) < 3:
        return none | {"note": f"{len(profile)} models have this budget inside their sizes, 3 needed"}
    x, y = np.log(profile["params"].to_numpy()), profile["loss"].to_numpy()
    middle = x.mean()
    bend, slope, level = np.polyfit(x - middle, y, 2)
    lowest = middle - slope / (2 * bend) if bend > 0 else np.inf
    if not x.min() <= lowest <= x.max():
        return none | {"note": "no minimum inside the model sizes"}
    return none | {"params": exp(lowest), "loss": float(level - slope**2 / (4 * bend)), "note": ""}


# ------------------------------------------------------------------------------------------------- helpers


def _one(points: Points, *columns: str) -> None:
    for column in columns:
        names = points.table[column].unique().sort().to_list() if column in points.table.columns else []
        if len(names) > 1:
            raise ScalingError(f"these points are of several {column}s, {names}: select one")


def positive(values: ArrayLike, name: str) -> NDArray:
    """The values [k] as an array. Raises ScalingError unless they are finite and above 0."""
    out = np.atleast_1d(np.asarray(values, np.float64))
    if out.ndim != 1 or not len(out) or not (np.isfinite(out).all() and (out > 0).all()):
        raise ScalingError(f"{name} must be a list of finite numbers above 0")
    return out


def within(sizes: NDArray, value: float) -> bool:
    """Whether a value lies inside the range of sizes, up to rounding."""
    return bool(sizes.min() * (1 - 1e-9) <= value <= sizes.max() * (1 + 1e-9))


def _columns(name: str, interval: Interval) -> dict[str, float | None]:
    return {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}


def exp(value: Any) -> float:
    """e^value, infinite rather than a warning where too large."""
    with np.errstate(over="ignore"):
        return float(np.exp(value))
