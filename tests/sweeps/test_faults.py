"""A sweep under faults ends with the table of a quiet one: experiment 007 in its short form."""

import importlib.util
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
FOLDER = REPO / "experiments" / "007_faults"
NEEDING_NOTHING = {"kill_worker", "damage_checkpoint", "leftovers", "kill_host"}


def test_six_faults_leave_the_same_table(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"PYTHONPATH": str(REPO)}
    command = [sys.executable, str(FOLDER / "run.py"), str(tmp_path / "faults"), "--short"]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    log = [json.loads(line) for line in (tmp_path / "faults" / "log.jsonl").read_text().splitlines()]
    faults, left_out = ([r for r in log if r["event"] == event] for event in ("fault", "left out"))
    assert len(faults) + len(left_out) == 6 and {f["kind"] for f in faults} >= NEEDING_NOTHING
    assert log[-1]["which"] == "compared" and log[-1]["different"] == log[-1]["wrong"] == []
    assert all(f["until_it_got_on"] >= 0 for f in faults)
    if any(f["kind"] == "lost_disk" for f in faults):
        assert any(r["event"] == "end" and r["code"] == 75 for r in log)
    heard = [r["said"] for r in log if r["event"] == "heard"]
    assert all("is damaged" in said for said in heard)


@pytest.fixture(scope="module")
def driver():
    """run.py as a module, with the modules beside it."""
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("faults_run", FOLDER / "run.py")
        assert spec is not None and spec.loader is not None
        made = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(made)
        yield made
    finally:
        sys.path.remove(str(FOLDER))


def test_every_kind_comes_as_often_as_every_other(driver):
    kinds = list(driver.KINDS)
    planned = driver.schedule(kinds, 50, random.Random(1))
    assert len(planned) == 50 and {planned.count(kind) for kind in kinds} == {3, 4}
    assert (
        planned
        == driver.schedule(kinds, 50, random.Random(1))
        != driver.schedule(kinds, 50, random.Random(2))
    )


def test_the_recorded_log_is_of_fifty_faults_of_every_kind(driver):
    log = [json.loads(line) for line in (FOLDER / "log.jsonl").read_text().splitlines()]
    faults = [r for r in log if r["event"] == "fault"]
    assert len(faults) == 50 and {f["kind"] for f in faults} == set(driver.KINDS)
    assert log[-1]["which"] == "compared" and log[-1]["different"] == []
