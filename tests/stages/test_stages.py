"""Stages: what is committed is whole, what is not is made again, whatever runs it and however it is stopped."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale.config import ConfigError
from rewardscale.stages import Engine, StageError, Task, run, session, verify
from tests.stages import tasks
from tests.stages.tasks import gone, runs, tree, writing

REPO = Path(__file__).parents[2]


def one(function: str, name: str = "bad", **arguments: object) -> Task:
    return Task(name, f"{tasks.__name__}:{function}", arguments)


def times(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in [folder, *folder.rglob("*")]}


def wait_for(what: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def committed(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob("*") if not p.name.startswith(".")) if folder.exists() else []


def litter(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.glob(".*"))


@pytest.fixture(scope="module", autouse=True)
def workers():
    """Starting them takes a second: one pool for all tests that do not kill it."""
    with session("process:2"):
        yield


DRIVER = """
import sys
from pathlib import Path
from rewardscale.stages import run
from tests.stages.tasks import writing
if __name__ == "__main__":
    folder, engine, count, log, seconds = sys.argv[1:]
    print(len(run(Path(folder), "one", writing(int(count), log=Path(log), seconds=float(seconds)), engine=engine)))
"""


@pytest.fixture
def driver(tmp_path):
    """Starts a stage in a process of its own (a script in a file: workers import it again)."""
    (tmp_path / "driver.py").write_text(DRIVER)
    started: list[subprocess.Popen[str]] = []

    def start(folder: Path, engine: str, count: int, log: Path, seconds: float) -> subprocess.Popen[str]:
        command = [sys.executable, tmp_path / "driver.py", folder, engine, count, log, seconds]
        environment = {**os.environ, "PYTHONPATH": str(REPO)}
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            [*map(str, command)], env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# --- what a finished stage is ---------------------------------------------------------------------------------


def test_a_stage_writes_its_tasks_and_a_manifest(tmp_path):
    seen = []
    done = run(tmp_path, "one", writing(3), progress=lambda n, of: seen.append((n, of)))
    assert seen == [(0, 3), (1, 3), (2, 3), (3, 3)]
    assert [d.name for d in done] == ["unit-000", "unit-001", "unit-002"]
    assert done[1].counts == {"bytes": 1077, "by": {"seed": 1}, "parts": [1, 2]}
    assert done[1].folder == tmp_path / "one" / "unit-001"
    record = json.loads((done[1].folder / "task.json").read_text())
    assert {name: size for name, (size, _) in record["files"].items()} == {
        "part/data.bin": 538,
        "rest.bin": 539,
    }
    manifest = json.loads((tmp_path / "one" / "stage.json").read_text())
    assert manifest == {"tasks": [{"name": d.name, "output": d.output} for d in done]}
    assert len({d.output for d in done}) == 3
    assert committed(tmp_path / "one") == ["stage.json", "unit-000", "unit-001", "unit-002"]
    assert not litter(tmp_path / "one")


@pytest.mark.parametrize("engine", ["inline", "process:2"])
def test_a_finished_stage_is_left_as_it_is(tmp_path, engine):
    log, seen = tmp_path / "log", []
    first = run(tmp_path, "one", writing(3, log=log), engine=engine)
    before = times(tmp_path / "one")
    again = run(tmp_path, "one", writing(3, log=log), engine=engine, progress=lambda *n: seen.append(n))
    assert again == first and seen == [(3, 3)]
    assert times(tmp_path / "one") == before and runs(log) == [0, 1, 2]
    assert verify(tmp_path, "one", writing(3)) == []


def test_an_empty_stage_has_a_manifest_too(tmp_path):
    assert run(tmp_path, "one", [], engine="process:2") == []
    assert committed(tmp_path / "one") == ["stage.json"]


def test_processes_write_the_same_bytes_wherever_the_build_lies(tmp_path):
    here = run(tmp_path / "a", "one", writing(7))
    there = run(tmp_path / "b", "one", writing(7), engine="process:2")
    assert [d.output for d in here] == [d.output for d in there]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_workers_keep_off_accelerators_and_share_the_cores(tmp_path):
    jobs = [one("environment", f"t{i}") for i in range(3)]
    cores = len(os.sched_getaffinity(0))
    for done in run(tmp_path, "one", jobs, engine=Engine("process", workers=max(2, cores))):
        assert done.counts["pid"] != os.getpid() and not done.counts["jax"]
        assert (done.counts["platforms"], done.counts["threads"]) == ("cpu", 1)


# --- what is not whole ------------------------------------------------------------------------------------------


def no_change(folder: Path) -> bool:
    return False


def cut(folder: Path) -> bool:
    os.truncate(folder / "rest.bin", 10)
    return True


def lengthen(folder: Path) -> bool:
    with (folder / "rest.bin").open("a") as file:
        file.write("x")
    return True


def edit(folder: Path) -> bool:
    path = folder / "part" / "data.bin"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    os.utime(path, ns=(0, (folder / "task.json").stat().st_mtime_ns + 1))
    return True


def copy(folder: Path) -> bool:
    """The same bytes, younger than the record."""
    for path in folder.rglob("*.bin"):
        os.utime(path, ns=(0, (folder / "task.json").stat().st_mtime_ns + 1))
    return False


def lose(folder: Path) -> bool:
    (folder / "part" / "data.bin").unlink()
    return True


def add(folder: Path) -> bool:
    (folder / "part" / "more.bin").write_text("not of the task")
    return True


def lose_record(folder: Path) -> bool:
    (folder / "task.json").unlink()
    return True


def cut_record(folder: Path) -> bool:
    os.truncate(folder / "task.json", 100)
    return True


def edit_counts(folder: Path) -> bool:
    path = folder / "task.json"
    path.write_text(re.sub(r'"bytes": \d+', '"bytes": 7', path.read_text()))
    return True


def empty(folder: Path) -> bool:
    shutil.rmtree(folder)
    folder.mkdir()
    return True


def to_file(folder: Path) -> bool:
    shutil.rmtree(folder)
    folder.write_text("a file")
    return True


def remove(folder: Path) -> bool:
    shutil.rmtree(folder)
    return True


ILLS = [
    no_change,
    copy,
    cut,
    lengthen,
    edit,
    lose,
    add,
    lose_record,
    cut_record,
    edit_counts,
    empty,
    to_file,
    remove,
]


@given(st.lists(st.sampled_from(ILLS), min_size=1, max_size=6))
@settings(max_examples=15, deadline=None)
def test_what_is_damaged_is_made_again_and_nothing_else(ills):
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        jobs = writing(len(ills), log=base / "log")
        first = run(base, "one", jobs)
        before = tree(base / "one")
        (base / "log").unlink()
        again = [i for i, (ill, done) in enumerate(zip(ills, first, strict=True)) if ill(done.folder)]
        lines: list[str] = []
        assert run(base, "one", jobs, report=lines.append) == first
        assert tree(base / "one") == before and runs(base / "log") == again
        # A folder that is simply not there is no damage; any other is named.
        named = [i for i in again if ills[i] is not remove]
        assert len(lines) == len(named)
        assert all(f"unit-{i:03d}" in line for i, line in zip(named, lines, strict=True)), lines
        assert verify(base, "one", jobs) == []


def test_an_edit_that_keeps_size_and_time_is_found_by_verify(tmp_path):
    (done,) = run(tmp_path, "one", writing(1))
    path = done.folder / "rest.bin"
    seen = path.stat()
    path.write_bytes(bytes(seen.st_size))
    os.utime(path, ns=(seen.st_atime_ns, seen.st_mtime_ns))
    assert run(tmp_path, "one", writing(1)) == [done]
    (line,) = verify(tmp_path, "one", writing(1))
    assert "unit-000" in line and "rest.bin was changed" in line


def test_verify_names_what_is_missing(tmp_path):
    run(tmp_path, "one", writing(2))
    (line,) = verify(tmp_path, "one", writing(3))
    assert "unit-002" in line and "not there" in line
    (tmp_path / "one" / "stage.json").write_text("{")
    (line,) = verify(tmp_path, "one", writing(2))
    assert "manifest" in line
    run(tmp_path, "one", writing(2))
    assert verify(tmp_path, "one", writing(2)) == []


def test_copied_files_are_read_once(tmp_path):
    (done,) = run(tmp_path, "one", writing(1))
    copy(done.folder)
    run(tmp_path, "one", writing(1))
    before = times(done.folder)
    assert before[done.folder / "task.json"] >= before[done.folder / "rest.bin"]
    run(tmp_path, "one", writing(1))
    assert times(done.folder) == before


def test_other_arguments_run_again_with_what_depends_on_them_and_no_more(tmp_path):
    def build(seeds: list[int], log: str) -> list[str]:
        path = {"log": str(tmp_path / log)}
        writes = f"{tasks.__name__}:write"
        units = [Task(f"u{i}", writes, {"seed": seed}, paths=path) for i, seed in enumerate(seeds)]
        first = run(tmp_path, "one", units)
        second = []
        for i in (0, 2):
            pair = first[i : i + 2]
            sources = {"sources": [str(d.folder) for d in pair]}
            inputs = tuple(d.output for d in pair)
            second.append(Task(f"v{i}", f"{tasks.__name__}:read", {}, inputs, sources))
        return [(d.folder / "digest.txt").read_text() for d in run(tmp_path, "two", second)]

    before = build([1, 2, 3, 4], "first")
    stays = times(tmp_path / "two" / "v0")
    after = build([1, 2, 3, 5], "second")
    assert runs(tmp_path / "second") == [5]
    assert after[0] == before[0] and after[1] != before[1]
    assert times(tmp_path / "two" / "v0") == stays
    assert build([1, 2, 3, 4], "third") == before and runs(tmp_path / "third") == [4]


def test_a_former_task_list_leaves_nothing_in_the_manifest(tmp_path):
    run(tmp_path, "one", writing(4))
    done = run(tmp_path, "one", writing(2))
    manifest = json.loads((tmp_path / "one" / "stage.json").read_text())
    assert [t["name"] for t in manifest["tasks"]] == ["unit-000", "unit-001"] == [d.name for d in done]


# --- what goes wrong --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "message", "engine"),
    [
        ("raise", r"in fail(?s:.*)ZeroDivisionError: seven by nought\n", "inline"),
        ("said", r"x=1 must be 2\n", "inline"),
        ("exit", "SystemExit: 3", "inline"),
        ("link", "'link'", "inline"),
        ("exit", "SystemExit: 3", "process:2"),
        ("unpicklable", "cannot travel", "process:2"),
    ],
)
def test_a_failing_task_is_named_and_the_others_stay(tmp_path, how, message, engine):
    jobs = writing(2)
    jobs.insert(1, one("fail", how=how))
    with pytest.raises(
        StageError, match=rf"stage 'one', task 'bad' failed: (?s:.*){message}(?s:.*)committed"
    ):
        run(tmp_path, "one", jobs, engine=engine)
    assert "unit-000" in committed(tmp_path / "one")
    assert not {"bad", "stage.json"} & set(committed(tmp_path / "one"))
    assert not litter(tmp_path / "one")
    log = tmp_path / "log"
    missing = [] if "unit-001" in committed(tmp_path / "one") else [1]
    run(tmp_path, "one", writing(2, log=log))
    assert runs(log) == missing


def test_a_stage_that_fails_anew_is_no_longer_whole(tmp_path):
    run(tmp_path, "one", writing(2))
    with pytest.raises(StageError):
        run(tmp_path, "one", [writing(2)[0], one("fail", "unit-001", how="raise")])
    assert committed(tmp_path / "one") == ["unit-000", "unit-001"]  # the old output, and no manifest


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([one("write", "../up")], "cannot be a folder's name"),
        ([one("write", ".hidden")], "cannot be a folder's name"),
        ([one("write", "")], "cannot be a folder's name"),
        ([one("write", "stage.json")], "taken"),
        ([one("write", "a"), one("write", "a")], "taken"),
        ([one("write", "a", x=Path("x"))], "JSON"),
        ([one("write", "a", x=float("nan"))], "JSON"),
        ([dataclasses.replace(one("write", "a", log="x"), paths={"log": "y"})], "both arguments and paths"),
        ([one("no_such", "a")], "no_such"),
        ([Task("a", "rewardscale.no_such:f", {})], "no_such"),
        ([one("write", "a")], "seed"),
    ],
)
def test_tasks_that_cannot_run_are_refused(tmp_path, bad, message):
    with pytest.raises(StageError, match=message):
        run(tmp_path, "one", bad)


def test_engines_by_name():
    assert Engine.parse("inline") == Engine()
    assert Engine.parse("process:4") == Engine("process", workers=4)
    assert Engine.parse("ray:10.0.0.1:6379") == Engine("ray", address="10.0.0.1:6379")
    for text in ("inline", "process", "process:4", "ray", "ray:auto", "ray:head:6379"):
        assert str(Engine.parse(text)) == text
    for text in ("", "inline:2", "process:", "process:0", "process:two", "process:-1", "ray:", "spark"):
        with pytest.raises(ConfigError, match=re.escape(repr(text))):
            Engine.parse(text)


def test_a_killed_worker_costs_its_task_a_second_try(tmp_path):
    jobs = writing(4)
    jobs[1] = Task(
        jobs[1].name, f"{tasks.__name__}:kill_once", {"seed": 1}, paths={"marker": str(tmp_path / "marker")}
    )
    done = run(tmp_path, "one", jobs, engine="process:2")
    assert (tmp_path / "marker").exists() and len(done) == 4 and done[1].counts["by"] == {"seed": 1}
    run(tmp_path, "two", jobs)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_task_that_kills_its_workers_is_named_and_the_others_stay(tmp_path):
    jobs = writing(5)
    jobs.insert(2, one("fail", how="kill"))
    with pytest.raises(
        StageError, match=r"task 'bad' failed: its worker process died 3 times(?s:.*)shard smaller"
    ):
        run(tmp_path, "one", jobs, engine="process:2")
    kept = {name: (tmp_path / "one" / name).stat().st_mtime_ns for name in committed(tmp_path / "one")}
    assert "bad" not in kept and not litter(tmp_path / "one")
    # Which of the others were done by then is the scheduler's choice; those stay, and the rest follow.
    assert len(run(tmp_path, "one", writing(5), engine="process:2")) == 5
    assert all((tmp_path / "one" / name).stat().st_mtime_ns == when for name, when in kept.items())


def test_a_killed_driver_takes_its_workers_along_and_the_stage_goes_on(tmp_path, driver):
    log, folder = tmp_path / "log", tmp_path / "build" / "one"

    def workers() -> set[int]:
        return {int(line.split()[1]) for line in log.read_text().splitlines()}

    process = driver(tmp_path / "build", "process:2", 16, log, 0.5)
    wait_for(lambda: len(committed(folder)) >= 2 and len(workers()) == 2)
    process.send_signal(signal.SIGKILL)
    assert process.pid not in workers()
    wait_for(lambda: all(map(gone, workers())))
    kept = committed(folder)
    assert "stage.json" not in kept and len(kept) < 16 and litter(folder)
    run(tmp_path / "build", "one", writing(16, log=tmp_path / "second"), engine="process:2")
    assert sorted([*kept, *(f"unit-{i:03d}" for i in runs(tmp_path / "second"))]) == [
        t.name for t in writing(16)
    ]
    run(tmp_path / "whole", "one", writing(16))
    assert tree(tmp_path / "build") == tree(tmp_path / "whole")


@pytest.mark.parametrize("engine", ["inline", "process:2"])
def test_an_interrupted_driver_stops_at_once_and_keeps_what_is_committed(tmp_path, driver, engine):
    log = tmp_path / "log"
    process = driver(tmp_path / "build", engine, 6, log, 1.2)
    wait_for(lambda: len(committed(tmp_path / "build" / "one")) >= 1)
    wait_for(lambda: len(runs(log)) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: to the workers too
    _, error = process.communicate(timeout=60)
    assert process.returncode not in (0, None) and "KeyboardInterrupt" in error
    kept = committed(tmp_path / "build" / "one")
    assert f"stage 'one' stopped: {len(kept)} of 6 tasks are committed" in error
    assert 1 <= len(kept) < 6 and "stage.json" not in kept and not litter(tmp_path / "build" / "one")
    assert all(gone(int(line.split()[1])) for line in log.read_text().splitlines())


def test_two_drivers_at_once_do_no_harm(tmp_path, driver):
    log = tmp_path / "log"
    both = [driver(tmp_path / "build", "process:2", 10, log, 0.1) for _ in range(2)]
    assert [process.communicate(timeout=120)[0] for process in both] == ["10\n", "10\n"]
    run(tmp_path / "whole", "one", writing(10))
    assert tree(tmp_path / "build") == tree(tmp_path / "whole")
    assert set(runs(log)) == set(range(10))


def test_what_is_being_written_is_not_swept_away(tmp_path, driver):
    process = driver(tmp_path / "build", "inline", 1, tmp_path / "log", 1.5)
    folder = tmp_path / "build" / "one"
    wait_for(lambda: folder.exists() and bool(litter(folder)))
    (folder / ".unit-009.elsewhere.abc.tmp").mkdir()  # a writer of another host: only time can tell
    (folder / ".unit-008.elsewhere.abc.tmp").mkdir()
    os.utime(folder / ".unit-008.elsewhere.abc.tmp", (0, 0))
    run(tmp_path / "build", "one", [])
    assert len(litter(folder)) == 2 and ".unit-008.elsewhere.abc.tmp" not in litter(folder)
    assert process.communicate(timeout=60)[0] == "1\n"


def test_a_clock_that_is_off_sweeps_nothing_away(tmp_path, monkeypatch):
    """A host whose clock is a month ahead of the disk's: what another host began just now is not old."""
    folder = tmp_path / "build" / "one"
    (folder / ".unit-009.elsewhere.abc.tmp").mkdir(parents=True)
    right = time.time
    monkeypatch.setattr(time, "time", lambda: right() + 30 * 24 * 3600)
    run(tmp_path / "build", "one", [])
    assert litter(folder) == [".unit-009.elsewhere.abc.tmp"]


