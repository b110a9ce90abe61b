"""Losses, exchange ratios against theory, and the largest sizes predicted: python analysis.py SWEEP_DIR [WIDTH_MODEL]

Reads a sweep of `sweep.py:objective` and its runs' rewards; prints the README's tables. Draws loss_vs_pairs.png and
ratios.png, each with the CSV of its points.
"""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from predict import LEVELS, closed_form, kept, sandwich
from scipy.stats import t as student

from rewardscale.scaling.collect import ScalingError, Sweep, load_sweep
from rewardscale.scaling.compare import compare_levels
from rewardscale.scaling.der import der
from rewardscale.scaling.figures import save
from rewardscale.scaling.fit import FitError
from rewardscale.scaling.forms import POWER_FLOOR
from rewardscale.scaling.headline import spoken
from rewardscale.scaling.holdout import holdout
from rewardscale.scaling.level_fits import below_plateau
from rewardscale.scaling.panels import STYLES, frames, legend_above, look, marker_of, plain, set_axis
from rewardscale.scaling.points import Points, points

HERE = Path(__file__).parent
EVERY = ("raw", *LEVELS)
PLACEBO = "random_matched"


def clean_margins(sweep: Sweep, model: str) -> np.ndarray:
    """Quantiles of the recalibrated test margins of the largest gold runs, with both signs: float64 [4000], nats."""
    runs = sweep.table.filter((pl.col("eval_set") == sweep.headline_eval) & (pl.col("model") == model))
    runs = runs.filter((pl.col("level") == "gold") & (pl.col("pairs") == pl.col("pairs").max()))
    sizes = []
    for run_id, temperature in runs.select("run_id", "temperature").rows():
        rewards = pl.read_parquet(sweep.directory / "runs" / run_id / "rewards.parquet")
        sizes.append(np.abs((rewards["first"] - rewards["second"]).to_numpy()) / temperature)
    sample = np.quantile(np.concatenate(sizes), (np.arange(2000) + 0.5) / 2000)
    print(f"\nclean margins of {model}: root mean square {float(np.sqrt((sample**2).mean())):.3f} nats\n")
    return np.concatenate([sample, -sample])


def print_means(sweep: Sweep, y: str, digits: int) -> None:
    """Means over draws with 95 % t-intervals over draws, by model, level and size."""
    own = points(sweep, y)
    table = own.table.with_columns(mean=pl.Series(own.mean), se=pl.Series(own.se))
    sizes = sorted(int(size) for size in table["pairs"].unique())
    print(f"\n{y}\n\n| width | level | " + " | ".join(f"{size:,}" for size in sizes) + " |")
    print("| --- " * (len(sizes) + 2) + "|")
    half = float(student.ppf(0.975, int(own.draws.max()) - 1))
    for model in table["model"].unique(maintain_order=True):
        for level in (*EVERY, PLACEBO):
            line = table.filter((pl.col("model") == model) & (pl.col("level") == level))
            if line.is_empty():
                continue
            found = {int(size): (mean, se) for size, mean, se in line.select("pairs", "mean", "se").rows()}
            cells = [
                f"{found[s][0]:.{digits}f} ± {half * found[s][1]:.{digits}f}" if s in found else ""
                for s in sizes
            ]
            print(f"| {str(model).removeprefix('hash')} | {level} | " + " | ".join(cells) + " |")


def ratio(
    own: Points, level: str, method: str, axis: str, base: str = "raw"
) -> tuple[str, float | None, float | None, float | None]:
    """Pairs of `base` that one of the level is worth: in words, and the estimate with its interval if there is one."""
    try:
        made = der(own, base, level, method=method, axis=axis)
    except (ScalingError, FitError) as error:
        return f"- ({str(error).split(':')[0]})", None, None, None
    seen = made.summary
    if math.isfinite(seen.estimate):
        return spoken(seen), seen.estimate, seen.low, seen.high
    bounds = made.curve.filter((pl.col("bound") == "more than") & pl.col("low").is_not_null())
    return (f"more than {bounds['low'].max():.2f}" if bounds.height else "-"), None, None, None


