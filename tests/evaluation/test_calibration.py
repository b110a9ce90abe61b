"""Calibration against worked examples, brute force and margins whose calibration is known; the stored temperature."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.describe.frames import wilson
from rewardscale.evaluation import calibration, statistics
from rewardscale.evaluation.calibration import Bin
from rewardscale.evaluation.stored_temperature import StoredTemperature, read_temperature, write_temperature


def margins_of(seed: int, pairs: int, scale: float = 1.0) -> np.ndarray:
    """Margins whose sigmoid, over `scale`, is the probability of being right."""
    random = np.random.default_rng(seed)
    size = np.abs(random.normal(size=pairs)) * 1.5
    return np.where(random.random(pairs) < 1 / (1 + np.exp(-size)), size, -size) * scale


def test_by_hand() -> None:
    """Confidences .6 (right, wrong), .8 (right, right, wrong), a tie at .5."""
    near, far = np.log(0.6 / 0.4), np.log(0.8 / 0.2)
    margin = np.array([near, -near, far, far, -far, 0.0])
    found = calibration.calibration_scores(margin, np.arange(6), bins=3)
    assert [(b.pairs, round(b.confidence, 9), b.right) for b in found.bins] == [
        (1, 0.5, 0.5),
        (2, 0.6, 0.5),
        (3, 0.8, 2 / 3),
    ]
    assert found.accuracy == pytest.approx(3.5 / 6)
    assert found.ece == pytest.approx((0 + 2 * 0.1 + 3 * (0.8 - 2 / 3)) / 6)
    assert found.brier == pytest.approx((0.4**2 + 0.6**2 + 2 * 0.2**2 + 0.8**2 + 0.5**2) / 6)
    probability = [0.6, 0.4, 0.8, 0.8, 0.2, 0.5]
    assert found.nll == pytest.approx(-np.mean(np.log(probability)))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 5)), min_size=1, max_size=40),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_bins_hold_all_pairs_whatever_their_order(pairs, bins, shuffle) -> None:
    margin, clusters = np.array([m for m, _ in pairs]) / 2.0, np.array([c for _, c in pairs])
    order = np.array(shuffle.sample(range(len(pairs)), len(pairs)))
    one = calibration.reliability(margin, clusters, bins)
    other = calibration.reliability(margin[order], clusters[order], bins)
    for a, b in zip(one, other, strict=True):
        assert (a.pairs, a.clusters) == (b.pairs, b.clusters)
        assert (a.right, a.low, a.confidence) == pytest.approx((b.right, b.low, b.confidence))
        assert -1e-12 <= a.low <= a.right + 1e-12 and a.right <= a.high + 1e-12 and a.high <= 1 + 1e-12
    assert sum(b.pairs for b in one) == len(pairs) and len(one) <= bins
    means = [b.confidence for b in one]
    assert means == sorted(means)
    error, debiased, rms = calibration.ece(one)
    assert 0 <= rms <= 1
    assert 0 <= debiased <= error + 1e-12 <= 1
    right = sum(b.right * b.pairs for b in one)
    assert right == pytest.approx(((np.sign(margin) + 1) / 2).sum())


def test_bins_are_of_equal_mass_where_no_two_are_tied() -> None:
    found = calibration.reliability(margins_of(0, 1003), np.arange(1003), 10)
    assert {b.pairs for b in found} <= {100, 101} and len(found) == 10
    for b in found:  # pairs of their own: Wilson's interval of so many
        low, high = wilson(np.array([b.right * b.pairs]), np.array([float(b.pairs)]))
        assert (b.low, b.high) == pytest.approx((low[0], high[0]))


def test_a_pair_counted_thrice_is_one_pair() -> None:
    """Clusters of three copies: shares as with one, intervals as wide as of a third of the pairs."""
    margin = margins_of(1, 600)
    once = calibration.reliability(margin, np.arange(600), 5)
    thrice = calibration.reliability(np.repeat(margin, 3), np.repeat(np.arange(600), 3), 5)
    for a, b in zip(once, thrice, strict=True):
        assert (b.pairs, b.clusters) == (3 * a.pairs, a.clusters)
        assert (b.right, b.variance) == pytest.approx((a.right, a.variance))
        assert (b.low, b.high) == pytest.approx((a.low, a.high), abs=2e-3)  # a's is capped at its pairs


def test_the_bias_of_ece_is_taken_off() -> None:
    """Of calibrated margins the plain error is about sqrt(2 / pi) sd of a bin."""
    scores = [calibration.calibration_scores(margins_of(seed, 400), np.arange(400), 20) for seed in range(80)]
    plain, debiased, rms = np.mean([[s.ece, s.ece_debiased, s.rms_debiased] for s in scores], axis=0)
    assert 0.05 < plain < 0.1 and 0.5 * plain < debiased < 0.65 * plain and rms < 0.03
    squares = [np.mean([(b.right - b.confidence) ** 2 - b.variance for b in s.bins]) for s in scores]
    assert abs(np.mean(squares)) < 3 * np.std(squares) / np.sqrt(80)
    off = margins_of(9, 20_000, scale=3.0)  # far too confident: little bias to take off
    scores = calibration.calibration_scores(off, np.arange(20_000))
    assert scores.ece > 0.1 and scores.ece_debiased == pytest.approx(scores.ece, rel=0.02)
    assert scores.rms_debiased > scores.ece


def test_debiasing_against_draws() -> None:
    bins = [
        Bin(50, 50, 0.7, 0.76, 0, 1, 0.003),
        Bin(30, 30, 0.9, 0.8, 0, 1, 0.005),
        Bin(9, 9, 1.0, 1.0, 1, 1, 0),
    ]
    random, weight = np.random.default_rng(0), np.array([50, 30, 9]) / 89
    noisy = np.array([0.76, 0.8, 1.0]) + random.normal(size=(200_000, 3)) * np.sqrt([0.003, 0.005, 0])
    grown = (np.abs(noisy - [0.7, 0.9, 1.0]) @ weight).mean()
    error, debiased, rms = calibration.ece(bins)
    assert error == pytest.approx((50 * 0.06 + 30 * 0.1) / 89)
    assert debiased == pytest.approx(2 * error - grown, abs=3e-4)
    assert rms == pytest.approx(np.sqrt((50 * (0.06**2 - 0.003) + 30 * (0.1**2 - 0.005)) / 89), abs=1e-9)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=60).map(np.array), st.integers(0, 5))
def test_halves_part_no_cluster(clusters, seed) -> None:
    first = calibration.halves(clusters, seed)
    assert not set(clusters[first]) & set(clusters[~first])
    largest = np.bincount(clusters).max()
    assert abs(2 * first.sum() - len(clusters)) <= largest
    np.testing.assert_array_equal(calibration.halves(clusters[::-1], seed), first[::-1])


def test_cross_fitting_uses_the_other_half() -> None:
    margin, clusters = margins_of(2, 3_000, scale=4.0), np.repeat(np.arange(600), 5)
    scaled, temperatures, note = calibration.cross_fitted(margin, clusters, seed=3)
    assert scaled is not None and temperatures is not None and not note
    first = calibration.halves(clusters, 3)
    assert temperatures[0] == statistics.fit_temperature(margin[first])
    np.testing.assert_allclose(scaled[first], margin[first] / statistics.fit_temperature(margin[~first]))
    assert temperatures == pytest.approx((4.0, 4.0), rel=0.15)


def test_a_scale_is_found_and_mended() -> None:
    margin, clusters = margins_of(3, 4_000, scale=3.0), np.repeat(np.arange(1_000), 4)
    margin[[5, 9]] = np.nan
    domain = np.where(clusters % 3 == 0, "code", "chat")
    lengths = np.random.default_rng(0).integers(10, 900, 4_000)
    groups = {"domain": domain, "length": calibration.length_groups(lengths, 3)}
    found = calibration.calibrate(margin, clusters, groups)
    assert (found.pairs, found.clusters, found.unscored) == (3_998, 1_000, 2)
    assert found.temperature == pytest.approx(3.0, rel=0.1)
    assert found.scaled is not None
    assert found.scaled.ece < 0.35 * found.raw.ece and found.scaled.ece_debiased < 0.015
    assert found.scaled.accuracy == found.raw.accuracy
    gain = found.intervals["nll_gain"]
    assert gain.estimate == pytest.approx(found.raw.nll - found.scaled.nll)
    assert gain.low is not None and gain.low > 0
    for grouping in found.groups.values():
        assert sum(raw.pairs for raw, _ in grouping.values()) == found.pairs
        weighed = sum(raw.pairs * raw.nll for raw, _ in grouping.values()) / found.pairs
        assert weighed == pytest.approx(found.raw.nll)
    assert list(found.groups["domain"]) == ["chat", "code"]
    names = list(found.groups["length"])
    assert len(names) == 3 and names[0].startswith("1: 10-") and names[2].endswith("-899")


def test_what_cannot_be_calibrated() -> None:
    with pytest.raises(DataError, match="none of 3 pairs"):
        calibration.calibrate(np.full(3, np.nan), np.arange(3))
    one = calibration.calibrate(np.array([1.0, -2.0, 1.5]), np.zeros(3))
    assert one.scaled is None and "one cluster" in one.note and one.temperature
    right = calibration.calibrate(np.array([1.0, 2.0, 0.5, 0.0]), np.arange(4))
    assert right.scaled is None and "are right" in right.note and right.temperature is None
    wrong = calibration.calibrate(-margins_of(0, 200), np.arange(200))
    assert wrong.temperature is None and wrong.scaled is not None
    assert wrong.scaled.nll == pytest.approx(np.log(2), rel=1e-3)
    assert right.raw.accuracy == 0.875 and "nll_gain" not in right.intervals


STORED = StoredTemperature(2.5, "rm-bench", 1_200, 400, 0.61, 0.55, "a" * 32)


def test_a_temperature_is_kept_with_its_weights(tmp_path) -> None:
    assert read_temperature(tmp_path, "a" * 32) is None
    path = write_temperature(tmp_path, STORED)
    assert path.name == "calibration.json" and json.loads(path.read_text())["pairs"] == 1_200
    assert read_temperature(tmp_path, "a" * 32) == STORED
    with pytest.raises(DataError, match=r"of other weights \(aaaa.*bbbb.*delete it"):
        read_temperature(tmp_path, "b" * 32)
    write_temperature(tmp_path, STORED)  # again: it replaces
    assert [p.name for p in tmp_path.iterdir()] == ["calibration.json"]


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"temperature": 1}', json.dumps({**dataclasses.asdict(STORED), "temperature": 0})],
)
def test_a_damaged_file_is_refused(tmp_path, text) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(DataError, match=r"calibration.json is no stored temperature .*delete it"):
        read_temperature(tmp_path, "a" * 32)


def test_what_is_no_temperature(tmp_path) -> None:
    with pytest.raises(DataError, match="finite"):
        StoredTemperature(float("nan"), "x", 1, 1, 0.1, 0.1, "a")
    with pytest.raises(DataError, match="names its set"):
        StoredTemperature(1.0, "", 1, 1, 0.1, 0.1, "a")
    with pytest.raises(DataError, match="no folder of a model"):
        write_temperature(tmp_path / "absent", STORED)
