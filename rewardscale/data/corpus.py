"""A corpus: comparisons as text in ArrayRecord shards, a Parquet manifest, and one commit record.

    <corpus>/shard-00000-of-00007.array_record       comparisons (comparison.to_bytes), <= 10,000 a shard
    <corpus>/manifest-00000-of-00002.parquet         a row a comparison: row, id, source, category, group,
                                                     prompt_hash, split, ... (a small corpus: manifest.parquet)
    <corpus>/corpus.json                             counts, sizes, hashes: written last, so its presence means "whole"

Shards hold one record a group: a random read costs time in proportion to the groups of its file,
hence the limit of 10,000 records a shard.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

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
      manifests: the manifest's files, in the order of their rows.
      fingerprint: hash of the comparisons' ids in order and of the manifest's extra columns.
      about: how it was made.
    """

    directory: Path
    shards: Shards
    manifests: tuple[Path, ...]
    fingerprint: str
    about: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.shards)

    def manifest(self) -> pl.DataFrame:
        """The manifest, a row a comparison, all in memory."""
        return self.scan_manifest().collect()

    def scan_manifest(self) -> pl.LazyFrame:
        """The manifest as a polars query, of which no more is read than it asks for."""
        return pl.scan_parquet(list(self.manifests))

    def __iter__(self) -> Iterator[Comparison]:
        """Comparisons in row order, read shard by shard."""
        for record in iterate_records(self.shards):
            yield Comparison.from_bytes(record)

    def take(self, rows: Sequence[int] | np.ndarray) -> list[Comparison]:
        """The comparisons of these rows, in their order; no others are read.

        Raises DataError for a row that there is not, or a shard that cannot be read.
        """
        wanted = np.asarray(rows, np.int64)
        if wanted.size and not 0 <= wanted.min() <= wanted.max() < len(self):
            raise DataError(
                f"{self.directory} has rows 0 to {len(self) - 1}, not {wanted.min()} to {wanted.max()}"
            )
        ends = np.cumsum(self.shards.counts)
        shard = np.searchsorted(ends, wanted, side="right")
        out: list[Comparison | None] = [None] * len(wanted)
        for number in np.unique(shard):
            places = np.flatnonzero(shard == number)
            path, first = self.shards.paths[number], ends[number] - self.shards.counts[number]
            records = read_records(path, (wanted[places] - first).tolist())
            for place, record in zip(places.tolist(), records, strict=True):
                out[place] = Comparison.from_bytes(record)
        return cast(list[Comparison], out)


