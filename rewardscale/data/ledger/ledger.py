"""The ledger: the append-only store of all verdicts on one corpus.

A folder of immutable Parquet parts; appending writes one more part, whole or not at all.
"""

import uuid
from pathlib import Path

import polars as pl

from rewardscale import atomic
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.checks import checked, complete
from rewardscale.data.ledger.schema import VERDICT_COLUMNS


class Ledger:
    """The append-only store of all verdicts on one corpus.

    Args:
      directory: the ledger's folder; created by the first append.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)

    def append(self, verdicts: pl.DataFrame) -> None:
        """Adds verdicts (CORE_COLUMNS and any others of VERDICT_COLUMNS, any order) as one part, atomically.

        Raises:
          DataError: what `checked` refuses; the ledger stays as it was.
          OSError: full disk, read-only folder; the ledger stays as it was.
        """
        part = checked(verdicts)
        name = f"part-{len(self._parts()):06d}-{uuid.uuid4().hex[:8]}.parquet"
        atomic.write_parquet(self.directory / name, part)

    def read(self) -> pl.DataFrame:
        """All verdicts (VERDICT_COLUMNS) in the order of their parts; no rows if there are none.

        Raises DataError naming a part that cannot be read.
        """
        return pl.concat([pl.DataFrame(schema=VERDICT_COLUMNS), *map(_read_part, self._parts())])

    def _parts(self) -> list[Path]:
        return sorted(self.directory.glob("part-*.parquet"))


def _read_part(path: Path) -> pl.DataFrame:
    try:
        return complete(pl.read_parquet(path))
    except (pl.exceptions.PolarsError, DataError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or build the ledger again") from error
