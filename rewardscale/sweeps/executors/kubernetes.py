"""The Kubernetes executor: a JobSet a task of cells, queued by Kueue if there is a queue.

The cluster keeps no state that is needed: a pod takes its cells' locks and leaves them done in the working folder, on a
volume that pods and whoever launches mount under one path. Labels say which cells a JobSet has (jobset.py), so that the
next launch finds them in the cluster.
"""

import argparse
import contextlib
import functools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from rewardscale.config import ConfigError
from rewardscale.sweeps.executors import jobset, names
from rewardscale.sweeps.executors.submission import Submission, Tasks, in_image

_SLOW = (10.0, 60.0)  # seconds to connect and to answer
_PAGE = 500


def add_flags(parser: argparse.ArgumentParser) -> list[str]:
    """Adds --image, --volume, --namespace, --queue, --tpu, --gpus and --resources."""
    add = functools.partial(parser.add_argument, default="")
    add("--image", help="of Kubernetes: the image of the pods (launch/docker/)")
    add(
        "--volume", metavar="CLAIM:/PATH", help="of Kubernetes: a PersistentVolumeClaim and where to mount it"
    )
    add("--namespace", help="of Kubernetes (default: that of kubectl's context, or 'default')")
    add("--queue", help="of Kubernetes: a LocalQueue of Kueue")
    add("--tpu", metavar="KIND:TOPOLOGY", help="of Kubernetes: a slice of GKE a cell, as v5e:2x4")
    add("--gpus", metavar="[KIND:]N", help="of Kubernetes: GPUs of one node a cell, as nvidia-h100-80gb:8")
    add("--resources", metavar="NAME=N,...", help="of Kubernetes: requests of a pod, as cpu=8,memory=32Gi")
    return ["image", "volume", "namespace", "queue", "tpu", "gpus", "resources"]


def pod(options: argparse.Namespace) -> jobset.Pod:
    """What flags say of the pods. Raises ConfigError for what is missing or cannot be."""
    if not options.image:
        raise ConfigError("--executor=kubernetes needs --image=IMAGE; launch/docker/ has files to build one")
    claim, _, mount = options.volume.partition(":")
    if not claim or not mount.startswith("/"):
        raise ConfigError(
            "--executor=kubernetes needs --volume=CLAIM:/PATH, a PersistentVolumeClaim that pods share and its path"
        )
    if options.tpu and options.gpus:
        raise ConfigError("--tpu and --gpus: a cell runs on one of them")
    chips = jobset.Accelerator()
    if options.tpu:
        chips = jobset.tpu(options.tpu)
    elif options.gpus:
        chips = jobset.gpus(options.gpus)
    requests = jobset.resources(options.resources)
    return jobset.Pod(options.image, claim, mount, chips, requests, key=options.wandb == "online")


def submission(
    name: str,
    tasks: Tasks,
    command: Sequence[str],
    workdir: Path,
    options: argparse.Namespace,
) -> Submission:
    """See submission.Cluster. A pod that is stopped is started again whatever its exit code."""
    made = pod(options)
    line = in_image(command, made.mount)
    folder = str(Path(workdir).resolve())
    manifests = [jobset.manifest(name, folder, cells, line, made, options.queue) for cells in tasks]
    where = f"to namespace {options.namespace}" if options.namespace else "to the context's namespace"
    shown = yaml.dump_all(manifests, Dumper=_Dumper, sort_keys=False, width=1000)
    return Submission(
        tasks, f"{where}:\n{shown}", functools.partial(submit, manifests, workdir, options.namespace)
    )


class _Dumper(yaml.SafeDumper):
    """Quotes what begins with a digit: to other readers of YAML some run ids (12e34) are numbers."""


_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style='"' if text[:1].isdigit() else None
    ),
)
_Dumper.ignore_aliases = lambda self, data: True  # labels stand twice, written out


def submit(manifests: Sequence[dict[str, Any]], workdir: Path, namespace: str = "") -> str:
    """Creates the JobSets, but for tasks that are in the cluster already; says how many. Raises ConfigError."""
    api, namespace = _api(namespace)
    attempts: dict[str, int] = {}
    live = set()
    for found in _list(api, namespace, workdir):
        task, number = names.task_of(found["metadata"]["name"])
        attempts[task] = max(number, attempts.get(task, -1))
        if _state(found):
            live.add(task)
    created = 0
    for made in manifests:
        task, _ = names.task_of(made["metadata"]["name"])
        if task in live:
            continue
        name = names.attempt(task, attempts.get(task, -1) + 1)
        body = {**made, "metadata": {**made["metadata"], "name": name}}
        created += _create(api, namespace, body)
    return f"{created} JobSets in namespace {namespace}; `kubectl get jobsets -n {namespace}` lists them"


