"""Judging on the stage runner, against the simulated server."""

import concurrent.futures
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from rewardscale.config import ConfigError
from rewardscale.config.judges import PICO, BudgetConfig
from rewardscale.curation.annotators.base import Example, Question
from rewardscale.curation.annotators.llm import shards
from rewardscale.curation.annotators.llm.questions import read_questions, write_questions
from rewardscale.curation.annotators.llm.shares import SharedBudget, Shares, divided, slot
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.schema import Attributes
from rewardscale.stages import StageError
from tests.curation.annotators.llm.servers import PRICE, budget_config, config, counts, questions, server

DECIDED = pl.exclude("seconds", "time")


def ask(folder: Path, url: str, number: int, *, engine="inline", stage="judged", **options):
    limits = {k: options.pop(k) for k in ("money", "calls") if k in options}
    judges = [config(url, name=name, seed=seed, **options) for seed, name in enumerate(("a", "b"))]
    return shards.judge(
        folder / "stages", stage, questions(number), judges, budget_config(**limits),
        calls=folder / "calls", shards=5, engine=engine, iteration=3,
    )  # fmt: skip


def spent(folder: Path) -> tuple[int, int, int]:
    """(calls, pico, set aside) of all shards."""
    found = shards.bills(folder / "calls").values()
    return sum(b.calls for b in found), sum(b.pico for b in found), sum(b.lost_pico for b in found)


def check_parts(folder: Path, limit: BudgetConfig) -> None:
    """What the shards were given sums to no more than the budget."""
    shares = Shares(folder / "calls", limit)
    parts = [shares.of(f"{number:05d}") for number in range(5)]
    assert limit.money is None or sum(part[0] for part in parts) <= limit.money * PICO
    assert limit.calls is None or sum(part[1] for part in parts) <= limit.calls


def test_inline_and_in_processes_the_verdicts_are_the_same_and_the_bills_are_the_ledger_s(tmp_path):
    found = {}
    with server(accuracy=0.8) as url:
        for engine in ("inline", "process:2"):
            folder = tmp_path / engine.replace(":", "")
            done = ask(folder, url, 60, engine=engine, calls=1000)
            assert (done.verdicts, done.failed) == (120, 0)
            ledger = Ledger(folder / "ledger")
            assert done.into(ledger) == 120 and done.into(ledger) == 0
            found[engine] = ledger.read().sort("row", "annotator")
            calls, pico, aside = spent(folder)
            assert (calls, aside) == (240, 0) and found[engine]["iteration"].unique().to_list() == [3]
            assert found[engine]["cost"].cast(pl.Float64).sum() == pytest.approx(pico / PICO, rel=1e-6)
            check_parts(folder, budget_config(calls=1000))
        told = counts(url)
        assert told["answered"] == 480
        assert PRICE.pico(told["tokens_in"], told["tokens_out"]) == 2 * pico
        assert ask(folder, url, 60, stage="again").verdicts == 120  # another stage, the same answers
        assert counts(url)["requests"] == told["requests"]
    assert found["inline"].select(DECIDED).equals(found["process:2"].select(DECIDED))
    assert max(len(list((folder / "calls" / f"{n:05d}").glob("*.jsonl"))) for n in range(5)) == 1


@pytest.mark.slow
def test_on_ray_too(tmp_path):
    pytest.importorskip("ray")
    with server(accuracy=0.8) as url:
        here = ask(tmp_path / "here", url, 30)
        there = ask(tmp_path / "there", url, 30, engine="ray")
    for one, other in zip(here.tasks, there.tasks, strict=True):
        frames = [pl.read_parquet(done.folder / shards.VERDICTS).select(DECIDED) for done in (one, other)]
        assert frames[0].equals(frames[1])


@pytest.mark.parametrize("limits", [{"calls": 70}, pytest.param({"money": 0.004}, marks=pytest.mark.slow)])
def test_a_budget_that_ends_is_never_passed_and_a_larger_one_goes_on(tmp_path, limits):
    with server(accuracy=0.9) as url:
        with pytest.raises(StageError, match="what is left of the budget that the shards share"):
            ask(tmp_path, url, 40, engine="process:2", **limits)
        told, (calls, pico, aside) = counts(url), spent(tmp_path)
        assert calls == told["answered"] and aside == 0
        if "calls" in limits:
            assert 60 <= calls <= 70
        else:
            assert 0 < pico <= 0.004 * PICO
        check_parts(tmp_path, budget_config(**limits))
        assert ask(tmp_path, url, 40, engine="process:2", calls=160).verdicts == 80
        assert counts(url)["answered"] == 160 == spent(tmp_path)[0]


SCRIPT = """
import sys
from pathlib import Path
from tests.curation.annotators.llm.test_shards import ask
if __name__ == "__main__":
    ask(Path(sys.argv[1]), sys.argv[2], 100, engine=sys.argv[3], concurrency=8, calls=450)
"""


