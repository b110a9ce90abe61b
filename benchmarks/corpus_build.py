"""A whole build: pairs a CPU second from .jsonl to a finished corpus, by stage, and memory against the number of pairs.

    python -m benchmarks.corpus_build [--pairs=100000,1000000,10000000] [--near] [--engine=inline]

Pairs of random words, 30 + 40 + 40 of them (about 700 bytes of JSON), 100,000 a file; a hundredth are copies. Each size
is a process of its own; its memory is the peak of what it holds itself (Linux: RssAnon), sampled each 50 ms.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine
from rewardscale.config.build import BuildConfig, NearConfig, SourceConfig
from rewardscale.data.build.run import build

A_FILE = 100_000
COPIES = 100  # one pair in so many


def write_source(folder: Path, pairs: int) -> None:
    """`pairs` pairs in files of 100,000."""
    letters = [chr(ord("a") + i) for i in range(26)]
    random = np.random.default_rng(0)
    vocabulary = np.array(["".join(random.choice(letters, random.integers(2, 10))) for _ in range(30_000)])
    for first in range(0, pairs, A_FILE):
        random = np.random.default_rng(first)
        with (folder / f"pairs-{first // A_FILE:04d}.jsonl").open("w") as file:
            for _ in range(0, min(A_FILE, pairs - first), 1000):
                lines = []
                for words in vocabulary[random.integers(0, len(vocabulary), (1000, 110))].tolist():
                    parts = (" ".join(words[a:b]) for a, b in ((0, 30), (30, 70), (70, 110)))
                    lines.append(json.dumps(dict(zip(("prompt", "chosen", "rejected"), parts, strict=True))))
                for at in range(0, 1000, COPIES):
                    lines[at] = lines[at + 1]
                file.write("\n".join(lines) + "\n")


def anonymous_bytes() -> int:
    """Memory of this process that no file backs."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


def measure(source: Path, out: Path, engine: str, *, near: bool) -> dict[str, Any]:
    """Seconds by stage (CPU of this process), peak memory, counts."""
    peak, stop = [anonymous_bytes()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    seconds: dict[str, float] = {}
    last = [time.process_time()]

    def progress(stage: str, done: int, total: int) -> None:
        del done, total
        now = time.process_time()
        name = "normalise" if stage.startswith("normalise") else stage
        seconds[name] = seconds.get(name, 0.0) + now - last[0]
        last[0] = now

    started, base = time.perf_counter(), anonymous_bytes()
    config = BuildConfig(sources=(SourceConfig(path=str(source)),), near=NearConfig(0.8 if near else 0.0))
    built = build(config, out, engine=engine, progress=progress)
    cpu = time.process_time()
    stop.set()
    (counts,) = built.record["sources"]
    assert counts["items"] == counts["kept"] + sum(counts["dropped"].values())
    return {
        "items": counts["items"],
        "kept": counts["kept"],
        "dropped": counts["dropped"],
        "seconds": seconds,
        "cpu": cpu,
        "wall": time.perf_counter() - started,
        "base": base,
        "peak": peak[0],
        "bytes": sum(path.stat().st_size for path in (out / "corpus").iterdir()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", default="100000,1000000", help="sizes, one after another (%(default)s)")
    parser.add_argument("--near", action="store_true", help="near-duplicates too")
    parser.add_argument(
        "--engine", default="inline", help="CPU seconds are those of this process: inline for them"
    )
    parser.add_argument("--one", nargs=2, metavar=("SOURCE", "OUT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        source, out = map(Path, options.one)
        print(json.dumps(measure(source, out, options.engine, near=options.near)))
        return
    print(machine.heading("numpy", "polars", "array_record"))
    print(
        "| pairs | normalise | exact | near | rows | all | pairs / CPU s | wall, s | memory, MB | corpus, MB |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for pairs in map(int, options.pairs.split(",")):
        with tempfile.TemporaryDirectory() as scratch:
            source, out = Path(scratch) / "source", Path(scratch) / "out"
            source.mkdir()
            write_source(source, pairs)
            command = [sys.executable, "-m", "benchmarks.corpus_build", f"--engine={options.engine}"]
            command += ["--one", str(source), str(out)] + ["--near"] * options.near
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            shutil.rmtree(out)
        seconds = found["seconds"]
        tail = found["cpu"] - sum(seconds.get(name, 0) for name in ("normalise", "exact", "near"))
        cells = [seconds.get(name, 0.0) for name in ("normalise", "exact", "near")]
        print(
            f"| {pairs:,} | "
            + " | ".join(f"{cell:.1f}" if cell else "–" for cell in cells)
            + f" | {tail:.1f} | {found['cpu']:.1f} | {pairs / found['cpu']:,.0f} | {found['wall']:.0f} | "
            f"{found['base'] / 1e6:.0f} to {found['peak'] / 1e6:.0f} | {found['bytes'] / 1e6:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
