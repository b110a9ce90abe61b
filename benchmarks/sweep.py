"""How much of the default sweep's time its training steps are: python -m benchmarks.sweep [--workdir DIR]

Runs `rewardscale.launch --config=sweep.py` in a new folder with an empty compilation cache, as a new user would (about
ten minutes on two cores), and divides by the wall time:

    steps alone   the steps that its runs took, by the seconds a step takes in as many processes side by side that do
                  nothing else (benchmarks/training_step.py, the seconds of the fastest pass of nine)
    steps as run  what the runs' clocks say of waiting for the device, compiling included

The rest is starting processes, corpus, data, compiling, evaluation, table and report.
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


def launch(workdir: Path, cache: Path) -> float:
    """Wall seconds of the sweep."""
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "rewardscale.launch", "--config=sweep.py", f"--workdir={workdir}"],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)},
        check=True,
    )
    return time.perf_counter() - started


def seconds_a_step() -> dict[str, float]:
    """By model, mean over WORKERS processes that measure at the same time."""
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
    return {name: sum(one[name] for one in found) / len(found) for name in found[0]}


def clocks(workdir: Path) -> tuple[dict[str, int], dict[str, float]]:
    """Steps by model, and seconds in each part of the runs, over all of them."""
    steps, parts = collections.Counter[str](), collections.Counter[str]()
    for done in (workdir / "runs").glob("*/DONE"):
        config = json.loads((done.parent / "config.json").read_text())
        lines = [json.loads(line) for line in (done.parent / "metrics.jsonl").read_text().splitlines()]
        steps[f"w{config['model']['width']}"] += len(lines)
        for part in ("data", "device", "checkpoint"):
            parts[part] += sum(line[f"{part}_seconds"] for line in lines)
        parts["evaluation"] += json.loads((done.parent / "result.json").read_text())["record"]["eval_seconds"]
    return dict(steps), dict(parts)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", type=Path, help="kept; by default a temporary folder")
    options = parser.parse_args()
    print(machine.heading("jax", "jaxlib"))
    with tempfile.TemporaryDirectory() as scratch:
        workdir = options.workdir or Path(scratch) / "sweep"
        wall = launch(workdir, Path(scratch) / "cache")
        steps, parts = clocks(workdir)
    alone = seconds_a_step()
    needed = sum(count * alone[name] for name, count in steps.items()) / WORKERS
    print("\n| | seconds | share of the wall time |\n|---|---|---|")
    rows = {"wall": wall, "steps alone": needed}
    rows |= {
        f"{'steps as run' if part == 'device' else part}, a worker": seconds / WORKERS
        for part, seconds in parts.items()
    }
    for name, seconds in rows.items():
        print(f"| {name} | {seconds:.0f} | {seconds / wall:.0%} |")
    print("\n| model | steps | microseconds a step, alone |\n|---|---|---|")
    for name, count in sorted(steps.items(), key=lambda item: int(item[0][1:])):
        print(f"| {name} | {count:,} | {1e6 * alone[name]:.0f} |")


if __name__ == "__main__":
    main()
