"""Rows: packed trees as the arrays that a reward model reads.

A tree lies in memory as [left response reversed | prompt | right response], so every token attends
to one contiguous interval [lo, hi) of its row: prompt and right token i to [p0, i], left token i to
[i, p1), where [p0, p1) is the prompt. Rotary positions are given explicitly: both responses start
where the prompt ends. Training puts the chosen response on the left, the rejected one on the right.

Not shared, the prompt stands twice: [left response reversed | prompt | prompt | right response], two
trees side by side.

For scoring a tree may have branches, two more responses each: they follow it as trees without a prompt,
[left response reversed | right response], and see its prompt beside their own interval.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from rewardscale.data.token_shards import ragged_arange

ABSENT = -1  # response number of a tree's missing left side


class TokenSource(Protocol):
    """Where tokens come from: a view's TokenStore, or a TokenTable in memory."""

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids, and int64 [len(rows)]: where among them each row's (prompt, then responses) begin."""
        ...


@dataclasses.dataclass(frozen=True)
class TokenTable:
    """Tokens in memory, a comparison a row.

    Attributes:
      lengths: int64 [rows, 1 + K], tokens of the prompt and of each response (0: absent).
      flat: int32, all tokens one after another. starts: int64 [rows], where each row's begin.
    """

    lengths: np.ndarray
    flat: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, comparisons: Sequence[Sequence[Sequence[int]]]) -> "TokenTable":
        """The table of comparisons given as [prompt tokens, tokens of the first response, ...]."""
        lengths = np.zeros((len(comparisons), max(map(len, comparisons), default=1)), np.int64)
        for row, parts in enumerate(comparisons):
            lengths[row, : len(parts)] = [len(part) for part in parts]
        flat = itertools.chain.from_iterable(itertools.chain.from_iterable(comparisons))
        ends = np.cumsum(lengths.sum(1))
        return cls(lengths, np.fromiter(flat, np.int32), ends - lengths.sum(1))

    def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """All tokens (no copy), and where those of `rows` begin."""
        return self.flat, self.starts[rows]


