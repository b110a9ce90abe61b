"""Cells on TPU VMs: the commands by the real gcloud's own parser, what they do by a stub of gcloud."""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from rewardscale import launch
from rewardscale.sweeps.executors import names
from tests.sweeps.gcloud_stub import StubGcloud
from tests.sweeps.launching import TINY

GCLOUD = shutil.which("gcloud")


@pytest.fixture(scope="module")
def share(tmp_path_factory) -> Path:
    """A mounted share with the data of a sweep of four cells."""
    mount = tmp_path_factory.mktemp("share")
    assert launch.main([*TINY, f"--workdir={mount / 'w'}", "--dry_run"]) == 0
    return mount


@pytest.fixture
def sweep(share):
    shutil.rmtree(share / "w" / "tpu_vm", ignore_errors=True)
    flags = ("--executor=tpu_vm", "--zone=us-west4-a", "--accelerator_type=v5litepod-8")
    where = (f"--nfs=10.0.0.2:/vol1:{share}", "--container=us-docker.pkg.dev/p/r/rewardscale:tpu")
    return (*TINY, f"--workdir={share / 'w'}", *flags, *where)


@pytest.fixture
def gcloud(tmp_path, monkeypatch) -> StubGcloud:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return StubGcloud(tmp_path)


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = launch.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_dry_run_prints_commands_and_scripts_and_asks_nothing(capsys, sweep, share, gcloud, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret-key")
    code, out, _ = run(capsys, *sweep, "--spot", "--wandb=online", "--cells_per_task=4", "--dry_run")
    assert code == 0 and "4 cells in 1 tasks would be submitted as queued resources" in out
    assert not gcloud.memory()["asked"] and not (share / "w" / "tpu_vm").exists()
    create = shlex.split(next(line for line in out.splitlines() if line.startswith("gcloud ")))
    assert {"--spot", "--async", "--runtime-version=v2-alpha-tpuv5-lite"} <= set(create)
    script = out[out.index("#!/bin/bash") :]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    assert "secret-key" not in out and "--env=WANDB_API_KEY" in script
    command = next(line for line in script.splitlines() if "rewardscale.launch" in line)
    options, _ = launch._parse(shlex.split(command)[3:])  # what a container is told is a command of launch
    assert len(options.cell) == 4 and options.workdir == str(share / "w")


def test_slices_are_asked_for_once_and_again_after_a_preemption(capsys, sweep, gcloud):
    code, out, error = run(capsys, *sweep)
    assert code == 0 and "4 cells in 4 tasks: 4 slices asked for" in out, error
    active, preempted, failed, done = gcloud.memory()["slices"]
    code, out, _ = run(capsys, *sweep)
    assert code == 0 and "4 cells are in a job already: 4 waiting_for_resources" in out
    gcloud.change(slices={active: "ACTIVE", preempted: "SUSPENDED", failed: "FAILED", done: None})
    code, out, _ = run(capsys, *sweep, "--status")
    assert code == 0 and out == "4 cells: 1 running, 3 not started\n"
    code, out, _ = run(capsys, *sweep)
    assert code == 0 and "3 slices asked for" in out
    again = [f"{names.task_of(name)[0]}-1" for name in (preempted, failed)]
    assert set(gcloud.memory()["slices"]) == {active, *again, done}


def test_two_launchers_at_once_ask_for_one_of_each(capsys, sweep, gcloud):
    """The second one's list is older than the first one's slices."""
    assert run(capsys, *sweep)[0] == 0
    gcloud.change(blind=True)
    code, out, error = run(capsys, *sweep)
    assert code == 0 and "0 slices asked for" in out and len(gcloud.memory()["slices"]) == 4, error


def test_cancel_lets_containers_save_and_deletes_this_folders_slices(capsys, sweep, gcloud):
    assert run(capsys, *sweep)[0] == 0
    first, second, *_ = gcloud.memory()["slices"]
    gcloud.change(slices={first: "ACTIVE", second: "DELETING", "someone-else-0": "ACTIVE"})
    code, out, error = run(capsys, *sweep, "--cancel")
    assert code == 0 and out.startswith("3 cells were in jobs"), error
    memory = gcloud.memory()
    assert set(memory["slices"]) == {second, "someone-else-0"}
    ssh = [a for a in memory["asked"] if "ssh" in a]
    assert len(ssh) == 1 and first in ssh[0] and "--worker=all" in ssh[0]
    assert "--command=sudo docker stop --time=120 cell" in ssh[0]


@pytest.mark.parametrize(
    ("codes", "starts", "deleted"),
    [([0], 1, True), ([2], 1, True), ([1, 137, 0], 3, True), ([1] * 9, 4, True), ([130], 1, False)],
)
def test_the_script_goes_on_after_a_crash_and_ends_the_slice(
    capsys, sweep, share, gcloud, tmp_path, codes, starts, deleted
):
    """The real script in a real bash; what it calls on a host are stubs in PATH."""
    assert run(capsys, *sweep, "--cells_per_task=4")[0] == 0
    (name,) = gcloud.memory()["slices"]
    (tmp_path / "codes").write_text("\n".join(map(str, codes)) + "\n")
    stubs = {
        "docker": f'[ "$1" = run ] || exit 0\ncd {tmp_path}\necho "$@"\ncode=$(head -1 codes)\n'
        "sed -i 1d codes\nexit $code",
        "mountpoint": "exit 0",
        "curl": "echo 0",
    }
    for program, lines in stubs.items():
        (tmp_path / program).write_text(f"#!/bin/bash\n{lines}\n")
        (tmp_path / program).chmod(0o755)
    script = (share / "w" / "tpu_vm" / name / "startup.sh").read_text()
    script = script.replace("/run/rewardscale.lock", str(tmp_path / "lock"))
    script = script.replace("gcloud auth configure-docker", "true")
    subprocess.run(["bash"], input=script, text=True, check=False, timeout=60)
    log = (share / "w" / "tpu_vm" / name / "log-0").read_text()
    assert log.count("rewardscale.launch") == starts
    assert (name not in gcloud.memory()["slices"]) is deleted


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--zone=", "needs --zone"),
        ("--accelerator_type=v5e", "must be a slice of Google's"),
        ("--nfs=/shared", "must be HOST:/EXPORT:/PATH"),
        ("--nfs=h:/e:/elsewhere", "is not in /elsewhere"),
    ],
)
def test_flags_that_cannot_be_are_one_error(capsys, sweep, change, message):
    code, _, error = run(capsys, *sweep, "--dry_run", change)
    assert code == 2 and message in error and error.count("error: ") == 1


