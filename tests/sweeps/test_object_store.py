"""A sweep on an S3 server, by workers that share nothing but the bucket: real processes, killed and cut off."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import polars as pl
import pytest

from rewardscale.remote import objects
from rewardscale.sweeps.results import reproducible
from tests import object_store
from tests.sweeps.launching import TINY, launch, start
from tests.sweeps.test_trunks import LEAVE, ONE_DRAW, TRUNKS, began

pytestmark = [pytest.mark.slow, object_store.needs_s3]

URL = f"s3://{object_store.BUCKET}/sweep"
ALONE = (*TINY, "--config.runtime.workers=1", "--config.runtime.lease_seconds=5")
LONG = (
    *ALONE,
    "--config.sweep.pairs=700",
    "--config.sweep.levels=gold",
    "--config.recipe.epochs=60",
    "--config.runtime.checkpoint_seconds=0.1",
    "--config.runtime.steps_per_dispatch=8",
)


@pytest.fixture
def endpoint(monkeypatch):
    with object_store.server() as found:
        for name, value in object_store.environment(found).items():
            monkeypatch.setenv(name, value)
        objects._open.cache_clear()
        yield found
    objects._open.cache_clear()


def stored() -> objects.Objects:
    return objects.Objects(URL)


def table_of(data: bytes | None) -> pl.DataFrame:
    assert data is not None
    return reproducible(pl.read_parquet(data))


def machine(endpoint: str, tmp_path: Path, name: str) -> dict[str, str]:
    return object_store.environment(endpoint, tmp_path / name)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, error = process.communicate(timeout=240)
    return process.returncode, out, error


def test_two_machines_share_a_sweep_and_its_table_is_the_local_one(endpoint, tmp_path):
    code, _, error = launch(tmp_path / "local", *ALONE)
    assert code == 0, error
    workers = [start(URL, *ALONE, **machine(endpoint, tmp_path, name)) for name in ("one", "two")]
    for worker in workers:
        code, out, error = finish(worker)
        assert code == 0, error
        assert f"report  {URL}/report.html" in out
    there = stored()
    local = (tmp_path / "local" / "results.parquet").read_bytes()
    assert table_of(there.read("results.parquet")).equals(table_of(local))
    assert there.read("missing.json") == (tmp_path / "local" / "missing.json").read_bytes()
    assert b"<html" in (there.read("report.html") or b"")
    # Each cell was trained by one of them: the files of one commit each, and on one disk alone.
    done = [name for name in there.names("runs/") if name.endswith("/result.json")]
    assert len(done) == 4 and len({name.split("/")[1] for name in done}) == 4
    trained = [path.parts[-2] for path in tmp_path.glob("*/rewardscale/workdirs/*/runs/*/checkpoints")]
    assert sorted(trained) == sorted(name.split("/")[1] for name in done)
    assert len(list(tmp_path.glob("*/rewardscale/workdirs"))) == 2

    code, out, error = launch(URL, *ALONE, "--status", **machine(endpoint, tmp_path, "three"))
    assert (code, out) == (0, "4 cells: 4 done\n"), error
    before = there.names()
    code, out, error = launch(URL, *ALONE, **machine(endpoint, tmp_path, "three"))
    assert code == 0 and there.names() == before, error


def test_a_killed_machines_cell_goes_on_elsewhere_from_its_last_checkpoint(endpoint, tmp_path):
    code, _, error = launch(tmp_path / "local", *LONG)
    assert code == 0, error
    patient = (*LONG, "--config.runtime.lease_seconds=40")  # --status has half of it to look
    first = start(URL, *patient, **machine(endpoint, tmp_path, "one"))
    until = time.monotonic() + 120
    there = stored()
    while not (uploaded := re.findall(r"checkpoints/(\d+)\.json", " ".join(there.names("runs/")))):
        assert first.poll() is None and time.monotonic() < until, finish(first)
        time.sleep(0.05)
    os.killpg(first.pid, signal.SIGSTOP)
    code, out, error = launch(URL, *patient, "--status", **machine(endpoint, tmp_path, "looker"))
    assert "1 running" in out, (out, error)
    os.killpg(first.pid, signal.SIGKILL)
    finish(first)
    assert not [name for name in there.names("runs/") if name.endswith("done.json")]
    time.sleep(20)
    code, out, error = launch(URL, *patient, "--status", **machine(endpoint, tmp_path, "looker"))
    assert out == "1 cells: 1 not started\n", (out, error)

    code, _, error = launch(URL, *patient, **machine(endpoint, tmp_path, "two"))
    assert code == 0, error
    result = next(json.loads(p.read_bytes()) for p in tmp_path.glob("two/rewardscale/*/*/runs/*/result.json"))
    assert result["record"]["resumed_at"] >= int(uploaded[-1]) > 0
    local = (tmp_path / "local" / "results.parquet").read_bytes()
    assert table_of(there.read("results.parquet")).equals(table_of(local))


def test_a_stopped_machine_hands_its_cell_over_at_once(endpoint, tmp_path):
    patient = (*LONG, "--config.runtime.lease_seconds=100000", "--config.runtime.checkpoint_seconds=1000")
    first = start(URL, *patient, **machine(endpoint, tmp_path, "one"))
    until = time.monotonic() + 120
    while not any(p.stat().st_size for p in tmp_path.glob("one/rewardscale/*/*/runs/*/metrics.jsonl")):
        assert first.poll() is None and time.monotonic() < until, finish(first)
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGTERM)
    assert finish(first)[0] == 130
    code, _, error = launch(URL, *patient, **machine(endpoint, tmp_path, "two"))
    assert code == 0, error
    result = next(json.loads(p.read_bytes()) for p in tmp_path.glob("two/rewardscale/*/*/runs/*/result.json"))
    assert result["record"]["resumed_at"] > 0


def test_what_runs_share_reaches_other_machines(endpoint, tmp_path):
    shared = (*TRUNKS, *ONE_DRAW, "--config.runtime.workers=1", "--config.runtime.lease_seconds=5")
    code, _, error = launch(tmp_path / "local", *shared)
    assert code == 0, error
    local = (tmp_path / "local" / "results.parquet").read_bytes()
    ids = dict(pl.read_parquet(local).select("pairs", "run_id").unique().iter_rows())
    code, _, error = launch(URL, *shared, f"--cell={ids[700]}", **machine(endpoint, tmp_path, "one"))
    assert code == 0, error
    code, _, error = launch(URL, *shared, **machine(endpoint, tmp_path, "two"))
    assert code == 0, error
    (workdir,) = tmp_path.glob("two/rewardscale/workdirs/*")
    assert began(workdir) == {100: [LEAVE[100]], 250: [LEAVE[250]], 700: [0]}
    assert table_of(stored().read("results.parquet")).equals(table_of(local))


def test_a_throttling_store_changes_nothing_but_the_time(endpoint, tmp_path):
    refused: list[str] = []

    def fate(method: str, path: str, number: int) -> int | None:
        if number % 4 == 0:
            refused.append(method)
            return 503
        return None

    code, _, error = launch(tmp_path / "local", *ALONE, "--config.sweep.levels=gold")
    assert code == 0, error
    with object_store.proxy(endpoint, fate) as slow:
        code, _, error = launch(
            URL, *ALONE, "--config.sweep.levels=gold", "--config.runtime.lease_seconds=60",
            **machine(slow, tmp_path, "one"),
        )  # fmt: skip
    assert code == 0, error
    assert len(refused) > 20 and {"GET", "PUT"} <= set(refused)
    local = (tmp_path / "local" / "results.parquet").read_bytes()
    assert table_of(stored().read("results.parquet")).equals(table_of(local))


def test_a_store_that_goes_away_is_one_error_and_nothing_half_written_is_used(endpoint, tmp_path):
    gone: list[int] = []

    def fate(method: str, path: str, number: int) -> int | None:
        if gone or (method == "PUT" and "/checkpoints/" in path and path.endswith("manifest.ocdbt")):
            gone.append(number)  # in the middle of a checkpoint
            return 503
        return None

    with object_store.proxy(endpoint, fate) as dying:
        code, _, error = launch(
            URL, *LONG, **machine(dying, tmp_path, "one"), **{objects.RETRIES_VARIABLE: "1"}
        )
    assert gone and code == 75, error
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert len(lines) == 1 and URL in lines[0] and "Traceback" not in error
    there = stored()
    assert [name for name in there.names("runs/") if "/checkpoints/" in name]  # what was put before
    assert not [name for name in there.names("runs/") if re.search(r"checkpoints/\d+\.json|done", name)]
    code, _, error = launch(URL, *LONG, **machine(endpoint, tmp_path, "two"))
    assert code == 0, error
    result = next(json.loads(p.read_bytes()) for p in tmp_path.glob("two/rewardscale/*/*/runs/*/result.json"))
    assert result["record"]["resumed_at"] == 0


def test_bad_places_are_one_line(endpoint, tmp_path):
    for place, message in (
        ("s3://no-such-bucket/x", "s3://no-such-bucket/x cannot be reached"),
        ("abfs://box/x", "pip install adlfs"),
        ("memory://x", "ends with the process"),
    ):
        code, _, error = launch(place, *ALONE, **machine(endpoint, tmp_path, "one"))
        assert code == 2 and message in error and error.count("error:") == 1, error
