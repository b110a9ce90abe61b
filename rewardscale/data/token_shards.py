"""Token shards: the token ids of a view as flat files that are mapped, and the arrays that say where rows lie.

    <view>/shard-00000-of-00040.tokens   ids uint32 little-endian, row after row: prompt, then each response
    <view>/lengths.npy                   uint32 [rows, 1 + K]: tokens of the prompt and of each response (0: absent)
    <view>/starts.npy                    int64 [rows + 1]: where each row's tokens begin, counted over all shards
    <view>/sums.npy                      uint32 [rows]: sum of the row's ids modulo 2**32, checked on every read

A shard holds 2**20 rows. Reading a row costs two looks into mapped arrays and a copy: benchmarks/results/streaming.md
compares that with ArrayRecord, which views were written in before and which can still be read.
"""

import contextlib
import itertools
import resource
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import atomic
from rewardscale.data import arrays, remote
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Shards, check_shard, iterate_records

TOKEN = np.dtype("<u4")
ROWS_PER_SHARD = 2**20
INDEX = ("lengths", "starts", "sums")
_SPARE_FILES = 256  # file descriptors that everything else of a process may need


Rows = tuple[np.ndarray, np.ndarray]  # lengths uint32 [n, 1 + K] of n rows, and all their ids, uint32


def flatten(rows: Sequence[Sequence[Sequence[int]]]) -> Rows:
    """Rows given as the ids of the prompt and of each response."""
    lengths = np.zeros((len(rows), max(map(len, rows))), np.uint32)
    for row, parts in enumerate(rows):
        lengths[row, : len(parts)] = [len(part) for part in parts]
    chained = itertools.chain.from_iterable
    return lengths, np.fromiter(chained(chained(rows)), TOKEN, int(lengths.sum()))


