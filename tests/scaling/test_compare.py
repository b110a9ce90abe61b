"""Comparisons of levels on SYNTHETIC curves with planted mechanisms, and on Gadre et al.'s three training sets."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.scaling import forms, nested
from rewardscale.scaling.collect import ScalingError
from rewardscale.scaling.compare import (
    BOTH,
    EFFECTIVE,
    KINDS,
    TESTS,
    choose,
    compare_levels,
    contrasts,
    exponent_differences,
    form_of,
    stacked,
    verdict,
)
from rewardscale.scaling.fit import fit
from rewardscale.scaling.forms import POWER_FLOOR, Form, Nonlinear
from rewardscale.scaling.points import Points, from_draws
from rewardscale.scaling.resample import Interval, of_fit, resample
from tests.scaling.quality_worlds import SIZES, synthetic_levels


@pytest.fixture(scope="module")
def offset():
    return compare_levels(
        synthetic_levels("offset"), quality={"raw": 0.36, "filtered": 0.63, "gold": 1.0}, resamples=300
    )


def test_every_kind_is_fitted_and_larger_kinds_fit_better(offset):
    assert set(offset.fits) == {*KINDS, EFFECTIVE, "quality-effective data"}
    for test in offset.tests:
        assert offset.fits[test.alternative].value <= offset.fits[test.null].value * (1 + 1e-9)


def test_an_offset_is_found_and_called_an_offset(offset):
    assert offset.chosen == "offset", offset.reason
    p = {(t.null, t.alternative): t.p_holm for t in offset.tests}
    assert p["shared", "offset"] < 0.05 < p["offset", "exponent"]


def test_holm_is_over_all_tests_and_keeps_their_order(offset):
    raw = np.array([t.p_value for t in offset.tests])
    held = np.array([t.p_holm for t in offset.tests])
    assert (held >= raw).all() and held[raw.argmin()] == pytest.approx(min(1.0, raw.min() * len(raw)))
    assert (np.diff(held[raw.argsort()]) >= 0).all()


def test_aicc_is_of_the_fit_and_decides_nothing(offset):
    found = offset.fits["shared"]
    n, k = 21, 4  # three parameters and the noise
    expected = n * np.log(2 * found.value) + 2 * k + 2 * k * (k + 1) / (n - k - 1)
    assert offset.aicc["shared"] == pytest.approx(expected)


def test_parameters_of_each_level_alone_lie_in_their_intervals(offset):
    table = offset.parameters
    assert table.shape == (9, 6)
    for level, floor, scale, exponent in zip(
        offset.levels, [0.30] * 3, [4.5, 3.6, 3.0], [0.4] * 3, strict=True
    ):
        for name, truth in (("floor", floor), ("scale", scale), ("exponent", exponent)):
            row = table.filter((pl.col("level") == level) & (pl.col("parameter") == name)).row(0, named=True)
            assert row["low"] < row["estimate"] < row["high"]
            assert row["low"] < truth < row["high"], (level, name)


def test_differences_are_against_the_base_and_never_called_different_here(offset):
    assert offset.base == "raw"
    assert offset.differences["level"].to_list() == ["filtered", "gold"]
    assert "different" not in offset.differences["verdict"].to_list()


def test_equal_exponents_known_well_are_equivalent():
    found = compare_levels(synthetic_levels("offset", noise=3e-4, draws=10), resamples=100)
    assert set(found.differences["verdict"]) == {"equivalent"}


def test_exponents_apart_are_different():
    found = compare_levels(synthetic_levels("exponent", draws=10, noise=0.005), resamples=100)
    row = found.differences.filter(pl.col("level") == "gold").row(0, named=True)
    assert row["verdict"] == "different" and row["low"] < 0.97 - 0.50 < row["high"]


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.02, 0.02, "equivalent"),
        (0.015, 0.02, "equivalent"),  # there, and too small to matter
        (-0.02, 0.04, "undecided"),
        (0.005, 0.05, "undecided"),  # 0 inside the 95 % interval
        (0.02, 0.05, "different"),
        (-0.4, -0.1, "different"),
        (None, None, "undecided"),
    ],
)
def test_verdicts(low, high, said):
    narrow = Interval(0.0, low, high, 0.01, 0.90)
    wide = narrow if low is None else Interval(0.0, low - 0.01, high + 0.01, 0.01, 0.95)
    assert verdict(narrow, wide, 0.03) == said


def test_four_draws_claim_nothing():
    found = compare_levels(synthetic_levels("exponent", draws=4))
    assert found.chosen is None and "no finding" in found.reason and "fewer than 5" in found.reason
    assert all(t.p_value is None and t.p_holm is None and t.note for t in found.tests)
    assert set(found.differences["verdict"]) == {"undecided"}
    assert found.parameters["low"].null_count() == 9
    assert set(found.lack_of_fit.values()) == {None}


def test_a_curve_that_is_no_power_law_lacks_fit():
    points = synthetic_levels("offset", draws=10, noise=0.005)
    bump = 1 + 0.06 * np.sin(2.2 * np.log(points.x["pairs"])) * (points.table["level"] == "gold").to_numpy()
    bent = Points(points.x, points.mean * bump, points.shifts, points.draws, points.table)
    found = compare_levels(bent, resamples=150)
    assert found.lack_of_fit["gold"] is not None and found.lack_of_fit["gold"] < 0.02
    assert found.lack_of_fit["raw"] is not None and found.lack_of_fit["raw"] > 0.02


def test_gamma_apart_from_beta_is_found_where_quality_misleads():
    points = synthetic_levels("offset", noise=0.005)
    honest = {
        "raw": 3.0 / 4.5,
        "filtered": 3.0 / 3.6,
        "gold": 1.0,
    }  # B_q ratios: D-equivalents are their 1/β powers
    tied = {q: ratio ** (1 / 0.4) for q, ratio in honest.items()}
    for quality, rejected in ((tied, False), (honest, True)):
        tests = compare_levels(points, quality=quality, resamples=199).tests
        p = next(t.p_holm for t in tests if t.null == EFFECTIVE)
        assert p is not None and (p < 0.05) is rejected


def test_a_larger_kind_needs_held_out_gain_too(offset):
    fits = offset.fits
    certain = [replace(t, p_holm=0.01 if t.null == "shared" else 1.0) for t in offset.tests]
    assert choose(certain, {"shared": 0.02, "offset": 0.01}, fits)[0] != "shared"
    kept, reason = choose(certain, {"shared": 0.01, "offset": 0.02}, fits)
    assert kept == "shared" and "nothing that contains it predicts" in reason


def test_refusals_name_the_thing():
    points = synthetic_levels("offset")
    with pytest.raises(ScalingError, match="only one level, 'raw'"):
        compare_levels(points.select(points.table["level"].to_numpy() == "raw"))
    with pytest.raises(ScalingError, match="'raw' and 'filtered' differ in the sizes 500"):
        compare_levels(points.select(np.arange(len(points)) > 0))
    with pytest.raises(ScalingError, match="3 sizes a level"):
        compare_levels(points.select(points.x["pairs"] <= SIZES[2] * 1.01))
    with pytest.raises(ScalingError, match="base='silver'"):
        compare_levels(points, base="silver")
    with pytest.raises(ScalingError, match="quality must give each"):
        compare_levels(points, quality={"raw": 0.5})
    with pytest.raises(ScalingError, match="name no levels"):
        compare_levels(from_draws({"pairs": SIZES}, np.ones((5, 7))))
    with pytest.raises(ScalingError, match="several values of params"):
        compare_levels(
            Points(points.x, points.mean, points.shifts, points.draws, points.table.with_row_index("params"))
        )


def test_kinds_that_are_not_nested_are_refused():
    with pytest.raises(ValueError, match="not nested"):
        nested.embedded(form_of("exponent", 3), np.ones((1, 7)), form_of("offset", 3))


@settings(deadline=None)
@given(st.sampled_from([(null, other) for null, other, _ in TESTS]), st.data())
def test_a_null_embedded_in_its_alternative_is_the_same_curve(pair, data):
    null, alternative = (form_of(kind, 3) for kind in pair)
    x = {"pairs": np.tile(SIZES, 3), "level": np.repeat(np.arange(3), 7)}
    theta = np.array([[data.draw(st.floats(0.1, 2.0)) for _ in null.parameters]])
    moved = nested.embedded(null, theta, alternative)
    first = null(x, **dict(zip(null.parameters, theta[0], strict=True)))
    second = alternative(x, **dict(zip(alternative.parameters, moved[0], strict=True)))
    np.testing.assert_allclose(first, second, rtol=1e-12)


def test_stacked_keeps_each_part_on_its_own_points_and_pairs_differences():
    points = synthetic_levels("offset", levels=2)
    halves = [np.arange(7), np.arange(7, 14)]
    fits = [fit(POWER_FLOOR, points.select(h).x, points.mean[h], delta=np.inf) for h in halves]
    together = stacked(14, [(h, of_fit(f)) for h, f in zip(halves, fits, strict=True)])
    values, slopes = together(points.mean[None])
    np.testing.assert_allclose(values[0], np.concatenate([f.theta for f in fits]), rtol=1e-5)
    assert not slopes[0, :3, 7:].any() and not slopes[0, 3:, :7].any() and slopes[0, :3, :7].any()
    gap = resample(points, contrasts(together, np.array([[0, 0, -1.0, 0, 0, 1.0]])), resamples=50)
    single = resample(points, together, resamples=50)
    assert gap.estimate[0] == pytest.approx(single.estimate[5] - single.estimate[2])
    assert gap.se[0] < np.hypot(single.se[2], single.se[5])  # half of the noise is shared by levels


def rejections(null: str, alternative: str, mechanism: str, sets: int, draws: int) -> float:
    """Share of true nulls with p <= 0.05 over SYNTHETIC data sets."""
    p = []
    for seed in range(sets):
        points = synthetic_levels(mechanism, draws=draws, levels=2, seed=seed)
        points = points.with_inputs(level=np.repeat([0, 1], 7))
        first, second = (fit(form_of(k, 2), points.x, points.mean, delta=np.inf) for k in (null, alternative))
        world = nested.simulated_at(points, first, 99, seed)
        p.append(nested.nested_test(points, world, second).p_value)
    return float(np.mean(np.array(p) <= 0.05))


def test_the_test_holds_its_level_with_five_draws_quick():
    assert rejections("shared", "offset", "shared", 40, 5) <= 0.15  # P(more than 6 of 40 at 5 %) < 1 %


@pytest.mark.slow
@pytest.mark.parametrize(
    ("null", "alternative", "mechanism"),
    [("shared", "offset", "shared"), ("offset", "exponent", "offset"), ("offset", BOTH, "offset")],
)
def test_the_test_holds_its_level_with_five_draws(null, alternative, mechanism):
    assert rejections(null, alternative, mechanism, 200, 5) <= 0.09  # P(more than 18 of 200 at 5 %) < 1 %


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mechanism", "least"), [("offset", 0.8), ("floor", 0.8), ("exponent", 0.8), ("shared", 0.85)]
)
def test_planted_mechanisms_are_recovered(mechanism, least):
    chosen = Counter(
        compare_levels(synthetic_levels(mechanism, draws=8, seed=seed), resamples=199, seed=seed).chosen
        for seed in range(40)
    )
    assert chosen[mechanism] >= least * 40, chosen


# --- Gadre et al. 2024 (arXiv 2403.08540): three training sets as if they were levels of quality

GADRE = Form(
    "Gadre",
    "L(N, D) = E + A · N^−β + B · D^−β",
    "Gadre et al. 2024, arXiv 2403.08540, equation 4 (αN^b + β·6^(b/2)(MN)^b + E)",
    ("params", "pairs"),
    ("floor", "model_scale", "scale"),
    (Nonlinear("exponent", *forms.EXPONENT),),
    lambda x, eta: [
        np.ones((*eta.shape[:-1], len(x["pairs"]))),
        *(np.exp(-np.log(x[k]) * eta) for k in ("params", "pairs")),
    ],
)
PUBLISHED = {"c4_original": 0.242472, "rpj": 0.272851, "rw_original": 0.254395}


def gadre() -> pl.DataFrame:
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    path = Path(os.environ.get("REWARDSCALE_DATA", shared)) / "scaling" / "gadre2024" / "summary_derived.csv"
    if not path.is_file():
        pytest.skip(f"no {path}: set REWARDSCALE_DATA to a folder that holds scaling/gadre2024")
    return pl.read_csv(path).filter(pl.col("dataset").is_in(list(PUBLISHED)))


def test_gadres_exponents_are_recovered_and_no_difference_is_claimed():
    table = gadre()
    small = pl.col("model").str.contains(r"^d=(96|512|576|1024)_")
    fitted = table.filter(
        small
        & ((pl.col("mult") == 1.0) | (pl.col("model").str.starts_with("d=96_") & (pl.col("mult") == 16.0)))
    )
    fitted = fitted.sort("dataset", "N", "D").rename({"dataset": "level"})
    assert fitted.group_by("level").len()["len"].to_list() == [5, 5, 5]
    x = {"params": fitted["N"].to_numpy(), "pairs": fitted["D"].to_numpy()}
    points = from_draws(x, fitted["loss_c4_val"].to_numpy()[None], fitted)
    alone = {}
    for name in PUBLISHED:
        own = points.select(points.table["level"].to_numpy() == name)
        alone[name] = fit(GADRE, own.x, own.mean, log=False, delta=np.inf)
        assert alone[name].parameters["exponent"] == pytest.approx(PUBLISHED[name], abs=5e-5)
    differences = exponent_differences(points, alone, "rpj")
    assert set(differences["verdict"]) == {"undecided"}
    assert all("nothing was repeated" in note for note in differences["note"])
