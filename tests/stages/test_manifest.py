"""The Kubernetes manifest of a build: YAML whose parts fit one another and the command."""

import shlex
from pathlib import Path

import pytest
import yaml

from rewardscale import build
from rewardscale.stages import Engine

REPO = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def manifest():
    documents = list(yaml.safe_load_all((REPO / "launch" / "ray" / "build.yaml").read_text()))
    return {document["kind"]: document for document in documents}


def test_the_command_is_one_that_the_build_understands(manifest):
    python, module, name, *arguments = shlex.split(manifest["RayJob"]["spec"]["entrypoint"])
    assert (python, module, name) == ("python", "-m", "rewardscale.build")
    options, overrides = build._parse(arguments)
    assert Engine.parse(options.engine) == Engine("ray", address="auto") and not overrides
    assert (REPO / "configs" / options.config).exists()


def test_all_pods_see_the_folder_that_is_written_and_run_one_image(manifest):
    spec = manifest["RayJob"]["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    options, _ = build._parse(shlex.split(manifest["RayJob"]["spec"]["entrypoint"])[3:])
    images = set()
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        (volume,) = [v for v in pod["volumes"] if "persistentVolumeClaim" in v]
        assert (
            volume["persistentVolumeClaim"]["claimName"]
            == manifest["PersistentVolumeClaim"]["metadata"]["name"]
        )
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == volume["name"]]
        assert Path(options.out).is_relative_to(mount["mountPath"])
        assert all(
            isinstance(value, str) for value in group["rayStartParams"].values()
        )  # as KubeRay wants them
        images.add(container["image"])
    assert len(images) == 1
    assert manifest["PersistentVolumeClaim"]["spec"]["accessModes"] == ["ReadWriteMany"]


def test_versions_agree_with_what_is_tested(manifest):
    constraints = (REPO / "constraints.txt").read_text().splitlines()
    (version,) = [line.split("==")[1].split()[0] for line in constraints if line.startswith("ray==")]
    assert manifest["RayJob"]["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"rayproject/ray:{version}-" in (REPO / "launch" / "ray" / "Dockerfile").read_text()
