"""Batches are a pure function of (data, step): workers, hosts, blocks and restarts change nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.data import pipeline
from rewardscale.data import rows as tree_rows
from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level
from rewardscale.data.packing import make_plan
from rewardscale.data.pipeline import Capacity, StepSource, blocks, capacity
from rewardscale.data.subsets import subset, training_order
from rewardscale.data.tokenised import TokenStore

ROW, BATCH, ROWS = 48, 8, 4


@pytest.fixture(scope="module")
def level() -> Level:
    random = np.random.default_rng(0)
    rows = np.flatnonzero(random.random(240) < 0.8).astype(np.uint32)
    n = len(rows)
    return Level(
        "some",
        rows,
        random.choice(np.array([-1, 1], np.int8), n),
        weight=random.random(n, np.float32),
        target=random.random(n, np.float32),
    )


def prepared(view, level, *, pairs=50, positions=125, max_length=99, too_long="drop", row_length=ROW):
    chosen = subset(level, pairs, pool=np.arange(240), seed=0, draw=0)
    data = pipeline.prepare(
        view,
        chosen,
        positions=positions,
        batch=BATCH,
        seed=0,
        draw=0,
        max_length=max_length,
        too_long=too_long,
        row_length=row_length,
        rows_per_microbatch=ROWS,
    )
    return chosen, data


def source(view, data, **host) -> StepSource:
    plan = data.plan
    sizes = capacity(view.lengths, pairs_per_step=BATCH, row_length=plan.row_length, rows_per_microbatch=ROWS)
    return StepSource(data, sizes, **host)


def equal(one, two):
    assert set(one) == set(two)
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def steps_of(found) -> list[dict[str, np.ndarray]]:
    """The steps in a sequence of blocks, copied out of the workers' memory."""
    return [{k: v[i].copy() for k, v in block.items()} for _, count, block in found for i in range(count)]


def test_a_step_holds_exactly_its_pairs(view, level):
    chosen, data = prepared(view, level)
    order = training_order(50, 125, seed=0, draw=0)
    store, reader = TokenStore(view), source(view, data)
    assert len(reader) == 16 and data.dropped == data.truncated == 0
    for step in range(len(reader)):
        wanted = []
        for position in order[step * BATCH : (step + 1) * BATCH]:
            row = int(chosen.rows[position])
            prompt, a, b = np.split(store.gather(np.array([row]))[0], np.cumsum(view.lengths[row])[:2])
            pair = (a, b) if chosen.orientation[position] > 0 else (b, a)
            parts = tuple(tuple(x.tolist()) for x in (pair[0], prompt, pair[1]))
            wanted.append((*parts, float(chosen.weight[position]), float(chosen.target[position])))
        batch = reader[step]
        found = []
        for m, r, slot in np.argwhere(batch["valid"]):
            assert m < batch["microbatches"]
            (l0, ln), (p0, pn), (r0, rn) = batch["segments"][m, r, slot]
            row = batch["tokens"][m, r]
            assert batch["left_at"][m, r, slot] == l0 and batch["right_at"][m, r, slot] == r0 + rn - 1
            parts = (row[l0 : l0 + ln][::-1], row[p0 : p0 + pn], row[r0 : r0 + rn])
            values = (float(batch[name][m, r, slot]) for name in ("weight", "target"))
            found.append((*(tuple(x.tolist()) for x in parts), *values))
        assert sorted(found) == sorted(wanted)
        assert batch["pairs"] == len(wanted) == (BATCH if step < 15 else 5)
        assert not batch["weight"][~batch["valid"]].any() and not batch["target"][~batch["valid"]].any()


def test_steps_are_a_sequence_with_an_end(view, level):
    reader = source(view, prepared(view, level)[1])
    for step in (-1, 16, 99):
        with pytest.raises(IndexError):
            reader[step]
    assert len([batch["pairs"] for batch in reader]) == 16  # type: ignore[attr-defined]


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 16), size=st.integers(1, 20))
def test_from_any_step_on_blocks_of_any_size_are_the_tail_of_the_whole(view, level, start, size):
    reader = source(view, prepared(view, level)[1])
    found = list(blocks(reader, start_step=start, steps_per_block=size))
    assert [first for first, _, _ in found] == list(range(start, 16, size))
    assert sum(count for _, count, _ in found) == 16 - start
    for step, mine in enumerate(steps_of(found), start):
        equal(mine, reader[step])
    for _, count, block in found:  # all blocks have one shape; steps beyond the end are inert
        assert all(len(values) == size for values in block.values())
        assert not block["microbatches"][count:].any() and not block["valid"][count:].any()


@settings(max_examples=25, deadline=None)
@given(start=st.integers(0, 16), end=st.integers(0, 16), size=st.integers(1, 20))
def test_blocks_may_end_before_the_last_step(view, level, start, end, size):
    reader = source(view, prepared(view, level)[1])
    found = list(blocks(reader, start_step=start, end_step=end, steps_per_block=size))
    assert sum(count for _, count, _ in found) == max(0, end - start)
    for step, mine in enumerate(steps_of(found), start):
        equal(mine, reader[step])
    assert all(len(values) == size for _, _, block in found for values in block.values())


