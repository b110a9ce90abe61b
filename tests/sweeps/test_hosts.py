"""A sweep on two hosts: one cell after another on the devices of both, the same table as one process's."""

import json
import signal
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.sweeps.results import WALL_CLOCK
from tests.sweeps.launching import TINY
from tests.training.hosts import PATIENCE, finished, said, started

TRUNKS = (
    "--config.sweep.trunks=True",
    "--config.sweep.levels=gold",
    *(f"--config.recipe.{name}" for name in ("schedule=wsd", "epochs=1", "warmup_steps=3", "cooldown=0.25")),
    *(f"--config.recipe.{name}" for name in ("min_steps=1", "pairs_per_step=8")),
)
CONVEX = tuple(f"--config.also.{key}" for key in ("models=hash256", "pairs=100", "levels=raw", "draws=1"))


def table(workdir: Path) -> pl.DataFrame:
    return pl.read_parquet(workdir / "results.parquet").drop(WALL_CLOCK).sort("run_id", "eval_set")


def command(workdir: Path, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "rewardscale.launch", f"--workdir={workdir}", *TINY, *arguments]


def launch(workdir: Path, processes: int, *arguments: str) -> list[int]:
    logs = workdir.parent / f"{workdir.name}-logs"
    with started(command(workdir, *arguments), processes, devices=2, logs=logs) as running:
        codes = finished(running, logs)
    print(said(logs))
    return codes


@pytest.mark.slow
def test_two_hosts_run_the_sweep_that_one_runs(tmp_path: Path) -> None:
    assert launch(tmp_path / "1", 1, *TRUNKS) == [0]
    assert launch(tmp_path / "2", 2, *TRUNKS) == [0, 0]
    ours, theirs = table(tmp_path / "2"), table(tmp_path / "1")
    assert len(ours) and ours["run_id"].to_list() == theirs["run_id"].to_list()
    for name in ours.columns:
        if ours[name].dtype == pl.Float64:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-3, atol=1e-4, err_msg=name)
        else:
            assert ours[name].to_list() == theirs[name].to_list(), name
    assert (tmp_path / "2" / "report.html").exists()
    records = [
        json.loads(path.read_text())["record"] for path in (tmp_path / "2" / "runs").glob("*/result.json")
    ]
    assert [record["hardware"]["hosts"] for record in records] == [2, 2]
    assert sorted(record["steps_from_trunk"] for record in records) == [0, 10]  # of 13 steps, then of 32
    assert launch(tmp_path / "2", 2, *TRUNKS) == [0, 0]  # nothing left to do


@pytest.mark.slow
def test_a_cell_that_fails_fails_alone(tmp_path: Path) -> None:
    """A rate that no model survives, at one of two scales; host 0 fits a convex model alone."""
    codes = launch(
        tmp_path / "run",
        2,
        *CONVEX,
        "--config.sweep.learning_rate_scales=1.0,1e30",
        "--config.sweep.levels=raw",
    )
    assert codes == [1, 1]
    missing = json.loads((tmp_path / "run" / "missing.json").read_text())
    assert missing and all("NonFiniteLoss" in one["reason"] for one in missing)
    assert len(table(tmp_path / "run")) > 0


@pytest.mark.slow
def test_a_request_to_stop_reaches_all_hosts(tmp_path: Path) -> None:
    """SIGTERM to the host that is not host 0, in the middle of a cell: all save, and go on later."""
    workdir, logs = tmp_path / "run", tmp_path / "logs"
    long = (
        "--config.recipe.epochs=10",
        "--config.recipe.pairs_per_step=8",
        "--config.runtime.steps_per_dispatch=2",
    )
    long = (*long, "--config.sweep.levels=raw", "--config.runtime.checkpoint_seconds=1e9")
    with started(command(workdir, *long), 2, devices=2, logs=logs) as running:
        until = time.monotonic() + PATIENCE
        while not any(path.stat().st_size for path in workdir.glob("runs/*/metrics.jsonl")):
            assert time.monotonic() < until and running[1].poll() is None, said(logs)
            time.sleep(0.05)
        running[1].send_signal(signal.SIGTERM)
        assert finished(running, logs) == [130, 130], said(logs)
    assert len(list(workdir.glob("runs/*/DONE"))) < 2
    assert launch(workdir, 2, *long) == [0, 0]
    records = [json.loads(path.read_text())["record"] for path in workdir.glob("runs/*/result.json")]
    assert len(records) == 2 and max(record["resumed_at"] for record in records) > 0
