"""What the hosts of a run tell one another. All must call these functions, in the same order."""

import contextlib
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from rewardscale import atomic
from rewardscale.config import ConfigError


def hosts() -> int:
    """How many processes this run has; as long as it is one, no device is touched to find out."""
    return jax.process_count() if jax.distributed.is_initialized() else 1


def host_zero() -> bool:
    """Whether this one decides and writes for all."""
    return hosts() == 1 or jax.process_index() == 0


def agreed[T](value: T) -> T:
    """Host 0's `value`, on every host; of what JSON holds."""
    if hosts() == 1:
        return value
    data = json.dumps(value).encode() if host_zero() else b""
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    padded = np.zeros(1 << max(10, (size - 1).bit_length()), np.uint8)  # few shapes: each is compiled
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(padded))[:size].tobytes())


def handed(arrays: Mapping[str, np.ndarray] | None) -> dict[str, np.ndarray]:
    """Host 0's `arrays`, on every host; the others give None."""
    shapes = agreed({name: [a.shape, a.dtype.str] for name, a in arrays.items()} if arrays else {})
    like = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
    return multihost_utils.broadcast_one_to_all(like | dict(arrays or {}))


def vote(*flags: bool) -> Callable[[], tuple[bool, ...]]:
    """Whether any host raises each flag; what it returns waits for the answer."""
    if hosts() == 1:
        return lambda: flags
    spread, most = _everyone()
    mine = np.tile(np.array(flags, np.int32), (jax.local_device_count(), 1))
    found = most(jax.make_array_from_process_local_data(spread, mine, (jax.device_count(), len(flags))))
    return lambda: tuple(bool(flag) for flag in np.asarray(found.addressable_data(0)))


@functools.lru_cache(maxsize=1)
def _everyone() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    devices = Mesh(np.asarray(jax.devices()), ("all",), axis_types=(AxisType.Auto,))
    most = jax.jit(lambda flags: flags.max(0), out_shardings=NamedSharding(devices, PartitionSpec()))
    return NamedSharding(devices, PartitionSpec("all")), most


class Ballot:
    """`vote`, round after round, that never waits for the devices.

    With several hosts a round's answer is that of the round before, whose computation is over: so all hosts hear
    the same, one round late.
    """

    def __init__(self) -> None:
        self._before: Callable[[], tuple[bool, ...]] | None = None

    def __call__(self, *flags: bool) -> tuple[bool, ...]:
        now = vote(*flags)
        answer, self._before = (now if hosts() == 1 else self._before), now
        return answer() if answer else (False,) * len(flags)


def together() -> None:
    """Returns when all hosts are here."""
    vote(True)()


def once[T](make: Callable[[], T]) -> T:
    """`make()` on host 0, then on the others: what it builds in a shared folder they find whole.

    Raises on all hosts if it fails on host 0.
    """
    if hosts() == 1:
        return make()
    if not host_zero():
        reason = agreed("")
        if reason:
            raise ConfigError(f"host 0 said: {reason}")
        return make()
    try:
        made = make()
    except Exception as error:
        agreed(str(error) or type(error).__name__)
        raise
    agreed("")
    return made


def check_same(value: str, what: str) -> None:
    """Raises ConfigError, on all hosts, if `value` is not the same on all."""
    if vote(agreed(value) != value)()[0]:
        raise ConfigError(
            f"the hosts differ in {what} (here: {value}): give all the same flags, files and versions"
        )


@contextlib.contextmanager
def locked(path: Path) -> Iterator[bool]:
    """`atomic.locked` without waiting, held by host 0 for all."""
    with atomic.locked(path, wait=False) if host_zero() else contextlib.nullcontext(False) as mine:
        yield agreed(mine)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """`atomic.new_directory` that all hosts write into; there for all when the block has ended on all."""
    with atomic.new_directory(final) if host_zero() else contextlib.nullcontext(final) as made:
        yield Path(agreed(str(made)))
        together()
    together()