FULL = """
import resource, sys
from pathlib import Path
from rewardscale.stages import StageError, Task, run
from tests.stages.tasks import writing
if __name__ == "__main__":
    tasks = writing(3)
    tasks[1] = Task("unit-001", "tests.stages.tasks:write", {"seed": 1, "size": 100_000})
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
    try:
        run(Path(sys.argv[1]), "one", tasks, engine=sys.argv[2])
    except StageError as error:
        print(error)
"""


@pytest.mark.parametrize(("limit", "kept"), [(20_000, ["unit-000"]), (501, [])])
def test_a_full_disk_is_one_error_and_what_is_committed_stays(tmp_path, python, limit, kept):
    out = python(FULL, tmp_path, "inline", limit).stdout
    assert "stage 'one', task 'unit-00" in out and "File too large" in out and "free some space" in out
    assert committed(tmp_path / "one") == kept and not litter(tmp_path / "one")
    run(tmp_path, "one", writing(3))
    assert len(committed(tmp_path / "one")) == 4


READ_ONLY = """
import os, sys
from pathlib import Path
from rewardscale.stages import StageError, run
from tests.stages.tasks import writing
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for count in (2, 3):
    try:
        print(len(run(Path(sys.argv[1]), "one", writing(count))))
    except StageError as error:
        print(error)
"""


def test_a_read_only_folder_is_one_error_and_a_finished_stage_in_it_still_opens(python):
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        if os.getuid() == 0 and any(not p.stat().st_mode & 0o001 for p in base.resolve().parents):
            pytest.skip("other users may not enter the temporary folder: set TMPDIR to one that they may")
        run(base, "one", writing(2))
        for folder in [base, *(p for p in base.rglob("*") if p.is_dir())]:
            os.chmod(folder, 0o555)
        first, second = python(READ_ONLY, base).stdout.splitlines()
        assert first == "2"
        assert second.startswith("stage 'one'") and "ermission denied" in second
        for folder in [base, *(p for p in base.rglob("*") if p.is_dir())]:
            os.chmod(folder, 0o755)
