"""Rows of Parquet files a row group at a time, and of Arrow streams a record batch at a time.

polars reads both, but tells neither where a Parquet file's row groups begin nor reads an Arrow stream piece by piece,
so the two frames around the data are read here:

* Parquet: the footer, a struct of Thrift's compact protocol (parquet.apache.org, "File Format", "Metadata"; the
  protocol in apache/thrift, doc/specs/thrift-compact-protocol.md);
* Arrow: encapsulated messages, a FlatBuffer with the length of the body and then the body (arrow.apache.org, "Arrow
  Columnar Format", "Serialization and Interprocess Communication").
"""

import io
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import polars as pl

from rewardscale.data.comparison import DataError

_AT_ONCE = 1024
_SCHEMA, _BATCH = 1, 3  # MessageHeader of Arrow's Message.fbs
_MARK = b"\xff\xff\xff\xff"
_MEND = "fetch the file again"


# --- Parquet -----------------------------------------------------------------------------------------


def row_groups(path: Path) -> list[tuple[int, int]]:
    """(rows, bytes uncompressed) of each row group of a Parquet file. Raises DataError if it is none."""
    with path.open("rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(0, size - 8))
        tail = file.read()
        length = int.from_bytes(tail[:4], "little")
        if len(tail) < 8 or tail[4:] != b"PAR1" or length + 8 > size:
            raise DataError(f"{path} is not a whole Parquet file (it does not end as one); {_MEND}")
        file.seek(size - 8 - length)
        footer = file.read(length)
    try:
        groups = _Thrift(footer).struct().get(4, [])  # FileMetaData.row_groups; RowGroup: 2 bytes, 3 rows
        return [(group[3], group[2]) for group in groups]
    except (IndexError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: the Parquet footer cannot be read ({error!r}); {_MEND}") from error


def parquet_rows(path: Path, start: int, stop: int | None) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row number from 1, record) of rows start to stop, a row group in memory at a time.

    Raises DataError where the file is damaged.
    """
    at, row = 0, start
    for rows, _ in row_groups(path):
        low, high = max(at, start), at + rows if stop is None else min(at + rows, stop)
        at += rows
        if low >= high:
            continue
        try:
            group = pl.scan_parquet(path, glob=False).slice(low, high - low).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise DataError(f"{path} is damaged after row {row} ({error}); {_MEND}") from error
        for part in group.iter_slices(_AT_ONCE):
            for record in part.iter_rows(named=True):
                row += 1
                yield row, record


class _Thrift:
    """The compact protocol, as far as a Parquet footer uses it: structs as {field number: value}."""

    def __init__(self, data: bytes):
        self._data, self._at = data, 0

    def struct(self) -> dict[int, Any]:
        fields, field = {}, 0
        while (head := self._byte()) & 0x0F:
            field = field + (head >> 4) if head >> 4 else self._zigzag()
            fields[field] = self._value(head & 0x0F)
        return fields

    def _value(self, kind: int) -> Any:
        match kind:
            case 1 | 2:
                return kind == 1
            case 3:
                return self._byte()
            case 4 | 5 | 6:
                return self._zigzag()
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._varint())
            case 9 | 10:
                head = self._byte()
                size = head >> 4 if head >> 4 < 15 else self._varint()
                kind = head & 0x0F
                return [self._byte() == 1 if kind in (1, 2) else self._value(kind) for _ in range(size)]
            case 12:
                return self.struct()
            case _:
                raise TypeError(f"unknown type {kind}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while (byte := self._byte()) & 0x80:
            value |= (byte & 0x7F) << shift
            shift += 7
        return value | byte << shift

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)


# --- Arrow -------------------------------------------------------------------------------------------


def arrow_rows(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row number from 1, record) of an Arrow stream or file. Raises DataError where it is damaged."""
    row = 0
    try:
        for frame in _arrow_frames(path):
            for record in frame.iter_rows(named=True):
                row += 1
                yield row, record
    except (pl.exceptions.PolarsError, OSError, EOFError, struct.error, IndexError) as error:
        raise DataError(f"{path} is damaged after row {row} ({error}); {_MEND}") from error


def _arrow_frames(path: Path) -> Iterator[pl.DataFrame]:
    with path.open("rb") as file:
        if file.read(6) == b"ARROW1":
            yield from pl.read_ipc(path).iter_slices(_AT_ONCE)
            return
        file.seek(0)
        before = b""  # the schema and what dictionaries there are
        while message := _message(file):
            kind, data = message
            if kind == _BATCH:
                yield pl.read_ipc_stream(io.BytesIO(before + data + _MARK + bytes(4)))
            else:
                before = data if kind == _SCHEMA else before + data
        if not before:
            raise EOFError("it holds no Arrow schema")


def _message(file: IO[bytes]) -> tuple[int, bytes] | None:
    """(header type, bytes) of the next message; None at the end of the stream."""
    head = file.read(8)
    if not head or head == _MARK + bytes(4):
        return None
    if head[:4] != _MARK or len(head) < 8:
        raise EOFError("no Arrow message where one should begin")
    meta = file.read(int.from_bytes(head[4:], "little"))
    table = struct.unpack_from("<I", meta)[0]
    vtable = table - struct.unpack_from("<i", meta, table)[0]
    # Message: version, header type, header, body length: entries 4, 6, 8 and 10 of the vtable.
    _, kind_at, _, size_at = struct.unpack_from(
        "<4H", meta[: vtable + struct.unpack_from("<H", meta, vtable)[0]] + bytes(8), vtable + 4
    )
    size = struct.unpack_from("<q", meta, table + size_at)[0] if size_at else 0
    body = file.read(size)
    if len(body) < size:
        raise EOFError("the file ends in the middle of a record batch")
    return meta[table + kind_at], head + meta + body
