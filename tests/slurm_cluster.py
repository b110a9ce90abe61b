"""A real Slurm cluster of one node on loopback for tests: munge, a controller, a node daemon (Debian's slurm-wlm)."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

NEEDED = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")


def why_not() -> str:
    """Why no cluster can be started here; empty if one can."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if missing := [name for name in NEEDED if not shutil.which(name, path=path)]:
        return f"{', '.join(missing)} not installed: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "Slurm's daemons want root"


@contextmanager
def cluster(directory: Path) -> Iterator[dict[str, str]]:
    """Starts one with its files in `directory`; yields the environment that Slurm's commands need."""
    ports = _free_ports(2)
    conf = directory / "slurm.conf"
    key = directory / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    host = socket.gethostname().split(".")[0]
    conf.write_text(
        f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
CryptoType=crypto/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_interval=1
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
    )
    environment = {"SLURM_CONF": str(conf), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    munge = [
        "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={directory}/munge.socket",
        f"--log-file={directory}/munge.log", f"--pid-file={directory}/munge.pid", f"--seed-file={directory}/munge.seed",
    ]  # fmt: skip
    with ExitStack() as running:
        running.enter_context(_daemon(munge, environment))
        _wait("munge's socket", lambda: (directory / "munge.socket").exists())
        (directory / "state").mkdir()
        (directory / "spool").mkdir()
        running.enter_context(_daemon(["slurmctld", "-D", "-c"], environment))
        running.enter_context(_daemon(["slurmd", "-D", "-N", host], environment))
        _wait("an idle node", lambda: "idle" in ask(environment, "sinfo", "--noheader", "--format=%t"))
        yield environment


def ask(environment: dict[str, str], *command: str) -> str:
    """What one of Slurm's commands prints; nothing if it fails."""
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    return done.stdout if done.returncode == 0 else ""


@contextmanager
def _daemon(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    process = subprocess.Popen(
        command, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(what: str, there, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not there():
        if time.monotonic() > until:
            raise TimeoutError(f"no {what} after {seconds:.0f} s")
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
