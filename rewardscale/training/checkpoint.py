"""Checkpoints by orbax (v1 API); no other file imports it.

What is saved is a pure dict of arrays and the step. Restoring targets an abstract tree with
shardings, so a checkpoint written on one mesh is read straight onto another. With several hosts all of them save and
restore, each its own parts.

A small state is written as one array a type (training/small_states.py).

With every state go the sums of its arrays (training/sums.py). One that does not have them when it is read back, or
cannot be read, is damaged: it is set aside, which is said, and the one before it is taken.
"""

import contextlib
import errno
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from orbax.checkpoint import v1 as ocp

from rewardscale import mesh
from rewardscale.config import ConfigError, content_hash
from rewardscale.data.comparison import DataError
from rewardscale.training import small_states
from rewardscale.training.sums import kinds, sums_of

_ITEM, _SUMS, _JOINED = "state", "sums", "joined"
_RECORD = "_CHECKPOINT_METADATA"  # orbax's, of one checkpoint: it holds what is given as custom_metadata
_ASIDE = ".damaged"


class Damaged(DataError):
    """A stored state that is not what was written: files are missing, cut off or altered."""

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path} is damaged ({reason}): remove it, and run the same command again")
        self.path, self.reason = path, reason


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: their folder. kept: how many of the newest stay. seconds: least time between two.
    """

    def __init__(self, directory: Path, *, kept: int, seconds: float):
        self._seconds = seconds
        self._last = time.monotonic()
        self._saved: int | None = None
        self._writing: Any = None  # orbax's answer to the save in flight: a thread until asked for its result
        self._directory = Path(directory).absolute()
        self._kept = kept
        self._checkpointer = self._open()

    def _open(self) -> ocp.training.Checkpointer:
        """orbax's keeper of the folder. It reads all records at once: one that it cannot read is of a damaged one."""
        try:
            return ocp.training.Checkpointer(
                str(self._directory),
                # orbax's own class does not quite match orbax's own protocol
                preservation_policy=ocp.training.preservation_policies.LatestN(self._kept),  # pyright: ignore[reportArgumentType]
                cleanup_tmp_directories=True,  # what a killed process left half-written; the run's lock is ours
            )
        except Exception:
            stored = sorted(
                (p for p in self._directory.glob("*") if p.name.isdecimal()), key=lambda p: int(p.name)
            )
            damaged = [(path, reason) for path in stored if (reason := _unreadable(path))]
            for path, reason in damaged:
                _pass_over(Damaged(path, reason), "the newest whole one")
            if not damaged:
                raise
            return self._open()

    @property
    def latest(self) -> int:
        """The step of the newest whole checkpoint, -1 if there is none."""
        latest = self._checkpointer.latest
        return -1 if latest is None else latest.step

    def restore(self, abstract: Any) -> Any | None:
        """The newest whole checkpoint on the shardings of `abstract` (ShapeDtypeStructs), or None.

        A checkpoint that was being written when the machine died has no commit record and is passed over. One that is
        damaged is set aside, which stderr is told. With several hosts it is an error: one cannot know what others read.

        Raises ConfigError if it is of another state than `abstract`, Damaged with several hosts.
        """
        while (step := mesh.agreed(self.latest)) >= 0:
            path = self._directory / str(step)
            try:
                state = _read(
                    path,
                    abstract,
                    lambda wanted, at=step: self._checkpointer.load_checkpointables(at, wanted),
                )
            except Damaged as damage:
                before = [c.step for c in self._checkpointer.checkpoints if c.step < step]
                _pass_over(
                    damage, f"the one of step {max(before)}" if before else "none: there is no older one"
                )
                self._checkpointer.reload()
                continue
            self._saved = step
            return state
        return None

    def due(self) -> bool:
        """Whether the last save is longer ago than the wanted interval."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, step: int, state: Any) -> None:
        """Starts writing `state` as step `step` in the background; returns once it is copied from the devices."""
        if step == self._saved:
            return
        items, record = _written(state)
        with _full_disk(self._directory):
            self._finish()
            # force: orbax's default policy skips a save, without a word, while another one is being written
            self._writing = self._checkpointer.save_checkpointables_async(
                step, items, force=True, custom_metadata=record
            )
        self._last, self._saved = time.monotonic(), step

    def close(self) -> None:
        """Waits for writes in flight; raises what went wrong in them."""
        with _full_disk(self._directory), contextlib.closing(self._checkpointer):
            self._finish()

    def _finish(self) -> None:
        """Waits for the save in flight, if there is one; raises what went wrong in it."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()


