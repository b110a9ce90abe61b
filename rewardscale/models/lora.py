"""Low-rank adapters (Hu et al. 2021, arXiv 2106.09685): which parameters train, and merging them into the kernels.

Only adapters and the head train; embedding, kernels and norms stay as they were, without gradients or moments.
A tree with adapters belongs to a ModelConfig with `lora`, the merged tree to the same one without.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from rewardscale.config import KERNELS, ModelConfig
from rewardscale.models import reward

FACTORS = tuple(f"{name}_{factor}" for name in KERNELS for factor in "ab")


def add(model: ModelConfig, params: Mapping[str, Any], seed: Sequence[int]) -> reward.Params:
    """Parameters of the plain model with fresh adapters of `model.lora`, of which `seed` draws A and B is 0.

    Rewards are what they were. Arrays of `params` are taken over, not copied.
    """
    fresh = reward.init(model, seed, part=_part(reward.abstract(model), lambda name: name in FACTORS))
    return join(fresh, params)


def split(model: ModelConfig, params: Mapping[str, Any]) -> tuple[reward.Params, reward.Params]:
    """The trained and the frozen part of a tree; without `model.lora` everything is trained."""
    if model.lora is None:
        return dict(params), {}
    return _part(params, _trains), _part(params, lambda name: not _trains(name))


def join(a: Mapping[str, Any], b: Mapping[str, Any]) -> reward.Params:
    """The tree of two parts that share no leaf."""
    out = dict(a)
    for name, value in b.items():
        out[name] = join(out[name], value) if isinstance(out.get(name), Mapping) else value
    return out


def merge(model: ModelConfig, params: Mapping[str, Any], *, donate: bool = False) -> reward.Params:
    """Kernels plus scale A B, summed in float32 and rounded to the kernels' type; the tree has no adapters left.

    Arrays keep their shardings. With `donate` the kernels' device arrays are used up one by one, so that memory never
    holds all of them twice.
    """
    if model.lora is None:
        return dict(params)
    out = {}
    for name, value in params.items():
        if isinstance(value, Mapping):
            out[name] = merge(model, value, donate=donate)
        elif f"{name}_a" in params:
            function = jax.jit(
                functools.partial(_merged, model.lora.scale),
                out_shardings=value.sharding if isinstance(value, jax.Array) else None,
                donate_argnums=0 if donate else (),
            )
            out[name] = function(value, params[f"{name}_a"], params[f"{name}_b"])
        elif name not in FACTORS:
            out[name] = value
    return out


def _merged(scale: float, kernel: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """kernel [L, *in, *out] + scale A [L, *in, r] B [L, r, *out], a layer at a time."""

    def one(layer: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        kernel, a, b = layer
        product = jnp.tensordot(a, b, axes=1, precision="highest")
        return (kernel.astype(jnp.float32) + scale * product).astype(kernel.dtype)

    return jax.lax.map(one, (kernel, a, b))


def _trains(name: str) -> bool:
    return name == "head" or name in FACTORS


def _part(tree: Mapping[str, Any], wanted: Callable[[str], bool]) -> dict[str, Any]:
    """The leaves whose name is wanted, in their places."""
    out = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            inner = _part(value, wanted)
            if inner:
                out[name] = inner
        elif wanted(name):
            out[name] = value
    return out
