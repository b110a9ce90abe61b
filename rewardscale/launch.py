"""Runs a sweep of reward models over pairs x curation level x model size, and draws its curves.

    python -m rewardscale.launch --config=sweep.py                       # the default sweep (a planted world)
    python -m rewardscale.launch --config=sweep.py:smoke                 # the same, under a minute
    python -m rewardscale.launch --config=sweep.py:votes --data_dir=DIR  # real people's votes (ukpconvarg1)
    python -m rewardscale.launch --config=sweep.py --dry_run             # what would run, and how long it takes

A bare file name is looked for in configs/. Any value of the config can be overridden, and a wrong key
or type is answered with the nearest right one:

    --config.sweep.draws=5 --config.sweep.pairs=300,3000 --config.runtime.workers=1
    --config.benchmarks=rm-bench,llmbar    each transformer scores them too (real text only); rows of results.parquet

Everything lands in --workdir (default runs/<name of the sweep>): corpus, runs, results.parquet,
figures/, report.html. Kill it whenever you like; the same command goes on where it stopped. The exit
code is 0 when every cell is done, 1 when some failed, 2 for bad input, 130 after Ctrl-C.
"""

import argparse
import sys
from pathlib import Path

from rewardscale.cli import exit_code
from rewardscale.sweeps import configfile


def main(arguments: list[str] | None = None) -> int:
    """Parses flags, runs the sweep, reports. Returns the exit code."""
    options, overrides = _parse(sys.argv[1:] if arguments is None else arguments)
    return exit_code(lambda: _launch(options, overrides), kept="nothing written so far is lost")


def _launch(options: argparse.Namespace, overrides: dict[str, str]) -> int:
    from rewardscale.sweeps import summary, sweep

    config, docstring = configfile.load(options.config, overrides)
    workdir = options.workdir or Path("runs") / config.name
    plan = sweep.plan(config, workdir, data_dir=options.data_dir, docstring=docstring)
    if options.dry_run:
        print(summary.dry_run(plan))
        return 0
    outcome = sweep.run(plan, wandb=options.wandb)
    print(summary.closing(plan, outcome))
    if outcome.interrupted:
        print("interrupted; the same command goes on where this one stopped", file=sys.stderr)
        return 130
    return 1 if outcome.missing else 0


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
    return configfile.parse_arguments(parser, arguments, example="--config.sweep.draws=5")


if __name__ == "__main__":
    sys.exit(main())
