"""Says what fits on which TPU slice, by asking the real TPU compiler; no TPU is needed and nothing is run.

    python -m rewardscale.plan --model=qwen3-0.6b --topology=v5e:16x16            # most rows and longest row that fit
    python -m rewardscale.plan --model=qwen3-0.6b --topology=v5e                  # the smallest v5e slice that fits
    python -m rewardscale.plan --model=llama3.1-8b --topology=v5p:4x4x4 --rows_per_chip=4 --length=8192   # that alone
    python -m rewardscale.plan --config=skywork_v2.py:qwen3-8b                    # a training's own step, on its slice
    python -m rewardscale.plan --sweep=paper_curves.py:scaling                    # the same of each model of a sweep
    python -m rewardscale.plan --table                                            # docs/plan.md: all presets
    python -m rewardscale.plan --model=qwen3-8b --topology=h100:8                 # GPUs: arithmetic, nothing compiled

What the backward pass computes again is chosen (--remat=auto): none, dots, attention, full, the first that fits
(docs/plan.md says why). What was tried is printed, and what to tell a training's config. --config and --sweep take the
config's own, or look for it if --remat=auto is said.

A compile takes half a minute to some minutes; each is kept in --cache, so the same command goes on where it
stopped. The exit code is 0 if what was asked fits, 1 if it does not or a compile failed, 2 for bad input, 130
after Ctrl-C.
"""

import argparse
import dataclasses
import difflib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rewardscale import exits
from rewardscale.cli import exit_code
from rewardscale.config import ATTENTION, REMAT, ConfigError, Storage, TrainConfig
from rewardscale.sweeps import configfile

if TYPE_CHECKING:
    from rewardscale.training import planning

    Ask = Callable[[planning.Job], planning.Result]

AUTO = "auto"


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, compiles what is not cached, prints a table. Returns the exit code."""
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _run(options, overrides), computes=False)  # compilers are processes of their own


def _run(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.training.planning import CompileError

    try:
        if options.config:
            return _recipe(options, overrides)
        if options.sweep:
            return _sweep(options, overrides)
        return _table(options) if options.table else _plan(options)
    except CompileError as error:
        print(f"error: the compile failed: {error}", file=sys.stderr)
        return 1


def _recipe(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """The step of a training's config: its types, mesh, microbatch and rows."""
    from rewardscale.training import dry_run

    config, _ = configfile.load(options.config, overrides, kind=TrainConfig)
    job = dry_run.step_job(config, topology=options.topology, slots=options.slots, effort=options.effort)
    done, fits = _step(options, options.config, job)
    if options.remat == AUTO and fits:
        print(f"recommended: --config.runtime.remat={done.remat}")
    return 0 if fits else 1


