"""What a benchmark gives to models that have learnt nothing: one that likes length, one that draws lots.

A score says little before these two stand beside it: in some benchmarks the longer response wins far more often than
half, and best-of-four or a list of losers put chance far below it. Both are computed from the texts, without a model.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from rewardscale.data.comparison import Message
from rewardscale.evaluation.benchmarks.base import Benchmark, Scores, padded


def length_control(benchmark: Benchmark) -> np.ndarray:
    """Rewards of a model that counts characters, so that the longer response wins: float64 [items, most responses]."""
    return padded([[len(response) for response in item.responses] for item in benchmark.items])


def random_control(benchmark: Benchmark, *, seed: int = 0) -> np.ndarray:
    """Rewards drawn evenly from [0, 1): float64 [items, most responses].

    A reward is a function of seed, prompt and response alone: the same text has the same one in every benchmark, in any
    order of the items, as with a model.
    """
    return padded([random_rewards(item.prompt, item.responses, seed=seed) for item in benchmark.items])


def random_rewards(prompt: Sequence[Message], responses: Sequence[str], *, seed: int = 0) -> list[float]:
    """Those of some responses to a prompt."""
    state = hashlib.blake2b(digest_size=8, key=seed.to_bytes(8, "little"))
    for message in prompt:
        state.update(f"{message.role}\x1f{message.content}\x1e".encode(errors="backslashreplace"))
    out = []
    for response in responses:
        own = state.copy()
        own.update(response.encode(errors="backslashreplace"))
        out.append((int.from_bytes(own.digest(), "little") >> 11) / 2**53)
    return out


def controls(benchmark: Benchmark, *, weights: np.ndarray | None = None, seed: int = 0) -> dict[str, Scores]:
    """Scores of the two controls by name, "longer" and "random"; `weights` as of Benchmark.scores."""
    return {
        "longer": benchmark.scores(length_control(benchmark), weights),
        "random": benchmark.scores(random_control(benchmark, seed=seed), weights),
    }
