"""Stage 1: a unit of a source -> items, an index of them, verdicts, and what was refused.

    items-00000.array_record      Comparison.to_bytes each, at most 10,000 a part
    index-00000.parquet           INDEX, a row an item
    verdicts-00000.parquet        VERDICTS, a row a judgement
    quarantine.jsonl              a line a refused record: file, line, code, reason

Memory does not depend on the size of the unit.
"""

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson
import polars as pl

from rewardscale import atomic
from rewardscale.data.comparison import Comparison
from rewardscale.data.corpus import RECORDS_PER_SHARD, record_writer
from rewardscale.data.sources.judged import Judged, Judgement, Refused
from rewardscale.data.verdict import VERDICT_SCHEMA

INDEX = pl.Schema(
    {
        "key": pl.Binary,  # 16 bytes: of history and unordered responses
        "id": pl.String,
        "prompt_hash": pl.String,
        "group": pl.String,
        "source": pl.String,
        "category": pl.String,
        "split": pl.String,  # the source's own
        "responses": pl.UInt16,
        "sign": pl.Int8,  # +1 the source prefers the first response, -1 the second, 0 neither
        "margin": pl.Float32,  # difference of scores, not negative
        "chars_prompt": pl.UInt32,
        "chars_first": pl.UInt32,
        "chars_second": pl.UInt32,
    }
)
VERDICTS = pl.Schema(
    {"item": pl.UInt32} | {k: v for k, v in VERDICT_SCHEMA.items() if k not in ("row", "comparison")}
)
ITEMS_OPTIONS = "group_size:64,zstd:3"  # read in order, a part at a time


def items_path(folder: Path, part: int) -> Path:
    """Of part `part` of a normalise task's folder; likewise the next two."""
    return folder / f"items-{part:05d}.array_record"


def index_path(folder: Path, part: int) -> Path:
    return folder / f"index-{part:05d}.parquet"


def verdicts_path(folder: Path, part: int) -> Path:
    return folder / f"verdicts-{part:05d}.parquet"


def write_items(folder: Path, found: Iterable[Judged | Refused]) -> dict[str, Any]:
    """Writes everything `found` into `folder`; returns counts: items, parts, refused by code."""
    refused: Counter[str] = Counter()
    parts: list[int] = []
    with atomic.new_file(folder / "quarantine.jsonl") as quarantine:

        def items() -> Iterator[Judged]:
            for one in found:
                if isinstance(one, Refused):
                    refused[one.code] += 1
                    quarantine.write(orjson.dumps(one.record(), option=orjson.OPT_APPEND_NEWLINE))
                else:
                    yield one

        for part, batch in enumerate(itertools.batched(items(), RECORDS_PER_SHARD)):
            _write_part(folder, part, batch)
            parts.append(len(batch))
    return {"items": sum(parts), "parts": parts, "refused": dict(sorted(refused.items()))}


def _write_part(folder: Path, part: int, batch: tuple[Judged, ...]) -> None:
    with record_writer(items_path(folder, part), ITEMS_OPTIONS) as write:
        for one in batch:
            write(one.comparison.to_bytes())
    index = pl.DataFrame([_index_row(one) for one in batch], INDEX, orient="row")
    atomic.write_parquet(index_path(folder, part), index)
    verdicts = [row for item, one in enumerate(batch) for row in _verdicts(item, one)]
    atomic.write_parquet(verdicts_path(folder, part), pl.DataFrame(verdicts, VERDICTS, orient="row"))


def _index_row(one: Judged) -> tuple[Any, ...]:
    comparison = one.comparison
    sign, margin = preference(one)
    return (
        unordered_key(comparison),
        comparison.id,
        comparison.prompt_hash,
        comparison.group or opening(comparison),
        comparison.source,
        comparison.category,
        comparison.split,
        len(comparison.responses),
        sign,
        margin,
        sum(len(message.content) for message in comparison.prompt),
        len(comparison.responses[0]),
        len(comparison.responses[1]),
    )


def unordered_key(comparison: Comparison) -> bytes:
    """Hash (16 bytes) of the history and the responses in whatever order: what two duplicates share."""
    parts = [[m.role, m.content] for m in comparison.prompt], sorted(comparison.responses)
    return hashlib.blake2b(orjson.dumps(parts), digest_size=16).digest()


def opening(comparison: Comparison) -> str:
    """Hash (32 hex digits) of the conversation up to its first answer: later turns of one dialogue share it."""
    begin = itertools.takewhile(lambda message: message.role != "assistant", comparison.prompt)
    parts = [[m.role, m.content] for m in begin]
    return hashlib.blake2b(orjson.dumps(parts), digest_size=16).hexdigest()


def preference(one: Judged) -> tuple[int, float]:
    """Which response of a pair the source prefers (+1, -1, 0), and by how much: the mean over its judgements."""
    if len(one.comparison.responses) != 2:
        return 0, 0.0
    differences = [d for j in one.judgements if not math.isnan(d := j.scores[0] - j.scores[1])]
    mean = sum(differences) / len(differences) if differences else 0.0
    return (mean > 0) - (mean < 0), abs(mean)


def _verdicts(item: int, one: Judged) -> Iterator[tuple[Any, ...]]:
    if len(one.comparison.responses) != 2:
        return
    for number, judgement in enumerate(one.judgements):
        difference = judgement.scores[0] - judgement.scores[1]
        if not math.isnan(difference):
            yield _verdict(item, number, judgement, (difference > 0) - (difference < 0))


def _verdict(item: int, number: int, judgement: Judgement, preferred: int) -> tuple[Any, ...]:
    return (
        item,
        judgement.annotator,
        judgement.kind,
        number,
        preferred,
        judgement.confidence,
        judgement.cost,
    )


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """The sum of several tables of counts."""
    out: Counter[str] = Counter()
    for table in counts:
        out.update(table)
    return dict(sorted(out.items()))
