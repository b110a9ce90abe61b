"""Several models on the same benchmarks: paired differences, McNemar, and how alike they judge; JSON values."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rewardscale.evaluation import compare_models
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.outcomes import as_json
from rewardscale.evaluation.statistics import pair_margins


def compare(
    benchmarks: Sequence[Benchmark], rewards: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """A record each two models and benchmark: the headline's difference with its paired interval, and McNemar's test.

    Args:
      rewards: model -> benchmark -> float64 [items, most responses].
    """
    out = []
    for one, other in itertools.combinations(rewards, 2):
        for benchmark in benchmarks:
            a, b = rewards[one][benchmark.name], rewards[other][benchmark.name]
            both = benchmark.scored(a) & benchmark.scored(b)
            record: dict[str, Any] = {"one": one, "other": other, "benchmark": benchmark.name}
            if both.any():
                found = compare_models.score_differences(benchmark, a, b)
                record["difference"] = as_json(found[benchmark.headline])
            clusters = benchmark.clusters()[benchmark.pairs[:, 0]]
            if len(benchmark.pairs):
                record["mcnemar"] = as_json(
                    compare_models.mcnemar(
                        pair_margins(a, benchmark.pairs), pair_margins(b, benchmark.pairs), clusters
                    )
                )
            out.append(record)
    return out


def agree(
    benchmarks: Sequence[Benchmark], rewards: Mapping[str, Mapping[str, np.ndarray]]
) -> dict[str, list[dict[str, Any]]]:
    """How alike each two models judge the pairs of a benchmark: benchmark -> rows of compare_models.MATRIX."""
    out = {}
    for benchmark in benchmarks:
        if not len(benchmark.pairs):
            continue
        margins = {
            model: pair_margins(own[benchmark.name], benchmark.pairs) for model, own in rewards.items()
        }
        clusters = benchmark.clusters()[benchmark.pairs[:, 0]]
        table = compare_models.agreement_matrix(margins, clusters)
        out[benchmark.name] = as_json(table.to_dicts())
    return out
