"""Random reads and shuffled epochs of tokenised pairs: ours, ArrayRecord, TFDS, Hugging Face datasets, MosaicML.

    python -m benchmarks.streaming --peers /an/environment/bin/python     # some minutes

One process and one thread each, the same pairs, one after another on the same machine: 1,024 random pairs at a time,
single random pairs, and a shuffled epoch by each library's own means; pairs a second, on the clock and of CPU. Then
grain feeding packed rows from our shards, with its bounds: what reading alone gives, and what assembling alone gives.

--peers: a Python (3.11 or later) with `datasets` and `mosaicml-streaming`, which bring torch and pandas and are no
part of ours. Without it those rows say so.
"""

import argparse
import itertools
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]
from grain.sources import ArrayRecordDataSource

from benchmarks import machine
from benchmarks.streaming_peers import AT_ONCE, measure, rate
from rewardscale.data import corpus as corpora
from rewardscale.data import pipeline, subsets, templates, tokenised
from rewardscale.data import rows as tree_rows
from rewardscale.data.comparison import Comparison, Message

COLUMNS = ("random", "single", "epoch")
BATCH, ROWS = 1024, 32


def make(folder: Path, pairs: int, words: int) -> tokenised.TokenisedView:
    """A view of random words, and the same ids as plain files for the others."""
    random = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(30_000)]

    def text() -> str:
        count = max(1, round(random.lognormal(np.log(words), 0.5)))
        return " ".join(vocabulary[i] for i in random.integers(0, len(vocabulary), count).tolist())

    made = [Comparison((Message("user", text()),), (text(), text()), "random") for _ in range(pairs)]
    corpus = corpora.write_corpus(folder / "corpus", made, about={})
    view = tokenised.build_view(corpus, templates.word_tokenizer(vocabulary), "words")
    flat, _ = tokenised.TokenStore(view).gather(np.arange(pairs))
    flat.tofile(folder / "tokens.bin")
    np.save(folder / "lengths.npy", view.lengths)
    return view


def ours(view: tokenised.TokenisedView, seconds: float) -> dict[str, Any]:
    store = tokenised.TokenStore(view, in_memory=False)

    def epoch() -> Iterator[int]:
        order = subsets.permutation(np.arange(len(view)), seed=0, draw=0)
        for start in range(0, len(order), AT_ONCE):
            yield len(store.gather(order[start : start + AT_ONCE])[1])

    found = measure(len(view), store.gather, lambda row: store.gather(np.array([row])), epoch(), seconds)
    return found | {"disk": size(view.directory)}


def array_record(folder: Path, view: tokenised.TokenisedView, seconds: float) -> dict[str, Any]:
    """A record a pair, its ids as bytes: how views were kept before."""
    where = folder / "array_record"
    where.mkdir()
    flat, starts = tokenised.TokenStore(view).gather(np.arange(len(view)))
    records = (part.tobytes() for part in np.split(flat, starts[1:]))
    described = corpora.write_shards(where, records, total=len(view))
    source = ArrayRecordDataSource([str(where / shard["name"]) for shard in described])
    return read_records(source, lambda record: np.frombuffer(record, np.uint32), seconds) | {
        "disk": size(where)
    }


def tfds(folder: Path, view: tokenised.TokenisedView, seconds: float) -> dict[str, Any]:
    """The same as TFDS Example protos, serialised and parsed by TFDS."""
    import tensorflow_datasets
    from tensorflow_datasets.core import example_serializer

    names = ("prompt", "chosen", "rejected")
    features = tensorflow_datasets.features
    described = features.FeaturesDict(
        {name: features.Tensor(shape=(None,), dtype=np.int64) for name in names}
    )
    specs: Any = described.get_serialized_info()
    serializer = example_serializer.ExampleSerializer(specs)
    where = folder / "tfds"
    where.mkdir()
    flat, starts = tokenised.TokenStore(view).gather(np.arange(len(view)))
    paths = []
    for begin in range(0, len(view), corpora.RECORDS_PER_SHARD):
        paths.append(str(where / f"shard-{begin:08d}.array_record"))
        writer = array_record_module.ArrayRecordWriter(paths[-1], corpora.WRITER_OPTIONS)
        for row in range(begin, min(begin + corpora.RECORDS_PER_SHARD, len(view))):
            ends = starts[row] + np.concatenate([[0], np.cumsum(view.lengths[row])]).astype(np.int64)
            parts = (flat[a:b].astype(np.int64) for a, b in itertools.pairwise(ends))
            writer.write(serializer.serialize_example(dict(zip(names, parts, strict=True))))
        writer.close()
    source = ArrayRecordDataSource(paths)
    return read_records(source, described.deserialize_example_np, seconds) | {"disk": size(where)}


def read_records(source: Any, decode: Any, seconds: float) -> dict[str, Any]:
    def many(rows: np.ndarray) -> list[Any]:
        return [decode(record) for record in source.__getitems__(rows.tolist())]

    def epoch() -> Iterator[int]:
        order = subsets.permutation(np.arange(len(source)), seed=0, draw=0)
        for start in range(0, len(order), AT_ONCE):
            yield len(many(order[start : start + AT_ONCE]))

    return measure(len(source), many, lambda row: decode(source[row]), epoch(), seconds)


