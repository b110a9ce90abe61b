"""The command: help, dry run, and one clear error for each kind of bad input."""

import shlex
import shutil
from pathlib import Path

import pytest

from rewardscale import launch
from rewardscale.sweeps import configfile
from tests.sweeps.launching import TINY
from tests.sweeps.launching import launch as launch_process


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = launch.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def one_error(captured_error: str) -> str:
    """The one error line; whatever else stands there must be progress bars, not a traceback."""
    lines = [line for line in captured_error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in captured_error, captured_error
    return lines[0]


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        launch.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "--config.sweep.draws=5" in out and "--dry_run" in out and "exit" in out


def test_dry_run_counts_and_trains_nothing(capsys, tmp_path):
    code, out, _ = run(capsys, *TINY, f"--workdir={tmp_path}", "--dry_run")
    assert code == 0
    assert "4 cells, 0 done" in out and "FLOPs" in out and "about" in out
    assert not (tmp_path / "runs").exists() and not (tmp_path / "report.html").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config.sweep.drws=5"], "did you mean 'config.sweep.draws'"),
        (["--config.sweep.pairs=100,5000"], "5000 were asked for; lower sweep.pairs"),
        (["--config.sweep.levels=raw,golden"], "did you mean 'gold'"),
    ],
)
def test_a_bad_override_is_one_error(capsys, tmp_path, arguments, message):
    code, _, error = run(capsys, *TINY, *arguments, f"--workdir={tmp_path}")
    assert code == 2 and message in one_error(error)
    assert not (tmp_path / "runs").exists()


def test_an_argument_that_is_no_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        launch.main([*TINY, "--worker=3"])
    assert stop.value.code == 2 and "--worker=3" in capsys.readouterr().err


def test_votes_without_data_say_where_to_put_them(capsys, tmp_path, monkeypatch):
    monkeypatch.delenv("REWARDSCALE_DATA", raising=False)
    code, _, error = run(capsys, "--config=sweep.py:votes", f"--workdir={tmp_path}")
    assert code == 2 and "--data_dir" in one_error(error) and "REWARDSCALE_DATA" in error


def test_a_data_folder_that_is_not_there_is_named(capsys, tmp_path):
    code, _, error = run(
        capsys, "--config=sweep.py:votes", f"--workdir={tmp_path / 'w'}", f"--data_dir={tmp_path / 'nowhere'}"
    )
    assert code == 2 and "nowhere" in one_error(error)


@pytest.mark.parametrize(
    "page",
    ["launch/README.md", "launch/wandb/README.md", "launch/kubernetes/README.md", "launch/tpu_vm/README.md"],
)
def test_the_commands_of_a_page_are_understood(page):
    text = (Path(__file__).parents[1] / page).read_text().replace("\\\n", " ")
    commands = [
        shlex.split(line, comments=True)[3:]
        for line in text.splitlines()
        if line.startswith("python -m rewardscale.launch ")
    ]
    assert len(commands) >= 3
    for command in commands:
        options, overrides = launch._parse(command)
        configfile.load(options.config, overrides)


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """A workdir with data and no runs."""
    workdir = tmp_path_factory.mktemp("planned")
    assert launch.main([*TINY, f"--workdir={workdir}", "--dry_run"]) == 0
    return workdir


@pytest.mark.parametrize("what", ["corpus", "views"])
@pytest.mark.parametrize("how", ["truncated", "corrupt", "missing"])
def test_damaged_shards_are_named_before_anything_runs(capsys, tmp_path, planned, what, how):
    workdir = tmp_path / "w"
    shutil.copytree(planned, workdir)
    corpus = next(workdir.glob("data/*/corpus"))
    shard = next(corpus.glob("*.array_record" if what == "corpus" else "views/*/shard-*.tokens"))
    whole = shard.read_bytes()
    if how == "truncated":
        shard.write_bytes(whole[: len(whole) // 2])
    elif how == "corrupt":
        shard.write_bytes(whole[:100] + bytes([whole[100] ^ 0xFF]) + whole[101:])
    else:
        shard.unlink()
    code, _, error = run(capsys, *TINY, f"--workdir={workdir}")
    assert code == 2 and shard.name in one_error(error) and "build it again" in error
    assert not (workdir / "runs").exists()


def test_a_workdir_that_cannot_be_written_is_one_error(capsys, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, error = run(capsys, *TINY, f"--workdir={tmp_path / 'file' / 'w'}")
    assert code == 2 and "file" in one_error(error)


def test_a_mesh_that_does_not_divide_the_devices_fails_its_cells_with_the_reason(tmp_path):
    code, out, error = launch_process(
        tmp_path, *TINY, "--config.runtime.mesh=2,1,1", "--config.sweep.pairs=100"
    )
    assert code == 1
    assert "0 of 2 cells done" in out and "runtime.mesh=(2, 1, 1)" in error
