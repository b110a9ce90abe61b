"""Benchmarks by name, where their files may lie, and the average of the seven."""

import dataclasses
import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from rewardscale import hub
from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.evaluation.benchmarks import registry
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import SEVEN, load, load_all, names, seven_average
from tests import benchmark_files as files


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    files.write_seven(folder)
    return folder


def test_names() -> None:
    assert names()[:7] == SEVEN
    assert {"llmbar", "hhh", "hh-rlhf", "humanevalpack", "gsm8k-solutions", "mmlu-pro"} <= set(names())
    assert [name for name in names() if registry.spec(name).seven] == list(SEVEN)


def test_a_near_miss_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no benchmark is named 'rm-bnch'; did you mean 'rm-bench'\?"):
        load("rm-bnch", None)
    assert registry.spec("rm_bench") is registry.spec("rm-bench")


def test_where_the_files_may_lie(folder: Path, tmp_path: Path) -> None:
    """A data directory, the folder itself, a folder named as the repository, a single file, compressed."""
    by_name = load("judgebench", folder)
    assert load("judgebench", folder / "judgebench").items == by_name.items
    shutil.copytree(folder / "judgebench", tmp_path / "JudgeBench")
    assert load("judgebench", tmp_path).items == by_name.items
    file = next((folder / "judgebench" / "data").iterdir())
    assert load("judgebench", file).items == by_name.items
    packed = tmp_path / "packed" / f"{file.name}.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert load("judgebench", packed.parent).items == by_name.items


def test_what_is_absent_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"RMB is not in .*Pairwise_set.*get it from https://github\.com/Zhou"
    ):
        load("rmb", tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        load("rmb", tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"lmarena-ai/PPE-GPQA-Best-of-K into ppe-correctness/PPE-GPQA"):
        load("ppe-correctness", None)
    with pytest.raises(DataError, match=r"RMB has no place of its own on the hub: get it from"):
        load("rmb", None)
    with pytest.raises(DataError, match=r"name the commit .*; or get the data set allenai/reward-bench-2"):
        load("rewardbench2", None)


def test_from_the_hub(folder: Path, monkeypatch) -> None:
    """At the commit that is pinned, or the one that is named."""
    asked = []

    def snapshot(name: str, revision: str | None, *, files, kind: str) -> Path:
        asked.append((name, revision, kind))
        return folder / "rewardbench"

    monkeypatch.setattr(hub, "snapshot", snapshot)
    assert load("rewardbench", None).items == load("rewardbench", folder).items
    load("rewardbench", None, revision="f" * 40)
    assert asked == [
        ("allenai/reward-bench", registry.spec("rewardbench").revision, "dataset"),
        ("allenai/reward-bench", "f" * 40, "dataset"),
    ]


def test_all_is_what_is_there(folder: Path, tmp_path: Path) -> None:
    found, absent = load_all("all", folder)
    assert [benchmark.name for benchmark in found] == list(SEVEN)
    assert absent.keys() == set(names()) - set(SEVEN)
    assert "princeton-nlp/LLMBar" in absent["llmbar"]
    with pytest.raises(DataError, match="holds none of"):
        load_all("all", tmp_path)


def test_some_are_in_the_order_of_their_names(folder: Path) -> None:
    pairs = files.jsonl(folder / "mine.jsonl", [{"prompt": "q", "chosen": "a", "rejected": "b"}])
    found, absent = load_all(f"rmb, rm-bench,{pairs}", folder)
    assert [benchmark.name for benchmark in found] == ["rmb", "rm-bench", "mine.jsonl"] and not absent
    for wrong, message in ((" , ", "no benchmark is named"), ("rmb,rmb", "named twice"), ("rmbb", "'rmb'")):
        with pytest.raises(ConfigError, match=message):
            load_all(wrong, folder)
    with pytest.raises(DataError, match="LLMBar is not in"):
        load_all("llmbar", folder)


def test_a_damaged_one_is_an_error_also_of_all(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "rewardbench", tmp_path / "rewardbench")
    path = tmp_path / "rewardbench" / "data" / "filtered-00000-of-00001.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match="not a whole Parquet file"):
        load_all("all", tmp_path)


# --- the average -------------------------------------------------------------------------------------


def perfect(benchmark: Benchmark) -> np.ndarray:
    """Rewards by which every pair that the benchmark knows of is ordered rightly, with gaps above the spreads."""
    rewards = np.zeros((len(benchmark.items), benchmark.most_responses))
    item, better, _ = benchmark.pairs.T
    rewards[item, better] = 1.0
    return rewards


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> list[Benchmark]:
    """The seven at their full sizes; of RMB the expected size is that of a small file."""
    folder = tmp_path_factory.mktemp("whole")
    files.write_seven(folder, small=False)
    found, _ = load_all("all", folder)
    return [one if one.name != "rmb" else dataclasses.replace(one, expected=len(one.items)) for one in found]


def test_the_average_of_seven_whole_ones(whole: list[Benchmark]) -> None:
    rewards = [np.random.default_rng(1).normal(size=perfect(one).shape) for one in whole]
    value, why = seven_average(list(zip(whole, rewards, strict=True)))
    headlines = [one.scores(own)[one.headline][0] for one, own in zip(whole, rewards, strict=True)]
    assert why == "" and value == pytest.approx(np.mean(headlines), abs=1e-12)


def test_no_average_of_fewer(whole: list[Benchmark]) -> None:
    measured = [(one, perfect(one)) for one in whole]
    value, why = seven_average(measured[:-2])
    assert value is None and why == "of the seven, rm-bench, judgebench are absent"
    unscored = [(one, rewards.copy()) for one, rewards in measured]
    unscored[3][1][5, 0] = np.nan
    assert seven_average(unscored) == (None, "PPE Correctness: 1 of 2,555 items have no reward")
    part = whole[5].only(np.arange(1_327) > 0, "too long")
    partly = [*measured[:5], (part, perfect(part)), measured[6]]
    assert seven_average(partly) == (None, "RM-Bench 1,326/1,327 is not whole (1 too long)")
