"""The compiled step: against plain optax on one response a row, over microbatch splits, and traced once."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardscale.config import Recipe, Storage
from rewardscale.data import pipeline
from rewardscale.data import rows as tree_rows
from rewardscale.data.tokenised import TokenisedView, token_store
from rewardscale.models import reward
from rewardscale.training import optimizer
from rewardscale.training.loss import bradley_terry
from rewardscale.training.step import Step, block_shardings, make_step
from tests import small
from tests.training import running

RECIPE = dataclasses.replace(small.RECIPE, center=0.05, weight_decay=0.2, clip_norm=0.7)
SIZES = pipeline.Capacity(4, 16)  # what loop.train finds for this view: one executable for the whole folder
BLOCK = 5


@pytest.fixture(scope="module")
def step() -> Step:
    return make_step(small.MODEL, reward.Options(), running.one_device())


def run(
    step: Step,
    state: Any,
    block: dict[str, np.ndarray],
    count: int,
    recipe: Recipe = RECIPE,
    rate: float = 1e-2,
) -> tuple[Any, dict[str, np.ndarray]]:
    mesh = running.one_device()
    rates = np.full(BLOCK, rate, np.float32)
    placed = jax.device_put(block, block_shardings(mesh, block))
    state, metrics = step.train(state, placed, np.int32(count), rates, optimizer.hyperparameters(recipe))
    return jax.device_get(state), jax.device_get(metrics)


def fresh(step: Step, seed: int = 0) -> Any:
    return step.init(reward.init(small.MODEL, (seed,)))


def test_capacity_is_what_the_loop_uses(pairs_view: TokenisedView) -> None:
    found = pipeline.capacity(pairs_view.lengths, pairs_per_step=16, row_length=64, rows_per_microbatch=4)
    assert found == SIZES


@functools.partial(jax.jit, static_argnums=0)
def reference_gradient(config: Any, params: Any, batch: Any, pairs: Any, center: Any) -> Any:
    """Loss and gradient of a step: chosen and rejected in rows of their own, the mean over its pairs."""

    def mean_loss(params: Any) -> jax.Array:
        _, rewards = reward.rewards(config, params, batch, reward.Options(scan=False, prune=False))
        chosen, rejected = jnp.split(rewards, 2)
        return bradley_terry(chosen, rejected, batch, center=center)[0] / pairs

    return jax.value_and_grad(mean_loss)(params)


def reference_batch(view: TokenisedView, data: pipeline.TrainingData, step: int) -> dict[str, np.ndarray]:
    """The step's pairs, 2 x 16 rows: chosen responses, then rejected ones."""
    here = slice(int(data.plan.starts[step]), int(data.plan.starts[step + 1]))
    trees, count = data.trees[here], int(np.diff(data.plan.starts)[step])
    alone = tree_rows.Trees(
        np.tile(trees.rows, 2), np.full(2 * count, tree_rows.ABSENT),
        np.concatenate([trees.left, trees.right]), np.tile(trees.skip, 2),
    )  # fmt: skip
    row = np.concatenate([np.arange(count), 16 + np.arange(count)])
    zero = np.zeros(2 * count, np.int64)
    store = token_store(view.directory)
    batch = tree_rows.assemble(store, view.lengths, alone, row, zero, zero, shape=(32, 64), slots=1)
    for name, values in (("weight", data.weight), ("target", data.target)):
        batch[name] = np.zeros((16, 1), np.float32)
        batch[name][:count, 0] = values[here]
    return batch | {"valid": (np.arange(16) < count)[:, None]}


def test_steps_equal_optax_on_one_response_a_row(step: Step, pairs_view: TokenisedView) -> None:
    data = small.training_data(pairs_view, small.whole_subset(pairs_view, 40), rows_per_microbatch=4)
    assert np.diff(data.plan.starts).tolist() == [16, 16, 8]  # the last step is short
    state, metrics = run(step, fresh(step), pipeline.StepSource(data, SIZES).block(0, BLOCK), 3)
    params = reward.init(small.MODEL, (0,))
    transform = optax.chain(
        optax.clip_by_global_norm(0.7),
        optax.adamw(1e-2, b1=0.9, b2=0.99, eps=1e-8, weight_decay=0.2, mask=optimizer.decay_mask),
    )
    opt_state = transform.init(params)
    for s, pairs in enumerate((16, 16, 8)):
        batch = reference_batch(pairs_view, data, s)
        value, gradients = reference_gradient(small.MODEL, params, batch, np.float32(pairs), np.float32(0.05))
        np.testing.assert_allclose(metrics["loss"][s], value, rtol=1e-5)
        np.testing.assert_allclose(metrics["gradient_norm"][s], optax.global_norm(gradients), rtol=1e-4)
        updates, opt_state = transform.update(gradients, opt_state, params)
        params = optax.apply_updates(params, updates)
    running.assert_close(state["params"], params, rtol=1e-3, atol=2e-5)
    assert int(state["step"]) == 3
    assert (metrics["loss"][3:] == 0).all()  # steps that were not asked for did not run
    np.testing.assert_allclose(metrics["parameter_norm"][2], optax.global_norm(params), rtol=1e-5)


