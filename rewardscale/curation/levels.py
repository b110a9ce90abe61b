"""Levels out of decisions, and the placebos that they must beat.

    filtered          the pairs whose label stays
    corrected         filtered, and the pairs whose label is turned over
    shuffled_scores   filtered's rule on scores that were shuffled among the pairs: the keep rate, no information
    random_matched    raw pairs at random, as many as filtered
    matched           raw pairs at random, as many as filtered in each cell of source, length and reward-model margin
    selection_only    filtered's pairs with raw's noise: planted worlds alone, which can draw labels again

A gain that a placebo shares is not curation. Removal against flipping (PrefCleanBench, arXiv 2509.23564) is `filtered`
against `corrected`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewardscale.curation.rules import FLIP, KEEP
from rewardscale.data.comparison import DataError
from rewardscale.data.levels import Level

_SHUFFLED, _RANDOM, _MATCHED = 1, 2, 3  # streams of one seed
_BINS = 10


def filtered(raw: Level, decisions: np.ndarray, *, about: Mapping[str, Any] | None = None) -> Level:
    """The raw pairs that stay, with raw's labels."""
    return _chosen(raw, _same_length(raw, decisions) == KEEP, "filtered", {"rule": "keep", **(about or {})})


def corrected(raw: Level, decisions: np.ndarray, *, about: Mapping[str, Any] | None = None) -> Level:
    """Those of `filtered`, and the pairs that are turned over, with the opposite of raw's label."""
    _same_length(raw, decisions)
    made = _chosen(raw, decisions != 0, "corrected", {"rule": "keep and flip", **(about or {})})
    turned = decisions[decisions != 0] == FLIP
    orientation = np.where(turned, -made.orientation, made.orientation).astype(np.int8)
    return dataclasses.replace(made, orientation=orientation)


def shuffled_scores(
    raw: Level, decisions: np.ndarray, *, strata: Sequence[np.ndarray] = (), seed: int
) -> Level:
    """`filtered` after each pair's scores were dealt to another pair of the same strata (values [pairs]: source, say):
    their signs relative to the label go along, so exactly as many pairs stay."""
    cells = _cells(len(raw.rows), strata)
    order = np.random.default_rng([_SHUFFLED, seed]).permutation(len(cells))
    dealt = np.empty_like(_same_length(raw, decisions))
    dealt[np.argsort(cells, kind="stable")] = decisions[order[np.argsort(cells[order], kind="stable")]]
    return _chosen(raw, dealt == KEEP, "shuffled_scores", {"seed": seed})


def random_matched(raw: Level, size: int, *, seed: int) -> Level:
    """`size` raw pairs at random. Raises DataError if raw holds fewer."""
    if size > len(raw.rows):
        raise DataError(f"random_matched: {size} pairs wanted of {len(raw.rows)}")
    keep = np.zeros(len(raw.rows), bool)
    keep[np.random.default_rng([_RANDOM, seed]).permutation(len(raw.rows))[:size]] = True
    return _chosen(raw, keep, "random_matched", {"seed": seed})


def matched(
    raw: Level,
    decisions: np.ndarray,
    *,
    strata: Sequence[np.ndarray] = (),
    numbers: Sequence[np.ndarray] = (),
    bins: int = _BINS,
    seed: int,
) -> Level:
    """As many raw pairs as `filtered` has in each cell, at random, whatever their labels are worth.

    Args:
      strata: values [pairs] that must be equal (the source). numbers: values [pairs] that must fall into the same of
        `bins` quantiles (difference of lengths, size of the reward model's margin).
    """
    kept = _same_length(raw, decisions) == KEEP
    binned = [_quantiles(np.asarray(values, np.float64), bins) for values in numbers]
    cells = _cells(len(raw.rows), [*strata, *binned])
    wanted = np.bincount(cells[kept], minlength=cells.max(initial=0) + 1)
    order = np.random.default_rng([_MATCHED, seed]).permutation(len(cells))
    order = order[np.argsort(cells[order], kind="stable")]
    first = np.searchsorted(cells[order], np.arange(len(wanted)))
    keep = np.zeros(len(cells), bool)
    keep[order] = np.arange(len(cells)) - first[cells[order]] < wanted[cells[order]]
    return _chosen(raw, keep, "matched", {"seed": seed, "bins": bins})


def selection_only(raw: Level, decisions: np.ndarray, fresh: np.ndarray) -> Level:
    """The pairs of `filtered` with labels drawn again.

    Args:
      fresh: int8 [pairs], labels of raw's kind of noise that the filter has never seen; a planted world draws them.
    """
    made = _chosen(raw, _same_length(raw, decisions) == KEEP, "selection_only", {})
    return dataclasses.replace(made, orientation=_same_length(raw, fresh)[decisions == KEEP].astype(np.int8))


def snapshot(level: Level, iteration: int) -> Level:
    """`filtered@iter3`: the level as it was after an iteration of stage 1."""
    return dataclasses.replace(level, name=f"{level.name}@iter{iteration}")


def _chosen(raw: Level, keep: np.ndarray, name: str, about: Mapping[str, Any]) -> Level:
    return dataclasses.replace(
        raw,
        name=name,
        rows=raw.rows[keep],
        orientation=raw.orientation[keep],
        weight=None if raw.weight is None else raw.weight[keep],
        target=None if raw.target is None else raw.target[keep],
        about={**about, "of": raw.fingerprint},
    )


def _same_length(raw: Level, values: np.ndarray) -> np.ndarray:
    if len(values) != len(raw.rows):
        raise DataError(
            f"level {raw.name!r} has {len(raw.rows)} pairs; {len(values)} values were given for them"
        )
    return values


def _cells(count: int, strata: Sequence[np.ndarray]) -> np.ndarray:
    """int64 [pairs]: which combination of values each pair has."""
    cells = np.zeros(count, np.int64)
    for values in strata:
        _, found = np.unique(values, return_inverse=True)
        cells = np.unique(cells * (found.max(initial=0) + 1) + found, return_inverse=True)[1]
    return cells


def _quantiles(values: np.ndarray, bins: int) -> np.ndarray:
    return np.searchsorted(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]), values, side="right")
