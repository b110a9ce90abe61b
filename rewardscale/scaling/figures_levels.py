"""Figures that compare levels: what a pair is worth, the curves' parameters, their collapse, and what was
predicted.

Like ``figures``: each function returns (figure, table of every point drawn) and takes what ``findings`` computed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.compare import Comparison
from rewardscale.scaling.der import Der
from rewardscale.scaling.findings import Findings
from rewardscale.scaling.level_fits import CurveFit
from rewardscale.scaling.panels import (
    Style,
    frames,
    legend_above,
    legend_columns,
    level_styles,
    look,
    marker_of,
    plain,
    set_axis,
)
from rewardscale.scaling.robustness import UNREAD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GREY = "#777777"
_AXIS_NAMES = {
    "pairs": "pairs",
    "cost": "unit of cost",
    "raw_pairs": "raw pairs",
    "distinct": "distinct responses",
}


def ratios(
    found: Sequence[Findings],
    axes: Sequence[str] = ("pairs", "cost"),
    theory: Mapping[str, float] | None = None,
) -> tuple[Figure, pl.DataFrame]:
    """What a unit of each level buys in units of the base level, against the level's own size, with 95 % bands.

    A row a family, a panel an axis. ``theory``: level -> predicted ratio per pair, drawn dashed in the first
    column. Raises ScalingError where no ratio could be computed.
    """
    table = _ratio_table(found, axes)
    if table.is_empty():
        raise ScalingError("no level's curve could be read against another's")
    styles = level_styles(table["level"].unique())
    handles, labels = _level_handles(styles, line=True)
    if theory:
        handles, labels = [*handles, _line(_GREY, (0, (1, 1.2)))], [*labels, "theory"]
    with look():
        layout = [[(f.family, axis) for axis in axes] for f in found if f.family in set(table["family"])]
        figure, grid = frames(layout, head=_head(labels), gap=0.5)
        low = float(table.select(pl.min_horizontal("low", "ratio").min()).item())
        high = float(table.select(pl.max_horizontal("high", "ratio").max()).item())
        for (r, c), panel in grid.items():
            family, axis = layout[r][c]
            own = table.filter((pl.col("family") == family) & (pl.col("axis") == axis))
            _ratio_lines(panel, own, styles, theory if axis == "pairs" else None)
            model = next(f for f in found if f.family == family)
            unit = _AXIS_NAMES[axis] if axis != "cost" else "cost"
            plain(panel.set_title(f"{model.model} · per {_one(unit)}", loc="left", pad=4))
            if own.height:
                set_axis(panel, "x", own["x"].min(), own["x"].max(), log=True, room=5)
            set_axis(panel, "y", max(low / 1.1, 1e-2), min(high * 1.1, 1e3), log=True, room=7)
            plain(panel.set_xlabel(f"{unit} of the level"))
            if c == 0:
                plain(panel.set_ylabel(f"{found[0].base} per unit, equal loss".replace("_", " ")))
        legend_above(figure, handles, labels, legend_columns(labels))
    return figure, table


def _one(unit: str) -> str:
    return {"pairs": "pair", "raw pairs": "raw pair", "distinct responses": "distinct response"}.get(
        unit, unit
    )


def _ratio_table(found: Sequence[Findings], axes: Sequence[str]) -> pl.DataFrame:
    schema: dict[str, Any] = {"family": pl.String, "model": pl.String, "level": pl.String, "axis": pl.String}
    schema |= {
        "loss": pl.Float64,
        "x": pl.Float64,
        "ratio": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
    }
    schema |= {"extrapolated": pl.Boolean, "bound": pl.String}
    rows = []
    for f in found:
        for level in f.levels:
            for axis in axes:
                made = f.ratio(level, axis)
                if not isinstance(made, Der):
                    continue
                for row in made.curve.drop_nulls(["ratio", "target_size"]).iter_rows(named=True):
                    key = {"family": f.family, "model": f.model, "level": level, "axis": axis}
                    value = {k: row[k] for k in ("loss", "ratio", "low", "high", "extrapolated", "bound")}
                    rows.append(key | {"x": row["target_size"]} | value)
    return pl.DataFrame(rows, schema=schema)


def _ratio_lines(
    panel: Axes, own: pl.DataFrame, styles: dict[str, Style], theory: Mapping[str, float] | None
) -> None:
    panel.axhline(1.0, color="#999999", linewidth=0.8, zorder=1.2)
    for level, style in styles.items():
        line = own.filter((pl.col("level") == level) & ~pl.col("extrapolated")).sort("x")
        if theory and level in theory:
            panel.axhline(
                theory[level], color=style.colour, linewidth=1.0, linestyle=(0, (1, 1.2)), zorder=1.5
            )
        if line.is_empty():
            continue
        panel.plot(line["x"], line["ratio"], color=style.colour, linewidth=1.2, zorder=3)
        band = line.drop_nulls(["low", "high"])
        panel.fill_between(band["x"], band["low"], band["high"], color=style.colour, alpha=0.14, linewidth=0)
        ends = [0, len(line) // 2, len(line) - 1]
        marks = {**marker_of(style), "linestyle": "none", "zorder": 4}
        panel.plot(line["x"].gather(ends), line["ratio"].gather(ends), **marks)


def forest(found: Sequence[Findings]) -> tuple[Figure, pl.DataFrame]:
    """Floor E, scale B and exponent beta of each level with 95 % intervals, each level fitted alone.

    Raises ScalingError where no family could be compared.
    """
    kept = [(f, f.comparison) for f in found if isinstance(f.comparison, Comparison)]
    if not kept:
        raise ScalingError("; ".join(f"{f.model}: {f.comparison}" for f in found))
    table = pl.concat(
        [c.parameters.with_columns(family=pl.lit(f.family), model=pl.lit(f.model)) for f, c in kept],
        how="diagonal",
    )
    names = {"floor": "floor E (nats)", "scale": "scale B (nats)", "exponent": "exponent β"}
    with look():
        most = max(len(c.levels) for _, c in kept)
        layout = [list(names) for _ in kept]
        figure, grid = frames(layout, head=0.05, left=1.45, gap=0.3, height=0.35 + 0.2 * most)
        for (r, c), panel in grid.items():
            f, name = kept[r][0], layout[r][c]
            own = table.filter((pl.col("family") == f.family) & (pl.col("parameter") == name))
            _forest_rows(panel, own, c == 0)
            plain(panel.set_title(f"{f.model} · {names[name]}" if c == 0 else names[name], loc="left", pad=4))
            low = own.select(pl.min_horizontal("low", "estimate").min()).item()
            high = own.select(pl.max_horizontal("high", "estimate").max()).item()
            set_axis(panel, "x", low, high, log=name == "scale" and low > 0, room=4)
    return figure, table


def _forest_rows(panel: Axes, own: pl.DataFrame, named: bool) -> None:
    styles = level_styles(own["level"])
    for place, level in enumerate(styles):
        row = own.filter(pl.col("level") == level).row(0, named=True)
        if row["low"] is not None:
            panel.plot([row["low"], row["high"]], [place, place], color=styles[level].colour, linewidth=1.4)
        panel.plot([row["estimate"]], [place], **{**marker_of(styles[level]), "linestyle": "none"})
    panel.set_ylim(len(styles) - 0.4, -0.6)
    panel.set_yticks(range(len(styles)), [level.replace("_", " ") for level in styles] if named else [])


def collapse(found: Sequence[Findings]) -> tuple[Figure, pl.DataFrame]:
    """Every level on one curve: loss against *effective* base pairs, D times what a pair of the level is worth.

    The worth is that of the offset model, (B_base / B_q)^(1/beta); where levels differ in floor or exponent
    they do not collapse, and that is what to look for. Raises ScalingError where no family could be compared.
    """
    kept = [(f, f.comparison) for f in found if isinstance(f.comparison, Comparison) and f.base is not None]
    if not kept:
        raise ScalingError("levels that could not be compared cannot be collapsed")
    rows, curves = [], []
    for f, comparison in kept:
        offset = comparison.fits["offset"]
        floor, exponent = offset.parameters["floor"], offset.parameters["exponent"]
        scales = {level: offset.parameters[f"scale_{q}"] for q, level in enumerate(comparison.levels)}
        for i, row in enumerate(f.points.table.iter_rows(named=True)):
            if row["level"] in scales:
                worth = (scales[str(f.base)] / scales[row["level"]]) ** (1 / exponent)
                key = {"family": f.family, "model": f.model, "level": row["level"], "pairs": row["pairs"]}
                rows.append(key | {"x": row["pairs"] * worth, "y": float(f.points.mean[i]), "worth": worth})
        curves.append((f, floor, scales[str(f.base)], exponent))
    table = pl.DataFrame(rows)
    styles = level_styles(table["level"].unique())
    handles, labels = _level_handles(styles, line=False)
    with look():
        layout = [[(f.family, f.model) for f, _ in kept]]
        figure, grid = frames(layout, head=_head(labels), gap=0.5)
        for (_, c), panel in grid.items():
            f, floor, scale, exponent = curves[c]
            own = table.filter(pl.col("family") == f.family)
            xs = np.geomspace(float(own["x"].min()), float(own["x"].max()), 80)  # type: ignore[arg-type]
            panel.plot(xs, floor + scale * xs**-exponent, color=_GREY, linewidth=1.0, zorder=1.5)
            for level, style in styles.items():
                of = own.filter(pl.col("level") == level)
                panel.plot(of["x"], of["y"], **{**marker_of(style), "linestyle": "none"})
            set_axis(panel, "x", own["x"].min(), own["x"].max(), log=True, room=6)
            set_axis(panel, "y", own["y"].min(), own["y"].max(), log=True, room=8)
            plain(panel.set_title(f.model, loc="left", pad=4))
            plain(panel.set_xlabel(f"pairs, counted in {f.base} pairs".replace("_", " ")))
            if c == 0:
                plain(panel.set_ylabel("recalibrated log-loss (nats per pair)"))
        legend_above(figure, handles, labels, legend_columns(labels))
    return figure, table


def held_out(fits: Sequence[CurveFit], means: pl.DataFrame) -> tuple[Figure, pl.DataFrame]:
    """Losses predicted for the sizes that were held out, with bands, against those seen. ``means``: a curve table.

    Raises ScalingError where nothing was held out.
    """
    rows = []
    for f in fits:
        for pairs in f.held_out:
            near = f.line.filter((pl.col("x") / pairs - 1).abs() < 1e-6)
            seen = means.filter(
                (pl.col("family") == f.family)
                & (pl.col("model") == f.model)
                & (pl.col("level") == f.level)
                & (pl.col("pairs") == pairs)
            )
            line = near if near.height else _between(f.line, pairs)
            if line.is_empty() or seen.is_empty():
                continue
            key = {"family": f.family, "model": f.model, "level": f.level, "pairs": pairs}
            rows.append(
                key
                | line.select("y", "low", "high").row(0, named=True)
                | {"seen": seen["mean"][0], "se": seen["se"][0]}
            )
    if not rows:
        raise ScalingError("no curve has sizes to hold out (a fit needs four below them)")
    table = pl.DataFrame(rows, infer_schema_length=None).rename({"y": "predicted"})
    styles = level_styles(table["level"].unique())
    handles, labels = _level_handles(styles, line=False)
    with look():
        figure, grid = frames([["held out"]], head=_head(labels), height=2.9)
        panel = grid[0, 0]
        ends = [float(table.select(pl.min_horizontal("seen", "low", "predicted").min()).item())]
        ends += [float(table.select(pl.max_horizontal("seen", "high", "predicted").max()).item())]
        panel.plot(ends, ends, color="#999999", linewidth=0.8)
        for level, style in styles.items():
            of = table.filter(pl.col("level") == level)
            for row in of.drop_nulls(["low", "high"]).iter_rows(named=True):
                panel.plot(
                    [row["seen"]] * 2, [row["low"], row["high"]], color=style.colour, linewidth=1.0, alpha=0.7
                )
            panel.plot(of["seen"], of["predicted"], **{**marker_of(style), "linestyle": "none"})
        set_axis(panel, "x", *ends, log=True, room=8)
        set_axis(panel, "y", *ends, log=True, room=7)
        plain(panel.set_xlabel("loss seen at the held-out sizes (nats per pair)"))
        plain(panel.set_ylabel("loss predicted from smaller sizes"))
        legend_above(figure, handles, labels, legend_columns(labels))
    return figure, table


def _between(line: pl.DataFrame, pairs: float) -> pl.DataFrame:
    """The line read at ``pairs`` by interpolation in logs (its grid does not hold every size)."""
    if line.is_empty() or not line["x"].min() <= pairs <= line["x"].max() * 1.0001:  # type: ignore[operator]
        return line.clear()
    at = {}
    for name in ("y", "low", "high"):
        known = line.drop_nulls([name])
        at[name] = (
            float(np.exp(np.interp(math.log(pairs), np.log(known["x"]), np.log(known[name]))))
            if known.height
            else None
        )
    return pl.DataFrame([at], schema={"y": pl.Float64, "low": pl.Float64, "high": pl.Float64})


def strip(table: pl.DataFrame, label: str) -> tuple[Figure, pl.DataFrame]:
    """The headline number across analysis choices (``robustness``): a row a choice, its interval, the first
    row's as a band."""
    rows = table.filter(pl.col("estimate").is_not_null() & pl.col("estimate").is_finite())
    rows = rows.filter(pl.col("note").fill_null("") != UNREAD)
    if rows.is_empty():
        raise ScalingError("no analysis choice gave the headline number")
    with look():
        names = [f"{c}: {o}".replace("_", " ") for c, o in rows.select("choice", "option").rows()]
        names[0] = str(rows["choice"][0])
        figure, grid = frames([["strip"]], head=0.05, left=2.5, height=0.3 + 0.17 * len(names))
        panel = grid[0, 0]
        first = rows.row(0, named=True)
        if first["low"] is not None:
            panel.axvspan(first["low"], first["high"], color="#0072B2", alpha=0.10, linewidth=0)
        panel.axvline(1.0, color="#999999", linewidth=0.8)
        for place, row in enumerate(rows.iter_rows(named=True)):
            colour = "#0072B2" if place == 0 else "#222222"
            if row["low"] is not None and row["high"] is not None:
                panel.plot([row["low"], row["high"]], [place, place], color=colour, linewidth=1.3)
            panel.plot([row["estimate"]], [place], color=colour, marker="o", markersize=3.5, linestyle="none")
        panel.set_ylim(len(names) - 0.4, -0.6)
        panel.set_yticks(range(len(names)), names)
        low = float(rows.select(pl.min_horizontal("low", "estimate").min()).item())
        high = float(rows.select(pl.max_horizontal("high", "estimate").max()).item())
        set_axis(panel, "x", min(low, 1.0), max(high, 1.0), log=True, room=8)
        plain(panel.set_xlabel(label))
    return figure, table


def _level_handles(styles: dict[str, Style], line: bool) -> tuple[list, list[str]]:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], **{**marker_of(style), "linewidth": 1.2 if line else 0.0}) for style in styles.values()
    ]
    return handles, [level.replace("_", " ") for level in styles]


def _line(colour: str, dash: Any) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=colour, linewidth=1.0, linestyle=dash)


def _head(labels: list[str]) -> float:
    return 0.07 + 0.145 * math.ceil(len(labels) / legend_columns(labels))
