"""docs/plan.md: what fits where, for all eight presets, from compiles that are in the cache or made now."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from rewardscale import flops
from rewardscale.config import Storage
from rewardscale.models import presets, splash
from rewardscale.training.planning import (
    GIB,
    HBM,
    STORAGE,
    Compiler,
    Job,
    Missing,
    Plan,
    Result,
    code_hash,
    mesh_over,
    plan,
    smallest_slice,
    versions,
)

COMMAND = "python -m rewardscale.plan"
PODS = (
    ("v5e:16x16", "v5e-256"),
    ("v6e:16x16", "v6e-256"),
    ("v5p:4x4x4", "v5p-128, 64 chips"),
)
KINDS = ("v5e", "v6e", "v5p")
GPUS = ("8 x H100", 8, 80e9), ("1 x H200", 1, 141e9)  # bytes by NVIDIA's data sheets
GPU_USABLE = 0.92  # share of a GPU's memory that XLA is given; the rest is CUDA's, cuDNN's, NCCL's
ABSENT = "–"


def architectures() -> dict[str, str]:
    """Preset names by the first preset of the same shape (the two data variants of Llama 3.1 8B are one)."""
    out: dict[str, str] = {}
    shapes = {}
    for name, backbone in presets.BACKBONES.items():
        first = shapes.setdefault(backbone.model, name)
        out[first] = f"{out[first]}, {name.removeprefix(first)}" if first in out else name
    return out


def longest_context(name: str) -> int:
    """Tokens of the longest row that is looked for: the backbone's context, or what the kernel takes."""
    return min(presets.BACKBONES[name].context, splash.LONGEST)


def page(compiler: Compiler, *, effort: str, length: int = 4096) -> tuple[str, int]:
    """The page, and how many of its cells are missing because their compile is."""
    make = _Page(compiler, effort, length)
    names = list(architectures())
    sections = [INTRODUCTION.format(command=COMMAND, effort=effort, length=length, **versions())]
    for mode, title in (("train", "Training"), ("score", "Scoring")):
        sections.append(f"## {title} on pods\n\n{TRAINING if mode == 'train' else SCORING}")
        for topology, called in PODS:
            sections.append(
                f"### {called} (`{topology}`), {HBM[topology[:3]] / GIB:.2f} GiB a chip\n\n"
                f"    {COMMAND} --model=MODEL --topology={topology} --mode={mode}\n\n"
                + table(POD_COLUMNS, (make.pod(name, topology, mode) for name in names))
            )
    sections.append(
        f"## The smallest slice\n\n{SMALLEST}\n\n    {COMMAND} --model=MODEL --topology=v5e --mode=train\n\n"
        + table(("model", "mode", *KINDS), (make.smallest(name, mode) for name in names for mode in ("train", "score")))
    )  # fmt: skip
    sections.append(f"## GPUs\n\n{GPU}\n\n" + table(GPU_COLUMNS, _gpu_rows(names, length)))
    sections.append(make.arithmetic())
    return "\n\n".join(sections) + "\n", make.missing


class _Page:
    def __init__(self, compiler: Compiler, effort: str, length: int):
        self.compiler, self.effort, self.length = compiler, effort, length
        self.missing = 0
        self.used: dict[str, Result] = {}  # by key
        self.compared: list[float] = []  # arithmetic / compiled, bytes of training with one row a chip

    def job(self, name: str, topology: str, mode: str) -> Job:
        model = presets.BACKBONES[name].model
        return Job(
            mode, model, topology, mesh_over(topology, model=model), length=self.length, effort=self.effort
        )

    def run(self, job: Job) -> Result:
        result = self.used[job.key] = self.compiler(job)
        return result

    def pod(self, name: str, topology: str, mode: str) -> list[str]:
        job, title = self.job(name, topology, mode), architectures()[name]
        try:
            done = plan(job, self.run, context=longest_context(name))
        except Missing:
            self.missing += 1
            return [title, *[ABSENT] * (len(POD_COLUMNS) - 1)]
        if mode == "train" and done.base.fits:
            self.compare(job, done.base)
        return [title, *pod_cells(done)]

    def compare(self, job: Job, result: Result) -> None:
        """Notes how far the GPUs' arithmetic is off where there is a compile to hold it against."""
        parts = flops.device_bytes(
            job.model, job.storage, devices=job.mesh[1], rows=1, length=job.length, remat=job.remat, queries=0
        )
        self.compared.append(sum(parts.values()) / result.needed_bytes)

    def smallest(self, name: str, mode: str) -> list[str]:
        cells = [architectures()[name], mode]
        for kind in KINDS:
            try:
                found = smallest_slice(kind, self.job(name, "v5e:1x1", mode), self.run)
            except Missing:
                self.missing += 1
                cells.append(ABSENT)
                continue
            if found and mode == "train":
                self.compare(*found)
            cells.append(
                f"{found[0].topology.partition(':')[2]}: {found[1].gib:.1f} GiB" if found else "none"
            )
        return cells

    def arithmetic(self) -> str:
        """What the page's compiles say together."""
        used = self.used.values()
        warned = sum(result.rematerialized > 0 for result in used)
        stale = sum(result.code != code_hash() for result in used)
        seconds = sum(result.seconds for result in used)
        lines = []
        if self.compared:
            lines.append(
                "Held against the compiles above (training, one row a chip, without scores), the same arithmetic gives "
                f"{min(self.compared):.2f} to {max(self.compared):.2f} times what the TPU compiler planned."
            )
        lines.append(
            f"This page rests on {len(used)} compiles, {seconds / 60:.0f} minutes of a small machine; "
            f"{warned or 'none'} of them warned of an involuntary full rematerialization."
        )
        if stale:
            lines.append(
                f"{stale} of them are of an earlier state of the sources; `{COMMAND} --table --fresh` makes them again."
            )
        return "\n\n".join(lines)


