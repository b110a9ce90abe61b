"""Subsets: nested, one permutation for all levels, the same everywhere; raw pairs and costs against brute force."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level
from rewardscale.data.subsets import (
    available,
    epoch_order,
    open_subset,
    permutation,
    subset,
    training_order,
    write_subset,
)

ROWS = 60
POOL = np.arange(3, ROWS, 2)  # not all rows, and not from 0


def level(keep: set[int], *, name="some", costs: bool = False, seed: int = 0) -> Level:
    random = np.random.default_rng(seed)
    rows = np.array(sorted(keep), np.uint32)
    n = len(rows)
    return Level(
        name=name,
        rows=rows,
        orientation=random.choice(np.array([-1, 1], np.int8), n),
        weight=random.random(n, np.float32) if costs else None,
        target=random.random(n, np.float32) if costs else None,
        cost=random.integers(0, 6, ROWS).astype(np.float32) if costs else None,
    )


kept = st.sets(st.integers(0, ROWS - 1), min_size=1).filter(lambda rows: rows & set(POOL.tolist()))
draws = st.integers(0, 5)


@given(kept, draws, st.booleans(), st.data())
def test_a_subset_is_what_walking_along_the_permutation_finds(rows, draw, costs, data):
    made = level(rows, costs=costs)
    most = available(made, POOL)
    pairs = data.draw(st.integers(1, most))
    found = subset(made, pairs, pool=POOL, seed=1, draw=draw)

    index = {row: i for i, row in enumerate(made.rows.tolist())}
    taken, raw_pairs, cost = [], 0, 0.0
    for row in permutation(POOL, seed=1, draw=draw).tolist():
        if len(taken) == pairs:
            break
        raw_pairs += 1
        cost += 1 if made.cost is None else float(made.cost[row])
        if row in index:
            taken.append(row)
    at = [index[row] for row in taken]

    assert most == len(rows & set(POOL.tolist()))
    assert found.rows.tolist() == taken and found.rows.dtype == np.uint32
    assert found.orientation.tolist() == made.orientation[at].tolist()
    for mine, values in ((found.weight, made.weight), (found.target, made.target)):
        assert mine.dtype == np.float32
        assert mine.tolist() == ([1.0] * pairs if values is None else values[at].tolist())
    assert (found.raw_pairs, found.cost) == (raw_pairs, pytest.approx(cost))


@given(kept, draws, st.data())
def test_the_smaller_subset_is_a_prefix_of_the_larger(rows, draw, data):
    made = level(rows, costs=True)
    large = data.draw(st.integers(1, available(made, POOL)))
    small = data.draw(st.integers(1, large))
    one, two = (subset(made, n, pool=POOL, seed=1, draw=draw) for n in (small, large))
    for name in ("rows", "orientation", "weight", "target"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name)[:small])
    assert one.raw_pairs <= two.raw_pairs and one.cost <= two.cost
    assert (one.fingerprint == two.fingerprint) == (small == large)


@given(kept, kept, draws)
def test_levels_share_the_order_of_the_rows_they_share(one, two, draw):
    def rows(keep: set[int], name: str) -> list[int]:
        made = level(keep, name=name, costs=name == "b", seed=len(name))
        return subset(made, available(made, POOL), pool=POOL, seed=1, draw=draw).rows.tolist()

    a, b = rows(one, "a"), rows(two, "b")
    common = set(a) & set(b)
    assert [row for row in a if row in common] == [row for row in b if row in common]


def test_draws_and_seeds_give_other_orders_of_the_same_rows():
    orders = {tuple(permutation(POOL, seed=s, draw=d)) for s in range(3) for d in range(3)}
    assert len(orders) == 9
    assert all(sorted(order) == POOL.tolist() for order in orders)


def test_permutations_stay_what_they_were():
    """Draws must not change under our feet: if numpy's streams do, config.SCIENCE_VERSION is to be raised."""
    assert permutation(np.arange(8), seed=0, draw=0).tolist() == PINNED[0]
    assert training_order(4, 10, seed=0, draw=0).tolist() == PINNED[1]


PINNED = ([5, 7, 0, 1, 6, 3, 2, 4], [0, 1, 2, 3, 0, 3, 2, 1, 3, 0])

