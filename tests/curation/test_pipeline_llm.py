"""The pipeline with LLM judges behind a real server whose model is simulated: faults, bills, kills, a spent budget."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import polars as pl
import pytest

from rewardscale.build import main as build
from rewardscale.config.curation import CurationConfig, PeopleConfig
from rewardscale.config.judges import BudgetConfig, EndpointConfig, JudgeConfig, PriceConfig, RetryConfig
from rewardscale.curation import inputs as inputs_
from rewardscale.curation import pipeline
from rewardscale.curation.annotators.llm.budget import BudgetSpent
from rewardscale.curation.annotators.llm.calls import CallLog
from rewardscale.curation.annotators.llm.scripted import digest
from rewardscale.curation.plan import plan
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.sweeps import configfile
from tests.curation.scripted_server import counts, server

TINY, _ = configfile.load("curate.py:tiny", kind=CurationConfig)
RETRY = RetryConfig(
    base_seconds=0.01, cap_seconds=0.05, total_seconds=30, breaker_seconds=0.05, grace_seconds=5
)
FAULTS = {f"fault_{name}": 0.03 for name in ("429", "500", "cut", "truncated", "nonsense", "language")}
PRICES = BudgetConfig(prices={"m": PriceConfig(0.15, 0.6)}, prices_version="test")


def config(url: str, **changes) -> CurationConfig:
    """80 pairs, one iteration; two judges by endpoint, of whom one writes attributes."""
    judges = tuple(
        JudgeConfig(
            name=name,
            model="m",
            votes=2,
            endpoints=(EndpointConfig(url, concurrency=8),),
            retry=RETRY,
            seed=seed,
        )
        for seed, name in enumerate(("one", "other"))
    )
    planted = dataclasses.replace(TINY.planted, train=80, validation=10, test=20)
    given = {
        "planted": planted, "seed_pairs": 40, "seed_people": 10, "iterations": 1, "selected": 15, "llm_judges": judges,
        "people_per_iteration": 5, "judges": (), "attributes": "one", "budget": PRICES, "no_humans": False,
    }  # fmt: skip
    return dataclasses.replace(TINY, **{**given, **changes})


@pytest.fixture(scope="module")
def oracle(tmp_path_factory) -> Path:
    """Which response is the better one, for the server."""
    folder = tmp_path_factory.mktemp("oracle")
    inputs = inputs_.prepare(config("http://unused"), folder)
    assert inputs.truth is not None
    scores = {
        digest(text): float(sign * truth)
        for comparison, truth in zip(inputs.corpus, inputs.truth.tolist(), strict=True)
        for text, sign in zip(comparison.responses, (1, -1), strict=True)
    }
    path = folder / "oracle.json"
    path.write_text(json.dumps(scores))
    return path


def calls(workdir: Path) -> dict:
    with CallLog(workdir / "calls" / "llm", None) as log:
        return {name: dataclasses.asdict(bill) for (name, _), bill in log.bills.items()}


def test_it_runs_under_faults_and_the_server_was_paid_exactly_what_the_log_says(
    tmp_path: Path, oracle: Path
) -> None:
    with server(oracle=oracle, accuracy=0.9, position_bias=0.1, **FAULTS) as url:
        run = config(url)
        report = pipeline.run(run, tmp_path)
        told, paid = counts(url), calls(tmp_path)
        assert sum(bill["calls"] for bill in paid.values()) == told["answered"]
        assert sum(bill["tokens_in"] for bill in paid.values()) == told["tokens_in"]
        pipeline.run(run, tmp_path)
        assert counts(url)["requests"] == told["requests"]  # what is answered is not asked again
    share = {level["name"]: level["truth"]["share"] for level in report["levels"]}
    assert share["filtered"] > share["raw"]
    verdicts = Ledger(tmp_path / "ledger").read()
    judged = verdicts.filter(pl.col("annotator") == "one")
    assert judged["kind"].unique().to_list() == ["llm_judge"] and judged["prompt_version"].n_unique() == 1
    for judge in report["judges"]:
        own = paid[judge["name"]]
        assert judge["calls"] == own["calls"] and judge["failed"] == own["failed"]
        assert abs(judge["position_bias"]) < 0.4 and judge["other_order"] > 0.6
        assert judge["same_order"] is None  # two votes, one in each order
    attributes = Ledger(tmp_path / "ledger").attributes_by_row()
    assert {a.author for a in attributes.values()} == {"one"} and len(attributes) >= 40


def test_a_plan_bounds_the_calls(tmp_path: Path, oracle: Path) -> None:
    with server(oracle=oracle, accuracy=0.9) as url:
        run = config(url)
        lines = plan(run, tmp_path / "plan")
        assert counts(url) == {}
        pipeline.run(run, tmp_path / "run")
        answered = counts(url)["answered"]
    calls = Counter[str]()
    for line in lines:
        if line.annotator != "simulated people":
            calls[line.annotator] += round(line.estimate.calls * line.most / line.questions)
    assert calls["one"] == calls["other"] == 2 * run.planted.train  # in two orders each
    assert run.planted.train <= calls["one (attributes)"] < 1.5 * run.planted.train
    assert answered <= sum(calls.values())


def test_a_spent_budget_stops_it_and_a_larger_one_goes_on(tmp_path: Path, oracle: Path) -> None:
    with server(oracle=oracle, accuracy=0.9) as url:
        small = config(url, budget=dataclasses.replace(PRICES, calls=60))
        with pytest.raises(BudgetSpent, match="60 calls"):
            pipeline.run(small, tmp_path)
        assert counts(url)["answered"] <= 60
        pipeline.run(config(url), tmp_path)
        total = counts(url)["answered"]
    with server(oracle=oracle, accuracy=0.9) as url:
        pipeline.run(config(url), tmp_path / "at once")
        assert counts(url)["answered"] == total


@pytest.mark.slow
def test_killed_and_started_again_it_pays_at_most_what_was_under_way(tmp_path: Path, oracle: Path) -> None:
    script = tmp_path / "mine.py"
    with server(oracle=oracle, accuracy=0.9, latency=0.02) as url:
        script.write_text(
            "from tests.curation.test_pipeline_llm import config\n"
            "from rewardscale.curation import pipeline\nimport pathlib, sys\n"
            f"pipeline.run(config({url!r}), pathlib.Path(sys.argv[1]))\n"
        )
        command = [sys.executable, str(script), str(tmp_path / "run")]
        for enough in (30, 90):
            process = subprocess.Popen(command, cwd=Path(__file__).parents[2], env=_environment())
            while counts(url).get("answered", 0) < enough and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.wait()
        pipeline.run(config(url), tmp_path / "run")
        killed = counts(url)["answered"]
    with server(oracle=oracle, accuracy=0.9) as url:
        pipeline.run(config(url), tmp_path / "at once")
        assert killed - counts(url)["answered"] <= 2 * 2 * 8  # kills x judges x calls under way
    for name in ("filtered", "gold"):
        first, second = (tmp_path / folder / "levels" / name / "rows.npy" for folder in ("run", "at once"))
        assert first.read_bytes() == second.read_bytes()


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


@pytest.mark.slow
def test_a_corpus_of_files_with_a_transformer_and_no_people(tmp_path: Path) -> None:
    lines = [
        {
            "prompt": f"{n}: what is {n} plus {n}?",
            "chosen": f"It is {2 * n}.",
            "rejected": f"It is {2 * n + 1}, perhaps.",
        }
        for n in range(120)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert build([f"--source={tmp_path / 'pairs.jsonl'}", f"--out={tmp_path / 'corpus'}"]) == 0
    with server(accuracy=0.9) as url:
        run = config(
            url, source="corpus", corpus=str(tmp_path / "corpus"), people=PeopleConfig(kind="none"),
            reward_model="w16", epochs=(1.0,), seed_pairs=60,
        )  # fmt: skip
        report = pipeline.run(run, tmp_path / "run")
    names = [level["name"] for level in report["levels"]]
    assert "filtered" in names and "filtered@iter1" in names and "selection_only" not in names
    assert all("truth" not in level for level in report["levels"])
    assert (tmp_path / "run" / "models" / "best@iter1" / "record.json").exists()
