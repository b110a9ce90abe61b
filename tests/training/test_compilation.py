"""What compiling took."""

import time

import jax
import jax.numpy as jnp

from rewardscale.training import compilation


def test_only_what_is_new_takes_time_and_what_is_within_counts_once() -> None:
    compilation.seconds()  # counts from here

    @jax.jit
    def inner(x: jax.Array) -> jax.Array:
        time.sleep(0.05)  # while it is traced
        return jnp.sin(x) * 3

    @jax.jit
    def outer(x: jax.Array) -> jax.Array:
        return inner(x) + 1

    x = jnp.arange(7.0)
    before, began = compilation.seconds(), time.perf_counter()
    outer(x).block_until_ready()
    took, wall = compilation.seconds() - before, time.perf_counter() - began
    assert 0.05 <= took <= wall
    outer(x).block_until_ready()
    assert compilation.seconds() - before == took
