"""Every path of attention on rows of packed trees that span its blocks: no tree sees another, and it is dense."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.models import attention, splash, windowed
from tests.models.test_attention import both_ways, random_inputs, random_trees

PATHS = ["chunked", "windowed", "splash"]
LENGTH = 640  # tokens: 5 blocks of splash, 2 of chunked, 5 of windowed


def numbers(lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Which tree each token [R, T] is of: a tree begins where no interval reaches across."""
    behind = np.maximum.accumulate(hi, 1)
    ahead = np.minimum.accumulate(lo[:, ::-1], 1)[:, ::-1]
    place = np.arange(1, lo.shape[1])
    begins = (behind[:, :-1] <= place) & (ahead[:, 1:] >= place)
    return np.pad(begins.cumsum(1), ((0, 0), (1, 0)))


@pytest.mark.parametrize("kind", PATHS)
def test_replacing_a_tree_moves_no_other_by_a_bit(kind: str) -> None:
    """Neither its outputs nor what q, k and v get as gradients, whichever row and blocks it lies in."""
    random = np.random.default_rng(4)
    lo, hi = random_trees(random, 2, LENGTH)
    arrays, number = random_inputs(random, 2, LENGTH, 2, 1, 8), numbers(lo, hi)
    attend = attention.among_tokens(kind, jnp.asarray(lo), jnp.asarray(hi), None)
    run = jax.jit(lambda *arrays: both_ways(list(arrays), attend))
    before = jax.tree.leaves(run(*arrays))
    for row, place in ((0, 5), (0, 512), (1, 256), (1, 384)):
        tree = np.zeros(lo.shape, bool)
        tree[row] = number[row] == number[row, place]
        assert 20 < tree.sum() < 300
        changed = [jnp.where(tree[..., None, None], 3 * random.normal(size=x.shape), x) for x in arrays]
        for a, b in zip(before, jax.tree.leaves(run(*changed)), strict=True):
            np.testing.assert_array_equal(np.asarray(a)[~tree], np.asarray(b)[~tree])
            assert (np.asarray(a)[tree] != np.asarray(b)[tree]).mean() > 0.9


