"""Stage 1: a unit of a source -> items, an index of them, verdicts, and what was refused.

    items-00000.array_record      Comparison.to_bytes each, at most 10,000 a part
    index-00000.parquet           INDEX, a row an item
    verdicts-00000.parquet        VERDICTS, a row a judgement
    quarantine.jsonl              a line a refused record: file, line, code, reason

Memory does not depend on the size of the unit.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import orjson
import polars as pl

from rewardscale import atomic
from rewardscale.config.build import SourceConfig
from rewardscale.data.comparison import Comparison
from rewardscale.data.corpus import RECORDS_PER_SHARD, record_writer
from rewardscale.data.ledger.schema import CORE_COLUMNS
from rewardscale.data.sources import pairing
from rewardscale.data.sources.adapter import adapter
from rewardscale.data.sources.formats import Unit
from rewardscale.data.sources.judged import Judged, Judgement, Refused
from rewardscale.data.sources.read import Options, read

INDEX = pl.Schema(
    {
        "key": pl.Binary,  # 16 bytes: of prompt and unordered responses
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
    {"item": pl.UInt32} | {k: v for k, v in CORE_COLUMNS.items() if k not in ("row", "comparison")}
)
ITEMS_OPTIONS = "group_size:64,zstd:1"  # read in order, a part at a time


def items_path(folder: Path, part: int) -> Path:
    """Of part `part` of a normalise task's folder; likewise the next two."""
    return folder / f"items-{part:05d}.array_record"


def index_path(folder: Path, part: int) -> Path:
    return folder / f"index-{part:05d}.parquet"


def verdicts_path(folder: Path, part: int) -> Path:
    return folder / f"verdicts-{part:05d}.parquet"


def unit(
    folder: Path,
    *,
    source: Mapping[str, Any],
    part: Mapping[str, Any],
    seed: int,
    most_bytes: int,
    root: str,
) -> Mapping[str, Any]:
    """Task: the items of a unit of a source.

    Args:
      source: fields of SourceConfig. part: fields of Unit but for its root.

    The counts: comparisons (that were read), refused (by code: records and single responses), unpaired (candidate
    pairs that were left out, by reason), items, parts, and file: name, bytes and SHA-256 of what was read whole.
    """
    config = SourceConfig(**source)
    known = dataclasses.replace(adapter(config.adapter), name=config.called)
    here = Unit(Path(root), **part)
    unpaired: Counter[str] = Counter()
    compared = 0

    def wanted() -> Iterator[Judged | Refused]:
        nonlocal compared
        for one in read(known, here, Options(max_bytes=most_bytes)):
            if isinstance(one, Refused):
                yield one
            elif not config.split or one.comparison.split == config.split:
                if config.limit and compared == config.limit:
                    return
                compared += 1
                if len(one.comparison.responses) == 2:
                    pair = pairing.published_pair(one, margin=config.margin, left_out=unpaired)
                    if pair:
                        yield pair
                    continue
                yield from pairing.to_pairs(
                    [one],
                    cast(pairing.How, config.pairing),
                    margin=config.margin,
                    most=config.most or None,
                    ties=config.ties,
                    seed=seed,
                    left_out=unpaired,
                )

    counts = write_items(folder, wanted())
    return {
        "comparisons": compared,
        **counts,
        "unpaired": dict(sorted(unpaired.items())),
        "file": _file(here),
    }


def _file(here: Unit) -> dict[str, Any] | None:
    """What a unit that begins a file was read from."""
    if here.start or here.part or not here.path.is_file():
        return None
    return {
        "name": here.label,
        "bytes": here.path.stat().st_size,
        "sha256": atomic.sha256(here.path),
    }


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
    two = len(comparison.responses) == 2
    sign, margin = pairing.label(one.judgements) if two else (0, 0.0)
    whole = len(comparison.prompt) == 1
    identity, prompt_hash, key = comparison.hashes()
    return (
        key,
        identity,
        prompt_hash,
        comparison.group or (prompt_hash if whole else opening(comparison)),
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


def opening(comparison: Comparison) -> str:
    """Hash (32 hex digits) of the conversation up to its first answer: later turns of one dialogue share it."""
    begin = tuple(itertools.takewhile(lambda message: message.role != "assistant", comparison.prompt))
    if len(begin) in (0, len(comparison.prompt)):
        return comparison.prompt_hash
    return dataclasses.replace(comparison, prompt=begin).prompt_hash


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
