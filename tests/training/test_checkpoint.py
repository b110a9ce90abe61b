"""Checkpoints on disk: exact, the newest whole one, no more than asked for; and stop requests."""

import os
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale.training.checkpoint import Checkpoints, stop_requests
from tests.training import running


def state(step: int, size: int = 7) -> dict[str, Any]:
    start = jnp.arange(size, dtype=jnp.float32) + step
    return {"params": {"a": start, "b": {"c": start[:, None] * 2}}, "step": jnp.asarray(step, jnp.int32)}


ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state(0))


def open_checkpoints(directory: Path, kept: int = 1, seconds: float = 0.0) -> Checkpoints:
    return Checkpoints(directory, kept=kept, seconds=seconds)


def restore(directory: Path) -> Any:
    checkpoints = open_checkpoints(directory)
    try:
        return checkpoints.restore(ABSTRACT)
    finally:
        checkpoints.close()


def steps(directory: Path) -> list[int]:
    return sorted(int(path.name) for path in directory.iterdir() if path.name.isdigit())


def test_nothing_there(tmp_path: Path) -> None:
    assert restore(tmp_path / "none") is None


@pytest.mark.parametrize("kept", [1, 3])
def test_the_newest_is_restored_and_only_the_newest_are_kept(tmp_path: Path, kept: int) -> None:
    checkpoints = open_checkpoints(tmp_path, kept)
    for step in (3, 5, 11, 20, 21):
        checkpoints.save(step, state(step))
    checkpoints.close()
    assert steps(tmp_path) == [3, 5, 11, 20, 21][-kept:]
    running.assert_same(restore(tmp_path), state(21))


def test_saves_in_quick_succession_are_all_written(tmp_path: Path) -> None:
    """No save is skipped because another one is still being written."""
    large = {step: state(step, 2_000_000) for step in (1, 2, 3, 4)}
    checkpoints = open_checkpoints(tmp_path, kept=9)
    for step, values in large.items():
        checkpoints.save(step, values)
    checkpoints.close()
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_saves_leave_no_thread_behind(tmp_path: Path) -> None:
    """A sweep's worker saves hundreds of times, a long run thousands."""
    before = set(threading.enumerate())
    checkpoints = open_checkpoints(tmp_path)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    checkpoints.close()
    assert set(threading.enumerate()) <= before


def test_saving_a_step_twice_is_one_save(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(4, state(4))
    checkpoints.save(4, state(4))
    checkpoints.close()
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.restore(ABSTRACT)
    checkpoints.save(4, state(4))
    checkpoints.close()
    assert steps(tmp_path) == [4]


def test_what_is_saved_is_the_state_at_the_call(tmp_path: Path) -> None:
    """The next step donates the saved arrays while they are being written."""
    advance = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2 + 1, tree), donate_argnums=0)
    values = state(6, 3_000_000)
    expected = jax.tree.map(lambda x: np.array(x, copy=True), values)
    checkpoints = open_checkpoints(tmp_path)
    checkpoints.save(6, values)
    for _ in range(20):
        values = advance(values)
    jax.block_until_ready(values)
    checkpoints.close()
    checkpoints = open_checkpoints(tmp_path)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), values)
    restored = checkpoints.restore(abstract)
    checkpoints.close()
    running.assert_same(restored, expected)


def test_a_folder_without_its_commit_record_is_passed_over(tmp_path: Path) -> None:
    checkpoints = open_checkpoints(tmp_path, kept=5)
    for step in (2, 8):
        checkpoints.save(step, state(step))
    checkpoints.close()
    # what orbax leaves when it is killed while writing step 9: a folder under its temporary name
    shutil.copytree(tmp_path / "8", tmp_path / "9.orbax-checkpoint-tmp-17")
    running.assert_same(restore(tmp_path), state(8))
    deadline = time.monotonic() + 60  # and is cleared away, by a thread
    while list(tmp_path.glob("*tmp*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not list(tmp_path.glob("*tmp*"))
    checkpoints = open_checkpoints(tmp_path, kept=5)
    checkpoints.restore(ABSTRACT)
    checkpoints.save(9, state(9))
    checkpoints.close()
    running.assert_same(restore(tmp_path), state(9))


def test_due_after_the_interval(tmp_path: Path) -> None:
    often, seldom = (
        open_checkpoints(tmp_path / "a", seconds=0.0),
        open_checkpoints(tmp_path / "b", seconds=60.0),
    )
    assert often.due() and not seldom.due()
    for checkpoints in (often, seldom):
        checkpoints.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_only_sets_the_flag_within_the_block(number: signal.Signals) -> None:
    seen: list[int] = []
    before = signal.signal(number, lambda n, _: seen.append(n))
    try:
        with pytest.raises(RuntimeError), stop_requests() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            assert stop() and not seen
            raise RuntimeError("acted upon")
        assert not seen  # the block acted on it: it is not passed on
        with stop_requests():
            os.kill(os.getpid(), number)
        assert seen == [number]  # the block ended without acting on it: the request is not lost
    finally:
        signal.signal(number, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGINT)
            assert not stop()
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_the_main_thread_there_are_no_requests() -> None:
    found: list[bool] = []

    def body() -> None:
        with stop_requests() as stop:
            found.append(stop())

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [False]
