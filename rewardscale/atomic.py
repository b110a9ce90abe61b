"""Writes that are whole or absent: a temporary sibling, flushed to disk, then one rename."""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import polars as pl


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a temporary file that replaces `path` when the block ends without an error.

    Raises OSError (full disk, read-only folder) and leaves no litter.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path` atomically. Raises OSError (full disk, read-only folder) and leaves no litter."""
    with new_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON with sorted keys, atomically. NaN is refused (ValueError)."""
    write_bytes(path, (json.dumps(value, indent=2, sort_keys=True, allow_nan=False) + "\n").encode())


def write_parquet(path: Path, frame: pl.DataFrame) -> None:
    """Writes `frame` as Parquet, atomically. Raises OSError where polars, writing itself, would say ComputeError."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    write_bytes(path, buffer.getvalue())


def flush(directory: Path) -> None:
    """Returns once all that is in `directory` is on the disk: a rename may outlive a crash that its files do not."""
    for root, _, names in os.walk(directory, topdown=False):
        for path in (*(os.path.join(root, name) for name in names), root):
            handle = os.open(path, os.O_RDONLY)
            try:
                os.fsync(handle)
            except OSError as error:
                if (
                    error.errno != errno.EINVAL or path != root
                ):  # file systems whose folders cannot be flushed
                    raise
            finally:
                os.close(handle)


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """Yields a temporary directory that becomes `final`, all on the disk, when the block ends without an error.

    What is committed is immutable: callers check that `final` does not exist yet. If another process
    committed the same directory meanwhile, that one stays and ours is dropped: both hold the same content.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".tmp", dir=final.parent))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        flush(temporary)
        try:
            os.replace(temporary, final)
        except OSError as error:  # how the kernel says that `final` holds something already
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Holds an exclusive lock on the file `path` (created if absent); yields whether it was obtained.

    The kernel frees the lock when its holder dies, however it dies, so no stale lock can remain.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
