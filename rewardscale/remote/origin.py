"""The folder that is this machine's copy of a URL: whoever has the folder finds the store by it.

<cache>/workdirs/<hash of the url>/.origin.json     the url
                                   .store/...       the records of the store that are brought here already
"""

import functools
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

from rewardscale import atomic
from rewardscale.remote import commits
from rewardscale.remote.objects import Objects, StoreError, is_url

_ORIGIN, _RECORDS = ".origin.json", ".store"
DONE = "done"


def folder(place: str | os.PathLike[str]) -> Path:
    """`place` itself, or where it is a URL this machine's folder for it, in XDG_CACHE_HOME (~/.cache).

    Raises StoreError if the store cannot be opened, or there is no such bucket.
    """
    if not is_url(place):
        return Path(os.fspath(place).removeprefix("file://"))
    url = os.fspath(place).rstrip("/")
    if url.startswith("memory://"):
        raise StoreError(f"{url} ends with the process that opened it: name a folder, or a store that stays")
    _objects(url).check()  # an error for a wrong bucket now, not after hours
    made = copy_of(url, cache() / "workdirs")
    atomic.write_json(made / _ORIGIN, {"url": url})
    return made


def cache() -> Path:
    """This machine's folder of copies: rewardscale in XDG_CACHE_HOME (~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rewardscale"


def copy_of(url: str, within: Path) -> Path:
    """The folder below `within` that is the copy of `url`."""
    return within / hashlib.blake2b(url.encode(), digest_size=16).hexdigest()


def url(workdir: Path) -> str:
    """The URL that `workdir` is a copy of, or empty."""
    path = Path(workdir) / _ORIGIN
    return json.loads(path.read_text())["url"] if path.exists() else ""


def objects(workdir: Path) -> Objects | None:
    """The objects of the store that `workdir` is a copy of, or None for a folder that is its own."""
    found = url(workdir)
    return _objects(found) if found else None


def shown(path: Path, workdir: Path) -> str:
    """Where others find the file `path` of `workdir`: its URL, or the path."""
    found = url(workdir)
    return f"{found}/{Path(path).relative_to(workdir).as_posix()}".removesuffix("/.") if found else str(path)


@functools.lru_cache(maxsize=8)
def _objects(place: str) -> Objects:
    return Objects(place)


def check(workdir: Path) -> None:
    """Raises StoreError if the store of `workdir` does not answer."""
    if (store := objects(workdir)) is not None:
        store.check()


def bring_done(
    workdir: Path, directories: Iterable[Path], *, last: str = "DONE", failed: str = "error.json"
) -> None:
    """Brings what the store has of the runs in `directories` (below `workdir`): those done, and why others failed.

    Nothing for a folder that is its own. Raises StoreError.
    """
    store = objects(workdir)
    if store is None:
        return
    runs = {directory.relative_to(workdir).as_posix(): directory for directory in directories}
    above = sorted({name.rpartition("/")[0] for name in runs})
    found = [name for parent in above for name in store.names(f"{parent}/")]
    records = [name for name in found if name.endswith(".json") and _run_of(name) in runs]
    done = [name for name in records if name.rpartition("/")[2].startswith(DONE)]
    new = [name for name in done if not (workdir / _RECORDS / name).exists()]
    for name, data in store.read_all(new).items():
        bring(store, workdir, name.removesuffix(".json"), data, runs[_run_of(name)], last=last)
    errors = {name for name in records if name.endswith(f"/{failed}")}
    for run, directory in runs.items():
        if f"{run}/{failed}" not in errors:
            (directory / failed).unlink(missing_ok=True)
    for name, data in store.read_all(errors).items():
        if data is not None:
            atomic.write_bytes(runs[_run_of(name)] / failed, data)


def bring(
    store: Objects, workdir: Path, name: str, data: bytes | None, directory: Path, *, last: str
) -> bool:
    """Brings the commit `name`, whose record is `data`, into `directory`; whether there is one."""
    record = commits.parsed(store, name, data)
    if record is None or data is None:
        return False
    commits.fetch(store, name, record, directory, last=last)
    brought(workdir, name, data)
    return True


def is_sent(workdir: Path, name: str) -> bool:
    """Whether the commit `name` is known to be in the store of `workdir`; a folder that is its own sends nothing."""
    return not url(workdir) or (Path(workdir) / _RECORDS / f"{name}.json").exists()


def brought(workdir: Path, name: str, data: bytes) -> None:
    """Remembers that the commit `name` is here."""
    atomic.write_bytes(workdir / _RECORDS / f"{name}.json", data)


def _run_of(name: str) -> str:
    return name.rpartition("/")[0]
