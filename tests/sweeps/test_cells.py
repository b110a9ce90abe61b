"""`--cell` and `--collect`: what agents and clusters' jobs call, and the table of whatever they did."""

import json
import time
from pathlib import Path

import polars as pl
import pytest

from rewardscale import atomic, launch
from rewardscale.sweeps.results import reproducible
from tests.sweeps.launching import TINY, start
from tests.sweeps.launching import launch as launch_process

KEY = "5ec7e75ec7e75ec7e75ec7e75ec7e75ec7e75ec7"


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = launch.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def holding(folder: Path, secret: str) -> list[Path]:
    """Files that hold the secret."""
    return [p for p in folder.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]


@pytest.fixture
def ids(capsys, tmp_path) -> list[str]:
    """The run ids of the tiny sweep in tmp_path, whose data is ready and which has not run."""
    code, _, _ = run(capsys, *TINY, f"--workdir={tmp_path}", "--executor=wandb", "--wandb=offline")
    assert code == 0
    return [c["run_id"] for c in json.loads((tmp_path / "sweep.json").read_text())["cells"]]


def computing(pid: int) -> bool:
    """Whether a child of the process has loaded what computes."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return any("jaxlib" in Path(f"/proc/{child}/maps").read_text() for child in children)


def test_a_cell_waits_for_its_lock_then_runs_alone_and_once(capsys, tmp_path, ids):
    lock = tmp_path / "runs" / ids[0] / "lock"
    with atomic.locked(lock):
        process = start(tmp_path, *TINY, f"--cell={ids[0]}")
        until = time.monotonic() + 60
        while time.monotonic() < until and not computing(process.pid):
            time.sleep(0.1)
        time.sleep(3)
        assert process.poll() is None and [p.name for p in lock.parent.iterdir()] == ["lock"]
    out, error = process.communicate(timeout=240)
    assert process.returncode == 0, error
    assert out == f"done w8/raw/100/draw0 ({ids[0]})\n"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [ids[0]]
    assert not (tmp_path / "results.parquet").exists()

    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "runs" / ids[0]).iterdir() if p.name != "lock"}
    code, out, _ = run(capsys, *TINY, f"--workdir={tmp_path}", f"--cell=run-{ids[0]},{ids[0]}")
    assert code == 0 and out == f"done w8/raw/100/draw0 ({ids[0]})\n"
    assert {p: p.stat().st_mtime_ns for p in before} == before

    code, out, _ = run(capsys, *TINY, f"--workdir={tmp_path}", "--collect")
    assert code == 1 and "1 of 4 cells done" in out and "not run yet" in out
    assert set(pl.read_parquet(tmp_path / "results.parquet")["run_id"]) == {ids[0]}
    assert [p.name for p in (tmp_path / "runs").iterdir()] == [ids[0]]


def test_an_unknown_cell_is_one_error_that_names_the_nearest(capsys, tmp_path, ids):
    near = ids[2][:-1] + ("0" if ids[2][-1] != "0" else "1")
    code, _, error = run(capsys, *TINY, f"--workdir={tmp_path}", f"--cell={ids[0]},{near}")
    assert code == 2 and error.count("error: ") == 1
    assert f"no cell '{near}' among the 4 of this sweep. Did you mean {ids[2]} (w8/gold/100/draw0)?" in error
    assert str(tmp_path / "sweep.json") in error
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_of_cells_counts_these(capsys, tmp_path, ids):
    code, out, _ = run(
        capsys, *TINY, f"--workdir={tmp_path}", f"--cell={ids[0]}", f"--cell={ids[3]}", "--dry_run"
    )
    assert code == 0 and "2 cells, 0 done" in out
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("other", ["--collect", "--executor=wandb"])
def test_a_cell_runs_here_and_makes_no_table(capsys, other):
    with pytest.raises(SystemExit) as stop:
        launch.main([*TINY, "--cell=1", other])
    assert stop.value.code == 2 and "--cell" in capsys.readouterr().err


@pytest.mark.slow
def test_cells_one_by_one_give_the_table_of_a_launch(capsys, tmp_path, ids):
    code, _, error = launch_process(tmp_path / "alone", *TINY)
    assert code == 0, error
    for group in (ids[3:], ids[:1], ids[1:3]):
        code, _, error = launch_process(tmp_path, *TINY, *(f"--cell={i}" for i in group))
        assert code == 0, error
    code, out, _ = run(capsys, *TINY, f"--workdir={tmp_path}", "--collect")
    assert code == 0 and "4 of 4 cells done" in out
    tables = [reproducible(pl.read_parquet(w / "results.parquet")) for w in (tmp_path, tmp_path / "alone")]
    assert tables[0].equals(tables[1])


@pytest.mark.slow
def test_offline_a_failing_cell_and_one_done_before_are_sent_and_the_key_is_nowhere(capsys, tmp_path):
    broken = (*TINY, "--config.sweep.models=w8,w16", "--config.learning_rates.w16=1e30")
    broken += ("--config.sweep.pairs=100", "--config.sweep.levels=gold")
    assert run(capsys, *broken, f"--workdir={tmp_path}", "--executor=wandb", "--wandb=offline")[0] == 0
    fine, failing = [c["run_id"] for c in json.loads((tmp_path / "sweep.json").read_text())["cells"]]
    assert launch_process(tmp_path, *broken, f"--cell={fine}")[0] == 0
    arguments = (*broken, f"--cell={fine},{failing}", "--wandb=offline")
    code, out, error = launch_process(tmp_path, *arguments, WANDB_API_KEY=KEY)
    assert code == 1 and "NonFiniteLoss" in error
    assert out.startswith(
        f"done w8/gold/100/draw0 ({fine})\nnot done w16/gold/100/draw0 ({failing}): NonFiniteL"
    )
    assert KEY not in out + error and holding(tmp_path, KEY) == []
    sent = {
        i: next((tmp_path / "wandb").glob(f"offline-run-*-{i}/*.wandb")).read_bytes() for i in (fine, failing)
    }
    assert all(b"gradient_norm" in data for data in sent.values())
    assert b"loss_recalibrated" in sent[fine] and b"NonFiniteLoss" in sent[failing]
