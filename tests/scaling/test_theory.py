"""What noise should cost: each formula against SIMULATED students in its regime, and failing outside it.

Tolerances: three standard errors of the simulated mean plus, where a student is fitted, a relative 4·d/n for
the first term the asymptotics leave out (measured: about 2 % at d/n = 0.5 %). "Fails" means by five.
"""

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import ArrayLike
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm

from rewardscale.scaling import theory
from tests.scaling import simulated
from tests.scaling.simulated import World, deterministic, sampled

# (eta, 1/(1-2 eta)^2, DER at margin sd 0.5, 1, 2, 4, 8) margins Gaussian.
DER_TABLE = [
    (0.1, "1.56", ["1.60", "1.68", "1.94", "2.61", "4.25"]),
    (0.2, "2.78", ["2.88", "3.15", "3.95", "6.02", "10.8"]),
    (0.3, "6.25", ["6.56", "7.35", "9.70", "15.6", "28.8"]),
    (0.4, "25", ["26.4", "30.0", "40.7", "67", "125"]),
]
SDS = (0.5, 1, 2, 4, 8)
DIMENSION = 30
rates = st.floats(0, 0.45)
# Mixtures of up to four centred Gaussians: (sd in nats, weight) each.
mixtures = st.lists(st.tuples(st.floats(0.05, 8), st.floats(0.05, 1)), min_size=1, max_size=4)


def gaussian(sd: float) -> dict[str, Any]:
    margins, weights = theory.gaussian_margins(sd)
    return {"margins": margins, "weights": weights}


def mixture(parts: list[tuple[float, float]]) -> dict[str, Any]:
    grids = [(theory.gaussian_margins(sd, 401), share) for sd, share in parts]
    return {
        "margins": np.concatenate([nodes for (nodes, _), _ in grids]),
        "weights": np.concatenate([share * weights for (_, weights), share in grids]),
    }


def printed(value: ArrayLike, text: str) -> bool:
    decimals = len(text.partition(".")[2])
    return f"{float(np.asarray(value)):.{decimals}f}" == text


def measure(world: World, *, seed: int, pairs: int = 6_000, repeats: int = 40) -> tuple[float, float]:
    return simulated.variance(seed, world, pairs=pairs, dimension=DIMENSION, repeats=repeats)


def agrees(measured: tuple[float, float], predicted: ArrayLike, pairs: int = 6_000) -> bool:
    (value, error), predicted = measured, float(np.asarray(predicted))
    return abs(value - predicted) < 3 * error + 4 * DIMENSION / pairs * predicted


def fails(measured: tuple[float, float], predicted: ArrayLike, pairs: int = 6_000) -> bool:
    (value, error), predicted = measured, float(np.asarray(predicted))
    return abs(value - predicted) > 5 * error + 4 * DIMENSION / pairs * predicted


# --- numbers, without simulation -----------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "bound", "row"), DER_TABLE)
def test_der_table(eta: float, bound: str, row: list[str]) -> None:
    assert printed(theory.lower_bound_der(eta), bound)
    for sd, text in zip(SDS, row, strict=True):
        assert printed(theory.sandwich_der(eta=eta, **gaussian(sd)), text), (sd, text)


def test_constants_at_margin_sd_2() -> None:
    eta = np.array([0, 0.1, 0.2, 0.3, 0.4])
    variance = theory.sandwich_variance(eta=eta, **gaussian(2))
    assert [f"{v:.2f}" for v in variance[:3]] == ["1.65", "3.20", "6.53"]
    assert [f"{v:.1f}" for v in variance[3:]] == ["16.0", "67.1"]
    scale = theory.pseudo_true_scale(eta=eta, **gaussian(2))
    assert [f"{c:.2f}" for c in scale] == ["1.00", "0.64", "0.42", "0.26", "0.12"]
    assert f"{theory.raw_loss_floor(eta=0.2, **gaussian(2)):.3f}" == "0.059"


