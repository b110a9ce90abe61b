"""The wandb executor: a sweep definition whose agents run the cells, each by the command line of one cell.

wandb hands out cells, starts nothing itself and keeps no results that are needed: an agent runs on a machine that sees
the working folder under the same path, and whatever it runs takes the cell's lock and leaves the cell done there.
"""

from pathlib import Path
from typing import Any

import yaml

from rewardscale import atomic
from rewardscale.sweeps.executors.local import in_order
from rewardscale.sweeps.grid import Cell

FILE = "wandb_sweep.yaml"
# Before each run id: one or two in 10,000 ids look like numbers (12e34) to some YAML readers.
PREFIX = "run-"


def definition(name: str, cells: list[Cell], command: list[str]) -> dict[str, Any]:
    """A wandb sweep over `cells`, in the order in which they should start; an agent adds --cell=... to `command`."""
    return {
        "name": name,
        "program": "rewardscale.launch",  # asked for by wandb; `command` decides
        "method": "grid",
        "command": [*command, "${args}"],
        "parameters": {"cell": {"values": [PREFIX + c.run_id for c in in_order(cells)]}},
    }


def text(definition: dict[str, Any]) -> str:
    """The definition as YAML, for `wandb sweep FILE`."""
    return yaml.safe_dump(definition, sort_keys=False, width=1000)


def write(definition: dict[str, Any], workdir: Path) -> Path:
    """Writes the definition into the working folder; its path."""
    path = Path(workdir) / FILE
    atomic.write_bytes(path, text(definition).encode())
    return path
