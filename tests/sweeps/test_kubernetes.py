"""Cells as JobSets: the manifests by the API's own models, and the official client against a stub of an API server."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from rewardscale import launch
from rewardscale.config import ConfigError
from rewardscale.sweeps.executors import jobset, names
from tests.sweeps import jobset_rules
from tests.sweeps.kubernetes_stub import StubCluster, stub_cluster, write_kubeconfig
from tests.sweeps.launching import ROOT, TINY, environment, mark_done

FOLDER = "/shared/runs/x"
CELLS = ("0123456789abcdef0123", "12e34000000000000000")


@pytest.fixture(scope="module")
def sweep(tmp_path_factory) -> tuple[str, ...]:
    """A sweep of four cells whose data are there, and the flags of a launch."""
    volume = tmp_path_factory.mktemp("volume")
    here = (*TINY, f"--workdir={volume / 'w'}")
    assert launch.main([*here, "--dry_run"]) == 0
    return (*here, "--executor=kubernetes", "--image=registry/image:1", f"--volume=shared:{volume}")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "config"))
    with stub_cluster(tmp_path / "config") as stub:
        yield stub


def run(capsys, *arguments: str) -> tuple[int, str, str]:
    code = launch.main(list(arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def manifest(chips: jobset.Accelerator | None = None, cells=CELLS[:1], **more) -> dict:
    pod = jobset.Pod("image", "shared", "/shared", chips or jobset.Accelerator(), **more)
    return jobset.manifest("sweep", FOLDER, cells, ["python"], pod)


def pod_of(made: dict) -> dict:
    return made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("spec", "hosts", "chips", "label"),
    [
        ("v5e:1x1", 1, 1, "tpu-v5-lite-podslice"),
        ("v5e:2x4", 1, 8, "tpu-v5-lite-podslice"),
        ("v5e:16x16", 64, 4, "tpu-v5-lite-podslice"),
        ("v6e:4x4", 4, 4, "tpu-v6e-slice"),
        ("v5p:2x2x1", 1, 4, "tpu-v5p-slice"),
        ("v4:4x4x4", 16, 4, "tpu-v4-podslice"),
    ],
)
def test_a_slice_has_a_pod_for_each_host(spec, hosts, chips, label):
    made = manifest(jobset.tpu(spec))
    jobset_rules.check(made)
    job = made["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert job["completions"] == job["parallelism"] == hosts
    assert pod_of(made)["containers"][0]["resources"]["limits"] == {"google.com/tpu": str(chips)}
    assert pod_of(made)["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": label,
        "cloud.google.com/gke-tpu-topology": spec.partition(":")[2],
    }


def test_manifests_are_what_the_api_takes():
    long = "Sweep_with.a-very-long-name" * 5
    pod = jobset.Pod("i", "c", "/m", jobset.gpus("nvidia-h100-80gb:8"), {"cpu": "8", "memory": "32Gi"}, True)
    for made in (
        manifest(),
        manifest(cells=CELLS),
        manifest(jobset.gpus("2")),
        jobset.manifest(long, FOLDER, CELLS[:1], ["python"], pod, queue="user-queue"),
    ):
        jobset_rules.check(made)


def test_the_rules_see_what_a_cluster_would_refuse():
    """The checker can fail."""

    def broken(change) -> dict:
        out = copy.deepcopy(manifest(jobset.tpu("v5e:4x4")))
        change(out)
        return out

    wrong = [
        lambda m: m["spec"].update(replicas=1),
        lambda m: pod_of(m)["containers"][0].update(comand=["x"]),
        lambda m: pod_of(m)["containers"][0].pop("name"),
        lambda m: pod_of(m).update(terminationGracePeriodSeconds="120"),
        lambda m: m["metadata"].update(name="x" * 60),
        lambda m: m["metadata"]["labels"].update(a="b/c"),
        lambda m: pod_of(m)["containers"][0]["resources"]["limits"].update({"google.com/tpu": "four"}),
        lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Fail"),
        lambda m: pod_of(m).update(volumes=[]),
    ]
    for change in wrong:
        with pytest.raises((AssertionError, ValueError, KeyError)):
            jobset_rules.check(broken(change))


def test_preemption_restarts_a_pod_or_a_slice_and_bad_input_ends_both():
    alone, several = (manifest(jobset.tpu(spec)) for spec in ("v5e:2x4", "v5e:4x4"))
    ignore, fail = (
        alone["spec"]["replicatedJobs"][0]["template"]["spec"]["podFailurePolicy"]["rules"][i] for i in (0, 1)
    )
    assert ignore["action"] == "Ignore" and ignore["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert fail["action"] == "FailJob" and fail["onExitCodes"]["values"] == [2]
    assert "failurePolicy" not in alone["spec"]
    assert several["spec"]["replicatedJobs"][0]["template"]["spec"]["backoffLimit"] == 0
    assert several["spec"]["failurePolicy"]["maxRestarts"] == jobset.RESTARTS
    assert pod_of(alone)["terminationGracePeriodSeconds"] >= 60


@pytest.mark.parametrize("spec", ["v5e", "v5e:3x3", "v5p:4x4", "v5p:1x1x2", "v9:2x2", "v5e:0x4", "v5e:4x4x4"])
def test_a_slice_that_is_not_offered_is_refused(spec):
    with pytest.raises(ConfigError, match="--tpu="):
        jobset.tpu(spec)


def test_a_dry_run_prints_the_manifests_and_asks_no_cluster(capsys, sweep, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    code, out, _ = run(capsys, *sweep, "--queue=q", "--gpus=1", "--cells_per_task=3", "--dry_run")
    assert code == 0 and "4 cells in 2 tasks would be submitted" in out
    made = list(yaml.safe_load_all(out[out.index("apiVersion") :]))
    for one in made:
        jobset_rules.check(one)
        assert one["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "q"
        assert "WANDB_API_KEY" not in str(one)
    cells = [cell for one in made for cell in one["metadata"]["annotations"][jobset.CELLS].split(",")]
    assert len(set(cells)) == 4
    command = pod_of(made[0])["containers"][0]["command"]
    assert command[:3] == ["python", "-m", "rewardscale.launch"]
    assert command[-1] == f"--cell={','.join(cells[:3])}"
    options, _ = launch._parse(command[3:])  # what a pod is told is a command of launch
    assert options.cell == cells[:3] and str(options.workdir) in sweep[len(TINY)]


def test_the_key_is_in_no_manifest(capsys, sweep, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret-key")
    code, out, _ = run(capsys, *sweep, "--wandb=online", "--dry_run")
    assert code == 0 and "secret-key" not in out
    made = next(yaml.safe_load_all(out[out.index("apiVersion") :]))
    jobset_rules.check(made)
    variables = {v["name"]: v for v in pod_of(made)["containers"][0]["env"]}
    assert variables["WANDB_API_KEY"]["valueFrom"] == {
        "secretKeyRef": {"name": "wandb", "key": "WANDB_API_KEY"}
    }


def test_cells_are_submitted_once(capsys, sweep, cluster: StubCluster):
    cluster.page = 3
    code, out, error = run(capsys, *sweep)
    assert code == 0, error
    assert "4 cells in 4 tasks: 4 JobSets in namespace science" in out and len(cluster.jobsets) == 4
    code, out, _ = run(capsys, *sweep)
    assert code == 0 and "4 cells are in a job already: 4 pending" in out and len(cluster.jobsets) == 4
    code, out, _ = run(capsys, *sweep, "--status")
    assert code == 0 and out == "4 cells: 4 pending\n"


def test_what_failed_or_vanished_is_submitted_again_and_what_is_done_is_not(
    capsys, sweep, cluster: StubCluster
):
    assert run(capsys, *sweep)[0] == 0
    failed, gone, suspended, running = cluster.names()
    cluster.finish(failed, "Failed")
    del cluster.jobsets["science", gone]
    cluster.jobsets["science", suspended]["spec"]["suspend"] = True
    cluster.jobsets["science", running]["status"] = {"replicatedJobsStatus": [{"name": "cell", "ready": 1}]}
    code, out, _ = run(capsys, *sweep, "--status")
    assert code == 0 and "1 running, 1 queued, 2 not started" in out
    code, out, _ = run(capsys, *sweep)
    assert code == 0 and "2 cells are in a job already: 1 queued, 1 running" in out and "2 JobSets" in out
    task, _ = names.task_of(failed)
    assert cluster.names()[-2:] == [f"{task}-1", gone]

    workdir = Path(next(a for a in sweep if a.startswith("--workdir=")).partition("=")[2])
    done = workdir / "runs" / cluster.jobsets["science", gone]["metadata"]["labels"][jobset.RUN_ID]
    cluster.jobsets.clear()
    try:
        mark_done(done)
        code, out, _ = run(capsys, *sweep)
        assert code == 0 and "3 JobSets" in out and gone not in cluster.names()
    finally:
        (done / "DONE").unlink()


@pytest.mark.slow
def test_what_a_pod_is_told_makes_the_cells(capsys, sweep, cluster: StubCluster):
    """The container's command as a process here, where the volume has the same path; then the stub says it is over."""
    assert run(capsys, *sweep, "--config.runtime.workers=1", "--cells_per_task=4")[0] == 0
    (name,) = cluster.names()
    command = pod_of(cluster.jobsets["science", name])["containers"][0]["command"]
    subprocess.run([sys.executable, *command[1:]], cwd=ROOT, env=environment(), check=True, timeout=240)
    cluster.finish(name, "Completed")
    code, out, _ = run(capsys, *sweep, "--config.runtime.workers=1", "--status")
    assert code == 0 and out == "4 cells: 4 done\n"
    code, out, error = run(capsys, *sweep, "--config.runtime.workers=1", "--collect")
    assert code == 0, error
    code, out, _ = run(capsys, *sweep, "--config.runtime.workers=1")  # nothing is left to submit
    assert code == 0 and len(cluster.jobsets) == 1


