"""JudgeBench: rules for ties, micro and macro, both splits and both layouts."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load
from tests import benchmark_files as files


@pytest.fixture(scope="module")
def gpt(tmp_path_factory) -> Benchmark:
    folder = tmp_path_factory.mktemp("data")
    files.write_judgebench(folder / "judgebench")
    return load("judgebench", folder)


def right_side(benchmark: Benchmark) -> np.ndarray:
    return benchmark.pairs[:, 1]


def test_the_whole_split(gpt: Benchmark) -> None:
    assert len(gpt.items) == 350 and gpt.whole and gpt.seven and gpt.headline == "macro"
    counts = {name: sum(item.subset == name for item in gpt.items) for name in gpt.subset_weights}
    assert counts == {"knowledge": 154, "reasoning": 98, "math": 56, "coding": 42}


def test_published_fractions_give_the_published_mean(gpt: Benchmark) -> None:
    """96/154, 65/98, 46/56 and 25/42 -> 67.6, the mean of four categories."""
    wins = {"knowledge": 96, "reasoning": 65, "math": 46, "coding": 25}
    rewards = np.zeros((350, 2))
    side = right_side(gpt)
    for category, count in wins.items():
        own = [n for n, item in enumerate(gpt.items) if item.subset == category]
        for place, n in enumerate(own):
            rewards[n, side[n] if place < count else 1 - side[n]] = 1.0
    scores = gpt.scores(rewards)
    assert round(100 * scores["macro"][0], 1) == 67.6
    assert scores["micro"][0] == pytest.approx(sum(wins.values()) / 350)
    assert scores["math"][0] == pytest.approx(46 / 56)


def test_a_tie_is_officially_a_vote_for_b(gpt: Benchmark) -> None:
    scores = gpt.scores(np.zeros((350, 2)))
    b_is_right = np.mean([item_side == 1 for item_side in right_side(gpt)])
    assert scores["micro official"][0] == b_is_right
    assert scores["micro"][0] == scores["macro"][0] == 0.5
    assert scores["micro strict"][0] == 0.0 and scores["ties"][0] == 1.0


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_against_loops(gpt: Benchmark, seed: int) -> None:
    rewards = np.random.default_rng(seed).integers(0, 3, size=(350, 2)).astype(float)
    records = files.judgebench_records()
    right: dict[str, list[float]] = {}
    official = []
    for item, record, (a, b) in zip(gpt.items, records, rewards, strict=True):
        official.append(("A>B" if a > b else "B>A") == record["label"])
        decision = "A>B" if a > b else "B>A" if b > a else "tie"
        right.setdefault(item.subset, []).append(0.5 if decision == "tie" else decision == record["label"])
    scores = gpt.scores(rewards)
    assert scores["micro official"][0] == pytest.approx(np.mean(official), abs=1e-12)
    assert scores["macro"][0] == pytest.approx(np.mean([np.mean(own) for own in right.values()]), abs=1e-12)
    assert scores["micro"][0] == pytest.approx(np.mean([x for own in right.values() for x in own]), abs=1e-12)


def test_the_splits_are_benchmarks_of_their_own(tmp_path: Path) -> None:
    files.parquet(tmp_path / "data" / "gpt-00000-of-00001.parquet", files.judgebench_records())
    files.parquet(
        tmp_path / "data" / "claude-00000-of-00001.parquet",
        files.judgebench_records(
            {"mmlu-pro-law": 154, "livebench-reasoning": 51, "livebench-math": 34, "livecodebench": 31}
        ),
    )
    gpt, claude = load("judgebench", tmp_path), load("judgebench-claude", tmp_path)
    assert (len(gpt.items), gpt.whole) == (350, True)
    assert (len(claude.items), claude.whole, claude.seven) == (270, True, False)


def test_labels_and_sources_outside_the_set_are_counted(tmp_path: Path) -> None:
    records = files.judgebench_records({"livecodebench": 5})
    records[0]["label"] = "A=B"
    records[1]["source"] = "codeforces"
    del records[2]["response_B"]
    files.jsonl(tmp_path / "gpt.jsonl", records)
    benchmark = load("judgebench", tmp_path)
    assert benchmark.missing == {"unknown label": 1, "unknown source": 1, "no_response": 1}
    assert benchmark.shown_name == "JudgeBench (gpt) 2/350"
