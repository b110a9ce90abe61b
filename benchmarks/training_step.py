"""Pairs a second of training on the planted world, one process, and what each choice of the step is worth.

    python -m benchmarks.training_step            # about two minutes on one CPU core

Rows: the default sweep's models; columns: the step as it is, and with one choice undone. Minimum of three
timed passes over 4,000 pairs, compilation left out; CPU runs are single-threaded.
"""

import os

from rewardscale import platforms

os.environ.update(platforms.worker_environment(2))  # as a sweep's cells run, side by side

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import machine
from rewardscale import mesh
from rewardscale.data import pipeline
from rewardscale.data.subsets import subset
from rewardscale.data.tokenised import token_store
from rewardscale.models import reward
from rewardscale.models.presets import get_model
from rewardscale.sweeps import configfile, datasets
from rewardscale.training.optimizer import hyperparameters, learning_rates
from rewardscale.training.step import make_step

PAIRS, PASSES = 4_000, 3


@dataclasses.dataclass(frozen=True)
class Choice:
    """One way to run the step."""

    name: str
    options: reward.Options = reward.Options(scan=False)  # noqa: RUF009
    row_length: int = 28
    rows: int = 32
    steps_per_dispatch: int = 32


CHOICES = (
    Choice("as it is"),
    Choice("last layer whole", options=reward.Options(scan=False, prune=False)),
    Choice("scan over layers", options=reward.Options(scan=True)),
    Choice("two pairs a row", row_length=56, rows=16),
    Choice("one step a dispatch", steps_per_dispatch=1),
)


def seconds_of_passes(
    model, view, chosen, recipe, choice: Choice, passes: int = PASSES
) -> tuple[list[float], float]:
    """(seconds of each pass over the pairs, seconds of the first block: compilation and one block)."""
    data = pipeline.prepare(
        view, chosen, positions=PAIRS, batch=32, seed=0, draw=0, max_length=64, too_long="drop",
        row_length=choice.row_length, rows_per_microbatch=choice.rows,
    )  # fmt: skip
    sizes = pipeline.capacity(
        view.lengths, pairs_per_step=32, row_length=choice.row_length, rows_per_microbatch=choice.rows
    )
    source = pipeline.StepSource(data, sizes)
    step = make_step(model, choice.options, mesh.make_mesh((1, 1, 1)))
    rates, hyper = learning_rates(recipe, steps=len(source), batch=32), hyperparameters(recipe)
    size = choice.steps_per_dispatch

    def one_pass(stop_after: int | None = None) -> float:
        state, metrics = step.init(reward.init(model, (0, 0))), None
        started = time.perf_counter()
        for first, count, block in pipeline.blocks(source, start_step=0, steps_per_block=size):
            padded = np.zeros(size, np.float32)
            padded[:count] = rates[first : first + count]
            state, metrics = step.train(state, block, np.int32(count), padded, hyper)
            if stop_after is not None:
                break
        jax.block_until_ready(metrics)
        return time.perf_counter() - started

    compiling = one_pass(stop_after=1)
    return [one_pass() for _ in range(passes)], compiling


def pairs_per_second(model, view, chosen, recipe, choice: Choice) -> tuple[float, float]:
    """(pairs a second in the fastest pass, seconds of the first block: compilation and one block)."""
    seconds, compiling = seconds_of_passes(model, view, chosen, recipe, choice)
    return PAIRS / min(seconds), compiling


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--seconds_a_step",
        action="store_true",
        help="only that, as JSON by model: of the fastest and of the median pass",
    )
    options = parser.parse_args()
    config, _ = configfile.load("sweep.py:smoke", {"data.planted.train": str(PAIRS)})
    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.prepare(config.data, Path(folder), None)
        view = datasets.view(dataset)
        token_store(view.directory)
        chosen = subset(dataset.level("gold", 0), PAIRS, pool=dataset.pool(-1), seed=0, draw=0)
        if options.seconds_a_step:
            steps = {}
            for name in ("w8", "w16", "w40"):
                model = get_model(name, vocab_size=view.vocab_size)
                passes, _ = seconds_of_passes(model, view, chosen, config.recipe, CHOICES[0], passes=9)
                steps[name] = [32 / PAIRS * value for value in (min(passes), statistics.median(passes))]
            print(json.dumps(steps))
            return
        print(machine.heading("jax", "jaxlib", "numpy"))
        print(
            "| model | "
            + " | ".join(c.name for c in CHOICES)
            + " | compile, s |\n"
            + "|---" * (len(CHOICES) + 2)
            + "|"
        )
        for name in ("w8", "w16", "w40"):
            model = get_model(name, vocab_size=view.vocab_size)
            measured = [pairs_per_second(model, view, chosen, config.recipe, c) for c in CHOICES]
            base = measured[0][0]
            cells = [f"{base:,.0f} pairs/s", *(f"x {m[0] / base:.2f}" for m in measured[1:])]
            print(f"| {name} | " + " | ".join(cells) + f" | {measured[0][1]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
