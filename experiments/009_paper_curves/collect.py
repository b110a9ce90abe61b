"""From the sweeps to one table: python collect.py [RUNS=runs]

Reads RUNS/{curate-*,*-figure,*-snapshots}-<world> (*: paper, biased or votes) and writes points.csv: one row a (data,
world, size, level, evaluation set), means over draws. `size` is "all" (all pairs of the level), "equal" (200) or a
number of pairs. `cost_of_level` is what making the whole level costs.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from rewardscale.scaling.collect import VALIDATION, load_sweep, write_atomic

HERE = Path(__file__).parent
FOLDERS = {"planted": "paper", "biased": "biased", "votes": "votes"}
EQUAL = 200
VALUES = ("accuracy", "loss", "loss_recalibrated")


def worlds(runs: Path, data: str) -> list[int]:
    """Numbers of the worlds whose figure has been swept."""
    found = runs.glob(f"{FOLDERS[data]}-figure-*/results.parquet")
    return sorted(int(path.parent.name.rsplit("-", 1)[1]) for path in found)


def labels(curation: Path) -> pl.DataFrame:
    """Of each level: how many of its labels are right by the truth, and what the whole level cost to make."""
    report = json.loads((curation / "report.json").read_text())
    rows = [
        (one["name"], one["truth"]["share"], one["cost"], one["pairs"], one["flipped"])
        for one in report["levels"]
    ]
    columns = ["level", "labels_right", "cost_of_level", "pairs_of_level", "flipped"]
    return pl.DataFrame(rows, schema=columns, orient="row", infer_schema_length=None)


def sweeps(runs: Path, data: str, world: int) -> Iterator[pl.DataFrame]:
    """The two tables of a world, with `size`."""
    for name in ("figure", "snapshots"):
        folder = runs / f"{FOLDERS[data]}-{name}-{world}"
        if not (folder / "results.parquet").exists():
            continue
        sweep = load_sweep(folder)
        if sweep.missing:
            raise SystemExit(f"{folder}: {len(sweep.missing)} runs are missing; launch it again")
        size = pl.col("pairs").cast(pl.String)
        if name == "figure":
            size = pl.when(pl.col("pairs") == EQUAL).then(pl.lit("equal")).otherwise(pl.lit("all"))
        yield sweep.table.filter(pl.col("eval_set") != VALIDATION).with_columns(size=size)


def main(runs: Path) -> None:
    parts = []
    for data, folder in FOLDERS.items():
        for world in worlds(runs, data):
            about = labels(runs / f"curate-{folder}-{world}")
            for table in sweeps(runs, data, world):
                means = table.group_by("size", "level", "eval_set").agg(
                    pl.col("pairs").first(),
                    pl.col("draw").n_unique().alias("draws"),
                    pl.col("eval_pairs").first(),
                    pl.col(*VALUES).mean().round(6),
                )
                key = [pl.lit(data).alias("data"), pl.lit(world).alias("world")]
                parts.append(means.select(*key, pl.all()).join(about, on="level", how="left"))
    table = pl.concat(parts).sort("data", "world", "size", "level", "eval_set")
    write_atomic(HERE / "points.csv", table.write_csv().encode())
    print(f"{len(table)} rows of {table.select('data', 'world').n_unique()} worlds in points.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "runs"))
