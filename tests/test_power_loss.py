"""What is committed is on the disk: a file system that is lost an instant later, unwritten caches and all, holds it.

On a real ext4 in an image file, shut down as its own tests of crashes do (experiments/007_faults/disk.py).
"""

import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rewardscale import atomic
from rewardscale.training.tracker import MetricsFile, read_metrics

REPO = Path(__file__).parents[1]
CONTENT = {"shard": b"x" * 300_000, "deep/er/index": b"y" * 70}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("disk", REPO / "experiments/007_faults/disk.py")
    assert spec is not None and spec.loader is not None
    disks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(disks)
    if why := disks.why_not():
        pytest.skip(f"a disk of its own: {why}")
    try:
        made = disks.Disk(tmp_path / "image", tmp_path / "disk", megabytes=16)
    except OSError as error:
        pytest.skip(f"a disk of its own: {error}")
    os.sync()
    yield made
    made.close()


def write(folder: Path) -> None:
    for name, data in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def found(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in CONTENT if (folder / name).exists()}


def test_a_committed_folder(disk: Any) -> None:
    with atomic.new_directory(disk.folder / "flushed") as folder:
        write(folder)
    shutil.copytree(disk.folder / "flushed", disk.folder / ".new")  # a writer that does not flush
    (disk.folder / ".new").rename(disk.folder / "renamed")
    atomic.write_bytes(
        disk.folder / "record", b"both are there"
    )  # this flush takes the names along, not the data
    disk.lose()
    disk.again()
    assert found(disk.folder / "flushed") == CONTENT
    assert (disk.folder / "renamed").exists() and found(disk.folder / "renamed") != CONTENT


def test_metrics_of_the_steps_before_a_checkpoint(disk: Any) -> None:
    files = [MetricsFile(disk.folder / name / "metrics.jsonl") for name in ("synced", "not")]
    for file in files:
        file.write({"step": step, "loss": 0.5} for step in range(100))
    files[0].sync()
    disk.lose()
    for file in files:
        file.close()
    disk.again()
    assert [len(read_metrics(file.path)) for file in files] == [100, 0]
