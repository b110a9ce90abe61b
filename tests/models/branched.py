"""Rows of trees with branches, and the same responses each alone."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from rewardscale.data import rows as tree_rows
from rewardscale.data.rows import ABSENT, TokenTable, Trees

Tree = tuple[int, Sequence[int]]  # tokens of the prompt and of each response


@dataclasses.dataclass(frozen=True)
class Branched:
    """Arrays of data/rows.py, and what lies in them.

    Attributes:
      parts: of each tree its prompt and its responses, as token ids.
      tree, response: int [responses], which each is. row, slot, side: where its reward is read, side 0 on the left.
    """

    batch: dict[str, np.ndarray]
    parts: list[list[list[int]]]
    tree: np.ndarray
    response: np.ndarray
    row: np.ndarray
    slot: np.ndarray
    side: np.ndarray

    def sequences(self) -> list[np.ndarray]:
        """Prompt and response of each, as one conversation."""
        return [
            np.array(self.parts[t][0] + self.parts[t][1 + k])
            for t, k in zip(self.tree, self.response, strict=True)
        ]

    def read(self, rewards: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        """Each response's reward, of those [rows, slots] on the left and right."""
        return np.stack([np.asarray(side) for side in rewards])[self.side, self.row, self.slot]

    def where(self, response: int) -> tuple[int, np.ndarray]:
        """Row of a response and the places of its tokens."""
        row, slot = self.row[response], self.slot[response]
        first, size = self.batch["segments"][row, slot, 2 * self.side[response]]
        return int(row), np.arange(first, first + size)


def trees(most_prompt: int, most_response: int, most: int) -> st.SearchStrategy[list[list[Tree]]]:
    """Two rows of trees of up to `most` responses, those with none and of empty prompts among them."""
    sizes = st.lists(st.integers(1, most_response), min_size=1, max_size=most)
    return st.lists(
        st.lists(st.tuples(st.integers(0, most_prompt), sizes), max_size=6), min_size=2, max_size=2
    )


def assembled(
    rows: Sequence[Sequence[Tree]], length: int, slots: int, seed: int, vocabulary: int = 43
) -> Branched:
    """The rows, those trees left out that do not fit; ids are random, 1 and more."""
    random = np.random.default_rng(seed)
    parts: list[list[list[int]]] = []
    entries: list[tuple[int, ...]] = []  # tree, left, right, branch, row, offset, slot
    for number, held in enumerate(rows):
        at = slot = 0
        for prompt, responses in held:
            branches = -(-len(responses) // 2)
            if at + prompt + sum(responses) > length or slot + branches > slots:
                continue
            for branch in range(branches):
                pair = range(2 * branch, min(2 * branch + 2, len(responses)))
                left = pair[0] if len(pair) == 2 else ABSENT
                entries.append((len(parts), left, pair[-1], branch, number, at, slot + branch))
                at += (prompt if branch == 0 else 0) + sum(responses[k] for k in pair)
            parts.append([random.integers(1, vocabulary, n).tolist() for n in (prompt, *responses)])
            slot += branches
    tree, left, right, branch, row, offset, slot = np.array(entries, np.int64).reshape(-1, 7).T
    table = TokenTable.of(parts)
    batch = tree_rows.assemble(
        table, table.lengths, Trees(tree, left, right, 0 * tree, branch), row, offset, slot,
        shape=(len(rows), length), slots=slots,
    )  # fmt: skip
    two = left != ABSENT
    each = [np.concatenate([x[two], x]) for x in (tree, row, slot)]
    side = np.repeat([0, 1], [two.sum(), len(tree)])
    return Branched(batch, parts, each[0], np.concatenate([left[two], right]), each[1], each[2], side)
