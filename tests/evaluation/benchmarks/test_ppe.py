"""PPE: votes without ties; sampled pairs, AUC and best-of-K of five benchmarks."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.evaluation.benchmarks import ppe_correctness
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.benchmarks.registry import load
from tests import benchmark_files as files

SMALL = {"MMLU-Pro": 8, "MATH": 12, "GPQA": 4, "MBPP-Plus": 8, "IFEval": 4}

# --- preference --------------------------------------------------------------------------------------


def test_ties_are_left_out_and_not_missing(tmp_path: Path) -> None:
    winners = ["model_a", "model_b", "tie", "tie (bothbad)"] * 4_009 + ["model_a", "model_b"]
    files.write_ppe_preference(tmp_path / "PPE-Human-Preference-V1", winners)
    benchmark = load("ppe-preference", tmp_path)
    assert len(winners) == 16_038
    assert len(benchmark.items) == benchmark.expected == 8_020
    assert benchmark.whole and benchmark.missing == {} and benchmark.shown_name == "PPE Preference"
    assert benchmark.scores(np.zeros((8_020, 2)))["accuracy"][0] == 0.0  # ties of rewards are wrong


def test_the_share_is_of_all_votes(tmp_path: Path) -> None:
    files.write_ppe_preference(tmp_path, ["model_a", "tie", "model_b"])
    assert load("ppe-preference", tmp_path).shown_name == "PPE Preference 2/16,037"


def test_categories(tmp_path: Path) -> None:
    records = files.write_ppe_preference(tmp_path, ["model_a", "model_b", "tie"] * 12)
    benchmark = load("ppe-preference", tmp_path)
    rewards = np.random.default_rng(0).integers(0, 3, size=(24, 2)).astype(float)
    right: dict[str, list[bool]] = {}
    kept = [record for record in records if record["winner"] != "tie"]
    for record, (first, second) in zip(kept, rewards, strict=True):
        won = first > second if record["winner"] == "model_a" else second > first
        longer = len(record["response_1"]) - len(record["response_2"])
        for name, member in {
            "accuracy": True,
            "code": record["is_code"],
            "hard": record["hard_prompt"],
            "instruction following": record["if_prompt"],
            "english": record["language"] == "English",
            "not english": record["language"] != "English",
            "chinese": record["language"] == "Chinese",
            "the shorter won": longer != 0 and (longer < 0) == (record["winner"] == "model_a"),
        }.items():
            if member:
                right.setdefault(name, []).append(bool(won))
    scores = benchmark.scores(rewards)
    for name, own in right.items():
        assert scores[name][0] == pytest.approx(np.mean(own), abs=1e-12), name


def test_winners_outside_the_set_are_counted(tmp_path: Path) -> None:
    files.write_ppe_preference(tmp_path, ["model_a", "model_c", "model_b"])
    assert load("ppe-preference", tmp_path).missing == {"unknown winner": 1}


# --- correctness -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Benchmark, dict[str, files.Records]]:
    folder = tmp_path_factory.mktemp("data")
    records = files.write_ppe_correctness(folder / "ppe-correctness", SMALL)
    return load("ppe-correctness", folder), records


def test_the_whole_set_has_2555_questions(tmp_path: Path) -> None:
    files.write_ppe_correctness(tmp_path / "ppe-correctness")
    benchmark = load("ppe-correctness", tmp_path)
    assert len(benchmark.items) == 2_555 and len(benchmark.pairs) == 12_775 and benchmark.whole
    assert benchmark.quality is not None and benchmark.quality.shape == (2_555, 32)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10_000))
def test_against_loops(written: tuple[Benchmark, dict[str, files.Records]], seed: int) -> None:
    benchmark, by_set = written
    rewards = np.random.default_rng(seed).integers(0, 12, size=(len(benchmark.items), 32)).astype(float)
    rows = iter(rewards)
    accuracy, auc, at_all = {}, {}, {}
    for name, records in by_set.items():
        right, good, bad, taken = [], [], [], []
        for record in records:
            row, scores = next(rows), record["scores"]
            for i, j in record["sampled_conflict_pairs"]:
                better, worse = (i, j) if scores[i] else (j, i)
                right.append(row[better] > row[worse])
            good += [reward for reward, own in zip(row, scores, strict=True) if own]
            bad += [reward for reward, own in zip(row, scores, strict=True) if not own]
            best = [own for reward, own in zip(row, scores, strict=True) if reward == row.max()]
            taken.append(np.mean(best))
        accuracy[name] = np.mean(right)
        auc[name] = np.mean([(g > b) + (g == b) / 2 for g in good for b in bad])
        at_all[name] = np.mean(taken)
    scores = benchmark.scores(rewards)
    assert scores["total"][0] == pytest.approx(np.mean(list(accuracy.values())), abs=1e-12)
    assert scores["auc"][0] == pytest.approx(np.mean(list(auc.values())), abs=1e-12)
    assert scores["best of 32"][0] == pytest.approx(np.mean(list(at_all.values())), abs=1e-12)
    for name in by_set:
        assert scores[name][0] == pytest.approx(accuracy[name], abs=1e-12)
        assert scores[f"{name} auc"][0] == pytest.approx(auc[name], abs=1e-12)
        assert scores[f"{name} best of 32"][0] == pytest.approx(at_all[name], abs=1e-12)
    apart = [value for name, value in accuracy.items() if name != "MBPP-Plus"]
    assert scores["without MBPP-Plus"][0] == pytest.approx(np.mean(apart), abs=1e-12)


def test_a_verifier_as_a_model(written: tuple[Benchmark, dict[str, files.Records]]) -> None:
    benchmark, _ = written
    assert benchmark.quality is not None
    scores = benchmark.scores(benchmark.quality)
    assert scores["total"][0] == scores["auc"][0] == scores["best of 32"][0] == 1.0
    assert scores["best of 4"][0] == scores["oracle of 4"][0]
    worst = benchmark.scores(-benchmark.quality)
    assert worst["total"][0] == worst["auc"][0] == worst["best of 32"][0] == 0.0
    assert worst["best of 1"][0] == scores["best of 1"][0]  # one draw: nothing to choose


def test_pairs_as_they_are(tmp_path: Path) -> None:
    """A pair that was sampled twice counts twice; one of two right answers does not, and is counted."""
    records = files.ppe_correctness_records("GPQA", 2)
    for record in records:
        record["scores"] = [number < 16 for number in range(32)]
        record["sampled_conflict_pairs"] = [[0, 31], [31, 0], [0, 31], [1, 2], [30, 2]]
    records[1]["response_31"] = ""
    files.parquet(tmp_path / "PPE-GPQA-Best-of-K" / "data" / "train-00000.parquet", records)
    benchmark = load("ppe-correctness", tmp_path)
    assert [tuple(pair) for pair in benchmark.pairs.tolist()] == [
        *[(0, 0, 31)] * 3,
        (0, 2, 30),
        *[(1, 0, 30)] * 3,
    ]
    assert [len(item.responses) for item in benchmark.items] == [32, 31]
    kept = {reason: count for reason, count in benchmark.missing.items() if not reason.startswith("no file")}
    assert kept == {
        "pair: both right or both wrong": 2,
        "pair: of an answer that is left out": 1,
        "answer: empty_response": 1,
    }
    assert not benchmark.whole


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"scores": [True] * 31}, "scores"),
        ({"scores": [0.5] * 32}, "scores"),
        ({"sampled_conflict_pairs": None}, "no pairs"),
        ({"sampled_conflict_pairs": [[0, 32]]}, "pairs"),
        ({"sampled_conflict_pairs": [[0]]}, "pairs"),
        ({"prompt": None}, "no_prompt"),
    ],
)
def test_wrong_records_are_counted(tmp_path: Path, change: dict, why: str) -> None:
    records = files.ppe_correctness_records("MATH", 4)
    records[2] |= change
    files.jsonl(tmp_path / "MATH.jsonl", records)
    benchmark = load("ppe-correctness", tmp_path)
    assert benchmark.missing[why] == 1 and len(benchmark.items) == 3


def test_absent_benchmarks_are_named(tmp_path: Path) -> None:
    files.write_ppe_correctness(tmp_path, {"GPQA": 512})
    benchmark = load("ppe-correctness", tmp_path)
    assert benchmark.shown_name == "PPE Correctness 512/2,555"
    assert benchmark.missing["no file of MBPP-Plus"] == 507
    assert list(ppe_correctness.SIZES) == ["MMLU-Pro", "MATH", "GPQA", "MBPP-Plus", "IFEval"]
