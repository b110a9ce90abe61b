"""Cells as tasks of a Slurm array job: what is submitted, and a real one-node cluster that runs it."""

import json
import os
import signal as signals
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from rewardscale import atomic, exits, launch
from rewardscale.sweeps import configfile, status, sweep
from rewardscale.sweeps.executors import slurm
from rewardscale.sweeps.results import reproducible
from tests import slurm_cluster
from tests.sweeps.launching import TINY, environment
from tests.sweeps.launching import launch as launch_process

ARRAY = ("--executor=slurm", "--sbatch=--cpus-per-task=1 --time=10")


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = launch.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_dry_run_prints_what_would_be_submitted_and_writes_none_of_it(capsys, tmp_path):
    code, out, _ = run(
        capsys, *TINY, f"--workdir={tmp_path}", *ARRAY, "--cells_per_task=3", "--at_once=2", "--dry_run"
    )
    assert code == 0 and not (tmp_path / "slurm").exists()
    assert "4 cells in 2 tasks would be submitted" in out
    script = out[out.index("#!/bin/bash") :]
    assert "#SBATCH --array=0-1%2\n" in script and "#SBATCH --cpus-per-task=1\n#SBATCH --time=10\n" in script
    assert f'--workdir={tmp_path} --wandb=off --cell="$cells" &' in script
    (tmp_path / "job.sh").write_text(script)
    subprocess.run(["bash", "-n", str(tmp_path / "job.sh")], check=True)


def test_without_slurm_the_mend_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    (tmp_path / "slurm" / "0000").mkdir(parents=True)
    (tmp_path / "slurm" / "0000" / "job.json").write_text('{"job": "7"}')
    code, _, error = run(capsys, *TINY, f"--workdir={tmp_path}", *ARRAY)
    assert code == 2 and "squeue is not there: submit from a machine of the cluster" in error


def test_options_of_another_executor_are_refused(capsys, tmp_path):
    for flags in (["--cancel"], ["--sbatch=--time=1"]):
        with pytest.raises(SystemExit) as stop:
            run(capsys, *TINY, f"--workdir={tmp_path}", *flags)
        assert stop.value.code == 2 and "--executor=slurm" in capsys.readouterr().err
    code, _, error = run(
        capsys, *TINY, f"--workdir={tmp_path}", "--executor=slurm", "--sbatch='", "--dry_run"
    )
    assert code == 2 and "No closing quotation" in error


def test_status_counts_every_cell_once(capsys, tmp_path):
    code, out, _ = run(capsys, *TINY, f"--workdir={tmp_path}", "--status")
    assert code == 0 and out == "4 cells: 4 not started\n"


def test_a_running_task_s_cells_run_one_after_another(tmp_path):
    """Of four cells in one running task one is done and one is held: the rate is that of one at a time."""
    words = (a.removeprefix("--config.").partition("=") for a in TINY[1:])
    config, _ = configfile.load("sweep.py:smoke", {key: value for key, _, value in words})
    plan = sweep.plan(config, tmp_path)
    done, at, *_ = (c.run_id for c in plan.cells)
    folder = tmp_path / "runs" / done
    folder.mkdir(parents=True)
    atomic.write_json(folder / "result.json", {"record": {"seconds": 3.0}})
    atomic.write_json(folder / "DONE", {"result": atomic.sha256(folder / "result.json")})
    queue = {c.run_id: "RUNNING" for c in plan.cells}
    assert status.status(plan, queue).at_once == 1 and status.status(plan).at_once == 0
    with atomic.locked(tmp_path / "runs" / at / "lock"):
        found = status.status(plan, queue)
    assert found.at_once == 1 and "left with 1 at once" in status.text(plan, found)
    assert "4 cells: 1 done, 3 running" in status.text(plan, found)


# The task's command: it ends with the code asked for, at once or when it is told to stop.
TASK = 'if [ "$3" ]; then trap "exit $1" TERM; touch "$2"; while :; do sleep 0.1; done; fi; exit $1'


