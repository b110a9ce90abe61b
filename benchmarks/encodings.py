"""The corpus's encoding against TFDS's: bytes, time to decode a pair, pairs a second read at random.

    python -m benchmarks.encodings [--pairs=40000] [--seconds=4]

Ours: JSON in ArrayRecord (Comparison.to_bytes), one record a group. TFDS: tf.Example in ArrayRecord, as the TFDS export
writes it, read by `as_data_source`. Both lie in shards of 10,000 records in a temporary folder, in the page cache;
one thread reads. "decode" is without the file; "one at a time" is source[i], "256 at once" source.__getitems__.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from grain.sources import ArrayRecordDataSource

from benchmarks import machine
from rewardscale.data.build.tfds import export
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.corpus import Corpus, read_shard, write_corpus

WORDS = 30_000
AT_ONCE = 256


def corpus_of(directory: Path, pairs: int, words: int) -> Corpus:
    """Pairs of random words with Zipf's frequencies: `words` in a prompt and in each response, on average."""
    random = np.random.default_rng(0)
    vocabulary = np.array([f"{i:x}{'aeiou'[i % 5]}n" for i in range(WORDS)])

    def texts() -> Iterator[str]:
        while True:
            drawn = vocabulary[random.zipf(1.2, 100_000) % WORDS]
            yield from (
                " ".join(piece)
                for piece in np.split(drawn, np.cumsum(random.poisson(words, 90_000 // words)))
            )

    text = texts()
    comparisons = [
        Comparison(
            (Message("user", next(text)),), (next(text), next(text)), source="random", category="words"
        )
        for _ in range(pairs)
    ]
    return write_corpus(directory, comparisons, about={})


def rate(do: Callable[[np.ndarray], object], size: int, at_once: int, seconds: float) -> tuple[float, float]:
    """(pairs a second, pairs a CPU second) of `do` on random rows, `at_once` of them a call."""
    random = np.random.default_rng(1)
    do(random.integers(0, size, at_once))
    wall, cpu, done = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - wall < seconds:
        do(random.integers(0, size, at_once))
        done += at_once
    return done / (time.perf_counter() - wall), done / (time.process_time() - cpu)


def decoding(records: Sequence[bytes], decode: Callable[[bytes], object], seconds: float) -> float:
    """Microseconds of CPU a record."""
    cpu, done = time.process_time(), 0
    while time.process_time() - cpu < seconds / 2:
        for record in records[:2000]:
            decode(record)
        done += len(records[:2000])
    return 1e6 * (time.process_time() - cpu) / done


def measure(words: int, pairs: int, seconds: float) -> list[dict[str, Any]]:
    """A row an encoding."""
    import tensorflow_datasets as tfds

    with tempfile.TemporaryDirectory() as folder:
        corpus = corpus_of(Path(folder) / "corpus", pairs, words)
        started = time.process_time()
        exported = export(corpus.directory, Path(folder), name="pairs")
        writing = pairs / (time.process_time() - started)
        builder: Any = tfds.builder_from_directory(exported)
        theirs = builder.as_data_source("train")
        files = sorted(exported.glob("*.array_record*"))
        source: Any = ArrayRecordDataSource
        ours = source([str(path) for path in corpus.shards.paths])
        raw = read_shard(corpus.shards.paths[0], corpus.shards.counts[0])
        raw_theirs = read_shard(files[0], corpus.shards.counts[0])
        decode = builder.info.features.deserialize_example_np
        readers: dict[str, tuple[Any, ...]] = {
            "JSON, Comparison": (
                [p.stat().st_size for p in corpus.shards.paths],
                decoding(raw, Comparison.from_bytes, seconds),
                lambda rows: Comparison.from_bytes(ours[int(rows[0])]),
                lambda rows: [Comparison.from_bytes(record) for record in ours.__getitems__(rows.tolist())],
            ),
            "JSON, dictionary": (
                [p.stat().st_size for p in corpus.shards.paths],
                decoding(raw, orjson.loads, seconds),
                lambda rows: orjson.loads(ours[int(rows[0])]),
                lambda rows: [orjson.loads(record) for record in ours.__getitems__(rows.tolist())],
            ),
            "TFDS example": (
                [p.stat().st_size for p in files],
                decoding(raw_theirs, decode, seconds),
                lambda rows: theirs[int(rows[0])],
                lambda rows: theirs.__getitems__(rows.tolist()),
            ),
        }
        rows = []
        for name, (sizes, micros, one, many) in readers.items():
            single, several = rate(one, pairs, 1, seconds), rate(many, pairs, AT_ONCE, seconds)
            rows.append(
                {
                    "words": words,
                    "encoding": name,
                    "bytes a pair": sum(sizes) / pairs,
                    "decode": micros,
                    "one": single,
                    "many": several,
                    "written": writing if name.startswith("TFDS") else None,
                }
            )
    return rows


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=40_000, help="(%(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    options = parser.parse_args()
    print(machine.heading("numpy", "grain", "array_record", "orjson", "tensorflow-datasets"))
    print(
        "| words a text | encoding | bytes a pair | decode, µs | one at a time, pairs/s (a CPU second) "
        "| 256 at once, pairs/s (a CPU second) |\n|---|---|---|---|---|---|"
    )
    for words in (20, 300):
        for row in measure(words, options.pairs, options.seconds):
            cells = [f"{wall:,.0f} ({cpu:,.0f})" for wall, cpu in (row["one"], row["many"])]
            print(
                f"| {row['words']} | {row['encoding']} | {row['bytes a pair']:,.0f} | {row['decode']:.1f} | "
                + " | ".join(cells)
                + " |",
                flush=True,
            )
            if row["written"]:
                print(json.dumps({"TFDS export, pairs a CPU second": round(row["written"])}), flush=True)


if __name__ == "__main__":
    main()