def test_two_launchers_at_once_make_one_of_each(sweep, capsys, cluster: StubCluster, monkeypatch):
    """The second one's list is older than the first one's JobSets."""
    assert run(capsys, *sweep)[0] == 0
    monkeypatch.setattr(cluster, "_list", lambda *_: (200, {"metadata": {}, "items": []}))
    code, out, error = run(capsys, *sweep)
    assert code == 0 and "0 JobSets" in out and len(cluster.jobsets) == 4, error


def test_cancel_ends_this_folders_and_no_others(capsys, sweep, cluster: StubCluster):
    assert run(capsys, *sweep)[0] == 0
    other = manifest()
    cluster.jobsets["science", other["metadata"]["name"]] = other
    cluster.finish(cluster.names()[0], "Completed")
    code, out, _ = run(capsys, *sweep, "--cancel")
    assert code == 0 and out.startswith("3 cells were in jobs")
    marked = [b["metadata"]["name"] for b in cluster.jobsets.values() if "deletionTimestamp" in b["metadata"]]
    assert marked == cluster.names()[1:4]
    code, out, _ = run(capsys, *sweep)  # they may still be saving: not doubled
    assert code == 0 and "3 cells are in a job already: 3 ending" in out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--image=", "needs --image"),
        ("--volume=shared", "needs --volume=CLAIM:/PATH"),
        ("--volume=shared:/elsewhere", "is not in /elsewhere, which is all that containers see"),
        ("--tpu=v5e:5x5", "v5e slices are 1x1"),
        ("--gpus=many", "--gpus=many must be a number"),
        ("--resources=cpu", "must be NAME=QUANTITY"),
    ],
)
def test_flags_that_cannot_be_are_one_error(capsys, sweep, change, message):
    code, _, error = run(capsys, *sweep, "--dry_run", change)
    assert code == 2 and message in error and error.count("error: ") == 1


