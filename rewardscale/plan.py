"""Says what fits on which TPU slice, by asking the real TPU compiler; no TPU is needed and nothing is run.

    python -m rewardscale.plan --model=qwen3-0.6b --topology=v5e:16x16            # most rows and longest row that fit
    python -m rewardscale.plan --model=qwen3-0.6b --topology=v5e                  # the smallest v5e slice that fits
    python -m rewardscale.plan --model=llama3.1-8b --topology=v5p:4x4x4 --rows_per_chip=4 --length=8192   # that alone
    python -m rewardscale.plan --config=skywork_v2.py:qwen3-8b                    # a training's own step, on its slice
    python -m rewardscale.plan --sweep=paper_curves.py:scaling                    # the same of each model of a sweep
    python -m rewardscale.plan --table                                            # docs/plan.md: all presets

A compile takes half a minute to some minutes; each is kept in --cache, so the same command goes on where it
stopped. The exit code is 0 if what was asked fits, 1 if it does not or a compile failed, 2 for bad input, 130
after Ctrl-C.
"""

import argparse
import dataclasses
import difflib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rewardscale import exits
from rewardscale.cli import exit_code
from rewardscale.config import ATTENTION, REMAT, ConfigError, Storage, TrainConfig
from rewardscale.sweeps import configfile

if TYPE_CHECKING:
    from rewardscale.training import planning


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, compiles what is not cached, prints a table. Returns the exit code."""
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _run(options, overrides))


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
    return 0 if _step(options, options.config, job, _compiler(options)) else 1


def _sweep(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """The steps of a sweep's models."""
    from rewardscale.sweeps import pricing
    from rewardscale.training import dry_run

    config, _ = configfile.load(options.sweep, overrides)
    compiler, everything_fits = _compiler(options), True
    for model in dict.fromkeys(name for name, _ in pricing.of_grid(config)):
        training = pricing.training_of(config, model, pairs=1)
        job = dry_run.step_job(
            training, topology=options.topology, slots=options.slots, effort=options.effort
        )
        everything_fits &= _step(options, model, job, compiler)
    return 0 if everything_fits else 1


def _step(
    options: argparse.Namespace, title: str, job: "planning.Job", compiler: "planning.Compiler"
) -> bool:
    """Compiles a step and says whether it fits."""
    from rewardscale.training import planning

    result = compiler(job)
    print(f"{title}, {planning.describe(job)}, {job.slots} trees a row: {planning.verdict(job, result)}")
    return result.fits


def _plan(options: argparse.Namespace) -> int:
    """One model on one slice."""
    from rewardscale.models import presets
    from rewardscale.training import plan_table, planning

    if options.model not in presets.BACKBONES:
        near = difflib.get_close_matches(options.model, presets.BACKBONES, n=1, cutoff=0.0)
        raise ConfigError(
            f"--model={options.model!r} must be one of {', '.join(presets.BACKBONES)}; did you mean {near[0]!r}?"
        )
    if planning.is_gpu(options.topology):
        raise ConfigError(
            f"--topology={options.topology}: the compiler is that of TPUs, so the kind of chip must be one of "
            f"{', '.join(planning.SLICES)}; docs/plan.md has GPUs"
        )
    model = presets.BACKBONES[options.model].model
    compiler = _compiler(options)
    kind, _, shape = options.topology.partition(":")
    everything_fits = True
    for mode in ("train", "score") if options.mode == "both" else (options.mode,):
        topology = options.topology if shape else f"{kind}:{planning.SLICES.get(kind, ('',))[0]}"
        job = planning.Job(
            mode,
            model,
            topology,
            planning.mesh_over(topology, _sizes(options.mesh) if shape else None, model=model),
            rows=options.rows_per_chip or 1,
            length=options.length,
            storage=Storage(options.parameters, options.moments, options.gradients),
            remat=options.remat,
            attention=options.attention,
            effort=options.effort,
        )
        if not shape:
            found = planning.smallest_slice(kind, job, compiler)
            if found is None:
                print(f"{options.model}, {mode}: fits no slice of {kind} up to {planning.SLICES[kind][-1]}")
                everything_fits = False
                continue
            job = found[0]
        if options.rows_per_chip or not shape:
            result = compiler(job)
            print(f"{options.model}, {planning.describe(job)}: {planning.verdict(job, result)}")
            everything_fits &= result.fits
            continue
        done = planning.plan(job, compiler, context=plan_table.longest_context(options.model))
        print(f"{options.model}, {mode}, {topology} as {job.mesh}, {options.length:,} tokens a row:")
        plan_table.printed(plan_table.POD_COLUMNS, [[options.model, *plan_table.pod_cells(done)]])
        everything_fits &= done.base.fits
    return 0 if everything_fits else 1


def _table(options: argparse.Namespace) -> int:
    """All presets: docs/plan.md."""
    from rewardscale import atomic
    from rewardscale.training import plan_table

    compiler = _compiler(options)
    text, missing = plan_table.page(compiler, effort=options.effort, length=options.length)
    atomic.write_bytes(options.out, text.encode())
    print(f"{options.out}: {compiler.compiled} new compiles, {missing} cells without a compile")
    return 1 if missing else 0


def _compiler(options: argparse.Namespace):
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
        help="a slice (v5e:16x16, v5p:4x4x4), or a kind of chip (v5e): its smallest slice",
    )
    add("--mode", choices=("train", "score", "both"), default="both")
    add("--length", type=int, default=4096, help="tokens a row")
    add(
        "--rows_per_chip", type=int, default=0, help="ask about this size alone (default: search the largest)"
    )
    add("--mesh", default="", help="data,fsdp,tensor; one may be -1 (default: fsdp up to width / 128)")
    for field in dataclasses.fields(Storage):
        add(f"--{field.name}", choices=types, default=getattr(default, field.name))
    add("--remat", choices=REMAT, default="full", help="what a layer saves for the backward pass")
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
        if getattr(options, name) != parser.get_default(name):
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
