"""A transformer trained on a subset of a corpus and scored on any of its rows: what a sweep's cell and curation do."""

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from rewardscale import mesh
from rewardscale.config import ModelConfig, Recipe, RunConfig, Runtime
from rewardscale.data import pipeline
from rewardscale.data.subsets import Subset
from rewardscale.data.tokenised import TokenisedView, open_view
from rewardscale.evaluation import scorer
from rewardscale.models import reward
from rewardscale.training import checkpoint, compilation, loop
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
    options = loop.forward_options(recipe.dtype, runtime)
    with contextlib.ExitStack() as closing:  # the last checkpoint is written while the model is scored
        trained, devices = _trained(
            run, chosen, view, runtime, directory, trunk, on_progress, on_metrics, closing
        )

        def score(of: TokenisedView, which: np.ndarray) -> np.ndarray:
            length = runtime.row_length
            if length and of is not view:  # which it was chosen for
                length = max(length, scorer.row_length(of, which, recipe.max_length))
            batches = _scoring_batches(of.directory, which.tobytes(), recipe.max_length, runtime, length)
            return scorer.score(model, trained.params, batches, options, devices)

        record: dict[str, Any] = trained.record | {"hardware": mesh.describe()}
        started, compiling = time.perf_counter(), compilation.seconds()
        rewards = score(view, rows)
        scored = time.perf_counter()
        record |= {
            "eval_seconds": scored - started,
            "eval_compile_seconds": compilation.seconds() - compiling,
        }
        closing.close()
        record["checkpoint_seconds"] += time.perf_counter() - scored
        if then is not None:
            then(score)
    return rewards, record


def _trained(
    run: RunConfig,
    chosen: Subset,
    view: TokenisedView,
    runtime: Runtime,
    directory: Path,
    trunk: Trunk | None = None,
    on_progress: Callable[[float], None] | None = None,
    on_metrics: Callable[[list[dict[str, Any]]], None] | None = None,
    closing: contextlib.ExitStack | None = None,
) -> tuple[loop.Trained, Mesh]:
    assert run.recipe is not None
    recipe = run.recipe
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
        shared=runtime.share_prompts,
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
        closing=closing,
    )
    return trained, devices


def save_trained(
    run: RunConfig, chosen: Subset, view: TokenisedView, runtime: Runtime, directory: Path, to: Path
) -> None:
    """Writes the final parameters of a training in `directory` to the new folder `to`, for `score_saved`."""
    trained, _ = _trained(run, chosen, view, runtime, directory)
    checkpoint.save_state(to, trained.params)


def score_saved(
    saved: Path,
    model: ModelConfig,
    recipe: Recipe,
    view: TokenisedView,
    rows: np.ndarray,
    runtime: Runtime,
    *,
    row_length: int,
) -> np.ndarray:
    """Rewards float32 [rows, K] by a model of `save_trained`, trained by `recipe`; the same as its training's scores.

    Args:
      rows: uint32 [n]. row_length: of packed rows (`scorer.row_length`), over which rounding differs.
    """
    devices = mesh.make_mesh(runtime.mesh)
    params = _load(saved, model, recipe, devices)
    batches = _packed(view, rows, recipe.max_length, runtime, row_length)  # a shard is scored once: not kept
    return scorer.score(model, params, batches, loop.forward_options(recipe.dtype, runtime), devices)


@functools.lru_cache(maxsize=1)  # the tasks of a stage, one after another in a worker
def _load(saved: Path, model: ModelConfig, recipe: Recipe, devices: Mesh) -> reward.Params:
    abstract = reward.abstract(model, recipe.storage.parameters)
    target = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        abstract,
        reward.shardings(devices, abstract),
    )
    return checkpoint.load_state(saved, target)


@functools.lru_cache(maxsize=8)  # a sweep's models score the same rows
def _scoring_batches(
    view: Path, rows: bytes, max_length: int, runtime: Runtime, row_length: int
) -> scorer.ScoringBatches:
    return _packed(open_view(view), np.frombuffer(rows, np.uint32), max_length, runtime, row_length)


def _packed(
    view: TokenisedView, rows: np.ndarray, max_length: int, runtime: Runtime, row_length: int
) -> scorer.ScoringBatches:
    return scorer.prepare(
        view,
        rows,
        max_length=max_length,
        rows_per_microbatch=runtime.rows_per_microbatch,
        row_length=row_length,
    )
