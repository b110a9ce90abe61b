"""python -m rewardscale.verify: real processes on small models, good ones and ones with a planted fault."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rewardscale.config import ConfigError
from rewardscale.data.chat import load_chat_tokenizer
from rewardscale.evaluation import certificate_cases, certificate_run, reference_legs
from tests import reference, scoring_small

REPO = Path(__file__).parents[1]


def verify(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command, on one device."""
    return subprocess.run(
        [sys.executable, "-m", "rewardscale.verify", *map(str, arguments)],
        cwd=REPO, env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def edit(path: Path, **changes: Any) -> None:
    """Changes keys of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def model(path: Path, family: str, **changes: Any) -> Path:
    """A small model with a context of 512 tokens, and in config.json what a training of ours records."""
    scoring_small.model_directory(path, family=family)
    chat = load_chat_tokenizer(path)
    recorded = {
        "template_hash": chat.template_hash,
        "tokenizer_hash": chat.tokenizer_hash,
        "date": chat.date,
        "reward_token": {"id": chat.reward_token.id, "text": chat.reward_token.text},
    }
    edit(path / "config.json", max_position_embeddings=512, rewardscale=recorded, **changes)
    return path


def flip_a_bit(path: Path) -> None:
    """In the exponent of one number of the reward head."""
    tensors = load_file(path / "model.safetensors")
    tensors["score.weight"].view(np.uint32)[0, 5] ^= 1 << 23
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})


def rows(certificate: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["leg"]: row for row in certificate["rows"]}


@reference.needs_reference
@pytest.mark.parametrize("family", ["qwen3", pytest.param("llama", marks=pytest.mark.slow)])
def test_a_good_model_passes(tmp_path: Path, family: str) -> None:
    done = verify(
        model(tmp_path / "m", family),
        f"--json={tmp_path}/c.json",
        REWARDSCALE_REFERENCE=str(reference.PYTHON),
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "PASS"
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["passed"] and not found["problems"] and found["truth"] == "HF, float32"
    legs = rows(found)
    compared = {row["compared"] for name, row in legs.items() if row["state"] != "not installed"}
    assert len(compared) == 1 and 80 < compared.pop() < len(certificate_cases.conversations())
    for name in ("ours, float32", "HF, float32, padded right", "HF, float32, padded left"):
        assert legs[name]["state"] == "passed" and legs[name]["worst"] < 1e-4, legs[name]
    assert legs["ours, float32"]["worst"] > 0  # two programs did compute
    assert legs["ours, exported and reloaded"]["worst"] == legs["HF, float32, our export"]["worst"] == 0
    assert 1e-4 < legs["ours, bfloat16"]["worst"] <= legs["ours, bfloat16"]["tolerance"]
    assert legs["HF, bfloat16"]["state"] == "measured" and legs["HF, bfloat16"]["worst"] > 1e-4
    assert {legs[f"{name}, bfloat16"]["state"] for name in ("vLLM", "SGLang")} == {"not installed"}
    chat = load_chat_tokenizer(tmp_path / "m")
    for value in (
        chat.template_hash,
        chat.tokenizer_hash,
        found["facts"]["weights"],
        repr(chat.reward_token.text),
    ):
        assert value in done.stdout
    assert ("the template prints the day" in done.stdout) == (family == "llama")
    assert "several pages: left out: too long" in done.stdout
    assert "special tokens in the response: left out" in done.stdout
    assert found["facts"]["versions"]["reference transformers"] in done.stdout
    by_name = {one["name"]: one for one in found["conversations"]}
    assert len(by_name["one turn (1)"]["rewards"]) == 8 and by_name["several pages (1)"]["tokens"] is None
    assert np.ptp([one["rewards"]["HF, float32"] for one in by_name.values() if one["tokens"]]) > 1


@pytest.mark.slow
@reference.needs_reference
def test_what_differs_between_transformers_and_us_is_found(tmp_path: Path) -> None:
    """A tokenizer that its class builds otherwise, a template edited after training, two pad tokens."""
    path = model(tmp_path / "m", "qwen3")
    tokenizer = json.loads((path / "tokenizer.json").read_text())
    tokenizer["normalizer"] = None  # Qwen2Tokenizer composes characters (NFC), whatever the file says
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    template = (path / "chat_template.jinja").read_text()
    (path / "chat_template.jinja").write_text(
        template.replace("'<|im_start|>assistant\\n'", "'<|im_start|>assistant:\\n'")
    )
    edit(path / "tokenizer_config.json", pad_token="<|vision_pad|>")
    broken = broken_vllm(tmp_path)
    done = verify(path, f"--reference={broken}", f"--json={tmp_path}/c.json")
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    legs = rows(found)
    assert not found["passed"] and done.stdout.splitlines()[-1].startswith("FAIL: ")
    assert "token ids of combining marks (2) differ first at position " in done.stdout
    assert legs["ours, float32"]["state"] == "FAILED"
    assert legs["ours, float32"]["worst_at"].startswith("combining marks ")
    assert legs["HF, float32, padded right"]["state"] == "FAILED"
    assert "reads the reward of a padded conversation at a pad token" in done.stdout
    assert "trained with template hash" in done.stdout and "trained with tokenizer hash" in done.stdout
    assert (
        legs["vLLM, bfloat16"]["state"] == "FAILED" and "this vllm is broken" in legs["vLLM, bfloat16"]["why"]
    )
    assert legs["SGLang, bfloat16"]["state"] == "not installed"


def broken_vllm(folder: Path) -> Path:
    """A Python as the reference environment's, and a vllm that cannot be imported."""
    packages = folder / "packages"
    (packages / "vllm-9.9.dist-info").mkdir(parents=True)
    (packages / "vllm-9.9.dist-info" / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: vllm\nVersion: 9.9\n"
    )
    (packages / "vllm.py").write_text("raise RuntimeError('this vllm is broken')\n")
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={packages} exec {reference.PYTHON} "$@"\n')
    python.chmod(0o755)
    return python


@pytest.mark.slow
@reference.needs_reference
def test_weights_that_change_between_legs_are_found(tmp_path: Path) -> None:
    path = model(tmp_path / "m", "llama")

    def progress(what: str, done: int, total: int) -> None:
        if what == "HF, float32":
            flip_a_bit(path)

    found = certificate_run.certify(path, reference.PYTHON, progress=progress)
    states = {row.leg: row.state for row in found.rows}
    assert not found.passed and any(
        "changed while they were verified" in problem for problem in found.problems
    )
    assert states["ours, float32"] == "FAILED" and states["ours, exported and reloaded"] == "passed"


@pytest.mark.slow
def test_ours_alone(tmp_path: Path) -> None:
    path = model(tmp_path / "m", "llama")
    done = verify(path, "--without_reference", f"--json={tmp_path}/c.json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    assert found["truth"] == "ours, float32"
    assert {name: row["state"] for name, row in rows(found).items()} == {
        "ours, bfloat16": "measured", "ours, exported and reloaded": "passed",
    }  # fmt: skip
    assert "nothing was compared with transformers" in done.stdout and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_pad_is_the_end_of_a_turn(tmp_path: Path, family: str) -> None:
    path = model(tmp_path / "m", family)
    chat = load_chat_tokenizer(path)
    assert chat.eos_token is not None
    edit(path / "config.json", pad_token_id=chat.tokenizer.token_to_id(chat.eos_token))
    done = verify(path, "--without_reference")
    assert (
        done.returncode == 2
        and f"the pad token is the end-of-sequence token {chat.eos_token!r}" in done.stderr
    )


def test_a_tokenizer_that_doubles_the_first_token(tmp_path: Path) -> None:
    path = model(tmp_path / "m", "llama")
    template = (path / "chat_template.jinja").read_text()
    (path / "chat_template.jinja").write_text(template.replace("{{- bos_token }}", ""))
    done = verify(path, "--without_reference")
    assert done.returncode == 2 and "adds ['<|begin_of_text|>']" in done.stderr


def test_an_end_from_outside_leaves_nothing_behind(tmp_path: Path) -> None:
    path, temporary = model(tmp_path / "m", "llama"), tmp_path / "temporary"
    temporary.mkdir()
    command = [sys.executable, "-m", "rewardscale.verify", str(path), "--without_reference"]
    with subprocess.Popen(
        command, cwd=REPO, env=os.environ | {"TMPDIR": str(temporary)}, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        while not list(temporary.rglob("request.json")):  # a leg has begun
            assert running.poll() is None, running.stderr.read()
            time.sleep(0.1)
        running.terminate()
        running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM and not list(temporary.iterdir())


def test_bad_input_is_said_at_once(tmp_path: Path) -> None:
    path = model(tmp_path / "m", "qwen3")
    for arguments, message in (
        ([tmp_path / "nothing", "--without_reference"], "nothing"),
        ([path, f"--reference={tmp_path}/python"], "`make reference`"),
        ([path, f"--reference={sys.executable}"], "has no torch and no transformers"),
    ):
        done = verify(*arguments)
        assert done.returncode == 2 and message in done.stderr and not done.stdout, done.stderr
    with pytest.raises(ConfigError, match="REWARDSCALE_REFERENCE"):
        certificate_run.find_reference(tmp_path)


def test_no_module_of_ours_imports_torch_or_transformers(tmp_path: Path) -> None:
    """Both are there to be imported, and every module is."""
    for name in ("torch", "transformers", "vllm", "sglang"):
        (tmp_path / f"{name}.py").write_text("")
    script = (
        "import importlib, pkgutil, sys, rewardscale\n"
        "names = [m.name for m in pkgutil.walk_packages(rewardscale.__path__, 'rewardscale.')]\n"
        "for name in names: importlib.import_module(name)\n"
        "import rewardscale.evaluation.reference_legs as legs; assert legs.about()['python']\n"
        "print(len(names), sorted({'torch', 'transformers', 'vllm', 'sglang'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPO, env=os.environ | {"PYTHONPATH": f"{REPO}:{tmp_path}"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    count, found = done.stdout.split(maxsplit=1)
    modules = [path for path in (REPO / "rewardscale").rglob("*.py") if path.name != "__init__.py"]
    assert int(count) >= len(modules) and found.strip() == "[]"
    assert Path(reference_legs.__file__) in modules
