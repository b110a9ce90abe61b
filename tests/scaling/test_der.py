"""Data-equivalence ratios on SYNTHETIC curves whose ratio is known."""

import numpy as np
import polars as pl
import pytest
from scipy.optimize import isotonic_regression

from rewardscale.scaling import curves
from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.der import Der, _log_gap, _summary, der
from rewardscale.scaling.points import Points, from_draws
from rewardscale.scaling.resample import Interval

SIZES = (250, 500, 1000, 2000, 4000, 8000, 16_000)
RAW, GOLD = (0.3, 11.0, 0.55), (0.3, 5.0, 0.55)  # floor, scale, exponent
RATIO = (11.0 / 5.0) ** (1 / 0.55)


def two_levels(
    seed: int = 0,
    *,
    draws: int = 5,
    raw: tuple = RAW,
    gold: tuple = GOLD,
    noise: float = 0.01,
    shared: float = 0.01,
    sizes: tuple = SIZES,
) -> Points:
    """Losses of two power laws with noise of each run and noise that a draw has at both levels (relative sds)."""
    random = np.random.default_rng(seed)
    d = np.array(sizes, float)
    shrink = (d / d[0]) ** -0.25
    common = shared * random.normal(size=(draws, len(d))) * shrink
    losses = [
        (e + b * d**-beta) * (1 + common + noise * random.normal(size=(draws, len(d))) * shrink)
        for e, b, beta in (raw, gold)
    ]
    return from_draws({"pairs": np.tile(d, 2)}, np.concatenate(losses, 1), _table(d))


def _table(d: np.ndarray) -> pl.DataFrame:
    votes = {"raw": 1.3, "gold": 7.3}
    rows = [
        {"family": "convex", "model": "m", "level": level, "pairs": int(p), "cost": votes[level] * p}
        | {"raw_pairs": float(p), "distinct": p**0.8}
        for level in votes
        for p in d
    ]
    return pl.DataFrame(rows)


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None and interval.high is not None, interval
    return interval.low, interval.high


def covers(interval: Interval, truth: float) -> bool:
    low, high = ends(interval)
    return low <= truth <= high


@pytest.fixture(scope="module")
def offset() -> Der:
    return der(two_levels(), "raw", "gold", resamples=500)


@pytest.fixture(scope="module")
def floor() -> Der:
    return der(two_levels(raw=(0.45, 11.0, 0.55)), "raw", "gold", resamples=500)


@pytest.mark.parametrize("method", curves.METHODS)
def test_an_offset_is_a_constant_ratio(method):
    found = der(two_levels(), "raw", "gold", method=method, losses=np.array(der_losses()), resamples=500)
    assert covers(found.summary, RATIO)
    assert covers(found.trend, 1.0) or method == "interpolate"
    inside = found.curve.filter(~pl.col("extrapolated"))
    assert len(inside) == 3
    assert np.allclose(inside["ratio"], RATIO, rtol=0.1)
    assert np.allclose(inside["base_size"] / inside["target_size"], inside["ratio"])


def der_losses() -> list[float]:
    return [0.46, 0.41, 0.38]


@pytest.mark.parametrize("method", curves.METHODS)
def test_noise_free_curves_give_the_ratio_itself(method):
    found = der(two_levels(noise=0, shared=0), "raw", "gold", method=method, resamples=20)
    exact = 1e-6 if method == "fit" else 0.02  # straight lines between sizes a factor of two apart
    assert abs(found.summary.estimate / RATIO - 1) < exact


def test_a_ratio_that_grows_with_scale_is_seen():
    found = der(two_levels(raw=(0.3, 6.0, 0.45)), "raw", "gold", resamples=500)
    assert ends(found.trend)[0] > 1


def test_targets_lie_inside_both_observed_ranges(offset):
    for low, high in offset.observed.values():
        assert all(low < loss < high for loss in offset.targets)
    assert list(offset.targets) == sorted(offset.targets, reverse=True)


def test_what_lies_outside_either_range_says_so(offset):
    low, high = 0.3 + 11 * 16_000**-0.55, 0.3 + 5 * 250**-0.55
    marked = offset.curve.filter(pl.col("extrapolated"))
    assert len(marked) > 0
    assert marked.filter(pl.col("loss").is_between(low * 1.01, high * 0.99)).is_empty()
    assert "extrapolated" in offset.at(0.7).note
    assert offset.at(0.4).note == ""
    assert "inside both observed ranges" in offset.statement


