"""The local executor: worker processes on this machine, one cell at a time each.

On CPU a process a core, each single-threaded, beats one threaded process for small models. A worker
that dies (out of memory, kill -9) costs its cell one failure; the others go on and a fresh worker
takes its place. One that its watchdog ends (exits.AGAIN) had no fault of its cell: the cell is tried
again. Workers stop when their parent is gone.
"""

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NoReturn

from rewardscale import exits, interrupts, platforms
from rewardscale.config import ConfigError, ModelConfig, SweepConfig
from rewardscale.sweeps.grid import Cell

_GRACE_SECONDS = 60.0  # how long a worker may take to save its state when asked to stop
_BUSY_PAUSE_SECONDS = 0.5
_STARTS = 3  # of a cell whose worker ends by a fault of the machine each time; as of a build's task (stages/engines.py)


@dataclasses.dataclass(frozen=True)
class Event:
    """What happened to a cell.

    `kind` is "progress" (value: share done), "metrics" (records), "done", "failed" (reason), "busy" (another
    process is at it, or at the trunk it begins with), "again" (reason: a fault of the machine; it is queued again) or
    "interrupted". `machine`: that it failed is the machine's fault, and a later start may do.
    """

    kind: str
    worker: int
    cell: Cell | None = None
    value: Any = None
    machine: bool = False


@dataclasses.dataclass
class _Worker:
    number: int
    process: Any
    pipe: Connection
    cell: Cell | None = None


def default_workers() -> int:
    """A process a usable core on CPU, one where an accelerator is present."""
    return 1 if platforms.platform() != "cpu" else len(os.sched_getaffinity(0))


def in_order(cells: list[Cell]) -> list[Cell]:
    """Largest first, so that none is left alone at the end, and trunks before their branches, so that few wait."""
    return sorted(cells, key=lambda c: (c.branch is not None and c.branch.follows, -(c.flops or 0.0)))


def models_first(cells: list[Cell]) -> list[Cell]:
    """The cells as they come, but for the first of each transformer, which stand before all others.

    Workers then compile a model each, and find the other ones' models in the compilation cache.
    """
    firsts: dict[ModelConfig, Cell] = {}
    for cell in cells:
        if isinstance(cell.run.model, ModelConfig):
            firsts.setdefault(cell.run.model, cell)
    ids = {cell.run_id for cell in firsts.values()}
    return [*firsts.values(), *(cell for cell in cells if cell.run_id not in ids)]


def run_cells(
    cells: list[Cell],
    config: SweepConfig,
    workdir: Path,
    data_dir: Path | None,
    on_event: Callable[[Event], None],
    *,
    of: int,
    metrics: bool = False,
) -> None:
    """Runs all cells, one of each model first, then the largest, and reports events as they come.

    `of` is how many cells the whole sweep has: its cells compute alike, to the last bit, however many of them are left.
    KeyboardInterrupt (Ctrl-C, SIGTERM) asks the workers to save and stop, waits for them, and is raised again.

    Raises ConfigError, before any cell starts, if cells want bfloat16 of a CPU that gets it wrong.
    """
    queue = deque(models_first(in_order(cells)))
    wanted = config.runtime.workers or default_workers()
    count = min(wanted, max(1, len(queue)))
    environment = platforms.worker_environment(min(wanted, of))  # threads change how sums round
    if platforms.platform() == "cpu" and any(
        c.run.recipe and c.run.recipe.dtype == "bfloat16" for c in cells
    ):
        if platforms.lacks_bfloat16():
            print(
                'recipe.dtype="bfloat16": this CPU has neither amx_bf16 nor avx512_bf16, so it will be slower than '
                "float32",
                file=sys.stderr,
            )
        passes(_multiplies_bfloat16, environment)
    context = multiprocessing.get_context("spawn")
    arguments = (config, workdir, data_dir, metrics)

    def start(number: int) -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, *arguments), name=f"cell-worker-{number}")
        with _patched(environment):
            process.start()
        theirs.close()
        return _Worker(number, process, ours)

    workers: list[_Worker] = []
    waiting = 0  # cells that were busy, one after another
    faults: Counter[str] = Counter()  # of the machine, by run id
    try:
        for number in range(count):
            workers.append(start(number))
        for worker in workers:
            _feed(worker, queue)
        while any(w.cell for w in workers):
            for pipe in wait([w.pipe for w in workers if w.cell]):
                worker = next(w for w in workers if w.pipe is pipe)
                for event in _receive(worker, faults):
                    on_event(event)
                    if event.kind == "busy" and event.cell is not None:
                        queue.append(event.cell)  # look again later; not at once if all that is left is busy
                        waiting += 1
                        time.sleep(_BUSY_PAUSE_SECONDS if waiting >= len(queue) else 0.0)
                    elif event.kind == "again" and event.cell is not None:
                        queue.append(event.cell)
                    elif event.kind in ("done", "failed"):
                        waiting = 0
                    if event.kind in ("done", "failed", "busy", "again", "interrupted"):
                        if not worker.process.is_alive():
                            worker = workers[worker.number] = start(worker.number)
                        _feed(worker, queue)
    finally:
        _stop(workers)


