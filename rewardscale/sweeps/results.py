"""The results table: a row a run and evaluation set, from the run records, written whole or not at all."""

import io
from pathlib import Path
from typing import Any

import polars as pl

from rewardscale import atomic, flops
from rewardscale.config import SCIENCE_VERSION, ModelConfig, SweepConfig
from rewardscale.sweeps import benchmarks
from rewardscale.sweeps.cell import is_scored, read_error, read_result
from rewardscale.sweeps.grid import Cell

WALL_CLOCK = ("train_seconds", "eval_seconds", "pairs_per_second", "tokens_per_second")  # not reproducible
SCHEMA = pl.Schema(
    {
        "run_id": pl.String,
        "sweep": pl.String,
        "family": pl.String,
        "model": pl.String,
        "width": pl.Int64,
        "params": pl.Int64,
        "params_with_embeddings": pl.Int64,
        "level": pl.String,
        "pairs": pl.Int64,
        "raw_pairs": pl.Int64,
        "cost": pl.Float64,
        "cost_unit": pl.String,
        "keep_rate": pl.Float64,
        "distinct": pl.Int64,
        "draw": pl.Int64,
        "fold": pl.Int64,
        "seed": pl.Int64,
        "learning_rate": pl.Float64,
        "lr_scale": pl.Float64,
        "l2": pl.Float64,
        "epochs": pl.Float64,
        "steps": pl.Int64,
        "trunk": pl.String,
        "branched_at": pl.Int64,
        "tokens": pl.Int64,
        "flops": pl.Float64,
        "packing_efficiency": pl.Float64,
        "dropped_too_long": pl.Int64,
        "truncated": pl.Int64,
        "eval_set": pl.String,
        "eval_pairs": pl.Int64,
        "accuracy": pl.Float64,
        "ties": pl.Int64,
        "loss": pl.Float64,
        "loss_recalibrated": pl.Float64,
        "temperature": pl.Float64,
        "margin_mean": pl.Float64,
        "bayes_loss": pl.Float64,
        "science_version": pl.Int64,
        **dict.fromkeys(WALL_CLOCK, pl.Float64),
    }
)


CLUSTER_SCHEMA = pl.Schema(
    {
        "run_id": pl.String,
        "eval_set": pl.String,
        "cluster": pl.String,
        "eval_pairs": pl.Int64,
        "accuracy": pl.Float64,
        "loss": pl.Float64,
        "loss_recalibrated": pl.Float64,
    }
)


def collect(
    config: SweepConfig,
    cells: list[Cell],
    workdir: Path,
    *,
    cost_unit: str,
    wanted: benchmarks.Prepared | None = None,
) -> tuple[pl.DataFrame, list[dict]]:
    """The table of the cells that are done, in grid order, and what is missing and why.

    A benchmark that a run has scored is a row too: its headline score is the accuracy, its items are the pairs.
    """
    rows: list[dict[str, Any]] = []
    missing: list[dict[str, Any]] = []
    for cell in cells:
        result = read_result(workdir, cell.run_id)
        if result is None:
            missing.append(identity(cell) | {"reason": read_error(workdir, cell.run_id) or "not run yet"})
            continue
        if not is_scored(cell, workdir, wanted):
            reason = read_error(workdir, cell.run_id) or "trained, and its benchmarks are not scored yet"
            missing.append(identity(cell) | {"reason": reason})
        shared = _run_columns(config.name, cell, result, cost_unit)
        own = {} if wanted is None else benchmarks.read(workdir, cell.run_id)
        for name, score in (result["scores"] | own).items():
            rows.append(
                shared
                | {"eval_set": name, "eval_pairs": score["pairs"]}
                | {key: value for key, value in score.items() if key not in ("pairs", "clusters")}
            )
    return pl.DataFrame(rows, schema=SCHEMA, orient="row"), missing


def by_cluster(cells: list[Cell], workdir: Path) -> pl.DataFrame:
    """A row a run, evaluation set and cluster of evaluation pairs (prompt, debate), of the cells that are done."""
    rows = []
    for cell in cells:
        result = read_result(workdir, cell.run_id) or {"scores": {}}
        for name, score in result["scores"].items():
            for cluster, own in score.get("clusters", {}).items():
                own = {"eval_pairs" if key == "pairs" else key: value for key, value in own.items()}
                rows.append({"run_id": cell.run_id, "eval_set": name, "cluster": cluster} | own)
    return pl.DataFrame(rows, schema=CLUSTER_SCHEMA, orient="row")


def identity(cell: Cell) -> dict[str, Any]:
    """What names a cell in sweep.json and missing.json."""
    run = cell.run
    return {
        "run_id": cell.run_id,
        "family": run.family,
        "model": run.model_name,
        "level": run.level,
        "pairs": run.pairs,
        "draw": run.draw,
        "fold": run.fold,
        "lr_scale": run.learning_rate_scale,
    }


def write_table(table: pl.DataFrame, path: Path) -> bool:
    """Writes the table as Parquet unless the file holds these bytes already; True if it wrote."""
    buffer = io.BytesIO()
    table.write_parquet(buffer)
    data = buffer.getvalue()
    if path.exists() and path.read_bytes() == data:
        return False
    atomic.write_bytes(path, data)
    return True


def reproducible(table: pl.DataFrame) -> pl.DataFrame:
    """The table without its wall-clock columns: equal, bit for bit, however often the sweep was interrupted."""
    return table.drop(*WALL_CLOCK)


def _run_columns(sweep: str, cell: Cell, result: dict[str, Any], cost_unit: str) -> dict[str, Any]:
    run, record = cell.run, result["record"]
    if isinstance(run.model, ModelConfig):
        params = [flops.parameters(run.model, embeddings=e) for e in (False, True)]
    else:
        params = [run.model.params] * 2
    columns = {
        "run_id": run.run_id,
        "sweep": sweep,
        "family": run.family,
        "model": run.model_name,
        "width": run.model.width,
        "params": params[0],
        "params_with_embeddings": params[1],
        "level": run.level,
        "pairs": run.pairs,
        "raw_pairs": cell.raw_pairs,
        "cost": cell.cost,
        "cost_unit": cost_unit,
        "keep_rate": run.pairs / cell.raw_pairs,
        "distinct": cell.distinct,
        "draw": run.draw,
        "fold": run.fold,
        "seed": run.seed,
        "learning_rate": run.recipe.learning_rate if run.recipe else None,
        "lr_scale": run.learning_rate_scale,
        "epochs": run.recipe.epochs if run.recipe else None,
        "science_version": SCIENCE_VERSION,
    }
    measured = (
        "l2",
        "steps",
        "trunk",
        "branched_at",
        "tokens",
        "flops",
        "packing_efficiency",
        "dropped_too_long",
        "truncated",
        *WALL_CLOCK,
    )
    return columns | {name: record.get(name) for name in measured}
