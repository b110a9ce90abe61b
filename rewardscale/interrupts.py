"""Signals that raise: SIGTERM and Ctrl-C as KeyboardInterrupt, or as an exit, wherever they come.

Python drops what a signal's handler raises inside a callback of the garbage collector or a finalizer, and jax has such
a callback at every collection; inside an import it does harm: an extension that is half initialised may drop it too, or
abort the process once it is imported again. There a signal comes again a moment later.
"""

import _thread
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

_AGAIN_SECONDS = 0.05
_LONGEST_SECONDS = 10.0  # for which imports put a signal off: one may be the whole program
_coming: set[signal.Signals] = set()  # that are on their way again


@contextlib.contextmanager
def interruptible(numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Within it each of the signals raises KeyboardInterrupt; handlers that others put there meanwhile stay theirs."""
    before = {number: signal.getsignal(number) for number in numbers}
    ours = {number: raise_on(number, KeyboardInterrupt) for number in before}
    try:
        yield
    finally:
        for number, handler in ours.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before[number])


def raise_on(number: signal.Signals, error: Callable[[], BaseException]) -> Callable[..., None]:
    """Makes a signal raise `error()` in the main thread, which is to call this; returns the handler."""
    _hear_what_is_dropped()
    since = 0.0  # when one was put off first

    def handler(_: int, frame: FrameType | None) -> None:
        nonlocal since
        now = time.monotonic()
        since = since or now
        if _imports(frame) and now - since < _LONGEST_SECONDS and _sent_again(number):
            return
        since = 0.0
        raised = error()
        vars(raised)["signal"] = number  # for `hook`
        raise raised

    signal.signal(number, handler)
    return handler


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
        if not isinstance(number, signal.Signals) or not _sent_again(number):
            before(dropped)

    vars(hook)["of_signals"] = True
    sys.unraisablehook = hook


def _sent_again(number: signal.Signals) -> bool:
    """Has a signal come again, once however often it came; False where that cannot be."""
    main = threading.main_thread().ident
    if number in _coming or main is None:
        return main is not None

    def send() -> None:
        time.sleep(_AGAIN_SECONDS)
        _coming.discard(number)
        if signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):  # else all is over
            signal.pthread_kill(main, number)  # not to this thread: what the main one waits for is to end

    _coming.add(number)
    try:
        _thread.start_new_thread(send, ())  # takes no lock that the interrupted code may hold
    except RuntimeError:  # no thread can be had
        _coming.discard(number)
        return False
    return True
