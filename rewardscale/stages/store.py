"""The commit protocol: every file operation of a stage, and nothing else.

A task's output is built in a temporary sibling of its folder and renamed. The temporary folder is locked while
its writer lives, so that what a killed writer left can be told from what is being written.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from rewardscale import atomic
from rewardscale.stages.task import Done, StageError, Task

RECORD = "task.json"
MANIFEST = "stage.json"

# A writer on another host cannot be asked for its lock: what it left is litter when nothing in it changed for so long.
_ABANDONED_SECONDS = 24 * 3600.0
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)


class Store(Protocol):
    """Where a stage lies. `LocalStore` says what each operation must do; `objects.ObjectStore` is the other one."""

    def prepare(self) -> None: ...
    def sweep(self) -> None: ...
    def scratch(self, name: str) -> contextlib.AbstractContextManager[Path]: ...
    def paths(self, task: Task) -> contextlib.AbstractContextManager[Mapping[str, Any]]: ...
    def commit(self, scratch: Path, task: Task, counts: Any) -> None: ...
    def look(self, task: Task, *, hashes: bool = False) -> Done | str: ...
    def manifest(self) -> Any: ...
    def write_manifest(self, value: Any) -> None: ...
    def remove_manifest(self) -> None: ...


@dataclasses.dataclass(frozen=True)
class LocalStore:
    """A stage's folder on a file system that all its workers see."""

    folder: Path

    def __str__(self) -> str:
        return str(self.folder)

    def prepare(self) -> None:
        """Makes the folder; removes what killed writers left in it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sweep()

    def sweep(self) -> None:
        """Removes what killed writers left; what is being written stays."""
        for path in self.folder.glob(".*.tmp"):
            _remove_if_abandoned(path)

    @contextlib.contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yields a new folder beside the outputs, locked; whatever is in it at the end is removed."""
        folder, lock = self._locked_folder(name)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)

    def _locked_folder(self, name: str) -> tuple[Path, int]:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=f".{name}.{_host()}.", suffix=".tmp", dir=self.folder))
            try:
                lock = os.open(folder, os.O_RDONLY)
            except FileNotFoundError:  # swept away before it was locked
                continue
            if _lock(lock) is not False and _same(folder, lock):
                return folder, lock
            os.close(lock)

    @contextlib.contextmanager
    def paths(self, task: Task) -> Iterator[Mapping[str, Any]]:
        """Yields the task's paths as its function is to get them: as they are, its worker sees them."""
        yield task.paths

    def commit(self, scratch: Path, task: Task, counts: Any) -> None:
        """Makes what lies in `scratch` the task's output, unless another writer has committed it meanwhile.

        What stands there of other inputs, or damaged, is replaced: until then it stays.
        """
        record = make_record(scratch, task, counts)
        with (scratch / RECORD).open("x") as file:
            file.write(json.dumps(record, indent=2, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o755)
        while True:
            try:
                os.rename(scratch, self.folder / task.name)
                return
            except OSError as error:
                if error.errno not in _TAKEN:
                    raise
            if isinstance(self.look(task), Done):
                return
            with self.scratch("replaced") as aside, contextlib.suppress(FileNotFoundError):
                os.rename(self.folder / task.name, aside / task.name)

    def look(self, task: Task, *, hashes: bool = False) -> Done | str:
        """The task's output, or why there is none: "" if it was never made (of these inputs), else the damage.

        Args:
          hashes: read every file, not only names and sizes. A file that is younger than the record is always read.
        """
        final = self.folder / task.name
        try:
            record = json.loads((final / RECORD).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return f"it has no {RECORD}" if os.path.lexists(final) else ""
        except ValueError:
            return f"{RECORD} is not JSON"
        if not isinstance(record, dict) or record.pop("check", None) != digest(record):
            return f"{RECORD} was changed"
        if record["fingerprint"] != task.fingerprint:
            return ""
        try:
            damage = _damage(final, record["files"], hashes)
        except FileNotFoundError:
            return "another writer replaced it just now"
        if damage:
            return damage
        return Done(task.name, final, record["counts"], record["output"])

    def manifest(self) -> Any:
        """What the manifest holds; None if there is none that can be read."""
        try:
            return json.loads((self.folder / MANIFEST).read_bytes())
        except (FileNotFoundError, ValueError):
            return None

    def write_manifest(self, value: Any) -> None:
        """Writes the manifest atomically."""
        with self.scratch("manifest") as scratch:
            atomic.write_json(scratch / MANIFEST, value)
            os.replace(scratch / MANIFEST, self.folder / MANIFEST)

    def remove_manifest(self) -> None:
        """Says that the stage is not whole. No error if there is no manifest."""
        (self.folder / MANIFEST).unlink(missing_ok=True)


def make_record(folder: Path, task: Task, counts: Any) -> dict[str, Any]:
    """Flushes the folder's files to disk; returns what task.json is to hold."""
    files = {}
    for name, path in sorted(_files(folder)):
        if os.path.islink(path) or name == RECORD:
            raise StageError(f"the task wrote {name!r}: links and {RECORD} are not for tasks")
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            files[name] = [os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()]
    record = {
        "fingerprint": task.fingerprint,
        "counts": counts,
        "files": files,
        "output": hashlib.blake2b(json.dumps(files).encode(), digest_size=16).hexdigest(),
    }
    return {**record, "check": digest(record)}


def digest(record: Mapping[str, Any]) -> str:
    """Hash (32 hex digits) of a record without its own "check"."""
    return hashlib.blake2b(json.dumps(record, sort_keys=True).encode(), digest_size=16).hexdigest()


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """(name relative to the folder, path) of every file below it but hidden ones."""
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        for name in [*names, *links]:
            if not name.startswith("."):
                path = os.path.join(root, name)
                yield os.path.relpath(path, folder).replace(os.sep, "/"), path


def _damage(folder: Path, files: Mapping[str, list[Any]], hashes: bool) -> str:
    """What is wrong with the folder's files; "" if they are as recorded."""
    found = dict(_files(folder))
    found.pop(RECORD, None)
    if missing := sorted(set(files) - set(found)):
        return f"{missing[0]} is missing"
    if extra := sorted(set(found) - set(files)):
        return f"{extra[0]} does not belong there"
    written = os.stat(folder / RECORD).st_mtime_ns
    younger = False
    for name, (size, sha256) in files.items():
        seen = os.stat(found[name])
        if seen.st_size != size:
            return f"{name} has {seen.st_size} bytes instead of {size}"
        younger |= seen.st_mtime_ns > written
        if (hashes or seen.st_mtime_ns > written) and atomic.sha256(Path(found[name])) != sha256:
            return f"{name} was changed"
    if younger:  # copied rather than edited: the next run need not read it again
        with contextlib.suppress(OSError):
            os.utime(folder / RECORD)
    return ""


def _host() -> str:
    return socket.gethostname().partition(".")[0] or "host"


def _lock(handle: int) -> bool | None:
    """Whether the folder's lock was obtained; None where the file system has no locks."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _same(path: Path, handle: int) -> bool:
    """Whether `path` still is the open folder."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle))
    except FileNotFoundError:
        return False


def _remove_if_abandoned(folder: Path) -> None:
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # gone already, or a file that isn't ours
        return
    try:
        locked = _lock(handle)
        ours = folder.name.split(".")[-3:-2] == [_host()]
        if locked if ours and locked is not None else (locked is not False and _untouched(folder)):
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(handle)


def _untouched(folder: Path) -> bool:
    """Whether nothing in the folder has changed for a day, by the clock of the file system alone.

    The clocks of the hosts that share it may be hours off.
    """
    newest = 0.0
    for root, _, names in os.walk(folder):
        for path in (root, *(os.path.join(root, name) for name in names)):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, os.lstat(path).st_mtime)
    with tempfile.TemporaryFile(dir=folder.parent) as probe:
        now = os.fstat(probe.fileno()).st_mtime
    return now - newest > _ABANDONED_SECONDS
