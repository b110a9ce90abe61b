"""A corpus: comparisons as text in ArrayRecord shards, a Parquet manifest, and one commit record.

    <corpus>/shard-00000-of-00007.array_record    comparisons (comparison.to_bytes), <= 10,000 a shard
    <corpus>/manifest.parquet                     a row a comparison: row, id, source, category, group,
                                                  prompt_hash, split, ...
    <corpus>/corpus.json                          counts, sizes, hashes: written last, so its presence means "whole"

Shards hold one record a group: a random read costs time in proportion to the groups of its file,
hence the limit of 10,000 records a shard.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]

from rewardscale import atomic
from rewardscale.data.comparison import Comparison, DataError

RECORDS_PER_SHARD = 10_000
Column = Sequence[Any] | np.ndarray | pl.Series  # one value a comparison
WRITER_OPTIONS = "group_size:1,zstd:3"
VERIFY_LIMIT_BYTES = 256 * 2**20  # below this, opening a corpus also checks each shard's SHA-256


@dataclasses.dataclass(frozen=True)
class Shards:
    """Where a sequence of records lies. `paths` in order; `counts[i]` records in `paths[i]`."""

    paths: tuple[Path, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)


@dataclasses.dataclass(frozen=True)
class Corpus:
    """An opened corpus.

    Attributes:
      directory: its folder.
      shards: the text records; record i is manifest row i.
      fingerprint: hash of the comparisons' ids in order and of the manifest's extra columns.
      about: how it was made.
    """

    directory: Path
    shards: Shards
    fingerprint: str
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.shards)

    def manifest(self) -> pl.DataFrame:
        """The manifest, a row a comparison."""
        return pl.read_parquet(self.directory / "manifest.parquet")

    def __iter__(self) -> Iterator[Comparison]:
        """Comparisons in row order, read shard by shard."""
        for record in iterate_records(self.shards):
            yield Comparison.from_bytes(record)


def write_shards(
    directory: Path, records: Iterable[bytes], *, total: int, progress: Callable[[int], None] | None = None
) -> list[dict[str, Any]]:
    """Writes `total` records to `directory/shard-*.array_record`; returns a description a shard.

    Each description holds name, records, bytes and sha256. `progress(n)` is called as records are
    written.

    Raises:
      DataError: if `records` yields another number than `total`.
      OSError: if a shard cannot be written (full disk, read-only folder).
    """
    shards = max(1, -(-total // RECORDS_PER_SHARD))
    iterator, described, written = iter(records), [], 0
    for index in range(shards):
        name = f"shard-{index:05d}-of-{shards:05d}.array_record"
        path = directory / name
        count = 0
        with _writer(path) as write:
            for record in itertools.islice(iterator, min(RECORDS_PER_SHARD, total - written)):
                write(record)
                count, written = count + 1, written + 1
                if progress and not written % 1000:
                    progress(written)
        described.append(
            {"name": name, "records": count, "bytes": path.stat().st_size, "sha256": atomic.sha256(path)}
        )
    if written != total or next(iterator, None) is not None:
        raise DataError(f"{directory}: {total} records were announced, another number came")
    return described


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Yields the function that appends a record to the shard `path`. Raises OSError if writing fails."""
    writer = array_record_module.ArrayRecordWriter(str(path), WRITER_OPTIONS)

    def write(record: bytes) -> None:
        try:
            writer.write(record)
        except RuntimeError as error:
            raise _cannot_write(path, error) from error

    try:
        yield write
    except BaseException:
        with contextlib.suppress(RuntimeError):  # the first error is the one to tell
            writer.close()
        raise
    try:
        writer.close()
    except RuntimeError as error:  # array_record's one error for everything, a full disk included
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: RuntimeError) -> OSError:
    return OSError(f"{path} cannot be written ({error}); is the disk full, or the folder read-only?")


def check_shards(
    directory: Path, described: Sequence[Mapping[str, Any]], *, deep: bool | None = None
) -> Shards:
    """Checks shards against their description; returns them.

    Names, sizes and record counts are always checked; contents (SHA-256) if `deep`, by default
    when the whole is under 256 MiB. Raises DataError naming the shard and the mend, KeyError if
    `described` is not such a description.
    """
    mend = f"delete {directory} and build it again"
    if deep is None:
        deep = sum(s["bytes"] for s in described) <= VERIFY_LIMIT_BYTES
    paths = []
    for shard in described:
        path = directory / shard["name"]
        if not path.is_file():
            raise DataError(f"{path} is missing; {mend}")
        if path.stat().st_size != shard["bytes"]:
            raise DataError(
                f"{path} has {path.stat().st_size} bytes where {shard['bytes']} were written: "
                f"truncated or overwritten; {mend}"
            )
        if deep and atomic.sha256(path) != shard["sha256"]:
            raise DataError(f"{path} does not match its SHA-256: corrupt; {mend}")
        if (count := _count_records(path)) != shard["records"]:
            raise DataError(f"{path} holds {count} records, its description says {shard['records']}; {mend}")
        paths.append(path)
    return Shards(tuple(paths), tuple(int(s["records"]) for s in described))


