"""The ledger: the append-only store of all verdicts on one corpus, and of the attributes of its pairs.

    part-*.parquet             immutable parts, each whole or absent: sources, imports, reward models
    log/<writer>.jsonl         judges: a file a writer (data/ledger/log.py)
    log-attributes/...         attributes that judges wrote, likewise
    people.sqlite              people's verdicts, and edits of attributes (data/ledger/database.py)

Who reads the ledger sees all of them, in this order, each key once.
"""

import dataclasses
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import orjson
import polars as pl

from rewardscale import atomic
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.checks import (
    check_attributes,
    checked,
    complete,
    from_json,
    read_json,
    to_frame,
    to_json,
)
from rewardscale.data.ledger.database import PeopleStore
from rewardscale.data.ledger.log import AppendLog, log_files, payloads
from rewardscale.data.ledger.schema import ATTRIBUTE_COLUMNS, VERDICT_COLUMNS, Attributes, Kind, Verdict

_ATTRIBUTES = [field.name for field in dataclasses.fields(Attributes)]  # as in ATTRIBUTE_COLUMNS
COUNT_COLUMNS = pl.Schema({"store": pl.String, "writer": pl.String, "verdicts": pl.Int64})


class Ledger:
    """The append-only store of all verdicts on one corpus. Any number of processes may read and write.

    Args:
      directory: the ledger's folder; created by the first writing.
    """

    def __init__(self, directory: Path):
        self.directory = Path(directory)

    def append(self, verdicts: Sequence[Verdict] | pl.DataFrame) -> int:
        """Adds verdicts as one part, atomically; those whose key is there are left out. Returns how many were new.

        Args:
          verdicts: records, or a table with CORE_COLUMNS and any others of VERDICT_COLUMNS, in any order.

        Raises:
          DataError: what `checked` refuses; the ledger stays as it was.
          OSError: full disk, read-only folder; the ledger stays as it was.
        """
        frame = verdicts if isinstance(verdicts, pl.DataFrame) else to_frame(verdicts)
        part = _first_of_each_key(checked(frame))
        if (part["key"] != "").any():
            part = part.filter(~pl.col("key").is_in(list(self.keys())))
        if len(part):
            name = f"part-{len(self._parts()):06d}-{uuid.uuid4().hex[:8]}.parquet"
            atomic.write_parquet(self.directory / name, part)
        return len(part)

    def log(self, writer: str) -> "LogWriter":
        """Opens the log of this writer, which nobody else holds. Raises as AppendLog."""
        return LogWriter(self.directory, writer)

    def database(self) -> PeopleStore:
        """Opens the database, created if absent. Raises DataError as PeopleStore."""
        return PeopleStore(self._database)

    def read(self, kind: Kind | None = None, iteration: int | None = None) -> pl.DataFrame:
        """Verdicts (VERDICT_COLUMNS) of parts, logs and database in this order; of one key the first.

        Args:
          kind, iteration: only these; everything by default.

        Raises DataError naming what cannot be read.
        """
        frame = _first_of_each_key(
            pl.concat([pl.DataFrame(schema=VERDICT_COLUMNS), *self._tables().values()])
        )
        if kind is not None:
            frame = frame.filter(pl.col("kind") == kind)
        return frame if iteration is None else frame.filter(pl.col("iteration") == iteration)

    def keys(self) -> set[str]:
        """The keys of all verdicts: what need not be asked again."""
        found: set[str] = set()
        for path in self._parts():
            frame = _read_parquet(path)
            found.update(frame["key"] if "key" in frame.columns else ())
        for path in log_files(self.directory / "log"):
            found.update(read_json(payloads(path), pl.Schema({"key": pl.String()}))["key"])
        if self._database.exists():
            with self.database() as store:
                found |= store.keys()
        return found - {""}

    def counts(self) -> pl.DataFrame:
        """COUNT_COLUMNS: verdicts a writer (a part, a log, the database), repetitions included."""
        records = [(*name, len(frame)) for name, frame in self._tables().items()]
        return pl.DataFrame(records, schema=COUNT_COLUMNS, orient="row")

    def add_attributes(self, row: int, comparison: str, attributes: Attributes) -> bool:
        """Makes these the pair's attributes, as `PeopleStore.add_attributes` does."""
        with self.database() as store:
            return store.add_attributes(row, comparison, attributes)

    def attributes(self, *, history: bool = False) -> pl.DataFrame:
        """The attributes of each pair (ATTRIBUTE_COLUMNS) by row; with `history` all that it ever had, oldest first.

        What is in the database, where people edit, comes after what judges wrote to logs.
        """
        tables = [_attributes(path) for path in log_files(self.directory / "log-attributes")]
        if self._database.exists():
            with self.database() as store:
                tables.append(store.attributes())
        frame = pl.concat([pl.DataFrame(schema=ATTRIBUTE_COLUMNS), *tables])
        frame = frame if history else frame.unique("row", keep="last", maintain_order=True)
        return frame.sort("row", maintain_order=True)

    def attributes_by_row(self) -> dict[int, Attributes]:
        """The attributes of each pair as records."""
        table = self.attributes()
        rows = table.select(_ATTRIBUTES).iter_rows(named=True)
        return {row: Attributes(**values) for row, values in zip(table["row"], rows, strict=True)}

    def export(self, path: Path) -> int:
        """Writes all verdicts to the Parquet file `path`, the attributes' history beside it; returns how many verdicts.

        The history is `<name>.attributes.parquet`, written where there is any.
        """
        frame, history = self.read(), self.attributes(history=True)
        atomic.write_parquet(Path(path), frame)
        if len(history):
            atomic.write_parquet(_beside(path), history)
        return len(frame)

    def import_(self, path: Path) -> int:
        """Adds what `export` wrote; what is there already is left out. Returns how many verdicts were new.

        Raises DataError naming a file that cannot be read or a value that cannot be.
        """
        frame = checked(_read_part(Path(path)))
        there = set(_contents(self.read().filter(pl.col("key") == "")))
        without_key = pl.Series([key == "" and content in there for key, content in
                                 zip(frame["key"], _contents(frame), strict=True)], dtype=pl.Boolean)  # fmt: skip
        added = self.append(frame.filter(~without_key))
        if _beside(path).exists():
            self._import_attributes(_read_parquet(_beside(path)))
        return added

    def _import_attributes(self, history: pl.DataFrame) -> None:
        there = set(self.attributes(history=True).rows())
        with self.database() as store, store.transaction():
            for record in history.select(ATTRIBUTE_COLUMNS.names()).iter_rows():
                if record not in there:
                    row, comparison, *values, time = record
                    attributes = Attributes(**dict(zip(_ATTRIBUTES, values, strict=True)))
                    store.add_attributes(row, comparison, attributes, time=time)

    @property
    def _database(self) -> Path:
        return self.directory / "people.sqlite"

    def _parts(self) -> list[Path]:
        return sorted(self.directory.glob("part-*.parquet"))

    def _tables(self) -> dict[tuple[str, str], pl.DataFrame]:
        tables = {("part", path.stem): _read_part(path) for path in self._parts()}
        tables |= {("log", p.stem): from_json(payloads(p)) for p in log_files(self.directory / "log")}
        if self._database.exists():
            with self.database() as store:
                tables["database", "people"] = store.read()
        return tables


