"""A small state as one array a type: writing takes orbax a millisecond of CPU an array, however small they are.

Only of what lies on one device; what is read is placed wherever it is wanted.
"""

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from rewardscale import mesh

MOST_BYTES = 16 * 2**20  # from here on writing is what takes time


def joined(state: Any) -> dict[str, jax.Array] | None:
    """Type -> all elements of the state's arrays of that type, [n], a copy; None if it is not small, or spread.

    Arrays come in the order of the tree.
    """
    leaves = jax.tree.leaves(state)
    devices = set(itertools.chain.from_iterable(leaf.sharding.device_set for leaf in leaves))
    if len(devices) != 1 or mesh.hosts() > 1 or sum(leaf.nbytes for leaf in leaves) > MOST_BYTES:
        return None
    values = jax.device_get(leaves)
    whole = {
        str(dtype): np.concatenate([value.ravel() for value in values if value.dtype == dtype])
        for dtype in {value.dtype for value in values}
    }
    return jax.device_put(whole, devices.pop())


def abstract(wanted: Any) -> dict[str, np.ndarray]:
    """What stands for `joined` of a state like `wanted` (ShapeDtypeStructs) when it is to be read, onto the host."""
    sizes = collections.Counter[str]()
    for leaf in jax.tree.leaves(wanted):
        sizes[str(leaf.dtype)] += leaf.size
    return {dtype: np.empty(size, dtype) for dtype, size in sizes.items()}


def parted(whole: dict[str, np.ndarray], wanted: Any) -> Any:
    """The state of which `joined` made `whole`, on the shardings of `wanted`."""
    done = collections.Counter[str]()

    def parts() -> Iterator[np.ndarray]:
        for leaf in jax.tree.leaves(wanted):
            dtype = str(leaf.dtype)
            yield whole[dtype][done[dtype] : done[dtype] + leaf.size].reshape(leaf.shape)
            done[dtype] += leaf.size

    tree = jax.tree.structure(wanted)
    return mesh.place(tree.unflatten(parts()), jax.tree.map(lambda leaf: leaf.sharding, wanted))
