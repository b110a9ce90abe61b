"""Accuracy, log-loss and the fitted temperature against brute force and their symmetries."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.evaluation import statistics


def random_margins(seed: int, n: int = 300, *, signal: float = 1.0, scale: float = 1.0) -> np.ndarray:
    """Margins of pairs whose label is right with probability sigmoid(signal x margin)."""
    random = np.random.default_rng(seed)
    size = random.normal(size=n) * 1.5
    return np.where(random.random(n) < 1 / (1 + np.exp(-signal * size)), size, -size) * scale


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.2, 3.0), st.floats(-3, 3))
def test_temperature_against_a_grid(seed: int, signal: float, log_scale: float) -> None:
    margin = random_margins(seed, signal=signal, scale=float(np.exp(log_scale)))
    temperature = statistics.fit_temperature(margin)
    best = statistics.log_loss(margin / temperature)
    grid = [statistics.log_loss(margin / t) for t in np.geomspace(1e-4, 1e4, 400)]
    assert best <= min(grid) + 1e-9
    assert min(grid) < best + 2e-3  # the grid is fine enough to have caught a better one


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.floats(-25, 25))
def test_the_scale_of_rewards_changes_nothing_after_recalibration(seed: int, log_scale: float) -> None:
    validation, test = random_margins(seed), random_margins(seed + 1)
    scale = float(np.exp(log_scale))

    def scores(scale: float) -> statistics.PairScores:
        return statistics.pair_scores(test * scale, statistics.fit_temperature(validation * scale))

    one, scaled = scores(1.0), scores(scale)
    assert scaled.loss_recalibrated == pytest.approx(one.loss_recalibrated, rel=1e-6)
    assert (scaled.accuracy, scaled.ties) == (one.accuracy, one.ties)
    if abs(log_scale) > 1:
        assert scaled.loss != pytest.approx(one.loss, rel=1e-3)


def test_calibrated_margins_have_temperature_one() -> None:
    assert statistics.fit_temperature(random_margins(0, 200_000)) == pytest.approx(1.0, abs=0.03)
    assert statistics.fit_temperature(random_margins(0, 200_000, scale=4.0)) == pytest.approx(4.0, abs=0.12)


@pytest.mark.parametrize("margin", [np.zeros(5), -np.ones(50), np.tile([1.0, -1.0], 20)])
def test_without_information_all_probabilities_are_one_half(margin: np.ndarray) -> None:
    scores = statistics.pair_scores(margin, statistics.fit_temperature(margin))
    assert scores.loss_recalibrated == pytest.approx(np.log(2), rel=1e-4)


def test_perfect_order_is_finite() -> None:
    margin = np.abs(random_margins(0)) + 0.1
    temperature = statistics.fit_temperature(margin)
    assert 0 < temperature < 1
    assert statistics.pair_scores(margin, temperature).loss_recalibrated < 1e-3


def test_a_tie_is_wrong() -> None:
    scores = statistics.pair_scores(np.array([2.0, 0.0, -1.0, 0.0, 3.0]), 1.0)
    assert (scores.pairs, scores.ties, scores.accuracy) == (5, 2, 0.4)
    assert scores.margin_mean == pytest.approx(0.8)


def test_swapping_first_and_second() -> None:
    random = np.random.default_rng(0)
    rewards = random.integers(-3, 4, (400, 2)).astype(np.float32)  # integers: ties happen
    orientation = random.choice(np.array([-1, 1], np.int8), 400)
    margin = statistics.margins(rewards, orientation)
    assert margin.dtype == np.float64
    np.testing.assert_array_equal(statistics.margins(rewards[:, ::-1], -orientation), margin)
    one = statistics.pair_scores(margin, 1.0)
    swapped = statistics.pair_scores(statistics.margins(rewards, -orientation), 1.0)
    assert one.ties > 20 and swapped.ties == one.ties
    assert swapped.accuracy == pytest.approx(1 - one.accuracy - one.ties / 400)
    assert swapped.margin_mean == -one.margin_mean
    assert swapped.loss == pytest.approx(one.loss + one.margin_mean)  # softplus(m) = m + softplus(-m)


def test_log_loss_of_extreme_margins_is_finite() -> None:
    assert statistics.log_loss(np.array([1e5, -1e5])) == pytest.approx(5e4)


def test_margins_of_a_benchmarks_pairs() -> None:
    rewards = np.array([[1.0, 3.0, np.nan], [2.0, -1.0, 0.5]])
    pairs = np.array([(0, 1, 0), (1, 0, 2), (1, 1, 0), (0, 2, 0)])
    np.testing.assert_array_equal(statistics.pair_margins(rewards, pairs), [2.0, 1.5, -3.0, np.nan])
