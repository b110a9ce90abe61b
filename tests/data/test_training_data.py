"""What a large run keeps on disk gives the batches that memory gives, from wherever it is opened."""

import json
import os
import pickle

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rewardscale.data import pipeline, training_data
from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level
from rewardscale.data.pipeline import StepSource, blocks, capacity
from rewardscale.data.subsets import open_subset, subset, write_subset

BATCH, ROW, ROWS = 8, 48, 4


def level(weights: bool) -> Level:
    random = np.random.default_rng(0)
    rows = np.flatnonzero(random.random(240) < 0.8).astype(np.uint32)
    n = len(rows)
    weight, target = (random.random(n, np.float32) if weights else None for _ in range(2))
    orientation = random.choice(np.array([-1, 1], np.int8), n)
    return Level("some", rows, orientation, weight=weight, target=target)


def prepare(
    view,
    *,
    store=None,
    weights=False,
    pairs=60,
    epochs=2.1,
    draw=0,
    max_length=99,
    too_long="drop",
    shared=True,
):
    return pipeline.prepare(
        view,
        subset(level(weights), pairs, pool=np.arange(240), seed=0, draw=draw),
        positions=round(pairs * epochs),
        batch=BATCH,
        seed=0,
        draw=draw,
        max_length=max_length,
        too_long=too_long,
        row_length=ROW,
        rows_per_microbatch=ROWS,
        shared=shared,
        store=store,
    )


def source(data, **host) -> StepSource:
    sizes = capacity(
        data.lengths, pairs_per_step=BATCH, row_length=ROW, rows_per_microbatch=ROWS, shared=data.shared
    )
    return StepSource(data, sizes, **host)


def equal(one, two):
    assert set(one) == set(two)
    for name in one:
        assert one[name].dtype == two[name].dtype
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.booleans(),
    st.integers(30, 100),
    st.floats(0.3, 3.4),
    st.integers(0, 2),
    st.sampled_from([99, 14, 11]),
    st.sampled_from(["drop", "truncate_left_of_prompt"]),
    st.sampled_from([7, 64, 2**20]),
    st.booleans(),
)
def test_stored_batches_are_those_in_memory(
    view, tmp_path, weights, pairs, epochs, draw, max_length, too_long, piece, shared
):
    asked = {"weights": weights, "pairs": pairs, "epochs": epochs, "draw": draw}
    asked |= {"max_length": max_length, "too_long": too_long, "shared": shared}
    memory = prepare(view, **asked)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("rewardscale.data.arrays.PIECE", piece)
        patch.setattr("rewardscale.data.arrays.pieces.__defaults__", (piece,))
        stored = prepare(view, store=tmp_path / f"in pieces of {piece}", **asked)
    assert stored.stored is not None and memory.stored is None
    assert stored.plan.fingerprint == memory.plan.fingerprint
    for name in ("dropped", "truncated", "weight", "target"):
        np.testing.assert_array_equal(getattr(stored, name), getattr(memory, name))
    for name in ("steps", "efficiency", "trees_per_row", "tokens"):
        assert getattr(stored.plan, name) == getattr(memory.plan, name)
    equal(source(stored).block(0, stored.plan.steps), source(memory).block(0, memory.plan.steps))


def test_large_runs_are_stored_beside_the_view_and_found_again(view, monkeypatch):
    monkeypatch.setattr(training_data, "STORED_FROM", 126)
    assert prepare(view, epochs=2).stored is None
    made = prepare(view)
    assert made.stored is not None and made.stored.parent == view.directory / "batches"
    before = (made.stored / "batches.json").stat().st_mtime_ns
    assert prepare(view).stored == made.stored
    assert (made.stored / "batches.json").stat().st_mtime_ns == before
    others = {
        prepare(view, draw=1).stored,
        prepare(view, weights=True).stored,
        prepare(view, max_length=20).stored,
    }
    assert len(others | {made.stored}) == 4


def test_a_stored_run_is_sent_to_other_processes_by_its_path(view, tmp_path):
    data = prepare(view, store=tmp_path)
    packed = pickle.dumps(source(data))
    assert len(packed) < 1500
    again = pickle.loads(packed)
    equal(again.block(0, 16), source(data).block(0, 16))


def test_the_table_of_lengths_is_sent_to_no_one(view):
    data = prepare(view)
    packed = pickle.dumps(data)
    assert view.lengths[:20].tobytes() not in packed
    np.testing.assert_array_equal(pickle.loads(packed).lengths, view.lengths)
    equal(source(pickle.loads(packed)).block(0, 16), source(data).block(0, 16))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 15), st.integers(1, 6), st.sampled_from([1, 2, 4]), st.booleans())
def test_any_host_may_resume_at_any_step(view, tmp_path, start, size, hosts, stored):
    whole = source(prepare(view)).block(0, 16)
    data = prepare(view, store=tmp_path if stored else None)
    shares = [
        list(blocks(source(data, host=h, hosts=hosts), start_step=start, steps_per_block=size))
        for h in range(hosts)
    ]
    for parts in zip(*shares, strict=True):
        ((first, count),) = {part[:2] for part in parts}
        for name, values in whole.items():
            found = [part[2][name][:count] for part in parts]
            joined = np.concatenate(found, 2) if values.ndim > 1 else found[0]
            np.testing.assert_array_equal(joined, values[first : first + count], err_msg=name)


def test_workers_of_any_host_open_what_is_stored(view, tmp_path):
    """Real processes, which need seconds to start: one host of two resumes in the middle with two workers."""
    data = prepare(view, store=tmp_path)
    reader = source(data, host=1, hosts=2)
    wanted = source(prepare(view), host=1, hosts=2)
    for first, count, block in blocks(reader, start_step=5, steps_per_block=3, workers=2):
        equal({k: v[:count] for k, v in block.items()}, wanted.block(first, count))


def test_a_materialised_subset_gives_the_same_batches(view, tmp_path):
    chosen = subset(level(True), 60, pool=np.arange(240), seed=0, draw=0)
    again = open_subset(write_subset(tmp_path, chosen))
    asked = {"positions": 126, "batch": BATCH, "seed": 0, "draw": 0, "max_length": 99, "too_long": "drop"}
    made = [
        pipeline.prepare(view, one, **asked, row_length=ROW, rows_per_microbatch=ROWS)
        for one in (chosen, again)
    ]
    equal(source(made[0]).block(0, 16), source(made[1]).block(0, 16))


def test_stored_batches_that_were_changed_are_named(view, tmp_path):
    data = prepare(view, store=tmp_path)
    assert data.stored is not None
    record = json.loads((data.stored / "batches.json").read_text())
    assert record["plan"] == data.plan.fingerprint
    path = data.stored / "row.npy"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(DataError, match=r"row\.npy was changed after it was written; delete"):
        prepare(view, store=tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(view, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    with pytest.raises(DataError, match=r"are kept in .*locked, which cannot be written"):
        prepare(view, store=tmp_path / "locked")
