"""RewardBench 2: credit of ties at the top, and the Ties formula, by hand and against loops."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.evaluation.benchmarks import rewardbench2
from rewardscale.evaluation.benchmarks.base import Benchmark, padded
from rewardscale.evaluation.benchmarks.registry import load
from tests import benchmark_files as files


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Benchmark:
    folder = tmp_path_factory.mktemp("data")
    files.write_rewardbench2(folder / "rewardbench2")
    return load("rewardbench2", folder)


def slow_ties(rows: list[tuple[str, int, int, list[float]]]) -> float:
    """The formula of its text, prompt by prompt. rows: form, k, right answers, rewards."""
    stats: dict[str, dict[int, tuple[float, float]]] = {"ref": {}, "tied": {}}
    for form, k, right, rewards in rows:
        good, bad = rewards[:right], rewards[right:]
        stats[form][k] = (min(good) - max(bad), max(good) - min(good))
    ref, tied = stats["ref"], stats["tied"]
    accurate = {form: sum(gap > 0 for gap, _ in own.values()) / len(own) for form, own in stats.items()}
    preferred = hard = margin = 0.0
    both = [k for k in tied if k in ref]
    for k in both:
        spread = tied[k][1]
        least = min(tied[k][0], ref[k][0])
        preferred += tied[k][0] > spread
        hard += least > spread
        if spread:
            margin += math.tanh(least / spread - 1)
        elif least:
            margin += math.copysign(1.0, least)  # tanh of an infinity; 0 / 0 counts as 0
    n = len(both)
    return (
        0.3 * accurate["tied"]
        + 0.3 * accurate["ref"]
        + 0.2 * preferred / n
        + 0.2 * hard / n
        + 0.01 * margin / n
    )


def slow_total(benchmark: Benchmark, rewards: np.ndarray) -> float:
    credits: dict[str, list[float]] = {}
    ties = []
    for item, row in zip(benchmark.items, rewards, strict=True):
        own = [float(reward) for reward in row[: len(item.responses)]]
        if item.subset == rewardbench2.TIES:
            form, k = item.id.removeprefix("Ties/").split(":")
            right = sum(response.startswith("right") for response in item.responses)
            ties.append((form, int(k), right, own))
        else:
            top = [number for number, reward in enumerate(own) if reward == max(own)]
            credits.setdefault(item.subset, []).append(1 / len(top) if 0 in top else 0.0)
    return (sum(sum(own) / len(own) for own in credits.values()) + slow_ties(ties)) / (len(credits) + 1)


def random_rewards(benchmark: Benchmark, seed: int, *, levels: int = 0) -> np.ndarray:
    """Normal, or whole numbers below `levels`, so that there are ties of all kinds."""
    random = np.random.default_rng(seed)
    shape = (len(benchmark.items), benchmark.most_responses)
    rewards = random.integers(0, levels, size=shape).astype(float) if levels else random.normal(size=shape)
    rewards[np.arange(shape[1]) >= benchmark.response_counts[:, None]] = np.nan
    return rewards


def test_the_whole_set(whole: Benchmark) -> None:
    assert len(whole.items) == 1_865 and whole.whole and whole.seven
    assert set(whole.subset_weights.values()) == {1 / 6}
    ties = [item for item in whole.items if item.subset == "Ties"]
    assert (
        len(ties) == 102 and len({item.drawn_by for item in ties}) == 51
    )  # both forms of a k are drawn together


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([0, 2, 5]))
def test_against_loops(whole: Benchmark, seed: int, levels: int) -> None:
    rewards = random_rewards(whole, seed, levels=levels)
    assert whole.scores(rewards)["total"][0] == pytest.approx(slow_total(whole, rewards), abs=1e-12)


def test_credit_is_shared_at_the_top(tmp_path: Path) -> None:
    files.write_rewardbench2(tmp_path, {"Math": 6})
    benchmark = load("rewardbench2", tmp_path)
    rows = [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1], [0, 1, 0, 0], [0, 1, 1, 1]]
    scores = benchmark.scores(padded(rows))
    assert scores["Math"][0] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 6)
    assert set(scores) == {"total", "Math"}


def test_chance_is_a_quarter(whole: Benchmark) -> None:
    assert whole.scores(np.zeros((1_865, whole.most_responses)))["Focus"][0] == 0.25  # all four tie
    scores = whole.scores(random_rewards(whole, 3))
    assert scores["Focus"][0] == pytest.approx(0.25, abs=0.08)


def ties_of(tmp_path: Path, tied: list[list[float]], ref: list[list[float]]) -> dict[str, float]:
    """Scores of prompts with two right answers (tied) and one (ref), the wrong ones after them."""
    records = []
    for form, rows, right in (("tied", tied, 2), ("ref", ref, 1)):
        for k, row in enumerate(rows):
            texts = [f"{form} {k} {n}" for n in range(len(row))]
            records.append(
                {
                    "id": f"{form}:{k}",
                    "prompt": f"q {form} {k}",
                    "chosen": texts[:right],
                    "rejected": texts[right:],
                    "subset": "Ties",
                }
            )
    files.jsonl(tmp_path / "test.jsonl", records)
    scores = load("rewardbench2", tmp_path).scores(padded([*tied, *ref]))
    return {name: float(score[0]) for name, score in scores.items()}


def test_ties_by_hand(tmp_path: Path) -> None:
    """k = 0: tied gap 3, spread 1; ref gap 2. k = 1: tied gap 1, spread 2; ref gap -1."""
    scores = ties_of(tmp_path, [[5, 4, 1], [4, 2, 1]], [[3, 1, 0], [0, 1, 0]])
    assert scores["Ties, accuracy tied"] == 1.0
    assert scores["Ties, accuracy ref"] == 0.5
    assert scores["Ties, preferred"] == 0.5
    assert scores["Ties, preferred hard"] == 0.5
    margin = (math.tanh(2 / 1 - 1) + math.tanh(-1 / 2 - 1)) / 2
    assert scores["Ties, margin"] == pytest.approx(margin)
    assert scores["Ties"] == pytest.approx(0.3 + 0.15 + 0.1 + 0.1 + 0.01 * margin)
    assert scores["total"] == scores["Ties"]


def test_ties_without_a_spread(tmp_path: Path) -> None:
    """A gap over no spread is an infinity, whose tanh is 1; no gap over no spread counts as 0."""
    assert ties_of(tmp_path, [[2, 2, 1]], [[2, 1]])["Ties"] == pytest.approx(1.01)
    assert ties_of(tmp_path, [[1, 1, 1]], [[1, 1]])["Ties, margin"] == 0.0
    assert ties_of(tmp_path, [[1, 1, 2]], [[2, 1]])["Ties, margin"] == -1.0


def test_margins_are_over_prompts_in_both_forms(tmp_path: Path) -> None:
    scores = ties_of(tmp_path, [[5, 4, 1], [0, 0, 1]], [[3, 1, 0]])  # k = 1 has no ref
    assert scores["Ties, accuracy tied"] == 0.5
    assert scores["Ties, preferred"] == 1.0


def test_an_unscored_form_takes_its_twin_out_of_the_margins(whole: Benchmark) -> None:
    rewards = random_rewards(whole, 9)
    gone = next(n for n, item in enumerate(whole.items) if item.id == "Ties/ref:0")
    rewards[gone] = np.nan
    rows = []
    for item, row in zip(whole.items, rewards, strict=True):
        if item.subset == "Ties" and np.isfinite(row[0]):
            form, k = item.id.removeprefix("Ties/").split(":")
            right = sum(response.startswith("right") for response in item.responses)
            rows.append((form, int(k), right, [float(r) for r in row[: len(item.responses)]]))
    assert whole.scores(rewards)["Ties"][0] == pytest.approx(slow_ties(rows), abs=1e-12)


def test_published_subsets_give_the_published_mean() -> None:
    """58.2 40.0 71.6 84.4 79.4 34.0 -> 61.3: subsets weigh the same, whatever their sizes."""
    values = [np.array([value]) for value in (58.2, 40.0, 71.6, 84.4, 79.4, 34.0)]
    assert round(float(rewardbench2.mean_of(values)[0]), 1) == 61.3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": "seven"}, "ties id"),
        ({"id": "tied:x"}, "ties id"),
        ({"id": "ref:7"}, "ties answers"),
        ({"subset": "Maths"}, "unknown subset"),
        ({"rejected": []}, "no_response"),
        ({"subset": "Math"}, "not best of four"),
    ],
)
def test_wrong_records_are_counted(tmp_path: Path, change: dict, why: str) -> None:
    records = files.rewardbench2_records({"Ties": 4})
    records[1] |= change  # tied:0, of two right answers
    files.jsonl(tmp_path / "test.jsonl", records)
    benchmark = load("rewardbench2", tmp_path)
    assert benchmark.missing == {why: 1} and len(benchmark.items) == 3


def test_one_id_with_two_texts_is_an_error(tmp_path: Path) -> None:
    records = files.rewardbench2_records({"Ties": 4})
    records[2]["id"] = "ref:0"
    files.jsonl(tmp_path / "test.jsonl", records)
    with pytest.raises(DataError, match=r"line 3: the id 'Ties/ref:0' was there before, with other texts"):
        load("rewardbench2", tmp_path)
