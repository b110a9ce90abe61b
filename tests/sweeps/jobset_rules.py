"""What a cluster asks of a JobSet, held against a manifest without a cluster.

The fields and their types are the API's own: models that the Kubeflow project generates from JobSet's and Kubernetes's
published OpenAPI (package kubeflow_trainer_api, Apache-2.0). They know no field that the API doesn't, so what does not
come back out of them unchanged is no field of it. Values that OpenAPI leaves open are asked after here, each with its
source.
"""

import copy
import re
from typing import Any

from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from kubernetes.utils.quantity import parse_quantity

# RFC 1035 labels, and values and names of labels: kubernetes.io/docs/concepts/overview/working-with-objects/
DNS_LABEL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/
RULE_NAME = re.compile(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?")
JOBSET_ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"}
# kubernetes.io/docs/concepts/workloads/controllers/job/: a Job's failure reasons, and actions of a pod failure policy
JOB_REASONS = {"BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy", "FailedIndexes"}
JOB_ACTIONS = {"FailJob", "FailIndex", "Ignore", "Count"}


def check(manifest: dict[str, Any]) -> None:
    """Fails with what a cluster would refuse."""
    assert (manifest["apiVersion"], manifest["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    bare = copy.deepcopy(manifest)
    for job in bare["spec"]["replicatedJobs"]:
        for container in job["template"]["spec"]["template"]["spec"]["containers"]:
            _resources(container.pop("resources"))
    read = JobsetV1alpha2JobSet.model_validate(bare, strict=True)
    assert read.model_dump(by_alias=True, exclude_unset=True) == bare, "a field that the API does not have"
    _metadata(manifest["metadata"])
    for rule in manifest["spec"].get("failurePolicy", {}).get("rules", []):
        assert RULE_NAME.fullmatch(rule["name"]) and rule["action"] in JOBSET_ACTIONS
        assert set(rule["onJobFailureReasons"]) <= JOB_REASONS
    for job in manifest["spec"]["replicatedJobs"]:
        _job(manifest["metadata"]["name"], job)


def _resources(found: dict[str, Any]) -> None:
    assert found.keys() <= {"requests", "limits"}
    for amounts in found.values():
        for name, amount in amounts.items():
            assert LABEL_NAME.fullmatch(name) and parse_quantity(amount) > 0
    for name, amount in found.get("limits", {}).items():  # extended resources cannot be overcommitted
        assert found["requests"][name] == amount


def _metadata(found: dict[str, Any]) -> None:
    for name, value in found.get("labels", {}).items():
        assert LABEL_NAME.fullmatch(name) and LABEL_VALUE.fullmatch(value), (name, value)
    for name, value in found.get("annotations", {}).items():
        assert LABEL_NAME.fullmatch(name) and isinstance(value, str)


def _job(name: str, job: dict[str, Any]) -> None:
    spec = job["template"]["spec"]
    _metadata(spec["template"]["metadata"])
    # JobSet refuses names whose pods' would not be labels: <set>-<job>-<job index>-<pod index>-<5 characters>
    assert DNS_LABEL.fullmatch(f"{name}-{job['name']}-{job['replicas'] - 1}-{spec['completions'] - 1}-abcde")
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never", "asked for by podFailurePolicy"
    for rule in spec["podFailurePolicy"]["rules"]:
        assert rule["action"] in JOB_ACTIONS
        assert ("onExitCodes" in rule) != ("onPodConditions" in rule)
        codes = rule.get("onExitCodes", {"containerName": pod["containers"][0]["name"], "values": [1]})
        assert codes["containerName"] in {c["name"] for c in pod["containers"]}
        assert codes["values"] == sorted(set(codes["values"])) and 0 not in codes["values"]
    volumes = {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
