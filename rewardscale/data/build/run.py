"""A whole build: stages one after another, then one corpus with its ledger and its raw level.

    <directory>/corpus/           text shards, manifest, corpus.json (rewardscale/data/corpus.py)
    <directory>/ledger/           the sources' own verdicts
    <directory>/levels/raw/       one label a pair: what the sources say
    <directory>/quarantine.jsonl  each record that could not be used: source, file, line, code, reason
    <directory>/build.json        counts by reason at every step, hashes, licences, versions; written last
    <directory>/work/             the stages' files; removed when all is whole

The same inputs and config give the same bytes, whatever the engine and the number of workers. Whatever is there
already is not done again, and nothing counts as a corpus until its record is written.
"""

import dataclasses
import functools
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import polars as pl

from rewardscale import __version__, atomic, stages
from rewardscale.config import ConfigError, content_hash, to_mapping
from rewardscale.config.build import BuildConfig
from rewardscale.data import arrays
from rewardscale.data import corpus as corpora
from rewardscale.data.build import decontaminate, exact, near, normalise
from rewardscale.data.build.parts import Dropped, Part, grouped, parts_of
from rewardscale.data.build.tasks import normalise_tasks, place, row_tasks, survivor_tasks
from rewardscale.data.comparison import DataError
from rewardscale.data.corpus import Corpus, open_corpus
from rewardscale.data.levels import Level, write_level
from rewardscale.data.sources.adapter import adapter, registry
from rewardscale.data.sources.judged import Judged
from rewardscale.data.sources.read import locate, read

Progress = Callable[[str, int, int], None]  # stage, tasks done, tasks in all
ITEMS_A_TASK = 100_000


@dataclasses.dataclass(frozen=True)
class Built:
    """A finished build: its folder, its corpus, and build.json."""

    directory: Path
    corpus: Corpus
    record: Mapping[str, Any]


def build(
    config: BuildConfig,
    directory: Path,
    *,
    data_dir: Path | None = None,
    engine: Any = "inline",
    keep_work: bool = False,
    progress: Progress | None = None,
) -> Built:
    """Builds the corpus of `config` in `directory`, going on where an earlier call stopped; opens it if it is whole.

    Args:
      data_dir: where relative paths of sources and evaluation sets are looked for first.
      engine: of the stages (rewardscale/stages).
      keep_work: keeps the stages' files.

    Raises:
      ConfigError, DataError: an input that is missing or damaged, or another corpus in `directory`.
      StageError: a task failed; what is committed stays.
    """
    directory = Path(directory)
    if not config.sources:
        raise ConfigError("config.sources is empty: name at least one source")
    told = _portable(config, data_dir)
    asked = content_hash(to_mapping(told))
    if (directory / "build.json").is_file():
        return _finished(directory, asked, config, data_dir)
    work = directory / "work"
    with stages.session(engine) as session:  # one pool for all stages
        normalised, dropped, surviving, written = _stages(config, work, data_dir, session, progress)
    record = _record(told, asked, normalised, dropped, surviving)
    return _commit(directory, config, normalised, written, record, keep_work=keep_work)


def _stages(
    config: BuildConfig, work: Path, data_dir: Path | None, engine: Any, progress: Progress | None
) -> tuple[list[list[stages.Done]], dict[str, Dropped], list[stages.Done], list[stages.Done]]:
    """All stages: what is done of normalise (a list a source), what is dropped, survivors, rows."""
    stage = functools.partial(_stage, work, engine, progress)
    normalised = [
        stage(f"normalise-{s.called}", normalise_tasks(config, s, data_dir)) for s in config.sources
    ]
    parts = parts_of([done for tasks in normalised for done in tasks])
    if not sum(part.items for part in parts):
        raise DataError(f"none of the records is a usable comparison; reasons: {_first_refusals(normalised)}")
    dropped = _drop(config, work, parts, data_dir, engine, progress)
    groups = grouped(parts, ITEMS_A_TASK)
    surviving = stage("survivors", survivor_tasks(groups, list(dropped.values())))
    return normalised, dropped, surviving, stage("rows", row_tasks(config, groups, surviving))


