"""A set of files on a store, and the record that names them.

    <name>.json          the record: each file's size and SHA-256, and where they lie; put if absent, last
    <name>.<token>/...   the files of one writer, whom nobody else writes between

Two writers of one commit never mix: the first record stays. What no record names is nobody's, and a reader sees all of
a commit or none of it.
"""

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rewardscale import atomic
from rewardscale.remote.objects import Objects, StoreError

Record = Mapping[str, Any]
_LARGE = 64 * 2**20


def commit(objects: Objects, name: str, root: Path, files: Sequence[str], *, writer: str = "") -> bool:
    """Puts `files` (paths below `root`) and then the record; False if another writer's record was there first.

    `writer` begins the token of the folder of the files.
    """
    at = f"{name}.{writer}{secrets.token_hex(6)}"

    def put(file: str) -> list[Any]:
        data = (root / file).read_bytes()  # read once: what is described is what was put
        objects.write(f"{at}/{file}", data)
        return [len(data), hashlib.sha256(data).hexdigest()]

    sizes = {file: (root / file).stat().st_size for file in files}
    described = _each(objects, sizes, put)
    made = objects.create(f"{name}.json", json.dumps({"at": at, "files": described}, indent=1).encode())
    if not made:
        objects.delete(*(f"{at}/{file}" for file in files))
    return made


def read(objects: Objects, name: str) -> Record | None:
    """The record of a commit; None if there is none. Raises StoreError if it is not one."""
    return parsed(objects, name, objects.read(f"{name}.json"))


def parsed(objects: Objects, name: str, data: bytes | None) -> Record | None:
    """A record's bytes as `read` returns them."""
    if data is None:
        return None
    try:
        record = json.loads(data)
        return {"at": str(record["at"]), "files": dict(record["files"])}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{objects.url}/{name}.json is no record of a commit: delete it") from error


def fetch(objects: Objects, name: str, record: Record, root: Path, *, last: str = "") -> None:
    """Brings the files of a commit below `root`, each whole or not at all, `last` after the others.

    Raises StoreError if a file is not the one that was committed.
    """
    files = record["files"]
    for part in ([file for file in files if file != last], [last] if last in files else []):
        wanted = {file: files[file][0] for file in part if not _is_there(root / file, files[file])}
        _each(objects, wanted, lambda file: _fetch(objects, name, record, root, file))


def _fetch(objects: Objects, name: str, record: Record, root: Path, file: str) -> None:
    where, (size, sha256) = f"{record['at']}/{file}", record["files"][file]
    data = objects.read(where)
    if data is None or len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
        what = "is missing" if data is None else "is not the file that was committed"
        raise StoreError(
            f"{objects.url}/{where} {what}: delete {objects.url}/{name}.json, and what it says is made again"
        )
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise StoreError(f"{objects.url}/{name}.json names a file outside its folder: {file}")
    atomic.write_bytes(root / file, data)


def _each[R](objects: Objects, sizes: Mapping[str, int], do: Callable[[str], R]) -> dict[str, R]:
    """`do` of each file: small ones several at a time, large ones, which are in memory whole, one after another."""
    small = [file for file, size in sizes.items() if size <= _LARGE]
    done = dict(zip(small, objects.each(small, do), strict=True))
    return done | {file: do(file) for file in sizes if file not in done}


def _is_there(path: Path, described: Sequence[Any]) -> bool:
    return path.is_file() and path.stat().st_size == described[0] and atomic.sha256(path) == described[1]


def files_below(folder: Path) -> list[str]:
    """The files of a folder, as paths below it, sorted; no temporary ones."""
    found = []
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.endswith(".tmp")]
        found += [str((Path(path) / name).relative_to(folder)) for name in names if not name.endswith(".tmp")]
    return sorted(found)


def linked(folder: Path, to: Path) -> None:
    """Makes `to` a folder of hard links to the files of `folder`: it stays whole when `folder` goes.

    Raises FileNotFoundError if `folder` went meanwhile.
    """
    for file in files_below(folder):
        (to / file).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / file, to / file)
        except FileNotFoundError:
            raise
        except OSError:  # a file system without links
            shutil.copyfile(folder / file, to / file)
    if not folder.exists():
        raise FileNotFoundError(folder)


def scratch(near: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder on the same disk as `near`, so that links can be made."""
    near.mkdir(parents=True, exist_ok=True)
    return tempfile.TemporaryDirectory(prefix=".up.", suffix=".tmp", dir=near)
