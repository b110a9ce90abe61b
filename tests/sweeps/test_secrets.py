"""Keys that are in the environment are nowhere else: planted, and looked for in all that an executor writes or runs.

Configs, manifests, scripts, records, logs, what is printed, command lines of every process; plain, in base64, and in
what is compressed.
"""

import base64
import gzip
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pytest

from rewardscale import launch
from tests.sweeps.gcloud_stub import StubGcloud
from tests.sweeps.kubernetes_stub import stub_cluster
from tests.sweeps.launching import ROOT, TINY, start

NAMES = (
    "WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "OPENAI_API_KEY", "ANTHROPIC_API_KEY",
    "LABEL_STUDIO_API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "GOOGLE_API_KEY",
    "REWARDSCALE_TOKEN", "MY_JUDGE_KEY",
)  # fmt: skip
# 40 hex digits, as a key of wandb's.
SECRETS = {name: f"{i:02x}5ec7e7" * 5 for i, name in enumerate(NAMES, 0xA0)}


def encodings(secret: str) -> set[bytes]:
    """As it stands, and in base64 at each of its three offsets."""
    plain = secret.encode()
    shifted = (base64.b64encode(b"x" * n + plain)[4:-4] for n in range(3))
    return {plain, plain[::-1], *shifted}


def contents(path: Path) -> bytes:
    """What a file holds, unpacked."""
    if path.suffix == ".parquet":
        return pl.read_parquet(path).write_ndjson().encode()
    data = path.read_bytes()
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def leaks(*places: Path | str) -> list[str]:
    """Name of a secret and where it is, of folders' files (their names too) and of texts."""
    found = []
    for place in places:
        files = sorted(place.rglob("*")) if isinstance(place, Path) else []
        texts = {str(p): str(p).encode() + (contents(p) if p.is_file() else b"") for p in files}
        if isinstance(place, str):
            texts[place[:40]] = place.encode()
        for where, text in texts.items():
            found += [f"{n} in {where}" for n, s in SECRETS.items() if any(e in text for e in encodings(s))]
    return found


@pytest.fixture
def planted(monkeypatch) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)


def test_what_is_planted_is_found(tmp_path) -> None:
    """The search can fail: in a plain file, packed ones, a name, a text."""
    assert leaks(tmp_path, "nothing") == []
    secrets = iter(SECRETS.values())
    (tmp_path / "log").write_text(f"key={next(secrets)}")
    (tmp_path / "log.gz").write_bytes(gzip.compress(next(secrets).encode()))
    pl.DataFrame({"a": [next(secrets)] * 100}).write_parquet(tmp_path / "t.parquet", compression="zstd")
    (tmp_path / "b64").write_bytes(base64.b64encode(f"user:{next(secrets)}".encode()))
    (tmp_path / next(secrets)).touch()
    text = f"--key={next(secrets)}"
    assert sorted(line.split()[0] for line in leaks(tmp_path, text)) == sorted(NAMES[:6])


def run(capsys, *arguments: str) -> str:
    code = launch.main(list(arguments))
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out + captured.err


STUB = """#!/bin/bash
echo "$0 $@" >> {place}/command_lines
cat "${{@: -1}}" >> {place}/command_lines 2>/dev/null
echo 7
"""


