"""Held-out predictions on SYNTHETIC curves of known form."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.forms import CHINCHILLA, MODEL_POWER_FLOOR, POWER_FLOOR, by_level
from rewardscale.scaling.holdout import BASELINES, held_out_error, holdout, split
from rewardscale.scaling.points import Points, from_draws
from tests.scaling.quality_worlds import SIZES, synthetic_levels


def one_curve(draws: int = 8, noise: float = 0.01, sizes=SIZES, seed: int = 0) -> Points:
    """SYNTHETIC: 0.3 + 3 D^-0.4, independent relative noise."""
    pairs = np.asarray(sizes, float)
    rng = np.random.default_rng([seed, 0xD0])
    return from_draws(
        {"pairs": pairs}, (0.3 + 3 * pairs**-0.4) * (1 + noise * rng.standard_normal((draws, len(pairs))))
    )


def surface(draws: int = 6) -> Points:
    """SYNTHETIC: 0.3 + 2 N^-0.3 + 3 D^-0.4 on 5 model sizes and 7 data sizes."""
    params, pairs = (a.ravel() for a in np.meshgrid(np.geomspace(1e3, 3e5, 5), SIZES, indexing="ij"))
    truth = 0.3 + 2 * params**-0.3 + 3 * pairs**-0.4
    noise = 0.003 * np.random.default_rng(4).standard_normal((draws, len(pairs)))
    return from_draws({"params": params, "pairs": pairs}, truth * (1 + noise))


def test_exactly_the_largest_fourfold_is_hidden():
    found = holdout(one_curve(), POWER_FLOOR, resamples=100)
    assert found.largest_kept == pytest.approx(8_000)
    own = found.table.filter(pl.col("form") == POWER_FLOOR.name)
    np.testing.assert_allclose(own["pairs"], [16_000, 32_000])
    np.testing.assert_allclose(own["relative_error"], own["predicted"] / own["observed"] - 1)


def test_the_right_form_predicts_exact_data_and_the_baselines_err_as_they_must():
    found = holdout(one_curve(draws=1, noise=0.0), POWER_FLOOR)
    assert found.error(POWER_FLOOR.name) < 1e-6
    rows = {name: found.table.filter(pl.col("form") == name) for name in BASELINES[:3]}
    assert (rows["power law"]["relative_error"] < -0.01).all()  # no floor: too low
    assert (rows["log-linear"]["relative_error"] < -0.05).all()  # straight on down
    np.testing.assert_allclose(rows["last point"]["predicted"], 0.3 + 3 * 8_000**-0.4)
    line = np.polyfit(np.log(SIZES[:5]), 0.3 + 3 * SIZES[:5] ** -0.4, 1)
    np.testing.assert_allclose(rows["log-linear"]["predicted"], np.polyval(line, np.log(SIZES[5:])))


def test_without_draws_there_are_errors_and_no_intervals():
    found = holdout(one_curve(draws=3), POWER_FLOOR)
    assert found.table["low"].null_count() == len(found.table) and found.table["inside"].null_count() > 0
    assert "fewer than 5" in found.summary["note"][0]
    assert found.error(POWER_FLOOR.name) > 0


def test_intervals_surround_the_prediction_and_hold_the_noise_of_the_observation():
    points = one_curve()
    found = holdout(points, POWER_FLOOR, resamples=400)
    for form in (POWER_FLOOR.name, "last point"):
        own = found.table.filter(pl.col("form") == form)
        assert (own["low"] < own["predicted"]).all() and (own["predicted"] < own["high"]).all()
        inside = (own["low"] <= own["observed"]) & (own["observed"] <= own["high"])
        assert inside.to_list() == own["inside"].to_list()
    last = found.table.filter(pl.col("form") == "last point")
    alone = np.hypot(points.se[4], points.se[5:])  # independent noise, both ends
    width = (last["high"] - last["low"]).to_numpy() / 2
    assert (width > 1.2 * alone).all() and (width < 6 * alone).all()


def test_a_break_is_tried_only_with_twelve_sizes_left():
    few = holdout(one_curve(), POWER_FLOOR, resamples=100).summary.filter(pl.col("form") == "one break")
    assert few["mean_absolute_relative_error"][0] is None and "12 sizes" in few["note"][0]
    pairs = np.geomspace(100, 100_000, 16)
    broken = 0.2 + 2 * pairs**-0.1 * (1 + (pairs / 1_500) ** 5.0) ** (-0.5 * 0.2)
    many = from_draws({"pairs": pairs}, broken[None])
    found = holdout(many, POWER_FLOOR, factor=3.0)
    assert found.error("one break") < 0.3 * found.error(POWER_FLOOR.name)


def test_levels_are_held_out_together_and_baselines_level_by_level():
    points = synthetic_levels("offset").with_inputs(level=np.repeat(np.arange(3), 7))
    found = holdout(points, by_level("offset", 3), resamples=100)
    own = found.table.filter(pl.col("form") == "offset")
    assert own["level"].to_list() == ["raw", "raw", "filtered", "filtered", "gold", "gold"]
    last = found.table.filter(pl.col("form") == "last point")
    np.testing.assert_allclose(last["predicted"], np.repeat(points.mean[[4, 11, 18]], 2))
    assert found.error("offset") < 0.5 * found.error("last point")


@pytest.mark.parametrize("axis", ["pairs", "params"])
def test_a_surface_is_predicted_along_either_axis(axis):
    found = holdout(surface(), CHINCHILLA, axis=axis, resamples=100)
    assert found.error(CHINCHILLA.name) < 0.01
    assert found.error(CHINCHILLA.name) < found.error("last point")
    hidden = found.table.filter(pl.col("form") == CHINCHILLA.name)[axis]
    assert hidden.min() > found.largest_kept


def test_the_error_alone_is_that_of_the_table():
    points = one_curve()
    full = holdout(points, POWER_FLOOR, resamples=100)
    assert held_out_error(points, POWER_FLOOR, split(points)) == pytest.approx(full.error(POWER_FLOOR.name))


@settings(max_examples=30, deadline=None)
@given(st.floats(1.2, 6.0))
def test_what_is_kept_lies_below_what_is_hidden(factor):
    points = one_curve()
    kept = split(points, factor=factor, least=2)
    assert kept.any() and not kept.all()
    assert points.x["pairs"][kept].max() < points.x["pairs"][~kept].min()
    assert points.x["pairs"][~kept].min() > points.x["pairs"].max() / factor


def test_refusals_name_the_thing():
    with pytest.raises(ScalingError, match="leaves 3 sizes of the curve"):
        holdout(one_curve(sizes=SIZES[:5]), POWER_FLOOR)
    with pytest.raises(ScalingError, match="axis='quality'"):
        holdout(one_curve(), POWER_FLOOR, axis="quality")
    with pytest.raises(ScalingError, match="axis='params'"):
        holdout(one_curve(), MODEL_POWER_FLOOR, axis="params")
    with pytest.raises(ScalingError, match="factor=1"):
        holdout(one_curve(), POWER_FLOOR, factor=1.0)
    with pytest.raises(ScalingError, match="baselines"):
        holdout(one_curve(), POWER_FLOOR, baselines=("oracle",))
    with pytest.raises(ScalingError, match="no form 'x'"):
        holdout(one_curve(), POWER_FLOOR, baselines=()).error("x")


@pytest.mark.slow
def test_the_interval_holds_the_observation_as_often_as_it_says():
    inside = [
        holdout(one_curve(draws=5, noise=0.01, seed=seed), POWER_FLOOR, baselines=(), resamples=300)
        .table["inside"]
        .to_list()
        for seed in range(200)
    ]
    assert 0.91 <= np.mean(inside) <= 0.985


def test_the_baseline_without_a_floor_is_fitted_to_curves_that_hardly_fall():
    """As of answers without their question (experiment 011): 0.7 D^-0.003."""
    pairs = np.asarray(SIZES, float)
    flat = from_draws({"pairs": pairs}, (0.7 * pairs**-0.003)[None])
    assert holdout(flat, POWER_FLOOR).error("power law") < 1e-4
