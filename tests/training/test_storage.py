"""bfloat16 parameters, moments and sums, and adapters: what the state holds, and that a run is resumed exactly."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale import flops
from rewardscale.config import ConfigError, Recipe, Storage
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import lora, reward
from rewardscale.training.checkpoint import Checkpoints, Interrupted
from rewardscale.training.step import fresh_state, make_step
from tests import small
from tests.training import running
from tests.training.running import case, metrics, stop_at, train

NARROW = dataclasses.replace(small.RECIPE, parameters="bfloat16", moments="bfloat16")
LORA = dataclasses.replace(NARROW, lora_rank=3, learning_rate=3e-2)


def saved_state(directory: Path, recipe: Recipe) -> Any:
    """The newest checkpoint of a run by `recipe`."""
    model = recipe.adapt(small.MODEL)
    step = make_step(model, reward.Options(), running.one_device(), recipe.storage)
    checkpoints = Checkpoints(directory / "checkpoints", kept=1, seconds=1e9)
    try:
        return checkpoints.restore(step.abstract)
    finally:
        checkpoints.close()


@pytest.fixture(scope="module")
def runs(pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Ten steps by three recipes: (directory, trained)."""
    out = {}
    for name, recipe in (("wide", small.RECIPE), ("narrow", NARROW), ("lora", LORA)):
        directory = tmp_path_factory.mktemp(name)
        out[name] = directory, train(*case(pairs_view, recipe=recipe), directory)
    return out


def kinds(tree: Any) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)}


def test_bfloat16_parameters_are_their_float32_master_rounded(runs: Any) -> None:
    directory, trained = runs["narrow"]
    state = saved_state(directory, NARROW)
    assert kinds(state["master"]) == {"float32"}
    rounded = reward.stored(state["master"], "bfloat16")
    running.assert_same(state["params"], rounded)
    running.assert_same(trained.params, rounded)
    for path, leaf in jax.tree_util.tree_leaves_with_path(trained.params):
        assert leaf.dtype == ("float32" if path[-1].key in ("scale", "head") else "bfloat16"), path
    adam = state["opt_state"][1]
    assert kinds((adam.mu, adam.nu)) == {"bfloat16"}
    exact = np.asarray(state["master"]["blocks"]["mlp"]["up"])
    assert (exact != np.asarray(rounded["blocks"]["mlp"]["up"], np.float32)).mean() > 0.9


def test_bfloat16_trains_like_float32(runs: Any) -> None:
    ours, theirs = (np.array([r["loss"] for r in metrics(runs[name][0])]) for name in ("narrow", "wide"))
    assert (ours != theirs).all()
    np.testing.assert_allclose(ours, theirs, rtol=0.03)


def test_steps_too_small_for_bfloat16_add_up_in_the_master(pairs_view: TokenisedView, tmp_path: Path) -> None:
    recipe = dataclasses.replace(
        NARROW, learning_rate=1e-6, weight_decay=0.0, schedule="constant", warmup=0.0
    )
    train(*case(pairs_view, recipe=recipe), tmp_path)
    state, start = saved_state(tmp_path, recipe), reward.init(small.MODEL, (0, 0))

    def moved(after: Any, before: Any) -> float:
        """The share of elements that changed."""
        a, b = (np.asarray(tree["blocks"]["mlp"]["down"], np.float32) for tree in (after, before))
        assert np.abs(a - b).max() < 2e-2 * np.abs(b).max()
        return float((a != b).mean())

    assert moved(state["master"], start) > 0.99
    assert moved(state["params"], reward.stored(start, "bfloat16")) < 0.1


