"""Pairs from files: one JSON object a line (.jsonl, .jsonl.gz) or a row (.parquet), in the forms of public sets.

    {"prompt": "...", "chosen": "...", "rejected": "..."}        and the further forms of data/records.py

Nothing is left out in silence: what cannot be used is counted and listed with its file, line and reason.
"""

import dataclasses
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale.data.chat import ChatTokenizer
from rewardscale.data.comparison import Comparison, DataError, Message
from rewardscale.data.records import parse_item
from rewardscale.data.sources.pairing import text_order

_AT_ONCE = 1024


@dataclasses.dataclass(frozen=True)
class Pairs:
    """What files hold.

    Attributes:
      comparisons: of two responses each, in an order that says nothing about which is the better one.
      orientation: int8 [n], +1 where the first response is the chosen one, else -1.
      refused: what could not be used: {"file", "line", "reason"} each.
    """

    comparisons: list[Comparison]
    orientation: np.ndarray
    refused: list[dict[str, Any]]


def read_pairs(files: Sequence[Path], chat: ChatTokenizer, *, split: str) -> Pairs:
    """All pairs of `files` that `chat` can render and tokenise.

    Raises DataError for a file that cannot be read, or if no pair is left.
    """
    comparisons, refused = [], []
    orientation: list[int] = []
    for file in files:
        for batch in _batched(_records(Path(file))):
            parsed = [(place, _pair(record, Path(file).name, split)) for place, record in batch]
            usable = [(place, made) for place, made in parsed if not isinstance(made, DataError)]
            encoded = chat.encode_comparisons([(c.prompt, c.responses) for _, (c, _) in usable])
            refused += [_refusal(file, place, made) for place, made in parsed if isinstance(made, DataError)]
            for (place, (comparison, sign)), result in zip(usable, encoded, strict=True):
                if isinstance(result, DataError):
                    refused.append(_refusal(file, place, result))
                else:
                    comparisons.append(comparison)
                    orientation.append(sign)
    if not comparisons:
        first = f"; the first: {refused[0]['reason']}" if refused else ""
        raise DataError(f"{', '.join(map(str, files))}: none of {len(refused)} items is a usable pair{first}")
    return Pairs(comparisons, np.array(orientation, np.int8), refused)


def _records(path: Path) -> Iterator[tuple[int, Any]]:
    """(line or row number, record); a line that is no JSON is a DataError in its place."""
    try:
        if path.suffix == ".parquet":
            yield from enumerate(pl.read_parquet(path).iter_rows(named=True), 1)
            return
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield number, _parsed(line)
    except (OSError, EOFError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read ({error})") from error


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError as error:
        return DataError(f"not JSON: {error}")


def _pair(record: Any, source: str, split: str) -> tuple[Comparison, int] | DataError:
    try:
        if isinstance(record, DataError):
            raise record
        item = parse_item(record)
        if not item.pair or len(item.parts) != 1 or item.tools:
            raise DataError(
                "training needs a 'chosen' and a 'rejected' answer to one and the same prompt, without tools"
            )
        ((messages, (chosen, rejected)),) = item.parts
        if chosen == rejected:
            raise DataError("chosen and rejected are the same text")
        prompt = tuple(_message(message) for message in messages)
        first = text_order(chosen) < text_order(rejected)
        responses = (chosen, rejected) if first else (rejected, chosen)
        made = Comparison(prompt, responses, source=source, split=split)
        _ = made.id  # is the text valid Unicode?
        return made, 1 if first else -1
    except DataError as error:
        return error


def _message(message: Mapping[str, Any]) -> Message:
    if set(message) != {"role", "content"}:
        raise DataError(f"a message has keys {sorted(message)}; a corpus holds role and content alone")
    return Message(message["role"], message["content"])


def _refusal(file: Path | str, line: int, reason: DataError) -> dict[str, Any]:
    return {"file": str(file), "line": line, "reason": str(reason)}


def _batched(records: Iterator[tuple[int, Any]]) -> Iterator[list[tuple[int, Any]]]:
    batch: list[tuple[int, Any]] = []
    for record in records:
        batch.append(record)
        if len(batch) == _AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
