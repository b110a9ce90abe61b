"""Interval attention on TPUs: JAX's splash kernels, told which blocks of keys each block of queries needs.

The kernels take any mask as three small tables of blocks and a function of (an integer a query, the key's
index). Here the integer is the query's interval, and the tables follow from the intervals by minima and maxima
over blocks, so they are computed on the device, change from batch to batch, and no [T, T] mask ever exists. Rows
follow one another along one axis of tokens; a block of queries only ever meets blocks of its own row.

The one file that touches these kernels: their tables are not a public interface. Tests run them interpreted, against
`attention.dense`; no TPU has run them from here yet, so `failure` has them prove themselves on it before they are used.
"""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from rewardscale.models import selftest
from rewardscale.models.merging import merged
from rewardscale.models.selftest import Attention, Batch

if TYPE_CHECKING:
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

OLDEST_JAX = (0, 11, 2)  # whose tables these are: the oldest that this package takes at all
LONGEST = 1 << 16  # tokens a call: an interval's two ends share one 32-bit integer
LANES = 128  # blocks are multiples of a TPU register's width
_LARGEST_BLOCK = 512
SAVED = "attention"  # name of what attention returns, for checkpoint policies


def splash(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, prefix: jax.Array | None = None,
    *, interpret: bool,
) -> jax.Array:  # fmt: skip
    """Softmax attention of token i of a row over the keys [lo_i, hi_i) of that row, and those of its prefix.

    Args:
      q: [R, T, H, d]. k, v: [R, T, K, d]; query head h reads key/value head h // (H / K).
      lo, hi: int32 [R, T], no interval empty. interpret: run the kernel's body as plain JAX (any backend, slow).
      prefix: int32 [R, T, 2], a second interval apart from the first; it may be empty. Where any is not, it
        takes a second call of the kernel; there is no backward pass.

    Returns: [R, T, H, d]. Raises ValueError if T exceeds LONGEST.
    """
    rows, length = lo.shape
    padded = -(-length // LANES) * LANES
    if padded > LONGEST:
        raise ValueError(f"splash attention takes rows of at most {LONGEST} tokens, not {length}")
    if padded != length:
        q, k, v = (jnp.pad(x, ((0, 0), (0, padded - length), (0, 0), (0, 0))) for x in (q, k, v))
        own = jnp.broadcast_to(jnp.arange(length, padded, dtype=jnp.int32), (rows, padded - length))
        lo, hi = jnp.concatenate([lo, own], 1), jnp.concatenate([hi, own + 1], 1)
        prefix = prefix if prefix is None else jnp.pad(prefix, ((0, 0), (0, padded - length), (0, 0)))
    scaled = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    at_once = max(n for n in range(1, rows + 1) if (rows % n == 0 and n * padded <= LONGEST) or n == 1)
    arrays = (scaled, k, v, lo, hi) if prefix is None else (scaled, k, v, lo, hi, prefix)
    grouped = tuple(x.reshape(rows // at_once, at_once, *x.shape[1:]) for x in arrays)
    if at_once == rows:
        out = _rows(*(x[0] for x in grouped), interpret=interpret)
    else:
        out = jax.lax.map(lambda group: _rows(*group, interpret=interpret), grouped)
    return out.reshape(rows, padded, *q.shape[2:])[:, :length]


def _rows(
    q: jax.Array, k: jax.Array, v: jax.Array, lo: jax.Array, hi: jax.Array, prefix: jax.Array | None = None,
    *, interpret: bool,
) -> jax.Array:  # fmt: skip
    """Whole rows at once; R T is at most LONGEST and T a multiple of LANES."""
    if prefix is None:
        return _call(q, k, v, lo, hi, interpret=interpret, residuals=False)[0]
    start, end = prefix[..., 0], prefix[..., 1]
    some = end > start
    # Where there is no key: from T - 1 on and before 1, ends that widen no block's span.
    start, end = jnp.where(some, start, lo.shape[1] - 1), jnp.where(some, end, 1)
    own, log = _call(q, k, v, lo, hi, interpret=interpret, residuals=True)

    def with_more() -> jax.Array:
        more, more_log = _call(q, k, v, start, end, interpret=interpret, residuals=True)
        more = jnp.where(some[..., None, None], more, 0)  # a block of queries that meets no key is not finite
        both, _ = merged(own, log, more, jnp.where(some[..., None], more_log, -jnp.inf))
        return both.astype(q.dtype)

    return jax.lax.cond(some.any(), with_more, lambda: own.astype(q.dtype))


def _call(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    lo: jax.Array,
    hi: jax.Array,
    *,
    interpret: bool,
    residuals: bool,
) -> tuple[jax.Array, jax.Array]:
    """One kernel call, [R, T, H, d]; with `residuals` also log-sum-exp of scores [R, T, H], and no backward pass."""
    rows, length = lo.shape
    block, kernels = block_size(length), _kernels()
    by_query, by_key = block_tables(lo, hi, block)
    kernel = kernels.SplashAttentionKernel(
        by_query, by_query, by_key,
        block_sizes=kernels.BlockSizes(
            block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, block_q_dq=block, block_kv_dq=block
        ),
        is_mqa=False,
        save_residuals=residuals,
        mask_value=kernels.DEFAULT_MASK_VALUE,
        attn_logits_soft_cap=None,
        residual_checkpoint_name=SAVED,
        mask_function=_sees,
        interpret=interpret,
    )  # fmt: skip
    by_head = (x.reshape(rows * length, *x.shape[2:]).swapaxes(0, 1) for x in (q, k, v))
    found = kernel(*by_head)
    out, (log,) = found if isinstance(found, tuple) else (found, (jnp.zeros(0),))
    return out.swapaxes(0, 1).reshape(q.shape), log.T.reshape(q.shape[:3] if residuals else 0)


def block_size(length: int) -> int:
    """Tokens a block, of queries and of keys, in rows of `length` tokens."""
    padded = -(-length // LANES) * LANES
    return max(b for b in range(LANES, _LARGEST_BLOCK + 1, LANES) if padded % b == 0)


def block_tables(lo: jax.Array, hi: jax.Array, block: int) -> "tuple[MaskInfo, MaskInfo]":
    """Which pairs of blocks the kernels visit, for walks along keys (forward, dq) and along queries (dk, dv).

    lo, hi: int32 [R, T], T a multiple of `block`. A pair is visited if the span of the queries' intervals touches
    the block of keys: never too few. An unvisited entry names the block wanted next, which is loaded ahead.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask_info import MaskInfo

    rows, length = lo.shape
    count = length // block
    first = (jnp.arange(rows, dtype=jnp.int32) * count)[:, None, None]  # each row's first block
    start = jnp.arange(count, dtype=jnp.int32) * block
    low = lo.reshape(rows, count, block).min(-1)
    high = hi.reshape(rows, count, block).max(-1)
    visited = (low[..., None] < start + block) & (high[..., None] > start)  # [R, query blocks, key blocks]
    ends = jnp.arange(rows, dtype=jnp.int32)[:, None] * length
    codes = (((lo + ends) << 16) | (hi - 1 + ends)).reshape(-1)

    def table(wanted: jax.Array, mask: jax.Array) -> "MaskInfo":
        return MaskInfo(
            data_next=wanted[None],
            mask_next=None,
            block_mask=mask.astype(jnp.int32)[None],
            partial_mask_blocks=None,
            q_sequence=codes,  # pyright: ignore[reportArgumentType]
        )

    along_keys = _next_visited(visited) + first
    along_queries = _next_visited(visited.swapaxes(1, 2)) + first  # [R, key blocks, query blocks]
    return (
        table(along_keys.reshape(rows * count, count), visited.reshape(rows * count, count)),
        table(along_queries.reshape(rows * count, count).T, visited.swapaxes(1, 2).reshape(rows * count, count).T),
    )  # fmt: skip


def _next_visited(visited: jax.Array) -> jax.Array:
    """[..., n, m] -> for each entry the first visited column from it on, else the last visited one before it."""
    columns = jnp.arange(visited.shape[-1], dtype=jnp.int32)
    ahead = jax.lax.cummin(jnp.where(visited, columns, visited.shape[-1]), axis=2, reverse=True)
    last = jnp.where(visited, columns, 0).max(-1, keepdims=True)
    return jnp.minimum(ahead, last)


def _sees(code: jax.Array, key: jax.Array) -> jax.Array:
    """Whether the key lies in the interval that `code` holds: its first key above, its last key in the low 16 bits."""
    return (key >= jax.lax.shift_right_logical(code, 16)) & (key <= (code & 0xFFFF))


def _kernels() -> Any:
    """JAX's module of them; imported when wanted, so that its absence is a reason and not an error."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel

    return splash_attention_kernel


def refusal(dtype: str, length: int) -> str:
    """Why these kernels cannot serve a model in `dtype` with rows of `length` tokens; "" if nothing speaks against it.

    Versions and shapes alone: the same on all hosts, and nothing is run.
    """
    if jax.__version_info__ < OLDEST_JAX:
        return f"splash attention's tables are those of jax 0.11.2 or newer, and this is {jax.__version__}"
    if dtype not in ("bfloat16", "float32"):
        return f"splash attention takes bfloat16 and float32, not {dtype}"
    if length > LONGEST:
        return f"splash attention takes rows of at most {LONGEST} tokens, not {length}"
    return ""


@functools.cache
def failure(
    truth: Attention, device: Any, dtype: str, heads: int, kv_heads: int, head_dim: int, block: int
) -> str:
    """What is wrong with these kernels on `device` by their test (models/selftest.py), once a process; "" if nothing.

    In rows of three blocks of `block` tokens, or five, so that some pairs of blocks are skipped. Then forward alone
    with a branch, which other kernels compute.
    """

    def kernels(q: jax.Array, k: jax.Array, v: jax.Array, batch: Batch) -> jax.Array:
        interpret = device.platform != "tpu"
        return splash(q, k, v, batch["lo"], batch["hi"], batch.get("prefix"), interpret=interpret)

    length = next(n * block for n in (3, 5) if block_size(n * block) == block)
    some = min(kv_heads, 2)  # of the heads, which are alike: the truth holds scores of them all
    shape = (heads // kv_heads * some, some, head_dim)
    given = ("splash attention", kernels, truth, device, dtype, shape)
    return selftest.failure(*given, length=length) or selftest.failure(
        *given, length=length, branches=True, gradients=False
    )