@pytest.mark.parametrize("executor", ["slurm", "kubernetes", "tpu_vm", "wandb"])
def test_executors_hand_no_key_on(capsys, tmp_path, monkeypatch, planted, executor) -> None:
    """Dry run, submission, status: what is printed, what is written, and what their programs and servers are told."""
    volume, outside = tmp_path / "volume", tmp_path / "outside"
    outside.mkdir()
    monkeypatch.setenv("PATH", f"{outside}:{os.environ['PATH']}")
    flags: tuple[str, ...] = ("--wandb=online",)
    if executor == "slurm":
        for program in ("sbatch", "squeue"):
            (outside / program).write_text(
                STUB.format(place=outside) if program == "sbatch" else "#!/bin/sh\n"
            )
            (outside / program).chmod(0o755)
    elif executor == "tpu_vm":
        StubGcloud(outside)
        flags += ("--zone=us-west4-a", "--accelerator_type=v5litepod-8", f"--nfs=10.0.0.2:/vol1:{volume}")
        flags += ("--container=us-docker.pkg.dev/p/r/rewardscale:tpu",)
    elif executor == "kubernetes":
        flags += ("--image=registry/image:1", f"--volume=shared:{volume}")
    else:
        flags = ("--wandb=offline",)
    sweep = (*TINY, f"--workdir={volume / 'w'}", f"--executor={executor}", *flags)
    monkeypatch.setenv("KUBECONFIG", str(outside / "config"))
    with stub_cluster(outside / "config") as cluster:
        printed = run(capsys, *sweep, "--dry_run")
        printed += run(capsys, *sweep)
        printed += run(capsys, *sweep, "--status")
        told = str(cluster.jobsets) + str(cluster.asked)
    assert leaks(volume, outside, printed, told) == []
    handed = {
        "slurm": lambda: "--wandb=online" in (outside / "command_lines").read_text(),
        "kubernetes": lambda: "secretKeyRef" in told,  # by the name of a Secret
        "tpu_vm": lambda: "secrets versions access latest --secret=wandb" in printed,
        "wandb": lambda: "--cell" in printed or (volume / "w" / "wandb_sweep.yaml").exists(),
    }
    assert handed[executor]()


@contextmanager
def command_lines(of: int) -> Iterator[set[str]]:
    """Command lines of the processes of a session, for as long as the block lasts: looked at all the time."""
    seen: set[str] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for entry in Path("/proc").glob("[0-9]*"):
                try:
                    fields = (entry / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[3]) == of:
                        seen.add((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
                except (OSError, IndexError):
                    continue  # it has ended
            time.sleep(0.05)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        ((), 0),
        pytest.param(
            ("--config.learning_rates.w8=1e30", "--config.sweep.pairs=100"), 1, marks=SLOW, id="fails"
        ),
        pytest.param(
            ("--config.sweep.pairs=400", "--config.recipe.epochs=200"), 130, marks=SLOW, id="stopped"
        ),
    ],
)
def test_a_local_launch_writes_no_key(tmp_path, flags: tuple[str, ...], code: int) -> None:
    """Real processes, with wandb: a sweep that goes well, cells that fail, a launch that is stopped."""
    stopped = code == 130
    process = start(tmp_path, *TINY, *flags, "--wandb=offline", "--config.runtime.workers=2", **SECRETS)
    with command_lines(process.pid) as lines:
        until = time.monotonic() + 120
        while stopped and not list(tmp_path.glob("runs/*/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.2)
        if stopped:
            process.send_signal(signal.SIGTERM)
        out, error = process.communicate(timeout=240)
    assert process.returncode == code, error
    assert any("multiprocessing" in line for line in lines)
    if code == 0:
        assert list(tmp_path.glob("wandb/offline-run-*"))
    if code == 1:
        assert list(tmp_path.glob("runs/*/error.json")) and "FAILED" in error
    assert leaks(tmp_path, out, error, *lines) == []


# As the vendors write them.
KEY = re.compile(r"\b(sk-[\w-]{20,}|hf_\w{20,}|AKIA\w{16}|AIza[\w-]{30,}|gh[pos]_\w{30,})\b")


def test_no_file_of_ours_holds_what_looks_like_a_key() -> None:
    assert KEY.search("OPENAI_API_KEY=sk-proj-" + "aB3" * 10) and KEY.search(f"'hf_{'aB3' * 10}'")
    suspicious = []
    for folder in ("configs", "launch", "rewardscale"):
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix not in (".pyc", ".json"):
                found = KEY.findall(path.read_text(errors="replace"))
                suspicious += [f"{path.name}: {key[:12]}" for key in found]
    assert not suspicious
