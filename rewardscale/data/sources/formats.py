"""The records of a file, whatever its format, as a stream: memory does not grow with the file.

    .jsonl .ndjson .json .csv .tsv       also .gz .xz .zst .bz2; .json is a record a line, an array of objects, or an
                                         object of such arrays, told apart by looking
    .parquet .arrow                      a row group, a record batch at a time
    .array_record                        JSON in each record
    a TFDS folder                        needs the extra `tfds`, and no TensorFlow

A line that is no record (broken JSON, invalid UTF-8, a NUL, too long) is `Refused` in its place and reading goes on. A
file that is damaged (a cut .gz, a corrupt Parquet) is one DataError: what came before it is not the whole.
"""

import csv
import dataclasses
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale.data.comparison import DataError
from rewardscale.data.sources import json_text, tables
from rewardscale.data.sources.compressed import DAMAGED, SUFFIXES, open_binary, split_suffix
from rewardscale.data.sources.json_text import MAX_LINE, Numbered
from rewardscale.data.sources.judged import Refused

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".array_record")
TARGET = 256 << 20  # bytes of a unit
_AT_ONCE = 1024
_POINTER = b"version https://git-lfs.github.com/spec/"
_TFDS = "dataset_info.json"


@dataclasses.dataclass(frozen=True, slots=True)
class Unit:
    """A file, or the part of one that a task reads.

    Attributes:
      root: folder of the source; where it lies says nothing about what it holds.
      name: of the file below it; "" where `root` is the file itself.
      split: the split that the source puts the file in, or "".
      start, stop: bytes of a .jsonl (both at line starts), rows of a Parquet file or an ArrayRecord (from 0); None is
        the end.
      first: number of the first line of a .jsonl's part, so that messages name the file's own lines.
      part: the TFDS split; only for a TFDS folder.
    """

    root: Path
    name: str = ""
    split: str = ""
    start: int = 0
    stop: int | None = None
    first: int = 1
    part: str = ""

    @property
    def path(self) -> Path:
        return self.root / self.name if self.name else self.root

    @property
    def label(self) -> str:
        """The file's name in messages and in the quarantine: the same wherever the source lies."""
        return self.name or self.root.name


def is_records(path: Path) -> bool:
    """Whether `path` is named like a file of records, or is a TFDS folder."""
    if path.is_dir():
        return (path / _TFDS).is_file() and (path / "features.json").is_file()
    bare, compression = split_suffix(path.name)
    return bare.endswith(FORMATS[:5] if compression else FORMATS) or ".array_record-" in path.name


