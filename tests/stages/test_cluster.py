"""Stages on Ray: a real cluster of four nodes on this machine, whatever dies in it."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import rewardscale
from rewardscale.stages import Engine, StageError, Task, run, session
from tests.stages import tasks
from tests.stages.tasks import runs, tree, writing

ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'rewardscale[ray]'")

pytestmark = pytest.mark.slow  # starting four nodes takes 15 seconds, on a busy machine minutes

REPO = Path(__file__).parents[2]
STORE = 80 * 2**20


class Nodes:
    """A head without CPUs and three nodes of one logical CPU each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster()
        try:
            self.add(num_cpus=0, include_dashboard=False)
            self.nodes = [self.add(num_cpus=1) for _ in range(3)]
            self.cluster.wait_for_nodes()
        except BaseException:
            self.cluster.shutdown()
            raise
        self.engine = f"ray:{self.cluster.address}"

    def add(self, tries: int = 5, **options):
        """Ray gives a node's agents 15 seconds to start, in its code (ray#65983): a busy machine needs a few tries."""
        while True:
            try:
                return self.cluster.add_node(object_store_memory=STORE, **options)
            except Exception:
                tries -= 1
                if not tries:
                    raise

    def kill_where(self, worker: int) -> None:
        """Kills hard the node that the process `worker` belongs to, and that process."""
        parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
        node = next(n for n in self.nodes if n.all_processes["raylet"][0].process.pid == parent)
        self.nodes.remove(node)
        os.kill(
            worker, signal.SIGSTOP
        )  # a worker outlives its node's raylet by a moment, a machine's does not
        self.cluster.remove_node(node, allow_graceful=False)
        os.kill(worker, signal.SIGKILL)


@pytest.fixture(scope="module")
def ray_folder():
    """Where Ray keeps its sockets (hence a short path) and logs."""
    short = tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True)
    with short as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield folder


@pytest.fixture(scope="module")
def nodes(ray_folder):
    started = Nodes()  # dies with this process, however that ends
    try:
        with session(started.engine):
            yield started
    finally:
        started.cluster.shutdown()


def test_a_cluster_writes_the_same_bytes_as_this_process(tmp_path, nodes):
    here = run(tmp_path / "a", "one", writing(12))
    there = run(tmp_path / "b", "one", writing(12), engine=nodes.engine)
    assert [d.output for d in here] == [d.output for d in there]
    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    before = (tmp_path / "b" / "one" / "stage.json").stat().st_mtime_ns
    assert run(tmp_path / "b", "one", writing(12), engine=nodes.engine) == there
    assert (tmp_path / "b" / "one" / "stage.json").stat().st_mtime_ns == before


MINE = """
import os, sys
from pathlib import Path
import polars
import rewardscale
from rewardscale.stages import Task, run

def look(folder):
    names = ("JAX_PLATFORMS", "OMP_NUM_THREADS")
    return [rewardscale.__file__, polars.thread_pool_size(), *map(os.environ.get, names)]

if __name__ == "__main__":
    (done,) = run(Path(sys.argv[1]), "one", [Task("t", "mine:look", {})], engine=sys.argv[2])
    print(*done.counts, "jax" in sys.modules)
"""


def test_workers_of_a_cluster_get_this_package_sent_and_keep_off_accelerators(tmp_path, nodes):
    # From a folder of its own: beside the driver, workers find what the driver finds there.
    (tmp_path / "mine.py").write_text(MINE)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, "mine.py", str(tmp_path), nodes.engine]
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stderr
    package, *rest = ran.stdout.split()
    assert "_ray_pkg_" in package and Path(package) != Path(rewardscale.__file__)
    assert rest == ["1", "cpu", "1", "False"]


