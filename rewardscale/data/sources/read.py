"""Reading a source: its files, cut into units, and the judged comparisons of a unit.

source = locate(adapter("helpsteer3"), "data/HelpSteer3")     a folder, a file, or "" for the hub
for unit in source.units():
    for item in read(source.adapter, unit): ...               Judged, or Refused
"""

import dataclasses
import fnmatch
import functools
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rewardscale import hub
from rewardscale.data.comparison import DataError
from rewardscale.data.records import ItemError
from rewardscale.data.sources import formats
from rewardscale.data.sources.adapter import Adapter, Join
from rewardscale.data.sources.formats import TARGET, Unit
from rewardscale.data.sources.judged import Judged, Refused
from rewardscale.data.sources.labels import get
from rewardscale.data.sources.shapes import MAX_BYTES, About, NoPreferences, Rows, shaped

_SPLITS = {
    **{
        "train": "train",
        "validation": "validation",
        "valid": "validation",
        "val": "validation",
        "dev": "validation",
    },
    **{"test": "test", "eval": "test"},
}
_MAX_ROWS = 1000  # of one prompt


@dataclasses.dataclass(frozen=True)
class Options:
    """What may be asked of a source.

    Attributes:
      max_bytes: a prompt's message or a response of so many bytes or more is refused.
      max_line: a line longer than this is refused unread, bytes.
    """

    max_bytes: int = MAX_BYTES
    max_line: int = formats.MAX_LINE


@dataclasses.dataclass(frozen=True)
class Located:
    """A source's files. Attributes: root: its folder, or its one file. files: whole units, in build order."""

    adapter: Adapter
    root: Path
    files: tuple[Unit, ...]

    def units(self, *, target: int = TARGET) -> list[Unit]:
        """The files cut into parts of about `target` bytes, where format and shape allow it."""
        if isinstance(self.adapter.shape, Rows):  # rows of one prompt stay together
            return [part for unit in self.files for part in formats.units(unit, target=1 << 62)]
        return [part for unit in self.files for part in formats.units(unit, target=target)]


# --- where the files are -----------------------------------------------------------------------------


def locate(adapter: Adapter, where: str | Path = "", *, revision: str | None = None) -> Located:
    """The files of a source.

    Args:
      where: a file, a folder (a hub snapshot, a git checkout, `datasets.save_to_disk`, TFDS), a hub id, or "" for the
        adapter's own hub id. In a folder the adapter's files are looked for by their globs; where none is there and
        the folder holds files of records of one format alone, those are taken.
      revision: the commit, for a hub id; by default the adapter's.

    Raises DataError if there is nothing that fits, it cannot be had, or the adapter's source holds no preferences.
    """
    if isinstance(adapter.shape, NoPreferences):
        raise DataError(f"{adapter.name}: {adapter.shape.reason}")
    path = Path(where) if where else None
    if path is None or not path.exists():
        root = _download(adapter, str(where), revision)
    else:
        root = path
    if root.is_file() or formats.is_records(root):
        return Located(adapter, root, (Unit(root, split=_split_of(adapter, root.name)),))
    files = tuple(_by_globs(adapter, root)) or tuple(_saved(root)) or tuple(_all_records(adapter, root))
    if not files:
        looked = ", ".join(itertools.chain.from_iterable(adapter.files.values()))
        raise DataError(
            f"{root} holds none of the files of {adapter.name}: looked for {looked}; point at its folder"
        )
    for join in adapter.joins:
        _only(root, join)
    return Located(adapter, root, files)


def _download(adapter: Adapter, where: str, revision: str | None) -> Path:
    name = where or adapter.hub
    if not name:
        raise DataError(f"{adapter.name} is not on the hub: get it from {adapter.url} and name its folder")
    commit = revision or (adapter.revision if name == adapter.hub else None)
    wanted = [own for globs in adapter.files.values() for own in globs] + [
        join.file for join in adapter.joins
    ]
    try:
        return hub.snapshot(name, commit, files=wanted, kind="dataset")
    except hub.HubError as error:
        hint = "" if commit else f"; a build takes it as --source={adapter.name}@<commit>"
        raise DataError(f"{error}{hint}") from error


