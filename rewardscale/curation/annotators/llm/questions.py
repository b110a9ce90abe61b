"""Questions on disk by shard: what tasks on other machines are asked, as compressed lines of JSON."""

import dataclasses
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import zstandard

from rewardscale import atomic
from rewardscale.curation.annotators.base import Example, Question
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.ledger.schema import Attributes

_FLUSH_BYTES = 2**20  # of a shard, and
_HELD_BYTES = 2**28  # of all shards, before they are written


def shard_of(comparison_id: str, shards: int) -> int:
    """Where a pair belongs, by its id (32 hex digits)."""
    return int(comparison_id[:12], 16) % shards


def write_questions(
    directory: Path, questions: Iterable[Question], shards: int
) -> list[tuple[str, Path, str]]:
    """Writes questions by shard; (shard, file, hash) of those that have any. Holds 256 MiB of them at most."""
    fresh = directory / ".new"
    with atomic.locked(directory / ".lock"):
        shutil.rmtree(fresh, ignore_errors=True)  # of a killed run
        fresh.mkdir()
        _write_by_shard(fresh, questions, shards)
        new = {path.name for path in fresh.iterdir()}
        for path in directory.glob("*.jsonl.zst"):
            if path.name not in new:
                path.unlink()
        for name in new:  # one by one, so that a task of another run always finds its file
            os.replace(fresh / name, directory / name)
        fresh.rmdir()
    paths = [directory / name for name in sorted(new)]
    return [(path.name.partition(".")[0], path, atomic.sha256(path)) for path in paths]


def _write_by_shard(folder: Path, questions: Iterable[Question], shards: int) -> None:
    held: dict[int, bytearray] = defaultdict(bytearray)
    compressor, enough = zstandard.ZstdCompressor(level=3), min(_FLUSH_BYTES, _HELD_BYTES // shards)

    def flush(number: int) -> None:
        with (folder / f"{number:05d}.jsonl.zst").open("ab") as file:
            file.write(compressor.compress(bytes(held.pop(number))))

    for question in questions:
        number = shard_of(question.comparison.id, shards)
        held[number] += _question_line(question)
        if len(held[number]) >= enough:
            flush(number)
    for number in list(held):
        flush(number)


def read_questions(path: Path) -> Iterator[Question]:
    """The inverse. Raises DataError naming a file that is damaged."""
    try:
        with path.open("rb") as file:
            reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            data = reader.read()
        for line in data.splitlines():
            yield _question(orjson.loads(line))
    except (zstandard.ZstdError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is damaged ({error}); remove the folder and run again") from error


def _question_line(question: Question) -> bytes:
    record = {
        "row": question.row,
        "pair": orjson.Fragment(question.comparison.to_bytes()),
        "attributes": _described(question.attributes),
        "examples": [
            [orjson.Fragment(e.comparison.to_bytes()), e.preferred, _described(e.attributes)]
            for e in question.examples
        ],
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _described(attributes: Attributes | None) -> dict[str, Any] | None:
    return None if attributes is None else dataclasses.asdict(attributes)


def _question(record: Mapping[str, Any]) -> Question:
    examples = (
        Example(_comparison(pair), preferred, _attributes(attributes))
        for pair, preferred, attributes in record["examples"]
    )
    return Question(
        record["row"], _comparison(record["pair"]), _attributes(record["attributes"]), tuple(examples)
    )


def _comparison(record: Mapping[str, Any]) -> Comparison:
    return Comparison.from_bytes(orjson.dumps(record))


def _attributes(record: Mapping[str, Any] | None) -> Attributes | None:
    return None if record is None else Attributes(**record)
