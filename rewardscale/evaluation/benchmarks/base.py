"""What a benchmark is: items that are scored once, and a formula over their rewards.

A formula takes weights, one an item, so that one piece of code gives the score (weights of 1), its bootstrap (how often
each item's cluster was drawn, [resamples, items] at once) and the score of the items that could be scored (0 for the
others). Every formula is a ratio of weighted sums, or is put together from such.

    benchmark = registry.load("rm-bench", directory)
    rewards = ...                                  float64 [items, most responses], NaN where there is none
    benchmark.scores(rewards)["total"]             a point estimate
    benchmark.scores(rewards, weights)["total"]    [resamples]
"""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
      quality: float64 [items, most responses], what a verifier says of each response (1 right, 0 wrong), NaN where it
        says nothing and beyond an item's responses; None where there is no verifier. What best-of-N curves are drawn
        from.
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
    quality: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.items:
            raise DataError(f"benchmark {self.name!r} has no items")
        if twice := [id for id, count in Counter(item.id for item in self.items).items() if count > 1]:
            raise DataError(f"benchmark {self.name!r}: the id {twice[0]!r} is there twice")
        if self.quality is not None and self.quality.shape != (len(self.items), self.most_responses):
            raise DataError(
                f"benchmark {self.name!r}: quality {self.quality.shape} does not fit its responses"
            )
        item, better, worse = self.pairs.reshape(-1, 3).T
        counts = self.response_counts[item]
        if len(item) and not ((better < counts) & (worse < counts) & (better != worse)).all():
            raise DataError(f"benchmark {self.name!r}: a pair names a response that its item has not")

    @property
    def response_counts(self) -> np.ndarray:
        """int64 [items]: responses of each item."""
        return np.array([len(item.responses) for item in self.items], np.int64)

    @property
    def most_responses(self) -> int:
        """Responses of the item that has most: the width of `rewards`."""
        return int(self.response_counts.max())

    @property
    def whole(self) -> bool:
        """Whether nothing of the official set is missing."""
        return not self.missing and (not self.expected or len(self.items) == self.expected)

    @property
    def shown_name(self) -> str:
        """The title, with the share present where something is missing: "RM-Bench 798/1,327"."""
        if not self.expected or len(self.items) == self.expected:
            return self.title
        return f"{self.title} {len(self.items):,}/{self.expected:,}"

    def clusters(self) -> np.ndarray:
        """int64 [items]: the cluster of each item, numbered by first appearance."""
        known: dict[str, int] = {}
        return np.array([known.setdefault(item.drawn_by, len(known)) for item in self.items], np.int64)

    def scored(self, rewards: np.ndarray) -> np.ndarray:
        """bool [items]: whether each response of the item has a reward."""
        return (np.isfinite(rewards) | self._beyond(rewards)).all(axis=1)

    def _beyond(self, rewards: np.ndarray) -> np.ndarray:
        """bool [items, most responses]: places that belong to no response of the item."""
        if rewards.shape != (len(self.items), self.most_responses):
            raise ValueError(
                f"rewards {rewards.shape} of {self.name!r}: {(len(self.items), self.most_responses)} wanted"
            )
        return np.arange(rewards.shape[1]) >= self.response_counts[:, None]

    def scores(self, rewards: np.ndarray, weights: np.ndarray | None = None) -> Scores:
        """Scores float64 [resamples] by name, the headline first; items without rewards count for nothing.

        Args:
          rewards: float64 [items, most responses]; what lies beyond an item's responses is not read.
          weights: float64 [resamples, items]; None for one resample of ones.
        """
        there = self.scored(rewards)
        each = np.ones((1, len(self.items))) if weights is None else np.atleast_2d(weights)
        known = there[:, None] & ~self._beyond(rewards)
        return self.formula(np.where(known, rewards, np.nan), each * there)

    def only(self, keep: np.ndarray, why: str) -> "Benchmark":
        """The items of `keep` bool [items]; the others are missing for the reason `why`.

        The share that is left is in the name. Raises DataError where none is left.
        """
        index = np.flatnonzero(keep)
        items = tuple(self.items[at] for at in index)
        if not items:
            raise DataError(f"benchmark {self.name!r}: no item is left ({why})")
        most = max(len(item.responses) for item in items)
        place = np.full(len(self.items), -1)
        place[index] = np.arange(len(index))
        pairs = self.pairs[place[self.pairs[:, 0]] >= 0].copy()
        pairs[:, 0] = place[pairs[:, 0]]
        left = len(self.items) - len(items)
        return dataclasses.replace(
            self,
            items=items,
            expected=self.expected or len(self.items),
            formula=_Part(self.formula, index, len(self.items), self.most_responses),
            pairs=pairs,
            missing=Counter(self.missing) + Counter({why: left} if left else {}),
            quality=None if self.quality is None else self.quality[index, :most],
        )


@dataclasses.dataclass(frozen=True)
class _Part:
    """A formula of `items` items for those of `index` alone: the others weigh nothing."""

    whole: Formula
    index: np.ndarray
    items: int
    most: int

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        all_rewards = np.full((self.items, self.most), np.nan)
        all_rewards[self.index, : rewards.shape[1]] = rewards
        all_weights = np.zeros((len(weights), self.items))
        all_weights[:, self.index] = weights
        return self.whole(all_rewards, all_weights)


def ratio(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted mean [resamples] of values [items], NaN values left out; NaN where nothing is weighed.

    Args:
      weights: float64 [resamples, items].
    """
    known = np.isfinite(values)
    total = weights[:, known].sum(axis=1)
    summed = weights[:, known] @ values[known]
    return np.divide(summed, total, out=np.full(len(weights), np.nan), where=total > 0)


def ratios(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """`ratio` of each column of values [items, scores]: [resamples, scores].

    Args:
      weights: float64 [resamples, items].
    """
    known = np.isfinite(values)
    return divided(weights @ np.where(known, values, 0.0), weights @ known.astype(np.float64))


def grouped(
    sums: np.ndarray, counts: np.ndarray, group: np.ndarray, groups: int, weights: np.ndarray
) -> np.ndarray:
    """Weighted sums over weighted counts, a group: [resamples, groups]; NaN where nothing is weighed.

    Args:
      sums, counts: float64 [items]. group: int [items], below `groups`. weights: float64 [resamples, items].
    """
    member = np.zeros((len(group), groups))
    member[np.arange(len(group)), group] = 1.0
    return divided(weights @ (member * sums[:, None]), weights @ (member * counts[:, None]))


def divided(sums: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """sums / totals, NaN where a total is 0."""
    return np.divide(sums, totals, out=np.full(np.shape(sums), np.nan), where=totals > 0)


def mean_of(scores: Sequence[np.ndarray], shares: Sequence[float] | None = None) -> np.ndarray:
    """Mean [resamples] of scores, each [resamples], by their shares (1 each); a NaN and its share are left out.

    So a section without items does not count, as in the benchmarks' own scorers.
    """
    table = np.stack(list(scores), axis=1)
    known = np.isfinite(table)
    each = np.ones(table.shape[1]) if shares is None else np.asarray(shares, np.float64)
    return divided(np.where(known, table, 0.0) @ each, known.astype(np.float64) @ each)


def padded(rows: Iterable[Sequence[float] | np.ndarray]) -> np.ndarray:
    """float64 [items, longest row], NaN beyond a row's end."""
    own = list(rows)
    out = np.full((len(own), max(map(len, own))), np.nan)
    for number, row in enumerate(own):
        out[number, : len(row)] = row
    return out
