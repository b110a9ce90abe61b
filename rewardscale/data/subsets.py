"""Subsets: (level, number of pairs, draw) -> an ordered index array.

A draw is one permutation of the corpus's training rows, shared by all levels: at level L the
subset of n pairs is the first n rows of the permutation that L keeps. So subsets are nested, and
two levels differ by curation and not by luck.

With strata (`data/strata.py`) each stratum's rows keep the draw's order and the strata take turns, so that every
prefix has the wanted composition, at every level.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale.data import arrays, remote
from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level
from rewardscale.data.strata import Strata, turns

_PERMUTATION, _EPOCH = 0x5EED, 0xE90C  # keep the two uses of one seed apart
_RECORD = "subset.json"
_ARRAYS = ("rows", "orientation", "weight", "target")
_NOWHERE = np.uint32(2**32 - 1)


@dataclasses.dataclass(frozen=True)
class Subset:
    """The training pairs of one cell, in order.

    Attributes:
      rows: uint32 [n] corpus rows.
      orientation: int8 [n], +1 if the first response is chosen.
      weight, target: float32 [n]; see Level (1 where the level has none). Not to be written to.
      raw_pairs: how many rows of the permutation were examined to get them.
      cost: what examining those rows cost, in the level's `cost_unit`.
      fingerprint: hash (32 hex digits) of the arrays.
    """

    rows: np.ndarray
    orientation: np.ndarray
    weight: np.ndarray
    target: np.ndarray
    raw_pairs: int
    cost: float
    fingerprint: str

    def __len__(self) -> int:
        return len(self.rows)


def permutation(pool: np.ndarray, *, seed: int, draw: int) -> np.ndarray:
    """The draw's order of `pool` (corpus rows), the same for every level. uint32 [len(pool)]."""
    return np.random.default_rng([_PERMUTATION, seed, draw]).permutation(np.asarray(pool, np.uint32))


def available(level: Level, pool: np.ndarray) -> int:
    """How many pairs of `pool` the level keeps."""
    keeps = _kept(level, pool)
    return sum(int(keeps[pool[piece]].sum()) for piece in arrays.pieces(len(pool)))


def subset(
    level: Level, pairs: int, *, pool: np.ndarray, seed: int, draw: int, strata: Strata | None = None
) -> Subset:
    """The first `pairs` pairs of the draw's permutation of `pool` that `level` keeps.

    With `strata` they are the first of each stratum's own, as many as its share of `pairs` to within one.

    Raises DataError if the level keeps fewer.
    """
    if pairs < 1:
        raise DataError(f"a subset needs at least 1 pair, {pairs} were asked for; correct sweep.pairs")
    order = permutation(pool, seed=seed, draw=draw)
    keeps = _kept(level, order)
    if strata is None:
        kept, examined = _first(order, keeps, pairs, level, len(pool))
    else:
        kept, examined = _first_of_strata(order, keeps, pairs, level, strata)
    del keeps
    index = _places(level, kept)
    weight, target = (
        arrays.constant(1, pairs, np.float32) if values is None else values[index].astype(np.float32)
        for values in (level.weight, level.target)
    )
    found = (kept, level.orientation[index], weight, target)
    cost = len(examined) if level.cost is None else float(level.cost[examined].sum(dtype=np.float64))
    return Subset(*found, raw_pairs=len(examined), cost=cost, fingerprint=arrays.short_hash(*found))


def _kept(level: Level, pool: np.ndarray) -> np.ndarray:
    """bool [corpus rows, at least those of the pool]: whether the level keeps each."""
    size = max(int(pool.max(initial=0)), int(level.rows[-1]) if len(level.rows) else 0) + 1
    keeps = np.zeros(size, np.bool_)
    for piece in arrays.pieces(len(level.rows)):
        keeps[level.rows[piece]] = True
    return keeps


def _places(level: Level, rows: np.ndarray) -> np.ndarray:
    """uint32 [n]: where in the level each of these rows stands."""
    if len(level.rows) == int(level.rows[-1]) + 1:  # it keeps all rows
        return rows
    where = np.full(int(level.rows[-1]) + 1, _NOWHERE, np.uint32)
    for piece in arrays.pieces(len(level.rows)):
        where[level.rows[piece]] = np.arange(piece.start, piece.stop, dtype=np.uint32)
    return where[rows]


