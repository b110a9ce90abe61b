"""(c) Which part of the pipeline does the work: python ablations.py [WORKDIR=runs/ablations] [WORLDS=10]

Runs `curate.py` on planted worlds of their own, whole and with a part taken out, trains a reward model on what each
arm keeps and on equally many pairs of each, and tests it on pairs that no stage saw. Writes ablations.csv and .png and
prints the README's table. Killed, it goes on where it stopped.

Simulated judges and people throughout (their error rates: `configs/curate.py`).
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
from scipy.stats import t as student
from students import Students
from tqdm import tqdm

from rewardscale import atomic
from rewardscale.config.curation import CurationConfig
from rewardscale.curation import pipeline
from rewardscale.curation.inputs import prepare
from rewardscale.data.levels import read_level
from rewardscale.scaling.figures import save
from rewardscale.scaling.panels import STYLES, frames, look, marker_of, plain, set_axis
from rewardscale.sweeps import configfile

HERE = Path(__file__).parent
WHOLE = "adaptive"
# Arm of the paper's ablation -> (variant of the run, level).
ARMS = {
    "random pairs (raw)": (WHOLE, "raw"),
    "LLM filter (no_humans)": (WHOLE, "no_humans"),
    "human filter (gold RM alone)": (WHOLE, "gold_only"),
    "best RM alone": (WHOLE, "best_only"),
    "both, full (filtered)": (WHOLE, "filtered"),
    "full and recycled (corrected)": (WHOLE, "corrected"),
    "filtered, random retrieval": ("random", "filtered"),
    "corrected, random retrieval": ("random", "corrected"),
    "filtered, judges remove": ("remove", "filtered"),
    "corrected, judges remove": ("remove", "corrected"),
}
VARIANTS = {
    WHOLE: {},
    "random": {"retrieval": "random", "no_humans": False},
    "remove": {"silver": "remove", "no_humans": False},
}


def config(world: int, variant: str) -> CurationConfig:
    """The default curation run in planted world number `world`, with a part taken out."""
    found, _ = configfile.load("curate.py", kind=CurationConfig)
    planted = dataclasses.replace(
        found.planted, world=dataclasses.replace(found.planted.world, seed=world), seed=world
    )
    return dataclasses.replace(found, seed=world, planted=planted, **VARIANTS[variant])


def curate(workdir: Path, worlds: int) -> None:
    """Makes the runs that are not there yet."""
    todo = [(w, v) for w in range(worlds) for v in VARIANTS]
    for world, variant in tqdm(todo, desc="curation runs", disable=None):
        folder = workdir / f"world{world}-{variant}"
        if not (folder / "report.json").exists():
            pipeline.run(config(world, variant), folder)


def measure(workdir: Path, world: int) -> list[dict]:
    """A row an arm and size ("own": all that it keeps; "equal": as many as the smallest arm)."""
    record = workdir / f"world{world}.json"
    if record.exists():
        return json.loads(record.read_text())
    levels = {
        arm: read_level(workdir / f"world{world}-{v}" / "levels" / name) for arm, (v, name) in ARMS.items()
    }
    least = min(len(level.rows) for level in levels.values())
    folder = workdir / f"world{world}-{WHOLE}"
    students, out = Students.of(prepare(config(world, WHOLE), folder), world), []
    for arm, level in levels.items():
        right = float((level.orientation == students.truth[level.rows]).mean())
        for name, size in (("own", None), ("equal", least)):
            about = {"world": world, "arm": arm, "size": name, "right": right}
            out.append(about | students.test(level, size, world))
    atomic.write_json(record, out)
    return out


def summary(table: pl.DataFrame) -> pl.DataFrame:
    """Means over worlds, and mean and 95 % t-interval of the paired difference to raw."""
    raw = table.filter(pl.col("arm") == next(iter(ARMS))).select("world", "size", raw="accuracy")
    joined = table.join(raw, on=["world", "size"]).with_columns(gain=pl.col("accuracy") - pl.col("raw"))
    worlds = table["world"].n_unique()
    half = float(student.ppf(0.975, worlds - 1)) / worlds**0.5 * pl.col("gain").std()
    return joined.group_by("arm", "size", maintain_order=True).agg(
        pl.col("pairs", "right", "accuracy", "loss_recalibrated").mean(),
        gain=pl.col("gain").mean(),
        half=half,
    )


def contrast(table: pl.DataFrame, one: str, other: str, size: str) -> str:
    """Accuracy of one arm minus another's in points, paired by world, with its 95 % t-interval."""
    own = table.filter(pl.col("size") == size)
    gap = [
        own.filter(pl.col("arm") == arm).sort("world")["accuracy"].to_numpy() * 100 for arm in (one, other)
    ]
    difference = gap[0] - gap[1]
    half = float(student.ppf(0.975, len(difference) - 1)) * difference.std(ddof=1) / len(difference) ** 0.5
    return f"{one} − {other}, {size} size: {difference.mean():+.2f} ± {half:.2f} points"


