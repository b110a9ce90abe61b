"""Attention to two runs of keys, from what attention to each alone gives."""

import jax
import jax.numpy as jnp


def merged(
    out: jax.Array, log: jax.Array, other: jax.Array, other_log: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The answer over both runs, float32 [..., d], and its log-sum-exp (Dao et al. 2022, section 3.1).

    Args:
      out, other: answers over each run, [..., d], finite. log, other_log: log-sum-exp of its scores, float32 [...];
        -inf, or far below any score, where a query sees no key of one run.
    """
    both = jnp.logaddexp(log, other_log)
    return jnp.exp(log - both)[..., None] * out + jnp.exp(other_log - both)[..., None] * other, both