@dataclasses.dataclass(frozen=True)
class Trees:
    """Trees of a view, all arrays [n].

    Attributes:
      rows: corpus rows. left, right: response numbers; left may be ABSENT.
      skip: prompt tokens left out on the left (comparisons truncated to fit).
      branch: None, or which branch of a tree each is. Number 0 is the tree itself; the others have no prompt, lie
        after it in the same row, in the slots after its own, and see its prompt.
    """

    rows: np.ndarray
    left: np.ndarray
    right: np.ndarray
    skip: np.ndarray
    branch: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: slice | np.ndarray) -> "Trees":
        branch = None if self.branch is None else self.branch[index]
        return Trees(self.rows[index], self.left[index], self.right[index], self.skip[index], branch)

    def sizes(self, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokens of the left response, the prompt and the right response, int64 [n] each.

        `lengths` is the view's table [corpus rows, 1 + K].
        """
        prompt = lengths[self.rows, 0].astype(np.int64) - self.skip
        if self.branch is not None:
            prompt = np.where(self.branch > 0, 0, prompt)
        left = np.where(self.left == ABSENT, 0, lengths[self.rows, 1 + np.maximum(self.left, 0)]).astype(
            np.int64
        )
        return left, prompt, lengths[self.rows, 1 + self.right].astype(np.int64)

    def tokens(self, lengths: np.ndarray, *, shared: bool = True) -> np.ndarray:
        """Tokens of each tree as it lies in a row, int64 [n]."""
        left, prompt, right = self.sizes(lengths)
        return left + prompt + right + (0 if shared else prompt * (left > 0))


def pair_trees(rows: np.ndarray, orientation: np.ndarray, skip: np.ndarray) -> Trees:
    """One tree a pair: chosen on the left, rejected on the right."""
    chosen = (orientation < 0).astype(np.int64)
    return Trees(rows=rows.astype(np.int64), left=chosen, right=1 - chosen, skip=skip.astype(np.int64))


def response_trees(lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Comparison, left and right response of each tree, given lengths [n, 1 + K].

    Responses 0 and 1 share a tree, 2 and 3 the next, and so on; a last odd one has a tree of its own.
    """
    present = (lengths[:, 1:] > 0).sum(1)
    trees = (present + 1) // 2
    comparison = np.repeat(np.arange(len(lengths)), trees)
    within = np.arange(len(comparison)) - np.repeat(np.cumsum(trees) - trees, trees)
    single = 2 * within + 1 == present[comparison]
    left = np.where(single, ABSENT, 2 * within)
    return comparison, left, np.where(single, 2 * within, 2 * within + 1)


def fit_to(
    lengths: np.ndarray, rows: np.ndarray, *, max_length: int, too_long: str
) -> tuple[np.ndarray, np.ndarray]:
    """Which comparisons fit `max_length` (prompt plus longest response), and how.

    Returns:
      keep bool [n], skip int64 [n]: prompt tokens to leave out. With "drop" a comparison that is too long is
      not kept; with "truncate_left_of_prompt" it is kept as long as one prompt token remains.
    """
    table = lengths[rows].astype(np.int64)
    over = np.maximum(table[:, 0] + table[:, 1:].max(1) - max_length, 0)
    if too_long == "drop":
        return over == 0, np.zeros(len(rows), np.int64)
    keep = over < table[:, 0]
    return keep, np.where(keep, over, 0)


def assemble(
    store: TokenSource,
    lengths: np.ndarray,
    trees: Trees,
    row: np.ndarray,
    offset: np.ndarray,
    slot: np.ndarray,
    *,
    shape: tuple[int, int],
    slots: int,
    shared: bool = True,
) -> dict[str, np.ndarray]:
    """Builds the arrays of `shape` = (rows, row length) with up to `slots` trees a row.

    Args:
      row, offset, slot: [n] where each tree lies (a PackingPlan's entries).
      shared: whether a tree's responses share its prompt; a tree with branches must.

    Returns:
      tokens, positions, lo, hi: int32 [rows, row length]; padding attends to itself only.
      left_at, right_at: int32 [rows, slots], the tokens at which rewards are read (0 where there is none).
      segments: int32 [rows, slots, 3, 2], first token and number of tokens of left response, prompt, right response;
        not shared [rows, 2 slots, 3, 2], a tree's two halves side by side.
      prefix: int32 [rows, row length, 2], if trees may have branches: the interval that a branch's tokens see beside
        [lo, hi), 0 0 where there is none.
    """
    count, width = shape
    index = np.broadcast_to(np.arange(width, dtype=np.int32), shape)
    out = {
        "tokens": np.zeros(shape, np.int32),
        "positions": np.zeros(shape, np.int32),
        "lo": index.copy(),
        "hi": index + np.int32(1),
        "left_at": np.zeros((count, slots), np.int32),
        "right_at": np.zeros((count, slots), np.int32),
        "segments": np.zeros((count, slots if shared else 2 * slots, 3, 2), np.int32),
    }
    if trees.branch is not None:
        out["prefix"] = np.zeros((*shape, 2), np.int32)
    if not len(trees):
        return out
    left, prompt, right = trees.sizes(lengths)
    flat, begin = store.gather(trees.rows)
    table = lengths[trees.rows].astype(np.int64)
    before = np.concatenate(
        [np.zeros((len(trees), 1), np.int64), np.cumsum(table, 1)], 1
    )  # starts of the parts
    each = np.arange(len(trees))
    prompt_from = begin + trees.skip
    left_from = begin + before[each, 1 + np.maximum(trees.left, 0)]
    right_from = begin + before[each, 1 + trees.right]

    again = np.where((left > 0) & (not shared), prompt, 0)  # the prompt of a right half
    size = left + prompt + again + right
    k = ragged_arange(np.zeros(len(trees), np.int64), size)  # token number within its tree

    def spread(values: np.ndarray) -> np.ndarray:
        return np.repeat(values, size)

    p0, p1 = spread(left), spread(left + prompt)
    base = spread(left + again)  # where the prompt begins that the right response reads
    on_left, on_right = k < p0, k >= base + p1 - p0
    begins = np.where(k >= p1, base, p0)
    source = np.where(
        on_left,
        spread(left_from + left) - 1 - k,
        np.where(on_right, spread(right_from) - base - p1 + p0, spread(prompt_from) - begins) + k,
    )
    start = spread(offset.astype(np.int64))
    column = start + k
    target = spread(row.astype(np.int64)) * width + column
    out["tokens"].reshape(-1)[target] = flat[source]
    out["positions"].reshape(-1)[target] = np.where(on_left, p1 - 1 - k, k - begins)
    out["lo"].reshape(-1)[target] = np.where(on_left, column, start + begins)
    out["hi"].reshape(-1)[target] = np.where(on_left, start + p1, column + 1)
    out["left_at"][row, slot] = np.where(left > 0, offset, 0)
    out["right_at"][row, slot] = offset + size - 1
    none = np.zeros_like(left)
    halves = [(left, prompt, right)] if shared else [(left, prompt * (left > 0), none), (none, prompt, right)]
    table = np.stack([np.stack(half, 1) for half in halves], 1)  # [n, halves, 3]
    ends = np.cumsum(table.reshape(len(trees), -1), 1).reshape(table.shape)
    parts = np.stack([offset[:, None, None] + ends - table, table], -1)
    out["segments"][row[:, None], len(halves) * slot[:, None] + np.arange(len(halves))] = parts
    if trees.branch is not None:
        seen = out["segments"][row, slot - trees.branch, 1] * (trees.branch > 0)[:, None]  # prompts
        out["positions"].reshape(-1)[target] += spread(seen[:, 1])
        out["prefix"].reshape(-1, 2)[target] = np.repeat(seen.cumsum(1), size, axis=0)
    return out
