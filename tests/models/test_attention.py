"""Dense interval attention against a softmax written out, token by token; the TPU kernels against dense."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale import mesh as meshes
from rewardscale.config import ConfigError
from rewardscale.models import attention, reward, splash
from tests import small


def softmax_attention(
    q: np.ndarray, k: np.ndarray, v: np.ndarray, lo: np.ndarray, hi: np.ndarray
) -> np.ndarray:
    """Float64, one query at a time."""
    out = np.zeros(q.shape)
    group = q.shape[2] // k.shape[2]
    for row, i, head in np.ndindex(q.shape[:3]):
        keys = slice(lo[row, i], hi[row, i])
        scores = k[row, keys, head // group] @ q[row, i, head] / np.sqrt(q.shape[3])
        weight = np.exp(scores - scores.max())
        out[row, i, head] = weight @ v[row, keys, head // group] / weight.sum()
    return out


def dense(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: jax.Array) -> jax.Array:
    return attention.dense(
        jnp.asarray(q, jnp.float32), jnp.asarray(k, jnp.float32), jnp.asarray(v, jnp.float32), mask
    )


def inputs(
    random: np.random.Generator, rows: int, queries: int, keys: int, heads: int, kv: int, dim: int
) -> tuple[np.ndarray, ...]:
    lo = random.integers(0, keys, (rows, queries))
    hi = random.integers(lo + 1, keys + 1)
    shapes = ((rows, queries, heads, dim), (rows, keys, kv, dim), (rows, keys, kv, dim))
    return *(random.normal(size=shape) for shape in shapes), lo, hi


@pytest.mark.parametrize(("heads", "kv"), [(4, 4), (4, 2), (6, 2), (3, 1)])
def test_dense_is_softmax_over_each_interval(heads: int, kv: int) -> None:
    q, k, v, lo, hi = inputs(np.random.default_rng(heads * kv), 2, 7, 9, heads, kv, 4)
    mask = attention.interval_mask(jnp.asarray(lo), jnp.asarray(hi), 9)
    ours = dense(q, k, v, mask)
    np.testing.assert_allclose(ours, softmax_attention(q, k, v, lo, hi), rtol=1e-5, atol=1e-5)


def test_keys_outside_the_interval_have_no_influence_at_all() -> None:
    random = np.random.default_rng(1)
    q, k, v, lo, hi = inputs(random, 1, 1, 12, 2, 1, 4)
    lo[:], hi[:] = 4, 9
    mask = attention.interval_mask(jnp.asarray(lo), jnp.asarray(hi), 12)
    before = dense(q, k, v, mask)
    k[:, [0, 3, 9, 11]], v[:, [0, 3, 9, 11]] = 1e3, -1e6
    after = dense(q, k, v, mask)
    np.testing.assert_array_equal(before, after)


def test_large_scores_do_not_overflow() -> None:
    q = jnp.full((1, 2, 1, 4), 300.0)
    mask = attention.interval_mask(jnp.array([[0, 1]]), jnp.array([[1, 2]]), 2)
    out = attention.dense(q, q, jnp.array([[[[1.0] * 4], [[2.0] * 4]]])[0][None], mask)
    np.testing.assert_array_equal(out[0, :, 0, 0], [1.0, 2.0])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=5))
def test_interval_mask_is_lo_to_hi(intervals: list[tuple[int, int]]) -> None:
    lo, hi = (np.array([side], np.int32) for side in zip(*intervals, strict=True))
    mask = np.asarray(attention.interval_mask(jnp.asarray(lo), jnp.asarray(hi), 6))
    assert mask.shape == (1, len(intervals), 6)
    for i, (a, b) in enumerate(intervals):
        assert np.flatnonzero(mask[0, i]).tolist() == list(range(a, min(b, 6)))


def random_trees(random: np.random.Generator, rows: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """lo, hi [rows, length] of rows packed with [left reversed | prompt | right] trees; the rest sees itself."""
    lo = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    hi = lo + 1
    for row in range(rows):
        at = 0
        while True:
            left, prompt, right = random.integers(0, 90), random.integers(1, 120), random.integers(1, 90)
            if at + left + prompt + right > length:
                break
            p0, p1 = at + left, at + left + prompt
            hi[row, at:p0] = p1
            lo[row, p0 : p1 + right] = p0
            at = p1 + right
    return lo, hi


def both_ways(arrays: list[jax.Array], attend: attention.Attend) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Output and gradients of attention; `arrays` as of `random_inputs`."""
    q, k, v, weight = arrays

    def summed(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = attend(q, k, v)
        return (out * weight).sum(), out

    gradients, out = jax.jit(jax.grad(summed, (0, 1, 2), has_aux=True))(q, k, v)
    return out, gradients


def random_inputs(
    random: np.random.Generator, rows: int, length: int, heads: int, kv: int, dim: int
) -> list[jax.Array]:
    """q, k, v and weights of the output."""
    shapes = [(rows, length, n, dim) for n in (heads, kv, kv, heads)]
    return [jnp.asarray(random.normal(size=shape), jnp.float32) for shape in shapes]


def assert_like_dense(
    arrays: list[jax.Array],
    lo: np.ndarray,
    hi: np.ndarray,
    mesh: jax.sharding.Mesh | None = None,
    kind: str = "splash",
) -> None:
    fast = both_ways(arrays, attention.among_tokens(kind, jnp.asarray(lo), jnp.asarray(hi), mesh))
    slow = both_ways(arrays, attention.among_tokens("dense", jnp.asarray(lo), jnp.asarray(hi), mesh))
    for ours, truth in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "length", "heads", "kv", "dim"),
    [(1, 512, 2, 2, 64), (2, 384, 4, 2, 128), (1, 1024, 3, 1, 64), (3, 200, 4, 1, 16)],
)
def test_splash_is_dense_on_random_trees_forward_and_backward(
    rows: int, length: int, heads: int, kv: int, dim: int
) -> None:
    random = np.random.default_rng(length)
    assert_like_dense(
        random_inputs(random, rows, length, heads, kv, dim), *random_trees(random, rows, length)
    )


