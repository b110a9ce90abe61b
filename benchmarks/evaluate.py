"""What one pass over benchmarks costs outside the model: reading, hashing, tokenising, packing, committing.

    python -m benchmarks.evaluate [--responses=100000] [--real_responses=2000] [--width=256]

Four responses of about 300 tokens a prompt of about 60. The first table scores --responses of them with a device that
answers at once (its calls return zeros, all before and after them is real): all of its time is outside the model.
Tokenising the next chunk overlaps with the device; the thread that feeds the device packs, assembles and commits, and
its CPU time is what a device waits for. The last table scores --real_responses (0: left out) with a random model of 4
layers on this machine, and replays the very same device calls alone; what the pass took longer is outside.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks import machine
from rewardscale.data import rows as tree_rows
from rewardscale.data.comparison import Message
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Scores, ratio
from rewardscale.evaluation.identity import model_hash
from rewardscale.evaluation.one_pass import Settings, score_texts
from rewardscale.evaluation.reward_scorer import RewardScorer
from rewardscale.evaluation.shapes import Microbatch
from rewardscale.evaluation.texts import union
from tests import scoring_small

TOKENS, PROMPT_TOKENS, RESPONSES = 300, 60, 4


def first_is_best(rewards: np.ndarray, weights: np.ndarray) -> Scores:
    return {"accuracy": ratio((rewards[:, :1] > rewards[:, 1:]).all(axis=1).astype(float), weights)}


def benchmark(responses: int, scorer: RewardScorer) -> Benchmark:
    """Items of random words, as many as make about so many tokens."""
    random = np.random.default_rng(0)
    some = scoring_small.text(random, 1000, 1000)
    each = len(scorer.chat.tokenizer.encode(some).ids) / 1000  # tokens a word

    def text(tokens: int) -> str:
        return scoring_small.text(random, int(0.8 * tokens / each), int(1.2 * tokens / each))

    items = tuple(
        BenchmarkItem(
            str(i), (Message("user", text(PROMPT_TOKENS)),), tuple(text(TOKENS) for _ in range(RESPONSES))
        )
        for i in range(responses // RESPONSES)
    )
    pairs = np.array([(i, 0, k) for i in range(len(items)) for k in range(1, RESPONSES)], np.int64)
    return Benchmark("words", "Words", items, 0, first_is_best, "accuracy", pairs)


def one_pass(of: Benchmark, settings: Settings) -> tuple[np.ndarray, int]:
    """Seconds [wall, CPU of all threads, CPU of this thread], hashing and loading included; tokens scored."""
    with tempfile.TemporaryDirectory() as folder:
        started = clocks()
        texts = union([of])
        table = score_texts(texts, settings, Path(folder))
        values = dict(table.select("text", "reward").iter_rows())
        of.scores(texts.matrix(of.name, np.array([values[one] for one in texts.ids])))
        return clocks() - started, int(table["tokens"].sum())


def clocks() -> np.ndarray:
    """Seconds: wall, CPU of the process, CPU of this thread."""
    return np.array([time.perf_counter(), time.process_time(), time.thread_time()])


def load_seconds(settings: Settings) -> np.ndarray:
    started = clocks()
    model_hash(Path(settings.model))
    RewardScorer.load(settings.model, batch_tokens=settings.batch_tokens)
    return clocks() - started


def without_device(responses: int, settings: Settings, scorer: RewardScorer) -> tuple[np.ndarray, int]:
    """Seconds and tokens of a pass whose device calls return zeros at once."""
    real = RewardScorer._call

    def call(self: RewardScorer, table: tree_rows.TokenTable, trees: tree_rows.Trees, batch: Microbatch):
        tree_rows.assemble(
            table, table.lengths, trees[batch.trees], batch.row, batch.offset, batch.slot,
            shape=(batch.shape.rows, batch.shape.length), slots=batch.shape.slots,
        )  # fmt: skip
        zeros = np.zeros((batch.shape.rows, batch.shape.slots), np.float32)
        return zeros, zeros

    RewardScorer._call = call  # type: ignore[method-assign]
    try:
        return one_pass(benchmark(responses, scorer), settings)
    finally:
        RewardScorer._call = real  # type: ignore[method-assign]


def with_device(responses: int, settings: Settings, scorer: RewardScorer) -> tuple[float, float, int]:
    """Seconds of a pass, of its device calls alone, and its tokens."""
    of = benchmark(responses, scorer)
    calls = []
    real = RewardScorer._call

    def call(self: RewardScorer, table: tree_rows.TokenTable, trees: tree_rows.Trees, batch: Microbatch):
        calls.append((table, trees, batch))
        return real(self, table, trees, batch)

    RewardScorer._call = call  # type: ignore[method-assign]
    try:
        one_pass(of, settings)  # compiles
        calls.clear()
        (seconds, *_), tokens = one_pass(of, settings)
    finally:
        RewardScorer._call = real  # type: ignore[method-assign]
    started = time.perf_counter()
    for one in calls:
        jax.block_until_ready(scorer._call(*one))
    both = time.perf_counter() - started
    started = time.perf_counter()
    for table, trees, batch in calls:
        tree_rows.assemble(
            table, table.lengths, trees[batch.trees], batch.row, batch.offset, batch.slot,
            shape=(batch.shape.rows, batch.shape.length), slots=batch.shape.slots,
        )  # fmt: skip
    return seconds, both - (time.perf_counter() - started), tokens


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, default=100_000, help="with a device that answers at once")
    parser.add_argument("--real_responses", type=int, default=2_000, help="with a real model")
    parser.add_argument("--width", type=int, default=256, help="of the random model (256)")
    options = parser.parse_args()
    print(machine.heading("jax", "numpy", "tokenizers"))
    with tempfile.TemporaryDirectory() as folder:
        model = scoring_small.model_directory(Path(folder) / "m", width=options.width, layers=4, context=1024)
        settings = Settings(str(model))
        scorer = RewardScorer.load(model)
        load = load_seconds(settings)
        print(
            f"load average {os.getloadavg()[0]:.1f}; hashing and loading the model, left out: {load[0]:.1f} s"
        )
        seconds, tokens = without_device(options.responses, settings, scorer)
        wall, cpu, thread = seconds - load
        print("\n| responses | tokens | wall, s | CPU, s | CPU of the thread that feeds the device, s |")
        print("|---" * 5 + "|")
        print(f"| {options.responses:,} | {tokens:,} | {wall:.1f} | {cpu:.1f} | {thread:.1f} |")
        print(
            "\n| tokens/s of the device | share of the pass that its feeding thread's CPU time is |\n|---|---|"
        )
        for speed in (2_000, 5_000, 10_000, 20_000, 50_000, 100_000):
            print(f"| {speed:,} | {100 * thread / (thread + tokens / speed):.1f} % |", flush=True)
        if not options.real_responses:
            return
        whole, alone, real_tokens = with_device(options.real_responses, settings, scorer)
        took = whole - load[0]
        print("\n| responses | tokens | wall, s | its device calls alone, s | outside |")
        print("|---" * 5 + "|")
        print(
            f"| {options.real_responses:,} | {real_tokens:,} | {took:.1f} | {alone:.1f} "
            f"| {100 * (took - alone) / took:.1f} % |"
        )


if __name__ == "__main__":
    main()