def _create(api: Any, namespace: str, body: dict[str, Any]) -> bool:
    """False if another launcher has just made it."""
    from kubernetes.client.exceptions import ApiException

    with _answers():
        try:
            api.create_namespaced_custom_object(
                jobset.GROUP, jobset.VERSION, namespace, jobset.PLURAL, body, _request_timeout=_SLOW
            )
        except ApiException as error:
            if error.status == 409 and _reason(error) == "AlreadyExists":
                return False
            raise
    return True


def queued(workdir: Path, options: argparse.Namespace) -> dict[str, str]:
    """Run id -> "queued", "pending", "running" or "ending" of the cells in JobSets that have not finished."""
    api, namespace = _api(options.namespace)
    out: dict[str, str] = {}
    for found in _list(api, namespace, workdir):
        if state := _state(found):
            out |= dict.fromkeys(_cells(found), state)
    return out


def cancel(workdir: Path, options: argparse.Namespace) -> int:
    """Deletes the JobSets of this working folder that have not finished; how many cells they had.

    Their pods get SIGTERM, and time to save.
    """
    api, namespace = _api(options.namespace)
    ended = 0
    for found in _list(api, namespace, workdir):
        if _state(found) in (None, "ending"):
            continue
        with _answers(gone=True):
            api.delete_namespaced_custom_object(
                jobset.GROUP,
                jobset.VERSION,
                namespace,
                jobset.PLURAL,
                found["metadata"]["name"],
                propagation_policy="Foreground",  # it stays until its pods have ended
                _request_timeout=_SLOW,
            )
        ended += len(_cells(found))
    return ended


def _cells(found: dict[str, Any]) -> list[str]:
    return found["metadata"].get("annotations", {}).get(jobset.CELLS, "").split(",")


def _state(found: dict[str, Any]) -> str | None:
    """None of a JobSet that has finished."""
    status = found.get("status", {})
    ended = {c["type"] for c in status.get("conditions", []) if c["status"] == "True"}
    if status.get("terminalState") or ended & {"Completed", "Failed"}:
        return None
    if found["metadata"].get("deletionTimestamp"):
        return "ending"
    if found.get("spec", {}).get("suspend"):
        return "queued"
    ready = any(job.get("ready") for job in status.get("replicatedJobsStatus", []))
    return "running" if ready else "pending"


def _list(api: Any, namespace: str, workdir: Path) -> Iterator[dict[str, Any]]:
    """The JobSets of a working folder, finished ones too."""
    selector = f"{jobset.WORKDIR}={names.folder_label(workdir)}"
    token = ""
    while True:
        with _answers():
            page = api.list_namespaced_custom_object(
                jobset.GROUP,
                jobset.VERSION,
                namespace,
                jobset.PLURAL,
                label_selector=selector,
                limit=_PAGE,
                _continue=token,
                _request_timeout=_SLOW,
            )
        yield from page["items"]
        token = page["metadata"].get("continue", "")
        if not token:
            return


def _api(namespace: str) -> tuple[Any, str]:
    """The official client's API for custom objects, as kubectl's context or a pod's account has it; the namespace."""
    try:
        from kubernetes import client, config
    except ImportError:
        raise ConfigError(
            "--executor=kubernetes needs the package kubernetes: make install EXTRAS=kubernetes"
        ) from None
    file = os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())
    context: dict[str, Any] = {}
    try:
        if "KUBECONFIG" in os.environ or Path(file).exists():
            config.load_kube_config(config_file=file)
            context = config.list_kube_config_contexts(file)[1]["context"]
        else:
            config.load_incluster_config()
    except (config.ConfigException, OSError, yaml.YAMLError) as error:
        raise ConfigError(
            f"no Kubernetes cluster is set up here ({error}): `kubectl get jobsets` must work first"
        ) from None
    return client.CustomObjectsApi(), namespace or context.get("namespace", "default")


@contextlib.contextmanager
def _answers(*, gone: bool = False) -> Iterator[None]:
    """One line for each way in which a cluster refuses, or does not answer; `gone`: what is not there is well."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield
    except ApiException as error:
        if error.status == 404 and gone:
            return
        if error.status == 404 and not _said(error):
            raise ConfigError(
                f"the cluster has no JobSets ({jobset.GROUP}/{jobset.VERSION}): launch/kubernetes/README.md says how "
                "to install them"
            ) from None
        raise ConfigError(
            f"the cluster refused: {_said(error) or f'{error.status} {error.reason}'}"
        ) from None
    except HTTPError as error:
        raise ConfigError(f"the cluster does not answer: {error}") from None


def _said(error: Any) -> str:
    """The server's own message; empty if it is no Kubernetes Status."""
    return _answer(error).get("message", "")


def _reason(error: Any) -> str:
    return _answer(error).get("reason", "")


def _answer(error: Any) -> dict[str, Any]:
    try:
        found = json.loads(error.body or "")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
