"""One run on one, two and four hosts: the same numbers, whoever dies and however many go on."""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rewardscale import mesh
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import reward
from rewardscale.training.checkpoint import Checkpoints
from rewardscale.training.step import make_step
from tests import slurm_cluster, small
from tests.training import running
from tests.training.hosts import REPO, command, finished, said, started, train_on
from tests.training.running import STEPS, assert_close, assert_same, case, metrics, train

SHAPE = (2, 2, 1)
CLOSE = ("loss", "margin", "gradient_norm", "parameter_norm", "reward_max")


def saved(directory: Path) -> Any:
    """The newest checkpoint, read by this one process onto one device."""
    step = make_step(small.MODEL, reward.Options(), running.one_device())
    checkpoints = Checkpoints(directory / "checkpoints", kept=1, seconds=1e9)
    try:
        return checkpoints.restore(step.abstract)
    finally:
        checkpoints.close()


def record(directory: Path) -> dict[str, Any]:
    """What of the run's record neither the clock nor an interruption decides."""
    found = json.loads((directory / "record.json").read_text())
    other = ("resumed_at", "restored_from")
    return {name: value for name, value in found.items() if "second" not in name and name not in other}


def assert_agrees(directory: Path, whole: Path) -> None:
    """To float32 rounding, as meshes do (test_sharding.py)."""
    ours, theirs = metrics(directory), metrics(whole)
    assert [r["step"] for r in ours] == list(range(STEPS))
    for one, other in zip(ours, theirs, strict=True):
        for name in CLOSE:
            np.testing.assert_allclose(one[name], other[name], rtol=2e-5, atol=2e-5, err_msg=name)
    assert_close(saved(directory)["params"], saved(whole)["params"], rtol=1e-3, atol=1e-4)


def assert_equals(directory: Path, whole: Path) -> None:
    """Bit for bit."""
    assert metrics(directory) == metrics(whole)
    assert_same(saved(directory), saved(whole))
    assert record(directory) == record(whole)


@pytest.fixture(scope="module")
def alone(pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten steps by one process with four devices."""
    directory = tmp_path_factory.mktemp("alone")
    devices = mesh.make_mesh(SHAPE, jax.devices()[:4])
    trained = train(*case(pairs_view, rows=8), directory, device_mesh=devices)
    (directory / "record.json").write_text(json.dumps(trained.record))
    return directory


def test_two_hosts_train_one_run(alone: Path, pairs_view: TokenisedView, tmp_path: Path) -> None:
    codes = train_on(2, pairs_view.directory, tmp_path, mesh=SHAPE)
    assert codes == [0, 0], said(tmp_path / "logs")
    assert_agrees(tmp_path, alone)
    assert record(tmp_path) == record(alone)


# One host or four, meshes whose tensor axis lies across hosts: several of those read the same rows.
ARRANGEMENTS = [(1, SHAPE), (4, SHAPE), (2, (1, 1, 4)), (4, (1, 2, 2))]


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "shape"), ARRANGEMENTS)
def test_any_number_of_hosts_trains_it(
    processes: int, shape: tuple[int, int, int], alone: Path, pairs_view: TokenisedView, tmp_path: Path
) -> None:
    codes = train_on(processes, pairs_view.directory, tmp_path, mesh=shape)
    assert codes == [0] * processes, said(tmp_path / "logs")
    assert_agrees(tmp_path, alone)
    assert record(tmp_path) == record(alone)


# Checkpoints at each block of two steps, so that what a dead host leaves lies in the middle.
OFTEN = {"steps_per_dispatch": 2, "checkpoint_seconds": 0.0, "checkpoints_kept": 2}


@pytest.fixture(scope="module", params=[2, 4])
def uninterrupted(
    request: pytest.FixtureRequest, pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory
) -> tuple[int, Path]:
    """The number of hosts, and the folder of their run."""
    directory = tmp_path_factory.mktemp(f"hosts{request.param}")
    codes = train_on(request.param, pairs_view.directory, directory, mesh=SHAPE, runtime=OFTEN)
    assert set(codes) == {0}, said(directory / "logs")
    return request.param, directory


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, -1])
def test_a_killed_host_ends_the_others_and_all_go_on(
    victim: int, uninterrupted: tuple[int, Path], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    """SIGKILL while a block is computed; the same command again gives the same run, bit for bit."""
    processes, whole = uninterrupted
    spec = {"mesh": SHAPE, "runtime": OFTEN}
    codes = train_on(
        processes,
        pairs_view.directory,
        tmp_path,
        **spec,
        process=victim % processes,
        step=7,
        signal="SIGKILL",
    )
    assert codes[victim] == -9 and 0 not in codes, said(tmp_path / "logs")
    assert not (tmp_path / "record.json").exists() and 0 < int(saved(tmp_path)["step"]) < STEPS
    codes = train_on(processes, pairs_view.directory, tmp_path, **spec)
    assert codes == [0] * processes, said(tmp_path / "logs")
    assert json.loads((tmp_path / "record.json").read_text())["resumed_at"] > 0
    assert_equals(tmp_path, whole)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(4, 2), (2, 1), (1, 4)])
def test_another_number_of_hosts_goes_on(
    before: int, after: int, alone: Path, pairs_view: TokenisedView, tmp_path: Path
) -> None:
    """A stop asked of one host stops all at one step."""
    spec = {"mesh": SHAPE, "runtime": OFTEN | {"checkpoint_seconds": 1e9}}
    asked = {"process": before - 1, "step": 3, "signal": "SIGTERM"}
    codes = train_on(before, pairs_view.directory, tmp_path, **spec, **asked)
    assert codes == [130] * before, said(tmp_path / "logs")
    stopped = int(saved(tmp_path)["step"])
    assert 4 <= stopped <= 8 and [r["step"] for r in metrics(tmp_path)] == list(range(stopped))
    codes = train_on(after, pairs_view.directory, tmp_path, **spec)
    assert codes == [0] * after, said(tmp_path / "logs")
    assert json.loads((tmp_path / "record.json").read_text())["resumed_at"] == stopped
    assert_agrees(tmp_path, alone)
    assert record(tmp_path) == record(alone)


@pytest.mark.slow
def test_tasks_of_a_real_slurm_step_train_it(alone: Path, pairs_view: TokenisedView, tmp_path: Path) -> None:
    """A cluster of one node, two tasks of a step on it, and no flags; a batch script is no step, whatever its tasks."""
    if reason := slurm_cluster.why_not():
        pytest.skip(reason)
    place, logs = tmp_path / "cluster", tmp_path / "logs"
    place.mkdir()
    step = ["srun", "--ntasks=2", "--cpus-per-task=1", *command(pairs_view.directory, tmp_path, mesh=SHAPE)]
    found = "import os; from rewardscale import mesh; print('found', mesh.cluster(os.environ))"
    script = f'{sys.executable} -c "{found}"'
    batch = [
        "sbatch",
        "--wait",
        "--ntasks=2",
        f"--output={tmp_path}/batch.txt",
        f"--chdir={REPO}",
        f"--wrap={script}",
    ]
    with slurm_cluster.cluster(place) as environment:
        for program in (step, batch):
            with started(program, 1, devices=2, logs=logs, environment=environment) as running:
                codes = finished(running, logs)
            assert codes == [0], said(logs)
    assert "found None" in (tmp_path / "batch.txt").read_text()
    assert_agrees(tmp_path, alone)
    assert record(tmp_path) == record(alone)
    assert (tmp_path / "model-info.txt").read_text() == (alone / "model-info.txt").read_text()
