"""A sweep in real processes: killed, interrupted, doubled, failing, repeated."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import polars as pl
import pytest

from rewardscale.sweeps import cell
from rewardscale.sweeps.results import reproducible
from rewardscale.training.tracker import SWEEP_FILES, fetch
from tests.sweeps.launching import TINY, launch, start

# Long enough to be caught in the middle: many steps, a checkpoint several times a second.
LONG = (
    *TINY,
    "--config.sweep.pairs=700",
    "--config.sweep.levels=gold",
    "--config.recipe.epochs=40",
    "--config.runtime.checkpoint_seconds=0.1",
    "--config.runtime.steps_per_dispatch=8",
    "--config.runtime.workers=1",
)


def table(workdir: Path) -> pl.DataFrame:
    return reproducible(pl.read_parquet(workdir / "results.parquet"))


def results(workdir: Path) -> list[dict]:
    return [json.loads(p.read_text()) for p in workdir.glob("runs/*/result.json")]


def wait_for_checkpoint(workdir: Path, process) -> None:
    """Waits until a run has a committed checkpoint and is not done."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if list(workdir.glob("runs/*/checkpoints/*/commit_success.txt")) and not list(
            workdir.glob("runs/*/DONE")
        ):
            return
        time.sleep(0.02)
    out, error = process.communicate()
    pytest.fail(f"no checkpoint was seen before the run ended:\n{out}\n{error}")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("uninterrupted")
    code, out, error = launch(workdir, *LONG)
    assert code == 0, error
    assert out.strip().endswith("report.html")
    return workdir


def test_killed_and_launched_again_gives_the_same_table_bit_for_bit(uninterrupted, tmp_path):
    for _ in range(2):
        process = start(tmp_path, *LONG)
        wait_for_checkpoint(tmp_path, process)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert not list(tmp_path.glob("runs/*/DONE"))
    code, _, error = launch(tmp_path, *LONG)
    assert code == 0, error
    assert results(tmp_path)[0]["record"]["resumed_at"] > 0
    assert table(tmp_path).equals(table(uninterrupted))
    first, second = (next(w.glob("runs/*/metrics.jsonl")) for w in (tmp_path, uninterrupted))
    throughput = (
        "pairs_per_second",
        "tokens_per_second",
        "data_seconds",
        "device_seconds",
        "checkpoint_seconds",
    )

    def lines(path: Path) -> list[dict]:
        records = [json.loads(line) for line in path.read_text().splitlines()]
        return [{k: v for k, v in r.items() if k not in throughput} for r in records]

    assert lines(first) == lines(second)


@pytest.mark.slow
def test_a_cell_left_alone_rounds_as_it_did_beside_another(tmp_path):
    """On one core or on all, sums round differently: the sweep decides which, not what is left of it."""
    two = (*LONG, "--config.sweep.pairs=600,700", "--config.recipe.epochs=5", "--config.runtime.workers=2")
    code, _, error = launch(tmp_path, *two)
    assert code == 0, error
    before = table(tmp_path)
    shutil.rmtree(tmp_path / "runs" / before.filter(pl.col("pairs") == 700)["run_id"][0])
    code, _, error = launch(tmp_path, *two)
    assert code == 0, error
    assert table(tmp_path).equals(before)


def test_interrupted_by_the_keyboard_saves_and_goes_on(uninterrupted, tmp_path):
    process = start(tmp_path, *LONG, "--config.runtime.checkpoint_seconds=1000")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not any(
        p.stat().st_size for p in tmp_path.glob("runs/*/metrics.jsonl")
    ):
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=90)
    assert process.returncode == 130, error
    assert "the same command goes on" in error and "Traceback" not in error
    assert not (tmp_path / "report.html").exists()  # the time of grace is for saving
    code, _, error = launch(tmp_path, *LONG)
    assert code == 0, error
    assert results(tmp_path)[0]["record"]["resumed_at"] > 0
    assert table(tmp_path).equals(table(uninterrupted))


def test_two_launches_on_one_directory_share_the_work(tmp_path):
    processes = [start(tmp_path, *TINY, "--config.runtime.workers=1") for _ in range(2)]
    for process in processes:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error
    assert len(table(tmp_path)) == 4 * 3  # cells x evaluation sets
    assert table(tmp_path)["run_id"].n_unique() == 4
    for path in tmp_path.glob("runs/*/metrics.jsonl"):
        steps = [json.loads(line)["step"] for line in path.read_text().splitlines()]
        assert steps == list(range(len(steps)))