def queued_again(folder: Path, code: int, *, restarts: str = "", signal: str = "") -> bool:
    """Runs the script that sbatch is given, sends it `signal` if any; whether it asked to be queued again.

    Slurm's two commands are stubs here: sbatch that takes it, scontrol that notes what it is asked for.
    """
    stubs, started, asked = folder / "stubs", folder / "started", folder / "asked"
    stubs.mkdir(parents=True)
    for name, line in (("sbatch", "echo 7"), ("scontrol", f'echo "$@" >> "{asked}"')):
        (stubs / name).write_text(f"#!/bin/sh\n{line}\n")
        (stubs / name).chmod(0o755)
    path = f"{stubs}:{os.environ['PATH']}"
    made = slurm.job(
        "x", (("a",), ("b",)), ["bash", "-c", TASK, "task", str(code), str(started), signal], folder
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path)
        assert slurm.submit(made) == "7"
    task = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "PATH": path}
    if restarts:
        task["SLURM_RESTART_COUNT"] = restarts
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")} | task
    process = subprocess.Popen(["bash", str(made.folder / "job.sh")], env=environment)
    if signal:
        wait_for("task, and traps of its script", lambda: started.exists() and _traps(process.pid))
        process.send_signal(getattr(signals, signal))
    assert process.wait(240) == code
    assert not asked.exists() or asked.read_text() == "requeue 7_1\n"
    return asked.exists()


