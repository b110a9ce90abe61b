"""A sweep from its config to its report: data, cells, runs, table, figures. Safe to kill and to repeat."""

import dataclasses
import difflib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rewardscale import atomic, interrupts, platforms
from rewardscale.config import DATA_VARIABLE, ConfigError, SweepConfig, to_mapping
from rewardscale.remote import origin, publish
from rewardscale.sweeps import benchmarks, datasets, grid, results
from rewardscale.sweeps import cell as runs
from rewardscale.sweeps.executors import local, wandb_agents
from rewardscale.sweeps.trackers import Trackers


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep whose data is ready and whose cells are known."""

    config: SweepConfig
    docstring: str
    workdir: Path
    data_dir: Path | None
    dataset: datasets.Dataset
    cells: list[grid.Cell]
    wanted: benchmarks.Prepared | None = None

    def todo(self) -> list[grid.Cell]:
        """Cells that are not done, or whose models have not scored the benchmarks, or which the store lacks."""
        return [
            c
            for c in self.cells
            if not runs.is_done(self.workdir, c.run_id)
            or not runs.is_scored(c, self.workdir, self.wanted)
            or not runs.is_sent(c, self.workdir, self.wanted)
        ]

    def context(self) -> runs.Context:
        """What its cells share within this process."""
        view = datasets.view(self.dataset) if grid.needs_tokens(self.config) else None
        return runs.Context(self.dataset, view, self.config.runtime, self.workdir, self.wanted)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a launch leaves: the report, and the cells that are missing with the reason; neither if interrupted.

    `again` as of `Ran`.
    """

    report: Path | None
    cells: int
    missing: list[dict[str, Any]]
    interrupted: bool
    again: bool = False


@dataclasses.dataclass(frozen=True)
class Ran:
    """What running cells leaves: why cells failed, by run id, and whether it was stopped before the end.

    `again`: of some the machine was at fault, so that a later start may do.
    """

    failed: dict[str, str]
    interrupted: bool
    again: bool = False


def plan(config: SweepConfig, workdir: Path, *, data_dir: Path | None = None, docstring: str = "") -> Plan:
    """Builds or opens the sweep's data and lays out its cells.

    Raises ConfigError or DataError: one clear message, nothing written but whole files.
    """
    data_dir = data_dir or (Path(os.environ[DATA_VARIABLE]) if DATA_VARIABLE in os.environ else None)
    with _bars() as progress:
        dataset = datasets.prepare(config.data, workdir, data_dir, progress=progress)
        view = datasets.view(dataset, progress=progress) if grid.needs_tokens(config) else None
        wanted = benchmarks.prepare(config, dataset, workdir, data_dir)
    cells = grid.cells(config, dataset, view)
    runs.bring_done(Path(workdir), cells)
    return Plan(config, docstring, Path(workdir), data_dir, dataset, cells, wanted)


def run(sweep: Plan, *, wandb: str = "off") -> Outcome:
    """Runs what is not done, then writes table and report. Failed cells are reported, the others go on.

    With several hosts host 0 calls it, while the others follow (executors/hosts.py).
    """
    describe(sweep)
    ran = _run_cells(sweep, Trackers(wandb, sweep.config.name, sweep.workdir), of=len(sweep.cells))
    if ran.interrupted:  # a grace period is for saving
        return Outcome(None, len(sweep.cells), [], True)
    return collect(sweep, ran, wandb=wandb)


def _run_cells(sweep: Plan, trackers: Trackers, *, of: int) -> Ran:
    """Runs the plan's cells that are not done, and waits for those that another process is at."""
    from rewardscale import mesh  # brings jax

    todo = sweep.todo()
    failed: dict[str, str] = {}
    interrupted = again = False
    with _interruptible(), _Bars(sweep, todo) as bars:

        def on_event(event: local.Event) -> None:
            nonlocal again
            bars.show(event)
            trackers.follow(event)
            if event.kind == "failed" and event.cell is not None:
                origin.check(sweep.workdir)  # a store that is gone fails all cells: it is said once
                failed[event.cell.run_id] = str(event.value)
                again |= event.machine
            if event.kind in ("failed", "again") and event.cell is not None:
                said = "FAILED" if event.kind == "failed" else "trying again"
                tqdm.write(f"{said} {event.cell.label} ({event.cell.run_id}): {event.value}", file=sys.stderr)

        try:
            if todo and mesh.hosts() > 1:
                from rewardscale.sweeps.executors import hosts

                hosts.run_cells(todo, sweep.context(), on_event, metrics=trackers.on)
            elif todo:
                local.run_cells(
                    todo, sweep.config, sweep.workdir, sweep.data_dir, on_event, of=of, metrics=trackers.on
                )
        except KeyboardInterrupt:
            interrupted = True
    return Ran(failed, interrupted, again)


