"""Stages: shards in, shards out, each committed when whole.

A stage is a list of tasks. A task is a function that writes files into a folder of its own; the folder appears
under its final name only when the task has ended without an error, with `task.json` in it as the record:

    <directory>/<stage>/<task>/...            what the task wrote
    <directory>/<stage>/<task>/task.json      fingerprint of its inputs, its counts, its files with sizes and hashes
    <directory>/<stage>/stage.json            written last: the tasks in order

All durable state is in those files and none in the engine that runs the tasks (`inline`, `process`, `ray`), so an
interrupted stage goes on where it stopped, under any engine, and two drivers of one stage do no harm.

Modules: task (what is run, what came of it), store and objects (the commit protocol, in a folder and on an object
store), engines (this process, a pool), cluster (Ray), runner (which tasks are missing, and the manifest).
"""

from rewardscale.stages.engines import Engine, session
from rewardscale.stages.runner import run, verify
from rewardscale.stages.task import Done, StageError, Task

__all__ = ["Done", "Engine", "StageError", "Task", "run", "session", "verify"]
