"""JobSet manifests (jobset.x-k8s.io/v1alpha2): one a task of cells, with a pod for each host of its slice.

A pod that is evicted, preempted or loses its node is started again and goes on from its checkpoint. On one host that
is its Job's doing, and counts towards no limit; a crash does, `RETRIES` times. A slice of several hosts goes on with
all of them or none: any failure makes its JobSet start all anew, `RESTARTS` times. Exit code 2, bad input, ends both.

Fields: the JobSet API's reference, https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/; GKE's names of slices
and their hosts: https://cloud.google.com/kubernetes-engine/docs/concepts/plan-tpus.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rewardscale import exits
from rewardscale.config import ConfigError
from rewardscale.sweeps.executors import names

GROUP, VERSION, PLURAL = "jobset.x-k8s.io", "v1alpha2", "jobsets"
SWEEP, WORKDIR, RUN_ID, CELLS = (f"rewardscale/{key}" for key in ("sweep", "workdir", "run-id", "cells"))
QUEUE = "kueue.x-k8s.io/queue-name"

RETRIES = 3
RESTARTS = 20
GRACE_SECONDS = 120  # between SIGTERM and SIGKILL, for a checkpoint
KEPT_SECONDS = 7 * 24 * 3600  # a finished JobSet, for its logs
SECRET, SECRET_KEY = "wandb", "WANDB_API_KEY"

_SLICES = {
    "v4": "tpu-v4-podslice",
    "v5e": "tpu-v5-lite-podslice",
    "v5p": "tpu-v5p-slice",
    "v6e": "tpu-v6e-slice",
}
_FLAT = {"v5e", "v6e"}  # the others have three dimensions
_FLAT_TOPOLOGIES = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_QUANTITY = re.compile(r"\d+(\.\d+)?(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?")


@dataclasses.dataclass(frozen=True)
class Accelerator:
    """What a cell computes on.

    Attributes:
      resource: Kubernetes' name of a chip; empty for CPUs. chips: of each pod. hosts: pods of a cell.
      nodes: labels of nodes that have them.
    """

    resource: str = ""
    chips: int = 0
    hosts: int = 1
    nodes: Mapping[str, str] = dataclasses.field(default_factory=dict)


def tpu(spec: str) -> Accelerator:
    """A slice of GKE: "v5e:16x16", "v5p:4x4x4". Raises ConfigError for one that isn't offered."""
    kind, _, topology = spec.partition(":")
    dims = topology.split("x")
    if kind not in _SLICES or not all(d.isdecimal() and int(d) for d in dims):
        raise ConfigError(
            f"--tpu={spec} must be KIND:TOPOLOGY, as v5e:16x16 or v5p:4x4x4; kinds: {', '.join(_SLICES)}"
        )
    chips = math.prod(map(int, dims))
    if kind in _FLAT and topology not in _FLAT_TOPOLOGIES:
        raise ConfigError(f"--tpu={spec}: {kind} slices are {', '.join(_FLAT_TOPOLOGIES)}")
    if kind not in _FLAT and (len(dims) != 3 or chips % 4):
        raise ConfigError(
            f"--tpu={spec}: {kind} slices have three dimensions and 4 chips a host, as {kind}:2x2x4"
        )
    chips_per_host = chips if kind in _FLAT and chips <= 8 else 4
    nodes = {
        "cloud.google.com/gke-tpu-accelerator": _SLICES[kind],
        "cloud.google.com/gke-tpu-topology": topology,
    }
    return Accelerator("google.com/tpu", chips_per_host, chips // chips_per_host, nodes)


def gpus(spec: str) -> Accelerator:
    """GPUs of one node: "8", or of GKE's nodes of one kind "nvidia-h100-80gb:8". Raises ConfigError."""
    kind, _, count = spec.rpartition(":")
    if not count.isdecimal() or not int(count):
        raise ConfigError(f"--gpus={spec} must be a number, or KIND:NUMBER as nvidia-h100-80gb:8")
    return Accelerator(
        "nvidia.com/gpu", int(count), 1, {"cloud.google.com/gke-accelerator": kind} if kind else {}
    )


def resources(spec: str) -> dict[str, str]:
    """ "cpu=8,memory=32Gi" as a mapping. Raises ConfigError."""
    out = {}
    for part in filter(None, spec.split(",")):
        name, _, quantity = part.partition("=")
        if not name or not _QUANTITY.fullmatch(quantity):
            raise ConfigError(f"--resources={spec}: {part!r} must be NAME=QUANTITY, as in cpu=8,memory=32Gi")
        out[name] = quantity
    return out


@dataclasses.dataclass(frozen=True)
class Pod:
    """What all pods of a sweep are.

    Attributes:
      image: has `python -m rewardscale.launch`. claim: the PersistentVolumeClaim that is mounted at `mount`.
      requests: beside the accelerator's. key: whether wandb's key is taken from the Secret.
    """

    image: str
    claim: str
    mount: str
    accelerator: Accelerator = dataclasses.field(default_factory=Accelerator)
    requests: Mapping[str, str] = dataclasses.field(default_factory=dict)
    key: bool = False

    def spec(self, command: Sequence[str]) -> dict[str, Any]:
        """The pod's spec."""
        chips = self.accelerator
        limits = {chips.resource: str(chips.chips)} if chips.resource else {}
        environment: list[dict[str, Any]] = [{"name": "PYTHONUNBUFFERED", "value": "1"}]
        if self.key:
            key = {"secretKeyRef": {"name": SECRET, "key": SECRET_KEY}}
            environment.append({"name": SECRET_KEY, "valueFrom": key})
        container = {
            "name": "cell",
            "image": self.image,
            "command": list(command),
            "env": environment,
            "volumeMounts": [{"name": "shared", "mountPath": self.mount}],
            "resources": {"requests": {**self.requests, **limits}, **({"limits": limits} if limits else {})},
        }
        out: dict[str, Any] = {
            "restartPolicy": "Never",  # the Job starts a new pod, and a policy can see the exit code
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "containers": [container],
            "volumes": [{"name": "shared", "persistentVolumeClaim": {"claimName": self.claim}}],
        }
        if chips.nodes:
            out["nodeSelector"] = dict(chips.nodes)
        if chips.resource:
            out["tolerations"] = [{"key": chips.resource, "operator": "Exists", "effect": "NoSchedule"}]
        return out


def manifest(
    sweep: str, workdir: str, cells: Sequence[str], command: Sequence[str], pod: Pod, queue: str = ""
) -> dict[str, Any]:
    """The JobSet of a task: `command` with --cell=... for the run ids `cells`; its first attempt."""
    labels = labels_of(sweep, workdir, cells)
    spec: dict[str, Any] = {
        "ttlSecondsAfterFinished": KEPT_SECONDS,
        "replicatedJobs": [
            {
                "name": "cell",
                "replicas": 1,
                "template": {
                    "spec": {
                        **_job(pod.accelerator.hosts),
                        "template": {
                            "metadata": {"labels": labels},
                            "spec": pod.spec([*command, f"--cell={','.join(cells)}"]),
                        },
                    }
                },
            }
        ],
    }
    annotations = {CELLS: ",".join(cells)}
    if pod.accelerator.hosts > 1:
        spec["failurePolicy"] = {
            "maxRestarts": RESTARTS,
            "rules": [
                {"name": "badInput", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}
            ],
        }
        # All hosts in one slice, which is one node pool.
        annotations["alpha.jobset.sigs.k8s.io/exclusive-topology"] = "cloud.google.com/gke-nodepool"
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "JobSet",
        "metadata": {
            "name": names.attempt(names.task_name(sweep, workdir, cells), 0),
            "labels": {**labels, **({QUEUE: queue} if queue else {})},
            "annotations": annotations,
        },
        "spec": spec,
    }


def _job(hosts: int) -> dict[str, Any]:
    rules: list[dict[str, Any]] = [
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "cell", "operator": "In", "values": [exits.UNUSABLE]},
        }
    ]
    if hosts == 1:
        rules.insert(
            0,
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        )
    return {
        "completions": hosts,
        "parallelism": hosts,
        "completionMode": "Indexed",
        "backoffLimit": RETRIES if hosts == 1 else 0,
        "podFailurePolicy": {"rules": rules},
    }


def labels_of(sweep: str, workdir: str, cells: Sequence[str] = ()) -> dict[str, str]:
    """Labels of a sweep's objects; of one cell's too."""
    out = {SWEEP: names.sweep_label(sweep), WORKDIR: names.folder_label(workdir)}
    return out | ({RUN_ID: cells[0]} if len(cells) == 1 else {})
