"""Which tasks of a stage are missing, running them, and the manifest."""

import contextlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rewardscale.stages import engines
from rewardscale.stages.engines import Engine, Work
from rewardscale.stages.store import LocalStore, Store
from rewardscale.stages.task import Done, Failure, StageError, Task, check

# A network file system may show what another host wrote only after its cache has run out.
_VISIBLE_SECONDS = 60.0


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def run(
    directory: Path | str,
    stage: str,
    tasks: Sequence[Task],
    *,
    engine: str | Engine = "inline",
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] = _to_stderr,
) -> list[Done]:
    """Runs the tasks that are not committed yet; returns all, in order.

    A task is committed if its folder holds what its record says, by names and sizes (files younger than the record
    are read), and the record is of the same function, arguments and inputs. Others run; a finished stage is left as
    it is.

    Args:
      directory: of all stages; a URL (gs://, s3://) for an object store. stage: this one's name.
      engine: what runs them: "inline", "process[:WORKERS]", "ray[:ADDRESS]".
      progress: called with (tasks that are done, tasks).
      report: called with a line where outputs were damaged and are made again, or the stage was interrupted.

    Raises:
      StageError: a task failed, a folder cannot be written. Whatever was committed stays.
      ConfigError: no such engine.
    """
    engine = Engine.parse(engine)
    check(stage, tasks)
    store = _store(directory, stage)
    try:
        return _run(store, stage, tasks, engine, progress or (lambda done, of: None), report)
    except OSError as error:
        raise StageError(f"stage {stage!r}: {error}; what is committed stays") from error


def verify(directory: Path | str, stage: str, tasks: Sequence[Task]) -> list[str]:
    """Reads every file of the stage against its hash; returns a line for each task that is missing or damaged."""
    store = _store(directory, stage)
    found = [(task, store.look(task, hashes=True)) for task in tasks]
    lines = [_damaged(stage, task, why) for task, why in found if isinstance(why, str)]
    if not lines and store.manifest() != _manifest([done for _, done in found if isinstance(done, Done)]):
        lines.append(f"stage {stage!r}: its manifest is missing or lists other tasks")
    return lines


def _store(directory: Path | str, stage: str) -> Store:
    if "://" not in str(directory):
        return LocalStore(Path(directory).absolute() / stage)
    from rewardscale.stages.objects import ObjectStore  # fsspec takes a moment to import

    return ObjectStore(str(directory).rstrip("/"), stage)


def _damaged(stage: str, task: Task, why: str) -> str:
    return f"stage {stage!r}, task {task.name!r}: {why or 'not there, or of other inputs'}"


def _manifest(done: Sequence[Done]) -> dict[str, list[dict[str, str]]]:
    return {"tasks": [{"name": d.name, "output": d.output} for d in done]}


def _run(
    store: Store,
    stage: str,
    tasks: Sequence[Task],
    engine: Engine,
    progress: Callable[[int, int], None],
    report: Callable[[str], None],
) -> list[Done]:
    store.prepare()
    done: dict[str, Done] = {}
    missing: list[Task] = []
    for task in tasks:
        found = store.look(task)
        if isinstance(found, Done):
            done[task.name] = found
        else:
            missing.append(task)
            if found:
                report(f"{_damaged(stage, task, found)}; it runs again")
    progress(len(done), len(tasks))
    if missing:
        store.remove_manifest()
        try:
            _run_missing(store, stage, missing, engine, done, len(tasks), progress)
        except KeyboardInterrupt:
            kept = len(done) + sum(isinstance(store.look(t), Done) for t in missing if t.name not in done)
            report(f"stage {stage!r} stopped: {kept} of {len(tasks)} tasks are committed and stay")
            raise
        finally:
            store.sweep()  # after workers that were killed
    manifest = _manifest([done[task.name] for task in tasks])
    if store.manifest() != manifest:
        store.write_manifest(manifest)
    return [done[task.name] for task in tasks]


def _run_missing(
    store: Store,
    stage: str,
    missing: Sequence[Task],
    engine: Engine,
    done: dict[str, Done],
    of: int,
    progress: Callable[[int, int], None],
) -> None:
    """Runs tasks and adds them to `done`. Raises StageError when all that were running have ended."""
    failures: list[tuple[Task, Failure]] = []
    with contextlib.closing(engines.results(engine, Work(store), missing)) as results:
        for task, failure in results:
            if failure:
                failures.append((task, failure))
                continue
            done[task.name] = _committed(store, stage, task)
            progress(len(done), of)
    if failures:
        task, failure = failures[0]
        others = f" (so did {', '.join(other.name for other, _ in failures[1:])})" if failures[1:] else ""
        kept = f"{len(done)} of {of} tasks are committed and stay; the same command goes on"
        what = "\n".join(filter(None, [failure.what, failure.mend, kept]))
        raise StageError(f"stage {stage!r}, task {task.name!r} failed{others}: {what}")


def _committed(store: Store, stage: str, task: Task) -> Done:
    """What a worker says that it has committed, as this process sees it."""
    deadline = time.monotonic() + _VISIBLE_SECONDS
    while isinstance(found := store.look(task), str):
        if time.monotonic() > deadline:
            raise StageError(
                f"stage {stage!r}, task {task.name!r}: a worker committed it and {store} does not show it: the "
                f"folder must be on a file system that all machines share {found and f'({found})'}"
            )
        time.sleep(0.2)
    return found
