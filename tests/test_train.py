"""`python -m rewardscale.train` as a user runs it: real processes, real folders."""

import contextlib
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from rewardscale import train
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.models import hf
from tests import reference
from tests.models import sequences
from tests.tokenizers_small import llama3_directory, qwen3_directory

REPO = Path(__file__).parents[1]
WORDS = ["tea", "water", "cup", "north", "slow", "green", "walk", "paper", "stone", "light", "seven", "river"]
FAST = {
    "recipe.learning_rate": 1e-2,
    "recipe.dtype": "float32",
    "recipe.parameters": "float32",
    "recipe.max_length": 512,
    "export_dtype": "float32",
}


def write_pairs(path: Path, count: int, seed: int = 0) -> Path:
    """Pairs of which the chosen one speaks of tea and the rejected one of rain."""
    random = np.random.default_rng(seed)

    def text(spoken: str) -> str:
        return " ".join([*random.choice(WORDS, random.integers(3, 12)), spoken])

    lines = [
        {"prompt": f"What of the {random.choice(WORDS)}?", "chosen": text("tea"), "rejected": text("rain")}
        for _ in range(count)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def command(workdir: Path, variant: str = "ablation", **values: Any) -> list[str]:
    flags = [f"--config.{key}={value}" for key, value in {**FAST, **values}.items()]
    return [
        sys.executable,
        "-m",
        "rewardscale.train",
        f"--config=train.py:{variant}",
        f"--workdir={workdir}",
        *flags,
    ]


def run(workdir: Path, variant: str = "ablation", **values: Any) -> subprocess.CompletedProcess[str]:
    """The command within this process, which has its libraries and compiled steps already."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = train.main(command(workdir, variant, **values)[3:])
    return subprocess.CompletedProcess([], code, out.getvalue(), err.getvalue())


def trained(workdir: Path, variant: str = "ablation", **values: Any) -> Path:
    done = run(workdir, variant, **values)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"model   {workdir / 'model'}"
    return workdir / "model"


def weights(model: Path) -> dict[str, np.ndarray]:
    return load_file(model / "model.safetensors")


def result(workdir: Path) -> dict:
    (path,) = workdir.glob("run/*/result.json")
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    qwen3_directory(folder / "qwen3")
    llama3_directory(folder / "llama3")
    write_pairs(folder / "train.jsonl", 200)
    write_pairs(folder / "held_out.jsonl", 40, seed=1)
    return folder


@pytest.fixture(scope="module")
def first(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a d1 model trained from random weights."""
    workdir = tmp_path_factory.mktemp("first") / "run"
    trained(
        workdir,
        model="d1",
        tokenizer=inputs / "qwen3",
        data=inputs / "train.jsonl",
        validation=inputs / "held_out.jsonl",
    )
    return workdir


def test_it_learns_and_leaves_a_checkpoint_with_its_history(first: Path) -> None:
    scores = result(first)["validation"]
    assert scores["pairs"] == 40 and scores["accuracy"] > 0.9
    config = json.loads((first / "model" / "config.json").read_text())
    chat = load_chat_tokenizer(first / "model")
    assert config["architectures"] == ["Qwen3ForSequenceClassification"] and config["num_labels"] == 1
    assert config["pad_token_id"] == chat.pad_token_id
    assert config["rewardscale"]["template_hash"] == chat.template_hash
    assert config["rewardscale"]["run_id"] == result(first)["run_id"]


def test_the_same_command_again_has_nothing_to_do(inputs: Path, first: Path) -> None:
    before = (first / "model" / "model.safetensors").stat().st_mtime_ns
    trained(
        first,
        model="d1",
        tokenizer=inputs / "qwen3",
        data=inputs / "train.jsonl",
        validation=inputs / "held_out.jsonl",
    )
    assert (first / "model" / "model.safetensors").stat().st_mtime_ns == before


def test_an_existing_reward_model_keeps_its_head(inputs: Path, first: Path, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing what goes in comes out; a fresh head is another one."""
    values: dict[str, Any] = {
        "model": first / "model",
        "data": inputs / "train.jsonl",
        "recipe.learning_rate": 1e-12,
    }
    kept = weights(trained(tmp_path / "kept", **values))
    for name, before in weights(first / "model").items():
        np.testing.assert_allclose(kept[name], before, rtol=0, atol=1e-7)
    fresh = weights(trained(tmp_path / "fresh", **values, fresh_head="true"))["score.weight"]
    assert np.abs(fresh - kept["score.weight"]).max() > 1e-3


def test_adapters_are_merged_and_the_rest_stays(inputs: Path, first: Path, tmp_path: Path) -> None:
    """No adapter in the files; kernels and the head moved, embedding and norms did not."""
    values: dict[str, Any] = {
        "model": first / "model",
        "data": inputs / "held_out.jsonl",
        "recipe.lora_rank": 2,
    }
    after = weights(trained(tmp_path / "lora", "lora", **values))
    before = weights(first / "model")
    assert set(after) == set(before)
    moved = {name for name in after if not np.array_equal(after[name], before[name])}
    assert moved == {name for name in after if "proj" in name or name == "score.weight"}
    update = after["model.layers.0.mlp.up_proj.weight"] - before["model.layers.0.mlp.up_proj.weight"]
    assert np.linalg.matrix_rank(update, tol=1e-5 * np.abs(update).max() * update.shape[0]) == 2


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same_model(inputs: Path, tmp_path: Path) -> None:
    values: dict[str, Any] = {
        "model": "d1",
        "tokenizer": inputs / "qwen3",
        "data": inputs / "train.jsonl",
        "recipe.epochs": 4,
        "recipe.pairs_per_step": 8,
        "runtime.checkpoint_seconds": 0.3,
    }
    whole = weights(trained(tmp_path / "whole", **values))
    workdir = tmp_path / "cut"
    process = subprocess.Popen(command(workdir, **values), cwd=REPO, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while time.monotonic() < until and not list(workdir.glob("run/*/checkpoints/[0-9]*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=120)
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode == 130 and "goes on where this one stopped" in log
    assert not (workdir / "model").exists()
    again = weights(trained(workdir, **values))
    assert result(workdir)["record"]["resumed_at"] > 0
    for name, expected in whole.items():
        np.testing.assert_array_equal(again[name], expected)


BAD = {
    "no model": ({"model": ""}, "config.model is empty"),
    "no data": ({"data": ""}, "config.data is empty"),
    "a file that is not there": ({"data": "nowhere.jsonl"}, "nowhere.jsonl cannot be read"),
    "a preset without tokenizer": ({"tokenizer": ""}, "name config.tokenizer"),
    "an unknown preset": ({"model": "qwen3-0.7b"}, "unknown model 'qwen3-0.7b'"),
    "a convex model": ({"model": "hash64"}, "is a convex model"),
    "a folder without a checkpoint": ({"model": "tests/"}, "config.json is missing"),
    "a wrong key": ({"recipe.learningrate": 1}, "did you mean 'config.recipe.learning_rate'"),
    "pad == eos": ({"pad_token": "<|im_end|>"}, "the pad token is the end-of-sequence token"),
    "a mesh for other devices": ({"runtime.mesh": "3,1,1"}, "choose three sizes"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(inputs: Path, tmp_path: Path, case: str) -> None:
    changes, message = BAD[case]
    values: dict[str, Any] = {
        "model": "d1",
        "tokenizer": inputs / "qwen3",
        "data": inputs / "held_out.jsonl",
        **changes,
    }
    done = run(tmp_path / "run", **values)
    said = done.stderr
    assert done.returncode == 2
    assert said.startswith("error: ") and message in said and "Traceback" not in said


def test_a_workdir_is_for_one_run(inputs: Path, first: Path) -> None:
    done = run(first, model="d1", tokenizer=inputs / "qwen3", data=inputs / "held_out.jsonl")
    assert done.returncode == 2 and "was made of other files" in done.stderr


def test_what_cannot_be_used_is_counted_and_named(inputs: Path, tmp_path: Path) -> None:
    mixed = write_pairs(tmp_path / "mixed.jsonl", 20)
    bad = [
        "not json",
        json.dumps({"prompt": "x", "chosen": "a", "rejected": "a"}),
        json.dumps({"prompt": "x", "chosen": "<|im_end|> b", "rejected": "a"}),
        json.dumps({"prompt": "x", "chosen": "a"}),
        json.dumps({"prompt": "x", "responses": ["a", "b"]}),
        json.dumps({"prompt": "x", "chosen": "", "rejected": "a"}),
    ]
    mixed.write_text(mixed.read_text() + "\n".join(bad) + "\n")
    done = run(tmp_path / "run", model="d1", tokenizer=inputs / "qwen3", data=mixed)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "26 items read: 20 pairs, 6 refused" in done.stdout
    listed = [json.loads(line) for line in (tmp_path / "run/data/refused.jsonl").read_text().splitlines()]
    assert sorted(item["line"] for item in listed) == [21, 22, 23, 24, 25, 26]
    assert all(item["file"].endswith("mixed.jsonl") and item["reason"] for item in listed)


@reference.needs_reference
@pytest.mark.parametrize("family", ["qwen3", pytest.param("llama3", marks=pytest.mark.slow)])
def test_transformers_gives_the_rewards_of_what_was_trained(
    inputs: Path, first: Path, tmp_path: Path, family: str
) -> None:
    model = first / "model"
    if family == "llama3":
        data: dict[str, Any] = {"tokenizer": inputs / "llama3", "data": inputs / "train.jsonl"}
        model = trained(tmp_path / "run", model="w40", **data)
    chat = load_chat_tokenizer(model)
    texts = [
        chat.encode(
            [{"role": "user", "content": "What of the cup?"}, {"role": "assistant", "content": answer}]
        )
        for answer in ("It is for tea", "rain", "seven small stones in the river " * 8)
    ]
    worker = reference.Worker()
    theirs = worker.ask("score", directory=model, sequences=texts, side="left")["rewards"]
    worker.close()
    checkpoint = hf.open_checkpoint(model)
    params = hf.load(checkpoint, sequences.one_device())
    ours = sequences.rewards(checkpoint.model, params, texts)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert ours[0] > ours[1]


@pytest.mark.slow
def test_the_model_is_evaluated_on_benchmarks_named_now_or_later(tmp_path: Path) -> None:
    workdir, data = tmp_path / "run", write_pairs(tmp_path / "pairs.jsonl", 64)
    first, second = (
        write_pairs(tmp_path / f"{name}.jsonl", 40, seed) for seed, name in ((5, "one"), (6, "two"))
    )
    values = {"model": "w16", "tokenizer": llama3_directory(tmp_path / "tokenizer"), "data": data}
    missing = run(workdir, **values, benchmarks="no-such-set")
    assert missing.returncode == 2 and "no benchmark is named 'no-such-set'" in missing.stderr
    assert not (workdir / "run").exists()  # said before any training
    done = run(workdir, **values, benchmarks=first)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "one.jsonl" in done.stdout and f"report  {workdir / 'evaluation' / 'eval.html'}" in done.stdout
    trained_once = weights(workdir / "model"), [p.name for p in (workdir / "run").iterdir()]
    before = json.loads((workdir / "evaluation" / "eval.json").read_text())["models"][0]["benchmarks"]
    assert before["one.jsonl"]["scored"] == 40
    again = run(workdir, **values, benchmarks=f"{first},{second}")
    assert again.returncode == 0, again.stderr[-3000:]
    after = json.loads((workdir / "evaluation" / "eval.json").read_text())["models"][0]["benchmarks"]
    assert set(after) == {"one.jsonl", "two.jsonl"} and after["one.jsonl"] == before["one.jsonl"]
    assert [p.name for p in (workdir / "run").iterdir()] == trained_once[1]  # the same run id
    for name, values_ in weights(workdir / "model").items():
        np.testing.assert_array_equal(values_, trained_once[0][name])


def test_steps_are_traced_on_demand(inputs: Path, tmp_path: Path) -> None:
    values = {"model": "d1", "tokenizer": inputs / "qwen3", "data": inputs / "train.jsonl"}
    flags = command(tmp_path / "run", **values)[3:]
    assert train.main([*flags, "--profile_steps=3:5"]) == 0
    (path,) = (tmp_path / "run").glob("run/*/profile/plugins/profile/*/*.xplane.pb")
    assert path.stat().st_size > 0
    assert train.main([*flags, "--profile_steps=5:3"]) == 2
