"""What an independent curator is worth: closed forms against SIMULATED curators, in the regime and outside it."""

from functools import cache

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, given, settings
from scipy.special import expit

from rewardscale.scaling import theory, theory_curators
from tests.scaling import simulated
from tests.scaling.simulated import World, sampled

rates = st.floats(0.01, 0.48)
accuracies = st.floats(0.5, 1.0)
PAIRS, DIMENSION = 6_000, 30


def curated(sd: float, eta: float, accuracy: float, action: theory_curators.Action) -> World:
    """Flipped Bradley-Terry labels as an independent curator leaves them."""

    def draw(rng: np.random.Generator, pairs: int, dimension: int):
        x = rng.normal(size=(pairs, dimension))
        wrong = rng.random(pairs) < eta
        labels = (rng.random(pairs) < expit(sd * x[:, 0])) ^ wrong
        called_wrong = wrong ^ (rng.random(pairs) >= accuracy)
        if action == "filter":
            return x[~called_wrong], labels[~called_wrong]
        return x, labels ^ called_wrong if action == "correct" else labels

    return draw


def judged_by_reward_model(sd: float, eta: float, tilt: float, noise: float) -> World:
    """Filtered by a reward model's sign: its direction is off by ``tilt``, or its score noisy by ``noise``."""

    def draw(rng: np.random.Generator, pairs: int, dimension: int):
        x, labels = sampled(sd, eta)(rng, pairs, dimension)
        score = np.cos(tilt) * x[:, 0] + np.sin(tilt) * x[:, 1] + noise * rng.normal(size=pairs)
        kept = (score > 0) == labels
        return x[kept], labels[kept]

    return draw


@cache
def clean_variance(sd: float, pairs: int) -> tuple[float, float]:
    return simulated.variance(99, sampled(sd), pairs=pairs, dimension=DIMENSION, repeats=60)


def efficiency(world: World, sd: float, *, seed: int, pairs: int = PAIRS) -> tuple[float, float]:
    """Clean pairs that a raw pair of ``world`` is worth, measured, with its standard error."""
    treated = simulated.variance(seed, world, pairs=pairs, dimension=DIMENSION, repeats=32)
    return simulated.ratio(clean_variance(sd, pairs), treated)


def agrees(measured: tuple[float, float], predicted: float) -> bool:
    """Within three standard errors and 8·d/n: the first term left out is larger where fewer pairs count."""
    return abs(measured[0] - predicted) < 3 * measured[1] + 8 * DIMENSION / PAIRS * predicted


# --- numbers, without simulation -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eta", "accuracy", "raw", "filtered", "corrected"),
    [
        (0.25, 0.9, "0.25", "0.60", "0.64"),
        (0.25, 0.7, "0.25", "0.34", "0.16"),
        (0.1, 0.7, "0.64", "0.55", "0.16"),
    ],
)
def test_efficiency_numbers(eta: float, accuracy: float, raw: str, filtered: str, corrected: str) -> None:
    assert f"{theory_curators.raw_efficiency(eta):.2f}" == raw
    assert f"{theory_curators.filter_efficiency(eta, accuracy) + 1e-9:.2f}" == filtered  # 0.545 rounds up
    assert f"{theory_curators.correct_efficiency(accuracy):.2f}" == corrected


def test_threshold_numbers() -> None:
    eta = [0.1, 0.25, 0.4]
    assert [f"{a:.3f}" for a in theory_curators.filter_beats_raw_above(eta)] == ["0.781", "0.625", "0.543"]
    assert [f"{a:.2f}" for a in theory_curators.correct_beats_raw_above(eta)] == ["0.90", "0.75", "0.60"]
    assert [f"{a:.2f}" for a in theory_curators.correct_beats_filter_above(eta)] == ["0.96", "0.88", "0.71"]


