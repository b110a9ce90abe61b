"""What a launch prints: the plan of a dry run, and the closing lines of a sweep."""

from collections.abc import Sequence

import polars as pl

from rewardscale.remote import origin
from rewardscale.sweeps.executors.local import default_workers
from rewardscale.sweeps.grid import Cell
from rewardscale.sweeps.sweep import Outcome, Plan, Ran, choose, work


def dry_run(plan: Plan) -> str:
    """Cells, pairs, tokens, FLOPs and an estimate of time, a line a (model, level, pairs), and the totals."""
    done = {c.run_id for c in plan.cells} - {c.run_id for c in plan.todo()}
    frame = pl.DataFrame(
        [
            {
                "model": c.run.model_name,
                "level": c.run.level,
                "pairs": c.run.pairs,
                "raw pairs": c.raw_pairs,
                "steps": c.run.recipe.steps(c.run.pairs) if c.run.recipe else None,
                "tokens": c.tokens,
                "flops": c.flops,
                "seconds": work(c),
                "done": c.run_id in done,
            }
            for c in plan.cells
        ]
    )
    grouped = frame.group_by("model", "level", "pairs", maintain_order=True).agg(
        pl.len().alias("cells"),
        pl.col("done").sum(),
        pl.col("raw pairs").mean().round().cast(pl.Int64),
        pl.col("steps").max(),
        pl.col("tokens").sum(),
        pl.col("flops").sum(),
        pl.col("seconds").sum(),
    )
    widths = (10, 20, 8, 10, 6, 5, 7, 9, 9, 8)
    heads = ("model", "level", "pairs", "raw pairs", "cells", "done", "steps", "tokens", "FLOPs", "time")
    lines = [_columns(widths, heads)]
    for row in grouped.iter_rows(named=True):
        counts = [f"{row[name]:,}" for name in ("pairs", "raw pairs", "cells", "done")]
        sizes = [_short(row["tokens"]), _short(row["flops"]), time_text(row["seconds"])]
        lines.append(
            _columns(widths, (row["model"], row["level"], *counts, str(row["steps"] or "-"), *sizes))
        )
    left = frame.filter(~pl.col("done"))
    workers = plan.config.runtime.workers or default_workers()
    lines += [
        f"{len(frame)} cells, {len(frame) - len(left)} done; to do: {left['pairs'].sum():,} pairs, "
        f"{_short(_total(left, 'tokens'))} tokens, {_short(_total(left, 'flops'))} FLOPs",
        *_trunks(plan.cells),
        f"about {time_text(_total(left, 'seconds') / workers)} with {workers} worker processes "
        "(a rough model of one CPU core a process; accelerators differ)",
        f"everything would land in {origin.shown(plan.workdir, plan.workdir)}",
    ]
    return "\n".join(lines)


def _trunks(cells: Sequence[Cell]) -> list[str]:
    """What sharing trunks saves of the whole sweep, done or not; no line where nothing is shared."""
    trunks = {c.branch.trunk for c in cells if c.branch}
    if not trunks:
        return []
    alone, shared = sum(c.flops or 0.0 for c in cells), sum(c.own_flops for c in cells)
    branches = sum(c.branch is not None for c in cells)
    return [
        f"{branches} cells branch from {len(trunks)} trunks: {_short(shared)} FLOPs for the whole sweep, "
        f"{_short(alone)} with each cell alone ({1 - shared / alone:.0%} saved)"
    ]


def _total(frame: pl.DataFrame, column: str) -> float:
    return float(sum(value or 0.0 for value in frame[column]))


def _columns(widths: Sequence[int], values: Sequence[str]) -> str:
    return " ".join(f"{value:>{width}}" for width, value in zip(widths, values, strict=True))


def closing(plan: Plan, outcome: Outcome) -> str:
    """Counts that add up, the first failures, and the report's path last."""
    lines = [f"{outcome.cells - len(outcome.missing)} of {outcome.cells} cells done"]
    for cell in outcome.missing[:5]:
        name = f"{cell['model']}/{cell['level']}/{cell['pairs']}/draw{cell['draw']}"
        lines.append(f"  missing {name} ({cell['run_id']}): {cell['reason']}")
    if len(outcome.missing) > 5:
        lines.append(f"  and {len(outcome.missing) - 5} more, listed in {_place(plan, 'missing.json')}")
    lines.append(f"table   {_place(plan, 'results.parquet')}")
    if outcome.report is not None:
        lines.append(f"report  {origin.shown(outcome.report, plan.workdir)}")
    return "\n".join(lines)


def _place(plan: Plan, name: str) -> str:
    return origin.shown(plan.workdir / name, plan.workdir)


def chosen(plan: Plan, names: Sequence[str], ran: Ran) -> str:
    """A line for each cell of --cell: done, failed and why, or not."""
    lines, todo = [], {c.run_id for c in plan.todo()}
    for cell in choose(plan, names):
        state = "not done" if cell.run_id in todo else "done"
        reason = f": {ran.failed[cell.run_id]}" if cell.run_id in ran.failed else ""
        lines.append(f"{state} {cell.label} ({cell.run_id}){reason}")
    return "\n".join(lines)


def _short(number: float | None) -> str:
    """1234567 -> 1.2M."""
    if not number:
        return "-"
    for power, suffix in ((15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g}{suffix}"
    return f"{number:.3g}"


def time_text(seconds: float) -> str:
    """40 s, 12 min, 3.4 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
