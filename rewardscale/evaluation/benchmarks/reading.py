"""Where a benchmark's files lie, and its items out of their records: what cannot be used is counted by reason.

SPEC = Spec("rm-bench", "RM-Bench", parts={"chat": Part(("chat_filtered.json*",), 129), ...}, read=read, ...)
found = locate(SPEC, Path("data"))            data/rm-bench/chat_filtered.json.gz, or data/chat_filtered.json.gz
items = collect(found, make)                  make(Record) -> (item, what the formula must know of it)
found.benchmark(items, formula, headline="total", pairs=...)
"""

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import hub
from rewardscale.data.comparison import DataError, Message
from rewardscale.data.records import ItemError
from rewardscale.data.sources import formats, turns
from rewardscale.data.sources.formats import Unit
from rewardscale.data.sources.judged import Refused
from rewardscale.evaluation.benchmarks.base import Benchmark, BenchmarkItem, Formula

TWICE = "the same record twice"


@dataclasses.dataclass(frozen=True)
class Part:
    """Files of one kind.

    Attributes:
      globs: below the benchmark's folder, tried in turn: the first that finds files of records is taken.
      expected: items of the whole official part; 0 where there is no such number.
      hub: id of the data set that holds the part alone, where a part has one of its own.
    """

    globs: tuple[str, ...]
    expected: int = 0
    hub: str = ""


@dataclasses.dataclass(frozen=True)
class Spec:
    """A benchmark before it is read.

    Attributes:
      name: it is asked for by. title: for people.
      parts: its files, by the part of it that they hold.
      read: makes the benchmark of the files that were found.
      folders: names of its folder in a data directory, beside `name`: those of its repository and hub id.
      hub: Hugging Face id of the data set, or "". revision: a commit known to hold it, or None.
      licence, url, notes, seven: see Benchmark.
    """

    name: str
    title: str
    parts: Mapping[str, Part]
    read: "Callable[[Found], Benchmark]"
    folders: tuple[str, ...] = ()
    hub: str = ""
    revision: str | None = None
    licence: str = ""
    url: str = ""
    notes: str = ""
    seven: bool = False

    @property
    def expected(self) -> int:
        """Items of the whole official set; 0 unless all parts have a number."""
        counts = [part.expected for part in self.parts.values()]
        return sum(counts) if all(counts) else 0


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record: the part and the file it is in, its line or row, and what it holds."""

    part: str
    file: Path
    line: int
    values: Mapping[str, Any]

    @property
    def place(self) -> str:
        """An id for a record that has none: part and line."""
        return f"{self.part or self.file.name}/{self.line}"


@dataclasses.dataclass(frozen=True)
class Found:
    """Files of a benchmark, (part, path) each, by part and name. root: where they were looked for."""

    spec: Spec
    root: Path
    files: tuple[tuple[str, Path], ...]

    def absent(self) -> Counter[str]:
        """Expected items of the parts of which there is no file."""
        there = {part for part, _ in self.files}
        return Counter(
            {
                f"no file of {name}": part.expected or 1
                for name, part in self.spec.parts.items()
                if name not in there
            }
        )

    def benchmark(
        self,
        collected: "Collected",
        formula: Formula,
        *,
        headline: str,
        pairs: Sequence[tuple[int, int, int]] | np.ndarray,
        expected: int | None = None,
        subset_weights: Mapping[str, float] | None = None,
        quality: np.ndarray | None = None,
    ) -> Benchmark:
        """The benchmark; what is not given is the spec's, whose `expected` items are counted over all parts."""
        spec = self.spec
        return Benchmark(
            name=spec.name,
            title=spec.title,
            items=tuple(collected.items),
            expected=spec.expected if expected is None else expected,
            formula=formula,
            headline=headline,
            pairs=np.array(pairs, np.int64).reshape(-1, 3),
            subset_weights=subset_weights or {},
            missing=dict(collected.missing + self.absent()),
            licence=spec.licence,
            url=spec.url,
            notes=spec.notes,
            seven=spec.seven,
            quality=quality,
        )


@dataclasses.dataclass
class Collected:
    """What records gave.

    Attributes:
      items: in the files' order. facts: what `make` said beside each. missing: counts by reason.
      by_rule: records that the benchmark's own rules leave out; they are not missing.
    """

    items: list[BenchmarkItem]
    facts: list[Any]
    missing: Counter[str]
    by_rule: int = 0


# --- where the files are -----------------------------------------------------------------------------


def locate(spec: Spec, where: Path | None, *, revision: str | None = None) -> Found:
    """The files of a benchmark.

    Args:
      where: a data directory that holds a folder of the benchmark (`spec.name` or one of `spec.folders`), that folder
        itself, or one of its files; None: the hub's copy in the local cache, downloaded if need be.
      revision: commit of the hub's data set, instead of the one that is known.

    Raises DataError that says what was looked for and how to get it.
    """
    if where is None:
        return _from_hub(spec, revision)
    if where.is_file():
        part = next((name for name, own in spec.parts.items() if _fits(where, own)), next(iter(spec.parts)))
        return Found(spec, where.parent, ((part, where),))
    if not where.is_dir():
        raise DataError(f"{spec.title}: there is no folder {where}; {how_to_get(spec)}")
    if found := below(spec, where) or _in(spec, where):
        return found
    looked = ", ".join(sorted({glob for part in spec.parts.values() for glob in part.globs}))
    raise DataError(
        f"{spec.title} is not in {where}: looked for {looked} there and in its folder {spec.name}/; {how_to_get(spec)}"
    )


def below(spec: Spec, where: Path) -> Found | None:
    """The files in the benchmark's folder of a data directory; None if it holds none."""
    return next((found for name in (spec.name, *spec.folders) if (found := _in(spec, where / name))), None)