def write_shards(
    directory: Path,
    records: Iterable[bytes],
    *,
    total: int,
    progress: Callable[[int], None] | None = None,
    first: int = 0,
    of: int | None = None,
) -> list[dict[str, Any]]:
    """Writes `total` records to `directory/shard-*.array_record`; returns a description a shard.

    Each description holds name, records, bytes and sha256. `progress(n)` is called as records are
    written. Where others write the rest, shards count from `first` and are `of` so many.

    Raises:
      DataError: if `records` yields another number than `total`.
      OSError: if a shard cannot be written (full disk, read-only folder).
    """
    shards = max(1, -(-total // RECORDS_PER_SHARD))
    iterator, described, written = iter(records), [], 0
    for index in range(shards):
        name = f"shard-{first + index:05d}-of-{of or shards:05d}.array_record"
        path = directory / name
        count = 0
        with record_writer(path) as write:
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
def record_writer(path: Path, options: str = WRITER_OPTIONS) -> Iterator[Callable[[bytes], None]]:
    """Yields the function that appends a record to the shard `path`. Raises OSError if writing fails."""
    writer = array_record_module.ArrayRecordWriter(str(path), options)

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

    Names and sizes are always checked; contents (SHA-256, number of records) if `deep`, by default
    when the whole is under 256 MiB. Raises DataError naming the shard and the mend, KeyError if
    `described` is not such a description.
    """
    mend = f"delete {directory} and build it again"
    if deep is None:
        deep = sum(s["bytes"] for s in described) <= VERIFY_LIMIT_BYTES
    paths = []
    for shard in described:
        path = directory / shard["name"]
        check_shard(path, shard, deep=deep, mend=mend)
        if deep and (count := _count_records(path)) != shard["records"]:
            raise DataError(f"{path} holds {count} records, its description says {shard['records']}; {mend}")
        paths.append(path)
    return Shards(tuple(paths), tuple(int(s["records"]) for s in described))


def check_shard(path: Path, described: Mapping[str, Any], *, deep: bool, mend: str) -> None:
    """Raises DataError, with the mend, unless the file has the size and, if `deep`, the SHA-256 of its description."""
    if not path.is_file():
        raise DataError(f"{path} is missing; {mend}")
    if path.stat().st_size != described["bytes"]:
        raise DataError(
            f"{path} has {path.stat().st_size} bytes where {described['bytes']} were written: "
            f"truncated or overwritten; {mend}"
        )
    if deep and atomic.sha256(path) != described["sha256"]:
        raise DataError(f"{path} does not match its SHA-256: corrupt; {mend}")


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
        if count:
            yield from read_shard(path, count)


def read_shard(path: Path, count: int) -> list[bytes]:
    """The `count` records of a shard. Raises DataError if it cannot be read or holds another number."""
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        records = reader.read_all()
        reader.close()
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read ({error}): corrupt; build it again") from error
    if len(records) != count:
        raise DataError(f"{path} holds {len(records)} records, its description says {count}; build it again")
    return records


def read_records(path: Path, places: Sequence[int]) -> list[bytes]:
    """Some records of a shard, in the order asked for. Raises DataError if it cannot be read."""
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        records = reader.read(list(places))
        reader.close()
    except (RuntimeError, ValueError, IndexError) as error:
        raise DataError(f"{path} cannot be read ({error}): corrupt; build it again") from error
    return records


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
            "fingerprint": fingerprint(manifest),
            "about": dict(about),
        }
        atomic.write_json(folder / "corpus.json", record)
    return open_corpus(directory)


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive rows of a corpus that were written apart.

    Attributes:
      folder: where its files lie.
      shards: their descriptions (`write_shards`); names are those in the corpus.
      manifest: description of its manifest file: name, rows, bytes, sha256.
      fingerprint: of its rows of the manifest.
    """

    folder: Path
    shards: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    fingerprint: str


def join_corpus(directory: Path, parts: Sequence[Part], *, about: Mapping[str, Any]) -> Corpus:
    """Makes one corpus of `parts`, whole or not at all, by hard links where the file system has them; opens it.

    Raises DataError if `directory` is there already, OSError if it cannot be written.
    """
    directory = Path(directory)
    if directory.exists():
        raise DataError(f"{directory} exists: a corpus is immutable; choose another directory")
    with atomic.new_directory(directory) as folder:
        for part in parts:
            for name in [shard["name"] for shard in part.shards] + [part.manifest["name"]]:
                link(part.folder / name, folder / name)
        record = {
            "format": 2,
            "comparisons": sum(part.manifest["rows"] for part in parts),
            "shards": [dict(shard) for part in parts for shard in part.shards],
            "manifests": [dict(part.manifest) for part in parts],
            "fingerprint": joined_fingerprint(parts),
            "about": dict(about),
        }
        atomic.write_json(folder / "corpus.json", record)
    return open_corpus(directory)


def joined_fingerprint(parts: Sequence[Part]) -> str:
    """Hash (32 hex digits) of a corpus made of `parts`."""
    return hashlib.blake2b("".join(part.fingerprint for part in parts).encode(), digest_size=16).hexdigest()


def link(source: Path, target: Path) -> None:
    """Puts a committed, immutable file in a second place."""
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copyfile(source, target)


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
        manifests = _check_manifests(directory, record, len(shards), deep=deep)
        return Corpus(directory, shards, manifests, record["fingerprint"], record["about"])
    except DataError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} cannot be read ({error!r}); delete {directory} and build it again"
        ) from error


def _check_manifests(
    directory: Path, record: Mapping[str, Any], records: int, *, deep: bool | None
) -> tuple[Path, ...]:
    """The manifest's files. Raises DataError unless they are those written, with a row for each record of the shards.

    Contents (SHA-256) are checked if `deep`, by default when all are under 256 MiB together.
    """
    mend = f"delete {directory} and build it again"
    described = record.get("manifests") or [
        {"name": "manifest.parquet", "sha256": record["manifest_sha256"], "bytes": None}
    ]
    if deep is None:
        deep = sum(part["bytes"] or 0 for part in described) <= VERIFY_LIMIT_BYTES
    paths = []
    for part in described:
        path = directory / part["name"]
        if not path.is_file():
            raise DataError(f"{path} is missing; {mend}")
        same_size = part["bytes"] in (None, path.stat().st_size)
        if not same_size or (deep and atomic.sha256(path) != part["sha256"]):
            raise DataError(f"{path} was changed after it was written; {mend}")
        paths.append(path)
    rows = pl.scan_parquet(list(paths)).select(pl.len()).collect().item()
    if not rows == records == record["comparisons"]:
        raise DataError(
            f"{paths[0]}{' and further parts have' if len(paths) > 1 else ' has'} {rows} rows, the shards hold "
            f"{records} records and corpus.json says {record['comparisons']}; {mend}"
        )
    return tuple(paths)


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


def fingerprint(manifest: pl.DataFrame) -> str:
    """Hash (32 hex digits) of a manifest's columns, whatever file they lie in."""
    digest = hashlib.blake2b(digest_size=16)
    for name in manifest.columns:
        digest.update(name.encode())
        digest.update("\n".join(map(str, manifest[name].to_list())).encode())
    return digest.hexdigest()