def write_token_shards(
    folder: Path,
    encoded: Iterable[Rows],
    *,
    rows: int,
    width: int,
    progress: Callable[[int], None] | None = None,
) -> list[dict[str, Any]]:
    """Writes shards and index arrays; memory does not grow with `rows`.

    Args:
      encoded: consecutive rows, some at a time.
      rows: how many there are in all. width: 1 + the most responses of a row.
      progress: called with the number of rows written.

    Returns a description a shard: name, records, bytes, sha256. Raises OSError (full disk), DataError if there are
    more or fewer rows than `rows`.
    """
    lengths = arrays.create(folder / "lengths.npy", np.uint32, (rows, width))
    starts = arrays.create(folder / "starts.npy", np.int64, (rows + 1,))
    sums = arrays.create(folder / "sums.npy", np.uint32, (rows,))
    shards = max(1, -(-rows // ROWS_PER_SHARD))
    names = [f"shard-{i:05d}-of-{shards:05d}.tokens" for i in range(shards)]
    done, file = 0, None
    with contextlib.ExitStack() as resources:
        for sizes, ids in _within_shards(encoded):
            here = slice(done, done + len(sizes))
            if here.stop > rows:
                raise DataError(f"{folder}: {rows} rows were announced, more came")
            if done % ROWS_PER_SHARD == 0:
                resources.close()
                file = resources.enter_context((folder / names[done // ROWS_PER_SHARD]).open("wb"))
            assert file is not None
            file.write(ids.tobytes())
            lengths[here, : sizes.shape[1]] = sizes
            totals = sizes.sum(1, dtype=np.int64)
            starts[done + 1 : here.stop + 1] = starts[done] + np.cumsum(totals)
            sums[here] = _row_sums(ids, totals)
            done = here.stop
            if progress:
                progress(done)
    if done != rows:
        raise DataError(f"{folder}: {rows} rows were announced, {done} came")
    for array in (lengths, starts, sums):
        array.flush()  # type: ignore[attr-defined]
    counts = [min(ROWS_PER_SHARD, rows - i * ROWS_PER_SHARD) for i in range(shards)]
    return [
        {
            "name": name,
            "records": count,
            "bytes": (folder / name).stat().st_size,
            "sha256": atomic.sha256(folder / name),
        }
        for name, count in zip(names, counts, strict=True)
    ]


def _within_shards(encoded: Iterable[Rows]) -> Iterator[Rows]:
    """The same rows, parted where a new shard begins."""
    done = 0
    for lengths, ids in encoded:
        while len(lengths):
            room = ROWS_PER_SHARD - done % ROWS_PER_SHARD
            cut = int(lengths[:room].sum())
            yield lengths[:room], ids[:cut]
            done += len(lengths[:room])
            lengths, ids = lengths[room:], ids[cut:]


def check_token_shards(
    directory: Path, described: Sequence[Mapping[str, Any]], *, deep: bool | None = None
) -> Shards:
    """Checks shards against their description; returns them.

    Sizes are always checked, contents (SHA-256) if `deep`, by default when the whole is under 256 MiB. Of a copy of
    remote files (`remote`) those that are there are checked, the others when they are fetched.
    Raises DataError naming the shard and the mend, KeyError if `described` is no such description.
    """
    mend = f"delete {directory} and build it again"
    if deep is None:
        deep = sum(shard["bytes"] for shard in described) <= arrays.VERIFY_LIMIT_BYTES
    paths, copied = [], remote.is_copy(directory)
    for shard in described:
        path = directory / shard["name"]
        paths.append(path)
        if not copied or path.exists():
            check_shard(path, shard, deep=deep, mend=mend)
    return Shards(tuple(paths), tuple(int(shard["records"]) for shard in described))


class FlatTokens:
    """Rows of token shards. Shards are mapped when they are first read; `in_memory` reads them all at once."""

    def __init__(
        self,
        shards: Shards,
        starts: np.ndarray,
        sums: np.ndarray,
        *,
        described: Sequence[Mapping[str, Any]],
        in_memory: bool,
    ):
        self._shards, self._starts, self._sums, self._described = shards, starts, sums, described
        self._first = starts[
            np.concatenate([[0], np.cumsum(shards.counts)])
        ]  # token that each shard begins with
        self._open: dict[int, np.ndarray] = {}
        self._in_memory = in_memory

    def read(self, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The rows' ids, one after another. Raises DataError unless row i has sizes[i] of the sum that was written."""
        begin = self._starts[rows]
        if not np.array_equal(self._starts[rows + np.asarray(1, rows.dtype)] - begin, sizes):
            raise DataError("the shards disagree with lengths.npy")
        if len(self._shards.counts) == 1:
            ids = self._shard(0)[ragged_arange(begin, sizes)]
        else:
            ids = np.empty(int(sizes.sum()), TOKEN)
            shard = rows // ROWS_PER_SHARD
            ends = np.cumsum(sizes)
            for number in np.unique(shard).tolist():
                own = np.flatnonzero(shard == number)
                source = ragged_arange(begin[own] - self._first[number], sizes[own])
                ids[ragged_arange((ends - sizes)[own], sizes[own])] = self._shard(number)[source]
        if not np.array_equal(_row_sums(ids, sizes), self._sums[rows]):
            raise DataError("ids cannot be read: they are not those that were written")
        return ids

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._open:
            path = remote.fetch(self._shards.paths[number], self._described[number])
            if self._in_memory:
                self._open[number] = np.fromfile(path, TOKEN)
            else:
                self._open[number] = np.asarray(np.memmap(path, TOKEN, "r"))
            if len(self._open[number]) != self._first[number + 1] - self._first[number]:
                raise DataError(f"{path.name} disagrees with lengths.npy")
        return self._open[number]


class RecordTokens:
    """Rows of a view that was written as ArrayRecord shards, one record a row."""

    def __init__(self, shards: Shards, lengths: np.ndarray, *, in_memory: bool):
        self._flat: np.ndarray | None = None
        if in_memory:
            sizes = lengths.sum(1, dtype=np.int64)
            self._flat = _joined(list(iterate_records(shards)), sizes)
            self._starts = np.concatenate([[0], np.cumsum(sizes)])
        else:
            # It brings orbax, half a second for every command that reads tokens; views of today need neither.
            from grain.sources import ArrayRecordDataSource

            allow_open_files(len(shards.paths))
            self._source = ArrayRecordDataSource([str(path) for path in shards.paths])

    def read(self, rows: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """As `FlatTokens.read`."""
        if self._flat is not None:
            return self._flat[ragged_arange(self._starts[rows], sizes)]
        if not len(rows):
            return np.zeros(0, TOKEN)
        try:
            records = self._source.__getitems__(rows.tolist())  # pyright: ignore[reportAttributeAccessIssue]
        except (RuntimeError, ValueError) as error:
            raise DataError(f"token records cannot be read ({error})") from error
        return _joined(records, sizes)


def _joined(records: Sequence[bytes], sizes: np.ndarray) -> np.ndarray:
    if not np.array_equal([len(record) for record in records], sizes * TOKEN.itemsize):
        raise DataError("token records disagree with lengths.npy")
    return np.frombuffer(b"".join(records), TOKEN)


def allow_open_files(count: int) -> None:
    """Makes room for `count` open files, which readers of `count` shards keep: raises the soft limit if need be.

    Raises DataError if the hard limit is lower.
    """
    wanted = count + _SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise DataError(
            f"reading {count} shards needs {wanted} open files and this process may have {hard}; "
            f"raise the limit (`ulimit -Hn {wanted}`, or LimitNOFILE of the service), or build the view again: "
            "new views need a file a million rows"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _row_sums(ids: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """uint32 [rows]: sums of consecutive runs of `sizes` ids, modulo 2**32."""
    sums = np.zeros(len(sizes), np.uint32)
    some = np.flatnonzero(sizes)
    if len(some):
        begin = np.cumsum(sizes) - sizes
        sums[some] = np.add.reduceat(ids, begin[some], dtype=np.uint32)
    return sums


def ragged_arange(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Concatenation of arange(start, start + size), int64; sizes may be 0."""
    sizes = np.asarray(sizes, np.int64)
    ends = np.cumsum(sizes)
    return np.arange(int(ends[-1]) if len(ends) else 0) + np.repeat(
        np.asarray(starts, np.int64) - (ends - sizes), sizes
    )
