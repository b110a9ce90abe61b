"""The faults: what is done to a running sweep, what it must say or do in answer, and what of that was seen.

Each is a function of the cluster, the disk and a random generator; it returns a Seen. Processes, files and signals are
real. Simulated, and named so in KINDS, is only what stands for other machines: their clocks, and why a disk fails.
"""

import dataclasses
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

from cluster import BAD_INPUT, GRACE_SECONDS, REQUEUED, Cluster, catches
from disk import Disk

WATCHDOG_SECONDS = 8.0


_PYTHON_SECONDS = 15.0  # in which the interpreter starts, and a signal ends it as it ends any program


@dataclasses.dataclass
class Seen:
    """What a fault hit, what was seen, and what should not have been."""

    target: str
    seen: str
    wrong: list[str] = dataclasses.field(default_factory=list)
    code: int | None = None  # with which the command ended, if it did
    listen: tuple[str, ...] = ()  # words of which one should still be heard, sooner or later


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Attributes:
      title: its name in figures. do: does it. disk: it needs a disk of its own. clock: it needs a C compiler.
      early: it may come at any time; others come once the sweep has got on.
    """

    title: str
    do: Callable[[Cluster, Disk | None, random.Random], Seen]
    disk: bool = False
    clock: bool = False
    early: bool = False


# Processes.


def kill_launcher(cluster: Cluster, _: Disk | None, __: random.Random) -> Seen:
    """Its workers must end by themselves; the next launch begins while they do."""
    pid, workers = cluster.pid, cluster.workers()
    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    cluster.wait(lambda: not any(map(_alive, workers)), 60)
    left = sum(map(_alive, workers))
    wrong = [f"{left} workers live 60 s after their launcher"] if left else []
    seen = f"{len(workers)} workers left by themselves within {time.monotonic() - began:.1f} s"
    return Seen(f"pid {pid}", seen, wrong)


def kill_worker(cluster: Cluster, _: Disk | None, dice: random.Random) -> Seen:
    if not (workers := cluster.workers()):
        return Seen("no worker", "there was none")
    pid = dice.choice(workers)
    before = cluster.heard()
    os.kill(pid, signal.SIGKILL)
    words = "its worker process died (signal SIGKILL)"
    cluster.wait(lambda: bool(cluster.said(words, after=before)) or cluster.ended() is not None, 20)
    said = cluster.said(words, after=before)
    return Seen(
        f"worker pid {pid}", said, [] if "died (signal SIGKILL)" in said else ["its death was not said"]
    )


def kill_host(cluster: Cluster, _: Disk | None, __: random.Random) -> Seen:
    pid = cluster.pid
    cluster.kill_group()
    return Seen(f"process group {pid}", "all its processes are gone")


def terminate(cluster: Cluster, _: Disk | None, __: random.Random) -> Seen:
    return _asked_to_stop(cluster, signal.SIGTERM)


def interrupt(cluster: Cluster, _: Disk | None, __: random.Random) -> Seen:
    return _asked_to_stop(cluster, signal.SIGINT)


def _asked_to_stop(cluster: Cluster, number: signal.Signals) -> Seen:
    """It must end within the grace period, with every run that got on saved at its last step."""
    running = [run for run in cluster.at_work() if run in cluster.furthest_since_start()]
    seen = _stopped(cluster, number)
    saved = []
    for run in running:
        steps, newest = cluster.steps(run), cluster.newest(run)
        saved.append(newest)
        done = (cluster.workdir / "runs" / run / "DONE").exists()
        if newest < steps and not done:
            seen.wrong.append(f"{run} was at step {steps} and is saved at {newest}")
    if saved:
        seen.seen += f", saved at step {', '.join(map(str, saved))}"
    return seen


def _stopped(cluster: Cluster, number: signal.Signals = signal.SIGTERM) -> Seen:
    if number == signal.SIGINT:  # Python catches it from its first moment on, and ends by it as any program
        young = not cluster.workers() and time.monotonic() - cluster.started < _PYTHON_SECONDS
    else:
        young = not catches(cluster.pid, number)
    code, took = cluster.stop(number, GRACE_SECONDS)
    seen = Seen(f"{number.name} to the launcher", f"ended after {took:.1f} s", code=code)
    if code is None:
        seen.wrong.append(f"still there after {GRACE_SECONDS:.0f} s")
    elif code not in (REQUEUED, 0) and not (young and code == -number):  # 0: the last cell was just done
        seen.wrong.append(f"exit code {code}")
    return seen


def pause(cluster: Cluster, _: Disk | None, dice: random.Random) -> Seen:
    """As when a machine is moved, or starved of its cores."""
    workers = cluster.workers()
    chosen = [cluster.pid] if not workers or dice.random() < 0.3 else [dice.choice(workers)]
    seconds = dice.uniform(2, 1.5 * WATCHDOG_SECONDS)
    for number, wait in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0.0)):
        for pid in chosen:
            if _alive(pid):
                os.kill(pid, number)
        time.sleep(wait)
    who = "launcher" if chosen == [cluster.pid] else "worker"
    return Seen(f"{who} pid {chosen[0]}", f"stopped for {seconds:.1f} s")


def second_launcher(cluster: Cluster, _: Disk | None, dice: random.Random) -> Seen:
    """Another machine runs the same command on the same folder for a while, then is told to go."""
    name = f"{cluster.launches}-second-{dice.randrange(10**6)}"
    other = cluster.extra(hours=0.0, name=name)
    lived = dice.uniform(6, 12)
    cluster.wait(lambda: other.poll() is not None, lived)
    fine = [0, REQUEUED]
    if other.poll() is None:
        fine += [] if catches(other.pid, signal.SIGTERM) else [-signal.SIGTERM]
        other.terminate()
    cluster.wait(lambda: other.poll() is not None, GRACE_SECONDS)
    wrong = [] if other.poll() in fine else [f"the second ended with {other.poll()}"]
    if other.poll() is None:
        os.killpg(other.pid, signal.SIGKILL)
    return Seen(f"pid {other.pid}", f"the second ended with exit code {other.poll()}", wrong)


def clock(cluster: Cluster, _: Disk | None, dice: random.Random) -> Seen:
    """The next start is on a machine whose clock is hours or days off; files of before may lie in its future."""
    stopped = _stopped(cluster)
    hours = dice.choice((-1, 1)) * dice.choice((0.5, 7, 30, 24 * 40))
    if not cluster.finished:
        cluster.start(hours=hours)
    return Seen("the next launch", f"its clock is {hours:+g} h off", stopped.wrong, stopped.code)


# Files.


def damage_checkpoint(cluster: Cluster, _: Disk | None, dice: random.Random) -> Seen:
    """A file of the newest checkpoint of a run is cut off, gone, or has a bit flipped, while nobody runs."""
    stopped = _stopped(cluster)
    wrong, code = stopped.wrong, stopped.code
    if not (runs := cluster.unfinished()):
        return Seen("no checkpoint", "there was none", wrong, code)
    run = max(runs, key=lambda r: (cluster.newest(r), r)) if dice.random() < 0.7 else dice.choice(runs)
    folder = cluster.workdir / "runs" / run / "checkpoints" / str(cluster.newest(run))
    way = dice.choice(("cut off", "gone", "bit flipped"))
    # Of these the store needs every byte or says so; elsewhere a change may do no harm, and then nothing is said.
    needed = ("_CHECKPOINT_METADATA", "state/_METADATA", "state/d/*", "state/manifest.ocdbt")
    names = ("**/*",) if way == "bit flipped" else needed
    path = dice.choice(
        [p for name in names for p in sorted(folder.glob(name)) if p.is_file() and p.stat().st_size]
    )
    _damage(path, way, dice)
    listen = () if way == "bit flipped" else (f"{folder} is damaged",)
    return Seen(f"{run}: {path.relative_to(folder.parent)}", way, wrong, code, listen)


def _damage(path: Path, way: str, dice: random.Random) -> None:
    if way == "gone":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    if way == "cut off":
        data = data[: dice.randrange(len(data))]
    else:
        data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    path.write_bytes(data)


def leftovers(cluster: Cluster, _: Disk | None, dice: random.Random) -> Seen:
    """Halves of files and folders as a killed writer leaves them, everywhere that something is written."""
    folders = [cluster.workdir, *cluster.workdir.glob("data/*"), *sorted(cluster.workdir.glob("runs/*"))]
    made = 0
    for folder in dice.sample(folders, min(5, len(folders))):
        for path in [p for p in folder.iterdir() if p.is_file() and p.name != "lock"]:
            half = path.read_bytes()[: path.stat().st_size // 2]
            (folder / f".{path.name}.{dice.randrange(10**8)}.tmp").write_bytes(half)
            made += 1
        (folder / f".views.{dice.randrange(10**8)}.tmp").mkdir()
        if (folder / "checkpoints").exists():
            newest = cluster.newest(folder.name)
            name = f"{newest + 8}.orbax-checkpoint-tmp"
            if newest >= 0 and not (folder / "checkpoints" / name).exists():
                (folder / "checkpoints" / name).mkdir()
                (folder / "checkpoints" / name / "state").write_bytes(b"half")
                made += 1
    return Seen(f"{min(5, len(folders))} folders", f"{made} halves were left there")


def sweep_temporaries(cluster: Cluster, _: Disk | None, __: random.Random) -> Seen:
    """Something that tidies up deletes temporary files, those in use among them."""
    gone: list[str] = []
    until = time.monotonic() + 3
    while time.monotonic() < until and len(gone) < 3:
        for path in (
            *cluster.workdir.glob("runs/*/.*.tmp"),
            *cluster.workdir.glob("runs/*/checkpoints/*tmp*"),
        ):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            gone.append(path.name)
        if cluster.ended() is not None:
            break
    return Seen("temporary files", f"{len(gone)} deleted: {', '.join(gone[:3])}")


# Disks.


def full_disk(cluster: Cluster, disk: Disk | None, dice: random.Random) -> Seen:
    assert disk is not None
    leave = dice.choice((0, 4 << 10, 16 << 10))
    words = ("No space left", "disk is full")
    before = cluster.heard()

    def noticed() -> bool:
        disk.fill(leave)  # checkpoints that go give space back
        return bool(cluster.said(*words, after=before)) or cluster.ended() is not None

    try:
        cluster.wait(noticed, 60, again=False)
    finally:
        disk.empty()
    said = cluster.said(*words, after=before)
    wrong = [] if said else ["a full disk was not said"]
    return Seen(f"all but {leave} bytes", said[:160], wrong, cluster.ended())


def read_only(cluster: Cluster, disk: Disk | None, _: random.Random) -> Seen:
    assert disk is not None
    before = cluster.heard()
    disk.break_()
    return _without_disk(cluster, disk, before)


def lost_disk(cluster: Cluster, disk: Disk | None, _: random.Random) -> Seen:
    assert disk is not None
    before = cluster.heard()
    disk.lose()
    return _without_disk(cluster, disk, before)


def _without_disk(cluster: Cluster, disk: Disk, before: int) -> Seen:
    """The command must end by itself, say what it is, and not call it bad input."""
    code, took = cluster.stop(0, 60)
    said = cluster.said("error: ", "FAILED ", after=before, first=True)
    seen = Seen("the file system", f"ended after {took:.1f} s: {said[:160]}", code=code)
    if code is None:
        seen.wrong.append("still there after 60 s")
    if code in (0, BAD_INPUT):
        seen.wrong.append(f"exit code {code}, after which no cluster starts it again")
    if not said:
        seen.wrong.append("no clear error")
    disk.again()
    cluster.forget_what_is_gone()
    return seen


def slow_disk(cluster: Cluster, disk: Disk | None, dice: random.Random) -> Seen:
    """Writes come through in short spells, for some ten seconds."""
    assert disk is not None
    frozen = dice.uniform(0.3, 1.2)
    times = round(8 / (frozen + 0.2))
    freezer = disk.freeze(round(frozen, 2), times=times, between=0.2)
    cluster.wait(lambda: freezer.poll() is not None, 60)
    freezer.wait()
    return Seen("every write", f"{times} times held up for {frozen:.2f} s")


def hung_disk(cluster: Cluster, disk: Disk | None, dice: random.Random) -> Seen:
    """Nothing can be written for longer than the watchdog waits; it must name the host, and end the worker."""
    assert disk is not None
    seconds = round(WATCHDOG_SECONDS * dice.uniform(2.0, 2.5), 1)
    running = set(cluster.at_work()) & set(cluster.furthest_since_start())
    before = cluster.heard()
    freezer = disk.freeze(seconds)
    cluster.wait(lambda: freezer.poll() is not None, 60)
    freezer.wait()
    words = "warning: process 0 on "  # the watchdog's
    cluster.wait(lambda: bool(cluster.said(words, after=before)) or cluster.ended() is not None, 3)
    said = cluster.said(words, after=before)
    wrong = [] if said or not running else ["the watchdog said nothing"]
    return Seen(f"every write, for {seconds:.0f} s", said[:160], wrong)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


KINDS = {
    "kill_launcher": Kind("launcher killed", kill_launcher, early=True),
    "kill_worker": Kind("worker killed", kill_worker),
    "kill_host": Kind("all processes killed", kill_host, early=True),
    "terminate": Kind("SIGTERM", terminate, early=True),
    "interrupt": Kind("Ctrl-C", interrupt, early=True),
    "pause": Kind("process stopped a while", pause),
    "second_launcher": Kind("second launcher", second_launcher),
    "clock_simulated": Kind("clock off (simulated)", clock, clock=True, early=True),
    "damage_checkpoint": Kind("checkpoint damaged", damage_checkpoint),
    "leftovers": Kind("halves left behind", leftovers),
    "sweep_temporaries": Kind("temporaries deleted", sweep_temporaries),
    "full_disk": Kind("disk full", full_disk, disk=True),
    "read_only": Kind("disk read-only (provoked)", read_only, disk=True),
    "lost_disk": Kind("disk lost (provoked)", lost_disk, disk=True, early=True),
    "slow_disk_simulated": Kind("disk slow (simulated)", slow_disk, disk=True),
    "hung_disk_simulated": Kind("disk hangs (simulated)", hung_disk, disk=True),
}
