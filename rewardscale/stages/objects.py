"""The commit protocol on an object store (gs://, s3://, whatever fsspec opens), where nothing can be renamed.

    <directory>/<stage>/<task>/<output>/...         what the task wrote, below the hash of it
    <directory>/<stage>/<task>/<fingerprint>.json   the record, by a put that fails if the object exists
    <directory>/<stage>/stage.json                  the manifest, as in a folder

A task writes on its worker's disk. Its files lie below the hash of their content, so that two writers of one task
write the same objects twice; a name without a record is nobody's output. What is no longer named by a record stays
until the directory is deleted.
"""

import contextlib
import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import fsspec

from rewardscale.stages.store import MANIFEST, digest, make_record
from rewardscale.stages.task import Done, Task


@dataclasses.dataclass(frozen=True)
class RemoteFolder:
    """A committed task's folder on an object store; `str` gives its URL, which a later task may have in its `paths`."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "RemoteFolder":
        return RemoteFolder(f"{self.url}/{name}")

    def read_bytes(self) -> bytes:
        """The content of the object of this very name."""
        system, path = _open(self.url)
        return system.cat_file(path)


@dataclasses.dataclass(frozen=True)
class ObjectStore:
    """A stage below `directory` (a URL) on an object store that all its workers reach."""

    directory: str
    stage: str

    @property
    def url(self) -> str:
        return f"{self.directory}/{self.stage}"

    def __str__(self) -> str:
        return self.url

    def prepare(self) -> None:
        """Nothing: there are no folders to make, and an object without a record is harmless."""

    def sweep(self) -> None:
        """Nothing, see `prepare`."""

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yields a new folder on this machine, removed at the end."""
        with tempfile.TemporaryDirectory(prefix=f"{name}.") as folder:
            yield Path(folder)

    @contextlib.contextmanager
    def paths(self, task: Task) -> Iterator[Mapping[str, Any]]:
        """Yields the task's paths, whatever earlier stages wrote (below this directory) fetched to this machine."""
        with tempfile.TemporaryDirectory(prefix=f"{task.name}.in.") as folder:
            yield {name: self._fetched(value, Path(folder) / name) for name, value in task.paths.items()}

    def _fetched(self, value: Any, to: Path) -> Any:
        if isinstance(value, list | tuple):
            return [self._fetched(item, to / str(i)) for i, item in enumerate(value)]
        if not str(value).startswith(self.directory + "/"):
            return value
        system, path = _open(str(value))
        if system.isfile(path):
            system.get_file(path, str(_parent_made(to / Path(path).name)))
            return str(to / Path(path).name)
        for found in system.find(path):
            system.get_file(found, str(_parent_made(to / found.removeprefix(path).strip("/"))))
        return str(to)

    def commit(self, scratch: Path, task: Task, counts: Any) -> None:
        """Uploads what lies in `scratch` and then the record, unless another writer has put it meanwhile."""
        record = make_record(scratch, task, counts)
        system, path = _open(f"{self.url}/{task.name}")
        for name in record["files"]:
            system.put_file(str(scratch / name), f"{path}/{record['output']}/{name}")
        target, data = (
            f"{path}/{task.fingerprint}.json",
            json.dumps(record, indent=2, sort_keys=True).encode(),
        )
        try:
            system.pipe_file(target, data, mode="create")
        except FileExistsError:
            if isinstance(self.look(task), str):  # damaged
                system.pipe_file(target, data)

    def look(self, task: Task, *, hashes: bool = False) -> Done | str:
        """The task's output, or why there is none: "" if it was never made (of these inputs), else the damage."""
        system, path = _open(f"{self.url}/{task.name}")
        name = f"{task.fingerprint}.json"
        try:
            record = json.loads(system.cat_file(f"{path}/{name}"))
        except FileNotFoundError:
            return ""
        except ValueError:
            return f"{name} is not JSON"
        if not isinstance(record, dict) or record.pop("check", None) != digest(record):
            return f"{name} was changed"
        below = f"{path}/{record['output']}"
        system.invalidate_cache()
        found = {found.removeprefix(below + "/"): at for found, at in system.find(below, detail=True).items()}
        for file, (size, sha256) in record["files"].items():
            if file not in found:
                return f"{file} is missing"
            if found[file]["size"] != size:
                return f"{file} has {found[file]['size']} bytes instead of {size}"
            if hashes:
                with system.open(f"{below}/{file}", "rb") as opened:
                    if hashlib.file_digest(cast(Any, opened), "sha256").hexdigest() != sha256:
                        return f"{file} was changed"
        if extra := sorted(set(found) - set(record["files"])):
            return f"{extra[0]} does not belong there"
        folder = RemoteFolder(f"{self.url}/{task.name}/{record['output']}")
        return Done(task.name, cast(Path, folder), record["counts"], record["output"])

    def manifest(self) -> Any:
        """What the manifest holds; None if there is none that can be read."""
        system, path = _open(self.url)
        try:
            return json.loads(system.cat_file(f"{path}/{MANIFEST}"))
        except (FileNotFoundError, ValueError):
            return None

    def write_manifest(self, value: Any) -> None:
        """Writes the manifest: a put is atomic."""
        system, path = _open(self.url)
        system.pipe_file(f"{path}/{MANIFEST}", (json.dumps(value, indent=2, sort_keys=True) + "\n").encode())

    def remove_manifest(self) -> None:
        """Says that the stage is not whole. No error if there is no manifest."""
        system, path = _open(self.url)
        with contextlib.suppress(FileNotFoundError):
            system.rm_file(f"{path}/{MANIFEST}")


def _open(url: str) -> tuple[Any, str]:
    """The file system and the path in it. Raises OSError where nothing installed opens such a URL."""
    try:
        folders = {"auto_mkdir": True} if url.startswith("file://") else {}
        system, path = fsspec.core.url_to_fs(url, **folders)
    except (ImportError, ValueError) as error:
        raise OSError(f"{url}: {error}") from error
    return system, path.rstrip("/")


def _parent_made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
