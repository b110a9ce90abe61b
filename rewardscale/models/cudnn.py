"""Interval attention on Hopper GPUs: cuDNN's packed attention, two calls a layer.

The kernels take segments: a run of queries over a run of keys, causally or whole. A tree that lies as
[prompt | left | right], both responses in reading order, is two calls: causal over [prompt | left] and over [right],
and each right response whole over its prompt. A right token's two answers are merged by the logarithms of their sums of
exponentials. The branches of a tree (data/rows.py) are two causal segments each, and one with its right response in the
whole call. Backward, both calls are given the merged answer and its logarithm: each then yields what its own keys
add to the gradients (Dao 2023, FlashAttention-2, equations of the backward pass), and the parts are added.

The one file that touches these primitives, which are not a public interface: the public one rounds the logarithms to
bfloat16. No GPU has run them from here yet, so `failure` has them prove themselves on the device before they are used.
"""

import functools
import inspect
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from rewardscale.models import selftest
from rewardscale.models.merging import merged
from rewardscale.models.selftest import Attention, Batch
from rewardscale.models.splash import SAVED

OLDEST_JAX = (0, 11, 2)  # before it grouped queries met wrong keys (jax issue 39521)
LARGEST_HEAD = 256


class Segments(NamedTuple):
    """Runs of queries and of the keys that they see, int32 [R, M] each: first token and size, 0 where absent."""

    query: jax.Array
    queries: jax.Array
    key: jax.Array
    keys: jax.Array


