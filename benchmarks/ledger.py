"""What verdicts cost: writes a second of log and database, and reading a whole ledger.

`python -m benchmarks.ledger --verdicts=1000000`
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import machine
from rewardscale.data.ledger.ledger import Ledger
from rewardscale.data.ledger.log import AppendLog
from rewardscale.data.ledger.schema import Verdict


def verdict(n: int) -> Verdict:
    return Verdict(
        row=n, comparison=f"{n:032x}", annotator="judge", kind="llm_judge", preferred=1 - n % 3, votes_first=2,
        votes_second=1, key=f"{n:064x}", model="a-model", prompt_version="pairwise-1", tokens_in=900, tokens_out=80,
        cost=0.001, seconds=1.5, reason="The first answers what was asked; the second does not.",
        examples=tuple(f"{n + i:032x}" for i in range(8)),
    )  # fmt: skip


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def show(name: str, count: int, wall: float, cpu: float) -> None:
    print(f"| {name} | {count:,} | {wall:.2f} | {count / wall:,.0f} | {count / cpu:,.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--verdicts", type=int, default=1_000_000, help="in the log (%(default)s)")
    parser.add_argument("--people", type=int, default=1000, help="verdicts in the database (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to write (default: the system's temporary folder)")
    options = parser.parse_args()
    print(machine.heading("orjson"))
    print("| what | verdicts | wall, s | a second | a CPU second |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        measure(Path(name), options.verdicts, options.people)


def measure(folder: Path, count: int, people: int) -> None:
    ledger = Ledger(folder / "ledger")
    verdicts = [verdict(n) for n in range(count)]
    record = {"key": "f" * 64, "answer": "x" * 700}

    def plain() -> None:
        with AppendLog(folder / "calls", "plain") as log:
            for _ in range(count):
                log.add(record)

    def log() -> None:
        with ledger.log("judge") as writer:
            for one in verdicts:
                writer.add(one)

    def database() -> None:
        with ledger.database() as store:
            for n in range(count, count + people):
                store.add(verdict(n))

    def two_threads() -> None:
        with ledger.database() as one, ledger.database() as other:
            first = count + people
            halves = (range(first, first + people // 2), range(first + people // 2, first + people))
            work = [
                threading.Thread(target=lambda s=store, h=half: [s.add(verdict(n)) for n in h])
                for store, half in zip((one, other), halves, strict=True)
            ]
            for thread in work:
                thread.start()
            for thread in work:
                thread.join()

    show("log, records of 0.8 kB, fsync every 500", count, *timed(plain))
    show("log, checked verdicts", count, *timed(log))
    show("database, a transaction and an fsync each", people, *timed(database))
    show("database, two connections at once", people, *timed(two_threads))
    whole = count + 2 * people
    show("all verdicts read, log and database", whole, *timed(ledger.read))
    show("keys read, log and database", whole, *timed(ledger.keys))
    show("export to Parquet", whole, *timed(lambda: ledger.export(folder / "all.parquet")))
    other = Ledger(folder / "other")
    show("import of it", whole, *timed(lambda: other.import_(folder / "all.parquet")))
    show("all verdicts read, one part", whole, *timed(other.read))
    log_bytes = sum(path.stat().st_size for path in (folder / "ledger" / "log").iterdir())
    part_bytes = sum(path.stat().st_size for path in other.directory.glob("part-*"))
    print(f"\nbytes a verdict: {log_bytes / count:.0f} in the log, {part_bytes / whole:.0f} in a part")


if __name__ == "__main__":
    main()
