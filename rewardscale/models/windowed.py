"""Interval attention for CPUs: block by block of queries, over a window of keys that holds their intervals.

A block's window is as long as its queries need, of a few sizes; what lies outside is never computed, and no more
scores are held than one block's. Float32 sums and softmax throughout; the backward pass computes the scores again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rewardscale.models.merging import merged
from rewardscale.models.products import summed, transposed

QUERIES = 128  # a block


def windowed(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, prefix: jax.Array | None = None
) -> jax.Array:
    """Attention of q [R, T, H, d] over k, v [R, T, K, d], query i over the keys [lo_i, hi_i): like q.

    Args:
      lo, hi: int32 [R, T]; each query must see at least one key.
      prefix: int32 [R, T, 2], a second interval apart from the first; it may be empty.
    """
    rows, length, heads, dim = q.shape
    kv, blocks = k.shape[2], -(-length // QUERIES)
    over = ((0, 0), (0, blocks * QUERIES - length))
    q = jnp.pad(q, (*over, (0, 0), (0, 0)))
    lo, hi = (jnp.pad(x, over, mode="edge").reshape(rows * blocks, QUERIES) for x in (lo, hi))
    # [R * blocks, K, heads a key head * QUERIES, d]: blocks of one row side by side, query heads with their key head
    q = q.reshape(rows, blocks, QUERIES, kv, heads // kv, dim).transpose(0, 1, 3, 4, 2, 5)
    q = q.reshape(rows * blocks, kv, -1, dim)
    k, v = k.swapaxes(1, 2), v.swapaxes(1, 2)
    if prefix is None:
        out = _blocks(q, k, v, lo, hi)
    else:
        prefix = jnp.pad(prefix, (*over, (0, 0))).reshape(rows * blocks, QUERIES, 2)
        out = _with_prefix(q, k, v, lo, hi, prefix)
    out = out.reshape(rows, blocks, kv, heads // kv, QUERIES, dim).transpose(0, 1, 4, 2, 3, 5)
    return out.reshape(rows, blocks * QUERIES, heads, dim)[:, :length]


def window_sizes(length: int) -> tuple[int, ...]:
    """Sizes of windows in a row of `length` keys: from two blocks on, doubling, up to the row."""
    sizes, size = [], 2 * QUERIES
    while size < length:
        sizes.append(size)
        size *= 2
    return (*sizes, length)


def _windows(lo: jax.Array, hi: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """First key of each block's window, and the number of its size."""
    sizes = window_sizes(length)
    first, needed = lo.min(-1), hi.max(-1) - lo.min(-1)
    number = sum(((needed > size).astype(jnp.int32) for size in sizes[:-1]), jnp.zeros_like(needed))
    return jnp.clip(first, 0, length - jnp.asarray(sizes)[number]), number


def _with_prefix(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, prefix: jax.Array
) -> jax.Array:
    """`_blocks` over two intervals a query, prefix [B, QUERIES, 2], each of them in windows of its own."""
    own, (*_, log) = _forward(q, k, v, lo, hi)
    some = prefix[..., 1] > prefix[..., 0]
    start, end = jnp.where(some, prefix[..., 0], k.shape[2]), jnp.where(some, prefix[..., 1], 0)

    def with_more(own: jax.Array) -> jax.Array:
        more, (*_, more_log) = _forward(
            q, k, v, start, end
        )  # where there is no key, ends that widen no window
        more_log = jnp.where(some[:, None, None, :, None], more_log, -jnp.inf)
        flat = (x.reshape(q.shape[:-1]) for x in (log, more_log))
        return merged(own, next(flat), more, next(flat))[0].astype(q.dtype)

    return jax.lax.cond(some.any(), with_more, lambda own: own, own)


