"""docs/pods.md: its blocks run in a real bash whose programs only note what they are told; then each is asked after."""

import itertools
import os
import re
import shutil
import subprocess
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from kubeflow_trainer_api.models.io_k8s_api_core_v1_persistent_volume_claim_spec import (
    IoK8sApiCoreV1PersistentVolumeClaimSpec,
)

from rewardscale import launch
from rewardscale.config import SweepConfig
from rewardscale.config.build import BuildConfig
from rewardscale.config.curation import CurationConfig
from rewardscale.sweeps import configfile
from tests.sweeps import jobset_rules

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "pods.md").read_text()
PROGRAMS = ("python", "make", "gcloud", "kubectl", "docker", "sudo", "tail")
KINDS = {"launch": SweepConfig, "plan": SweepConfig, "curate": CurationConfig, "build": BuildConfig}
NOTE = '#!/bin/bash\n{ printf "%s\\0" "${0##*/}" "$@"; echo; } >> "$CALLS"\n'


@pytest.fixture(scope="module")
def calls(tmp_path_factory) -> list[list[str]]:
    """What the page's blocks call, in order, their variables and loops expanded."""
    place = tmp_path_factory.mktemp("programs")
    for name in PROGRAMS:
        (place / name).write_text(NOTE)
        (place / name).chmod(0o755)
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, flags=re.DOTALL)
    script = "set -eu\n" + "".join(blocks).replace("PRICE", "2.5")
    environment = {"PATH": str(place), "CALLS": str(place / "calls.txt")}
    done = subprocess.run(
        [shutil.which("bash") or "/bin/bash"], input=script, env=environment, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [line.split("\0")[:-1] for line in (place / "calls.txt").read_text().splitlines()]


def of(calls: list[list[str]], *beginning: str) -> list[list[str]]:
    found = [call[len(beginning) :] for call in calls if call[: len(beginning)] == list(beginning)]
    assert found
    return found


def test_every_command_of_ours_is_understood_by_its_own_parser(calls) -> None:
    """Flags, and overrides of the config file that is named."""
    steps = set()
    for module, *flags in of(calls, "python", "-m"):
        name = module.removeprefix("rewardscale.")
        options, overrides = import_module(module)._parse(flags)
        spec = getattr(options, "sweep", "") or options.config
        if spec:
            configfile.load(spec, overrides, kind=KINDS[name])
        if name == "launch":
            switches = ("dry_run", "without_data", "status", "cancel", "collect")
            steps.add((*(s for s in switches if getattr(options, s)), options.executor))
    assert {s[0] for s in steps} == {"dry_run", "status", "cancel", "collect", "local", "kubernetes", "slurm"}


def test_dry_runs_that_need_no_data_print_what_the_page_says(calls, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    priced = [flags for flags in of(calls, "python", "-m", "rewardscale.launch") if "--without_data" in flags]
    assert len(priced) == 2
    for flags, chip_hours in zip(priced, ("64,109", "12,637"), strict=True):
        assert launch.main(flags) == 0
        assert f"{chip_hours} chip hours x 2.5" in capsys.readouterr().out


def test_the_smoke_sweep_s_dry_run_prints_manifests_that_the_api_takes(
    calls, capsys, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nonexistent")
    (flags,) = [
        f
        for f in of(calls, "python", "-m", "rewardscale.launch")
        if "--config=sweep.py:smoke" in f and "--dry_run" in f
    ]
    assert launch.main([flag.replace("/shared", str(tmp_path)) for flag in flags]) == 0
    out = capsys.readouterr().out
    assert "32 cells in 4 tasks would be submitted" in out
    made = list(yaml.safe_load_all(out[out.index("apiVersion") :]))
    for one in made:
        jobset_rules.check(one)
        job = one["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert job["completions"] == 16  # a slice v5e:8x8, as the node pools have it
    assert any("--num-nodes=0" in c and "--max-nodes=16" in c and "--tpu-topology=8x8" in c for c in calls)


def test_the_figures_are_those_of_the_pages_behind_them() -> None:
    """Chip hours, days, filled and GiB of the table and the text."""
    rows = [line.strip("| ").split(" | ") for line in PAGE.splitlines() if re.match(r"\| (v5|8 x)", line)]
    files = {
        "v5e-256 as four v5e:8x8": ("v5e-256", 0),
        "v5p-128, 64 chips": ("v5p-128", 0),
        "v5p-128 as four v5p:2x2x4": ("v5p-128", 1),
        "8 x H100": ("8xh100", 0),
    }
    assert [row[0] for row in rows] == list(files)
    for name, at_once, filled, memory, _, chip_hours, days in rows:
        file, place = files[name]
        page = (ROOT / "docs" / "pods" / f"{file}.txt").read_text().split("$ python")[place + 1]
        assert f"hours = {chip_hours} chip hours\n" in page and f", {days} days\n" in page
        assert f"; {at_once} at once" in page
        gib = dict(re.findall(r"^ *(qwen3\S+) .* (?:" + filled + r") +([\d.]+)$", page, flags=re.MULTILINE))
        assert memory.split(",")[0] == f"{gib['qwen3-0.6b']} to {gib['qwen3-8b']}"
    second = (ROOT / "docs" / "pods" / "v5e-256.txt").read_text().split("$ python")[2]
    assert "100 cells on v5e:4x4" in second and "12,431 chip hours" in second and "12,431 chip hours" in PAGE


def test_files_that_are_named_are_there(calls) -> None:
    for call in calls:
        for flag, value in itertools.pairwise(call):
            if flag == "-f" and (program := call[0]) in ("kubectl", "docker") and "logs" not in call:
                assert "://" in value or (ROOT / value).is_file(), (program, value)


def test_queue_and_volume_are_what_pods_ask_for() -> None:
    """Names that must meet; resources that a queue does not cover are never admitted."""
    flavor, queue, local = yaml.safe_load_all((ROOT / "launch" / "kubernetes" / "queue.yaml").read_text())
    kinds = [one["kind"] for one in (flavor, queue, local)]
    assert kinds == ["ResourceFlavor", "ClusterQueue", "LocalQueue"]
    (group,) = queue["spec"]["resourceGroups"]
    (used,) = group["flavors"]
    assert used["name"] == flavor["metadata"]["name"]
    assert local["spec"]["clusterQueue"] == queue["metadata"]["name"]
    covered = {r["name"] for r in used["resources"]}
    assert covered == set(group["coveredResources"]) == {"cpu", "memory", "google.com/tpu", "nvidia.com/gpu"}
    assert f"--queue={local['metadata']['name']}" in PAGE
    volume = yaml.safe_load((ROOT / "launch" / "kubernetes" / "volume.yaml").read_text())
    spec = {key: value for key, value in volume["spec"].items() if key != "resources"}
    read = IoK8sApiCoreV1PersistentVolumeClaimSpec.model_validate(spec, strict=True)
    assert read.model_dump(by_alias=True, exclude_unset=True) == spec
    assert volume["kind"] == "PersistentVolumeClaim" and f"--volume={volume['metadata']['name']}:/" in PAGE


def named(word: str) -> str:
    """With names that could be in place of the page's capitals."""
    for capitals, name in (
        ("PROJECT", "project-1"),
        ("ZONE", "us-west4-a"),
        ("REGION", "us-west4"),
        ("BUCKET", "b-1"),
    ):
        word = word.replace(capitals, name)
    return word


def misread(command: list[str], words: tuple[str, ...], environment: dict[str, str]) -> str:
    """What a program says of flags that it doesn't know; empty if it got as far as its server."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    return done.stderr if any(word in done.stderr for word in words) else ""


@pytest.mark.parametrize("program", ["kubectl", "docker"])
def test_kubectl_and_docker_understand_their_commands(calls, program: str, tmp_path: Path) -> None:
    """By the real programs, which find no cluster and no daemon."""
    if not (path := shutil.which(program)):
        pytest.skip(f"{program} is not installed")
    nowhere = {"KUBECONFIG": str(tmp_path / "none"), "DOCKER_HOST": f"unix://{tmp_path}/none"}
    server = ["--server=http://127.0.0.1:9"] if program == "kubectl" else []
    words = ("unknown flag", "unknown command", "unknown shorthand", "is not a docker command", "Usage:")
    for call in of(calls, program):
        local = ["launch/kubernetes/queue.yaml" if "://" in word else named(word) for word in call]
        assert not misread([path, *local, *server], words, nowhere), call
    assert misread([path, *local, "--no-such-flag"], words, nowhere)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="the Google Cloud CLI is not installed")
def test_gcloud_understands_its_commands(calls, tmp_path: Path) -> None:
    """It parses before it looks for an account, of which there is none here. A minute."""
    alone = {
        "CLOUDSDK_CONFIG": str(tmp_path),
        "CLOUDSDK_CORE_PROJECT": "p",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
    }
    words = ("unrecognized", "Invalid choice", "argument --", "argument ")
    for call in of(calls, "gcloud"):
        assert not misread(["gcloud", *map(named, call)], words, alone), call
    assert misread(["gcloud", *map(named, call), "--no-such-flag"], words, alone)
