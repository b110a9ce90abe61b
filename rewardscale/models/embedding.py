"""The embedding table's look-up where the table is split over a mesh.

Each device keeps D / fsdp columns (of V / tensor rows) and looks the tokens of all rows of its "fsdp" group up in
them; one all-to-all then gives each device whole vectors of its own rows. What travels is as large as the result,
backward too: neither the table nor its gradient is ever whole on a device. (Left to itself XLA gathers one of them.)
"""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from rewardscale.mesh import BATCH_AXES, fitted


def look_up(table: jax.Array, tokens: jax.Array, mesh: Mesh | None, spec: P, dtype: str) -> jax.Array:
    """Rows of `table` [V, D], split as `spec` = (tensor, fsdp) where they divide it, at `tokens` [R, T]: [R, T, D]."""
    if mesh is None or mesh.size == 1:
        return table[tokens].astype(dtype)
    spec = fitted(mesh, spec, table.shape).spec
    vocabulary, width = spec

    def share(table: jax.Array, tokens: jax.Array) -> jax.Array:
        if width:
            tokens = jax.lax.all_gather(tokens, width, axis=0, tiled=True)
        if vocabulary:
            tokens = tokens - jax.lax.axis_index(vocabulary) * table.shape[0]
            here = (tokens >= 0) & (tokens < table.shape[0])
            found = table[jnp.where(here, tokens, 0)].astype(dtype)
            found = jax.lax.psum(jnp.where(here[..., None], found, 0), vocabulary)  # one of them is not 0
        else:
            found = table[tokens].astype(dtype)
        if width:
            found = jax.lax.all_to_all(found, width, split_axis=0, concat_axis=2, tiled=True)
        return found

    rows = P(BATCH_AXES)
    return jax.shard_map(share, mesh=mesh, in_specs=(spec, rows), out_specs=rows)(table, tokens)
