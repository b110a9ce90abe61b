"""A sum of every array of a state, by which a damaged checkpoint is known.

Stores that check themselves check what they need to find the data, and orbax's arrays have no checksum of their own: a
flipped bit of a parameter is read back as another parameter. The sums are made where the arrays are, before they are
written, and made again of what was read: so they cover everything on the way.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Sums = dict[str, list[Any]]  # name of an array -> [sum, type, shape], as JSON holds it


def sums_of(state: Any) -> Sums:
    """The sums of all arrays of a tree, by name; the same on every mesh. Waits for the devices."""
    found = jax.device_get(_sums(state))
    return {name: [int(found[name]), *kind] for name, kind in kinds(state).items()}


def kinds(state: Any) -> dict[str, list[Any]]:
    """Name -> [type, shape] of the arrays of a tree, or of what stands for them (ShapeDtypeStructs)."""
    return {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in _named(state)}


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


@jax.jit
def _sums(state: Any) -> dict[str, jax.Array]:
    return {name: _sum(leaf) for name, leaf in _named(state)}


def _sum(x: jax.Array) -> jax.Array:
    """Sum of an array's bits times odd numbers that follow from their place, modulo 2^32.

    An element that changes changes it always, whatever else changes with a chance of 2^-32 not to. Integers add up to
    the same in every order.
    """
    unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
    place = jnp.zeros(x.shape, jnp.uint32)
    for axis, size in enumerate(x.shape):
        place = place * np.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis)
    return jnp.sum(bits * (place * np.uint32(2) + np.uint32(1)), dtype=jnp.uint32)
