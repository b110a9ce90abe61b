"""The same pairs read by Hugging Face datasets (Arrow) and by MosaicML Streaming: `benchmarks/streaming.py` calls this.

    python benchmarks/streaming_peers.py FOLDER hf|mosaic SECONDS

Runs in an environment of its own that has the library, numpy and nothing of ours. FOLDER holds tokens.bin (uint32) and
lengths.npy [rows, 3]. Prints one JSON line.
"""

import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

AT_ONCE = 1024


def rate(batches: Iterable[int], seconds: float) -> list[float]:
    """Pairs a second, on the clock and of CPU, of an iterable of numbers of pairs read."""
    started, cpu, read = time.perf_counter(), time.process_time(), 0
    for pairs in batches:
        read += pairs
        if time.perf_counter() - started > seconds:
            break
    return [read / (time.perf_counter() - started), read / (time.process_time() - cpu)]


def measure(
    rows: int,
    many: Callable[[np.ndarray], Any],
    one: Callable[[int], Any],
    epoch: Iterable[int],
    seconds: float,
) -> dict[str, list[float]]:
    """Random reads of AT_ONCE pairs and of single pairs, and a shuffled epoch by the library's own means."""
    random = np.random.default_rng(0)

    def random_batches():
        while True:
            many(random.integers(0, rows, AT_ONCE))
            yield AT_ONCE

    def random_singles():
        while True:
            one(int(random.integers(0, rows)))
            yield 1

    many(random.integers(0, rows, AT_ONCE))  # opens the files
    return {
        "random": rate(random_batches(), seconds),
        "single": rate(random_singles(), seconds),
        "epoch": rate(epoch, seconds),
    }


def parts(folder: Path) -> Iterable[list[np.ndarray]]:
    """Prompt, first and second response of each row."""
    flat, lengths = np.fromfile(folder / "tokens.bin", np.uint32), np.load(folder / "lengths.npy")
    ends = np.cumsum(lengths.ravel().astype(np.int64)).reshape(lengths.shape)
    for (prompt, first, second), begin in zip(ends.tolist(), [0, *ends[:-1, 2].tolist()], strict=True):
        yield [flat[begin:prompt], flat[prompt:first], flat[first:second]]


def hugging_face(folder: Path, seconds: float) -> dict[str, Any]:
    datasets: Any = importlib.import_module("datasets")  # of the other environment

    datasets.disable_progress_bars()
    where = folder / "hf"
    if not where.exists():
        names = ("prompt", "chosen", "rejected")
        features = datasets.Features({name: datasets.Sequence(datasets.Value("uint32")) for name in names})
        made = datasets.Dataset.from_generator(
            lambda: (dict(zip(names, row, strict=True)) for row in parts(folder)),
            features=features,
            cache_dir=str(folder / "hf-cache"),
        )
        made.save_to_disk(str(where))
        shutil.rmtree(folder / "hf-cache")
    found = datasets.load_from_disk(str(where)).with_format("numpy")
    shuffled = found.shuffle(seed=0)
    epoch = (len(batch["prompt"]) for batch in shuffled.iter(batch_size=AT_ONCE))
    out = measure(len(found), lambda rows: found[rows.tolist()], lambda row: found[row], epoch, seconds)
    return {"version": datasets.__version__, "folder": str(where), **out}


def mosaic(folder: Path, seconds: float) -> dict[str, Any]:
    streaming: Any = importlib.import_module("streaming")

    where = folder / "mosaic"
    if not where.exists():
        names = ("prompt", "chosen", "rejected")
        columns = dict.fromkeys(names, "ndarray:uint32")
        with streaming.MDSWriter(out=str(where), columns=columns) as writer:
            for row in parts(folder):
                writer.write(dict(zip(names, row, strict=True)))
    found = streaming.StreamingDataset(local=str(where), shuffle=True, batch_size=AT_ONCE)
    epoch = (1 for _ in found)
    out = measure(
        len(found), lambda rows: [found[row] for row in rows.tolist()], lambda row: found[row], epoch, seconds
    )
    return {"version": streaming.__version__, "folder": str(where), **out}


def main() -> None:
    folder, which, seconds = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    found = {"hf": hugging_face, "mosaic": mosaic}[which](folder, seconds)
    print(json.dumps(found), flush=True)
    os._exit(0)  # MosaicML's threads and shared memory may hold an ordinary exit up


if __name__ == "__main__":
    main()
