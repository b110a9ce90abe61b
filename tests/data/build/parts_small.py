"""Small folders in the form that `normalise` writes, from comparisons and signs."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from rewardscale.data.build.parts import Part
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.verdict import VERDICT_SCHEMA

Item = tuple[Comparison, int]  # and its sign: +1 first response preferred, -1 second, 0 tie or unknown
INDEX_SCHEMA = pl.Schema(
    {
        "key": pl.Binary,
        "id": pl.String,
        "prompt_hash": pl.String,
        "group": pl.String,
        "source": pl.String,
        "category": pl.String,
        "split": pl.String,
        "sign": pl.Int8,
        "margin": pl.Float32,
        "chars_prompt": pl.UInt32,
        "chars_first": pl.UInt32,
        "chars_second": pl.UInt32,
    }
)
_VERDICTS = {"item": pl.UInt32} | {k: v for k, v in VERDICT_SCHEMA.items() if k not in ("row", "comparison")}


def pair(prompt: str, chosen: str, rejected: str, *, tie: bool = False, source: str = "test") -> Item:
    """A pair with its responses in the order of a hash of their texts, as `normalise` puts them."""
    responses = tuple(sorted((chosen, rejected), key=lambda text: hashlib.blake2b(text.encode()).digest()))
    sign = 0 if tie else 1 if responses[0] == chosen else -1
    return Comparison((Message("user", prompt),), responses, source=source), sign


def key(comparison: Comparison) -> bytes:
    """16 bytes: hash of the history and the responses in no order."""
    what = [[[m.role, m.content] for m in comparison.prompt], sorted(comparison.responses)]
    return hashlib.blake2b(json.dumps(what).encode(), digest_size=16).digest()


def write_part(folder: Path, index: int, items: Sequence[Item]) -> None:
    """Writes one part of a normalise task."""
    folder.mkdir(parents=True, exist_ok=True)
    path = str(folder / f"items-{index:05d}.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:64,zstd:3")
    for comparison, _ in items:
        writer.write(comparison.to_bytes())
    writer.close()
    rows = [
        {
            "key": key(c),
            "id": c.id,
            "prompt_hash": c.prompt_hash,
            "group": c.group or c.prompt_hash,
            "source": c.source,
            "category": c.category,
            "split": c.split,
            "sign": sign,
            "margin": abs(sign),
            "chars_prompt": sum(len(m.content) for m in c.prompt),
            "chars_first": len(c.responses[0]),
            "chars_second": len(c.responses[1]),
        }
        for c, sign in items
    ]
    pl.DataFrame(rows, schema=INDEX_SCHEMA).write_parquet(folder / f"index-{index:05d}.parquet")
    verdicts = pl.DataFrame(
        {
            "item": np.arange(len(items)),
            "annotator": [c.source for c, _ in items],
            "kind": ["source"] * len(items),
            "round": [0] * len(items),
            "preferred": [sign for _, sign in items],
            "confidence": [None] * len(items),
            "cost": [1.0] * len(items),
        },
        schema=_VERDICTS,
    )
    verdicts.write_parquet(folder / f"verdicts-{index:05d}.parquet")


def write_parts(directory: Path, tasks: Sequence[Sequence[Sequence[Item]]]) -> list[Part]:
    """Writes normalise tasks of parts of items under `directory`; returns the parts, numbered over all tasks."""
    parts: list[Part] = []
    for number, task in enumerate(tasks):
        folder = directory / f"unit-{number:05d}"
        for index, items in enumerate(task):
            write_part(folder, index, items)
        digest = hashlib.blake2b(digest_size=16)
        for path in sorted(folder.glob("*")):
            digest.update(path.name.encode() + path.read_bytes())
        for index, items in enumerate(task):
            parts.append(Part(len(parts), folder, index, len(items), digest.hexdigest()))
    return parts
