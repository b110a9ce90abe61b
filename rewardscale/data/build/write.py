"""The last stages: which items stay, and the corpus's rows made of them, in build order.

`survivors` reads what the stages before dropped and writes, a part, the numbers of the items that stay. Rows are
then numbered, and `rows` writes consecutive rows: text shards, their part of the manifest and of the ledger.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from rewardscale import atomic
from rewardscale.data import corpus as corpora
from rewardscale.data.build import normalise
from rewardscale.data.build.parts import Part, from_arguments, read_index
from rewardscale.data.ledger.schema import CORE_COLUMNS

ROWS_A_TASK = 10 * corpora.RECORDS_PER_SHARD
SPLITS = ("train", "validation", "test")
MANIFEST = (
    *("id", "source", "category", "group", "prompt_hash", "split", "responses"),
    *("preferred", "margin", "chars_prompt", "chars_first", "chars_second"),
)


def survivors(
    folder: Path, *, parts: Sequence[Sequence[int]], folders: Sequence[str], drops: Sequence[str]
) -> Mapping[str, Any]:
    """Task: keep-00000.npy, ...: uint32 numbers of the items of each part that stay.

    Args:
      parts, folders: consecutive parts (parts.arguments, parts.folders).
      drops: drop files in the order of their stages: of an item dropped twice the first reason counts.
    """
    given = from_arguments(parts, folders)
    first, last = given[0].number, given[-1].number
    dropped = pl.DataFrame(schema={"part": pl.UInt32, "item": pl.UInt32, "reason": pl.String})
    for path in drops:
        file = pl.scan_parquet(path).filter(pl.col("part").is_between(first, last))
        dropped = dropped.vstack(file.select("part", "item", "reason").collect())
    dropped = dropped.unique(["part", "item"], keep="first", maintain_order=True)
    kept, tables = [], []
    for number, part in enumerate(given):
        here = dropped.filter(pl.col("part") == part.number)
        fate = np.full(part.items, "kept", object)
        fate[here["item"].to_numpy()] = here["reason"].to_numpy()
        keep = np.flatnonzero(fate == "kept").astype(np.uint32)
        np.save(folder / f"keep-{number:05d}.npy", keep)
        kept.append(len(keep))
        tables.append(read_index(part, ["source"]).with_columns(fate=pl.Series(fate, dtype=pl.String)))
    fates = pl.concat(tables).group_by("source", "fate").len().sort("source", "fate")
    return {"kept": kept, "fates": [list(row) for row in fates.rows()]}


def rows(
    folder: Path,
    *,
    first_row: int,
    shards: int,
    number: int,
    of: int,
    split: Mapping[str, Any],
    parts: Sequence[Sequence[int]],
    spans: Sequence[Sequence[int]],
    folders: Sequence[str],
    keeps: Sequence[str],
) -> Mapping[str, Any]:
    """Task: the rows from `first_row` on: text shards, a part of the manifest, ledger.parquet.

    Args:
      shards: of the whole corpus. number, of: which part of the manifest this is.
      split: fields of SplitConfig.
      parts, folders, keeps: where the rows come from; spans: [start, stop) of each keep file.
    """
    given = from_arguments(parts, folders)
    chosen = [
        _Chosen(part, np.load(keep)[start:stop], split)
        for part, keep, (start, stop) in zip(given, keeps, spans, strict=True)
    ]
    count = sum(len(one.keep) for one in chosen)
    described = corpora.write_shards(
        folder,
        itertools.chain.from_iterable(one.records() for one in chosen),
        total=count,
        first=first_row // corpora.RECORDS_PER_SHARD,
        of=shards,
    )
    row = pl.Series("row", np.arange(first_row, first_row + count, dtype=np.uint32))
    manifest = pl.concat([one.manifest() for one in chosen]).insert_column(0, row)
    name = f"manifest-{number:05d}-of-{of:05d}.parquet"
    atomic.write_parquet(folder / name, manifest)
    starts = np.cumsum([first_row, *(len(one.keep) for one in chosen)])
    ledger = [one.verdicts(int(start)) for one, start in zip(chosen, starts[:-1], strict=True)]
    atomic.write_parquet(folder / "ledger.parquet", pl.concat(ledger))
    size, digest = (folder / name).stat().st_size, atomic.sha256(folder / name)
    return {
        "shards": described,
        "manifest": {"name": name, "rows": count, "bytes": size, "sha256": digest},
        "fingerprint": corpora.fingerprint(manifest),
    }


@dataclasses.dataclass
class _Chosen:
    """The items `keep` of a part, as rows."""

    part: Part
    keep: np.ndarray
    split: Mapping[str, Any]

    def __post_init__(self) -> None:
        self._index = read_index(self.part, normalise.INDEX.names())[self.keep]
        self._splits = _splits(self._index, **self.split)

    def records(self) -> Iterator[bytes]:
        items = corpora.read_shard(normalise.items_path(self.part.folder, self.part.index), self.part.items)
        for item, group, split in zip(self.keep.tolist(), self._index["group"], self._splits, strict=True):
            record = orjson.loads(items[item]) | {"group": group, "split": split}
            yield orjson.dumps(record, option=orjson.OPT_SORT_KEYS)  # as Comparison.to_bytes writes it

    def manifest(self) -> pl.DataFrame:
        """Without row numbers."""
        return self._index.with_columns(split=self._splits, preferred=pl.col("sign")).select(MANIFEST)

    def verdicts(self, first_row: int) -> pl.DataFrame:
        """The ledger's part, the rows being numbered from `first_row`."""
        row = np.arange(first_row, first_row + len(self.keep), dtype=np.uint32)
        place = pl.DataFrame({"item": self.keep, "row": row, "comparison": self._index["id"]})
        table = pl.read_parquet(normalise.verdicts_path(self.part.folder, self.part.index))
        joined = table.join(place, on="item", how="inner", maintain_order="left")
        return joined.select(CORE_COLUMNS.names())


def _splits(index: pl.DataFrame, *, validation: float, test: float, seed: int, by_source: bool) -> pl.Series:
    """The split of each item: by a hash of its group, so that a group is never parted."""
    out = []
    for group, published in zip(index["group"], index["split"], strict=True):
        if by_source and published in SPLITS:
            out.append(published)
            continue
        digest = hashlib.blake2b(f"{seed} {group}".encode(), digest_size=8).digest()
        share = int.from_bytes(digest, "big") / 2**64
        out.append("validation" if share < validation else "test" if share < validation + test else "train")
    return pl.Series("split", out, dtype=pl.String)
