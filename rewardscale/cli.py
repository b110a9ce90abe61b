"""What all commands do alike: one line for an error, and the same exit codes."""

import argparse
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from rewardscale import exits
from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.remote import origin
from rewardscale.remote.objects import is_url
from rewardscale.stages import StageError

RESUMED = "the same command goes on where this one stopped"


def exit_code(command: Callable[[], int], *, kept: str = "", interrupted: str = RESUMED) -> int:
    """Runs `command` and returns its exit code, or says what went wrong in one line: 2, or 130 after Ctrl-C.

    Args:
      kept: what an error of the file system adds about what was written so far.
      interrupted: what Ctrl-C says.
    """
    try:
        return command()
    except (ConfigError, DataError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}{kept and f'; {kept}'}", file=sys.stderr)
    except KeyboardInterrupt:
        print("; ".join(filter(None, ["interrupted", interrupted])), file=sys.stderr)
        return exits.INTERRUPTED
    return exits.UNUSABLE


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
    from rewardscale import mesh  # brings jax

    def joined() -> int:
        try:
            mesh.initialize(options.coordinator, options.num_processes, options.process_id)
        except mesh.HostsApart as error:
            print(f"error: {error}", file=sys.stderr)
            return exits.AGAIN
        return command()

    try:
        code = exit_code(joined, kept=kept)
    except BaseException:
        if mesh.joined():
            traceback.print_exc()
            mesh.leave(exits.FAILED)
        raise
    mesh.leave(code)
    return code
