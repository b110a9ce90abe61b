"""Checkpoints by orbax (v1 API); no other file imports it.

What is saved is a pure dict of arrays and the step. Restoring targets an abstract tree with
shardings, so a checkpoint written on one mesh is read straight onto another. With several hosts all of them save and
restore, each its own parts.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from rewardscale import mesh

_ITEM = "state"


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: their folder. kept: how many of the newest stay. seconds: least time between two.
    """

    def __init__(self, directory: Path, *, kept: int, seconds: float):
        self._seconds = seconds
        self._last = time.monotonic()
        self._saved: int | None = None
        self._checkpointer = ocp.training.Checkpointer(
            str(Path(directory).absolute()),
            # orbax's own class does not quite match orbax's own protocol
            preservation_policy=ocp.training.preservation_policies.LatestN(kept),  # pyright: ignore[reportArgumentType]
            cleanup_tmp_directories=True,  # what a killed process left half-written; the run's lock is ours
        )

    @property
    def latest(self) -> int:
        """The step of the newest whole checkpoint, -1 if there is none."""
        latest = self._checkpointer.latest
        return -1 if latest is None else latest.step

    def restore(self, abstract: Any) -> Any | None:
        """The newest whole checkpoint on the shardings of `abstract` (ShapeDtypeStructs), or None.

        A checkpoint that was being written when the machine died has no commit record and is passed over.
        """
        step = mesh.agreed(self.latest)
        if step < 0:
            return None
        self._saved = step
        return self._checkpointer.load_checkpointables(step, {_ITEM: abstract})[_ITEM]

    def due(self) -> bool:
        """Whether the last save is longer ago than the wanted interval."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, step: int, state: Any) -> None:
        """Starts writing `state` as step `step` in the background; returns once it is copied from the devices."""
        if step == self._saved:
            return
        # force: orbax's default policy skips a save, without a word, while another one is being written
        self._checkpointer.save_checkpointables_async(step, {_ITEM: state}, force=True)
        self._last, self._saved = time.monotonic(), step

    def close(self) -> None:
        """Waits for writes in flight; raises what went wrong in them."""
        self._checkpointer.close()


def save_state(directory: Path, state: Any) -> None:
    """Writes one state to a new folder, whole when this returns."""
    ocp.save_checkpointables(str(Path(directory).absolute()), {_ITEM: state})


def load_state(directory: Path, abstract: Any) -> Any:
    """What `save_state` wrote, on the shardings of `abstract` (ShapeDtypeStructs)."""
    return ocp.load_checkpointables(str(Path(directory).absolute()), {_ITEM: abstract})[_ITEM]


class Interrupted(BaseException):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved its state."""


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Within the block, SIGTERM and SIGINT only set a flag; yields the function that reads it.

    A signal that the process ignores stays ignored. A request that came too late for the block to act on is
    passed on to the former handler when the block ends, so none is lost. Outside the main thread signals
    cannot be caught and the flag stays unset.
    """
    asked: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    caught = [s for s in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN]
    before = {s: signal.signal(s, lambda number, _: asked.append(number)) for s in caught}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked:
        signal.raise_signal(asked[0])
