"""(b) Do errors that a model can learn set a floor: python floors.py SWEEP

SWEEP: of `sweep.py:curated` over a run's levels and their twins (twins.py). Tests each level against its twin with
errors dealt among pairs of like margin, prints what differs and the losses, and draws planted_curves.png.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import t as student
from twins import LEVELS

from rewardscale.scaling.collect import load_sweep
from rewardscale.scaling.compare import Comparison, compare_levels
from rewardscale.scaling.figures import save
from rewardscale.scaling.panels import STYLES, frames, legend_above, look, marker_of, plain, set_axis
from rewardscale.scaling.points import Points, points

HERE = Path(__file__).parent
LINES: dict[str, tuple[str, Any]] = {  # suffix of the level: how it is called and drawn
    "": ("errors of the pipeline", "-"),
    "_errors_by_margin": ("errors dealt among like margins", "--"),
    "_errors_anywhere": ("errors dealt anywhere", ":"),
}


def main(directory: Path) -> None:
    sweep = load_sweep(directory)
    own = points(sweep, "loss_recalibrated")
    table = own.table.with_columns(loss=pl.Series(own.mean), se=pl.Series(own.se)).select(
        "level", "pairs", "loss", "se"
    )
    sizes = table["pairs"].unique().sort().to_list()
    print(
        "| level | "
        + " | ".join(f"{int(size):,}" for size in sizes)
        + " |\n"
        + "| --- " * (len(sizes) + 1)
        + "|"
    )
    for level in ("raw", *(f"{name}{suffix}" for name in LEVELS for suffix in LINES)):
        line = table.filter(pl.col("level") == level).sort("pairs")
        print(
            f"| {level} | "
            + " | ".join(f"{y:.4f} ± {se:.4f}" for y, se in line.select("loss", "se").rows())
            + " |"
        )
    print()
    print(
        f"| level against its twin (like margins) | at {int(sizes[-1]):,} pairs | nested tests | floor of the level "
        "| of the twin |\n| --- | --- | --- | --- | --- |"
    )
    for name in LEVELS:
        twin = f"{name}_errors_by_margin"
        made = compare_levels(points(sweep, "loss_recalibrated", levels=[twin, name]), base=twin)
        floors = f"{floor(made, name)} | {floor(made, twin)}"
        print(f"| {name} | {gap(own, name, twin, sizes[-1])} | {made.chosen} | {floors} |")
    draw(table)


def gap(own: Points, level: str, twin: str, size: float) -> str:
    """Loss of the level minus its twin's at one size, paired by draw, with its 95 % t-interval."""
    names, pairs = own.table["level"].to_numpy(), own.table["pairs"].to_numpy()
    (one,), (other,) = (np.flatnonzero((names == name) & (pairs == size)) for name in (level, twin))
    shift = own.shifts["draws"][:, one] - own.shifts["draws"][:, other]
    half = float(student.ppf(0.975, len(shift) - 1)) * float((shift**2).sum()) ** 0.5
    return f"{own.mean[one] - own.mean[other]:+.4f} ± {half:.4f}"


def floor(made: Comparison, level: str) -> str:
    """The level's own fitted floor and its 95 % interval."""
    row = made.parameters.row(
        by_predicate=(pl.col("level") == level) & (pl.col("parameter") == "floor"), named=True
    )
    bounds = "" if row["low"] is None else f" [{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['estimate']:.3f}{bounds}"


def draw(table: pl.DataFrame) -> None:
    from matplotlib.lines import Line2D

    with look():
        figure, grid = frames([list(LEVELS)], head=0.22, height=2.5)
        for column, name in enumerate(LEVELS):
            panel = grid[0, column]
            for level, (_, dash) in [
                ("raw", ("", "-")),
                *((f"{name}{suffix}", line) for suffix, line in LINES.items()),
            ]:
                style = STYLES["raw" if level == "raw" else name]
                own = table.filter(pl.col("level") == level).sort("pairs")
                about: dict[str, Any] = marker_of(style) | {
                    "linestyle": dash,
                    "linewidth": 1.0,
                    "elinewidth": 0.8,
                }
                panel.errorbar(own["pairs"], own["loss"], yerr=own["se"], **about)
            set_axis(panel, "x", table["pairs"].min(), table["pairs"].max(), log=True, room=6)
            set_axis(panel, "y", table["loss"].min(), table["loss"].max(), log=False, room=8)
            panel.tick_params(labelleft=column == 0)
            plain(panel.set_title(name.replace("_", " "), loc="left", pad=4))
            plain(panel.set_xlabel("pairs trained on"))
        plain(grid[0, 0].set_ylabel("recalibrated log-loss (nats per pair)"))
        handles = [Line2D([], [], linestyle="-", **marker_of(STYLES["raw"]))]
        handles += [
            Line2D([], [], color="#777777", linestyle=dash, linewidth=1.0) for _, dash in LINES.values()
        ]
        legend_above(figure, handles, ["raw", *(text for text, _ in LINES.values())], 4)
    save(figure, table, HERE, "planted_curves")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
