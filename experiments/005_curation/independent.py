"""(a) An independent curator's levels against theory: python independent.py [SWEEPS=runs]

Reads the sweeps SWEEPS/curator-<accuracy> of `sweep.py:curator`, prints the README's table and draws independent.png.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from predict import ACCURACIES, ACTIONS, ETA, closed_form, sandwich

from rewardscale.data.corpus import open_corpus
from rewardscale.data.levels import read_level
from rewardscale.scaling.collect import Sweep, load_sweep
from rewardscale.scaling.der import Der, der
from rewardscale.scaling.figures import save
from rewardscale.scaling.headline import spoken
from rewardscale.scaling.panels import STYLES, frames, look, marker_of, plain, set_axis
from rewardscale.scaling.points import points

HERE = Path(__file__).parent


def worth(sweep: Sweep, level: str) -> Der:
    """Gold pairs that one raw pair is worth at this level: at equal loss, counted in raw pairs examined."""
    return der(points(sweep, "loss_recalibrated"), "gold", level, axis="raw_pairs")


def label_facts(sweep: Sweep, level: str) -> tuple[float, float]:
    """Share of raw pairs kept, and share of these whose label is gold's, in the training split."""
    (data,) = (sweep.directory / "data").glob("planted-*")
    manifest = open_corpus(data / "corpus").manifest()
    train, gold = (manifest["split"] == "train").to_numpy(), np.zeros(len(manifest), np.int8)
    best, found = (read_level(data / "levels" / name) for name in ("gold", level))
    gold[best.rows] = best.orientation
    own = train[found.rows]
    return float(own.sum() / train.sum()), float((found.orientation == gold[found.rows])[own].mean())


def main(sweeps: Path) -> None:
    rows = []
    print(
        "| curator right | level | kept | labels right | closed form | sandwich | measured worth of a raw pair |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for accuracy in ACCURACIES:
        sweep = load_sweep(sweeps / f"curator-{accuracy:g}")
        for level in ACTIONS:
            made = worth(sweep, level)
            kept, right = label_facts(sweep, level)
            theory = closed_form(level, accuracy), sandwich(level, accuracy)
            print(
                f"| {accuracy:g} | {level} | {kept:.3f} | {right:.3f} | {theory[0]:.3f} | {theory[1]:.3f} "
                f"| {spoken(made.summary)} |"
            )
            seen = made.summary
            rows.append((accuracy, level, kept, right, *theory, seen.estimate, seen.low, seen.high))
    names = ["accuracy", "level", "kept", "right", "closed_form", "sandwich", "worth", "low", "high"]
    table = pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)
    inside = table.filter((pl.col("low") <= pl.col("sandwich")) & (pl.col("sandwich") <= pl.col("high")))
    print(f"\nthe sandwich lies in {len(inside)} of {len(table)} intervals")
    draw(table)


def draw(table: pl.DataFrame) -> None:
    """Measured worths with intervals over the curves of theory."""
    grid_accuracy = np.linspace(0.6, 0.99, 79)
    with look():
        figure, grid = frames([["worth"]], head=0.1, height=2.8)
        panel = grid[0, 0]
        for level in ACTIONS:
            style = STYLES[level]
            smooth = [sandwich(level, a) for a in grid_accuracy]
            panel.plot(grid_accuracy, smooth, color=style.colour, linewidth=1.1, label=f"{level}, sandwich")
            bound = [closed_form(level, a) for a in grid_accuracy]
            panel.plot(grid_accuracy, bound, color=style.colour, linewidth=0.8, linestyle=(0, (1, 1.6)))
            own = table.filter(pl.col("level") == level)
            for row in own.drop_nulls(["low", "high"]).iter_rows(named=True):
                panel.plot([row["accuracy"]] * 2, [row["low"], row["high"]], color=style.colour, linewidth=1)
            dots: dict[str, Any] = marker_of(style) | {"linestyle": "none"}
            panel.plot(
                own["accuracy"].to_list(), own["worth"].to_list(), label=f"{level}, measured, 95 %", **dots
            )
        set_axis(panel, "x", 0.6, 0.99, log=False, room=8)
        set_axis(panel, "y", 0.0, 0.9, log=False, room=8)
        plain(panel.set_xlabel(f"how often the curator is right (raw labels: {1 - ETA:.0%})"))
        plain(panel.set_ylabel("gold pairs that a raw pair is worth"))
        for text in panel.legend(frameon=False, loc="upper left").get_texts():
            plain(text)
    save(figure, table, HERE, "independent")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