def peer(python: str | None, which: str, folder: Path, seconds: float) -> dict[str, Any] | str:
    if python is None:
        return "not measured: no --peers"
    script = Path(__file__).with_name("streaming_peers.py")
    done = subprocess.run(
        [python, "-P", str(script), str(folder), which, str(seconds)],
        capture_output=True,
        text=True,
        timeout=1800,
    )  # -P: this file would hide the package `streaming`
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if not lines:
        return f"not measured: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
    found = json.loads(lines[-1])
    return found | {"disk": size(Path(found["folder"]))}


def packed_rows(view: tokenised.TokenisedView, seconds: float) -> dict[str, list[float]]:
    """grain feeding packed rows, and the two halves of that work by themselves."""
    pairs = len(view)
    chosen = subsets.Subset(
        rows=subsets.permutation(np.arange(pairs), seed=0, draw=0),
        orientation=np.ones(pairs, np.int8),
        weight=np.ones(pairs, np.float32),
        target=np.ones(pairs, np.float32),
        raw_pairs=pairs,
        cost=float(pairs),
        fingerprint="benchmark",
    )
    longest = int(view.lengths.sum(1).max())
    length = -(-max(longest, 128) // 4) * 4
    data = pipeline.prepare(
        view, chosen, positions=pairs, batch=BATCH, seed=0, draw=0, max_length=length, too_long="drop",
        row_length=length, rows_per_microbatch=ROWS,
    )  # fmt: skip
    sizes = pipeline.capacity(data.lengths, pairs_per_step=BATCH, row_length=length, rows_per_microbatch=ROWS)
    source = pipeline.StepSource(data, sizes)

    def feed(workers: int) -> Iterator[int]:
        for _, _, block in pipeline.blocks(source, start_step=0, steps_per_block=4, workers=workers):
            yield int(block["pairs"].sum())

    def reading() -> Iterator[int]:
        store = tokenised.token_store(view.directory)
        for step in range(len(source)):
            here = slice(data.plan.starts[step], data.plan.starts[step + 1])
            yield len(store.gather(data.trees.rows[here])[1])

    def assembling() -> Iterator[int]:
        here = slice(0, data.plan.starts[1])
        trees = data.trees[here]
        flat, begin = tokenised.token_store(view.directory).gather(trees.rows)

        class Gathered:
            def gather(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
                return flat, begin

        place = [
            values[here].astype(np.int64) for values in (data.plan.row, data.plan.offset, data.plan.slot)
        ]
        shape = (sizes.microbatches * ROWS, length)
        for _ in range(len(source)):
            tree_rows.assemble(Gathered(), data.lengths, trees, *place, shape=shape, slots=sizes.slots)
            yield len(trees)

    out = {}
    for workers in (0, 2):
        feeding = feed(workers)
        next(feeding)  # starts the workers
        out[f"grain, {workers or 'no'} workers"] = rate(feeding, seconds)
        feeding.close()  # type: ignore[attr-defined]
    return out | {"reading alone": rate(reading(), seconds), "assembling alone": rate(assembling(), seconds)}


def size(folder: Path) -> float:
    """MB of the files under `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=200_000, help="(%(default)s)")
    parser.add_argument("--words", type=int, default=12, help="median words of a prompt and of a response")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--peers", help="a Python that has datasets and mosaicml-streaming")
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="streaming-"))
    try:
        view = make(folder, args.pairs, args.words)
        found: dict[str, dict[str, Any] | str] = {
            "ours: token shards": ours(view, args.seconds),
            "ArrayRecord, our bytes": array_record(folder, view, args.seconds),
            "ArrayRecord, TFDS examples": tfds(folder, view, args.seconds),
            "Hugging Face datasets (Arrow)": peer(args.peers, "hf", folder, args.seconds),
            "MosaicML Streaming (MDS)": peer(args.peers, "mosaic", folder, args.seconds),
        }
        print(machine.heading("numpy", "grain", "array_record", "tensorflow-datasets"))
        print(
            f"{args.pairs:,} pairs of {view.tokens / len(view):.0f} tokens; pairs a second (a CPU second)\n"
        )
        print("| | 1,024 random pairs | single random pairs | shuffled epoch | MB |\n|---|---|---|---|---|")
        for name, values in found.items():
            if isinstance(values, str):
                print(f"| {name} | {values} | | | |")
                continue
            version = f" {values['version']}" if "version" in values else ""
            cells = [f"{values[c][0]:,.0f} ({values[c][1]:,.0f})" for c in COLUMNS]
            print(f"| {name}{version} | {' | '.join(cells)} | {values['disk']:,.0f} |")
        print("\n| packed rows | pairs a second (a CPU second of this process) |\n|---|---|")
        for name, (wall, cpu) in packed_rows(view, args.seconds).items():
            print(f"| {name} | {wall:,.0f} ({cpu:,.0f}) |")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    started = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - started:.0f} s")
