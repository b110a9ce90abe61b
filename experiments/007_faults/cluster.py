"""A sweep as a cluster runs it: its command is started again whenever it ends, and all is watched from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
REQUEUED = 130  # the command's exit code after SIGTERM and Ctrl-C
BAD_INPUT = 2
GRACE_SECONDS = 30.0  # what Kubernetes gives a pod, and Slurm a job by default


class Refused(RuntimeError):
    """The command said, again and again, that its input is bad: a cluster would have given up."""


class Cluster:
    """Runs the sweep's command on `workdir`.

    Args:
      arguments: of rewardscale.launch. logs: a folder elsewhere, for what each launch prints. tell: gets a record of
        each launch, each end, and each time cells are done.
    """

    def __init__(
        self, workdir: Path, arguments: tuple[str, ...], logs: Path, tell: Callable[[dict[str, Any]], None]
    ):
        self.workdir, self._arguments, self._logs, self._tell = workdir, arguments, logs, tell
        self._process: subprocess.Popen[bytes] | None = None
        self.launches, self.finished, self.started = 0, False, 0.0
        self.got_on = 0.0  # when it last was further than ever
        self._furthest: dict[str, int] = {}
        self._at_start: dict[str, int] = {}
        self._done: dict[str, tuple[int, int]] = {}
        self.done_twice: list[str] = []
        self.codes: list[int | None] = []

    # What a cluster does.

    def start(self, *, hours: float = 0.0) -> None:
        """Starts the command, with a clock that is wrong by `hours`."""
        self.launches += 1
        self._process = self.extra(hours=hours, name=str(self.launches))
        self.started = time.monotonic()
        self._at_start = dict(self._furthest)
        self._tell({"event": "launch", "launch": self.launches, "hours": hours})

    def extra(self, *, hours: float, name: str) -> subprocess.Popen[bytes]:
        """A further process of the same command, which nobody starts again."""
        command = [sys.executable, "-m", "rewardscale.launch", f"--workdir={self.workdir}"]
        names = ("XLA_FLAGS", "REWARDSCALE_DATA", "JAX_PLATFORMS")
        environment = {k: v for k, v in os.environ.items() if k not in names}
        environment["JAX_PLATFORMS"] = "cpu"
        if hours:
            library = clock_library(self._logs)
            environment |= {"LD_PRELOAD": str(library), "CLOCK_OFF": f"{hours * 3600:.0f}"}
        with (self._logs / f"{name}.out").open("wb") as out, (self._logs / f"{name}.err").open("wb") as error:
            return subprocess.Popen(
                [*command, *self._arguments], cwd=ROOT, env=environment, stdout=out, stderr=error,
                start_new_session=True,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """The launcher, and the number of its group."""
        assert self._process is not None
        return self._process.pid

    def workers(self) -> list[int]:
        """Its worker processes."""
        return [pid for pid in _children(self.pid) if b"spawn_main" in _command(pid)]

    def ended(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll() if self._process is not None else self.codes[-1]

    def tick(self, *, again: bool = True) -> None:
        """Looks after the command once: starts it again if it has ended and the sweep is not finished."""
        if self._process is not None and (code := self._process.poll()) is not None:
            self._end(code)
        if self._process is None and again and not self.finished:
            self.start()
        self._look()
        time.sleep(0.1)

    def wait(self, until: Callable[[], bool], seconds: float, *, again: bool = True) -> bool:
        """Looks after the command until something is so; whether it was within `seconds`."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline or self.finished:
                return until()
            self.tick(again=again)
        return True

    def stop(self, number: int, seconds: float) -> tuple[int | None, float]:
        """Sends a signal (0: none) to the command, to all its group if SIGINT, and waits for its end: code, seconds.

        Code None: it had not ended after `seconds`; then it is killed.
        """
        began = time.monotonic()
        if number == signal.SIGINT:
            os.killpg(self.pid, number)
        elif number:
            os.kill(self.pid, number)
        while (code := self.ended()) is None and time.monotonic() - began < seconds:
            time.sleep(0.02)
        took = time.monotonic() - began
        self.kill_group()
        self._end(code)
        self._look()
        return code, took

    def _end(self, code: int | None) -> None:
        self._tell({"event": "end", "launch": self.launches, "code": code})
        self.codes.append(code)
        self._process, self.finished = None, code == 0
        if self.codes[-3:] == [BAD_INPUT] * 3:
            raise Refused(self.said("error: "))

    def kill_group(self) -> None:
        """Kills whatever of the launch is left."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        assert self._process is not None
        self._process.wait()
        while _group_lives(self.pid):
            time.sleep(0.02)

    def close(self) -> None:
        """Kills what runs."""
        if self._process is not None:
            self.kill_group()

    # What is seen from outside.

    def lines(self, launch: int = 0) -> list[str]:
        """What a launch (0: this one) has printed on stderr; a bar that is drawn anew is a line each time."""
        path = self._logs / f"{launch or self.launches}.err"
        text = path.read_text(errors="replace") if path.exists() else ""
        return text.replace("\r", "\n").splitlines()

    def heard(self) -> int:
        """The number of the line that is being written: what is said from now on stands there or below."""
        return max(0, len(self.lines()) - 1)

    def said(self, *words: str, after: int = 0, first: bool = False) -> str:
        """The first of this launch's lines, from number `after` on, that holds one of the words, from there on.

        With `first` they must stand at its beginning.
        """
        return _first_with(self.lines()[after:], words, first)

    def said_since(self, launch: int, *words: str) -> str:
        """The same of all launches from that one on."""
        lines = [line for number in range(launch, self.launches + 1) for line in self.lines(number)]
        return _first_with(lines, words, False)

    def steps(self, run: str) -> int:
        """How many steps of a run its metrics hold."""
        return _steps(self.workdir / "runs" / run / "metrics.jsonl")

    def furthest_since_start(self) -> dict[str, int]:
        """Runs that have got further than ever in this launch, and how far."""
        return {run: n for run, n in self._furthest.items() if n > self._at_start.get(run, 0)}

    def newest(self, run: str) -> int:
        """The step of a run's newest checkpoint, -1 if there is none."""
        folder = self.workdir / "runs" / run / "checkpoints"
        return max((int(p.name) for p in folder.glob("*") if p.name.isdecimal()), default=-1)

    def unfinished(self) -> list[str]:
        """Runs with a checkpoint that are not done."""
        folders = sorted(self.workdir.glob("runs/*"))
        return [p.name for p in folders if not (p / "DONE").exists() and self.newest(p.name) >= 0]

    def at_work(self) -> list[str]:
        """Runs whose lock is held."""
        held = {line.split()[5].rpartition(":")[2] for line in _locks()}
        return [p.parent.name for p in self.workdir.glob("runs/*/lock") if str(p.stat().st_ino) in held]

    def forget_what_is_gone(self) -> None:
        """Runs whose DONE went with a lost disk may be done once more."""
        for run in list(self._done):
            if not (self.workdir / "runs" / run / "DONE").exists():
                del self._done[run]

    def _look(self) -> None:
        try:
            for folder in self.workdir.glob("runs/*"):
                self._look_at(folder)
        except OSError:
            return  # a lost disk is for the sweep to speak of

    def _look_at(self, folder: Path) -> None:
        run, now = folder.name, time.monotonic()
        try:
            stamp = (folder / "DONE").stat()
        except FileNotFoundError:
            steps = self.steps(run)
            if steps > self._furthest.get(run, 0):
                self._furthest[run], self.got_on = steps, now
            return
        mark = (stamp.st_ino, stamp.st_mtime_ns)
        if run not in self._done:
            self._done[run], self.got_on = mark, now
            self._tell({"event": "cells", "done": len(self._done)})
        elif self._done[run] != mark:
            self._done[run] = mark
            self.done_twice.append(run)


def _first_with(lines: list[str], words: tuple[str, ...], first: bool) -> str:
    for line in lines:
        places = [place for word in words if (place := line.find(word)) >= 0]
        if places and (not first or min(places) == 0):
            return line[min(places) :].strip()
    return ""


def _steps(path: Path) -> int:
    if not path.exists():
        return 0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().split(b"\n")
    try:
        return json.loads(lines[-2])["step"] + 1 if len(lines) > 1 else 0
    except (ValueError, KeyError):
        return 0


def _locks() -> list[str]:
    return [
        line for line in Path("/proc/locks").read_text().splitlines() if "FLOCK" in line and "->" not in line
    ]


def _children(pid: int) -> list[int]:
    try:
        return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of a signal; True if it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return True
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (number - 1) & 1)


def clock_library(folder: Path) -> Path:
    """clock_off.c, compiled."""
    made = folder / "clock_off.so"
    if not made.exists():
        source = Path(__file__).with_name("clock_off.c")
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", str(made), str(source), "-ldl"], check=True)
    return made


def _group_lives(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            return True
    return False
