"""Stages: shards in, shards out, each committed when whole.

A stage is a list of tasks. A task is a function that writes files into a folder of its own; the folder appears
under its final name only when the task has ended without an error, with `task.json` in it as the record:

    <directory>/<stage>/<task>/...            what the task wrote
    <directory>/<stage>/<task>/task.json      fingerprint of its inputs, its counts, its files with sizes and hashes
    <directory>/<stage>/stage.json            written last: the tasks in order

All durable state is in those files and none in the engine that runs the tasks, so an interrupted stage goes on
where it stopped, under any engine.
"""

import dataclasses
import hashlib
import importlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardscale import atomic


class StageError(RuntimeError):
    """A task failed; the message names the stage, the task and the mend."""


@dataclasses.dataclass(frozen=True)
class Task:
    """One shard's work.

    Attributes:
      name: of its folder; unique within its stage.
      function: "package.module:name", called as name(folder, **arguments, **paths); returns counts (JSON values).
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
    """A committed task: its folder, its counts and the hash of what it wrote."""

    name: str
    folder: Path
    counts: Mapping[str, Any]
    output: str


def run(
    directory: Path,
    stage: str,
    tasks: Sequence[Task],
    *,
    engine: str = "inline",
    progress: Callable[[int], None] | None = None,
) -> list[Done]:
    """Runs the tasks that are not committed yet; returns all, in order.

    Args:
      directory: of all stages. stage: this one's name.
      engine: what runs them.
      progress: called with the number of tasks that are done.

    Raises StageError if a task fails: the others' outputs stay.
    """
    del engine  # inline is the only one
    folder = Path(directory) / stage
    done = []
    for task in tasks:
        done.append(_committed(folder, task) or _run(folder, task))
        if progress:
            progress(len(done))
    atomic.write_json(folder / "stage.json", {"tasks": [{"name": d.name, "output": d.output} for d in done]})
    return done


def _committed(folder: Path, task: Task) -> Done | None:
    """The task's output if it is there and of the same inputs; what is of other inputs is removed."""
    final = folder / task.name
    try:
        record = json.loads((final / "task.json").read_text())
    except FileNotFoundError:
        return None
    if record["fingerprint"] != task.fingerprint:
        shutil.rmtree(final)
        return None
    return Done(task.name, final, record["counts"], record["output"])


def _run(folder: Path, task: Task) -> Done:
    module, _, name = task.function.partition(":")
    function = getattr(importlib.import_module(module), name)
    final = folder / task.name
    with atomic.new_directory(final) as temporary:
        counts = function(temporary, **task.arguments, **task.paths)
        files = {
            str(path.relative_to(temporary)): [path.stat().st_size, atomic.sha256(path)]
            for path in sorted(temporary.rglob("*"))
            if path.is_file()
        }
        output = hashlib.blake2b(json.dumps(files).encode(), digest_size=16).hexdigest()
        record = {"fingerprint": task.fingerprint, "counts": counts, "files": files, "output": output}
        atomic.write_json(temporary / "task.json", record)
    return Done(task.name, final, counts, output)
