"""Eight devices give one device's numbers to float32 rounding, and bad meshes are named."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale import mesh
from rewardscale.config import ConfigError, ModelConfig, Recipe, RopeScaling
from rewardscale.data import pipeline
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import lora, reward
from rewardscale.training import aot, loop, optimizer
from rewardscale.training.checkpoint import Interrupted
from rewardscale.training.step import block_shardings, make_step
from tests import small
from tests.training.running import assert_close, case, metrics, one_device, stop_at, train

MESHES = [(8, 1, 1), (2, 2, 2), (1, 4, 2)]
WARNING = "Involuntary full rematerialization"


@contextmanager
def compiler_output() -> Iterator[list[str]]:
    """Collects what XLA writes to this process's standard error while it compiles anew."""
    out: list[str] = []
    cached = jax.config.jax_enable_compilation_cache
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        _use_cache(False)
        try:
            yield out
        finally:
            _use_cache(cached)
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            out.append(file.read().decode(errors="replace"))


def _use_cache(on: bool) -> None:
    jax.config.update("jax_enable_compilation_cache", on)
    compilation_cache.reset_cache()  # whether there is one is otherwise asked once a process


@pytest.fixture(scope="module")
def reference(
    pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, loop.Trained]:
    """Ten steps on one device."""
    directory = tmp_path_factory.mktemp("one")
    return directory, train(*case(pairs_view, rows=8), directory)


def assert_agrees(directory: Path, trained: loop.Trained, reference: tuple[Path, loop.Trained]) -> None:
    for ours, theirs in zip(metrics(directory), metrics(reference[0]), strict=True):
        for name in ("loss", "margin", "gradient_norm", "parameter_norm", "reward_max"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=2e-5, err_msg=name)
    # Adam turns the rounding of a gradient near zero into a visible part of one step.
    assert_close(trained.params, reference[1].params, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", MESHES)
def test_meshes_agree_with_one_device(
    shape: tuple[int, int, int],
    reference: tuple[Path, loop.Trained],
    pairs_view: TokenisedView,
    tmp_path: Path,
) -> None:
    with compiler_output() as output:
        trained = train(*case(pairs_view, rows=8), tmp_path, device_mesh=mesh.make_mesh(shape))
    assert WARNING not in output[0]
    assert_agrees(tmp_path, trained, reference)
    q = trained.params["blocks"]["attention"]["q"]
    assert q.addressable_shards[0].data.size * shape[1] * shape[2] == q.size  # truly split
    info = (tmp_path / "model-info.txt").read_text()
    assert re.search(r"\['q'\]  \(2, 16, 4, 4\)  float32  .*'fsdp', 'tensor'", info)
    assert re.search(r"\['embedding'\]  \(48, 16\)  float32  .*'tensor'", info)


# Heads over "tensor": all kinds divide it; one key head for all devices; key heads that it does not divide.
FAMILIES = {
    "llama": small.varied(small.MODEL, rope_scaling=RopeScaling(original=16), heads=8, kv_heads=4, layers=3),
    "qwen3": small.varied(small.MODEL, qk_norm=True, kv_heads=1, layers=3),
    "three key heads": small.varied(small.MODEL, heads=6, kv_heads=3, head_dim=6, qk_norm=True),
}
NARROW = Recipe(parameters="bfloat16", moments="bfloat16", gradients="bfloat16")
LORA = Recipe(lora_rank=3)


def one_step(view: TokenisedView, model: ModelConfig, recipe: Recipe, devices: Mesh) -> tuple[Any, Any]:
    """The state after one step of three microbatches, and its metrics. Adapters start with B that is not 0."""
    model, random = recipe.adapt(model), np.random.default_rng(0)
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x + random.normal(size=x.shape).astype("f") * 0.1 * path[-1].key.endswith("_b"),
        reward.init(model, (0,)),
    )
    step = make_step(model, reward.Options(remat="dots"), devices, recipe.storage)
    data = small.training_data(view, small.whole_subset(view, 48), batch=48, rows_per_microbatch=8)
    block = pipeline.StepSource(data, pipeline.Capacity(4, 16)).block(0, 1)
    assert block["microbatches"][0] > 1
    placed = jax.device_put(block, block_shardings(devices, block))
    rates, hyper = np.full(1, 1e-2, np.float32), optimizer.hyperparameters(recipe)
    return step.train(step.init(params), placed, np.int32(1), rates, hyper)


