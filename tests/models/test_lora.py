"""Adapters: a model with them is the model with merged kernels, and a fresh one is the model it started from."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale import flops, mesh
from rewardscale.config import KERNELS, Lora, ModelConfig
from rewardscale.models import lora, reward
from tests import small
from tests.models import sequences

PLAIN = {
    "llama": small.MODEL,
    "qwen3": small.varied(small.MODEL, qk_norm=True, kv_heads=1, layers=3, head_dim=6),
}
TARGETS = {"all": KERNELS, "two": ("q", "down")}
TEXTS = [[3, 7, 9, 30, 4], [5, 5, 5], [40, 8, 12, 3, 3, 3, 21]]


def adapted(model: ModelConfig, targets: tuple[str, ...] = KERNELS, rank: int = 3) -> ModelConfig:
    return small.varied(model, lora=Lora(rank, 6.0, targets))


def random_params(model: ModelConfig) -> reward.Params:
    """Parameters whose adapters do something."""
    random = np.random.default_rng(1)

    def one(path: Any, leaf: np.ndarray) -> np.ndarray:
        spread = random.normal(size=leaf.shape).astype(np.float32)
        return 0.2 * spread if path[-1].key.endswith("_b") else leaf

    return jax.tree_util.tree_map_with_path(one, reward.init(model, (4,)))


def merged_by_numpy(model: ModelConfig, params: Any) -> Any:
    """W + scale A B by NumPy's own product in float64."""
    assert model.lora is not None
    if not isinstance(params, dict):
        return params
    out = {
        name: merged_by_numpy(model, value) for name, value in params.items() if name[-2:] not in ("_a", "_b")
    }
    for name in out:
        if f"{name}_a" in params:
            a, b = (params[f"{name}_{factor}"].astype(np.float64) for factor in "ab")
            product = np.stack([np.tensordot(x, y, 1) for x, y in zip(a, b, strict=True)])
            out[name] = (params[name] + model.lora.scale * product).astype(np.float32)
    return out


@pytest.mark.parametrize("targets", TARGETS)
@pytest.mark.parametrize("family", PLAIN)
def test_adapters_are_their_merged_kernels(family: str, targets: str) -> None:
    model = adapted(PLAIN[family], TARGETS[targets])
    params = random_params(model)
    merged = lora.merge(model, params)
    assert jax.tree.map(np.shape, merged) == jax.tree.map(lambda x: x.shape, reward.abstract(PLAIN[family]))
    expected = merged_by_numpy(model, params)
    jax.tree.map(
        lambda ours, theirs: np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6), merged, expected
    )
    ours = sequences.rewards(model, params, TEXTS)
    np.testing.assert_allclose(ours, sequences.rewards(PLAIN[family], expected, TEXTS), rtol=1e-4, atol=1e-5)
    without = sequences.rewards(PLAIN[family], reward.init(PLAIN[family], (4,)), TEXTS)
    assert np.abs(ours - without).min() > 0.01  # they do something


def test_fresh_adapters_change_nothing() -> None:
    model, params = adapted(small.MODEL), reward.init(small.MODEL, (7,))
    added = lora.add(model, params, (7,))
    np.testing.assert_array_equal(
        sequences.rewards(model, added, TEXTS), sequences.rewards(small.MODEL, params, TEXTS)
    )
    drawn = reward.init(model, (7,))  # the same tree at once: the plain part is that of the plain model
    jax.tree.map(np.testing.assert_array_equal, drawn, added)
    attention = added["blocks"]["attention"]
    assert attention["o_a"].shape == (2, 4, 4, 3) and attention["o_b"].shape == (2, 3, 16)
    assert not attention["o_b"].any() and np.abs(attention["q_a"].std() * 4 - 1) < 0.2  # N(0, 1 / inputs)


def test_merging_rounds_to_the_kernels_type_and_keeps_the_rest() -> None:
    model = adapted(small.MODEL)
    params = reward.stored(random_params(model), "bfloat16")
    assert (
        params["blocks"]["mlp"]["up_a"].dtype
        == params["head"].dtype
        == params["norm"]["scale"].dtype
        == "float32"
    )
    merged = lora.merge(model, params)
    wide = merged_by_numpy(model, jax.tree.map(lambda x: np.asarray(x, np.float32), params))
    for name in ("up", "down"):
        kernel = merged["blocks"]["mlp"][name]
        assert kernel.dtype == jnp.bfloat16
        np.testing.assert_allclose(np.asarray(kernel, np.float32), wide["blocks"]["mlp"][name], rtol=2**-8)
    assert merged["embedding"] is params["embedding"] and merged["head"] is params["head"]


def test_merging_on_a_mesh_keeps_shardings_and_gives_memory_back() -> None:
    model = adapted(small.MODEL)
    devices = mesh.make_mesh((2, 2, 2))
    params = random_params(model)
    placed = jax.device_put(params, reward.shardings(devices, params))
    expected = jax.tree.map(np.asarray, lora.merge(model, params))
    merged = lora.merge(model, placed, donate=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6), merged, expected)
    for (path, leaf), sharding in zip(
        jax.tree_util.tree_leaves_with_path(merged),
        jax.tree.leaves(reward.shardings(devices, merged)),
        strict=True,
    ):
        assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim), path
    assert placed["blocks"]["mlp"]["up"].is_deleted() and not placed["head"].is_deleted()


def test_adapters_and_head_alone_are_trained() -> None:
    for model in (adapted(PLAIN["qwen3"]), adapted(PLAIN["llama"], ("k", "o"), rank=2)):
        params = reward.init(model, (0,))
        trained, frozen = lora.split(model, params)
        jax.tree.map(np.testing.assert_array_equal, lora.join(trained, frozen), params)
        size = sum(leaf.size for leaf in jax.tree.leaves(trained))
        assert size == flops.adapter_parameters(model) + model.width
        assert model.lora is not None and "head" in trained and "head" not in frozen
        names = {path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(trained)} - {"head"}
        assert names == {f"{name}_{factor}" for name in model.lora.targets for factor in "ab"}
    trained, frozen = lora.split(small.MODEL, reward.init(small.MODEL, (0,)))
    assert not frozen and trained.keys() == {"embedding", "blocks", "norm", "head"}
