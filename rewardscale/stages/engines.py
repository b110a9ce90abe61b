"""What runs a stage's tasks: this process, a pool of processes, or a Ray cluster.

An engine takes tasks and yields (task, None) or (task, Failure) as they end. After a failure it starts no other task
and lets the running ones end. It keeps nothing: what a task wrote was committed by the process that ran it.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection

from rewardscale.config import ConfigError
from rewardscale.stages.cluster import connected, in_cluster
from rewardscale.stages.store import Store
from rewardscale.stages.task import Done, Failure, Outcomes, Task, call, cores, explain, worker_environment

# A task in whose company a worker died runs again; after so many times it runs alone, and if that kills the
# worker too, it is the culprit.
_DEATHS_IN_COMPANY = 2


@dataclasses.dataclass(frozen=True)
class Engine:
    """What runs tasks, as `--engine=` names it.

    Attributes:
      name: "inline" (this process), "process" (a pool on this machine) or "ray" (a cluster).
      workers: of "process": how many; None is one a usable core.
      address: of "ray": HOST:PORT of the cluster, "auto" for the one this machine belongs to, None for one of its
        own on this machine, which ends with the stage or the `session`.
    """

    name: str = "inline"
    workers: int | None = None
    address: str | None = None

    @classmethod
    def parse(cls, text: "str | Engine") -> "Engine":
        """Reads "inline", "process", "process:4", "ray", "ray:auto" or "ray:HOST:PORT". Raises ConfigError."""
        if isinstance(text, Engine):
            return text
        name, colon, rest = text.partition(":")
        if name == "inline" and not colon:
            return cls()
        if name == "process" and (not colon or (rest.isdecimal() and int(rest) > 0)):
            return cls("process", workers=int(rest) if rest else None)
        if name == "ray" and bool(colon) == bool(rest) and "://" not in rest:
            return cls("ray", address=rest or None)
        raise ConfigError(f"engine={text!r} must be inline, process[:WORKERS], ray[:auto] or ray:HOST:PORT")

    def __str__(self) -> str:
        option = self.workers if self.name == "process" else self.address
        return self.name if option is None else f"{self.name}:{option}"


@dataclasses.dataclass(frozen=True)
class Work:
    """What a worker does with a task: run it and commit what it wrote. Never raises what a task raised."""

    store: Store

    def __call__(self, task: Task) -> Failure | None:
        try:
            if isinstance(self.store.look(task), Done):
                return None  # by another driver, or before this one's worker died
            with self.store.scratch(task.name) as folder:
                with self.store.paths(task) as paths:
                    counts = call(task, folder, paths)
                self.store.commit(folder, task, counts)
        except (Exception, SystemExit) as error:
            return explain(error)
        return None


def results(engine: Engine, work: Work, tasks: Sequence[Task]) -> Outcomes:
    """Yields (task, what failed or None) in the order in which tasks end. Close it to stop at once."""
    if engine.name == "process":
        # A single task has all cores for its threads.
        return _in_processes(work, tasks, 1 if len(tasks) == 1 else engine.workers or cores())
    if engine.name == "ray":
        return in_cluster(work, tasks, engine.address)
    return _inline(work, tasks)


@contextlib.contextmanager
def session(engine: str | Engine) -> Iterator[Engine]:
    """Keeps what is slow to start (workers, a connection to a cluster) for all stages that are run in the block.

    Raises ConfigError and StageError (no such engine, not installed, not reachable).
    """
    engine = Engine.parse(engine)
    with connected(engine.address) if engine.name == "ray" else _pools_kept():
        yield engine


def _inline(work: Work, tasks: Sequence[Task]) -> Outcomes:
    for task in tasks:
        failure = work(task)
        yield task, failure
        if failure:
            return


def _in_processes(work: Work, tasks: Sequence[Task], workers: int) -> Outcomes:
    """Runs tasks in pools of processes: a fresh one whenever a worker was killed."""
    waiting = deque(tasks)
    deaths = dict.fromkeys((task.name for task in tasks), 0)
    while waiting:
        alone = deaths[waiting[0].name] >= _DEATHS_IN_COMPANY
        turn = deque([waiting.popleft()]) if alone else waiting
        killed = yield from _in_one_pool(work, turn, 1 if alone else workers)
        if killed is None:  # a task failed: it was yielded
            return
        for task in killed:
            deaths[task.name] += 1
            if deaths[task.name] > _DEATHS_IN_COMPANY:
                yield task, _killed(deaths[task.name])
                return
        waiting.extendleft(reversed(killed))


def _in_one_pool(
    work: Work, waiting: deque[Task], workers: int
) -> Generator[tuple[Task, Failure | None], None, list[Task] | None]:
    """Yields outcomes until none waits, a task fails or a worker dies.

    Returns (by StopIteration) the tasks that were under way when a worker died; None after a failure.
    """
    failed = False
    killed: list[Task] = []
    with _pool(workers) as pool:
        running: dict[Future[Failure | None], Task] = {}
        while running or (waiting and not failed and not killed):
            # One more than there are workers, so that none waits for this process.
            while waiting and not failed and not killed and len(running) <= workers:
                try:
                    with _started_with(worker_environment(workers)):  # a worker may be started here
                        future = pool.executor.submit(work, waiting[0])
                except BrokenProcessPool:
                    pool.broken = True
                    killed.append(waiting.popleft())
                    break
                running[future] = waiting.popleft()
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                task = running.pop(future)
                try:
                    failure = future.result()
                except BrokenProcessPool:
                    pool.broken = True
                    killed.append(task)
                    continue
                failed |= failure is not None
                yield task, failure
    return None if failed else killed


def _killed(times: int) -> Failure:
    return Failure(
        f"its worker process died {times} times, the last time with nothing else running (killed from outside, out of "
        "memory, or crashed in native code)",
        "make its shard smaller or give the machine more memory; a script that calls this needs "
        "`if __name__ == '__main__':`; --engine=inline shows what happens",
    )


class _Pool:
    """Worker processes that end with this one. They are started as tasks come."""

    def __init__(self, workers: int):
        # Spawned, not forked: JAX's or Arrow's threads may be running here.
        spawn = multiprocessing.get_context("spawn")
        self.broken = False
        self._reader, self._writer = multiprocessing.Pipe(duplex=False)
        self.executor = ProcessPoolExecutor(
            workers, spawn, initializer=_start_worker, initargs=(self._reader,)
        )

    def close(self, *, now: bool = False) -> None:
        """Ends the workers; `now` doesn't wait for their tasks."""
        if now:
            self._writer.close()
        self.executor.shutdown(cancel_futures=True)
        self._writer.close()
        self._reader.close()


