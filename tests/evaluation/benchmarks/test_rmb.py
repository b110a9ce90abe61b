"""RMB: four parts, lists whose best must beat every loser, conversations of several turns."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load
from tests import benchmark_files as files


@pytest.fixture(scope="module")
def benchmark(tmp_path_factory) -> Benchmark:
    folder = tmp_path_factory.mktemp("data")
    files.write_rmb(folder / "RMB-Reward-Model-Benchmark", 5, 4)
    return load("rmb", folder)


def test_what_is_read(benchmark: Benchmark) -> None:
    counts = {part: sum(item.subset == part for item in benchmark.items) for part in benchmark.subset_weights}
    assert counts == {
        "pairwise helpfulness": 10,
        "pairwise harmlessness": 10,
        "best-of-N helpfulness": 8,
        "best-of-N harmlessness": 8,
    }
    assert benchmark.expected == 7_064 + 10_067 + 1_677 + 2_109
    assert benchmark.shown_name == "RMB 36/20,917"
    item = next(item for item in benchmark.items if "multi" in item.prompt[-1].content)
    assert [message.role for message in item.prompt] == ["user", "assistant"] * 2 + ["user"]
    assert {len(item.responses) for item in benchmark.items} == {2, 3, 4}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_against_loops(benchmark: Benchmark, seed: int) -> None:
    random = np.random.default_rng(seed)
    rewards = random.integers(0, 4, size=(36, benchmark.most_responses)).astype(float)
    right: dict[str, list[bool]] = {}
    for item, row in zip(benchmark.items, rewards, strict=True):
        own = row[: len(item.responses)]
        right.setdefault(item.subset, []).append(all(own[0] > loser for loser in own[1:]))
    means = {part: np.mean(own) for part, own in right.items()}
    scores = benchmark.scores(rewards)
    assert scores["total"][0] == pytest.approx(np.mean(list(means.values())), abs=1e-12)
    for part, mean in means.items():
        assert scores[part][0] == pytest.approx(mean, abs=1e-12)
    assert scores["best-of-N"][0] == pytest.approx(
        (means["best-of-N helpfulness"] + means["best-of-N harmlessness"]) / 2, abs=1e-12
    )


def test_one_loser_that_ties_is_enough(benchmark: Benchmark) -> None:
    rewards = np.zeros((36, benchmark.most_responses))
    rewards[:, 0] = 1.0
    assert benchmark.scores(rewards)["total"][0] == 1.0
    rewards[:, 1] = 1.0
    assert benchmark.scores(rewards)["total"][0] == 0.0


def test_parts_weigh_the_same_and_scenarios_as_their_items(tmp_path: Path) -> None:
    """Micro inside a part: three pairs of one scenario against one of another."""
    files.write_rmb(tmp_path, 3, 1)
    path = tmp_path / "RMB_dataset" / "Pairwise_set" / "Harmlessness" / "S1.json"
    files.array(path, [record for n, record in enumerate(_records(path)) if n < 1])
    benchmark = load("rmb", tmp_path)
    rewards = np.zeros((len(benchmark.items), benchmark.most_responses))
    from_multi = [
        "multi" in item.prompt[-1].content and item.subset.startswith("pairwise") for item in benchmark.items
    ]
    rewards[from_multi, 0] = 1.0
    scores = benchmark.scores(rewards)
    assert scores["pairwise harmlessness"][0] == 0.75
    assert scores["pairwise, several turns"][0] == 0.5  # multi right, Data Management wrong
    assert scores["total"][0] == 0.75 / 4


def test_parts_that_are_not_there(tmp_path: Path) -> None:
    files.write_rmb(tmp_path, 2, 2)
    for path in (tmp_path / "RMB_dataset" / "BoN_set" / "Helpfulness").rglob("*.json"):
        path.unlink()
    benchmark = load("rmb", tmp_path)
    assert benchmark.missing == {"no file of best-of-N helpfulness": 2_109}
    assert benchmark.subset_weights["pairwise helpfulness"] == pytest.approx(1 / 3)


def test_names_in_which_the_path_was_written_out(tmp_path: Path) -> None:
    files.write_rmb(tmp_path, 2, 2)
    flat = tmp_path / "flat"
    flat.mkdir()
    root = tmp_path / "RMB_dataset"
    for path in root.rglob("*.json"):
        (flat / str(path.relative_to(root)).replace("/", "__")).write_bytes(path.read_bytes())
    assert len(load("rmb", flat).items) == len(load("rmb", tmp_path).items) == 16


def test_wrong_records_are_counted(tmp_path: Path) -> None:
    files.write_rmb(tmp_path, 5, 4)
    path = tmp_path / "RMB_dataset" / "BoN_set" / "Harmlessness" / "S1.json"
    records = _records(path)
    records[0]["loser_list"] = []
    records[1]["bon_best"]["answer"] = ""
    records[2]["conversation_input"][-1]["role"] = "assistant"
    files.array(path, records)
    benchmark = load("rmb", tmp_path)
    assert benchmark.missing == {"no_response": 1, "empty_response": 1, "roles": 1}


def _records(path: Path) -> files.Records:
    return json.loads(path.read_text())