def test_grid_of_gaussian_margins_against_adaptive_quadrature() -> None:
    sd, eta = 2.0, 0.3
    margins, weights = theory.gaussian_margins(sd)
    scale = float(theory.pseudo_true_scale(margins, eta, weights=weights))

    def expected(of_margin) -> float:
        return quad(lambda z: of_margin(sd * z) * norm.pdf(z), -10, 10, epsabs=1e-13)[0]

    assert expected(lambda m: m * (eta + (1 - 2 * eta) * expit(m) - expit(scale * m))) == pytest.approx(
        0, abs=1e-11
    )
    curvature = expected(lambda m: expit(scale * m) * expit(-scale * m))
    score = expected(
        lambda m: (
            (eta + (1 - 2 * eta) * expit(m)) * expit(-scale * m) ** 2
            + (eta + (1 - 2 * eta) * expit(-m)) * expit(scale * m) ** 2
        )
    )
    variance = theory.sandwich_variance(margins, eta, weights=weights)
    assert variance == pytest.approx(score / (curvature * scale * sd) ** 2, rel=1e-10)


def test_measured_margins_stand_for_their_distribution() -> None:
    margins = np.random.default_rng(0).normal(scale=2, size=200_000)
    sample = theory.sandwich_der(margins, [0.1, 0.3])
    assert sample == pytest.approx(theory.sandwich_der(eta=[0.1, 0.3], **gaussian(2)), rel=0.01)
    np.testing.assert_allclose(theory.sandwich_der(-margins, [0.1, 0.3]), sample, rtol=1e-12)


@settings(max_examples=40, deadline=None)
@given(parts=mixtures, low=rates, gap=st.floats(0.01, 0.3))
def test_der_is_above_the_bound_and_grows(parts: list[tuple[float, float]], low: float, gap: float) -> None:
    high, margins = min(low + gap, 0.48), mixture(parts)
    bound = ((1 - 2 * low) / (1 - 2 * high)) ** 2
    assert theory.sandwich_der(eta=high, base_eta=low, **margins) >= bound * (1 - 1e-9) > 1
    aware, unaware = theory.flip_aware_der(eta=high, **margins), theory.sandwich_der(eta=high, **margins)
    assert theory.lower_bound_der(high) * (1 - 1e-9) <= aware <= unaware * (1 + 1e-9)
    if low > 0.005:
        assert theory.sandwich_der(eta=high, base_eta=low, label_rule="deterministic", **margins) > bound


@settings(max_examples=40, deadline=None)
@given(parts=mixtures, eta=rates, added=rates, scale=st.floats(0.1, 10))
def test_invariances(parts: list[tuple[float, float]], eta: float, added: float, scale: float) -> None:
    margins = mixture(parts)
    both = float(theory.compose_flips(eta, added))
    through = theory.sandwich_der(eta=eta, **margins) * theory.sandwich_der(eta=both, base_eta=eta, **margins)
    assert through == pytest.approx(float(theory.sandwich_der(eta=both, **margins)), rel=1e-9)
    assert theory.sandwich_der(eta=0.0, **margins) == pytest.approx(1)
    scaled = {**margins, "margins": scale * margins["margins"]}
    rule: dict[str, Any] = {"label_rule": "deterministic", "eta": min(eta + 0.02, 0.45)}
    assert theory.sandwich_variance(**scaled, **rule) == pytest.approx(
        theory.sandwich_variance(**margins, **rule), rel=1e-8
    )


@settings(max_examples=100, deadline=None)
@given(margin=st.floats(-60, 60), eta=rates)
def test_information_ratio_is_below_its_bound(margin: float, eta: float) -> None:
    ratio = theory.pair_information_ratio(margin, eta)
    assert 0 <= ratio <= (1 - 2 * eta) ** 2 * (1 + 1e-9)
    assert theory.pair_information_ratio(0.0, eta) == pytest.approx((1 - 2 * eta) ** 2)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"eta must lie in \[0, 0.5\)"):
        theory.lower_bound_der([0.1, 0.5])
    with pytest.raises(ValueError, match="not all zero"):
        theory.sandwich_der([0.0, 0.0], 0.1)
    with pytest.raises(ValueError, match="weights must be non-negative"):
        theory.sandwich_der([1.0, 2.0], 0.1, weights=[1.0])
    with pytest.raises(ValueError, match="separable"):
        theory.sandwich_der([1.0, 2.0], 0.1, label_rule="deterministic")