@settings(max_examples=200, deadline=None)
@given(eta=rates, accuracy=accuracies)
def test_closed_form_is_what_the_noise_left_costs(eta: float, accuracy: float) -> None:
    kept, noise = theory_curators.keep_rate(eta, accuracy), theory_curators.kept_noise(eta, accuracy)
    dropped_noise = eta * accuracy / (1 - kept)
    assert kept * noise + (1 - kept) * dropped_noise == pytest.approx(eta)  # nothing is lost
    assume(noise < 0.4999)
    direct = kept / theory.lower_bound_der(noise)
    assert theory_curators.filter_efficiency(eta, accuracy) == pytest.approx(float(direct), abs=1e-12)


@settings(max_examples=200, deadline=None)
@given(eta=rates, step=st.floats(1e-4, 0.2), side=st.sampled_from([-1, 1]))
def test_thresholds_separate(eta: float, step: float, side: int) -> None:
    curators = theory_curators
    comparisons = [
        (
            curators.filter_beats_raw_above,
            lambda a: curators.filter_efficiency(eta, a),
            curators.raw_efficiency,
        ),
        (curators.correct_beats_raw_above, curators.correct_efficiency, curators.raw_efficiency),
        (
            curators.correct_beats_filter_above,
            curators.correct_efficiency,
            lambda _: curators.filter_efficiency(eta, accuracy),
        ),
    ]
    for threshold, better, worse in comparisons:
        accuracy = float(threshold(eta)) + side * step
        if 0.5 <= accuracy <= 1:
            assert (better(accuracy) > worse(eta)) == (side > 0), threshold.__name__


@settings(max_examples=50, deadline=None)
@given(eta=rates, ratio=st.floats(0.1, 1.9), sd=st.floats(0.2, 6))
def test_bound_on_accuracy_inverts_the_ratio(eta: float, ratio: float, sd: float) -> None:
    assume(ratio * (1 - eta) < 0.999)
    a = theory_curators.curator_accuracy_bound(eta, ratio)
    found = theory_curators.correct_efficiency(a) / theory_curators.filter_efficiency(eta, a)
    assert found == pytest.approx(ratio, rel=1e-9)
    margins, weights = theory.gaussian_margins(sd, 401)
    priced = theory_curators.curator_accuracy_bound(eta, ratio, margins=margins, weights=weights)
    assert a - 1e-9 <= priced <= 1


@settings(max_examples=50, deadline=None)
@given(eta=rates, accuracy=st.floats(0.55, 1.0), sd=st.floats(0.2, 6))
def test_sandwich_prices_noise_higher(eta: float, accuracy: float, sd: float) -> None:
    margins, weights = theory.gaussian_margins(sd, 401)
    closed = {
        "raw": theory_curators.raw_efficiency(eta),
        "filter": theory_curators.filter_efficiency(eta, accuracy),
        "correct": theory_curators.correct_efficiency(accuracy),
    }
    for action in theory_curators.ACTIONS:
        priced = theory_curators.sandwich_efficiency(margins, eta, accuracy, action, weights=weights)
        assert 0 < priced <= closed[action] * (1 + 1e-9)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"accuracy must lie in \[0.5, 1\]"):
        theory_curators.filter_efficiency(0.1, 0.4)
    with pytest.raises(ValueError, match=r"a perfect curator gives 1\.333"):
        theory_curators.curator_accuracy_bound(0.25, 1.4)
    with pytest.raises(ValueError, match="action must be one of"):
        theory_curators.sandwich_efficiency([1.0], 0.1, 0.9, "drop")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep in"):
        theory_curators.pays(2.0, 0.0, 0.1)


# --- simulated curators ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("eta", "accuracy"), [(0.25, 0.9), (0.25, 0.7), (0.1, 0.7)])
@pytest.mark.parametrize("action", theory_curators.ACTIONS)
def test_closed_forms_at_low_signal(eta: float, accuracy: float, action: theory_curators.Action) -> None:
    sd = 0.7
    measured = efficiency(curated(sd, eta, accuracy, action), sd, seed=round(100 * eta + 10 * accuracy))
    closed = {
        "raw": theory_curators.raw_efficiency(eta),
        "filter": theory_curators.filter_efficiency(eta, accuracy),
        "correct": theory_curators.correct_efficiency(accuracy),
    }
    assert agrees(measured, float(closed[action])), measured