@pytest.mark.parametrize(
    ("family", "shape", "recipe"),
    [
        ("llama", (1, 2, 4), Recipe()),
        pytest.param("llama", (2, 2, 2), NARROW, marks=pytest.mark.slow),
        ("qwen3", (2, 2, 2), Recipe()),
        ("qwen3", (1, 2, 4), LORA),
        pytest.param("qwen3", (1, 8, 1), NARROW, marks=pytest.mark.slow),
        pytest.param("llama", (2, 2, 2), LORA, marks=pytest.mark.slow),
        pytest.param("three key heads", (1, 4, 2), Recipe(), marks=pytest.mark.slow),
        pytest.param("three key heads", (2, 2, 2), LORA, marks=pytest.mark.slow),
    ],
    ids=lambda value: (
        f"{value.parameters} rank {value.lora_rank}" if isinstance(value, Recipe) else str(value)
    ),
)
def test_gradients_agree_whatever_the_mesh(
    family: str, shape: tuple[int, int, int], recipe: Recipe, pairs_view: TokenisedView
) -> None:
    """Adam's first moment after one step is a tenth of the clipped gradient."""
    with compiler_output() as output:
        ours, measured = one_step(pairs_view, FAMILIES[family], recipe, mesh.make_mesh(shape))
    assert WARNING not in output[0]
    theirs, expected = one_step(pairs_view, FAMILIES[family], recipe, one_device())
    # Parts of a bfloat16 gradient are rounded before they are added over devices and microbatches.
    rounding = 2e-5 if recipe.parameters == "float32" else 2**-6
    for name in ("loss", "margin", "reward_max", "reward_min"):
        np.testing.assert_allclose(measured[name], expected[name], rtol=2e-5, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(measured["gradient_norm"], expected["gradient_norm"], rtol=rounding)
    moments = ours["opt_state"][1].mu
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(moments), jax.tree.leaves(theirs["opt_state"][1].mu), strict=True
    ):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(b).max() > 0, path
        np.testing.assert_allclose(a, b, rtol=0, atol=rounding * np.abs(b).max(), err_msg=str(path))
    assert jax.tree.map(lambda x: x.sharding, moments) == jax.tree.map(
        lambda x: x.sharding,
        lora.split(recipe.adapt(FAMILIES[family]), ours.get("master", ours["params"]))[0],
    )


@pytest.mark.parametrize(
    "scan", [pytest.param(True, id="scan"), pytest.param(False, id="loop", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize(("family", "shape"), [("llama", (1, 4, 2)), ("qwen3", (1, 8, 1))])
def test_nothing_is_gathered_whole(family: str, shape: tuple[int, int, int], scan: bool) -> None:
    """The compiled step: no warning, and nowhere an array of the whole kernels of all layers, or the whole table."""
    model = small.varied(FAMILIES[family], vocab_size=336, width=40, mlp_width=56)
    devices = mesh.make_mesh(shape)
    step = make_step(model, reward.Options(scan=scan, remat="full"), devices, NARROW.storage)
    size = aot.BlockSize(steps=2, microbatches=2, rows=8, length=48, slots=4)
    scalars = {n: jax.ShapeDtypeStruct((), v.dtype) for n, v in optimizer.hyperparameters(NARROW).items()}
    count, rates = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((2,), np.float32)
    with compiler_output() as output:
        lowered = step.train.lower(step.abstract, aot.abstract_block(devices, size), count, rates, scalars)
        text = lowered.compile().as_text()
    assert WARNING not in output[0]
    width, mlp, rows = 40 // shape[1], 56 // shape[2], 336 // shape[2]
    assert f"[3,{width},{mlp}]" in text and f"[{rows},{width}]" in text  # a device's share
    for whole in (f"[3,40,{mlp}]", f"[3,{mlp},40]", f"[{rows},40]"):
        assert whole not in text, whole


def test_restore_on_another_mesh(
    reference: tuple[Path, loop.Trained], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    run, data = case(pairs_view, rows=8)
    with pytest.raises(Interrupted):
        train(run, data, tmp_path, device_mesh=mesh.make_mesh((8, 1, 1)), on_progress=stop_at(5))
    trained = train(run, data, tmp_path, device_mesh=mesh.make_mesh((2, 2, 2)))
    assert trained.record["resumed_at"] == 5
    assert trained.params["head"].sharding.mesh.shape == {"data": 2, "fsdp": 2, "tensor": 2}
    assert_agrees(tmp_path, trained, reference)


def test_the_compilers_warning_would_be_seen() -> None:
    """A layout that XLA can only mend by gathering everything: its warning reaches `compiler_output`."""
    devices = mesh.make_mesh((2, 2, 2))

    def spec(*axes: object) -> NamedSharding:
        return NamedSharding(devices, P(*axes))

    def reshard(x: jax.Array) -> jax.Array:
        x = jax.lax.with_sharding_constraint(x * 2, spec(("data", "fsdp", "tensor"), None, None))
        return jax.lax.with_sharding_constraint(x, spec(None, ("tensor", "data"), "fsdp")) + 1

    with compiler_output() as output:
        jax.jit(reshard, in_shardings=spec(("data", "fsdp", "tensor"))).lower(
            jax.ShapeDtypeStruct((8, 8, 8), jnp.float32)
        ).compile()
    assert WARNING in output[0]


def test_rows_that_the_mesh_does_not_divide(pairs_view: TokenisedView, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"rows_per_microbatch=4 must be a multiple of data x fsdp = 8; try 8"
    ):
        train(*case(pairs_view, rows=4), tmp_path, device_mesh=mesh.make_mesh((4, 2, 1)))
    assert not (tmp_path / "checkpoints").exists()
