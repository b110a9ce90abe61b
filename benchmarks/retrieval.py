"""What retrieval costs: exact nearest neighbours against faiss, and texts to vectors by each embedder.

`python -m benchmarks.retrieval --embedder=hashed --embedder=minilm`
"""

import argparse
import functools
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks import machine
from rewardscale.curation.retrieval.embed import embedder
from rewardscale.curation.retrieval.nearest import BLOCK, top_k

WORDS = (  # each a token or about
    "the of to and in is for how do you what list write code why can not with water number people time work make "
    "good year way day thing man world life hand part child eye woman place week case point company"
)
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def clustered(count: int, width: int, seed: int, centres: np.ndarray) -> np.ndarray:
    """float32 [count, width] of length 1, each near one of the centres as texts are near their topic."""
    random = np.random.default_rng(seed)
    out = np.empty((count, width), np.float32)
    for at in range(0, count, BLOCK):
        some = out[at : at + BLOCK]
        some[:] = centres[random.integers(0, len(centres), len(some))]
        some += 0.7 * random.standard_normal(some.shape, np.float32) / np.sqrt(width)
        some /= np.linalg.norm(some, axis=1, keepdims=True)
    return out


def held(what: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM the most since the mark was cleared."""
    found = re.search(rf"{what}:\s+(\d+) kB", _STATUS.read_text())
    assert found is not None
    return int(found[1]) * 1024


def extra_bytes(work: Callable[[], Any]) -> tuple[Any, int]:
    """What the work returns, and how many bytes more than before were held at its peak."""
    before = held("VmRSS")
    _CLEAR.write_text("5")
    return work(), held("VmHWM") - before


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def neighbours(rows: int, width: int, k: int, batches: list[int], rounds: int) -> None:
    centres = np.random.default_rng(0).standard_normal((2000, width), np.float32)
    centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    index = clustered(rows, width, 1, centres)
    queries = clustered(max(batches), width, 2, centres)
    theirs = faiss.IndexFlatIP(width)

    def faiss_first() -> np.ndarray:
        theirs.add(index)  # pyright: ignore[reportCallIssue]
        return theirs.search(queries, k)[1]  # pyright: ignore[reportCallIssue]

    def products(batch: int) -> None:
        for at in range(0, rows, BLOCK):
            np.matmul(queries[:batch], index[at : at + BLOCK].T)

    (ids, _), ours_bytes = extra_bytes(lambda: top_k(queries, index, k))
    others, faiss_bytes = extra_bytes(faiss_first)
    same(queries, index, ids, others)
    print(
        f"memory on top of the {index.nbytes / 1e9:.2f} GB of vectors, at the peak: top_k {ours_bytes / 1e9:.2f} GB, "
        f"faiss {faiss_bytes / 1e9:.2f} GB\n"
    )
    print("| queries at once | by | a second | a CPU second |\n|---|---|---|---|")
    ways: dict[str, Callable[[int], object]] = {
        "top_k": lambda batch: top_k(queries[:batch], index, k),
        "faiss IndexFlatIP": lambda batch: theirs.search(queries[:batch], k),  # pyright: ignore[reportCallIssue]
        "numpy, the products alone": products,
    }
    for batch in batches:
        ways["top_k"](batch)  # compiles this shape
        taken = {name: [] for name in ways}
        for _ in range(rounds):  # in turn: what else the machine does falls on all
            for name, work in ways.items():
                taken[name].append(seconds(functools.partial(work, batch)))
        for name, times in taken.items():
            wall, cpu = (statistics.median(each) for each in zip(*times, strict=True))
            print(f"| {batch:,} | {name} | {batch / wall:,.1f} | {batch / cpu:,.1f} |", flush=True)


def same(queries: np.ndarray, index: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> None:
    """Says where the answers differ, and by what inner products in float64."""
    differ = np.flatnonzero((ours != theirs).any(axis=1))
    gap = 0.0
    for query in differ:
        one, other = (index[ids[query]].astype(np.float64) @ queries[query] for ids in (ours, theirs))
        gap = max(gap, float(np.abs(one - other).max()))
    print(
        f"same {ours.shape[1]} rows in the same order as faiss: {len(ours) - len(differ)} of {len(ours)} queries"
        + (f"; elsewhere two products differ by {gap:.1e} at most" if len(differ) else "")
    )


def texts(count: int, words: int) -> list[str]:
    """Of common words drawn by Zipf's law and a number: no two alike, about a token a word."""
    random = np.random.default_rng([count, words])
    chance = 1 / np.arange(1, len(WORDS.split()) + 1)
    drawn = random.choice(WORDS.split(), (count, words - 1), p=chance / chance.sum())
    return [" ".join([str(number), *row]) for number, row in enumerate(drawn.tolist())]


def embedding(names: list[str]) -> None:
    print("\n| embedder | words a text | texts | a second | a CPU second | peak, GB more |")
    print("|---|---|---|---|---|---|")
    for name in names:
        work = embedder(name).embed
        for words in (20, 100, 200):
            some = texts(20_000 if name.startswith("hashed") else 20_480 // words, words)
            _, extra = extra_bytes(functools.partial(work, some))  # compiles too
            wall, cpu = (len(some) / taken for taken in seconds(functools.partial(work, some)))
            print(
                f"| {name} | {words} | {len(some):,} | {wall:,.0f} | {cpu:,.0f} | {extra / 1e9:.2f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="vectors that are searched (%(default)s)")
    parser.add_argument("--width", type=int, default=384, help="of a vector (%(default)s)")
    parser.add_argument("--k", type=int, default=8, help="neighbours a query (%(default)s)")
    parser.add_argument("--queries", type=int, action="append", help="at once (default: 64 and 512)")
    parser.add_argument("--rounds", type=int, default=3, help="whose median is printed (%(default)s)")
    parser.add_argument("--embedder", action="append", default=[], help="hashed, minilm or a folder")
    options = parser.parse_args()
    print(machine.heading("numpy", "jax", versions={"faiss": faiss.__version__}))
    neighbours(options.rows, options.width, options.k, options.queries or [64, 512], options.rounds)
    embedding(options.embedder)
    print(f"\nload average {os.getloadavg()[0]:.1f} after")


if __name__ == "__main__":
    main()
