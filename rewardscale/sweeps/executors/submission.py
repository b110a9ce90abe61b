"""What an executor of a cluster would submit: shown by --dry_run, or handed over."""

import argparse
import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Protocol

from rewardscale.config import ConfigError

Tasks = tuple[tuple[str, ...], ...]  # the run ids of each


def batched(run_ids: Sequence[str], cells_per_task: int) -> Tasks:
    """The tasks of these cells, in their order."""
    return tuple(itertools.batched(run_ids, cells_per_task))


@dataclasses.dataclass(frozen=True)
class Submission:
    """Cells for a cluster's queue.

    Attributes:
      tasks: the run ids of each task. shown: where they go, and all that is submitted, as text.
      submit: hands them over, and says in a line what was done.
    """

    tasks: Tasks
    shown: str
    submit: Callable[[], str]


class Cluster(Protocol):
    """What a module of this folder offers that hands cells to a cluster's queue."""

    def add_flags(self, parser: argparse.ArgumentParser) -> list[str]:
        """Adds the executor's own flags; their names."""
        ...

    def submission(
        self,
        name: str,
        tasks: Tasks,
        command: Sequence[str],
        workdir: Path,
        options: argparse.Namespace,
    ) -> Submission:
        """The tasks in the order in which they should start, each run by `command` and --cell=...; `name`: the sweep's.

        Raises ConfigError for flags that cannot be.
        """
        ...

    def queued(self, workdir: Path, options: argparse.Namespace) -> dict[str, str]:
        """Run id -> state of this folder's cells that the cluster has and has not finished."""
        ...

    def cancel(self, workdir: Path, options: argparse.Namespace) -> int:
        """Ends what `queued` names; how many cells."""
        ...


def in_image(command: Sequence[str], mount: str) -> list[str]:
    """`command` for a container that has the package, and sees of this machine's files those in `mount` alone.

    Raises ConfigError for a path elsewhere.
    """
    for argument in command:
        flag, _, value = argument.partition("=")
        if flag not in ("--config", "--workdir", "--data_dir") or not value.startswith("/"):
            continue
        if not PurePosixPath(value.partition(":")[0]).is_relative_to(mount):
            raise ConfigError(
                f"{argument} is not in {mount}, which is all that containers see: put it on the volume, mounted here "
                "under the same path"
            )
    return ["python", *command[1:]]


def said(states: Mapping[str, str]) -> str:
    """ "3 pending, 1 running"."""
    return ", ".join(f"{count} {state.lower()}" for state, count in sorted(Counter(states.values()).items()))
