"""Judges asked by shards against judges asked from one process: the same verdicts and levels, no call paid twice."""

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from rewardscale.config import ConfigError
from rewardscale.config.judges import BudgetConfig, JudgingConfig
from rewardscale.curation import pipeline
from rewardscale.curation.annotators.llm import shards
from rewardscale.curation.annotators.llm.calls import CallLog, bills_of
from rewardscale.curation.annotators.llm.statistics import judge_statistics, statistics_of
from rewardscale.curation.judging import folders
from rewardscale.curation.plan import plan
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.levels import level_names, read_level
from rewardscale.stages import StageError
from tests.curation.scripted_server import counts, server
from tests.curation.test_pipeline_llm import PRICES, config

THREE = JudgingConfig(shards=3)
QUALITY = {"accuracy": 0.9, "position_bias": 0.1}


def levels(workdir: Path) -> dict[str, str]:
    return {
        name: read_level(workdir / "levels" / name).fingerprint for name in level_names(workdir / "levels")
    }


def verdicts(workdir: Path) -> pl.DataFrame:
    """All that a verdict says but when and how fast it came."""
    found = Ledger(workdir / "ledger").read().select(pl.exclude("seconds", "time"))
    return found.sort("row", "annotator", "iteration", "preferred")


def attributes(workdir: Path) -> dict:
    return {row: dataclasses.astuple(a) for row, a in Ledger(workdir / "ledger").attributes_by_row().items()}


def same(one: Path, other: Path) -> None:
    assert levels(one) == levels(other) and len(levels(one)) > 8
    assert verdicts(one).equals(verdicts(other)) and attributes(one) == attributes(other)


@pytest.fixture(scope="module")
def in_memory(tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """A run without shards, and what its server answered."""
    workdir = tmp_path_factory.mktemp("in_memory")
    with server(**QUALITY) as url:
        pipeline.run(config(url, no_humans=True), workdir)
        return workdir, counts(url)


def test_by_shards_verdicts_levels_and_bill_are_the_same_and_nothing_is_asked_again(
    tmp_path: Path, in_memory: tuple[Path, dict[str, int]]
) -> None:
    with server(**QUALITY) as url:
        run = config(url, no_humans=True, judging=THREE)
        pipeline.run(run, tmp_path)
        told = counts(url)
        # A pair of both passes is paid once, as it is in memory. Each shard finds out once more what the server knows.
        assert {k: told[k] for k in ("answered", "choices", "tokens_in")} == {
            k: in_memory[1][k] for k in ("answered", "choices", "tokens_in")
        }
        bills = shards.bills(tmp_path / "calls" / "llm").values()
        assert sum(bill.calls for bill in bills) == told["answered"]
        pipeline.run(dataclasses.replace(run, judging=JudgingConfig(shards=3, at_once=2)), tmp_path)
        assert counts(url) == told
    same(tmp_path, in_memory[0])
    found = [statistics_of(folders(place / "calls" / "llm")) for place in (tmp_path, in_memory[0])]
    assert found[0] == found[1] and set(found[0]) == {"one", "other"}
    with CallLog(in_memory[0] / "calls" / "llm") as log:
        assert {name: judge_statistics(log, name) for name in found[0]} == found[0]
    paid = bills_of(folders(in_memory[0] / "calls" / "llm"))
    assert {k: b.pico for k, b in paid.items()} == {k: b.pico for k, b in log.bills.items()}
    assert verdicts(tmp_path / "no_humans").equals(verdicts(in_memory[0] / "no_humans"))


def test_a_folder_of_calls_stays_as_it_was_begun(tmp_path: Path) -> None:
    with server(**QUALITY) as url:
        for name, first, then in (("one", JudgingConfig(), THREE), ("other", THREE, JudgingConfig())):
            few = BudgetConfig(calls=4, prices=PRICES.prices, prices_version="test")
            with pytest.raises(RuntimeError, match="budget"):
                pipeline.run(config(url, judging=first, budget=few), tmp_path / name)
            before = counts(url)
            with pytest.raises(ConfigError, match=r"would not be found; take judging\.shards="):
                pipeline.run(config(url, judging=then), tmp_path / name)
            assert counts(url) == before
        with pytest.raises(ConfigError, match="take shards=3"):
            pipeline.run(config(url, judging=JudgingConfig(shards=4)), tmp_path / "other")


def test_a_plan_is_the_same_and_leaves_the_folder_as_it_is(tmp_path: Path) -> None:
    made = [
        plan(config("http://127.0.0.1:9/v1", judging=j), tmp_path / str(j.shards))
        for j in (THREE, JudgingConfig())
    ]
    assert made[0] == made[1] and {"one", "other", "one (attributes)"} <= {line.annotator for line in made[0]}
    assert shards.divided_into(tmp_path / "3" / "calls" / "llm") is None


def test_engine_and_slots_are_of_shards(tmp_path: Path) -> None:
    changes: list[dict[str, Any]] = [{"engine": "ray"}, {"at_once": 2}, {"shards": -1}, {"shards": 100_000}]
    for change in changes:
        with pytest.raises(ConfigError, match="judging"):
            JudgingConfig(**change)
    threads = config("http://127.0.0.1:9/v1", judging=JudgingConfig(shards=2, engine="threads"))
    with pytest.raises(ConfigError, match="engine='threads'"):
        pipeline.run(threads, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def start(workdir: Path, url: str, script: Path) -> subprocess.Popen:
    script.write_text(
        "from tests.curation.test_judging import *\n"
        "if __name__ == '__main__':\n"
        "    judging = JudgingConfig(shards=3, engine='process:2')\n"
        f"    pipeline.run(config({url!r}, no_humans=True, judging=judging), Path({str(workdir)!r}))\n"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    return subprocess.Popen(
        [sys.executable, str(script)], env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.slow
def test_killed_in_processes_it_goes_on_and_pays_no_call_twice(
    tmp_path: Path, in_memory: tuple[Path, dict[str, int]]
) -> None:
    workdir, calls = tmp_path / "run", tmp_path / "run" / "calls" / "llm"
    with server(latency=0.02, **QUALITY) as url:
        lost = 0
        for enough in (30, 120):
            process = start(workdir, url, tmp_path / "mine.py")
            while counts(url).get("answered", 0) < enough and process.poll() is None:
                time.sleep(0.01)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.2)  # the server ends what it was doing
            paid = sum(bill.calls for bill in shards.bills(calls).values())
            now = counts(url)["answered"] - paid
            assert lost <= now <= lost + 2 * 2 * 8  # judges x processes x calls under way
            lost = now
        assert start(workdir, url, tmp_path / "mine.py").wait() == 0
        assert counts(url)["answered"] == in_memory[1]["answered"] + lost
    same(workdir, in_memory[0])


def test_a_spent_budget_stops_the_shards_and_a_larger_one_goes_on(
    tmp_path: Path, in_memory: tuple[Path, dict[str, int]]
) -> None:
    with server(**QUALITY) as url:
        small = config(url, no_humans=True, judging=THREE, budget=dataclasses.replace(PRICES, calls=60))
        with pytest.raises(StageError, match="budget that the shards share"):
            pipeline.run(small, tmp_path)
        assert 0 < counts(url)["answered"] <= 60
        pipeline.run(config(url, no_humans=True, judging=THREE), tmp_path)
        assert counts(url)["answered"] == in_memory[1]["answered"]
    same(tmp_path, in_memory[0])
