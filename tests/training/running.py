"""Runs of a small model that several tests of training share: one shape, so one executable a mesh."""

import contextlib
import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rewardscale import mesh
from rewardscale.config import Recipe, RunConfig, Runtime
from rewardscale.data import pipeline
from rewardscale.data.tokenised import TokenisedView
from rewardscale.training import loop
from tests import small

STEPS, BATCH = 10, 16
WALL_CLOCK = (
    "pairs_per_second", "tokens_per_second", "mfu", "effective_mfu", "data_seconds", "device_seconds",
    "checkpoint_seconds",
)  # fmt: skip
RUNTIME = Runtime(
    mesh=(1, 1, 1), row_length=64, rows_per_microbatch=4, steps_per_dispatch=5, checkpoint_seconds=1e9
)


def one_device() -> Mesh:
    return mesh.make_mesh((1, 1, 1), jax.devices()[:1])


def case(
    view: TokenisedView,
    *,
    recipe: Recipe = small.RECIPE,
    pairs: int = STEPS * BATCH,
    rows: int = 4,
    draw: int = 0,
) -> tuple[RunConfig, pipeline.TrainingData]:
    """A run of ten steps (for 160 pairs) and its data."""
    data = small.training_data(
        view, small.whole_subset(view, pairs), batch=BATCH, rows_per_microbatch=rows, draw=draw
    )
    return small.run_config(small.MODEL, recipe, pairs=pairs, draw=draw), data


def train(
    run: RunConfig,
    data: pipeline.TrainingData,
    directory: Path,
    *,
    device_mesh: Mesh | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    initial: Any = None,
    closing: contextlib.ExitStack | None = None,
    **runtime: Any,
) -> loop.Trained:
    """loop.train with RUNTIME, changed by `runtime`."""
    return loop.train(
        run,
        data,
        dataclasses.replace(RUNTIME, rows_per_microbatch=data.plan.rows_per_microbatch, **runtime),
        device_mesh or one_device(),
        directory,
        on_progress=on_progress,
        initial=initial,
        closing=closing,
    )


def stop_at(step: int) -> Callable[[int, int], None]:
    """A progress callback that sends this process SIGTERM once `step` steps are done."""

    def progress(done: int, steps: int) -> None:
        del steps
        if done >= step:
            os.kill(os.getpid(), signal.SIGTERM)

    return progress


def metrics(directory: Path) -> list[dict[str, Any]]:
    """The records of metrics.jsonl without what the clock decides."""
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in WALL_CLOCK} for line in lines]


def assert_same(a: Any, b: Any) -> None:
    """Two trees of arrays are equal bit for bit."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), err_msg=jax.tree_util.keystr(path))


def assert_close(a: Any, b: Any, *, rtol: float, atol: float) -> None:
    """Two trees of arrays are equal up to rounding."""
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(a), jax.tree.leaves(b), strict=True):
        name = jax.tree_util.keystr(path)
        np.testing.assert_allclose(np.asarray(x), np.asarray(y), rtol=rtol, atol=atol, err_msg=name)


def spread_over_eight() -> NamedSharding:
    """A matrix split both ways over eight devices."""
    return NamedSharding(mesh.make_mesh((4, 2, 1), jax.devices()[:8]), PartitionSpec("data", "fsdp"))
