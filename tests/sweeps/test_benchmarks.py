"""Benchmarks as a step of a sweep: each transformer scores them, they are rows of its table, and no run id moves."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from rewardscale.config import ConfigError
from rewardscale.data.comparison import Message
from rewardscale.data.templates import get_template
from rewardscale.evaluation.benchmarks import planted
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem
from rewardscale.evaluation.benchmarks.formulas import PairAccuracy
from rewardscale.evaluation.texts import union
from rewardscale.sweeps import benchmarks, configfile, datasets, grid
from rewardscale.sweeps import cell as runs
from rewardscale.sweeps import sweep as sweeps
from tests.scoring_small import comparisons
from tests.sweeps.launching import launch

DATA = Path(os.environ.get("REWARDSCALE_DATA") or Path(__file__).parents[3] / "shared" / "data")
ONE = {
    "sweep.models": "w8", "sweep.pairs": "250", "sweep.levels": "strict", "sweep.draws": "1", "sweep.folds": "1",
    "also.models": "", "learning_rates.w8": "5e-3", "recipe.epochs": "1", "runtime.workers": "1",
}  # fmt: skip


def write(path: Path, seed: int) -> Path:
    records = [
        {"prompt": p[0]["content"], "chosen": r[0], "rejected": r[1]}
        for p, r in comparisons(30, seed=seed, responses=(2, 2))
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def pairs(texts: list[tuple[str, tuple[str, str]]]) -> Benchmark:
    items = tuple(BenchmarkItem(str(i), (Message("user", p),), r) for i, (p, r) in enumerate(texts))
    wanted = np.array([(i, 0, 1) for i in range(len(items))])
    return Benchmark("few", "Few", items, 0, PairAccuracy(wanted, ("",) * len(items)), "accuracy", wanted)


@pytest.mark.skipif(
    not (DATA / "ukpconvarg1").is_dir(),
    reason="ukpconvarg1 is not there: set REWARDSCALE_DATA to its folder's parent",
)
def test_a_sweep_scores_them_and_later_ones_without_training_again(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.jsonl", seed) for seed, name in enumerate(("first", "second")))
    flags = ["--config=sweep.py:votes", f"--data_dir={DATA}", *(f"--config.{k}={v}" for k, v in ONE.items())]
    folder = tmp_path / "sweep"
    code, _, error = launch(folder, *flags, f"--config.benchmarks={first}")
    assert code == 0, error
    (run,) = (folder / "runs").iterdir()
    table = pl.read_parquet(folder / "results.parquet")
    (row,) = table.filter(pl.col("eval_set") == "first.jsonl").to_dicts()
    scored = json.loads((run / "benchmarks.json").read_text())["scores"]["first.jsonl"]
    rewards = pl.read_parquet(run / "benchmark_rewards.parquet")
    assert row["accuracy"] == scored["accuracy"] and row["eval_pairs"] == 30 and row["loss"] > 0
    assert rewards["error"].null_count() == len(rewards) == 60 and rewards["reward"].n_unique() > 50
    strict = table.filter(pl.col("eval_set") == "strict")
    assert row["temperature"] == strict["temperature"][0] and row["run_id"] == run.name

    config, _ = configfile.load("sweep.py:votes", ONE)
    dataset = datasets.prepare(config.data, folder, DATA)
    (cell,) = grid.cells(config, dataset, datasets.view(dataset))
    assert cell.run_id == run.name  # no benchmark in it

    before = {name: (run / name).read_bytes() for name in ("result.json", "rewards.parquet", "metrics.jsonl")}
    code, _, error = launch(folder, *flags, f"--config.benchmarks={first},{second}")
    assert code == 0, error
    assert {name: (run / name).read_bytes() for name in before} == before
    again = pl.read_parquet(folder / "results.parquet")
    assert set(again["eval_set"]) == {"strict", "votes", "validation", "first.jsonl", "second.jsonl"}
    assert again.filter(pl.col("eval_set") == "first.jsonl")["accuracy"][0] == row["accuracy"]
    later = pl.read_parquet(run / "benchmark_rewards.parquet").join(rewards, on="text")
    np.testing.assert_allclose(later["reward"], later["reward_right"], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("sweep.py:smoke", {}, "cannot read a text; take planted-alike or planted-longer"),
        ("sweep.py:convex", {"also.models": ""}, "cannot read a text; take"),
    ],
)
def test_a_planted_world_has_no_text_to_read(
    tmp_path: Path, name: str, overrides: dict[str, str], message: str
) -> None:
    small = {"data.planted.train": "300", "data.planted.validation": "50", "data.planted.test": "50"}
    config, _ = configfile.load(name, {"benchmarks": "llmbar", **small, **overrides})
    with pytest.raises(ConfigError, match=f"benchmarks=llmbar: .*{message}"):
        sweeps.plan(config, tmp_path)


def test_models_of_a_planted_world_choose_among_its_candidates(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(planted, "PROMPTS", 4)
    monkeypatch.setattr(planted, "SAMPLES", 8)
    overrides = {
        "sweep.models": "w8", "sweep.pairs": "250", "sweep.levels": "gold", "sweep.draws": "1",
        "data.planted.train": "300", "data.planted.validation": "50", "data.planted.test": "50",
    }  # fmt: skip
    config, _ = configfile.load("sweep.py:smoke", {"benchmarks": ",".join(planted.NAMES), **overrides})
    plan = sweeps.plan(config, tmp_path)
    (cell,) = plan.cells
    context = runs.Context(
        plan.dataset, datasets.view(plan.dataset), config.runtime, plan.workdir, plan.wanted
    )
    assert runs.run_cell(cell, context)
    rewards = pl.read_parquet(tmp_path / "runs" / cell.run_id / "benchmark_rewards.parquet")
    assert rewards["error"].null_count() == len(rewards)  # also of those too long for the sweep's own rows
    assert rewards["reward"].n_unique() > 50
    read = benchmarks.read(tmp_path, cell.run_id)
    assert set(read) == set(planted.NAMES) and all(0 <= one["accuracy"] <= 1 for one in read.values())


def test_candidates_of_a_planted_world_are_for_its_models_alone(tmp_path: Path) -> None:
    config, _ = configfile.load("sweep.py:convex", {"benchmarks": "planted-alike"})
    with pytest.raises(ConfigError, match="planted-alike is for models of a planted world"):
        sweeps.plan(config, tmp_path)


def test_what_a_template_refuses_is_a_text_without_a_reward() -> None:
    good = ("tea", ("warms", "calms"))
    odd = ("tea", ("<|end|> of it", "house \ud800"))
    texts = union([pairs([good, odd, ("and", ("", "they"))])])
    made, places, refused = benchmarks._comparisons(texts, get_template("chat"))
    assert [c.responses for c in made] == [("warms", "calms"), ("they", "they")]
    assert places.tolist() == [[0, 1], [5, 5]]
    assert "special token" in refused[2] and "Unicode" in refused[3] and refused[4] == "the response is empty"


def test_the_headline_is_the_accuracy_and_the_rest_is_of_pairs() -> None:
    benchmark = pairs([(str(i), ("a", "b")) for i in range(4)])
    rewards = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [np.nan, 1.0]])
    found = benchmarks.scores_of(benchmark, rewards, 2.0)
    assert found["pairs"] == 3 and found["ties"] == 1 and found["accuracy"] == pytest.approx(1 / 3)
    margin = np.array([1.0, -1.0, 0.0])
    assert found["loss"] == pytest.approx(np.log1p(np.exp(-margin)).mean())
    assert found["loss_recalibrated"] == pytest.approx(np.log1p(np.exp(-margin / 2)).mean())
    nothing = benchmarks.scores_of(benchmark, np.full((4, 2), np.nan), 1.0)
    assert nothing == {"pairs": 0, "accuracy": None, "temperature": 1.0}
