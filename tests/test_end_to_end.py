"""A language model of 103M parameters by transformers, trained here on eight devices, exported, scored three ways."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from rewardscale import flops
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.models import hf
from tests import reference
from tests.test_serve import Server
from tests.test_train import write_pairs
from tests.tokenizers_small import qwen3_directory

REPO = Path(__file__).parents[1]
CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 32_768,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 6,
    "head_dim": 64,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}


@reference.needs_reference
@pytest.mark.slow
def test_from_transformers_to_transformers(tmp_path: Path) -> None:
    """The rewards of the exported folder by transformers, by the file scorer and by the server are one."""
    worker = reference.Worker()
    worker.ask("make", directory=tmp_path / "base", config=CONFIG, seed=0, kind="causal", shard="100MB")
    qwen3_directory(tmp_path / "base")
    parameters = flops.parameters(hf.open_checkpoint(tmp_path / "base").model, embeddings=True)
    assert 95e6 < parameters < 105e6
    pairs = write_pairs(tmp_path / "pairs.jsonl", 24)

    flags = {
        "model": tmp_path / "base",
        "data": pairs,
        "recipe.dtype": "float32",
        "recipe.min_steps": 3,
        "recipe.pairs_per_step": 8,
        "recipe.learning_rate": 1e-4,
        "recipe.max_length": 512,
        "runtime.mesh": "2,2,2",
        "export_dtype": "float32",
    }
    overrides = [f"--config.{key}={value}" for key, value in flags.items()]
    eight = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "rewardscale.train"]
    trained = subprocess.run(
        [*command, "--config=train.py:ablation", f"--workdir={tmp_path / 'run'}", *overrides],
        cwd=REPO, env=eight, capture_output=True, text=True, timeout=1200, check=False,
    )  # fmt: skip
    assert trained.returncode == 0, trained.stderr[-3000:]
    assert "Involuntary full rematerialization" not in trained.stderr
    assert "24 pairs trained on in 3 steps" in trained.stdout
    model = tmp_path / "run" / "model"

    records = [json.loads(line) for line in pairs.read_text().splitlines()[:10]]
    chat = load_chat_tokenizer(model)
    texts = [
        chat.encode([{"role": "user", "content": r["prompt"]}, {"role": "assistant", "content": r[side]}])
        for r in records
        for side in ("chosen", "rejected")
    ]
    theirs = worker.ask("score", directory=model, sequences=texts)["rewards"]
    worker.close()
    assert np.std(theirs) > 1e-3

    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps(record) + "\n" for record in records))
    command = [sys.executable, "-m", "rewardscale.score", f"--model={model}", f"--input={few}"]
    subprocess.run([*command, f"--output={tmp_path / 'rewards.jsonl'}"], cwd=REPO, check=True, timeout=600)
    offline = [json.loads(line)["rewards"] for line in (tmp_path / "rewards.jsonl").read_text().splitlines()]
    np.testing.assert_allclose(np.ravel(offline), theirs, rtol=0, atol=1e-4)

    server = Server(model)
    try:
        server.line("ready")
        served = []
        for record in records:
            body = {"prompt": record["prompt"], "responses": [record["chosen"], record["rejected"]]}
            answer = httpx.post(f"{server.url}/score", json=body, timeout=60)
            assert answer.status_code == 200, answer.text
            served += answer.json()["rewards"]
    finally:
        server.process.terminate()
        server.process.wait(timeout=60)
    np.testing.assert_allclose(served, np.ravel(offline), rtol=0, atol=1e-5)