@pytest.mark.slow
def test_high_signal_needs_the_sandwich_and_turns_the_order() -> None:
    """At margin sd 4 the closed forms fail, and a curator past their threshold filters better than it corrects."""
    sd, eta, accuracy = 4.0, 0.25, 0.9
    margins, weights = theory.gaussian_margins(sd)
    found = {}
    actions: list[theory_curators.Action] = ["filter", "correct"]
    for seed, action in enumerate(actions, start=40):
        world = curated(sd, eta, accuracy, action)
        found[action] = simulated.variance(seed, world, pairs=PAIRS, dimension=DIMENSION, repeats=90)
        priced = theory_curators.sandwich_efficiency(margins, eta, accuracy, action, weights=weights)
        measured = simulated.ratio(clean_variance(sd, PAIRS), found[action])
        assert agrees(measured, priced), (action, measured, priced)
        closed = {
            "filter": theory_curators.filter_efficiency(eta, accuracy),
            "correct": (2 * accuracy - 1) ** 2,
        }[action]
        assert closed - measured[0] > 5 * measured[1], (action, measured)
    assert theory_curators.correct_beats_filter_above(eta) < accuracy
    assert accuracy < theory_curators.curator_accuracy_bound(eta, margins=margins, weights=weights)
    more, error = simulated.ratio(
        found["correct"], found["filter"]
    )  # pairs that correcting needs to filter's
    assert more - 1 > 3 * error, (more, error)


def test_reward_model_curators_break_the_closed_form_both_ways() -> None:
    """A reward model's verdict is no independent error. Noisy scores err on close pairs: better than the form.
    A tilted direction errs systematically: far worse, and ever worse with more pairs."""
    sd, eta = 1.0, 0.25
    rng = np.random.default_rng(60)

    def accuracy(tilt: float, noise: float) -> float:
        """How often its verdict on a label is right, a label being right if it is the unflipped draw."""
        x = rng.normal(size=(200_000, 2))
        unflipped = rng.random(len(x)) < expit(sd * x[:, 0])
        score = np.cos(tilt) * x[:, 0] + np.sin(tilt) * x[:, 1] + noise * rng.normal(size=len(x))
        return float(((score > 0) == unflipped).mean())

    random = {"tilt": 0.0, "noise": 0.8}
    value, error = efficiency(judged_by_reward_model(sd, eta, **random), sd, seed=61)
    assert value - theory_curators.filter_efficiency(eta, accuracy(**random)) > 5 * error, (value, error)
    tilted = {"tilt": 0.7, "noise": 0.0}
    closed = theory_curators.filter_efficiency(eta, accuracy(**tilted))
    fewer, more = (
        efficiency(judged_by_reward_model(sd, eta, **tilted), sd, seed=63, pairs=n) for n in (1_500, 6_000)
    )
    assert closed - fewer[0] > 5 * fewer[1], (closed, fewer)
    assert fewer[0] - more[0] > 5 * np.hypot(fewer[1], more[1]), (fewer, more)


# --- money ----------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(der=st.floats(0.1, 50), keep=st.floats(0.01, 1), price=st.floats(0, 50))
def test_pays_is_the_cheaper_bill(der: float, keep: float, price: float) -> None:
    """Bills for one curated pair's worth of learning, in raw prices."""
    raw_bill, curated_bill = der, (1 + price) / keep
    assume(abs(raw_bill - curated_bill) > 1e-9 * raw_bill)
    assert bool(theory_curators.pays(der, keep, price)) == (curated_bill < raw_bill)


def test_break_even_of_an_independent_filter() -> None:
    """DER · keep rate is filtered over raw efficiency, so free curation pays just above the threshold."""
    eta = 0.25
    threshold = float(theory_curators.filter_beats_raw_above(eta))
    for accuracy, price in [(threshold, 0.0), (0.9, 1.4143)]:
        der = theory.lower_bound_der(eta) / theory.lower_bound_der(theory_curators.kept_noise(eta, accuracy))
        keep = theory_curators.keep_rate(eta, accuracy)
        assert theory_curators.break_even_price(der, keep) == pytest.approx(price, abs=1e-3)
