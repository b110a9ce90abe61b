"""How far a sweep is, from its folder alone: what --status prints, wherever the folder can be seen."""

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from rewardscale import atomic
from rewardscale.remote import leases, origin
from rewardscale.sweeps import cell as runs
from rewardscale.sweeps.summary import time_text
from rewardscale.sweeps.sweep import Plan, work

DONE, RUNNING, FAILED, WAITING = "done", "running", "failed", "not started"


@dataclasses.dataclass(frozen=True)
class Status:
    """States of a sweep's cells.

    Attributes:
      states: run id -> DONE, RUNNING, FAILED (and nobody tries again), WAITING, or a queue's own word.
      failures: run id -> why.
      at_once: cells whose locks are held; where none is and a queue says that some run, 1.
      seconds_left: of all cells that are not done, at the rate of those that are, with so many at once; None where no
        cell is done or none is running.
    """

    states: Mapping[str, str]
    failures: Mapping[str, str]
    at_once: int
    seconds_left: float | None


def status(plan: Plan, queued: Mapping[str, str] | None = None) -> Status:
    """Reads locks, results and errors; `queued` is what an executor's queue says of cells."""
    todo = {c.run_id for c in plan.todo()}
    owned = _held(plan, todo)
    states, failures, held = {}, {}, 0
    for cell in plan.cells:
        run_id = cell.run_id
        error = runs.read_error(plan.workdir, run_id)
        if run_id not in todo:
            states[run_id] = DONE
        elif run_id in owned:
            states[run_id] = RUNNING
            held += 1
        elif queued and run_id in queued:
            states[run_id] = queued[run_id].lower()
        elif error is not None:
            states[run_id], failures[run_id] = FAILED, error
        else:
            states[run_id] = WAITING
    at_once = max(held, int(RUNNING in states.values()))  # a task's cells run one after another
    return Status(states, failures, at_once, _seconds_left(plan, states, at_once))


def _held(plan: Plan, run_ids: set[str]) -> set[str]:
    """Which of the runs somebody is at: by the leases of a store, else by locks.

    Locks tell of processes of this machine, and of any where the file system passes locks on.
    """
    store = origin.objects(plan.workdir)
    if store is not None:
        found = leases.alive(store, "runs")
        return {run_id for run_id in run_ids if f"runs/{run_id}" in found}
    return {run_id for run_id in run_ids if _locked(runs.run_directory(plan.workdir, run_id) / "lock")}


def _locked(lock: Path) -> bool:
    if not lock.exists():
        return False
    with atomic.locked(lock, wait=False) as free:
        return not free


def _seconds_left(plan: Plan, states: Mapping[str, str], at_once: int) -> float | None:
    spent = done = left = 0.0
    for cell in plan.cells:
        if states[cell.run_id] != DONE:
            left += work(cell)
            continue
        path = runs.run_directory(plan.workdir, cell.run_id) / "result.json"
        spent += float(json.loads(path.read_text())["record"]["seconds"])
        done += work(cell)
    return left * spent / done / at_once if done and at_once else None


def text(plan: Plan, found: Status) -> str:
    """Counts that add up to the number of cells, time left, and the first failures."""
    counts = Counter(found.states.values())
    order = [DONE, RUNNING, *sorted(counts.keys() - {DONE, RUNNING, FAILED, WAITING}), FAILED, WAITING]
    shown = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    lines = [f"{len(plan.cells)} cells: {shown}"]
    if found.seconds_left is not None and counts[DONE] < len(plan.cells):
        lines.append(f"about {time_text(found.seconds_left)} left with {found.at_once} at once")
    labels = {c.run_id: c.label for c in plan.cells}
    for run_id, why in list(found.failures.items())[:5]:
        lines.append(f"  failed {labels[run_id]} ({run_id}): {why}")
    if len(found.failures) > 5:
        lines.append(
            f"  and {len(found.failures) - 5} more; --collect lists them in "
            f"{origin.shown(plan.workdir / 'missing.json', plan.workdir)}"
        )
    return "\n".join(lines)
