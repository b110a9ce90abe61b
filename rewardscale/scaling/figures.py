"""Figures: each function takes a sweep and returns (figure, table of every point drawn).

One look for all (``panels``): a panel a model, a colour and a marker a level, draws as small dots, means
with one standard error, log axes, the legend above. The tables have columns family, model, level, kind
("mean", "held-out", "draw", "fit", "extrapolated", "bayes", "chance"), quantity, x, y, low, high, se, draws, draw;
family is null for lines that cross every panel.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rewardscale.scaling.collect import (
    ScalingError,
    Sweep,
    bayes_loss,
    common_pairs,
    curve,
    per_draw,
    write_atomic,
)
from rewardscale.scaling.level_fits import CurveFit, fit_curves
from rewardscale.scaling.panels import COLUMNS, LABELS, draw, look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TABLE = {
    "family": pl.String,
    "model": pl.String,
    "level": pl.String,
    "kind": pl.String,
    "quantity": pl.String,
}
_TABLE |= {"x": pl.Float64, "y": pl.Float64, "low": pl.Float64, "high": pl.Float64}
_TABLE |= {"se": pl.Float64, "draws": pl.Int64, "draw": pl.Int64}


def loss_vs_pairs(
    sweep: Sweep, eval_set: str | None = None, fits: list[CurveFit] | None = None
) -> tuple[Figure, pl.DataFrame]:
    """Recalibrated log-loss against pairs trained on; lines: power laws with bands; dotted: Bayes loss.

    ``fits`` saves fitting anew what was fitted already.
    """
    made = fit_curves(sweep, eval_set=eval_set) if fits is None else fits
    return _against(sweep, "loss_recalibrated", "pairs", eval_set, made)


def accuracy_vs_pairs(sweep: Sweep, eval_set: str | None = None) -> tuple[Figure, pl.DataFrame]:
    """Accuracy (ties count as wrong) against pairs trained on; lines join the means."""
    return _against(sweep, "accuracy", "pairs", eval_set)


def loss_vs_cost(sweep: Sweep, eval_set: str | None = None) -> tuple[Figure, pl.DataFrame]:
    """Recalibrated log-loss against the pairs' cost (raw pairs consumed, votes paid); lines join means."""
    return _against(sweep, "loss_recalibrated", "cost", eval_set)


def raw_vs_recalibrated(sweep: Sweep, eval_set: str | None = None) -> tuple[Figure, pl.DataFrame]:
    """Log-loss before (upper row) and after (lower row) one temperature a run: the gap is calibration."""
    quantities = ("loss", "loss_recalibrated")
    with look():
        points = pl.concat([_points(sweep, q, "pairs", eval_set) for q in quantities])
        points = pl.concat([points, _horizontals(sweep, points, eval_set, chance=True)])
        panels = _models(points)
        # Two rows a block of models, so that what is compared stands one above the other.
        blocks = [panels[i : i + COLUMNS] for i in range(0, len(panels), COLUMNS)]
        layout = [[(panel, q) for panel in block] for block in blocks for q in quantities]
        figure = draw(sweep, points, layout, LABELS["pairs"], join=True)
    return figure, points


def loss_vs_params(sweep: Sweep, eval_set: str | None = None) -> tuple[Figure, pl.DataFrame]:
    """Recalibrated log-loss against model size at the largest number of pairs that every curve has.

    A panel a family. Raises ScalingError where no family has two sizes or the curves share no number of
    pairs.
    """
    every = curve(sweep, "loss_recalibrated", "pairs", eval_set)
    kept = []
    for _, group in every.group_by("family", maintain_order=True):
        largest = common_pairs(group)
        if largest is not None and group["params"].n_unique() > 1:
            kept.append(group.filter(pl.col("pairs") == largest))
    if not kept:
        raise ScalingError("loss against model size wants two sizes of a family that share a number of pairs")
    at = pl.concat(kept)
    draws = per_draw(sweep, "loss_recalibrated", "pairs", eval_set)
    draws = draws.join(
        at.select("family", "model", "level", "pairs"), on=["family", "model", "level", "pairs"]
    )
    with look():
        means = at.with_columns(x=pl.col("params").cast(pl.Float64))
        points = _rows_of(means, draws.with_columns(x=pl.col("params").cast(pl.Float64)), "loss_recalibrated")
        points = pl.concat([points, _horizontals(sweep, points, eval_set)])
        names = {
            f: f"{f} · {int(d):,} pairs" for f, d in at.group_by("family").agg(pl.col("pairs").first()).rows()
        }
        order = [((family, None), "loss_recalibrated") for family in sorted(names)]
        layout = [order[i : i + COLUMNS] for i in range(0, len(order), COLUMNS)]
        titles = {(family, None): name for family, name in names.items()}
        figure = draw(sweep, points, layout, LABELS["params"], join=True, titles=titles)
    return figure, points


FIGURES: dict[str, Callable[..., tuple[Any, pl.DataFrame]]] = {
    "loss_vs_pairs": loss_vs_pairs,
    "accuracy_vs_pairs": accuracy_vs_pairs,
    "loss_vs_cost": loss_vs_cost,
    "loss_vs_params": loss_vs_params,
    "raw_vs_recalibrated": raw_vs_recalibrated,
}


