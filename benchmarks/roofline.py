"""The floor of a training step, by arithmetic: python -m benchmarks.roofline

Nothing is run. For each backbone and three mixes of lengths (benchmarks/input.py) the operations of a pair
(rewardscale/flops.py: causal attention halved, no vocabulary head, forward and backward), with prompts apart for
comparison, and the share of products that the last layer leaves out; the bytes that a step moves whatever its pairs:
bfloat16 weights read forward and backward, their gradient written and read, float32 master and moments read and
written, bfloat16 weights written; and the pairs a step from which operations, at the chip's peak, take longer than
those bytes at its bandwidth. Below that a step costs the same with fewer pairs.
"""

import argparse

import numpy as np

from benchmarks import input as mixes
from benchmarks import machine
from rewardscale import flops
from rewardscale.config import ModelConfig
from rewardscale.models import presets

# bfloat16 operations a second, bytes a second: the vendors' figures.
CHIPS = {"H200": (989.5e12, 4.8e12), "TPU v5p": (459e12, 2.765e12), "TPU v5e": (197e12, 0.819e12)}
BACKBONES = ("qwen3-0.6b", "qwen3-1.7b", "llama3.2-1b", "llama3.1-8b", "qwen3-8b")


def pair_flops(model: ModelConfig, table: np.ndarray, *, shared: bool = True) -> float:
    """Mean operations of a pair, forward and backward."""
    return float(flops.pair_flops(model, *table.T.astype(float), shared=shared).mean())


def last_layer(model: ModelConfig) -> float:
    """Share of the products that the last layer leaves out: query, output and MLP of all but the reward tokens."""
    shapes = flops.kernel_shapes(model)
    left_out = sum(a * b for name, (a, b) in shapes.items() if name not in ("k", "v"))
    return left_out / (model.layers * sum(a * b for a, b in shapes.values()))


def step_bytes(model: ModelConfig) -> float:
    """Bytes a step moves whatever its pairs, the embedding's rows left out."""
    weights = flops.parameters(model, embeddings=False)
    return weights * (2 * 2 + 2 * 2 + 2 * 4 + 2 * 2 * 4 + 2)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    print(machine.heading("numpy"))
    chips = " | ".join(f"pairs, {chip}" for chip in CHIPS)
    print(f"| backbone | lengths | GFLOP a pair | prompts apart | last layer saves | {chips} |")
    print("|---|---|---|---|---|" + "---|" * len(CHIPS))
    for name in BACKBONES:
        model = presets.get_model(name, vocab_size=0)
        assert isinstance(model, ModelConfig)
        for mix in mixes.MIXES:
            table = mixes.lengths(mix)
            cost = pair_flops(model, table)
            apart = pair_flops(model, table, shared=False)
            enough = [step_bytes(model) / width * peak / cost for peak, width in CHIPS.values()]
            print(
                f"| {name} | {mix} | {cost / 1e9:,.0f} | x {apart / cost:.2f} | {last_layer(model):.1%} | "
                + " | ".join(f"{n:.1f}" for n in enough)
                + " |"
            )


if __name__ == "__main__":
    main()
