"""What each platform is told before jax starts."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jaxlib import xla_client

from rewardscale import platforms
from rewardscale.training import planning

REPO = Path(__file__).parents[1]
COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
place = jax.sharding.SingleDeviceSharding(topology.devices[0])
square = jax.ShapeDtypeStruct((128, 128), jnp.bfloat16, sharding=place)
print(jax.jit(jnp.dot).lower(square, square).compile().cost_analysis()["flops"])
"""


@pytest.mark.parametrize(
    ("chosen", "found"), [("cpu", "cpu"), ("cuda,cpu", "gpu"), ("tpu", "tpu"), ("gpu", "gpu")]
)
def test_jax_platforms_decides(chosen: str, found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", chosen)
    assert platforms.platform() == found


def test_what_the_caller_says_stands() -> None:
    assert "XLA_FLAGS" not in platforms.flags_of("gpu", {"XLA_FLAGS": ""}) and not platforms.flags_of(
        "cpu", {}
    )
    assert platforms.flags_of("gpu", {})["XLA_FLAGS"] == " ".join(platforms.GPU)
    assert set(platforms.flags_of("tpu", {"XLA_FLAGS": "--a"})) == {"LIBTPU_INIT_ARGS"}


@pytest.mark.parametrize(
    ("said", "share", "preallocated"),
    [
        ({}, platforms.GPU_MEMORY, None),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, 0.5, None),
        ({"XLA_CLIENT_MEM_FRACTION": ".5"}, 0.5, None),
        ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}, None, False),
        ({"XLA_PYTHON_CLIENT_ALLOCATOR": "platform"}, None, None),
    ],
)
def test_jax_takes_the_share_of_a_gpus_memory_that_plans_reckon_with(
    said: dict[str, str], share: float | None, preallocated: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what jaxlib itself makes of the environment when it starts a GPU client."""
    for name in ("MEM_FRACTION", "PREALLOCATE", "ALLOCATOR"):
        monkeypatch.delenv(f"XLA_PYTHON_CLIENT_{name}", raising=False)
        monkeypatch.delenv(f"XLA_CLIENT_{name}", raising=False)
    for name, value in (said | platforms.flags_of("gpu", said)).items():
        monkeypatch.setenv(name, value)
    options = xla_client.generate_pjrt_gpu_plugin_options()
    assert options.get("memory_fraction") == share and options.get("preallocate") == preallocated
    assert planning.memory("h200:8") == 141e9 * platforms.GPU_MEMORY


def test_workers_side_by_side_have_a_thread_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    one, two = platforms.worker_environment(1), platforms.worker_environment(2)
    assert "OMP_NUM_THREADS" not in one and two["OMP_NUM_THREADS"] == "1"
    assert two["XLA_FLAGS"].split() == [*platforms.CPU_WORKER, *platforms.CPU_SIDE_BY_SIDE, "--mine"]
    monkeypatch.setenv("JAX_PLATFORMS", "tpu")
    assert platforms.worker_environment(2) == {}


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed (extra 'aot' or 'test')"
)
@pytest.mark.parametrize(("more", "right"), [("", True), (" --xla_tpu_no_such_flag=true", False)])
def test_libtpu_takes_our_flags_and_refuses_others(more: str, right: bool) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "JAX_PLATFORMS": "cpu"}
    environment |= {"JAX_ENABLE_COMPILATION_CACHE": "false", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    environment |= {"LIBTPU_INIT_ARGS": platforms.flags_of("tpu", {})["LIBTPU_INIT_ARGS"] + more}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert (done.returncode == 0) == right, done.stderr[-2000:]
    assert right or "no_such_flag" in done.stderr
