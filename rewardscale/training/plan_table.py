"""docs/plan.md: what fits where, for all eight presets, from compiles that are in the cache or made now."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from rewardscale import flops
from rewardscale.config import REMAT
from rewardscale.models import presets, splash
from rewardscale.platforms import GPU_MEMORY
from rewardscale.training.planning import (
    GIB,
    HBM,
    STORAGE,
    Compiler,
    Job,
    Missing,
    Result,
    by_arithmetic,
    chips,
    code_hash,
    memory,
    mesh_over,
    versions,
)
from rewardscale.training.searches import LEANEST, Choice, Plan, least_recomputation, plan, smallest_slice

COMMAND = "python -m rewardscale.plan"
FULL = f" --remat={LEANEST}"
PODS = (
    ("v5e:16x16", "v5e-256"),
    ("v6e:16x16", "v6e-256"),
    ("v5p:4x4x4", "v5p-128, 64 chips"),
)
KINDS = ("v5e", "v6e", "v5p")
CARDS = ("8 x H100", "h100:8"), ("1 x H200", "h200:1")
TIGHTEST = PODS[0]  # of the pods: what has to be recomputed there
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
                f"    {COMMAND} --model=MODEL --topology={topology} --mode={mode}{FULL if mode == 'train' else ''}\n\n"
                + table(POD_COLUMNS, (make.pod(name, topology, mode) for name in names))
            )
    topology, called = TIGHTEST
    sections.append(
        f"## What has to be recomputed\n\n{RECOMPUTED.format(called=called, length=length)}\n\n"
        f"    {COMMAND} --model=MODEL --topology={topology} --mode=train\n\n"
        + table(RECOMPUTED_COLUMNS, (make.recomputed(name, topology) for name in names))
    )
    sections.append(
        f"## The smallest slice\n\n{SMALLEST}\n\n    {COMMAND} --model=MODEL --topology=v5e --mode=train{FULL}\n\n"
        + table(("model", "mode", *KINDS), (make.smallest(name, mode) for name in names for mode in ("train", "score")))
    )  # fmt: skip
    sections.append(
        f"## GPUs\n\n{GPU.format(usable=GPU_MEMORY)}\n\n" + table(GPU_COLUMNS, _gpu_rows(names, length))
    )
    sections.append(make.arithmetic())
    return "\n\n".join(sections) + "\n", make.missing


class _Page:
    def __init__(self, compiler: Compiler, effort: str, length: int):
        self.compiler, self.effort, self.length = compiler, effort, length
        self.missing = 0
        self.used: dict[str, Result] = {}  # by key
        # Arithmetic / compiled, bytes of training with one row a chip: by what is recomputed.
        self.compared: dict[str, list[float]] = {}

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

    def recomputed(self, name: str, topology: str) -> list[str]:
        title = architectures()[name]
        try:
            choice = least_recomputation(self.job(name, topology, "train"), self.run)
        except Missing:
            self.missing += 1
            return [title, *[ABSENT] * (len(RECOMPUTED_COLUMNS) - 1)]
        for remat, result in choice.tried:
            if remat != LEANEST:  # which the tables above compare
                self.compare(dataclasses.replace(choice.job, remat=remat), result)
        return [title, ",".join(map(str, choice.job.mesh)), *recomputation_cells(choice)]

    def compare(self, job: Job, result: Result) -> None:
        """Notes how far the GPUs' arithmetic is off where there is a compile to hold it against."""
        parts = flops.device_bytes(
            job.model, job.storage, devices=job.mesh[1], rows=1, length=job.length, remat=job.remat, queries=0
        )
        self.compared.setdefault(job.remat, []).append(sum(parts.values()) / result.needed_bytes)

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
            found = (
                f"{min(values):.2f} to {max(values):.2f} ({name})"
                for name, values in sorted(self.compared.items(), key=lambda one: REMAT.index(one[0]))
            )
            lines.append(
                "Held against the compiles above (training, one row a chip, without scores), the same arithmetic gives "
                f"these multiples of what the TPU compiler planned, by what is recomputed: {', '.join(found)}."
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


def recomputation_cells(choice: Choice) -> list[str]:
    """GiB with each of config.REMAT as far as they were tried, and what was taken."""
    tried = {
        name: f"{result.gib:.1f}" if result.fits else f"{result.gib:.1f}: too many"
        for name, result in choice.tried
    }
    taken = choice.job.remat if choice.result.fits else "none fits"
    return [*(tried.get(name, ABSENT) for name in REMAT), taken]


def _gpu_rows(names: Sequence[str], length: int) -> Iterable[list[str]]:
    from rewardscale.models.attention import QUERIES

    for name in names:
        for label, topology in CARDS:
            parts, job = _leanest(name, topology, length, QUERIES)
            room = memory(topology) - sum(parts.values())
            a_row = parts["activations"] + parts["scores"]
            rows = 1 + int(room // a_row) if room >= 0 else 0
            kept = sum(parts[n] for n in ("parameters", "master", "moments", "gradients", "microbatch"))
            least = least_recomputation(job, by_arithmetic)
            yield [
                architectures()[name],
                label,
                "bfloat16" if job.storage.moments == "bfloat16" else "float32",
                f"{kept / 1e9:.1f}",
                f"{parts['gathered'] / 1e9:.1f}",
                f"{parts['activations'] / 1e9:.1f}",
                f"{parts['scores'] / 1e9:.1f}",
                f"{sum(parts.values()) / 1e9:.1f}",
                f"{least.job.remat} ({least.result.needed_bytes / 1e9:.1f})",
                f"{rows}" if rows else "does not fit",
            ]


def _leanest(name: str, topology: str, length: int, queries: int) -> tuple[dict[str, float], Job]:
    """Bytes of one row with float32 moments and gradients, or both in bfloat16 where only that fits; and its job."""
    model = presets.BACKBONES[name].model
    job = Job("train", model, topology, mesh_over(topology, model=model), length=length, remat=LEANEST)
    parts: dict[str, float] = {}
    narrow = dataclasses.replace(STORAGE, moments="bfloat16", gradients="bfloat16")
    for storage in (STORAGE, narrow):
        job = dataclasses.replace(job, storage=storage)
        parts = flops.device_bytes(
            model, storage, devices=chips(topology), rows=1, length=length, remat=LEANEST, queries=queries
        )
        if sum(parts.values()) <= memory(topology):
            break
    return parts, job


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
RECOMPUTED_COLUMNS = ("model", "mesh", *REMAT, "taken")
GPU_COLUMNS = (
    "model", "GPUs", "moments, gradients", "state", "gathered layers", "activations", "scores", "GB a GPU, 1 row",
    "least recomputation (GB)", "most rows a GPU",
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

RECOMPUTED = """`--remat=auto`, the default, tries what a layer keeps for its backward pass in the order of least
recomputation and takes the first that fits: "none" (recomputes nothing), "dots" (attention, and all that is no product
with weights), "attention" (the products), "full" (all). GiB a chip of {called} for one row of {length:,} tokens a chip;
what comes after the first that fits was not compiled.

Less recomputation goes before more rows a microbatch: "full" computes every forward pass twice, a third more operations
in every step, however many rows lie side by side. More rows do the same operations in fewer pieces; what they save is
paid once a microbatch, above all gathering the weights, which can run beside the layer before. That is reasoning, not a
measurement, and holds for rows of thousands of tokens, which keep a chip busy for as long as a gather takes: for
shorter ones say `--rows_per_chip`, and the least recomputation for so many rows is looked for. Where trees are many
thousand tokens long, attention costs more than products do, and "attention" recomputes less than "dots".

The largest number of rows is then that of the policy taken; the longest row is looked for with "full", and so is the
smallest slice: one twice as large costs twice, recomputation at most a third. What was taken is printed as overrides of
a training's config. With `--config` and `--sweep` the config says what is recomputed, unless `--remat=auto` is said."""

SMALLEST = (
    """The smallest slice of each kind on which one row of 4,096 tokens a chip fits, and its GiB a chip."""
)

GPU = """**Analytic: not compiled, not run.** GB (10^9 bytes) a GPU for one training step by the arithmetic of
`flops.device_bytes`: bfloat16 parameters, float32 master copy, all layers recomputed, rows of 4,096 tokens, state
shared by all GPUs, attention "chunked" (scores of 512 queries at a time). Moments and gradients are float32, or
bfloat16 where only that fits one row. "Least recomputation" is the first of none, dots, attention, full with which one
row fits. A GPU is taken to give {usable:.0%} of its memory. XLA's fusions, workspaces and fragmentation are not in it.
`--topology=h100:8` asks for the same of any model, in GiB."""
