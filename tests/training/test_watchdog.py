"""A training that hangs says where."""

import os
import pickle
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rewardscale import exits
from rewardscale.data.tokenised import TokenisedView, open_view
from rewardscale.training.watchdog import Watchdog, stacks
from tests.training.running import STEPS, case, train

REPO = Path(__file__).parents[2]
SCRIPT = """
import os, pickle, sys
from pathlib import Path
from tests.training import running
run, data = pickle.loads(Path(sys.argv[1]).read_bytes())
(shard,) = data.view_directory.glob("*.tokens")
shard.unlink()
os.mkfifo(shard)
running.train(run, data, Path(sys.argv[2]), watchdog_seconds=2.0, watchdog_exit=True)
"""


def test_a_blocked_source_of_data(pairs_view: TokenisedView, tmp_path: Path) -> None:
    """Its tokens lie in a pipe that nobody writes to, as on a file system that has gone: reading them never ends."""
    shutil.copytree(pairs_view.directory, tmp_path / "view")
    run, data = case(open_view(tmp_path / "view"))
    (tmp_path / "case.pickle").write_bytes(pickle.dumps((run, data)))
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "case.pickle"), str(tmp_path / "run")]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == exits.AGAIN, done.stderr
    found = (tmp_path / "run" / "hang.txt").read_text()
    for text in (found, done.stderr):
        assert f"warning: process 0 on {socket.gethostname()} (pid " in text
        assert f"at the first block, from step 0 of {STEPS}" in text
        assert "rewardscale/training/loop.py" in text  # who waits
        assert "rewardscale/data/" in text  # for whom


def test_it_says_so_once_and_lets_it_go_on(pairs_view: TokenisedView, tmp_path: Path, capfd: Any) -> None:
    train(*case(pairs_view), tmp_path / "warm")

    def progress(done: int, steps: int) -> None:
        if done == 5:
            time.sleep(1.5)

    train(*case(pairs_view), tmp_path / "run", watchdog_seconds=0.5, on_progress=progress)
    found = (tmp_path / "run" / "hang.txt").read_text()
    assert found.count(f"after step 5 of {STEPS} was begun") == 1  # a slow disk may have it speak of others
    assert "in progress" in found and "has not got on for" in capfd.readouterr().err


def test_a_training_that_gets_on_is_left_alone(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path, 1.0)
    for n in range(20):
        time.sleep(0.08)
        watchdog.beat(f"step {n}")
    watchdog.close()
    off = Watchdog(tmp_path, 0.0)
    time.sleep(0.5)
    off.close()
    assert not (tmp_path / "hang.txt").exists()


@pytest.mark.parametrize("seconds", [0.2])
def test_a_folder_that_is_gone_does_not_silence_it(seconds: float, tmp_path: Path, capfd: Any) -> None:
    watchdog = Watchdog(tmp_path / "gone", seconds)
    time.sleep(4 * seconds)
    watchdog.close()
    error = capfd.readouterr().err
    assert "has not got on for" in error and "test_watchdog.py" in error and "cannot be written" in error


FROZEN = """
import sys, time
from pathlib import Path
from rewardscale.training import watchdog
watchdog._WRITE_SECONDS = 0.5
watchdog.Watchdog(Path(sys.argv[1]), 0.3, leave=True)
time.sleep(60)
"""


def test_a_folder_that_hangs_does_not_keep_it(tmp_path: Path) -> None:
    """hang.txt is a pipe that nobody reads: opening it never ends, as on a file system that has gone."""
    os.mkfifo(tmp_path / "hang.txt")
    command = [sys.executable, "-c", FROZEN, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == exits.AGAIN, done.stderr
    assert "has not got on for" in done.stderr and "hang.txt is not written after" in done.stderr


def test_the_main_thread_is_named_first_of_more_than_a_hundred() -> None:
    """Idle threads of pools, as jax has them, are told in one entry."""
    stop = threading.Event()
    idle = [threading.Thread(target=stop.wait, name=f"idle-{n}") for n in range(120)]
    for thread in idle:
        thread.start()
    try:
        found = stacks()
    finally:
        stop.set()
        for thread in idle:
            thread.join()
    assert found.startswith("MainThread:\n") and "test_watchdog.py" in found.splitlines()[2]
    assert "and 117 more" in found