def test_the_ratio_at_a_loss_is_that_of_the_curve(offset):
    loss = offset.targets[1]
    again = der(two_levels(), "raw", "gold", losses=loss, resamples=500).curve.row(0, named=True)
    interval = offset.at(loss)
    assert (interval.estimate, *ends(interval)) == pytest.approx(
        (again["ratio"], again["low"], again["high"])
    )


def test_under_a_floor_there_is_a_bound_and_no_number(floor):
    under = floor.curve.filter((pl.col("loss") < 0.44) & (pl.col("loss") > 0.36))
    assert len(under) >= 3
    assert under["ratio"].is_null().all() and under["high"].is_null().all()
    assert (under["bound"] == "more than").all()
    # Nearly the largest ratio that 16,000 raw pairs can show, and never above it.
    shown = 16_000 / under["target_size"]
    assert ((under["low"] <= shown * 1.001) & (under["low"] > 0.5 * shown)).all()
    assert any("no number in sight" in note for note in floor.notes)
    at = floor.at(0.40)
    assert np.isnan(at.estimate) and at.low is not None and at.high is None
    assert "more than" in at.note and "no number of raw pairs in sight" in at.note


def test_interpolation_claims_nothing_beyond_the_sizes_but_a_bound():
    found = der(two_levels(), "raw", "gold", method="interpolate", losses=[0.335, 0.80], resamples=500)
    low, high = found.curve.rows(named=True)
    assert low["ratio"] is None and low["bound"] == "more than" and 1 < low["low"] < RATIO
    assert high["ratio"] is None and high["target_size"] is None and high["low"] is None
    turned = der(two_levels(), "gold", "raw", method="interpolate", losses=[0.6], resamples=500)
    row = turned.curve.row(0, named=True)
    assert row["bound"] == "fewer than" and 1 / RATIO < row["high"] < 1


def test_exchanging_the_levels_inverts_the_ratio(offset):
    turned = der(two_levels(), "gold", "raw", losses=[0.4], resamples=500).at(0.4)
    here = offset.at(0.4)
    assert turned.estimate == pytest.approx(1 / here.estimate)
    low, high = ends(here)
    assert ends(turned) == pytest.approx((1 / high, 1 / low), rel=0.02)


def test_what_a_draw_does_to_both_levels_cancels():
    paired = two_levels(noise=0.003, shared=0.03)
    u = paired.shifts["draws"]
    apart = np.zeros((len(u) * 2, u.shape[1]))
    apart[: len(u), :7], apart[len(u) :, 7:] = u[:, :7], u[:, 7:]
    unpaired = Points(paired.x, paired.mean, {"draws": apart}, paired.draws, paired.table)
    widths = []
    for points in (paired, unpaired):
        low, high = ends(der(points, "raw", "gold", method="interpolate", resamples=500).summary)
        widths.append(np.log(high / low))
    assert widths[0] < 0.8 * widths[1]


@pytest.mark.parametrize("method", curves.METHODS)
def test_axes_read_the_same_curves(method):
    points = two_levels()
    by = {
        axis: der(points, "raw", "gold", axis=axis, method=method, resamples=200)
        for axis in ("pairs", "cost", "distinct")
    }
    pairs = by["pairs"].summary
    assert by["cost"].summary.estimate == pytest.approx(pairs.estimate * 1.3 / 7.3)
    assert by["distinct"].summary.estimate == pytest.approx(pairs.estimate**0.8)
    assert np.allclose(ends(by["cost"].summary), np.array(ends(pairs)) * 1.3 / 7.3)


def test_derivatives_are_those_of_the_statistic():
    """The slopes that standard errors come from, against finite differences (exact where residuals are 0)."""
    points = two_levels(noise=1e-4, shared=1e-4)
    for method in curves.METHODS:
        found = der(points, "raw", "gold", method=method, resamples=20, delta=np.inf)
        mean = found.pair.points.mean
        steps = 1e-6 * np.eye(len(mean))
        gap = (np.array([0.4, 0.36]), np.log([3.0, 5.0]))
        for statistic in (
            lambda m, f=found: _summary(f.pair, m, np.array(f.targets)),
            lambda m, f=found, g=gap: _log_gap(f.pair, m, *g),
        ):
            slope = statistic(mean[None])[1][0]
            up, down = statistic(mean + steps)[0], statistic(mean - steps)[0]
            assert np.allclose(slope, ((up - down) / 2e-6).T, rtol=1e-3, atol=1e-3 * np.abs(slope).max())


def test_few_draws_give_an_estimate_and_no_interval():
    found = der(two_levels(draws=4), "raw", "gold", resamples=100)
    assert found.summary.low is None and "fewer than 5" in found.summary.note
    assert abs(found.summary.estimate / RATIO - 1) < 0.3
    assert found.curve["low"].is_null().all()
    assert found.p_value() is None


