"""A shuffle through files: each scatter task writes one file, sorted by bucket; a gather task reads its slice of all.

One file a scatter task, whatever the number of buckets: 4,000 parts and 40 buckets are not 160,000 files. Plain
arrays, because hashes do not compress: a slice is one read at an offset.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rewardscale.data.comparison import DataError


def count_for(items: int, a_bucket: int) -> int:
    """How many buckets hold `items` items at about `a_bucket` each."""
    return max(1, -(-items // a_bucket))


def of_hash(hashes: np.ndarray, buckets: int) -> np.ndarray:
    """The bucket of each hash (uint64 [n], uniform): int64 [n] in [0, buckets)."""
    return ((hashes >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)).astype(np.int64)


def write(folder: Path, records: np.ndarray, bucket: np.ndarray, buckets: int) -> None:
    """Writes `records` [n] in the order of their buckets, which keep the order given, and where each begins."""
    if buckets > 2**16:
        raise DataError(f"{buckets} buckets are too many; ask for 65,536 at the most")
    order = np.argsort(bucket.astype(np.uint16), kind="stable")
    starts = np.zeros(buckets + 1, np.int64)
    np.cumsum(np.bincount(bucket, minlength=buckets), out=starts[1:])
    np.save(folder / "records.npy", records[order])
    np.save(folder / "starts.npy", starts)


def read(folders: Sequence[Path], bucket: int) -> list[np.ndarray]:
    """The records of one bucket from each scatter task, in order; only these are read."""
    found = []
    for folder in folders:
        start, stop = np.load(folder / "starts.npy")[bucket : bucket + 2]
        found.append(np.array(np.load(folder / "records.npy", mmap_mode="r")[start:stop]))
    return found
