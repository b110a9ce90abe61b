"""What XLA, the allocator and the garbage collector are told on each platform, with a reason for each.

What the caller's environment says stands: a variable that is set already gets nothing of ours, but for workers side by
side, whose threads are one each. Only the CPU's settings were measured here; those of GPUs and TPUs are what large
trainers of the field use, and the pinned libtpu takes its own (tests/test_platforms.py compiles with them).
"""

import contextlib
import ctypes
import gc
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

# Flag -> why.
CPU_WORKER = MappingProxyType(
    {
        "--xla_backend_optimization_level=1": "compiles small models faster and runs them no slower; "
        "larger ones, which run alone, keep the default",
    }
)
CPU_SIDE_BY_SIDE = MappingProxyType(
    {"--xla_cpu_multi_thread_eigen=false": "a process a core: threads of several would wait for one another"}
)
CPU_DEVICES = MappingProxyType(
    {
        "--xla_cpu_prefer_vector_width=512": "exponentials of attention take half the time where there is AVX-512; not "
        "in a sweep's workers, whose smallest model it makes a tenth slower (docs/performance.md)",
    }
)
GPU = MappingProxyType(
    {
        "--xla_gpu_enable_latency_hiding_scheduler=true": "gathers the next layer's weights while one computes (FSDP)",
    }
)
# Share of a GPU's memory that XLA takes; the rest is CUDA's, cuDNN's, NCCL's. JAX's own default, 0.75, would leave
# further 24 GB of an H200 to nobody; `rewardscale.plan` reckons with this one.
GPU_MEMORY = 0.92
_GPU_MEMORY_VARIABLE = "XLA_CLIENT_MEM_FRACTION"
# Whoever says one of these says how memory is given: jax refuses the first two together.
_SAYS_GPU_MEMORY = (
    _GPU_MEMORY_VARIABLE,
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_ALLOCATOR",
)
TPU = MappingProxyType(
    {
        "--xla_tpu_enable_async_collective_fusion=true": "collectives run beside what they are fused to",
        "--xla_tpu_enable_async_collective_fusion_fuse_all_gather=true": "all-gathers of FSDP's weights among them",
        "--xla_tpu_enable_async_collective_fusion_multiple_steps=true": "spread over several steps of a computation",
        "--xla_tpu_overlap_compute_collective_tc=true": "collectives and matrix units at the same time",
        "--xla_enable_async_all_gather=true": "all-gathers start before their result is needed",
    }
)
# glibc's mallopt: XLA's CPU client allocates its arenas anew each call, and glibc would map and unmap them.
KEEP_MEMORY = MappingProxyType(
    {
        (-4, 0): "M_MMAP_MAX: large blocks come from the heap, not from mmap",
        (-1, 2**31 - 1): "M_TRIM_THRESHOLD: what is freed stays in the heap",
        (-8, 1): "M_ARENA_MAX: one heap, so that it stays with whoever needs it",
    }
)


def platform() -> str:
    """ "cpu", "gpu" or "tpu": what jax will find, without importing it. JAX_PLATFORMS decides if it is set."""
    chosen = os.environ.get("JAX_PLATFORMS", "").split(",")[0]
    if chosen:
        return "gpu" if chosen in ("cuda", "rocm") else chosen
    if Path("/dev/nvidia0").exists():
        return "gpu"
    return "tpu" if any(Path(p).exists() for p in ("/dev/accel0", "/dev/vfio/0")) else "cpu"


def prepare() -> None:
    """Sets this process up; to be called before jax computes anything."""
    found = platform()
    if found == "cpu":
        keep_memory()
    os.environ.update(flags_of(found, os.environ))


def flags_of(platform: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that flags and an accelerator's share of memory go into, unless `environment` has them.

    On CPUs only where JAX_NUM_CPU_DEVICES, jax's own variable, has the machine look like several devices: rows are
    dealt over them, and each computes with one thread.
    """
    several = platform == "cpu" and environment.get("JAX_NUM_CPU_DEVICES", "1") not in ("", "0", "1")
    name, flags = {
        "cpu": ("XLA_FLAGS", CPU_DEVICES if several else {}),
        "gpu": ("XLA_FLAGS", GPU),
        "tpu": ("LIBTPU_INIT_ARGS", TPU),
    }.get(platform, ("", {}))
    out = {name: " ".join(flags)} if flags and name not in environment else {}
    if several and "NPROC" not in environment:
        out["NPROC"] = "1"
    if platform == "gpu" and not any(said in environment for said in _SAYS_GPU_MEMORY):
        out[_GPU_MEMORY_VARIABLE] = str(GPU_MEMORY)
    return out


def worker_environment(workers: int) -> dict[str, str]:
    """Variables of CPU workers side by side, each single-threaded if there are several; none with an accelerator."""
    if platform() != "cpu":
        return {}
    flags, out = list(CPU_WORKER), {"JAX_PLATFORMS": "cpu"}
    if workers > 1:
        flags += CPU_SIDE_BY_SIDE
        # NPROC is XLA's: or it splits larger products into as many parts as it sees cores, which round otherwise.
        out |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "NPROC"), "1")
        if "JAX_NUM_CPU_DEVICES" in os.environ:
            out["JAX_NUM_CPU_DEVICES"] = "1"
    inherited = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag not in CPU_DEVICES]
    return out | {"XLA_FLAGS": " ".join([*flags, *inherited])}


def lacks_bfloat16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this CPU is known to have no instructions that multiply bfloat16; False where the system does not say."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return flags is not None and not {"amx_bf16", "avx512_bf16"} & set(flags)


def keep_memory() -> None:
    """glibc keeps what is freed instead of returning it to the system (KEEP_MEMORY); nothing happens elsewhere."""
    if platform() != "cpu" or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):  # another libc: only speed is lost
        libc = ctypes.CDLL("libc.so.6")
        for option, value in KEEP_MEMORY:
            libc.mallopt(option, value)


def keep_loaded() -> None:
    """Garbage collections from now on pass over what this process holds now: modules, traces, cells, which stay."""
    gc.freeze()
