"""Records a sweep as an array job of a real Slurm cluster, a task requeued in the middle, held against a local launch.

    python experiments/012_slurm/record.py --log=experiments/012_slurm/run.log

Starts a cluster of one node on this machine (Debian's slurm-wlm and munge, as root), and ends it. About three minutes
on two cores. The log holds commands and what they printed; names of this machine's folders and host are left out.
"""

import argparse
import os
import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import polars as pl

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from rewardscale.sweeps.results import reproducible  # noqa: E402
from tests import slurm_cluster  # noqa: E402

SMOKE = ["--config=sweep.py:smoke", "--config.runtime.workers=1"]
ARRAY = ["--executor=slurm", "--cells_per_task=8", "--sbatch=--cpus-per-task=1 --time=20"]
_SLOW = 900.0


class Log:
    """Commands and their output, with the seconds since the start; what names this machine is replaced."""

    def __init__(self, path: Path, names: dict[str, str], environment: dict[str, str]):
        self._path, self._names, self._environment = path, names, environment
        self._started = time.monotonic()
        path.write_text("")

    def say(self, text: str) -> None:
        """Writes a line."""
        for own, shown in self._names.items():
            text = text.replace(own, shown)
        with self._path.open("a") as file:
            file.write(f"{text.rstrip()}\n")

    def run(self, *command: str) -> str:
        """Runs a command and notes it with what it printed. Raises CalledProcessError with stderr if it fails."""
        shown = ["python" if word == sys.executable else word for word in command]
        self.say(f"\n[{time.monotonic() - self._started:.0f} s] $ {shlex.join(shown)}")
        done = subprocess.run(command, env=self._environment, cwd=ROOT, capture_output=True, text=True)
        self.say(done.stdout)
        if done.returncode:
            raise SystemExit(f"{shlex.join(shown)}: exit code {done.returncode}\n{done.stderr}")
        return done.stdout


def record(log_path: Path, place: Path) -> None:
    """The whole run; its files lie in `place`."""
    (place / "cluster").mkdir()
    with slurm_cluster.cluster(place / "cluster") as found:
        own = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | own | found
        names = {str(place): "/shared", str(ROOT): "/repository", socket.gethostname().split(".")[0]: "node"}
        log = Log(log_path, names, environment)
        array, alone = place / "array", place / "alone"
        launch = [sys.executable, "-m", "rewardscale.launch", *SMOKE]
        here = [*launch, f"--workdir={array}"]
        log.run("sinfo", "--version")
        log.run(*here, *ARRAY)
        task = _requeue_one(log, array)
        _until("the end of the job", lambda: not _ask(environment, "squeue", "--noheader"))
        shown = log.run("scontrol", "show", "job", task)
        if "Restarts=1" not in shown:
            raise SystemExit(f"{task} was not started again")
        log.run(*here, "--executor=slurm", "--status")
        log.run(*here, "--collect")
        log.say("\nThe same sweep by the local executor:")
        log.run(*launch, f"--workdir={alone}")
        one, other = (reproducible(pl.read_parquet(p / "results.parquet")) for p in (array, alone))
        log.say(
            f"\nresults.parquet, {len(one)} rows and {len(one.columns)} columns without times and versions: "
            + ("the array's and the local one are equal" if one.equals(other) else "DIFFERENT")
        )
        if not one.equals(other):
            raise SystemExit("the tables differ")


def _requeue_one(log: Log, array: Path) -> str:
    """Requeues a task that has done some of its cells and not all; its number."""
    folder = array / "slurm" / "0000"
    wanted: list[tuple[str, list[str]]] = []

    def halfway() -> bool:
        for task in _ask(log._environment, "squeue", "-h", "-r", "--state=RUNNING", "--format=%i").split():
            cells = (folder / "cells.txt").read_text().splitlines()[int(task.partition("_")[2])].split(",")
            done = [c for c in cells if (array / "runs" / c / "DONE").exists()]
            if 2 <= len(done) < len(cells) - 1:
                wanted.append((task, done))
        return bool(wanted)

    _until("a task in the middle", halfway)
    task, done = wanted[0]
    log.say(f"\nTask {task} has done {len(done)} of its 8 cells.")
    log.run("squeue", "-r")
    log.run("scontrol", "requeue", task)
    time.sleep(2)
    log.run("squeue", "-r")
    log.run(
        *[sys.executable, "-m", "rewardscale.launch", *SMOKE, f"--workdir={array}"],
        *["--executor=slurm", "--status"],
    )
    return task


def _ask(environment: dict[str, str], *command: str) -> str:
    """What a command prints, without a line in the log."""
    return slurm_cluster.ask(environment, *command)


def _until(what: str, there: Callable[[], bool]) -> None:
    until = time.monotonic() + _SLOW
    while not there():
        if time.monotonic() > until:
            raise SystemExit(f"no {what} after {_SLOW:.0f} s")
        time.sleep(0.2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--log", type=Path, required=True, help="where the log is written")
    options = parser.parse_args()
    if reason := slurm_cluster.why_not():
        sys.exit(f"no cluster can be started here: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        record(options.log, Path(folder))
    print(options.log)
