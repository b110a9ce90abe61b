"""Exact nearest neighbours by inner product: a matmul a block of the index, over all devices.

The index of curation is the verified set, 10^5 pairs or so, and grows each iteration: nothing to build or keep beats a
matmul there. Each device holds its part of a block and finds its own k best; those are merged.
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
_SPARE = 8  # looked at beyond k, so that the order in float64 decides


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
      block: rows of the index at once. It changes the result only where more than eight rows tie for the last place
        to within float32.
      approximate: XLA's approximate search (TPU-KNN, arXiv 2206.14286), recall 0.95; exact on a CPU.

    Returns:
      int64 [m, k] rows, -1 where there are fewer, and float32 [m, k] inner products, -inf there.
    """
    m, n = len(queries), len(index)
    mesh = mesh or meshes.make_mesh((1, 1, 1), jax.devices()[:1])
    parts = mesh.size
    block = -(-min(block, max(n, 1)) // parts) * parts
    wanted = k + _SPARE
    mine = np.full(m, -1, np.int64) if query_groups is None else query_groups
    theirs = np.full(n, -2, np.int64) if index_groups is None else index_groups
    # Groups as small numbers: devices hold 32 bits.
    _, numbers = np.unique(np.concatenate([mine, theirs]), return_inverse=True)
    mine, theirs = numbers[:m].astype(np.int32), numbers[m:].astype(np.int32)
    out_ids, out_scores = np.full((m, k), -1, np.int64), np.full((m, k), -np.inf, np.float32)
    for at in range(0, m, QUERIES):
        some = slice(at, at + QUERIES)
        found = _search(queries[some], index, mine[some], theirs, wanted, mesh, block, approximate)
        out_ids[some], out_scores[some] = _ordered(queries[some], index, found, k)
    return out_ids, out_scores


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
    """int32 [queries, k]: rows in no certain order, -1 where there are fewer."""
    rows = -(-len(queries) // 8) * 8 if len(queries) < QUERIES else QUERIES  # few shapes, few compilations
    split = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    whole = NamedSharding(mesh, PartitionSpec())
    asked = jax.device_put((_padded(queries, rows), _padded(mine, rows)), whole)
    scores = jax.device_put(np.full((rows, k), -np.inf, np.float32), whole)
    ids = jax.device_put(np.full((rows, k), -1, np.int32), whole)
    for first in range(0, len(index), block):
        piece = np.ascontiguousarray(index[first : first + block], np.float32)
        held = jax.device_put((_padded(piece, block), _padded(theirs[first : first + block], block)), split)
        scores, ids = _block(
            *asked,
            *held,
            scores,
            ids,
            np.int32(first),
            np.int32(len(piece)),
            k=k,
            mesh=mesh,
            approximate=approximate,
        )
    return np.asarray(ids)[: len(queries)]


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
) -> tuple[np.ndarray, np.ndarray]:
    """The k best of what was found, by their inner products in float64, of equals the lower row."""
    scores = np.einsum(
        "md,mkd->mk", queries.astype(np.float64), np.asarray(index[np.maximum(found, 0)], np.float64)
    )
    scores = np.where(found < 0, -np.inf, scores)
    ids = np.where(found < 0, np.iinfo(np.int64).max, found.astype(np.int64))
    order = np.lexsort((ids, -scores), axis=1)[:, :k]
    best = np.take_along_axis(scores, order, axis=1)
    rows = np.take_along_axis(found, order, axis=1).astype(np.int64)
    return rows, best.astype(np.float32)


def _padded(values: np.ndarray, rows: int) -> np.ndarray:
    if len(values) == rows:
        return values
    return np.concatenate([values, np.zeros((rows - len(values), *values.shape[1:]), values.dtype)])
