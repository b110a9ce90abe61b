"""What is done about a loss that is not finite, once the host hears of it (recipe.nonfinite)."""

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rewardscale.training.tracker import read_metrics


class NonFiniteLoss(RuntimeError):
    """The loss became NaN or infinite, or too many steps in a row were skipped for that."""


class Finite:
    """Looks at every step's metrics.

    Args:
      most: skipped steps in a row that are borne.
    """

    def __init__(self, most: int):
        self._most, self._row = most, 0

    def check(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Raises NonFiniteLoss at the first step, in order, that must not be gone on from."""
        for record in records:
            self._row = self._row + 1 if record.get("skipped") else 0
            if self._row > self._most:
                raise NonFiniteLoss(
                    f"{self._row} steps in a row up to step {record['step']} had a loss or gradient norm that is not "
                    f"finite and were skipped, and runtime.most_skipped is {self._most}: lower the learning rate, or "
                    "look at the data of those steps"
                )
            # What a skipped step says of the loss is expected; its parameters are those of the step before.
            names = (
                ("parameter_norm",) if record.get("skipped") else ("loss", "gradient_norm", "parameter_norm")
            )
            if not all(_is_finite(record[name]) for name in names):
                raise NonFiniteLoss(
                    f"the loss is {record['loss']} at step {record['step']} (gradient norm "
                    f"{record['gradient_norm']}, parameter norm after it {record['parameter_norm']}): lower the "
                    "learning rate, or look at the data of that step"
                )


def without_nonfinite(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records in which what is not finite of a skipped step is None: JSON has no NaN."""
    return [
        {name: value if _is_finite(value) else None for name, value in record.items()}
        if record.get("skipped")
        else record
        for record in records
    ]


def skipped_steps(metrics: Path) -> int:
    """How many steps of a run were skipped, by its metrics file."""
    return sum(int(record.get("skipped", 0)) for _, record in read_metrics(metrics))


def _is_finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)