REMOTE = """
import numpy as np
from rewardscale.data.subsets import subset, training_order
from rewardscale.data.levels import Level
level = Level("some", np.arange(500, dtype=np.uint32), np.where(np.arange(500) % 3, 1, -1).astype(np.int8))
chosen = subset(level, 300, pool=np.arange(400), seed=7, draw=2)
print(level.fingerprint, chosen.fingerprint, training_order(300, 900, seed=7, draw=2).tolist())
"""


def test_another_process_gets_the_same(python, capsys):
    here: dict = {}
    exec(REMOTE, here)
    mine = capsys.readouterr().out
    assert len(mine) > 900 and python(REMOTE).stdout == mine


def test_too_many_pairs_name_the_level_and_the_counts():
    made = level(set(range(0, 40)), name="filtered")
    most = available(made, POOL)
    subset(made, most, pool=POOL, seed=0, draw=0)
    message = rf"level 'filtered' keeps {most} of the {len(POOL)} pairs to draw from, {most + 1} were asked for; lower"
    with pytest.raises(DataError, match=message):
        subset(made, most + 1, pool=POOL, seed=0, draw=0)
    with pytest.raises(DataError, match="at least 1 pair, 0"):
        subset(made, 0, pool=POOL, seed=0, draw=0)


@given(st.integers(1, 20), st.integers(0, 90), st.integers(0, 90), draws)
def test_training_orders_are_epochs_and_longer_ones_begin_with_shorter_ones(pairs, positions, more, draw):
    order = training_order(pairs, positions, seed=1, draw=draw)
    longer = training_order(pairs, positions + more, seed=1, draw=draw)
    assert len(order) == positions and len(longer) == positions + more
    np.testing.assert_array_equal(longer[:positions], order)
    np.testing.assert_array_equal(order[:pairs], np.arange(min(pairs, positions)))
    for start in range(0, positions, pairs):
        epoch = order[start : start + pairs]
        assert len(set(epoch.tolist())) == len(epoch) and (epoch < pairs).all()


def test_further_epochs_are_shuffled_each_in_its_own_way():
    epochs = training_order(50, 200, seed=1, draw=0).reshape(4, 50)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert not np.array_equal(epochs[1], training_order(50, 100, seed=1, draw=1)[50:])
    assert not np.array_equal(epochs[1], training_order(50, 100, seed=2, draw=0)[50:])


def test_no_pairs_have_no_order():
    with pytest.raises(DataError, match="0 pairs have no training order"):
        training_order(0, 4, seed=0, draw=0)


@given(st.integers(1, 30), st.integers(0, 3), st.integers(0, 3))
def test_epochs_one_by_one_are_the_training_order(pairs, epochs, draw):
    order = training_order(pairs, pairs * (epochs + 1), seed=1, draw=draw)
    for epoch in range(epochs + 1):
        own = epoch_order(pairs, epoch, seed=1, draw=draw)
        assert own.dtype == np.uint32 and own.tolist() == order[epoch * pairs : (epoch + 1) * pairs].tolist()


def test_the_permutation_does_not_depend_on_the_pools_type():
    pools = [POOL.astype(dtype) for dtype in (np.int64, np.uint32, np.int32)]
    assert len({tuple(permutation(pool, seed=0, draw=0).tolist()) for pool in pools}) == 1


@pytest.mark.parametrize("costs", [False, True])
def test_a_written_subset_comes_back_as_it_was(tmp_path, costs):
    chosen = subset(level(set(range(40)), costs=costs), 9, pool=POOL, seed=0, draw=0)
    path = write_subset(tmp_path, chosen, about={"level": "some"})
    again = open_subset(path)
    for field in dataclasses.fields(chosen):
        one, two = getattr(chosen, field.name), getattr(again, field.name)
        np.testing.assert_array_equal(one, two)
        if isinstance(one, np.ndarray):
            assert one.dtype == two.dtype
    assert path.name == chosen.fingerprint and (path / "weight.npy").exists() == costs
    before = path.stat().st_mtime_ns
    assert write_subset(tmp_path, again) == path and path.stat().st_mtime_ns == before


def test_a_subset_edited_by_hand_is_named(tmp_path):
    path = write_subset(tmp_path, subset(level(set(range(40))), 9, pool=POOL, seed=0, draw=0))
    np.save(path / "rows.npy", np.zeros(9, np.uint32))
    with pytest.raises(DataError, match=r"rows\.npy was changed after it was written; delete"):
        open_subset(path)
