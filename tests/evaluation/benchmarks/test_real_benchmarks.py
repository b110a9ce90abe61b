"""The sets that lie beside the repository, counted as their ORIGIN.md counts them."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load, spec
from rewardscale.evaluation.controls import controls, length_control


def real(name: str) -> Benchmark:
    beside = Path(__file__).resolve().parents[3].parent / "shared" / "data"
    own = spec(name)
    for folder in (os.environ.get("REWARDSCALE_DATA"), beside):
        if folder and any((Path(folder) / one).is_dir() for one in (own.name, *own.folders)):
            return load(name, Path(folder))
    pytest.skip(f"set REWARDSCALE_DATA to the folder that holds {name}/")


def subsets(benchmark: Benchmark) -> Counter[str]:
    return Counter(item.subset for item in benchmark.items)


def test_rm_bench() -> None:
    benchmark = real("rm-bench")
    assert {"chat": 129, "code": 228, "safety": 441}.items() <= subsets(benchmark).items()
    if len(benchmark.items) == 798:
        assert benchmark.shown_name == "RM-Bench 798/1,327"
        assert benchmark.missing == {"no file of math": 529}
    # Longer answers are the styled ones: they win where the right one has more style, and lose where it has less.
    longer = controls(benchmark)["longer"]
    assert longer["easy"][0] > 0.8 and longer["hard"][0] < 0.2


def test_llmbar() -> None:
    benchmark = real("llmbar")
    expected = {"natural": 100, "neighbor": 134, "GPTInst": 92, "GPTOut": 47, "manual": 46}
    assert subsets(benchmark) == expected and benchmark.whole and benchmark.shown_name == "LLMBar"


def test_llmbar_processed() -> None:
    benchmark = real("llmbar-processed")
    assert len(benchmark.items) + sum(benchmark.missing.values()) == 466
    assert benchmark.missing == {"identical_responses": 1, "empty_response": 1}


def test_hhh() -> None:
    benchmark = real("hhh")
    assert subsets(benchmark) == {"harmless": 58, "helpful": 59, "honest": 61, "other": 43}
    assert benchmark.whole


def test_hh_rlhf() -> None:
    benchmark = real("hh-rlhf")
    refused = {"parted_early": 5, "empty_response": 4, "roles": 4}
    assert refused.items() <= benchmark.missing.items()
    assert subsets(benchmark)["harmless-base"] + sum(refused.values()) == 2_312
    assert benchmark.expected == 8_552


def test_humanevalpack() -> None:
    benchmark = real("humanevalpack")
    assert subsets(benchmark) == dict.fromkeys(("cpp", "go", "java", "js", "python", "rust"), 164)
    assert benchmark.whole and benchmark.clusters().max() == 163


def test_gsm8k_solutions() -> None:
    benchmark = real("gsm8k-solutions")
    assert len(benchmark.items) == 1_319 and len(benchmark.pairs) == 2_429 and benchmark.quality is not None
    assert benchmark.quality.size == 5_276 and benchmark.quality.sum() == 2_001


@pytest.mark.slow  # 350 MB of answers
def test_mmlu_pro() -> None:
    benchmark = real("mmlu-pro")
    assert len(benchmark.items) == 12_032 and len(benchmark.pairs) == 1_325_635
    assert benchmark.missing == {"answer: without a label": 32_688, "empty_response": 8}  # 32,696 unparsed
    assert benchmark.quality is not None
    assert np.isfinite(benchmark.quality).sum() == 346_992 - 32_696
    scores = benchmark.scores(length_control(benchmark))
    assert scores["best of 1"][0] < scores["best of 4"][0] < scores["oracle of 4"][0]
