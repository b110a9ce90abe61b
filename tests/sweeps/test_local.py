"""How a worker process ends."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rewardscale import exits
from rewardscale import launch as command
from rewardscale.sweeps import cell, configfile, sweep
from rewardscale.sweeps.executors import local
from tests.sweeps import hanging_worker
from tests.sweeps.launching import TINY, launch

STUCK = """
import sys, threading, time
from rewardscale.sweeps.executors import local
threading.Thread(target=time.sleep, args=(60,)).start()
def work():
    {}
local._leaving_at_once(work)
"""


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [("pass", 0, ""), ("sys.exit(143)", 143, ""), ("raise OSError('gone')", 1, "OSError: gone")],
)
def test_a_thread_that_is_stuck_does_not_keep_it(work: str, code: int, said: str) -> None:
    """As a save's is on a disk that fails: the launcher would wait a minute for it, twice what a cluster gives."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STUCK.format(work)], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, time.monotonic() - began < 40) == (code, True)
    assert said in done.stderr and ("Traceback" in done.stderr) == bool(said)


SWEEP = (*TINY, "--config.sweep.levels=gold", "--config.runtime.workers=1")


def planned(workdir: Path, *arguments: str) -> sweep.Plan:
    words = (a.removeprefix("--config.").partition("=") for a in arguments[1:])
    config, _ = configfile.load("sweep.py:smoke", {key: value for key, _, value in words})
    return sweep.plan(config, workdir)


def test_a_cell_that_hung_is_tried_again_so_often(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(local, "_work", hanging_worker.work)
    cells: Any = [
        SimpleNamespace(run_id=i, flops=0.0, branch=None) for i in (hanging_worker.ALWAYS, "once", "too")
    ]
    config: Any = SimpleNamespace(runtime=SimpleNamespace(workers=1))
    events: list[local.Event] = []
    local.run_cells(cells, config, tmp_path, None, events.append, of=3)
    told = [(e.kind, e.cell.run_id, e.machine) for e in events if e.cell is not None]
    assert len(told) == len(events)
    assert [t for t in told if t[0] == "failed"] == [("failed", hanging_worker.ALWAYS, True)]
    assert sorted(t[1] for t in told if t[0] == "done") == ["once", "too"]
    assert len([t for t in told if t[0] == "again"]) == 2 + 1 + 1
    assert [hanging_worker.starts(tmp_path, c.run_id) for c in cells] == [local._STARTS, 2, 2]


def test_a_cell_that_hangs_each_time_is_the_machines_fault(capsys, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(local, "_work", hanging_worker.work)
    monkeypatch.setattr(local, "_STARTS", 1)
    assert hanging_worker.AGAIN == exits.AGAIN
    one = (*SWEEP, "--config.sweep.pairs=100")
    (only,) = planned(tmp_path, *one).cells
    code = command.main([*one, f"--workdir={tmp_path}", f"--cell={only.run_id}"])
    captured = capsys.readouterr()
    assert code == exits.AGAIN, captured.err
    assert f"FAILED {only.label} ({only.run_id}): its worker process hung" in captured.err
    assert f"not done {only.label} ({only.run_id}): its worker process hung" in captured.out


@pytest.mark.slow
def test_a_sweep_whose_training_hangs_is_to_be_started_again(tmp_path: Path) -> None:
    """Its metrics go to a pipe that nobody reads, as to a file system that has gone. A minute."""
    one = (*SWEEP, "--config.sweep.pairs=100")
    (only,) = planned(tmp_path, *one).cells
    metrics = cell.run_directory(tmp_path, only.run_id) / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    os.mkfifo(metrics)
    watched = ("--config.runtime.watchdog_seconds=1", "--config.runtime.watchdog_exit=true")
    code, out, error = launch(tmp_path, *one, *watched)
    assert code == exits.AGAIN and "0 of 1 cells done" in out, (out, error)
    assert error.count("has not got on") == local._STARTS  # the watchdog
    metrics.unlink()
    code, out, error = launch(tmp_path, *one)
    assert code == exits.DONE and "1 of 1 cells done" in out, (out, error)