def test_without_gcloud_or_an_account_the_mend_is_named(capsys, sweep, tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    code, _, error = run(capsys, *sweep)
    assert code == 2 and "gcloud is not there: install the Google Cloud CLI" in error
    (tmp_path / "empty" / "gcloud").write_text("#!/bin/sh\necho 'ERROR: no active account' >&2\nexit 1\n")
    (tmp_path / "empty" / "gcloud").chmod(0o755)
    code, _, error = run(capsys, *sweep)
    assert code == 2 and "gcloud refused: ERROR: no active account" in error


@pytest.mark.slow
@pytest.mark.skipif(GCLOUD is None, reason="the Google Cloud CLI is not installed")
def test_the_real_gcloud_understands_the_commands(capsys, sweep, gcloud, tmp_path):
    """It parses before it looks for an account, of which there is none here. Half a minute."""
    assert run(capsys, *sweep, "--spot", "--cells_per_task=4")[0] == 0
    (name,) = gcloud.memory()["slices"]
    gcloud.change(slices={name: "ACTIVE"})
    assert run(capsys, *sweep, "--cancel")[0] == 0
    kinds = {tuple(asked[2:4]): asked for asked in gcloud.memory()["asked"]}
    assert len(kinds) == 4
    alone = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path / "config"), "CLOUDSDK_CORE_PROJECT": "p"}
    for asked in [*kinds.values(), [*kinds["queued-resources", "list"], "--no-such-flag"]]:
        done = subprocess.run(
            [str(GCLOUD), *asked], env=alone, capture_output=True, text=True, check=False, timeout=120
        )
        misread = any(w in done.stderr for w in ("unrecognized", "Invalid", "argument --", "arguments"))
        assert misread == ("--no-such-flag" in asked), done.stderr
        assert misread or "account" in done.stderr, done.stderr
