"""Compiled by libtpu on a machine without TPUs: the training step of a 100M-parameter model for 16 chips, and the
gradient of splash attention for a chip of each generation. Nothing is run."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rewardscale import mesh
from rewardscale.data import pipeline
from rewardscale.data.tokenised import TokenisedView
from rewardscale.training import aot
from tests import small
from tests.training import running

REPO = Path(__file__).parents[2]
SCRIPT = r"""
import dataclasses, json, re, sys
from rewardscale import flops
from rewardscale.config import ModelConfig
from rewardscale.models.reward import Options
from rewardscale.training import aot
model = ModelConfig(vocab_size=32_000, width=768, layers=12, heads=12, kv_heads=4, head_dim=64, mlp_width=2048)
size = aot.BlockSize(steps=2, microbatches=2, rows=16, length=512, slots=4)
done = aot.compile_step(
    model, Options(dtype="bfloat16"), "v5e:4x4", mesh_shape=(1, 16, 1), size=size, effort="O0"
)
record = dataclasses.asdict(done) | {"parameters": flops.parameters(model, embeddings=True)}
gathers = re.findall(r"= ([a-z0-9]+)\[\S* all-gather(?:-start)?\(", done.text)
record["text"] = sorted(set(gathers))
record["kernels"] = sorted(re.findall(r"%(\w+?)[.\d]* = .*custom_call_target=.tpu_custom_call", done.text))
print(json.dumps(record))
"""
SPLASH = r"""
import json, re, sys
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from rewardscale.models.splash import splash
from rewardscale.training import aot

def gradients(q, k, v, lo, hi):
    return jax.grad(lambda *x: splash(*x, lo, hi, interpret=False).astype(jnp.float32).sum(), (0, 1, 2))(q, k, v)

found = {}
for topology in ("v5e:1x1", "v5p:1x1x1", "v6e:1x1"):
    everywhere = NamedSharding(aot.topology_mesh(topology, (1, 1, 1)), PartitionSpec())
    ends = jax.ShapeDtypeStruct((1, 4096), jnp.int32, sharding=everywhere)
    for dim in map(int, sys.argv[2:]):
        q, k = (jax.ShapeDtypeStruct((1, 4096, n, dim), jnp.bfloat16, sharding=everywhere) for n in (32, 8))
        lowered = jax.jit(gradients).lower(q, k, k, ends, ends)
        text = lowered.compile(compiler_options={"xla_optimization_level": "EFFORT_" + sys.argv[1]}).as_text()
        kernels = re.findall(r"%(\w+?)[.\d]* = (.*?) custom-call.*custom_call_target=.tpu_custom_call", text)
        found[f"{topology} {dim}"] = {
            name: re.findall(r"\w+\[[\d,]*\]", results) for name, results in kernels
        }
print(json.dumps(found))
"""
KERNELS = ["splash_mha_dkv_no_residuals", "splash_mha_dq_no_residuals", "splash_mha_fwd_residuals"]
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot' or 'test')"
)


def ran(script: str, *arguments: str) -> Any:
    """What `script` prints as JSON in a process of its own, without involuntary rematerialization.

    libtpu logs as it likes, and wants to be alone on the machine unless told otherwise.
    """
    environment = {
        k: v for k, v in os.environ.items() if k != "XLA_FLAGS"
    }  # libtpu refuses flags of the CPU backend
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "PYTHONPATH": str(REPO)}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        cwd=REPO, env=environment, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Involuntary full rematerialization" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@needs_libtpu
def test_the_step_compiles_for_16_tpu_chips() -> None:
    """With what attention is there by default for rows of 512 tokens or more: splash, forward and backward."""
    record = ran(SCRIPT)
    print(
        f"v5e 4x4, {record['parameters'] / 1e6:.0f}M parameters, compiled in {record['seconds']:.0f} s: "
        f"{record['argument_bytes'] / 2**20:.0f} MiB arguments and "
        f"{record['temporary_bytes'] / 2**20:.0f} MiB temporaries a chip"
    )
    assert record["devices"] == 16 and 95e6 < record["parameters"] < 105e6
    # Parameters and two moments in float32, split over 16 chips; small shares are padded to whole tiles.
    state = 3 * 4 * record["parameters"] / 16
    assert 0.98 * state < record["argument_bytes"] < 1.3 * state
    # Activations of one row of 512 tokens, gradients, gathered layers.
    assert record["temporary_bytes"] < 0.5 * 2**30
    assert record["kernels"] == KERNELS
    assert record["text"] == [
        "bf16",
        "s32",
    ]  # float32 weights are gathered in the compute type, besides tokens


@needs_libtpu
@pytest.mark.parametrize(
    ("effort", "dims"), [("O0", (128,)), pytest.param("O2", (64, 128), marks=pytest.mark.slow)]
)
def test_splash_compiles_for_every_tpu(effort: str, dims: tuple[int, ...]) -> None:
    """32 query and 8 key heads, a row of 4,096 tokens, bfloat16; by the compiler's own effort in the slow case."""
    found = ran(SPLASH, effort, *map(str, dims))
    assert found.keys() == {f"{chip} {dim}" for chip in ("v5e:1x1", "v5p:1x1x1", "v6e:1x1") for dim in dims}
    for case, kernels in found.items():
        queries, keys = (f"bf16[{heads},4096,{case.split()[1]}]" for heads in (32, 8))
        assert kernels == {
            "splash_mha_fwd_residuals": [queries, "f32[32,4096,128]"],  # and the logarithms, one a lane
            "splash_mha_dq_no_residuals": [queries],
            "splash_mha_dkv_no_residuals": [keys, keys],
        }, case


def test_the_abstract_block_is_what_the_pipeline_makes(pairs_view: TokenisedView) -> None:
    data = small.training_data(pairs_view, small.whole_subset(pairs_view, 40), rows_per_microbatch=4)
    block = pipeline.StepSource(data, pipeline.Capacity(4, 16)).block(0, 5)
    size = aot.BlockSize(steps=5, microbatches=4, rows=4, length=64, slots=16)
    abstract = aot.abstract_block(running.one_device(), size)
    assert {n: (v.shape, v.dtype) for n, v in abstract.items()} == {
        n: (v.shape, v.dtype) for n, v in block.items()
    }
    spread = aot.abstract_block(mesh.make_mesh((2, 2, 2)), size)
    assert spread["tokens"].sharding.shard_shape((5, 4, 4, 64)) == (5, 4, 1, 64)  # pyright: ignore[reportOptionalMemberAccess]
