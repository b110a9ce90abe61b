"""`transformers serve` of the reference environment: a real generating model behind OpenAI's wire format."""

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import reference

_MODULES = ("transformers", "accelerate", "fastapi", "openai", "uvicorn")


def _missing() -> str:
    """Why there is no server, "" where there is one."""
    if not reference.PYTHON.exists():
        return "no reference environment (PyTorch, transformers): make reference"
    found = "import importlib.util as u, sys; print([m for m in sys.argv[1:] if not u.find_spec(m)])"
    done = subprocess.run(
        [str(reference.PYTHON), "-c", found, *_MODULES], capture_output=True, text=True, check=False
    )
    lacks = done.stdout.strip()
    return "" if lacks == "[]" else f"the reference environment lacks {lacks or done.stderr}: make reference"


why_not = _missing()
needs_server = pytest.mark.skipif(bool(why_not), reason=why_not)


@dataclasses.dataclass(frozen=True)
class Server:
    """Any model folder is loaded when a request names it. url: with /v1. log: what the server prints."""

    url: str
    log: Path

    @property
    def answered(self) -> int:
        """Chat completions so far."""
        return self.log.read_text(errors="replace").count('"POST /v1/chat/completions HTTP/1.1" 200')


@contextlib.contextmanager
def server(folder: Path, *, seconds: float = 120) -> Iterator[Server]:
    """Runs while the context lasts; its log lies in `folder`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = Server(f"http://127.0.0.1:{port}/v1", folder / "serve.txt")
    command = [str(reference.PYTHON), "-m", "transformers.cli.transformers", "serve", "--device", "cpu"]
    with found.log.open("w") as log:
        process = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=reference.environment() | {"HOME": str(folder), "PYTHONUNBUFFERED": "1"},
            stdout=log, stderr=log, cwd=folder, start_new_session=True,
        )  # fmt: skip
        try:
            until = time.monotonic() + seconds
            while not _answers(found.url):
                assert process.poll() is None and time.monotonic() < until, found.log.read_text()[-3000:]
                time.sleep(0.3)
            yield found
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    # Not /v1/models, which looks through the hub's cache, and for a hub.
    with (
        contextlib.suppress(OSError),
        urllib.request.urlopen(url.removesuffix("/v1") + "/health", timeout=5) as answer,
    ):
        return answer.status == 200
    return False
