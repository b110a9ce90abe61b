"""Small corpora built by the stages after `normalise`, from comparisons and what their sources say of them."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardscale import stages
from rewardscale.config import content_hash, to_mapping
from rewardscale.config.build import BuildConfig, DecontaminateConfig, NearConfig, SourceConfig, SplitConfig
from rewardscale.data.build import decontaminate, exact, near, normalise, run
from rewardscale.data.build.parts import grouped, parts_of
from rewardscale.data.comparison import Comparison, Message
from rewardscale.data.sources.judged import Judged, Judgement, Refused

Found = Judged | Refused


def judged(
    prompt: str,
    chosen: str,
    rejected: str,
    *,
    source: str,
    tie: bool = False,
    margin: float = 1.0,
    category: str = "",
    kind: str = "source",
    cost: float = 1.0,
) -> Judged:
    """A pair with its responses in the order of a hash of their texts."""
    order = sorted((chosen, rejected), key=lambda text: hashlib.blake2b(text.encode()).digest())
    scores = tuple(0.0 if tie else margin * (text == chosen) for text in order)
    comparison = Comparison(
        (Message("user", prompt),), tuple(order), source=source, split="", category=category
    )
    return Judged(comparison, (Judgement(f"{source} people", kind, scores, cost=cost),))


def build(
    directory: Path,
    sources: Mapping[str, Sequence[Found]],
    *,
    about: Mapping[str, Mapping[str, str]] | None = None,
    split: SplitConfig | None = None,
    conflicts: str = "drop",
    near_threshold: float = 0.0,
    evaluation_sets: Mapping[str, Path] | None = None,
    keep_work: bool = False,
) -> run.Built:
    """A build of `sources` (name -> what was found in it); `about` gives titles, licences and addresses."""
    sets = [decontaminate.evaluation_set(name, path) for name, path in (evaluation_sets or {}).items()]
    config = BuildConfig(
        sources=tuple(SourceConfig(path=f"{name}.jsonl", name=name) for name in sources),
        conflicts=conflicts,
        near=NearConfig(threshold=near_threshold),
        decontaminate=DecontaminateConfig(tuple(f"{one.name}={one.files[0]}" for one in sets)),
        split=split or SplitConfig(),
    )
    work = directory / "work"
    normalised = [[_normalised(work, name, found)] for name, found in sources.items()]
    parts = parts_of([done for tasks in normalised for done in tasks])
    dropped = {"exact": exact.run(work, parts, conflicts=conflicts)}
    if near_threshold:
        dropped["near"] = near.run(work, parts, dropped=[*dropped.values()], threshold=near_threshold)
    if sets:
        dropped["decontaminate"] = decontaminate.run(work, parts, sets, dropped=[*dropped.values()])
    groups = grouped(parts, run.ITEMS_A_TASK)
    surviving = stages.run(work, "survivors", run.survivor_tasks(groups, list(dropped.values())))
    written = stages.run(work, "rows", run.row_tasks(config, groups, surviving))
    asked = content_hash(to_mapping(config))
    record = run._record(config, asked, normalised, dropped, surviving)
    for source in record["sources"]:
        source.update((about or {}).get(source["name"], {}))
    return run._commit(directory, config, normalised, written, record, keep_work=keep_work)


def _normalised(work: Path, name: str, found: Sequence[Found]) -> stages.Done:
    task = stages.Task("unit-00000", f"{__name__}:write", {"name": name}, paths={"found": found})
    return stages.run(work, f"normalise-{name}", [task])[0]


def write(folder: Path, *, name: str, found: Sequence[Found]) -> Mapping[str, Any]:
    """Task: what was found, as `normalise` writes it."""
    counts = normalise.write_items(folder, found)
    return counts | {"comparisons": counts["items"], "unpaired": {}, "file": {"name": f"{name}.jsonl"}}
