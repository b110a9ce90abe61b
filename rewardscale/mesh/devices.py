"""One mesh with the axes ("data", "fsdp", "tensor"), and what lies where on it."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import backend
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rewardscale.config import ConfigError
from rewardscale.mesh.hosts import hosts

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # rows of a batch are dealt over these


def make_mesh(shape: Sequence[int], devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh of `shape` = (data, fsdp, tensor) over all `devices`; one entry may be -1 (what is left).

    `devices` are jax devices, by default all there are; a topology's (training/aot.py) will do.

    Raises ConfigError if the shape does not use the devices exactly.
    """
    if devices is None:  # a host's side by side: then its rows of a batch are, too
        devices = sorted(jax.devices(), key=lambda device: device.process_index)
    sizes = list(shape)
    if -1 in sizes:
        known = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ConfigError(
            f"runtime.mesh={tuple(shape)} needs a number of devices divisible by its sizes and uses "
            f"{math.prod(sizes) or 'none'} of {len(devices)}; choose three sizes whose product is {len(devices)}"
        )
    return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def platform(mesh: Mesh | None) -> str:
    """ "cpu", "gpu" or "tpu": of the mesh's devices, or of jax's default where there is no mesh."""
    return jax.default_backend() if mesh is None else mesh.devices.flat[0].platform


def attached(device: Any) -> bool:
    """Whether programs can run on it: for a described topology's (training/aot.py) they can be compiled alone."""
    return device.client in backend.backends().values()


def fitted(mesh: Mesh, spec: PartitionSpec, shape: Sequence[int]) -> NamedSharding:
    """`spec` on `mesh`, with axes left out where they do not divide the dimension (e.g. 1 KV head over 2 devices)."""
    entries = []
    for size, entry in zip(shape, tuple(spec) + (None,) * (len(shape) - len(spec)), strict=True):
        names = (entry,) if isinstance(entry, str) else tuple(entry or ())
        parts = math.prod(mesh.shape[name] for name in names)
        entries.append(entry if parts and size % parts == 0 else None)
    return NamedSharding(mesh, PartitionSpec(*entries))


def check_rows(mesh: Mesh, rows: int) -> None:
    """Raises ConfigError if microbatches of `rows` rows cannot be dealt evenly over the mesh."""
    parts = math.prod(mesh.shape[name] for name in BATCH_AXES)
    if rows % parts:
        mend = -(-rows // parts) * parts
        raise ConfigError(
            f"runtime.rows_per_microbatch={rows} must be a multiple of data x fsdp = {parts}; try {mend}"
        )


def share(mesh: Mesh, rows: int) -> tuple[int, int]:
    """(i, n): of `rows` rows dealt over the mesh this host's devices hold the i-th of n equal shares.

    Where an axis that rows are not dealt over spans hosts, several have the same share.

    Raises ConfigError if their rows are no such share.
    """
    dealt = NamedSharding(mesh, PartitionSpec(BATCH_AXES)).addressable_devices_indices_map((rows,))
    parts = sorted({index[0].indices(rows)[:2] for index in dealt.values() if index})
    first, last = parts[0][0], parts[-1][1]
    whole = sum(stop - start for start, stop in parts)
    if whole != last - first or rows % whole or first % whole:
        raise ConfigError(
            f"runtime.mesh={tuple(mesh.shape.values())} deals host {jax.process_index()} the rows {parts} of {rows}, "
            f"not one of equal shares side by side; make data x fsdp a multiple of the {hosts()} hosts, or a divisor"
        )
    return first // whole, rows // whole


def place(tree: Any, shardings: Any) -> Any:
    """Arrays that every host has whole, as global arrays: each host copies what its devices hold."""
    if hosts() == 1:
        return jax.device_put(tree, shardings)

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            return jax.device_put(leaf, sharding)
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    return jax.tree.map(one, tree, shardings)


def place_inputs(tree: Mapping[str, np.ndarray], shardings: Mapping[str, NamedSharding]) -> dict[str, Any]:
    """`place` for what a compiled function is called with.

    For one device they stay NumPy arrays: the call puts them there itself, in a third of the time.
    """
    if all(len(sharding.device_set) == 1 for sharding in shardings.values()):
        return dict(tree)
    return place(dict(tree), dict(shardings))


def place_shares(
    tree: Mapping[str, np.ndarray], shardings: Mapping[str, NamedSharding], *, axis: int, rows: int
) -> dict[str, Any]:
    """Arrays of which every host has its `share` along `axis`, of `rows` in all, as global arrays.

    Arrays whose sharding does not split that axis are whole on every host. One host's are as `place_inputs` gives them.
    """
    if hosts() == 1:
        return place_inputs(tree, shardings)

    def one(name: str, local: np.ndarray) -> jax.Array:
        shape = list(local.shape)
        if len(shardings[name].spec) > axis:
            shape[axis] = rows
        return jax.make_array_from_process_local_data(shardings[name], local, tuple(shape))

    return {name: one(name, local) for name, local in tree.items()}


def describe() -> dict[str, object]:
    """What a run record says of the hardware."""
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "devices": len(devices),
        "hosts": hosts(),
    }


def peak_flops(dtype: str) -> float | None:
    """Peak matrix operations a second of one device in `dtype`, by its data sheet; None where unknown."""
    if dtype != "bfloat16":
        return None
    return bf16_peak(jax.devices()[0].device_kind)


def bf16_peak(kind: str) -> float | None:
    """The same of a kind of device by its name ("TPU v5p", "NVIDIA H800"), there or not."""
    return next((peak for name, peak in _BF16_PEAKS if name in kind.lower()), None)


# Dense bf16 operations a second by the vendors' data sheets (cloud.google.com/tpu/docs, nvidia.com data sheets).
_BF16_PEAKS = (
    ("tpu v6 lite", 918e12),
    ("tpu v6e", 918e12),
    ("tpu v5 lite", 197e12),
    ("tpu v5e", 197e12),
    ("tpu v5p", 459e12),
    ("tpu v5", 459e12),
    ("tpu v4", 275e12),
    ("h200", 989.5e12),
    ("h100", 989.5e12),
    ("h800", 989.5e12),
    ("a100", 312e12),
)