def draw(means: pl.DataFrame) -> None:
    arms = list(ARMS)
    with look():
        figure, grid = frames([["own", "equal"]], head=0.0, height=0.24 * len(arms), left=1.95, gap=0.2)
        for column, size in enumerate(("own", "equal")):
            panel = grid[0, column]
            for place, arm in enumerate(arms):
                style = STYLES.get(ARMS[arm][1], STYLES["majority_3"])
                (row,) = means.filter((pl.col("arm") == arm) & (pl.col("size") == size)).iter_rows(named=True)
                gain, half = 100 * row["gain"], 100 * row["half"]
                panel.plot([gain - half, gain + half], [place] * 2, color=style.colour, linewidth=1)
                dots: dict[str, Any] = marker_of(style) | {"linestyle": "none"}
                panel.plot(gain, place, **dots)
            panel.axvline(0.0, color="#999999", linewidth=0.8)
            low, high = (100 * (means["gain"] + sign * means["half"]) for sign in (-1, 1))
            set_axis(panel, "x", low.min(), high.max(), log=False, room=6)
            panel.set_ylim(len(arms) - 0.4, -0.6)
            panel.set_yticks(range(len(arms)), arms if column == 0 else [""] * len(arms))
            plain(
                panel.set_title(
                    "on all that it keeps" if size == "own" else "on equally many pairs", loc="left", pad=4
                )
            )
            plain(panel.set_xlabel("accuracy over raw, points"))
    save(figure, means, HERE, "ablations")


def main(workdir: Path, worlds: int) -> None:
    curate(workdir, worlds)
    rows = [
        row for world in tqdm(range(worlds), desc="students", disable=None) for row in measure(workdir, world)
    ]
    table = pl.DataFrame(rows)
    means = summary(table)
    print(f"{worlds} worlds\n\n| arm | labels right | pairs | accuracy | over raw | equal size: over raw |")
    print("| --- | --- | --- | --- | --- | --- |")
    for arm in ARMS:
        own, equal = (
            means.row(by_predicate=(pl.col("arm") == arm) & (pl.col("size") == size), named=True)
            for size in ("own", "equal")
        )
        gains = " | ".join(f"{100 * row['gain']:+.2f} ± {100 * row['half']:.2f}" for row in (own, equal))
        print(f"| {arm} | {own['right']:.3f} | {own['pairs']:,.0f} | {100 * own['accuracy']:.2f} | {gains} |")
    print()
    for size in ("own", "equal"):
        for one, other in (
            ("both, full (filtered)", "LLM filter (no_humans)"),
            ("both, full (filtered)", "human filter (gold RM alone)"),
            ("both, full (filtered)", "filtered, random retrieval"),
            ("full and recycled (corrected)", "both, full (filtered)"),
            ("filtered, judges remove", "both, full (filtered)"),
            ("corrected, judges remove", "full and recycled (corrected)"),
        ):
            print("*", contrast(table, one, other, size))
    draw(means)


if __name__ == "__main__":
    main(
        Path(sys.argv[1] if len(sys.argv) > 1 else "runs/ablations"),
        int(sys.argv[2]) if len(sys.argv) > 2 else 10,
    )
