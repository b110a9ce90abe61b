"""Preliminary fits: one power law with a floor a curve, by variable projection, without intervals.

Everything here is named *preliminary*: a point estimate says nothing about its own uncertainty, floor and
exponent trade against each other over two decades, and no part of the data is held out. Resampled fits,
comparisons of levels and extrapolation tests are another module's work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import isotonic_regression, minimize_scalar, nnls

from rewardscale.scaling.collect import ScalingError, Sweep, curve
from rewardscale.scaling.forms import power_law

MIN_SIZES = 4  # three parameters; with three sizes any curve would fit exactly
EXPONENTS = np.geomspace(0.02, 4.0, 160)
POOR = 0.01  # nats; a fit whose root mean square residual is larger is not drawn
PLATEAU = 0.97 * float(np.log(2))  # nats; above it a curve is still on its chance plateau

# The level that others are measured against, and the one named in a headline: the first of these a sweep has.
BASE_LEVELS = ("raw", "one_vote")
TARGET_LEVELS = ("gold", "strict", "corrected", "filtered", "majority_5", "majority_3")


@dataclass(frozen=True)
class PreliminaryFit:
    """L(D) = floor + scale * D^-exponent. Losses and ``rms`` (root mean square residual) in nats a pair.

    ``sizes`` distinct numbers of pairs over ``decades`` decades were fitted. ``note`` is empty or says what
    the data did not pin down.
    """

    floor: float
    scale: float
    exponent: float
    rms: float
    sizes: int
    decades: float
    note: str

    def loss(self, pairs: ArrayLike) -> NDArray[np.float64]:
        """The fitted loss at these numbers of pairs, nats a pair."""
        return power_law(pairs, self.floor, self.scale, self.exponent)


def fit_preliminary(pairs: ArrayLike, loss: ArrayLike, weight: ArrayLike | None = None) -> PreliminaryFit:
    """Least squares for L(D) = E + B D^-beta with E, B >= 0, by variable projection.

    For a given beta the form is linear in (E, B): non-negative least squares solves it exactly, which leaves
    a search over beta alone (a grid, so that no local minimum catches it, then a bounded Brent search
    between the neighbours of the best). After Golub & Pereyra 1973. ``weight`` multiplies squared residuals
    (give numbers of draws); shapes: three equal 1-D arrays. Raises ScalingError for fewer than 4 distinct
    sizes or bad values.
    """
    x, y = np.asarray(pairs, np.float64), np.asarray(loss, np.float64)
    w = np.ones_like(y) if weight is None else np.asarray(weight, np.float64)
    _check(x, y, w)
    root = np.sqrt(w / w.sum())
    # Sizes relative to their middle: the two columns then have one scale, whatever beta is.
    middle = float(np.exp(np.log(x).mean()))
    u = x / middle

    def project(beta: float) -> tuple[float, float, float]:
        design = np.stack([np.ones_like(u), u**-beta], axis=1)
        (floor, scale), residual = nnls(design * root[:, None], y * root)
        return residual, floor, scale

    costs = np.array([project(beta)[0] for beta in EXPONENTS])
    best = int(costs.argmin())
    low, high = EXPONENTS[max(best - 1, 0)], EXPONENTS[min(best + 1, len(EXPONENTS) - 1)]
    found: Any = minimize_scalar(
        lambda b: project(b)[0], bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    beta = float(found.x if found.fun <= costs[best] else EXPONENTS[best])
    rms, floor, scale = project(beta)
    return PreliminaryFit(
        floor=float(floor),
        scale=float(scale * middle**beta),
        exponent=beta,
        rms=float(rms),
        sizes=len(np.unique(x)),
        decades=float(np.log10(x.max() / x.min())),
        note=_note(float(floor), float(scale), beta, y),
    )


def preliminary_fits(sweep: Sweep, y: str = "loss_recalibrated", eval_set: str | None = None) -> pl.DataFrame:
    """One fit a (family, model, level) to the means over draws, each weighted by its number of draws.

    Losses above PLATEAU are left out: a model that has learned next to nothing sits at ln 2 whatever the data
    size, and a power law says nothing about that.

    Columns: family, model, params, level, sizes, runs (draws fitted), first (smallest size fitted), decades,
    floor, scale, exponent, rms, note. A curve that can't be fitted has nulls and its reason in ``note``; nothing
    is left out silently.
    """
    rows = []
    points = curve(sweep, y, "pairs", eval_set)
    for (family, model, params, level), group in _groups(points):
        used = group.filter(pl.col("mean") <= PLATEAU) if y.startswith("loss") else group
        x, mean, draws = (used[name].to_numpy() for name in ("pairs", "mean", "draws"))
        row = {"family": family, "model": model, "params": params, "level": level, "sizes": len(used)}
        row |= {"runs": int(draws.sum()), "first": int(x.min()) if len(x) else None}
        row |= {"decades": float(np.log10(x.max() / x.min())) if len(x) else 0.0}
        try:
            fit = fit_preliminary(x, mean, draws)
        except ScalingError as reason:
            row |= {"floor": None, "scale": None, "exponent": None, "rms": None, "note": f"no fit: {reason}"}
        else:
            row |= {"floor": fit.floor, "scale": fit.scale, "exponent": fit.exponent}
            poor = f"misses the means by {fit.rms:.3f} nats: this form does not describe the curve"
            row |= {
                "rms": fit.rms,
                "note": "; ".join(filter(None, (fit.note, poor if fit.rms > POOR else ""))),
            }
        rows.append(row)
    return pl.DataFrame(rows, schema=_FIT_SCHEMA)


def exchange(
    sweep: Sweep, base: str | None = None, y: str = "loss_recalibrated", eval_set: str | None = None
) -> pl.DataFrame:
    """What a pair of each level buys in pairs of the base level, at equal loss; preliminary, no interval.

    For each point (D, L) of another level, the base level's curve (means made non-increasing by isotonic
    regression, straight between neighbours in log D) is read at L. Columns: family, model, params, level,
    base, pairs, loss, base_pairs, ratio (base pairs a pair), cost_ratio (units of cost spent on the base
    level that buy what one unit spent on this level buys), within ("in range", or "more than" / "fewer than"
    where the base curve ends first and the numbers are its bound: nothing is extrapolated). Raises
    ScalingError where no base level can be named.
    """
    points, costs = curve(sweep, y, "pairs", eval_set), curve(sweep, y, "cost", eval_set)
    points = points.with_columns(costs["x"].alias("cost"))
    base = base or base_level(points["level"].unique().to_list())
    if base is None or base not in points["level"]:
        raise ScalingError(f"no level to measure against: wanted {base or BASE_LEVELS}")
    rows = []
    for (family, model), group in points.group_by("family", "model", maintain_order=True):
        reference = group.filter(pl.col("level") == base).sort("pairs")
        if len(reference) < 2:
            continue
        for point in group.filter(pl.col("level") != base).iter_rows(named=True):
            log_pairs, within = _read_curve(reference, point["mean"])
            log_cost = np.interp(log_pairs, np.log(reference["pairs"]), np.log(reference["cost"]))
            rows.append(
                {"family": family, "model": model, "params": point["params"], "level": point["level"]}
                | {"base": base, "pairs": point["pairs"], "loss": point["mean"]}
                | {"base_pairs": float(np.exp(log_pairs)), "ratio": float(np.exp(log_pairs) / point["pairs"])}
                | {"cost_ratio": float(np.exp(log_cost) / point["cost"]), "within": within}
            )
    return pl.DataFrame(rows, schema=_EXCHANGE_SCHEMA)


def base_level(levels: list[str]) -> str | None:
    """The uncurated level of a sweep that has these, or None."""
    return next((level for level in BASE_LEVELS if level in levels), None)


def target_level(levels: list[str]) -> str | None:
    """The best-curated level of a sweep that has these, or None."""
    return next((level for level in TARGET_LEVELS if level in levels), None)


_KEY = {"family": pl.String, "model": pl.String, "params": pl.Int64, "level": pl.String}
_FIT_SCHEMA = _KEY | {"sizes": pl.Int64, "runs": pl.Int64, "first": pl.Int64, "decades": pl.Float64}
_FIT_SCHEMA |= {"floor": pl.Float64}
_FIT_SCHEMA |= {"scale": pl.Float64, "exponent": pl.Float64, "rms": pl.Float64, "note": pl.String}
_EXCHANGE_SCHEMA = _KEY | {"base": pl.String, "pairs": pl.Int64, "loss": pl.Float64, "base_pairs": pl.Float64}
_EXCHANGE_SCHEMA |= {"ratio": pl.Float64, "cost_ratio": pl.Float64, "within": pl.String}


def _groups(points: pl.DataFrame):
    return points.group_by("family", "model", "params", "level", maintain_order=True)


def _check(x: NDArray, y: NDArray, w: NDArray) -> None:
    if x.ndim != 1 or x.shape != y.shape or x.shape != w.shape:
        raise ScalingError(
            f"pairs, loss and weight must be equal 1-D arrays, got {x.shape}, {y.shape}, {w.shape}"
        )
    for name, values in (("pairs", x), ("loss", y), ("weight", w)):
        if not (np.isfinite(values).all() and (values > 0).all()):
            raise ScalingError(f"a power law needs finite {name} above 0")
    sizes = len(np.unique(x))
    if sizes < MIN_SIZES:
        raise ScalingError(f"{sizes} sizes; a power law with a floor needs at least {MIN_SIZES}")


def _note(floor: float, scale: float, beta: float, y: NDArray) -> str:
    if scale < 1e-9 * y.mean():
        return "the loss does not fall with pairs: the exponent means nothing"
    if beta < EXPONENTS[1] or beta > EXPONENTS[-2]:
        return "exponent at the end of the search range: not pinned down"
    if floor < 1e-6 * y.min():
        return "floor at 0: the data show no bend"
    return ""


def _read_curve(reference: pl.DataFrame, loss: float) -> tuple[float, str]:
    """(log of the base pairs at which the reference has this loss, in range or which bound)."""
    weights = reference["draws"].to_numpy().astype(np.float64)
    smooth = isotonic_regression(reference["mean"].to_numpy(), weights=weights, increasing=False).x
    log_pairs = np.log(reference["pairs"].to_numpy())
    if loss < smooth[-1]:
        return float(log_pairs[-1]), "more than"
    if loss > smooth[0]:
        return float(log_pairs[0]), "fewer than"
    # Where pooling made the curve flat, the loss is reached at the first of the equal points.
    first = np.flatnonzero(np.diff(smooth, prepend=np.inf) < 0)
    return float(np.interp(-loss, -smooth[first], log_pairs[first])), "in range"
