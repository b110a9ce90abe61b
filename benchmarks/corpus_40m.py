"""Forty million pairs on one machine: corpus, view, levels, nested subsets, an epoch's plan, streaming from the middle.

    python -m benchmarks.corpus_40m --folder /a/disk/with/room --pairs 40000000

Short synthetic pairs (about 60 bytes of text, 14 tokens), put together from 100,000 texts. Every step runs in a
process of its own and reports its seconds, on the clock and of CPU, and its peak memory: anonymous (its own) and file
(pages of mapped files, which are shared and may be dropped).
At 40M it needs 16 GB of disk; the folder is removed at the end unless --keep is given. Steps that are done are
not repeated, so an interrupted run goes on.
"""

import argparse
import contextlib
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from benchmarks import machine
from rewardscale import atomic
from rewardscale.data import corpus as corpora
from rewardscale.data import pipeline, subsets, templates, token_shards, tokenised
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.explain import explain, explain_text
from rewardscale.data.levels import Level, read_level, write_level
from rewardscale.data.strata import strata_of

ROWS_A_PART = 100_000
BANK = 2**17
TOKENISED_UP_TO = 1_000_000  # larger views are written from the ids that the texts are known to have
WORDS = [
    f"{a}{b}{c}"
    for a in "bdfgklmnprst"
    for b in ("a", "e", "in", "or", "u")
    for c in ("t", "nd", "ral", "so")
]
SOURCES, CATEGORIES = ("chat", "helpful", "code", "maths"), ("easy", "hard", "open")
SHARES = (0.5, 0.3, 0.15, 0.05)
BATCH, ROW_LENGTH, ROWS = 1024, 128, 32
MIXTURE = {"chat": 0.3, "helpful": 0.3, "code": 0.3, "maths": 0.1}


@dataclasses.dataclass(frozen=True)
class Bank:
    """The texts that pairs are drawn from: 2 to 6 words each, and what can be known of each beforehand."""

    texts: list[str]
    prompt_hashes: np.ndarray

    def draw(self, number: int, rows: int) -> np.ndarray:
        """[rows, 3] texts of part `number`: prompt, first and second response (never the same twice)."""
        chosen = np.random.default_rng([40, number]).integers(0, len(self.texts), (rows, 3))
        chosen[:, 2] = np.where(
            chosen[:, 1] == chosen[:, 2], (chosen[:, 2] + 1) % len(self.texts), chosen[:, 2]
        )
        return chosen


@functools.cache
def bank() -> Bank:
    random = np.random.default_rng(40)
    texts = sorted({" ".join(random.choice(WORDS, random.integers(2, 7))) for _ in range(BANK)})
    hashes = [Comparison((Message("user", t),), ("", " "), "").prompt_hash for t in texts]
    return Bank(texts, np.array(hashes, object))


