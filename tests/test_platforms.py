"""What each platform is told before jax starts."""

import importlib
import importlib.util
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jaxlib import xla_client

from rewardscale import platforms
from rewardscale.evaluation import certificate_ours
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


def test_a_cpu_that_looks_like_several_devices_computes_with_a_thread_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert platforms.flags_of("cpu", {}) == platforms.flags_of("cpu", {"JAX_NUM_CPU_DEVICES": "1"}) == {}
    two = {"JAX_NUM_CPU_DEVICES": "2"}
    assert platforms.flags_of("cpu", two) == {"NPROC": "1", "XLA_FLAGS": " ".join(platforms.CPU_DEVICES)}
    assert platforms.flags_of("cpu", two | {"NPROC": "4", "XLA_FLAGS": "--mine"}) == {}
    code = (
        "from rewardscale import platforms; platforms.prepare(); import jax; "
        "print(jax.device_count(), jax.numpy.ones(2).sum())"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "NPROC")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPO,
        env=environment | two,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == ["2", "2.0"], done.stderr[-2000:]
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    monkeypatch.setenv("XLA_FLAGS", " ".join(platforms.CPU_DEVICES))
    worker = platforms.worker_environment(2)
    assert worker["JAX_NUM_CPU_DEVICES"] == "1"
    assert worker["XLA_FLAGS"].split() == [*platforms.CPU_WORKER, *platforms.CPU_SIDE_BY_SIDE]


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


# Each is stopped by bad input, before it touches a device.
COMPUTE = {
    "launch": "--config=no-such.py",
    "train": "--config=no-such.py",
    "score": "--model=no-such-folder --input=no-such.jsonl --output=no-such-rewards.jsonl",
    "serve": "--model=no-such-folder",
    "evaluate": "--model=no-such-folder --workdir=no-such-workdir --benchmarks=no-such",
    "verify": "no-such-folder --reference=no-such-python",
    "curate": "run --config=no-such.py",
}
DO_NOT = {"plan": "--model=no-such --topology=v5e:2x2", "build": "--config=no-such.py"}


@pytest.mark.parametrize("name", [*COMPUTE, *DO_NOT])
def test_every_command_that_computes_sets_its_process_up_and_no_other_does(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As on a machine with a GPU: what is set there can be seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    for variable in ("XLA_FLAGS", *platforms.flags_of("gpu", {})):
        monkeypatch.delenv(variable, raising=False)
    command = importlib.import_module(f"rewardscale.{name}")
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert command.main((COMPUTE | DO_NOT)[name].split()) == 2
    finally:
        signal.signal(signal.SIGTERM, before)  # verify's stays
    assert "no-such" in capsys.readouterr().err
    found = {variable: os.environ.get(variable) for variable in platforms.flags_of("gpu", {})}
    assert found == (platforms.flags_of("gpu", {}) if name in COMPUTE else dict.fromkeys(found))


def test_the_legs_of_a_certificate_do_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command itself touches no accelerator; its legs are processes of their own."""
    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    for variable in platforms.flags_of("gpu", {}):
        monkeypatch.delenv(variable, raising=False)
    asked, answered = tmp_path / "request.json", tmp_path / "answer.json"
    asked.write_text('{"directory": "no-such-folder", "dtype": "float32", "mesh": [1, 1, 1], "export": null}')
    certificate_ours.main(str(asked), str(answered))
    assert "no-such-folder" in answered.read_text()
    assert os.environ["XLA_FLAGS"] == platforms.flags_of("gpu", {})["XLA_FLAGS"]


# In a process of its own: what malloc is told cannot be taken back.
KEPT = """
import ctypes
names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
class Info(ctypes.Structure):  # mallinfo2
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
libc = ctypes.CDLL("libc.so.6")
libc.mallinfo2.restype, libc.malloc.restype = Info, ctypes.c_void_p
def mapped():
    before = libc.mallinfo2().hblkhd
    libc.malloc(ctypes.c_size_t(1 << 26))
    return libc.mallinfo2().hblkhd - before >= 1 << 26
from rewardscale import cli
def command():
    print(mapped())
    return 0
print(mapped())
cli.exit_code(command, computes=False)
cli.exit_code(command)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt's options are glibc's")
def test_a_command_on_a_cpu_takes_large_blocks_from_the_heap() -> None:
    """Before, glibc maps a block of 64 MiB by itself; afterwards it does not."""
    done = subprocess.run(
        [sys.executable, "-c", KEPT],
        cwd=REPO,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout.split() == ["True", "True", "False"], done.stderr[-2000:]


def test_benchmarks_of_steps_run_as_a_sweeps_cells_do() -> None:
    """benchmarks/training_step.py sets its process up before jax comes: the flags that its figures were made with."""
    code = "import os, sys; sys.modules['jax'] = None\ntry: import benchmarks.training_step\nexcept ImportError: pass\n"
    done = subprocess.run(
        [sys.executable, "-c", code + "print(os.environ['XLA_FLAGS'])"],
        cwd=REPO,
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    flags = {"--xla_cpu_multi_thread_eigen=false", "--xla_backend_optimization_level=1"}
    assert set(done.stdout.split()) == flags, done.stderr[-2000:]
