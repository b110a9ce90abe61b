"""The reference environment: PyTorch and transformers in a Python of their own, called as a subprocess.

`make reference` builds it; REWARDSCALE_REFERENCE names another Python that has both. Where there is none, tests skip.
"""

import os
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PYTHON = Path(os.environ.get("REWARDSCALE_REFERENCE") or REPO / ".venv-reference" / "bin" / "python")

needs_reference = pytest.mark.skipif(
    not PYTHON.exists(), reason="no reference environment (PyTorch, transformers): make reference"
)


def run(script: Path, *arguments: object, timeout: float = 600) -> str:
    """Runs a script there; returns its standard output. Fails the test with its standard error otherwise."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(
        [str(PYTHON), str(script), *map(str, arguments)],
        env=environment, capture_output=True, text=True, timeout=timeout, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    return done.stdout
