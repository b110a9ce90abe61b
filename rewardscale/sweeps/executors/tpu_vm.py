"""The TPU VM executor: a queued resource a task of cells, by the gcloud CLI.

    <workdir>/tpu_vm/<name>/cells.txt      the task's run ids, with commas
                            startup.sh     what each of its hosts runs, at every start
                            log-0          what host 0 printed, of all its starts

Google keeps no state that is needed: each host runs a container, which takes its cells' locks and leaves them done in
the working folder, on an NFS share that hosts and whoever launches mount under one path. A slice whose cells are
done deletes itself. One that was preempted does not come back: the next launch asks for another, which goes on.
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
from rewardscale.sweeps.executors import names
from rewardscale.sweeps.executors.submission import Submission, Tasks, in_image

RETRIES = 3
_ENDS = (
    exits.DONE,
    exits.UNUSABLE,
    exits.INTERRUPTED,
    exits.TERMINATED,
)  # of a container that is not started again
GRACE_SECONDS = 120
_SLOW = 300.0  # seconds for gcloud's own commands
# cloud.google.com/tpu/docs/runtimes, by the beginning of an accelerator type
_RUNTIMES = {
    "v4-": "tpu-ubuntu2204-base",
    "v5litepod-": "v2-alpha-tpuv5-lite",
    "v5p-": "v2-alpha-tpuv5",
    "v6e-": "v2-alpha-tpuv6e",
}
_QUEUED = "gcloud", "compute", "tpus", "queued-resources"
# Of a queued resource, cloud.google.com/tpu/docs/queued-resources; what is named nowhere here waits.
_OVER = ("FAILED", "SUSPENDED")
_ENDING = ("DELETING", "SUSPENDING")


def add_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Adds --zone, --accelerator_type, --nfs, --container and --spot."""
    add = functools.partial(parser.add_argument, default="")
    add("--zone", help="of TPU VMs: Google's zone")
    add(
        "--accelerator_type",
        metavar="TYPE-N",
        help="of TPU VMs: the slice of a task, as v5litepod-8 or v5p-16",
    )
    add("--nfs", metavar="HOST:/EXPORT:/PATH", help="of TPU VMs: a share that hosts mount, and where")
    add("--container", metavar="IMAGE", help="of TPU VMs: the image that hosts run (launch/docker/)")
    parser.add_argument("--spot", action="store_true", help="of TPU VMs: cheaper, and may be preempted")
    return ["zone", "accelerator_type", "nfs", "container", "spot"]


@dataclasses.dataclass(frozen=True)
class Slice:
    """A queued resource to create.

    Attributes:
      task: its name, less the attempt's number. cells: run ids. options: launch's flags. folder: of all slices'
      files. command: of the container, which gets --cell=... too.
    """

    task: str
    cells: tuple[str, ...]
    options: argparse.Namespace
    folder: Path
    command: tuple[str, ...]

    def create(self, name: str) -> list[str]:
        """The command that asks for it."""
        options = self.options
        return [
            *_QUEUED,
            "create",
            name,
            f"--node-id={name}",
            f"--zone={options.zone}",
            f"--accelerator-type={options.accelerator_type}",
            f"--runtime-version={_runtime(options.accelerator_type)}",
            f"--metadata-from-file=startup-script={self.folder / name / 'startup.sh'}",
            "--scopes=https://www.googleapis.com/auth/cloud-platform",
            *(["--spot"] if options.spot else []),
            "--async",
            "--quiet",
        ]

    def startup(self, name: str) -> str:
        """What each of its hosts runs at every start."""
        share, mount = _share(self.options.nfs)
        registry = self.options.container.partition("/")[0]
        online = self.options.wandb == "online"
        return _STARTUP.format(
            share=shlex.quote(share),
            mount=shlex.quote(mount),
            log=shlex.quote(str(self.folder / name)),
            login=f"gcloud auth configure-docker --quiet {registry}" if "." in registry else ":",
            key="export WANDB_API_KEY=$(gcloud secrets versions access latest --secret=wandb)"
            if online
            else ":",
            environment="--env=WANDB_API_KEY " if online else "",
            image=shlex.quote(self.options.container),
            command=shlex.join([*self.command, f"--cell={','.join(self.cells)}"]),
            retries=RETRIES,
            ends="|".join(map(str, _ENDS)),
            interrupted=exits.INTERRUPTED,
            terminated=exits.TERMINATED,
            delete=shlex.join(_delete(name, self.options.zone)),
        )


_STARTUP = """#!/bin/bash
# Each host of the slice runs this at every start.
exec 9>/run/rewardscale.lock
flock --nonblock 9 || exit 0
mkdir -p {mount}
if ! mountpoint -q {mount}; then
    command -v mount.nfs || apt-get install --yes nfs-common
    mount -t nfs {share} {mount} || exit 1
fi
attributes=http://metadata.google.internal/computeMetadata/v1/instance/attributes
host=$(curl -sf -H 'Metadata-Flavor: Google' $attributes/agent-worker-number || echo 0)
exec >> {log}/log-$host 2>&1
{login}
{key}
for start in $(seq 0 {retries}); do
    docker rm --force cell
    docker run --name=cell --net=host --privileged --env=PYTHONUNBUFFERED=1 {environment}\\
        --volume={mount}:{mount} {image} \\
        {command}
    code=$?
    case $code in {ends}) break;; esac  # done, bad input, stopped; else it goes on from its checkpoint
done
if [ "$host" = 0 ] && [ $code -ne {interrupted} ] && [ $code -ne {terminated} ]; then
    {delete}
fi
"""


