"""A block of the index searched by eight TPU chips, compiled by libtpu on a machine without any."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.reference import REPO

SCRIPT = r"""
import json, re
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rewardscale.curation.retrieval import nearest
from rewardscale.training.aot import topology_mesh

queries, rows, width, k = 256, 16_384, 384, 16
mesh = topology_mesh("v5e:2x4", (8, 1, 1))
whole, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(mesh.axis_names))
def array(shape, dtype, where):
    return jax.ShapeDtypeStruct(shape, dtype, sharding=where)
arguments = (
    array((queries, width), np.float32, whole), array((queries,), np.int32, whole),
    array((rows, width), np.float32, split), array((rows,), np.int32, split),
    array((queries, k), np.float32, whole), array((queries, k), np.int32, whole), np.int32(0), np.int32(rows),
)
for approximate in (False, True):
    lowered = nearest._block.lower(*arguments, k=k, mesh=mesh, approximate=approximate)
    text = lowered.compile(compiler_options={"xla_optimization_level": "EFFORT_O0"}).as_text()
    sent = re.findall(r"= \w+\[([\d,]*)\]\S* all-(?:gather|reduce|to-all)\(", text)
    print(json.dumps({
        "calls": sorted(set(re.findall(r'custom_call_target="(\w+)"', text))),
        "sent": [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in sent],
        "most": 8 * queries * k,
    }))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot' or 'test')"
)
@pytest.mark.slow
def test_chips_search_their_own_rows_exactly_or_by_the_tpus_own_search() -> None:
    """Between chips goes the best of each, never rows of the index or all products."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # libtpu refuses the CPU's flags
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "PYTHONPATH": str(REPO)}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=REPO, env=environment, capture_output=True, text=True, timeout=900
    )
    assert done.returncode == 0, done.stderr[-4000:]
    exact, approximate = (json.loads(line) for line in done.stdout.splitlines()[-2:])
    assert "TopK" in exact["calls"] and "PartialReduce" not in exact["calls"]
    assert "PartialReduce" in approximate["calls"] and "TopK" not in approximate["calls"]
    for found in (exact, approximate):
        assert found["sent"] and max(found["sent"]) <= found["most"]