def pod_cells(done: Plan) -> list[str]:
    """A plan as the cells of POD_COLUMNS after the model."""
    base, mesh = done.base, ",".join(map(str, done.job.mesh))
    if not base.fits:
        return [mesh, f"does not fit: {base.gib:.1f}", *[ABSENT] * 4]
    return [
        mesh,
        f"{base.gib:.2f}",
        f"{base.argument_bytes / GIB:.2f}",
        f"{base.temporary_bytes / GIB:.2f}",
        f"{done.rows} ({done.at_rows.gib:.1f})",
        f"{done.longest:,} ({done.at_longest.gib:.1f})",
    ]


def _gpu_rows(names: Sequence[str], length: int) -> Iterable[list[str]]:
    from rewardscale.models.attention import QUERIES

    for name in names:
        for label, devices, memory in GPUS:
            parts, storage = _leanest(name, devices, memory * GPU_USABLE, length, QUERIES)
            room = memory * GPU_USABLE - sum(parts.values())
            a_row = parts["activations"] + parts["scores"]
            rows = 1 + int(room // a_row) if room >= 0 else 0
            kept = sum(parts[n] for n in ("parameters", "master", "moments", "gradients", "microbatch"))
            yield [
                architectures()[name],
                label,
                "bfloat16" if storage.moments == "bfloat16" else "float32",
                f"{kept / 1e9:.1f}",
                f"{parts['gathered'] / 1e9:.1f}",
                f"{parts['activations'] / 1e9:.1f}",
                f"{parts['scores'] / 1e9:.1f}",
                f"{sum(parts.values()) / 1e9:.1f}",
                f"{rows}" if rows else "does not fit",
            ]


def _leanest(
    name: str, devices: int, memory: float, length: int, queries: int
) -> tuple[dict[str, float], Storage]:
    """Bytes of one row with float32 moments and gradients, or both in bfloat16 where only that fits."""
    parts: dict[str, float] = {}
    narrow = dataclasses.replace(STORAGE, moments="bfloat16", gradients="bfloat16")
    for storage in (STORAGE, narrow):
        parts = flops.device_bytes(
            presets.BACKBONES[name].model, storage, devices=devices, rows=1, length=length, remat="full",
            queries=queries,
        )  # fmt: skip
        if sum(parts.values()) <= memory:
            return parts, storage
    return parts, narrow


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def printed(
    columns: Sequence[str], rows: Iterable[Sequence[str]], write: Callable[[str], None] = print
) -> None:
    """The same for a terminal: aligned."""
    lines = [list(columns), *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        write("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


POD_COLUMNS = (
    "model", "mesh", "GiB, 1 row a chip", "of it arguments", "temporaries", "most rows a chip (GiB)",
    "longest row (GiB)",
)  # fmt: skip
GPU_COLUMNS = (
    "model", "GPUs", "moments, gradients", "state", "gathered layers", "activations", "scores", "GB a GPU, 1 row",
    "most rows a GPU",
)  # fmt: skip

INTRODUCTION = """# What fits where

Made by `{command} --table`, from compiles by jax {jax} and libtpu {libtpu}: the real TPU compiler, on a machine without
TPUs. **Nothing was run.** A number of bytes is what the compiler planned for a chip; no speed follows from it, and
nothing here says that a size is a good one to train with.

* Rows are packed rows of {length:,} tokens: several comparisons side by side, each prompt once. "Rows a chip" are those
  of one microbatch; gradient accumulation makes a step of any number of them.
* The mesh is written data,fsdp,tensor. By default the state is split (fsdp) over as many chips as leave each a share
  at least 128 wide, a TPU register's width, and groups of so many chips are copies (data). `--mesh` plans another:
  narrower shares are padded to 128, so 256 chips share Qwen3 0.6B worse than 8 do.
* "Fits" is the compiler's own answer. Most rows and the longest row are the largest that were compiled and fitted,
  found to within an eighth. More than 64 rows are not looked for, nor a row beyond the model's context or the
  kernel's 65,536 tokens.
* Compiled at the compiler's optimisation level {effort} (`--effort`), which takes a tenth of the time of its default,
  O2, and plans a little more: Qwen3 0.6B, training on `v5e:2x2`, 1 row of 4,096: 3.69 GiB at O0 and O1, 3.65 at O2.
* Each compile is kept in a cache: the command goes on where it was stopped, and asks for nothing twice."""

TRAINING = """One optimizer step: bfloat16 compute and parameters, a float32 master copy, float32 moments and gradients,
activations recomputed in the backward pass (`--remat=full`), splash attention. Arguments are the state and the batch;
temporaries are what the peak adds to them: gradients, activations and gathered layers."""

SCORING = "Rewards of both responses of each tree: bfloat16 weights and compute, splash attention."

SMALLEST = (
    """The smallest slice of each kind on which one row of 4,096 tokens a chip fits, and its GiB a chip."""
)

GPU = """**Analytic: not compiled, not run.** GB (10^9 bytes) a GPU for one training step by the arithmetic of
`flops.device_bytes`: bfloat16 parameters, float32 master copy, all layers recomputed, rows of 4,096 tokens, state
shared by all GPUs, attention "chunked" (scores of 512 queries at a time). Moments and gradients are float32, or
bfloat16 where only that fits one row. A GPU is taken to give 92 % of its memory. XLA's fusions, workspaces and
fragmentation are not in it."""
