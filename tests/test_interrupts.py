"""A signal that comes where Python drops exceptions, or inside an import, ends the program all the same."""

import os
import signal
import subprocess
import sys
import textwrap

import pytest

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
