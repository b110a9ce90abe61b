"""The few shapes in which a scorer computes, and which comparisons share them.

A program is compiled for each shape (rows, row length), so their number is kept small: row lengths that halve
from the longest conversation down, and for each of them two to four numbers of rows. Trees are packed by best
fit, the longest first, into rows of the length at which a tree of that size costs the fewest operations.
"""

import dataclasses

import numpy as np

from rewardscale.data import rows as tree_rows
from rewardscale.data.packing import pack

_SHORTEST_ROW = 128
_TOKENS_A_TREE = 16  # a row has room for one tree per so many of its tokens
_STEP = 4  # numbers of rows grow by this factor


@dataclasses.dataclass(frozen=True)
class Shape:
    """Rows, tokens a row, and trees that a row has room for."""

    rows: int
    length: int

    @property
    def slots(self) -> int:
        """Trees that a row has room for."""
        return trees_in(self.length)


def trees_in(length: int) -> int:
    """Trees that a row of `length` tokens has room for."""
    return max(2, length // _TOKENS_A_TREE)


@dataclasses.dataclass(frozen=True)
class Ladder:
    """Row lengths in ascending order, and for each the numbers of rows, ascending too.

    Attributes:
      width: of the model; it weighs attention, which grows with the row's length, against the rest.
    """

    lengths: tuple[int, ...]
    rows: tuple[tuple[int, ...], ...]
    width: int

    @property
    def shapes(self) -> list[Shape]:
        """All shapes, the largest first."""
        pairs = zip(self.lengths, self.rows, strict=True)
        return [Shape(n, length) for length, counts in pairs for n in counts][::-1]

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return self.lengths[-1]

    def new_row(self, size: int, left: int) -> tuple[int, int]:
        """Tokens and trees that a row can hold that is opened for a tree of `size` when `left` trees like it are left.

        A token costs about 24 width² operations a layer, and 4 length width in attention; a row's cost is shared
        by the trees that it holds.
        """

        def cost(length: int) -> float:
            return length * (6 * self.width + length) / min(length // size, trees_in(length), left)

        best = min((n for n in self.lengths if n >= size), key=cost)
        return best, trees_in(best)

    def microbatches(self, length: int, rows: int) -> list[int]:
        """Numbers of rows, each one of the ladder's, that hold `rows` rows of `length`; few of them stay empty."""
        counts = self.rows[self.lengths.index(length)]
        out = []
        while rows > 0:
            fits = max((n for n in counts if n <= rows), default=0)
            above = min((n for n in counts if n >= rows), default=fits)
            out.append(above if 4 * rows >= 3 * above or not fits else fits)
            rows -= out[-1]
        return out


def make_ladder(max_length: int, batch_tokens: int, *, width: int, multiple: int = 1) -> Ladder:
    """The ladder for conversations of up to `max_length` tokens.

    Args:
      batch_tokens: tokens of the largest shapes (one row may have more).
      width: of the model. multiple: numbers of rows are multiples of it (data x fsdp of the mesh).
    """
    lengths = [_round_up(max_length)]
    while lengths[-1] > _SHORTEST_ROW:
        lengths.append(_round_up(max(lengths[-1] // 2, 1)))
    rows = []
    for length in lengths:
        most, counts = max(1, batch_tokens // length // multiple), [1]
        while counts[-1] < most:
            counts.append(min(counts[-1] * _STEP, most))
        rows.append(tuple(n * multiple for n in counts))
    return Ladder(tuple(lengths[::-1]), tuple(rows[::-1]), width)


@dataclasses.dataclass(frozen=True)
class Microbatch:
    """One call of a compiled program.

    Attributes:
      shape: what is computed. trees: indices of the trees in it.
      row, offset, slot: int [len(trees)], where each lies.
    """

    shape: Shape
    trees: np.ndarray
    row: np.ndarray
    offset: np.ndarray
    slot: np.ndarray


def deal(sizes: np.ndarray, ladder: Ladder) -> list[Microbatch]:
    """Packs trees of `sizes` tokens (each at most ladder.longest) into microbatches, the longest rows first."""
    row, offset, slot = (np.zeros(len(sizes), np.int64) for _ in range(3))
    held = np.asarray(pack(sizes, ladder.new_row, row, offset, slot))
    out = []
    for length in sorted(set(held.tolist()), reverse=True):
        mine = np.flatnonzero(held == length)  # rows of this length
        number = np.full(len(held), -1)
        number[mine] = np.arange(len(mine))
        first = 0
        for count in ladder.microbatches(length, len(mine)):
            within = number[row] - first
            trees = np.flatnonzero((number[row] >= 0) & (within >= 0) & (within < count))
            out.append(Microbatch(Shape(count, length), trees, within[trees], offset[trees], slot[trees]))
            first += count
    return out


def trees_that_fit(
    table: tree_rows.TokenTable, skip: np.ndarray, longest: int
) -> tuple[tree_rows.Trees, np.ndarray]:
    """All trees of the table's comparisons, and their sizes in tokens; two responses share one where it fits a row.

    `skip` int64 [comparisons] are the prompt tokens to leave out.
    """
    comparison, left, right = tree_rows.response_trees(table.lengths)
    trees = tree_rows.Trees(comparison, left, right, skip[comparison])
    split = (np.sum(trees.sizes(table.lengths), axis=0) > longest) & (left != tree_rows.ABSENT)
    again = np.flatnonzero(split)
    trees = tree_rows.Trees(
        np.concatenate([comparison, comparison[again]]),
        np.concatenate([np.where(split, tree_rows.ABSENT, left), np.full(len(again), tree_rows.ABSENT)]),
        np.concatenate([right, left[again]]),
        np.concatenate([trees.skip, trees.skip[again]]),
    )
    return trees, np.sum(trees.sizes(table.lengths), axis=0)


def _round_up(n: int) -> int:
    return -(-n // 16) * 16
