"""Packed attention in plain JAX in the place of cuDNN's kernels: given what JAX's primitives give them, on CPUs.

As the kernels do, it reads memory from end to end, [R T] tokens, at offsets counted in numbers; keeps log-sum-exp by
segment, [R M, H, T]; and writes nothing outside of segments, where this leaves NaN.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax._src.cudnn import fused_attention_stablehlo as kernels
from jax._src.interpreters import mlir


@contextlib.contextmanager
def in_place_of_kernels() -> Iterator[None]:
    """Within it, JAX's primitives of packed attention run on CPUs, by the functions below."""
    rules = {kernels._dot_product_attention_fwd_p: forward, kernels._dot_product_attention_bwd_p: backward}
    before = dict(mlir._platform_specific_lowerings["cpu"])
    for primitive, rule in rules.items():
        mlir.register_lowering(primitive, mlir.lower_fun(rule, multiple_results=True), platform="cpu")
    try:
        yield
    finally:
        mlir._platform_specific_lowerings["cpu"] = before


def forward(
    q: jax.Array, k: jax.Array, v: jax.Array, *operands: jax.Array, **settings: Any
) -> list[jax.Array]:
    """Output like q, and log-sum-exp."""
    _, scores, at, value = _scores(q, k, v, operands, settings)
    log = jax.nn.logsumexp(scores, -1)
    weights = jnp.where(jnp.isneginf(scores), 0, jnp.exp(scores - log[..., None]))
    out = jnp.einsum("snqk,sknd->sqnd", weights, value)
    return [_written(out, at[0], q), jnp.where(at[0][:, None] < 0, jnp.nan, log)]


def backward(
    q: jax.Array, k: jax.Array, v: jax.Array, *operands: jax.Array, **settings: Any
) -> list[jax.Array]:
    """Gradients of q, k and v, by the log-sum-exp and the output that are given."""
    stats, out, cotangent = operands[-3:]
    (queries, keys), scores, at, value = _scores(q, k, v, operands[:-3], settings)
    stats = jnp.where(at[0][:, None] < 0, 0, stats)
    weights = jnp.where(jnp.isneginf(scores), 0, jnp.exp(scores - stats[..., None]))
    out, cotangent = (_read(x, at[0]) for x in (out, cotangent))
    inner = jnp.einsum("sqnd,sknd->snqk", cotangent, value)
    inner = weights * (inner - (out * cotangent).sum(-1).swapaxes(1, 2)[..., None]) * settings["scale"]
    group = q.shape[2] // k.shape[2]

    def of_heads(gradient: jax.Array) -> jax.Array:
        return gradient.reshape(*gradient.shape[:2], -1, group, gradient.shape[-1]).sum(3)

    return [
        _written(jnp.einsum("snqk,sknd->sqnd", inner, keys), at[0], q),
        _written(of_heads(jnp.einsum("snqk,sqnd->sknd", inner, queries)), at[1], k),
        _written(of_heads(jnp.einsum("snqk,sqnd->sknd", weights, cotangent)), at[1], v),
    ]


def _scores(q: jax.Array, k: jax.Array, v: jax.Array, operands: Any, settings: Any) -> tuple[Any, ...]:
    """Queries and keys by segment, their scores (-inf where unseen), where they lie in memory (-1: nowhere), values."""
    _, *sizes_and_starts, _, _ = operands
    sizes, starts = sizes_and_starts[:2], sizes_and_starts[2:]
    at = []
    for array, size, start in zip((q, k), sizes, starts, strict=True):
        size, first = (
            size.ravel()[:, None],
            start.ravel()[: size.size, None] // (array.shape[2] * array.shape[3]),
        )
        place = jnp.arange(array.shape[1])
        at.append(jnp.where(place < size, first + place, -1))
    group = q.shape[2] // k.shape[2]
    queries = _read(q, at[0])
    keys, value = (jnp.repeat(_read(x, at[1]), group, 2) for x in (k, v))
    scores = jnp.einsum("sqnd,sknd->snqk", queries, keys) * settings["scale"]
    seen = (at[0][:, :, None] >= 0) & (at[1][:, None] >= 0)
    if settings["mask_type"] == kernels.MaskType.PADDING_CAUSAL:
        seen &= jnp.tril(jnp.ones(scores.shape[2:], bool))
    return (queries, keys), jnp.where(seen[:, None], scores, -jnp.inf), at, value


def _read(array: jax.Array, at: jax.Array) -> jax.Array:
    """[R, T, N, d] at tokens [R M, T] of memory -> float32 [R M, T, N, d]."""
    memory = array.astype(jnp.float32).reshape(-1, *array.shape[2:])
    return jnp.where(at[..., None, None] < 0, 0, memory[at])


def _written(values: jax.Array, at: jax.Array, like: jax.Array) -> jax.Array:
    memory = jnp.full((like.shape[0] * like.shape[1], *like.shape[2:]), jnp.nan, jnp.float32)
    place = jnp.where(at < 0, len(memory), at)
    return memory.at[place].set(values, mode="drop").reshape(like.shape).astype(like.dtype)
