"""Rules of stage 2 by hand, and levels and placebos made of decisions."""

import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardscale.curation import levels
from rewardscale.curation.rules import DROP, FLIP, KEEP, Opinions, asked, decide
from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level, read_level, write_level


def opinions(cases: Sequence[tuple[int, ...]]) -> Opinions:
    return Opinions(*np.array(cases, np.int8).T)


HAND = {  # (label, best, gold, judges): decision
    (1, 1, 1, 0): KEEP,  # kept without asking
    (1, 1, 1, -1): KEEP,  # gold and best agree; judges are outvoted
    (1, -1, 1, 1): KEEP,  # judges in the place of the best model
    (1, -1, 1, -1): DROP,  # gold alone keeps nothing
    (1, 1, -1, 1): DROP,  # vetoed by gold; nobody seconds the flip
    (1, -1, -1, 0): FLIP,
    (1, 1, -1, -1): FLIP,  # kept by best, vetoed by gold, and judges second the veto
    (1, -1, -1, 1): FLIP,
    (1, 0, 1, 0): DROP,  # no margin is no agreement
    (-1, -1, -1, 0): KEEP,
    (-1, 1, 1, 1): FLIP,
    (-1, 1, 0, 1): DROP,
}


def test_decisions_by_hand() -> None:
    assert decide(opinions(list(HAND))).tolist() == list(HAND.values())


def test_who_is_asked() -> None:
    cases = opinions([(1, 1, 1, 0), (1, -1, 1, 0), (1, 0, 1, 0), (1, 1, -1, 0), (-1, -1, 1, 0)])
    assert asked(cases.label, cases.best).tolist() == [False, True, True, False, False]
    assert asked(cases.label, cases.best, cases.gold).tolist() == [False, True, True, True, True]


def test_who_need_not_be_asked_is_decided_the_same_whatever_judges_would_say() -> None:
    for label, best, gold in itertools.product((1, -1), (1, 0, -1), (1, 0, -1)):
        if not asked(*(np.array([value], np.int8) for value in (label, best, gold)))[0]:
            assert len({decide(opinions([(label, best, gold, judges)]))[0] for judges in (1, 0, -1)}) == 1


def test_turning_every_sign_round_changes_no_decision() -> None:
    cases = list(itertools.product((1, -1), (1, 0, -1), (1, 0, -1), (1, 0, -1)))
    turned = opinions([tuple(-value for value in case) for case in cases])
    np.testing.assert_array_equal(decide(opinions(cases)), decide(turned))
    without = decide(opinions(cases), judges=False)
    np.testing.assert_array_equal(without[without != 0], decide(opinions(cases))[without != 0])


def raw_of(n: int, seed: int = 0) -> tuple[Level, np.ndarray]:
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(3 * n)[:n]).astype(np.uint32)
    raw = Level("raw", rows, random.choice(np.array([1, -1], np.int8), n))
    return raw, random.choice(np.array([KEEP, FLIP, DROP], np.int8), n)


@given(n=st.integers(1, 60), seed=st.integers(0, 100))
def test_levels_nest_and_placebos_have_their_size(n: int, seed: int) -> None:
    raw, decisions = raw_of(n, seed)
    label = dict(zip(raw.rows.tolist(), raw.orientation.tolist(), strict=True))
    kept, mended = levels.filtered(raw, decisions), levels.corrected(raw, decisions)
    assert all(
        label[row] == sign for row, sign in zip(kept.rows.tolist(), kept.orientation.tolist(), strict=True)
    )
    both = dict(zip(mended.rows.tolist(), mended.orientation.tolist(), strict=True))
    assert set(kept.rows.tolist()) <= set(both)
    turned = {row for row, sign in both.items() if label[row] != sign}
    assert turned == set(raw.rows[decisions == FLIP].tolist())
    for placebo in (
        levels.shuffled_scores(raw, decisions, seed=seed),
        levels.random_matched(raw, len(kept.rows), seed=seed),
        levels.matched(raw, decisions, numbers=[raw.rows % 7], seed=seed),
    ):
        assert len(placebo.rows) == len(kept.rows)
        assert all(
            label[row] == s
            for row, s in zip(placebo.rows.tolist(), placebo.orientation.tolist(), strict=True)
        )


def test_matched_pairs_have_the_cells_of_filtered() -> None:
    raw, _ = raw_of(4000)
    random = np.random.default_rng(1)
    source, length = random.integers(0, 3, 4000), random.normal(size=4000)
    decisions = np.where(random.random(4000) < 1 / (1 + np.exp(-2 * length - source)), KEEP, DROP).astype(
        np.int8
    )
    made = levels.matched(raw, decisions, strata=[source], numbers=[length], seed=0)
    at = np.searchsorted(raw.rows, made.rows)
    kept = decisions == KEEP
    np.testing.assert_array_equal(np.bincount(source[at]), np.bincount(source[kept]))
    assert abs(length[at].mean() - length[kept].mean()) < 0.02 < length[kept].mean() - length.mean()
    assert 0.3 < np.isin(at, np.flatnonzero(kept)).mean() < 0.95  # not filtered under another name
    others = levels.random_matched(raw, int(kept.sum()), seed=0)
    assert abs(length[np.searchsorted(raw.rows, others.rows)].mean() - length.mean()) < 0.05


def test_levels_are_files_that_a_sweep_reads(tmp_path) -> None:
    raw, decisions = raw_of(50)
    made = levels.snapshot(levels.corrected(raw, decisions), 3)
    assert made.name == "corrected@iter3"
    assert read_level(write_level(tmp_path, made)).fingerprint == made.fingerprint
    fresh = levels.selection_only(raw, decisions, -raw.orientation)
    np.testing.assert_array_equal(fresh.orientation, -levels.filtered(raw, decisions).orientation)
    for bad in (lambda: levels.filtered(raw, decisions[:-1]), lambda: levels.random_matched(raw, 51, seed=0)):
        with pytest.raises(DataError):
            bad()
