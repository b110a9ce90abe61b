"""Where the time of our training step goes on a CPU: python -m benchmarks.step_parts [--mixes "long prompt"]

The step of benchmarks/train_step.py with everything on (d4, prompts shared, the last layer pruned), and what it takes
with parts left out; a process a mix that has the whole machine, the fastest of five passes over the pairs.

    attention   the step less one in which attention answers the sum of query, key and value instead; that of the
                last layer's reward tokens is among the rest
    products    those with the layers' kernels, forward and both ways back, each measured alone at the step's shapes
    optimizer   clipping and AdamW: steps of no microbatch
    rest        what remains: norms, rotations, gates, the embedding, the loss, sums of gradients

"floor" is what the operations of the pairs' own tokens would take at the fastest large product that is measured first
(benchmarks/peak.py); elementwise work has no operations there.
"""

import argparse
import collections
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import machine, peak, train_case, train_step_ours
from rewardscale import flops, platforms
from rewardscale.config import ModelConfig, Storage

PASSES = 5


def fastest(work: Callable[[], Any]) -> float:
    """Seconds of a call; the first one, which compiles, is not counted."""
    import jax

    seconds = []
    for _ in range(PASSES + 1):
        started = time.perf_counter()
        jax.block_until_ready(work())
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def measure(folder: Path, dtype: str) -> dict[str, float]:
    """Seconds of a pass over a case's pairs, by part."""
    platforms.prepare()
    import jax.numpy as jnp

    from rewardscale import mesh
    from rewardscale.config import Recipe
    from rewardscale.models import reward
    from rewardscale.training.optimizer import hyperparameters
    from rewardscale.training.step import make_step

    case, settings = dict(np.load(folder / "case.npz")), train_case.read_settings(folder)
    model = train_case.model_of(settings)
    options = reward.Options(dtype=dtype, scan=False, attention="windowed")
    blocks = train_step_ours.packed(case, settings, "shared")
    hyper, rate = hyperparameters(Recipe()), np.full(1, 1e-4, np.float32)

    def seconds(blocks: list[dict[str, np.ndarray]]) -> float:
        make_step.cache_clear()  # what is patched is traced
        step = make_step(model, options, mesh.make_mesh((1, 1, 1)))
        state = train_step_ours.fresh_state(model, Storage(), step)

        def work() -> Any:
            nonlocal state
            for block in blocks:
                state, _ = step.train(state, block, np.int32(1), rate, hyper)
            return state

        return fastest(work)

    found = {"whole": seconds(blocks)}
    found["optimizer"] = seconds([block | {"microbatches": np.zeros(1, np.int32)} for block in blocks])
    answer = lambda q, k, v: q + jnp.repeat(k + v, q.shape[2] // k.shape[2], 2)  # noqa: E731
    with mock.patch.object(reward, "among_tokens", lambda *_: answer):
        found["attention"] = found["whole"] - seconds(blocks)
    microbatches = sum(int(block["microbatches"][0]) for block in blocks)
    found["products"] = microbatches * seconds_of_products(model, blocks[0]["tokens"][0, 0].size, dtype)
    found["rest"] = found["whole"] - sum(found[part] for part in ("optimizer", "attention", "products"))
    return found


def seconds_of_products(model: ModelConfig, tokens: int, dtype: str) -> float:
    """Of a microbatch, forward and backward; the last layer's keys and values alone, as it is pruned."""
    import jax
    import jax.numpy as jnp

    from rewardscale.models import products

    multiply, counts = products.choose("cpu", dtype), collections.Counter[tuple[int, int]]()
    for name, shape in flops.kernel_shapes(model).items():
        counts[shape] += model.layers - (name not in ("k", "v"))

    def both(x: jax.Array, kernel: jax.Array, cotangent: jax.Array) -> Any:
        out, back = jax.vjp(lambda x, kernel: multiply(x, kernel, 1), x, kernel)
        return out, back(cotangent)

    total, run = 0.0, jax.jit(both)
    for (into, out), count in counts.items():
        x, cotangent = (jnp.ones((tokens, n), dtype) for n in (into, out))
        total += count * fastest(lambda: run(x, jnp.ones((into, out), jnp.float32), cotangent))  # noqa: B023
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    mixes = list(train_case.MIXES)
    parser.add_argument("--mixes", nargs="*", default=mixes, choices=mixes, help="of lengths")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="bfloat16", help="of computation (%(default)s)"
    )
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.dtype)))
        return
    settings = train_case.Settings()
    print(machine.heading("jax", "jaxlib"))
    rate, library = peak.measured("cpu")[options.dtype]
    print(
        f"{settings.model}, {options.dtype}; the fastest product: {rate / 1e9:,.0f} GFLOP/s, by {library}.\n"
    )
    print("| lengths | | ms a pair | share | floor, ms | over it |\n|---|---|---|---|---|---|", flush=True)
    for mix in options.mixes:
        print(*lines(mix, settings, options.dtype, rate), sep="\n", flush=True)


def lines(mix: str, settings: train_case.Settings, dtype: str, rate: float) -> list[str]:
    """The table's lines of a mix."""
    model, (table, row) = train_case.model_of(settings), train_case.lengths(mix)
    with tempfile.TemporaryDirectory() as name:
        train_case.write(Path(name), table, row, settings)
        command = [sys.executable, "-m", "benchmarks.step_parts", f"--case={name}", f"--dtype={dtype}"]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=True, env=peak.environment("cpu")
        )
    found = json.loads(done.stdout)
    whole = train_case.operations(model, table, shared=True, pruned=True)
    prompt, *responses = table.T.astype(float)
    keys = flops.tree_keys(prompt, *responses)
    read = 2 * prompt + sum(responses)
    attention = float(flops.training_flops(model, tokens=0, keys=keys, left_out=(0, keys - read)).sum())
    floors = {"whole": whole, "products": whole - attention, "attention": attention}
    out = []
    for part in ("whole", "products", "attention", "optimizer", "rest"):
        least = floors.get(part, 0.0) / rate
        told = f"{1e3 * least / len(table):.2f} | {found[part] / least:.1f}" if least else "|"
        share = found[part] / found["whole"]
        out.append(f"| {mix} | {part} | {1e3 * found[part] / len(table):.2f} | {share:.0%} | {told} |")
    return out


if __name__ == "__main__":
    main()
