"""Stages on a Ray cluster, as Ray Core tasks: nothing durable lies in it, so a node's death costs time alone.

All nodes must see the build's folder. A worker imports this very package, which is sent along, and commits what it
writes; the driver keeps a few tasks a CPU under way and no more, however many there are.
"""

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import rewardscale
from rewardscale.stages.task import Failure, Outcomes, StageError, Task, cores, worker_environment

_RETRIES = 3  # of a task whose worker or node died
_WAITING_PER_CPU = 2
_LEAST_WAITING = 16  # so that an autoscaler sees that more nodes are wanted
_NO_CPU_SECONDS = 600.0  # how long a cluster may be without any
_CANCEL_SECONDS = 5.0
_OBJECT_STORE_BYTES = 100 * 2**20  # of a cluster of our own: results are a line at most


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Connects to the cluster for the block's time; inside another such block, or the caller's `ray.init`, joins it.

    Args:
      address: HOST:PORT, "auto", or None: a cluster on this machine that ends with the block.

    Raises StageError if ray is not installed, there is no such cluster, or the process is connected to another.
    """
    ray = _import_ray()
    if ray.is_initialized():
        here = ray.get_runtime_context().gcs_address
        if address not in (None, "auto", here):
            raise StageError(
                f"engine ray:{address}: this process is connected to {here}: call ray.shutdown() first"
            )
        yield ray
        return
    environment = {
        "py_modules": [str(Path(rewardscale.__file__).parent)],
        "env_vars": worker_environment(cores()),
    }
    options: dict[str, Any] = {"address": address, "runtime_env": environment}
    if address is None:
        own = {"include_dashboard": False, "object_store_memory": _OBJECT_STORE_BYTES}
        options |= own | {"address": "local"}  # not the one that RAY_ADDRESS names
    try:
        ray.init(**options, logging_level="ERROR", log_to_driver=False)
    except Exception as error:  # a plain one where a node does not start in time
        raise StageError(f"engine ray{(address and f':{address}') or ''}: no connection: {error}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A task that runs out of memory would else be tried for ever.
    os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES))
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise StageError(
            f"engine ray: the package ray is not there ({error}): pip install 'rewardscale[ray]'"
        ) from error
    return ray


def in_cluster(
    work: Callable[[Task], Failure | None], tasks: Sequence[Task], address: str | None
) -> Outcomes:
    """Runs tasks on the cluster; what `engines.results` says of all engines holds."""
    with connected(address) as ray:
        remote = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_in_worker)
        waiting = deque(tasks)
        running: dict[Any, Task] = {}
        failed = False
        idle_since = time.monotonic()
        try:
            while running or (waiting and not failed):
                cpus = int(ray.cluster_resources().get("CPU", 0))
                while waiting and not failed and len(running) < max(_LEAST_WAITING, _WAITING_PER_CPU * cpus):
                    task = waiting.popleft()
                    running[remote.remote(work, task)] = task
                ready, _ = ray.wait([*running], num_returns=1, timeout=10.0)
                if ready:
                    ready, _ = ray.wait([*running], num_returns=len(running), timeout=0)
                elif cpus == 0 and time.monotonic() - idle_since > _NO_CPU_SECONDS:
                    yield next(iter(running.values())), Failure("the cluster has no CPUs", "add nodes")
                    return
                if ready or cpus:
                    idle_since = time.monotonic()
                for reference in ready:
                    failure = _result(ray, reference)
                    failed |= failure is not None
                    yield running.pop(reference), failure
        finally:
            if running:
                _cancel(ray, list(running))


def _in_worker(work: Callable[[Task], Failure | None], task: Task) -> Failure | None:
    return work(task)


def _result(ray: ModuleType, reference: Any) -> Failure | None:
    try:
        return ray.get(reference)
    except ray.exceptions.RuntimeEnvSetupError as error:
        return Failure(f"a worker could not be set up: {error}", "")
    except ray.exceptions.RayError as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        return Failure(
            f"its worker or node died {_RETRIES + 1} times ({type(error).__name__}: {lines[0] if lines else ''})",
            "make its shard smaller or give the nodes more memory; --engine=inline shows what happens",
        )


def _cancel(ray: ModuleType, references: list[Any]) -> None:
    """Stops tasks: asks, so that they clear up, and then does not ask."""
    for reference in references:
        ray.cancel(reference)
    _, left = ray.wait(references, num_returns=len(references), timeout=_CANCEL_SECONDS)
    for reference in left:
        ray.cancel(reference, force=True)