def _count_records(path: Path) -> int:
    """Records that the shard's own index counts (a damaged index: 0)."""
    reader = array_record_module.ArrayRecordReader(str(path))
    try:
        return reader.num_records() if reader.ok() else 0
    finally:
        with contextlib.suppress(RuntimeError):
            reader.close()


def iterate_records(shards: Shards) -> Iterator[bytes]:
    """All records in order, by sequential reads. Raises DataError naming a shard that cannot be read."""
    for path, count in zip(shards.paths, shards.counts, strict=True):
        if not count:
            continue
        try:
            reader = array_record_module.ArrayRecordReader(str(path))
            records = reader.read_all()
            reader.close()
        except (RuntimeError, ValueError, IndexError) as error:
            raise DataError(f"{path} cannot be read ({error}): corrupt; build it again") from error
        if len(records) != count:
            raise DataError(
                f"{path} holds {len(records)} records, its description says {count}; build it again"
            )
        yield from records


def write_corpus(
    directory: Path,
    comparisons: Sequence[Comparison],
    *,
    about: Mapping[str, Any],
    columns: Mapping[str, Column] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Corpus:
    """Writes a corpus to `directory`, whole or not at all, and opens it.

    Args:
      directory: must not exist yet: a corpus is immutable.
      comparisons: in row order.
      about: how it was made (generator, source commit, licence); JSON values.
      columns: further manifest columns, one value a comparison.
      progress: called with the number of records written so far.

    Raises:
      DataError: if `directory` is there already, a column has the wrong length or a name that is taken, or
        there are no comparisons.
      OSError: full disk, read-only folder; nothing stays behind.
    """
    directory = Path(directory)
    if directory.exists():
        raise DataError(f"{directory} exists: a corpus is immutable; choose another directory")
    if not comparisons:
        raise DataError(f"{directory}: no comparisons to write")
    manifest = _manifest(comparisons, columns or {})
    with atomic.new_directory(directory) as folder:
        records = (c.to_bytes() for c in comparisons)
        described = write_shards(folder, records, total=len(comparisons), progress=progress)
        atomic.write_parquet(folder / "manifest.parquet", manifest)
        record = {
            "format": 1,
            "comparisons": len(comparisons),
            "shards": described,
            "manifest_sha256": atomic.sha256(folder / "manifest.parquet"),
            "fingerprint": _fingerprint(manifest),
            "about": dict(about),
        }
        atomic.write_json(folder / "corpus.json", record)
    return open_corpus(directory)


def open_corpus(directory: Path, *, deep: bool | None = None) -> Corpus:
    """Opens a corpus and checks that what is on disk is what was committed.

    Raises DataError if the folder is absent or incomplete, a shard is missing, truncated or
    corrupt, or the manifest disagrees with the shards; the message names the file and the mend.
    """
    directory = Path(directory)
    path = directory / "corpus.json"
    if not path.is_file():
        raise DataError(f"{directory} is not a corpus: {path} is missing; build it, or correct the path")
    try:
        record = json.loads(path.read_text())
        shards = check_shards(directory, record["shards"], deep=deep)
        _check_manifest(directory / "manifest.parquet", record, len(shards))
        return Corpus(directory, shards, fingerprint=record["fingerprint"], about=record["about"])
    except DataError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}); delete {directory} and build it again"
        ) from error


def _check_manifest(path: Path, record: Mapping[str, Any], records: int) -> None:
    """Raises DataError unless the manifest is the one written, with a row for each of the shards' records."""
    mend = f"delete {path.parent} and build it again"
    if not path.is_file():
        raise DataError(f"{path} is missing; {mend}")
    if atomic.sha256(path) != record["manifest_sha256"]:
        raise DataError(f"{path} was changed after it was written; {mend}")
    rows = pl.scan_parquet(path).select(pl.len()).collect().item()
    if not rows == records == record["comparisons"]:
        raise DataError(
            f"{path} has {rows} rows, the shards hold {records} records and corpus.json says "
            f"{record['comparisons']}; {mend}"
        )


def _manifest(comparisons: Sequence[Comparison], columns: Mapping[str, Column]) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "row": pl.Series(range(len(comparisons)), dtype=pl.UInt32),
            "id": [c.id for c in comparisons],
            "source": [c.source for c in comparisons],
            "category": [c.category for c in comparisons],
            "group": [c.group or c.prompt_hash for c in comparisons],
            "prompt_hash": [c.prompt_hash for c in comparisons],
            "split": [c.split for c in comparisons],
            "responses": pl.Series([len(c.responses) for c in comparisons], dtype=pl.UInt16),
        }
    )
    for name, values in columns.items():
        if name in frame.columns:
            raise DataError(
                f"manifest column {name!r} is there already; give the further column another name"
            )
        if len(values) != len(comparisons):
            raise DataError(
                f"manifest column {name!r} has {len(values)} values for {len(comparisons)} comparisons"
            )
        frame = frame.with_columns(pl.Series(name, values))
    return frame


def _fingerprint(manifest: pl.DataFrame) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for name in manifest.columns:
        digest.update(name.encode())
        digest.update("\n".join(map(str, manifest[name].to_list())).encode())
    return digest.hexdigest()
