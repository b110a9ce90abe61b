"""MinHash signatures, their bands, and how alike they say two sets are.

Broder, "On the resemblance and containment of documents" (1997); banding: Leskovec, Rajaraman and Ullman, "Mining of
massive datasets", chapter 3.
"""

import functools

import numpy as np

from rewardscale.config import ConfigError
from rewardscale.data.shingles import Runs

NOTHING = np.uint32(2**32 - 1)  # each entry of an empty set's signature
_AT_ONCE = 2**17  # hashes: half a megabyte, so that 128 passes over them stay in the cache


def signatures(sets: Runs, permutations: int, *, seed: int = 0) -> np.ndarray:
    """The signature of each set of hashes: uint32 [sets, permutations].

    A permutation is x -> a x + b modulo 2^32 with odd a, of the first 32 bits of the hash. The hashes being random, the
    share of equal entries of two signatures has the mean J and the variance J (1 - J) / permutations,
    where J is the Jaccard similarity (checked: tests, and benchmarks/results/dedup.md).
    """
    random = np.random.default_rng([0x3141, seed, permutations])
    factors = random.integers(0, 2**32, permutations, dtype=np.uint32) | np.uint32(1)
    summands = random.integers(0, 2**32, permutations, dtype=np.uint32)
    out = np.full((len(sets.counts), permutations), NOTHING, np.uint32)
    filled = np.flatnonzero(sets.counts)
    starts, stops = sets.starts[filled], sets.starts[filled + 1]
    done = 0
    while done < len(filled):
        upto = max(done + 1, int(np.searchsorted(stops, starts[done] + _AT_ONCE, "right")))
        hashes = (sets.hashes[starts[done] : stops[upto - 1]] >> np.uint64(32)).astype(np.uint32)
        begins = starts[done:upto] - starts[done]
        block = np.empty((permutations, upto - done), np.uint32)
        permuted = np.empty_like(hashes)
        for row, factor, summand in zip(block, factors, summands, strict=True):
            np.multiply(hashes, factor, out=permuted)
            permuted += summand
            np.minimum.reduceat(permuted, begins, out=row)
        out[filled[done:upto]] = block.T
        done = upto
    return out


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Estimated Jaccard similarity of rows of signatures [n, permutations]: float32 [n]."""
    return (first == second).mean(-1, dtype=np.float32)


@functools.cache
def bands_and_rows(threshold: float, permutations: int, miss_weight: float = 0.95) -> tuple[int, int]:
    """(bands b, rows r) of the S-curve 1 - (1 - s^r)^b that parts similarities at `threshold` best.

    "Best" is the least weighted area of error: `miss_weight` times that above the threshold (pairs missed), the rest
    times that below (pairs looked at in vain), as datasketch weighs them. Pairs found are checked
    anyway, so a miss is the dearer error: at 0.8 and 128 permutations 16 bands of 8 rows find 95 % of
    the pairs at the threshold and 99 % of those at 0.85.

    Raises ConfigError for a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ConfigError(f"threshold={threshold} must be more than 0 and at most 1")
    s = (np.arange(1000) + 0.5) / 1000
    below = s < threshold
    best = None
    for rows in range(1, permutations + 1):
        for bands in range(1, permutations // rows + 1):
            found = 1 - (1 - s**rows) ** bands
            error = (1 - miss_weight) * found[below].sum() + miss_weight * (1 - found[~below]).sum()
            if best is None or error < best[0]:
                best = error, bands, rows
    assert best is not None
    return best[1], best[2]


def band_keys(signatures: np.ndarray, bands: int, rows: int) -> np.ndarray:
    """A hash of each band of each signature: uint64 [n, bands]. Equal rows in another band have another hash."""
    keys = np.empty((len(signatures), bands), np.uint64)
    for band in range(bands):
        key = np.full(len(signatures), band + 1, np.uint64)
        for row in range(band * rows, (band + 1) * rows):
            key *= np.uint64(0x9E3779B97F4A7C15)
            key ^= signatures[:, row]
            key ^= key >> np.uint64(29)
            key *= np.uint64(0xBF58476D1CE4E5B9)
            key ^= key >> np.uint64(32)
        keys[:, band] = key
    return keys
