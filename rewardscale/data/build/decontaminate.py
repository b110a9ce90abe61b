"""Decontamination: items that share a run of 13 words with a text of a named evaluation set.

Brown et al., "Language models are few-shot learners", NeurIPS 2020, appendix C: runs of lower-cased words without
punctuation; 13 words, fewer for sets of short texts but never under 8. Here a message or response is contaminated

    by a run      if it holds any 13 words in a row of an evaluation text
    as a whole    if it is, word for word, an evaluation text of 8 to 12 words; within a longer text so short a one
                  ("I'm sorry, but I can't help with that") says nothing. Shorter ones are not looked for.

Stages: decontaminate-index (a task a set), decontaminate-hits (a task a group of parts), decontaminate. Runs are looked
up by 64-bit hashes: of the 1.2e10 runs of 40M items 0.007 would be found by chance in an index of 1e7 (their
product / 2^64). Each hit is confirmed by its words, so what is dropped does share a run; and all that share one
are found, as equal words have equal hashes.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from rewardscale import atomic, stages
from rewardscale.config import ConfigError
from rewardscale.data.build import ngram_index
from rewardscale.data.build import parts as build
from rewardscale.data.build.parts import Dropped, Part
from rewardscale.data.comparison import Comparison, DataError
from rewardscale.data.overlap import WORDS
from rewardscale.data.records import parse_item

SHORTEST = 8  # words of an evaluation text that is looked for as a whole
ITEMS_AT_ONCE = 250_000  # of a task; a part of them is in memory
_NAME = re.compile(r"\w[\w.-]*")
_FOUND = pl.Schema(
    {
        "part": pl.UInt32,
        "item": pl.UInt32,
        "set": pl.UInt32,
        "text": pl.UInt32,  # of the set
        "word": pl.UInt32,  # of the text: the run's first
        "words": pl.UInt32,
        "hash": pl.UInt64,
    }
)
HITS_SCHEMA = pl.Schema(
    {
        "part": pl.UInt32,
        "item": pl.UInt32,
        "set": pl.String,
        "text": pl.UInt32,  # number of the evaluation text in its set
        "text_id": pl.String,
        "runs": pl.UInt32,  # how many runs the item shares with this text
        "words": pl.String,  # the first of them
    }
)


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Texts that must not be trained on.

    Attributes:
      name: of letters, digits, "_", "-" and "."; enters the reason "contaminated:<name>".
      files: .jsonl files, in order; a line is {"id": ..., "text": "..."}, or a comparison in a form of data/records.py,
        each message and response of which is a text.
    """

    name: str
    files: tuple[Path, ...]


def evaluation_set(name: str, path: Path) -> EvaluationSet:
    """The set of a .jsonl file, or of all .jsonl files of a folder. Raises DataError if there is none."""
    path = Path(path)
    files = tuple(sorted(path.glob("*.jsonl"))) if path.is_dir() else (path,) if path.is_file() else ()
    if not files:
        raise DataError(f"evaluation set {name!r}: {path} is no .jsonl file and no folder of them")
    return EvaluationSet(name, files)


def write_texts(path: Path, comparisons: Iterable[Comparison]) -> int:
    """Writes a benchmark's comparisons as a file of an evaluation set; returns how many."""
    count = 0
    with atomic.new_file(Path(path)) as file:
        for comparison in comparisons:
            prompt = [{"role": m.role, "content": m.content} for m in comparison.prompt]
            record = {"id": comparison.id, "prompt": prompt, "responses": comparison.responses}
            file.write(orjson.dumps(record) + b"\n")
            count += 1
    return count


