"""What checkpoints cost a training: python -m benchmarks.checkpoint [--model=d6 --seconds=90]

Trains the model for about so long on the planted world, without a checkpoint on the way and with one every 30 s (the
default of runtime.checkpoint_seconds), each in a process of its own; the last one, which the run waits for, is not
counted. The state is copied before the next step and written, with a sum of every array, by a thread: on a CPU that
thread takes a core from training, which an accelerator does not feel.

Before that the state of a small model (w16, a sweep's): what opening its folder, writing it and closing take, as one
array a type, which is how it is done (training/small_states.py), and as its arrays; medians, one process.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from benchmarks import machine, train_case
from rewardscale import platforms

EVERY, SAVES = 30.0, 40


def _train(name: str, seconds: float, every: float) -> dict[str, float]:
    """Seconds a step, share of the time that the loop waited for checkpoints, checkpoints, bytes of each."""
    platforms.prepare()
    from rewardscale import flops, mesh
    from rewardscale.config import ModelConfig, Recipe, RunConfig, Runtime, Storage
    from rewardscale.data import pipeline
    from rewardscale.data.subsets import subset
    from rewardscale.models.presets import get_model
    from rewardscale.sweeps import configfile, datasets
    from rewardscale.training import loop
    from rewardscale.training.checkpoint import Interrupted

    config, _ = configfile.load("sweep.py:smoke")
    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.prepare(config.data, Path(folder), None)
        view = datasets.view(dataset)
        pairs, recipe = 3_000, Recipe(epochs=1_000.0, max_length=64, schedule="constant")
        data = pipeline.prepare(
            view, subset(dataset.level("gold", 0), pairs, pool=dataset.pool(-1), seed=0, draw=0),
            positions=200_000, batch=32, seed=0, draw=0, max_length=64, too_long="drop", row_length=256,
            rows_per_microbatch=4,
        )  # fmt: skip
        model = get_model(name, vocab_size=view.vocab_size)
        assert isinstance(model, ModelConfig)
        run = RunConfig(name, model, recipe, "gold", pairs, 0, -1, 0, 1.0, {}, {})
        runtime = Runtime(
            mesh=(1, 1, 1), row_length=256, rows_per_microbatch=4, steps_per_dispatch=4, scan_layers=False,
            checkpoint_seconds=every,
        )  # fmt: skip
        times: list[float] = []

        def progress(done: int, steps: int) -> None:
            times.append(time.perf_counter())
            if len(times) > 5 and times[-1] - times[4] > seconds:
                raise Interrupted("enough")

        directory = Path(folder) / "run"
        with contextlib.suppress(Interrupted):
            loop.train(run, data, runtime, mesh.make_mesh((1, 1, 1)), directory, on_progress=progress)
        lines = [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()][20:]
    took = (times[-1] - times[4]) / (len(times) - 5) / runtime.steps_per_dispatch
    return {
        "step": took,
        "waited": statistics.fmean(line["checkpoint_seconds"] for line in lines) / took,
        "bytes": sum(flops.state_bytes(model, Storage()).values()) * 3 / 4,
    }


def _saves() -> dict[str, tuple[int, float, float]]:
    """How a small state is written -> arrays, seconds of CPU, seconds of a save."""
    platforms.prepare()
    import jax
    import numpy as np

    from rewardscale import mesh
    from rewardscale.config import ModelConfig
    from rewardscale.models import reward
    from rewardscale.models.presets import get_model
    from rewardscale.training import small_states
    from rewardscale.training.checkpoint import Checkpoints
    from rewardscale.training.step import make_step

    model = get_model("w16", vocab_size=80)
    assert isinstance(model, ModelConfig)
    step = make_step(model, reward.Options(), mesh.make_mesh((1, 1, 1)))
    state = step.init(reward.init(model, (0,)))

    def save() -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            cpu, wall = time.process_time(), time.perf_counter()
            checkpoints = Checkpoints(Path(folder) / "checkpoints", kept=1, seconds=0.0)
            checkpoints.save(1, state)
            checkpoints.close()
            return time.process_time() - cpu, time.perf_counter() - wall

    found = {}
    for name, most in (("one array a type", small_states.MOST_BYTES), ("its arrays", -1)):
        with mock.patch.object(small_states, "MOST_BYTES", most):
            took = [save() for _ in range(SAVES + 2)]
            arrays = len(small_states.joined(state) or jax.tree.leaves(state))
        found[name] = (arrays, *np.median(took[2:], 0))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="d6", help="a decoder's preset (%(default)s)")
    parser.add_argument("--seconds", type=float, default=90.0, help="of training, each way (%(default)s)")
    parser.add_argument("--every", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--saves", action="store_true", help="the small state alone")
    options = parser.parse_args()
    train_case.check(parser, train_case.Settings(model=options.model))
    if options.every:
        print(json.dumps(_train(options.model, options.seconds, options.every)))
        return
    print(machine.heading("jax", "jaxlib", "orbax-checkpoint"))
    print("| a small state as | arrays | CPU, ms | ms |\n|---|---|---|---|")
    for name, (arrays, cpu, wall) in _saves().items():
        print(f"| {name} | {arrays} | {1e3 * cpu:.0f} | {1e3 * wall:.0f} |")
    if options.saves:
        return
    print("\n| | a checkpoint, MB | ms a step | over none | waited for by the loop |\n|---|---|---|---|---|")
    none = 0.0
    for every in (1e9, EVERY):
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.checkpoint", f"--model={options.model}",
             f"--seconds={options.seconds}", f"--every={every}"],
            capture_output=True, text=True, check=True, env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )  # fmt: skip
        found = json.loads(done.stdout.strip().splitlines()[-1])
        none = none or found["step"]
        print(
            f"| {'none' if every > EVERY else f'every {every:.0f} s'} | {found['bytes'] / 2**20:.0f} "
            f"| {1e3 * found['step']:.1f} | x {found['step'] / none:.3f} | {found['waited']:.2%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