def test_a_node_killed_in_the_middle_costs_time_alone(tmp_path, nodes):
    log, folder = tmp_path / "log", tmp_path / "b" / "one"
    killed: list[int] = []

    def progress(done: int, of: int) -> None:
        seed, worker = map(int, log.read_text().splitlines()[-1].split()) if done else (0, 0)
        if done >= 3 and not killed and not (folder / f"unit-{seed:03d}").exists():
            nodes.kill_where(worker)
            killed.append(seed)

    run(tmp_path / "b", "one", writing(12, log=log, seconds=0.5), engine=nodes.engine, progress=progress)
    assert (
        runs(log) == sorted([*range(12), *killed]) and killed
    )  # what ran on that node ran again, and nothing else
    run(tmp_path / "a", "one", writing(12))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_killed_worker_of_a_cluster_costs_its_task_a_second_try(tmp_path, nodes):
    kill = f"{tasks.__name__}:kill_once"
    jobs = [*writing(2), Task("third", kill, {"seed": 9}, paths={"marker": str(tmp_path / "marker")})]
    run(tmp_path, "one", jobs, engine=nodes.engine)
    run(tmp_path, "two", jobs)
    assert (tmp_path / "marker").exists() and tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "ZeroDivisionError: seven by nought"),
        ("kill", "its worker or node died 4 times"),
    ],
)
def test_a_task_that_fails_on_a_cluster_is_named_and_the_others_stay(tmp_path, nodes, how, message):
    jobs = [*writing(3), Task("bad", f"{tasks.__name__}:fail", {"how": how})]
    with pytest.raises(StageError, match=rf"task 'bad' failed: (?s:.*){message}"):
        run(tmp_path, "one", jobs, engine=nodes.engine)
    kept = sorted(p.name for p in (tmp_path / "one").iterdir())
    assert kept == ["unit-000", "unit-001", "unit-002"]


def test_only_a_few_tasks_are_under_way_at_once(tmp_path, nodes, monkeypatch):
    waited = []
    wait = ray.wait
    monkeypatch.setattr(
        ray, "wait", lambda refs, **options: waited.append(len(refs)) or wait(refs, **options)
    )
    assert len(run(tmp_path, "one", writing(30), engine=nodes.engine)) == 30
    assert max(waited) <= 16


def test_another_address_than_the_connection_is_refused(tmp_path, nodes):
    with pytest.raises(StageError, match="connected to"):
        run(tmp_path, "one", writing(1), engine="ray:10.0.0.1:6379")
    with session("ray:auto") as engine:
        assert engine == Engine("ray", address="auto")
    assert ray.is_initialized()


OWN = """
import sys
from pathlib import Path
from rewardscale.stages import run
from tests.stages.tasks import writing
if __name__ == "__main__":
    folder, log = sys.argv[1:]
    run(Path(folder), "one", writing(200, log=Path(log), seconds=0.5), engine="ray")
"""


def alive(leader: int) -> dict[int, str]:
    """The living processes of the session that `leader` began, and their commands."""
    listed = subprocess.run(["ps", "-eo", "pid=,sess=,stat=,args="], capture_output=True, text=True).stdout
    rows = [line.split(maxsplit=3) for line in listed.splitlines()]
    return {int(row[0]): row[3] for row in rows if row[1] == str(leader) and not row[2].startswith("Z")}


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_cluster_of_our_own_ends_with_its_driver_however_that_ends(tmp_path, ray_folder, how):
    (tmp_path / "driver.py").write_text(OWN)
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    command = [sys.executable, tmp_path / "driver.py", tmp_path, tmp_path / "log"]
    process = subprocess.Popen(
        [*map(str, command)], env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        deadline = time.monotonic() + 240
        while not list((tmp_path / "one").glob("unit-*")):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.1)
        assert any("raylet" in line for line in alive(process.pid).values())
        process.send_signal(how)
        error = process.communicate(timeout=120)[1]
        assert how is signal.SIGKILL or "stage 'one' stopped" in error
        deadline = time.monotonic() + 180  # Ray's agents look for their cluster for a minute
        while alive(process.pid):
            assert time.monotonic() < deadline, alive(process.pid)
            time.sleep(0.2)
    finally:
        for pid in alive(process.pid):
            os.kill(pid, signal.SIGKILL)