@pytest.mark.parametrize("name", ["result.json", "DONE"])
def test_a_damaged_result_is_no_result(uninterrupted, tmp_path, name):
    shutil.copytree(uninterrupted, tmp_path / "w")
    (path,) = (tmp_path / "w").glob(f"runs/*/{name}")
    run_id, whole = path.parent.name, path.read_bytes()
    assert cell.is_done(tmp_path / "w", run_id)
    for bad in (b"", whole[: len(whole) // 2], whole.replace(b"e", b"f", 1)):
        path.write_bytes(bad)
        assert not cell.is_done(tmp_path / "w", run_id) and cell.read_result(tmp_path / "w", run_id) is None
    path.unlink()
    assert not cell.is_done(tmp_path / "w", run_id)


@pytest.mark.slow
def test_a_damaged_result_is_made_again_of_the_last_checkpoint(uninterrupted, tmp_path):
    shutil.copytree(uninterrupted, tmp_path / "w")
    (path,) = (tmp_path / "w").glob("runs/*/result.json")
    path.write_bytes(path.read_bytes()[:100])
    code, _, error = launch(tmp_path / "w", *LONG)
    assert code == 0 and f"warning: {path} is not what DONE says was written" in error
    record = results(tmp_path / "w")[0]["record"]
    assert record["resumed_at"] == record["steps"]
    assert table(tmp_path / "w").equals(table(uninterrupted))


def test_repeated_with_nothing_to_do_is_quick_and_changes_nothing(uninterrupted):
    watched = [uninterrupted / name for name in ("results.parquet", "report.html", "missing.json")]
    before = [(p.read_bytes(), p.stat().st_mtime_ns) for p in watched[:2]]
    code, _, error = launch(uninterrupted, *LONG)
    assert code == 0, error
    assert [(p.read_bytes(), p.stat().st_mtime_ns) for p in watched[:2]] == before


def test_a_failing_cell_is_reported_and_the_others_go_on(tmp_path):
    broken = (
        *TINY,
        "--config.sweep.models=w8,w16",
        "--config.learning_rates.w16=1e30",
        "--config.sweep.levels=gold",
    )
    code, out, error = launch(tmp_path, *broken)
    assert code == 1
    assert "2 of 4 cells done" in out and "NonFiniteLoss" in error
    missing = json.loads((tmp_path / "missing.json").read_text())
    assert {m["model"] for m in missing} == {"w16"} and all("step" in m["reason"] for m in missing)
    assert set(table(tmp_path)["model"]) == {"w8"}
    assert "NonFiniteLoss" in (tmp_path / "report.html").read_text()
    done = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/DONE")}
    code, out, _ = launch(tmp_path, *broken)
    assert code == 1 and "2 of 4 cells done" in out
    assert {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/DONE")} == done


def test_a_worker_that_is_killed_costs_one_cell_and_no_other(tmp_path):
    process = start(tmp_path, *LONG, "--config.sweep.pairs=600,700", "--config.runtime.workers=1")
    wait_for_checkpoint(tmp_path, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    trainers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert trainers
    for pid in trainers:
        os.kill(int(pid), signal.SIGKILL)
    out, error = process.communicate(timeout=240)
    assert process.returncode == 1 and "SIGKILL" in error
    assert "1 of 2 cells done" in out
    code, _, error = launch(tmp_path, *LONG, "--config.sweep.pairs=600,700")
    assert code == 0, error


def test_a_worker_whose_launcher_dies_before_it_is_ready_does_not_train_on(tmp_path):
    process = start(tmp_path, *LONG)
    deadline, workers = time.monotonic() + 120, []
    while not workers and time.monotonic() < deadline:
        time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    time.sleep(0.1)  # it has its cell, and is importing
    process.kill()
    process.communicate()
    while Path(f"/proc/{workers[0]}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{workers[0]}").exists() and not list(tmp_path.glob("runs/*/DONE"))


def test_wandb_offline_holds_curves_and_the_table(tmp_path):
    code, _, error = launch(tmp_path, *TINY, "--wandb=offline", "--config.sweep.pairs=100")
    assert code == 0, error
    files = list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 3  # two runs and the sweep
    assert b"gradient_norm" in b"".join(p.read_bytes() for p in files)
    assert list((tmp_path / "wandb").glob("offline-run-*/files/media/table/*.json"))
    again = fetch(tmp_path / "wandb", tmp_path / "again")
    for name in SWEEP_FILES:
        assert (again / name).read_bytes() == (tmp_path / name).read_bytes()
