"""What all commands do alike: how the process is set up, one line for an error, and the same exit codes."""

import argparse
import contextlib
import errno
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rewardscale import exits, interrupts, platforms
from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.remote import origin
from rewardscale.remote.objects import is_url
from rewardscale.stages import StageError

# A disk that is full or broken, a file system of the network that is gone: nobody's input.
_MACHINE = (
    *(errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENODEV, errno.ENXIO, errno.EREMOTEIO),
    *(errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ESHUTDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH),
)

RESUMED = "the same command goes on where this one stopped"


def exit_code(
    command: Callable[[], int], *, kept: str = "", interrupted: str = RESUMED, computes: bool = True
) -> int:
    """Sets the process up, runs `command` and returns its exit code, or says what went wrong in one line.

    2 for bad input, 75 (exits.AGAIN) for a fault of the machine, 130 after Ctrl-C or SIGTERM.

    Args:
      kept: what an error of the file system adds about what was written so far.
      interrupted: what Ctrl-C says.
      computes: whether it may use jax: then the process is set up for it first (platforms.py).
    """
    try:
        with _interruptible():
            if computes:
                platforms.prepare()
            return command()
    except (ConfigError, DataError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}{kept and f'; {kept}'}", file=sys.stderr)
        return exits.AGAIN if error.errno in _MACHINE else exits.UNUSABLE
    except KeyboardInterrupt:
        print("; ".join(filter(None, ["interrupted", interrupted])), file=sys.stderr)
        return exits.INTERRUPTED
    return exits.UNUSABLE


def _interruptible() -> contextlib.AbstractContextManager[None]:
    """SIGTERM is Ctrl-C, unless somebody has other wishes: a preempted start is a start to be queued again."""
    usual = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    main = threading.current_thread() is threading.main_thread()
    return interrupts.interruptible(
        n for n, handler in usual.items() if main and signal.getsignal(n) == handler
    )


def add_host_flags(parser: argparse.ArgumentParser) -> None:
    """The flags that tell a process which of several hosts it is."""
    group = parser.add_argument_group("several hosts", "all three, where the cluster does not say so itself")
    group.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, with a free port")
    group.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="how many there are; 1: this one is alone, whatever cluster",
    )
    group.add_argument("--process_id", type=int, metavar="I", help="which this is, from 0")


def workdir_of(place: str | Path) -> Path:
    """The folder to work in for --workdir: the place itself, or this machine's copy of a URL (remote/origin.py).

    Raises ConfigError for a URL where there are several hosts, StoreError for one that cannot be opened.
    """
    from rewardscale import mesh

    if is_url(place) and mesh.hosts() > 1:
        raise ConfigError(
            f"--workdir={place}: several hosts that train one model need a shared disk; processes that each take "
            "runs of their own need none: start them with --num_processes=1"
        )
    return origin.folder(place)


def on_hosts(options: argparse.Namespace, command: Callable[[], int], *, kept: str = "") -> int:
    """`exit_code(command)` once the hosts that the flags or the cluster name have come together.

    One host that fails ends at once, so that the others do not wait for it. Hosts that do not come together in time end
    with exits.AGAIN: not bad input, so that whoever started them starts them again.
    """

    def joined() -> int:
        from rewardscale import mesh  # brings jax, which takes seconds: a signal may come within them

        try:
            mesh.initialize(options.coordinator, options.num_processes, options.process_id)
        except mesh.HostsApart as error:
            print(f"error: {error}", file=sys.stderr)
            return exits.AGAIN
        return command()

    try:
        code = exit_code(joined, kept=kept)
    except BaseException:
        if (mesh := _joined_mesh()) is not None:
            traceback.print_exc()
            mesh.leave(exits.FAILED)
        raise
    if (mesh := _joined_mesh()) is not None:
        mesh.leave(code)
    return code


def _joined_mesh() -> Any:
    """The module `mesh` if hosts have come together; it is not imported here: where a signal has cut its import short,
    jax is not to be imported again."""
    mesh = sys.modules.get("rewardscale.mesh")
    return mesh if mesh is not None and mesh.joined() else None
