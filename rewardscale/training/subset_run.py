"""A transformer trained on a subset of a corpus and scored on any of its rows: what a sweep's cell and curation do."""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import mesh
from rewardscale.config import ModelConfig, RunConfig, Runtime
from rewardscale.data import pipeline
from rewardscale.data.subsets import Subset
from rewardscale.data.tokenised import TokenisedView, open_view
from rewardscale.evaluation import scorer
from rewardscale.training import loop
from rewardscale.training.trunk import Trunk


def train_and_score(
    run: RunConfig,
    chosen: Subset,
    rows: np.ndarray,
    view: TokenisedView,
    runtime: Runtime,
    directory: Path,
    *,
    trunk: Trunk | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_metrics: Callable[[list[dict[str, Any]]], None] | None = None,
    then: Callable[[Callable[[TokenisedView, np.ndarray], np.ndarray]], None] | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Trains `run` on `chosen`, going on from what `directory` (or the `trunk`) holds, and scores `rows`.

    `then` is given a function that scores rows of any other view of the same tokenizer with the trained model.

    Returns float32 [rows, 2] rewards of the first two responses, and the run's record. Raises as `loop.train`.
    """
    assert isinstance(run.model, ModelConfig) and run.recipe is not None
    recipe, model = run.recipe, run.model
    data = pipeline.prepare(
        view,
        chosen,
        positions=recipe.positions(run.pairs),
        batch=recipe.batch_size(run.pairs),
        seed=run.seed,
        draw=run.draw,
        max_length=recipe.max_length,
        too_long=recipe.too_long,
        row_length=runtime.row_length,
        rows_per_microbatch=runtime.rows_per_microbatch,
    )
    devices = mesh.make_mesh(runtime.mesh)
    trained = loop.train(
        run,
        data,
        runtime,
        devices,
        directory,
        trunk=trunk,
        on_metrics=on_metrics,
        on_progress=on_progress and (lambda done, steps: on_progress(done / steps)),
    )
    options = loop.forward_options(recipe.dtype, runtime)

    def score(of: TokenisedView, which: np.ndarray) -> np.ndarray:
        batches = _scoring_batches(of.directory, which.tobytes(), recipe.max_length, runtime)
        return scorer.score(model, trained.params, batches, options, devices)

    started = time.perf_counter()
    rewards = score(view, rows)
    record = trained.record | {"eval_seconds": time.perf_counter() - started, "hardware": mesh.describe()}
    if then is not None:
        then(score)
    return rewards, record


@functools.lru_cache(maxsize=8)
def _scoring_batches(view: Path, rows: bytes, max_length: int, runtime: Runtime) -> scorer.ScoringBatches:
    return scorer.prepare(
        open_view(view),
        np.frombuffer(rows, np.uint32),
        max_length=max_length,
        rows_per_microbatch=runtime.rows_per_microbatch,
        row_length=runtime.row_length,
    )
