"""Scoring trees with branches by splash's kernels, compiled for TPUs by libtpu on a machine without any."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SCRIPT = r"""
import json, re
import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from rewardscale.config import ModelConfig
from rewardscale.mesh import BATCH_AXES
from rewardscale.models import reward
from rewardscale.training import aot
model = ModelConfig(vocab_size=1000, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=512)
options = reward.Options(dtype="bfloat16", attention="splash", differentiated=False)
shapes = dict.fromkeys(("tokens", "positions", "lo", "hi"), (8, 1024)) | dict.fromkeys(("left_at", "right_at"), (8, 64))
for topology in ("v5e:2x2", "v5p:2x2x1", "v6e:2x2"):
    mesh = aot.topology_mesh(topology, (1, 2, 2))
    abstract = reward.abstract(model, "bfloat16")
    calls = []
    for more in ({}, {"prefix": (8, 1024, 2)}):
        batch = {n: jax.ShapeDtypeStruct(s, np.int32) for n, s in (shapes | more).items()}
        function = jax.jit(
            lambda params, batch: reward.rewards(model, params, batch, options, mesh),
            in_shardings=(reward.shardings(mesh, abstract), NamedSharding(mesh, P(BATCH_AXES))),
        )
        compiled = function.lower(abstract, batch).compile(compiler_options={"xla_optimization_level": "EFFORT_O0"})
        calls.append(len(re.findall(r'custom_call_target="tpu_custom_call"', compiled.as_text())))
    print(json.dumps({topology: calls}))
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot' or 'test')"
)
def test_it_compiles_for_three_generations_of_tpus() -> None:
    """In a process of its own, as tests/training/test_tpu_compile.py. A layer has one kernel call, or two."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "PYTHONPATH": str(REPO)}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=REPO, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert found == [{"v5e:2x2": [1, 2]}, {"v5p:2x2x1": [1, 2]}, {"v6e:2x2": [1, 2]}]
