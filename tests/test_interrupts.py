"""A signal that comes where Python drops exceptions, or inside an import, ends the program all the same."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from rewardscale import interrupts

PROGRAM = """
import signal, sys, time
from rewardscale import interrupts

interrupts.raise_on(signal.SIGTERM, lambda: SystemExit(7))

def ready():
    print("ready", flush=True)
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
"""
PLACES = {
    "between two lines": "ready()",
    "a callback of the garbage collector": """
        import gc
        gc.callbacks.append(lambda phase, info: gc.callbacks.clear() or ready())
        gc.collect()
        """,
    "a finalizer": """
        class Loud:
            def __del__(self):
                ready()
        Loud()
        """,
    "an import": "import slow",
    "a wait": """
        import threading
        print("ready", flush=True)
        threading.Event().wait()
        """,
}
# Dies on the spot where an exception leaves it.
SLOW = """
import __main__, os
try:
    __main__.ready()
except BaseException:
    os._exit(3)
"""


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_is_not_lost_in(place, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    code = PROGRAM + textwrap.dedent(PLACES[place]) + "\ntime.sleep(30)\nprint('lost')\n"
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None and program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGTERM)
    rest, _ = program.communicate(timeout=60)
    assert (program.returncode, rest) == (7, "")


TWICE = """
import os, time

for _ in range(2):
    os.kill(os.getpid(), 15)
    until = time.monotonic() + 0.12
    while time.monotonic() < until:
        pass
"""


def test_two_signals_in_an_import_are_one(tmp_path):
    """Or the second would come while what the first began is being cleaned up."""
    (tmp_path / "twice.py").write_text(TWICE)
    code = (
        PROGRAM
        + "try:\n    import twice\n    time.sleep(30)\nfinally:\n    time.sleep(0.4)\n    print('cleaned')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (7, "cleaned\n"), done.stderr


def test_handlers_that_others_put_there_stay_theirs():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with interrupts.interruptible(before):
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGUSR1)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGUSR1) == before[signal.SIGUSR1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
