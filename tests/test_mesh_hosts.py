"""How hosts find one another, with real processes; the clusters are simulated by their environment variables."""

import subprocess
import sys
from pathlib import Path

import pytest

from rewardscale import exits, mesh, train
from tests.training.hosts import finished, free_port, said, started

SLURM = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
JOIN = """
import argparse, functools, sys
from rewardscale import cli, mesh
coordinator, processes, process, seconds = sys.argv[1:]
mesh.initialize = functools.partial(mesh.initialize, seconds=float(seconds))
options = argparse.Namespace(coordinator=coordinator, num_processes=int(processes), process_id=int(process))
sys.exit(cli.on_hosts(options, lambda: 0))
"""


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, None),
        (SLURM, "Slurm"),
        (SLURM | {"SLURM_NTASKS": "1"}, None),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"}, None),  # a batch script itself, not a step of it
        ({"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "0"}, "GKE"),
        ({"TPU_WORKER_HOSTNAMES": "a"}, None),
        ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "GKE"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
        (
            {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"},
            None,
        ),  # maybe a part of an array
    ],
)
def test_a_cluster_is_known_by_its_environment(environment: dict[str, str], found: str | None) -> None:
    assert mesh.cluster(environment) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--coordinator=a:1"], "--num_processes and --process_id missing"),
        (["--num_processes=2"], "--coordinator and --process_id missing"),
        (
            ["--coordinator=a:1", "--num_processes=2", "--process_id=2"],
            "--process_id=2 of --num_processes=2",
        ),
        (["--coordinator=a:1", "--num_processes=2", "--process_id=-1"], "they count 0, 1"),
        (["--coordinator=a", "--num_processes=2", "--process_id=1"], "must be HOST:PORT"),
        (["--coordinator=a:b", "--num_processes=2", "--process_id=1"], "must be HOST:PORT"),
    ],
)
def test_flags_that_cannot_be(given: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--config=train.py", *given]) == 2
    assert message in capsys.readouterr().err


def test_one_process_needs_nobody() -> None:
    mesh.initialize(processes=1)
    assert not mesh.joined() and mesh.hosts() == 1 and mesh.host_zero()
    assert mesh.agreed({"a": 1}) == {"a": 1} and mesh.vote(True, False)() == (True, False)
    assert mesh.share(mesh.make_mesh((-1, 1, 1)), 16) == (0, 1)


@pytest.mark.parametrize(
    ("process", "message"), [(1, "no answer from --coordinator"), (0, "did not come together")]
)
def test_a_host_does_not_wait_for_ever(process: int, message: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = subprocess.run(
        [sys.executable, "-c", JOIN, address, "2", str(process), "2"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == exits.AGAIN and message in done.stderr and "within 2 s" in done.stderr
    assert "Traceback" not in done.stderr


TALK = """
import os, pathlib, sys, time
from rewardscale import mesh
from rewardscale.config import ConfigError

mesh.initialize()
zero, folder = mesh.host_zero(), pathlib.Path(sys.argv[1])
assert mesh.hosts() == 2 and mesh.describe()["hosts"] == 2 and mesh.describe()["devices"] == 4
assert mesh.agreed({"big": "x" * 5000 if zero else ""}) == {"big": "x" * 5000}
assert mesh.vote(zero, not zero, False)() == (True, True, False)

ballot = mesh.Ballot()  # each round hears of the round before
assert [ballot(not zero and k == 1) for k in range(4)] == [(False,), (False,), (True,), (False,)]

def build():
    if not (folder / "built").exists():
        assert zero
        time.sleep(0.5)
        (folder / "built").write_text("whole")
    return (folder / "built").read_text()
assert mesh.once(build) == "whole"

for act, said in ((lambda: mesh.once(lambda: [][1] if zero else None), "list index"),
                  (lambda: mesh.check_same("a" if zero else "b", "the letter"), "differ in the letter")):
    try:
        act()
    except (ConfigError, IndexError) as error:
        assert said in str(error), error
    else:
        raise AssertionError(said)
mesh.check_same("a", "the letter")

with mesh.locked(folder / "lock") as mine, mesh.new_directory(folder / "made") as made:
    assert mine and made.parent == folder
    (made / f"host{int(not zero)}").touch()
assert sorted(path.name for path in (folder / "made").iterdir()) == ["host0", "host1"]

assert mesh.share(mesh.make_mesh((4, 1, 1)), 8) == (int(not zero), 2)
assert mesh.share(mesh.make_mesh((2, 1, 2)), 8) == (int(not zero), 2)
assert mesh.share(mesh.make_mesh((1, 1, 4)), 8) == (0, 1)
mesh.leave(0)
"""


def test_hosts_that_simulated_slurm_starts_agree(tmp_path: Path) -> None:
    """Two real processes, joined by the variables that srun would set."""
    environment = SLURM | {"SLURM_STEP_NUM_NODES": "1", "JAX_COORDINATOR_PORT": str(free_port())}
    with started(
        [sys.executable, "-c", TALK, str(tmp_path)], 2, devices=4, logs=tmp_path / "logs", named=False,
        each=("SLURM_PROCID", "SLURM_LOCALID"), environment=environment,
    ) as running:  # fmt: skip
        codes = finished(running, tmp_path / "logs")
    assert codes == [0, 0], said(tmp_path / "logs")


STOP = """
import argparse, os, signal, sys, time
from rewardscale import cli, mesh
parser = argparse.ArgumentParser()
cli.add_host_flags(parser)
def command():
    assert mesh.hosts() == 2
    mesh.together()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(30)
    return 0
sys.exit(cli.on_hosts(parser.parse_args(), command))
"""


def test_sigterm_is_heard_once_hosts_have_come_together(tmp_path: Path) -> None:
    """jax's preemption service would keep it to itself."""
    with started([sys.executable, "-c", STOP], 2, devices=2, logs=tmp_path / "logs") as running:
        codes = finished(running, tmp_path / "logs")
    assert codes == [exits.INTERRUPTED, exits.INTERRUPTED], said(tmp_path / "logs")