def _sweep(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """The steps of a sweep's models."""
    from rewardscale.sweeps import pricing
    from rewardscale.training import dry_run

    config, _ = configfile.load(options.sweep, overrides)
    taken, everything_fits = [], True
    for model in dict.fromkeys(name for name, _ in pricing.of_grid(config)):
        training = pricing.training_of(config, model, pairs=1)
        job = dry_run.step_job(
            training, topology=options.topology, slots=options.slots, effort=options.effort
        )
        done, fits = _step(options, model, job)
        taken.append(REMAT.index(done.remat))
        everything_fits &= fits
    if options.remat == AUTO and everything_fits:
        print(f"recommended, with which all fit: --config.runtime.remat={REMAT[max(taken)]}")
    return 0 if everything_fits else 1


def _step(options: argparse.Namespace, title: str, job: "planning.Job") -> tuple["planning.Job", bool]:
    """Asks about a step and says whether it fits; the job with what it recomputes."""
    from rewardscale.training import planning

    ask = _asked(options, job.topology)
    if options.remat == AUTO:
        job = _chosen(title, job, ask)
    result = ask(job)
    print(f"{title}, {planning.describe(job)}, {job.slots} trees a row: {planning.verdict(job, result)}")
    return job, result.fits


def _chosen(title: str, job: "planning.Job", ask: "Ask") -> "planning.Job":
    """The job with the least recomputation with which it fits; prints what was tried."""
    from rewardscale.training import plan_table, searches

    choice = searches.least_recomputation(job, ask)
    print(f"{title}, GiB with {job.rows} x {job.length:,} tokens a chip, by what is recomputed:")
    plan_table.printed((*REMAT, "taken"), [plan_table.recomputation_cells(choice)])
    return choice.job


def _plan(options: argparse.Namespace) -> int:
    """One model on one slice."""
    from rewardscale.models import presets
    from rewardscale.training import planning

    if options.model not in presets.BACKBONES:
        near = difflib.get_close_matches(options.model, presets.BACKBONES, n=1, cutoff=0.0)
        raise ConfigError(
            f"--model={options.model!r} must be one of {', '.join(presets.BACKBONES)}; did you mean {near[0]!r}?"
        )
    kind, _, shape = options.topology.partition(":")
    if planning.is_gpu(options.topology) and not shape:
        raise ConfigError(
            f"--topology={options.topology}: say how many, as '{options.topology}:8'; the smallest slice is looked "
            f"for of TPUs alone, whose kind must be one of {', '.join(planning.SLICES)}"
        )
    modes = ("train", "score") if options.mode == "both" else (options.mode,)
    if planning.is_gpu(options.topology) and options.mode == "both":
        modes = ("train",)  # of scoring there is no arithmetic
    fits = [_mode(options, mode, kind, shape) for mode in modes]
    return 0 if all(fits) else 1


def _mode(options: argparse.Namespace, mode: str, kind: str, shape: str) -> bool:
    """Whether training or scoring fits; prints what was found."""
    from rewardscale.models import presets
    from rewardscale.training import plan_table, planning, searches

    automatic = mode == "train" and options.remat in ("", AUTO)
    model, ask = presets.BACKBONES[options.model].model, _asked(options, options.topology)
    topology = options.topology if shape else f"{kind}:{planning.SLICES.get(kind, ('',))[0]}"
    job = planning.Job(
        mode,
        model,
        topology,
        planning.mesh_over(topology, _sizes(options.mesh) if shape else None, model=model),
        rows=options.rows_per_chip or 1,
        length=options.length,
        storage=Storage(options.parameters, options.moments, options.gradients),
        remat=searches.LEANEST if automatic or mode == "score" else options.remat,
        attention=options.attention,
        effort=options.effort,
    )
    if not shape:
        found = searches.smallest_slice(kind, job, ask)
        if found is None:
            print(f"{options.model}, {mode}: fits no slice of {kind} up to {planning.SLICES[kind][-1]}")
            return False
        job = found[0]
    if automatic:
        job = _chosen(f"{options.model}, {job.topology} as {job.mesh}", job, ask)
    if options.rows_per_chip or not shape:
        result, rows = ask(job), job.rows
        print(f"{options.model}, {planning.describe(job)}: {planning.verdict(job, result)}")
    else:
        longest_with = searches.LEANEST if automatic else job.remat
        done = searches.plan(
            job, ask, context=plan_table.longest_context(options.model), longest_with=longest_with
        )
        with_it = "" if mode == "score" else f", remat={job.remat}"
        print(f"{options.model}, {mode}, {topology} as {job.mesh}, {options.length:,} tokens a row{with_it}:")
        columns: list[str] = [*plan_table.POD_COLUMNS]
        if longest_with != job.remat:
            columns[-1] = f"longest row, remat={longest_with} (GiB)"
        plan_table.printed(columns, [[options.model, *plan_table.pod_cells(done)]])
        result, rows = done.base, done.rows
    if automatic and result.fits:
        print(f"recommended: {searches.overrides(job, rows)}")
    return result.fits


def _table(options: argparse.Namespace) -> int:
    """All presets: docs/plan.md."""
    from rewardscale import atomic
    from rewardscale.training import plan_table

    compiler = _compiler(options)
    text, missing = plan_table.page(compiler, effort=options.effort, length=options.length)
    atomic.write_bytes(options.out, text.encode())
    print(f"{options.out}: {compiler.compiled} new compiles, {missing} cells without a compile")
    return 1 if missing else 0


def _asked(options: argparse.Namespace, topology: str) -> "Ask":
    """Whoever answers jobs of this topology: the TPU compiler and its cache, or arithmetic."""
    from rewardscale.training import planning

    return planning.by_arithmetic if planning.is_gpu(topology) else _compiler(options)


def _compiler(options: argparse.Namespace) -> "planning.Compiler":
    from rewardscale.training.planning import Compiler

    return Compiler(
        options.cache,
        fresh=options.fresh,
        offline=options.offline,
        report=lambda line: print(line, file=sys.stderr, flush=True),
    )


def _sizes(text: str) -> list[int] | None:
    try:
        return [int(n) for n in text.split(",")] if text else None
    except ValueError as error:
        raise ConfigError(f"--mesh={text}: three whole numbers, as in 1,-1,1") from error


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.plan", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    from rewardscale.training.planning import default_cache

    default = Storage(parameters="bfloat16")
    types = ("float32", "bfloat16")
    add = parser.add_argument
    add(
        "--config",
        default="",
        metavar="FILE[:VARIANT]",
        help="of a training; says all but --effort, --slots and cache",
    )
    add("--sweep", default="", metavar="FILE[:VARIANT]", help="of a sweep: the same, for each of its models")
    add(
        "--slots",
        type=int,
        default=0,
        help="with --config and --sweep: trees a row (default: what its assumed lengths need)",
    )
    add("--model", default="", help="a preset, e.g. qwen3-0.6b")
    add(
        "--topology",
        default="",
        help="a slice (v5e:16x16, v5p:4x4x4), a kind of chip (v5e): its smallest slice; or GPUs (h100:8)",
    )
    add("--mode", choices=("train", "score", "both"), default="both")
    add("--length", type=int, default=4096, help="tokens a row")
    add(
        "--rows_per_chip", type=int, default=0, help="ask about this size alone (default: search the largest)"
    )
    add("--mesh", default="", help="data,fsdp,tensor; one may be -1 (default: fsdp up to width / 128)")
    for field in dataclasses.fields(Storage):
        add(f"--{field.name}", choices=types, default=getattr(default, field.name))
    add(
        "--remat",
        choices=(AUTO, *REMAT),
        default="",
        help="what a layer saves for the backward pass; auto: as much as fits (default: auto, or the config's)",
    )
    add("--attention", choices=ATTENTION, default="auto")
    add(
        "--effort",
        choices=("O0", "O1", "O2", "O3"),
        default="O0",
        help="of the compiler; its own default is O2",
    )
    add(
        "--cache",
        type=Path,
        default=default_cache(),
        help="folder of finished compiles (default: %(default)s)",
    )
    add("--fresh", action="store_true", help="compile again what was compiled from other sources")
    add("--offline", action="store_true", help="compile nothing: only what the cache holds")
    add("--table", action="store_true", help="all presets on all slices, as a page")
    add("--out", type=Path, default=Path("docs/plan.md"), help="where --table writes")
    options, overrides = configfile.parse_arguments(
        parser, arguments, example="--config.runtime.row_length=8192"
    )
    said = ("model", "mode", "length", "rows_per_chip", "mesh", "remat", "attention", "table")
    said += tuple(field.name for field in dataclasses.fields(Storage))
    if options.config and options.sweep:
        parser.error("--config is of a training, --sweep of a sweep: one of them")
    for name in said if options.config or options.sweep else ():
        if getattr(options, name) not in (parser.get_default(name), AUTO if name == "remat" else None):
            parser.error(
                f"--{name} is for a preset; with --config and --sweep it is said by the config (--config.KEY=VALUE)"
            )
    if overrides and not (options.config or options.sweep):
        parser.error("overrides are of a config: name it with --config or --sweep")
    if not (options.table or options.config or options.sweep) and not (options.model and options.topology):
        parser.error("--model and --topology are needed, or --config, --sweep or --table")
    if options.length < 1 or options.rows_per_chip < 0:
        parser.error("--length must be at least 1, --rows_per_chip at least 0")
    return options, overrides


if __name__ == "__main__":
    sys.exit(main())