def _portable(config: BuildConfig, data_dir: Path | None) -> BuildConfig:
    """The config with names in the place of local paths: where inputs lie says nothing about what they are."""

    def name(path: str) -> str:
        where = Path(place(path, data_dir))
        return where.resolve().name if path and where.exists() else path

    sets = []
    for entry in config.decontaminate.sets:
        called, _, where = entry.partition("=")
        before, colon, path = where.partition(":")
        sets.append(f"{called}={before}:{name(path)}" if colon else f"{called}={name(where)}")
    return dataclasses.replace(
        config,
        sources=tuple(dataclasses.replace(s, path=name(s.path), name=s.called) for s in config.sources),
        decontaminate=dataclasses.replace(config.decontaminate, sets=tuple(sets)),
    )


def _stage(
    work: Path, engine: Any, progress: Progress | None, name: str, tasks: Sequence[stages.Task]
) -> list[stages.Done]:
    def report(done: int, of: int) -> None:
        if progress:
            progress(name, done, of)

    return stages.run(work, name, tasks, engine=engine, progress=report)


def _drop(
    config: BuildConfig,
    work: Path,
    parts: Sequence[Part],
    data_dir: Path | None,
    engine: Any,
    progress: Progress | None,
) -> dict[str, Dropped]:
    """What the stages between `normalise` and `rows` leave out, by stage."""

    def of(name: str) -> Any:
        def report(done: int) -> None:
            if progress:
                progress(name, done, 0)

        return {"engine": engine, "progress": report}

    dropped = {"exact": exact.run(work, parts, conflicts=config.conflicts, **of("exact"))}
    if config.near.threshold:
        dropped["near"] = near.run(
            work,
            parts,
            dropped=list(dropped.values()),
            threshold=config.near.threshold,
            on=config.near.on,
            **of("near"),
        )
    if config.decontaminate.sets:
        sets = [_evaluation_set(entry, work, data_dir) for entry in config.decontaminate.sets]
        dropped["decontaminate"] = decontaminate.run(
            work,
            parts,
            sets,
            dropped=list(dropped.values()),
            words=config.decontaminate.words,
            **of("decontaminate"),
        )
    return dropped


def _evaluation_set(entry: str, work: Path, data_dir: Path | None) -> decontaminate.EvaluationSet:
    """ "name=path" or "name=adapter:path"."""
    name, _, where = entry.partition("=")
    before, colon, path = where.partition(":")
    if not colon or before not in registry():
        return decontaminate.evaluation_set(name, Path(place(where, data_dir)))
    located = locate(adapter(before), place(path, data_dir))
    items = (one for unit in located.units() for one in read(located.adapter, unit))
    target = work / "evaluation" / f"{name}.jsonl"
    decontaminate.write_texts(target, (one.comparison for one in items if isinstance(one, Judged)))
    return decontaminate.evaluation_set(name, target)


def _finished(directory: Path, asked: str, config: BuildConfig, data_dir: Path | None) -> Built:
    path = directory / "build.json"
    record = json.loads(path.read_text())
    if record["asked"] != asked:
        raise ConfigError(
            f"{directory} holds a corpus built from another config (its build.json says which); "
            "choose another --out, or delete it"
        )
    for source, known in zip(config.sources, record["sources"], strict=True):
        where = Path(place(source.path, data_dir))
        # A source that is no longer here, or was never (the hub's), says nothing.
        if (
            changed := source.path
            and where.exists()
            and _changed(where, known["files"], path.stat().st_mtime)
        ):
            raise ConfigError(
                f"{directory} was built from another {changed} of source {known['name']!r}; choose another --out, "
                "or delete it"
            )
    return Built(directory, open_corpus(directory / "corpus"), record)


def _changed(where: Path, files: Sequence[Mapping[str, Any]], built: float) -> str | None:
    """The first file that is not what it was; contents are hashed only of those written to since `built`."""
    for file in files:
        path = where if where.is_file() else where / file["name"]
        if not path.is_file() or path.stat().st_size != file["bytes"]:
            return str(path)
        if path.stat().st_mtime >= built and atomic.sha256(path) != file["sha256"]:
            return str(path)
    return None


