"""From a sweep to what a fit reads: mean losses at the points of its grid, and the units they vary by.

Results are repeated over *draws* (which pairs, initialisation, order) and over *clusters* of the evaluation set
(prompts, debates). Both are shared by all points of a sweep: a draw's subsets are nested and its permutation
serves every level, and all runs are tested on the same items. So points are correlated, differences between
levels are paired, and what is resampled is never a point but a whole draw or a whole cluster.

Sizes that branch from one trunk (column ``trunk``: the same initialisation, order and steps up to their cooldowns)
are correlated most of all. A trunk is one model's at one level of one draw, so whole draws are whole trunks, and
their intervals allow for it; a table in which a trunk has several draws is refused.

With y_kg the loss of draw k at point g (n_g draws), its *shift* is u_kg = (y_kg - mean_g) / sqrt(n_g (n_g -
1)), and sum_k u_k u_k^T estimates the covariance of the means. A cluster's shift is its part in the ratio
estimate of the mean, v_cg = w_cg (mean_cg - mean_g) sqrt(C / (C - 1)), w_cg its share of the evaluation pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from rewardscale.scaling.collect import POINT, ScalingError, Sweep, per_draw

LEAST_UNITS = 5  # fewer draws (or clusters): no interval is printed
UNITS = ("draws", "clusters", "both")


@dataclass(frozen=True, eq=False)
class Points:
    """Means at n points, and the independent units that move them.

    Attributes:
      x: inputs by name, each [n]. mean: losses [n].
      shifts: unit kind ("draws", "clusters") -> [units, n]; the covariance of the means is the sum over kinds of
        shifts^T shifts (with both kinds a little too wide: what draws and clusters do together is counted twice).
      draws: number of draws at each point [n].
      table: a row a point: family, model, params, level, pairs, cost, raw_pairs, distinct.
      notes: what was left out, by name.
    """

    x: dict[str, NDArray]
    mean: NDArray
    shifts: dict[str, NDArray]
    draws: NDArray
    table: pl.DataFrame = field(default_factory=pl.DataFrame)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def se(self) -> NDArray:
        """Standard error of each mean [n]."""
        return np.sqrt(sum((s**2).sum(0) for s in self.shifts.values()) + np.zeros(len(self)))

    @property
    def units(self) -> dict[str, int]:
        """How many units of each kind there are."""
        return {kind: len(s) for kind, s in self.shifts.items()}

    def select(self, keep: ArrayLike) -> Points:
        """The points at a boolean mask or index array [n]."""
        index = np.arange(len(self))[np.asarray(keep)]
        return Points(
            {name: values[index] for name, values in self.x.items()},
            self.mean[index],
            {kind: s[:, index] for kind, s in self.shifts.items()},
            self.draws[index],
            self.table[index] if len(self.table) else self.table,
            self.notes,
        )

    def with_inputs(self, **inputs: ArrayLike) -> Points:
        """The same points with further inputs [n], e.g. ``quality``."""
        x = self.x | {name: np.asarray(values, np.float64) for name, values in inputs.items()}
        return Points(x, self.mean, self.shifts, self.draws, self.table, self.notes)

    def why_no_interval(self) -> str:
        """Empty, or why these points cannot carry an interval."""
        if not self.shifts:
            return "nothing was repeated: no interval"
        few = [f"{count} {kind}" for kind, count in self.units.items() if count < LEAST_UNITS]
        if few:
            return f"{', '.join(few)}: fewer than {LEAST_UNITS}, no interval"
        if (self.draws < LEAST_UNITS).any() and "draws" in self.shifts:
            return f"some points have {int(self.draws.min())} draws, fewer than {LEAST_UNITS}: no interval"
        return ""


def from_draws(x: Mapping[str, ArrayLike], y: ArrayLike, table: pl.DataFrame | None = None) -> Points:
    """Points of losses ``y`` [draws, n] (NaN where a draw lacks a point) at inputs ``x`` (each [n]).

    Raises ScalingError for infinite losses, and for points without any draw.
    """
    losses = np.asarray(y, np.float64)
    if losses.ndim != 2 or np.isinf(losses).any():
        raise ScalingError(
            f"y must be finite numbers (or NaN) of shape [draws, points], got shape {losses.shape}"
        )
    count = np.isfinite(losses).sum(0)
    if (count == 0).any():
        raise ScalingError(
            f"the points at positions {np.flatnonzero(count == 0).tolist()} have no draw at all"
        )
    mean = np.nansum(losses, 0) / count
    shifts = np.nan_to_num(losses - mean) / np.sqrt(np.maximum(count * (count - 1), 1))
    arrays = {name: np.asarray(values, np.float64) for name, values in x.items()}
    kinds = {"draws": shifts} if len(losses) > 1 else {}
    return Points(arrays, mean, kinds, count, pl.DataFrame() if table is None else table)


def points(
    sweep: Sweep,
    y: str = "loss_recalibrated",
    *,
    family: str | None = None,
    models: Sequence[str] | None = None,
    levels: Sequence[str] | None = None,
    eval_set: str | None = None,
    units: str = "draws",
    size: str = "params",
) -> Points:
    """The points of a sweep, ordered by family, model size, level and pairs.

    Args:
      family, models, levels: which to take, all by default.
      units: what varies: "draws" (the test set is taken as it is), "clusters" of the evaluation set (draws
        averaged), or "both".
      size: the column counted as N: "params" or "params_with_embeddings".

    Raises:
      ScalingError: unknown names, nothing left, values that are missing or not finite, duplicate runs, or clusters
        asked for that the sweep did not record, and trunks that have several draws.
    """
    if units not in UNITS:
        raise ScalingError(f"units={units!r} must be one of {UNITS}")
    chosen = _choose(sweep, family, models, levels)
    _refuse_split_trunks(chosen)
    draws = per_draw(chosen, y, "pairs", eval_set)
    table = _point_table(chosen, draws, size)
    wide = draws.join(table.select(*POINT, "point"), on=POINT)
    losses = np.full((draws["draw"].n_unique(), len(table)), np.nan)
    row = wide["draw"].rank("dense").to_numpy() - 1
    losses[row, wide["point"].to_numpy()] = wide["y"].to_numpy()
    made = from_draws(_inputs(table, size), losses, table.drop("point"))
    shifts = dict(made.shifts) if units != "clusters" else {}
    if units != "draws":
        shifts["clusters"] = _cluster_shifts(chosen, y, draws, table, made.mean, eval_set)
    short = np.flatnonzero(made.draws < made.draws.max())
    names = [
        f"{table['model'][int(i)]}/{table['level'][int(i)]}/{table['pairs'][int(i)]:,}" for i in short[:3]
    ]
    more = f" and {len(short) - 3} more" if len(short) > 3 else ""
    notes = (f"fewer draws than elsewhere at {', '.join(names)}{more}",) if len(short) else ()
    return Points(made.x, made.mean, shifts, made.draws, made.table, notes)


def _choose(
    sweep: Sweep, family: str | None, models: Sequence[str] | None, levels: Sequence[str] | None
) -> Sweep:
    wanted = (("family", [family] if family else None), ("model", models), ("level", levels))
    for column, names in wanted:
        if names is None:
            continue
        unknown = sorted(set(names) - set(sweep.table[column].unique()))
        if unknown:
            raise ScalingError(
                f"sweep {sweep.name!r} has no {column} {unknown}; it has {sorted(sweep.table[column].unique())}"
            )
        sweep = sweep.filter(pl.col(column).is_in(list(names)))
    return sweep


def _refuse_split_trunks(sweep: Sweep) -> None:
    """Resampling draws would tear apart what a trunk over several of them has in common."""
    if "trunk" not in sweep.table.columns:
        return  # a table older than trunks
    split = (
        sweep.table.drop_nulls("trunk")
        .group_by("trunk")
        .agg(pl.col("draw").unique().sort())
        .filter(pl.col("draw").list.len() > 1)
        .sort("trunk")
    )
    if len(split):
        trunk, draws = split.row(0)
        raise ScalingError(
            f"trunk {trunk!r} of sweep {sweep.name!r} has runs of draws {draws}: draws that share a trunk are not "
            "independent; delete results.parquet and launch the sweep again"
        )


def _point_table(sweep: Sweep, draws: pl.DataFrame, size: str) -> pl.DataFrame:
    extra = [
        c
        for c in ("cost", "raw_pairs", "distinct", "flops", "tokens", "params_with_embeddings")
        if c in sweep.table.columns
    ]
    if size != "params" and size not in extra:
        raise ScalingError(f"size={size!r}: this results table has no such column")
    runs = (
        sweep.table.unique(["run_id"]).group_by(POINT).agg(pl.col(c).cast(pl.Float64).mean() for c in extra)
    )
    keys = draws.select(POINT).unique()
    table = keys.join(runs, on=POINT, how="left").sort("family", "params", "model", "level", "pairs")
    return table.with_row_index("point")


def _inputs(table: pl.DataFrame, size: str) -> dict[str, NDArray]:
    return {"pairs": table["pairs"].to_numpy().astype(float), "params": table[size].to_numpy().astype(float)}


def _cluster_shifts(
    sweep: Sweep, y: str, draws: pl.DataFrame, table: pl.DataFrame, mean: NDArray, eval_set: str | None
) -> NDArray:
    """[clusters, n] from results_by_cluster.parquet, averaged over the draws that the means are made of."""
    if sweep.clusters is None:
        raise ScalingError(
            f"sweep {sweep.name!r} has no results_by_cluster.parquet: intervals over clusters of the "
            "evaluation set need it; "
            "launch the sweep again (finished runs are kept; those of an older version have no clusters)"
        )
    if y not in sweep.clusters.columns:
        raise ScalingError(f"{y!r} is not recorded by cluster: {sweep.clusters.columns}")
    name = eval_set or sweep.headline_eval
    runs = sweep.table.filter(pl.col("eval_set") == name).select("run_id", *POINT, "draw")
    runs = runs.join(draws.select(*POINT, "draw"), on=[*POINT, "draw"])
    own = sweep.clusters.filter(pl.col("eval_set") == name).join(runs, on="run_id")
    covered = own.select("run_id").n_unique()
    if covered < len(runs):
        raise ScalingError(
            f"{len(runs) - covered} of {len(runs)} runs have no scores by cluster: launch the sweep again"
        )
    sums = own.group_by(*POINT, "cluster").agg(
        (pl.col(y) * pl.col("eval_pairs")).sum().alias("sum"), pl.col("eval_pairs").sum().alias("count")
    )
    sums = sums.join(table.select(*POINT, "point"), on=POINT)
    names = sorted(sums["cluster"].unique())
    total, count = np.zeros((len(names), len(table))), np.zeros((len(names), len(table)))
    place = {cluster: i for i, cluster in enumerate(names)}
    row = [place[c] for c in sums["cluster"]]
    total[row, sums["point"].to_numpy()] = sums["sum"].to_numpy()
    count[row, sums["point"].to_numpy()] = sums["count"].to_numpy()
    share = count / count.sum(0)
    with np.errstate(invalid="ignore"):
        gap = np.where(count > 0, total / np.maximum(count, 1) - mean, 0.0)
    return (
        share * gap * np.sqrt(len(names) / (len(names) - 1)) if len(names) > 1 else np.zeros((0, len(table)))
    )
