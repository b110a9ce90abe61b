"""A real Label Studio in an environment of its own, started for a test.

`make label-studio` builds the environment; REWARDSCALE_LABEL_STUDIO names the command elsewhere. Where there is none,
tests skip.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

REPO = Path(__file__).parents[1]
COMMAND = Path(
    os.environ.get("REWARDSCALE_LABEL_STUDIO") or REPO / ".venv-label-studio" / "bin" / "label-studio"
)

needs_label_studio = pytest.mark.skipif(
    not COMMAND.exists(), reason="no Label Studio in an environment of its own: make label-studio"
)


@contextlib.contextmanager
def server(folder: Path, *, seconds: float = 240) -> Iterator[tuple[str, str]]:
    """Starts a server that keeps its data in `folder`; yields its url and an administrator's legacy token."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url, token = f"http://127.0.0.1:{port}", secrets.token_hex(20)
    environment = {name: os.environ[name] for name in ("PATH", "LANG", "TMPDIR") if name in os.environ} | {
        "HOME": str(folder), "LABEL_STUDIO_BASE_DATA_DIR": str(folder), "COLLECT_ANALYTICS": "false",
        "LABEL_STUDIO_LATEST_VERSION_CHECK": "false", "LABEL_STUDIO_DISABLE_SIGNUP_WITHOUT_LINK": "true",
        "LABEL_STUDIO_ENABLE_LEGACY_API_TOKEN": "true", "SENTRY_DSN": "", "FRONTEND_SENTRY_DSN": "",
    }  # fmt: skip
    command = [
        str(COMMAND), "start", "--no-browser", "--data-dir", str(folder), "--port", str(port), "--internal-host",
        "127.0.0.1", "--username", "lead@example.org", "--password", secrets.token_hex(12), "--user-token", token,
    ]  # fmt: skip
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
        try:
            until = time.monotonic() + seconds
            while not _answers(url):
                told = (folder / "log.txt").read_text()[-3000:]
                assert process.poll() is None and time.monotonic() < until, told
                time.sleep(1)
            yield url, token
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"{url}/health", timeout=5).is_success
    return False
