"""Levels of a corpus that two have labelled anew: a noisy source and one curator whose errors hang on nothing.

    raw              the source's label
    filtered         raw where the curator agrees
    corrected        the curator's verdict
    gold             the truth
    random_matched   the placebo: raw pairs at random, as many of each split as filtered has

The planted world takes the three labels from its ledger; a set with an answer key simulates source and curator.
What such levels are worth is known in closed form (scaling/theory_curators.py).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewardscale.curation.flips import flipped
from rewardscale.data.levels import Level

JUDGE = "simulated-independent-judge"
LEVELS = ("raw", "filtered", "corrected", "gold", "random_matched")
_RANDOM_MATCHED = 11
_SOURCE, _JUDGE = 1, 2  # streams of flips beside that of "+flip"


def levels(
    rows: np.ndarray,
    split: np.ndarray,
    *,
    raw: np.ndarray,
    curator: np.ndarray,
    gold: np.ndarray,
    seed: Sequence[int],
    who: Mapping[str, str],
    about: Mapping[str, Any] | None = None,
    cost_unit: str = "raw pairs",
) -> dict[str, Level]:
    """The levels above by name.

    Args:
      rows: uint32 [n], all corpus rows. split: [n], names. raw, curator, gold: int8 [n], +1 or -1.
      seed: of the placebo. who: what to call "source", "curator" and "gold" in the levels' rules. about: enters
        each level.
    """
    agree = raw == curator
    random = np.random.default_rng([_RANDOM_MATCHED, *seed])
    matched = np.zeros(len(rows), bool)
    for name in np.unique(split):
        members = np.flatnonzero(split == name)
        matched[random.permutation(members)[: int(agree[members].sum())]] = True

    def level(name: str, keep: np.ndarray, orientation: np.ndarray, rule: str) -> Level:
        named = {"rule": rule, **(about or {})}
        return Level(name, rows[keep], orientation[keep], cost_unit=cost_unit, about=named)

    everything = np.ones(len(rows), bool)
    made = (
        level("raw", everything, raw, f"{who['source']}'s label"),
        level("filtered", agree, raw, f"{who['source']}'s label where {who['curator']} agrees"),
        level("corrected", everything, curator, f"{who['curator']}'s verdict"),
        level("gold", everything, gold, f"{who['gold']}'s verdict"),
        level("random_matched", matched, raw, "random raw pairs, as many as filtered"),
    )
    return {x.name: x for x in made}


def simulated_levels(
    truth: Level, split: np.ndarray, *, flip_rate: float, accuracy: float, draw: int, seed: int
) -> dict[str, Level]:
    """`levels` of a simulated source, wrong in a share `flip_rate`, and a simulated judge, right in a share `accuracy`.

    Both err independently of the pair and of each other, anew in each draw: where a draw takes most of the pool, its
    noise is still its own. The numbers that decide are others than those of "+flip".

    Args:
      truth: the key, of all rows of the corpus. split: [n], the rows' splits.
    """
    raw, judge = (
        np.where(flipped(truth.rows, rate, draw=draw, seed=seed, stream=stream), -1, 1) * truth.orientation
        for rate, stream in ((flip_rate, _SOURCE), (1 - accuracy, _JUDGE))
    )
    return levels(
        truth.rows,
        split,
        raw=raw.astype(np.int8),
        curator=judge.astype(np.int8),
        gold=truth.orientation,
        seed=(seed, draw),
        who={"source": "a simulated source", "curator": "a simulated judge", "gold": "the answer key"},
        about={
            "judge": JUDGE,
            "flip_rate": flip_rate,
            "judge_accuracy": accuracy,
            "draw": draw,
            "seed": seed,
        },
        cost_unit=truth.cost_unit,
    )
