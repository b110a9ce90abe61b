"""Exact nearest neighbours by inner product: a matmul a block of the index, over all devices.

The index of curation is the verified set, 10^5 pairs or so, and grows each iteration: nothing to build or keep beats a
matmul there. Each device holds its part of a block and finds its own k best; those are merged. The result depends on
the vectors alone: not on blocks, devices or rounding, and among equals the lower row comes first.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rewardscale import mesh as meshes

BLOCK = 65_536  # rows of the index at once
QUERIES = 1024
_SPARE = 8  # looked at beyond k: the order in float64 decides
_UNSURE = 256  # queries at once whose last places tie, to within float32, with rows that were not looked at
_NUMBERS = 2**24  # held at once on the host


def top_k(
    queries: np.ndarray,
    index: np.ndarray,
    k: int,
    *,
    query_groups: np.ndarray | None = None,
    index_groups: np.ndarray | None = None,
    mesh: Mesh | None = None,
    block: int = BLOCK,
    approximate: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """The k rows of `index` with the largest inner products, best first, of equals the lower row.

    Args:
      queries: float32 [m, d]. index: float32 [n, d], may be mapped.
      query_groups, index_groups: int64 [m], [n]; a row of a query's own group is not found (itself, its prompt).
      mesh: of the devices that share the work; by default the first alone.
      block: rows of the index at once.
      approximate: XLA's approximate search (TPU-KNN, arXiv 2206.14286), recall 0.95; exact on a CPU.

    Returns:
      int64 [m, k] rows, -1 where there are fewer, and float32 [m, k] inner products, -inf there.
    """
    m, n = len(queries), len(index)
    if not (m and n and k):
        return np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32)
    mesh = mesh or meshes.make_mesh((1, 1, 1), jax.devices()[:1])
    parts = mesh.size
    block = -(-min(block, max(n, 1)) // parts) * parts
    mine = np.full(m, -1, np.int64) if query_groups is None else query_groups
    theirs = np.full(n, -2, np.int64) if index_groups is None else index_groups
    # Groups as small numbers: devices hold 32 bits.
    _, numbers = np.unique(np.concatenate([mine, theirs]), return_inverse=True)
    mine, theirs = numbers[:m].astype(np.int32), numbers[m:].astype(np.int32)
    found = _search(queries, index, mine, theirs, k + _SPARE, mesh, block, approximate)
    ids, scores, least = _ordered(queries, index, found, k)
    unsure = np.flatnonzero(np.isfinite(least) & (not approximate))
    for at in range(0, len(unsure), _UNSURE):
        some = unsure[at : at + _UNSURE]
        hidden = functools.partial(_same, mine[some], theirs)
        ids[some], scores[some] = _among_ties(queries[some], index, hidden, least[some], k)
    return ids, scores.astype(np.float32)


def _same(mine: np.ndarray, theirs: np.ndarray, rows: slice) -> np.ndarray:
    return mine[:, None] == theirs[None, rows]


def _search(
    queries: np.ndarray,
    index: np.ndarray,
    mine: np.ndarray,
    theirs: np.ndarray,
    k: int,
    mesh: Mesh,
    block: int,
    approximate: bool,
) -> np.ndarray:
    """int32 [queries, k]: rows, about the best first, -1 where there are fewer. The index is read once."""
    # few shapes, few compilations
    size = QUERIES if len(queries) > QUERIES else -(-len(queries) // 8) * 8
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = NamedSharding(mesh, PartitionSpec())
    parts = [slice(at, at + size) for at in range(0, len(queries), size)]
    asked = [
        jax.device_put((_padded(queries[part], size), _padded(mine[part], size)), whole) for part in parts
    ]
    none = (np.full((size, k), -np.inf, np.float32), np.full((size, k), -1, np.int32))
    best = [jax.device_put(none, whole) for _ in parts]
    how: dict[str, Any] = {"k": k, "mesh": mesh, "approximate": approximate}
    for first in range(0, len(index), block):
        piece = np.ascontiguousarray(index[first : first + block], np.float32)
        held = jax.device_put((_padded(piece, block), _padded(theirs[first : first + block], block)), split)
        place = (np.int32(first), np.int32(len(piece)))
        for number, each in enumerate(asked):
            best[number] = _block(*each, *held, *best[number], *place, **how)
    return np.concatenate(
        [np.asarray(ids)[: len(queries[part])] for (_, ids), part in zip(best, parts, strict=True)]
    )


@functools.partial(jax.jit, static_argnames=("k", "mesh", "approximate"))
def _block(
    queries: Any, mine: Any, rows: Any, theirs: Any, scores: Any, ids: Any, first: Any, valid: Any, **how: Any
) -> tuple[Any, Any]:
    """The best so far and those of one block, merged: float32 and int32 [queries, k]."""
    k, mesh, approximate = how["k"], how["mesh"], how["approximate"]
    axes = mesh.axis_names

    def local(queries: Any, mine: Any, rows: Any, theirs: Any, valid: Any) -> tuple[Any, Any]:
        products = jnp.matmul(queries, rows.T, precision=jax.lax.Precision.HIGHEST)
        at = jax.lax.axis_index(axes) * len(rows) + jnp.arange(len(rows), dtype=jnp.int32)
        hidden = (mine[:, None] == theirs[None, :]) | (at >= valid)
        products = jnp.where(hidden, -jnp.inf, products)
        best = min(k, len(rows))
        if approximate:
            values, where = jax.lax.approx_max_k(products, best, recall_target=0.95)
        else:
            values, where = jax.lax.top_k(products, best)
        return values, at[where]

    whole, split = PartitionSpec(), PartitionSpec(axes)
    values, at = jax.shard_map(
        local,
        mesh=mesh,
        in_specs=(whole, whole, split, split, whole),
        out_specs=(PartitionSpec(None, axes), PartitionSpec(None, axes)),
    )(queries, mine, rows, theirs, valid)
    # Lower rows stand first, and top_k takes the first of equals.
    values = jnp.concatenate([scores, values], axis=1)
    at = jnp.concatenate([ids, jnp.where(values[:, k:] == -jnp.inf, -1, at + first)], axis=1)
    values, where = jax.lax.top_k(values, k)
    return values, jnp.take_along_axis(at, where, axis=1)


def _ordered(
    queries: np.ndarray, index: np.ndarray, found: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k best of what was found, by their inner products in float64, of equals the lower row.

    Returns rows int64 [m, k], products float64 [m, k], and float64 [m]: what a row that was not found would have to
    reach to belong there, +inf where none can, whatever rounding did in float32.
    """
    scores, slack = np.full(found.shape, -np.inf), np.zeros(len(found))
    at_once = max(1, _NUMBERS // (found.shape[1] * queries.shape[1]))
    for at in range(0, len(found), at_once):
        some = slice(at, at + at_once)
        rows = np.asarray(index[np.maximum(found[some], 0)], np.float64)
        products = np.einsum("md,mkd->mk", queries[some].astype(np.float64), rows)
        scores[some] = np.where(found[some] < 0, -np.inf, products)
        slack[some] = np.linalg.norm(rows, axis=2).max(axis=1)
    slack *= np.linalg.norm(queries, axis=1) * queries.shape[1] * 2 * np.finfo(np.float32).eps
    ids = np.where(found < 0, np.iinfo(np.int64).max, found.astype(np.int64))
    order = np.lexsort((ids, -scores), axis=1)
    last = scores.min(axis=1)
    scores = np.take_along_axis(scores, order, axis=1)[:, :k]
    ids = np.take_along_axis(found, order, axis=1).astype(np.int64)[:, :k]
    unsure = np.isfinite(last) & (last >= scores[:, -1] - slack)
    return ids, scores, np.where(unsure, scores[:, -1] - slack, np.inf)


def _among_ties(
    queries: np.ndarray, index: np.ndarray, hidden: Any, least: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """As `_ordered`, from all rows that reach `least` [m] in float32; `hidden(rows)` bool [m, rows] are left out."""
    m = len(queries)
    ids, scores = np.full((m, k), -1, np.int64), np.full((m, k), -np.inf)
    wide, at_once = queries.astype(np.float64), max(1, _NUMBERS // queries.shape[1])
    for first in range(0, len(index), at_once):
        rows = slice(first, first + at_once)
        piece = np.asarray(index[rows], np.float32)
        near = (queries @ piece.T >= least[:, None]) & ~hidden(rows)
        for query in np.flatnonzero(near.any(axis=1)):
            place = np.flatnonzero(near[query])
            # einsum and no matmul: it sums every row in one order, so equal rows have equal products
            products = np.einsum("d,kd->k", wide[query], piece[place].astype(np.float64))
            both = np.concatenate([scores[query], products])
            order = np.argsort(-both, kind="stable")[:k]  # rows come in ascending order
            ids[query] = np.concatenate([ids[query], place + first])[order]
            scores[query] = both[order]
    return ids, scores


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    if len(values) == rows:
        return values
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])
