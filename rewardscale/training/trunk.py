"""One trunk, many data sizes: runs that differ only in how long they are share their first steps.

Subsets are nested, a batch follows from its step, and under some recipes so does the learning rate, until the run cools
down (Recipe.trunk_steps). So the state before a run's cooldown is the state of every longer run at that step: whichever
gets there first leaves it for the others, which begin there (Haegele et al. 2024, arXiv 2405.18392). Nothing else is
shared, and no run is a trunk only: with states gone or out of reach a run trains its steps itself, to the same result.

<workdir>/trunks/<trunk id>/lock      held by the run that is extending the trunk
                            <step>/   state/ (orbax), metrics.jsonl (of the steps before), trunk.json (which pairs)
runs/<run id>/trunk.json              which state a run began with
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rewardscale import atomic
from rewardscale.config import ConfigError, Recipe
from rewardscale.data import arrays
from rewardscale.data.comparison import DataError
from rewardscale.data.training_data import TrainingData
from rewardscale.training.tracker import read_metrics

if TYPE_CHECKING:
    from rewardscale.training.checkpoint import Damaged

_STATE, _METRICS, _RECORD = "state", "metrics.jsonl", "trunk.json"


class Trunk:
    """What one run shares with the others of its trunk.

    Args:
      directory: where the trunk's states are, named by its id.
      steps: where states are wanted, in order, up to where this run leaves the trunk: the last of them.
      extending: holds off other machines, where they share a store and no locks; yields whether it does.
    """

    def __init__(
        self,
        directory: Path,
        steps: tuple[int, ...],
        *,
        extending: Callable[[], AbstractContextManager[bool]] = lambda: contextlib.nullcontext(True),
    ):
        self._extending = extending
        self.directory, self.steps, self.step = Path(directory), steps, steps[-1]
        self._held = contextlib.ExitStack()

    def stored(self, step: int) -> bool:
        """Whether the state after `step` steps is there, whole."""
        return (self.directory / str(step) / _RECORD).exists()

    def newest(self) -> int:
        """The largest step that this run can begin with, 0 if there is none: `take` finds out whether it is whole."""
        if not self.directory.exists():
            return 0
        names = (path.name for path in self.directory.iterdir())
        return max((int(n) for n in names if n.isdecimal() and int(n) <= self.step), default=0)

    @contextlib.contextmanager
    def joined(self) -> Iterator[bool]:
        """Within the block, until `leave`, no other run extends the trunk; yields False if one is doing so already.

        A run whose own state is there extends nothing and waits for nobody. Of several hosts host 0 joins.
        """
        with contextlib.ExitStack() as self._held:
            free = self.stored(self.step)
            yield free or (
                self._held.enter_context(atomic.locked(self.directory / "lock", wait=False))
                and self._held.enter_context(self._extending())
            )

    def leave(self) -> None:
        """From here on the run is on its own: another one may extend the trunk."""
        self._held.close()

    def check(self, recipe: Recipe, data: TrainingData) -> None:
        """Raises ConfigError if a longer run would not have this run's first `step` steps."""
        shared = recipe.trunk_steps(int(data.plan.starts[-1]), int(data.plan.starts[1]))
        if self.step > shared:
            why = recipe.why_no_trunk() or "then its cooldown begins"
            raise ConfigError(f"the run shares {shared} steps with longer ones, not {self.step}: {why}")

    def take(self, data: TrainingData, abstract: Any, directory: Path) -> tuple[Any, list[dict[str, Any]]]:
        """The newest state, on the shardings of `abstract`, and the metrics of the steps before it.

        The run's folder then holds those metrics and the step. Raises DataError if other pairs were trained on, Damaged
        if it is not what was written: then `set_aside` makes way for the next one.
        """
        # orbax and jax are imported only where they compute
        from rewardscale import mesh
        from rewardscale.training.checkpoint import Damaged, load_state

        step = mesh.agreed(self.newest())
        folder = self.directory / str(step)
        try:
            pairs = json.loads((folder / _RECORD).read_text())["pairs"]
            lines = read_metrics(folder / _METRICS)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Damaged(folder, f"{_RECORD} or {_METRICS} cannot be read: {error}") from error
        if [record["step"] for _, record in lines] != list(range(step)):
            raise Damaged(folder, f"{_METRICS} does not hold its {step} steps")
        if pairs != _order_fingerprint(data, step):
            raise DataError(
                f"{folder} was trained on other pairs than the first {step} steps of this run: delete {self.directory}"
            )
        state = load_state(folder / _STATE, abstract)
        if mesh.host_zero():
            atomic.write_bytes(directory / _METRICS, "".join(line for line, _ in lines).encode())
            atomic.write_json(directory / _RECORD, {"trunk": self.directory.name, "step": step})
        return state, [record for _, record in lines]

    def set_aside(self, damage: "Damaged") -> None:
        """Renames the step's folder that `take` found damaged, and says so; with several hosts raises it instead."""
        from rewardscale import mesh
        from rewardscale.training.checkpoint import set_aside

        if mesh.hosts() > 1:  # the others may have read their parts of it
            raise damage
        folder = damage.path.parent if damage.path.name == _STATE else damage.path
        set_aside(folder, damage, "an earlier state, or the start")

    def store(self, data: TrainingData, step: int, state: Any, metrics: Path) -> None:
        """Keeps the state after `step` steps for the others, unless it is there; `metrics` is the run's file."""
        from rewardscale import mesh
        from rewardscale.training.checkpoint import save_state

        if mesh.agreed(self.stored(step)):
            return
        with mesh.new_directory(self.directory / str(step)) as folder:
            save_state(folder / _STATE, state)
            if not mesh.host_zero():
                return
            lines = [line for line, record in read_metrics(metrics) if record["step"] < step]
            atomic.write_bytes(folder / _METRICS, "".join(lines).encode())
            atomic.write_json(folder / _RECORD, {"step": step, "pairs": _order_fingerprint(data, step)})

    def record(self, directory: Path) -> dict[str, Any]:
        """For the record of the run in `directory`: its trunk, where it leaves it, and the step it began at."""
        path = directory / _RECORD
        began = json.loads(path.read_text())["step"] if path.exists() else 0
        return {"trunk": self.directory.name, "branched_at": self.step, "steps_from_trunk": began}


def _order_fingerprint(data: TrainingData, steps: int) -> str:
    """Hash (32 hex digits) of which pairs the first steps train on, and how; not of how they are packed."""
    digest = hashlib.blake2b(digest_size=16)
    arrays.update(digest, data.plan.starts[: steps + 1], np.int64)
    here = slice(0, int(data.plan.starts[steps]))
    for values in (data.trees.rows, data.trees.left, data.trees.skip):
        arrays.update(digest, values[here], np.int64)
    for values in (data.weight, data.target):
        arrays.update(digest, values[here])
    return digest.hexdigest()
