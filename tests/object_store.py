"""A real S3 server (moto's) on loopback, in an environment of its own, and a proxy that can make it fail.

`make s3-server` builds the environment; REWARDSCALE_S3_SERVER names its Python elsewhere. Where there is none, tests
skip: botocore, which the server needs, wants an older python-dateutil than kubernetes.
"""

import contextlib
import http.client
import http.server
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("REWARDSCALE_S3_SERVER") or REPO / ".venv-s3" / "bin" / "python")
BUCKET = "bucket"

needs_s3 = pytest.mark.skipif(
    not PYTHON.exists(), reason="no S3 server in an environment of its own: make s3-server"
)

# The stand-in for a person's credentials: the server takes any.
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}
_MAKE_BUCKET = (
    "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket=sys.argv[2])"
)


@contextlib.contextmanager
def server() -> Iterator[str]:
    """Starts a server with an empty bucket; yields its endpoint."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    command = [str(PYTHON), "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | CREDENTIALS
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while not _answers(f"{endpoint}/moto-api/"):
            assert process.poll() is None and time.monotonic() < until, "the S3 server does not start"
            time.sleep(0.1)
        making = [str(PYTHON), "-c", _MAKE_BUCKET, endpoint, BUCKET]
        subprocess.run(making, env=environment, check=True, timeout=60)
        yield endpoint
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


def environment(endpoint: str, cache: Path | None = None) -> dict[str, str]:
    """What a process needs to reach the server, as the machine whose cache is `cache`."""
    return CREDENTIALS | {"AWS_ENDPOINT_URL_S3": endpoint} | ({"XDG_CACHE_HOME": str(cache)} if cache else {})


# What becomes of a request: (method, path, how many so far) -> a status to answer with, or None to pass it on.
Fate = Callable[[str, str, int], int | None]


@contextlib.contextmanager
def proxy(endpoint: str, fate: Fate, *, after: bool = False) -> Iterator[str]:
    """A proxy before the server that answers some requests with an error itself; yields its endpoint.

    `after`: it passes those on too, and it is their answers that are lost.
    """
    host = endpoint.removeprefix("http://")
    counted, lock = 0, threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            nonlocal counted
            with lock:
                counted += 1
                number = counted
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status = fate(self.command, self.path, number)
            if status is None or after:
                server = http.client.HTTPConnection(host, timeout=30)
                server.request(self.command, self.path, body, dict(self.headers))
                answer = server.getresponse()
                data, headers, passed = answer.read(), answer.getheaders(), answer.status
                server.close()
            if status is not None:
                data, headers, passed = b"<Error><Code>SlowDown</Code></Error>", [], status
            self.send_response(passed)
            for key, value in headers:
                if key.lower() not in ("content-length", "transfer-encoding", "connection", "date", "server"):
                    self.send_header(key, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

        def log_message(self, format: str, *args: object) -> None:
            del format, args

    made = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_address[1]}"
    finally:
        made.shutdown()
        made.server_close()