def make_part(task: tuple[Path, int, int, int]) -> corpora.Part:
    """Writes ROWS_A_PART rows of the corpus. Texts are plain words, so records can be put together as strings."""
    folder, number, rows, of = task
    folder.mkdir(parents=True, exist_ok=True)
    texts, chosen = bank().texts, bank().draw(number, rows)
    random = np.random.default_rng([41, number])
    source = np.array(SOURCES, object)[random.choice(len(SOURCES), rows, p=SHARES)]
    category = np.array(CATEGORIES, object)[random.integers(0, len(CATEGORIES), rows)]
    ids, records = [], []
    for (prompt, first, second), s, c in zip(chosen.tolist(), source, category, strict=True):
        content = f'[["user","{texts[prompt]}"]],', f'["{texts[first]}","{texts[second]}"]'
        ids.append(hashlib.blake2b(f"[{content[0]}{content[1]}]".encode(), digest_size=16).hexdigest())
        records.append(
            f'{{"category":"{c}","group":"","prompt":{content[0]}"responses":{content[1]},"source":"{s}",'
            '"split":"train"}'.encode()
        )
    one = Comparison.from_bytes(records[0])
    assert (one.to_bytes(), one.id) == (records[0], ids[0])
    begin = number * ROWS_A_PART
    manifest = pl.DataFrame(
        {
            "row": np.arange(begin, begin + rows, dtype=np.uint32),
            "id": ids,
            "source": source,
            "category": category,
            "group": np.char.mod("%d", np.arange(begin, begin + rows) // 4),
            "prompt_hash": bank().prompt_hashes[chosen[:, 0]],
            "split": ["train"] * rows,
            "responses": np.full(rows, 2, np.uint16),
        }
    )
    total = -(-of // corpora.RECORDS_PER_SHARD)
    shards = corpora.write_shards(
        folder, records, total=rows, first=begin // corpora.RECORDS_PER_SHARD, of=total
    )
    path = folder / f"manifest-{number:05d}-of-{-(-of // ROWS_A_PART):05d}.parquet"
    atomic.write_parquet(path, manifest)
    described = {"name": path.name, "rows": rows, "bytes": path.stat().st_size, "sha256": atomic.sha256(path)}
    return corpora.Part(folder, shards, described, corpora.fingerprint(manifest))


def known_ids(corpus: Any, rule: Any, where: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What encoding the corpus gives, from the bank's texts encoded once each."""
    texts = bank().texts
    encoded = rule.encode([Comparison((Message("user", text),), (text, text), "") for text in texts])
    as_prompt, as_response, _ = zip(*encoded, strict=True)
    counts, ids = token_shards.flatten([[*as_prompt, *as_response]])
    sizes = counts[0].astype(np.int64)
    starts = np.cumsum(sizes) - sizes
    for number, begin in enumerate(range(0, len(corpus), ROWS_A_PART)):
        chosen = bank().draw(number, min(ROWS_A_PART, len(corpus) - begin))
        parts = (chosen + np.array([0, len(texts), len(texts)])).ravel()
        source = token_shards.ragged_arange(starts[parts], sizes[parts])
        yield sizes[parts].reshape(-1, 3).astype(np.uint32), ids[source]


def step_corpus(folder: Path, pairs: int) -> dict[str, Any]:
    starts = range(0, pairs, ROWS_A_PART)
    tasks = [
        (folder / "parts" / f"{i:05d}", i, min(ROWS_A_PART, pairs - a), pairs) for i, a in enumerate(starts)
    ]
    parts = []
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for part in pool.imap(make_part, tasks):
            parts.append(part)
            tell(len(parts) * ROWS_A_PART, pairs)
    corpora.join_corpus(folder / "corpus", parts, about={"generator": "benchmarks/corpus_40m.py"})
    shutil.rmtree(folder / "parts")
    return {"disk": disk(folder / "corpus")}


def step_open_corpus(folder: Path, pairs: int) -> dict[str, Any]:
    return {"rows": len(corpora.open_corpus(folder / "corpus"))}


def step_view(folder: Path, pairs: int) -> dict[str, Any]:
    corpus = corpora.open_corpus(folder / "corpus")
    tokenizer = templates.word_tokenizer(WORDS)
    if pairs > TOKENISED_UP_TO:
        tokenised._encode = known_ids  # to tokenise forty million takes an hour and shows nothing new
    engine = "process:2" if pairs <= TOKENISED_UP_TO else None
    view = tokenised.build_view(corpus, tokenizer, "words", engine=engine, progress=lambda n: tell(n, pairs))
    if pairs <= TOKENISED_UP_TO:  # so that the larger ones can be trusted
        store, rows = tokenised.TokenStore(view), np.arange(ROWS_A_PART)
        lengths, ids = next(known_ids(corpus, tokenised._rule(tokenizer, "words"), folder))
        assert np.array_equal(store.gather(rows)[0], ids) and np.array_equal(view.lengths[rows], lengths)
    (folder / "view").symlink_to(view.directory)
    return {"disk": disk(view.directory), "tokens": view.tokens}


def step_levels(folder: Path, pairs: int) -> dict[str, Any]:
    random = np.random.default_rng(7)
    rows, sign = (
        np.arange(pairs, dtype=np.uint32),
        random.integers(0, 2, pairs, np.int8) * np.int8(2) - np.int8(1),
    )
    write_level(folder / "levels", Level("raw", rows, sign))
    keep = random.random(pairs, np.float32) < 0.6
    weight, target = (random.random(int(keep.sum()), np.float32) for _ in range(2))
    level = Level("filtered", rows[keep], sign[keep], weight=weight, target=target)
    write_level(folder / "levels", level)
    return {"disk": disk(folder / "levels")}


def step_read_levels(folder: Path, pairs: int) -> dict[str, Any]:
    return {"pairs": [len(read_level(folder / "levels" / name).rows) for name in ("raw", "filtered")]}


def select(folder: Path, name: str, level: str, pairs: int, pool: int, strata: Any = None) -> dict[str, Any]:
    rows = np.arange(pool, dtype=np.uint32)
    started = time.perf_counter()
    chosen = subsets.subset(
        read_level(folder / "levels" / level), pairs, pool=rows, seed=0, draw=0, strata=strata
    )
    seconds = time.perf_counter() - started
    path = subsets.write_subset(folder / "subsets", chosen)
    (folder / f"subset-{name}").unlink(missing_ok=True)
    (folder / f"subset-{name}").symlink_to(path)
    return {"selection": seconds, "pairs": pairs, "fingerprint": chosen.fingerprint}


def step_subset_all(folder: Path, pairs: int) -> dict[str, Any]:
    return select(folder, "all", "raw", pairs, pairs)


def step_subset_tenth(folder: Path, pairs: int) -> dict[str, Any]:
    found = select(folder, "tenth", "raw", pairs // 10, pairs)
    small, large = (subsets.open_subset((folder / f"subset-{name}").resolve()) for name in ("tenth", "all"))
    assert np.array_equal(small.rows, large.rows[: len(small)])
    return found


def step_subset_filtered(folder: Path, pairs: int) -> dict[str, Any]:
    return select(folder, "filtered", "filtered", pairs // 2, pairs)


def step_subset_mixture(folder: Path, pairs: int) -> dict[str, Any]:
    corpus = corpora.open_corpus(folder / "corpus")
    started = time.perf_counter()
    strata = strata_of(corpus, "source", pool=np.arange(pairs, dtype=np.uint32), mixture=MIXTURE)
    seconds = time.perf_counter() - started
    return {"strata": seconds} | select(folder, "mixture", "filtered", pairs // 5, pairs, strata)


def step_explain(folder: Path, pairs: int) -> dict[str, Any]:
    corpus = corpora.open_corpus(folder / "corpus")
    levels = [read_level(folder / "levels" / name) for name in ("raw", "filtered")]
    print(explain_text(explain(subsets.open_subset((folder / "subset-mixture").resolve()), corpus, levels)))
    return {}


def prepare(folder: Path) -> pipeline.TrainingData:
    view = tokenised.open_view((folder / "view").resolve())
    chosen = subsets.open_subset((folder / "subset-all").resolve())
    return pipeline.prepare(
        view, chosen, positions=len(chosen), batch=BATCH, seed=0, draw=0, max_length=128, too_long="drop",
        row_length=ROW_LENGTH, rows_per_microbatch=ROWS, store=folder / "batches",
    )  # fmt: skip


def step_plan(folder: Path, pairs: int) -> dict[str, Any]:
    data = prepare(folder)
    return {"disk": disk(folder / "batches"), "efficiency": data.plan.efficiency, "steps": data.plan.steps}


def stream(folder: Path, workers: int, seconds: float = 20.0) -> dict[str, Any]:
    """First batch from a step in the middle, then as many as come."""
    started = time.perf_counter()
    data = prepare(folder)
    sizes = pipeline.capacity(
        data.lengths, pairs_per_step=BATCH, row_length=ROW_LENGTH, rows_per_microbatch=ROWS
    )
    source = pipeline.StepSource(data, sizes)
    step = int(np.random.default_rng(time.time_ns()).integers(0, max(1, len(source) // 2)))
    blocks = pipeline.blocks(source, start_step=step, steps_per_block=4, workers=workers)
    _, _, block = next(blocks)
    first, pairs = time.perf_counter() - started, 0
    started = time.perf_counter()
    for _, _, block in blocks:
        pairs += int(block["pairs"].sum())
        if time.perf_counter() - started > seconds:
            break
    rate = pairs / (time.perf_counter() - started)
    of_workers = [dataclasses.asdict(memory(pid)) for pid in children()]
    blocks.close()  # type: ignore[attr-defined]
    return {"step": step, "first batch": first, "pairs a second": rate, "workers": of_workers}


def step_stream(folder: Path, pairs: int) -> dict[str, Any]:
    return stream(folder, 0)


def step_stream_workers(folder: Path, pairs: int) -> dict[str, Any]:
    return stream(folder, 2)


def step_random_access(folder: Path, pairs: int) -> dict[str, Any]:
    store = tokenised.TokenStore(tokenised.open_view((folder / "view").resolve()))
    random = np.random.default_rng(1)
    out = {}
    for name in ("first pass", "again"):
        started, read = time.perf_counter(), 0
        while time.perf_counter() - started < 10:
            store.gather(random.integers(0, len(store), 1024))
            read += 1024
        out[name] = read / (time.perf_counter() - started)
    return {"pairs a second": out}


STEPS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    name.removeprefix("step_"): value for name, value in list(globals().items()) if name.startswith("step_")
}


@dataclasses.dataclass
class Memory:
    """MB: a process's own pages, and its pages of files."""

    anonymous: float
    file: float


def memory(pid: int | str = "self") -> Memory:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return Memory(*(int(fields[key].split()[0]) / 1024 for key in ("RssAnon", "RssFile")))


def children() -> list[int]:
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return found


@contextlib.contextmanager
def peak_memory() -> Iterator[Memory]:
    """The highest values seen while the block runs."""
    peak, stop = memory(), threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            now = memory()
            peak.anonymous, peak.file = max(peak.anonymous, now.anonymous), max(peak.file, now.file)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()


def disk(folder: Path) -> float:
    """GB of the files under `folder`."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e9


def tell(done: int, of: int) -> None:
    if sys.stderr.isatty() or done % 1_000_000 < 10_000:
        print(
            f"\r{min(done, of):,} of {of:,}",
            end="" if sys.stderr.isatty() else "\n",
            file=sys.stderr,
            flush=True,
        )


def run_step(name: str, folder: Path, pairs: int) -> None:
    base = memory().anonymous
    started = time.perf_counter()
    with peak_memory() as peak:
        found = STEPS[name](folder, pairs)
    seconds, used = time.perf_counter() - started, os.times()
    cpu = used.user + used.system + used.children_user + used.children_system
    record = {"seconds": seconds, "cpu": cpu, "base": base, **dataclasses.asdict(peak), **found}
    atomic.write_json(folder / "steps" / f"{name}.json", record)


def table(folder: Path) -> str:
    lines = [
        "| step | seconds | of CPU | own memory, MB | mapped files, MB | more |",
        "|---|---|---|---|---|---|",
    ]
    for name in STEPS:
        record = json.loads((folder / "steps" / f"{name}.json").read_text())
        own, file, seconds, cpu = (record.pop(key) for key in ("anonymous", "file", "seconds", "cpu"))
        record.pop("base")
        more = "; ".join(f"{key}: {shown(value)}" for key, value in record.items() if value not in (None, []))
        lines.append(
            f"| {name.replace('_', ' ')} | {seconds:,.1f} | {cpu:,.1f} | {own:,.0f} | {file:,.0f} | {more} |"
        )
    return "\n".join(lines)


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.3g}" if value < 100 else f"{value:,.0f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {shown(one)}" for key, one in value.items())
    if isinstance(value, list):
        return " / ".join(map(shown, value))
    return f"{value:,}" if isinstance(value, int) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True, help="where to write: 16 GB at 40M")
    parser.add_argument("--pairs", type=int, default=40_000_000, help="(%(default)s)")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    parser.add_argument("--step", choices=list(STEPS), help="run this one, in this process")
    args = parser.parse_args()
    if args.step:
        run_step(args.step, args.folder.resolve(), args.pairs)
        return
    folder = args.folder.resolve() / f"pairs-{args.pairs}"
    for name in STEPS:
        if (folder / "steps" / f"{name}.json").exists():
            continue
        print(f"{name} ...", file=sys.stderr, flush=True)
        command = [sys.executable, "-m", "benchmarks.corpus_40m", "--step", name]
        subprocess.run(
            [*command, "--folder", str(folder), "--pairs", str(args.pairs)],
            check=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"},
        )
    print(machine.heading("numpy", "polars", "grain", "array_record"))
    print(table(folder))
    if not args.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
