"""Records of JSON text: a line each, or the elements of an array that is never held whole."""

import codecs
import json
from collections.abc import Iterator, Mapping
from io import BufferedIOBase
from typing import Any

import orjson

from rewardscale.data.comparison import DataError
from rewardscale.data.sources.judged import Refused

MAX_LINE = 64 << 20  # bytes
_CHUNK = 1 << 20
_SPACE = " \t\r\n"
_BOM = codecs.BOM_UTF8

Numbered = tuple[int, Mapping[str, Any]]


def lines(
    file: BufferedIOBase, name: str, *, first: int = 1, size: int | None = None, max_line: int = MAX_LINE
) -> Iterator[Numbered | Refused]:
    """(number, record) of each line from the file's position on; a line that is no record is Refused in its place.

    Args:
      name: of the file, for messages. first: the number of the first line. size: bytes; lines that start after that
        many are left to others. max_line: bytes; a longer line is refused and never held.
    """
    at, number = 0, first - 1
    while size is None or at < size:
        line = file.readline(max_line + 1)
        if not line:
            return
        number += 1
        at += len(line)
        if len(line) > max_line:
            at += _skip_line(file, line)
            yield Refused(name, number, "line_too_long", f"the line is longer than {max_line:,} bytes")
            continue
        if number == 1 and line.startswith(_BOM):
            line = line[len(_BOM) :]
        if not line.isspace() and line:
            yield parsed(line, name, number)


def parsed(line: bytes, name: str, number: int) -> Numbered | Refused:
    """One record from its JSON."""
    try:
        record = orjson.loads(line)
    except ValueError as error:
        return _why(line, name, number, error)
    if type(record) is not dict:
        return Refused(name, number, "not_object", "the line is JSON, but not an object {...}")
    return number, record


def _why(line: bytes, name: str, number: int, error: ValueError) -> Numbered | Refused:
    """The reason that a line did not parse; or its record, where all that is wrong is a NaN or an infinity."""
    if b"\x00" in line:
        return Refused(name, number, "nul", "the line holds NUL bytes; the file was cut or is not text")
    try:
        text = line.decode()
    except UnicodeDecodeError as wrong:
        return Refused(name, number, "not_utf8", f"the line is not UTF-8 (at byte {wrong.start}); convert it")
    if "surrogate" in str(error):
        return Refused(name, number, "not_unicode", f"a text is not valid Unicode ({error}); repair it")
    if "NaN" in text or "Infinity" in text:  # as Python writes them
        try:
            record = json.loads(text)
        except (ValueError, RecursionError):
            pass
        else:
            if isinstance(record, dict):
                return number, record
    return Refused(name, number, "not_json", f"the line is not JSON: {error}")


def _skip_line(file: BufferedIOBase, part: bytes) -> int:
    """Reads on to the end of a line of which `part` has been read; bytes read."""
    skipped = 0
    while part and not part.endswith(b"\n"):
        part = file.readline(_CHUNK)
        skipped += len(part)
    return skipped


def is_lines(file: BufferedIOBase) -> bool:
    """Whether a .json file is a record a line: its first line is a whole object and more than text follows, or
    that object does not hold arrays of objects."""
    begin = file.read(len(_BOM)).removeprefix(_BOM)
    while begin and begin.isspace():
        begin = file.read(1)
    if not begin.lstrip().startswith(b"{"):
        return False
    first, _, more = (begin + file.readline(MAX_LINE)).lstrip().partition(b"\n")
    try:
        record = orjson.loads(first)
    except ValueError:
        return first.rstrip().endswith(b"}")  # a broken line of many, rather than the begin of one object
    if more.strip() or any(not line.isspace() for line in file):
        return True
    return not any(_is_table(value) for value in record.values())


def _is_table(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(element, dict) for element in value)


def elements(file: BufferedIOBase, where: str) -> Iterator[Numbered | Refused]:
    """(number, record) of a JSON array of objects, or of all such arrays of an object, one after the other.

    An element that is no object is Refused in its place.

    Raises DataError where the text is no such JSON: what follows a broken element cannot be told apart.
    """
    text = _Text(file, where)
    match text.next():
        case "[":
            yield from _array(text, where, 0)
        case "{":
            number, arrays = 0, 0
            while (mark := text.next()) != "}":
                if mark == ",":
                    continue
                text.back()
                text.value()
                text.expect(":")
                if text.next() == "[":
                    arrays += 1
                    for record in _array(text, where, number):
                        number = record.line if isinstance(record, Refused) else record[0]
                        yield record
                else:
                    text.back()
                    text.value()
            if not arrays:
                raise DataError(
                    f"{where} is one JSON object without an array of records; give a line a record"
                )
        case _:
            raise DataError(f"{where} holds neither a JSON array nor an object of arrays")
    if text.next():
        raise DataError(f"{where} goes on after the end of its JSON; make it a line a record (.jsonl)")


def _array(text: "_Text", where: str, number: int) -> Iterator[Numbered | Refused]:
    while (mark := text.next()) != "]":
        if mark == ",":
            continue
        text.back()
        value = text.value()
        number += 1
        if isinstance(value, dict):
            yield number, value
        else:
            yield Refused(where, number, "not_object", "the element of the array is not an object {...}")


class _Text:
    """JSON text of which a window is held: from the value that is being read to the end of a chunk."""

    def __init__(self, file: BufferedIOBase, where: str):
        self._file, self._where = file, where
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text, self._at, self._size = "", 0, _CHUNK
        self._ended = False

    def next(self) -> str:
        """The next character that is no space; "" at the end."""
        while True:
            while self._at < len(self._text):
                self._at += 1
                if (mark := self._text[self._at - 1]) not in _SPACE:
                    return mark
            if not self._more():
                return ""

    def back(self) -> None:
        self._at -= 1

    def expect(self, mark: str) -> None:
        if self.next() != mark:
            raise DataError(f"{self._where} is not JSON: {mark!r} is missing; fetch the file again")

    def value(self) -> Any:
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                if end < len(self._text) or self._ended:  # a number might go on
                    self._at = end
                    return value
            except (ValueError, RecursionError) as error:
                if self._ended:
                    raise DataError(f"{self._where} is not JSON, or cut short: {error}") from error
            if len(self._text) - self._at > MAX_LINE and not self._ended:
                raise DataError(f"{self._where}: a record is longer than {MAX_LINE:,} bytes, or not JSON")
            self._more()

    def _more(self) -> bool:
        """Reads on, dropping what is behind; twice as much as before while one value fills the window."""
        if self._ended:
            return False
        held = self._text[self._at :]
        self._size = max(_CHUNK, 2 * len(held))
        try:
            data = self._file.read(self._size)
            self._text, self._at = held + self._decode(data, not data), 0
        except UnicodeDecodeError as error:
            raise DataError(f"{self._where} is not UTF-8 ({error}); convert it") from error
        self._ended = not data
        return True
