"""Strata: groups of corpus rows that a subset holds in fixed proportions, whatever its size.

The turns of the strata form a sequence in which every prefix of n places gives stratum s either floor or ceil of
n * share_s places. It is the earliest-deadline-first schedule of unit jobs: the j-th place of s must lie among the
places (j - 1) / share_s + 1 to j / share_s, which has a solution for any shares that add up to 1 (Tijdeman, "The
chairman assignment problem", 1980; Baruah et al., "Proportionate progress", 1996).
"""

import dataclasses
import heapq
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np
import polars as pl

from rewardscale.data import arrays
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus

LARGEST_TOTAL = 2**20  # shares are multiples of 1/total: longer sequences of turns would take long to find


@dataclasses.dataclass(frozen=True)
class Strata:
    """The strata of a corpus.

    Attributes:
      names: of the strata.
      shares: whole numbers; stratum s has shares[s] / sum(shares) of every subset.
      codes: uint16 [corpus rows], the number of each row's stratum.
    """

    names: tuple[str, ...]
    shares: tuple[int, ...]
    codes: np.ndarray


def make_strata(
    names: Sequence[str], codes: np.ndarray, *, pool: np.ndarray, mixture: Mapping[str, float] | None = None
) -> Strata:
    """Strata of rows with these codes.

    Args:
      names: of the strata. codes: uint16 [corpus rows], the number of each row's stratum.
      pool: the corpus rows to draw from.
      mixture: weight of each stratum by name (they are divided by their sum; those not named get none). By default
        each has its share of the pool.

    Shares are exact where whole numbers up to 2**20 can say them, else rounded to multiples of 2**-20.
    Raises DataError if the mixture names a stratum that the pool does not have, or a weight is not positive.
    """
    counts = np.zeros(len(names), np.int64)
    for piece in arrays.pieces(len(pool)):
        counts += np.bincount(codes[pool[piece]], minlength=len(names))
    if mixture is None:
        return Strata(tuple(names), _shares([Fraction(int(n)) for n in counts]), codes)
    present = [name for name, count in zip(names, counts, strict=True) if count]
    if unknown := sorted(set(mixture) - set(present)):
        known = ", ".join(map(repr, present[:20])) or "none"
        raise DataError(f"the mixture names {unknown}, which no row to draw from has; there are {known}")
    if bad := [name for name, weight in mixture.items() if not (math.isfinite(weight) and weight > 0)]:
        raise DataError(
            f"the mixture's weights of {bad} must be positive numbers; leave out what is not wanted"
        )
    if not mixture:
        raise DataError("the mixture is empty; name at least one value")
    # 0.3 is meant as three tenths, not as the binary number next to it
    return Strata(tuple(names), _shares([Fraction(str(mixture.get(name, 0))) for name in names]), codes)


def strata_of(
    corpus: Corpus, column: str, *, pool: np.ndarray, mixture: Mapping[str, float] | None = None
) -> Strata:
    """`make_strata` by the values of a manifest column (e.g. "source", "category"), of which no other is read.

    Raises DataError also if the manifest has no such column, or it has more than 65,536 values.
    """
    if column not in (known := corpus.scan_manifest().collect_schema().names()):
        raise DataError(f"{corpus.directory}: the manifest has no column {column!r}; it has {known}")
    value = pl.col(column).cast(pl.String).fill_null("")
    names: list[str] = corpus.scan_manifest().select(value.unique()).collect()[column].sort().to_list()
    if len(names) > 2**16:
        raise DataError(f"{column!r} has {len(names)} values: at most 65,536 strata can be told apart")
    number = value.replace_strict(names, range(len(names)), return_dtype=pl.UInt16)
    codes, done = np.empty(len(corpus), np.uint16), 0
    for path in corpus.manifests:  # one after another, so that the strings of all rows never lie in memory
        own = pl.scan_parquet(path).select(number).collect()[column].to_numpy()
        codes[done : done + len(own)] = own
        done += len(own)
    return make_strata(names, codes, pool=pool, mixture=mixture)


def _shares(weights: Sequence[Fraction]) -> tuple[int, ...]:
    """Whole numbers in the proportion of `weights`, with a sum of at most LARGEST_TOTAL."""
    total = sum(weights)
    if not total:
        raise DataError("there are no rows to draw from")
    exact = [weight / total for weight in weights]
    common = math.lcm(*(share.denominator for share in exact))
    if common <= LARGEST_TOTAL:
        return tuple(int(share * common) for share in exact)
    shares = [int(share * LARGEST_TOTAL) for share in exact]
    left = sorted(range(len(exact)), key=lambda s: (shares[s] - exact[s] * LARGEST_TOTAL, s))
    for stratum in left[: LARGEST_TOTAL - sum(shares)]:
        shares[stratum] += 1
    return tuple(shares)


def turns(shares: Sequence[int], count: int) -> np.ndarray:
    """Which stratum has each of the first `count` places. uint16 [count].

    The first n places give stratum s floor or ceil of n * shares[s] / sum(shares), for every n.
    """
    total = sum(shares)
    ready: list[tuple[int, int, int]] = []  # (last place it may take, stratum, its number there)
    later = [(1, stratum, 1) for stratum, share in enumerate(shares) if share]  # (first place, ...)
    heapq.heapify(later)
    period = np.empty(min(count, total), np.uint16)  # after `total` places all shares are met: the same again
    for place in range(len(period)):
        while later and later[0][0] <= place + 1:
            _, stratum, number = heapq.heappop(later)
            heapq.heappush(ready, (-(-number * total // shares[stratum]), stratum, number))
        _, stratum, number = heapq.heappop(ready)
        period[place] = stratum
        heapq.heappush(later, (number * total // shares[stratum] + 1, stratum, number + 1))
    return np.resize(period, count)