def test_workers_change_nothing(view, level):
    """Real processes (each needs seconds to start). Two blocks more than workers, then fewer than workers."""
    reader = source(view, prepared(view, level)[1])
    alone = steps_of(blocks(reader, start_step=3, steps_per_block=3))
    assert len(alone) == 13
    for workers in (2, 4):
        some = steps_of(blocks(reader, start_step=3, steps_per_block=3, workers=workers))
        assert len(some) == len(alone)
        for mine, theirs in zip(some, alone, strict=True):
            equal(mine, theirs)


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_rows_make_the_global_microbatches(view, level, hosts):
    data = prepared(view, level)[1]
    whole = source(view, data).block(0, 16)
    shares = [source(view, data, host=h, hosts=hosts).block(0, 16) for h in range(hosts)]
    for name, values in whole.items():
        if values.ndim == 1:
            for share in shares:
                np.testing.assert_array_equal(share[name], values)
        else:
            assert all(share[name].shape[2] == ROWS // hosts for share in shares)
            np.testing.assert_array_equal(np.concatenate([s[name] for s in shares], 2), values)
    assert all(share["valid"].any() for share in shares)


def test_hosts_that_do_not_divide_the_rows_are_named(view, level):
    with pytest.raises(DataError, match=r"rows_per_microbatch=4 must be divisible by the 3 hosts"):
        source(view, prepared(view, level)[1], hosts=3)


def test_a_longer_training_keeps_the_earlier_steps(view, level):
    short, long = (source(view, prepared(view, level, positions=n)[1]) for n in (64, 125))
    for step in range(8):
        equal(short[step], long[step])


def test_too_long_pairs_are_dropped_and_counted(view, level):
    most = 14
    chosen, data = prepared(view, level, max_length=most)
    longest = view.lengths[chosen.rows, 0] + view.lengths[chosen.rows, 1:].max(1)
    fitting = chosen.rows[longest <= most]
    assert 0 < data.dropped == (longest > most).sum() < 50 and data.truncated == 0
    assert len(data.trees) == round(125 * len(fitting) / 50)
    np.testing.assert_array_equal(data.trees.rows[: len(fitting)], fitting)  # the subset's own order
    assert set(data.trees.rows.tolist()) == set(fitting.tolist())
    source(view, data).block(0, data.plan.steps)


def test_too_long_prompts_are_truncated_and_counted(view, level):
    most = 11
    chosen, data = prepared(view, level, max_length=most, too_long="truncate_left_of_prompt")
    prompt, response = view.lengths[chosen.rows, 0].astype(int), view.lengths[chosen.rows, 1:].max(1)
    over = prompt + response - most
    assert data.dropped == (over >= prompt).sum() > 0
    assert data.truncated == ((over > 0) & (over < prompt)).sum() > 0
    left, kept, right = data.trees.sizes(view.lengths)
    assert (kept >= 1).all() and (kept + np.maximum(left, right) <= most).all()
    source(view, data).block(0, data.plan.steps)


def test_nothing_left_is_an_error(view, level):
    with pytest.raises(DataError, match=r"all 50 pairs are longer than recipe\.max_length=2"):
        prepared(view, level, max_length=2)


def test_a_capacity_that_is_too_small_is_an_error(view, level):
    _, data = prepared(view, level)
    needed = Capacity(int(data.plan.microbatches.max()), data.plan.trees_per_row)
    StepSource(data, needed)
    for small in (
        Capacity(needed.microbatches - 1, needed.slots),
        Capacity(needed.microbatches, needed.slots - 1),
    ):
        with pytest.raises(DataError, match="choose a larger capacity"):
            StepSource(data, small)


def test_the_capacity_holds_trees_of_just_over_half_a_row():
    lengths = np.array([[3, 5, 5]] * 20, np.uint32)  # 13 of 24 tokens: no two share a row
    plan = make_plan(lengths.sum(1), batch=20, row_length=24, rows_per_microbatch=1)
    assert plan.microbatches.tolist() == [20]
    assert capacity(lengths, pairs_per_step=20, row_length=24, rows_per_microbatch=1).microbatches >= 20


sizes = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=30
)


@settings(max_examples=200, deadline=None)
@given(sizes, st.integers(1, 40), st.integers(2, 60), st.integers(1, 5), st.integers(2, 40), st.data())
def test_the_capacity_holds_every_step_of_every_subset(table, batch, row_length, rows, max_length, data):
    lengths = np.array(table, np.uint32)
    chosen = np.array(data.draw(st.lists(st.integers(0, len(table) - 1), min_size=1, max_size=60)))
    too_long = data.draw(st.sampled_from(["drop", "truncate_left_of_prompt"]))
    keep, skip = tree_rows.fit_to(lengths, chosen, max_length=max_length, too_long=too_long)
    trees = tree_rows.pair_trees(chosen[keep], np.ones(keep.sum()), skip[keep])
    shared = data.draw(st.booleans())
    tokens = trees.tokens(lengths, shared=shared)
    tokens = tokens[tokens <= row_length]  # longer ones are an error of make_plan
    plan = make_plan(tokens, batch=batch, row_length=row_length, rows_per_microbatch=rows)
    holds = capacity(
        lengths, pairs_per_step=batch, row_length=row_length, rows_per_microbatch=rows, shared=shared
    )
    assert plan.microbatches.max(initial=0) <= holds.microbatches
    assert plan.trees_per_row <= holds.slots
    for n in (holds.microbatches, holds.slots):
        assert n & (n - 1) == 0  # few shapes, few executables
