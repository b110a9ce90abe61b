"""`python -m rewardscale.train` on two hosts: two processes, one shared folder, one model."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from tests.test_train import FAST, result, write_pairs
from tests.tokenizers_small import qwen3_directory
from tests.training.hosts import finished, said, started


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    qwen3_directory(folder / "qwen3")
    write_pairs(folder / "train.jsonl", 120)
    write_pairs(folder / "held_out.jsonl", 24, seed=1)
    return folder


def command(inputs: Path, workdir: Path, **values: Any) -> list[str]:
    given = FAST | {
        "model": "d1", "tokenizer": inputs / "qwen3", "data": inputs / "train.jsonl",
        "validation": inputs / "held_out.jsonl", "runtime.mesh": "1,2,1", "runtime.steps_per_dispatch": 2,
        "benchmarks": inputs / "held_out.jsonl", **values,
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in given.items()]
    return [
        sys.executable,
        "-m",
        "rewardscale.train",
        "--config=train.py:ablation",
        f"--workdir={workdir}",
        *flags,
    ]


def trained(inputs: Path, workdir: Path, processes: int, **values: Any) -> None:
    logs = workdir.parent / f"{workdir.name}-logs"
    with started(command(inputs, workdir, **values), processes, devices=2, logs=logs) as running:
        codes = finished(running, logs)
    assert codes == [0] * processes, said(logs)
    first, *others = (path.read_text() for path in sorted(logs.glob("*.txt")))
    assert f"model   {workdir / 'model'}" in first
    assert not any("validation" in text or "steps" in text for text in others)  # host 0 alone speaks


def assert_same_model(ours: Path, theirs: Path) -> None:
    """To what rounding becomes in a training."""
    expected = load_file(theirs / "model" / "model.safetensors")
    for name, tensor in load_file(ours / "model" / "model.safetensors").items():
        np.testing.assert_allclose(tensor, expected[name], rtol=1e-3, atol=2e-4, err_msg=name)


@pytest.mark.slow
def test_two_hosts_leave_the_model_that_one_leaves(inputs: Path, tmp_path: Path) -> None:
    for processes in (1, 2):
        trained(inputs, tmp_path / str(processes), processes)
    alone, both = (result(tmp_path / name) for name in "12")
    assert both["run_id"] == alone["run_id"] and both["read"] == 144
    assert both["record"]["batches"] == alone["record"]["batches"]
    for name in ("accuracy", "loss"):
        np.testing.assert_allclose(both["validation"][name], alone["validation"][name], rtol=1e-3)
    tables = [
        pl.read_parquet(tmp_path / name / "evaluation" / "rewards.parquet").sort("text") for name in "12"
    ]
    assert tables[0]["text"].to_list() == tables[1]["text"].to_list() and len(tables[0]) >= 40
    np.testing.assert_allclose(tables[1]["reward"], tables[0]["reward"], rtol=1e-2, atol=1e-3)
    assert_same_model(tmp_path / "2", tmp_path / "1")
    trained(inputs, tmp_path / "2", 2)  # again: nothing to do, and no host waits for one that does nothing
    assert result(tmp_path / "2") == both


@pytest.mark.slow
def test_two_hosts_adapt_a_checkpoint_as_one_does(inputs: Path, tmp_path: Path) -> None:
    """Weights read by parts, adapters merged and gathered again, over hosts."""
    trained(inputs, tmp_path / "start", 1, benchmarks="")
    for processes in (1, 2):
        values = {"model": tmp_path / "start" / "model", "recipe.lora_rank": 2, "benchmarks": ""}
        trained(inputs, tmp_path / str(processes), processes, **values)
    assert_same_model(tmp_path / "2", tmp_path / "1")
    before = load_file(tmp_path / "start" / "model" / "model.safetensors")
    after = load_file(tmp_path / "2" / "model" / "model.safetensors")
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    assert any("q_proj" in name for name in moved) and not any(
        "embed" in name or "norm" in name for name in moved
    )
