"""Runs a sweep of reward models over pairs x curation level x model size, and draws its curves.

    python -m rewardscale.launch --config=sweep.py                       # the default sweep (a planted world)
    python -m rewardscale.launch --config=sweep.py:smoke                 # the same, under a minute
    python -m rewardscale.launch --config=sweep.py:votes --data_dir=DIR  # real people's votes (ukpconvarg1)
    python -m rewardscale.launch --config=sweep.py --dry_run             # what would run, and how long it takes
    python -m rewardscale.launch --config=paper_curves.py:scaling --dry_run --without_data   # hours of a slice, cost

A bare file name is looked for in configs/. Any value of the config can be overridden, and a wrong key
or type is answered with the nearest right one:

    --config.sweep.draws=5 --config.sweep.pairs=300,3000 --config.runtime.workers=1
    --config.benchmarks=rm-bench,llmbar    each transformer scores them too (real text only); rows of results.parquet

Cells can run elsewhere, on machines that see the workdir under the same path:

    --executor=wandb              makes a wandb sweep of the cells not done, and says how to start its agents
    --executor=slurm              submits an array job whose tasks run the cells not done, nor in a job already
    --executor=kubernetes         the same as JobSets, on CPUs, GPUs or TPU slices (launch/kubernetes/README.md)
    --executor=tpu_vm             the same as queued resources of Google's TPU VMs (launch/tpu_vm/README.md)
    --executor=... --dry_run      prints exactly what would be submitted
    --executor=... --cancel       ends its jobs; what is done stays, and what runs has saved its state
    --status                      how many cells are done, running, failed and queued
    --cell=RUN_ID                 runs one cell, which is what agents and other clusters' jobs call
    --collect                     runs nothing: table and report of what is done

Everything lands in --workdir (default runs/<name of the sweep>): corpus, runs, results.parquet,
figures/, report.html. With --workdir=s3://bucket/sweep, or gs://..., machines that share nothing else share the cells
(docs/storage.md). Kill it whenever you like; the same command goes on where it stopped. The exit
code is 0 when every cell (of --cell) is done, 1 when some failed, 2 for bad input, 75 where the machine was at fault
(listed at the end of --help), 130 after Ctrl-C or SIGTERM.

On several hosts start the same command on each, with one shared --workdir: each cell is then trained by all of them
(docs/hosts.md). Processes that each take cells of their own from a shared --workdir say --num_processes=1.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rewardscale import exits, platforms
from rewardscale.cli import add_host_flags, on_hosts, workdir_of
from rewardscale.sweeps import configfile
from rewardscale.sweeps.executors import clusters
from rewardscale.training.tracker import PROJECT, create_sweep

if TYPE_CHECKING:
    from rewardscale.sweeps import sweep


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, runs the sweep, reports. Returns the exit code."""
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    return on_hosts(options, lambda: _launch(options, overrides), kept="nothing written so far is lost")