# By number of workers, in a session; None outside.
_kept: dict[int, _Pool] | None = None


@contextlib.contextmanager
def _pools_kept() -> Iterator[None]:
    global _kept
    if _kept is not None:  # the outer session's
        yield
        return
    _kept = {}
    try:
        yield
    finally:
        pools, _kept = _kept, None
        for pool in pools.values():
            pool.close()


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[_Pool]:
    """A pool, of this session if there is one. If the block is left by an exception its workers end at once."""
    pool = _kept.pop(workers, None) if _kept is not None else None
    pool = pool or _Pool(workers)
    try:
        yield pool
    except BaseException:
        pool.close(now=True)
        raise
    if _kept is None or pool.broken:
        pool.close()
    else:
        _kept[workers] = pool


def _start_worker(driver: Connection) -> None:
    """In a worker: Ctrl-C is the driver's business, and when the driver is gone, so is the worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_driver() -> None:
        driver.poll(None)  # nothing is ever sent: this is the other end being closed, or its process's death
        os._exit(1)

    threading.Thread(target=end_with_driver, daemon=True).start()


@contextlib.contextmanager
def _started_with(environment: dict[str, str]) -> Iterator[None]:
    """What processes that are started in this block inherit. Polars and BLAS read it on import, so it must be there."""
    old = {name: os.environ.get(name) for name in environment}
    os.environ.update(environment)
    try:
        yield
    finally:
        for name, value in old.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
