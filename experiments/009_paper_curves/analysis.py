"""The README's tables and figures, from points.csv and predictions.csv: python analysis.py

Draws curves.png (the paper's curve beside ours) and snapshots.png (what each stage knows, at equal sizes), each with
its points in a CSV of the same name. Seconds.
"""

import math
from typing import Any

import polars as pl
from collect import FOLDERS, HERE
from scipy.stats import t as student

from rewardscale.scaling.figures import save
from rewardscale.scaling.panels import (
    STYLES,
    frames,
    legend_above,
    legend_columns,
    look,
    marker_of,
    plain,
    set_axis,
)

PAPER = HERE.parent / "010_digitised_curves" / "curves" / "fig7_left.csv"
ARMS = ("raw", "filtered", "corrected", "no_humans")
PLACEBOS = ("shuffled_scores", "random_matched", "matched", "selection_only")
LAST = 9  # the x of stage 2; the seed is 0
TICKS = ["seed", *map(str, range(1, 9)), "II"]
TITLES = {"planted": "Planted", "biased": "Biased", "votes": "People's votes"}
KNOWN = (0, 2, 4, 6, 8, LAST)  # stages whose snapshots are swept
SNAPSHOT_SIZES = {"planted": ("500", "2000", "8000"), "votes": ("500", "1000", "3000")}


def at(arm: str, stage: int, *, gathered: bool) -> str:
    """A level's name. `raw` has no snapshots: knowing more does not change it."""
    if stage == LAST or (arm == "raw" and not gathered):
        return arm
    return f"{'gathered_' if gathered else ''}{arm}@iter{stage}"


def read(eval_set: str = "gold") -> pl.DataFrame:
    return pl.read_csv(HERE / "points.csv", schema_overrides={"size": pl.String}).filter(
        pl.col("eval_set") == eval_set
    )


def interval(values: pl.Series) -> tuple[float, float]:
    """Mean over worlds, and half of its 95 % t-interval."""
    n = len(values)
    spread = values.std()
    half = float(student.ppf(0.975, n - 1)) * spread / n**0.5 if n > 1 else math.nan  # pyright: ignore[reportOperatorIssue, reportOptionalOperand]
    return float(values.mean()), float(half)  # pyright: ignore[reportArgumentType]


def of(table: pl.DataFrame, data: str, size: str, level: str, value: str = "accuracy") -> pl.Series:
    """A value a world, ordered by world."""
    rows = table.filter((pl.col("data") == data) & (pl.col("size") == size) & (pl.col("level") == level))
    if rows.is_empty():
        raise SystemExit(f"points.csv has no {level} of {data} at size {size}: run collect.py again")
    return rows.sort("world")[value]


def gap(table: pl.DataFrame, data: str, size: str, one: str, other: str) -> tuple[float, float]:
    """Accuracy of one level minus another's, in points: paired by world."""
    return interval(100 * (of(table, data, size, one) - of(table, data, size, other)))


def verdict(mean: float, half: float, low: float, high: float) -> str:
    inside = low <= mean <= high
    if inside:
        return "yes" if low <= mean - half and mean + half <= high else "yes, not surely"
    return "no" if mean - half > high or mean + half < low else "no, not surely"