def units(unit: Unit, *, target: int = TARGET) -> list[Unit]:
    """The parts of a file, in order and of about `target` bytes each; the same for the same file.

    Uncompressed .jsonl is cut at line starts (the file is read once, to count lines), Parquet between row groups,
    ArrayRecord between records; other files stay whole. A record belongs to the part in which its line or row starts.

    Raises DataError if there is no such file, or it is damaged.
    """
    path = unit.path
    kind = _kind(path)
    if kind == "tfds":
        splits = [unit.part] if unit.part else sorted(_tfds(path).info.splits)
        return [dataclasses.replace(unit, part=part, split=unit.split or part) for part in splits]
    size = _checked(path).stat().st_size
    if size <= target or split_suffix(path.name)[1]:
        return [unit]
    match kind:
        case ".jsonl":
            return [
                dataclasses.replace(unit, start=start, stop=stop, first=first)
                for start, stop, first in _byte_ranges(path, target)
            ]
        case ".parquet":
            # Target bytes are of the file, as people see them; groups are weighed by what they decompress to.
            groups = tables.row_groups(path)
            whole = sum(weight for _, weight in groups) or 1
            ranges, start, at, weight = [], 0, 0, 0.0
            for rows, own in groups:
                at += rows
                weight += own / whole * size
                if weight >= target:
                    ranges.append((start, at))
                    start, weight = at, 0.0
            if at > start or not ranges:
                ranges.append((start, at))
        case ".array_record":
            count = _array_record(path).num_records()
            step = max(1, count * target // size)
            ranges = [(start, min(start + step, count)) for start in range(0, count, step)]
        case _:
            return [unit]
    return [dataclasses.replace(unit, start=start, stop=stop) for start, stop in ranges]


def records(unit: Unit, *, max_line: int = MAX_LINE) -> Iterator[Numbered | Refused]:
    """(number from 1, record) of each record of a unit, or Refused in the place of one that cannot be read.

    The number is the line of a .jsonl, .csv or .tsv, the place in the array of a .json, the row of other formats, all
    counted from the beginning of the file, also in a later part of it. A field of a .csv is always a text.

    Raises DataError if there is no such file, it is damaged, or its format is not known.
    """
    path, name = unit.path, unit.label
    kind = _kind(path)
    if kind == "tfds":
        yield from _tfds_records(unit)
        return
    _checked(path)
    match kind:
        case ".parquet":
            yield from tables.parquet_rows(path, unit.start, unit.stop)
        case ".arrow":
            yield from tables.arrow_rows(path)
        case ".array_record":
            yield from _array_record_rows(unit)
        case _:
            at = 0
            try:
                with open_binary(path) as file:
                    for item in _text_records(file, kind, unit, max_line):
                        at = item.line if isinstance(item, Refused) else item[0]
                        yield item
            except DAMAGED as error:
                raise DataError(
                    f"{path} is damaged after line {at} ({error or type(error).__name__}); fetch {name} again"
                ) from error


def whole_records(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and line for messages, record) of a file in which every record must be one.

    Raises DataError for a damaged file and at the first line that is not a JSON object.
    """
    for item in records(Unit(path)):
        if isinstance(item, Refused):
            raise DataError(f"{path}, line {item.line}: {item.reason}; fetch the file again")
        yield f"{path}, line {item[0]}", item[1]


def _kind(path: Path) -> str:
    if path.is_dir():
        if is_records(path):
            return "tfds"
        raise DataError(f"{path} is a folder and no TFDS one: name its files")
    bare, compression = split_suffix(path.name)
    if ".array_record-" in path.name:
        return ".array_record"
    for kind in FORMATS[:5] if compression else FORMATS:
        if bare.endswith(kind):
            return ".jsonl" if kind == ".ndjson" and not compression else kind
    raise DataError(
        f"{path}: the format is told by the name, and this one is not known; known are {' '.join(FORMATS)}, the "
        f"first five also with {' '.join(SUFFIXES)}"
    )


def _checked(path: Path) -> Path:
    """The path of a file that is there. Raises DataError otherwise, and for what git put in a large file's place."""
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    if path.stat().st_size < 1024 and path.read_bytes().startswith(_POINTER):
        raise DataError(f"{path} is a Git LFS pointer and not the file: run `git lfs pull` in its checkout")
    return path


# --- text --------------------------------------------------------------------------------------------


def _text_records(file: BufferedIOBase, kind: str, unit: Unit, max_line: int) -> Iterator[Numbered | Refused]:
    if kind in (".csv", ".tsv"):
        return _csv(file, "\t" if kind == ".tsv" else ",", unit.label)
    if kind == ".json":
        with open_binary(unit.path) as begin:
            one_a_line = json_text.is_lines(begin)
        if not one_a_line:
            return json_text.elements(file, unit.label)
    size = None if unit.stop is None else unit.stop - unit.start
    if unit.start:
        file.seek(unit.start - 1)
        if file.read(1) != b"\n":
            raise DataError(
                f"{unit.path} has changed: no line starts at byte {unit.start}; start the build anew"
            )
    return json_text.lines(file, unit.label, first=unit.first, size=size, max_line=max_line)


def _byte_ranges(path: Path, target: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, number of the first line) of parts that begin at the first line start after k * target bytes."""
    start, first = 0, 1
    at, lines = 0, 0  # before the chunk
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            seen = 0
            while (goal := start + target) <= at + len(chunk):
                # The line that the goal lies in belongs to this part: cut behind its end.
                end = chunk.find(b"\n", max(seen, goal - 1 - at))
                if end < 0:
                    break
                lines += chunk.count(b"\n", seen, end + 1)
                seen = end + 1
                yield start, at + seen, first
                start, first = at + seen, lines + 1
            lines += chunk.count(b"\n", seen)
            at += len(chunk)
    if at > start:
        yield start, at, first


def _csv(file: BufferedIOBase, delimiter: str, name: str) -> Iterator[Numbered | Refused]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_LINE))
    text = (
        line.decode("utf-8-sig" if not number else "utf-8", "surrogateescape")
        for number, line in enumerate(file)
    )
    rows = csv.reader(text, delimiter=delimiter, strict=True)
    try:
        header = next(rows, None)
        if not header:
            raise DataError(f"{name} has no header: its first line must name the columns")
        if len(set(header)) < len(header):
            raise DataError(f"{name}: two columns have the same name in {header}")
        number = rows.line_num + 1
        for row in rows:
            if len(row) == len(header):
                yield _csv_row(dict(zip(header, row, strict=True)), name, number)
            elif row:
                reason = (
                    f"the row has {len(row)} fields and the header {len(header)}; quote fields with commas"
                )
                yield Refused(name, number, "columns", reason)
            number = rows.line_num + 1
    except csv.Error as error:
        raise DataError(
            f"{name}, line {rows.line_num}: not CSV, or cut short ({error}); fetch it again"
        ) from error


def _csv_row(record: dict[str, str], name: str, number: int) -> Numbered | Refused:
    for key, value in record.items():
        if not value.isascii() and any("\udc80" <= mark <= "\udcff" for mark in value):
            return Refused(name, number, "not_utf8", f"`{key}` is not UTF-8; convert it")
    return number, record


# --- ArrayRecord and TFDS ----------------------------------------------------------------------------


def _array_record(path: Path) -> Any:
    from array_record.python.array_record_module import ArrayRecordReader

    reader = ArrayRecordReader(str(path), "readahead_buffer_size:0")
    if not reader.ok():
        raise DataError(f"{path} is no whole ArrayRecord file; fetch the file again")
    return reader


def _array_record_rows(unit: Unit) -> Iterator[Numbered | Refused]:
    reader = _array_record(unit.path)
    stop = reader.num_records() if unit.stop is None else unit.stop
    row = unit.start
    for start in range(unit.start, stop, _AT_ONCE):
        try:
            batch = reader.read(start, min(start + _AT_ONCE, stop))
        except (ValueError, RuntimeError, IndexError, OSError) as error:
            raise DataError(
                f"{unit.path} is damaged after row {row} ({error}); fetch the file again"
            ) from error
        for data in batch:
            row += 1
            yield json_text.parsed(data, unit.label, row)
    reader.close()


def _tfds(path: Path) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise DataError(
            f"{path} is a TFDS folder: install the extra, pip install 'rewardscale[tfds]'"
        ) from error
    try:
        return tfds.builder_from_directory(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{path} is no whole TFDS folder ({error}); write it again") from error


def _tfds_records(unit: Unit) -> Iterator[Numbered | Refused]:
    builder = _tfds(unit.path)
    if unit.part not in builder.info.splits:
        raise DataError(f"{unit.path} has no split {unit.part!r}, only {sorted(builder.info.splits)}")
    try:
        source = builder.as_data_source(split=unit.part)
        for row in range(len(source)):
            try:
                record = _plain(source[row])
            except UnicodeDecodeError:
                yield Refused(unit.label, row + 1, "not_utf8", "a text is not UTF-8; convert it")
                continue
            yield row + 1, record
    except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"{unit.path}, split {unit.part}: cannot be read ({error}); write it again"
        ) from error


def _plain(value: Any) -> Any:
    """Numpy values and bytes of TFDS as JSON has them."""
    if isinstance(value, Mapping):
        return {key: _plain(own) for key, own in value.items()}
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, np.ndarray):
        return [_plain(own) for own in value] if value.dtype == object else value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, list | tuple):
        return [_plain(own) for own in value]
    return value
