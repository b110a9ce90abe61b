"""Best of n in a planted world: gold chooses best, chance is its mean, and only the longer candidates are punished."""

import numpy as np
import pytest

from rewardscale.config import PlantedConfig, WorldConfig
from rewardscale.evaluation.benchmarks import planted

SMALL = PlantedConfig(WorldConfig(words=12, shortest=4, longest=6))


@pytest.mark.parametrize("name", planted.NAMES)
def test_gold_is_the_oracle_and_chance_the_mean(name):
    benchmark = planted.load(name, SMALL)
    gold = benchmark.quality
    assert gold is not None and gold.shape == (planted.PROMPTS, planted.SAMPLES)
    assert 0.99 < len(benchmark.pairs) / (planted.PROMPTS * planted.SAMPLES / 2) <= 1
    best = {key: value[0] for key, value in benchmark.scores(gold).items()}
    assert best["accuracy"] == 1
    assert best[f"best of {planted.SAMPLES}"] == pytest.approx(gold.max(axis=1).mean())
    assert best["best of 1"] == pytest.approx(gold.mean())
    noise = benchmark.scores(np.random.default_rng(0).normal(size=gold.shape))
    assert abs(noise["accuracy"][0] - 0.5) < 0.02
    lengths = {len(r.split()) for item in benchmark.items for r in item.responses}
    longest = 6 + planted.MORE_WORDS * (name == "planted-longer")
    assert lengths == set(range(4, longest + 1))


def test_choosing_by_length_is_punished_where_length_is():
    benchmark = planted.load("planted-longer", SMALL)
    length = np.array([[len(r.split()) for r in item.responses] for item in benchmark.items], float)
    scores = benchmark.scores(length)
    assert scores["best of 256"][0] < scores["best of 1"][0] - planted.PENALTY
    assert (
        len(set(benchmark.clusters())) == planted.PROMPTS
    )  # few prompts there are: an item is a cluster of its own
