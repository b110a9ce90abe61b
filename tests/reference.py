"""The reference environment: PyTorch and transformers in a Python of their own, called as a subprocess.

`make reference` builds it; REWARDSCALE_REFERENCE names another Python that has both. Where there is none, tests skip.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

REPO = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("REWARDSCALE_REFERENCE") or REPO / ".venv-reference" / "bin" / "python")

needs_reference = pytest.mark.skipif(
    not PYTHON.exists(), reason="no reference environment (PyTorch, transformers): make reference"
)


def run(script: Path, *arguments: object, timeout: float = 600) -> str:
    """Runs a script there; returns its standard output. Fails the test with its standard error otherwise."""
    done = subprocess.run(
        [str(PYTHON), str(script), *map(str, arguments)],
        env=environment(), capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout


def environment() -> dict[str, str]:
    """Of its processes: no settings of ours, no look at the hub, one thread."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    return found | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


class Worker:
    """A process of the reference environment that answers requests (tests/reference_models.py)."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [str(PYTHON), str(REPO / "tests" / "reference_models.py")],
            env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """Its answer. Raises RuntimeError if the process died: its standard error says of what."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, **request}, default=str) + "\n")
        self._process.stdin.flush()
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise RuntimeError(f"the reference process ended (exit code {self._process.wait()}) on {do}")

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
