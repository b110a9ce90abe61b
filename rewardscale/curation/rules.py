"""Stage 2's rules (Skywork-Reward-V2, arXiv 2507.01352, section 3.3): who is asked, what stays, what is turned over.

All arrays have an entry a pair of the raw level. `label` is its orientation, +1 where the first response is the chosen
one. The others are signs of the same kind: what the best reward model, the gold reward model and the judges prefer, 0
where they prefer neither (a judge that was not asked, a tie, a margin of exactly nothing).
"""

import dataclasses

import numpy as np
from scipy.special import logit

KEEP, FLIP, DROP = 1, -1, 0


@dataclasses.dataclass(frozen=True)
class Opinions:
    """int8 [pairs] each: label +1 or -1; best, gold, judges +1, -1 or 0."""

    label: np.ndarray
    best: np.ndarray
    gold: np.ndarray
    judges: np.ndarray


def signs(margins: np.ndarray, above: float = 0.5) -> np.ndarray:
    """int8 [pairs]: what a reward model prefers, 0 where it gives neither response a probability above `above`.

    Args:
      margins: reward of the first response minus the second's. above: in [0.5, 1).
    """
    return np.where(np.abs(margins) > logit(above), np.sign(margins), 0).astype(np.int8)


def asked(label: np.ndarray, best: np.ndarray, gold: np.ndarray | None = None) -> np.ndarray:
    """bool [pairs]: whose label judges are asked about.

    Those that the best reward model doubts (p <= 0.5 with the original label) and, where `gold` is given (recycling is
    on), those that it keeps and the gold reward model vetoes: without judges these could never be turned over.
    """
    doubted = best != label
    return doubted if gold is None else doubted | (gold == -label)


def decide(opinions: Opinions, *, judges: bool = True) -> np.ndarray:
    """int8 [pairs]: KEEP, FLIP or DROP.

    A label stays iff the gold reward model agrees with it and (the judges or the best reward model) do. A label that
    does not stay is turned over iff the opposite one would have stayed.

    Args:
      judges: whether their verdicts count; without them both reward models must agree.
    """
    kept = _consistent(opinions.label, opinions, judges)
    flipped = _consistent(-opinions.label, opinions, judges) & ~kept
    return np.select([kept, flipped], [KEEP, FLIP], DROP).astype(np.int8)


def _consistent(label: np.ndarray, opinions: Opinions, judges: bool) -> np.ndarray:
    seconded = opinions.best == label
    if judges:
        seconded = seconded | (opinions.judges == label)
    return (opinions.gold == label) & seconded