@jax.custom_vjp
def _blocks(q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array) -> jax.Array:
    """q [B, K, Q, d] (B blocks, rows one after another) over k, v [R, K, T, d], lo, hi [B, QUERIES]: like q."""
    return _forward(q, k, v, lo, hi)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array) -> Any:
    blocks, length = len(q), k.shape[2]
    a_row = blocks // len(k)
    first, number = _windows(lo, hi, length)

    def one(block: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
        i, number, *arguments = block
        return jax.lax.switch(number, sizes, i // a_row, *arguments)

    def of(size: int) -> Callable[..., tuple[jax.Array, jax.Array]]:
        def window(row: Any, first: Any, q: jax.Array, lo: jax.Array, hi: jax.Array) -> Any:
            keys, values = _cut(k, row, first, size), _cut(v, row, first, size)
            scores = jnp.where(_mask(first, size, lo, hi), _scores(q, keys), -1e30)
            most = scores.max(-1, keepdims=True)
            weights = jnp.exp(scores - most)
            total = weights.sum(-1, keepdims=True)
            out = summed(_flat(weights / total).astype(q.dtype), values, (2, 1), batch=1)
            return out.astype(q.dtype), most + jnp.log(total)

        return window

    sizes = [of(size) for size in window_sizes(length)]
    out, normaliser = jax.lax.map(one, (jnp.arange(blocks), number, first, q, lo, hi))
    return out, (q, k, v, lo, hi, out, normaliser)


def _backward(kept: Any, cotangent: jax.Array) -> Any:
    q, k, v, lo, hi, out, normaliser = kept
    blocks, length = len(q), k.shape[2]
    a_row = blocks // len(k)
    first, number = _windows(lo, hi, length)
    along = (out.astype(jnp.float32) * cotangent).sum(-1, keepdims=True)  # Dao et al. 2022, appendix B.4

    def one(sums: tuple[jax.Array, jax.Array], block: tuple[Any, ...]) -> Any:
        i, number, *arguments = block
        of_k, of_v, of_q = jax.lax.switch(number, sizes, *sums, i // a_row, *arguments)
        return (of_k, of_v), of_q

    def of(size: int) -> Callable[..., tuple[jax.Array, jax.Array, jax.Array]]:
        def window(
            of_k: jax.Array,
            of_v: jax.Array,
            row: Any,
            first: Any,
            q: jax.Array,
            lo: jax.Array,
            hi: jax.Array,
            cotangent: jax.Array,
            along: jax.Array,
            normaliser: jax.Array,
        ) -> Any:
            keys, values = _cut(k, row, first, size), _cut(v, row, first, size)
            weights = jnp.exp(_scores(q, keys) - normaliser)
            weights = _flat(jnp.where(_mask(first, size, lo, hi), weights, 0.0))
            of_weights = summed(cotangent, values, (2, 2), batch=1)
            of_scores = (weights * (of_weights - along) * q.shape[-1] ** -0.5).astype(q.dtype)
            of_q = summed(of_scores, keys, (2, 1), batch=1).astype(q.dtype)
            of_k = _add(of_k, row, first, summed(transposed(of_scores), q, (2, 1), batch=1))
            new = summed(transposed(weights.astype(q.dtype)), cotangent, (2, 1), batch=1)
            return of_k, _add(of_v, row, first, new), of_q

        return window

    sizes = [of(size) for size in window_sizes(length)]
    zeros = jnp.zeros(k.shape, jnp.float32)
    (of_k, of_v), of_q = jax.lax.scan(
        one, (zeros, zeros), (jnp.arange(blocks), number, first, q, lo, hi, cotangent, along, normaliser)
    )
    return of_q, of_k.astype(k.dtype), of_v.astype(v.dtype), None, None


_blocks.defvjp(_forward, _backward)


def _scores(q: jax.Array, keys: jax.Array) -> jax.Array:
    """q [K, Q, d] times keys [K, W, d]: [K, heads a key head, QUERIES, W]."""
    scores = summed(q, keys, (2, 2), batch=1) * q.shape[-1] ** -0.5
    return scores.reshape(len(q), -1, QUERIES, keys.shape[1])


def _flat(weights: jax.Array) -> jax.Array:
    """[K, heads a key head, QUERIES, W] -> [K, Q, W]."""
    return weights.reshape(len(weights), -1, weights.shape[-1])


def _mask(first: Any, size: int, lo: jax.Array, hi: jax.Array) -> jax.Array:
    """Boolean [QUERIES, size]: which keys of a window each query sees."""
    key = first + jnp.arange(size)
    return (key >= lo[:, None]) & (key < hi[:, None])


def _cut(x: jax.Array, row: Any, first: Any, size: int) -> jax.Array:
    """x [R, K, T, d] -> [K, size, d]."""
    return jax.lax.dynamic_slice(x, (row, 0, first, 0), (1, x.shape[1], size, x.shape[3]))[0]


def _add(x: jax.Array, row: Any, first: Any, new: jax.Array) -> jax.Array:
    """x [R, K, T, d] with `new` [K, size, d] added where `_cut` takes it from."""
    old = _cut(x, row, first, new.shape[1])
    return jax.lax.dynamic_update_slice(x, (old + new)[None], (row, 0, first, 0))
