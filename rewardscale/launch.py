"""Runs a sweep of reward models over pairs x curation level x model size, and draws its curves.

    python -m rewardscale.launch --config=sweep.py                       # the default sweep (a planted world)
    python -m rewardscale.launch --config=sweep.py:smoke                 # the same, under a minute
    python -m rewardscale.launch --config=sweep.py:votes --data_dir=DIR  # real people's votes (ukpconvarg1)
    python -m rewardscale.launch --config=sweep.py --dry_run             # what would run, and how long it takes

A bare file name is looked for in configs/. Any value of the config can be overridden, and a wrong key
or type is answered with the nearest right one:

    --config.sweep.draws=5 --config.sweep.pairs=300,3000 --config.runtime.workers=1
    --config.benchmarks=rm-bench,llmbar    each transformer scores them too (real text only); rows of results.parquet

Cells can run elsewhere, on machines that see the workdir under the same path:

    --executor=wandb              makes a wandb sweep of the cells not done, and says how to start its agents
    --executor=slurm              submits an array job whose tasks run the cells not done, nor in a job already
    --executor=... --dry_run      prints exactly what would be submitted
    --executor=slurm --cancel     ends its jobs; what is done stays, and what runs has saved its state
    --status                      how many cells are done, running, failed and queued
    --cell=RUN_ID                 runs one cell, which is what agents and other clusters' jobs call
    --collect                     runs nothing: table and report of what is done

Everything lands in --workdir (default runs/<name of the sweep>): corpus, runs, results.parquet,
figures/, report.html. Kill it whenever you like; the same command goes on where it stopped. The exit
code is 0 when every cell (of --cell) is done, 1 when some failed, 2 for bad input, 130 after Ctrl-C.

On several hosts start the same command on each, with one shared --workdir: each cell is then trained by all of them
(docs/pods.md). Processes that each take cells of their own from a shared --workdir say --num_processes=1.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rewardscale.cli import INTERRUPTED, add_host_flags, on_hosts
from rewardscale.sweeps import configfile
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
    workdir = options.workdir or Path("runs") / config.name
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
    if options.executor == "slurm" and not options.collect and plan.todo():
        return _slurm_job(plan, options, overrides)
    if options.dry_run:
        chosen = sweep.choose(plan, options.cell) if options.cell else plan.cells
        print(summary.dry_run(dataclasses.replace(plan, cells=chosen)))
        return 0
    if options.cell:
        ran = sweep.run_chosen(plan, options.cell, wandb=options.wandb)
        print(summary.chosen(plan, options.cell, ran))
        missing, interrupted = ran.failed, ran.interrupted
    else:
        outcome = (sweep.collect if options.collect else sweep.run)(plan, wandb=options.wandb)
        print(summary.closing(plan, outcome))
        missing, interrupted = outcome.missing, outcome.interrupted
    if interrupted:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return INTERRUPTED
    return 1 if missing else 0


def _wandb_sweep(plan: "sweep.Plan", options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Makes a wandb sweep of the cells that are not done, or prints it, or only writes its file."""
    from rewardscale.sweeps import summary, sweep
    from rewardscale.sweeps.executors import command, wandb_agents

    line = command.cells(options.config, overrides, plan.workdir, plan.data_dir)
    made = wandb_agents.definition(plan.config.name, plan.todo(), [*line, "--wandb=online"])
    if options.dry_run:
        print(summary.dry_run(plan))
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


def _slurm_job(plan: "sweep.Plan", options: argparse.Namespace, overrides: dict[str, str]) -> int:
    """Submits the cells that are neither done nor in a job of this folder already, or prints what would be."""
    from rewardscale.sweeps import summary, sweep
    from rewardscale.sweeps.executors import command, slurm

    there = {} if options.dry_run else slurm.queued(plan.workdir)
    cells = [c for c in plan.todo() if c.run_id not in there]
    line = command.cells(options.config, overrides, plan.workdir, plan.data_dir)
    made = slurm.job(
        plan.config.name,
        cells,
        [*line, f"--wandb={options.wandb}"],
        plan.workdir,
        stopped=INTERRUPTED,
        options=options.sbatch,
        cells_per_task=options.cells_per_task,
        at_once=options.at_once,
    )
    if options.dry_run:
        print(summary.dry_run(plan))
        print(
            f"{len(cells)} cells in {len(made.tasks)} tasks would be submitted as {made.folder / 'job.sh'}:"
        )
        print(made.script)
        return 0
    if there:
        print(f"{len(there)} cells are in a job already: {slurm.said(there)}")
    if cells:
        sweep.describe(plan)
        number = slurm.submit(made)
        print(
            f"job {number}: {len(cells)} cells in {len(made.tasks)} tasks; they print into {made.folder / 'log'}"
        )
    print(
        "--status says how far they are; afterwards: this command again, with --collect, writes table and report"
    )
    return 0


def _look(plan: "sweep.Plan", options: argparse.Namespace) -> int:
    """--status and --cancel."""
    from rewardscale.sweeps import status
    from rewardscale.sweeps.executors import slurm

    if options.cancel:
        print(f"{slurm.cancel(plan.workdir)} cells were in jobs of this folder, which are cancelled")
        return 0
    queued = slurm.queued(plan.workdir) if options.executor == "slurm" else None
    print(status.text(plan, status.status(plan, queued)))
    return 0


def _parse(arguments: list[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """Flags, and overrides as {"sweep.draws": "5"}."""
    parser = argparse.ArgumentParser(
        prog="python -m rewardscale.launch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "--config",
        required=True,
        metavar="FILE[:VARIANT]",
        help="a config file; a bare name is looked for in configs/",
    )
    parser.add_argument(
        "--workdir", type=Path, help="folder for everything the sweep makes (default: runs/<sweep name>)"
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
        "--wandb", choices=("off", "offline", "online"), default="off", help="also log to Weights & Biases"
    )
    parser.add_argument(
        "--executor",
        choices=("local", "slurm", "wandb"),
        default="local",
        help="what runs the cells: processes here, tasks of a Slurm array job, or agents of a wandb sweep made of "
        "those that are not done (with --wandb=offline its file is written and no sweep is made)",
    )
    parser.add_argument(
        "--sbatch",
        default="",
        metavar="OPTIONS",
        help="of Slurm, for each task: --sbatch='--partition=gpu --gres=gpu:1 --cpus-per-task=8 --time=8:00:00'",
    )
    parser.add_argument(
        "--cells_per_task", type=int, default=1, help="of Slurm: small cells share a task's start"
    )
    parser.add_argument(
        "--at_once", type=int, default=0, help="of Slurm: tasks that may run at the same time (0: no limit)"
    )
    parser.add_argument("--status", action="store_true", help="run nothing: print how far the sweep is")
    parser.add_argument("--cancel", action="store_true", help="of Slurm: end the jobs of this --workdir")
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
    if options.cell and (options.collect or options.status or options.executor != "local"):
        parser.error("--cell runs cells here, and neither collects nor hands them to another executor")
    if options.executor != "slurm" and (options.cancel or options.sbatch):
        parser.error("--cancel and --sbatch are of --executor=slurm")
    if options.cells_per_task < 1 or options.at_once < 0:
        parser.error("--cells_per_task must be at least 1 and --at_once not negative")
    return options, overrides


if __name__ == "__main__":
    sys.exit(main())
