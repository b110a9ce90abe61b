"""Several models on the same benchmarks: paired differences, McNemar, and how alike they judge; JSON values."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus, open_corpus
from rewardscale.evaluation import compare_models
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.contamination import contamination, corpus_prompts
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
) -> dict[str, pl.DataFrame]:
    """How alike each two models judge the pairs of a benchmark: benchmark -> compare_models.MATRIX."""
    out = {}
    for benchmark in benchmarks:
        if len(benchmark.pairs):
            margins = {m: pair_margins(own[benchmark.name], benchmark.pairs) for m, own in rewards.items()}
            clusters = benchmark.clusters()[benchmark.pairs[:, 0]]
            out[benchmark.name] = compare_models.agreement_matrix(margins, clusters)
    return out


def contaminated(
    benchmarks: Sequence[Benchmark], corpus: Corpus, rewards: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """A record a benchmark: its overlap with a corpus of training pairs, and each model's score on the clean items."""
    out = []
    for b, found in zip(benchmarks, contamination(benchmarks, corpus_prompts(corpus)), strict=True):
        clean = found.clean.astype(np.float64)
        scores = {m: float(b.scores(own[b.name], clean)[b.headline][0]) for m, own in rewards.items()}
        out.append(as_json(found.record() | {"clean_scores": scores}))
    return out


def training_corpus(directory: Path) -> Corpus:
    """The corpus of a folder, or of a build that holds one. Raises DataError where there is none."""
    folder = directory / "corpus" if (directory / "corpus" / "corpus.json").exists() else directory
    if not (folder / "corpus.json").exists():
        raise DataError(
            f"{directory} holds no corpus (corpus.json): name the folder that rewardscale.build wrote"
        )
    return open_corpus(folder)
