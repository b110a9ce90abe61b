"""What packing saves in tokens, and how fast the pipeline feeds: python -m benchmarks.input [--view DIR ...]

Three mixes of lognormal lengths, and any tokenised views (--view, a folder with view.json). First table, tokens that a
model computes for the same pairs, over the tokens of packed rows with shared prompts:

    padded            two sequences a pair, each with its prompt, in batches of 16 sequences of like length (sorted
                      within 64 batches), padded to the longest: what a tuned PyTorch trainer does
    packed            the same sequences packed into rows, no prompt shared
    packed, shared    ours: a pair is one tree

and the efficiency of our rows: the share of computed tokens that are a pair's own, inert rows counted. Second table:
pairs and tokens a second that one process of the pipeline makes ready (a CPU second in brackets), beside what the
smallest full-size model would take from it on an H200 at 45 % of its peak, by FLOPs: computed here, not run.
"""

import argparse
import itertools
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import machine
from rewardscale import flops
from rewardscale.config import ModelConfig
from rewardscale.data import corpus as corpora
from rewardscale.data import pipeline, subsets, templates, tokenised
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.packing import make_plan
from rewardscale.models import presets

# Mean tokens of a prompt and of a response; lognormal with sigma 0.8, cut at 4,096 for prompt plus longest response.
MIXES = {"short chat": (60, 120), "long prompt": (1500, 200), "long both": (1000, 1000)}
SIGMA, MOST, ROW = 0.8, 4096, 8192
PAIRS, STEP, SEQUENCES, GROUP = 40_960, 10_240, 16, 64
MODEL, PEAK, MFU = "qwen3-0.6b", 989.5e12, 0.45
FEED = 4_096  # pairs of the second table


def drawn(means: Sequence[float], rows: int) -> np.ndarray:
    """int64 [rows, parts]: lognormal tokens with these means, at least one; the same rows every time."""
    centre = np.log(np.array(means)) - SIGMA**2 / 2
    values = np.random.default_rng(0).lognormal(centre, SIGMA, size=(rows, len(means)))
    return np.maximum(values.round().astype(np.int64), 1)


def lengths(mix: str, pairs: int = PAIRS) -> np.ndarray:
    """int64 [pairs, 3]: prompt, chosen, rejected."""
    prompt, response = MIXES[mix]
    out = drawn((prompt, response, response), 2 * pairs)
    return out[out[:, 0] + out[:, 1:].max(axis=1) <= MOST][:pairs]


def padded(table: np.ndarray) -> int:
    """Tokens computed by batches of whole sequences of like length, padded to their longest."""
    sequences = (table[:, :1] + table[:, 1:]).ravel()
    total = 0
    for first in range(0, len(sequences), SEQUENCES * GROUP):
        near = np.sort(sequences[first : first + SEQUENCES * GROUP])
        total += sum(len(b) * max(b) for b in itertools.batched(near.tolist(), SEQUENCES))
    return total


def packed(sizes: np.ndarray, batch: int, row: int) -> int:
    """Tokens of packed rows, inert ones too."""
    plan = make_plan(sizes, batch=batch, row_length=row, rows_per_microbatch=8)
    return int(plan.microbatches.sum()) * plan.rows_per_microbatch * plan.row_length


def saved(name: str, table: np.ndarray) -> str:
    """A line of the first table."""
    row = max(ROW, -(-int(table.sum(axis=1).max()) // 128) * 128)
    own = table.sum(axis=1)
    shared = packed(own, STEP, row)
    separate = packed((table[:, :1] + table[:, 1:]).ravel(), 2 * STEP, row)
    small = own.sum() / packed(own, 256, row)
    return (
        f"| {name} | {own.mean():,.0f} | {padded(table) / shared:.2f} | {separate / shared:.2f} | 1 "
        f"| {own.sum() / shared:.1%} | {small:.1%} |"
    )


def feed(mix: str) -> str:
    """A line of the second table."""
    table = lengths(mix, FEED)
    words = [f"w{i}" for i in range(1000)]
    random = np.random.default_rng(1)

    def text(count: int) -> str:
        return " ".join(words[i] for i in random.integers(0, len(words), max(1, count)).tolist())

    with tempfile.TemporaryDirectory() as folder:
        made = [
            Comparison((Message("user", text(p)),), (text(a), text(b)), "mix") for p, a, b in table.tolist()
        ]
        corpus = corpora.write_corpus(Path(folder) / "corpus", made, about={})
        view = tokenised.build_view(corpus, templates.word_tokenizer(words), "words")
        seconds, cpu, pairs, tokens = _feed(view)
    model = presets.get_model(MODEL, vocab_size=1000)
    assert isinstance(model, ModelConfig)
    keys = float(flops.tree_keys(table[:, 0], table[:, 1], table[:, 2]).sum())
    cost = flops.training_flops(model, tokens=float(table.sum()), keys=keys) / len(table)
    wanted = MFU * PEAK / cost
    return (
        f"| {mix} | {pairs / seconds:,.0f} ({pairs / cpu:,.0f}) | {tokens / seconds:,.0f} | {wanted:,.0f} "
        f"| {pairs / cpu / wanted:.0f} |"
    )


def _feed(view: tokenised.TokenisedView) -> tuple[float, float, int, int]:
    """Seconds, CPU seconds, pairs and tokens of one epoch, made ready by this process."""
    count = len(view)
    ones = np.ones(count, np.float32)
    rows = subsets.permutation(np.arange(count), seed=0, draw=0)
    chosen = subsets.Subset(
        rows=rows, orientation=np.ones(count, np.int8), weight=ones, target=ones, raw_pairs=count,
        cost=float(count), fingerprint="benchmark",
    )  # fmt: skip
    batch, row = 256, max(ROW, -(-int(view.lengths.sum(axis=1).max()) // 128) * 128)
    data = pipeline.prepare(
        view, chosen, positions=count, batch=batch, seed=0, draw=0, max_length=2 * MOST, too_long="drop",
        row_length=row, rows_per_microbatch=8,
    )  # fmt: skip
    sizes = pipeline.capacity(data.lengths, pairs_per_step=batch, row_length=row, rows_per_microbatch=8)
    source = pipeline.StepSource(data, sizes)
    blocks = pipeline.blocks(source, start_step=0, steps_per_block=1)
    next(blocks)  # starts the thread
    started, cpu, pairs = time.perf_counter(), time.process_time(), 0
    for _, _, block in blocks:
        pairs += int(block["pairs"].sum())
    return (
        time.perf_counter() - started,
        time.process_time() - cpu,
        pairs,
        int(view.lengths.sum() / count * pairs),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--view", type=Path, action="append", default=[], help="folder of a tokenised view; repeatable"
    )
    options = parser.parse_args()
    print(machine.heading("numpy", "grain"))
    print(
        "| lengths | tokens a pair | padded | packed | packed, shared | efficiency, 10,240 pairs a step | 256 a step |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for mix in MIXES:
        print(saved(mix, lengths(mix)), flush=True)
    for folder in options.view:
        view = tokenised.open_view(folder)
        table = np.asarray(view.lengths[:PAIRS], np.int64)
        print(saved(folder.parent.parent.name, table[(table[:, :3] > 0).all(axis=1)][:, :3]), flush=True)
    print(
        f"\n| lengths | pairs/s (a CPU second) | tokens/s | {MODEL} on an H200 would take, pairs/s | times that |"
    )
    print("| --- | --- | --- | --- | --- |")
    for mix in MIXES:
        print(feed(mix), flush=True)


if __name__ == "__main__":
    main()
