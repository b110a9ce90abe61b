"""What a stage is made of: tasks, and what came of them."""

import copy
import dataclasses
import errno
import hashlib
import importlib
import json
import os
import re
import traceback
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+=-]{0,149}")
_FRAMES = 3  # of a task's traceback that a message shows, from its end

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_WRITING = (errno.EROFS, errno.EACCES, errno.EPERM)


# Of worker processes: each library with threads of its own.
_THREADS = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)


class StageError(RuntimeError):
    """A task failed; the message names the stage, the task and the mend."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard's work.

    Attributes:
      name: of its folder; unique within its stage.
      function: "package.module:name", called as name(folder, **arguments, **paths); returns counts (JSON values).
        It writes files into the folder and nothing anywhere else: it may run twice, on different machines.
      arguments: JSON values; what decides the output and nothing else.
      inputs: hashes of what the task reads (of what an earlier stage wrote: `Done.output`).
      paths: where it reads, passed to the function too; not part of the fingerprint, so a build may be moved.
    """

    name: str
    function: str
    arguments: Mapping[str, Any]
    inputs: tuple[str, ...] = ()
    paths: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """Hash (32 hex digits) of everything that decides what the task writes."""
        what = [self.function, json.dumps(self.arguments, sort_keys=True), *self.inputs]
        return hashlib.blake2b(json.dumps(what).encode(), digest_size=16).hexdigest()


@dataclasses.dataclass(frozen=True)
class Done:
    """A committed task: its folder (on an object store an `objects.RemoteFolder`), its counts, a hash of its files."""

    name: str
    folder: Path
    counts: Mapping[str, Any]
    output: str


@dataclasses.dataclass(frozen=True)
class Failure:
    """Why a task was not committed: what happened, and the mend. Plain text, so that it crosses processes."""

    what: str
    mend: str


# What an engine yields as tasks end; None where a task was committed.
Outcomes = Generator[tuple[Task, Failure | None], None, None]


def check(stage: str, tasks: Sequence[Task]) -> None:
    """Raises StageError if names cannot be folders, repeat, or a task's arguments are not JSON."""
    seen = set()
    for name in (stage, *(task.name for task in tasks)):
        if not _NAME.fullmatch(name):
            raise StageError(f"stage {stage!r}: {name!r} cannot be a folder's name: {_NAME.pattern}")
    for task in tasks:
        where = f"stage {stage!r}, task {task.name!r}"
        if task.name in (*seen, "stage.json"):
            raise StageError(f"{where}: the name is taken")
        seen.add(task.name)
        if both := sorted(set(task.arguments) & set(task.paths)):
            raise StageError(f"{where}: {both} are both arguments and paths")
        try:
            json.dumps(task.arguments, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise StageError(
                f"{where}: arguments must be JSON values (paths go to `paths`): {error}"
            ) from error


def call(task: Task, folder: Path, paths: Mapping[str, Any]) -> Any:
    """Runs the task's function in `folder`; returns its counts as JSON gives them back.

    The arguments are copies, so no task can change another's.
    """
    function = _function(task.function)
    counts = function(folder, **copy.deepcopy(dict(task.arguments)), **copy.deepcopy(dict(paths)))
    return json.loads(json.dumps(counts, allow_nan=False))


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def explain(error: BaseException) -> Failure:
    """An exception as a message: in full if it was raised for people to read, else with the end of its traceback."""
    if type(error).__module__.startswith("rewardscale."):
        return Failure(str(error), "")
    mend = ""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        mend = "free some space"
    elif isinstance(error, OSError) and error.errno in _NO_WRITING:
        mend = "make the folder writable"
    elif isinstance(error, MemoryError):
        mend = "run fewer at once (--engine=process:1)"
    shown = traceback.TracebackException.from_exception(error, limit=-_FRAMES)
    return Failure("".join(shown.format(chain=False)).rstrip(), mend)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def worker_environment(workers: int) -> dict[str, str]:
    """What each of `workers` processes of a machine starts with: it keeps off accelerators and shares the cores."""
    threads = str(max(1, cores() // workers))
    return {"JAX_PLATFORMS": "cpu"} | {name: os.environ.get(name, threads) for name in _THREADS}