def passes(check: Callable[[], None], environment: dict[str, str]) -> None:
    """Runs `check` as a worker would, in a process of its own with these variables.

    Raises the ConfigError that it raises, or one that says how its process died.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_check, args=(theirs, check), name="self-test", daemon=True)
    with _patched(environment):
        process.start()
    theirs.close()
    try:
        wrong = ours.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        wrong = (
            f'recipe.dtype="bfloat16": its self-test died ({_ended(process.exitcode)}); set it to "float32"'
        )
    process.join()
    if wrong:
        raise ConfigError(wrong)


def _ended(code: int | None) -> str:
    """How a process ended, for people."""
    return f"signal {signal.Signals(-code).name}" if code and code < 0 else f"exit code {code or 0}"


def _feed(worker: _Worker, queue: deque[Cell]) -> None:
    worker.cell = queue.popleft() if queue else None
    if worker.cell is not None:
        worker.pipe.send(worker.cell)


def _receive(worker: _Worker, faults: Counter[str]) -> Iterator[Event]:
    try:
        kind, value = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        yield _died(worker, faults)
    else:
        yield Event(kind, worker.number, worker.cell, value)


def _died(worker: _Worker, faults: Counter[str]) -> Event:
    """What the end of a worker means for its cell; `faults` of the machine are counted."""
    worker.process.join()
    code = worker.process.exitcode or 0
    if code == exits.AGAIN and worker.cell is not None:
        faults[worker.cell.run_id] += 1
        count = faults[worker.cell.run_id]
        reason = f"its worker process hung (exit code {code}, start {count} of {_STARTS}); where: hang.txt of the run"
        kind = "again" if count < _STARTS else "failed"
        return Event(kind, worker.number, worker.cell, reason, machine=True)
    hint = "; out of memory? try --config.runtime.workers=1" if code == -signal.SIGKILL else ""
    return Event("failed", worker.number, worker.cell, f"its worker process died ({_ended(code)}){hint}")


def _stop(workers: list[_Worker]) -> None:
    """Asks workers to save and stop; waits; ends those that do not."""
    for worker in workers:
        if worker.process.is_alive():
            worker.process.terminate()
        worker.pipe.close()
    deadline = time.monotonic() + _GRACE_SECONDS
    for worker in workers:
        worker.process.join(max(0.1, deadline - time.monotonic()))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


class _patched:
    """os.environ with further variables, restored afterwards: spawned processes inherit them."""

    def __init__(self, variables: dict[str, str]):
        self._variables = variables

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._variables}
        os.environ.update(self._variables)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# --- in the worker process ---------------------------------------------------------------------------


def _check(pipe: Connection, check: Callable[[], None]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent's to hear
    try:
        check()
    except ConfigError as error:
        pipe.send(str(error))
    else:
        pipe.send("")


def _multiplies_bfloat16() -> None:
    from rewardscale.models.products import (
        check_bfloat16_on_cpu,
    )  # brings jax: this process is to touch no device

    check_bfloat16_on_cpu()


def _work(pipe: Connection, config: SweepConfig, workdir: Path, data_dir: Path | None, metrics: bool) -> None:
    _leaving_at_once(lambda: _run_what_comes(pipe, config, workdir, data_dir, metrics))


def _leaving_at_once(work: Callable[[], None]) -> NoReturn:
    """Does `work` and ends the process: an ordinary exit waits for threads, those of saves that failed among them."""
    code: Any = 1
    try:
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_what_comes(
    pipe: Connection, config: SweepConfig, workdir: Path, data_dir: Path | None, metrics: bool
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it reaches the whole group: the parent decides, by SIGTERM
    interrupts.raise_on(signal.SIGTERM, lambda: SystemExit(128 + signal.SIGTERM))
    _leave_with_parent()
    platforms.keep_memory()
    from rewardscale.sweeps import benchmarks, datasets, grid
    from rewardscale.sweeps import cell as cells
    from rewardscale.training.checkpoint import Interrupted
    from rewardscale.training.compilation import use_cache

    use_cache()
    dataset = datasets.prepare(config.data, workdir, data_dir)
    view = datasets.view(dataset) if grid.needs_tokens(config) else None
    wanted = benchmarks.prepare(config, dataset, workdir, data_dir)
    context = cells.Context(dataset, view, config.runtime, workdir, wanted)
    last, first = 0.0, True

    def send(kind: str, value: Any = None) -> None:
        with contextlib.suppress(OSError):  # the parent is leaving: SIGTERM follows, the run saves itself
            pipe.send((kind, value))

    def progress(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > 0.5:
            last = time.monotonic()
            send("progress", share)

    while True:
        try:
            cell: Cell = pipe.recv()
        except EOFError:
            return
        on_metrics = (lambda records: send("metrics", records)) if metrics else None
        try:
            done = cells.run_cell(cell, context, on_progress=progress, on_metrics=on_metrics)
        except Interrupted as stop:
            send("interrupted", str(stop))
            return
        except Exception as error:
            send("failed", f"{type(error).__name__}: {error}")
        else:
            send("done" if done else "busy")
        if first:  # what it traced and compiled is kept for the others
            platforms.keep_loaded()
            first = False


def _leave_with_parent() -> None:
    """Sends this process SIGTERM (save and stop) when its parent is gone, or has gone before this one was ready."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
