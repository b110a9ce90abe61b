"""Interval attention for CPUs: block by block of queries, over a window of keys that holds their intervals.

A block's window is as long as its queries need, of a few sizes; what lies outside is never computed, and no more
scores are held than one block's. The blocks of one size follow one another in a loop of their own: XLA spreads over
the cores what a loop does, and not what the branches of a conditional do. Float32 sums and softmax throughout; the
backward pass computes the scores again, keys first, so that none of its products has to transpose them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from rewardscale.models.merging import merged
from rewardscale.models.products import summed, transposed

QUERIES = 128  # a block
SIZES = (1, 2, 3, 4, 6, 8, 12)  # blocks of keys a window; beyond these it is the whole row


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
    """Sizes of windows in a row of `length` keys."""
    return (*(n * QUERIES for n in SIZES if n * QUERIES < length), length)


def windows(lo: jax.Array, hi: jax.Array, length: int) -> tuple[jax.Array, jax.Array]:
    """First key of each block's window [B], and the number of its size, of lo, hi [B, QUERIES]."""
    sizes = window_sizes(length)
    first, needed = lo.min(-1), hi.max(-1) - lo.min(-1)
    number = sum(((needed > size).astype(jnp.int32) for size in sizes[:-1]), jnp.zeros_like(needed))
    return jnp.clip(first, 0, length - jnp.asarray(sizes)[number]), number


def _each(lo: jax.Array, hi: jax.Array, length: int, carry: Any, body: Callable[..., Any]) -> Any:
    """carry = body(size of its window, block, first key of its window, carry) for each block, size after size.

    Blocks of which no query sees a key are left out.
    """
    first, number = windows(lo, hi, length)
    number = jnp.where((hi > lo).any(-1), number, -1)
    order, begin = jnp.argsort(number), (number < 0).sum()
    for n, size in enumerate(window_sizes(length)):

        def one(place: jax.Array, carry: Any, size: int = size) -> Any:
            block = order[place]
            return body(size, block, first[block], carry)

        end = begin + (number == n).sum()
        carry = jax.lax.fori_loop(begin, end, one, carry)
        begin = end
    return carry


def _with_prefix(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, prefix: jax.Array
) -> jax.Array:
    """`_blocks` over two intervals a query, prefix [B, QUERIES, 2], each of them in windows of its own."""
    out, (*_, normaliser) = _forward(q, k, v, lo, hi)
    some = prefix[..., 1] > prefix[..., 0]
    # Where there is no key, ends that widen no window.
    start, end = jnp.where(some, prefix[..., 0], k.shape[2]), jnp.where(some, prefix[..., 1], 0)
    return _forward(q, k, v, start, end, (out, normaliser))[0]


@jax.custom_vjp
def _blocks(q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array) -> jax.Array:
    """q [B, K, Q, d] (B blocks, rows one after another) over k, v [R, K, T, d], lo, hi [B, QUERIES]: like q."""
    return _forward(q, k, v, lo, hi)[0]


def _forward(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lo: jax.Array,
    hi: jax.Array,
    before: tuple[jax.Array, jax.Array] | None = None,
) -> Any:
    """`_blocks`, and what its backward pass needs; `before`: answer and normaliser over other keys, to be merged in."""
    blocks, kv, length, _ = len(q), *k.shape[1:]
    a_row, scale = blocks // len(k), q.shape[-1] ** -0.5

    def one(size: int, block: Any, first: Any, carry: Any) -> Any:
        out, normaliser = carry
        keys, values = (_cut(x, block // a_row, first, size) for x in (k, v))
        scores = (summed(q[block], keys, (2, 2), batch=1) * scale).reshape(kv, -1, QUERIES, size)
        scores = jnp.where(_mask(first, size, lo[block], hi[block]), scores, -1e30)
        weights = jnp.exp(scores - scores.max(-1, keepdims=True))
        total = weights.sum(-1, keepdims=True)
        weights = (weights / total).astype(q.dtype).reshape(kv, -1, size)
        new = summed(weights, values, (2, 1), batch=1)
        # The greatest once more: XLA makes one kernel of the softmax's only where nobody else reads it.
        log = jax.lax.optimization_barrier(scores).max(-1) + jnp.log(total[..., 0])
        if before is not None:  # a query without a key has a log of -1e30, and so no weight
            by_head = (*log.shape, q.shape[-1])
            new, log = merged(out[block].reshape(by_head), normaliser[block], new.reshape(by_head), log)
        new = new.reshape(q.shape[1:]).astype(q.dtype)
        return out.at[block].set(new), normaliser.at[block].set(log)

    none = jnp.zeros((blocks, kv, q.shape[2] // QUERIES, QUERIES), jnp.float32)
    out, normaliser = _each(lo, hi, length, before or (jnp.zeros_like(q), none), one)
    return out, (q, k, v, lo, hi, out, normaliser)


def _backward(kept: Any, cotangent: jax.Array) -> Any:
    q, k, v, lo, hi, out, normaliser = kept
    blocks, kv, length, _ = len(q), *k.shape[1:]
    a_row, scale = blocks // len(k), q.shape[-1] ** -0.5
    along = (
        (out.astype(jnp.float32) * cotangent).sum(-1).reshape(normaliser.shape)
    )  # Dao et al. 2022, appendix B.4

    def one(size: int, block: Any, first: Any, carry: Any) -> Any:
        of_q, of_k, of_v = carry
        row, by_query = block // a_row, (kv, size, -1, QUERIES)  # [K, W, heads a key head, QUERIES]
        keys, values = (_cut(x, row, first, size) for x in (k, v))
        scores = summed(keys, q[block], (2, 2), batch=1).reshape(by_query) * scale
        seen = _mask(first, size, lo[block], hi[block]).T[:, None]
        weights = jnp.exp(jnp.where(seen, scores - normaliser[block][:, None], -1e30)).astype(q.dtype)
        weights = jax.lax.optimization_barrier(weights)  # or each of its two readers computes it anew
        of_weights = summed(values, cotangent[block], (2, 2), batch=1).reshape(by_query)
        of_scores = weights * (of_weights - along[block][:, None]) * scale
        of_scores = jax.lax.optimization_barrier(of_scores.astype(q.dtype)).reshape(kv, size, -1)
        new = summed(transposed(keys), of_scores, (2, 1), batch=1).astype(q.dtype).swapaxes(1, 2)
        of_k = _add(of_k, row, first, summed(of_scores, q[block], (2, 1), batch=1))
        of_v = _add(
            of_v, row, first, summed(weights.reshape(of_scores.shape), cotangent[block], (2, 1), batch=1)
        )
        return of_q.at[block].set(new), of_k, of_v

    zeros = jnp.zeros(k.shape, jnp.float32)
    of_q, of_k, of_v = _each(lo, hi, length, (jnp.zeros_like(q), zeros, zeros), one)
    return of_q, of_k.astype(k.dtype), of_v.astype(v.dtype), None, None


_blocks.defvjp(_forward, _backward)


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
