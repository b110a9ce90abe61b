"""People's verdicts and everybody's edits of attributes: SQLite, a transaction each, many readers beside a writer."""

import contextlib
import datetime
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import polars as pl

from rewardscale import atomic
from rewardscale.data.comparison import DataError
from rewardscale.data.ledger.checks import check_attributes, from_json, to_json
from rewardscale.data.ledger.schema import ATTRIBUTE_COLUMNS, VERDICT_COLUMNS, Attributes, Verdict

_TABLES = """
CREATE TABLE IF NOT EXISTS pairs (
    row INTEGER PRIMARY KEY,
    comparison TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS verdicts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE CHECK (key <> ''),
    row INTEGER NOT NULL REFERENCES pairs (row),
    annotator TEXT NOT NULL,
    record TEXT NOT NULL CHECK (json_valid(record))
);
CREATE INDEX IF NOT EXISTS verdicts_of_a_row ON verdicts (row);
CREATE TABLE IF NOT EXISTS attributes (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    row INTEGER NOT NULL REFERENCES pairs (row),
    category TEXT NOT NULL,
    objectivity TEXT NOT NULL,
    controversiality TEXT NOT NULL,
    desired TEXT NOT NULL,
    guideline TEXT NOT NULL,
    author TEXT NOT NULL,
    time TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS attributes_of_a_row ON attributes (row, id);
"""
_FIELDS = "category, objectivity, controversiality, desired, guideline, author"
_WAIT_SECONDS = 30.0


class PeopleStore:
    """The ledger's database. What a method has returned for is on the disk.

    Threads and processes of one machine may share the file; it must lie on a local disk (SQLite's WAL mode). A store
    elsewhere (Postgres, say) needs these methods and no others.

    Raises:
      DataError: the file is no database, or its disk cannot have the WAL mode.
    """

    def __init__(self, path: Path):
        self.path = Path(path)
        self._guard = threading.RLock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(
            self.path, timeout=_WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise DataError(f"{self.path} cannot be opened as a database ({error}); restore it") from error
        except BaseException:
            self._connection.close()
            raise

    def _prepare(self) -> None:
        if self._pragma("journal_mode") != "wal":
            with atomic.locked(
                self.path.with_suffix(".lock")
            ):  # two that switch at once do not wait for each other
                if self._pragma("journal_mode = WAL") != "wal":
                    raise DataError(
                        f"{self.path}: this disk allows no WAL mode of SQLite; put the ledger on a local one"
                    )
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.execute("PRAGMA foreign_keys = ON")
        self._connection.executescript(_TABLES)

    def _pragma(self, text: str) -> str:
        return self._connection.execute(f"PRAGMA {text}").fetchone()[0]

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: all of the block or, if it raises, nothing. An inner block belongs to the outer one.

        Whoever keeps tables of their own beside these writes them here together with verdicts.
        """
        with self._guard:
            if self._connection.in_transaction:
                yield self._connection
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise

    def add(self, verdict: Verdict) -> bool:
        """Adds a verdict unless its key is there; returns whether it was new.

        Raises DataError for a bad verdict, one without key, or of another corpus than those before.
        """
        record = to_json(verdict)
        if not verdict.key:
            raise DataError("a verdict for the database needs a `key`, by which a repetition is known")
        with self.transaction() as connection:
            self._pair(connection, verdict.row, verdict.comparison)
            done = connection.execute(
                "INSERT INTO verdicts (key, row, annotator, record) VALUES (?, ?, ?, ?) ON CONFLICT (key) DO NOTHING",
                (verdict.key, verdict.row, verdict.annotator, record.decode()),
            )
            return done.rowcount == 1

    def add_attributes(
        self, row: int, comparison: str, attributes: Attributes, *, time: datetime.datetime | None = None
    ) -> bool:
        """Makes these the pair's attributes, the former being kept as history; returns False if they are already.

        Args:
          time: when (UTC), by default now.

        Raises DataError for values that there are not, or of another corpus than those before.
        """
        check_attributes(attributes)
        values = tuple(getattr(attributes, name) for name in _FIELDS.split(", "))
        stamp = (time or datetime.datetime.now(datetime.UTC)).astimezone(datetime.UTC).isoformat()
        with self.transaction() as connection:
            self._pair(connection, row, comparison)
            latest = connection.execute(
                f"SELECT {_FIELDS} FROM attributes WHERE row = ? ORDER BY id DESC LIMIT 1", (row,)
            ).fetchone()
            if latest == values:
                return False
            connection.execute(
                f"INSERT INTO attributes (row, {_FIELDS}, time) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (row, *values, stamp),
            )
            return True

    def read(self) -> pl.DataFrame:
        """All verdicts, VERDICT_COLUMNS, in the order in which they came."""
        found = self._select("SELECT record FROM verdicts ORDER BY id")
        return from_json([record.encode() for (record,) in found]).select(VERDICT_COLUMNS.names())

    def keys(self) -> set[str]:
        """The keys of all verdicts."""
        return {key for (key,) in self._select("SELECT key FROM verdicts")}

    def attributes(self) -> pl.DataFrame:
        """All attributes that pairs ever had, ATTRIBUTE_COLUMNS, in the order in which they came."""
        found = self._select(
            f"SELECT row, comparison, {_FIELDS}, time FROM attributes JOIN pairs USING (row) ORDER BY id"
        )
        times = [datetime.datetime.fromisoformat(record[-1]) for record in found]
        records = [(*record[:-1], time) for record, time in zip(found, times, strict=True)]
        return pl.DataFrame(records, schema=ATTRIBUTE_COLUMNS, orient="row")

    def close(self) -> None:
        with self._guard:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _select(self, query: str) -> list[tuple]:
        with self._guard:
            return self._connection.execute(query).fetchall()

    def _pair(self, connection: sqlite3.Connection, row: int, comparison: str) -> None:
        connection.execute("INSERT INTO pairs VALUES (?, ?) ON CONFLICT (row) DO NOTHING", (row, comparison))
        (known,) = connection.execute("SELECT comparison FROM pairs WHERE row = ?", (row,)).fetchone()
        if known != comparison:
            raise DataError(
                f"{self.path} knows row {row} as comparison {known}, not {comparison}: it belongs to another corpus"
            )
