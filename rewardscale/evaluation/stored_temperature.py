"""The temperature that a model's rewards are calibrated at, in calibration.json beside its weights.

sigmoid((r_a - r_b) / temperature) is then the probability that a is better, on pairs like those it was fitted on. The
file names the weights by their hash (models/hf.py:fingerprint), for a temperature of other weights is wrong in
silence.
"""

import dataclasses
import json
import math
from pathlib import Path

from rewardscale import atomic
from rewardscale.data.comparison import DataError

FILE = "calibration.json"


@dataclasses.dataclass(frozen=True)
class StoredTemperature:
    """A fitted temperature.

    Attributes:
      temperature: what margins are divided by, above 0.
      set: name of the labelled pairs it was fitted on. pairs, clusters: how many those are.
      nll_before, nll_after: nats a pair on them, raw and at temperatures fitted on other clusters.
      weights: hash of the model's weights.
    """

    temperature: float
    set: str
    pairs: int
    clusters: int
    nll_before: float
    nll_after: float
    weights: str

    def __post_init__(self) -> None:
        numbers = (self.temperature, self.nll_before, self.nll_after)
        if not all(isinstance(n, float | int) and math.isfinite(n) for n in numbers) or self.temperature <= 0:
            raise DataError(
                f"temperature {self.temperature!r} and NLL must be finite, the temperature above 0"
            )
        if not all(isinstance(text, str) and text for text in (self.set, self.weights)):
            raise DataError("a stored temperature names its set and the hash of its weights")


def write_temperature(folder: Path, stored: StoredTemperature) -> Path:
    """Writes calibration.json into a model's folder, whole or not at all; returns its path.

    Raises DataError if there is no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no folder of a model to keep a temperature in")
    atomic.write_json(folder / FILE, dataclasses.asdict(stored))
    return folder / FILE


def read_temperature(folder: Path, weights: str) -> StoredTemperature | None:
    """The temperature kept with a model; None if there is none.

    Args:
      weights: hash of the weights that lie there now (models/hf.py:fingerprint).

    Raises DataError if the file is damaged, or is of other weights.
    """
    path = Path(folder) / FILE
    if not path.is_file():
        return None
    mend = f"delete it, or calibrate the model in {folder} again"
    try:
        record = json.loads(path.read_text())
        stored = StoredTemperature(**record)
    except (ValueError, TypeError) as error:  # DataError is a ValueError
        raise DataError(f"{path} is no stored temperature ({error}); {mend}") from error
    if stored.weights != weights:
        raise DataError(
            f"{path} is the temperature of other weights ({stored.weights}, and those here are {weights}); {mend}"
        )
    return stored
