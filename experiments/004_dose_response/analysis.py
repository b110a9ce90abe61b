"""Costs of known flips against theory: python analysis.py SWEEP_DIR CLEAN_LEVEL

Reads a sweep of `sweep.py:dose_votes` or `sweep.py:dose_objective` and its runs' rewards. For each rate: noisy pairs
that one clean pair is worth at equal loss (recalibrated and raw), with 95 % intervals over draws and evaluation
clusters, beside the sandwich prediction for the clean model's margins and the lower bound. Draws cost_<level>.png
and .csv.
"""

import math
import sys
from pathlib import Path

import numpy as np
import polars as pl
from predict import RATES, recalibrated_margins

from rewardscale.scaling.collect import ScalingError, Sweep, load_sweep
from rewardscale.scaling.der import Der, der
from rewardscale.scaling.figures import save
from rewardscale.scaling.headline import spoken
from rewardscale.scaling.level_fits import below_plateau, best_units
from rewardscale.scaling.panels import frames, look, plain, set_axis
from rewardscale.scaling.points import Points, points
from rewardscale.scaling.theory import lower_bound_der, sandwich_der

HERE = Path(__file__).parent


def cost(own: Points, clean: str, rate: float, method: str) -> Der | str:
    try:
        return der(own, f"{clean}+flip{rate:g}", clean, method=method)
    except ScalingError as error:
        return str(error)


def said(made: Der | str) -> str:
    if isinstance(made, str):
        return f"- ({made.split(':')[0]})"
    if made.summary.low is not None:
        return spoken(made.summary)
    bounds = made.curve.filter((pl.col("bound") == "more than") & pl.col("low").is_not_null())
    if bounds.height:
        return f"more than {bounds['low'].max():.2f}"
    return f"{spoken(made.summary)} ({made.summary.note})"


def clean_margins(sweep: Sweep, clean: str) -> np.ndarray:
    """Quantiles of the clean runs' recalibrated margins, with both signs."""
    (model,) = sweep.table["model"].unique()
    margins = recalibrated_margins(sweep.directory, clean, model)
    sample = np.quantile(margins, (np.arange(2000) + 0.5) / 2000)
    return np.concatenate([sample, -sample])


def rows(sweep: Sweep, clean: str, symmetric: np.ndarray, method: str) -> tuple[list[str], pl.DataFrame]:
    """Lines of the README's table, and the points of the figure."""
    lines, drawn = [], []
    own = {y: points(sweep, y, units=best_units(sweep)) for y in ("loss_recalibrated", "loss")}
    fitted = below_plateau(own["loss_recalibrated"]) if method == "fit" else own["loss_recalibrated"]
    for rate in RATES:
        made, raw = cost(fitted, clean, rate, method), cost(own["loss"], clean, rate, method)
        sandwich, bound = float(sandwich_der(symmetric, rate)), float(lower_bound_der(rate))
        lines.append(f"| {clean} | {rate} | {bound:.2f} | {sandwich:.2f} | {said(made)} | {said(raw)} |")
        seen = made.summary if isinstance(made, Der) else None
        known = seen is not None and math.isfinite(seen.estimate)
        drawn.append(
            {
                "level": clean,
                "rate": rate,
                "bound": bound,
                "sandwich": sandwich,
                "cost": seen.estimate if seen is not None and known else None,
                "low": seen.low if seen is not None and known else None,
                "high": seen.high if seen is not None and known else None,
            }
        )
    return lines, pl.DataFrame(drawn, infer_schema_length=None)


def draw(table: pl.DataFrame, name: str, symmetric: np.ndarray) -> None:
    """Measured costs with intervals over the two curves of theory."""
    rates = np.linspace(0.0, 0.42, 43)
    with look():
        figure, grid = frames([["cost"]], head=0.1, height=2.6)
        panel = grid[0, 0]
        panel.plot(
            rates, lower_bound_der(rates), color="#777777", linewidth=1.0, label="lower bound 1 / (1 − 2η)²"
        )
        smooth = sandwich_der(symmetric, rates)
        panel.plot(rates, smooth, color="#D55E00", linewidth=1.2, label="sandwich, predicted")
        seen = table.drop_nulls(["cost"])
        for row in seen.drop_nulls(["low", "high"]).iter_rows(named=True):
            panel.plot([row["rate"]] * 2, [row["low"], row["high"]], color="#000000", linewidth=1.2)
        dots = {"color": "#000000", "marker": "o", "markersize": 4, "linestyle": "none"}
        known, loose = seen.drop_nulls(["low"]), seen.filter(pl.col("low").is_null())
        panel.plot(known["rate"], known["cost"], label="measured, 95 %", **dots)
        if loose.height:
            panel.plot(
                loose["rate"], loose["cost"], label="measured, no interval", markerfacecolor="white", **dots
            )
        highest = table.select(pl.max_horizontal("high", "sandwich", "cost").max()).item()
        set_axis(panel, "y", 0.8, float(highest), log=True, room=8)
        panel.set_xlim(0, 0.44)
        plain(panel.set_xlabel("share of training labels flipped, η"))
        plain(panel.set_ylabel("noisy pairs that one clean pair is worth"))
        plain(panel.set_title(name, loc="left", pad=4))
        for text in panel.legend(frameon=False, loc="upper left").get_texts():
            plain(text)
    save(figure, table, HERE, f"cost_{name}")


def main(workdir: Path, clean: str) -> None:
    sweep = load_sweep(workdir)
    method = "fit" if points(sweep, levels=[clean]).mean.min() < 0.6 else "interpolate"
    symmetric = clean_margins(sweep, clean)
    lines, table = rows(sweep, clean, symmetric, method)
    print("| labels | η added | lower bound | sandwich | cost, recalibrated | cost, raw |")
    print("| --- | --- | --- | --- | --- | --- |")
    print("\n".join(lines))
    draw(table, clean, symmetric)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
