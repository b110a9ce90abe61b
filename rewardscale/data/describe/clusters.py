"""Examples of what a build dropped as copies or conflicts, from its stages' files where they were kept."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

from rewardscale import stages
from rewardscale.data.build.normalise import items_path
from rewardscale.data.build.parts import DROP_SCHEMA, Part, parts_of, read_index
from rewardscale.data.build.run import Built
from rewardscale.data.comparison import Comparison
from rewardscale.data.describe.pairs import read_record

EXAMPLES = 3  # of each reason
HITS = 15
MOST_NAMED = 200  # members of a cluster that are looked at


@dataclasses.dataclass(frozen=True)
class Example:
    """A cluster.

    Attributes:
      title: what it is, in words.
      comparison: the one that stayed, or the first of a conflict.
      kept: its sign.
      others: of near-duplicates, one that was dropped for it; else None, the texts being the same.
    """

    title: str
    comparison: Comparison
    kept: int
    others: Comparison | None


def examples(built: Built) -> list[Example]:
    """The largest clusters of each reason; nothing if the stages' files were not kept."""
    parts = {part.number: part for part in _parts(built)}
    out = []
    for stage in ("exact", "near"):
        files = sorted((built.directory / "work" / stage).glob("*/drop.parquet"))
        if files and parts:
            out += [_example(reason, cluster, parts) for reason, cluster in _largest(files)]
    return out


def hits(built: Built) -> list[tuple[str, str, str, str]]:
    """(evaluation set, its text's id, source of the pair, words in common) of some contaminated pairs of each set."""
    files = sorted((built.directory / "work" / "decontaminate").glob("*/hits.parquet"))
    parts = {part.number: part for part in _parts(built)}
    if not files or not parts:
        return []
    query = pl.scan_parquet(files).sort("set", "part", "item", "text").group_by("set", maintain_order=True)
    sets = max(1, len(built.record["config"]["decontaminate"]["sets"]))
    found = query.head(max(1, HITS // sets)).collect()
    rows = []
    for row in found.iter_rows(named=True):
        source = read_index(parts[row["part"]], ["source"])["source"][row["item"]]
        rows.append((row["set"], row["text_id"], source, row["words"]))
    return rows


def _parts(built: Built) -> list[Part]:
    """The parts of the build, numbered as it numbered them; nothing if they are gone."""
    done = []
    for source in built.record["sources"]:
        folder = built.directory / "work" / f"normalise-{source['name']}"
        try:
            tasks = json.loads((folder / "stage.json").read_text())["tasks"]
            for task in tasks:
                record = json.loads((folder / task["name"] / "task.json").read_text())
                done.append(
                    stages.Done(task["name"], folder / task["name"], record["counts"], record["output"])
                )
        except FileNotFoundError:
            return []
    return parts_of(done)


def _largest(files: list[Path]) -> Iterator[tuple[str, pl.DataFrame]]:
    """(reason, its drops) of the largest clusters, a few of each reason. No cluster lies in two files."""
    keys = ["reason", "of_part", "of_item"]
    order: dict[str, Any] = {"by": ["len", "of_part", "of_item"], "descending": [True, False, False]}
    largest = pl.DataFrame(
        schema={**{key: DROP_SCHEMA[key] for key in keys}, "len": pl.UInt32, "file": pl.UInt32}
    )
    for number, file in enumerate(files):
        sizes = pl.scan_parquet(file).filter(pl.col("of_part").is_not_null()).group_by(keys).len()
        own = sizes.sort(**order).group_by("reason", maintain_order=True).head(EXAMPLES).collect()
        own = own.with_columns(pl.lit(number, pl.UInt32).alias("file")).select(largest.columns)
        largest = (
            pl.concat([largest, own]).sort(**order).group_by("reason", maintain_order=True).head(EXAMPLES)
        )
    for reason, part, item, _, number in (
        largest.select(*keys, "len", "file").sort("reason", maintain_order=True).iter_rows()
    ):
        own = (pl.col("reason") == reason) & (pl.col("of_part") == part) & (pl.col("of_item") == item)
        query = pl.scan_parquet(files[number]).filter(own)
        yield reason, query.sort("part", "item").head(MOST_NAMED).collect()


def _example(reason: str, drops: pl.DataFrame, parts: dict[int, Part]) -> Example:
    keeper = drops.select("of_part", "of_item").row(0)
    members = [keeper, *(member for member in drops.select("part", "item").iter_rows() if member != keeper)]
    said: dict[str, int] = {}
    signs = []
    for part, item in members:
        row = read_index(parts[part], ["source", "sign"]).row(item, named=True)
        said[row["source"]] = said.get(row["source"], 0) + 1
        signs.append(row["sign"])
    sources = ", ".join(f"{source} {count:,} ×" for source, count in said.items())
    if reason == "conflict":
        votes = f"first response {signs.count(1)}, second {signs.count(-1)}, neither {signs.count(0)}"
        title = f"contradicting labels: {votes} ({sources})"
    else:
        title = f"{reason.replace('_', '-')}: {sources}"
    other = _read(parts, members[1]) if reason == "near_duplicate" and len(members) > 1 else None
    return Example(title, _read(parts, keeper), signs[0] if reason != "conflict" else 0, other)


def _read(parts: dict[int, Part], member: tuple[int, int]) -> Comparison:
    part, item = parts[member[0]], member[1]
    return Comparison.from_bytes(read_record(items_path(part.folder, part.index), item))
