"""What a benchmark holds, and what it refuses."""

import dataclasses

import numpy as np
import pytest

from rewardscale.data.comparison import DataError, Message
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, padded
from rewardscale.evaluation.benchmarks.formulas import PairAccuracy

PROMPT = (Message("user", "q"),)
PAIRS = np.array([[0, 0, 1], [1, 2, 0]])


def made(**changes) -> Benchmark:
    items = (BenchmarkItem("a", PROMPT, ("x", "y"), "s"), BenchmarkItem("b", PROMPT, ("x", "y", "z"), "s"))
    whole = {
        "name": "mine",
        "title": "Mine",
        "items": items,
        "expected": 0,
        "formula": PairAccuracy(PAIRS, ("s", "s")),
        "headline": "accuracy",
        "pairs": PAIRS,
    }
    return Benchmark(**(whole | changes))


def test_the_name_says_the_share() -> None:
    assert made().shown_name == "Mine"
    assert made(expected=2).shown_name == "Mine" and made(expected=2).whole
    assert made(expected=1_327).shown_name == "Mine 2/1,327" and not made(expected=1_327).whole
    assert not made(expected=2, missing={"answer: empty_response": 1}).whole


def test_refused() -> None:
    twice = made().items[:1] * 2
    for changes, message in (
        ({"items": ()}, "no items"),
        ({"items": twice, "pairs": PAIRS[:1]}, "'a' is there twice"),
        ({"quality": np.zeros((2, 2))}, "does not fit"),
        ({"pairs": np.array([[0, 0, 2]])}, "a response that its item has not"),
        ({"pairs": np.array([[0, 1, 1]])}, "a response that its item has not"),
    ):
        with pytest.raises(DataError, match=message):
            made(**changes)
    with pytest.raises(ValueError, match=r"rewards \(2, 2\) of 'mine': \(2, 3\) wanted"):
        made().scores(np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"no item is left \(contaminated\)"):
        made().only(np.array([False, False]), "contaminated")


def test_rewards_beyond_an_item_are_not_read() -> None:
    benchmark = made()
    rewards = np.array([[1.0, 0.0, np.nan], [0.0, 1.0, 2.0]])
    other = np.array([[1.0, 0.0, 9.0], [0.0, 1.0, 2.0]])
    assert benchmark.scored(rewards).tolist() == benchmark.scored(other).tolist() == [True, True]
    assert benchmark.scores(rewards)["accuracy"] == benchmark.scores(other)["accuracy"] == 1.0
    assert benchmark.scored(np.array([[1.0, np.nan, 9.0], [0.0, np.inf, 2.0]])).tolist() == [False, False]


def test_an_unscored_item_counts_for_nothing() -> None:
    rewards = np.array([[1.0, 0.0, np.nan], [0.0, np.nan, -1.0]])
    assert made().scores(rewards)["accuracy"] == 1.0


def test_items_of_one_prompt_are_drawn_together() -> None:
    assert made().clusters().tolist() == [0, 0]
    other = dataclasses.replace(made().items[1], cluster="c")
    assert made(items=(made().items[0], other)).clusters().tolist() == [0, 1]


def test_parts_of_parts() -> None:
    benchmark = made(quality=padded([[1, 0], [0, 0, 1]]))
    part = benchmark.only(np.array([False, True]), "too long").only(np.array([True]), "nothing")
    assert part.missing == {"too long": 1} and part.expected == 2 and part.shown_name == "Mine 1/2"
    assert part.pairs.tolist() == [[0, 2, 0]]
    assert part.scores(np.array([[0.0, 0.0, 1.0]]))["accuracy"] == 1.0
    first = benchmark.only(np.array([True, False]), "too long")
    assert first.most_responses == 2
    assert first.quality is not None and first.quality.tolist() == [[1, 0]]