def line(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def header(*cells: str) -> str:
    return line(*cells) + "\n" + line(*["---"] * len(cells))


def print_predictions(table: pl.DataFrame) -> None:
    rows = pl.read_csv(HERE / "predictions.csv").iter_rows(named=True)
    print(header("", "data", "size", "difference, points", "predicted", "measured", "held"))
    count = {"yes": 0, "no": 0}
    for row in rows:
        mean, half = gap(table, row["data"], row["size"], row["one"], row["other"])
        held = verdict(mean, half, row["low"], row["high"])
        count[held[:3].rstrip(",")] += 1
        about = line(
            row["number"],
            row["data"],
            row["size"],
            f"{row['one']} − {row['other']}",
            f"{row['low']:g} to {row['high']:g}",
            f"{mean:+.1f} ± {half:.1f}",
            held,
        )
        print(about)
    print(f"\n{count['yes']} of {sum(count.values())} held.\n")


def print_arms(table: pl.DataFrame, data: str) -> None:
    """Pairs, labels that are right, what was paid (raw pool, verdicts so far), accuracy: by arm and stage."""
    print(f"{TITLES[data]}, {of(table, data, 'all', 'raw').len()} worlds\n")
    print(
        header(
            "arm",
            "stage",
            "pairs",
            "labels right",
            "paid",
            "accuracy, all pairs",
            "recalibrated loss",
            "accuracy, 200 pairs",
        )
    )
    for arm in ARMS:
        for stage, name in ((0, "seed"), (8, "iteration 8"), (LAST, "stage 2")):
            print_one(table, data, arm, name, at(arm, stage, gathered=True))
    for placebo in PLACEBOS:
        if not table.filter((pl.col("data") == data) & (pl.col("level") == placebo)).is_empty():
            mean, half = gap(table, data, "equal", placebo, "raw")
            print(line(placebo, "", "", "", "", "", "", f"raw {mean:+.1f} ± {half:.1f}"))
    print()


def print_one(table: pl.DataFrame, data: str, arm: str, stage: str, level: str) -> None:
    def mean(value: str) -> float:
        return interval(of(table, data, "all", level, value))[0]

    def spoken(value: str, size: str, scale: float, digits: int) -> str:
        middle, half = interval(scale * of(table, data, size, level, value))
        return f"{middle:.{digits}f} ± {half:.{digits}f}"

    print(
        line(
            arm,
            stage,
            f"{mean('pairs'):,.0f}",
            f"{mean('labels_right'):.3f}",
            f"{mean('cost_of_level'):,.0f}",
            spoken("accuracy", "all", 100, 1),
            spoken("loss_recalibrated", "all", 1, 3),
            spoken("accuracy", "equal", 100, 1),
        )
    )


def print_steps(table: pl.DataFrame, data: str) -> None:
    """What each arm gains between stages, on all pairs and at 200."""
    print(header("arm", "size", "seed to iteration 8", "iteration 8 to stage 2", "seed to stage 2"))
    for size in ("all", "equal"):
        for arm in ARMS:
            names = [at(arm, stage, gathered=True) for stage in (0, 8, LAST)]
            steps = [
                gap(table, data, size, one, other)
                for one, other in ((names[1], names[0]), (names[2], names[1]), (names[2], names[0]))
            ]
            print(line(arm, size, *(f"{mean:+.1f} ± {half:.1f}" for mean, half in steps)))
    print()


def print_over_raw(table: pl.DataFrame, data: str) -> None:
    """Each arm over raw at the same stage."""
    print(header("over raw", "size", "seed", "iteration 4", "iteration 8", "stage 2"))
    for size in ("all", "equal"):
        for arm in ARMS[1:]:
            cells = [
                gap(table, data, size, at(arm, s, gathered=True), at("raw", s, gathered=True))
                for s in (0, 4, 8, LAST)
            ]
            print(line(arm, size, *(f"{mean:+.1f} ± {half:.1f}" for mean, half in cells)))
    print()


def print_snapshots(table: pl.DataFrame, data: str) -> None:
    print(header("snapshot", "pairs", "seed", "iteration 8", "stage 2", "stage 2 − raw", "stage 2 − seed"))
    for size in SNAPSHOT_SIZES[data]:
        for arm in ARMS:
            names = [at(arm, stage, gathered=False) for stage in (0, 8, LAST)]
            means = [f"{interval(100 * of(table, data, size, name))[0]:.1f}" for name in names]
            gains = [gap(table, data, size, arm, other) for other in ("raw", names[0])]
            spoken = [f"{mean:+.1f} ± {half:.1f}" if arm != "raw" else "" for mean, half in gains]
            print(line(arm, size, *means, *spoken))
    print()


# The pictures.


def offsets(table: pl.DataFrame, data: str, size: str, value: str, *, gathered: bool) -> pl.Series:
    """A panel's worlds: the mean of each over arms and stages, less that of all worlds.

    Taken out, intervals say how surely points of a panel differ, not how worlds do (Cousineau 2005).
    """
    stages = range(LAST + 1) if gathered else KNOWN
    names = {at(arm, stage, gathered=gathered) for arm in ARMS for stage in stages}
    values = pl.DataFrame({name: of(table, data, size, name, value) for name in names}).mean_horizontal()
    return values - values.mean()


def series(table: pl.DataFrame, data: str, size: str, value: str, *, gathered: bool) -> pl.DataFrame:
    """A point an (arm, stage): mean over worlds, and interval within worlds."""
    scale, own = 100 if value == "accuracy" else 1, offsets(table, data, size, value, gathered=gathered)
    rows = []
    for arm in ARMS:
        for stage in range(LAST + 1) if gathered else KNOWN:
            values = of(table, data, size, at(arm, stage, gathered=gathered), value) - own
            mean, half = interval(scale * values)
            rows.append((arm, stage, mean, half, len(values)))
    return pl.DataFrame(rows, schema=["arm", "stage", "y", "half", "worlds"], orient="row")


def placebos(table: pl.DataFrame, data: str, size: str) -> pl.DataFrame:
    own = offsets(table, data, size, "accuracy", gathered=True)
    rows = []
    for name in PLACEBOS:
        known = (pl.col("data") == data) & (pl.col("size") == size) & (pl.col("level") == name)
        if not table.filter(known).is_empty():
            values = of(table, data, size, name) - own
            rows.append((name, LAST + 1, *interval(100 * values), len(values)))
    return pl.DataFrame(rows, schema=["arm", "stage", "y", "half", "worlds"], orient="row")


def paper() -> pl.DataFrame:
    """The published scores; one run a point, so no interval."""
    left = pl.read_csv(PAPER).rename({"original": "raw", "filtered_plus_corrected": "corrected"})
    alone = pl.read_csv(HERE / "no_humans.csv")
    rows = [(arm, stage, y, None, 1) for arm in ARMS[:3] for stage, y in enumerate(left[arm])]
    rows += [("no_humans", stage, y, None, 1) for stage, y in enumerate(alone["no_humans"])]
    return pl.DataFrame(rows, schema=["arm", "stage", "y", "half", "worlds"], orient="row")


def draw_panel(panel: Any, points: pl.DataFrame, title: str, ylabel: str, *, log: bool = False) -> None:
    for number, arm in enumerate(ARMS):
        own = points.filter(pl.col("arm") == arm).sort("stage")
        style, x = STYLES[arm], [s + 0.08 * (number - 1.5) for s in own["stage"]]
        inner = [i for i, s in enumerate(own["stage"]) if s < LAST]
        y = own["y"].to_list()
        panel.plot([x[i] for i in inner], [y[i] for i in inner], color=style.colour, linewidth=1.0)
        if own["stage"].max() == LAST:
            panel.plot(x[-2:], y[-2:], color=style.colour, linewidth=0.9, linestyle=(0, (3, 1.5)))
        bars(panel, x, own, style.colour)
        panel.plot(x, y, **(marker_of(style) | {"linestyle": "none", "zorder": 3}))
    others = points.filter(pl.col("stage") > LAST)
    for place, (arm, y) in enumerate(others.select("arm", "y").iter_rows()):
        x = [LAST + 0.75 + 0.25 * place]
        bars(panel, x, others.filter(pl.col("arm") == arm), "#7F7F7F")
        panel.plot(x, [y], marker="x", color="#7F7F7F", markersize=3.5, linestyle="none")
    half = points["half"].cast(pl.Float64).fill_null(0.0).fill_nan(0.0)
    set_axis(panel, "y", (points["y"] - half).min(), (points["y"] + half).max(), log=log, room=6)
    panel.set_xlim(-0.5, LAST + (2.0 if len(others) else 0.5))
    ticks = [0, 2, 4, 6, 8, LAST]
    panel.set_xticks(ticks, [TICKS[i] for i in ticks])
    plain(panel.set_title(title, loc="left", pad=4))
    plain(panel.set_ylabel(ylabel, labelpad=2))


def bars(panel: Any, x: list[float], own: pl.DataFrame, colour: str) -> None:
    for place, y, half in zip(x, own["y"], own["half"], strict=True):
        if half is not None and not math.isnan(half):
            panel.plot([place] * 2, [y - half, y + half], color=colour, linewidth=0.8, alpha=0.8, zorder=2)


def figure_of(panels: list[list[tuple[str, str, pl.DataFrame, dict]]], name: str) -> None:
    """Each entry: title, label of y, points, more for draw_panel. Writes NAME.png, .svg, .pdf and .csv."""
    from matplotlib.lines import Line2D

    with look(name):
        head = 0.26
        figure, grid = frames(panels, head=head, left=0.48, gap=0.5, height=1.55)
        kept = []
        for (row, column), panel in grid.items():
            title, ylabel, points, more = panels[row][column]
            draw_panel(panel, points, title, ylabel, **more)
            about = [pl.lit(title).alias("panel"), pl.lit(ylabel).alias("quantity")]
            kept.append(points.select(*about, pl.all()))
        below = "stage of the pipeline: seed, iterations 1 to 8, II = stage 2 (not a size)"
        plain(figure.text(0.5, 0.05 / figure.get_figheight(), below, ha="center", va="bottom"))
        handles: list[Any] = [Line2D([], [], linewidth=0.9, **marker_of(STYLES[arm])) for arm in ARMS]
        labels = [arm.replace("_", " ") for arm in ARMS]
        if any((points["stage"] > LAST).any() for row in panels for _, _, points, _ in row):
            handles.append(Line2D([], [], linestyle="none", marker="x", color="#7F7F7F", markersize=3.5))
            labels.append("placebos")
        legend_above(figure, handles, labels, legend_columns(labels))
        save(figure, pl.concat(kept, how="vertical_relaxed"), HERE, name)


def curves(table: pl.DataFrame) -> None:
    accuracy, loss = "accuracy, %", "recalibrated log-loss, nats"

    def own(data: str, value: str) -> pl.DataFrame:
        return series(table, data, "all", value, gathered=True)

    def equal(data: str) -> pl.DataFrame:
        points = series(table, data, "equal", "accuracy", gathered=True)
        return pl.concat([points, placebos(table, data, "equal")])

    pairs = own("planted", "pairs").with_columns(half=pl.lit(None, pl.Float64))
    known = series(table, "planted", "8000", "accuracy", gathered=False)
    figure_of(
        [
            [
                ("the paper (8B model)", "mean of six benchmarks", paper(), {}),
                ("planted, all pairs", accuracy, own("planted", "accuracy"), {}),
                ("biased raw labels, all pairs", accuracy, own("biased", "accuracy"), {}),
            ],
            [
                ("planted: how many pairs", "pairs trained on", pairs, {"log": True}),
                ("planted, all pairs", loss, own("planted", "loss_recalibrated"), {}),
                ("biased raw labels, all pairs", loss, own("biased", "loss_recalibrated"), {}),
            ],
            [
                ("planted snapshots, 8,000 pairs", accuracy, known, {}),
                ("planted, 200 pairs each", accuracy, equal("planted"), {}),
                ("biased, 200 pairs each", accuracy, equal("biased"), {}),
            ],
            [
                ("people's votes, all pairs", accuracy, own("votes", "accuracy"), {}),
                ("people's votes, all pairs", loss, own("votes", "loss_recalibrated"), {}),
                ("people's votes, 200 pairs each", accuracy, equal("votes"), {}),
            ],
        ],
        "curves",
    )


def snapshots(table: pl.DataFrame) -> None:
    rows = []
    for data, name in (("planted", "planted"), ("votes", "votes")):
        for value, label in (("accuracy", "accuracy, %"), ("loss_recalibrated", "recalibrated log-loss")):
            rows.append(
                [
                    (
                        f"{name}, {int(size):,} pairs",
                        label,
                        series(table, data, size, value, gathered=False),
                        {},
                    )
                    for size in SNAPSHOT_SIZES[data]
                ]
            )
    figure_of(rows, "snapshots")


def main() -> None:
    table = read()
    print_predictions(table)
    for data in FOLDERS:
        print_arms(table, data)
        print_steps(table, data)
        print_over_raw(table, data)
        if data in SNAPSHOT_SIZES:
            print_snapshots(table, data)
    curves(table)
    snapshots(table)


if __name__ == "__main__":
    main()
