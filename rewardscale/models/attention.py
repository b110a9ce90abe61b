"""Attention over key intervals: token i of a row attends to the keys [lo_i, hi_i) of that row.

The tree of a pair and the packing of several trees in a row are both such intervals
(data/rows.py). The tokens of a tree's branches see its prompt beside it, a second interval: "prefix"
[R, T, 2], empty for all others. `dense` is the slow, obvious truth; faster paths are tested against it.
"""

import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rewardscale.config import ConfigError, ModelConfig
from rewardscale.mesh import BATCH_AXES, attached, hosts, platform
from rewardscale.models import cudnn, splash
from rewardscale.models.windowed import windowed

DENSE_UP_TO = 2048  # tokens of a row, where "auto" chooses
WINDOWED_FROM = 256  # tokens of a row, on CPUs
SPLASH_FROM = 512  # tokens of a row, on TPUs
QUERIES = 512  # whose scores "chunked" holds at once
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # q [R, Q, H, d], k, v [R, T, K, d] -> like q


def path(kind: str, model: ModelConfig, dtype: str, shape: Sequence[int], mesh: Mesh | None) -> str:
    """The path that `kind`, one of config.ATTENTION, means for rows of `shape` (rows, length): any but "auto".

    "dense" builds all scores, [R, H, T, T]; "chunked" those of QUERIES queries at a time, [R, H, QUERIES, T], backward
    too. "splash" runs TPU kernels that skip blocks of keys and never hold scores (off TPUs they are interpreted:
    right, and slow). "cudnn" runs cuDNN's on NVIDIA GPUs from Hopper on, which never hold them either. "windowed"
    computes blocks of queries over windows of keys, for CPUs.

    "auto" is splash on TPUs for rows of SPLASH_FROM tokens, and cudnn on GPUs, where their kernels can be had and pass
    their test on this device (models/selftest.py), and otherwise stderr tells why not; windowed on CPUs for rows of
    WINDOWED_FROM; else dense, but chunked for rows longer than DENSE_UP_TO. Nothing is tested where programs can be
    compiled but not run (training/aot.py).

    Raises ConfigError if "cudnn" is asked for and cannot be had, or "splash" on TPUs, or if the test fails on a run of
    several hosts: the others might not fall back.
    """
    device = mesh.devices.flat[0] if mesh is not None else jax.local_devices()[0]
    fitting = _fitting(device.platform, shape[1])
    wanted = (_kernels(device.platform, shape[1]) or fitting) if kind == "auto" else kind
    if wanted not in ("splash", "cudnn") or (wanted == "splash" and device.platform != "tpu"):
        return wanted
    local = jax.local_devices()[0] if mesh is None else mesh.local_devices[0]
    heads = (model.heads, model.kv_heads, model.head_dim)
    if wanted == "splash":
        reason = splash.refusal(dtype, shape[1])
        test = functools.partial(splash.failure, _truth, local, dtype, *heads, splash.block_size(shape[1]))
    else:
        parts = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in BATCH_AXES)
        reason = cudnn.refusal(device, dtype, *heads, tokens=shape[0] * shape[1] // parts)
        test = functools.partial(cudnn.failure, _truth, local, dtype, *heads)
    tested = not reason and attached(device)
    if tested:
        reason = test()
    if not reason:
        return wanted
    if kind == wanted or (tested and hosts() > 1):
        raise ConfigError(f"attention={wanted!r}: {reason}; give attention='{fitting}' instead")
    _warn(f"attention is {fitting}, slower and larger than {wanted}'s: {reason}")
    return fitting


def _kernels(device: str, length: int) -> str:
    """The kernels for rows of `length` tokens on devices of that platform, or ""."""
    if device == "tpu" and length >= SPLASH_FROM:
        return "splash"
    return "cudnn" if device == "gpu" else ""


def _fitting(device: str, length: int) -> str:
    """What "auto" is for rows of `length` tokens on devices of that platform without kernels."""
    if device == "cpu" and length >= WINDOWED_FROM:
        return "windowed"
    return "dense" if length <= DENSE_UP_TO else "chunked"


@functools.cache
def _warn(message: str) -> None:
    """Once a process."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def ordered(kind: str, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
    """The batch (data/rows.py) in the order of tokens that a path wants: to be called before anything is embedded.

    If it is another, "keys" [R, T] says where each token lay: lo and hi still speak of that.
    """
    return cudnn.prompt_first(batch) if kind == "cudnn" else batch


def among_tokens(
    kind: str,
    lo: jax.Array,
    hi: jax.Array,
    mesh: Mesh | None,
    segments: jax.Array | None = None,
    prefix: jax.Array | None = None,
) -> Attend:
    """Attention of every token of a row over its interval of that row, and its prefix; `kind` as of `path`.

    lo, hi: int32 [R, T]. prefix: int32 [R, T, 2]; with it "splash" and "windowed" have no gradients. segments:
    [R, S, 3 or 4, 2], of a batch `ordered` for "cudnn", which needs them and no intervals.
    """
    length, intervals = lo.shape[1], (lo, hi) if prefix is None else (lo, hi, prefix)
    if kind == "dense":
        return at_queries(lo, hi, length, prefix)
    if kind == "chunked":
        return lambda q, k, v: checkpoint_name(chunked(q, k, v, *intervals), splash.SAVED)
    if kind == "cudnn":
        assert segments is not None
        return lambda q, k, v: over_mesh(cudnn.attend, mesh, q, k, v, segments)
    if kind == "windowed":
        return lambda q, k, v: checkpoint_name(over_mesh(windowed, mesh, q, k, v, *intervals), splash.SAVED)
    kernel = functools.partial(splash.splash, interpret=platform(mesh) != "tpu")
    return lambda q, k, v: over_mesh(kernel, mesh, q, k, v, *intervals)


def at_queries(
    lo: jax.Array, hi: jax.Array, keys: int | jax.Array, prefix: jax.Array | None = None
) -> Attend:
    """Dense attention of some queries, whose intervals are lo, hi [R, Q] and prefix [R, Q, 2], over `keys` tokens.

    Or over tokens in another order: `keys` [R, T] then names each as the intervals know it.
    """
    mask = interval_mask(lo, hi, keys, prefix)
    return lambda q, k, v: checkpoint_name(dense(q, k, v, mask), splash.SAVED)


def _truth(q: jax.Array, k: jax.Array, v: jax.Array, batch: Mapping[str, jax.Array]) -> jax.Array:
    """What kernels' tests hold them against: dense, in the order that `batch` has (`ordered`)."""
    keys = batch.get("keys", q.shape[1])
    return dense(q, k, v, interval_mask(batch["lo"], batch["hi"], keys, batch.get("prefix")))


def chunked(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, prefix: jax.Array | None = None
) -> jax.Array:
    """`dense` for QUERIES queries after the other; their scores are computed again in the backward pass."""
    rows, length = lo.shape
    count = -(-length // QUERIES)
    over = ((0, 0), (0, count * QUERIES - length))
    padded = (
        jnp.pad(q, (*over, (0, 0), (0, 0))),
        jnp.pad(lo, over),
        jnp.pad(hi, over, constant_values=1),  # the queries that pad see one key
        *(() if prefix is None else (jnp.pad(prefix, (*over, (0, 0))),)),
    )
    parts = tuple(jnp.moveaxis(x.reshape(rows, count, QUERIES, *x.shape[2:]), 1, 0) for x in padded)
    wide = k.astype(jnp.float32), v.astype(jnp.float32)  # so that their gradients are summed in float32

    @jax.checkpoint
    def one(part: tuple[jax.Array, ...]) -> jax.Array:
        q, lo, hi, *prefix = part
        k, v = (x.astype(q.dtype) for x in wide)
        return dense(q, k, v, interval_mask(lo, hi, length, *prefix))

    out = jnp.moveaxis(jax.lax.map(one, parts), 0, 1)
    return out.reshape(rows, count * QUERIES, *q.shape[2:])[:, :length]


def over_mesh(
    kernel: Callable[..., jax.Array],
    mesh: Mesh | None,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *of_rows: jax.Array,
) -> jax.Array:
    """`kernel`(q, k, v, *of_rows) on each device's share: rows [R, ...] over data x fsdp, heads over "tensor".

    Where "tensor" does not divide the key/value heads, each device picks those that its query heads read; where it
    does not divide the query heads either, heads are not split.
    """
    if mesh is None or mesh.size == 1:
        return kernel(q, k, v, *of_rows)
    heads, kv, parts = q.shape[2], k.shape[2], mesh.shape["tensor"]
    split = "tensor" if heads % parts == 0 else None
    kv_split = split if kv % parts == 0 else None

    def share(q: jax.Array, k: jax.Array, v: jax.Array, *of_rows: jax.Array) -> jax.Array:
        if split and not kv_split:
            mine = jax.lax.axis_index("tensor") * (heads // parts) + jnp.arange(heads // parts)
            k, v = (jnp.take(x, mine // (heads // kv), axis=2) for x in (k, v))
        return kernel(q, k, v, *of_rows)

    rows, at_query, at_key = (P(BATCH_AXES), P(BATCH_AXES, None, split), P(BATCH_AXES, None, kv_split))
    return jax.shard_map(
        share, mesh=mesh, in_specs=(at_query, at_key, at_key, *(rows for _ in of_rows)), out_specs=at_query,
        check_vma=False,
    )(q, k, v, *of_rows)  # fmt: skip


def interval_mask(
    lo: jax.Array, hi: jax.Array, keys: int | jax.Array, prefix: jax.Array | None = None
) -> jax.Array:
    """Boolean [R, Q, T] from lo, hi [R, Q] and prefix [R, Q, 2]; `keys` is T, or the keys' names [R, T]."""
    key = jnp.arange(keys) if isinstance(keys, int) else keys[:, None]
    mask = (key >= lo[..., None]) & (key < hi[..., None])
    return mask if prefix is None else mask | interval_mask(prefix[..., 0], prefix[..., 1], keys)


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
