"""The training step of a 100M-parameter model, compiled for 16 TPU chips by libtpu on a machine without any."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

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
size = aot.BlockSize(steps=2, microbatches=2, rows=16, length=256, slots=4)
done = aot.compile_step(
    model, Options(dtype="bfloat16"), "v5e:4x4", mesh_shape=(1, 16, 1), size=size, effort="O0"
)
record = dataclasses.asdict(done) | {"parameters": flops.parameters(model, embeddings=True)}
gathers = re.findall(r"= ([a-z0-9]+)\[\S* all-gather(?:-start)?\(", done.text)
record["text"] = sorted(set(gathers))
print(json.dumps(record))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot' or 'test')"
)
def test_the_step_compiles_for_16_tpu_chips() -> None:
    """In a process of its own: libtpu logs as it likes, and wants to be alone on the machine unless told otherwise."""
    environment = {
        k: v for k, v in os.environ.items() if k != "XLA_FLAGS"
    }  # libtpu refuses flags of the CPU backend
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "PYTHONPATH": str(REPO)}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=REPO, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Involuntary full rematerialization" not in done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    print(
        f"v5e 4x4, {record['parameters'] / 1e6:.0f}M parameters, compiled in {record['seconds']:.0f} s: "
        f"{record['argument_bytes'] / 2**20:.0f} MiB arguments and "
        f"{record['temporary_bytes'] / 2**20:.0f} MiB temporaries a chip"
    )
    assert record["devices"] == 16 and 95e6 < record["parameters"] < 105e6
    # Parameters and two moments in float32, split over 16 chips; small shares are padded to whole tiles.
    state = 3 * 4 * record["parameters"] / 16
    assert 0.98 * state < record["argument_bytes"] < 1.3 * state
    assert (
        record["temporary_bytes"] < 1.5 * 2**30
    )  # activations of one row of 256 tokens, gradients, gathered layers
    assert record["text"] == [
        "bf16",
        "s32",
    ]  # float32 weights are gathered in the compute type, besides tokens


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
