"""Leases: one machine at a time is at a piece of work, without locks and without clocks that agree.

    <folder>/leases/<number>     owner, host, time, count; the highest number holds

A lease is taken by creating the next number, which the store grants to one alone; so a number is also a fencing token,
and no store needs to compare more than "is there one". Its owner puts its object again every sixth of `seconds`, with
the count advanced. It is stale once an observer, by its own monotonic clock, has seen the same bytes for `seconds`; the
times in it are for people. An owner that cannot put, or finds a higher number, has lost it. The highest number is never
deleted, so none is given twice.
"""

import contextlib
import dataclasses
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator

from rewardscale.remote.objects import Objects, StoreError

SECONDS = 90.0  # unless the caller says otherwise
_BEATS = 6  # within the time after which a lease is stale


class Lost(StoreError):
    """Another machine has taken the work over, or may have."""


@dataclasses.dataclass
class _Seen:
    """What this process saw of another's lease, when it first saw it so, and when it last looked."""

    data: bytes
    since: float
    looked: float


_seen: dict[tuple[str, str], _Seen] = {}


@contextlib.contextmanager
def held(
    objects: Objects, folder: str, *, seconds: float = SECONDS, clock: Callable[[], float] = time.monotonic
) -> Iterator["Lease | None"]:
    """Within the block nobody else is at `folder`; yields None if another one is.

    Call it again and again to take over from one that died: it is this process that must see that a lease stands still.
    """
    number = _next(objects, folder, seconds, clock)
    lease = None if number is None else Lease(objects, folder, number, seconds, clock)
    if lease is None or not lease.take():
        yield None
        return
    try:
        yield lease
    finally:
        lease.release()


def alive(objects: Objects, above: str) -> set[str]:
    """The folders below `above` that somebody is at.

    A lease whose time is near this machine's is believed. Where one is not, its owner is dead or a clock is wrong: then
    this waits for a heartbeat, a quarter of the time after which the lease is stale.
    """
    newest: dict[str, str] = {}
    for name in objects.names(f"{above}/"):  # sorted
        folder, found, number = name.rpartition("/leases/")
        if found and number.isdecimal():
            newest[folder] = name
    seen = objects.read_all(newest.values())
    records = {folder: json.loads(seen[name] or b'{"free": true}') for folder, name in newest.items()}
    held = {folder: record for folder, record in records.items() if not record["free"]}
    unsure = {f for f, record in held.items() if abs(time.time() - record["time"]) > record["seconds"] / 2}
    if unsure:
        time.sleep(max(held[folder]["seconds"] for folder in unsure) / 4)
        again = objects.read_all(newest[folder] for folder in unsure)
        unsure = {folder for folder in unsure if again[newest[folder]] == seen[newest[folder]]}
    return held.keys() - unsure


def _next(objects: Objects, folder: str, seconds: float, clock: Callable[[], float]) -> int | None:
    """The number to take, or None while another's lease stands."""
    key = (objects.url, folder)
    seen = _seen.get(key)
    if seen and clock() - seen.looked < seconds / _BEATS / 2:
        return None
    numbers = _numbers(objects, folder)
    if not numbers:
        return 1
    data = objects.read(_name(folder, numbers[-1]))
    if data is None:  # its successor has removed it
        return None
    record = json.loads(data)
    if record["free"]:
        return numbers[-1] + 1
    now = clock()
    if seen is None or seen.data != data:
        _seen[key] = _Seen(data, now, now)
        return None
    seen.looked = now
    return numbers[-1] + 1 if now - seen.since >= record["seconds"] else None


class Lease:
    """A lease that this process holds once `take` says so, and keeps alive in a thread."""

    def __init__(
        self, objects: Objects, folder: str, number: int, seconds: float, clock: Callable[[], float]
    ):
        self._objects, self._folder, self.number, self._seconds = objects, folder, number, seconds
        self._clock, self._count = clock, 0
        self._token = secrets.token_hex(8)
        self._lost, self._away = "", False  # why; whether it is that the store is away
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def take(self) -> bool:
        """Whether the number is this process's; the heart beats from here on."""
        self._proved = self._clock()
        if not self._objects.create(_name(self._folder, self.number), self._data()):
            return False
        _seen.pop((self._objects.url, self._folder), None)
        with contextlib.suppress(StoreError):  # what is left over says nothing
            older = [n for n in _numbers(self._objects, self._folder) if n < self.number]
            self._objects.delete(*(_name(self._folder, n) for n in older))
        self._thread.start()
        return True

    def check(self) -> None:
        """Raises Lost if the work may be another's."""
        if not self._lost and self._clock() - self._proved > self._seconds:
            self._away = True
            self._lost = f"no sign of life reached {self._objects.url} for {self._seconds:.0f} s"
        if self._lost:
            raise Lost(self._lost, passes=self._away)

    def release(self) -> None:
        """Lets the next one take it at once. A store that is gone is not told: the lease becomes stale."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(Lost, StoreError):
            self.check()
            self._objects.write(_name(self._folder, self.number), self._data(free=True))

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds / _BEATS):
            began = self._clock()
            try:
                if max(_numbers(self._objects, self._folder), default=0) > self.number:
                    self._lost = f"another machine has taken over {self._objects.url}/{self._folder}"
                    return
                self._count += 1
                self._objects.write(_name(self._folder, self.number), self._data())
            except StoreError:
                continue  # `check` counts how long
            self._proved = began

    def _data(self, *, free: bool = False) -> bytes:
        record = {
            "owner": self._token,
            "host": socket.gethostname(),
            "time": time.time(),
            "count": self._count,
            "seconds": self._seconds,
            "free": free,
        }
        return json.dumps(record).encode()


def _numbers(objects: Objects, folder: str) -> list[int]:
    names = (name.rpartition("/")[2] for name in objects.names(f"{folder}/leases/"))
    return sorted(int(name) for name in names if name.isdecimal())


def _name(folder: str, number: int) -> str:
    return f"{folder}/leases/{number:08d}"
