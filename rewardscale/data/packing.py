"""Packing plans: which comparisons share a row, computed ahead from lengths alone.

A tree is a prompt and one or two responses. Step s trains on exactly the positions
[s * batch, (s + 1) * batch) of the training order; packing never crosses a step, so the plan of a
longer run begins with the plan of a shorter one. Within a step, trees go to rows by best fit
decreasing; a step takes as many microbatches of one fixed shape as its rows need.
"""

import bisect
import dataclasses
import hashlib
from collections.abc import Callable

import numpy as np

from rewardscale.data import arrays
from rewardscale.data.comparison import DataError

# (name, largest value, length) -> the array that a plan's column is written to
Allocate = Callable[[str, int, int], np.ndarray]


@dataclasses.dataclass(frozen=True)
class PackingPlan:
    """Where each training position lies.

    Attributes:
      row_length: tokens a row. rows_per_microbatch: rows a microbatch.
      starts: int64 [steps + 1], first position of each step.
      row, offset, slot: int32 [positions] (a stored plan: the smallest unsigned type that holds them): the row
        within its step, the first token within the row, the number among the row's trees.
      microbatches: int32 [steps]. trees_per_row: most trees in one row.
      tokens: total tokens of all trees.
    """

    row_length: int
    rows_per_microbatch: int
    starts: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    slot: np.ndarray
    microbatches: np.ndarray
    trees_per_row: int
    tokens: int

    @property
    def steps(self) -> int:
        """Number of steps."""
        return len(self.microbatches)

    @property
    def efficiency(self) -> float:
        """Share of the computed tokens that belong to a tree; inert rows count as computed."""
        computed = int(self.microbatches.sum()) * self.rows_per_microbatch * self.row_length
        return self.tokens / computed if computed else 0.0

    @property
    def fingerprint(self) -> str:
        """Hash (32 hex digits) of the plan."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(f"{self.row_length},{self.rows_per_microbatch}".encode())
        arrays.update(digest, self.starts, np.int64)
        for values in (self.row, self.offset, self.slot):
            arrays.update(digest, values, np.int32)
        return digest.hexdigest()


def make_plan(
    lengths: np.ndarray,
    *,
    batch: int,
    row_length: int,
    rows_per_microbatch: int,
    allocate: Allocate | None = None,
) -> PackingPlan:
    """Plans the rows of all steps.

    Args:
      lengths: [positions] tokens of each tree, in training order.
      batch: trees a step; the last step may have fewer.
      row_length, rows_per_microbatch: the shape of a microbatch.
      allocate: gives the arrays that take `row`, `offset` and `slot`; by default they lie in memory.

    Raises DataError if a tree is longer than a row.
    """
    positions = len(lengths)
    if positions and int(lengths.max()) > row_length:
        raise DataError(
            f"a comparison of {int(lengths.max())} tokens does not fit a row of {row_length}; raise runtime.row_length "
            "or lower recipe.max_length"
        )
    starts = np.append(np.arange(0, positions, batch), positions).astype(np.int64)
    allocate = allocate or (lambda name, largest, count: np.zeros(count, np.int32))
    columns = [
        allocate(name, most, positions)
        for name, most in (("row", batch), ("offset", row_length), ("slot", batch))
    ]
    rows, trees_per_row = np.zeros(len(starts) - 1, np.int64), 1
    for steps in arrays.pieces(len(rows), max(1, arrays.PIECE // batch)):
        some = starts[steps.start : steps.stop + 1]
        here = slice(some[0], some[-1])
        *found, rows[steps] = _best_fit_decreasing(np.asarray(lengths[here]), some - some[0], row_length)
        for column, values in zip(columns, found, strict=True):
            column[here] = values
        trees_per_row = max(trees_per_row, int(found[2].max()) + 1)
    return PackingPlan(
        row_length=row_length,
        rows_per_microbatch=rows_per_microbatch,
        starts=starts,
        row=columns[0],
        offset=columns[1],
        slot=columns[2],
        microbatches=(-(-rows // rows_per_microbatch)).astype(np.int32),
        trees_per_row=trees_per_row,
        tokens=int(lengths.sum(dtype=np.int64)),
    )


def _best_fit_decreasing(
    lengths: np.ndarray, starts: np.ndarray, row_length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """`pack` for rows of one length, for the steps that begin at `starts` [steps + 1], all sorted at once.

    Returns row, offset and slot of each tree, and the rows of each step.
    """
    step = np.repeat(np.arange(len(starts) - 1), np.diff(starts))
    order = np.argsort(step * (row_length + 1) + (row_length - lengths), kind="stable")
    decreasing = lengths[order].tolist()
    rows, lefts, slots, count = (
        [],
        [],
        [],
        [],
    )  # of each tree, in that order: its row, free tokens before it, slot
    for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
        unit = b - a  # free rows are numbers, free tokens * unit + row: they sort by both
        smallest = decreasing[b - 1]
        free: list[int] = []  # of rows that can still take a tree, sorted
        used: list[int] = []  # trees in each row
        for size in decreasing[a:b]:
            best = bisect.bisect_left(free, size * unit)
            if best < len(free):
                left, row = divmod(free.pop(best), unit)
                slots.append(used[row])
                used[row] += 1
            else:
                left, row = row_length, len(used)
                slots.append(0)
                used.append(1)
            rows.append(row)
            lefts.append(left)
            if left - size >= smallest:
                bisect.insort(free, (left - size) * unit + row)
        count.append(len(used))
    out = np.empty((3, len(order)), np.int32)
    out[:, order] = rows, lefts, slots
    return out[0], row_length - out[1], out[2], count


def pack(
    lengths: np.ndarray,
    new_row: Callable[[int, int], tuple[int, float]],
    row: np.ndarray,
    offset: np.ndarray,
    slot: np.ndarray,
) -> list[int]:
    """Best fit decreasing into rows; fills row, offset, slot in place and returns the tokens that each row can hold.

    `new_row` (size of the tree, trees still to place) says how many tokens and how many trees a row opened for a
    tree of this size can hold.
    """
    free: list[
        tuple[int, int]
    ] = []  # (free tokens, row), sorted; rows that hold all the trees they can are left out
    used: list[int] = []  # trees in each row
    holds: list[tuple[int, float]] = []
    sizes = lengths.tolist()
    for place, tree in enumerate(sorted(range(len(sizes)), key=lambda i: (-sizes[i], i))):
        size = sizes[tree]
        best = bisect.bisect_left(free, (size, -1))
        if best < len(free):
            left, target = free.pop(best)
        else:
            target = len(used)
            holds.append(new_row(size, len(sizes) - place))
            left = holds[target][0]
            used.append(0)
        row[tree], offset[tree], slot[tree] = target, holds[target][0] - left, used[target]
        used[target] += 1
        if used[target] < holds[target][1]:
            bisect.insort(free, (left - size, target))
    return [tokens for tokens, _ in holds]


def choose_row_length(lengths: np.ndarray) -> int:
    """A row length for trees of these lengths: the longest one, rounded up to a multiple of 4."""
    return -(-int(lengths.max(initial=4)) // 4) * 4