def print_ratios(sweep: Sweep, model: str, margins: np.ndarray) -> pl.DataFrame:
    """The README's table of ratios; returns the points of the figure."""
    every = {y: points(sweep, y, models=[model], units="both") for y in ("loss_recalibrated", "loss")}
    seen = below_plateau(every["loss_recalibrated"])
    print(
        "\n| level | closed form | sandwich | measured, fitted curves | measured, between means | in raw loss, between "
        "means | per pair judged: sandwich | measured, between means |\n" + "| --- " * 8 + "|"
    )
    rows = []
    for level in (*LEVELS, PLACEBO):
        theory = sandwich(level, margins)
        fitted, between = (ratio(seen, level, method, "pairs") for method in ("fit", "interpolate"))
        raw = ratio(every["loss"], level, "interpolate", "pairs")
        judged = ratio(seen, level, "interpolate", "raw_pairs")
        print(
            f"| {level} | {closed_form(level):.2f} | {theory:.2f} | {fitted[0]} | {between[0]} | {raw[0]} "
            f"| {theory * kept(level):.2f} | {judged[0]} |"
        )
        for method, found in (("fitted", fitted), ("between means", between)):
            rows.append((level, method, closed_form(level), theory, *found[1:]))
    theory = sandwich("filtered", margins) / sandwich("corrected", margins)
    between = (
        ratio(seen, "filtered", "interpolate", axis, "corrected")[0] for axis in ("pairs", "raw_pairs")
    )
    print(
        f"\nfiltered pairs in corrected ones, by the sandwich {theory:.2f}, measured {next(between)}",
        end="; ",
    )
    print(f"per pair judged by the sandwich {theory * kept('filtered'):.2f}, measured {next(between)}")
    names = ["level", "method", "closed_form", "sandwich", "ratio", "low", "high"]
    return pl.DataFrame(rows, schema=names, orient="row", infer_schema_length=None)


def print_gaps(sweep: Sweep, model: str) -> None:
    """Each level's loss less gold's at the smallest and largest sizes, paired by draw and test cluster, 95 %."""
    own = points(sweep, "loss_recalibrated", models=[model], units="both")
    names, pairs = own.table["level"].to_numpy(), own.table["pairs"].to_numpy()
    print("\n| less gold, at equal pairs | " + " | ".join(f"{int(s):,}" for s in np.unique(pairs)) + " |")
    print("| --- " * (len(np.unique(pairs)) + 1) + "|")
    for level in EVERY[:-1]:
        cells = []
        for size in np.unique(pairs):
            (one,), (gold,) = (np.flatnonzero((names == n) & (pairs == size)) for n in (level, "gold"))
            squares = [((of[:, one] - of[:, gold]) ** 2).sum() for of in own.shifts.values()]
            half = float(student.ppf(0.975, min(len(of) for of in own.shifts.values()) - 1)) * math.sqrt(
                sum(squares)
            )
            cells.append(f"{own.mean[one] - own.mean[gold]:+.4f} ± {half:.4f}")
        print(f"| {level} | " + " | ".join(cells) + " |")


def print_laws(sweep: Sweep, model: str) -> None:
    """Fitted floors and exponents a level, whether levels differ, and the hidden largest sizes."""
    own = below_plateau(points(sweep, "loss_recalibrated", models=[model], levels=EVERY, units="both"))
    counts = own.table["pairs"].value_counts().filter(pl.col("count") == len(EVERY))
    own = own.select(
        own.table["pairs"].is_in(counts["pairs"].to_list()).to_numpy()
    )  # sizes that all levels have
    made = compare_levels(own, base="raw")
    print(f"\nlevels differ in: {made.chosen}\n\n| level | floor | exponent |\n| --- | --- | --- |")
    for level in EVERY:
        cells = []
        for name in ("floor", "exponent"):
            rows = made.parameters.filter(
                (pl.col("level") == level) & (pl.col("parameter") == name)
            ).to_dicts()
            bounds = (
                ""
                if not rows or rows[0]["low"] is None
                else f" [{rows[0]['low']:.4f}, {rows[0]['high']:.4f}]"
            )
            cells.append(f"{rows[0]['estimate']:.4f}{bounds}" if rows else "-")
        print(f"| {level} | " + " | ".join(cells) + " |")
    print(
        "\n| level | form | mean absolute error of the hidden sizes, nats | relative | inside 95 % |\n"
        + "| --- " * 5
        + "|"
    )
    for level in EVERY:
        try:
            found = holdout(
                below_plateau(points(sweep, models=[model], levels=[level], units="both")), POWER_FLOOR
            )
        except (ScalingError, FitError) as error:
            print(f"| {level} | - | {error} | | |")
            continue
        for form, share, inside, note in found.summary.rows():
            errors = found.table.filter(pl.col("form") == form)
            nats = (errors["predicted"] - errors["observed"]).abs().mean()
            shown = "-" if not isinstance(nats, float) else f"{nats:.5f}"
            print(
                f"| {level} | {form} | {shown} | {share if share is None else round(share, 5)} | {inside} {note} |"
            )