def _first(
    order: np.ndarray, keeps: np.ndarray, pairs: int, level: Level, pool: int
) -> tuple[np.ndarray, np.ndarray]:
    """The first `pairs` rows of `order` that are kept, and all rows up to the last of them."""
    kept, found = np.empty(pairs, np.uint32), 0
    for piece in arrays.pieces(len(order)):
        places = np.flatnonzero(keeps[order[piece]])[: pairs - found]
        kept[found : found + len(places)] = order[piece][places]
        found += len(places)
        if found == pairs:
            return kept, order[: piece.start + int(places[-1]) + 1]
    raise DataError(
        f"level {level.name!r} keeps {found} of the {pool} pairs to draw from, {pairs} were asked for; "
        "lower sweep.pairs or enlarge the corpus"
    )


def _first_of_strata(
    order: np.ndarray, keeps: np.ndarray, pairs: int, level: Level, strata: Strata
) -> tuple[np.ndarray, np.ndarray]:
    """The kept rows that take the strata's turns, and all rows that were examined to get them."""
    sequence = turns(strata.shares, pairs)
    counts = np.bincount(sequence, minlength=len(strata.names))
    by_turn = np.argsort(sequence, kind="stable")  # first all positions of stratum 0, then of 1, ...
    codes = strata.codes[order]
    kept, examined, done = np.empty(pairs, np.uint32), [], 0
    for stratum, count in enumerate(counts.tolist()):
        if not count:
            continue
        own = order[codes == stratum]
        places = np.flatnonzero(keeps[own])
        if len(places) < count:
            share = strata.shares[stratum] / sum(strata.shares)
            raise DataError(
                f"level {level.name!r} keeps {len(places)} pairs of {strata.names[stratum]!r}, {count} are wanted: "
                f"{share:.4g} of {pairs}; lower sweep.pairs or the share"
            )
        kept[by_turn[done : done + count]] = own[places[:count]]
        examined.append(own[: int(places[count - 1]) + 1])
        done += count
    return kept, np.concatenate(examined)


def write_subset(directory: Path, subset: Subset, *, about: Mapping[str, Any] | None = None) -> Path:
    """Writes `subset` to `directory/<fingerprint>` (arrays as .npy, `subset.json`); returns that path.

    A subset that is there already is left alone. `about` (JSON values) says how it was drawn.
    Raises OSError if it cannot be written; nothing stays behind.
    """
    final = Path(directory) / subset.fingerprint
    if not final.exists():
        record = {
            "about": dict(about or {}),
            "raw_pairs": subset.raw_pairs,
            "cost": subset.cost,
            "fingerprint": subset.fingerprint,
        }
        contents = {name: getattr(subset, name) for name in _ARRAYS}
        arrays.write_folder(final, _RECORD, lambda folder: (record, contents))
    return final


def open_subset(directory: Path | str, *, deep: bool | None = None) -> Subset:
    """Opens what `write_subset` wrote, here or at a url; large arrays are mapped and not read.

    Args:
      deep: also check all files' hashes, by default when they are under 256 MiB together.

    Raises DataError naming the file and the mend.
    """
    directory = remote.local(directory)
    found = arrays.open_folder(directory, _RECORD, deep=deep)
    try:
        values = {name: found.arrays[name] for name in _ARRAYS}
        return Subset(**values, **{name: found.record[name] for name in ("raw_pairs", "cost", "fingerprint")})
    except KeyError as error:
        raise DataError(
            f"{directory / _RECORD} lacks {error}; delete {directory} and write it again"
        ) from error


def training_order(pairs: int, positions: int, *, seed: int, draw: int) -> np.ndarray:
    """Which pair of a subset stands at each training position. int64 [positions].

    The first epoch follows the subset's own order; each further one is a permutation of its own.
    A longer training begins with exactly the shorter one's order. Raises DataError if there are no pairs.
    """
    epochs = -(-positions // pairs) if pairs > 0 else 1
    order = [epoch_order(pairs, epoch, seed=seed, draw=draw) for epoch in range(max(1, epochs))]
    return np.concatenate(order, dtype=np.int64)[:positions]


def epoch_order(pairs: int, epoch: int, *, seed: int, draw: int) -> np.ndarray:
    """One epoch of `training_order`. uint32 [pairs]. Raises DataError if there are no pairs."""
    if pairs < 1:
        raise DataError(f"{pairs} pairs have no training order; at least 1 is needed")
    order = np.arange(pairs, dtype=np.uint32)
    return np.random.default_rng([_EPOCH, seed, draw, epoch]).permutation(order) if epoch else order
