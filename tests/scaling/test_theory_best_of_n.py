"""Best-of-n: exact identities, brute force, and SIMULATED responses in the Gaussian world and outside it."""

from itertools import combinations
from math import comb

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from scipy.integrate import quad

from rewardscale.scaling import theory_best_of_n as bon
from tests.scaling import simulated

NS = 2 ** np.arange(13)  # 1 .. 4096


def simulated_gold(rng: np.random.Generator, prompts: int, samples: int, tail: float | None):
    """Proxy and gold, (prompts, samples), both of the error's scale: Gaussian error, or Student's t."""
    gold = rng.normal(size=(prompts, samples))
    error = rng.normal(size=gold.shape) if tail is None else rng.standard_t(tail, size=gold.shape)
    return gold + error, gold


def gao_fit(gold: np.ndarray) -> np.ndarray:
    """Least-squares (alpha, beta) of R = d (alpha - beta d) for best-of-``NS``."""
    d = np.sqrt(bon.best_of_n_kl(NS))
    return np.linalg.lstsq(np.stack([d, -(d**2)], axis=1), gold, rcond=None)[0]


# --- KL --------------------------------------------------------------------------------------------------


def test_kl_numbers() -> None:
    assert [f"{v:.3f}" for v in bon.best_of_n_kl([1, 1_000, 60_000])] == ["0.000", "5.909", "10.002"]


@pytest.mark.parametrize("n", [2, 4, 64])
def test_kl_is_that_of_the_highest_rank(n: int) -> None:
    """Without ties the best-of-n response has rank density n u^(n-1), u uniform under the initial policy."""
    density = quad(lambda u: n * u ** (n - 1) * np.log(n * u ** (n - 1)), 0, 1, epsabs=1e-12)[0]
    assert bon.best_of_n_kl(n) == pytest.approx(density, abs=1e-9)


def test_kl_is_only_a_bound_with_ties() -> None:
    """A proxy of two values: best-of-n is the better half unless all n miss it."""
    n = 16
    better = 1 - 0.5**n
    true = better * np.log(2 * better) + (1 - better) * np.log(2 * (1 - better))
    assert true < np.log(2) < bon.best_of_n_kl(n) - 1


# --- Gao et al.'s forms -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(alpha=st.floats(0.1, 5), beta=st.floats(0.05, 3))
def test_peaks(alpha: float, beta: float) -> None:
    for form, peak in [(bon.gao_best_of_n, bon.gao_best_of_n_peak), (bon.gao_rl, bon.gao_rl_peak)]:
        d, best = peak(alpha, beta)
        assert form(d, alpha, beta) == pytest.approx(best, rel=1e-9)
        around = form(d * np.linspace(0.5, 1.5, 101), alpha, beta)
        assert np.all(around <= best * (1 + 1e-9))


def test_forms_start_at_zero_and_need_over_optimisation_to_peak() -> None:
    assert bon.gao_rl(0.0, 1.0, 0.3) == 0 == bon.gao_best_of_n(0.0, 1.0, 0.3)
    assert bon.gao_best_of_n_peak(1.0, -0.1) == (np.inf, np.inf) == bon.gao_rl_peak(1.0, 0.0)
    with pytest.raises(ValueError, match="alpha must be positive"):
        bon.gao_best_of_n_peak(-1.0, 0.1)


# --- the estimator ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(data=st.data(), samples=st.integers(1, 7))
def test_estimator_is_the_mean_over_all_subsets(data: st.DataObject, samples: int) -> None:
    """Ties in the proxy included: the best of a subset is then the mean over its tied best."""
    proxy = np.array(data.draw(st.lists(st.integers(0, 4), min_size=samples, max_size=samples)), dtype=float)
    gold = np.array(data.draw(st.lists(st.floats(-5, 5), min_size=samples, max_size=samples)))
    n = data.draw(st.integers(1, samples))
    subsets = [list(chosen) for chosen in combinations(range(samples), n)]
    # A random order among ties, averaged: every tied sample is as likely as the others to be last.
    brute = np.mean([gold[c][proxy[c] == proxy[c].max()].mean() for c in subsets])
    assert bon.best_of_n_estimate(proxy, gold, n) == pytest.approx(brute, abs=1e-9)


def test_weights_are_the_binomial_ones_and_stable() -> None:
    direct = [comb(i - 1, 4) / comb(30, 5) for i in range(1, 31)]
    np.testing.assert_allclose(bon.best_of_n_weights(30, 5), direct, rtol=1e-12)
    for samples, n in [(1, 1), (60_000, 1), (60_000, 1_000), (60_000, 60_000)]:
        assert bon.best_of_n_weights(samples, n).sum() == pytest.approx(1, abs=1e-9)
    assert bon.best_of_n_weights(60_000, 60_000)[-1] == pytest.approx(1)


