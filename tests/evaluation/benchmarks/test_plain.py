"""Files of comparisons of one's own, and the labels of lists."""

from pathlib import Path

import numpy as np
import pytest

from rewardscale.data.comparison import DataError
from rewardscale.evaluation.benchmarks.registry import load
from tests import benchmark_files as files


def test_pairs_in_all_forms(tmp_path: Path) -> None:
    question = [{"role": "user", "content": "q"}]
    path = files.jsonl(
        tmp_path / "pairs.jsonl",
        [
            {"prompt": "q", "chosen": "a", "rejected": "b", "subset": "one"},
            {"prompt": question, "chosen": "a2", "rejected": "b", "category": "two"},
            {
                "chosen": [*question, {"role": "assistant", "content": "a3"}],
                "rejected": [*question, {"role": "assistant", "content": "b"}],
            },
            {"chosen": "\n\nHuman: q\n\nAssistant: a4", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        ],
    )
    benchmark = load(str(path), None)
    assert [item.responses for item in benchmark.items] == [("a", "b"), ("a2", "b"), ("a3", "b"), ("a4", "b")]
    assert len({item.drawn_by for item in benchmark.items}) == 1
    assert [item.subset for item in benchmark.items] == ["one", "two", "", ""]
    assert benchmark.quality is None and benchmark.shown_name == "pairs.jsonl" and not benchmark.seven
    scores = benchmark.scores(np.array([[1.0, 0], [0, 1], [1, 0], [0, 0]]))
    assert (scores["accuracy"][0], scores["one"][0], scores["two"][0]) == (0.5, 1.0, 0.0)
    assert scores["ties"][0] == 0.25


def test_lists_with_labels(tmp_path: Path) -> None:
    path = files.jsonl(
        tmp_path / "lists.jsonl",
        [
            {"prompt": "1", "responses": ["a", "b", "c"], "correct": [True, False, False]},
            {"prompt": "2", "responses": ["a", "b", "c"], "scores": [0, 1, 1]},
            {"prompt": "3", "responses": ["a", "b", "c"], "quality": [1, 1, 1]},
            {"prompt": "4", "responses": ["a", "b", "c"], "correct": [None, True, False]},
        ],
    )
    benchmark = load(str(path), None)
    assert benchmark.missing == {"answer: without a label": 1}
    assert benchmark.quality is not None
    np.testing.assert_array_equal(benchmark.quality, [[1, 0, 0], [0, 1, 1], [1, 1, 1], [1, 0, np.nan]])
    assert len(benchmark.pairs) == 2 + 2 + 0 + 1
    # Prompt 1: both pairs right. 2: one of two. 3: has none, and is in the curves alone. 4: right.
    scores = benchmark.scores(np.array([[3.0, 2, 1], [2, 3, 1], [1, 2, 3], [2, 1, 0]]))
    assert scores["accuracy"][0] == pytest.approx((1 + 0.5 + 1) / 3)
    assert scores["auc"][0] == scores["accuracy"][0]
    # All tie: no pair is right, and half of them by the measure that counts ties so.
    equal = benchmark.scores(np.zeros((4, 3)))
    assert (equal["accuracy"][0], equal["auc"][0], equal["ties"][0]) == (0.0, 0.5, 1.0)
    assert scores["best of 1"][0] == pytest.approx((1 / 3 + 2 / 3 + 1 + 1 / 2) / 4)
    assert scores["best of 2"][0] == pytest.approx((2 / 3 + 2 / 3 + 1 + 1) / 4)
    assert scores["oracle of 2"][0] == pytest.approx((2 / 3 + 1 + 1 + 1) / 4)


def test_what_cannot_be_used_is_counted(tmp_path: Path) -> None:
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    path = tmp_path / "mixed.jsonl"
    files.jsonl(
        path,
        [
            good,
            good,
            {"prompt": "q", "chosen": "a"},
            {"prompt": "q", "chosen": "", "rejected": "b"},
            {"prompt": "q", "chosen": "a", "rejected": "a"},
            {"prompt": "q", "responses": ["a", "b"], "scores": [1, 1]},
            {"prompt": "q", "responses": ["a", "b"]},
        ],
    )
    path.write_text(path.read_text() + "{broken\n")
    missing = load(str(path), None).missing
    assert missing == {
        "the same record twice": 1,
        "no_response": 1,
        "empty_response": 1,
        "identical_responses": 1,
        "tie": 1,
        "no_label": 1,
        "not_json": 1,
    }


def test_nothing_usable_is_an_error(tmp_path: Path) -> None:
    path = files.jsonl(tmp_path / "wrong.jsonl", [{"text": "a"}])
    with pytest.raises(
        DataError, match=r"wrong\.jsonl: none of its 1 records can be used; the first, line 1"
    ):
        load(str(path), None)


def test_conversations_that_part_early_have_no_one_prompt(tmp_path: Path) -> None:
    def talk(first: str, last: str) -> list[dict[str, str]]:
        roles = ("user", "assistant", "user", "assistant")
        return [
            {"role": role, "content": text} for role, text in zip(roles, ("q", first, "?", last), strict=True)
        ]

    path = files.jsonl(
        tmp_path / "early.jsonl",
        [
            {"chosen": talk("x", "a"), "rejected": talk("y", "b")},
            {"chosen": talk("x", "a"), "rejected": talk("x", "b")},
        ],
    )
    benchmark = load(str(path), None)
    assert benchmark.missing == {"parted_early": 1} and len(benchmark.items[0].prompt) == 3
