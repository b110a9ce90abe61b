"""Helpers of the sweep tests: real launches in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from rewardscale import atomic

ROOT = Path(__file__).resolve().parents[2]

# Two cells a level, a few seconds in all once compiled.
TINY = (
    "--config=sweep.py:smoke",
    "--config.data.planted.train=700",
    "--config.data.planted.validation=100",
    "--config.data.planted.test=200",
    "--config.sweep.models=w8",
    "--config.sweep.pairs=100,250",
    "--config.sweep.levels=raw,gold",
    "--config.sweep.draws=1",
)


def environment(**extra: str) -> dict[str, str]:
    """This process's environment without the tests' fake devices."""
    out = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "REWARDSCALE_DATA")}
    return out | {"JAX_PLATFORMS": "cpu"} | extra


def start(workdir: Path | str, *arguments: str, **extra: str) -> subprocess.Popen[str]:
    """Starts `python -m rewardscale.launch` in a process group of its own."""
    command = [sys.executable, "-m", "rewardscale.launch", f"--workdir={workdir}", *arguments]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(**extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def launch(workdir: Path | str, *arguments: str, **extra: str) -> tuple[int, str, str]:
    """Runs it to its end: (exit code, stdout, stderr)."""
    process = start(workdir, *arguments, **extra)
    out, error = process.communicate(timeout=240)
    return process.returncode, out, error


def mark_done(run: Path) -> None:
    """Makes a run's folder look finished."""
    atomic.write_json(run / "result.json", {})
    atomic.write_json(run / "DONE", {"run_id": run.name, "result": atomic.sha256(run / "result.json")})
