"""The layers of a decoder: RMS norm, rotary positions, grouped-query attention, SwiGLU.

Shapes: R rows, T tokens a row, D width, H heads, K key/value heads, d head_dim, F mlp_width.
NNX modules hold parameters; compute runs in the dtype of the input.
"""

import math

import jax
import jax.numpy as jnp
from flax import nnx

from rewardscale.config import ModelConfig, RopeScaling
from rewardscale.models.attention import Attend
from rewardscale.models.products import Multiply, multiply


def declare(shape: tuple[int, ...], sd: float | None) -> nnx.Param:
    """A float32 parameter that starts as N(0, sd^2), or as ones where `sd` is None.

    Only the declaration: `reward.init` draws the values.
    """
    return nnx.Param(jnp.zeros(shape, jnp.float32), sd=sd)


def adapter(
    config: ModelConfig, name: str, into: tuple[int, ...], out: tuple[int, ...]
) -> tuple[nnx.Param | None, nnx.Param | None]:
    """The factors A [*into, r] and B [r, *out] of the adapter beside kernel `name`, or two None if it has none.

    A starts as N(0, 1 / inputs), B at 0: the model starts as it was (arXiv 2106.09685, section 4.1).
    """
    if config.lora is None or name not in config.lora.targets:
        return None, None
    rank = config.lora.rank
    return declare((*into, rank), math.prod(into) ** -0.5), declare((rank, *out), 0.0)


class RMSNorm(nnx.Module):
    """x / rms(x) * scale over the last axis, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float):
        self.scale = declare((width,), None)
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        scaled = wide * jax.lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + self.epsilon)
        return (scaled * self.scale[...]).astype(x.dtype)


def rotary(positions: jax.Array, config: ModelConfig) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [..., 1, head_dim / 2] of rotary embeddings at `positions` [...] (Su et al. 2021)."""
    frequencies = config.rope_theta ** (
        -jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    )
    if config.rope_scaling is not None:
        frequencies = stretch(frequencies, config.rope_scaling)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    return jnp.cos(angles), jnp.sin(angles)


def stretch(frequencies: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Llama 3.1's rotary frequencies, radians a position, from the plain ones."""
    turns = scaling.original * frequencies / (2 * math.pi)  # within the original context
    kept = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)


