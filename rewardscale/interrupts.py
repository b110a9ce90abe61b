"""Signals that raise, and are not lost: SIGTERM and Ctrl-C as KeyboardInterrupt, or as an exit.

Python drops what a signal's handler raises inside a callback of the garbage collector or a finalizer, and jax has such
a callback at every collection; inside an import it does harm: an extension that is half initialised may drop it too, or
abort the process once it is imported again. There a signal comes again a moment later.
"""

import _thread
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

_AGAIN_SECONDS = 0.05
_LONGEST_SECONDS = 10.0  # for which imports put a signal off: one may be the whole program


def raise_on(number: signal.Signals, error: Callable[[], BaseException]) -> Any:
    """Makes a signal raise `error()` in the main thread, which is to call this; returns the handler it had before."""
    _hear_what_is_dropped()
    since = 0.0  # when one was put off first

    def handler(_: int, frame: FrameType | None) -> None:
        nonlocal since
        now = time.monotonic()
        since = since or now
        if _imports(frame) and now - since < _LONGEST_SECONDS:
            _send_again(number)
            return
        since = 0.0
        raised = error()
        vars(raised)["signal"] = number  # for `hook`
        raise raised

    return signal.signal(number, handler)


def _imports(frame: FrameType | None) -> bool:
    """Whether an import is going on in a frame."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _hear_what_is_dropped() -> None:
    before = sys.unraisablehook
    if getattr(before, "of_signals", False):
        return

    def hook(dropped: Any) -> None:
        number = getattr(dropped.exc_value, "signal", None)
        if isinstance(number, signal.Signals):
            _send_again(number)
        else:
            before(dropped)

    vars(hook)["of_signals"] = True
    sys.unraisablehook = hook


def _send_again(number: signal.Signals) -> None:
    main = threading.main_thread().ident
    assert main is not None

    def send() -> None:
        time.sleep(_AGAIN_SECONDS)
        signal.pthread_kill(main, number)  # not to this thread: what the main one waits for is to end

    _thread.start_new_thread(send, ())  # takes no lock that the interrupted code may hold
