"""A thread that says so when a training no longer gets on: which process, at what, and where all its threads are.

A host that hangs (a dead network file system, a collective whose partner is gone) says nothing by itself. The message
and the stacks go to stderr first, which may be all that still works, then to <run>/hang.txt (hang-<process>.txt for
the processes of other hosts).
"""

import datetime
import os
import socket
import sys
import threading
import time
from pathlib import Path

import jax

from rewardscale import exits

_WRITE_SECONDS = 5.0


class Watchdog:
    """Watches from its making to `close`.

    Args:
      directory: the run's folder. seconds: without `beat` for so long it speaks, once; 0: never.
      leave: whether it then ends the process with exits.AGAIN, as the process itself no longer can.
    """

    def __init__(self, directory: Path, seconds: float, *, leave: bool = False):
        self._directory, self._seconds, self._leave = Path(directory), seconds, leave
        self._closed = threading.Event()
        self._last: tuple[float, str] = (time.monotonic(), "starting")
        if seconds > 0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, where: str) -> None:
        """The training has got on, and is now at `where`."""
        self._last = (time.monotonic(), where)

    def close(self) -> None:
        """Ends the watch."""
        self._closed.set()

    def _watch(self) -> None:
        told = None
        while not self._closed.wait(min(self._seconds / 4, 10.0)):
            last = self._last
            idle = time.monotonic() - last[0]
            if idle >= self._seconds and told is not last:
                told = last
                self._tell(idle, last[1])

    def _tell(self, idle: float, where: str) -> None:
        process = jax.process_index()
        message = (
            f"warning: process {process} on {socket.gethostname()} (pid {os.getpid()}) has not got on for "
            f"{idle:.0f} s: {where}. {datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC. Stacks of its "
            "threads, the newest call first:\n"
        )
        message += stacks()
        print(message, end="", file=sys.stderr, flush=True)
        path = self._directory / (f"hang-{process}.txt" if process else "hang.txt")
        # In a thread of its own: the file may lie on what hangs.
        writing = threading.Thread(target=_append, args=(path, message), name="hang.txt", daemon=True)
        writing.start()
        writing.join(_WRITE_SECONDS)
        if writing.is_alive():
            print(f"warning: {path} is not written after {_WRITE_SECONDS:.0f} s", file=sys.stderr, flush=True)
        if self._leave:
            os._exit(exits.AGAIN)


def _append(path: Path, message: str) -> None:
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(message)
    except OSError as error:
        print(f"warning: {path} cannot be written: {error}", file=sys.stderr, flush=True)


def stacks() -> str:
    """What every Python thread is at, the main one first, the newest call first; threads at the same place together.

    Unlike faulthandler's, of more than 100 threads too; no source is read, which may lie on what hangs.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    at: dict[tuple[str, ...], list[str]] = {}
    main = threading.main_thread().ident
    for ident, frame in sorted(sys._current_frames().items(), key=lambda item: item[0] != main):
        lines = []
        while frame is not None:
            lines.append(
                f'  File "{frame.f_code.co_filename}", line {frame.f_lineno} in {frame.f_code.co_name}'
            )
            frame = frame.f_back
        at.setdefault(tuple(lines), []).append(names.get(ident, str(ident)))
    return "".join(
        f"{', '.join(who[:3])}{f' and {len(who) - 3} more' if len(who) > 3 else ''}:\n"
        + "\n".join(lines)
        + "\n"
        for lines, who in at.items()
    )
