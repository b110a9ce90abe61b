"""Preliminary fits recover what was planted and refuse what can't be fitted; exchange rates stay in range."""

import dataclasses

import numpy as np
import polars as pl
import pytest

from rewardscale.scaling.collect import ScalingError, Sweep
from rewardscale.scaling.fit import exchange, fit_preliminary, preliminary_fits
from rewardscale.scaling.forms import pairs_at, power_law
from tests.scaling import synthetic

SIZES = np.array([300, 1_000, 3_000, 10_000, 30_000])


@pytest.mark.parametrize("planted", [(0.3, 5.0, 0.5), (0.05, 0.9, 0.11), (0.42, 400.0, 1.3), (0.0, 3.0, 0.2)])
def test_exact_parameters_come_back(planted: tuple[float, float, float]) -> None:
    fit = fit_preliminary(SIZES, power_law(SIZES, *planted))
    assert (fit.floor, fit.scale, fit.exponent) == pytest.approx(planted, rel=1e-3, abs=1e-3)
    assert fit.rms < 1e-6
    assert fit.sizes == 5
    assert fit.decades == pytest.approx(2.0)
    assert fit.loss(SIZES) == pytest.approx(power_law(SIZES, *planted), abs=1e-6)


def test_noisy_parameters_come_back_from_the_tables(planted: Sweep) -> None:
    fits = preliminary_fits(planted)
    assert fits.height == 3 * 4
    for row in fits.iter_rows(named=True):
        floor, scale, _ = synthetic.LEVELS[row["level"]]
        assert row["floor"] == pytest.approx(
            floor + synthetic.SIZE_TERM * row["params"] ** -synthetic.ALPHA, abs=0.02
        )
        assert row["exponent"] == pytest.approx(synthetic.BETA, abs=0.08)
        assert row["scale"] == pytest.approx(scale, rel=0.5)
        assert row["rms"] < 0.004
        assert row["sizes"] >= 5 and row["runs"] == 4 * row["sizes"] and row["note"] == ""


def test_the_chance_plateau_is_not_fitted(planted: Sweep) -> None:
    shifted = planted.table.with_columns(
        loss_recalibrated=pl.when(pl.col("pairs") <= 1_000).then(0.692).otherwise(pl.col("loss_recalibrated"))
    )
    whole, cut = preliminary_fits(planted), preliminary_fits(dataclasses.replace(planted, table=shifted))
    assert (cut["first"] > 1_000).all() and (cut["sizes"] < whole["sizes"]).all()
    usable = cut.filter(pl.col("exponent").is_not_null())
    assert len(usable) and usable["exponent"].to_numpy() == pytest.approx(synthetic.BETA, abs=0.3)


def test_weights_count(planted: Sweep) -> None:
    loss = power_law(SIZES, 0.3, 5.0, 0.5)
    loss[0] += 0.2
    free = fit_preliminary(SIZES, loss, [1e-9, 1, 1, 1, 1])
    assert free.exponent == pytest.approx(0.5, abs=1e-3)


def test_it_is_the_least_squares_solution() -> None:
    rng = np.random.default_rng(3)
    loss = power_law(SIZES, 0.3, 5.0, 0.5) + 0.003 * rng.normal(size=5)
    fit = fit_preliminary(SIZES, loss)
    assert fit.rms == pytest.approx(float(np.sqrt(np.mean((fit.loss(SIZES) - loss) ** 2))), rel=1e-9)
    for floor, scale, exponent in rng.normal(1, 0.002, size=(200, 3)):
        near = power_law(SIZES, fit.floor * floor, fit.scale * scale, fit.exponent * exponent)
        assert np.sqrt(np.mean((near - loss) ** 2)) >= fit.rms - 1e-12


def test_too_few_sizes_are_refused(planted: Sweep) -> None:
    with pytest.raises(ScalingError, match="3 sizes; a power law with a floor needs at least 4"):
        fit_preliminary([300, 1_000, 3_000, 3_000], [0.6, 0.5, 0.4, 0.4])
    few = preliminary_fits(planted.filter(pl.col("pairs") <= 3_000))
    assert few["exponent"].null_count() == few.height == 12
    assert few["note"].str.contains(r"^no fit: [23] sizes; a power law with a floor needs at least 4$").all()


@pytest.mark.parametrize("bad", [[0.5, 0.4, float("nan"), 0.3], [0.5, 0.4, 0.0, 0.3]])
def test_bad_losses_are_refused(bad: list[float]) -> None:
    with pytest.raises(ScalingError, match="finite loss above 0"):
        fit_preliminary([1, 2, 3, 4], bad)


def test_what_the_data_do_not_pin_down_is_noted() -> None:
    assert "does not fall" in fit_preliminary(SIZES, [0.5, 0.51, 0.52, 0.53, 0.54]).note
    assert "floor at 0" in fit_preliminary(SIZES, power_law(SIZES, 0.0, 3.0, 0.2)).note
    assert "end of the search range" in fit_preliminary(SIZES, [0.7, 0.3, 0.3, 0.3, 0.3]).note


def test_inverse() -> None:
    assert pairs_at(power_law(SIZES, 0.3, 5.0, 0.5), 0.3, 5.0, 0.5) == pytest.approx(SIZES)
    assert np.isinf(pairs_at([0.2, 0.3], 0.3, 5.0, 0.5)).all()


def test_exchange_of_a_level_with_a_known_rate(planted: Sweep) -> None:
    # gold = raw trained on twice the pairs, exactly, at sizes where doubling stays on the grid
    sizes = {300: 600, 600: 1_200, 1_200: 2_400, 2_400: 4_800}
    raw = planted.table.filter(
        (pl.col("level") == "raw") & (pl.col("model") == "small") & (pl.col("pairs") == 300)
    )
    rows = []
    for pairs, twice in sizes.items():
        for level, seen in (("raw", pairs), ("gold", twice)):
            loss = float(power_law(seen, 0.3, 5.0, 0.5))
            values = {"level": level, "pairs": pairs, "cost": 3.0 * pairs if level == "gold" else 1.0 * pairs}
            rows.append(
                raw.with_columns(loss_recalibrated=pl.lit(loss), **{k: pl.lit(v) for k, v in values.items()})
            )
    sweep = planted.filter(pl.col("level") == "none")
    sweep = type(sweep)(sweep.name, sweep.directory, pl.concat(rows), {**sweep.meta, "cells": []}, [])
    table = exchange(sweep).sort("pairs")
    assert table["base"].unique().to_list() == ["raw"]
    assert table["within"].to_list() == ["in range"] * 3 + ["more than"]
    assert table["ratio"].to_list() == pytest.approx([2.0, 2.0, 2.0, 1.0])
    assert table["cost_ratio"].to_list()[:3] == pytest.approx([2 / 3] * 3)


def test_exchange_is_bounded_not_extrapolated(planted: Sweep) -> None:
    table = exchange(planted)
    out = table.filter(pl.col("within") != "in range")
    assert len(out)
    assert set(out["base_pairs"].round()) <= {300.0, 30_000.0}
    assert table["base_pairs"].is_between(299.99, 30_000.01).all()


def test_exchange_wants_a_base(planted: Sweep) -> None:
    with pytest.raises(ScalingError, match="no level to measure against"):
        exchange(planted.filter(pl.col("level") == "gold"))