def submission(
    name: str,
    tasks: Tasks,
    command: Sequence[str],
    workdir: Path,
    options: argparse.Namespace,
) -> Submission:
    """See submission.Cluster."""
    for flag in ("zone", "accelerator_type", "nfs", "container"):
        if not getattr(options, flag):
            raise ConfigError(f"--executor=tpu_vm needs --{flag}; launch/tpu_vm/README.md shows all it needs")
    _runtime(options.accelerator_type)
    line = tuple(in_image(command, _share(options.nfs)[1]))
    folder = _folder(workdir)
    slices = [Slice(names.task_name(name, workdir, cells), cells, options, folder, line) for cells in tasks]
    shown = []
    for one in slices:
        first = names.attempt(one.task, 0)
        shown.append(f"{shlex.join(one.create(first))}\n# {first}/startup.sh:\n{one.startup(first)}")
    return Submission(
        tasks,
        "as queued resources:\n" + "\n".join(shown),
        functools.partial(submit, slices, workdir, options),
    )


def submit(slices: Sequence[Slice], workdir: Path, options: argparse.Namespace) -> str:
    """Asks for the slices, but for those that are there already; says how many. Raises ConfigError by gcloud's words.

    One of an earlier attempt that failed or was preempted is deleted.
    """
    there = _list(options)
    asked = 0
    for one in slices:
        mine = {name: state for name, state in there.items() if names.task_of(name)[0] == one.task}
        if any(state not in _OVER for state in mine.values()):
            continue
        for name in mine:
            _gcloud(_delete(name, options.zone))
        name = names.attempt(one.task, max((names.task_of(n)[1] + 1 for n in mine), default=0))
        place = one.folder / name
        place.mkdir(parents=True, exist_ok=True)
        atomic.write_bytes(place / "cells.txt", ",".join(one.cells).encode())
        atomic.write_bytes(place / "startup.sh", one.startup(name).encode())
        asked += _gcloud(one.create(name), unless="ALREADY_EXISTS") is not None
    return f"{asked} slices asked for; their hosts print into {_folder(workdir)}/NAME/log-HOST"


def queued(workdir: Path, options: argparse.Namespace) -> dict[str, str]:
    """Run id -> "running" (its slice is there), "ending", or Google's word for waiting ("WAITING_FOR_RESOURCES")."""
    out: dict[str, str] = {}
    for name, state in _ours(workdir, options).items():
        said = {"ACTIVE": "running", **dict.fromkeys(_ENDING, "ending")}.get(state, state)
        out |= dict.fromkeys(_cells(workdir, name), said)
    return out


def cancel(workdir: Path, options: argparse.Namespace) -> int:
    """Stops the containers of this folder's slices, which save, and deletes the slices; how many cells they had."""
    ended = 0
    for name, state in _ours(workdir, options).items():
        if state in _ENDING:
            continue
        if state == "ACTIVE":
            stop = f"sudo docker stop --time={GRACE_SECONDS} cell"
            ssh = "gcloud", "compute", "tpus", "tpu-vm", "ssh", name, f"--zone={options.zone}", "--worker=all"
            _gcloud([*ssh, f"--command={stop}", "--quiet"], unless="No such container")
        _gcloud(_delete(name, options.zone))
        ended += len(_cells(workdir, name))
    return ended


def _ours(workdir: Path, options: argparse.Namespace) -> dict[str, str]:
    """Name -> state of this folder's queued resources that are not over."""
    if not _folder(workdir).exists():
        return {}
    return {
        name: state
        for name, state in _list(options).items()
        if (_folder(workdir) / name / "cells.txt").exists() and state not in _OVER
    }


def _list(options: argparse.Namespace) -> dict[str, str]:
    if not options.zone:
        raise ConfigError("--executor=tpu_vm needs --zone")
    found = json.loads(_gcloud([*_QUEUED, "list", f"--zone={options.zone}", "--format=json"]) or "[]")
    return {one["name"].rpartition("/")[2]: one.get("state", {}).get("state", "") for one in found}


def _delete(name: str, zone: str) -> list[str]:
    return [*_QUEUED, "delete", name, f"--zone={zone}", "--force", "--quiet", "--async"]


def _folder(workdir: Path) -> Path:
    return Path(workdir).resolve() / "tpu_vm"


def _cells(workdir: Path, name: str) -> list[str]:
    return (_folder(workdir) / name / "cells.txt").read_text().split(",")


def _share(nfs: str) -> tuple[str, str]:
    share, _, mount = nfs.rpartition(":")
    if ":/" not in share or not mount.startswith("/"):
        raise ConfigError(f"--nfs={nfs} must be HOST:/EXPORT:/PATH, as 10.0.0.2:/vol1:/shared")
    return share, mount


def _runtime(accelerator_type: str) -> str:
    for beginning, runtime in _RUNTIMES.items():
        if accelerator_type.startswith(beginning) and accelerator_type.removeprefix(beginning).isdecimal():
            return runtime
    raise ConfigError(
        f"--accelerator_type={accelerator_type} must be a slice of Google's, as v5litepod-8; kinds: "
        + ", ".join(f"{beginning}N" for beginning in _RUNTIMES)
    )


def _gcloud(command: Sequence[str], *, unless: str = "") -> str | None:
    """What gcloud prints; None where it refuses for the reason `unless`. Raises ConfigError."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SLOW, check=False)
    except FileNotFoundError:
        raise ConfigError(
            "gcloud is not there: install the Google Cloud CLI, or look with --dry_run at what would be submitted"
        ) from None
    except subprocess.TimeoutExpired:
        raise ConfigError(f"gcloud did not answer within {_SLOW:.0f} s: {shlex.join(command)}") from None
    if done.returncode == 0:
        return done.stdout
    if unless and unless in done.stderr:
        return None
    raise ConfigError(f"gcloud refused: {' '.join(done.stderr.split()) or f'exit code {done.returncode}'}")
