"""`build` and `train` with a URL, on a real S3 server."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from rewardscale import build
from rewardscale.data.levels import read_level
from rewardscale.remote import objects
from tests import object_store
from tests.sweeps.launching import environment
from tests.test_train import command, write_pairs
from tests.tokenizers_small import qwen3_directory

pytestmark = object_store.needs_s3


@pytest.fixture(scope="module")
def endpoint():
    with object_store.server() as found:
        yield found


@pytest.fixture(autouse=True)
def reached(endpoint, tmp_path, monkeypatch):
    for name, value in object_store.environment(endpoint, tmp_path / "here").items():
        monkeypatch.setenv(name, value)
    objects._open.cache_clear()
    yield
    objects._open.cache_clear()


def test_a_corpus_is_built_to_a_url_and_read_from_it(tmp_path, monkeypatch, capsys):
    url = f"s3://{object_store.BUCKET}/corpora/tea"
    source = write_pairs(tmp_path / "pairs.jsonl", 60)
    arguments = [f"--source={source}", "--engine=inline"]
    assert build.main([*arguments, f"--out={url}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"corpus  {url} (")
    assert build.main([*arguments, f"--out={tmp_path / 'local'}"]) == 0
    there = objects.Objects(url)
    local = {p.relative_to(tmp_path / "local").as_posix(): p for p in (tmp_path / "local").rglob("*")}
    local = {name: path for name, path in local.items() if path.is_file() and not name.startswith(".")}
    assert set(there.names()) == set(local)
    assert {"corpus/corpus.json", "levels/raw/level.json", "build.json"} <= set(local)
    for name in local:
        assert there.read(name) == local[name].read_bytes(), name
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    found, wanted = read_level(f"{url}/levels/raw"), read_level(tmp_path / "local" / "levels" / "raw")
    assert found.fingerprint == wanted.fingerprint
    np.testing.assert_array_equal(found.rows, wanted.rows)
    there.delete("corpus/corpus.json")
    assert build.main([*arguments, f"--out={url}"]) == 0  # its record is there, so it is left alone
    assert there.read("corpus/corpus.json") is None
    there.delete("build.json")
    assert build.main([*arguments, f"--out={url}"]) == 0
    assert set(there.names()) == set(local)


@pytest.mark.slow
def test_a_training_goes_on_on_another_machine_and_gives_the_same_model(endpoint, tmp_path):
    url = f"s3://{object_store.BUCKET}/trained"
    qwen3_directory(tmp_path / "qwen3")
    write_pairs(tmp_path / "train.jsonl", 200)
    values = {
        "model": "d1",
        "tokenizer": tmp_path / "qwen3",
        "data": tmp_path / "train.jsonl",
        "recipe.epochs": 8,
        "recipe.pairs_per_step": 8,
        "runtime.checkpoint_seconds": 0.1,
        "runtime.steps_per_dispatch": 4,
        "runtime.lease_seconds": 6,
    }

    def start(place: object, name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(place, **values),  # pyright: ignore[reportArgumentType]
            cwd=object_store.REPO,
            env=environment(**object_store.environment(endpoint, tmp_path / name)),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    whole = start(tmp_path / "whole", "local")
    out, error = whole.communicate(timeout=240)
    assert whole.returncode == 0, error
    first = start(url, "one")
    there, until = objects.Objects(url), time.monotonic() + 120
    while not (steps := re.findall(r"checkpoints/(\d+)\.json", " ".join(there.names("run/")))):
        assert first.poll() is None and time.monotonic() < until, first.communicate()
        time.sleep(0.02)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    assert there.read("model/config.json") is None
    second = start(url, "two")
    out, error = second.communicate(timeout=240)
    assert second.returncode == 0, error
    assert out.splitlines()[-1] == f"model   {url}/model"
    record = next(
        json.loads(p.read_text()) for p in tmp_path.glob("two/rewardscale/workdirs/*/run/*/result.json")
    )
    assert record["record"]["resumed_at"] >= int(steps[-1]) > 0
    expected = load_file(tmp_path / "whole" / "model" / "model.safetensors")
    stored = there.read("model/model.safetensors")
    assert stored is not None
    found = load(stored)
    assert found.keys() == expected.keys()
    for name, values_of in expected.items():
        np.testing.assert_array_equal(found[name], values_of)

    third = start(url, "three")  # has nothing to do, and the model comes to it
    out, error = third.communicate(timeout=240)
    assert third.returncode == 0, error
    (brought,) = tmp_path.glob("three/rewardscale/workdirs/*/model/model.safetensors")
    assert brought.read_bytes() == stored
    assert Path(brought.parent / "config.json").is_file()
