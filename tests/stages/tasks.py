"""Tasks for the tests of stages: each writes files that its arguments decide, and may misbehave."""

import hashlib
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import rewardscale
from rewardscale.config import ConfigError
from rewardscale.stages import Task


def write(
    folder: Path, *, seed: int, size: int = 5000, log: str = "", seconds: float = 0.0
) -> dict[str, Any]:
    """Writes `size` bytes in two files; adds a line to the file `log`, which is no output."""
    if log:
        with open(log, "a") as file:
            file.write(f"{seed} {os.getpid()}\n")
    data = b"".join(hashlib.sha256(f"{seed} {i}".encode()).digest() for i in range(size // 32 + 1))[:size]
    (folder / "part").mkdir()
    (folder / "part" / "data.bin").write_bytes(data[: size // 2])
    time.sleep(seconds)
    (folder / "rest.bin").write_bytes(data[size // 2 :])
    return {"bytes": size, "by": {"seed": seed}, "parts": (1, 2)}


def read(folder: Path, *, sources: list[str]) -> int:
    """Writes the hash of what other tasks wrote."""
    digest = hashlib.sha256(b"".join((Path(s) / "rest.bin").read_bytes() for s in sources)).hexdigest()
    (folder / "digest.txt").write_text(digest)
    return len(sources)


def fail(folder: Path, *, how: str) -> None:
    """Leaves half a file and fails."""
    (folder / "half").write_text("half")
    if how == "raise":
        raise ZeroDivisionError("seven by nought")
    if how == "said":
        raise ConfigError("x=1 must be 2")
    if how == "exit":
        sys.exit(3)
    if how == "unpicklable":
        raise type("Local", (Exception,), {"__reduce__": lambda self: 1 / 0})("cannot travel")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "link":
        (folder / "link").symlink_to("half")


def kill_once(folder: Path, *, seed: int, marker: str) -> dict[str, Any]:
    """Is killed where `marker` does not exist yet, in the middle of writing."""
    (folder / "half").write_text("half")
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "half").unlink()
    return write(folder, seed=seed)


def environment(folder: Path) -> dict[str, Any]:
    """What a worker sees of its surroundings."""
    del folder
    import polars as pl

    return {
        "pid": os.getpid(),
        "platforms": os.environ.get("JAX_PLATFORMS"),
        "threads": pl.thread_pool_size(),
        "package": rewardscale.__file__,
        "jax": "jax" in sys.modules,
    }


def writing(count: int, *, log: Path | None = None, seconds: float = 0.0) -> list[Task]:
    """`count` tasks; how they log and how long they take decides nothing of what they write."""
    paths = {"log": str(log or ""), "seconds": seconds}
    return [
        Task(f"unit-{i:03d}", f"{__name__}:write", {"seed": i, "size": 1000 + 77 * i}, paths=paths)
        for i in range(count)
    ]


def tree(folder: Path) -> dict[str, bytes]:
    """Every file below `folder`, hidden ones too, and its bytes."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def runs(log: Path) -> list[int]:
    """The seeds of the tasks that ran, sorted."""
    return sorted(int(line.split()[0]) for line in log.read_text().splitlines()) if log.exists() else []


def gone(pid: int) -> bool:
    """Whether the process has ended (a zombie has)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
