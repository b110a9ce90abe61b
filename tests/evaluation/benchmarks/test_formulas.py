"""The parts of formulas against loops over draws, pairs and responses."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.evaluation.benchmarks import formulas
from rewardscale.evaluation.benchmarks.base import grouped, mean_of, padded, ratio, ratios


def slow_best_of(rewards: np.ndarray, quality: np.ndarray, size: int) -> float:
    """Mean over all draws of `size`; equal best ones share."""
    draws = []
    for drawn in itertools.combinations(range(len(rewards)), size):
        best = max(rewards[at] for at in drawn)
        draws.append(np.mean([quality[at] for at in drawn if rewards[at] == best]))
    return float(np.mean(draws))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_best_of_k_is_the_mean_over_all_draws(seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = [
        (random.integers(0, 4, size=n).astype(float), random.integers(0, 2, size=n).astype(float))
        for n in (2, 5, 7)
    ]
    rewards, quality = padded([r for r, _ in rows]), padded([q for _, q in rows])
    sizes = (1, 2, 3, 5, 6)
    found = formulas.best_of(rewards, quality, sizes)
    for row, (own, value) in enumerate(rows):
        for column, size in enumerate(sizes):
            if size > len(own):
                assert np.isnan(found[row, column])
            else:
                np.testing.assert_allclose(found[row, column], slow_best_of(own, value, size), rtol=1e-12)


def test_best_of_k_by_hand() -> None:
    rewards, quality = np.array([[3.0, 2.0, 1.0]]), np.array([[0.0, 1.0, 1.0]])
    # Of two drawn: {0, 1} and {0, 2} take the wrong one, {1, 2} a right one.
    np.testing.assert_allclose(formulas.best_of(rewards, quality, (1, 2, 3)), [[2 / 3, 1 / 3, 0.0]])
    # Two that tie at the top: half of the time the right one.
    np.testing.assert_allclose(
        formulas.best_of(np.array([[2.0, 2.0, 1.0]]), quality, (3,)), [[0.5]], rtol=1e-15
    )
    # Neither responses without a label nor the padding are drawn.
    labelled = np.array([[np.nan, 1.0, 0.0]])
    np.testing.assert_allclose(formulas.best_of(rewards, labelled, (1, 2)), [[0.5, 1.0]])


def test_best_of_many_does_not_overflow() -> None:
    random = np.random.default_rng(0)
    rewards, quality = random.normal(size=(1, 2000)), random.integers(0, 2, size=(1, 2000)).astype(float)
    found = formulas.best_of(rewards, quality, (1, 1000, 2000))[0]
    np.testing.assert_allclose(found[0], quality.mean())
    assert found[2] == quality[0, rewards[0].argmax()]
    assert 0 <= found[1] <= 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000))
def test_pooled_auc_counts_all_pairs(seed: int) -> None:
    random = np.random.default_rng(seed)
    size = int(random.integers(2, 30))
    rewards = random.integers(0, 5, size=size).astype(float)
    right = random.random(size) < 0.5
    item = random.integers(0, 6, size=size)
    weights = random.integers(0, 4, size=(3, 6)).astype(float)
    found = formulas.pooled_auc(rewards, right, item, weights)
    for resample, own in enumerate(weights):
        won = total = 0.0
        for i in np.flatnonzero(right):
            for j in np.flatnonzero(~right):
                weight = own[item[i]] * own[item[j]]
                total += weight
                won += weight * ((rewards[i] > rewards[j]) + (rewards[i] == rewards[j]) / 2)
        if total:
            np.testing.assert_allclose(found[resample], won / total, rtol=1e-12)
        else:
            assert np.isnan(found[resample])


def test_pooled_auc_in_parts(monkeypatch) -> None:
    random = np.random.default_rng(1)
    rewards, right, item = random.normal(size=50), random.random(50) < 0.4, np.arange(50) // 5
    weights = random.integers(0, 3, size=(20, 10)).astype(float)
    whole = formulas.pooled_auc(rewards, right, item, weights)
    monkeypatch.setattr(formulas, "_AT_ONCE", 150)
    assert np.array_equal(formulas.pooled_auc(rewards, right, item, weights), whole, equal_nan=True)


def test_first_beats_all() -> None:
    rewards = padded([[2, 1, 0], [2, 2, 0], [1, 0], [0, 1], [1]])
    assert formulas.first_beats_all(rewards).tolist() == [1, 0, 1, 0, 1]


def test_right_pairs_and_ties() -> None:
    rewards = np.array([[2.0, 1.0, 1.0], [0.0, 0.0, np.nan]])
    pairs = np.array([[0, 0, 1], [0, 2, 0], [0, 1, 2], [1, 0, 1]])
    count, right, ties = formulas.right_pairs(rewards, pairs)
    assert (count.tolist(), right.tolist(), ties.tolist()) == ([3, 1], [1, 0], [1, 1])


def test_sizes_of_a_curve() -> None:
    assert formulas.powers_of_two(np.array([29] * 9 + [20])) == (1, 2, 4, 8, 16)
    assert formulas.powers_of_two(np.array([4] * 8 + [2] * 2)) == (1, 2)


def test_weighted_means() -> None:
    weights = np.array([[1.0, 1, 1], [2, 0, 1], [0, 0, 0]])
    values = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, 0.0]])
    found = ratios(values, weights)
    np.testing.assert_allclose(found[:2], [[2 / 3, 1 / 2], [1, 0]])
    assert np.isnan(found[2]).all()
    np.testing.assert_array_equal(found[:, 1], ratio(values[:, 1], weights))
    by_group = grouped(np.array([1.0, 2, 3]), np.array([1.0, 4, 3]), np.array([0, 1, 0]), 3, weights)
    np.testing.assert_allclose(by_group[:2, :2], [[1, 0.5], [1, np.nan]])
    assert np.isnan(by_group[:, 2]).all()


def test_mean_leaves_out_what_has_no_items() -> None:
    scores = [np.array([1.0, np.nan]), np.array([0.0, 0.5]), np.array([0.5, np.nan])]
    np.testing.assert_allclose(mean_of(scores), [0.5, 0.5])
    np.testing.assert_allclose(mean_of(scores, [2, 1, 1]), [0.625, 0.5])
    assert np.isnan(mean_of([np.array([np.nan])]))