def rotate(x: jax.Array, turn: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates x [..., heads, head_dim]: the first half of the head pairs with the second (Llama's convention)."""
    cos, sin = turn
    a, b = jnp.split(x.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1).astype(x.dtype)


class Attention(nnx.Module):
    """Grouped-query attention over key intervals (Ainslie et al. 2023)."""

    def __init__(self, config: ModelConfig):
        wide, heads, kv, head = config.width, config.heads, config.kv_heads, config.head_dim
        self.q = declare((wide, heads, head), wide**-0.5)
        self.k = declare((wide, kv, head), wide**-0.5)
        self.v = declare((wide, kv, head), wide**-0.5)
        self.o = declare((heads, head, wide), (heads * head * 2 * config.layers) ** -0.5)
        self.q_norm = RMSNorm(head, config.norm_epsilon) if config.qk_norm else None
        self.k_norm = RMSNorm(head, config.norm_epsilon) if config.qk_norm else None
        self.q_a, self.q_b = adapter(config, "q", (wide,), (heads, head))
        self.k_a, self.k_b = adapter(config, "k", (wide,), (kv, head))
        self.v_a, self.v_b = adapter(config, "v", (wide,), (kv, head))
        self.o_a, self.o_b = adapter(config, "o", (heads, head), (wide,))
        self.lora_scale = config.lora.scale if config.lora else 0.0

    def __call__(
        self,
        x: jax.Array,
        turn: tuple[jax.Array, jax.Array],
        attend: Attend,
        queries: tuple[jax.Array, tuple[jax.Array, jax.Array]] | None = None,
        multiply: Multiply = multiply,
    ) -> jax.Array:
        """Attends from all tokens of x [R, T, D], or from `queries` = (their inputs [R, Q, D], their rotation).

        `attend` knows which keys each of them sees. Returns [R, queries, D].
        """
        at, at_turn = (x, turn) if queries is None else queries
        q = adapted(multiply(at, self.q[...], 1), at, self.q_a, self.q_b, self.lora_scale)
        k = adapted(multiply(x, self.k[...], 1), x, self.k_a, self.k_b, self.lora_scale)
        v = adapted(multiply(x, self.v[...], 1), x, self.v_a, self.v_b, self.lora_scale)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        out = attend(rotate(q, at_turn), rotate(k, turn), v)
        return adapted(multiply(out, self.o[...], 2), out, self.o_a, self.o_b, self.lora_scale)


class SwiGLU(nnx.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer 2020)."""

    def __init__(self, config: ModelConfig):
        self.gate = declare((config.width, config.mlp_width), config.width**-0.5)
        self.up = declare((config.width, config.mlp_width), config.width**-0.5)
        self.down = declare((config.mlp_width, config.width), (config.mlp_width * 2 * config.layers) ** -0.5)
        self.gate_a, self.gate_b = adapter(config, "gate", (config.width,), (config.mlp_width,))
        self.up_a, self.up_b = adapter(config, "up", (config.width,), (config.mlp_width,))
        self.down_a, self.down_b = adapter(config, "down", (config.mlp_width,), (config.width,))
        self.lora_scale = config.lora.scale if config.lora else 0.0

    def __call__(self, x: jax.Array, multiply: Multiply = multiply) -> jax.Array:
        gate, up = (multiply(x, p[...], 1) for p in (self.gate, self.up))
        gated = jax.nn.silu(adapted(gate, x, self.gate_a, self.gate_b, self.lora_scale))
        hidden = gated * adapted(up, x, self.up_a, self.up_b, self.lora_scale)
        return adapted(multiply(hidden, self.down[...], 1), hidden, self.down_a, self.down_b, self.lora_scale)


class Block(nnx.Module):
    """One decoder layer: attention and MLP, each behind a norm and around a residual."""

    def __init__(self, config: ModelConfig):
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.mlp_norm = RMSNorm(config.width, config.norm_epsilon)
        self.mlp = SwiGLU(config)

    def __call__(
        self,
        x: jax.Array,
        turn: tuple[jax.Array, jax.Array],
        attend: Attend,
        multiply: Multiply = multiply,
    ) -> jax.Array:
        """x [R, T, D] -> [R, T, D]."""
        x = x + self.attention(self.attention_norm(x), turn, attend, multiply=multiply)
        return x + self.mlp(self.mlp_norm(x), multiply)

    def at(
        self,
        x: jax.Array,
        turn: tuple[jax.Array, jax.Array],
        attend: Attend,
        index: jax.Array,
        index_turn: tuple[jax.Array, jax.Array],
        multiply: Multiply = multiply,
    ) -> jax.Array:
        """The layer's output at tokens `index` [R, Q] only: [R, Q, D]; `attend` is that of these tokens.

        Exact: in the last layer no other token's query, output projection or MLP is ever read.
        """
        normed = self.attention_norm(x)
        picked = take_tokens(x, index)
        queries = take_tokens(normed, index), index_turn
        picked = picked + self.attention(normed, turn, attend, queries, multiply)
        return picked + self.mlp(self.mlp_norm(picked), multiply)


def take_tokens(x: jax.Array, index: jax.Array) -> jax.Array:
    """x [R, T, D] at `index` [R, Q] -> [R, Q, D]."""
    return jnp.take_along_axis(x, index[..., None], axis=1)


def adapted(y: jax.Array, x: jax.Array, a: nnx.Param | None, b: nnx.Param | None, scale: float) -> jax.Array:
    """y [R, T, *out] plus scale (x A) B for x [R, T, *in]; y itself where there is no adapter."""
    if a is None or b is None:
        return y
    low = jnp.tensordot(x, a[...].astype(x.dtype), axes=a[...].ndim - 1) * scale  # [R, T, r]
    return y + jnp.tensordot(low, b[...].astype(x.dtype), axes=1)