def test_the_p_value_agrees_with_the_interval(offset):
    low, high = ends(offset.summary)
    assert offset.p_value(1.0) < 0.01
    assert offset.p_value(low) == pytest.approx(0.05, abs=0.01)
    assert offset.p_value(high) == pytest.approx(0.05, abs=0.01)


def test_other_levels_in_the_points_change_nothing(offset):
    points = two_levels()
    more = Points(
        {"pairs": np.concatenate([points.x["pairs"], points.x["pairs"][:7]])},
        np.concatenate([points.mean, points.mean[:7] * 0.97]),
        {"draws": np.concatenate([points.shifts["draws"], points.shifts["draws"][:, :7]], 1)},
        np.concatenate([points.draws, points.draws[:7]]),
        pl.concat([points.table, points.table[:7].with_columns(level=pl.lit("filtered"))]),
    )
    assert der(more, "raw", "gold", resamples=500).summary == offset.summary


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base": "unknown"}, "no level 'unknown'.*raw.*gold"),
        ({"base": "gold"}, "a ratio needs two levels"),
        ({"axis": "euros"}, "axis='euros' must be one of"),
        ({"method": "spline"}, "method='spline' must be one of"),
        ({"losses": [0.0]}, "finite numbers above 0"),
    ],
)
def test_bad_requests_are_named(change, message):
    wanted = {"base": "raw", "target": "gold", "resamples": 20} | change
    with pytest.raises(ScalingError, match=message):
        der(two_levels(), wanted.pop("base"), wanted.pop("target"), **wanted)


def test_ranges_that_do_not_overlap_are_named():
    with pytest.raises(
        ScalingError, match=r"no loss was observed at both levels.*give the better level fewer pairs"
    ):
        der(two_levels(raw=(0.9, 11.0, 0.55)), "raw", "gold", resamples=20)


def test_several_models_are_refused():
    points = two_levels()
    models = ["a"] * 3 + ["b"] * 4
    mixed = points.table.with_columns(model=pl.Series(models * 2))
    with pytest.raises(ScalingError, match="one curve is one model's"):
        der(Points(points.x, points.mean, points.shifts, points.draws, mixed), "raw", "gold")


def test_an_axis_without_a_column_is_refused():
    points = two_levels()
    bare = Points(points.x, points.mean, points.shifts, points.draws, points.table.drop("distinct"))
    with pytest.raises(ScalingError, match="no such column"):
        der(bare, "raw", "gold", axis="distinct")


def test_isotonic_means_are_scipys():
    random = np.random.default_rng(0)
    means = 1 - 0.1 * np.arange(7) + 0.2 * random.normal(size=(200, 7))
    weight = random.integers(1, 6, 7).astype(float)
    value, slope = curves.non_increasing(means, weight)
    wanted = [isotonic_regression(row, weights=weight, increasing=False).x for row in means]
    assert np.allclose(value, wanted)
    assert np.allclose(np.einsum("rij,rj->ri", slope, means), value)  # linear within a pooling


@pytest.mark.slow
@pytest.mark.parametrize("draws", [5, 10])
@pytest.mark.parametrize("method", curves.METHODS)
def test_summaries_cover(draws, method):
    """Nominal 95 %; 200 sets have a standard error of 1.5 points."""
    sets, hits = 200, 0
    truth = der(two_levels(noise=0, shared=0), "raw", "gold", method=method, resamples=20).summary.estimate
    for seed in range(sets):
        points = two_levels(1000 + seed, draws=draws, noise=0.02, shared=0.02)
        found = der(points, "raw", "gold", method=method, losses=[0.41], resamples=300)
        hits += covers(found.summary, truth)
    print(f"{method}, {draws} draws: {hits} of {sets} cover")
    assert 0.91 <= hits / sets <= 0.985, hits / sets


@pytest.mark.slow
def test_bounds_hold():
    """A one-sided 95 % bound exceeds the truth (here: 4.19, base data end before it) in at most 5 % of sets."""
    sets, wrong, given = 200, 0, 0
    for seed in range(sets):
        points = two_levels(5000 + seed, noise=0.02, shared=0.02)
        row = der(points, "raw", "gold", method="interpolate", losses=[0.345], resamples=400).curve.row(
            0, named=True
        )
        if row["bound"] == "more than":
            given += 1
            wrong += row["low"] > RATIO
    print(f"{wrong} of {given} bounds exceed the truth")
    assert given > 30
    assert wrong / given <= 0.09
