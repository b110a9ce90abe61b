"""``fit``: what it refuses, what it says of itself, and that what it finds is the optimum (against scipy)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import least_squares

from rewardscale.scaling import forms
from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.fit import FitError, fit
from rewardscale.scaling.forms import Form, Nonlinear

SIZES = np.geomspace(250, 16_000, 7)
PLANTED = {"floor": 0.3, "scale": 3.0, "exponent": 0.35}
CURVE = forms.POWER_FLOOR({"pairs": SIZES}, **PLANTED)
GRID = {
    name: values.ravel()
    for name, values in zip(("params", "pairs"), np.meshgrid(np.geomspace(1e4, 1e7, 5), SIZES), strict=True)
}
SURFACE = {"floor": 0.2, "model_scale": 10.0, "model_exponent": 0.4, "scale": 4.0, "exponent": 0.45}


def noisy(clean: NDArray, noise: float, seed: int = 0) -> NDArray:
    return clean * np.exp(noise * np.random.default_rng(seed).normal(size=clean.shape))


def with_value(values: NDArray, place: int, value: float) -> NDArray:
    out = values.copy()
    out[place] = value
    return out


# What is refused.

REFUSED: dict[str, tuple[Form, dict[str, Any], Any, dict[str, Any], str]] = {
    "missing input": (forms.CHINCHILLA, {"pairs": SIZES}, CURVE, {}, r"\['params'\] were not given"),
    "unequal lengths": (forms.POWER, {"pairs": SIZES[:-1]}, CURVE, {}, r"pairs and y .* \(6,\), \(7,\)"),
    "two dimensions": (forms.POWER, {"pairs": SIZES[None]}, CURVE[None], {}, "pairs and y must be 1-D"),
    "weights of another length": (forms.POWER, {"pairs": SIZES}, CURVE, {"weight": [1, 2]}, "weight and y"),
    "NaN loss": (forms.POWER, {"pairs": SIZES}, with_value(CURVE, 2, np.nan), {}, "^y .* nan .* position 2"),
    "infinite loss": (
        forms.POWER,
        {"pairs": SIZES},
        with_value(CURVE, 4, np.inf),
        {},
        "^y .* inf .* position 4",
    ),
    "loss of 0": (
        forms.POWER,
        {"pairs": SIZES},
        with_value(CURVE, 6, 0.0),
        {},
        "^y .* above 0; 0.0 .* position 6",
    ),
    "negative loss": (forms.POWER, {"pairs": SIZES}, with_value(CURVE, 0, -0.1), {}, "^y .* above 0; -0.1"),
    "no pairs": (forms.POWER, {"pairs": with_value(SIZES, 0, 0)}, CURVE, {}, "^pairs .* above 0; 0.0"),
    "NaN input": (forms.POWER, {"pairs": with_value(SIZES, 1, np.nan)}, CURVE, {}, "^pairs .* position 1"),
    "negative quality": (
        forms.QUALITY_EFFECTIVE,
        {"pairs": SIZES, "quality": with_value(np.ones(7), 3, -1)},
        CURVE,
        {},
        "^quality .* position 3",
    ),
    "weight of 0": (
        forms.POWER,
        {"pairs": SIZES},
        CURVE,
        {"weight": with_value(np.ones(7), 5, 0)},
        "^weight",
    ),
    "constant losses": (
        forms.POWER_FLOOR,
        {"pairs": SIZES},
        np.full(7, 0.5),
        {},
        "all 0.5: there is nothing",
    ),
    "too few points": (
        forms.CHINCHILLA,
        {"pairs": SIZES[:4], "params": SIZES[:4]},
        CURVE[:4],
        {},
        "5 parameters, 4",
    ),
    "too few sizes": (
        forms.POWER_FLOOR,
        {"pairs": np.repeat(SIZES[:3], 3)},
        noisy(np.repeat(CURVE[:3], 3), 0.01),
        {},
        "3 different pairs: power law with a floor needs at least 4",
    ),
    "one size of model": (
        forms.CHINCHILLA,
        {"pairs": SIZES, "params": np.full(7, 1e4)},
        CURVE,
        {},
        "1 different params: Chinchilla needs at least 4",
    ),
    "one level short of sizes": (
        forms.by_level("all", 2),
        {"pairs": np.concatenate([SIZES, SIZES[:3]]), "level": np.repeat([0, 1], [7, 3])},
        np.concatenate([CURVE, CURVE[:3]]),
        {},
        "3 different pairs of level 1",
    ),
    "a break in too few sizes": (
        forms.one_break(SIZES[0], SIZES[-1]),
        {"pairs": SIZES},
        CURVE,
        {},
        "7 different pairs: .*one break needs at least 12",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name(case: str) -> None:
    form, x, y, options, message = REFUSED[case]
    with pytest.raises(FitError, match=message):
        fit(form, x, y, **options)


def test_the_errors_are_scaling_errors() -> None:
    """So that a report which catches ScalingError shows them."""
    assert issubclass(FitError, ScalingError)


def test_negative_values_are_fine_without_logs() -> None:
    distance = np.sqrt(np.linspace(0.5, 12, 9))
    rewards = forms.BEST_OF_N({"distance": distance}, gain=1.0, over_optimisation=0.5)
    assert rewards.min() < 0
    found = fit(forms.BEST_OF_N, {"distance": distance}, rewards, log=False)
    assert found.parameters == pytest.approx({"gain": 1.0, "over_optimisation": 0.5})
    with pytest.raises(FitError, match=r"^y must hold finite numbers above 0"):
        fit(forms.BEST_OF_N, {"distance": distance}, rewards)


def test_unknown_parameter_cannot_be_fixed() -> None:
    with pytest.raises(ValueError, match=r"no nonlinear parameter \['floor'\]"):
        forms.POWER_FLOOR.fixed(floor=0.0)


def test_unknown_kind_of_levels() -> None:
    with pytest.raises(ValueError, match="kind='slope'"):
        forms.by_level("slope", 3)


# Data that do not pin the form down.


def test_two_ways_of_saying_the_same() -> None:
    """Two exponents that only enter as their sum: infinitely many optima, all of one curve."""

    def basis(x: forms.Inputs, eta: NDArray) -> list[NDArray]:
        return [np.exp(-np.log(x["pairs"]) * (eta[..., :1] + eta[..., 1:2]))]

    twice = Form(
        "twice the exponent",
        "L(D) = B · D^−(β+γ)",
        "nowhere",
        ("pairs",),
        ("scale",),
        (Nonlinear("exponent", 0.02, 4.0), Nonlinear("other", 0.02, 4.0)),
        basis,
    )
    found = fit(twice, {"pairs": SIZES}, noisy(3 * SIZES**-0.5, 0.01))
    assert {note.split()[0] for note in found.notes if "not pinned down" in note} >= {"exponent", "other"}


@pytest.mark.parametrize("noise", [0.0, 0.003])
def test_model_size_confounded_with_data_size(noise: float) -> None:
    """Every model got pairs in proportion to its size: A·N^-alpha + B·D^-beta can trade its two terms."""
    x = {"params": SIZES * 20, "pairs": SIZES}
    try:
        notes = fit(forms.CHINCHILLA, x, noisy(forms.CHINCHILLA(x, **SURFACE), noise)).notes
    except FitError as error:
        assert "pin this form down" in str(error)
    else:
        assert any(note.startswith("scale is not pinned down") for note in notes)


def test_starts_that_disagree_are_told_apart() -> None:
    """Two valleys, one at each end of the range, that reach the same depth with other curves."""

    def basis(x: forms.Inputs, eta: NDArray) -> list[NDArray]:
        phase = 2 * np.pi * np.log(x["pairs"] / 250)[None] / np.log(64)
        return [np.exp(0.3 * np.cos(np.log(eta[..., :1]) * 6.0 + phase))]

    valleys = Form(
        "valleys", "no law", "nowhere", ("pairs",), ("scale",), (Nonlinear("place", 0.1, 10.0),), basis
    )
    flat = 1 + 1e-3 * np.where(np.arange(7) % 2, 1.0, -1.0)
    with pytest.raises(
        FitError, match=r"valleys: different parameters fit equally well \(scale .*; scale .*\)"
    ):
        fit(valleys, {"pairs": SIZES}, flat, delta=np.inf)


# What it says of itself.


def test_exact_data() -> None:
    found = fit(forms.POWER_FLOOR, {"pairs": SIZES}, CURVE)
    assert found.parameters == pytest.approx(PLANTED, rel=1e-9)
    assert found.theta == pytest.approx([0.3, 3.0, 0.35], rel=1e-9)
    assert found.rms < 1e-12 and np.abs(found.residuals).max() < 1e-12
    assert found.agreed == found.starts >= 2
    assert (found.at_bound, found.notes) == ((), ())
    assert found.predict({"pairs": [1e6]}) == pytest.approx(0.3 + 3e0 * 1e6**-0.35)


def test_floor_at_zero_is_noted() -> None:
    bends_up = 3 * SIZES**-0.4 * (1 - 0.05 * np.log(SIZES / 250) ** 2 / 20)
    found = fit(forms.POWER_FLOOR, {"pairs": SIZES}, bends_up)
    assert found.parameters["floor"] == 0 and found.at_bound == ("floor",)
    assert found.notes == ("floor at 0: the data show no bend",)
    alone = fit(forms.POWER, {"pairs": SIZES}, bends_up)
    assert found.parameters["exponent"] == pytest.approx(alone.parameters["exponent"], rel=1e-6)


def test_exponent_at_the_end_of_its_range_is_noted() -> None:
    drops = 0.3 + 50 * (SIZES / 250) ** -6.0
    found = fit(forms.POWER_FLOOR, {"pairs": SIZES}, drops)
    assert found.at_bound == ("exponent",) and found.parameters["exponent"] == 4.0
    assert "exponent at the end of its range: not pinned down" in found.notes


def test_useless_model_size_is_noted() -> None:
    y = noisy(forms.CHINCHILLA(GRID, **SURFACE | {"model_scale": 0.0}), 0.003, seed=1)
    rising = y * (GRID["params"] / 1e4) ** 0.01  # larger models do a little worse
    found = fit(forms.CHINCHILLA.fixed(model_exponent=0.4), GRID, rising)
    assert found.parameters["model_scale"] == 0
    assert "model_scale at 0: the loss does not fall along that axis" in found.notes


def test_curve_that_has_ended_is_noted() -> None:
    y = 0.3 + 20 * SIZES**-1.5
    found = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y)
    assert any("all but ended" in note for note in found.notes)


def test_value_and_rms_are_those_of_the_residuals() -> None:
    y, weight = noisy(CURVE, 0.02), np.arange(1.0, 8.0)
    found = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y, weight=weight, delta=np.inf)
    residual = np.log(y) - np.log(forms.power_law(SIZES, **found.parameters))
    assert found.residuals == pytest.approx(residual)
    assert found.rms == pytest.approx(np.sqrt(np.average(residual**2, weights=weight)))
    assert found.value == pytest.approx(found.rms**2 / 2)


# What it finds.


def test_huber_shrugs_off_one_outlier() -> None:
    sizes = np.geomspace(250, 64_000, 13)
    clean = forms.POWER_FLOOR({"pairs": sizes}, **PLANTED)
    y = noisy(clean, 0.002)
    y[4] *= 1.3
    robust = fit(forms.POWER_FLOOR, {"pairs": sizes}, y)
    squares = fit(forms.POWER_FLOOR, {"pairs": sizes}, y, delta=np.inf)
    off = [abs(f.parameters["exponent"] - 0.35) for f in (robust, squares)]
    assert off[0] < 0.015 and off[1] > 5 * off[0]
    assert abs(robust.residuals[4]) > 50 * np.median(np.abs(robust.residuals))
    assert np.isfinite(robust.loss.delta) and np.isinf(squares.loss.delta)


def test_a_weight_of_three_is_a_point_thrice() -> None:
    y, times = noisy(CURVE, 0.02), np.array([1, 3, 1, 2, 1, 1, 3])
    weighted = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y, weight=times, delta=np.inf)
    repeated = fit(forms.POWER_FLOOR, {"pairs": np.repeat(SIZES, times)}, np.repeat(y, times), delta=np.inf)
    plain = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y, delta=np.inf)
    assert weighted.theta == pytest.approx(repeated.theta, rel=1e-6)
    assert weighted.theta != pytest.approx(plain.theta, rel=1e-3)
    scaled = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y, weight=1e6 * times, delta=np.inf)
    assert scaled.theta == pytest.approx(weighted.theta, rel=1e-6), "only ratios of weights count"


def test_fixed_exponent() -> None:
    y = noisy(CURVE, 0.01)
    known = forms.POWER_FLOOR.fixed(exponent=0.35)
    assert known.parameters == ("floor", "scale") and "exponent = 0.35" in known.name
    found = fit(known, {"pairs": SIZES}, y, log=False, delta=np.inf)
    design = np.stack([np.ones(7), SIZES**-0.35], 1)
    assert found.theta == pytest.approx(np.linalg.lstsq(design, y)[0], rel=1e-8)
    free = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y, log=False, delta=np.inf)
    assert free.value <= found.value
    there = forms.POWER_FLOOR.fixed(exponent=free.parameters["exponent"])
    again = fit(there, {"pairs": SIZES}, y, log=False, delta=np.inf)
    assert again.theta == pytest.approx(free.theta[:2], rel=1e-5)


def test_fixing_one_of_two_exponents() -> None:
    known = forms.CHINCHILLA.fixed(exponent=SURFACE["exponent"])
    assert known.parameters == ("floor", "model_scale", "scale", "model_exponent")
    found = fit(known, GRID, forms.CHINCHILLA(GRID, **SURFACE))
    for name in known.parameters:
        assert found.parameters[name] == pytest.approx(SURFACE[name], rel=1e-7)


def scipy_optimum(form: Form, x: dict[str, NDArray], y: NDArray, start: NDArray, log: bool) -> float:
    """Half the mean squared residual at scipy's optimum, started at ``start``; coefficients as logs where log."""

    def residual(theta: NDArray) -> NDArray:
        value = form(x, **dict(zip(form.parameters, theta, strict=True)))
        return np.log(y) - np.log(np.maximum(value, 1e-12)) if log else y - value

    low = [0.0] * len(form.linear) + [p.low for p in form.nonlinear]
    high = [np.inf] * len(form.linear) + [p.high for p in form.nonlinear]
    options = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "x_scale": "jac", "max_nfev": 4_000}
    found = least_squares(residual, np.clip(start, low, high), bounds=(low, high), **options)
    return float((found.fun**2).mean() / 2)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.booleans(), st.floats(0.001, 0.05))
