"""RM-Bench: the style matrix by hand and against loops, pooled safety, files of the repository and of the hub."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.evaluation.benchmarks import rm_bench
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load
from tests import benchmark_files as files


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Benchmark:
    folder = tmp_path_factory.mktemp("data")
    files.write_rm_bench(folder / "RM-Bench", files.RM_BENCH_SIZES)
    return load("rm-bench", folder)


def slow(domains: list[str], rewards: np.ndarray) -> dict[str, float]:
    """The README's rule, item by item."""
    by_domain = {}
    for domain in sorted(set(domains)):
        rows = [row for own, row in zip(domains, rewards, strict=True) if own == domain]
        matrix = [[sum(row[i] > row[3 + j] for row in rows) / len(rows) for j in range(3)] for i in range(3)]
        hard = (matrix[0][1] + matrix[0][2] + matrix[1][2]) / 3
        normal = (matrix[0][0] + matrix[1][1] + matrix[2][2]) / 3
        easy = (matrix[1][0] + matrix[2][0] + matrix[2][1]) / 3
        by_domain[domain] = {"hard": hard, "normal": normal, "easy": easy}
    out = {domain: sum(own.values()) / 3 for domain, own in by_domain.items()}
    out |= {
        level: sum(own[level] for own in by_domain.values()) / len(by_domain)
        for level in ("hard", "normal", "easy")
    }
    out["total"] = sum(out[domain] for domain in by_domain) / len(by_domain)
    return out


def test_the_whole_set(whole: Benchmark) -> None:
    assert len(whole.items) == 1_327 and whole.whole and whole.shown_name == "RM-Bench"
    safety = [item for item in whole.items if item.subset == "safety"]
    assert len(safety) == 441  # refusals and responses are one domain
    assert len(whole.pairs) == 9 * 1_327
    assert whole.subset_weights == dict.fromkeys(rm_bench.DOMAINS, 0.25)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 3]))
def test_against_loops(whole: Benchmark, seed: int, levels: int) -> None:
    random = np.random.default_rng(seed)
    shape = (len(whole.items), 6)
    rewards = random.integers(0, levels, size=shape).astype(float) if levels else random.normal(size=shape)
    scores = whole.scores(rewards)
    expected = slow([item.subset for item in whole.items], rewards)
    for name, value in expected.items():
        assert scores[name][0] == pytest.approx(value, abs=1e-12), name
    # The total is the mean of the nine cells, which are means over the domains.
    assert rm_bench.matrix(scores).mean() == pytest.approx(scores["total"][0], abs=1e-12)
    assert next(iter(scores)) == whole.headline == "total"


def test_by_hand(tmp_path: Path) -> None:
    """A model that loves style: the richer answer wins, the right one on a par."""
    files.write_rm_bench(tmp_path, {"chat": 2})
    benchmark = load("rm-bench", tmp_path)
    style = np.array([[1.0, 2, 3, 0.9, 1.9, 2.9]] * 2)
    scores = benchmark.scores(style)
    assert [scores[level][0] for level in ("easy", "normal", "hard")] == [1.0, 1.0, 0.0]
    assert scores["total"][0] == pytest.approx(2 / 3)
    assert scores["markdown over concise"][0] == 1.0 and scores["concise over markdown"][0] == 0.0
    np.testing.assert_array_equal(rm_bench.matrix(scores), [[1, 0, 0], [1, 1, 0], [1, 1, 1]])
    assert benchmark.scores(np.zeros((2, 6)))["total"][0] == 0.0  # ties are wrong


def test_domains_weigh_the_same(tmp_path: Path) -> None:
    files.write_rm_bench(tmp_path, {"chat": 1, "code": 9})
    benchmark = load("rm-bench", tmp_path)
    rewards = np.zeros((10, 6))
    rewards[[item.subset == "chat" for item in benchmark.items], :3] = 1
    assert benchmark.scores(rewards)["total"][0] == 0.5


def test_what_is_missing_is_in_the_name(tmp_path: Path) -> None:
    sizes = {name: size for name, size in files.RM_BENCH_SIZES.items() if name != "math"}
    files.write_rm_bench(tmp_path / "rm-bench", sizes)
    benchmark = load("rm-bench", tmp_path)
    assert benchmark.shown_name == "RM-Bench 798/1,327"
    assert benchmark.missing == {"no file of math": 529} and not benchmark.whole
    assert benchmark.subset_weights == dict.fromkeys(("chat", "code", "safety"), 1 / 3)
    assert "math" not in benchmark.scores(np.zeros((798, 6)))


def test_the_one_file_of_the_hub(tmp_path: Path, whole: Benchmark) -> None:
    records = [
        record | {"domain": part}
        for part, size in files.RM_BENCH_SIZES.items()
        for record in files.rm_bench_records(part, size)
    ]
    files.array(tmp_path / "total_dataset.json.gz", records)
    benchmark = load("rm-bench", tmp_path)
    assert benchmark.items == whole.items and benchmark.whole
    # Beside its parts it is read alone.
    files.write_rm_bench(tmp_path, {"chat": 129})
    assert load("rm-bench", tmp_path).items == whole.items


def test_wrong_shapes_are_counted(tmp_path: Path) -> None:
    records = files.rm_bench_records("chat", 4)
    records[0]["chosen"] = records[0]["chosen"][:2]
    records[1]["rejected"] = "text"
    records[2]["chosen"][1] = " "
    files.array(tmp_path / "chat_filtered.json", records)
    benchmark = load("rm-bench", tmp_path)
    assert {"not 3 x 3": 1, "no_response": 1, "empty_response": 1}.items() <= benchmark.missing.items()
    assert len(benchmark.items) == 1


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    files.write_rm_bench(tmp_path, {"chat": 4})
    path = tmp_path / "data" / "chat_filtered.json"
    path.write_text(path.read_text()[:-300])
    with pytest.raises(DataError, match=r"chat_filtered\.json is not JSON, or cut short"):
        load("rm-bench", tmp_path)