def collect(sweep: Plan, ran: Ran | None = None, *, wandb: str = "off") -> Outcome:
    """Writes table and report of the cells that are done, whoever ran them; `ran` says why others are missing."""
    ran = ran or Ran({}, False)
    runs.bring_done(sweep.workdir, sweep.cells)  # by others, meanwhile
    missing = finish(sweep, ran.failed)
    report = _report(sweep)
    _publish(sweep.workdir)
    Trackers(wandb, sweep.config.name, sweep.workdir).send_sweep(to_mapping(sweep.config), report)
    return Outcome(report, len(sweep.cells), missing, ran.interrupted, ran.again)


def run_chosen(sweep: Plan, names: Sequence[str], *, wandb: str = "off") -> Ran:
    """Runs the named cells and no others, and makes no table: what a cluster's job or a sweep's agent does.

    Under wandb, cells that are done already are sent again, whole. Raises ConfigError for a cell of another sweep.
    """
    describe(sweep)
    part = dataclasses.replace(sweep, cells=choose(sweep, names))
    trackers = Trackers(wandb, sweep.config.name, sweep.workdir, live=part.cells)
    todo = {c.run_id for c in part.todo()}
    for cell in part.cells:
        if cell.run_id not in todo:
            trackers.send_done(cell)
    ran = _run_cells(part, trackers, of=len(sweep.cells))
    trackers.stop()
    return ran


def choose(sweep: Plan, names: Sequence[str]) -> list[grid.Cell]:
    """The cells with these run ids. Raises ConfigError that names the nearest."""
    known = {c.run_id: c for c in sweep.cells}
    ids = [name.removeprefix(wandb_agents.PREFIX) for name in names]
    for run_id in ids:
        if run_id not in known:
            near = difflib.get_close_matches(run_id, known, n=1)
            hint = "".join(f" Did you mean {i} ({known[i].label})?" for i in near)
            raise ConfigError(
                f"no cell {run_id!r} among the {len(known)} of this sweep.{hint} Run ids follow from config, data and "
                f"version: are they the same? All are listed in {sweep.workdir / 'sweep.json'}"
            )
    return [known[run_id] for run_id in dict.fromkeys(ids)]


def describe(sweep: Plan) -> None:
    """Writes sweep.json: what the sweep is, for readers of its folder."""
    sets = [
        name
        for name in sweep.dataset.evaluations(0 if sweep.dataset.folds else -1)
        if name != datasets.VALIDATION
    ]
    record = {
        "name": sweep.config.name,
        "docstring": sweep.docstring,
        "config": json.loads(json.dumps(to_mapping(sweep.config))),
        "cells": [results.identity(c) for c in sweep.cells],
        "eval_sets": sets,
        "headline_eval": sweep.dataset.headline,
        "cost_unit": sweep.dataset.cost_unit,
        "versions": runs.versions(),
    }
    atomic.write_json(sweep.workdir / "sweep.json", record)
    store = origin.objects(sweep.workdir)
    if store is not None:
        publish.publish(store, sweep.workdir, ["sweep.json"])


def finish(sweep: Plan, failed: dict[str, str]) -> list[dict[str, Any]]:
    """Writes results.parquet and missing.json; returns what is missing."""
    table, missing = results.collect(
        sweep.config,
        sweep.cells,
        sweep.workdir,
        cost_unit=sweep.dataset.cost_unit,
        wanted=sweep.wanted,
    )
    missing = [m | {"reason": failed.get(m["run_id"], m["reason"])} for m in missing]
    results.write_table(table, sweep.workdir / "results.parquet")
    clusters = results.by_cluster(sweep.cells, sweep.workdir)
    results.write_table(clusters, sweep.workdir / "results_by_cluster.parquet")
    atomic.write_json(sweep.workdir / "missing.json", missing)
    return missing


def _report(sweep: Plan) -> Path:
    """Writes the report, unless it was made of exactly these inputs by this version already."""
    from rewardscale.scaling.report import write_report

    inputs = [sweep.workdir / name for name in ("results.parquet", "sweep.json", "missing.json")]
    stamp = "\n".join([runs.versions()["rewardscale"], *(atomic.sha256(p) for p in inputs)])
    path, made_of = sweep.workdir / "report.html", sweep.workdir / "figures" / ".made-of"
    if path.exists() and made_of.exists() and made_of.read_text() == stamp:
        return path
    platforms.keep_loaded()
    path = write_report(sweep.workdir)
    atomic.write_bytes(made_of, stamp.encode())
    return path


