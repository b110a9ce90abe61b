"""From a sweep directory to tidy tables: one row a point of a curve, with the mean and its standard error.

A *point* is (family, model, level, pairs). Its runs differ by draw (which pairs) and, in cross-validated
sweeps, by fold (which debates are held out). Folds are put together first, inside a draw, because they are
parts of one test set and not repetitions; the standard error is then taken over draws.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl


class ScalingError(ValueError):
    """A sweep directory or a table cannot give what was asked of it; the message names the mend."""


# The columns of results.parquet this room uses, and the type each is read as. More columns may be there.
COLUMNS: dict[str, Any] = {
    "run_id": pl.String,
    "family": pl.String,
    "model": pl.String,
    "params": pl.Int64,
    "level": pl.String,
    "pairs": pl.Int64,
    "raw_pairs": pl.Int64,
    "cost": pl.Float64,
    "cost_unit": pl.String,
    "keep_rate": pl.Float64,
    "draw": pl.Int64,
    "fold": pl.Int64,
    "seed": pl.Int64,
    "learning_rate": pl.Float64,
    "lr_scale": pl.Float64,
    "l2": pl.Float64,
    "epochs": pl.Float64,
    "flops": pl.Float64,
    "eval_set": pl.String,
    "eval_pairs": pl.Int64,
    "accuracy": pl.Float64,
    "loss": pl.Float64,
    "loss_recalibrated": pl.Float64,
    "temperature": pl.Float64,
    "margin_mean": pl.Float64,
    "bayes_loss": pl.Float64,
    "science_version": pl.Int64,
    "train_seconds": pl.Float64,
    "eval_seconds": pl.Float64,
    "pairs_per_second": pl.Float64,
    "tokens_per_second": pl.Float64,
}

# Means over evaluation pairs: folds of a draw are put together by their numbers of pairs (sum, then divide
# once).
VALIDATION = "validation"  # fits each run's temperature and learning rates; never a result
PER_PAIR = ("accuracy", "loss", "loss_recalibrated", "margin_mean", "bayes_loss")

POINT = ["family", "model", "params", "level", "pairs"]


@dataclass(frozen=True, eq=False)
class Sweep:
    """What a sweep directory holds.

    ``table``: one row a (run, evaluation set), the schema of results.parquet, zero rows where no run has
    finished. ``meta``: sweep.json. ``missing``: one dict a planned cell without a result, each with a
    ``reason``. ``clusters``: one row a (run, evaluation set, cluster of its pairs), None where not recorded.
    """

    name: str
    directory: Path
    table: pl.DataFrame
    meta: dict[str, Any]
    missing: list[dict[str, Any]]
    clusters: pl.DataFrame | None = None

    @property
    def headline_eval(self) -> str:
        """The evaluation set that curves use unless told otherwise."""
        return str(self.meta["headline_eval"])

    @property
    def eval_sets(self) -> list[str]:
        """Test sets in the table, the headline one first; the set that temperatures are fitted on is none."""
        names = sorted(set(self.table["eval_set"].unique()) - {VALIDATION})
        return sorted(names, key=lambda name: name != self.headline_eval)

    @property
    def cost_unit(self) -> str:
        """What the column ``cost`` counts: "raw pairs", "votes", ..."""
        units = sorted(self.table["cost_unit"].drop_nulls().unique())
        if len(units) > 1:
            raise ScalingError(
                f"sweep {self.name!r} mixes cost units {units}: filter the table to one of them"
            )
        return units[0] if units else str(self.meta.get("cost_unit") or "cost")

    def filter(self, *predicates: pl.Expr) -> Sweep:
        """The same sweep with fewer rows; takes what ``polars.DataFrame.filter`` takes."""
        return replace(self, table=self.table.filter(*predicates))


def load_sweep(workdir: str | os.PathLike[str], *, allow_unfinished: bool = False) -> Sweep:
    """Read a sweep directory.

    With ``allow_unfinished`` a directory whose results.parquet isn't there yet gives an empty table. Raises
    ScalingError for a directory, file or column that isn't there, and for a table that holds a run twice.
    """
    directory = Path(workdir)
    if not directory.is_dir():
        raise ScalingError(f"no sweep directory at {directory}: run the sweep first, or pass its --workdir")
    meta = _read_json(
        directory / "sweep.json", dict, "a launch writes it at its start: is this a sweep directory?"
    )
    for key in ("name", "headline_eval"):
        if key not in meta:
            raise ScalingError(
                f"{directory / 'sweep.json'} has no {key!r}: launch the sweep again to rewrite it"
            )
    results = directory / "results.parquet"
    if results.is_file():
        table = _read_table(results)
    elif allow_unfinished:
        table = pl.DataFrame(schema=COLUMNS)
    else:
        raise ScalingError(f"no results.parquet in {directory}: no run of this sweep has been collected yet")
    missing_file = directory / "missing.json"
    listed = _read_json(missing_file, list, "delete it and collect again") if missing_file.is_file() else []
    missing = _missing(meta.get("cells") or [], listed, set(table["run_id"]))
    by_cluster = directory / "results_by_cluster.parquet"
    clusters = pl.read_parquet(by_cluster) if by_cluster.is_file() else None
    return Sweep(str(meta["name"]), directory, table, meta, missing, clusters)


def per_draw(
    sweep: Sweep,
    y: str = "loss_recalibrated",
    x: str = "pairs",
    eval_set: str | None = None,
    *,
    complete_only: bool = True,
) -> pl.DataFrame:
    """One row a (family, model, level, pairs, draw): ``x``, ``y``, how many ``folds`` and of how many.

    Folds are put together by their numbers of evaluation pairs. A draw that lacks a fold was tested on other
    debates than its neighbours and would shift the curve: it is left out unless ``complete_only`` is False.
    ``eval_set`` None means the headline one. Raises ScalingError for unknown names, an empty table, values
    that are missing or not finite, and runs that differ in something a curve doesn't show (learning-rate
    scale, epochs).
    """
    rows = _rows(sweep, (x, y), eval_set)
    _refuse_mixture(rows)
    value = pl.col(y).mean()
    if y in PER_PAIR:
        value = (pl.col(y) * pl.col("eval_pairs")).sum() / pl.col("eval_pairs").sum()
    table = (
        rows.group_by(*POINT, "draw")
        .agg(
            pl.col(x).mean().cast(pl.Float64).alias("x"),
            value.cast(pl.Float64).alias("y"),
            pl.col("fold").n_unique().cast(pl.Int64).alias("folds"),
        )
        .join(_folds_wanted(sweep, rows), on=["family", "model"])
        .sort("family", "params", "model", "level", "pairs", "draw")
    )
    if not complete_only:
        return table
    whole = table.filter(pl.col("folds") == pl.col("folds_of"))
    if whole.is_empty():
        raise ScalingError(
            f"no draw of sweep {sweep.name!r} has all its folds yet: there is no point to average"
        )
    return whole


def curve(
    sweep: Sweep, y: str = "loss_recalibrated", x: str = "pairs", eval_set: str | None = None
) -> pl.DataFrame:
    """One row a point: ``x``, ``mean``, ``se`` (null for one draw), ``draws``; by family, size and pairs.

    ``x`` is averaged over draws as well: what D pairs cost depends a little on the draw. Raises what
    ``per_draw`` raises. Units are those of the columns asked for (losses: nats a pair).
    """
    draws = per_draw(sweep, y, x, eval_set)
    return (
        draws.group_by(*POINT)
        .agg(
            pl.col("x").mean(),
            pl.col("y").mean().alias("mean"),
            (pl.col("y").std(ddof=1) / pl.len().sqrt()).alias("se"),
            pl.len().cast(pl.Int64).alias("draws"),
        )
        .sort("family", "params", "model", "level", "pairs")
    )


def bayes_loss(sweep: Sweep, eval_set: str | None = None) -> float | None:
    """The lowest loss any model can have on the evaluation set, nats a pair; None where unknown."""
    name = eval_set or sweep.headline_eval
    rows = sweep.table.filter((pl.col("eval_set") == name) & pl.col("bayes_loss").is_not_null())
    if rows.is_empty():
        return None
    folds = rows.group_by("fold").agg(pl.col("bayes_loss").mean(), pl.col("eval_pairs").mean())
    return float((folds["bayes_loss"] * folds["eval_pairs"]).sum()) / float(folds["eval_pairs"].sum())


def common_pairs(points: pl.DataFrame) -> int | None:
    """The largest number of pairs that every (model, level) of a curve table has, or None."""
    groups = points.group_by("family", "model", "level").agg(pl.col("pairs").unique())["pairs"].to_list()
    shared = set.intersection(*map(set, groups)) if groups else set()
    return max(shared) if shared else None


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a reader sees the old or the new one, whole (temporary file, then a rename)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(temporary, 0o644)  # mkstemp makes files private
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _read_json(path: Path, kind: type, mend: str) -> Any:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ScalingError(f"no {path.name} in {path.parent}: {mend}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ScalingError(f"{path} is not JSON ({error}): {mend}") from None
    if not isinstance(value, kind):
        raise ScalingError(f"{path} holds a {type(value).__name__}, wanted a {kind.__name__}: {mend}")
    return value


def _read_table(path: Path) -> pl.DataFrame:
    mend = "delete it and launch the sweep again: finished runs are kept and collected anew"
    try:
        table = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise ScalingError(f"{path} cannot be read ({error}): {mend}") from error
    absent = [name for name in COLUMNS if name not in table.columns]
    if absent:
        raise ScalingError(f"{path} lacks the columns {absent}: {mend}")
    try:
        table = table.with_columns(pl.col(name).cast(kind) for name, kind in COLUMNS.items())
    except pl.exceptions.PolarsError as error:
        raise ScalingError(f"{path} has a column of the wrong type ({error}): {mend}") from error
    twice = table.filter(pl.struct("run_id", "eval_set").is_duplicated())["run_id"].unique().sort().to_list()
    if twice:
        raise ScalingError(f"{path} holds these runs more than once: {_some(twice)}; {mend}")
    return table.sort("run_id", "eval_set")


def _missing(cells: list[dict], listed: list[dict], done: set[str]) -> list[dict[str, Any]]:
    """Planned cells without a result; missing.json knows why, for the rest nothing was recorded yet."""
    reasons = {cell.get("run_id"): cell for cell in listed}
    out = []
    for cell in [
        *cells,
        *(cell for cell in listed if cell.get("run_id") not in {c.get("run_id") for c in cells}),
    ]:
        run_id = cell.get("run_id")
        if run_id not in done:
            out.append({**cell, "reason": "no result yet", **reasons.get(run_id, {})})
    return out


def _folds_wanted(sweep: Sweep, rows: pl.DataFrame) -> pl.DataFrame:
    """How many folds a whole draw of each (family, model) has: those seen, and those planned and not done."""
    planned = [*(sweep.meta.get("cells") or []), *sweep.missing]
    folds: dict[str, set[int]] = {}
    for cell in planned:
        if cell.get("fold") is not None:
            folds.setdefault(cell.get("model", ""), set()).add(int(cell["fold"]))
    seen = rows.group_by("family", "model").agg(pl.col("fold").unique()).rows()
    wanted = [(family, model, len(folds.get(model, set()) | set(has))) for family, model, has in seen]
    return pl.DataFrame(wanted, schema=["family", "model", "folds_of"], orient="row")


def _rows(sweep: Sweep, columns: Iterable[str], eval_set: str | None) -> pl.DataFrame:
    name = sweep.headline_eval if eval_set is None else eval_set
    if sweep.table.is_empty():
        raise ScalingError(f"sweep {sweep.name!r} has no finished run to draw (or the filter left none)")
    if name not in sweep.eval_sets:
        raise ScalingError(f"sweep {sweep.name!r} has no evaluation set {name!r}; it has {sweep.eval_sets}")
    rows = sweep.table.filter(pl.col("eval_set") == name)
    for column in columns:
        if column not in rows.columns or not rows[column].dtype.is_numeric():
            raise ScalingError(f"{column!r} is not a number column of the results table: {_numbers(rows)}")
        bad = rows.filter(~pl.col(column).cast(pl.Float64).is_finite().fill_null(False))["run_id"].to_list()
        if bad:
            raise ScalingError(f"{column!r} on {name!r} is missing or not finite for runs {_some(bad)}")
    return rows


def _refuse_mixture(rows: pl.DataFrame) -> None:
    """Draws, folds and seeds are averaged; runs equal in all of these differ in what no curve shows."""
    key = ["family", "model", "level", "pairs", "draw", "fold", "seed"]
    twice = rows.filter(pl.struct(key).is_duplicated())
    if twice.is_empty():
        return
    point = twice.select(key).row(0, named=True)
    same = twice.filter(pl.all_horizontal(pl.col(name) == value for name, value in point.items()))
    differ = [name for name in ("learning_rate", "lr_scale", "epochs", "l2") if same[name].n_unique() > 1]
    raise ScalingError(
        f"several runs for one point {point}, differing in {differ or 'nothing this table records'}: "
        "filter the sweep first, e.g. sweep.filter(pl.col('lr_scale') == 1.0)"
    )


def _numbers(rows: pl.DataFrame) -> list[str]:
    return [name for name, kind in rows.schema.items() if kind.is_numeric()]


def _some(run_ids: list[str]) -> str:
    shown = ", ".join(run_ids[:5])
    return shown if len(run_ids) <= 5 else f"{shown} and {len(run_ids) - 5} more"