def save_state(directory: Path, state: Any) -> None:
    """Writes one state to a new folder, whole when this returns."""
    items, record = _written(state)
    with _full_disk(directory):
        ocp.save_checkpointables(str(Path(directory).absolute()), items, custom_metadata=record)


def load_state(directory: Path, abstract: Any) -> Any:
    """What `save_state` wrote, on the shardings of `abstract` (ShapeDtypeStructs).

    Raises Damaged if it is not what was written, ConfigError if it is of another state than `abstract`.
    """
    path = Path(directory).absolute()
    return _read(path, abstract, lambda wanted: ocp.load_checkpointables(str(path), wanted))


def _written(state: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What orbax is given of a state: its items, and the record that goes with them."""
    sums, joined = sums_of(state), small_states.joined(state)
    record = {_SUMS: sums, "hash": content_hash(sums), _JOINED: joined is not None}
    return {_ITEM: state if joined is None else joined}, record


def _read(path: Path, abstract: Any, load: Callable[[Any], Any]) -> Any:
    """The state in `path`, compared with its sums; those of earlier versions have none, and orbax's checks do."""
    try:
        record = json.loads((path / _RECORD).read_text())["custom_metadata"] or {}
        sums = record.get(_SUMS)
        if sums is not None and content_hash(sums) != record["hash"]:
            raise ValueError("its sums are not what was written")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise Damaged(path, f"{_RECORD} cannot be read: {error}") from error
    if sums is not None:
        _check_kinds(path, {name: kind for name, (_, *kind) in sums.items()}, kinds(abstract))
    joined = record.get(_JOINED, False)
    try:
        state = load({_ITEM: small_states.abstract(abstract) if joined else abstract})[_ITEM]
        state = small_states.parted(state, abstract) if joined else state
    except Exception as error:  # of a dozen types, by which file it is
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise Damaged(path, _first_cause(error)) from error
    if sums is not None:
        found = sums_of(state)
        wrong = [name for name, values in found.items() if values != sums[name]]
        if wrong:
            raise Damaged(path, f"{len(wrong)} of {len(found)} arrays are not what was saved: {wrong[0]}")
    return state


def _check_kinds(path: Path, found: dict[str, list[Any]], wanted: dict[str, list[Any]]) -> None:
    """Raises ConfigError if a whole checkpoint holds another state than is wanted: it is not damaged."""
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            raise ConfigError(
                f"{path} holds another state than this run's: {name} is {found.get(name, 'not there')} and must be "
                f"{wanted.get(name, 'absent')}; name another --workdir, or remove it"
            )


def _first_cause(error: BaseException) -> str:
    """What the error that began a chain of them says, in a line."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"


def _unreadable(path: Path) -> str:
    """Empty, or why orbax cannot read a checkpoint's record."""
    try:
        ocp.checkpointables_metadata(str(path))
    except Exception as error:
        return _first_cause(error)
    return ""


def set_aside(path: Path, damage: Damaged, on: str) -> None:
    """Renames `path`, which is damaged, so that it is found and not used, and says so and how it goes `on`."""
    numbers = ("", *(f"-{n}" for n in range(2, 1000)))
    free = next(p for p in (path.with_name(f"{path.name}{_ASIDE}{n}") for n in numbers) if not p.exists())
    try:
        path.rename(free)
        now = f"kept as {free.name}"
    except FileNotFoundError:
        now = "another process has set it aside"
    print(
        f"warning: {damage.path} is damaged ({damage.reason}); {now}; going on from {on}",
        file=sys.stderr,
        flush=True,
    )


def _pass_over(damage: Damaged, on: str) -> None:
    if mesh.hosts() > 1:  # the others may have read their parts of it
        raise damage
    set_aside(damage.path, damage, f"checkpoint: {on}")


def passed_over(directory: Path) -> list[str]:
    """The names of what `set_aside` has left in a folder, in whichever process."""
    return sorted(path.name for path in Path(directory).glob(f"*{_ASIDE}*"))


@contextlib.contextmanager
def _full_disk(directory: Path) -> Iterator[None]:
    """Turns what a full disk makes orbax raise into an OSError that names the folder."""
    try:
        yield
    except Exception as error:
        if errno.errorcode[errno.ENOSPC] in str(error) or "No space left" in str(error):
            raise OSError(
                errno.ENOSPC,
                "the disk is full; the last whole checkpoint stays: free some space, and run the same command again",
                str(directory),
            ) from error
        raise


class Interrupted(BaseException):
    """The run was asked to stop (SIGTERM, SIGINT) and has saved its state."""


@contextlib.contextmanager
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
