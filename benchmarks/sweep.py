"""Where the default sweep's time goes, and how much of it its training steps are:

    python -m benchmarks.sweep [--workdir DIR]

Runs `rewardscale.launch --config=sweep.py` in a new folder with an empty compilation cache, as a new user would (three
to five minutes on two cores), and divides by the wall time. Rows "a worker" are sums over all runs by the number of
workers:

    steps alone    the steps that the runs took, by the seconds a step takes in as many processes side by side that do
                   nothing else (benchmarks/training_step.py): of the fastest pass of nine, and of the median one. They
                   are pinned to a core each; a worker is told of one core and left to the kernel's scheduler
    steps as run   what the runs' clocks say of waiting for the device, without what tracing and compiling took
    compiling      tracing, lowering, compiling, and reading from the cache, of training and of scoring
    evaluation     scoring 6,000 pairs a run, without compiling
    rest of runs   preparing data, metrics, statistics, files
    between        what is left: workers that wait for a cell, or for the last one to end

The first three rows of the launch are of one process: until the data's folder is there, until sweep.json is (corpus,
tokens, the list of cells), and until the first run is.
"""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import machine

WORKERS = os.cpu_count() or 1


def launch(workdir: Path, cache: Path) -> tuple[float, float]:
    """Unix time of start and end of the sweep."""
    started = time.time()
    subprocess.run(
        [sys.executable, "-m", "rewardscale.launch", "--config=sweep.py", f"--workdir={workdir}"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)},
        check=True,
    )
    return started, time.time()


def seconds_a_step() -> dict[str, tuple[float, float]]:
    """By model, of the fastest and of the median pass: means over WORKERS processes that measure at the same time."""
    command = [sys.executable, "-m", "benchmarks.training_step", "--seconds_a_step"]
    running = [
        subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
        for core in range(WORKERS)
    ]
    found = [json.loads(process.communicate()[0].strip().splitlines()[-1]) for process in running]
    fastest, median = (
        {name: sum(one[name][i] for one in found) / len(found) for name in found[0]} for i in (0, 1)
    )
    return {name: (fastest[name], median[name]) for name in fastest}


def of_runs(workdir: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Steps by model, and seconds in each part of the runs, over all of them."""
    steps, parts = collections.Counter[str](), collections.defaultdict[str, float](float)
    for done in (workdir / "runs").glob("*/DONE"):
        config = json.loads((done.parent / "config.json").read_text())
        record = json.loads((done.parent / "result.json").read_text())["record"]
        steps[f"w{config['model']['width']}"] += record["steps"]
        clocks = sum(record[f"{part}_seconds"] for part in ("device", "data", "checkpoint", "eval"))
        parts["steps as run"] += record["device_seconds"] - record["compile_seconds"]
        parts["compiling"] += record["compile_seconds"] + record["eval_compile_seconds"]
        parts["evaluation"] += record["eval_seconds"] - record["eval_compile_seconds"]
        parts["data"] += record["data_seconds"]
        parts["checkpoint"] += record["checkpoint_seconds"]
        began, ended = ((done.parent / name).stat().st_mtime for name in ("config.json", "DONE"))
        parts["rest of runs"] += ended - began - clocks
    return dict(steps), dict(parts)


def around_runs(workdir: Path, started: float, ended: float) -> dict[str, float]:
    """Seconds before the first run and after the last, by when files were written."""
    first = min(path.stat().st_mtime for path in (workdir / "runs").glob("*/config.json"))
    last = max(path.stat().st_mtime for path in (workdir / "runs").glob("*/DONE"))
    data = min(path.stat().st_mtime for path in (workdir / "data").glob("*/lock"))
    described, table = ((workdir / name).stat().st_mtime for name in ("sweep.json", "missing.json"))
    times = {
        "starting": (started, data),
        "corpus and cells": (data, described),
        "starting workers": (described, first),
        "table": (last, table),
        "report": (table, ended),
    }
    return {name: end - begin for name, (begin, end) in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, help="kept; by default a temporary folder")
    options = parser.parse_args()
    print(machine.heading("jax", "jaxlib"))
    with tempfile.TemporaryDirectory() as scratch:
        workdir = options.workdir or Path(scratch) / "sweep"
        started, ended = launch(workdir, Path(scratch) / "cache")
        steps, parts = of_runs(workdir)
        around = around_runs(workdir, started, ended)
    alone = seconds_a_step()
    wall = ended - started
    needed = [sum(count * alone[name][i] for name, count in steps.items()) / WORKERS for i in (0, 1)]
    of_worker = {f"{name}, a worker": seconds / WORKERS for name, seconds in parts.items()}
    rows = {"wall": wall, "steps alone, fastest pass": needed[0], "steps alone, median pass": needed[1]}
    rows |= of_worker | around
    rows["between"] = wall - sum(of_worker.values()) - sum(around.values())
    print("\n| | seconds | share of the wall time |\n|---|---|---|")
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.1f} | {seconds / wall:.0%} |")
    print("\n| model | steps | microseconds a step alone, fastest pass | median pass |\n|---|---|---|---|")
    for name, count in sorted(steps.items(), key=lambda item: int(item[0][1:])):
        print(f"| {name} | {count:,} | {1e6 * alone[name][0]:.0f} | {1e6 * alone[name][1]:.0f} |")


if __name__ == "__main__":
    main()
