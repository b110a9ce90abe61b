"""AdamW with clipping and a schedule, every constant of which is a traced input of the compiled step.

So runs that differ in learning rate, schedule or decay share one executable.

Moments may be kept in bfloat16. To the nearest, a mean that should change by less than 1/512 of itself would not
change at all (b2 = 0.999 never forgets a large gradient, b2 = 0.99 is wrong by up to a quarter), so they are rounded
stochastically: up or down, with the probabilities that keep the expected value (Gupta et al. 2015, arXiv 1502.02551).
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from rewardscale.config import Recipe

Hyper = dict[str, np.float32]


def hyperparameters(recipe: Recipe) -> Hyper:
    """The traced constants of a run, float32 scalars."""
    names = ("b1", "b2", "eps", "weight_decay", "clip_norm", "center")
    return {name: np.float32(getattr(recipe, name)) for name in names}


def learning_rates(recipe: Recipe, *, steps: int, batch: int) -> np.ndarray:
    """The learning rate of each step, float32 [steps].

    Warm-up is linear over the first `warmup` share of the steps, or over `warmup_steps`; then constant,
    linear to 0, cosine to 0 (Loshchilov & Hutter 2017), or constant with a (1 - sqrt) cooldown over the
    last `cooldown` share ("wsd"; Haegele et al. 2024, arXiv 2405.18392). The peak is scaled by
    sqrt(batch / pairs_per_step).
    """
    t = (np.arange(steps) + 0.5) / steps
    warmup = recipe.warmup
    warm = np.minimum(1.0, t / warmup) if warmup else np.ones(steps)
    if recipe.warmup_steps:  # a function of the step alone: a longer run begins with exactly these rates
        warmup = min(1.0, recipe.warmup_steps / steps)
        warm = np.minimum(1.0, (np.arange(steps) + 0.5) / recipe.warmup_steps)
    after = np.clip((t - warmup) / max(1e-12, 1 - warmup), 0, 1)
    if recipe.schedule == "constant":
        shape = np.ones(steps)
    elif recipe.schedule == "linear":
        shape = 1 - after
    elif recipe.schedule == "cosine":
        shape = 0.5 * (1 + np.cos(np.pi * after))
    else:
        into = np.clip((t - (1 - recipe.cooldown)) / max(1e-12, recipe.cooldown), 0, 1)
        shape = 1 - np.sqrt(into)
    peak = recipe.learning_rate * (batch / recipe.pairs_per_step) ** 0.5
    return (peak * warm * shape).astype(np.float32)


def decay_mask(params: Any) -> Any:
    """True for what is decayed: matrices and embeddings, not norm scales and not the head."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("scale", "head"), params)


def optimizer(
    hyper: Mapping[str, Any], learning_rate: Any, moments: str = "float32"
) -> optax.GradientTransformation:
    """clip by global norm -> AdamW (Loshchilov & Hutter 2019), its moments kept in the type `moments`.

    `hyper` and `learning_rate` may be traced scalars.
    """
    adam = optax.scale_by_adam(b1=hyper["b1"], b2=hyper["b2"], eps=hyper["eps"])
    return optax.chain(
        optax.clip_by_global_norm(hyper["clip_norm"]),
        adam if moments == "float32" else _narrow(adam, jnp.dtype(moments)),
        optax.add_decayed_weights(hyper["weight_decay"], mask=decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )


def round_stochastically(x: jax.Array, seed: jax.Array) -> jax.Array:
    """float32 to bfloat16, to one of the two neighbours, the nearer one being likelier: right on average.

    The random bits are a hash of `seed` (uint32) and the element's place: the same on every mesh, nothing is stored.
    """
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    noise = _mixed(_mixed(place) ^ _mixed(seed)) >> 16
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    kept = (bits + noise) & np.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(kept, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)


def _mixed(x: jax.Array) -> jax.Array:
    """A bijection of uint32 whose output bits look independent of its input's (murmur3's finaliser)."""
    x = (x ^ (x >> 16)) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * np.uint32(0xC2B2AE35)
    return x ^ (x >> 16)


def _narrow(adam: optax.GradientTransformation, dtype: Any) -> optax.GradientTransformation:
    """Adam whose moments are float32 within an update and `dtype` between two."""

    def moments_as(state: Any, dtype: Any) -> Any:
        return state._replace(mu=optax.tree.cast(state.mu, dtype), nu=optax.tree.cast(state.nu, dtype))

    def init(params: Any) -> Any:
        return moments_as(adam.init(params), dtype)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        updates, new = adam.update(updates, moments_as(state, jnp.float32), params)
        return updates, _rounded(new)

    return optax.GradientTransformation(init, update)


def _rounded(state: Any) -> Any:
    """Adam's state with stochastically rounded moments; each leaf of each step has a seed of its own."""
    leaves, tree = jax.tree.flatten((state.mu, state.nu))
    first = state.count.astype(jnp.uint32) * np.uint32(len(leaves))
    rounded = [round_stochastically(leaf, first + np.uint32(i)) for i, leaf in enumerate(leaves)]
    mu, nu = jax.tree.unflatten(tree, rounded)
    return state._replace(mu=mu, nu=nu)
