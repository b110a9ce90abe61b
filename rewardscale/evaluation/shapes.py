"""The few shapes in which a scorer computes, and which comparisons share them.

A program is compiled for each shape (rows, row length), so their number is kept small: row lengths that halve
from the longest conversation down, and for each of them two to four numbers of rows. Responses to one prompt share
a tree as far as that saves operations. Trees are packed by best fit, the longest first, into rows of the length at
which a tree of that size costs the fewest operations.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence

import numpy as np

from rewardscale.data import rows as tree_rows
from rewardscale.data.packing import pack

_SHORTEST_ROW = 128
_TOKENS_A_SLOT = 16  # a row has one slot, for a tree or a branch, per so many of its tokens
# A branch attends once more, to its prompt: by blocks, so as if each response were longer, and at the price of so many
# keys in the row (2 CPU cores, benchmarks/score.py).
_SECOND_RUN, _BLOCK = 768, 64
_STEP = 4  # numbers of rows grow by this factor


@dataclasses.dataclass(frozen=True)
class Shape:
    """Rows, tokens a row, and the slots of a row."""

    rows: int
    length: int

    @property
    def slots(self) -> int:
        """Trees and branches that a row has room for."""
        return self.length // _TOKENS_A_SLOT


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

    def operations(self, length: int) -> int:
        """What a token of a row of `length` tokens costs, as a multiple of 4 width operations a layer.

        About 24 width² operations a layer, and 4 length width in attention.
        """
        return 6 * self.width + length

    def new_row(self, size: int, left: int) -> tuple[int, float]:
        """Tokens and trees that a row can hold that is opened for a tree of `size` when `left` trees like it are left.

        A row's cost is shared by the trees that it holds.
        """

        def cost(length: int) -> float:
            return length * self.operations(length) / min(length // size, left)

        return min((n for n in self.lengths if n >= size), key=cost), math.inf

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


def deal(sizes: np.ndarray, ladder: Ladder, branch: np.ndarray | None = None) -> list[Microbatch]:
    """Packs trees of `sizes` tokens into microbatches, the longest rows first.

    `branch` as of data/rows.py: a tree and the branches behind it, together at most ladder.longest, stay together.
    """
    branch = np.zeros(len(sizes), np.int64) if branch is None else branch
    first = np.flatnonzero(branch == 0)
    whole = np.cumsum(branch == 0) - 1  # which tree with its branches each is of
    before = np.cumsum(sizes) - sizes
    # A slot lies where its tokens begin, so no two are one where a tree takes its slots' tokens.
    needed = np.maximum(np.bincount(whole, sizes), _TOKENS_A_SLOT * np.bincount(whole)).astype(np.int64)
    row, offset, slot = (np.zeros(len(first), np.int64) for _ in range(3))
    held = np.asarray(pack(needed, ladder.new_row, row, offset, slot))
    slot = offset[whole] // _TOKENS_A_SLOT + branch
    row, offset = row[whole], offset[whole] + before - before[first][whole]
    out = []
    for length in sorted(set(held.tolist()), reverse=True):
        mine = np.flatnonzero(held == length)  # rows of this length
        number = np.full(len(held), -1)
        number[mine] = np.arange(len(mine))
        done = 0
        for count in ladder.microbatches(length, len(mine)):
            within = number[row] - done
            trees = np.flatnonzero((number[row] >= 0) & (within >= 0) & (within < count))
            out.append(Microbatch(Shape(count, length), trees, within[trees], offset[trees], slot[trees]))
            done += count
    return out


def trees_that_fit(
    prompts: Sequence[int],
    responses: Sequence[Sequence[int]],
    skip: np.ndarray,
    ladder: Ladder,
    responses_per_tree: int = 0,
) -> tuple[tree_rows.Trees, np.ndarray]:
    """All trees of comparisons, each with its branches behind it, and their sizes in tokens.

    Args:
      prompts, responses: tokens of each comparison's prompt as it is computed, and of its responses.
      skip: int64 [comparisons], as of data/rows.py.
      responses_per_tree: most responses of one tree, its branches' with them; 0 for any number. With one or two there
        are no branches.
    """
    found: list[tuple[int, ...]] = []
    for comparison, (prompt, sizes) in enumerate(zip(prompts, responses, strict=True)):
        for held in _shared_out(prompt, sizes, ladder, responses_per_tree):
            for branch, pair in enumerate(itertools.batched(held, 2)):
                left, right = pair if len(pair) == 2 else (tree_rows.ABSENT, pair[0])
                size = (0 if branch else prompt) + sum(sizes[k] for k in pair)
                found.append((comparison, left, right, branch, size))
    rows, left, right, branch, size = np.array(found, np.int64).reshape(-1, 5).T
    branches = None if 0 < responses_per_tree <= 2 else branch
    return tree_rows.Trees(rows, left, right, skip[rows], branches), size


def _shared_out(prompt: int, sizes: Sequence[int], ladder: Ladder, most: int) -> list[list[int]]:
    """Which of the responses of `sizes` tokens share a tree, at most `most`: as where all cost the fewest operations.

    A short tree computes the prompt again, a long one is seen by longer rows, and a branch attends twice.
    """
    if len(sizes) == 1:
        return [[0]]
    most = most or len(sizes)
    best: tuple[float, list[list[int]]] = (math.inf, [])
    for length in ladder.lengths:
        if prompt + max(sizes) > length:
            continue
        for limit in {min(most, 2), most}:  # without branches, and with them
            held = _first_fit(sizes, length - prompt, min(limit, 2 * (length // _TOKENS_A_SLOT)))
            second = sum(sizes[k] + _BLOCK for tree in held for k in tree[2:])
            cost = (len(held) * prompt + sum(sizes)) * ladder.operations(length) + second * _SECOND_RUN
            best = min(best, (cost, held), key=lambda found: found[0])
    return best[1]


def _first_fit(sizes: Sequence[int], room: int, most: int) -> list[list[int]]:
    """Trees of at most `most` of the responses, each with `room` for them: first fit, the longest first."""
    held: list[list[int]] = []
    free: list[int] = []
    for k in sorted(range(len(sizes)), key=lambda k: -sizes[k]):
        fits = (t for t, left in enumerate(free) if sizes[k] <= left and len(held[t]) < most)
        tree = next(fits, len(held))
        if tree == len(held):
            held.append([])
            free.append(room)
        held[tree].append(k)
        free[tree] -= sizes[k]
    return held


def _round_up(n: int) -> int:
    return -(-n // 16) * 16
