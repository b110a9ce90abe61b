"""Figures over compute and money: isoFLOP profiles, the compute-optimal frontier, and what a budget buys.

Like ``figures``: each function returns (figure, table of every point drawn). Compute needs one family trained at
five model sizes and seven data sizes, with its FLOPs recorded: with fewer there is no law, and no figure.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from rewardscale.scaling.collect import ScalingError, Sweep
from rewardscale.scaling.frontier import LAW_MODELS, LAW_SIZES, frontier, isoflop
from rewardscale.scaling.level_fits import best_units, target_level
from rewardscale.scaling.panels import (
    compact,
    frames,
    legend_above,
    legend_columns,
    level_order,
    level_styles,
    look,
    marker_of,
    plain,
    set_axis,
)
from rewardscale.scaling.points import Points, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BUDGETS = 5  # isoFLOP profiles
_LINE = 13  # budgets along a frontier
_RESAMPLES = 400
_SHADES = ("#C6DBEF", "#9ECAE1", "#6BAED6", "#3182BD", "#08519C")  # small to large budgets
_SCHEMA: dict[str, Any] = {"family": pl.String, "level": pl.String, "kind": pl.String}
_SCHEMA |= dict.fromkeys(("budget", "params", "pairs", "loss", "low", "high"), pl.Float64)
_SCHEMA |= {"extrapolated": pl.Boolean}


def compute_families(sweep: Sweep) -> list[str]:
    """Families with enough model and data sizes for a law in both, and FLOPs recorded."""
    runs = sweep.table
    out = []
    for family in sorted(runs["family"].unique()):
        own = runs.filter(pl.col("family") == family)
        recorded = "flops" in own.columns and bool((own["flops"].fill_null(0.0) > 0).all())
        if recorded and own["params"].n_unique() >= LAW_MODELS and own["pairs"].n_unique() >= LAW_SIZES:
            out.append(family)
    return out


def compute_frontier(sweep: Sweep, eval_set: str | None = None) -> tuple[Figure, pl.DataFrame]:
    """IsoFLOP profiles of the best-curated level, and each level's loss at the compute-optimal size, with 95 % bands.

    A row a family. Profiles read each model's curve between its sizes; the frontier is that of Chinchilla's law
    fitted to all points. Raises ScalingError where no family has the sizes for it.
    """
    families = compute_families(sweep)
    if not families:
        raise ScalingError(
            f"a frontier needs {LAW_MODELS} model sizes and {LAW_SIZES} data sizes of a family, with FLOPs"
        )
    table = pl.concat([_of_family(sweep, family, eval_set) for family in families])
    levels = table.filter(pl.col("kind") == "frontier")["level"].unique()
    styles = level_styles(levels)
    with look():
        from matplotlib.lines import Line2D

        handles = [Line2D([], [], **{**marker_of(style), "linewidth": 1.2}) for style in styles.values()]
        labels = [level.replace("_", " ") for level in styles]
        head = 0.07 + 0.145 * math.ceil(len(labels) / legend_columns(labels))
        layout = [[(family, "isoflop"), (family, "frontier")] for family in families]
        figure, grid = frames(layout, head=head, gap=0.5)
        for (r, c), panel in grid.items():
            own = table.filter(pl.col("family") == layout[r][c][0])
            if c == 0:
                _draw_profiles(panel, own)
            else:
                _draw_frontier(panel, own.filter(pl.col("kind") == "frontier"), styles)
        legend_above(figure, handles, labels, legend_columns(labels))
    return figure, table


def _of_family(sweep: Sweep, family: str, eval_set: str | None) -> pl.DataFrame:
    """Profiles and minima of the best-curated level, the frontier of every level whose data pin a law down."""
    seen = points(sweep, family=family, eval_set=eval_set, units=best_units(sweep))
    levels = level_order(seen.table["level"].unique())
    shown = target_level(levels) or levels[-1]
    rows: list[dict[str, Any]] = []
    failed: list[str] = []
    for level in levels:
        own = seen.select((seen.table["level"] == level).to_numpy())
        try:
            made = frontier(own, _budgets(own, _LINE), resamples=_RESAMPLES)
        except ScalingError as reason:
            failed.append(f"{level}: {reason}")
            continue
        for row in made.table.rename({"loss_low": "low", "loss_high": "high"}).iter_rows(named=True):
            rows.append(
                {name: row[name] for name in _SCHEMA if name in row} | {"kind": "frontier", "level": level}
            )
        if level == shown:
            found = isoflop(own, _budgets(own, _BUDGETS + 2)[1:-1], flops_per=made.flops_per)
            rows += [r | {"kind": "profile", "level": level} for r in found.profiles.iter_rows(named=True)]
            minima = found.minima.filter(pl.col("loss").is_not_null()).drop("note")
            rows += [r | {"kind": "minimum", "level": level} for r in minima.iter_rows(named=True)]
    if not rows:
        raise ScalingError(f"{family}: no level's losses pin a law in both sizes down ({'; '.join(failed)})")
    return pl.DataFrame([{"family": family} | row for row in rows], schema=_SCHEMA)


def _budgets(own: Points, count: int) -> NDArray:
    """Budgets between those of the smallest and the largest run, float64 [count]."""
    flops = own.table["flops"].cast(pl.Float64).to_numpy()
    return np.geomspace(flops.min(), flops.max(), count)


def _draw_profiles(panel: Axes, own: pl.DataFrame) -> None:
    profiles = own.filter(pl.col("kind") == "profile")
    minima = own.filter(pl.col("kind") == "minimum")
    shown = profiles if profiles.height else own.filter(pl.col("kind") == "frontier")
    for shade, budget in zip(_SHADES, sorted(profiles["budget"].unique()), strict=False):
        of = profiles.filter(pl.col("budget") == budget).sort("params")
        panel.plot(of["params"], of["loss"], color=shade, marker="o", markersize=2.5, linewidth=1.0)
        last = of.row(-1, named=True)
        text = panel.annotate(
            f"{budget:.0e}".replace("e+", "e"),
            (last["params"], last["loss"]),
            (3, 0),
            textcoords="offset points",
            fontsize=6,
        )
        text.set_color(shade)
    panel.plot(minima["params"], minima["loss"], color="#222222", marker="x", markersize=4, linestyle="none")
    _axes(panel, shown, "params", "parameters")
    level = str(shown["level"][0]).replace("_", " ")
    plain(panel.set_title(f"{shown['family'][0]} · {level} · at equal FLOPs", loc="left", pad=4))
    plain(panel.set_ylabel("log-loss, nats a pair"))


def _draw_frontier(panel: Axes, own: pl.DataFrame, styles: dict) -> None:
    for level, style in styles.items():
        of = own.filter(pl.col("level") == level).sort("budget")
        if of.is_empty():
            continue
        inside, beyond = of.filter(~pl.col("extrapolated")), of
        panel.plot(beyond["budget"], beyond["loss"], color=style.colour, linewidth=0.8, linestyle=(0, (3, 2)))
        panel.plot(inside["budget"], inside["loss"], color=style.colour, linewidth=1.4)
        panel.plot(
            of["budget"][:: _LINE // 3],
            of["loss"][:: _LINE // 3],
            linestyle="none",
            **marker_of(style),
        )
        banded = of.drop_nulls(["low", "high"])
        if banded.height:
            panel.fill_between(
                banded["budget"], banded["low"], banded["high"], color=style.colour, alpha=0.15, linewidth=0
            )
    _axes(panel, own, "budget", "training FLOPs")
    plain(panel.set_title(f"{own['family'][0]} · at the best size for the budget", loc="left", pad=4))


def _axes(panel: Axes, own: pl.DataFrame, x: str, label: str) -> None:
    set_axis(panel, "x", own[x].min(), own[x].max(), log=True, room=5)
    if x == "budget":
        low, high = np.log10(np.sort(own[x].to_numpy())[[0, -1]])
        ticks = [10.0**k for k in range(math.ceil(low), math.floor(high) + 1)]
        panel.set_xticks(ticks, [f"1e{round(math.log10(t))}" for t in ticks])
    set_axis(panel, "y", own["loss"].min(), own["loss"].max(), log=False, room=6)
    plain(panel.set_xlabel(label))


def describe(sweep: Sweep, eval_set: str | None = None) -> list[str]:
    """A sentence a family and level: how the best model size grows with compute, if the data say."""
    out = []
    for family in compute_families(sweep):
        seen = points(sweep, family=family, eval_set=eval_set, units=best_units(sweep))
        for level in level_order(seen.table["level"].unique()):
            own = seen.select((seen.table["level"] == level).to_numpy())
            try:
                made = frontier(own, _budgets(own, 2), resamples=_RESAMPLES)
            except ScalingError:
                continue
            a = made.exponent
            between = "" if a.low is None else f" [{a.low:.2f}, {a.high:.2f}]"
            size = compact(made.table["params"][-1])
            out.append(
                f"{family}, {level.replace('_', ' ')}: N* grows as C^{a.estimate:.2f}{between}; "
                f"at the largest budget {size} parameters"
                + (" (extrapolated)" if made.table["extrapolated"][-1] else "")
            )
    return out
