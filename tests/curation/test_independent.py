"""Levels of a simulated source and judge: their error rates, their independence, what draws and placebos share."""

import numpy as np
import pytest

from rewardscale.curation import independent
from rewardscale.curation.flips import with_flips
from rewardscale.data.levels import Level
from rewardscale.scaling.theory_curators import keep_rate, kept_noise

N, ETA, A = 20_000, 0.3, 0.9
KEY = Level("key", np.arange(N, dtype=np.uint32), np.where(np.arange(N) % 3, 1, -1).astype(np.int8))
SPLIT = np.repeat(["train", "test"], [N - 4_000, 4_000])


def make(draw: int = 0, flip_rate: float = ETA, accuracy: float = A) -> dict[str, Level]:
    return independent.simulated_levels(KEY, SPLIT, flip_rate=flip_rate, accuracy=accuracy, draw=draw, seed=7)


LEVELS = make()


def wrong(level: Level) -> np.ndarray:
    return level.orientation != KEY.orientation[level.rows]


def test_shares_are_those_of_theory():
    assert tuple(LEVELS) == independent.LEVELS
    assert wrong(LEVELS["raw"]).mean() == pytest.approx(ETA, abs=0.013)  # 4 standard errors each
    assert wrong(LEVELS["corrected"]).mean() == pytest.approx(1 - A, abs=0.009)
    assert not wrong(LEVELS["gold"]).any()
    assert len(LEVELS["filtered"].rows) / N == pytest.approx(float(keep_rate(ETA, A)), abs=0.014)
    assert wrong(LEVELS["filtered"]).mean() == pytest.approx(float(kept_noise(ETA, A)), abs=0.008)


def test_filtered_is_raw_where_the_judge_agrees():
    raw, judge = LEVELS["raw"].orientation, LEVELS["corrected"].orientation
    np.testing.assert_array_equal(LEVELS["filtered"].rows, np.flatnonzero(raw == judge))
    np.testing.assert_array_equal(LEVELS["filtered"].orientation, raw[raw == judge])


def test_errors_hang_on_nothing():
    raw, judge = wrong(LEVELS["raw"]), wrong(LEVELS["corrected"])
    cues = (
        judge,
        KEY.orientation > 0,
        SPLIT == "test",
        np.arange(N) % 2 == 0,
        wrong(with_flips(KEY, 0.1, draw=0, seed=7)),
    )
    for cue in cues:
        assert abs(raw[cue].mean() - raw[~cue].mean()) < 0.05
    assert abs(judge[KEY.orientation > 0].mean() - judge[KEY.orientation < 0].mean()) < 0.02


def test_each_draw_is_labelled_anew_and_the_same_each_time():
    other = make(draw=1)
    both = (wrong(other["raw"]) & wrong(LEVELS["raw"])).mean()
    assert both == pytest.approx(ETA**2, abs=0.01)
    assert {x.fingerprint for x in make().values()} == {x.fingerprint for x in LEVELS.values()}
    assert other["gold"].fingerprint != LEVELS["gold"].fingerprint  # `about` names the draw


def test_fewer_flips_are_a_subset_and_the_judge_stays():
    less = make(flip_rate=0.1)
    assert not (wrong(less["raw"]) & ~wrong(LEVELS["raw"])).any()
    np.testing.assert_array_equal(less["corrected"].orientation, LEVELS["corrected"].orientation)


def test_the_placebo_is_raw_of_the_size_of_filtered():
    placebo, filtered = LEVELS["random_matched"], LEVELS["filtered"]
    for split in ("train", "test"):
        assert (SPLIT[placebo.rows] == split).sum() == (SPLIT[filtered.rows] == split).sum()
    assert wrong(placebo).mean() == pytest.approx(ETA, abs=0.016)
