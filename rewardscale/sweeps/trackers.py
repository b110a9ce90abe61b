"""A sweep's wandb runs: one a cell, grouped, and one of the sweep that carries its table, figures and files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardscale import exits
from rewardscale.sweeps import cell as runs
from rewardscale.sweeps import results
from rewardscale.sweeps.executors.local import Event
from rewardscale.sweeps.grid import Cell
from rewardscale.training.tracker import PROJECT, SWEEP_FILES, Wandb, read_metrics


class Trackers:
    """Opens and closes wandb runs as cells run; does nothing when `mode` is "off".

    Args:
      live: cells whose runs are open from the start and are sent as they go, failures too: an agent's server counts a
        run as crashed that says nothing for minutes. Other cells' runs are sent whole, once they are done.
    """

    def __init__(self, mode: str, sweep: str, workdir: Path, *, live: Sequence[Cell] = ()):
        self.on = mode != "off"
        self._mode, self._sweep, self._workdir = mode, sweep, Path(workdir)
        self._records: dict[str, list[dict[str, Any]]] = {}
        self._live = {c.run_id: self._open_cell(c) for c in live}
        for cell in live:  # what a run stopped earlier had written, and may not have sent
            self._live[cell.run_id].log(self._written(cell))

    def follow(self, event: Event) -> None:
        """Sends a cell's metrics and scores."""
        if not self.on or event.cell is None:
            return
        run_id = event.cell.run_id
        live = self._live.get(run_id)
        if event.kind == "metrics" and live:
            live.log(event.value)
        elif event.kind == "metrics":
            self._records.setdefault(run_id, []).extend(event.value)
        elif event.kind == "done":
            self._finish(event.cell, self._records.pop(run_id, []))
        elif event.kind == "failed" and live:
            live.summary({"error": str(event.value)})
            self._live.pop(run_id).close(exit_code=1)

    def send_done(self, cell: Cell) -> None:
        """Sends a live cell's scores: it was done before."""
        if self.on:
            self._finish(cell, [])

    def stop(self) -> None:
        """Marks live runs that are neither done nor failed as stopped, to be given out again."""
        for tracker in self._live.values():
            tracker.preempted(exits.INTERRUPTED)
        self._live = {}

    def send_sweep(self, config: Mapping[str, Any], report: Path) -> None:
        """Sends the table, the figures and the sweep's files as the sweep's own run."""
        if not self.on:
            return
        import polars as pl

        table = pl.read_parquet(self._workdir / "results.parquet")
        tracker = self._open(f"sweep {self._sweep}", f"sweep-{self._sweep}", config)
        tracker.table("results", table.columns, table.rows())
        tracker.images({p.stem: p for p in sorted((report.parent / "figures").glob("*.png"))})
        tracker.files(self._workdir / name for name in SWEEP_FILES)
        tracker.close()

    def _open(self, name: str, run_id: str, config: Mapping[str, Any], group: str = "") -> Wandb:
        return Wandb(
            self._mode,
            project=PROJECT,
            name=name,
            run_id=run_id,
            directory=self._workdir,
            config=config,
            group=group,
        )

    def _open_cell(self, cell: Cell) -> Wandb:
        return self._open(cell.label, cell.run_id, results.identity(cell), group=self._sweep)

    def _written(self, cell: Cell) -> list[dict[str, Any]]:
        path = runs.run_directory(self._workdir, cell.run_id) / "metrics.jsonl"
        return [record for _, record in read_metrics(path)] if self.on else []

    def _finish(self, cell: Cell, records: list[dict[str, Any]]) -> None:
        tracker = self._live.pop(cell.run_id, None) or self._open_cell(cell)
        tracker.log(records)
        result = runs.read_result(self._workdir, cell.run_id) or {"scores": {}}
        tracker.summary(
            {f"{s}/{k}": v for s, of in result["scores"].items() for k, v in of.items() if k != "clusters"}
        )
        tracker.close()
