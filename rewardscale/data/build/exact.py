"""Exact duplicates: items of one key, the hash of a history and its responses in no order.

Scatter tasks sort the keys of about a million items into buckets by their first bits; a gather task looks at one
bucket. So memory depends on the size of a bucket and not on that of the corpus. Of the items of one key the first in
build order stays; what happens where their labels contradict each other is the `conflicts` policy:

    drop      none stays: the sources disagree, and which is right is not known here
    majority  the first that agrees with the majority of the labels stays, none at a draw; ties don't vote
    first     the first stays
"""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale import atomic, stages
from rewardscale.config.base import choice
from rewardscale.config.build import CONFLICTS
from rewardscale.data.build import buckets as shuffle
from rewardscale.data.build import parts as build
from rewardscale.data.build.parts import Dropped, Part
from rewardscale.data.comparison import DataError

ITEMS_AT_ONCE = 1_000_000  # of a scatter task and of a bucket: some 150 MB while it is worked on
_RECORD = np.dtype(
    [
        ("high", "<u8"),  # the key's first eight bytes, big-endian
        ("low", "<u8"),  # and its last
        ("id", "<u8"),  # of the comparison with its responses in order: half of it
        ("part", "<u4"),
        ("item", "<u4"),
        ("source", "<u4"),  # number in sources.json
        ("sign", "i1"),
    ]
)


def run(
    work: Path,
    parts: Sequence[Part],
    *,
    engine: Any = "inline",
    conflicts: str = "drop",
    buckets: int | None = None,
    items_at_once: int = ITEMS_AT_ONCE,
    progress: Callable[[int], None] | None = None,
) -> Dropped:
    """Finds the duplicates among `parts`; the result depends on parts and policy alone.

    Args:
      work: the build's folder; the stages "exact-scatter" and "exact" are written there.
      engine: what runs the tasks.
      conflicts: the policy, one of CONFLICTS.
      buckets: how many; by default as many as hold `items_at_once` each.
      items_at_once: of a scatter task.
      progress: called with the number of tasks done, over both stages.

    The counts: items, keys (distinct), dropped = duplicates + conflicts (items), conflict_groups (keys whose
    labels contradict each other) and by_source: how many items of "source" were dropped for one "of" a source.

    Raises ConfigError for an unknown policy, DataError for a part that is damaged or whose pairs are not in one order.
    """
    choice("conflicts", conflicts, CONFLICTS)
    parts = build.in_build_order(parts)
    buckets = buckets or shuffle.count_for(sum(part.items for part in parts), ITEMS_AT_ONCE)
    tasks = [
        stages.Task(
            name=f"scatter-{number:05d}",
            function=f"{__name__}:scatter",
            arguments={"parts": build.arguments(group), "buckets": buckets},
            inputs=build.inputs(group),
            paths={"folders": build.folders(group)},
        )
        for number, group in enumerate(build.grouped(parts, items_at_once))
    ]
    scattered = stages.run(work, "exact-scatter", tasks, engine=engine, progress=build.after(progress, 0))
    tasks = [
        stages.Task(
            name=f"bucket-{bucket:05d}-of-{buckets:05d}",
            function=f"{__name__}:gather",
            arguments={"bucket": bucket, "conflicts": conflicts},
            inputs=tuple(done.output for done in scattered),
            paths={"scattered": [str(done.folder) for done in scattered]},
        )
        for bucket in range(buckets)
    ]
    gathered = stages.run(work, "exact", tasks, engine=engine, progress=build.after(progress, len(scattered)))
    return Dropped(
        files=tuple(done.folder / "drop.parquet" for done in gathered),
        outputs=tuple(done.output for done in gathered),
        counts=_total([done.counts for done in gathered]),
    )


def scatter(
    folder: Path, *, parts: Sequence[Sequence[int]], buckets: int, folders: Sequence[str]
) -> Mapping[str, Any]:
    """Task: the keys of `parts`, sorted into buckets."""
    given = build.from_arguments(parts, folders)
    records = np.empty(sum(part.items for part in given), _RECORD)
    sources: dict[str, int] = {}  # in order of first appearance
    start = 0
    for part in given:
        index = build.read_index(part, ["key", "id", "source", "sign"])
        block = records[start : start + part.items]
        start += part.items
        _fill(block, index, sources, part)
    shuffle.write(folder, records, shuffle.of_hash(records["high"], buckets), buckets)
    atomic.write_json(folder / "sources.json", list(sources))
    return {"items": len(records)}


def _fill(block: np.ndarray, index: pl.DataFrame, sources: dict[str, int], part: Part) -> None:
    try:
        if not (index["key"].bin.size() == 16).all():
            raise ValueError("a key of another length")
        keys = np.frombuffer(b"".join(index["key"].to_list()), ">u8").reshape(-1, 2)
        ids = np.frombuffer(b"".join(index["id"].str.head(16).str.decode("hex").to_list()), ">u8")
        block["high"], block["low"] = keys[:, 0], keys[:, 1]
        block["id"] = ids
        block["sign"] = index["sign"].to_numpy()
        names = index["source"].unique(maintain_order=True).to_list()
        numbers = [sources.setdefault(name, len(sources)) for name in names]
        block["source"] = index["source"].replace_strict(names, numbers, return_dtype=pl.UInt32).to_numpy()
    except (ValueError, TypeError, pl.exceptions.PolarsError) as error:
        raise DataError(
            f"the index of part {part.number} ({part.folder}) does not hold keys of 16 bytes, hexadecimal ids, "
            f"sources and signs ({error}); remove the build folder and build again"
        ) from error
    block["part"] = part.number
    block["item"] = np.arange(part.items)