def _by_globs(adapter: Adapter, root: Path) -> Iterator[Unit]:
    """The adapter's files, by split and name; a file is taken once."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())
    names = [name for name in names if not any(part.startswith(".") for part in Path(name).parts)]
    names = [name for name in names if formats.is_records(root / name)]
    taken: set[str] = set()
    for split, globs in adapter.files.items():
        for name in names:
            if name not in taken and any(_matches(name, own) for own in globs):
                taken.add(name)
                yield Unit(root, name, split=split)


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatchcase(name, pattern)


def _saved(root: Path) -> Iterator[Unit]:
    """The Arrow files of a `datasets.save_to_disk` folder, of one split or of several."""
    splits = root / "dataset_dict.json"
    if splits.is_file():
        for split in json.loads(splits.read_text())["splits"]:
            for unit in _saved(root / split):
                yield Unit(root, f"{split}/{unit.name}", split=_SPLITS.get(split, ""))
    state = root / "state.json"
    if state.is_file():
        for file in json.loads(state.read_text())["_data_files"]:
            yield Unit(root, file["filename"])


def _all_records(adapter: Adapter, root: Path) -> Iterator[Unit]:
    """All files of records in the folder itself and its `data`, for a copy that was renamed."""
    for folder in (root, root / "data"):
        files = sorted(path for path in folder.glob("*") if path.is_file() and formats.is_records(path))
        for path in files:
            yield Unit(root, str(path.relative_to(root)), split=_split_of(adapter, path.name))
        if files:
            return


def _split_of(adapter: Adapter, name: str) -> str:
    """The split that a file's name begins with or holds as a word."""
    for split, globs in adapter.files.items():
        if split and any(_matches(name, own.rpartition("/")[2]) for own in globs):
            return split
    return next(
        (_SPLITS[word] for word in name.replace("_", "-").replace(".", "-").split("-") if word in _SPLITS), ""
    )


def _only(root: Path, join: Join) -> Path:
    found = sorted(root.rglob(join.file))
    if len(found) != 1:
        raise DataError(f"{root} must hold one file {join.file}, and holds {len(found)}; fetch the set again")
    return found[0]


# --- records -----------------------------------------------------------------------------------------


def read(adapter: Adapter, unit: Unit, options: Options | None = None) -> Iterator[Judged | Refused]:
    """The comparisons of a unit with their judgements, and what was refused, in the file's order.

    A record of K responses of which some are unusable gives the comparison of the others and a Refused for each that
    was left out, so there may be more of both than records.

    Raises DataError if the file is damaged or the source holds no preferences.
    """
    return (item for _, item in numbered(adapter, unit, options))


def numbered(
    adapter: Adapter, unit: Unit, options: Options | None = None
) -> Iterator[tuple[int, Judged | Refused]]:
    """`read`, each with its line or row number, from 1."""
    options = options or Options()
    if isinstance(adapter.shape, NoPreferences):
        raise DataError(f"{adapter.name}: {adapter.shape.reason}")
    joined = [_Joined(join, _only(unit.root, join)) for join in adapter.joins]
    source = formats.records(unit, max_line=options.max_line)
    if isinstance(adapter.shape, Rows):
        source = _grouped(source, adapter.shape.prompt)
    about = functools.partial(
        About, adapter.name, category=adapter.category, group=adapter.group, max_bytes=options.max_bytes
    )
    plain = about(split=unit.split)
    for item in source:
        if isinstance(item, Refused):
            yield item.line, item
            continue
        number, record = item
        try:
            for join in joined:
                record = join.into(record)
            here = plain
            if adapter.split_at:
                here = about(split=_SPLITS.get(str(get(record, adapter.split_at)), unit.split))
            made = shaped(adapter.shape, adapter.labels, record, here)
        except ItemError as error:
            yield number, Refused(unit.label, number, error.code, str(error))
            continue
        for own in made:
            item = own if isinstance(own, Judged) else Refused(unit.label, number, own.code, str(own))
            yield number, item


def _grouped(source: Iterator[Any], key: str) -> Iterator[Any]:
    """Consecutive records with one `key` as {"rows": records}, under the number of the first."""
    number, rows = 0, []
    for item in source:
        if isinstance(item, Refused):
            yield item
            continue
        if rows and (item[1].get(key) != rows[0].get(key) or len(rows) == _MAX_ROWS):
            yield number, {"rows": rows}
            rows = []
        if not rows:
            number = item[0]
        rows.append(item[1])
    if rows:
        yield number, {"rows": rows}


class _Joined:
    """A second file, by what its records are found by."""

    def __init__(self, join: Join, path: Path):
        self._join, self._name, self._found = join, path.name, {}
        for where, record in formats.whole_records(path):
            key = tuple(_hashable(get(record, there)) for _, there in join.on)
            if key in self._found:
                raise DataError(f"{where}: {key} is there twice; fetch the file again")
            self._found[key] = {name: get(record, at) for name, at in join.take.items()}

    def into(self, record: Mapping[str, Any]) -> Mapping[str, Any]:
        key = tuple(_hashable(get(record, here)) for here, _ in self._join.on)
        if key not in self._found:
            raise ItemError("no_match", f"{self._name} holds nothing for {key}")
        return {**record, **self._found[key]}


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str | int | float | bool) or value is None else json.dumps(value)
