"""Arrays of tens of millions of entries: mapped from disk, hashed and checked piece by piece.

What is mapped costs a process no memory of its own: the pages belong to the file and are shared by all who read it.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rewardscale import atomic
from rewardscale.data.comparison import DataError

PIECE = 2**20  # entries looked at together
MAPPED_FROM_BYTES = 16 * 2**20  # smaller files are read, larger ones mapped
VERIFY_LIMIT_BYTES = 256 * 2**20  # below this, opening a set of arrays also checks their SHA-256


def pieces(count: int, size: int = PIECE) -> Iterator[slice]:
    """Consecutive slices that cover range(count), `size` entries each but for the last."""
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def load(path: Path) -> np.ndarray:
    """The array of a .npy file: read if it is small, else mapped (read-only).

    A mapped array is a plain ndarray, so pickling copies it: whoever sends it to another process sends the path.
    Raises OSError or ValueError if there is no such file or it is not whole.
    """
    if path.stat().st_size < MAPPED_FROM_BYTES:
        return np.load(path)
    return np.asarray(np.load(path, mmap_mode="r"))


def create(path: Path, dtype: Any, shape: int | tuple[int, ...]) -> np.ndarray:
    """A new .npy file of zeros, mapped for writing: its pages go to disk as they are filled."""
    shape = (shape,) if isinstance(shape, int) else shape
    return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)


def constant(value: Any, count: int, dtype: Any) -> np.ndarray:
    """[count] times `value`, read-only and without memory of its own."""
    return np.broadcast_to(np.asarray(value, dtype), (count,))


def is_constant(values: np.ndarray) -> bool:
    """Whether it is an array as `constant` makes them."""
    return len(values) > 0 and values.strides == (0,)


def update(digest: Any, values: np.ndarray, dtype: Any = None) -> None:
    """Feeds `digest` the bytes of the contiguous array (of `dtype`, if given), piece by piece."""
    for piece in pieces(len(values)):
        digest.update(np.ascontiguousarray(values[piece], dtype).tobytes())


def every(values: np.ndarray, holds: Callable[[np.ndarray], np.ndarray | np.bool]) -> bool:
    """Whether `holds` is true of all entries, asked piece by piece."""
    return all(bool(np.all(holds(values[piece]))) for piece in pieces(len(values)))


def increasing(values: np.ndarray) -> bool:
    """Whether each entry is greater than the one before it."""
    return all(
        bool(
            (values[piece.start + 1 : piece.stop + 1] > values[piece][: len(values) - piece.start - 1]).all()
        )
        for piece in pieces(len(values))
    )


@dataclasses.dataclass(frozen=True)
class Folder:
    """A committed folder of arrays: its record, and the arrays by name (large ones mapped)."""

    record: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]


Contents = tuple[Mapping[str, Any], Mapping[str, np.ndarray]]  # a record (JSON values), arrays by name


def write_folder(final: Path, record_name: str, fill: Callable[[Path], Contents]) -> None:
    """Commits `final` with what `fill(folder)` returns; the record, written last, describes the files too.

    Arrays that were created in the folder (`create`) stay as they are, a `constant` becomes one number of the
    record, others are saved.

    Raises OSError (full disk, read-only folder); nothing stays behind.
    """
    with atomic.new_directory(final) as folder:
        record, contents = fill(folder)
        described: dict[str, Any] = {}
        for name, values in contents.items():
            path = folder / f"{name}.npy"
            about = {"dtype": values.dtype.str, "count": len(values)}
            if is_constant(values):
                described[name] = about | {"value": values[0].item()}
                continue
            if isinstance(values, np.memmap) and path.exists():
                values.flush()
            else:
                np.save(path, values)
            described[name] = about | {"bytes": path.stat().st_size, "sha256": atomic.sha256(path)}
        atomic.write_json(folder / record_name, {**record, "arrays": described})


def open_folder(directory: Path, record_name: str, *, deep: bool | None = None) -> Folder:
    """Opens a folder of `write_folder` and checks it against its record.

    `deep`: also check the files' SHA-256, by default when they are under 256 MiB together.
    Raises DataError naming the file and the mend.
    """
    path = directory / record_name
    mend = f"delete {directory}; it is made again when it is needed"
    try:
        record = json.loads(path.read_text())
        described = record["arrays"]
        if deep is None:
            deep = sum(about.get("bytes", 0) for about in described.values()) <= VERIFY_LIMIT_BYTES
        found = {}
        for name, about in described.items():
            if "value" in about:
                found[name] = constant(about["value"], about["count"], about["dtype"])
                continue
            file = directory / f"{name}.npy"
            found[name] = checked(file, about["bytes"], about["sha256"] if deep else None, mend)
            if len(found[name]) != about["count"] or found[name].dtype != about["dtype"]:
                raise DataError(f"{file} does not hold {about['count']} {about['dtype']}; {mend}")
        return Folder(record, found)
    except DataError:
        raise
    except FileNotFoundError as error:
        raise DataError(f"{error.filename} is missing; {mend}") from error
    except (KeyError, TypeError, ValueError, AttributeError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({error!r}); {mend}") from error


def checked(path: Path, size: int | None, sha256: str | None, mend: str) -> np.ndarray:
    """The array of `path`. Raises DataError if the file is not as long (if given), or not what, it should be."""
    if not path.is_file():
        raise DataError(f"{path} is missing; {mend}")
    if (size is not None and path.stat().st_size != size) or (
        sha256 is not None and atomic.sha256(path) != sha256
    ):
        raise DataError(f"{path} was changed after it was written; {mend}")
    return load(path)


def short_hash(*values: np.ndarray) -> str:
    """blake2b (32 hex digits) of the arrays' bytes, one after another."""
    digest = hashlib.blake2b(digest_size=16)
    for array in values:
        update(digest, array)
    return digest.hexdigest()
