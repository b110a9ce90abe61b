"""The Slurm executor: an array job whose tasks run cells, each by the command line of its cells.

    <workdir>/slurm/<number>/job.sh        what was submitted
                             cells.txt     a line a task: run ids, with commas
                             job.json      {"job": "4711"}, once sbatch has taken it
                             log/4711_0    what the task printed, of all its starts

Slurm keeps no state that is needed: a task takes its cells' locks and leaves them done in the working folder, which all
nodes see under one path. Before its time is up (USR1) a task saves, and asks for its place in the queue again; after a
fault of the machine (exits.AGAIN) too, RESTARTS times. When it is preempted (TERM), or its node fails, Slurm does.
"""

import argparse
import dataclasses
import functools
import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rewardscale import atomic, exits
from rewardscale.config import ConfigError
from rewardscale.sweeps.executors.submission import Submission, Tasks

SAVE_SECONDS = 120  # before a task's time limit, for its checkpoint
# After how many starts anew, for whatever reason, a fault of the machine is final. The count is Slurm's own, as a disk
# that is full or gone can hold none.
RESTARTS = 20
_SLOW = 60.0  # seconds for Slurm's own commands


def add_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Adds --sbatch and --at_once."""
    parser.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="of Slurm, for each task: --sbatch='--partition=gpu --gres=gpu:1 --cpus-per-task=8 --time=8:00:00'",
    )
    parser.add_argument(
        "--at_once", type=int, default=0, help="of Slurm: tasks that may run at the same time (0: no limit)"
    )
    return ["sbatch", "at_once"]


def submission(
    name: str,
    tasks: Tasks,
    command: Sequence[str],
    workdir: Path,
    options: argparse.Namespace,
) -> Submission:
    """See submission.Cluster."""
    made = job(name, tasks, command, workdir, options=options.sbatch, at_once=options.at_once)
    return Submission(
        made.tasks, f"as {made.folder / 'job.sh'}:\n{made.script}", functools.partial(_submit, made)
    )


def _submit(made: "Job") -> str:
    return f"job {submit(made)}; its tasks print into {made.folder / 'log'}"


@dataclasses.dataclass(frozen=True)
class Job:
    """An array job to submit.

    Attributes:
      folder: of its files. tasks: the run ids of each. script: job.sh.
    """

    folder: Path
    tasks: Tasks
    script: str


def job(
    name: str,
    tasks: Tasks,
    command: Sequence[str],
    workdir: Path,
    *,
    options: str = "",
    at_once: int = 0,
) -> Job:
    """The array job of these tasks, in the order in which they should start.

    Args:
      command: `command.cells`.
      options: for sbatch, as on its command line ("--partition=gpu --gres=gpu:1").
      at_once: tasks that may run at the same time; 0 for no limit.

    Raises ConfigError for options that cannot be read.
    """
    if at_once < 0:
        raise ConfigError(f"--at_once={at_once} must not be negative")
    folder = Path(workdir).resolve() / "slurm" / f"{len(_jobs(workdir)):04d}"
    try:
        given = shlex.split(options)
    except ValueError as error:
        raise ConfigError(f"--sbatch={options!r}: {error}") from None
    limit = f"%{at_once}" if at_once else ""
    lines = [
        f"--job-name=rewardscale-{name}",
        f"--array=0-{len(tasks) - 1}{limit}",
        "--requeue",
        "--open-mode=append",
        f"--signal=B:USR1@{SAVE_SECONDS}",
        f"--output={folder}/log/%A_%a",
        *given,
    ]
    header = "\n".join(f"#SBATCH {shlex.quote(line)}" for line in lines)
    script = _SCRIPT.format(
        header=header,
        folder=shlex.quote(str(folder)),
        command=shlex.join(command),
        stopped=exits.INTERRUPTED,
        fault=exits.AGAIN,
        restarts=RESTARTS,
    )
    return Job(folder, tasks, script)


_SCRIPT = """#!/bin/bash
{header}

cd {folder}
cells=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" cells.txt)
{command} --cell="$cells" &
child=$!
trap 'signalled=1 late=1; kill -TERM $child' USR1   # time is nearly up
trap 'signalled=1 ended=1; kill -TERM $child' TERM  # preempted: Slurm queues the task again itself; or cancelled
wait $child
code=$?
while [ "$signalled" ]; do  # a signal ends the wait, and the child saves first
    signalled=
    wait $child
    code=$?
done
case $code in
    {stopped}) again=$late;;
    {fault}) [ "$ended" ] || [ "${{SLURM_RESTART_COUNT:-0}}" -ge {restarts} ] || again=1;;  # a fault of the machine
esac
if [ "$again" ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
fi
exit $code
"""


def submit(made: Job) -> str:
    """Hands the job to sbatch; its number. Raises ConfigError with what sbatch says."""
    (made.folder / "log").mkdir(parents=True, exist_ok=True)
    atomic.write_bytes(made.folder / "cells.txt", "".join(f"{','.join(t)}\n" for t in made.tasks).encode())
    atomic.write_bytes(made.folder / "job.sh", made.script.encode())
    number = _slurm("sbatch", "--parsable", str(made.folder / "job.sh")).split(";")[0].strip()
    atomic.write_json(made.folder / "job.json", {"job": number})
    return number


def queued(workdir: Path, options: argparse.Namespace | None = None) -> dict[str, str]:
    """Run id -> state ("PENDING", "RUNNING", ...) of the cells in jobs that Slurm still has."""
    jobs = {json.loads((path / "job.json").read_text())["job"]: path for path in _jobs(workdir)}
    if not jobs:
        return {}
    # Of all jobs of this user: asked for by number, one that Slurm has forgotten is an error.
    lines = _slurm("squeue", "--me", "--noheader", "--array", "--format=%F %K %T").splitlines()
    out = {}
    for number, task, state in (line.split() for line in lines):
        if number in jobs and task.isdecimal():
            cells = (jobs[number] / "cells.txt").read_text().splitlines()[int(task)]
            out |= dict.fromkeys(cells.split(","), state)
    return out


def cancel(workdir: Path, options: argparse.Namespace | None = None) -> int:
    """Ends the jobs of this working folder; how many of its cells were in the queue."""
    there = queued(workdir)
    if there:
        _slurm("scancel", *(json.loads((path / "job.json").read_text())["job"] for path in _jobs(workdir)))
    return len(there)


def _jobs(workdir: Path) -> list[Path]:
    return sorted(path.parent for path in Path(workdir).glob("slurm/*/job.json"))


def _slurm(program: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_SLOW, check=False
        )
    except FileNotFoundError:
        raise ConfigError(
            f"{program} is not there: submit from a machine of the cluster that has Slurm's commands, or look with "
            "--dry_run at what would be submitted"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"{program} did not answer within {_SLOW:.0f} s: is Slurm's controller up?"
        ) from None
    if done.returncode:
        raise ConfigError(f"{program} refused: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
