"""Over-optimisation: exact identities, and SIMULATED responses in the Gaussian world and outside it."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from rewardscale import best_of_n
from rewardscale.scaling import theory_best_of_n as theory
from tests.scaling import simulated

NS = 2 ** np.arange(13)  # 1 .. 4096


def simulated_gold(rng: np.random.Generator, prompts: int, samples: int, tail: float | None):
    """Proxy and gold, (prompts, samples), both of the error's scale: Gaussian error, or Student's t."""
    gold = rng.normal(size=(prompts, samples))
    error = rng.normal(size=gold.shape) if tail is None else rng.standard_t(tail, size=gold.shape)
    return gold + error, gold


def gao_fit(gold: np.ndarray) -> np.ndarray:
    """Least-squares (alpha, beta) of R = d (alpha - beta d) for best-of-``NS``."""
    d = np.sqrt(best_of_n.kl(NS))
    return np.linalg.lstsq(np.stack([d, -(d**2)], axis=1), gold, rcond=None)[0]


# --- Gao et al.'s forms -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(alpha=st.floats(0.1, 5), beta=st.floats(0.05, 3))
def test_peaks(alpha: float, beta: float) -> None:
    for form, peak in [
        (best_of_n.gao, best_of_n.gao_peak),
        (theory.gao_rl, theory.gao_rl_peak),
    ]:
        d, best = peak(alpha, beta)
        assert form(d, alpha, beta) == pytest.approx(best, rel=1e-9)
        around = form(d * np.linspace(0.5, 1.5, 101), alpha, beta)
        assert np.all(around <= best * (1 + 1e-9))


def test_forms_start_at_zero_and_need_over_optimisation_to_peak() -> None:
    assert theory.gao_rl(0.0, 1.0, 0.3) == 0 == best_of_n.gao(0.0, 1.0, 0.3)
    assert best_of_n.gao_peak(1.0, -0.1) == (np.inf, np.inf) == theory.gao_rl_peak(1.0, 0.0)
    with pytest.raises(ValueError, match="alpha must be positive"):
        best_of_n.gao_peak(-1.0, 0.1)


# --- the estimator (its identities: tests/test_best_of_n.py) -----------------------------------------------


def test_estimator_is_unbiased_and_steadier_than_one_draw() -> None:
    rng, n = np.random.default_rng(0), 8
    proxy, gold = simulated_gold(rng, 4_000, 64, None)
    estimates = best_of_n.estimate(proxy, gold, n)
    single = np.take_along_axis(gold[:, :n], proxy[:, :n].argmax(axis=1)[:, None], axis=1)[:, 0]
    mean, error = simulated.mean_and_error(estimates)
    assert abs(mean - theory.gaussian_best_of_n_gold(n, 0.5**0.5)) < 3 * error
    assert error < simulated.mean_and_error(single)[1] / 2
    assert best_of_n.estimate(proxy, gold, np.array([1, 8])).shape == (4_000, 2)
    np.testing.assert_allclose(best_of_n.estimate(proxy, gold, 1), gold.mean(axis=1), atol=1e-12)


# --- the Gaussian world -------------------------------------------------------------------------------------


def test_expected_maximum_known_values() -> None:
    # n = 1, 2, 3 in closed form; 10 and 1000 from tables of normal order statistics (Harter 1961).
    known = [0, 1 / np.sqrt(np.pi), 1.5 / np.sqrt(np.pi), 1.53875, 3.24144]
    np.testing.assert_allclose(theory.expected_maximum([1, 2, 3, 10, 1_000]), known, atol=6e-6)
    many = 10.0 ** np.arange(1, 15)
    assert np.all(np.diff(theory.expected_maximum(many)) > 0)
    assert np.all(theory.expected_maximum(many) < np.sqrt(2 * np.log(many)))


def test_trained_linear_student_has_no_peak() -> None:
    """A linear student of noisy labels of a linear gold, on Gaussian responses: the closed form, beta < 0."""
    rng, dimension = np.random.default_rng(1), 20
    student = simulated.fit(*simulated.sampled(1.0, 0.3)(rng, 300, dimension))
    correlation = float(np.cos(simulated.angle(student)))
    assert 0.3 < correlation < 0.9  # far from gold
    responses = rng.normal(size=(60, 4_096, dimension))
    estimates = best_of_n.estimate(responses @ student, responses[..., 0], NS)
    for measured, n in zip(estimates.T, NS, strict=True):
        mean, error = simulated.mean_and_error(measured)
        assert abs(mean - theory.gaussian_best_of_n_gold(n, correlation)) < 3.5 * error, n  # 13 looks
    assert gao_fit(theory.gaussian_best_of_n_gold(NS, correlation))[1] < 0
    peak, _ = best_of_n.gao_peak(*gao_fit(estimates.mean(axis=0)))
    assert peak > 5 * np.sqrt(best_of_n.kl(4_096))  # of noisy points: not always infinite


def test_heavy_tailed_error_peaks_and_breaks_the_closed_form() -> None:
    """The proxy's error has the heavier tail: its best responses are its worst mistakes."""
    proxy, gold = simulated_gold(np.random.default_rng(2), 300, 4_096, 2.0)
    estimates = best_of_n.estimate(proxy, gold, NS)
    curve = [simulated.mean_and_error(column) for column in estimates.T]
    top, top_error = max(curve)
    last, last_error = curve[-1]
    assert top - last > 5 * np.hypot(top_error, last_error), (top, last)
    correlation = float(np.corrcoef(proxy.ravel(), gold.ravel())[0, 1])
    assert theory.gaussian_best_of_n_gold(4_096, correlation) - last > 5 * last_error
    alpha, beta = gao_fit(estimates.mean(axis=0))
    peak, _ = best_of_n.gao_peak(alpha, beta)
    assert beta > 0 and peak < np.sqrt(best_of_n.kl(4_096))