def windows(lo: np.ndarray, hi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """First key and size of the window of each block of queries, [R, blocks]."""
    rows, length = lo.shape
    low, high = (jnp.asarray(x.reshape(-1, windowed.QUERIES)) for x in (lo, hi))
    first, number = (np.asarray(x).reshape(rows, -1) for x in windowed.windows(low, high, length))
    return first, np.asarray(windowed.window_sizes(length))[number]


def test_windows_hold_what_is_seen_and_little_else() -> None:
    lo, hi = random_trees(np.random.default_rng(3), 2, 2048)
    first, size = windows(lo, hi)
    by_block = [x.reshape(*first.shape, windowed.QUERIES) for x in (lo, hi)]
    assert (first <= by_block[0].min(2)).all() and (first + size >= by_block[1].max(2)).all()
    assert size.mean() < 0.2 * 2048


def test_the_walks_of_splash_load_no_block_that_is_not_visited() -> None:
    """A block is loaded where the name that stands in the table changes, in both directions."""
    lo, hi = random_trees(np.random.default_rng(3), 2, 2048)
    along_keys, along_queries = splash.block_tables(jnp.asarray(lo), jnp.asarray(hi), 128)
    row = np.repeat([0, 16], 16)[:, None]  # its first block, of both walks
    for table, axis in ((along_keys, 1), (along_queries, 0)):
        named, visited = (np.moveaxis(np.asarray(x)[0], axis, 1) for x in (table.data_next, table.block_mask))
        np.testing.assert_array_equal(named[visited > 0], (row + np.arange(16))[visited > 0])
        assert (np.diff(named, axis=1) != 0).sum() + 32 == visited.sum() < 0.3 * visited.size


def unread(kind: str, lo: np.ndarray, hi: np.ndarray) -> np.ndarray:
    """Keys [T] of a single row that lie in no block's window, or in no visited pair of blocks."""
    if kind == "splash":
        block = splash.block_size(lo.shape[1])
        table, _ = splash.block_tables(jnp.asarray(lo), jnp.asarray(hi), block)
        return np.repeat(~np.asarray(table.block_mask)[0].any(0), block)
    (first,), (size,) = windows(lo, hi)
    place = np.arange(lo.shape[1])
    return ~((place >= first[:, None]) & (place < (first + size)[:, None])).any(0)


@pytest.mark.parametrize("kind", ["windowed", "splash"])
def test_what_is_skipped_is_never_read(kind: str) -> None:
    """Keys and values that are no numbers change nothing where no block needs them, forward and backward.

    The tokens from 512 to 1,024 are seen by none, themselves included: they see the row's first key.
    """
    random = np.random.default_rng(6)
    between = np.zeros((1, 512), np.int32), np.ones((1, 512), np.int32)
    behind = tuple(x + 1024 for x in random_trees(random, 1, 256))
    lo, hi = map(np.hstack, zip(random_trees(random, 1, 512), between, behind, strict=True))
    arrays, nothing = random_inputs(random, 1, 1280, 2, 1, 8), unread(kind, lo, hi)
    assert nothing.sum() >= 128
    attend = attention.among_tokens(kind, jnp.asarray(lo), jnp.asarray(hi), None)
    run = jax.jit(lambda *arrays: both_ways(list(arrays), attend))
    spoilt = [jnp.where(nothing[:, None, None], jnp.nan, x) for x in arrays[1:3]]
    before, after = run(*arrays), run(arrays[0], *spoilt, arrays[3])
    for a, b in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
        assert np.isfinite(a).all()
        np.testing.assert_array_equal(a, b)


TREE = st.tuples(st.integers(0, 150), st.integers(1, 300), st.integers(1, 150))  # left, prompt, right
ROW = st.lists(TREE, max_size=8)


def laid_out(row: list[tuple[int, int, int]], length: int) -> tuple[np.ndarray, np.ndarray]:
    """lo, hi [1, length] of trees of these sizes, those left out that do not fit; the rest sees itself."""
    lo = np.arange(length, dtype=np.int32)
    hi, at = lo + 1, 0
    for left, prompt, right in row:
        p0, p1, end = at + left, at + left + prompt, at + left + prompt + right
        if end <= length:
            hi[at:p0], lo[p0:end], at = p1, p0, end
    return lo[None], hi[None]


@functools.cache
def against_dense(kind: str, dtype: str) -> Any:
    """jit of (q, k, v, weight, lo, hi) -> output and gradients by `kind` in `dtype`, and by dense in float32."""

    def run(arrays: list[jax.Array], lo: jax.Array, hi: jax.Array) -> Any:
        narrow = [x.astype(dtype) for x in arrays]
        wide = [x.astype(jnp.float32) for x in narrow]
        return tuple(
            jax.tree.leaves(both_ways(given_, attention.among_tokens(path, lo, hi, None)))
            for path, given_ in ((kind, narrow), ("dense", wide))
        )

    return jax.jit(run)


@pytest.mark.parametrize("kind", ["splash", "chunked"])
@settings(max_examples=12, deadline=None)
@given(row=ROW, seed=st.integers(0, 99))
def test_any_trees_give_what_dense_gives(kind: str, row: list[tuple[int, int, int]], seed: int) -> None:
    arrays = random_inputs(np.random.default_rng(seed), 1, LENGTH, 2, 1, 8)
    for ours, truth in zip(*against_dense(kind, "float32")(arrays, *laid_out(row, LENGTH)), strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["splash", "chunked"])
@settings(max_examples=6, deadline=None)
@given(row=ROW, seed=st.integers(0, 99))
def test_in_bfloat16_they_do_so_but_rounded(kind: str, row: list[tuple[int, int, int]], seed: int) -> None:
    arrays = random_inputs(np.random.default_rng(seed), 1, LENGTH, 2, 1, 16)
    for ours, truth in zip(*against_dense(kind, "bfloat16")(arrays, *laid_out(row, LENGTH)), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(np.float32), truth, atol=0.02 * max(1, np.abs(truth).max()))
