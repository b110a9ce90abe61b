"""What the stages between `normalise` and `write` share: the parts they read, the drop files they write.

A normalise task writes parts of at most 10,000 items: `items-00000.array_record` (`Comparison.to_bytes`) and
`index-00000.parquet` (a row an item). Parts are numbered over all tasks, in order; (part, item) is the build order.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from rewardscale import atomic, stages
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import read_shard

DROP_SCHEMA = pl.Schema(
    {
        "part": pl.UInt32,
        "item": pl.UInt32,
        "reason": pl.String,  # "duplicate", "conflict", "near_duplicate", "contaminated:<set>"
        "of_part": pl.UInt32,  # the item it is a copy of; null where there is none
        "of_item": pl.UInt32,
    }
)
ON = ("pair", "prompt", "responses")  # which of an item's texts are looked at
_MEND = "remove the build folder and build again"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of what `normalise` wrote.

    Attributes:
      number: over all normalise tasks, in order.
      folder: of its task. index: its number within the task.
      items: how many it holds.
      output: hash of what its task wrote (`stages.Done.output`).
    """

    number: int
    folder: Path
    index: int
    items: int
    output: str


@dataclasses.dataclass(frozen=True)
class Dropped:
    """What a stage drops.

    Attributes:
      files: Parquet files of DROP_SCHEMA, each sorted by (part, item); no item is in two of them.
      outputs: a hash a file, for the fingerprint of what reads them.
      counts: totals of the stage; JSON values.
      tables: Parquet files for the report, by name.
    """

    files: tuple[Path, ...]
    outputs: tuple[str, ...]
    counts: Mapping[str, Any]
    tables: Mapping[str, Path] = dataclasses.field(default_factory=dict)


def parts_of(normalised: Sequence[stages.Done]) -> list[Part]:
    """The parts of normalise tasks in order; their counts hold "parts": items a part."""
    parts: list[Part] = []
    for task in normalised:
        for index, items in enumerate(task.counts["parts"]):
            parts.append(Part(len(parts), task.folder, index, items, task.output))
    return parts


def in_build_order(parts: Sequence[Part]) -> list[Part]:
    """The parts by number. Raises DataError if two have one number."""
    ordered = sorted(parts, key=lambda part: part.number)
    for one, other in itertools.pairwise(ordered):
        if one.number == other.number:
            raise DataError(f"two parts have the number {one.number}: number the parts over all tasks")
    return ordered


def grouped(parts: Sequence[Part], items: int) -> list[list[Part]]:
    """Consecutive parts in groups of at most `items` items, or of one part that holds more."""
    groups: list[list[Part]] = []
    room = 0
    for part in parts:
        if not groups or part.items > room:
            groups.append([])
            room = items
        groups[-1].append(part)
        room -= part.items
    return groups


def inputs(parts: Sequence[Part]) -> tuple[str, ...]:
    """Hashes of what a task on these parts reads: one a normalise task."""
    return tuple(dict.fromkeys(part.output for part in parts))


def arguments(parts: Sequence[Part]) -> list[list[int]]:
    """The parts as JSON, without the folders: what decides a task's output beside `inputs`."""
    return [[part.number, part.index, part.items] for part in parts]


def folders(parts: Sequence[Part]) -> list[str]:
    """The folders of the parts, for a task's `paths`."""
    return [str(part.folder) for part in parts]


def from_arguments(parts: Sequence[Sequence[int]], folders: Sequence[str]) -> list[Part]:
    """The inverse of `arguments` and `folders` within a task."""
    return [
        Part(number, Path(folder), index, items, "")
        for (number, index, items), folder in zip(parts, folders, strict=True)
    ]


def read_index(part: Part, columns: Sequence[str]) -> pl.DataFrame:
    """Columns of the part's index, a row an item. Raises DataError naming a file that is not as announced."""
    path = part.folder / f"index-{part.index:05d}.parquet"
    try:
        frame = pl.read_parquet(path, columns=list(columns))
    except (OSError, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} cannot be read ({error}); {_MEND}") from error
    if len(frame) != part.items:
        raise DataError(f"{path} has {len(frame)} rows where {part.items} were written; {_MEND}")
    return frame


def read_texts(part: Part, on: str) -> tuple[list[str], np.ndarray]:
    """The part's texts: a text a message of the prompt, a text a response; `on` is one of ON.

    Returns (texts, starts int64 [items + 1]): those of item i are texts[starts[i]:starts[i + 1]], in order. Raises
    DataError naming a file that cannot be read.
    """
    texts: list[str] = []
    starts = np.zeros(part.items + 1, np.int64)
    records = (
        read_shard(part.folder / f"items-{part.index:05d}.array_record", part.items) if part.items else []
    )
    for item, record in enumerate(map(orjson.loads, records)):
        if on != "responses":
            texts += [content for _, content in record["prompt"]]
        if on != "prompt":
            texts += record["responses"]
        starts[item + 1] = len(texts)
    return texts, starts


def write_drops(path: Path, drops: pl.DataFrame) -> None:
    """Writes a drop file: the columns of DROP_SCHEMA, sorted by (part, item)."""
    columns = [pl.col(name).cast(dtype) for name, dtype in DROP_SCHEMA.items()]
    atomic.write_parquet(path, drops.select(columns).sort("part", "item"))


def kept(parts: Sequence[Part], drop_files: Sequence[Path | str]) -> list[np.ndarray]:
    """Which items no drop file names: bool [items] a part. `parts` must follow one another in number.

    Files are read one after the other, so memory does not grow with their number.
    """
    masks = [np.ones(part.items, bool) for part in parts]
    if not parts:
        return masks
    first, last = parts[0].number, parts[-1].number
    if [part.number for part in parts] != list(range(first, last + 1)):
        raise DataError("parts must follow one another in number")
    starts = np.concatenate([[0], np.cumsum([part.items for part in parts])]).astype(np.int64)
    flat = np.concatenate(masks)
    for file in drop_files:
        lazy = pl.scan_parquet(file).filter(pl.col("part").is_between(first, last)).select("part", "item")
        drops = lazy.collect()
        flat[starts[drops["part"].to_numpy() - np.uint32(first)] + drops["item"].to_numpy()] = False
    return [flat[start:stop] for start, stop in itertools.pairwise(starts)]


def after(progress: Callable[[int], None] | None, done: int) -> Callable[..., None] | None:
    """`progress` for a further list of tasks, where `done` tasks were done before it."""
    return None if progress is None else lambda count, *of: progress(done + count)
