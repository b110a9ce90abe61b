"""A run in a folder of this machine, kept on the store: its lease, its checkpoints, its results at the end.

    <run>/leases/<number>            who is at it (leases.py)
    <run>/checkpoints/<step>.json    a commit: checkpoint/..., and run/metrics.jsonl as it was then
    <run>/done.json                  a commit: all else that the run's folder holds; the first one stays
    <run>/error.json                 why it failed, if it did
    <trunk>/leases/<number>, <trunk>/<step>.json     who extends what runs share, and a commit of each state

Checkpoints go up in a thread of their own, the newest that is whole; older ones that it passes over do not.
"""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from rewardscale import atomic
from rewardscale.remote import commits, leases, origin, publish
from rewardscale.remote.leases import Lost
from rewardscale.remote.objects import Objects, StoreError

__all__ = ["Kept", "Lost", "keeping"]

_CHECKPOINTS = "checkpoints"
_WHOLE = "_CHECKPOINT_METADATA"  # orbax's; a folder with a bare number and this file is a whole checkpoint
_WITH_THEM = ("metrics.jsonl", "trunk.json")
_NOT_RESULTS = ("lock", "error.json")
_LOOK_SECONDS = 0.5
_CHECKPOINTS_KEPT = 2
_PATIENCE = 1.5  # times the seconds after which a lease that stands still is stale


class Kept:
    """A run whose folder is its own: nothing to bring, nothing to send."""

    def bring(self, done: str, last: str) -> bool:
        """Brings the commit `done` of the run, else its newest checkpoint; whether it is done. Raises StoreError."""
        return False

    def check(self) -> None:
        """Raises Lost if another machine may have taken the run over."""

    def checking[**P](self, then: Callable[P, None] | None) -> Callable[P, None]:
        """`then`, which is told of progress, after `check`."""

        def told(*args: P.args, **kwargs: P.kwargs) -> None:
            self.check()
            if then is not None:
                then(*args, **kwargs)

        return told

    def finish(self, done: str, last: str) -> None:
        """Sends the run's folder as the commit `done`; where another machine's was first, that one is brought here."""

    def fail(self, name: str) -> None:
        """Sends the file `name`, which says why the run failed."""

    def send_folder(self, folder: Path, *, last: Collection[str] = ()) -> None:
        """Sends a folder of the workdir under its own names, files named as in `last` at the end. Raises as `check`."""

    def bring_folder(self, folder: Path) -> None:
        """Brings what `send_folder` sent, unless it is there."""


@contextlib.contextmanager
def keeping(workdir: Path, directory: Path, *, seconds: float, wait: bool = False) -> Iterator[Kept | None]:
    """Within the block the run in `directory`, below `workdir`, is this machine's; None if it is another's.

    A folder that is no copy of a store is its own: then nobody else asks. At the end, however it comes, the newest
    checkpoint goes to the store and the lease is let go.

    `seconds`: without a sign of life, others take over. `wait`: as long as it takes to see whether a holder lives.
    """
    store = origin.objects(workdir)
    if store is None:
        yield Kept()
        return
    name = directory.relative_to(workdir).as_posix()
    with contextlib.ExitStack() as resources:
        patience = time.monotonic() + (_PATIENCE * seconds if wait else 0)
        while (lease := resources.enter_context(leases.held(store, name, seconds=seconds))) is None:
            if time.monotonic() > patience:
                break
            time.sleep(seconds / 10)
        if lease is None:
            yield None
            return
        kept = _OnStore(store, name, workdir, directory, lease)
        try:
            yield kept
        finally:
            kept.close()


@contextlib.contextmanager
def extending(workdir: Path, directory: Path, *, seconds: float) -> Iterator[bool]:
    """Within the block no other machine extends the states in `directory`; yields False if one is doing so.

    The newest state of the others is brought first, and what was added goes to the store at the end.
    """
    store = origin.objects(workdir)
    if store is None:
        yield True
        return
    name = directory.relative_to(workdir).as_posix()
    with leases.held(store, name, seconds=seconds) as lease:
        if lease is None:
            yield False
            return
        bring_state(workdir, directory)
        try:
            yield True
        finally:
            with contextlib.suppress(StoreError):  # it is shared to save work, and no run needs it
                for path in sorted(directory.glob("*")):
                    if path.name.isdecimal() and int(path.name) not in _steps(store, name):
                        commits.commit(store, f"{name}/{path.name}", path, commits.files_below(path))


def bring_state(workdir: Path, directory: Path, *, most: int | None = None) -> None:
    """Brings the newest state in the store, of step `most` at most, unless there is one as new in `directory`."""
    store = origin.objects(workdir)
    if store is None:
        return
    name = directory.relative_to(workdir).as_posix()
    step = max((s for s in _steps(store, name) if most is None or s <= most), default=-1)
    record = commits.read(store, f"{name}/{step}") if step >= 0 else None
    if record is not None and not (directory / str(step)).exists():
        with atomic.new_directory(directory / str(step)) as made:
            commits.fetch(store, f"{name}/{step}", record, made)


def _steps(store: Objects, folder: str) -> list[int]:
    """The steps of which there is a commit in a folder of the store."""
    names = (name.removeprefix(f"{folder}/").removesuffix(".json") for name in store.names(f"{folder}/"))
    return sorted({int(name) for name in names if name.isdecimal()})


