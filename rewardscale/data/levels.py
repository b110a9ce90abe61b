"""Curation levels: folders of flat arrays that index corpus rows; the corpus is never copied."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import atomic
from rewardscale.data import arrays, remote
from rewardscale.data.comparison import DataError


@dataclasses.dataclass(frozen=True)
class Level:
    """A curation level: which corpus rows to train on, and which response is the chosen one.

    Raises DataError if the arrays are not as described here.

    Attributes:
      name: "raw", "filtered", ...; names a folder.
      rows: uint32 [n], strictly increasing corpus row numbers.
      orientation: int8 [n], +1 if the first response is chosen, -1 if the second.
      weight: float32 [n], loss weight of each pair, not negative, or None for 1.
      target: float32 [n], probability that the chosen response is the better one, or None for 1.
      cost: float32 [corpus rows], what examining each row cost (also rows that were dropped), or
        None where a row costs 1.
      cost_unit: "raw pairs", "votes", "USD", ...
      about: how it was made; enters `fingerprint`.
    """

    name: str
    rows: np.ndarray
    orientation: np.ndarray
    weight: np.ndarray | None = None
    target: np.ndarray | None = None
    cost: np.ndarray | None = None
    cost_unit: str = "raw pairs"
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.rows)
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise DataError(f"level {self.name!r}: the name must do as a folder's name")
        if self.rows.dtype != np.uint32 or self.orientation.dtype != np.int8:
            raise DataError(f"level {self.name!r}: rows must be uint32 and orientation int8")
        if len(self.orientation) != n or not arrays.every(self.orientation, lambda o: (o == 1) | (o == -1)):
            raise DataError(f"level {self.name!r}: orientation must hold {n} values of +1 or -1")
        if not arrays.increasing(self.rows):
            raise DataError(f"level {self.name!r}: rows must be strictly increasing")
        for field in ("weight", "target"):
            values = getattr(self, field)
            if values is not None and (len(values) != n or not arrays.every(values, np.isfinite)):
                raise DataError(f"level {self.name!r}: {field} must hold {n} finite values")
        if self.weight is not None and not arrays.every(self.weight, lambda w: w >= 0):
            raise DataError(f"level {self.name!r}: weight must not be negative")
        if self.target is not None and not arrays.every(self.target, lambda t: (t >= 0) & (t <= 1)):
            raise DataError(f"level {self.name!r}: target must hold probabilities, 0 to 1")
        self._check_cost()

    def _check_cost(self) -> None:
        if self.cost is None:
            return
        if not arrays.every(self.cost, lambda c: np.isfinite(c) & (c >= 0)):
            raise DataError(f"level {self.name!r}: cost must be finite and not negative")
        if len(self.rows) and len(self.cost) <= self.rows[-1]:
            raise DataError(
                f"level {self.name!r}: cost must hold a value for each corpus row; row {self.rows[-1]} has none"
            )

    @property
    def fingerprint(self) -> str:
        """Hash (32 hex digits) of everything in the level that can change a trained model or its bill."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self.name, self.cost_unit, dict(self.about)], sort_keys=True).encode())
        for field in _ARRAYS:
            values = getattr(self, field)
            digest.update(f"{field}:{None if values is None else (values.dtype.str, len(values))}".encode())
            if values is not None:
                arrays.update(digest, values)
        return digest.hexdigest()


_ARRAYS = ("rows", "orientation", "weight", "target", "cost")


def write_level(directory: Path, level: Level) -> Path:
    """Writes `level` to `directory/<name>` (arrays as .npy, `level.json` with the fingerprint); returns that path.

    A level of the same name and content is left alone; another content under the same name raises
    DataError: levels are immutable, a new one gets a new name.
    """
    final = Path(directory) / level.name
    if final.exists():
        if read_level(final).fingerprint != level.fingerprint:
            raise DataError(f"{final} holds another level of this name; remove it or choose another name")
        return final
    with atomic.new_directory(final) as folder:
        present = [field for field in _ARRAYS if getattr(level, field) is not None]
        for field in present:
            np.save(folder / f"{field}.npy", getattr(level, field))
        record = {
            "name": level.name,
            "pairs": len(level.rows),
            "arrays": present,
            "cost_unit": level.cost_unit,
            "about": dict(level.about),
            "fingerprint": level.fingerprint,
        }
        atomic.write_json(folder / "level.json", record)
    return final


def read_level(directory: Path | str, *, deep: bool | None = None) -> Level:
    """Reads a level folder, here or at a url; large arrays are mapped and not read.

    Args:
      deep: also check the arrays against the level's fingerprint, by default when they are under 256 MiB together.

    Raises DataError if it is absent, incomplete or does not match its fingerprint.
    """
    path = remote.local(directory) / "level.json"
    try:
        record = json.loads(path.read_text())
        values = {field: arrays.load(path.parent / f"{field}.npy") for field in record["arrays"]}
        level = Level(name=record["name"], cost_unit=record["cost_unit"], about=record["about"], **values)
        wanted, pairs = record["fingerprint"], record["pairs"]
    except FileNotFoundError as error:
        raise DataError(
            f"level folder {directory} is missing {error.filename}; build the level again"
        ) from error
    except (KeyError, ValueError, TypeError, EOFError) as error:
        raise DataError(
            f"level folder {directory} cannot be read ({error}); delete it and build it again"
        ) from error
    if deep is None:
        deep = sum(array.nbytes for array in values.values()) <= arrays.VERIFY_LIMIT_BYTES
    if len(level.rows) != pairs or (deep and level.fingerprint != wanted):
        raise DataError(
            f"level folder {directory} does not match its fingerprint; delete it and build it again"
        )
    return level


def level_names(directory: Path) -> Sequence[str]:
    """Names of the levels under `directory`, sorted."""
    names = (p.parent.name for p in Path(directory).glob("*/level.json"))
    return sorted(name for name in names if not name.startswith("."))  # one that a killed writer left
