"""A reward model's margins of every pair of a corpus, by tasks of the stage runner.

    <directory>/scoring/<name>/model/                    the trained model, as the tasks read it
                               record.json               what the trainer says of it
                               margins/00012/margins.npy float32 [pairs of the shard]

A pair's margin is the reward of its first response minus the second's, the same however the corpus is divided.
"""

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale.config import ConvexConfig, ModelConfig, Recipe, Runtime
from rewardscale.config.judges import ScoringConfig
from rewardscale.data import arrays
from rewardscale.data.corpus import open_corpus
from rewardscale.data.tokenised import open_view
from rewardscale.models import convex, presets
from rewardscale.stages import Task, run

_AT_ONCE = 4096  # pairs whose features are in memory
_MARGINS = "margins.npy"


@dataclasses.dataclass(frozen=True)
class Scorer:
    """How a task scores a shard with a saved model.

    Attributes:
      function: of this module. arguments: of it, what decides the margins. inputs: hashes of model and corpus.
    """

    function: str
    arguments: Mapping[str, Any]
    inputs: Sequence[str]


def margins(
    directory: Path,
    scorer: Scorer,
    pairs: int,
    config: ScoringConfig,
    paths: Mapping[str, Any],
    progress: Callable[[int, int], None],
) -> np.ndarray:
    """float32 [pairs]; shards that are there already are read. Raises StageError where a task fails.

    Args:
      directory: of the stage. paths: what else the function is called with, which decides no margin.
    """
    ends = np.linspace(0, pairs, min(config.shards, pairs) + 1).astype(int).tolist()
    tasks = [
        Task(
            f"{number:05d}",
            f"{__name__}:{scorer.function}",
            {"first": first, "stop": stop, **scorer.arguments},
            tuple(scorer.inputs),
            paths,
        )
        for number, (first, stop) in enumerate(itertools.pairwise(ends))
    ]
    done = run(directory, "margins", tasks, engine=config.engine, progress=progress)
    return np.concatenate([np.load(one.folder / _MARGINS) for one in done])


# --- convex ---------------------------------------------------------------------------------------------


def save_convex(folder: Path, config: ConvexConfig, weights: np.ndarray, pairs: str) -> Scorer:
    """Writes the weights float64 [columns] of hashed features into `folder`. pairs: fingerprint of the corpus."""
    np.save(folder / "weights.npy", weights)
    features = {name: getattr(config, name) for name in ("width", "ngram", "length_feature", "seed")}
    return Scorer("score_convex", {"features": features}, (arrays.short_hash(weights), pairs))


def score_convex(
    folder: Path, *, first: int, stop: int, features: Mapping[str, Any], model: str, corpus: str
) -> dict[str, Any]:
    """A task: the pairs [first, stop) of the corpus, by the weights that `save_convex` wrote."""
    config, opened = ConvexConfig(**features), open_corpus(Path(corpus))
    weights, found = np.load(Path(model) / "weights.npy"), []
    for some in itertools.batched(range(first, stop), _AT_ONCE):
        texts = [response for pair in opened.take(some) for response in pair.responses[:2]]
        rewards = (convex.featurize(texts, config) @ weights).reshape(-1, 2)
        found.append((rewards[:, 0] - rewards[:, 1]).astype(np.float32))
    np.save(folder / _MARGINS, np.concatenate(found))
    return {"pairs": stop - first}


# --- transformers ---------------------------------------------------------------------------------------


def score_transformer(
    folder: Path,
    *,
    first: int,
    stop: int,
    preset: str,
    recipe: Mapping[str, Any],
    row_length: int,
    model: str,
    view: str,
    runtime: Mapping[str, Any],
) -> dict[str, Any]:
    """A task: the pairs [first, stop) of a tokenised corpus, by a transformer on this process's devices.

    Args:
      model: its folder/parameters is what `subset_run.save_trained` wrote.
    """
    from rewardscale.training.subset_run import score_saved  # jax is imported only where it computes

    opened = open_view(Path(view))
    config = presets.get_model(preset, vocab_size=opened.vocab_size)
    assert isinstance(config, ModelConfig)
    rows = np.arange(first, stop, dtype=np.uint32)
    trained_by = Recipe(**{**recipe, "lora_targets": tuple(recipe["lora_targets"])})
    on = Runtime(**{**runtime, "mesh": tuple(runtime["mesh"])})
    rewards = score_saved(
        Path(model) / "parameters", config, trained_by, opened, rows, on, row_length=row_length
    )
    np.save(folder / _MARGINS, rewards[:, 0] - rewards[:, 1])
    return {"pairs": stop - first}