def spread(block: dict[str, np.ndarray], microbatches: int) -> dict[str, np.ndarray]:
    """The block's first step with its (at most four) rows dealt over 1, 2 or 4 microbatches."""
    out = {name: values.copy() for name, values in block.items()}
    for name in block:
        if name in ("microbatches", "pairs"):
            continue
        rows = block[name][0, 0]  # [4, ...]
        out[name][0] = block[name][1, 3]  # inert rows
        for index, row in enumerate(rows):
            out[name][0, index % microbatches, index // microbatches] = row
    out["microbatches"][0] = microbatches
    return out


def test_the_same_pairs_in_1_2_or_4_microbatches_give_the_same_step(
    step: Step, pairs_view: TokenisedView
) -> None:
    data = small.training_data(pairs_view, small.whole_subset(pairs_view, 9), rows_per_microbatch=4)
    block = pipeline.StepSource(data, SIZES).block(0, BLOCK)
    assert block["microbatches"].tolist() == [1, 0, 0, 0, 0] and block["valid"][0, 0].any(1).sum() >= 3
    results = [run(step, fresh(step), spread(block, n), 1) for n in (1, 2, 4)]
    for state, metrics in results[1:]:
        for name, values in results[0][1].items():
            np.testing.assert_allclose(metrics[name], values, rtol=1e-5, atol=1e-6, err_msg=name)
        # Adam's first step is a sign for each weight: a gradient that is all rounding may turn it
        moments = [s["opt_state"][1].mu for s in (state, results[0][0])]
        running.assert_close(*moments, rtol=1e-4, atol=1e-7)


def test_metrics_are_those_of_the_exact_number_of_pairs(step: Step, pairs_view: TokenisedView) -> None:
    data = small.training_data(pairs_view, small.whole_subset(pairs_view, 21), rows_per_microbatch=4)
    block = pipeline.StepSource(data, SIZES).block(0, BLOCK)
    before = fresh(step)
    params = jax.device_get(before["params"])
    _, metrics = run(step, before, block, 1)
    micro = {
        name: values[0].reshape(-1, *values.shape[3:]) for name, values in block.items() if values.ndim > 2
    }
    left, right = jax.jit(reward.rewards, static_argnums=(0, 3))(small.MODEL, params, micro, reward.Options())
    c, r = (np.asarray(x)[micro["valid"]].astype(np.float64) for x in (left, right))
    w, t = micro["weight"][micro["valid"]], micro["target"][micro["valid"]]
    assert len(c) == 16
    nll = t * np.logaddexp(0, r - c) + (1 - t) * np.logaddexp(0, c - r)
    expected = {
        "loss": (w * (nll + 0.05 * (c + r) ** 2)).mean(),
        "accuracy": (c > r).mean(),
        "ties": 0,
        "margin": (c - r).mean(),
        "reward_mean": np.concatenate([c, r]).mean(),
        "reward_min": min(c.min(), r.min()),
        "reward_max": max(c.max(), r.max()),
        "learning_rate": 1e-2,
    }
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name][0], value, rtol=1e-4, atol=1e-6, err_msg=name)


def test_one_trace_serves_every_run_of_a_shape(step: Step, pairs_view: TokenisedView) -> None:
    data = small.training_data(pairs_view, small.whole_subset(pairs_view, 40), rows_per_microbatch=4)
    block = pipeline.StepSource(data, SIZES).block(0, BLOCK)
    before = step.train._cache_size()  # other tests use the same functions with other shapes
    _, first = run(step, fresh(step), block, 3)
    traces = step.train._cache_size()
    assert traces - before <= 1
    other = small.training_data(pairs_view, small.whole_subset(pairs_view, 23, seed=5), rows_per_microbatch=4)
    variants = [
        (fresh(step, 1), block, 3, RECIPE, 1e-2),
        (fresh(step), block, 3, RECIPE, 3e-3),
        (
            fresh(step),
            block,
            2,
            dataclasses.replace(RECIPE, weight_decay=0.0, clip_norm=9.0, center=0.0, b2=0.9),
            1e-2,
        ),
        (fresh(step), pipeline.StepSource(other, SIZES).block(0, BLOCK), 2, RECIPE, 1e-2),
    ]
    for variant in variants:
        _, metrics = run(step, *variant)
        assert metrics["loss"][1] != first["loss"][1]
    assert step.train._cache_size() == traces
    again = make_step(small.varied(small.MODEL), reward.Options(), running.one_device())
    assert again is step  # an equal config finds the same executable


@pytest.mark.parametrize(
    "storage",
    [Storage(), pytest.param(Storage("bfloat16", "bfloat16"), marks=pytest.mark.slow)],
    ids=["float32", "bfloat16"],
)
def test_the_whole_state_is_donated(storage: Storage, pairs_view: TokenisedView) -> None:
    """Parameters, both moments, and the float32 master where there is one."""
    data = small.training_data(pairs_view, small.whole_subset(pairs_view, 16), rows_per_microbatch=4)
    step = make_step(small.MODEL, reward.Options(), running.one_device(), storage)
    state = fresh(step)
    run(step, state, pipeline.StepSource(data, SIZES).block(0, BLOCK), 1)
    assert ("master" in state) == (storage.parameters == "bfloat16")
    assert len(jax.tree.leaves(state["opt_state"])) >= 2 * len(jax.tree.leaves(state["params"]))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        assert leaf.is_deleted(), path
