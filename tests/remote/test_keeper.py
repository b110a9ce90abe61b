"""Runs kept on a real S3 server by two machines: folders of their own, and nothing shared but the bucket."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest

from rewardscale import cli, mesh
from rewardscale.config import ConfigError
from rewardscale.remote import commits, keeper, leases, origin
from rewardscale.remote.leases import Lost
from rewardscale.remote.objects import StoreError


@pytest.fixture
def machines(s3, at, tmp_path, monkeypatch) -> tuple[Path, Path]:
    """The folders that two machines have of one URL."""
    store = at(s3)
    found = []
    for name in ("one", "two"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / name))
        found.append(origin.folder(store.url))
    origin._objects.cache_clear()
    return found[0], found[1]


def run_of(workdir: Path) -> Path:
    return workdir / "runs" / "r"


def checkpoint(directory: Path, step: int) -> None:
    """What a training leaves at a step, as orbax does: there at once, under a bare number."""
    made = directory / f"{step}.tmp"
    (made / "state").mkdir(parents=True)
    (made / "state" / "array").write_bytes(b"%d" % step * 1000)
    (made / "_CHECKPOINT_METADATA").write_text("{}")
    (directory / "metrics.jsonl").write_text("".join(f'{{"step": {s}}}\n' for s in range(step + 3)))
    (directory / "checkpoints").mkdir(exist_ok=True)
    made.rename(directory / "checkpoints" / str(step))


def stored(workdir: Path) -> list[str]:
    store = origin.objects(workdir)
    assert store is not None
    names = store.names("runs/r/")
    return [name for name in names if re.fullmatch(r"runs/r/(checkpoints/\d+|done|error)\.json", name)]


def wait_for(workdir: Path, name: str) -> None:
    until = time.monotonic() + 20
    while name not in stored(workdir):
        assert time.monotonic() < until, stored(workdir)
        time.sleep(0.05)


def finished(directory: Path, text: str) -> None:
    (directory / "result.json").write_text(text)
    (directory / "DONE").write_text("{}")


def test_checkpoints_go_up_while_it_runs_and_the_newest_comes_back(machines):
    one, two = machines
    with keeper.keeping(one, run_of(one), seconds=60) as kept:
        assert kept is not None and not kept.bring("done", "DONE")
        for step in (5, 10, 15):
            checkpoint(run_of(one), step)
            wait_for(one, f"runs/r/checkpoints/{step}.json")
        with keeper.keeping(two, run_of(two), seconds=60) as other:
            assert other is None
        leases._seen.clear()  # as a new process, which looks at once
        checkpoint(run_of(one), 20)  # and it stops: what is whole goes up before the lease is let go
    assert stored(two) == ["runs/r/checkpoints/15.json", "runs/r/checkpoints/20.json"]
    with keeper.keeping(two, run_of(two), seconds=60) as kept:
        assert kept is not None and not kept.bring("done", "DONE")
        assert [p.name for p in (run_of(two) / "checkpoints").iterdir()] == ["20"]
        assert (run_of(two) / "checkpoints/20/state/array").read_bytes() == b"20" * 1000
        assert len((run_of(two) / "metrics.jsonl").read_text().splitlines()) == 23
        finished(run_of(two), "mine")
        kept.finish("done", "DONE")
    assert stored(one) == ["runs/r/checkpoints/20.json", "runs/r/done.json"]
    checkpoint(run_of(one), 18)
    with keeper.keeping(one, run_of(one), seconds=60) as kept:
        assert kept is not None and kept.bring("done", "DONE")
    assert (run_of(one) / "result.json").read_text() == "mine"
    assert stored(one) == ["runs/r/checkpoints/20.json", "runs/r/done.json"]  # nothing goes up any more


def test_ones_own_newer_checkpoint_is_kept(machines):
    one, _ = machines
    with keeper.keeping(one, run_of(one), seconds=60) as kept:
        assert kept is not None and not kept.bring("done", "DONE")
        checkpoint(run_of(one), 5)
    checkpoint(run_of(one), 9)  # the machine died before it went up
    with keeper.keeping(one, run_of(one), seconds=60) as kept:
        assert kept is not None and not kept.bring("done", "DONE")
        wait_for(one, "runs/r/checkpoints/9.json")
    assert (run_of(one) / "checkpoints/9/state/array").read_bytes() == b"9" * 1000


def test_one_that_was_taken_for_dead_changes_nothing(machines):
    """It wakes when another machine has taken over, finished, and left: what that one committed stays."""
    one, two = machines
    with keeper.keeping(one, run_of(one), seconds=60) as sleeper:
        assert isinstance(sleeper, keeper._OnStore) and not sleeper.bring("done", "DONE")
        checkpoint(run_of(one), 5)
        wait_for(one, "runs/r/checkpoints/5.json")
        sleeper._lease._ended.set()  # its heart stops
        store = origin.objects(two)
        assert store is not None
        with leases.held(store, "runs/r", seconds=60, clock=lambda: 0.0) as lease:
            assert lease is None
        with leases.held(store, "runs/r", seconds=60, clock=lambda: 60.0) as lease:  # it stood still
            assert lease is not None and lease.number == 2
            kept = keeper._OnStore(store, "runs/r", two, run_of(two), lease)
            assert not kept.bring("done", "DONE")
            finished(run_of(two), "the second's")
            kept.finish("done", "DONE")
            kept.close()
        finished(run_of(one), "the sleeper's")
        sleeper.finish("done", "DONE")  # its last look at the lease was before it slept
        assert (run_of(one) / "result.json").read_text() == "the second's"
        sleeper._lease._lost = "another machine has taken over"  # what its next heartbeat finds
        with pytest.raises(Lost):
            sleeper.checking(lambda share: None)(0.5)
    origin.bring_done(two, [run_of(two)])
    assert (run_of(two) / "result.json").read_text() == "the second's"


def test_what_is_done_and_what_failed_is_brought_anywhere(machines):
    one, two = machines
    with keeper.keeping(one, run_of(one), seconds=60) as kept:
        assert kept is not None and not kept.bring("done", "DONE")
        run_of(one).mkdir(parents=True, exist_ok=True)
        (run_of(one) / "error.json").write_text(json.dumps({"error": "E", "message": "m"}))
        kept.fail("error.json")
    origin.bring_done(two, [run_of(two)])
    assert json.loads((run_of(two) / "error.json").read_text())["error"] == "E"
    with keeper.keeping(one, run_of(one), seconds=60) as kept:
        assert kept is not None
        kept.bring("done", "DONE")
        finished(run_of(one), "at last")
        kept.finish("done", "DONE")
    assert not origin.is_sent(two, "runs/r/done")
    origin.bring_done(two, [run_of(two)])
    assert origin.is_sent(two, "runs/r/done") and origin.is_sent(one, "runs/r/done")
    assert (run_of(two) / "DONE").exists() and not (run_of(two) / "error.json").exists()


def test_a_shared_state_is_extended_by_one_and_brought_by_others(machines):
    one, two = machines
    trunks = [workdir / "trunks" / "t" for workdir in machines]
    with keeper.extending(one, trunks[0], seconds=60) as free:
        assert free
        with keeper.extending(two, trunks[1], seconds=60) as other:
            assert not other
        leases._seen.clear()
        for step in (8, 16):
            (trunks[0] / str(step)).mkdir(parents=True)
            (trunks[0] / str(step) / "trunk.json").write_text(str(step))
    keeper.bring_state(two, trunks[1], most=10)
    assert [p.name for p in trunks[1].iterdir()] == ["8"]
    with keeper.extending(two, trunks[1], seconds=60) as free:
        assert free and (trunks[1] / "16" / "trunk.json").read_text() == "16"
    shutil.rmtree(trunks[1])
    keeper.bring_state(two, trunks[1], most=7)
    assert not trunks[1].exists()


def test_a_folder_of_its_own_needs_no_store(tmp_path):
    with keeper.keeping(tmp_path, tmp_path / "runs" / "r", seconds=1) as kept:
        assert kept is not None and not kept.bring("done", "DONE")
        kept.check()
        kept.finish("done", "DONE")
    assert not list(tmp_path.iterdir()) and origin.is_sent(tmp_path, "runs/r/done")
    assert origin.shown(tmp_path / "x", tmp_path) == str(tmp_path / "x")


def test_memory_is_refused_as_a_place_to_work_in():
    with pytest.raises(StoreError, match="ends with the process"):
        origin.folder("memory://x")


def test_several_hosts_of_one_model_are_told_that_they_need_a_shared_disk(monkeypatch, tmp_path):
    monkeypatch.setattr(mesh, "hosts", lambda: 2)
    assert cli.workdir_of(tmp_path) == tmp_path
    with pytest.raises(
        ConfigError, match=r"--workdir=s3://b/x: several hosts .* need a shared disk"
    ) as caught:
        cli.workdir_of("s3://b/x")
    assert "\n" not in str(caught.value)


def test_a_large_checkpoint_goes_up_and_comes_back(machines, monkeypatch):
    """Files that are sent one after another."""
    monkeypatch.setattr(commits, "_LARGE", 100)
    one, two = machines
    with keeper.keeping(one, run_of(one), seconds=60) as kept:
        assert kept is not None
        kept.bring("done", "DONE")
        checkpoint(run_of(one), 5)
    with keeper.keeping(two, run_of(two), seconds=60) as kept:
        assert kept is not None
        kept.bring("done", "DONE")
    assert (run_of(two) / "checkpoints/5/state/array").read_bytes() == b"5" * 1000
    assert (run_of(two) / "checkpoints/5/_CHECKPOINT_METADATA").read_text() == "{}"
