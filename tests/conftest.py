"""What must be set before jax loads, and the small data that several folders of tests share.

Every test sees eight CPU devices; tests of one device make a mesh of the first. The smoke sweep is a real
run of the command line in a process of its own.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Before any import that could load jax.
# One BLAS thread a test process: several processes with a pool each only get in one another's way.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ["JAX_PLATFORMS"] = "cpu"
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    # Tests compile far more than they compute: without optimising, compiling takes half the time.
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
OWN_XLA_FLAGS = os.environ.get("XLA_FLAGS", "")  # the caller's
os.environ["XLA_FLAGS"] = " ".join([*_FLAGS, OWN_XLA_FLAGS]).strip()
# What was compiled once is loaded the next time (this user's folder: it holds machine code that is run).
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rewardscale" / "tests-xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")

import pytest  # noqa: E402

from rewardscale import atomic  # noqa: E402
from rewardscale.data.tokenised import TokenisedView  # noqa: E402
from tests import small  # noqa: E402

REPO = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def pairs_view(tmp_path_factory: pytest.TempPathFactory) -> TokenisedView:
    """A tokenised corpus of 160 comparisons of two responses, of varied lengths."""
    return small.make_view(tmp_path_factory.mktemp("pairs") / "corpus", small.random_comparisons(160))


@pytest.fixture(scope="session")
def best_of_view(tmp_path_factory: pytest.TempPathFactory) -> TokenisedView:
    """A tokenised corpus of 30 comparisons of two, three or four responses."""
    comparisons = small.random_comparisons(30, responses=(2, 3, 4), seed=1)
    return small.make_view(tmp_path_factory.mktemp("best_of") / "corpus", comparisons)


@pytest.fixture(scope="session")
def smoke_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a finished `--config=sweep.py:smoke`.

    REWARDSCALE_SMOKE=DIR keeps it in DIR and takes it from there the next time, whatever changed since.
    """
    kept = os.environ.get("REWARDSCALE_SMOKE")
    base = tmp_path_factory.getbasetemp()
    shared = (
        base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    )  # one sweep for all test processes
    workdir = Path(kept) if kept else shared / "smoke-sweep"
    with atomic.locked(shared / "smoke-sweep.lock"):
        if not (workdir / "report.html").exists():
            launch_smoke(workdir)
    return workdir


def launch_smoke(workdir: Path) -> None:
    """Runs the smoke sweep as a user would: one device, no flags of ours."""
    environment = {**os.environ, "XLA_FLAGS": OWN_XLA_FLAGS}
    command = [sys.executable, "-m", "rewardscale.launch", "--config=sweep.py:smoke", f"--workdir={workdir}"]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


@pytest.fixture(scope="session")
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs code in a Python process of its own, in the repository's root."""

    def run(code: str, *arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=120)
        assert not check or done.returncode == 0, done.stderr
        return done

    return run
