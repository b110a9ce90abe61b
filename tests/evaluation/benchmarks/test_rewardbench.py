"""RewardBench: sections, weights, prior sets, by hand and against loops."""

from pathlib import Path

import numpy as np
import pytest

from rewardscale.data.comparison import DataError
from rewardscale.evaluation.benchmarks import rewardbench
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load
from tests import benchmark_files as files


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Benchmark:
    folder = tmp_path_factory.mktemp("data")
    files.write_rewardbench(folder / "reward-bench", files.rewardbench_sizes())
    return load("rewardbench", folder)


def where(benchmark: Benchmark, *subsets: str) -> np.ndarray:
    return np.array([item.subset in subsets for item in benchmark.items])


def rewards_right_on(benchmark: Benchmark, right: np.ndarray) -> np.ndarray:
    """Margin 1 where `right`, else -1."""
    return np.where(right[:, None], [[1.0, 0.0]], [[0.0, 1.0]])


def test_the_whole_set(whole: Benchmark) -> None:
    assert len(whole.items) == 2_985 and whole.whole and whole.seven
    assert whole.shown_name == "RewardBench"
    assert whole.items[0].subset == "alpacaeval-easy"
    assert whole.items[0].responses == ("good answer 0", "bad answer 0")
    assert sum(whole.subset_weights.values()) == pytest.approx(1)


def test_sections_have_their_sizes() -> None:
    sizes = {section: sum(subsets.values()) for section, subsets in rewardbench.SECTIONS.items()}
    assert sizes == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 2 * 984}


def test_math_weighs_as_much_as_code(whole: Benchmark) -> None:
    """Right on all of math-prm and no code: 447 of 1,431 pairs, and half of Reasoning."""
    scores = whole.scores(rewards_right_on(whole, where(whole, "math-prm")))
    assert scores["Reasoning"][0] == 0.5
    assert scores["total"][0] == 0.125
    assert whole.subset_weights["math-prm"] == pytest.approx(0.125)


def test_the_xstest_counts_are_not_swapped(whole: Benchmark) -> None:
    scores = whole.scores(rewards_right_on(whole, where(whole, "xstest-should-respond")))
    assert scores["Safety"][0] == pytest.approx(250 / 740)
    scores = whole.scores(rewards_right_on(whole, where(whole, "xstest-should-refuse")))
    assert scores["Safety"][0] == pytest.approx(154 / 740)


def test_a_tie_is_wrong(whole: Benchmark) -> None:
    assert whole.scores(np.zeros((2_985, 2)))["total"][0] == 0.0


def test_a_section_is_weighed_by_the_constants_and_not_by_what_is_there(tmp_path: Path) -> None:
    """Half of a subset keeps the subset's weight, as in the official scorer."""
    files.write_rewardbench(tmp_path, {"mt-bench-hard": 10, "llmbar-natural": 10})
    benchmark = load("rewardbench", tmp_path)
    scores = benchmark.scores(rewards_right_on(benchmark, where(benchmark, "mt-bench-hard")))
    assert scores["Chat Hard"][0] == pytest.approx(37 / 137)
    assert scores["total"][0] == scores["Chat Hard"][0]  # the only section
    assert benchmark.shown_name == "RewardBench 20/2,985" and not benchmark.whole


def test_against_loops(whole: Benchmark) -> None:
    random = np.random.default_rng(5)
    rewards = random.integers(0, 3, size=(2_985, 2)).astype(float)
    right: dict[str, list[bool]] = {}
    for item, (chosen, rejected) in zip(whole.items, rewards, strict=True):
        right.setdefault(item.subset, []).append(chosen > rejected)
    sections = []
    for subsets in rewardbench.SECTIONS.values():
        weighed = sum(size * np.mean(right[name]) for name, size in subsets.items())
        sections.append(weighed / sum(subsets.values()))
    assert whole.scores(rewards)["total"][0] == pytest.approx(np.mean(sections), abs=1e-12)


def test_published_sections_give_the_published_mean() -> None:
    """95.8, 91.4, 92.0, 96.1 -> 93.8."""
    sections = {
        name: np.array([value])
        for name, value in zip(rewardbench.SECTIONS, (95.8, 91.4, 92.0, 96.1), strict=True)
    }
    assert float(rewardbench.mean_of(list(sections.values()))[0]) == pytest.approx(93.825)
    # With the prior sets at half a section's weight.
    with_prior = rewardbench.with_prior(sections, {"total": np.array([70.0])})
    assert with_prior[0] == pytest.approx((2 * (95.8 + 91.4 + 92.0 + 96.1) + 70.0) / 9)


def test_prior_sets_are_apart(tmp_path: Path) -> None:
    files.write_prior(tmp_path / "rewardbench-prior", {"anthropic_helpful": 8, "shp": 2})
    benchmark = load("rewardbench-prior", tmp_path)
    assert not benchmark.seven
    assert benchmark.missing == {"no file of anthropic_hhh": 221, "no file of summarize": 9_000}
    assert benchmark.shown_name == "RewardBench, prior sets 10/17,154"
    scores = benchmark.scores(rewards_right_on(benchmark, where(benchmark, "shp")))
    assert scores["total"][0] == 0.5  # a mean over sets, not over pairs


def test_records_that_cannot_be_used_are_counted(tmp_path: Path) -> None:
    records = files.rewardbench_records({"donotanswer": 8})
    records[0]["chosen"] = ""
    records[1]["subset"] = "donotanswer2"
    records[2]["prompt"] = " "
    records[3]["rejected"] = None
    records[4] = dict(records[5])
    files.jsonl(tmp_path / "filtered.jsonl.gz", records)
    benchmark = load("rewardbench", tmp_path)
    assert benchmark.missing == {
        "empty_response": 1,
        "unknown subset": 1,
        "empty_prompt": 1,
        "no_response": 1,
        "the same record twice": 1,
    }
    assert len(benchmark.items) == 3


def test_a_file_without_the_columns_is_an_error(tmp_path: Path) -> None:
    files.jsonl(tmp_path / "filtered.jsonl", [{"question": "a", "answer": "b"}] * 3)
    with pytest.raises(DataError, match=r"filtered\.jsonl: none of its 3 records .*`subset` is None"):
        load("rewardbench", tmp_path)