class _OnStore(Kept):
    def __init__(self, store: Objects, name: str, workdir: Path, directory: Path, lease: leases.Lease):
        self._store, self._name, self._lease = store, name, lease
        self._workdir, self._directory = workdir, directory
        self._sent, self._over = -1, False
        self._sending = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_checkpoints, name="checkpoints", daemon=True)

    def bring(self, done: str, last: str) -> bool:
        name = f"{self._name}/{done}"
        if origin.bring(
            self._store, self._workdir, name, self._store.read(f"{name}.json"), self._directory, last=last
        ):
            self._over = True
            return True
        stored = _steps(self._store, f"{self._name}/{_CHECKPOINTS}")
        self._sent = stored[-1] if stored else -1
        if stored and stored[-1] > max(_whole(self._directory), default=-1):
            self._bring_checkpoint(stored[-1])
        self._thread.start()
        return False

    def _bring_checkpoint(self, step: int) -> None:
        name = f"{self._name}/{_CHECKPOINTS}/{step}"
        record = commits.read(self._store, name)
        if record is None:
            return
        with commits.scratch(self._directory) as made:
            commits.fetch(self._store, name, record, Path(made))
            for file in commits.files_below(Path(made) / "run"):
                atomic.write_bytes(self._directory / file, (Path(made) / "run" / file).read_bytes())
            folder = self._directory / _CHECKPOINTS
            folder.mkdir(parents=True, exist_ok=True)
            os.replace(Path(made) / "checkpoint", folder / str(step))

    def check(self) -> None:
        self._lease.check()

    def finish(self, done: str, last: str) -> None:
        self._lease.check()
        self._send_newest()
        name = f"{self._name}/{done}"
        files = [file for file in commits.files_below(self._directory) if _is_result(file)]
        commits.commit(self._store, name, self._directory, files)
        data = self._store.read(f"{name}.json")
        origin.bring(self._store, self._workdir, name, data, self._directory, last=last)  # the first writer's
        self._store.delete(f"{self._name}/error.json")
        self._forget(keep=1)
        self._over = True

    def fail(self, name: str) -> None:
        with contextlib.suppress(StoreError, Lost):  # what went wrong first is what is said
            self._lease.check()
            self._store.write(f"{self._name}/{name}", (self._directory / name).read_bytes())

    def send_folder(self, folder: Path, *, last: Collection[str] = ()) -> None:
        self._lease.check()
        publish.publish_folder(
            self._store, self._workdir, folder.relative_to(self._workdir).as_posix(), last=last
        )

    def bring_folder(self, folder: Path) -> None:
        publish.bring_folder(self._store, self._workdir, folder.relative_to(self._workdir).as_posix())

    def close(self) -> None:
        """Sends the newest checkpoint; a store that is gone does without it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        if not self._over:
            with contextlib.suppress(StoreError, Lost):
                self._lease.check()
                self._send_newest()

    def _send_checkpoints(self) -> None:
        while not self._ended.wait(_LOOK_SECONDS):
            with contextlib.suppress(StoreError, Lost):  # tried again; the lease knows how long
                self._lease.check()
                self._send_newest()

    def _send_newest(self) -> None:
        with self._sending, contextlib.suppress(FileNotFoundError):  # passed over by newer ones meanwhile
            step = max(_whole(self._directory), default=-1)
            if step <= self._sent:
                return
            with commits.scratch(self._directory) as made:
                commits.linked(self._directory / _CHECKPOINTS / str(step), Path(made) / "checkpoint")
                for file in _WITH_THEM:
                    if (self._directory / file).exists():
                        (Path(made) / "run").mkdir(exist_ok=True)
                        shutil.copyfile(self._directory / file, Path(made) / "run" / file)
                name = f"{self._name}/{_CHECKPOINTS}/{step}"
                files = commits.files_below(Path(made))
                commits.commit(self._store, name, Path(made), files, writer=f"{self._lease.number:08d}-")
            self._sent = step
            self._forget(keep=_CHECKPOINTS_KEPT)

    def _forget(self, *, keep: int) -> None:
        """Removes all but the newest checkpoints, and files of uploads that were never committed.

        Of the latter only this and earlier holders' of the lease: a later one may be at its own.
        """
        below = f"{self._name}/{_CHECKPOINTS}/"
        steps = _steps(self._store, below.rstrip("/"))
        self._store.delete(*(f"{below}{step}.json" for step in steps[:-keep]))
        records = [commits.read(self._store, f"{below}{step}") for step in steps[-keep:]]
        wanted = tuple(f"{record['at']}/" for record in records if record)
        oldest = steps[-keep] if len(steps) >= keep else 0
        files = (name for name in self._store.names(below) if not name.endswith(".json"))
        gone = [name for name in files if not name.startswith(wanted) and self._is_old(name, below, oldest)]
        self._store.delete(*gone)

    def _is_old(self, name: str, below: str, oldest: int) -> bool:
        step, _, rest = name.removeprefix(below).partition(".")
        return int(step) < oldest or int(rest.partition("-")[0]) <= self._lease.number


def _whole(directory: Path) -> list[int]:
    """The steps of the whole checkpoints in a run's folder."""
    found = (directory / _CHECKPOINTS).glob("*")
    return sorted(int(path.name) for path in found if path.name.isdecimal() and (path / _WHOLE).exists())


def _is_result(file: str) -> bool:
    return file not in _NOT_RESULTS and not file.startswith(f"{_CHECKPOINTS}/")
