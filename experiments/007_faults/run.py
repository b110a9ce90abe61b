"""A sweep under faults: python experiments/007_faults/run.py WORKDIR [--faults=50] [--seed=1] [--short] [--quiet=DIR]

Runs a smoke sweep in peace, then again in another folder while faults (faults.py) are done to it at random moments:
its command is started again whenever it ends, as a cluster would, until as many faults as wanted have come and the
sweep is finished. Both must leave the same tables and the same rewards of every run, bit for bit. Writes log.jsonl,
a line an event, to WORKDIR; figure.py draws it. Exit code 0: the same results, and every fault was answered as it must
be; 1: not. --short: a smaller sweep and one fault of each of six kinds.

Full and failing disks need root (an ext4 image by a loop device), wrong clocks a C compiler; without them those kinds
are left out, which the log says.
"""

import argparse
import json
import random
import shutil
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import disk as disks
import polars as pl
from cluster import BAD_INPUT, Cluster, Refused
from faults import KINDS, WATCHDOG_SECONDS, Seen

from rewardscale.sweeps.results import reproducible

HERE = Path(__file__).parent
RUNTIME = (
    "--config.runtime.workers=2",
    "--config.runtime.steps_per_dispatch=8",
    f"--config.runtime.watchdog_seconds={WATCHDOG_SECONDS}",
    "--config.runtime.watchdog_exit=true",
)
LONG = (
    "--config=sweep.py:smoke",
    "--config.sweep.pairs=630,1600,3600",
    "--config.recipe.epochs=36",
    "--config.runtime.checkpoint_seconds=0.4",
    *RUNTIME,
)
SHORT = (
    "--config=sweep.py:smoke",
    "--config.data.planted.train=700",
    "--config.data.planted.validation=100",
    "--config.data.planted.test=200",
    "--config.sweep.models=w8",
    "--config.sweep.pairs=600,700",
    "--config.sweep.levels=gold",
    "--config.sweep.draws=1",
    "--config.recipe.epochs=60",
    "--config.runtime.checkpoint_seconds=0.1",
    *RUNTIME,
    "--config.runtime.workers=1",
)
SHORT_KINDS = ("clock_simulated", "kill_worker", "damage_checkpoint", "leftovers", "lost_disk", "kill_host")
LONGEST_PAUSE = 4.0  # seconds between the sweep's getting on and the next fault
SHORT_PAUSE = 0.7


class Log:
    """log.jsonl: an event a line, with seconds since the beginning; the folder that it lies in is WORKDIR."""

    def __init__(self, path: Path):
        self._file, self._began = path.open("w", encoding="utf-8"), time.monotonic()
        self._workdir = str(path.parent)

    def __call__(self, record: dict[str, Any]) -> None:
        line = json.dumps({"time": round(time.monotonic() - self._began, 2)} | record)
        self._file.write(line.replace(self._workdir, "WORKDIR") + "\n")
        self._file.flush()
        if record["event"] in ("fault", "sweep"):
            print(json.dumps(record), flush=True)