def run(
    work: Path,
    parts: Sequence[Part],
    sets: Sequence[EvaluationSet],
    *,
    dropped: Sequence[Dropped] = (),
    words: int = WORDS,
    shortest: int = SHORTEST,
    common: int | None = None,
    engine: Any = "inline",
    items_at_once: int = ITEMS_AT_ONCE,
    progress: Callable[[int], None] | None = None,
) -> Dropped:
    """Finds the items of `parts`, but for those in `dropped`, that share words with `sets`.

    Args:
      work: the build's folder.
      sets: an item in several is dropped for the first.
      words: of a run. shortest: words from which a whole text is looked for; `words` leaves such texts out.
      common: a run that more items than this share is a phrase and no contamination (10 in Brown et al.); by default
        every run counts.
      engine: what runs the tasks. items_at_once: of a task.
      progress: called with the number of tasks done, over all stages.

    The counts: items (looked at), runs (looked up), refuted (a hash of the index, other words), dropped, common_runs
    (left out), and by_set: for each set its set_items (lines), texts, too_short (not looked for), runs (distinct),
    items (contaminated), dropped (for this set), texts_found and set_items_found (that share words with an item).
    The table "hits" holds a row an item and evaluation text: part, item, set, text, text_id, runs, words.

    Raises ConfigError for sets of one name, DataError for a file that cannot be read.
    """
    names = [chosen.name for chosen in sets]
    if len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise ConfigError(
            f"evaluation sets {names}: each needs a name of its own of letters, digits, '_', '-' and '.'"
        )
    if words < 1 or shortest < 1:
        raise ConfigError(f"words={words} and shortest={shortest} must be positive")
    parts = build.in_build_order(parts)
    indexed = stages.run(
        work,
        "decontaminate-index",
        [
            stages.Task(
                name=chosen.name,
                function=f"{__name__}:index_set",
                arguments={"words": words, "shortest": shortest},
                inputs=tuple(atomic.sha256(file) for file in chosen.files),
                paths={"files": [str(file) for file in chosen.files]},
            )
            for chosen in sets
        ],
        engine=engine,
        progress=build.after(progress, 0),
    )
    indices = {"indices": [str(done.folder) for done in indexed]}
    files = [str(file) for drop in dropped for file in drop.files]
    outputs = tuple(output for drop in dropped for output in drop.outputs)
    groups = build.grouped(parts, items_at_once)
    mapped = stages.run(
        work,
        "decontaminate-hits",
        [
            stages.Task(
                name=f"group-{number:05d}",
                function=f"{__name__}:find",
                arguments={"parts": build.arguments(group), "words": words},
                inputs=(*build.inputs(group), *(done.output for done in indexed), *outputs),
                paths={"folders": build.folders(group), "drop_files": files, **indices},
            )
            for number, group in enumerate(groups)
        ],
        engine=engine,
        progress=build.after(progress, len(indexed)),
    )
    (done,) = stages.run(
        work,
        "decontaminate",
        [
            stages.Task(
                name="drops",
                function=f"{__name__}:collect",
                arguments={"sets": names, "common": common},
                inputs=tuple(done.output for done in [*indexed, *mapped]),
                paths={"mapped": [str(done.folder) for done in mapped], **indices},
            )
        ],
        engine=engine,
        progress=build.after(progress, len(indexed) + len(mapped)),
    )
    by_set = [
        {"set": name, **index.counts, **found}
        for name, index, found in zip(names, indexed, done.counts["by_set"], strict=True)
    ]
    totals = {name: sum(task.counts[name] for task in mapped) for name in ("items", "runs", "refuted")}
    counts = {**totals, **done.counts, "by_set": by_set}
    return Dropped(
        (done.folder / "drop.parquet",), (done.output,), counts, {"hits": done.folder / "hits.parquet"}
    )


def index_set(folder: Path, *, words: int, shortest: int, files: Sequence[str]) -> Mapping[str, Any]:
    """Task: the index of a set (data/build/ngram_index.py), and set_items.npy: the number of each text's line."""
    ids, texts, lines = _read_texts([Path(file) for file in files])
    np.save(folder / "set_items.npy", np.array(lines, np.int64))
    counts = ngram_index.write(folder, ids, texts, words=words, shortest=shortest)
    return {**counts, "set_items": len(set(lines))}


def _read_texts(files: Sequence[Path]) -> tuple[list[str], list[str], list[int]]:
    """(ids, texts, numbers of their lines) of all lines of `files`, which are numbered on from file to file."""
    ids, texts, lines = [], [], []
    count = 0
    for path in files:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    record = orjson.loads(line)
                    found = _texts_of(record)
                except (ValueError, TypeError) as error:
                    raise DataError(
                        f'{path}, line {number}: neither {{"id": ..., "text": "..."}} nor a comparison: {error}'
                    ) from error
                name = str(record.get("id", f"{path.name}:{number}"))
                ids += [f"{name}/{place}" if place else name for place, _ in found]
                texts += [text for _, text in found]
                lines += [count] * len(found)
                count += 1
    return ids, texts, lines


