"""The tasks of a build's own stages: what each is called with, and what decides what it writes."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rewardscale import stages
from rewardscale.config import ConfigError, content_hash
from rewardscale.config.build import BuildConfig, SourceConfig
from rewardscale.data import corpus as corpora
from rewardscale.data.build import write
from rewardscale.data.build.parts import Part, arguments, folders, inputs
from rewardscale.data.comparison import DataError
from rewardscale.data.sources.adapter import adapter
from rewardscale.data.sources.read import locate


def normalise_tasks(config: BuildConfig, source: SourceConfig, data_dir: Path | None) -> list[stages.Task]:
    """A task a unit of the source's files. Raises ConfigError, DataError if it cannot be had."""
    known = adapter(source.adapter)
    if known.evaluation_only and not source.evaluation:
        raise ConfigError(
            f"{source.adapter} is made to evaluate reward models with; set `evaluation` of the source to train on it, "
            "or name it in decontaminate.sets"
        )
    located = locate(known, place(source.path, data_dir), revision=source.revision or None)
    units = located.units() if not source.limit else list(located.files[:1])
    units = [u for u in units if not (source.split and u.split and u.split != source.split)]
    if not units:
        raise DataError(f"{source.called}: {located.root} holds no file of split {source.split!r}")
    return [
        stages.Task(
            f"unit-{number:05d}",
            "rewardscale.data.build.normalise:unit",
            {
                "source": dataclasses.asdict(source) | {"path": "."},  # where it lies decides nothing
                "part": {f.name: getattr(unit, f.name) for f in dataclasses.fields(unit) if f.name != "root"},
                "seed": config.seed,
                "most_bytes": config.most_bytes,
            },
            (_stamp(unit.path),),
            {"root": str(Path(unit.root).absolute())},
        )
        for number, unit in enumerate(units)
    ]


def survivor_tasks(groups: Sequence[Sequence[Part]], dropped: Sequence[Any]) -> list[stages.Task]:
    """A task a group of parts."""
    files = [str(path) for one in dropped for path in one.files]
    outputs = tuple(output for one in dropped for output in one.outputs)
    return [
        stages.Task(
            f"survivors-{number:05d}",
            "rewardscale.data.build.write:survivors",
            {"parts": arguments(group)},
            (*inputs(group), *outputs),
            {"folders": folders(group), "drops": files},
        )
        for number, group in enumerate(groups)
    ]


def row_tasks(
    config: BuildConfig, groups: Sequence[Sequence[Part]], surviving: Sequence[stages.Done]
) -> list[stages.Task]:
    """A task for each 100,000 rows. Raises DataError if no row is left."""
    pieces = [
        (part, done, done.folder / f"keep-{number:05d}.npy", kept)
        for group, done in zip(groups, surviving, strict=True)
        for number, (part, kept) in enumerate(zip(group, done.counts["kept"], strict=True))
    ]
    total = sum(kept for *_, kept in pieces)
    if not total:
        raise DataError("no comparison is left after deduplication and decontamination")
    shards = -(-total // corpora.RECORDS_PER_SHARD)
    of = -(-total // write.ROWS_A_TASK)
    tasks = []
    for number, chosen in enumerate(_cut(pieces, write.ROWS_A_TASK)):
        parts = [part for part, *_ in chosen]
        outputs = dict.fromkeys(done.output for _, done, *_ in chosen)
        tasks.append(
            stages.Task(
                f"rows-{number:05d}",
                "rewardscale.data.build.write:rows",
                {
                    "first_row": number * write.ROWS_A_TASK,
                    "shards": shards,
                    "number": number,
                    "of": of,
                    "split": dataclasses.asdict(config.split),
                    "parts": arguments(parts),
                    "spans": [list(span) for *_, span in chosen],
                },
                (*inputs(parts), *outputs),
                {"folders": folders(parts), "keeps": [str(keep) for _, _, keep, _ in chosen]},
            )
        )
    return tasks


def _cut(
    pieces: Sequence[tuple[Part, stages.Done, Path, int]], size: int
) -> Iterator[list[tuple[Part, stages.Done, Path, tuple[int, int]]]]:
    """Survivors of consecutive parts in lots of `size`, the last one smaller."""
    lot: list[tuple[Part, stages.Done, Path, tuple[int, int]]] = []
    room = size
    for part, done, keep, kept in pieces:
        at = 0
        while at < kept:
            taken = min(room, kept - at)
            lot.append((part, done, keep, (at, at + taken)))
            at, room = at + taken, room - taken
            if not room:
                yield lot
                lot, room = [], size
    if lot:
        yield lot


def place(path: str, data_dir: Path | None) -> str:
    """Where a relative path is: in `data_dir`, if it is there."""
    if data_dir and path and (data_dir / path).exists():
        return str(data_dir / path)
    return path


def _stamp(path: Path) -> str:
    """Changes when the file does; contents are hashed by the task that reads them."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    return content_hash([[p.name, p.stat().st_size, p.stat().st_mtime_ns] for p in files])
