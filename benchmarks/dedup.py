"""Documents a CPU second of the three deduplication stages, against rensa and a plain Python set; memory of `exact`.

    python -m benchmarks.dedup [--documents=20000] [--memory=10000,100000,1000000,4000000]

Pairs of random words, 110 each, in the form that `normalise` writes; a twentieth are near copies of others and a
hundredth hold a run of an evaluation set. A line is the best of three in one process; the memory of `exact` is that of
a process of its own, which reads an index of so many keys (Linux).
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import xxhash

from benchmarks import machine
from rewardscale.data import shingles
from rewardscale.data.build import decontaminate, exact, minhash, near, normalise
from rewardscale.data.build import parts as build
from rewardscale.data.build.parts import Part
from rewardscale.data.overlap import ngrams, word_list
from tests.data.build import parts_small

VOCABULARY = 30_000


def make_texts(count: int, seed: int = 0) -> list[str]:
    """Texts of 110 words with the frequencies of Zipf's law."""
    random = np.random.default_rng(seed)
    letters = [chr(ord("a") + i) for i in range(26)]
    vocabulary = np.array(
        ["".join(random.choice(letters, random.integers(2, 10))) for _ in range(VOCABULARY)]
    )
    share = 1 / np.arange(1, VOCABULARY + 1)
    ids = random.choice(VOCABULARY, (count, 110), p=share / share.sum())
    texts = vocabulary[ids]
    for copy in range(count // 20):
        texts[-1 - copy] = texts[copy]
        texts[-1 - copy, random.integers(0, 110, 5)] = "other"
    return [" ".join(words) for words in texts.tolist()]


def write_parts(directory: Path, texts: Sequence[str]) -> list[Part]:
    """Parts of 10,000 pairs: 30 words of prompt, 40 a response."""
    items = []
    for text in texts:
        words = text.split()
        items.append(parts_small.pair(*(" ".join(words[a:b]) for a, b in ((0, 30), (30, 70), (70, 110)))))
    return parts_small.write_parts(
        directory, [[items[at : at + 10_000] for at in range(0, len(items), 10_000)]]
    )


def best(function: Callable[[], Any], times: int = 3) -> tuple[float, Any]:
    """(least CPU seconds, result)."""
    seconds, result = [], None
    for _ in range(times):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return min(seconds), result


def speed(count: int) -> list[tuple[str, float]]:
    """(what, documents a CPU second)."""
    texts = make_texts(count)
    evaluation = [" ".join(text.split()[:60]) for text in texts[: count // 100]]
    rows: list[tuple[str, float]] = []

    def measure(name: str, function: Callable[[], Any]) -> Any:
        seconds, result = best(function)
        rows.append((name, count / seconds))
        return result

    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        parts = write_parts(work / "normalise", texts)
        path = work / "evaluation.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in evaluation))
        sets = [decontaminate.evaluation_set("bench", path)]
        fresh = iter(range(100))
        measure("exact, whole stage", lambda: exact.run(work / f"{next(fresh)}", parts))
        measure("near, whole stage", lambda: near.run(work / f"{next(fresh)}", parts, threshold=0.5))
        measure("decontaminate, whole stage", lambda: decontaminate.run(work / f"{next(fresh)}", parts, sets))
        measure("of these: reading items", lambda: [build.read_texts(part, "pair") for part in parts])
    words = measure("of these: hashes of words", lambda: shingles.words(texts))
    sets_of = measure("of these: shingles from them", lambda: shingles.shingles(words, 5))
    measure("of these: 128 permutations", lambda: minhash.signatures(sets_of, 128))
    measure("words by re and a dictionary of xxh64", lambda: _words_by_dictionary(texts))
    rows += _rensa(texts, sets_of)
    reference = {_hash(gram) for text in evaluation for gram in ngrams(text)}
    measure(
        "13-grams, Python set of xxh64",
        lambda: sum(not reference.isdisjoint(map(_hash, ngrams(text))) for text in texts),
    )
    return rows


def _hash(gram: Sequence[str]) -> int:
    return xxhash.xxh64_intdigest(" ".join(gram).encode())


def _words_by_dictionary(texts: Sequence[str]) -> np.ndarray:
    words = [word for text in texts for word in word_list(text)]
    known = {word: xxhash.xxh64_intdigest(word.encode()) for word in dict.fromkeys(words)}
    return np.fromiter(map(known.__getitem__, words), np.uint64, len(words))


def _rensa(texts: Sequence[str], sets_of: shingles.Runs) -> list[tuple[str, float]]:
    try:
        RMinHash: Any = importlib.import_module("rensa").RMinHash
    except ImportError:
        return [("rensa: not installed", float("nan"))]
    strings = [[" ".join(gram) for gram in ngrams(text, 5)] for text in texts]

    def one_by_one() -> list:
        out = []
        for shingled in strings:
            made = RMinHash(num_perm=128, seed=42)
            made.update(shingled)
            out.append(made)
        return out

    offsets = sets_of.starts.astype(np.uint64)
    flat = RMinHash.digest_matrix_from_flat_token_hashes
    runs = {
        "rensa, from strings": one_by_one,
        "rensa, from our hashes": lambda: flat(sets_of.hashes, offsets, 128, 42),
        "rensa, from our hashes, as an array": lambda: np.array(
            flat(sets_of.hashes, offsets, 128, 42).to_rows(), np.uint32
        ),
    }
    return [(name, len(texts) / best(function)[0]) for name, function in runs.items()]


def most_memory() -> float:
    """Peak resident memory of this process, MB."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("VmHWM")]
    return int(line.split()[1]) / 1024


def memory(items: int) -> None:
    """Runs `exact` on `items` random keys, a tenth of them twice, and prints peak memory and CPU seconds as JSON."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        parts = []
        for number, start in enumerate(range(0, items, 10_000)):
            count = min(10_000, items - start)
            keys = random.bytes(16 * count)
            index = pl.DataFrame(
                {
                    "key": [keys[16 * i : 16 * i + 16] for i in range(count - count // 10)]
                    + [keys[16 * i : 16 * i + 16] for i in range(count // 10)],
                    "id": ["0" * 32] * count,
                    "source": ["a"] * count,
                    "sign": random.choice([1, 1, 1, -1], count),
                },
                schema={"key": pl.Binary, "id": pl.String, "source": pl.String, "sign": pl.Int8},
            )
            folder = Path(name) / "normalise"
            folder.mkdir(exist_ok=True)
            index.write_parquet(normalise.index_path(folder, number))
            parts.append(Part(number, folder, number, count, "0"))
        before = most_memory()
        start = time.process_time()
        counts = exact.run(Path(name) / "work", parts).counts
        seconds = time.process_time() - start
        peak = most_memory()
        print(json.dumps([items, before, peak, seconds, counts["dropped"]]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", type=int, default=20_000, help="of the first table (%(default)s)")
    parser.add_argument(
        "--memory", default="10000,100000,1000000,4000000", help="items of the second table (%(default)s)"
    )
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        memory(arguments.one)
        return
    print(machine.heading("numpy", "polars", "xxhash", "rensa"))
    print("| what | documents a CPU second |\n|---|---|")
    for name, rate in speed(arguments.documents):
        print(f"| {name} | {rate:,.0f} |", flush=True)
    print("\n| items | MB before | MB at most | items a CPU second | dropped |\n|---|---|---|---|---|")
    for items in filter(None, arguments.memory.split(",")):
        command = [sys.executable, "-m", "benchmarks.dedup", f"--one={items}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        count, before, peak, seconds, dropped = json.loads(done.stdout)
        print(
            f"| {count:,} | {before:,.0f} | {peak:,.0f} | {count / seconds:,.0f} | {dropped:,} |", flush=True
        )


if __name__ == "__main__":
    main()
