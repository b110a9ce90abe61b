"""A step whose loss is not finite: skipped and counted, or the end of the run."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rewardscale.config import Recipe, science
from rewardscale.data import pipeline
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import reward
from rewardscale.training.checkpoint import Checkpoints
from rewardscale.training.finite import NonFiniteLoss
from rewardscale.training.optimizer import hyperparameters, learning_rates
from rewardscale.training.step import make_step
from tests import small
from tests.training import running
from tests.training.running import BATCH, STEPS, metrics, train

SKIP = dataclasses.replace(small.RECIPE, nonfinite="skip")
NARROW = dataclasses.replace(SKIP, parameters="bfloat16", moments="bfloat16")


def case(
    view: TokenisedView, steps: tuple[int, ...], recipe: Recipe = SKIP
) -> tuple[Any, pipeline.TrainingData]:
    """A run of ten steps, some of which have a pair of infinite weight."""
    run, data = running.case(view, recipe=recipe)
    weight = data.weight.copy()
    for step in steps:
        weight[step * BATCH + 3] = np.inf
    return run, dataclasses.replace(data, weight=weight)


def by_hand(run: Any, data: pipeline.TrainingData, left_out: tuple[int, ...]) -> Any:
    """The state after the steps, called one by one; those `left_out` are not."""
    recipe = run.recipe
    step = make_step(small.MODEL, reward.Options(), running.one_device(), recipe.storage, skip=True)
    source = pipeline.StepSource(
        data,
        pipeline.capacity(
            data.lengths, pairs_per_step=recipe.pairs_per_step, row_length=64, rows_per_microbatch=4
        ),
    )
    rates = learning_rates(recipe, steps=STEPS, batch=BATCH)
    state = step.init(reward.init(small.MODEL, (run.seed, run.draw)))
    for first, _, block in pipeline.blocks(source, start_step=0, steps_per_block=1):
        if first not in left_out:
            padded = np.zeros(1, np.float32)
            padded[0] = rates[first]
            state, _ = step.train(state, block, np.int32(1), padded, hyperparameters(recipe))
    return state


def saved(directory: Path, recipe: Recipe) -> Any:
    step = make_step(small.MODEL, reward.Options(), running.one_device(), recipe.storage)
    checkpoints = Checkpoints(directory / "checkpoints", kept=1, seconds=1e9)
    try:
        return checkpoints.restore(step.abstract)
    finally:
        checkpoints.close()


@pytest.mark.parametrize("recipe", [SKIP, pytest.param(NARROW, marks=pytest.mark.slow)])
def test_a_skipped_step_changes_nothing(recipe: Recipe, pairs_view: TokenisedView, tmp_path: Path) -> None:
    """Parameters, moments and Adam's count are those of a run that never took steps 0, 3 and 7."""
    run, data = case(pairs_view, (0, 3, 7), recipe)
    trained = train(run, data, tmp_path, checkpoint_seconds=0.0)
    state, expected = saved(tmp_path, recipe), by_hand(run, data, (0, 3, 7))
    assert (int(state.pop("step")), int(expected.pop("step"))) == (STEPS, STEPS - 3)
    running.assert_same(state, expected)
    assert all(np.isfinite(np.asarray(leaf, np.float32)).all() for leaf in jax.tree.leaves(state))
    assert trained.record["skipped"] == 3
    with pytest.raises(AssertionError):  # it could fail: another step left out is another state
        running.assert_same(state["params"], by_hand(run, data, (0, 3, 7, 8))["params"])


def test_they_are_counted(pairs_view: TokenisedView, tmp_path: Path) -> None:
    run, data = case(pairs_view, (3, 7))
    train(run, data, tmp_path)

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line, parse_constant=refused) for line in lines]
    assert [r["skipped"] for r in records] == [float(s in (3, 7)) for s in range(STEPS)]
    assert [r["step"] for r in records if r["loss"] is None] == [3, 7]
    norms = [r["parameter_norm"] for r in records]
    assert norms[3] == norms[2] and norms[7] == norms[6] != norms[5]


def test_without_one_it_is_the_same_run(pairs_view: TokenisedView, tmp_path: Path) -> None:
    skipping = train(*case(pairs_view, ()), tmp_path / "skip")
    stopping = train(*case(pairs_view, (), small.RECIPE), tmp_path / "stop")
    running.assert_close(skipping.params, stopping.params, rtol=1e-5, atol=1e-6)
    assert skipping.record["skipped"] == 0 and "skipped" not in stopping.record
    assert "skipped" not in metrics(tmp_path / "stop")[0]


def test_too_many_in_a_row(pairs_view: TokenisedView, tmp_path: Path) -> None:
    run, data = case(pairs_view, (2, 3, 4, 5, 8))
    message = r"4 steps in a row up to step 5 .* runtime\.most_skipped is 3: lower the learning rate"
    with pytest.raises(NonFiniteLoss, match=message):
        train(run, data, tmp_path / "three", most_skipped=3)
    assert train(run, data, tmp_path / "four", most_skipped=4).record["skipped"] == 5


def test_parameters_that_are_lost_end_a_run_that_skips(pairs_view: TokenisedView, tmp_path: Path) -> None:
    """Nothing is skipped by which finite gradients made infinite parameters."""
    recipe = dataclasses.replace(SKIP, learning_rate=3e38, schedule="constant", warmup=0.0)
    with pytest.raises(NonFiniteLoss, match="at step 0 "):
        train(*case(pairs_view, (), recipe), tmp_path)


def test_run_ids_of_old_runs_stay() -> None:
    assert "nonfinite" not in science(small.RECIPE)
    skip, stop = (small.run_config(recipe=recipe, pairs=16) for recipe in (SKIP, small.RECIPE))
    assert skip.run_id != stop.run_id
