"""How a worker process ends, and what is tested before one starts."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rewardscale import platforms
from rewardscale.config import ConfigError, Recipe, RunConfig, SweepConfig
from rewardscale.sweeps.executors import local
from rewardscale.sweeps.grid import Cell
from tests import small

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


def simulated_wrong_product() -> None:
    raise ConfigError(f"products are off, {os.environ['SAID_TO_WORKERS']}")


def simulated_missing_instruction() -> None:
    os.kill(os.getpid(), signal.SIGILL)


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (simulated_wrong_product, "products are off, one thread"),
        (simulated_missing_instruction, "signal SIGILL"),
    ],
)
def test_a_self_test_runs_as_a_worker_does_and_says_what_is_wrong(
    check: Callable[[], None], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        local.passes(check, {"SAID_TO_WORKERS": "one thread"})
    assert "SAID_TO_WORKERS" not in os.environ


def test_this_cpu_passes_the_self_test_of_bfloat16() -> None:
    local.passes(local._multiplies_bfloat16, platforms.worker_environment(2))


def test_cells_in_bfloat16_start_only_after_the_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "_multiplies_bfloat16", simulated_wrong_product)
    monkeypatch.setattr(platforms, "lacks_bfloat16", lambda: True)
    monkeypatch.setenv("SAID_TO_WORKERS", "")
    recipe = Recipe(dtype="bfloat16")
    run = RunConfig("w8", small.MODEL, recipe, "gold", 100, 0, -1, 0, 1.0, {}, {})
    cells, events = [Cell(run, 100, 0.0, 200, 1, 1.0)] * 2, []
    with pytest.raises(ConfigError, match="products are off"):
        local.run_cells(cells, SweepConfig(), tmp_path, None, events.append, of=2)
    assert not events and not multiprocessing.active_children()
    said = capsys.readouterr().err
    assert said.count("slower than float32") == 1 and "amx_bf16" in said


@pytest.mark.parametrize(
    ("text", "lacks"),
    [
        ("model\t: 1\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", False),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", False),
        ("flags\t\t: fpu avx2 avx512f\nflags\t\t: fpu avx2 avx512f\n", True),
        ("Features\t: fp asimd bf16\n", False),  # ARM's, of which nothing is known
        (None, False),
    ],
)
def test_what_the_system_says_of_bfloat16(text: str | None, lacks: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert platforms.lacks_bfloat16(path) == lacks