# Of a sweep's folder, what its store holds under plain names; whoever finds the report finds what it was made of.
_PLAIN = ("results.parquet", "results_by_cluster.parquet", "missing.json", "sweep.json", "report.html")


def _publish(workdir: Path) -> None:
    """Sends table and report to the workdir's store, if it has one."""
    store = origin.objects(workdir)
    if store is not None:
        publish.publish_folder(store, workdir, "figures")
        publish.publish(store, workdir, _PLAIN, last=_PLAIN)


class _Bars:
    """A bar for the sweep (in units of work, so that the ETA means something) and, on a terminal, one a worker."""

    def __init__(self, sweep: Plan, todo: list[grid.Cell]):
        self._work = {c.run_id: work(c) for c in sweep.cells}
        self._cells = len(sweep.cells)
        self._done = self._cells - len(todo)
        total = sum(self._work.values())
        self._terminal = os.isatty(2)
        self._sweep = tqdm(
            total=total,
            initial=total - sum(self._work[c.run_id] for c in todo),
            desc=f"sweep {sweep.config.name}",
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
            mininterval=0.5 if self._terminal else 10.0,
            disable=not todo,
        )
        self._partial: dict[int, float] = {}
        self._workers: dict[int, tqdm] = {}

    def __enter__(self) -> "_Bars":
        self._postfix()
        return self

    def show(self, event: local.Event) -> None:
        """Moves the bars."""
        if event.cell is None:
            return
        size = self._work[event.cell.run_id]
        if event.kind == "progress":
            self._advance(event.worker, size * float(event.value))
            if self._terminal:
                self._bar(event.worker, event.cell.label).update(
                    100 * float(event.value) - self._workers[event.worker].n
                )
        elif event.kind in ("done", "failed", "again"):
            if event.kind == "again":
                self._sweep.update(-self._partial.get(event.worker, 0.0))
            else:
                self._advance(event.worker, size)
            self._partial.pop(event.worker, None)
            self._done += event.kind == "done"
            bar = self._workers.pop(event.worker, None)
            if bar is not None:
                bar.close()
            self._postfix()

    def _advance(self, worker: int, to: float) -> None:
        self._sweep.update(max(0.0, to - self._partial.get(worker, 0.0)))
        self._partial[worker] = max(to, self._partial.get(worker, 0.0))

    def _bar(self, worker: int, label: str) -> tqdm:
        if worker not in self._workers:
            self._workers[worker] = tqdm(
                total=100,
                desc=f"  {label}",
                position=1 + worker,
                leave=False,
                bar_format="{desc}: {percentage:3.0f}%|{bar}|",
            )
        return self._workers[worker]

    def _postfix(self) -> None:
        self._sweep.set_postfix_str(f"{self._done}/{self._cells} cells")

    def __exit__(self, *_: object) -> None:
        for bar in self._workers.values():
            bar.close()
        self._sweep.close()


# Seconds of one CPU process a token and a FLOP of training, and a run's fixed cost (benchmarks/training_step.py).
_SECONDS_A_TOKEN, _SECONDS_A_FLOP, _SECONDS_A_RUN, _SECONDS_A_CONVEX_PAIR = 2.3e-6, 2.6e-11, 0.6, 1e-4


def work(cell: grid.Cell) -> float:
    """Estimated seconds of one CPU process for a cell: a rough linear model, for bars and dry runs."""
    if cell.flops is None or cell.tokens is None:
        return _SECONDS_A_RUN + cell.run.pairs * _SECONDS_A_CONVEX_PAIR
    return _SECONDS_A_RUN + cell.own_tokens * _SECONDS_A_TOKEN + cell.own_flops * _SECONDS_A_FLOP


@contextmanager
def _bars() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for whatever data is being built."""
    bars: dict[str, tqdm] = {}

    def progress(what: str, done: int, total: int) -> None:
        bar = bars.setdefault(what, tqdm(total=total, desc=f"building {what}", unit=" rows", delay=0.5))
        bar.update(done - bar.n)

    try:
        yield progress
    finally:
        for bar in bars.values():
            bar.close()


def _interruptible() -> AbstractContextManager[None]:
    """SIGTERM and Ctrl-C raise KeyboardInterrupt, but for those that a background job ignores."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    return interrupts.interruptible(n for n in numbers if signal.getsignal(n) is not signal.SIG_IGN)