# --- the sandwich ----------------------------------------------------------------------------------------


def test_bound_is_reached_at_low_signal_only() -> None:
    low = simulated.ratio(measure(sampled(0.5, 0.2), seed=1), measure(sampled(0.5), seed=2))
    high = simulated.ratio(measure(sampled(4, 0.2), seed=3), measure(sampled(4), seed=4))
    bound = float(theory.lower_bound_der(0.2))
    assert agrees(low, bound), low
    assert fails(high, bound), high
    assert agrees(high, theory.sandwich_der(eta=0.2, **gaussian(4))), high


@pytest.mark.parametrize("eta", [0.0, 0.1, 0.2, 0.3])
def test_sandwich_variance(eta: float) -> None:
    measured = measure(sampled(2, eta), seed=10 + round(10 * eta))
    assert agrees(measured, theory.sandwich_variance(eta=eta, **gaussian(2))), measured


def test_that_many_more_pairs_undo_the_flips() -> None:
    """The definition of DER: as many flipped pairs as it says give the clean students' loss; the bound's don't."""
    clean, eta, sd = 3_000, 0.2, 2.0
    floor = simulated.recalibrated_loss(0.0, sd)

    def excess(pairs: float, world: World, seed: int) -> tuple[float, float]:
        tilts = simulated.angles(seed, world, pairs=round(pairs), dimension=DIMENSION, repeats=30)
        losses = [simulated.recalibrated_loss(tilt, sd) for tilt in tilts]
        return simulated.mean_and_error(np.array(losses) - floor)

    der, bound = float(theory.sandwich_der(eta=eta, **gaussian(sd))), float(theory.lower_bound_der(eta))
    target = excess(clean, sampled(sd), 20)
    by_der = simulated.ratio(excess(clean * der, sampled(sd, eta), 21), target)
    by_bound = simulated.ratio(excess(clean * bound, sampled(sd, eta), 22), target)
    assert agrees(by_der, 1.0, clean), by_der
    assert by_bound[0] - 1 > 3.5 * by_bound[1], by_bound
    predicted = theory.recalibrated_excess(clean, DIMENSION, eta=0.0, **gaussian(sd))
    assert agrees(target, predicted, clean), (target, predicted)
    assert theory.effective_pairs(clean * der, eta, **gaussian(sd)) == pytest.approx(clean)


def test_raw_loss_stays_above_gold_and_recalibrated_does_not() -> None:
    rng = np.random.default_rng(30)
    weights = simulated.fit(*sampled(2, 0.2)(rng, 200_000, 3))
    z = simulated.GAUSS_X
    raw = simulated.GAUSS_W @ (np.logaddexp(0, -weights[0] * z) + expit(-2 * z) * weights[0] * z)
    gold = simulated.GAUSS_W @ (np.logaddexp(0, -2 * z) + expit(-2 * z) * 2 * z)
    assert raw - gold == pytest.approx(theory.raw_loss_floor(eta=0.2, **gaussian(2)), rel=0.03)
    tilt = simulated.angle(weights)
    assert simulated.recalibrated_loss(tilt, 2) - gold < 1e-3


def _humped(centre: float, spread: float, gold: float, eta: float) -> World:
    """Gold feature with two humps at +-centre; margins are ``gold`` times it."""

    def draw(rng: np.random.Generator, pairs: int, dimension: int):
        x = rng.normal(size=(pairs, dimension))
        x[:, 0] = rng.choice([-centre, centre], size=pairs) + spread * x[:, 0]
        return x, (rng.random(pairs) < expit(gold * x[:, 0])) ^ (rng.random(pairs) < eta)

    return draw


