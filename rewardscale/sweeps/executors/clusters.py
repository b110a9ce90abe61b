"""The executors that hand cells to a cluster's queue, by name."""

import argparse
from collections.abc import Mapping

from rewardscale.sweeps.executors import kubernetes, slurm, tpu_vm
from rewardscale.sweeps.executors.submission import Cluster

CLUSTERS: Mapping[str, Cluster] = {"slurm": slurm, "kubernetes": kubernetes, "tpu_vm": tpu_vm}


def add_flags(parser: argparse.ArgumentParser) -> dict[str, list[str]]:
    """Adds each executor's own flags; their names, by executor."""
    return {name: cluster.add_flags(parser) for name, cluster in CLUSTERS.items()}


def check(parser: argparse.ArgumentParser, options: argparse.Namespace, flags: dict[str, list[str]]) -> None:
    """Ends with the parser's error where a flag is of another executor than the chosen one."""
    for name, own in flags.items():
        for flag in own:
            if options.executor != name and getattr(options, flag) != parser.get_default(flag):
                parser.error(f"--{flag} is of --executor={name}")
    if options.cancel and options.executor not in CLUSTERS:
        parser.error(f"--cancel is of {' and '.join(f'--executor={name}' for name in CLUSTERS)}")
    if options.cells_per_task < 1:
        parser.error("--cells_per_task must be at least 1")
