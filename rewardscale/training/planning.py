"""What fits on which chips: compiles that are cached, each in a process of its own; of GPUs, arithmetic.

A `Job` is one compile. Its result is a JSON file named by a hash of the job and of jax's and libtpu's versions, so
whatever was compiled once is never compiled again and an interrupted search goes on where it stopped. What the code
was is recorded with each result, not part of its name. Searches are made of them in training/searches.py.
"""

import ast
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rewardscale import atomic, flops
from rewardscale.config import ConfigError, Lora, ModelConfig, RopeScaling, Storage, content_hash, science
from rewardscale.platforms import GPU_MEMORY

GIB = 2**30
# Slices in order of size. Compilers and clouds call them by chips along each axis of the torus.
SLICES = {
    "v5e": ("1x1", "1x2", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("1x1", "1x2", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": ("1x1x1", "2x1x1", "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8"),
}
# "h100:8" is no slice, and no compiler could be asked: hours and bytes are arithmetic. Bytes of one by NVIDIA's data
# sheets; of an A100, the larger.
GPUS = {"h100": 80e9, "h200": 141e9, "h800": 80e9, "a100": 80e9}
# Bytes of a chip's memory that libtpu 0.0.50.1 lets a program have, by its own messages.
HBM = {"v5e": 15.75 * GIB, "v6e": 31.24 * GIB, "v5p": 95.73 * GIB}
STORAGE = Storage(parameters="bfloat16")  # what the table is made with: a float32 master, float32 moments
RESERVED = 0.25 * GIB  # of which the runtime takes so much
LANES = 128  # numbers in a row of a TPU's registers
_PACKAGE = Path(__file__).parents[1]
_CODE = (
    *(f"models/{name}.py" for name in ("attention", "splash", "products", "layers", "reward", "lora")),
    *(f"training/{name}.py" for name in ("step", "optimizer", "loss")),
    "evaluation/scorer.py",
    "mesh/devices.py",
)


class CompileError(RuntimeError):
    """The compiler did not come to an answer; the message holds the end of what it wrote."""


@dataclasses.dataclass(frozen=True)
class Job:
    """One compile of a training step or of scoring.

    Attributes:
      mode: "train" or "score". mesh: chips along (data, fsdp, tensor).
      rows: of a microbatch, for each part of data x fsdp. length: tokens a row. slots: trees a row.
      storage: types of parameters, moments and gradients (scoring has parameters only).
      effort: the compiler's optimisation level ("O0" ... "O3"; its default is "O2").
    """

    mode: str
    model: ModelConfig
    topology: str
    mesh: tuple[int, int, int]
    rows: int = 1
    length: int = 4096
    slots: int = 8
    storage: Storage = STORAGE
    remat: str = "full"
    attention: str = "auto"
    effort: str = "O0"

    @property
    def key(self) -> str:
        """Names the result."""
        return content_hash([science(self), versions()])


@dataclasses.dataclass(frozen=True)
class Result:
    """What the compiler said of a job, bytes a chip.

    Attributes:
      fits: whether it fits into a chip's memory. needed_bytes: in all; the next three only where it fits.
      seconds: wall time of the compile. rematerialized: warnings of an involuntary full rematerialization.
      code: hash of the sources that were compiled. key: of the job.
    """

    fits: bool
    needed_bytes: int
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    seconds: float
    rematerialized: int
    code: str
    key: str

    @property
    def gib(self) -> float:
        """GiB a chip needs."""
        return self.needed_bytes / GIB


@functools.cache
def versions() -> dict[str, str]:
    """Of what decides about a compile's outcome besides the job. Raises ConfigError without libtpu."""
    try:
        return {name: importlib.metadata.version(name) for name in ("jax", "libtpu")}
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed: pip install 'rewardscale[aot]' (no TPU is needed)"
        ) from error


@functools.cache
def code_hash() -> str:
    """Of the sources that a compiled step is made of, comments and layout left out."""
    digest = hashlib.blake2b(digest_size=8)
    for name in _CODE:
        digest.update(ast.dump(ast.parse((_PACKAGE / name).read_text())).encode())
    return digest.hexdigest()


def default_cache() -> Path:
    """The folder of finished compiles, unless --cache says another."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rewardscale" / "plan"


def is_gpu(topology: str) -> bool:
    """Whether it is GPUs, "h100:8", and not a slice of TPUs."""
    return topology.partition(":")[0] in GPUS


def memory(topology: str) -> float:
    """Bytes that a program may have of a chip of the slice, or of a GPU."""
    kind = topology.partition(":")[0]
    return GPUS[kind] * GPU_MEMORY if is_gpu(topology) else HBM[kind]


def chips(topology: str) -> int:
    """Of a slice like "v5e:4x4" or GPUs like "h100:8". Raises ConfigError, naming what there is, if it is neither."""
    kind, _, shape = topology.partition(":")
    if is_gpu(topology):
        if not shape.isdecimal() or not int(shape):
            raise ConfigError(f"topology={topology!r}: GPUs are a kind and how many, as '{kind}:8'")
        return int(shape)
    if kind not in SLICES:
        raise ConfigError(
            f"topology={topology!r}: the kind of chip must be one of {', '.join((*SLICES, *GPUS))}, as in 'v5e:4x4'"
        )
    if shape not in SLICES[kind]:
        raise ConfigError(f"topology={topology!r}: slices of {kind} are {', '.join(SLICES[kind])}")
    return math.prod(int(n) for n in shape.split("x"))


def mesh_over(
    topology: str, mesh: Sequence[int] | None = None, *, model: ModelConfig | None = None
) -> tuple[int, int, int]:
    """`mesh` (data, fsdp, tensor), one of them perhaps -1, over all chips.

    By default the state of `model` is split ("fsdp") over as many chips as leave a share of its width at least as
    wide as a TPU register, 128: narrower shares are padded to that. Groups of so many chips are copies ("data").

    Raises ConfigError if it does not use the chips exactly.
    """
    count = chips(topology)
    if mesh is None:
        split = count
        while model is not None and split > 1 and model.width < split * LANES:
            split //= 2
        return count // split, split, 1
    sizes = list(mesh)
    if len(sizes) == 3 and sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = count // max(1, -math.prod(sizes))
    if len(sizes) != 3 or math.prod(sizes) != count or min(sizes) < 1:
        raise ConfigError(
            f"mesh={','.join(map(str, mesh))} must be three sizes (data, fsdp, tensor) whose product is "
            f"{count}, the chips of {topology}"
        )
    return sizes[0], sizes[1], sizes[2]


class Compiler:
    """Runs jobs one at a time and keeps their results in the folder `cache`.

    `fresh` compiles again what was compiled from other sources. `report` hears of each compile.
    """

    def __init__(
        self,
        cache: Path,
        *,
        fresh: bool = False,
        offline: bool = False,
        report: Callable[[str], None] = lambda _: None,
    ):
        self.cache, self.fresh, self.offline, self.report = cache, fresh, offline, report
        self.compiled = 0

    def __call__(self, job: Job) -> Result:
        """The result of `job`. Raises CompileError where there is none, and, if `offline`, Missing."""
        path = self.cache / f"{job.key}.json"
        if path.exists():
            try:
                result = Result(**json.loads(path.read_text())["result"])
            except (ValueError, TypeError, KeyError) as error:
                raise ConfigError(f"{path} is not a result of this command ({error}); delete it") from error
            if not self.fresh or result.code == code_hash():
                return result
        if self.offline:
            raise Missing(describe(job))
        result = compile_apart(job)
        atomic.write_json(
            path,
            {"job": dataclasses.asdict(job), "result": dataclasses.asdict(result), "versions": versions()},
        )
        self.compiled += 1
        self.report(f"{describe(job)}: {verdict(job, result)}, {result.seconds:.0f} s")
        return result


class Missing(CompileError):
    """A result that is not in the cache."""


def describe(job: Job) -> str:
    """One line that says which compile it is."""
    size = f"{job.model.layers} layers of width {job.model.width}"
    line = f"{job.mode} {size}, {job.topology} as {job.mesh}, {job.rows} x {job.length} tokens a chip"
    return line if job.mode == "score" else f"{line}, remat={job.remat}"


def verdict(job: Job, result: Result) -> str:
    """Fits or does not, with the bytes."""
    limit, how = memory(job.topology) / GIB, " by arithmetic" if is_gpu(job.topology) else ""
    if result.fits:
        warned = f", {result.rematerialized} involuntary rematerializations" if result.rematerialized else ""
        return f"fits{how}: {result.gib:.2f} of {limit:.2f} GiB{warned}"
    return f"does not fit{how}: needs {result.gib:.2f} GiB of {limit:.2f}"


def by_arithmetic(job: Job) -> Result:
    """A training step on GPUs by `flops.device_bytes`, attention "chunked": nothing is compiled.

    Activations are taken whole on each GPU, also where the tensor axis splits some: too many bytes rather than too few.

    Raises ConfigError for scoring, of which there is no arithmetic.
    """
    from rewardscale.models.attention import QUERIES  # brings jax

    if job.mode != "train":
        raise ConfigError(
            f"--mode={job.mode}, {job.topology}: of GPUs there is arithmetic of --mode=train alone"
        )
    parts = flops.device_bytes(
        job.model, job.storage, devices=job.mesh[1] * job.mesh[2], rows=job.rows, length=job.length, remat=job.remat,
        queries=QUERIES,
    )  # fmt: skip
    needed, held = sum(parts.values()), sum(parts[name] for name in ("parameters", "master", "moments"))
    return Result(
        fits=needed <= memory(job.topology),
        needed_bytes=int(needed),
        argument_bytes=int(held),
        temporary_bytes=int(needed - held),
        output_bytes=0,
        seconds=0.0,
        rematerialized=0,
        code="",
        key="",
    )


def compile_apart(job: Job, *, timeout: float = 3600) -> Result:
    """Compiles in a fresh process: libtpu keeps its own, may end it, and logs as it likes.

    Raises CompileError with the end of its log.
    """
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    environment |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",  # a cached program would not show the compiler's warnings
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # no chip is held, so another compile may go on beside this one
        "PYTHONPATH": os.pathsep.join(filter(None, [str(_PACKAGE.parent), os.environ.get("PYTHONPATH", "")])),
    }
    command = [sys.executable, "-c", "from rewardscale.training import planning; planning.work()"]
    try:
        done = subprocess.run(
            command, input=json.dumps(dataclasses.asdict(job)), env=environment, capture_output=True, text=True,
            timeout=timeout,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CompileError(f"{describe(job)}: no answer after {timeout:.0f} s") from error
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise CompileError(f"{describe(job)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    answer = json.loads(lines[-1])
    warned = done.stderr.count("Involuntary full rematerialization")
    return Result(**answer, rematerialized=warned, code=code_hash(), key=job.key)


def work() -> None:
    """What the fresh process does: a job as JSON on its standard input, the answer on its standard output."""
    import jax

    from rewardscale.models.reward import Options
    from rewardscale.training import aot

    job = job_from(json.loads(sys.stdin.read()))
    options = Options(dtype="bfloat16", remat=job.remat, attention=job.attention)
    rows = job.rows * job.mesh[0] * job.mesh[1]
    size = aot.BlockSize(steps=1, microbatches=2, rows=rows, length=job.length, slots=job.slots)
    where: Any = {"mesh_shape": job.mesh, "size": size, "effort": job.effort}
    try:
        if job.mode == "train":
            done = aot.compile_step(job.model, options, job.topology, storage=job.storage, **where)
        else:
            options = dataclasses.replace(options, remat="none")
            done = aot.compile_scoring(
                job.model, options, job.topology, parameters=job.storage.parameters, **where
            )
    except jax.errors.JaxRuntimeError as error:
        needed = re.search(r"(?:Used |HLO temporaries \()([\d.]+)([KMGT])", str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or not needed:
            raise
        bytes_needed = int(float(needed[1]) * 2 ** {"K": 10, "M": 20, "G": 30, "T": 40}[needed[2]])
        answer = {"fits": False, "needed_bytes": bytes_needed, "seconds": 0.0}
        answer |= dict.fromkeys(("argument_bytes", "temporary_bytes", "output_bytes"), 0)
    else:
        sizes = {name: getattr(done, name) for name in ("argument_bytes", "temporary_bytes", "output_bytes")}
        answer = {"fits": True, "needed_bytes": sum(sizes.values()), "seconds": done.seconds} | sizes
    print(json.dumps(answer))


def job_from(values: dict[str, Any]) -> Job:
    """A job from `dataclasses.asdict` of it, by way of JSON."""
    model = dict(values["model"])
    for name, kind in (("rope_scaling", RopeScaling), ("lora", Lora)):
        model[name] = kind(**model[name]) if model[name] is not None else None
    given = {
        "model": ModelConfig(**model),
        "storage": Storage(**values["storage"]),
        "mesh": tuple(values["mesh"]),
    }
    return Job(**(values | given))