def _traps(pid: int) -> bool:
    """Whether a process has handlers of USR1 and TERM."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:")), 16)
    return all(caught >> (number - 1) & 1 for number in (signals.SIGUSR1, signals.SIGTERM))


def test_a_fault_of_the_machine_queues_a_task_again_so_many_times(tmp_path):
    last = str(slurm.RESTARTS - 1)
    assert queued_again(tmp_path / "first", exits.AGAIN)
    assert queued_again(tmp_path / "last", exits.AGAIN, restarts=last)
    assert not queued_again(tmp_path / "too many", exits.AGAIN, restarts=str(slurm.RESTARTS))
    for code in (exits.DONE, exits.FAILED, exits.UNUSABLE, exits.INTERRUPTED, 137):
        assert not queued_again(tmp_path / str(code), code)


def test_a_task_that_is_told_to_stop_is_queued_again_where_its_time_is_up(tmp_path):
    """By TERM it is preempted, and Slurm queues it, or cancelled."""
    for code in (exits.INTERRUPTED, exits.AGAIN):
        assert queued_again(tmp_path / f"{code} late", code, signal="SIGUSR1")
        assert not queued_again(tmp_path / f"{code} ended", code, signal="SIGTERM")
    assert not queued_again(tmp_path / "failed late", exits.FAILED, signal="SIGUSR1")


@pytest.fixture
def own_cluster(tmp_path, monkeypatch):
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    place = tmp_path / "slurm.cluster"
    place.mkdir()
    with slurm_cluster.cluster(place) as found:
        for name, value in {**environment(), **found}.items():  # sbatch hands its environment on to tasks
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("XLA_FLAGS", raising=False)
        yield found


def wait_for(what: str, there, seconds: float = 240.0) -> None:
    until = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < until, f"no {what} after {seconds:.0f} s"
        time.sleep(0.3)


@pytest.mark.slow
def test_an_array_with_a_requeue_in_the_middle_gives_the_local_table(capsys, tmp_path, own_cluster):
    """On a real cluster. About two minutes."""
    sweep = (*TINY, f"--workdir={tmp_path / 'array'}", "--config.runtime.workers=1")
    code, out, error = run(capsys, *sweep, *ARRAY)
    assert code == 0, error
    assert "4 cells in 4 tasks" in out

    code, out, _ = run(capsys, *sweep, *ARRAY)  # nothing is submitted twice
    assert (
        code == 0
        and "4 cells are in a job already" in out
        and len(list((tmp_path / "array/slurm").iterdir())) == 1
    )

    running = lambda: "RUNNING" in slurm.queued(tmp_path / "array").values()  # noqa: E731
    wait_for("running task", running)
    task = slurm_cluster.ask(own_cluster, "squeue", "-h", "-r", "--state=RUNNING", "--format=%i").split()[0]
    log = tmp_path / "array" / "slurm" / "0000" / "log" / task
    wait_for("computing task", lambda: (tmp_path / "array" / "runs").exists())
    subprocess.run(["scontrol", "requeue", task], check=True, env={**os.environ, **own_cluster})
    code, out, _ = run(capsys, *sweep, "--executor=slurm", "--status")
    assert code == 0 and out.startswith("4 cells: ") and ("pending" in out or "running" in out)

    wait_for("end of the job", lambda: not slurm.queued(tmp_path / "array"))
    assert log.read_text()
    code, out, error = run(capsys, *sweep, "--collect")
    assert code == 0, (out, error, [p.read_text() for p in log.parent.iterdir()])
    code, out, _ = run(capsys, *sweep, "--executor=slurm", "--status")
    assert out == "4 cells: 4 done\n"

    alone = tmp_path / "alone"
    code, _, error = launch_process(alone, *TINY, "--config.runtime.workers=1")
    assert code == 0, error
    one, other = (reproducible(pl.read_parquet(p / "results.parquet")) for p in (tmp_path / "array", alone))
    assert one.equals(other)


@pytest.mark.slow
def test_a_task_whose_time_is_up_saves_and_queues_again_and_a_cancelled_one_does_not(
    capsys, tmp_path, own_cluster
):
    """On a real cluster: USR1, as Slurm sends it before a time limit."""
    sweep = (
        *TINY,
        f"--workdir={tmp_path / 'array'}",
        "--config.sweep.pairs=400",
        "--config.recipe.epochs=200",
    )
    sweep = (*sweep, "--config.sweep.levels=gold", "--config.runtime.workers=1")
    code, out, error = run(capsys, *sweep, *ARRAY)
    assert code == 0, error
    (run_folder,) = _appears(tmp_path / "array" / "runs")
    wait_for("training", lambda: (run_folder / "metrics.jsonl").exists())
    number = json.loads((tmp_path / "array/slurm/0000/job.json").read_text())["job"]
    subprocess.run(
        ["scancel", "--batch", "--signal=USR1", number], check=True, env={**os.environ, **own_cluster}
    )
    log = tmp_path / "array" / "slurm" / "0000" / "log" / f"{number}_0"
    wait_for("checkpoint", lambda: any((run_folder / "checkpoints").glob("[0-9]*")))
    wait_for("second start", lambda: _restarts(own_cluster, number) == 1)
    assert "interrupted; the same command goes on" in log.read_text()
    wait_for("running again", lambda: "RUNNING" in slurm.queued(tmp_path / "array").values())
    code, out, _ = run(capsys, *sweep, "--executor=slurm", "--cancel")
    assert code == 0 and out.startswith("1 cells were in jobs")
    wait_for("end", lambda: not slurm.queued(tmp_path / "array"), 90)
    time.sleep(3)
    assert not slurm.queued(tmp_path / "array") and _restarts(own_cluster, number) == 1


@pytest.mark.slow
def test_a_fault_of_the_machine_on_a_real_cluster(tmp_path, own_cluster):
    """Slurm takes the task back, and counts. Some two minutes: it lets what is queued again wait."""
    once = 'test "$SLURM_RESTART_COUNT" || exit 75; echo start $SLURM_RESTART_COUNT, all well'
    number = slurm.submit(
        slurm.job("x", (("a",),), ["bash", "-c", once], tmp_path, options="--cpus-per-task=1 --time=10")
    )
    wait_for("end", lambda: not slurm.queued(tmp_path))
    assert "start 1, all well\n" in (tmp_path / "slurm/0000/log" / f"{number}_0").read_text()


def _appears(folder: Path) -> list[Path]:
    wait_for(str(folder), lambda: folder.exists() and any(folder.iterdir()))
    return list(folder.iterdir())


def _restarts(environment: dict[str, str], number: str) -> int:
    shown = slurm_cluster.ask(environment, "scontrol", "show", "job", number)
    return next((int(w.split("=")[1]) for w in shown.split() if w.startswith("Restarts=")), 0)
