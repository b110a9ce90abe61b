"""Of every formula: whole weights are repeated items, the order of items changes nothing, parts are the items alone."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.evaluation.benchmarks.base import Benchmark, Formula
from rewardscale.evaluation.benchmarks.registry import SEVEN, load
from tests import benchmark_files as files

PLAIN = ("pairs", "lists")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    files.write_seven(folder)
    files.write_prior(folder / "rewardbench-prior", {"anthropic_helpful": 4, "shp": 3, "summarize": 3})
    files.jsonl(
        folder / "pairs.jsonl",
        [
            {"prompt": f"q {n}", "chosen": f"a {n}", "rejected": f"b {n}", "subset": "xyz"[n % 3]}
            for n in range(9)
        ],
    )
    files.jsonl(
        folder / "lists.jsonl",
        [
            {
                "prompt": f"q {n}",
                "responses": [f"{n} {k}" for k in range(4 + n % 2)],
                "correct": [(n + k) % 3 == 0 for k in range(4 + n % 2)],
                "category": "xy"[n % 2],
            }
            for n in range(9)
        ],
    )
    return folder


def benchmark_of(folder: Path, name: str) -> Benchmark:
    return load(str(folder / f"{name}.jsonl"), None) if name in PLAIN else load(name, folder)


def random_rewards(benchmark: Benchmark, random: np.random.Generator) -> np.ndarray:
    return random.integers(0, 4, size=(len(benchmark.items), benchmark.most_responses)).astype(float)


def rearranged(benchmark: Benchmark, index: np.ndarray) -> Benchmark:
    """The items of `index`, which may repeat: what formulas know of items is rearranged field by field.

    A k of Ties that is there again becomes another k, the n-th copy of both its forms the same.
    """
    copy = np.array([int((index[:at] == own).sum()) for at, own in enumerate(index)])
    items = tuple(
        dataclasses.replace(benchmark.items[own], id=f"{benchmark.items[own].id} copy {number}")
        for own, number in zip(index, copy, strict=True)
    )
    pairs = np.array(
        [
            (place, *pair[1:])
            for place, own in enumerate(index)
            for pair in benchmark.pairs[benchmark.pairs[:, 0] == own]
        ],
        np.int64,
    ).reshape(-1, 3)
    count = len(benchmark.items)

    def of_items(name: str, value: Any) -> Any:
        match value:
            case np.ndarray() if name == "pairs":
                return pairs
            case np.ndarray() if len(value) == count:
                return value[index]
            case tuple() if len(value) == count:
                return tuple(value[own] for own in index)
            case dict() if name in ("tied", "ref"):
                k_of = {item: k for k, item in value.items()}
                return {
                    1000 * copy[place] + k_of[own]: place for place, own in enumerate(index) if own in k_of
                }
            case dict() if name == "categories":
                return {category: member[index] for category, member in value.items()}
            case _:
                return value

    own: Any = benchmark.formula
    formula: Formula = type(own)(
        **{field.name: of_items(field.name, getattr(own, field.name)) for field in dataclasses.fields(own)}
    )
    quality = None if benchmark.quality is None else benchmark.quality[index]
    most = max(len(item.responses) for item in items)
    if quality is not None:
        quality = quality[:, :most]
        if hasattr(formula, "quality"):
            formula = dataclasses.replace(formula, quality=quality)  # type: ignore[type-var]
    return dataclasses.replace(benchmark, items=items, formula=formula, pairs=pairs, quality=quality)


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray], resample: int = 0) -> None:
    """Scores of a resample; one that has no items there may be absent, and so may one that has them all."""
    whole = next(iter(found.values()))[resample]
    for name, score in found.items():
        if name in expected:
            np.testing.assert_allclose(score[resample], expected[name][0], atol=1e-12, err_msg=name)
        else:
            assert np.isnan(score[resample]) or np.isclose(score[resample], whole), name
    assert expected.keys() <= found.keys()


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10_000))
@pytest.mark.parametrize("name", [*SEVEN, "rewardbench-prior", *PLAIN])
def test_a_weight_is_how_often_an_item_is_there(folder: Path, name: str, seed: int) -> None:
    benchmark = benchmark_of(folder, name)
    random = np.random.default_rng(seed)
    rewards = random_rewards(benchmark, random)
    by_cluster = name == "rewardbench2"  # a k of Ties is drawn with both its forms
    group = benchmark.clusters() if by_cluster else np.arange(len(benchmark.items))
    times = random.integers(0, 3, size=(2, group.max() + 1))[:, group]
    times[:, group == 0] = 1  # something is left
    scores = benchmark.scores(rewards, times.astype(float))
    for resample, own in enumerate(times):
        index = np.repeat(np.arange(len(own)), own)
        repeated = rearranged(benchmark, index)
        expected = repeated.scores(rewards[index][:, : repeated.most_responses])
        same(scores, expected, resample)


@pytest.mark.parametrize("name", [*SEVEN, "rewardbench-prior", *PLAIN])
def test_the_order_of_items_changes_nothing(folder: Path, name: str) -> None:
    benchmark = benchmark_of(folder, name)
    random = np.random.default_rng(7)
    rewards = random_rewards(benchmark, random)
    order = random.permutation(len(benchmark.items))
    same(rearranged(benchmark, order).scores(rewards[order]), benchmark.scores(rewards))


@pytest.mark.parametrize("name", [*SEVEN, *PLAIN])
def test_unscored_items_are_as_if_they_were_not_there(folder: Path, name: str) -> None:
    benchmark = benchmark_of(folder, name)
    random = np.random.default_rng(11)
    rewards = random_rewards(benchmark, random)
    keep = random.random(len(benchmark.items))[benchmark.clusters()] < 0.7
    unscored = rewards.copy()
    unscored[~keep, 0] = np.nan
    part = benchmark.only(keep, "shares a 13-gram with the training data")
    assert part.missing["shares a 13-gram with the training data"] == (~keep).sum() and not part.whole
    scores = part.scores(rewards[keep][:, : part.most_responses])
    same(scores, benchmark.scores(unscored))
    same(scores, benchmark.scores(rewards, keep[None].astype(float)))
    assert len(part.pairs) == sum(keep[item] for item in benchmark.pairs[:, 0])


@pytest.mark.parametrize("name", SEVEN)
def test_scores_are_of_resamples(folder: Path, name: str) -> None:
    benchmark = benchmark_of(folder, name)
    random = np.random.default_rng(3)
    rewards = random_rewards(benchmark, random)
    weights = random.integers(0, 3, size=(5, len(benchmark.items))).astype(float)
    scores = benchmark.scores(rewards, weights)
    assert next(iter(scores)) == benchmark.headline
    assert {score.shape for score in scores.values()} == {(5,)}
    nothing = benchmark.scores(rewards, np.zeros((1, len(benchmark.items))))
    assert all(np.isnan(score).all() for score in nothing.values())
    # Only the order of an item's rewards counts, but for the margin of Ties.
    same(
        {k: v for k, v in benchmark.scores(rewards * 1000 - 7, weights).items() if "margin" not in k},
        {k: v for k, v in scores.items() if "margin" not in k},
    )
