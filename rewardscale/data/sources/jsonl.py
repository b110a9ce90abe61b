"""Compressed jsonl files, read line by line with errors that name the file and the line."""

import gzip
import json
import lzma
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewardscale.data.comparison import DataError

_OPEN = {".gz": gzip.open, ".xz": lzma.open}
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, UnicodeDecodeError)


def json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file and line for messages, record) of each line of a jsonl file, compressed as its suffix (.gz, .xz) says.

    Raises DataError for a damaged file and for a line that is not a JSON object.
    """
    number = 0
    try:
        with _OPEN[path.suffix](path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                where = f"{path}, line {number}"
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{where} is not JSON ({error}); fetch the file again") from error
                if not isinstance(record, dict):
                    raise DataError(f"{where} is not a JSON object; fetch the file again")
                yield where, record
    except _DAMAGED as error:
        raise DataError(f"{path} is damaged after line {number} ({error}); fetch the file again") from error