def test_estimator_is_unbiased_and_steadier_than_one_draw() -> None:
    rng, n = np.random.default_rng(0), 8
    proxy, gold = simulated_gold(rng, 4_000, 64, None)
    estimates = bon.best_of_n_estimate(proxy, gold, n)
    single = np.take_along_axis(gold[:, :n], proxy[:, :n].argmax(axis=1)[:, None], axis=1)[:, 0]
    mean, error = simulated.mean_and_error(estimates)
    assert abs(mean - bon.gaussian_best_of_n_gold(n, 0.5**0.5)) < 3 * error
    assert error < simulated.mean_and_error(single)[1] / 2
    assert bon.best_of_n_estimate(proxy, gold, np.array([1, 8])).shape == (4_000, 2)
    np.testing.assert_allclose(bon.best_of_n_estimate(proxy, gold, 1), gold.mean(axis=1), atol=1e-12)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"n must lie in 1\.\.3"):
        bon.best_of_n_estimate([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], 4)
    with pytest.raises(ValueError, match="share a shape"):
        bon.best_of_n_estimate([1.0, 2.0], [1.0], 1)
    with pytest.raises(ValueError, match="whole numbers"):
        bon.best_of_n_estimate([1.0, 2.0], [1.0, 2.0], 1.5)
    with pytest.raises(ValueError, match="at least 1"):
        bon.best_of_n_kl(0)


# --- the Gaussian world -------------------------------------------------------------------------------------


def test_expected_maximum_known_values() -> None:
    # n = 1, 2, 3 in closed form; 10 and 1000 from tables of normal order statistics (Harter 1961).
    known = [0, 1 / np.sqrt(np.pi), 1.5 / np.sqrt(np.pi), 1.53875, 3.24144]
    np.testing.assert_allclose(bon.expected_maximum([1, 2, 3, 10, 1_000]), known, atol=6e-6)
    many = 10.0 ** np.arange(1, 15)
    assert np.all(np.diff(bon.expected_maximum(many)) > 0)
    assert np.all(bon.expected_maximum(many) < np.sqrt(2 * np.log(many)))


def test_trained_linear_student_has_no_peak() -> None:
    """A linear student of noisy labels of a linear gold, on Gaussian responses: the closed form, beta < 0."""
    rng, dimension = np.random.default_rng(1), 20
    student = simulated.fit(*simulated.sampled(1.0, 0.3)(rng, 300, dimension))
    correlation = float(np.cos(simulated.angle(student)))
    assert 0.3 < correlation < 0.9  # far from gold
    responses = rng.normal(size=(60, 4_096, dimension))
    estimates = bon.best_of_n_estimate(responses @ student, responses[..., 0], NS)
    for measured, n in zip(estimates.T, NS, strict=True):
        mean, error = simulated.mean_and_error(measured)
        assert abs(mean - bon.gaussian_best_of_n_gold(n, correlation)) < 3.5 * error, n  # 13 looks
    assert gao_fit(bon.gaussian_best_of_n_gold(NS, correlation))[1] < 0
    peak, _ = bon.gao_best_of_n_peak(*gao_fit(estimates.mean(axis=0)))
    assert peak > 5 * np.sqrt(bon.best_of_n_kl(4_096))  # of noisy points: not always infinite


def test_heavy_tailed_error_peaks_and_breaks_the_closed_form() -> None:
    """The proxy's error has the heavier tail: its best responses are its worst mistakes."""
    proxy, gold = simulated_gold(np.random.default_rng(2), 300, 4_096, 2.0)
    estimates = bon.best_of_n_estimate(proxy, gold, NS)
    curve = [simulated.mean_and_error(column) for column in estimates.T]
    top, top_error = max(curve)
    last, last_error = curve[-1]
    assert top - last > 5 * np.hypot(top_error, last_error), (top, last)
    correlation = float(np.corrcoef(proxy.ravel(), gold.ravel())[0, 1])
    assert bon.gaussian_best_of_n_gold(4_096, correlation) - last > 5 * last_error
    alpha, beta = gao_fit(estimates.mean(axis=0))
    peak, _ = bon.gao_best_of_n_peak(alpha, beta)
    assert beta > 0 and peak < np.sqrt(bon.best_of_n_kl(4_096))