class LogWriter:
    """One writer's log of verdicts and attributes, from `Ledger.log`. When `add` returns, a kill loses nothing.

    Attributes:
      torn_bytes: of a half-written verdict that a killed writer of this name left, cut off when this one opened.
    """

    def __init__(self, directory: Path, writer: str):
        self._verdicts = AppendLog(directory / "log", writer)
        self._attributes: AppendLog | None = None
        self._directory, self._writer = directory, writer
        self.torn_bytes = self._verdicts.torn_bytes

    def add(self, verdict: Verdict) -> None:
        """Appends a verdict. Raises DataError for a bad one, OSError if writing fails."""
        self._verdicts.add(orjson.Fragment(to_json(verdict)))

    def add_attributes(self, row: int, comparison: str, attributes: Attributes) -> None:
        """Appends a pair's attributes. Raises DataError for values that there are not."""
        check_attributes(attributes)
        if self._attributes is None:
            self._attributes = AppendLog(self._directory / "log-attributes", self._writer)
        self._attributes.add({"row": row, "comparison": comparison, **dataclasses.asdict(attributes)})

    def sync(self) -> None:
        """Returns when all that was added is on the disk."""
        self._verdicts.sync()
        if self._attributes is not None:
            self._attributes.sync()

    def close(self) -> None:
        """Syncs and frees the writer's name."""
        self._verdicts.close()
        if self._attributes is not None:
            self._attributes.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _first_of_each_key(frame: pl.DataFrame) -> pl.DataFrame:
    new = (frame["key"] == "") | frame["key"].is_first_distinct()
    return frame if new.all() else frame.filter(new)  # filtering columns of lists is slow


def _attributes(path: Path) -> pl.DataFrame:
    return read_json(payloads(path), ATTRIBUTE_COLUMNS)


def _contents(frame: pl.DataFrame) -> pl.Series:
    """A text a row that says all of it."""
    return frame.select(pl.struct(VERDICT_COLUMNS.names()).struct.json_encode()).to_series()


def _beside(path: Path) -> Path:
    return Path(path).with_suffix(".attributes.parquet")


def _read_part(path: Path) -> pl.DataFrame:
    try:
        return complete(_read_parquet(path))
    except DataError as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or build the ledger again") from error


def _read_parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path} cannot be read ({error}); restore it, or build the ledger again") from error
