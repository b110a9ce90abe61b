"""Reading from object storage: a folder at s3://, gs://, memory://, ... and its copy in a local cache.

What is committed never changes, so a copy stays good. A folder is known by its commit record, which is fetched first;
the files that the record describes are checked by size and SHA-256 before they get their names. Token shards of a
view are fetched when they are first read.

    <cache>/<hash of the url>/origin.json    the url: marks the folder as a copy of which files may be missing
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rewardscale import atomic
from rewardscale.data.comparison import DataError
from rewardscale.remote import origin
from rewardscale.remote.objects import Objects

RECORDS = ("view.json", "corpus.json", "level.json", "subset.json", "batches.json")
_ORIGIN = "origin.json"


def local(place: Path | str, *, cache: Path | None = None) -> Path:
    """The folder `place` itself, or where there is a url the local copy of that folder.

    Args:
      cache: folder of all copies; by default rewardscale in XDG_CACHE_HOME (~/.cache).

    Raises DataError if there is no commit record at the url, a file is not the one that was committed, or the folder
    was replaced since it was copied; OSError if it cannot be reached.
    """
    if isinstance(place, Path) or "://" not in place:
        return Path(place)
    url = place.rstrip("/")
    folder = origin.copy_of(url, cache or origin.cache())
    store = Objects(url)
    present = set(store.children())
    names = [name for name in RECORDS if name in present]
    if not names:
        raise DataError(f"{url} holds nothing that was committed: there is none of {', '.join(RECORDS)}")
    record = store.read(names[0]) or b"{}"
    kept = folder / names[0]
    if kept.exists() and kept.read_bytes() != record:
        raise DataError(f"{url} was replaced since it was copied; delete {folder}")
    described = _files(json.loads(record))
    lazy = {name for name in described if name.endswith(".tokens")}
    atomic.write_json(folder / _ORIGIN, {"url": url})
    for name in sorted(present - lazy - {names[0]}):
        if not (folder / name).exists():
            _fetch(folder / name, url, described.get(name, {}))
    atomic.write_bytes(kept, record)  # last: its presence means that all but the shards is there
    return folder


def is_copy(folder: Path) -> bool:
    """Whether files that `folder` lacks may be fetched."""
    return (folder / _ORIGIN).exists()


def fetch(path: Path, described: Mapping[str, Any]) -> Path:
    """Fetches the file `path` of a copy if it is not there yet; returns `path`.

    `described`: its `bytes` and `sha256`. Raises DataError if the origin's file is another.
    """
    if not path.exists() and is_copy(path.parent):
        _fetch(path, json.loads((path.parent / _ORIGIN).read_text())["url"], described)
    return path


def _fetch(path: Path, url: str, described: Mapping[str, Any]) -> None:
    data = Objects(url).read(path.name)
    if data is None:
        raise DataError(f"{url}/{path.name} is missing; copy the folder there again")
    size, digest = described.get("bytes"), described.get("sha256")
    if (size is not None and len(data) != size) or (digest and hashlib.sha256(data).hexdigest() != digest):
        raise DataError(f"{url}/{path.name} is not the file that was committed; copy the folder there again")
    atomic.write_bytes(path, data)


def _files(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What a commit record says of its files: `bytes` and `sha256` by name, as far as it knows them."""
    found = {one["name"]: one for one in (*record.get("shards", ()), *record.get("manifests", ()))}
    for key, value in record.items():
        if key.endswith("_sha256"):
            name = key.removesuffix("_sha256")
            found["manifest.parquet" if name == "manifest" else f"{name}.npy"] = {"sha256": value}
    if isinstance(record.get("arrays"), Mapping):
        found |= {f"{name}.npy": about for name, about in record["arrays"].items() if "bytes" in about}
    return found
