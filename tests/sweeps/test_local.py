"""How a worker process ends, and which cells workers begin with."""

import dataclasses
import subprocess
import sys
import time

import pytest

from rewardscale.config import ModelConfig
from rewardscale.models.presets import get_model
from rewardscale.sweeps.executors.local import in_order, models_first
from rewardscale.sweeps.grid import Branch, Cell
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


def cell(model: str, pairs: int, branch: Branch | None = None) -> Cell:
    chosen = get_model(model, vocab_size=100)
    convex = not isinstance(chosen, ModelConfig)
    run = dataclasses.replace(small.run_config(pairs=pairs), model=chosen)
    run = dataclasses.replace(run, recipe=None) if convex else run
    return Cell(run, pairs, pairs, pairs, pairs, None if convex else float(chosen.width * pairs), branch)


def test_one_cell_of_each_model_goes_first_and_the_rest_by_size():
    """Else two workers begin with the largest model, and both compile it."""
    cells = [cell(model, pairs) for pairs in (100, 900) for model in ("w8", "w40", "w16", "hash256")]
    found = models_first(in_order(cells))
    shown = [(getattr(c.run.model, "width", None), c.run.pairs) for c in found[:6]]
    assert shown == [(40, 900), (16, 900), (8, 900), (40, 100), (16, 100), (8, 100)]
    assert sorted(c.run_id for c in found) == sorted(c.run_id for c in cells)


def test_a_branch_waits_for_its_trunk_although_it_is_of_another_size():
    trunk = cell("w8", 100, Branch("t", (5,), 1, 1.0, follows=False))
    branch = cell("w8", 900, Branch("t", (5,), 1, 1.0, follows=True))
    assert models_first(in_order([branch, trunk])) == [trunk, branch]