@pytest.mark.parametrize(
    "engine, kills", [("inline", 1), pytest.param("process:2", 3, marks=pytest.mark.slow)]
)
def test_killed_in_the_middle_no_paid_call_is_made_again_and_the_budget_holds(tmp_path, engine, kills):
    script = tmp_path / "ask.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    in_flight = 0
    with server(latency=0.02) as url:
        for kill in range(kills):
            process = subprocess.Popen(
                [sys.executable, str(script), str(tmp_path), url, engine],
                env=environment,
                start_new_session=True,
                stderr=subprocess.DEVNULL,
            )
            deadline = time.monotonic() + 60
            while counts(url).get("answered", 0) < 80 * (kill + 1) and time.monotonic() < deadline:
                time.sleep(0.02)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            time.sleep(0.1)  # the server ends what it was doing
            lost = counts(url)["answered"] - spent(tmp_path)[0]
            assert in_flight <= lost <= in_flight + 16
            in_flight = lost
            check_parts(tmp_path, budget_config(calls=450))
        assert ask(tmp_path, url, 100, engine=engine, concurrency=8, calls=450).verdicts == 200
        assert counts(url)["answered"] == 400 + in_flight and spent(tmp_path)[0] == 400


def test_failures_are_counted_and_what_decides_nothing_does_not_ask_again(tmp_path):
    with server(longest=3000) as url:
        done = ask(tmp_path, url, 20, response_chars=200)
        assert done.failed == 0
        before = counts(url)["requests"]
        faster = ask(tmp_path, url, 20, response_chars=200, concurrency=2, money=5.0)
        assert faster == done and counts(url)["requests"] == before
    with server(longest=10) as url, pytest.raises(StageError, match="400"):
        ask(tmp_path / "too long", url, 3)


def test_a_folder_keeps_its_number_of_shards_and_judges_their_names(tmp_path):
    judge = config("http://127.0.0.1:9/v1")
    with pytest.raises(ConfigError, match="each a name of its own"):
        shards.judge(tmp_path, "s", [], [judge, judge], budget_config(), calls=tmp_path / "calls")
    assert shards.judge(tmp_path, "s", [], [judge], budget_config(), calls=tmp_path / "calls").verdicts == 0
    with pytest.raises(ConfigError, match="take shards=16"):
        shards.judge(tmp_path, "s", [], [judge], budget_config(), calls=tmp_path / "calls", shards=4)


def test_questions_come_back_as_they_were_and_one_pair_lies_in_one_shard(tmp_path):
    described = Attributes(
        category="Math", objectivity="objective", controversiality="low", desired="d\n", guideline="ü"
    )
    plain = questions(50, " \u2028 text")
    asked = [
        dataclasses.replace(q, attributes=described, examples=(Example(plain[0].comparison, -1, described),))
        for q in plain
    ]
    asked += [Question(50 + q.row, q.comparison) for q in plain[:10]]
    files = write_questions(tmp_path / "q", iter(asked), 7)
    assert files == write_questions(tmp_path / "q", iter(asked), 7) and len(files) == 7
    found = {q.row: (q, name) for name, path, _ in files for q in read_questions(path)}
    assert [found[row][0] for row in range(60)] == asked
    assert all(found[row][1] == found[50 + row][1] for row in range(10))


def test_parts_drawn_at_the_same_time_never_sum_to_more_than_the_budget(tmp_path):
    limit = BudgetConfig(money=10_000 / PICO, calls=300)

    def spend(seed: int) -> int:
        draw, budget = random.Random(seed), SharedBudget(Shares(tmp_path, limit), f"{seed:05d}")
        for _ in range(60):
            held = budget.reserve(draw.randint(1, 100))
            if held is not None:
                budget.settle(held, draw.randint(0, held.pico))
        if seed % 2:  # the others are killed
            budget.give_back()
        return budget.spent

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        used = sum(pool.map(spend, range(5)))
    check = Shares(tmp_path, limit)
    parts = [check.of(f"{seed:05d}") for seed in range(5)]
    assert used <= sum(pico for pico, _ in parts) <= 10_000 and sum(calls for _, calls in parts) <= 300
    assert check.draw("late", 10_001, 0) is None


def test_limits_of_an_endpoint_are_divided_and_slots_are_held_once(tmp_path):
    judge = config("http://127.0.0.1:9/v1", concurrency=6)
    part = divided(judge, 4).endpoints[0]
    assert part.concurrency == 1 and part.requests_per_minute == 0
    with slot(tmp_path, 2) as first, slot(tmp_path, 2) as second:
        assert {first, second} == {0, 1}
    with slot(tmp_path, 2) as again:
        assert again == 0


@pytest.mark.parametrize("right", [True, False])
def test_a_key_is_in_no_file_and_in_no_message(tmp_path, monkeypatch, capfd, right):
    secret = "sk-very-secret-456"
    monkeypatch.setenv("A_KEY", secret)
    with server(key=secret if right else "another") as url:
        if right:
            assert ask(tmp_path, url, 4, key_env="A_KEY").verdicts == 8
        else:
            with pytest.raises(StageError, match="401") as error:  # the server's answer repeats the key
                ask(tmp_path, url, 4, key_env="A_KEY")
            assert secret not in str(error.value)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5 and not any(secret.encode() in data for data in files)
    assert secret not in "".join(capfd.readouterr())