def gather(folder: Path, *, bucket: int, conflicts: str, scattered: Sequence[str]) -> Mapping[str, Any]:
    """Task: what one bucket drops."""
    records, names = _read(bucket, [Path(path) for path in scattered])
    order = np.lexsort((records["low"], records["high"]))  # stable: build order within a key
    keys = records[["high", "low"]][order]
    begins = np.ones(len(order), bool)
    begins[1:] = (keys["high"][1:] != keys["high"][:-1]) | (keys["low"][1:] != keys["low"][:-1])
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=len(order))
    copies = records[order[np.repeat(sizes > 1, sizes)]]
    sizes = sizes[sizes > 1]
    _check_order(copies, sizes)
    keeper, dropped, contradicts = _judge(copies["sign"], sizes, conflicts)
    reason = np.where(contradicts, "conflict", "duplicate")[dropped]
    lost, of = copies[dropped], copies[keeper[dropped]]
    build.write_drops(
        folder / "drop.parquet",
        pl.DataFrame(
            {
                "part": lost["part"],
                "item": lost["item"],
                "reason": reason.tolist(),
                "of_part": of["part"],
                "of_item": of["item"],
            },
            schema=build.DROP_SCHEMA,
        ),
    )
    table = pl.DataFrame(
        {"source": names[lost["source"]], "of": names[of["source"]], "reason": reason},
        schema=dict.fromkeys(["source", "of", "reason"], pl.String),
    )
    return {
        "items": len(records),
        "keys": len(starts),
        "duplicates": int((reason == "duplicate").sum()),
        "conflicts": int((reason == "conflict").sum()),
        "conflict_groups": int(_contradictory(copies["sign"], sizes).sum()),
        "by_source": _by_source(table.with_columns(items=pl.lit(1, pl.Int64))),
    }


def _read(bucket: int, folders: Sequence[Path]) -> tuple[np.ndarray, np.ndarray]:
    """(records of the bucket in build order, names of the sources that their numbers mean)."""
    numbers: dict[str, int] = {}
    found = shuffle.read(folders, bucket)
    for records, path in zip(found, folders, strict=True):
        names = json.loads((path / "sources.json").read_text())
        table = np.array([numbers.setdefault(name, len(numbers)) for name in names], np.uint32)
        if len(records):
            records["source"] = table[records["source"]]
    return np.concatenate([np.empty(0, _RECORD), *found]), np.array(list(numbers), object)


def _check_order(copies: np.ndarray, sizes: np.ndarray) -> None:
    """Raises DataError if two items of one key have a label and their responses stand in different orders."""
    labelled = copies["sign"] != 0
    starts = np.cumsum(sizes) - sizes
    if not len(sizes):
        return
    low = np.minimum.reduceat(np.where(labelled, copies["id"], np.uint64(2**64 - 1)), starts)
    high = np.maximum.reduceat(np.where(labelled, copies["id"], np.uint64(0)), starts)
    if (wrong := np.flatnonzero(low < high)).size:
        start = starts[wrong[0]]
        items = ", ".join(
            f"(part {c['part']}, item {c['item']})" for c in copies[start : start + sizes[wrong[0]]][:4]
        )
        raise DataError(
            f"{items} have one key and other ids, so their labels cannot be compared: `normalise` must put the two "
            "responses of a pair in one order, by a hash of their texts, and hash the history as it is"
        )


def _contradictory(sign: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """bool [groups]: whether one says +1 and another -1. `sign` int8 [items] lies group by group."""
    if not len(sizes):
        return np.zeros(0, bool)
    starts = np.cumsum(sizes) - sizes
    return (np.maximum.reduceat(sign, starts) > 0) & (np.minimum.reduceat(sign, starts) < 0)


def _judge(sign: np.ndarray, sizes: np.ndarray, conflicts: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each item of the groups: the index of what stays in its place, whether it is dropped, and for a conflict.

    Where a whole group is dropped, all name its first item, the first too.
    """
    count = len(sign)
    group = np.repeat(np.arange(len(sizes)), sizes)
    first = np.cumsum(sizes) - sizes
    conflict = _contradictory(sign, sizes)
    keeper, none_stays, contradicts = first, np.zeros(len(sizes), bool), np.zeros(count, bool)
    if conflicts == "drop":
        none_stays, contradicts = conflict, conflict[group]
    elif conflicts == "majority" and conflict.any():
        decided = np.sign(np.add.reduceat(sign, first, dtype=np.int64))
        none_stays = conflict & (decided == 0)
        agrees = np.where(sign == decided[group], np.arange(count), count)
        keeper = np.where(conflict & ~none_stays, np.minimum.reduceat(agrees, first), first)
        contradicts = conflict[group] & ((decided[group] == 0) | (sign == -decided[group]))
    elif conflicts == "first":
        contradicts = (sign * sign[first][group] == -1) if count else contradicts
    dropped = (keeper[group] != np.arange(count)) | none_stays[group]
    return keeper[group], dropped, contradicts


def _by_source(table: pl.DataFrame) -> list[dict[str, Any]]:
    keys = ["source", "of", "reason"]
    return table.group_by(keys).agg(pl.col("items").sum()).sort(keys).to_dicts()


def _total(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    names = ("items", "keys", "duplicates", "conflicts", "conflict_groups")
    total: dict[str, Any] = {name: sum(c[name] for c in counts) for name in names}
    rows = list(itertools.chain.from_iterable(c["by_source"] for c in counts))
    schema = {"source": pl.String, "of": pl.String, "reason": pl.String, "items": pl.Int64}
    total["dropped"] = total["duplicates"] + total["conflicts"]
    total["by_source"] = _by_source(pl.DataFrame(rows, schema=schema))
    return total
