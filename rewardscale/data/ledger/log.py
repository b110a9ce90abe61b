"""An append-only log: JSON lines with checksums, one file a writer, safe against a kill at any byte.

A line is the CRC-32 of the record in eight hex digits, a space, the record as JSON, a newline. A writer holds its file
by a lock that the kernel frees when the writer dies; nobody else writes there, so writers never meet, on a network
file system neither. What a killed writer left half-written at the end is no record: readers pass over it, and the
next writer of that name cuts it off.
"""

import fcntl
import os
import re
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

import orjson

from rewardscale.data.comparison import DataError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_HEAD = 9  # bytes before a line's JSON
_OPTIONS = orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE


class AppendLog:
    """One writer's file of an append-only log, opened for appending.

    When `add` returns, the record is the kernel's: it outlives this process, however that ends. It outlives the
    machine's crash after `sync`, which happens by itself after `group` records or, when one is added, `seconds`
    after the last time, and on `close`. Threads may share it; a forked child must not write.

    Args:
      directory: of the log; created if absent.
      writer: letters, digits, `_`, `.`, `-`; names the file `<writer>.jsonl`.

    Attributes:
      records: how many are in the file. torn_bytes: what was cut off its end when it was opened.

    Raises:
      DataError: another process holds this writer's file, the name does not do, or a record is damaged.
      OSError: full disk, read-only folder.
    """

    def __init__(self, directory: Path, writer: str, *, group: int = 500, seconds: float = 1.0):
        if not _NAME.fullmatch(writer):
            raise DataError(f"writer {writer!r}: use letters, digits, `_`, `.` and `-`, 100 at the most")
        self.path = Path(directory) / f"{writer}.jsonl"
        self._group, self._seconds = group, seconds
        self._guard = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            self._hold(writer)
            data = self.path.read_bytes()
            found, self._end = _scan(data, self.path)
            self.records, self.torn_bytes = len(found), len(data) - self._end
            if self.torn_bytes:
                os.ftruncate(self._file, self._end)
            os.fsync(self._file)
            _sync_directory(self.path.parent)
        except BaseException:
            os.close(self._file)
            raise
        self._pending, self._synced = 0, time.monotonic()

    def _hold(self, writer: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(
                f"{self.path} is being written by another process; wait for it, or give another name than {writer!r}"
            ) from error

    def add(self, record: Any) -> None:
        """Appends one record. Raises DataError if orjson cannot write it, OSError if writing fails."""
        self._write(_line(record), 1)

    def extend(self, records: Iterable[Any]) -> None:
        """Appends records in one write. Raises as `add`; then none of them is there."""
        lines = [_line(record) for record in records]
        self._write(memoryview(b"".join(lines)), len(lines))

    def _write(self, data: bytes | memoryview, records: int) -> None:
        with self._guard:
            try:
                written = os.write(self._file, data)
                while written < len(data):  # a full disk takes a part first and says so the next time
                    written += os.write(self._file, data[written:])
            except OSError:
                os.ftruncate(self._file, self._end)
                raise
            self._end += len(data)
            self.records += records
            self._pending += records
            if self._pending >= self._group or time.monotonic() - self._synced >= self._seconds:
                self._sync()

    def sync(self) -> None:
        """Returns when every record so far is on the disk."""
        with self._guard:
            self._sync()

    def _sync(self) -> None:
        if self._pending:
            os.fsync(self._file)
        self._pending, self._synced = 0, time.monotonic()

    def close(self) -> None:
        """Syncs and lets go of the file; a second call does nothing."""
        with self._guard:
            if self._file >= 0:
                try:
                    self._sync()
                finally:
                    os.close(self._file)
                    self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def log_files(directory: Path) -> list[Path]:
    """The files of the log in `directory`, by writer; none if there is no such folder."""
    return sorted(Path(directory).glob("*.jsonl"))


def payloads(path: Path) -> list[bytes]:
    """The records of one writer's file as JSON, in the order in which they were added.

    May be called while the writer writes: what is half-written at the end is left out.

    Raises DataError naming the line of a damaged record.
    """
    return _scan(path.read_bytes(), path)[0]


def read_log(directory: Path) -> Iterator[Any]:
    """All records of the log in `directory`, writer after writer. Raises DataError as `payloads`."""
    for path in log_files(directory):
        yield from map(orjson.loads, payloads(path))


def _line(record: Any) -> bytes:
    try:
        payload = orjson.dumps(record, option=_OPTIONS)
    except TypeError as error:  # orjson.JSONEncodeError
        raise DataError(f"a record cannot be written as JSON: {error}") from error
    return b"%08x %s" % (zlib.crc32(payload[:-1]), payload)


def _is_whole(line: bytes) -> bool:
    return line[:_HEAD] == b"%08x " % zlib.crc32(line[_HEAD:])


def _scan(data: bytes, path: Path) -> tuple[list[bytes], int]:
    """The JSON of each whole line, and where the last ends. Raises DataError if a bad line precedes a whole one."""
    lines = data.split(b"\n")
    lines.pop()  # no newline, no record
    end = 0
    for number, line in enumerate(lines):
        if not _is_whole(line):
            if any(map(_is_whole, lines[number + 1 :])):
                raise DataError(
                    f"{path}, line {number + 1}: the record is damaged (its checksum differs); restore the file, or "
                    f"take that line out, and its record will be made again"
                )
            return [whole[_HEAD:] for whole in lines[:number]], end
        end += len(line) + 1
    return [whole[_HEAD:] for whole in lines], end


def _sync_directory(directory: Path) -> None:
    """A new file's name is on the disk when its folder is."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
