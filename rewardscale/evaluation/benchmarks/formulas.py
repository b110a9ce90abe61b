"""What several benchmarks' formulas are made of: pairs that are ordered rightly, best-of-K, areas under ROC curves.

All take rewards float64 [items, most responses] and give numbers an item, whose weighted means are scores; `pooled_auc`
alone is no mean over items, and takes the weights itself.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from rewardscale.best_of_n import estimate
from rewardscale.evaluation.benchmarks.base import Scores, divided, grouped, ratio, ratios

_AT_ONCE = 1 << 18  # numbers of a resampled array that are held together


def right_pairs(rewards: np.ndarray, pairs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """float64 [items] each: an item's pairs, those whose better response has the larger reward, and ties.

    Args:
      pairs: int64 [pairs, 3], (item, better, worse).
    """
    item, better, worse = pairs.T
    difference = rewards[item, better] - rewards[item, worse]
    count = len(rewards)
    return (
        np.bincount(item, minlength=count).astype(np.float64),
        np.bincount(item, weights=difference > 0, minlength=count),
        np.bincount(item, weights=difference == 0, minlength=count),
    )


def first_beats_all(rewards: np.ndarray) -> np.ndarray:
    """float64 [items]: 1 where the first reward is larger than every other one of the item (a tie is 0)."""
    others = np.where(np.isfinite(rewards[:, 1:]), rewards[:, 1:], -np.inf).max(axis=1)
    return (rewards[:, 0] > others).astype(np.float64)


def best_of(rewards: np.ndarray, quality: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Expected quality of the response of the largest reward among K drawn ones: float64 [items, sizes].

    By `rewardscale.best_of_n.estimate` over the responses that have a reward and a quality; NaN for items of fewer than
    K of these.
    """
    known = np.isfinite(rewards) & np.isfinite(quality)
    first = np.argsort(~known, axis=1, kind="stable")  # the known ones, in their order
    reward, value = (np.take_along_axis(values, first, axis=1) for values in (rewards, quality))
    counts, wanted = known.sum(axis=1), np.asarray(sizes)
    out = np.full((len(rewards), len(sizes)), np.nan)
    for n in np.unique(counts):
        rows, columns = np.flatnonzero(counts == n), np.flatnonzero(wanted <= n)
        if len(columns):
            out[np.ix_(rows, columns)] = estimate(reward[rows, :n], value[rows, :n], wanted[columns])
    return out


def powers_of_two(counts: np.ndarray, *, share: float = 0.9) -> tuple[int, ...]:
    """1, 2, 4, ... as far as `share` of the items have so many responses. counts: int [items]."""
    sizes = [1]
    while (counts >= 2 * sizes[-1]).mean() >= share:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def pooled_auc(rewards: np.ndarray, right: np.ndarray, item: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve over all responses [resamples]; equal rewards count half.

    The chance that a right response, drawn by weight, has a larger reward than a wrong one: the weighted Mann-Whitney
    statistic, from one sort and cumulated weights a resample.

    Args:
      rewards: float64 [responses]; NaN only where the item's weights are 0. right: bool [responses].
      item: int [responses]. weights: float64 [resamples, items].
    """
    order = np.argsort(rewards[~right], kind="stable")
    wrong, of_wrong = rewards[~right][order], item[~right][order]
    of_right = item[right]
    low, high = (np.searchsorted(wrong, rewards[right], side) for side in ("left", "right"))
    out = np.full(len(weights), np.nan)
    step = max(1, _AT_ONCE // max(1, len(rewards)))
    for start in range(0, len(weights), step):
        own = weights[start : start + step]
        below = np.zeros((len(own), len(wrong) + 1))
        np.cumsum(own.take(of_wrong, axis=1), axis=1, out=below[:, 1:])
        each = own.take(of_right, axis=1)
        won = np.vecdot(each, below.take(low, axis=1)) + np.vecdot(each, below.take(high, axis=1))
        out[start : start + step] = divided(won / 2, each.sum(axis=1) * below[:, -1])
    return out


def codes(names: Sequence[str]) -> tuple[tuple[str, ...], np.ndarray]:
    """The different names, sorted, and int64 [items]: which of them each is."""
    known = tuple(sorted(set(names)))
    place = {name: number for number, name in enumerate(known)}
    return known, np.array([place[name] for name in names], np.int64)


@dataclasses.dataclass(frozen=True)
class PairAccuracy:
    """Share of pairs whose better response has the larger reward, a tie being wrong; then the same by subset.

    Attributes:
      pairs: int64 [pairs, 3]. subsets: of each item.
    """

    pairs: np.ndarray
    subsets: tuple[str, ...]

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        pairs, right, ties = right_pairs(rewards, self.pairs)
        out = {"accuracy": divided(weights @ right, weights @ pairs)}
        names, code = codes(self.subsets)
        if len(names) > 1:
            out |= dict(zip(names, grouped(right, pairs, code, len(names), weights).T, strict=True))
        return out | {"ties": divided(weights @ ties, weights @ pairs)}


@dataclasses.dataclass(frozen=True)
class Lists:
    """Scores of K responses a prompt, each right or wrong.

    accuracy: share of right-wrong pairs in the right order (a tie is wrong), of each prompt and then over prompts, so
    that a prompt counts once; then by subset. auc: the same with ties half. "best of K": expected share of right
    answers when the best of K is taken; "oracle of K": when a right one is taken wherever one was drawn.

    Attributes:
      quality: float64 [items, most responses], 1 right, 0 wrong. pairs: int64 [pairs, 3], all right-wrong pairs.
      subsets: of each item. sizes: the Ks; points of one curve are over the same items, those with the largest K.
    """

    quality: np.ndarray
    pairs: np.ndarray
    subsets: tuple[str, ...]
    sizes: tuple[int, ...]

    def __call__(self, rewards: np.ndarray, weights: np.ndarray) -> Scores:
        pairs, right, ties = right_pairs(rewards, self.pairs)
        accuracy = divided(right, pairs)
        names, code = codes(self.subsets)
        out = {"accuracy": ratio(accuracy, weights)}
        if len(names) > 1:
            has_pairs = np.isfinite(accuracy)
            by_subset = grouped(
                np.where(has_pairs, accuracy, 0.0), has_pairs.astype(float), code, len(names), weights
            )
            out |= dict(zip(names, by_subset.T, strict=True))
        out["auc"] = ratio(divided(right + ties / 2, pairs), weights)
        out |= curve(rewards, self.quality, self.sizes, weights)
        return out | {"ties": divided(weights @ ties, weights @ pairs)}


def curve(
    rewards: np.ndarray, quality: np.ndarray, sizes: Sequence[int], weights: np.ndarray, prefix: str = ""
) -> Scores:
    """Best-of-K and oracle points by name, over the items that have the largest K responses."""
    taken, oracle = (
        best_of(rewards, quality, sizes),
        best_of(np.where(np.isfinite(rewards), quality, np.nan), quality, sizes),
    )
    taken, oracle = (np.where(np.isfinite(one[:, -1:]), one, np.nan) for one in (taken, oracle))
    out = {}
    for name, table in (("best", taken), ("oracle", oracle)):
        points = ratios(table, weights).T
        out |= {f"{prefix}{name} of {size}": point for size, point in zip(sizes, points, strict=True)}
    return out
