"""Frontiers on SYNTHETIC surfaces whose optimum is known in closed form."""

import numpy as np
import polars as pl
import pytest

from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.fit import FitError
from rewardscale.scaling.frontier import frontier, isoflop
from rewardscale.scaling.money import Prices, money
from rewardscale.scaling.points import Points, from_draws

E, A, B, ALPHA, BETA = 0.3, 6.0, 11.0, 0.45, 0.55
MODELS = 1_000 * 4.0 ** np.arange(5)
SIZES = 250 * 2.0 ** np.arange(7)
K = 120.0


def surface(
    seed: int = 0,
    *,
    draws: int = 5,
    noise: float = 0.002,
    models: np.ndarray = MODELS,
    sizes: np.ndarray = SIZES,
    alpha: float = ALPHA,
    a: float = A,
) -> Points:
    random = np.random.default_rng(seed)
    n, d = (m.ravel() for m in np.meshgrid(models, sizes, indexing="ij"))
    mean = E + a * n**-alpha + B * d**-BETA
    losses = mean * (1 + noise * random.normal(size=(draws, len(n))))
    table = pl.DataFrame(
        {"family": "t", "model": [f"m{v:g}" for v in n], "params": n, "level": "raw", "pairs": d}
    )
    table = table.with_columns(flops=K * pl.col("params") * pl.col("pairs"))
    return from_draws({"params": n, "pairs": d}, losses, table)


def levels(seed: int = 0, *, draws: int = 5, noise: float = 0.003, gold: float = 5.0) -> Points:
    """raw (B 11) and gold at one model size; a gold pair uses two raw pairs."""
    random = np.random.default_rng(seed)
    d = np.tile(SIZES, 2)
    scale = np.repeat([11.0, gold], len(SIZES))
    losses = (E + scale * d**-BETA) * (1 + noise * random.normal(size=(draws, len(d))))
    level = ["raw"] * len(SIZES) + ["gold"] * len(SIZES)
    used = d * np.repeat([1.0, 2.0], len(SIZES))
    table = pl.DataFrame(
        {"family": "c", "model": "m", "level": level, "pairs": d, "raw_pairs": used, "cost": used}
    )
    return from_draws({"pairs": d}, losses, table)


def optimum(budget: float) -> tuple[float, float]:
    g = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    share = BETA / (ALPHA + BETA)
    return g * (budget / K) ** share, (budget / K) ** (1 - share) / g


def test_the_closed_form_is_the_minimum():
    found = frontier(surface(noise=0), [1e9, 1e10], resamples=20)
    assert found.law and found.flops_per == pytest.approx(K)
    assert found.exponent.estimate == pytest.approx(BETA / (ALPHA + BETA), rel=1e-5)
    for row in found.table.iter_rows(named=True):
        assert (row["params"], row["pairs"]) == pytest.approx(optimum(row["budget"]), rel=1e-4)
        assert K * row["params"] * row["pairs"] == pytest.approx(row["budget"], rel=1e-9)
        n = row["params"] * np.geomspace(0.1, 10, 2001)
        best = (E + A * n**-ALPHA + B * (row["budget"] / (K * n)) ** -BETA).min()
        assert row["loss"] == pytest.approx(best, rel=1e-6)


def test_intervals_hold_the_truth_and_extrapolation_is_marked():
    found = frontier(surface(), [1e9, 1e15], resamples=300)
    low, high = found.exponent.low, found.exponent.high
    assert low is not None and high is not None and low <= BETA / (ALPHA + BETA) <= high
    near, far = found.table.rows(named=True)
    assert near["params_low"] <= optimum(1e9)[0] <= near["params_high"]
    assert not near["extrapolated"] and far["extrapolated"]


def test_few_sizes_are_no_law():
    found = frontier(surface(models=MODELS[:4], sizes=SIZES[:6]), [1e9], resamples=50)
    assert not found.law
    assert "too few for a law: 4 model sizes (5 needed), 6 data sizes (7 needed)" in found.notes
    with pytest.raises(FitError, match="3 different params"):
        frontier(surface(models=MODELS[:3]), [1e9], resamples=50)


def test_few_draws_give_no_intervals():
    found = frontier(surface(draws=2), [1e9], resamples=50)
    assert found.exponent.low is None and "fewer than 5" in found.exponent.note
    assert found.table["params_low"].is_null().all()