def _record(
    config: BuildConfig,
    asked: str,
    normalised: Sequence[Sequence[stages.Done]],
    dropped: Mapping[str, Any],
    surviving: Sequence[stages.Done],
) -> dict[str, Any]:
    """build.json. Raises DataError if its counts do not add up, which would be our mistake."""
    fates: dict[str, dict[str, int]] = {}
    for done in surviving:
        for source, fate, count in done.counts["fates"]:
            of = fates.setdefault(source, {})
            of[fate] = of.get(fate, 0) + count
    sources = []
    for source, tasks in zip(config.sources, normalised, strict=True):
        counts = [done.counts for done in tasks]
        items = sum(c["items"] for c in counts)
        fate = dict(sorted(fates.get(source.called, {}).items()))
        if sum(fate.values()) != items:
            raise DataError(f"source {source.called!r}: {items} items, and fates of {fate}")
        known = adapter(source.adapter)
        sources.append(
            {
                "name": source.called,
                **{key: getattr(known, key) for key in ("title", "url", "licence", "notes")},
                "files": [c["file"] for c in counts if c["file"]],
                "comparisons": sum(c["comparisons"] for c in counts),
                "refused": normalise.total(c["refused"] for c in counts),
                "unpaired": normalise.total(c["unpaired"] for c in counts),
                "items": items,
                "kept": fate.pop("kept", 0),
                "dropped": fate,
            }
        )
    packages = ("array_record", "polars", "orjson")
    return {
        "asked": asked,
        "config": to_mapping(config),
        "sources": sources,
        "stages": {name: dict(one.counts) for name, one in dropped.items()},
        "versions": {
            "rewardscale": __version__,
            **{name: importlib.metadata.version(name) for name in packages},
        },
    }


def _commit(
    directory: Path,
    config: BuildConfig,
    normalised: Sequence[Sequence[stages.Done]],
    written: Sequence[stages.Done],
    record: dict[str, Any],
    *,
    keep_work: bool,
) -> Built:
    """Corpus, ledger, level and quarantine from the stages' files, each whole or absent, and the record last."""
    about = {"build": record["asked"], "name": config.name, "sources": _licences(record)}
    corpus = _corpus(directory / "corpus", written, about)
    ledger = directory / "ledger"
    if not ledger.exists():
        with atomic.new_directory(ledger) as folder:
            for number, done in enumerate(written):
                corpora.link(done.folder / "ledger.parquet", folder / f"part-{number:06d}.parquet")
    write_level(directory / "levels", raw_level(corpus, directory / "work"))
    with atomic.new_file(directory / "quarantine.jsonl") as file:
        for source, tasks in zip(config.sources, normalised, strict=True):
            for done in tasks:
                for line in (done.folder / "quarantine.jsonl").read_bytes().splitlines():
                    refused = {"source": source.called, **orjson.loads(line)}
                    file.write(orjson.dumps(refused, option=orjson.OPT_APPEND_NEWLINE))
    record = record | {"comparisons": len(corpus), "fingerprint": corpus.fingerprint}
    atomic.write_json(directory / "build.json", record)
    record = json.loads((directory / "build.json").read_text())
    if not keep_work:
        shutil.rmtree(directory / "work")
    return Built(directory, corpus, record)


def _corpus(directory: Path, written: Sequence[stages.Done], about: Mapping[str, Any]) -> Corpus:
    parts = [
        corpora.Part(done.folder, done.counts["shards"], done.counts["manifest"], done.counts["fingerprint"])
        for done in written
    ]
    if directory.exists():
        corpus = open_corpus(directory)
        if corpus.fingerprint != corpora.joined_fingerprint(parts):
            raise DataError(f"{directory} holds another corpus; choose another --out, or delete it")
        return corpus
    return corpora.join_corpus(directory, parts, about=about)


def raw_level(corpus: Corpus, scratch: Path) -> Level:
    """The level of the sources' own labels: all pairs that have one. Its arrays lie in `scratch`, mapped."""
    scratch.mkdir(parents=True, exist_ok=True)
    rows = arrays.create(scratch / "raw-rows.npy", np.uint32, len(corpus))
    orientation = arrays.create(scratch / "raw-orientation.npy", np.int8, len(corpus))
    labels, n = corpus.scan_manifest().select("row", "preferred"), 0
    for piece in arrays.pieces(len(corpus)):
        some = labels.slice(piece.start, piece.stop - piece.start).collect()
        some = some.filter(pl.col("preferred") != 0)
        rows[n : n + len(some)], orientation[n : n + len(some)] = some["row"], some["preferred"]
        n += len(some)
    return Level(
        name="raw",
        rows=rows[:n],
        orientation=orientation[:n],
        about={"labels": "the sources' own", "corpus": corpus.fingerprint},
    )


def _licences(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {key: source.get(key) for key in ("name", "title", "licence", "url", "kept")}
        for source in record["sources"]
    ]


def _first_refusals(normalised: Sequence[Sequence[stages.Done]]) -> str:
    refused = normalise.total(done.counts["refused"] for tasks in normalised for done in tasks)
    return ", ".join(f"{code} ({count})" for code, count in refused.items()) or "the sources are empty"