def _in(spec: Spec, root: Path) -> Found | None:
    files = tuple((name, path) for name, part in spec.parts.items() for path in _files(root, part))
    return Found(spec, root, files) if files else None


def how_to_get(spec: Spec) -> str:
    """What to download, and where to put it."""
    if hubs := [part.hub for part in spec.parts.values() if part.hub]:
        each = ", ".join(f"{one} into {spec.name}/{one.rpartition('/')[2]}" for one in hubs)
        return f"get the data sets {each}"
    if spec.hub:
        return f"get the data set {spec.hub} of the hub (or its files from {spec.url}) into a folder {spec.name}/"
    return f"get it from {spec.url} into a folder {spec.name}/"


def _from_hub(spec: Spec, revision: str | None) -> Found:
    if not spec.hub:
        raise DataError(
            f"{spec.title} has no place of its own on the hub: {how_to_get(spec)} and name where that is"
        )
    wanted = [glob for part in spec.parts.values() for glob in part.globs]
    try:
        root = hub.snapshot(spec.hub, revision or spec.revision, files=wanted, kind="dataset")
    except hub.HubError as error:
        raise DataError(f"{spec.title}: {error}; or {how_to_get(spec)} and name where that is") from error
    return locate(spec, root)


def _files(root: Path, part: Part) -> list[Path]:
    for glob in part.globs:
        found = sorted(path for path in root.glob(glob) if path.is_file() and formats.is_records(path))
        if found:
            return found
    return []


def _fits(path: Path, part: Part) -> bool:
    return any(path.match(glob.rpartition("/")[2]) for glob in part.globs)


# --- records -----------------------------------------------------------------------------------------


def records(found: Found, missing: Counter[str]) -> Iterator[Record]:
    """The records of all files; lines that are none are counted in `missing`. Raises DataError for a damaged file."""
    for part, path in found.files:
        for item in formats.records(Unit(path)):
            if isinstance(item, Refused):
                missing[item.code] += 1
            else:
                yield Record(part, path, item[0], item[1])


def collect(
    found: Found, make: Callable[[Record], tuple[BenchmarkItem, Any] | None], *, rename: bool = False
) -> Collected:
    """The items of all records.

    Args:
      make: the item of a record and a fact beside it; None for one that the rules leave out. May raise ItemError: the
        record is missing, counted by the error's code.
      rename: whether a second item of one id and other texts is kept, as "id#2": for sets whose ids are not known to be
        unique. A second one with the same texts is always missing.

    Raises DataError where a file is damaged or gives no item (the first reason is named), or an id is there twice.
    """
    out = Collected([], [], Counter())
    known: dict[str, BenchmarkItem] = {}
    for path, group in itertools.groupby(records(found, out.missing), key=lambda record: record.file):
        usable, reasons = 0, []
        for record in group:
            try:
                made = make(record)
            except ItemError as error:
                out.missing[error.code] += 1
                reasons.append(f"line {record.line}: {error}")
                continue
            usable += 1
            if made is None:
                out.by_rule += 1
            elif (item := _unlike(known, made[0], record, rename)) is None:
                out.missing[TWICE] += 1
            else:
                known[item.id] = item
                out.items.append(item)
                out.facts.append(made[1])
        if not usable:
            raise DataError(
                f"{path}: none of its {len(reasons):,} records is one of {found.spec.title}; {reasons[0]}; "
                "is it the right file?"
            )
    if not out.items:
        names = ", ".join(str(path) for _, path in found.files)
        why = dict(out.missing) or "there are no records"
        raise DataError(f"{names}: no record of {found.spec.title} is left ({why})")
    return out


def _unlike(
    known: Mapping[str, BenchmarkItem], item: BenchmarkItem, record: Record, rename: bool
) -> BenchmarkItem | None:
    """The item under an id of its own; None where it is known already."""
    id = item.id
    for number in itertools.count(2):
        other = known.get(id)
        if other is None:
            return item if id == item.id else dataclasses.replace(item, id=id)
        if (other.prompt, other.responses) == (item.prompt, item.responses):
            return None
        if not rename:
            raise DataError(
                f"{record.file}, line {record.line}: the id {item.id!r} was there before, with other texts"
            )
        id = f"{item.id}#{number}"
    raise AssertionError  # count() does not end


def prompt(values: Mapping[str, Any], key: str) -> tuple[Message, ...]:
    """A text, one message of the user, or messages. Raises ItemError."""
    value = values.get(key)
    if value is None:
        raise ItemError("no_prompt", f"`{key}` is missing or null")
    if isinstance(value, str):
        if not value.strip():
            raise ItemError("empty_prompt", f"`{key}` is empty")
        return (Message("user", value),)
    return turns.checked(turns.messages(value, key))


def answer(value: Any, key: str) -> str:
    """A response that is a text, and not an empty one. Raises ItemError."""
    if value is None:
        raise ItemError("no_response", f"`{key}` is missing or null")
    if not isinstance(value, str):
        raise ItemError("not_text", f"`{key}` must be a text")
    if not value.strip():
        raise ItemError("empty_response", f"`{key}` is empty")
    return value


def answers(value: Any, key: str) -> tuple[str, ...]:
    """A list of responses, at least one. Raises ItemError."""
    if not isinstance(value, list) or not value:
        raise ItemError("no_response", f"`{key}` must be a list of texts, at least one")
    return tuple(answer(own, f"{key}[{number}]") for number, own in enumerate(value))


def one_of(values: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    """A value that must be one of a few. Raises ItemError."""
    value = values.get(key)
    if not isinstance(value, str) or value not in allowed:
        raise ItemError(f"unknown {key}", f"`{key}` is {value!r}; it must be one of {', '.join(allowed)}")
    return value
