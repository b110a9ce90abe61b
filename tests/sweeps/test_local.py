"""How a worker process ends."""

import subprocess
import sys
import time

import pytest

STUCK = """
import sys, threading, time
from rewardscale.sweeps.executors import local
threading.Thread(target=time.sleep, args=(60,)).start()
def work():
    {}
local._leaving_at_once(work)
"""


@pytest.mark.parametrize(
    ("work", "code", "said"),
    [("pass", 0, ""), ("sys.exit(143)", 143, ""), ("raise OSError('gone')", 1, "OSError: gone")],
)
def test_a_thread_that_is_stuck_does_not_keep_it(work: str, code: int, said: str) -> None:
    """As a save's is on a disk that fails: the launcher would wait a minute for it, twice what a cluster gives."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", STUCK.format(work)], capture_output=True, text=True, timeout=50
    )
    assert (done.returncode, time.monotonic() - began < 40) == (code, True)
    assert said in done.stderr and ("Traceback" in done.stderr) == bool(said)