def save(figure: Figure, points: pl.DataFrame, directory: str | Path, name: str) -> dict[str, Path]:
    """Write ``name``.svg, .pdf, .png (200 dots an inch) and .csv (every point), each whole or not at all.

    The same figure and points give the same bytes. Returns the paths by suffix. Raises OSError where the
    directory can't be written.
    """
    folder = Path(directory)
    content = {"svg": svg(figure, name).encode(), "csv": points.write_csv(float_precision=None).encode()}
    with look(name):
        formats: dict[str, dict[str, Any]] = {
            "pdf": {"metadata": {"CreationDate": None}},
            "png": {"dpi": 200},
        }
        for suffix, options in formats.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format=suffix, **options)
            content[suffix] = buffer.getvalue()
    paths = {suffix: folder / f"{name}.{suffix}" for suffix in content}
    for suffix, path in paths.items():
        write_atomic(path, content[suffix])
    return paths


def svg(figure: Figure, name: str) -> str:
    """The figure as SVG with text as text; ids start with ``name``, so that several fit on one page."""
    buffer = io.StringIO()
    with look(name):
        figure.savefig(
            buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', buffer.getvalue())
    return re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)


def _against(sweep: Sweep, y: str, x: str, eval_set: str | None, fits: list[CurveFit] | None = None):
    with look():
        points = _points(sweep, y, x, eval_set)
        if fits is not None:
            points = pl.concat([_marked(points, fits), _fit_lines(y, fits)])
        if y != "accuracy":
            points = pl.concat([points, _horizontals(sweep, points, eval_set)])
        label = LABELS["pairs"] if x == "pairs" else _cost_label(sweep)
        layout = [[(panel, y) for panel in row] for row in _wrap(_models(points))]
        return draw(sweep, points, layout, label, join=fits is None), points


def _wrap(panels: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Rows of panels: one row where they fit in it, else each family begins a new one."""
    if len(panels) <= COLUMNS:
        return [panels]
    families = [
        [panel for panel in panels if panel[0] == family] for family in dict.fromkeys(p[0] for p in panels)
    ]
    return [of[i : i + COLUMNS] for of in families for i in range(0, len(of), COLUMNS)]


def _cost_label(sweep: Sweep) -> str:
    unit = sweep.cost_unit
    return {"raw pairs": "raw pairs consumed", "votes": "votes paid"}.get(unit, f"cost ({unit})")


def _points(sweep: Sweep, y: str, x: str, eval_set: str | None) -> pl.DataFrame:
    return _rows_of(curve(sweep, y, x, eval_set), per_draw(sweep, y, x, eval_set), y)


def _rows_of(means: pl.DataFrame, draws: pl.DataFrame, quantity: str) -> pl.DataFrame:
    none = {"low": pl.lit(None, pl.Float64), "high": pl.lit(None, pl.Float64)}
    means = means.with_columns(y=pl.col("mean"), kind=pl.lit("mean"), draw=pl.lit(None, pl.Int64), **none)
    draws = draws.with_columns(
        kind=pl.lit("draw"), se=pl.lit(None, pl.Float64), draws=pl.lit(None, pl.Int64), **none
    )
    both = [table.with_columns(quantity=pl.lit(quantity)).select(list(_TABLE)) for table in (means, draws)]
    return pl.concat(both)


def _marked(points: pl.DataFrame, fits: list[CurveFit]) -> pl.DataFrame:
    """The points, with those that the drawn fits have not seen marked."""
    hidden = [
        {
            "family": f.family,
            "model": f.model,
            "level": f.level,
            "x": float(pairs),
            "kind": "mean",
            "hidden": True,
        }
        for f in fits
        for pairs in f.held_out
        if len(f.line)
    ]
    schema = {name: _TABLE[name] for name in ("family", "model", "level", "x", "kind")} | {
        "hidden": pl.Boolean
    }
    keys = ["family", "model", "level", "x", "kind"]
    joined = points.join(pl.DataFrame(hidden, schema=schema), on=keys, how="left", maintain_order="left")
    kind = pl.when(pl.col("hidden")).then(pl.lit("held-out")).otherwise(pl.col("kind"))
    return joined.with_columns(kind.alias("kind")).select(list(_TABLE))


def _fit_lines(quantity: str, fits: list[CurveFit]) -> pl.DataFrame:
    """The fitted curves; what lies beyond the sizes they were fitted to is of kind "extrapolated"."""
    out = [pl.DataFrame(schema=_TABLE)]
    for f in fits:
        beyond = pl.col("extrapolated") | (pl.col("extrapolated").shift(-1).fill_null(False))
        inside = f.line.filter(~pl.col("extrapolated")).with_columns(kind=pl.lit("fit"))
        dashed = f.line.filter(beyond & pl.col("extrapolated").any()).with_columns(
            kind=pl.lit("extrapolated")
        )
        key = {"family": f.family, "model": f.model, "level": f.level, "quantity": quantity}
        both = pl.concat([inside, dashed]).with_columns(
            *(pl.lit(value).alias(name) for name, value in key.items()),
            se=pl.lit(None, pl.Float64),
            draws=pl.lit(None, pl.Int64),
            draw=pl.lit(None, pl.Int64),
        )
        out.append(both.select(list(_TABLE)))
    return pl.concat(out)


def _horizontals(
    sweep: Sweep, points: pl.DataFrame, eval_set: str | None, chance: bool = False
) -> pl.DataFrame:
    best = bayes_loss(sweep, eval_set) or None  # 0 nats (labels without noise) has no place on a log axis
    lines = {"bayes": best, "chance": math.log(2) if chance else None}
    rows = [{"kind": kind, "y": value} for kind, value in lines.items() if value is not None]
    return pl.DataFrame(rows, schema=_TABLE)


def _models(points: pl.DataFrame) -> list[tuple[str, str]]:
    """(family, model) in the order the curve table has: by family, then size."""
    return (
        points.filter(pl.col("model").is_not_null())
        .select("family", "model")
        .unique(maintain_order=True)
        .rows()
    )
