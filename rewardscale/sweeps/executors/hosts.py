"""The executor of several hosts: one cell after another, each on the devices of all.

Host 0 decides which cell is next and keeps its folder; the others are told and compute with it.
"""

import functools
from collections.abc import Callable
from typing import Any

from rewardscale import mesh
from rewardscale.config import ConfigError, ModelConfig
from rewardscale.data.comparison import DataError
from rewardscale.sweeps import cell as cells
from rewardscale.sweeps.executors.local import Event, in_order
from rewardscale.sweeps.grid import Cell
from rewardscale.training.checkpoint import Damaged, Interrupted, stop_requests
from rewardscale.training.compilation import use_cache
from rewardscale.training.finite import NonFiniteLoss

# What a run's config and data alone decide, the same on all hosts: the cell fails, and all go on. After any other
# error the host ends, and so do all.
_OF_THE_CELL = (NonFiniteLoss, ConfigError, DataError)


def run_cells(
    todo: list[Cell], context: cells.Context, on_event: Callable[[Event], None], *, metrics: bool = False
) -> None:
    """On host 0: runs all cells in the order of the local executor, and reports events as they come.

    Raises KeyboardInterrupt where a host is asked to stop, once all have saved their state.
    """
    use_cache()
    with stop_requests() as stop:  # a host that stopped anywhere else would leave the others waiting
        for cell in in_order(todo):
            if stop():
                raise KeyboardInterrupt
            try:
                reason = _run(cell, context, on_event, stop, metrics)
            except Interrupted as saved:
                on_event(Event("interrupted", 0, cell, str(saved)))
                raise KeyboardInterrupt from saved
            on_event(Event("failed", 0, cell, reason) if reason else Event("done", 0, cell))


def _run(
    cell: Cell,
    context: cells.Context,
    on_event: Callable[[Event], None],
    stop: Callable[[], bool],
    metrics: bool,
) -> str:
    """Runs a cell; why it failed, or empty."""

    def tell(kind: str, value: Any) -> None:
        on_event(Event(kind, 0, cell, value))

    def lead() -> None:
        mesh.agreed({"compute": cell.run_id})
        if mesh.vote(stop())()[0]:
            raise KeyboardInterrupt

    try:
        done = cells.run_cell(
            cell,
            context,
            on_progress=functools.partial(tell, "progress"),
            on_metrics=functools.partial(tell, "metrics") if metrics else None,
            on_compute=lead if isinstance(cell.run.model, ModelConfig) else None,  # host 0 fits convex ones
        )
    except Damaged:
        raise  # perhaps on this host alone
    except _OF_THE_CELL as error:
        return f"{type(error).__name__}: {error}"
    return "" if done else "another process is at it, or at its trunk"


def end(code: int) -> int:
    """On host 0: lets the others go, with the exit code of all."""
    mesh.agreed({"end": code})
    return code


def follow(all_cells: list[Cell], context: cells.Context) -> int:
    """On the other hosts: computes what host 0 computes until it ends; returns the exit code that it gives."""
    use_cache()
    code: int | None = None
    try:
        with stop_requests() as stop:
            code = _follow(all_cells, context, stop)
    except KeyboardInterrupt:
        if code is None:
            raise
    return code


def _follow(all_cells: list[Cell], context: cells.Context, stop: Callable[[], bool]) -> int:
    by_id = {cell.run_id: cell for cell in all_cells}
    while True:
        told = mesh.agreed(dict[str, Any]())
        if "end" in told:
            return told["end"]
        if mesh.vote(stop())()[0]:
            continue
        cell = by_id[told["compute"]]
        directory = cells.run_directory(context.workdir, cell.run_id)
        try:
            cells.compute(cell, context, directory, cells.trunk_of(cell, context.workdir))
        except Damaged:
            raise  # perhaps on this host alone
        except (Interrupted, *_OF_THE_CELL):
            pass  # host 0 says what it is
