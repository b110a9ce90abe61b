"""Packing plans: each position has one place, steps are never crossed, plans are prefix-stable, rows are bounded."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.packing import PackingPlan, choose_row_length, make_plan, pack

ROW = 24
lengths = st.lists(st.integers(1, ROW), min_size=1, max_size=80).map(np.array)
batches, shapes = st.integers(1, 20), st.integers(1, 5)


def plan(sizes: np.ndarray, batch: int, rows: int = 2) -> PackingPlan:
    return make_plan(sizes, batch=batch, row_length=ROW, rows_per_microbatch=rows)


def steps(made: PackingPlan):
    """(step, positions) of each step."""
    return [(s, np.arange(made.starts[s], made.starts[s + 1])) for s in range(made.steps)]


@given(lengths, batches, shapes)
def test_every_position_has_one_place_of_its_own(sizes, batch, rows):
    made = plan(sizes, batch, rows)
    for step, positions in steps(made):
        taken = np.zeros((made.microbatches[step] * rows, ROW), int)
        slots: dict[int, list[int]] = {}
        for i in positions:
            assert made.offset[i] >= 0 and made.offset[i] + sizes[i] <= ROW
            taken[made.row[i], made.offset[i] : made.offset[i] + sizes[i]] += 1
            slots.setdefault(int(made.row[i]), []).append(int(made.slot[i]))
        assert taken.max() == 1 and taken.sum() == sizes[positions].sum()
        assert all(sorted(s) == list(range(len(s))) for s in slots.values())
        assert max(map(len, slots.values())) <= made.trees_per_row
        assert sorted(slots) == list(range(len(slots)))  # no row is skipped
        assert made.microbatches[step] == -(-len(slots) // rows)
    assert made.tokens == sizes.sum()


@given(lengths, batches)
def test_steps_take_exactly_their_positions(sizes, batch):
    made = plan(sizes, batch)
    assert made.starts.tolist() == [*range(0, len(sizes), batch), len(sizes)]
    # What a step does is a function of its own trees alone.
    for _, positions in steps(made):
        alone = plan(sizes[positions], batch)
        for name in ("row", "offset", "slot"):
            np.testing.assert_array_equal(getattr(made, name)[positions], getattr(alone, name))


@given(lengths, lengths, batches)
def test_a_longer_plan_begins_with_the_shorter_one(sizes, more, batch):
    whole = len(sizes) // batch  # a last, smaller step grows; those before it stay bit for bit
    short, long = plan(sizes, batch), plan(np.concatenate([sizes, more]), batch)
    for name in ("row", "offset", "slot"):
        one, two = getattr(short, name), getattr(long, name)
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one[: whole * batch], two[: whole * batch])
    np.testing.assert_array_equal(short.starts[: whole + 1], long.starts[: whole + 1])
    np.testing.assert_array_equal(short.microbatches[:whole], long.microbatches[:whole])


@given(lengths)
def test_any_two_rows_hold_more_than_one_so_rows_are_bounded(sizes):
    """What pipeline.capacity relies on."""
    made = plan(sizes, len(sizes), 1)
    fill = np.bincount(made.row, sizes)
    if len(fill) > 1:
        assert np.sort(fill)[:2].sum() > ROW
    assert len(fill) <= min(len(sizes), 2 * sizes.sum() / ROW + 1)
    assert len(fill) == made.microbatches[0]


@given(lengths, batches, shapes)
def test_efficiency_counts_inert_rows(sizes, batch, rows):
    made = plan(sizes, batch, rows)
    computed = sum(-(-len(set(made.row[p].tolist())) // rows) * rows * ROW for _, p in steps(made))
    assert made.efficiency == pytest.approx(sizes.sum() / computed)


def test_efficiency_of_a_plan_one_can_count():
    # Rows 24, 20+4 and 12: three full microbatches of 1 row, or one of 4 rows with an inert one.
    sizes = np.array([24, 20, 4, 12])
    assert plan(sizes, 4, 1).efficiency == pytest.approx(60 / 72)
    assert plan(sizes, 4, 4).efficiency == pytest.approx(60 / 96)
    assert plan(np.zeros(0, int), 4).efficiency == 0 and plan(np.zeros(0, int), 4).steps == 0


@pytest.mark.parametrize("median", [150, 500, 1500])
def test_a_lognormal_mix_leaves_less_than_three_percent_empty(median):
    """At the batch of 10,240 pairs of arXiv 2507.01352, in rows of 4,096 tokens, eight a microbatch."""
    sizes = np.random.default_rng(0).lognormal(np.log(median), 0.8, 3 * 10_240).clip(16, 4096).astype(int)
    made = make_plan(sizes, batch=10_240, row_length=4096, rows_per_microbatch=8)
    assert made.efficiency > 0.97


def test_best_fit_takes_the_fullest_row_that_holds_a_tree():
    # 14 -> row 0 (10 free), 12 -> row 1 (12 free), then 10 fits row 0 best, 8 row 1, 4 row 1.
    made = plan(np.array([4, 8, 14, 10, 12]), 5)
    assert made.row.tolist() == [1, 1, 0, 0, 1]
    assert made.offset.tolist() == [20, 12, 0, 14, 0]
    assert made.slot.tolist() == [2, 1, 0, 1, 0]


def test_a_tree_longer_than_a_row_is_named():
    with pytest.raises(DataError, match=r"25 tokens does not fit a row of 24; raise runtime\.row_length"):
        plan(np.array([3, 25]), 2)


@settings(max_examples=40)
@given(lengths, batches)
def test_the_fingerprint_follows_the_plan(sizes, batch):
    made = plan(sizes, batch)
    assert made.fingerprint == plan(sizes, batch).fingerprint
    for name in ("row", "offset", "slot", "starts"):
        values = getattr(made, name).copy()
        values[-1] += 1
        assert dataclasses.replace(made, **{name: values}).fingerprint != made.fingerprint
    assert dataclasses.replace(made, rows_per_microbatch=3).fingerprint != made.fingerprint
    assert dataclasses.replace(made, row_length=ROW + 1).fingerprint != made.fingerprint


@given(lengths)
def test_the_chosen_row_length_holds_the_longest(sizes):
    chosen = choose_row_length(sizes)
    assert chosen % 4 == 0 and 0 <= chosen - sizes.max() < 4


def twin(sizes: np.ndarray, batch: int) -> tuple[np.ndarray, list[int]]:
    """Row, offset and slot of each tree, and the rows of each step, by the general `pack`, step by step."""
    out, rows = np.zeros((3, len(sizes)), np.int32), []
    for start in range(0, len(sizes), batch):
        here = slice(start, start + batch)
        rows.append(len(pack(sizes[here], lambda size, left: (ROW, math.inf), *out[:, here])))
    return out, rows


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(1, ROW), max_size=200).map(lambda values: np.array(values, np.int64)),
    st.integers(1, 80),
    shapes,
    st.sampled_from([np.int64, np.uint32, np.uint8]),
)
def test_plans_are_those_of_the_general_packing(sizes, batch, rows, dtype):
    made = plan(sizes.astype(dtype), batch, rows)
    (row, offset, slot), count = twin(sizes, batch)
    for mine, wanted in ((made.row, row), (made.offset, offset), (made.slot, slot)):
        np.testing.assert_array_equal(mine, wanted)
        assert mine.dtype == np.int32
    assert made.microbatches.tolist() == [-(-n // rows) for n in count]
    assert (made.trees_per_row, made.tokens) == (slot.max(initial=0) + 1, sizes.sum())


def test_plans_of_more_than_a_piece_are_those_of_the_general_packing(monkeypatch):
    monkeypatch.setattr("rewardscale.data.arrays.PIECE", 100)
    sizes = np.random.default_rng(0).integers(1, ROW + 1, 1234)
    (row, offset, slot), _ = twin(sizes, 32)
    made = plan(sizes, 32)
    for mine, wanted in ((made.row, row), (made.offset, offset), (made.slot, slot)):
        np.testing.assert_array_equal(mine, wanted)


def test_plans_stay_what_they_were():
    """Fingerprints of plans are in the records of finished runs."""
    sizes = np.random.default_rng(0).integers(1, ROW + 1, 1000)
    assert plan(sizes, 64).fingerprint == PINNED


def test_a_plan_may_lie_in_small_types_elsewhere():
    sizes, asked = np.random.default_rng(0).integers(1, ROW + 1, 1000), {}

    def allocate(name: str, largest: int, count: int) -> np.ndarray:
        asked[name] = largest
        return np.zeros(count, np.min_scalar_type(largest))

    made = make_plan(sizes, batch=64, row_length=ROW, rows_per_microbatch=2, allocate=allocate)
    assert asked == {"row": 64, "offset": ROW, "slot": 64} and made.row.dtype == np.uint8
    assert made.fingerprint == plan(sizes, 64).fingerprint


PINNED = "7a2630aafdf3d952973cd6e5746fe638"
