"""Several hosts score as one: host 0 reads texts and keeps rewards, the others compute what it computes."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np

from rewardscale import mesh
from rewardscale.config import ConfigError


class Computes(Protocol):
    """A loaded model (RewardScorer) on the mesh of all hosts."""

    def compute(self, arrays: Mapping[str, np.ndarray]) -> Any:
        """Rewards of a microbatch."""
        ...


def led[T](command: Callable[[], T], load: Callable[[], Computes]) -> T | None:
    """What `command` returns on host 0, None on the others, which follow it: they `load` the model and compute.

    Raises on all hosts if it fails on host 0.
    """
    if mesh.hosts() == 1:
        return command()
    if not mesh.host_zero():
        return _follow(load)
    try:
        made = command()
    except Exception as error:
        mesh.agreed({"failed": str(error) or type(error).__name__})
        raise
    mesh.agreed({"failed": ""})
    return made


def tell(arrays: Mapping[str, np.ndarray]) -> None:
    """On host 0: has the others compute a microbatch with it."""
    if mesh.hosts() > 1:
        mesh.agreed({})
        mesh.handed(arrays)


def _follow(load: Callable[[], Computes]) -> None:
    model: Computes | None = None
    while True:
        told = mesh.agreed(dict[str, str]())
        if "failed" in told:
            if told["failed"]:
                raise ConfigError(f"host 0 said: {told['failed']}")
            return
        model = model or load()
        model.compute(mesh.handed(None))