def test_adapters_alone_have_moments_and_the_base_stays(runs: Any) -> None:
    directory, trained = runs["lora"]
    state, model = saved_state(directory, LORA), LORA.adapt(small.MODEL)
    assert "master" not in state
    _, frozen = lora.split(model, state["params"])
    _, start = lora.split(model, reward.stored(reward.init(model, (0, 0)), "bfloat16"))
    running.assert_same(frozen, start)
    adam = state["opt_state"][1]
    adapters, _ = lora.split(model, state["params"])
    assert jax.tree.structure(adam.mu) == jax.tree.structure(adam.nu) == jax.tree.structure(adapters)
    assert kinds(adapters) == {"float32"}
    losses = [r["loss"] for r in metrics(directory)]
    assert losses[-1] < losses[0] and losses[0] == pytest.approx(
        metrics(runs["narrow"][0])[0]["loss"], rel=1e-3
    )
    merged = lora.merge(model, state["params"])
    running.assert_same(trained.params, merged)
    assert jax.tree.structure(trained.params) == jax.tree.structure(reward.abstract(small.MODEL))
    assert (directory / "model-info.txt").read_text().count("_a']") == 7


@pytest.mark.parametrize("name", ["narrow", "lora"])
def test_ten_steps_are_five_and_five(name: str, runs: Any, pairs_view: TokenisedView, tmp_path: Path) -> None:
    recipe = {"narrow": NARROW, "lora": LORA}[name]
    run, data = case(pairs_view, recipe=recipe)
    with pytest.raises(Interrupted):
        train(run, data, tmp_path, on_progress=stop_at(4))
    trained = train(run, data, tmp_path)
    assert trained.record["resumed_at"] == 5
    whole, expected = runs[name]
    assert metrics(tmp_path) == metrics(whole)
    running.assert_same(trained.params, expected.params)
    running.assert_same(saved_state(tmp_path, recipe), saved_state(whole, recipe))


def test_given_parameters_are_where_a_run_starts(pairs_view: TokenisedView, tmp_path: Path) -> None:
    run, data = case(pairs_view, recipe=LORA)
    given = reward.stored(reward.init(small.MODEL, (99,)), "bfloat16")
    with pytest.raises(Interrupted):
        train(run, data, tmp_path, initial=lambda: given, on_progress=stop_at(4))
    state = saved_state(tmp_path, LORA)
    running.assert_same(state["params"]["embedding"], given["embedding"])

    def never() -> reward.Params:
        raise AssertionError("a run that has a checkpoint loads nothing")

    resumed = train(run, data, tmp_path, initial=never)
    whole = train(run, data, tmp_path / "whole", initial=given)
    running.assert_same(resumed.params, whole.params)
    running.assert_same(given["embedding"], whole.params["embedding"])  # frozen, and not donated away


def test_parameters_of_another_model_are_named(pairs_view: TokenisedView, tmp_path: Path) -> None:
    other = reward.init(small.varied(small.MODEL, qk_norm=True), (0,))
    wide = reward.init(small.varied(small.MODEL, mlp_width=32), (0,))
    for given, message in (
        (other, r"k_norm/scale has shape \(2, 4\), the model needs none"),
        (wide, "mlp/down"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(*case(pairs_view), tmp_path, initial=given)
    assert not list((tmp_path / "checkpoints").iterdir())


@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize(
    "storage", [Storage(), Storage("bfloat16"), Storage("bfloat16", "bfloat16", "bfloat16")], ids=str
)
def test_bytes_of_the_state_are_those_of_its_arrays(storage: Storage, rank: int) -> None:
    for plain in (small.MODEL, small.varied(small.MODEL, qk_norm=True, kv_heads=1, layers=3)):
        model = Recipe(lora_rank=rank).adapt(plain) if rank else plain
        state = jax.eval_shape(lambda p, m=model: fresh_state(m, storage, p), reward.abstract(model))
        adam = state["opt_state"][1]
        arrays = {
            "parameters": state["params"],
            "master": state.get("master", {}),
            "moments": (adam.mu, adam.nu),
        }
        counted = flops.state_bytes(model, storage)
        for name, tree in arrays.items():
            assert counted[name] == sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)), name
        trained, _ = lora.split(model, state["params"])
        size = jnp.dtype(storage.gradients).itemsize
        assert counted["gradients"] == size * sum(x.size for x in jax.tree.leaves(trained))