def test_splash_takes_any_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where blocks are small, so that most are skipped, some keys are seen by none and tokens do not see themselves."""
    monkeypatch.setattr(splash, "_LARGEST_BLOCK", 128)
    random = np.random.default_rng(0)
    lo = random.integers(0, 600, (2, 640)).astype(np.int32)
    hi = np.minimum(lo + random.integers(1, 40, lo.shape), 600).astype(np.int32)
    assert_like_dense(random_inputs(random, 2, 640, 2, 1, 8), lo, hi)


def test_rows_that_fill_the_kernels_index_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splash, "LONGEST", 512)
    random = np.random.default_rng(0)
    assert_like_dense(random_inputs(random, 4, 256, 2, 2, 8), *random_trees(random, 4, 256))
    with pytest.raises(ValueError, match="at most 512 tokens, not 600"):
        splash.splash(*jnp.zeros((3, 1, 600, 1, 8)), *jnp.ones((2, 1, 600), int), interpret=True)


def test_the_last_key_of_the_longest_row_can_be_named() -> None:
    lo = jnp.full((1, splash.LONGEST), splash.LONGEST - 3)
    table, _ = splash.block_tables(lo, lo + 3, 512)
    code = jnp.asarray(table.q_sequence)[-1]
    keys = jnp.array([0, splash.LONGEST - 4, splash.LONGEST - 3, splash.LONGEST - 1])
    np.testing.assert_array_equal(splash._sees(code, keys), [False, False, True, True])


def test_block_tables_visit_what_is_needed_and_little_else() -> None:
    lo, hi = random_trees(np.random.default_rng(3), 2, 2048)
    along_keys, along_queries = splash.block_tables(jnp.asarray(lo), jnp.asarray(hi), 128)
    mask = np.asarray(attention.interval_mask(jnp.asarray(lo), jnp.asarray(hi), 2048))
    needed = mask.reshape(2, 16, 128, 16, 128).any((2, 4))
    visited = np.asarray(along_keys.block_mask).reshape(2, 16, 16) > 0
    assert (visited >= needed).all() and visited.sum() < 1.2 * needed.sum() < 0.3 * visited.size
    ours = np.asarray(along_queries.block_mask).reshape(16, 2, 16) > 0
    np.testing.assert_array_equal(ours, visited.transpose(1, 0, 2))
    named = np.asarray(along_keys.data_next).reshape(2, 16, 16)
    each = np.arange(2)[:, None, None] * 16 + np.arange(16)
    np.testing.assert_array_equal(named[visited], np.broadcast_to(each, visited.shape)[visited])


@pytest.mark.parametrize(
    ("shape", "heads", "kv"), [((2, 2, 2), 4, 2), ((1, 2, 4), 8, 2), ((2, 1, 4), 4, 3), ((1, 1, 8), 6, 2)]
)
def test_splash_over_a_mesh_is_dense_however_heads_divide(
    shape: tuple[int, int, int], heads: int, kv: int
) -> None:
    if heads % kv:
        heads = kv * 4  # 12 query heads over 4 devices, 3 key/value heads over none
    random = np.random.default_rng(heads)
    lo, hi = random_trees(random, 4, 256)
    mesh = meshes.make_mesh(shape)
    assert_like_dense(random_inputs(random, 4, 256, heads, kv, 8), lo, hi, mesh)


@pytest.mark.parametrize("length", [60, 128, 150])
def test_chunked_is_dense(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERIES", 64)
    random = np.random.default_rng(length)
    lo, hi = random_trees(random, 2, length)
    assert_like_dense(random_inputs(random, 2, length, 4, 2, 8), lo, hi, kind="chunked")


@pytest.mark.parametrize(
    ("rows", "length", "heads", "kv", "dim"), [(2, 128, 4, 2, 8), (1, 700, 2, 1, 16), (3, 1024, 3, 3, 8)]
)
def test_windowed_is_dense_on_random_trees_forward_and_backward(
    rows: int, length: int, heads: int, kv: int, dim: int
) -> None:
    random = np.random.default_rng(length)
    trees = random_trees(random, rows, length)
    assert_like_dense(random_inputs(random, rows, length, heads, kv, dim), *trees, kind="windowed")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 300))
def test_windowed_takes_any_intervals(seed: int, longest: int) -> None:
    random = np.random.default_rng(seed)
    lo = random.integers(0, 330, (1, 330)).astype(np.int32)
    hi = np.minimum(lo + random.integers(1, longest + 1, lo.shape), 330).astype(np.int32)
    assert_like_dense(random_inputs(random, 1, 330, 2, 1, 8), lo, hi, kind="windowed")


def test_windowed_in_bfloat16_is_dense_but_rounded() -> None:
    random = np.random.default_rng(2)
    lo, hi = random_trees(random, 1, 512)
    arrays = random_inputs(random, 1, 512, 2, 1, 16)
    narrow = [x.astype(jnp.bfloat16) for x in arrays]
    places = jnp.asarray(lo), jnp.asarray(hi)
    fast = both_ways(narrow, attention.among_tokens("windowed", *places, None))
    slow = both_ways([x.astype(jnp.float32) for x in narrow], attention.among_tokens("dense", *places, None))
    for ours, truth in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(ours, np.float32), truth, rtol=0.05, atol=0.1)


def test_windowed_over_a_mesh_is_dense() -> None:
    random = np.random.default_rng(8)
    lo, hi = random_trees(random, 4, 256)
    mesh = meshes.make_mesh((2, 2, 2))
    assert_like_dense(random_inputs(random, 4, 256, 4, 2, 8), lo, hi, mesh, kind="windowed")


def test_auto_on_cpus_holds_no_row_of_scores_whole() -> None:
    lo, hi = jnp.zeros((1, 4096), int), jnp.arange(1, 4097)[None]
    arrays = jnp.ones((3, 1, 4096, 1, 8))
    path = attention.path("auto", small.MODEL, "float32", lo.shape, None)
    text = jax.jit(attention.among_tokens(path, lo, hi, None)).lower(*arrays).as_text()
    assert "128x4096" in text and "4096x4096" not in text


@pytest.mark.parametrize(
    ("device", "length", "kind"),
    [("tpu", 4096, "splash"), ("tpu", 64, "dense"), ("cpu", 28, "dense"), ("cpu", 256, "windowed"),
     ("gpu", 1024, "cudnn"), ("gpu", 4096, "cudnn")],
)  # fmt: skip
def test_auto_chooses_by_platform_and_length(device: str, length: int, kind: str) -> None:
    assert (attention._kernels(device, length) or attention._fitting(device, length)) == kind


@pytest.mark.parametrize(("device", "length", "kind"), [("gpu", 2048, "dense"), ("tpu", 4096, "chunked")])
def test_without_kernels_it_goes_by_length(device: str, length: int, kind: str) -> None:
    assert attention._fitting(device, length) == kind


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="'flash' must be one of auto, dense, chunked, windowed, splash, cudnn"
    ):
        reward.Options(attention="flash")
