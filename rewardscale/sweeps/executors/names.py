"""Names of what runs a task in a cluster: DNS labels that say whose it is, and collide where two would do the same."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from rewardscale.remote import origin


def sweep_label(sweep: str) -> str:
    """A sweep's name as a label's value: letters, digits and hyphens, at most 63."""
    return re.sub(r"[^A-Za-z0-9]", "-", sweep)[:63].strip("-") or "sweep"


def folder_label(workdir: Path | str) -> str:
    """A working folder as a label's value: 20 hex digits of its path, or of the URL that it is a copy of."""
    return digest(origin.url(Path(workdir)) or str(Path(workdir).resolve()))


def task_name(sweep: str, workdir: Path | str, cells: Sequence[str]) -> str:
    """A task of a sweep's cells in a folder; leaves room for a number and the 18 characters of a pod's name."""
    task = cells[0] if len(cells) == 1 else digest(",".join(cells))
    return f"rs-{sweep_label(sweep)[:12].strip('-')}-{folder_label(workdir)[:6]}-{task[:12]}".lower()


def attempt(task: str, number: int) -> str:
    """The name of a task's attempt: a finished one keeps its own, and two launchers that try the same collide."""
    return f"{task}-{number}"


def task_of(name: str) -> tuple[str, int]:
    """What `attempt` was made of; any other name is a task of its own."""
    task, _, number = name.rpartition("-")
    return (task, int(number)) if number.isdecimal() else (name, 0)


def digest(text: str) -> str:
    """20 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:20]
