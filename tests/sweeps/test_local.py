"""How a worker process ends, what is tested before one starts, and which cells workers begin with."""

import dataclasses
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rewardscale import exits, platforms
from rewardscale import launch as command
from rewardscale.config import ConfigError, ModelConfig, Recipe, RunConfig, SweepConfig
from rewardscale.models.presets import get_model
from rewardscale.sweeps import cell, configfile, sweep
from rewardscale.sweeps.executors import local
from rewardscale.sweeps.executors.local import in_order, models_first
from rewardscale.sweeps.grid import Branch, Cell
from tests import small
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
        SimpleNamespace(run_id=i, flops=0.0, branch=None, run=SimpleNamespace(model=None, recipe=None))
        for i in (hanging_worker.ALWAYS, "once", "too")
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


def a_cell(model: str, pairs: int, branch: Branch | None = None) -> Cell:
    chosen = get_model(model, vocab_size=100)
    convex = not isinstance(chosen, ModelConfig)
    run = dataclasses.replace(small.run_config(pairs=pairs), model=chosen)
    run = dataclasses.replace(run, recipe=None) if convex else run
    return Cell(run, pairs, pairs, pairs, pairs, None if convex else float(chosen.width * pairs), branch)


def test_one_cell_of_each_model_goes_first_and_the_rest_by_size():
    """Else two workers begin with the largest model, and both compile it."""
    cells = [a_cell(model, pairs) for pairs in (100, 900) for model in ("w8", "w40", "w16", "hash256")]
    found = models_first(in_order(cells))
    shown = [(getattr(c.run.model, "width", None), c.run.pairs) for c in found[:6]]
    assert shown == [(40, 900), (16, 900), (8, 900), (40, 100), (16, 100), (8, 100)]
    assert sorted(c.run_id for c in found) == sorted(c.run_id for c in cells)


def test_a_branch_waits_for_its_trunk_although_it_is_of_another_size():
    trunk = a_cell("w8", 100, Branch("t", (5,), 1, 1.0, follows=False))
    branch = a_cell("w8", 900, Branch("t", (5,), 1, 1.0, follows=True))
    assert models_first(in_order([branch, trunk])) == [trunk, branch]


def simulated_wrong_product() -> None:
    raise ConfigError(f"products are off, {os.environ['SAID_TO_WORKERS']}")


def simulated_missing_instruction() -> None:
    os.kill(os.getpid(), signal.SIGILL)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (simulated_wrong_product, "products are off, one thread"),
        (simulated_missing_instruction, "signal SIGILL"),
    ],
)
def test_a_self_test_runs_as_a_worker_does_and_says_what_is_wrong(
    check: Callable[[], None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        local.passes(check, {"SAID_TO_WORKERS": "one thread"})
    assert "SAID_TO_WORKERS" not in os.environ


def test_this_cpu_passes_the_self_test_of_bfloat16() -> None:
    local.passes(local._multiplies_bfloat16, platforms.worker_environment(2))


def test_cells_in_bfloat16_start_only_after_the_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "_multiplies_bfloat16", simulated_wrong_product)
    monkeypatch.setattr(platforms, "lacks_bfloat16", lambda: True)
    monkeypatch.setenv("SAID_TO_WORKERS", "")
    recipe = Recipe(dtype="bfloat16")
    run = RunConfig("w8", small.MODEL, recipe, "gold", 100, 0, -1, 0, 1.0, {}, {})
    cells, events = [Cell(run, 100, 0.0, 200, 1, 1.0)] * 2, []
    with pytest.raises(ConfigError, match="products are off"):
        local.run_cells(cells, SweepConfig(), tmp_path, None, events.append, of=2)
    assert not events and not multiprocessing.active_children()
    said = capsys.readouterr().err
    assert said.count("slower than float32") == 1 and "amx_bf16" in said


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("model\t: 1\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", False),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", False),
        ("flags\t\t: fpu avx2 avx512f\nflags\t\t: fpu avx2 avx512f\n", True),
        ("Features\t: fp asimd bf16\n", False),  # ARM's, of which nothing is known
        (None, False),
    ],
)
def test_what_the_system_says_of_bfloat16(text: str | None, lacks: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert platforms.lacks_bfloat16(path) == lacks
