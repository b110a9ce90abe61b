"""What a table's figures depend on, printed above it by every benchmark: command, date, commit, machine, versions."""

import importlib.metadata
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

# Instructions of a CPU that change how fast products are, by their names in /proc/cpuinfo.
FLAGS = re.compile(r"avx2|avx512f|avx512_bf16|avx512_fp16|amx_tile|amx_bf16|amx_int8|asimd|sve|bf16|i8mm")


def heading(*packages: str, versions: Mapping[str, str] | None = None) -> str:
    """Lines of Markdown for the head of a results file.

    Args:
      packages: distributions of this environment whose versions count; those not installed are said to be so.
      versions: further ones, by name, e.g. of a process in another environment.
    """
    named = {"Python": platform.python_version()} | {name: version(name) for name in packages}
    listed = ", ".join(f"{name} {number}" for name, number in (named | dict(versions or {})).items())
    return (
        f"`{command()}`, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, commit {commit()}.\n"
        f"Machine: {machine()}; load average {os.getloadavg()[0]:.1f} before.\nVersions: {listed}.\n"
    )


def command() -> str:
    """The command line as it was given, the interpreter's path left out."""
    return shlex.join(["python", *sys.orig_argv[1:]])


def commit() -> str:
    """The working tree's commit; a star where files differ from it."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True)
    except OSError:
        return "unknown"
    return (found.stdout.strip() or "unknown") + ("*" if changed.stdout.strip() else "")


def machine() -> str:
    """CPU, cores that this process may use, memory, instructions for matrices, accelerators, system."""
    lines = Path("/proc/cpuinfo")
    text = lines.read_text() if lines.exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
    kinds = [flag for flag in (flags[1].split() if flags else ()) if FLAGS.fullmatch(flag)]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [name[1] if name else platform.machine(), f"{cores} cores", f"{memory:.0f} GiB"]
    return ", ".join([*parts, " ".join(sorted(kinds)) or "no flags known", *_gpus(), platform.system()])


def _gpus() -> list[str]:
    """Names of NVIDIA's GPUs with their driver, one each."""
    if not shutil.which("nvidia-smi"):
        return []
    done = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        capture_output=True,
        text=True,
        check=False,
    )
    return (
        [line.replace(", ", ", driver ") for line in done.stdout.splitlines()] if not done.returncode else []
    )


def version(package: str) -> str:
    """Of a distribution in this environment, or "not installed"."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