def draw_losses(sweep: Sweep) -> None:
    """Recalibrated loss against pairs, a panel a width; bars are 95 % over draws."""
    own = points(sweep, "loss_recalibrated")
    half = float(student.ppf(0.975, int(own.draws.max()) - 1))
    table = own.table.with_columns(loss=pl.Series(own.mean), half=pl.Series(own.se * half)).select(
        "model", "level", "pairs", "loss", "half"
    )
    models = list(table["model"].unique(maintain_order=True))
    with look():
        figure, grid = frames([models], head=0.22, height=2.6)
        handles, labels = [], []
        for column, model in enumerate(models):
            panel = grid[0, column]
            for level in EVERY:
                line = table.filter((pl.col("model") == model) & (pl.col("level") == level)).sort("pairs")
                if line.is_empty():
                    continue
                style = STYLES[level]
                shape: dict[str, Any] = marker_of(style) | {"linestyle": "-", "linewidth": 0.9}
                (handle,) = panel.plot(line["pairs"].to_list(), line["loss"].to_list(), **shape)
                for size, loss, bar in line.select("pairs", "loss", "half").rows():
                    panel.plot([size] * 2, [loss - bar, loss + bar], color=style.colour, linewidth=0.8)
                if level not in labels:
                    handles.append(handle)
                    labels.append(level)
            panel.axhline(math.log(2), color="#777777", linewidth=0.8, linestyle=(0, (1, 1.6)))
            set_axis(panel, "x", 1000, 300_000, log=True, room=8)
            set_axis(
                panel, "y", float(table.select(pl.col("loss").min()).item()), math.log(2), log=False, room=8
            )
            plain(panel.set_title(f"{int(str(model).removeprefix('hash')):,} buckets", loc="left", pad=4))
            plain(panel.set_xlabel("pairs trained on"))
            panel.set_xticks([1000, 10_000, 100_000], ["1k", "10k", "100k"])
            if column:
                panel.tick_params(axis="y", labelleft=False)  # one scale for all
            else:
                plain(panel.set_ylabel("recalibrated log-loss, nats"))
        order = [labels.index(level) for level in EVERY]
        legend_above(figure, [handles[i] for i in order], list(EVERY), len(EVERY))
        save(figure, table, HERE, "loss_vs_pairs")


def draw_ratios(table: pl.DataFrame) -> None:
    """Measured worth of a pair in raw pairs, with intervals, over the sandwich."""
    with look():
        figure, grid = frames([["ratio"]], head=0.1, height=2.4)
        panel = grid[0, 0]
        levels = (*LEVELS, PLACEBO)
        for at, level in enumerate(levels):
            theory = table.filter(pl.col("level") == level)["sandwich"][0]
            label = "sandwich, predicted" if not at else None
            panel.plot([at - 0.35, at + 0.35], [theory] * 2, color="#D55E00", linewidth=1.4, label=label)
            for shift, method, fill in ((-0.12, "fitted", "#000000"), (0.12, "between means", "white")):
                own = table.filter((pl.col("level") == level) & (pl.col("method") == method)).drop_nulls(
                    ["ratio"]
                )
                for row in own.iter_rows(named=True):
                    if row["low"] is not None:
                        panel.plot([at + shift] * 2, [row["low"], row["high"]], color="#000000", linewidth=1)
                    dot = {"color": "#000000", "marker": "o", "markersize": 4, "markerfacecolor": fill}
                    name = f"measured, {method}, 95 %" if not at else None
                    panel.plot([at + shift], [row["ratio"]], linestyle="none", label=name, **dot)
        highest = float(table.select(pl.max_horizontal("high", "sandwich", "ratio").max()).item())
        set_axis(panel, "y", 0.5, highest, log=True, room=8)
        panel.set_xticks(range(len(levels)), [level.replace("_", " ") for level in levels])
        panel.set_xlim(-0.6, len(levels) - 0.4)
        plain(panel.set_ylabel("raw pairs that one pair is worth"))
        for text in panel.legend(frameon=False, loc="lower left").get_texts():
            plain(text)
        save(figure, table, HERE, "ratios")


def main(workdir: Path, model: str) -> None:
    sweep = load_sweep(workdir)
    print_means(sweep, "loss_recalibrated", 4)
    print_means(sweep, "accuracy", 3)
    print_gaps(sweep, model)
    table = print_ratios(sweep, model, clean_margins(sweep, model))
    print_laws(sweep, model)
    draw_losses(sweep)
    draw_ratios(table)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "hash4096")