def _texts_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(place, text) of a line: its "text", or the messages and responses of a comparison (data/records.py)."""
    if "text" in record:
        if not isinstance(record["text"], str):
            raise TypeError("'text' is not a string")
        return [("", record["text"])]
    found: dict[str, None] = {}
    for messages, responses in parse_item(record).parts:
        found |= dict.fromkeys(
            [*(m["content"] for m in messages if isinstance(m.get("content"), str)), *responses]
        )
    return [(str(place), text) for place, text in enumerate(found)]


def find(
    folder: Path,
    *,
    parts: Sequence[Sequence[int]],
    words: int,
    folders: Sequence[str],
    drop_files: Sequence[str],
    indices: Sequence[str],
) -> Mapping[str, Any]:
    """Task: found.parquet, a row for each run that an item shares with a text of a set: columns of _FOUND."""
    given = build.from_arguments(parts, folders)
    opened = ngram_index.Index([Path(path) for path in indices], words)
    items = runs = refuted = 0
    frames = [pl.DataFrame(schema=_FOUND)]
    for part, stays in zip(given, build.kept(given, drop_files), strict=True):
        texts, starts = build.read_texts(part, "pair")
        spots, looked_up = opened.spots(texts)
        item = np.searchsorted(starts, spots["text"], "right") - 1
        spots, item = spots[stays[item]], item[stays[item]]
        matches, others = opened.confirmed(texts, spots)
        columns: dict[str, Any] = {name: matches[name] for name in ("set", "text", "word", "words")}
        columns["part"] = np.full(len(matches), part.number, np.uint32)
        columns["item"] = item[matches["spot"]].astype(np.uint32)
        columns["hash"] = spots["hash"][matches["spot"]]
        frame = pl.DataFrame({name: columns[name] for name in _FOUND}, schema=_FOUND)
        frames.append(frame.unique(maintain_order=True))  # a run may stand twice in an item
        items, runs, refuted = items + int(stays.sum()), runs + looked_up, refuted + others
    atomic.write_parquet(folder / "found.parquet", pl.concat(frames))
    return {"items": items, "runs": runs, "refuted": refuted}


def collect(
    folder: Path, *, sets: Sequence[str], common: int | None, mapped: Sequence[str], indices: Sequence[str]
) -> Mapping[str, Any]:
    """Task: drop.parquet and hits.parquet of all that was found."""
    found = pl.concat(
        [pl.DataFrame(schema=_FOUND), *(pl.read_parquet(Path(p) / "found.parquet") for p in mapped)]
    )
    phrases = pl.Series([], dtype=pl.UInt64)
    if common is not None:
        holders = found.select("hash", "part", "item").unique().group_by("hash").len()
        phrases = holders.filter(pl.col("len") > common)["hash"]
        found = found.filter(~pl.col("hash").is_in(phrases.implode()))
    place = ["part", "item", "set", "text"]
    first = [pl.len().alias("runs"), pl.first("word"), pl.first("words").alias("count")]
    hits = found.sort(*place, "word").group_by(place, maintain_order=True).agg(first)
    atomic.write_parquet(folder / "hits.parquet", _readable(hits, sets, indices))
    items = hits.group_by("part", "item").agg(pl.col("set").min())
    reasons = [f"contaminated:{name}" for name in sets]
    none = pl.lit(None, pl.UInt32)
    drops = items.with_columns(
        reason=pl.Series([reasons[number] for number in items["set"]], dtype=pl.String),
        of_part=none,
        of_item=none,
    )
    build.write_drops(folder / "drop.parquet", drops)
    by_set = []
    for number, index in enumerate(indices):
        own = hits.filter(pl.col("set") == number)
        met = own["text"].unique().to_numpy()
        by_set.append(
            {
                "items": own.select("part", "item").n_unique(),
                "dropped": int((items["set"] == number).sum()),
                "texts_found": len(met),
                "set_items_found": len(np.unique(np.load(Path(index) / "set_items.npy")[met])),
            }
        )
    return {"dropped": len(drops), "common_runs": len(phrases), "by_set": by_set}


def _readable(hits: pl.DataFrame, sets: Sequence[str], indices: Sequence[str]) -> pl.DataFrame:
    """The hits with names, ids and words in place of numbers: columns of HITS_SCHEMA, in the order of `hits`."""
    texts = [ngram_index.Texts(Path(path)) for path in indices]
    ids = [pl.read_parquet(Path(path) / "texts.parquet", columns=["id"])["id"] for path in indices]
    rows = [
        (
            part,
            item,
            sets[set_],
            text,
            ids[set_][text],
            runs,
            " ".join(texts[set_].words(text)[word : word + count]),
        )
        for part, item, set_, text, runs, word, count in hits.iter_rows()
    ]
    return pl.DataFrame(rows, schema=HITS_SCHEMA, orient="row")