def schedule(kinds: list[str], faults: int, dice: random.Random) -> list[str]:
    """Every kind as often as every other, or once more, in random order."""
    rounds = [dice.sample(kinds, len(kinds)) for _ in range(-(-faults // len(kinds)))]
    return [kind for one in rounds for kind in one][:faults]


def usable(wanted: list[str], log: Log) -> list[str]:
    """The kinds of which this machine is capable; the log tells of the others."""
    no_disk, no_clock = disks.why_not(), "" if shutil.which("cc") else "no C compiler here"
    found = []
    for name in wanted:
        why = (KINDS[name].disk and no_disk) or (KINDS[name].clock and no_clock)
        if why:
            log({"event": "left out", "kind": name, "why": why})
        else:
            found.append(name)
    return found


def in_peace(workdir: Path, arguments: tuple[str, ...]) -> Cluster:
    """Starts the sweep undisturbed."""
    logs = workdir.with_name("quiet-logs")
    logs.mkdir()
    cluster = Cluster(workdir, arguments, logs, lambda record: None)
    cluster.start()
    return cluster


def its_end(quiet: Cluster) -> float:
    """Waits for the undisturbed sweep; returns the seconds since its start."""
    quiet.wait(lambda: bool(quiet.codes), 3600, again=False)
    if not quiet.finished:
        raise SystemExit(f"the undisturbed sweep did not end well: {quiet.said('error: ', 'FAILED ')}")
    return round(time.monotonic() - quiet.started, 1)


def under_faults(
    cluster: Cluster,
    disk: disks.Disk | None,
    kinds: list[str],
    dice: random.Random,
    log: Log,
    wrong: list[str],
    *,
    longest: float,
) -> None:
    """Does the faults one after another, `longest` seconds after it got on at most; adds to `wrong` what went wrong."""
    awaited: list[tuple[int, int, tuple[str, ...]]] = []
    # Faults after which it has not got on yet, and when they were over.
    open_: list[tuple[dict[str, Any], float]] = []

    def settle() -> None:
        last = open_[-1][1] if open_ else 0.0
        got_on = cluster.wait(lambda: cluster.got_on > max(last, cluster.started), 240)
        if not got_on and not cluster.finished:
            wrong.append(f"the sweep did not get on for 240 s: launch {cluster.launches}")
        while open_:
            record, over = open_.pop(0)
            log(record | {"until_it_got_on": round(time.monotonic() - over, 1)})

    for number, name in enumerate(kinds, 1):
        kind = KINDS[name]
        cluster.tick()
        if kind.early and dice.random() < 0.5:
            pause = dice.uniform(0.0, 2.25 * longest)  # while it starts, more often than not
        else:
            settle()
            pause = dice.uniform(0.0, longest)
        until = time.monotonic() + pause
        cluster.wait(lambda at=until: time.monotonic() > at, pause + 1)
        cluster.tick()  # it may just have ended
        if cluster.finished:
            wrong.append(
                f"the sweep was finished before fault {number} ({name}): {number - 1} were done to it"
            )
            break
        launch, began = cluster.launches, time.monotonic()
        seen = kind.do(cluster, disk, dice)
        open_.append((_record(number, name, launch, began, seen), time.monotonic()))
        cluster.tick()  # what it did before the fault is not what it does after it
        open_[-1] = (open_[-1][0], time.monotonic())
        wrong += [f"fault {number} ({name}): {text}" for text in seen.wrong]
        if seen.listen:
            awaited.append((number, launch, seen.listen))
    settle()
    if not cluster.wait(lambda: cluster.finished, 1800):
        wrong.append("the sweep did not end")
    for number, launch, words in awaited:
        said = cluster.said_since(launch, *words)
        log({"event": "heard", "number": number, "said": said[:300]})
        if not said:
            wrong.append(f"fault {number}: nothing was said of {words}")
    wrong += [f"run {run} was done twice" for run in cluster.done_twice]


def _record(number: int, name: str, launch: int, began: float, seen: Seen) -> dict[str, Any]:
    return {
        "event": "fault", "number": number, "kind": name, "launch": launch, "target": seen.target, "seen": seen.seen,
        "code": seen.code, "wrong": seen.wrong, "took": round(time.monotonic() - began, 1),
    }  # fmt: skip


def differences(quiet: Path, faulty: Path) -> list[str]:
    """What differs between the results of two folders; clocks are no result."""
    found = []
    tables = [reproducible(pl.read_parquet(w / "results.parquet")) for w in (quiet, faulty)]
    if not tables[0].equals(tables[1]):
        found.append("results.parquet differs")
    runs = tables[0]["run_id"].unique(maintain_order=True).to_list()
    files = ["results_by_cluster.parquet", "missing.json", *(f"runs/{run}/rewards.parquet" for run in runs)]
    found += [
        f"{name} differs" for name in files if (quiet / name).read_bytes() != (faulty / name).read_bytes()
    ]
    for run in runs:
        lines = [
            json.loads(x)["step"] for x in (faulty / "runs" / run / "metrics.jsonl").read_text().splitlines()
        ]
        if lines != list(range(len(lines))):
            found.append(f"the steps of {run} are not one after another")
    return found


def main(short: bool, faults: int, seed: int, workdir: Path, quiet: Path | None = None) -> int:
    """Both sweeps; returns the exit code."""
    workdir.mkdir(parents=True, exist_ok=True)
    if any(workdir.iterdir()):
        raise SystemExit(f"{workdir} holds something already: name an empty folder")
    log, dice = Log(workdir / "log.jsonl"), random.Random(seed)
    arguments = SHORT if short else LONG
    kinds = usable(list(SHORT_KINDS if short else KINDS), log)
    planned = schedule(kinds, len(kinds) if short else faults, dice)
    log({"event": "plan", "arguments": arguments, "seed": seed, "faults": planned})
    logs = workdir / "logs"
    logs.mkdir()
    with ExitStack() as resources:
        undisturbed = None
        if quiet is None:
            undisturbed = in_peace(quiet := workdir / "quiet", arguments)
            resources.callback(undisturbed.close)
            if not short:  # the short ones have a core each, side by side
                log({"event": "sweep", "which": "quiet", "seconds": its_end(undisturbed)})
        disk = None if disks.why_not() else resources.enter_context(disks.on_a_disk(workdir))
        faulty = workdir / "disk" / "sweep"
        cluster, began = Cluster(faulty, arguments, logs, log), time.monotonic()
        resources.callback(cluster.close)
        wrong: list[str] = []
        try:
            longest = SHORT_PAUSE if short else LONGEST_PAUSE
            under_faults(cluster, disk, planned, dice, log, wrong, longest=longest)
        except Refused as error:
            wrong.append(f"a cluster would have given up: {error}")
        if BAD_INPUT in cluster.codes:
            wrong.append(f"{cluster.codes.count(BAD_INPUT)} launches ended with exit code {BAD_INPUT}")
        seconds = round(time.monotonic() - began, 1)
        if undisturbed is not None and short:
            its_end(undisturbed)
        different = differences(quiet, faulty) if cluster.finished else ["no table"]
        keep(faulty, workdir / "faulty")
    log({"event": "sweep", "which": "faulty", "seconds": seconds, "launches": cluster.launches})
    compared = {"faults": len(planned), "different": different, "wrong": wrong}
    log({"event": "sweep", "which": "compared"} | compared)
    return 1 if different or wrong else 0


def keep(faulty: Path, to: Path) -> None:
    """Copies what the sweep left from a disk that goes."""
    if faulty.exists():
        shutil.copytree(faulty, to)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path)
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true")
    parser.add_argument(
        "--quiet", type=Path, help="the folder `quiet` of an earlier WORKDIR, instead of a new one"
    )
    options = parser.parse_args()
    sys.exit(main(options.short, options.faults, options.seed, options.workdir.absolute(), options.quiet))