def test_its_flags_are_refused_elsewhere(capsys):
    with pytest.raises(SystemExit) as stop:
        launch.main([*TINY, "--tpu=v5e:2x4"])
    assert stop.value.code == 2 and "--tpu is of --executor=kubernetes" in capsys.readouterr().err


def test_without_cluster_client_or_jobsets_the_mend_is_named(capsys, sweep, cluster, tmp_path, monkeypatch):
    cluster.installed = False
    code, _, error = run(capsys, *sweep)
    assert code == 2 and "the cluster has no JobSets" in error
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "unreachable"))
    write_kubeconfig(tmp_path / "unreachable", port=9)
    code, _, error = run(capsys, *sweep)
    assert code == 2 and "the cluster does not answer" in error
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    code, _, error = run(capsys, *sweep)
    assert code == 2 and "no Kubernetes cluster is set up here" in error
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    code, _, error = run(capsys, *sweep)
    assert code == 2 and "make install EXTRAS=kubernetes" in error


def test_what_the_server_says_is_shown(capsys, sweep, cluster, monkeypatch):
    answer = {"kind": "Status", "code": 403, "reason": "Forbidden", "message": "jobsets is forbidden"}
    monkeypatch.setattr(cluster, "_create", lambda *_: (403, answer))
    code, _, error = run(capsys, *sweep)
    assert code == 2 and "the cluster refused: jobsets is forbidden" in error
