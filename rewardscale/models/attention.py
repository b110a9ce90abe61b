"""Attention over key intervals: token i of a row attends to the keys [lo_i, hi_i) of that row.

The tree of a pair and the packing of several trees in a row are both such intervals
(data/rows.py). `dense` is the slow, obvious truth; faster paths are tested against it.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rewardscale.mesh import BATCH_AXES
from rewardscale.models import splash

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # q [R, Q, H, d], k, v [R, T, K, d] -> like q


def among_tokens(kind: str, lo: jax.Array, hi: jax.Array, mesh: Mesh | None) -> Attend:
    """Attention of every token of a row over its interval of that row; lo, hi [R, T]; `kind` one of config.ATTENTION.

    "dense" builds all scores, [R, H, T, T]. "splash" runs TPU kernels that skip blocks of keys and never hold
    scores (off TPUs they are interpreted: right, and slow). "auto" is splash on TPUs for rows of 512 tokens or more.
    """
    on_tpu = (mesh.devices.flat[0].platform if mesh is not None else jax.default_backend()) == "tpu"
    if kind == "dense" or (kind == "auto" and not (on_tpu and 512 <= lo.shape[1] <= splash.LONGEST)):
        return at_queries(lo, hi, lo.shape[1])
    kernel = functools.partial(splash.splash, interpret=not on_tpu)
    return lambda q, k, v: over_mesh(kernel, mesh, q, k, v, lo, hi)


def at_queries(lo: jax.Array, hi: jax.Array, keys: int) -> Attend:
    """Dense attention of some queries, whose intervals are lo, hi [R, Q], over `keys` tokens."""
    mask = interval_mask(lo, hi, keys)
    return lambda q, k, v: checkpoint_name(dense(q, k, v, mask), splash.SAVED)


def over_mesh(
    kernel: Callable[..., jax.Array],
    mesh: Mesh | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lo: jax.Array,
    hi: jax.Array,
) -> jax.Array:
    """`kernel`(q, k, v, lo, hi) on each device's share: rows over data x fsdp, heads over "tensor".

    Where "tensor" does not divide the key/value heads, each device picks those that its query heads read; where it
    does not divide the query heads either, heads are not split.
    """
    if mesh is None or mesh.size == 1:
        return kernel(q, k, v, lo, hi)
    heads, kv, parts = q.shape[2], k.shape[2], mesh.shape["tensor"]
    split = "tensor" if heads % parts == 0 else None
    kv_split = split if kv % parts == 0 else None

    def share(q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array) -> jax.Array:
        if split and not kv_split:
            mine = jax.lax.axis_index("tensor") * (heads // parts) + jnp.arange(heads // parts)
            k, v = (jnp.take(x, mine // (heads // kv), axis=2) for x in (k, v))
        return kernel(q, k, v, lo, hi)

    rows, at_query, at_key = (P(BATCH_AXES), P(BATCH_AXES, None, split), P(BATCH_AXES, None, kv_split))
    return jax.shard_map(
        share, mesh=mesh, in_specs=(at_query, at_key, at_key, rows, rows), out_specs=at_query, check_vma=False
    )(q, k, v, lo, hi)


def interval_mask(lo: jax.Array, hi: jax.Array, keys: int) -> jax.Array:
    """Boolean [R, Q, keys] from lo, hi [R, Q]."""
    key = jnp.arange(keys)
    return (key >= lo[..., None]) & (key < hi[..., None])


def dense(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax attention with the softmax in float32.

    Args:
      q: [R, Q, H, d]. k, v: [R, T, K, d]; query head h reads key/value head h // (H / K).
      mask: boolean [R, Q, T]; each query must see at least one key.

    Returns: [R, Q, H, d].
    """
    rows, queries, heads, dim = q.shape
    kv = k.shape[2]
    grouped = q.reshape(rows, queries, kv, heads // kv, dim)
    scores = jnp.einsum("rqkgd,rskd->rkgqs", grouped, k, preferred_element_type=jnp.float32) * dim**-0.5
    scores = jnp.where(mask[:, None, None], scores, -1e30)
    weights = jax.nn.softmax(scores, -1).astype(q.dtype)
    return jnp.einsum("rkgqs,rskd->rqkgd", weights, v).reshape(rows, queries, heads, dim)