def _launch(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale import mesh
    from rewardscale.sweeps import sweep

    config, docstring = configfile.load(options.config, overrides)
    if options.without_data:
        from rewardscale.sweeps import pricing

        priced = pricing.price(config, pricing.of_grid(config))
        print(pricing.page(config, priced, chip_hour_price=options.chip_hour_price))
        return 0
    workdir = workdir_of(options.workdir or Path("runs") / config.name)
    platforms.keep_loaded()
    plan = mesh.once(lambda: sweep.plan(config, workdir, data_dir=options.data_dir, docstring=docstring))
    if mesh.hosts() == 1:
        return _run(plan, options, overrides)
    from rewardscale.sweeps.executors import hosts

    mesh.check_same(" ".join(cell.run_id for cell in plan.cells), "the sweep's cells")
    if mesh.host_zero():
        return hosts.end(_run(plan, options, overrides))
    return hosts.follow(plan.cells, plan.context())


def _run(plan: "sweep.Plan", options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.sweeps import summary, sweep

    if options.status or options.cancel:
        return _look(plan, options)
    if options.executor == "wandb" and not options.collect and plan.todo():
        return _wandb_sweep(plan, options, overrides)
    if options.executor in clusters.CLUSTERS and not options.collect and plan.todo():
        return _submit(plan, options, overrides)
    if options.dry_run:
        chosen = sweep.choose(plan, options.cell) if options.cell else plan.cells
        print(_laid_out(dataclasses.replace(plan, cells=chosen), options))
        return 0
    if options.cell:
        ran = sweep.run_chosen(plan, options.cell, wandb=options.wandb)
        print(summary.chosen(plan, options.cell, ran))
        missing, interrupted, again = ran.failed, ran.interrupted, ran.again
    else:
        outcome = (sweep.collect if options.collect else sweep.run)(plan, wandb=options.wandb)
        if not outcome.interrupted:
            print(summary.closing(plan, outcome))
        missing, interrupted, again = outcome.missing, outcome.interrupted, outcome.again
    if interrupted:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return exits.INTERRUPTED
    if missing:
        return exits.AGAIN if again else exits.FAILED
    return exits.DONE


def _laid_out(plan: "sweep.Plan", options: argparse.Namespace) -> str:
    """What a dry run prints of a sweep: on a CPU, and on the slice that its config names."""
    from rewardscale.sweeps import pricing, summary

    text = summary.dry_run(plan)
    if plan.config.assumed.topology:
        text += f"\n\n{pricing.of_plan(plan, chip_hour_price=options.chip_hour_price)}"
    return text


def _wandb_sweep(plan: "sweep.Plan", options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Makes a wandb sweep of the cells that are not done, or prints it, or only writes its file."""
    from rewardscale.sweeps import sweep
    from rewardscale.sweeps.executors import command, wandb_agents

    line = command.cells(options.config, overrides, plan.workdir, plan.data_dir)
    made = wandb_agents.definition(plan.config.name, plan.todo(), [*line, "--wandb=online"])
    if options.dry_run:
        print(_laid_out(plan, options))
        print(f"a wandb sweep would be made of this definition:\n{wandb_agents.text(made)}", end="")
        return 0
    sweep.describe(plan)
    path = wandb_agents.write(made, plan.workdir)
    if options.wandb == "offline":
        print(f"wrote {path}; `wandb sweep --project {PROJECT} {path}` makes the sweep")
    else:
        print(f"wrote {path}", flush=True)
        print(f"on each machine, in this environment: wandb agent --forward-signals {create_sweep(made)}")
    print("afterwards: this command again, with --collect, writes table and report")
    return 0


def _submit(plan: "sweep.Plan", options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Hands the cells that are neither done nor in the cluster's queue to it, or prints what would be handed over."""
    from rewardscale.sweeps import sweep
    from rewardscale.sweeps.executors import command
    from rewardscale.sweeps.executors.local import in_order
    from rewardscale.sweeps.executors.submission import batched, said

    cluster = clusters.CLUSTERS[options.executor]
    there = {} if options.dry_run else cluster.queued(plan.workdir, options)
    cells = in_order([c for c in plan.todo() if c.run_id not in there])
    line = command.cells(options.config, overrides, plan.workdir, plan.data_dir)
    made = cluster.submission(
        plan.config.name,
        batched([c.run_id for c in cells], options.cells_per_task),
        [*line, f"--wandb={options.wandb}"],
        plan.workdir,
        options,
    )
    counted = f"{len(cells)} cells in {len(made.tasks)} tasks"
    if options.dry_run:
        print(f"{_laid_out(plan, options)}\n{counted} would be submitted {made.shown}")
        return 0
    if there:
        print(f"{len(there)} cells are in a job already: {said(there)}")
    if cells:
        sweep.describe(plan)
        print(f"{counted}: {made.submit()}")
    print(
        "--status says how far they are; afterwards: this command again, with --collect, writes table and report"
    )
    return 0


def _look(plan: "sweep.Plan", options: argparse.Namespace) -> int:
    """--status and --cancel."""
    from rewardscale.sweeps import status

    cluster = clusters.CLUSTERS.get(options.executor)
    if options.cancel and cluster:
        print(
            f"{cluster.cancel(plan.workdir, options)} cells were in jobs of this folder, which are cancelled"
        )
        return 0
    queued = cluster.queued(plan.workdir, options) if cluster else None
    print(status.text(plan, status.status(plan, queued)))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Flags, and overrides as {"sweep.draws": "5"}."""
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False, epilog=exits.AGAIN_HELP,
    )  # fmt: skip
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="a config file; a bare name is looked for in configs/",
    )
    parser.add_argument(
        "--workdir",
        metavar="DIR|URL",
        help="folder for everything the sweep makes, or s3://..., gs://... (default: runs/<sweep name>)",
    )
    parser.add_argument(
        "--data_dir",
        type=Path,
        help="folder of real data sets (default: the environment variable REWARDSCALE_DATA)",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="print cells, pairs, tokens, FLOPs and estimated time; train nothing",
    )
    parser.add_argument(
        "--without_data",
        action="store_true",
        help="with --dry_run: hours and cost of the grid on the slice config.assumed.topology, pairs as long as "
        "config.assumed says; the data need not be there",
    )
    parser.add_argument(
        "--chip_hour_price",
        type=float,
        default=0.0,
        metavar="PRICE",
        help="with --dry_run, and a slice in config.assumed.topology: what a chip costs an hour, in any currency",
    )
    parser.add_argument(
        "--wandb", choices=("off", "offline", "online"), default="off", help="also log to Weights & Biases"
    )
    parser.add_argument(
        "--executor",
        choices=("local", *clusters.CLUSTERS, "wandb"),
        default="local",
        help="what runs the cells: processes here, tasks of a Slurm array job, JobSets of a Kubernetes cluster, TPU "
        "VMs, or agents of a wandb sweep made of those that are not done (with --wandb=offline its file is written and "
        "no sweep is made)",
    )
    parser.add_argument(
        "--cells_per_task", type=int, default=1, help="of clusters: small cells share a task's start"
    )
    parser.add_argument("--status", action="store_true", help="run nothing: print how far the sweep is")
    parser.add_argument("--cancel", action="store_true", help="of clusters: end the jobs of this --workdir")
    own_flags = clusters.add_flags(parser)
    parser.add_argument(
        "--cell",
        action="append",
        default=[],
        metavar="RUN_ID[,RUN_ID]",
        help="run these cells alone and make no table: what agents and jobs of clusters call; repeatable",
    )
    parser.add_argument(
        "--collect",
        action="store_true",
        help="run nothing: table and report of the cells that are done, whoever ran them",
    )
    add_host_flags(parser)
    options, overrides = configfile.parse_arguments(parser, arguments, example="--config.sweep.draws=5")
    options.cell = [run_id for given in options.cell for run_id in given.split(",") if run_id]
    if (options.without_data or options.chip_hour_price) and not options.dry_run:
        parser.error("--without_data and --chip_hour_price are for --dry_run")
    if options.without_data and (options.cell or options.executor != "local"):
        parser.error(
            "--without_data knows no run ids, which follow from the data: neither --cell nor --executor"
        )
    if options.chip_hour_price < 0:
        parser.error("--chip_hour_price must not be negative")
    if options.cell and (options.collect or options.status or options.executor != "local"):
        parser.error("--cell runs cells here, and neither collects nor hands them to another executor")
    clusters.check(parser, options, own_flags)
    return options, overrides


if __name__ == "__main__":
    sys.exit(main())
