"""A finished folder on a store under its own file names, for readers who know nothing of commits.

Each object is whole. What names the others (commit records, the report) goes last, so a reader who finds it finds them.
"""

from collections.abc import Collection, Sequence
from pathlib import Path

from rewardscale import atomic
from rewardscale.remote import commits
from rewardscale.remote.objects import Objects


def publish(store: Objects, root: Path, files: Sequence[str], *, last: Collection[str] = ()) -> None:
    """Puts `files` (paths below `root`, where there are such) under these names; those named as in `last` at the end,
    in its order."""
    order = list(last)
    there = [file for file in files if (root / file).is_file()]
    ends = sorted(
        (file for file in there if Path(file).name in order), key=lambda file: order.index(Path(file).name)
    )

    def put(file: str) -> None:
        store.write(file, (root / file).read_bytes())

    store.each([file for file in there if file not in ends], put)
    for file in ends:
        put(file)


def publish_folder(store: Objects, root: Path, folder: str, *, last: Collection[str] = ()) -> None:
    """`publish` of all files of the folder `folder` below `root`."""
    found = commits.files_below(root / folder)
    publish(store, root, [f"{folder}/{file}" if folder else file for file in found], last=last)


def bring_folder(store: Objects, root: Path, folder: str) -> None:
    """Brings the folder `folder` that was published, unless it is there; it is there once it is whole."""
    if (root / folder).exists():
        return
    with atomic.new_directory(root / folder) as made:

        def get(name: str) -> None:
            atomic.write_bytes(made / name.removeprefix(f"{folder}/"), store.read(name) or b"")

        store.each(store.names(f"{folder}/"), get)