def test_uneven_flops_are_said():
    points = surface()
    steep = points.table.with_columns(flops=pl.col("flops") * pl.col("params").sqrt())
    found = frontier(Points(points.x, points.mean, points.shifts, points.draws, steep), [1e9], resamples=20)
    assert any("is rough here" in note for note in found.notes)


def test_what_cannot_be_read_is_named():
    points = surface()
    for column, values, message in (
        ("level", pl.Series(["raw", "gold"] * 17 + ["raw"]), "several levels"),
        ("flops", pl.lit(None, pl.Float64), "no FLOPs recorded"),
    ):
        table = points.table.with_columns(values.alias(column))
        with pytest.raises(ScalingError, match=message):
            frontier(Points(points.x, points.mean, points.shifts, points.draws, table), [1e9], resamples=20)


def test_bad_budgets_are_named():
    with pytest.raises(ScalingError, match="budgets must be"):
        frontier(surface(), [0.0], resamples=20)


def test_isoflop_profiles_lie_on_the_curves():
    found = isoflop(surface(noise=0, models=1_000 * 2.0 ** np.arange(6)), [1e9, 1e20])
    inside = found.profiles
    assert set(inside["budget"]) == {1e9} and len(inside) == 6
    true = E + A * inside["params"].to_numpy() ** -ALPHA + B * inside["pairs"].to_numpy() ** -BETA
    assert np.allclose(inside["loss"], true, rtol=0.01)
    near, far = found.minima.rows(named=True)
    assert near["params"] == pytest.approx(optimum(1e9)[0], rel=0.5)  # a parabola is only a plot
    assert far["params"] is None and "3 needed" in far["note"]


def test_money_buys_the_loss_of_the_pairs_it_pays_for():
    found = money(
        levels(), Prices(label=1.0, curation={"gold": 0.5}), [4_000, 8_000], base="raw", resamples=300
    )
    row = found.best.filter((pl.col("budget") == 8_000) & (pl.col("level") == "gold")).row(0, named=True)
    assert row["pairs"] == pytest.approx(8_000 / (2 * 1.5))
    assert row["loss"] == pytest.approx(E + 5 * row["pairs"] ** -BETA, rel=0.01)
    assert row["low"] < row["loss"] < row["high"]
    assert not row["extrapolated"]
    assert row["against_base"] < 0 and row["against_high"] < 0 and row["best"]
    assert found.best.filter("best").height == 2


def test_the_break_even_price_makes_both_levels_cost_the_same():
    found = money(levels(noise=0), Prices(label=1.0), [4_000], base="raw", resamples=50)
    price = found.break_even["gold"]
    ratio = (11 / 5) ** (1 / BETA)
    assert not isinstance(price, str)
    assert price.estimate == pytest.approx(
        ratio / 2 - 1, rel=1e-4
    )  # two raw pairs a gold pair, each labelled at 1
    at = Prices(label=1.0, curation={"gold": price.estimate})
    loss = found.cheapest["loss"][2]
    same = money(levels(noise=0), at, [4_000], base="raw", losses=[loss], resamples=50).cheapest
    assert same["spend"][0] == pytest.approx(same["spend"][1], rel=1e-4)


def test_a_level_that_is_no_better_pays_at_no_price():
    found = money(levels(gold=11.0), Prices(), [4_000], base="raw", resamples=300)
    price = found.break_even["gold"]
    assert not isinstance(price, str) and price.high is not None and price.high < 0


def test_a_loss_that_is_never_reached_has_no_spend():
    found = money(levels(), Prices(), [4_000], base="raw", losses=[0.2], resamples=50)
    assert found.cheapest["spend"].is_null().all()
    assert (found.cheapest["note"] == "never at this loss").all()


def test_spending_beyond_the_sizes_is_marked():
    found = money(levels(), Prices(), [1e6], base="raw", resamples=50)
    assert found.best["extrapolated"].all()


@pytest.mark.parametrize(
    ("prices", "base", "message"),
    [
        (Prices(curation={"silver": 1.0}), "raw", "no levels .'silver'"),
        (Prices(), "none", "no levels .'none'"),
        (Prices(label=0.0), "raw", "not all 0"),
        (Prices(label=-1.0), "raw", "not below 0"),
        (Prices(flop=1e-9), "raw", "column 'flops'"),
    ],
)
def test_bad_prices_are_named(prices, base, message):
    with pytest.raises(ScalingError, match=message):
        money(levels(), prices, [1_000], base=base, resamples=20)
