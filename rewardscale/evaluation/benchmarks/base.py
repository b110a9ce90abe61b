"""What a benchmark is: items that are scored once, and a formula over their rewards.

A formula takes weights, one an item, so that one piece of code gives the score (weights of 1), its bootstrap (how often
each item's cluster was drawn, [resamples, items] at once) and the score of the items that could be scored (0 for the
others). Every formula is a ratio of weighted sums, or is put together from such.

    benchmark = load("rm-bench", directory)
    rewards = ...                                  float64 [items, most responses], NaN where there is none
    benchmark.scores(rewards)["total"]             a point estimate
    benchmark.scores(rewards, weights)["total"]    [resamples]
"""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Protocol

import numpy as np

from rewardscale.data.comparison import DataError, Message

Scores = dict[str, np.ndarray]  # headline first; float64 [resamples], NaN where nothing was weighed


@dataclasses.dataclass(frozen=True, slots=True)
class BenchmarkItem:
    """A prompt with K >= 1 responses, all of which are scored.

    Attributes:
      id: unique in the benchmark; the official one where there is one.
      subset: what the breakdown goes by.
      cluster: items of one cluster are drawn together by the bootstrap; "" means the prompt.
    """

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[str, ...]
    subset: str = ""
    cluster: str = ""

    @property
    def drawn_by(self) -> str:
        """The cluster, which is the prompt's hash where none was named."""
        if self.cluster:
            return self.cluster
        text = "\x1e".join(f"{m.role}\x1f{m.content}" for m in self.prompt)
        return hashlib.blake2b(text.encode(errors="backslashreplace"), digest_size=16).hexdigest()


class Formula(Protocol):
    """Scores of a benchmark; knows which of each item's responses is the right one."""

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        """Scores by name, the headline first.

        Args:
          rewards: float64 [items, most responses], NaN beyond an item's responses and all over an item that could not
            be scored, whose weights are 0.
          weights: float64 [resamples, items], at least 0.
        """
        ...


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark as it was read.

    Attributes:
      name: short, as `--benchmarks` has it. title: for people.
      items: what was read. expected: items of the whole official set; 0 where there is no such number.
      formula: its scores. headline: name of the score that stands for it.
      pairs: int64 [pairs, 3], (item, better response, worse response): all that the benchmark says of two; ties
        and unlabelled responses are in none. What controls, calibration and comparisons of models are computed from.
      subset_weights: of subsets in the headline, where they are not the item counts; for the report.
      missing: why records were left out, and how many: {"no 'chosen'": 2}.
      licence, url, notes: facts for the report.
      seven: whether it is one of the seven whose mean is the average of the paper.
    """

    name: str
    title: str
    items: tuple[BenchmarkItem, ...]
    expected: int
    formula: Formula
    headline: str
    pairs: np.ndarray
    subset_weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    missing: Mapping[str, int] = dataclasses.field(default_factory=dict)
    licence: str = ""
    url: str = ""
    notes: str = ""
    seven: bool = False

    def __post_init__(self) -> None:
        if not self.items:
            raise DataError(f"benchmark {self.name!r} has no items")
        ids = [item.id for item in self.items]
        if len(set(ids)) != len(ids):
            twice = next(one for one in ids if ids.count(one) > 1)
            raise DataError(f"benchmark {self.name!r}: the id {twice!r} is there twice")

    @property
    def whole(self) -> bool:
        """Whether nothing of the official set is missing."""
        return not self.expected or len(self.items) == self.expected

    @property
    def shown_name(self) -> str:
        """The title, with the share present where something is missing: "RM-Bench 798/1,327"."""
        return self.title if self.whole else f"{self.title} {len(self.items):,}/{self.expected:,}"

    def clusters(self) -> np.ndarray:
        """int64 [items]: the cluster of each item, numbered by first appearance."""
        known: dict[str, int] = {}
        return np.array([known.setdefault(item.drawn_by, len(known)) for item in self.items], np.int64)

    def scored(self, rewards: np.ndarray) -> np.ndarray:
        """bool [items]: whether each response of the item has a reward."""
        counts = np.array([len(item.responses) for item in self.items])
        return np.isfinite(rewards).sum(axis=1) >= counts

    def scores(self, rewards: np.ndarray, weights: np.ndarray | None = None) -> Scores:
        """Scores float64 [resamples] by name, the headline first; items without rewards count for nothing.

        Args:
          rewards: float64 [items, most responses]. weights: float64 [resamples, items]; None for one resample of ones.
        """
        there = self.scored(rewards)
        each = np.ones((1, len(self.items))) if weights is None else np.atleast_2d(weights)
        return self.formula(np.where(there[:, None], rewards, np.nan), each * there)


def ratio(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean [resamples] of values [items], NaN values left out; NaN where nothing is weighed.

    Args:
      weights: float64 [resamples, items].
    """
    known = np.isfinite(values)
    total = weights[:, known].sum(axis=1)
    summed = weights[:, known] @ values[known]
    return np.divide(summed, total, out=np.full(len(weights), np.nan), where=total > 0)
