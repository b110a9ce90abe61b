"""A disk that runs full while a training writes to it: one error, nothing half-written is used, and it goes on."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from rewardscale.data.tokenised import TokenisedView
from tests.training import running
from tests.training.running import STEPS, case, metrics, train

SIZE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip(f"mounting a small file system needs root: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path, leave: int) -> None:
    """Makes `path` a file that takes all of the space but `leave` bytes, or less if one is saved meanwhile."""
    state = os.statvfs(path.parent)
    try:
        path.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - leave)))
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise


@pytest.mark.parametrize("leave", [0, 8 << 10, 24 << 10, 40 << 10, 80 << 10])
def test_it_fills_up_on_the_way(
    leave: int, small_disk: Path, pairs_view: TokenisedView, tmp_path: Path
) -> None:
    """After the first checkpoint little or nothing is left: the run ends saying so, and goes on once there is space."""
    whole = train(*case(pairs_view), tmp_path / "whole")
    directory = small_disk / "run"
    ballast = small_disk / "ballast"

    def progress(done: int, steps: int) -> None:
        if done == 6:
            fill(ballast, leave)

    with pytest.raises(OSError, match=r"the disk is full|No space left") as error:
        train(
            *case(pairs_view), directory, steps_per_dispatch=2, checkpoint_seconds=0.0, checkpoints_kept=9,
            on_progress=progress,
        )  # fmt: skip
    assert error.value.errno == errno.ENOSPC
    assert str(directory) in str(error.value)
    ballast.unlink()
    trained = train(*case(pairs_view), directory, steps_per_dispatch=2)
    assert trained.record["resumed_at"] in (2, 4, 6, 8) and trained.record["passed_over"] == []
    running.assert_same(trained.params, whole.params)
    assert metrics(directory) == metrics(tmp_path / "whole") and len(metrics(directory)) == STEPS
