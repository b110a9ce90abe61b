"""metrics.jsonl survives kills and resumes; wandb is one file's business and off unless asked for."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from rewardscale.scaling.collect import load_sweep
from rewardscale.training.tracker import SWEEP_FILES, FetchError, MetricsFile, Wandb, fetch, read_metrics
from tests.scaling import synthetic


def record(step: int, loss: float = 0.5) -> dict[str, float | int]:
    return {"step": step, "loss": loss}


def write(path: Path, steps: range, *, resume_at: int = 0, loss: float = 0.5) -> None:
    file = MetricsFile(path, resume_at=resume_at)
    file.write(record(step, loss) for step in steps)
    file.close()


def steps(path: Path) -> list[int]:
    return [r["step"] for _, r in read_metrics(path)]


def test_a_resumed_run_rewrites_what_it_does_again(tmp_path: Path) -> None:
    path = tmp_path / "run" / "metrics.jsonl"
    write(path, range(10))
    write(path, range(6, 12), resume_at=6, loss=0.25)
    assert steps(path) == list(range(12))
    assert [r["loss"] for _, r in read_metrics(path)] == [0.5] * 6 + [0.25] * 6


def test_a_fresh_start_empties_the_file(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", range(4))
    write(tmp_path / "m.jsonl", range(2))
    assert steps(tmp_path / "m.jsonl") == [0, 1]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_last_line_is_left_out(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "m.jsonl"
    write(path, range(5))
    path.write_bytes(path.read_bytes()[:-cut])
    assert steps(path) == [0, 1, 2, 3]
    write(path, range(4, 7), resume_at=5)  # a checkpoint newer than the torn line
    assert steps(path) == [0, 1, 2, 3, 4, 5, 6]
    for line in path.read_text().splitlines():
        json.loads(line)


def test_nan_is_written_and_read(tmp_path: Path) -> None:
    write(tmp_path / "m.jsonl", range(1), loss=float("nan"))
    assert [r["loss"] != r["loss"] for _, r in read_metrics(tmp_path / "m.jsonl")] == [True]


def test_records_are_on_disk_before_the_file_is_closed(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "m.jsonl")
    file.write([record(0), record(1)])
    assert steps(tmp_path / "m.jsonl") == [0, 1]
    file.close()


def test_no_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "none.jsonl") == []


def test_wandb_off_does_nothing_and_does_not_import_it(tmp_path: Path) -> None:
    before = "wandb" in sys.modules
    run = Wandb("off", project="p", name="n", run_id="r", directory=tmp_path / "w", config={})
    run.log([record(0)])
    run.summary({"a": 1})
    run.table("t", ["a"], [[1]])
    run.images({"i": tmp_path / "none.png"})
    run.files([tmp_path / "none.json"])
    run.close()
    assert ("wandb" in sys.modules) == before
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_wandb_offline_leaves_a_run_to_sync(tmp_path: Path) -> None:
    run = Wandb("offline", project="p", name="n", run_id="abc", directory=tmp_path, config={"a": 1})
    run.log([record(0), record(1)])
    run.table("t", ["a"], [[1]])
    run.summary({"best": 0.5})
    run.close()
    found = list((tmp_path / "wandb").glob("offline-run-*-abc/run-abc.wandb"))
    assert len(found) == 1 and found[0].stat().st_size > 0


def send(sweep: Path, to: Path, run_id: str = "sweep-planted") -> Path:
    """What a sweep does at its end, with wandb offline; the folder of the run it leaves."""
    before = set(to.glob("wandb/offline-run-*"))
    run = Wandb("offline", project="p", name="n", run_id=run_id, directory=to, config={})
    run.files(sweep / name for name in SWEEP_FILES if (sweep / name).exists())
    run.close()
    (made,) = set(to.glob("wandb/offline-run-*")) - before
    return made


def small_sweep(directory: Path, *, draws: int = 2) -> Path:
    made = synthetic.planted(directory, draws=draws, sizes=synthetic.SIZES[:4], models=["small"])
    synthetic_clusters = load_sweep(made).table.select("run_id", "eval_set", "eval_pairs")
    synthetic_clusters.write_parquet(made / "results_by_cluster.parquet")
    return made


def test_a_sweep_comes_back_from_an_offline_run(tmp_path: Path) -> None:
    """Whole, as it was when it was sent, and wherever the run's folder has been taken since."""
    sweep = small_sweep(tmp_path / "sweep")
    sent = {name: (sweep / name).read_bytes() for name in SWEEP_FILES}
    run = send(sweep, tmp_path / "first")
    shutil.rmtree(sweep)
    moved = Path(shutil.move(run, tmp_path / "elsewhere"))
    made = fetch(moved, tmp_path / "fetched")
    assert {p.name: p.read_bytes() for p in made.iterdir()} == sent
    assert load_sweep(made).table["draw"].n_unique() == 2
    with pytest.raises(FetchError, match="holds something already"):
        fetch(moved, made)


@pytest.mark.slow
def test_the_newest_run_with_results_is_taken(tmp_path: Path) -> None:
    send(small_sweep(tmp_path / "old", draws=2), tmp_path)
    send(small_sweep(tmp_path / "new", draws=3), tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    cell = send(empty, tmp_path, run_id="cell")
    made = fetch(tmp_path / "wandb", tmp_path / "fetched")
    assert load_sweep(made).table["draw"].n_unique() == 3
    with pytest.raises(FetchError, match=r"no results\.parquet and sweep\.json in the run .*cell"):
        fetch(cell, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_a_file_that_is_not_there_is_not_sent(tmp_path: Path) -> None:
    run = Wandb("offline", project="p", name="n", run_id="abc", directory=tmp_path, config={})
    with pytest.raises(FileNotFoundError, match=r"none\.json"):
        run.files([tmp_path / "none.json"])
    run.close()


def test_fetching_from_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FetchError, match="no wandb run in"):
        fetch(tmp_path, tmp_path / "to")
    for name in ("project/run", str(tmp_path / "none"), "./a/b"):
        with pytest.raises(FetchError, match="not the path of an online run, entity/project/run"):
            fetch(name, tmp_path / "to")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_wandb_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    with pytest.raises(FetchError, match=r"cannot read the run team/project/run from wandb .*logged in"):
        fetch("team/project/run", tmp_path / "to")
    assert list(tmp_path.iterdir()) == []
