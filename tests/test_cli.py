"""Exit codes say who is to act: the writer of the input, or whoever starts the command again."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rewardscale.cli import exit_code
from rewardscale.config import ConfigError
from rewardscale.exits import AGAIN, INTERRUPTED, UNUSABLE


def failing(error: BaseException):
    def command() -> int:
        raise error

    return command


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOSPC, errno.ENOTCONN])
def test_a_fault_of_the_machine_is_to_be_tried_again(capsys, number: int) -> None:
    assert exit_code(failing(OSError(number, os.strerror(number), "/shared/run")), kept="kept") == AGAIN
    assert capsys.readouterr().err == f"error: {os.strerror(number)} (/shared/run); kept\n"


@pytest.mark.parametrize(
    "error", [FileNotFoundError(errno.ENOENT, "No such file", "x"), ConfigError("wrong")]
)
def test_bad_input_is_not(capsys, error: Exception) -> None:
    assert exit_code(failing(error)) == UNUSABLE
    assert capsys.readouterr().err.startswith("error: ")


def test_sigterm_at_any_time_is_a_stop_to_be_queued_again(capsys) -> None:
    """Before a command has handlers of its own as well: it has nothing to save then."""
    before = signal.getsignal(signal.SIGTERM)

    def command() -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)
        return 0

    assert exit_code(command) == INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) == before


def test_sigterm_while_jax_is_brought(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "rewardscale.launch", "--config=sweep.py:smoke"]
    process = subprocess.Popen([*command, f"--workdir={tmp_path}"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if line.rstrip().endswith(" jax.version"):
            process.terminate()
            break
    _, error = process.communicate(timeout=60)
    assert process.returncode == INTERRUPTED, error
    assert "interrupted; the same command goes on" in error and "Traceback" not in error