def prompt_first(batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The batch (data/rows.py) with trees as [prompt | left | right], both responses in reading order.

    lo and hi go with their tokens and name keys by where they lay before, which "keys" [R, T] tells of each place;
    "segments" are those of prompt, left, right where they lie now, and where the batch has "prefix" a fourth, of all
    branches that see this prompt. Needs slots in the order of their trees in the row, as packing fills them, and a
    tree's branches behind it without a gap.
    """
    start = batch["segments"][:, :, 0, 0]
    left, prompt, right = (batch["segments"][:, :, part, 1] for part in range(3))
    place = jnp.arange(batch["tokens"].shape[1], dtype=jnp.int32)
    moved = (place >= start[..., None]) & (place < (start + left + prompt)[..., None])  # [R, S, T]

    def of_tree(values: jax.Array) -> jax.Array:
        return jnp.where(moved, values[..., None], 0).sum(1)

    within = place - of_tree(start)
    before = jnp.where(within < of_tree(prompt), of_tree(left) + within, of_tree(left + prompt) - 1 - within)
    keys = jnp.where(moved.any(1), of_tree(start) + before, place)
    starts = [start, start + prompt, start + prompt + left]
    sizes = [prompt, left, right]
    if "prefix" in batch:
        starts.append(start + prompt + left + right)
        sizes.append(_of_branches(batch))
    segments = jnp.stack(starts, -1), jnp.stack(sizes, -1)
    carried = {n: jnp.take_along_axis(batch[n], keys, axis=1) for n in ("tokens", "positions", "lo", "hi")}
    if "prefix" in batch:
        carried["prefix"] = jnp.take_along_axis(batch["prefix"], keys[..., None], axis=1)
    return {
        **batch,
        **carried,
        "keys": keys,
        "left_at": jnp.where(left > 0, start + prompt + left - 1, 0),
        "segments": jnp.stack(segments, -1),
    }


def _of_branches(batch: Mapping[str, jax.Array]) -> jax.Array:
    """Tokens of all branches of each tree, [R, S]."""
    start, size = batch["segments"][..., 0, 0], batch["segments"][..., 1]
    first, end = (jnp.take_along_axis(batch["prefix"][..., i], start, axis=1) for i in (0, 1))
    prompt = batch["segments"][..., 1, 0]
    mine = (prompt[..., None] == first[:, None]) & (end > first)[:, None]  # [R, S trees, S branches]
    return jnp.where(mine & (size[..., 1, None] > 0), size.sum(-1)[:, None], 0).sum(-1)


def calls(segments: jax.Array) -> tuple[Segments, Segments]:
    """The causal call [R, 2S] and the whole one [R, S + 1], of segments [R, S, 3 or 4, 2] as of `prompt_first`.

    The last of the whole one is always absent: of a single segment the primitives would forget where it begins.
    """
    (prompt, _, right), (p, left, r) = (jnp.moveaxis(segments[:, :, :3, i], -1, 0) for i in (0, 1))

    def in_turn(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.stack([a, b], -1).reshape(a.shape[0], -1)

    start, size = in_turn(prompt, right), in_turn(p + left, r)
    both = (p > 0) & (r > 0)
    if segments.shape[2] > 3:
        r = r + segments[:, :, 3, 1]  # with the branches behind it: a prompt is of one segment alone
    whole = (jnp.where(both, x, 0) for x in (right, r, prompt, p))
    return Segments(start, size, start, size), Segments(*(jnp.pad(x, ((0, 0), (0, 1))) for x in whole))


@jax.custom_vjp
def attend(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> jax.Array:
    """Attention of every token within its tree; 0 at tokens of no tree.

    Args:
      q: [R, T, H, d]. k, v: [R, T, K, d]; query head h reads key/value head h // (H / K).
      segments: int32 [R, S, 3 or 4, 2], as of `prompt_first`.

    Returns: [R, T, H, d].
    """
    return _attend_forward(q, k, v, segments)[0]


def _attend_forward(q: jax.Array, k: jax.Array, v: jax.Array, segments: jax.Array) -> tuple[jax.Array, Any]:
    causal, whole = calls(segments)
    own, own_log = _answer(q, k, v, causal, causal=True, outside=0.0)
    more, more_log = _answer(q, k, v, whole, causal=False, outside=-jnp.inf)
    both, log = merged(own, own_log, more, more_log)
    out, log = checkpoint_name(both.astype(q.dtype), SAVED), checkpoint_name(log, SAVED)
    return out, (q, k, v, segments, out, log)


def _attend_backward(kept: Any, cotangent: jax.Array) -> tuple[jax.Array | None, ...]:
    q, k, v, segments, out, log = kept
    causal, whole = calls(segments)
    own = _gradients(q, k, v, causal, out, log, cotangent, causal=True)
    more = _gradients(q, k, v, whole, out, log, cotangent, causal=False)
    summed = (a.astype(jnp.float32) + b.astype(jnp.float32) for a, b in zip(own, more, strict=True))
    return *(x.astype(q.dtype) for x in summed), None


attend.defvjp(_attend_forward, _attend_backward)


def _answer(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: Segments, *, causal: bool, outside: float
) -> tuple[jax.Array, jax.Array]:
    """One call: [R, T, H, d], 0 outside of its segments, and log-sum-exp of scores [R, T, H], there `outside`."""
    out, stats = _forward(q, k, v, segments, causal)
    inside, number, at = _places(segments.query, segments.queries, q.shape[1])
    log = jnp.where(inside[..., None], stats[number, :, at], outside)
    return jnp.where(inside[..., None, None], out, 0), log


def _gradients(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: Segments,
    out: jax.Array, log: jax.Array, cotangent: jax.Array, *, causal: bool,
) -> tuple[jax.Array, ...]:  # fmt: skip
    """What one call's keys add to the gradients of q, k, v, given the merged answer."""
    rows, length, heads, _ = q.shape
    of_queries, number, at = _places(segments.query, segments.queries, length)
    of_keys, _, _ = _places(segments.key, segments.keys, length)
    stats = jnp.zeros((rows * segments.queries.shape[1], heads, length), jnp.float32)
    stats = stats.at[number, :, at].set(log, mode="drop")
    found = _backward(q, k, v, segments, causal, stats, out, cotangent)
    return tuple(
        jnp.where(inside[..., None, None], gradient, 0)
        for inside, gradient in zip((of_queries, of_keys, of_keys), found, strict=True)
    )


def _places(start: jax.Array, size: jax.Array, length: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Of each token [R, T]: if it is in a segment, its segment's number among all rows' present ones, its place in it.

    The number is too large, R M, where there is none.
    """
    place = jnp.arange(length, dtype=jnp.int32)
    mine = (place >= start[..., None]) & (place < (start + size)[..., None])  # [R, M, T]
    inside, slot = mine.any(1), mine.argmax(1)
    numbers = ((size > 0).ravel().cumsum() - 1).reshape(size.shape)
    number = jnp.where(inside, jnp.take_along_axis(numbers, slot, axis=1), size.size)
    return inside, number, place - jnp.take_along_axis(start, slot, axis=1)


# The kernels, and how they are called.


def _forward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: Segments, causal: bool
) -> tuple[jax.Array, jax.Array]:
    """Like q, not written outside of segments; log-sum-exp float32 [R M, H, T], by segment number and place in it."""
    bind = _kernels()._dot_product_attention_fwd_p_wrapper.bind
    out, stats = bind(q, k, v, *_operands(q, segments), is_training=True, **_settings(q, causal))
    return out, stats


def _backward(
    q: jax.Array, k: jax.Array, v: jax.Array, segments: Segments, causal: bool,
    stats: jax.Array, out: jax.Array, cotangent: jax.Array,
) -> tuple[jax.Array, ...]:  # fmt: skip
    """Gradients of q, k and v, not written outside of segments."""
    bind = _kernels()._dot_product_attention_bwd_p_wrapper.bind
    return tuple(bind(q, k, v, *_operands(q, segments), stats, out, cotangent, **_settings(q, causal)))


def _operands(q: jax.Array, segments: Segments) -> tuple[jax.Array, ...]:
    """Bias, sizes [R, M] and starts [R, M + 1] of queries and keys, -1 where absent, and two page tables."""
    absent, unused = segments.queries == 0, jnp.zeros(0, q.dtype)
    query, queries, key, keys = (jnp.where(absent, -1, x).astype(jnp.int32) for x in segments)
    starts = (jnp.pad(x, ((0, 0), (0, 1)), constant_values=-1) for x in (query, key))
    return unused, queries, keys, *starts, unused, unused


def _settings(q: jax.Array, causal: bool) -> dict[str, Any]:
    kernels = _kernels()
    settings = {
        "scale": q.shape[-1] ** -0.5,
        "seed": 0,
        "dropout_rate": 0.0,
        "variadic_args": (False, False),  # no bias, no gradient of one
        "mask_type": kernels.MaskType.PADDING_CAUSAL if causal else kernels.MaskType.PADDING,
        "layout": kernels.AttentionLayout.BTNH.value,
        "sliding_window_length": None,
    }
    newer = inspect.signature(kernels._dot_product_attention_fwd_impl).parameters  # than jax 0.11
    return settings | ({"score_mod": None} if "score_mod" in newer else {})


def _kernels() -> Any:
    """JAX's module of them; imported when wanted, so that its absence is a reason and not an error."""
    from jax._src.cudnn import fused_attention_stablehlo

    return fused_attention_stablehlo


# Whether they may be used.


def refusal(device: Any, dtype: str, heads: int, kv_heads: int, head_dim: int, tokens: int) -> str:
    """Why these kernels cannot serve a model in `dtype` with `tokens` tokens a device; "" if nothing speaks against it.

    Versions, the kind of device and shapes alone: the same on all hosts, and nothing is run.
    """
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return f"cuDNN runs on NVIDIA GPUs, and this is {device.platform}"
    capability = str(device.compute_capability)
    if float(capability) < 9.0:
        return f"cuDNN packs sequences on GPUs of compute capability 9.0 (Hopper) or newer, and this has {capability}"
    if jax.__version_info__ < OLDEST_JAX:
        return f"jax {jax.__version__} calls cuDNN wrongly for grouped queries; 0.11.2 or newer is needed"
    if dtype not in ("bfloat16", "float16"):
        return f"cuDNN's attention takes bfloat16 and float16, not {dtype}"
    if head_dim % 8 or head_dim > LARGEST_HEAD:
        return f"cuDNN takes heads of a multiple of 8 and at most {LARGEST_HEAD} numbers, not {head_dim}"
    if tokens * max(heads, kv_heads) * head_dim >= 1 << 31:
        return f"cuDNN counts a microbatch's numbers in 32 bits, too few for {tokens} tokens a device: lower its rows"
    return ""


@functools.cache
def failure(truth: Attention, device: Any, dtype: str, heads: int, kv_heads: int, head_dim: int) -> str:
    """What is wrong with these kernels on `device` by their test (models/selftest.py), once a process; "" if nothing.

    `truth` gets batches as `prompt_first` leaves them.
    """

    def packed(q: jax.Array, k: jax.Array, v: jax.Array, batch: Batch) -> jax.Array:
        return attend(q, k, v, batch["segments"])

    shape = (heads, kv_heads, head_dim)
    return selftest.failure(
        "cuDNN's attention", packed, truth, device, dtype, shape, ordered=prompt_first, branches=True
    )
