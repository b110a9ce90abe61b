"""Exit codes say who is to act: the writer of the input, or whoever starts the command again."""

import errno
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from rewardscale.cli import exit_code
from rewardscale.config import ConfigError
from rewardscale.exits import AGAIN, INTERRUPTED, UNUSABLE
from rewardscale.remote import objects
from rewardscale.remote.objects import Objects
from tests import object_store


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


def listing(url: str):
    def command() -> int:
        Objects(url).check()
        return 0

    return command


@pytest.fixture
def s3_at(monkeypatch):
    """Has s3:// be what answers at a port of this machine, or nothing."""

    def at(port: int) -> None:
        for name, value in object_store.environment(f"http://127.0.0.1:{port}").items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv(objects.RETRIES_VARIABLE, "1")

    objects._open.cache_clear()
    yield at
    objects._open.cache_clear()


def test_a_store_that_is_away_is_to_be_tried_again(capsys, s3_at) -> None:
    with socket.socket() as taken:  # bound, and nobody listens: the connection is refused
        taken.bind(("127.0.0.1", 0))
        s3_at(taken.getsockname()[1])
        assert exit_code(listing("s3://bucket/x"), kept="kept") == AGAIN
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: s3://bucket/x cannot be reached: ")
    assert said[0].endswith("; kept")


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(503, "SlowDown", AGAIN), (500, "InternalError", AGAIN), (429, "TooManyRequests", AGAIN)]
    + [(403, code, UNUSABLE) for code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")]
    + [(404, "NoSuchBucket", UNUSABLE)],
)
def test_a_store_that_refuses_is_not(capsys, s3_at, status: int, code: str, expected: int) -> None:
    """A stand-in for S3 that answers everything with one error, in S3's own words."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/xml")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        s3_at(made.server_address[1])
        try:
            assert exit_code(listing("s3://bucket/x")) == expected
        finally:
            made.shutdown()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith("error: s3://bucket/x cannot be reached: ")


@pytest.mark.parametrize("number", [errno.ECONNREFUSED, errno.ENETUNREACH, errno.EACCES])
def test_so_with_a_store_that_fsspec_reaches(monkeypatch, number: int) -> None:
    """Drivers' errors that are OSErrors with a number and no ConnectionError, as aiohttp's."""

    class DriverError(OSError):
        pass

    def find(*_: object, **__: object) -> list[str]:
        raise DriverError(number, os.strerror(number))

    monkeypatch.setattr("fsspec.implementations.memory.MemoryFileSystem.find", find)
    expected = UNUSABLE if number == errno.EACCES else AGAIN
    assert exit_code(listing("memory://box/x")) == expected


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
