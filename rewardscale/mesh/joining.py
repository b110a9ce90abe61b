"""How the hosts of a run come together and part: the one caller of jax.distributed."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from rewardscale import exits
from rewardscale.config import ConfigError
from rewardscale.mesh.hosts import host_zero, together

JOIN_SECONDS = 300.0  # how long a host waits for the others at the start
_FAREWELL_SECONDS = 3.0
FLAGS = ("coordinator", "num_processes", "process_id")


class HostsApart(RuntimeError):
    """The hosts of a run did not come together in time."""


def initialize(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    *,
    seconds: float = JOIN_SECONDS,
) -> None:
    """Joins the hosts of this run; to be called before anything else asks jax for devices.

    With all three arguments by them: the address HOST:PORT of process 0, how many processes there are, which this is.
    With none by the cluster that the environment names (`cluster`); without one the process is alone. `processes=1`
    makes it alone whatever the environment says.

    Raises ConfigError for arguments that cannot be, HostsApart if process 0 does not answer within `seconds`; if one of
    the others does not come within them, the process ends with exit code exits.AGAIN.
    """
    given = dict(zip(FLAGS, (coordinator, processes, process), strict=True))
    if processes == 1 and process in (None, 0):
        return
    named = any(value is not None for value in given.values())
    if named:
        _check_flags(given)
    found = None if named else cluster(os.environ)
    if not named and found is None:
        return
    if coordinator is not None and process:
        _await(coordinator, seconds)
    where = f"by --coordinator={coordinator}" if named else f"as {found} describes them"
    late = (
        f"the hosts of this run, {where}, did not come together within {seconds:.0f} s: are all of them started, with "
        "the same addresses and counts, and is the coordinator's port open to them? A process that is alone says "
        "--num_processes=1"
    )
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    with _patience(seconds, late):
        try:
            jax.distributed.initialize(
                coordinator,
                processes,
                process,
                local_device_ids=_slurm_devices(os.environ) if found == "Slurm" else None,
                cluster_detection_method="deactivate" if named else None,
                initialization_timeout=round(seconds) + 60,
            )
        except (RuntimeError, ValueError, OSError) as error:
            if found == "Cloud TPU" and isinstance(error, ValueError):
                return  # chips without the metadata of a pod: this host's alone
            raise HostsApart(f"{late} ({_first_line(error)})") from error
    if threading.current_thread() is threading.main_thread():
        # jax's preemption service takes SIGTERM for itself, below what Python knows of; nobody here asks it.
        signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM))


@contextlib.contextmanager
def _patience(seconds: float, message: str) -> Iterator[None]:
    """Ends the process with `message` if the block takes longer: jax's client ends it too, by a crash."""

    def give_up() -> None:
        print(f"error: {message}", file=sys.stderr, flush=True)
        os._exit(exits.AGAIN)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _check_flags(given: Mapping[Any, Any]) -> None:
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if missing:
        wanted = ", ".join(f"--{name}" for name in FLAGS)
        raise ConfigError(f"several hosts need all of {wanted}: {' and '.join(missing)} missing")
    processes, process = given["num_processes"], given["process_id"]
    if processes < 1 or not 0 <= process < processes:
        raise ConfigError(
            f"--process_id={process} of --num_processes={processes}: they count 0, 1, ..., num_processes - 1"
        )
    host, _, port = given["coordinator"].rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(f"--coordinator={given['coordinator']} must be HOST:PORT, the address of process 0")


def _await(coordinator: str, seconds: float) -> None:
    """Returns once process 0 listens."""
    host, _, port = coordinator.rpartition(":")
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise HostsApart(
                    f"no answer from --coordinator={coordinator} within {seconds:.0f} s ({error}): is process 0 "
                    "started, and is its port open to this host?"
                ) from error
            time.sleep(0.2)


def cluster(environment: Mapping[str, str]) -> str | None:
    """The cluster that started this process as one of several, by its environment, or None."""
    if "SLURM_STEP_NODELIST" in environment and int(environment.get("SLURM_NTASKS", "1")) > 1:
        return "Slurm"
    if "tpu" not in (environment.get("JAX_PLATFORMS") or "tpu"):
        return None
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES") or ""
    if len(names.split(",")) > 1 or int(environment.get("MEGASCALE_NUM_SLICES") or 1) > 1:
        return "GKE"
    chips = any(Path(path).exists() for path in ("/dev/accel0", "/dev/vfio/0"))
    # Set by GKE; by notebook services, and by jax where it finds no TPU.
    alone = names or "TPU_SKIP_MDS_QUERY" in environment
    if chips and not alone and find_spec("libtpu"):
        return "Cloud TPU"  # how many hosts, perhaps one, jax asks the metadata server
    return None


def _slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """A node's GPUs where it has one task, which jax would give the first alone; None: jax decides, one a task."""
    if environment.get("SLURM_STEP_NUM_NODES") != environment.get("SLURM_NTASKS"):
        return None
    visible = environment.get("CUDA_VISIBLE_DEVICES") or environment.get("SLURM_STEP_GPUS") or ""
    return list(range(len(visible.split(",")))) if visible else None


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def joined() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


def leave(code: int) -> None:
    """Ends this host's part: together with the others after success, at once after a failure.

    The others may then be waiting in the middle of a computation for a host that will never come; they end when
    jax's service misses it.
    """
    if not joined():
        return
    if code == 0:
        together()
        jax.distributed.shutdown()
        return
    sys.stdout.flush()
    sys.stderr.flush()
    if host_zero():
        time.sleep(_FAREWELL_SECONDS)  # it keeps the service: a failure of all is reported by all
    os._exit(code)
