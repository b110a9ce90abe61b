"""McNemar against tables and brute force, paired differences, agreement of models."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rewardscale.data.comparison import Message
from rewardscale.evaluation import compare_models, resampling, statistics
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, ratio


def made(items: int) -> Benchmark:
    """Pairs, two a prompt, the better response first; accuracy, and half of it."""

    def formula(rewards: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
        right = np.where(np.isfinite(rewards).all(axis=1), rewards[:, 0] > rewards[:, 1], np.nan)
        return {"accuracy": ratio(right, weights), "half": ratio(right, weights) / 2}

    each = tuple(
        BenchmarkItem(str(i), (Message("user", f"question {i // 2}"),), ("good", "bad")) for i in range(items)
    )
    pairs = np.array([(i, 0, 1) for i in range(items)])
    return Benchmark("made", "Made", each, 0, formula, "accuracy", pairs)


def margins_of(right: list[int]) -> np.ndarray:
    return np.where(np.array(right, bool), 1.5, -0.5)


def test_mcnemar_by_hand() -> None:
    """8 against 2 discordant pairs: 2 (1 + 10 + 45) / 1024 = .109; the mid-p is less by C(10, 2) / 1024."""
    one = margins_of([1] * 8 + [0] * 2 + [1] * 30 + [0] * 5)
    other = margins_of([0] * 8 + [1] * 2 + [1] * 30 + [0] * 5)
    found = compare_models.mcnemar(one, other, np.arange(45))
    assert (found.pairs, found.only_one, found.only_other, found.clusters) == (45, 8, 2, 45)
    assert found.p == pytest.approx(112 / 1024) and found.p_mid == pytest.approx(67 / 1024)
    assert (found.p_clustered, found.p_clustered_mid) == (found.p, found.p_mid)
    together = compare_models.mcnemar(one, other, np.r_[np.zeros(8), np.ones(37)])  # two clusters: +8 and -2
    assert (
        together.p_clustered == pytest.approx(1.0) and together.p == found.p
    )  # ±8±2: 6 is the least there is
    assert together.p_clustered_mid == pytest.approx(0.75)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test(one: int, other: int) -> None:
    differences = np.r_[np.ones(one, np.int64), -np.ones(other, np.int64)]
    p, mid = compare_models.sign_flip(differences)
    n = one + other
    expected = stats.binomtest(one, n).pvalue if n else 1.0
    assert p == pytest.approx(expected, rel=1e-9)
    at = float(stats.binom.pmf(one, n, 0.5))
    assert mid == pytest.approx(expected - (at if one != other else at / 2), rel=1e-9)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-4, 4), max_size=9))
def test_sign_flips_against_all_of_them(differences: list[int]) -> None:
    seen = abs(sum(differences))
    sums = [
        abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
        for signs in itertools.product((-1, 1), repeat=len(differences))
    ]
    p, mid = compare_models.sign_flip(np.array(differences, np.int64))
    assert p == pytest.approx(np.mean([s >= seen for s in sums]))
    assert mid == pytest.approx(np.mean([(s > seen) + (s == seen) / 2 for s in sums]))


def test_sign_flips_of_many_large_differences() -> None:
    random = np.random.default_rng(0)
    differences = random.integers(-60, 61, 3_000)
    p, mid = compare_models.sign_flip(differences)
    z = abs(differences.sum()) / np.sqrt((differences**2).sum())
    assert p == pytest.approx(2 * stats.norm.sf(z), rel=0.02) and mid < p


def test_the_clustered_test_keeps_its_level() -> None:
    """Two equal models whose difference is shared by the pairs of a prompt."""
    random = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 6)
    plain = clustered = 0
    for _ in range(400):
        one, other = (random.normal(size=40)[clusters] + 0.5 * random.normal(size=240) for _ in range(2))
        found = compare_models.mcnemar(one, other, clusters)
        plain += found.p_mid < 0.05
        clustered += found.p_clustered_mid < 0.05
    assert 0.025 < clustered / 400 < 0.08  # 5 %, with a sampling error of 1.1 %
    assert plain / 400 > 0.2


def test_paired_differences() -> None:
    benchmark, random = made(120), np.random.default_rng(0)
    one = random.normal([1.0, 0.0], 1.0, (120, 2))
    other = one + 0.3 * random.normal(size=(120, 2)) - np.array([0.2, 0.0])
    other[7] = np.nan
    found = compare_models.score_differences(benchmark, one, other)
    paired = found["accuracy"]
    assert list(found) == ["accuracy", "half"] and (paired.items, paired.clusters) == (119, 60)
    kept = np.arange(120) != 7
    right = [(r[kept, 0] > r[kept, 1]).mean() for r in (one, other)]
    assert paired.estimate == pytest.approx(right[0] - right[1])
    assert found["half"].se == pytest.approx((paired.se or 0) / 2)
    alone = [resampling.score_intervals(benchmark, r)["accuracy"].se or 0 for r in (one, other)]
    assert (paired.se or 1) < 0.6 * np.hypot(alone[0], alone[1])  # the pairing pays
    turned = compare_models.score_differences(benchmark, other, one)["accuracy"]
    assert paired.low is not None and turned.high is not None
    assert (turned.estimate, turned.high) == pytest.approx((-paired.estimate, -paired.low), abs=1e-9)
    same = compare_models.score_differences(benchmark, one, one)["accuracy"]
    assert same.estimate == 0 and same.low is None


def test_agreement_by_hand() -> None:
    """Ten pairs: both right 5, both wrong 2, one tie shared, two differ: 8 of 10 alike."""
    a = np.array([1, 1, 1, 1, 1, -1, -1, 0, 1, -1.0])
    b = np.array([2, 1, 3, 1, 1, -1, -4, 0, -1, 1.0])
    c = np.full(10, np.nan)
    c[:6] = 1
    table = compare_models.agreement_matrix({"a": a, "b": b, "c": c}, np.arange(10))
    assert table.schema == compare_models.MATRIX
    assert table.select("one", "other", "pairs").rows() == [("a", "b", 10), ("a", "c", 6), ("b", "c", 6)]
    row = table.row(0, named=True)
    expected = 0.6 * 0.6 + 0.3 * 0.3 + 0.1 * 0.1  # shares of right, wrong and tied, the same in both
    assert row["agreement"] == pytest.approx(0.8)
    assert row["kappa"] == pytest.approx((0.8 - expected) / (1 - expected))
    assert row["agreement_low"] < 0.8 < row["agreement_high"] and row["kappa_low"] < row["kappa"]
    assert table["agreement"][1] == pytest.approx(5 / 6) and table["kappa"][1] == pytest.approx(0, abs=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.randoms(use_true_random=False))
def test_agreement_does_not_know_order_nor_scale(seed: int, shuffle) -> None:
    random = np.random.default_rng(seed)
    a, b = random.integers(-2, 3, (2, 30)).astype(float)
    order = np.array(shuffle.sample(range(30), 30))
    clusters = random.integers(0, 9, 30)
    one = compare_models.agreement_matrix({"a": a, "b": b}, clusters, 50)
    other = compare_models.agreement_matrix({"a": 3 * a[order], "b": b[order] / 7}, clusters[order], 50)
    for name in ("agreement", "kappa", "kappa_low"):
        assert other[name][0] == pytest.approx(one[name][0], nan_ok=True)
    turned = compare_models.agreement_matrix({"b": b, "a": a}, clusters, 50)
    assert turned["kappa"][0] == pytest.approx(one["kappa"][0], nan_ok=True)
    assert turned["agreement"][0] == (np.sign(a) == np.sign(b)).mean()


def test_kappa_is_undefined_where_all_say_one_thing() -> None:
    assert np.isnan(statistics.kappa(np.diag([5.0, 0, 0]))) and np.isnan(statistics.kappa(np.zeros((3, 3))))
    assert statistics.kappa(np.array([[20, 5], [10, 15.0]])) == pytest.approx(
        0.4
    )  # Wikipedia's worked example
