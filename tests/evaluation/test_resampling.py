"""Intervals cover what they say they cover, pairs stay paired, and memory stays small."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewardscale.data.comparison import Message
from rewardscale.evaluation import resampling
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, ratio
from rewardscale.evaluation.resampling import Interval

CLUSTERS = st.lists(st.integers(0, 6), min_size=1, max_size=25).map(np.array)


def clustered(random: np.random.Generator, clusters: int, share: float, correlation: float) -> tuple:
    """(right [items], clusters [items]) of correlated pairs: beta-binomial, 1 to 8 items a cluster."""
    sizes = random.integers(1, 9, clusters)
    a, b = (p * (1 - correlation) / correlation for p in (share, 1 - share))
    number = np.repeat(np.arange(clusters), sizes)
    return (random.random(len(number)) < random.beta(a, b, clusters)[number]).astype(float), number


@settings(deadline=None, max_examples=50)
@given(CLUSTERS, st.integers(0, 9), st.integers(8, 900))
def test_weights_are_whole_shared_in_a_cluster_and_the_same_however_cut(clusters, seed, chunk_bytes) -> None:
    weights = resampling.cluster_weights(clusters, 37, seed)
    assert weights.dtype == np.float64 and weights.shape == (37, len(clusters))
    assert (weights >= 0).all() and (weights == np.round(weights)).all()
    kinds, first = np.unique(clusters, return_index=True)
    assert (weights[:, first].sum(axis=1) == len(kinds)).all()
    for kind, at in zip(kinds, first, strict=True):
        assert (weights[:, clusters == kind] == weights[:, [at]]).all()
    cut = list(resampling.weight_chunks(clusters, 37, seed, chunk_bytes=chunk_bytes))
    np.testing.assert_array_equal(np.concatenate(cut), weights)


@settings(deadline=None, max_examples=30)
@given(CLUSTERS, st.integers(0, 9), st.randoms(use_true_random=False))
def test_order_of_items_and_items_left_out_change_nothing(clusters, seed, shuffle) -> None:
    order = np.array(shuffle.sample(range(len(clusters)), len(clusters)))
    weights = resampling.cluster_weights(clusters, 20, seed)
    np.testing.assert_array_equal(resampling.cluster_weights(clusters[order], 20, seed), weights[:, order])
    used = np.r_[np.ones(len(clusters), bool), np.zeros(3, bool)]
    more = resampling.cluster_weights(np.r_[clusters, clusters[0], 98, 99], 20, seed, used=used)
    np.testing.assert_array_equal(more, np.c_[weights, np.zeros((20, 3))])


def test_draws_are_multinomial() -> None:
    weights = resampling.cluster_weights(np.arange(10), 20_000, 1)
    assert weights.mean(axis=0) == pytest.approx(np.ones(10), abs=0.03)
    assert weights.var(axis=0) == pytest.approx(np.full(10, 0.9), abs=0.04)
    assert np.cov(weights[:, 0], weights[:, 1])[0, 1] == pytest.approx(-0.1, abs=0.03)


def test_twenty_thousand_items_take_little_memory() -> None:
    random = np.random.default_rng(0)
    right = random.random(20_000)

    def formula(weights: np.ndarray) -> dict[str, np.ndarray]:
        return {"accuracy": ratio(right, weights), "first half": ratio(right[:10_000], weights[:, :10_000])}

    tracemalloc.start()
    found = resampling.intervals(formula, np.arange(20_000) // 3, 2_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 150e6
    assert found["accuracy"].se == pytest.approx(np.sqrt(1 / 12 / 20_000), rel=0.1)


def test_the_quantiles_reach_as_far_as_students() -> None:
    for n in (5, 12, 400):
        z = stats.norm.ppf(resampling.expanded_tail(n))
        assert z * np.sqrt((n - 1) / n) == pytest.approx(stats.t.ppf(0.025, n - 1), rel=1e-9)
    assert resampling.expanded_tail(10**6) == pytest.approx(0.025, rel=1e-4)
    values = np.random.default_rng(0).normal(size=20)  # of a symmetric mean the interval is about Student's
    found = resampling.intervals(lambda w: {"mean": ratio(values, w)}, np.arange(20), 20_000)["mean"]
    low, high = stats.t.interval(0.95, 19, values.mean(), stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.06)
    assert found.se == pytest.approx(stats.sem(values), rel=0.02)


def test_sums_of_clusters_are_resampled_as_their_items_are() -> None:
    random = np.random.default_rng(0)
    values, clusters = random.normal(size=(2, 90)), random.integers(0, 12, 90)
    quick = resampling.mean_intervals({"a": values[0], "b": values[1]}, clusters, 300)
    slow = resampling.intervals(lambda w: {"a": ratio(values[0], w), "b": ratio(values[1], w)}, clusters, 300)
    for name in "ab":
        one, other = quick[name], slow[name]
        assert (one.estimate, one.low, one.high, one.se) == pytest.approx(
            (other.estimate, other.low, other.high, other.se)
        )
        assert (one.clusters, one.items) == (other.clusters, other.items) == (12, 90)
    np.testing.assert_allclose(
        resampling.cluster_sums(values.T, clusters)[3], values[:, clusters == 3].sum(axis=1)
    )


def test_why_there_is_no_interval() -> None:
    def of(right: list[float], clusters: list[int]) -> Interval:
        scores = np.array(right, float)
        return resampling.intervals(lambda w: {"x": ratio(scores, w)}, np.array(clusters), 200)["x"]

    few = of([0, 1, 1, 0, 1, 1], [0, 0, 1, 2, 3, 3])
    assert (few.low, few.high, few.clusters, few.items) == (None, None, 4, 6)
    assert str(few) == "0.6667 (4 clusters: no interval of fewer than 5)"
    assert "all resamples give the same" in of([1.0] * 8, list(range(8))).note
    assert "no value" in of([np.nan] * 8, list(range(8))).note
    assert "resamples have no value" in of([1, *[np.nan] * 11], list(range(12))).note
    good = of([0, 1, 1, 0, 1], [0, 1, 2, 3, 4])
    assert good.low is not None and good.high is not None and 0 <= good.low < 0.6 < good.high <= 1
    low, high = resampling.limits(np.random.default_rng(0).random((50, 2, 3)), 4)
    assert np.isnan(low).all() and np.isnan(high).all() and low.shape == (2, 3)


def test_a_benchmark_with_items_that_could_not_be_scored() -> None:
    items = tuple(
        BenchmarkItem(
            str(i), (Message("user", f"question {i // 2}"),), ("good", "bad"), "few" if i < 8 else "many"
        )
        for i in range(20)
    )

    def formula(rewards: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        right = np.where(np.isfinite(rewards).all(axis=1), rewards[:, 0] > rewards[:, 1], np.nan)
        return {"accuracy": ratio(right, weights), "few": ratio(right[:8], weights[:, :8])}

    pairs = np.array([(i, 0, 1) for i in range(20)])
    benchmark = Benchmark("made", "Made", items, 0, formula, "accuracy", pairs)
    random = np.random.default_rng(0)
    rewards = random.normal(size=(20, 2))
    rewards[4:7] = np.nan  # a cluster and a half
    found, few = resampling.score_intervals(benchmark, rewards).values()
    assert (few.clusters, few.items, few.low) == (3, 5, None)
    assert (found.clusters, found.items) == (9, 17)
    kept = np.isfinite(rewards[:, 0])
    assert found.estimate == (rewards[kept, 0] > rewards[kept, 1]).mean()
    numbers = np.arange(20)[kept] // 2
    right = (rewards[kept, 0] > rewards[kept, 1]).astype(float)
    assert found == resampling.intervals(lambda w: {"accuracy": ratio(right, w)}, numbers)["accuracy"]


def coverage(clusters: int, share: float, correlation: float, sets: int, resamples: int, seed: int) -> dict:
    """Share of simulated data sets whose interval holds the truth: clusters drawn together, and items alone."""
    random = np.random.default_rng(seed)
    caught, made = {"clusters": 0, "items": 0}, 0
    for number in range(sets):
        right, drawn = clustered(random, clusters, share, correlation)
        ways = {"clusters": drawn, "items": np.arange(len(right))}
        for way, of in ways.items():
            one = resampling.intervals(lambda w, r=right: {"x": ratio(r, w)}, of, resamples, number)["x"]
            if one.low is not None and one.high is not None:
                made += way == "clusters"
                caught[way] += one.low <= share <= one.high
    assert made > 0.98 * sets
    return {way: count / made for way, count in caught.items()}


def test_coverage_of_clustered_data() -> None:
    found = coverage(30, 0.7, 0.3, sets=400, resamples=400, seed=0)
    assert 0.915 <= found["clusters"] <= 0.98  # 95 % and its sampling error of 1.1 %
    assert found["items"] < 0.88  # as if pairs of one prompt were independent


@pytest.mark.slow
@pytest.mark.parametrize(("clusters", "share"), [(8, 0.6), (15, 0.75), (40, 0.85), (150, 0.7)])
def test_coverage_of_clustered_data_at_length(clusters: int, share: float) -> None:
    found = coverage(clusters, share, 0.25, sets=2_000, resamples=2_000, seed=1)
    assert 0.915 <= found["clusters"] <= 0.97