def test_no_worse_than_scipy_from_the_truth(seed: int, log: bool, noise: float) -> None:
    """Nor than from our own optimum: there is no better one near either."""
    y = noisy(CURVE, noise, seed)
    try:
        found = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y, log=log, delta=np.inf)
    except FitError as error:
        assert "pin" in str(error) or "only one" in str(error)
        return
    for start in (np.array(list(PLANTED.values())), found.theta):
        theirs = scipy_optimum(forms.POWER_FLOOR, {"pairs": SIZES}, y, start, log)
        assert found.value <= theirs * (1 + 1e-8)


@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(0.002, 0.02))
def test_no_worse_than_scipy_on_surfaces(seed: int, noise: float) -> None:
    y = noisy(forms.CHINCHILLA(GRID, **SURFACE), noise, seed)
    found = fit(forms.CHINCHILLA, GRID, y, delta=np.inf)
    for start in (np.array([SURFACE[name] for name in forms.CHINCHILLA.parameters]), found.theta):
        assert found.value <= scipy_optimum(forms.CHINCHILLA, GRID, y, start, log=True) * (1 + 1e-8)


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.floats(1e-3, 1e3), st.floats(1e-2, 1e2))
def test_units_do_not_matter(seed: int, unit_of_loss: float, unit_of_pairs: float) -> None:
    y = noisy(CURVE, 0.01, seed)
    plain = fit(forms.POWER_FLOOR, {"pairs": SIZES}, y)
    scaled = fit(forms.POWER_FLOOR, {"pairs": SIZES * unit_of_pairs}, y * unit_of_loss)
    p, q = plain.parameters, scaled.parameters
    assert q["exponent"] == pytest.approx(p["exponent"], rel=1e-4)
    assert q["floor"] == pytest.approx(p["floor"] * unit_of_loss, rel=1e-4, abs=1e-6 * unit_of_loss)
    assert q["scale"] == pytest.approx(p["scale"] * unit_of_loss * unit_of_pairs ** p["exponent"], rel=1e-3)


def test_nested_forms_are_ordered() -> None:
    """More parameters never fit worse; the bound 0 on the floor included."""
    rng = np.random.default_rng(0)
    pairs, level = (a.ravel() for a in np.meshgrid(SIZES, [0.0, 1.0, 2.0]))
    clean = 0.2 + np.array([3.0, 5.0, 8.0])[level.astype(int)] * pairs**-0.4
    y = clean * np.exp(0.01 * rng.normal(size=len(pairs)))
    value = {
        kind: fit(forms.by_level(kind, 3), {"pairs": pairs, "level": level}, y, delta=np.inf).value
        for kind in forms.NESTED
    }
    for small, large in (
        ("shared", "offset"),
        ("shared", "floor"),
        ("offset", "exponent"),
        ("exponent", "all"),
        ("floor", "all"),
    ):
        assert value[large] <= value[small] * (1 + 1e-9)
    assert value["shared"] > 10 * value["offset"], "one curve does not describe three levels"