def test_margins_need_not_be_gaussian() -> None:
    """Two-humped margins: the measured distribution predicts, a Gaussian of the same spread does not."""
    spread, gold = 0.3, 3.0
    nodes, weights = theory.gaussian_margins(1)
    rms = np.hypot(1.0, spread)
    for eta in (0.0, 0.2):
        # The angle is between raw weights, so the gold feature's own spread is put back.
        value, error = (
            v / rms**2 for v in measure(_humped(1.0, spread, gold, eta), seed=40 + round(10 * eta))
        )
        predicted = theory.sandwich_variance(gold * (1 + spread * nodes), eta, weights=weights)
        assert agrees((value, error), predicted), (eta, value, error, predicted)
        if eta == 0:
            by_gaussian = theory.sandwich_variance(eta=eta, **gaussian(gold * rms))
            assert fails((value, error), by_gaussian), (value, error, by_gaussian)


def test_bound_is_no_bound_with_a_gap_at_zero() -> None:
    """All margins far from zero: flips regularise the all but separable problem, and help."""
    clean, noisy = (measure(_humped(1.0, 0.1, 6.0, eta), seed=51, pairs=3_000) for eta in (0.0, 0.05))
    der, error = simulated.ratio(noisy, clean)
    assert der + 3 * error < 1 < theory.lower_bound_der(0.05), (der, error)
    margins = 6.0 * (1 + 0.1 * theory.gaussian_margins(1)[0])
    assert theory.sandwich_der(margins, 0.05, weights=theory.gaussian_margins(1)[1]) < 1


def test_sandwich_fails_when_flips_depend_on_the_margin() -> None:
    """As many flips as eta = 0.2 in all, but on the closest pairs: much cheaper than the formula."""

    def hard_pairs(rng: np.random.Generator, pairs: int, dimension: int):
        x, labels = sampled(2)(rng, pairs, dimension)
        close = np.abs(x[:, 0]) < norm.ppf(0.7)  # 40 % of pairs, half of them flipped
        return x, labels ^ (close & (rng.random(pairs) < 0.5))

    measured = measure(hard_pairs, seed=60)
    predicted = theory.sandwich_variance(eta=0.2, **gaussian(2))
    assert fails(measured, predicted), measured
    assert measured[0] < predicted


def test_sandwich_fails_when_other_features_grow_with_the_margin() -> None:
    """One heavy-tailed scale a pair, shared by all its features: long responses, say."""

    def long_and_short(rng: np.random.Generator, pairs: int, dimension: int):
        scale = np.where(rng.random(pairs) < 0.2, 2.0, 0.5)  # mean square 1
        x = rng.normal(size=(pairs, dimension)) * scale[:, None]
        return x, rng.random(pairs) < expit(2 * x[:, 0])

    margins = mixture([(4.0, 0.2), (1.0, 0.8)])
    measured = measure(long_and_short, seed=61)
    assert fails(measured, theory.sandwich_variance(eta=0.0, **margins)), measured


@pytest.mark.parametrize("eta", [0.05, 0.2])
def test_sandwich_of_deterministic_labels(eta: float) -> None:
    measured = measure(deterministic(eta), seed=70 + round(100 * eta))
    predicted = theory.sandwich_variance(eta=eta, label_rule="deterministic", **gaussian(1))
    assert agrees(measured, predicted), measured
    assert fails(measured, theory.sandwich_variance(eta=eta, **gaussian(1))), "the other rule's formula"


def test_flips_added_to_labels_of_unknown_noise() -> None:
    """Human labels: margins read off a model of the observed labels predict what added flips cost."""
    sd, human, added = 3.0, 0.1, 0.2
    observed, rng = sampled(sd, human), np.random.default_rng(80)
    model = simulated.fit(*observed(rng, 40_000, DIMENSION))
    margins = observed(rng, 20_000, DIMENSION)[0] @ model  # by maximum likelihood: temperature 1
    predicted = float(theory.sandwich_der(margins, added))
    both = float(theory.compose_flips(human, added))
    exact = float(theory.sandwich_der(eta=both, base_eta=human, **gaussian(sd)))
    assert predicted == pytest.approx(exact, rel=0.05)
    measured = simulated.ratio(measure(sampled(sd, both), seed=81), measure(observed, seed=82))
    assert agrees(measured, exact), (measured, exact)
    wrong_reading = float(theory.sandwich_der(eta=added, **gaussian(sd)))  # gold margins, as if unflipped
    assert fails(measured, wrong_reading), (measured, wrong_reading)
