"""Best of n in a planted world: candidates by its writers, their gold reward for quality. For models of that world.

planted-alike     responses as long as those of the world's pairs
planted-longer    responses that may be longer, and gold punishes that: a rule of which no pair says anything
"""

from typing import cast

import numpy as np

from rewardscale.config import PlantedConfig
from rewardscale.data import planted
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem
from rewardscale.evaluation.benchmarks.formulas import Lists

NAMES = ("planted-alike", "planted-longer")
PROMPTS, SAMPLES = 96, 256
MORE_WORDS, PENALTY = 8, 0.5  # of "planted-longer": past the world's longest; nats a word
_STREAM = 2**30  # of the world's samples: none of its pairs


def load(name: str, config: PlantedConfig) -> Benchmark:
    """One of NAMES for the world of `config`: 96 prompts with 256 candidates each.

    Scores: accuracy, of disjoint pairs of candidates; "best of K", mean gold reward (nats) of the best of K by the
    reward, K = 1, 2, 4, ...; "oracle of K", the same by gold itself.
    """
    longer = name == NAMES[1]
    drawn = planted.sample_candidates(
        config.world,
        PROMPTS,
        SAMPLES,
        stream=_STREAM + config.seed,
        longest=config.world.longest + MORE_WORDS if longer else 0,
        penalty=PENALTY if longer else 0.0,
    )
    items = tuple(
        BenchmarkItem(f"{name}-{number:03d}", prompt, responses, cluster=f"{number:03d}")
        for number, (prompt, responses) in enumerate(planted.texts(drawn))
    )
    pairs = _disjoint_pairs(drawn.gold)
    sizes = cast(tuple[int, ...], tuple(2**k for k in range(SAMPLES.bit_length())))
    formula = Lists(drawn.gold, pairs, ("",) * len(items), sizes)
    return Benchmark(
        name, f"{name}, best of {SAMPLES}", items, len(items), formula, "accuracy", pairs, quality=drawn.gold
    )


def _disjoint_pairs(gold: np.ndarray) -> np.ndarray:
    """int64 [pairs, 3]: (item, better, worse) of candidates 0 and 1, 2 and 3, ... of each item, but for equals."""
    item, left = np.meshgrid(np.arange(len(gold)), np.arange(0, gold.shape[1], 2), indexing="ij")
    unequal = gold[item, left] != gold[item, left + 1]
    item, left = item[unequal], left[unequal]
    first = gold[item, left] > gold[item, left + 1]
    return np.stack([item, np.where(first, left, left + 1), np.where(first, left + 1, left)], axis=1)
