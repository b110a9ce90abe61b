"""Checkpoints on disk: round trips bit for bit, any mesh, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rewardscale import mesh as meshes
from rewardscale.config import ModelConfig, RopeScaling
from rewardscale.models import hf, hf_config, presets, reward
from rewardscale.models.hf_config import CheckpointError
from tests import small
from tests.models import sequences

QWEN = small.varied(small.MODEL, qk_norm=True, vocab_size=45, head_sd=1.0)


def write(
    directory: Path,
    model: ModelConfig = QWEN,
    *,
    dtype: str = "float32",
    shard_bytes: int = 2**30,
    seed: int = 0,
    causal: bool = False,
    **changes: Any,
) -> Path:
    """A checkpoint with random weights; `changes` go into its config.json (None takes a key out)."""
    config = hf_config.write_config(model, pad_token_id=0, context=64, dtype=dtype)
    hf.export(directory, reward.init(model, (seed,)), model, config, dtype=dtype, shard_bytes=shard_bytes)
    if causal:
        changes["architectures"] = [
            config["architectures"][0].replace(hf_config.CLASSIFIER, hf_config.CAUSAL)
        ]
        edit_weights(directory, lambda tensors: tensors.pop("score.weight"))
    if changes:
        edit_config(directory, **changes)
    return directory


def edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def edit_weights(directory: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    change(tensors)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})


def load(directory: Path, mesh: jax.sharding.Mesh | None = None, **options: Any) -> reward.Params:
    return hf.load(hf.open_checkpoint(directory), mesh or sequences.one_device(), **options)


def weights(directory: Path) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    for path in directory.glob("*.safetensors"):
        out |= load_file(path)
    return out


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shards", [1, 5])
@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (1, 8, 1)])
def test_round_trip_is_bit_exact(
    tmp_path: Path, dtype: str, shards: int, shape: tuple[int, int, int]
) -> None:
    """Through any mesh, in one file or several, with a vocabulary that is no multiple of anything."""
    first = write(tmp_path / "a", dtype=dtype, shard_bytes=2**30 if shards == 1 else 4_000)
    checkpoint = hf.open_checkpoint(first)
    assert (len(set(checkpoint.files.values())) == 1) == (shards == 1)
    mesh = meshes.make_mesh(shape) if shape != (1, 1, 1) else sequences.one_device()
    params = hf.load(checkpoint, mesh, dtype=dtype)
    assert (
        params["embedding"].dtype == dtype
        and params["head"].dtype == params["norm"]["scale"].dtype == "float32"
    )
    hf.export(tmp_path / "b", params, checkpoint.model, checkpoint.config, dtype=dtype)
    before, after = weights(first), weights(tmp_path / "b")
    assert set(before) == set(after)
    for name in before:
        assert before[name].dtype == after[name].dtype
        assert before[name].tobytes() == after[name].tobytes(), name
    assert json.loads((tmp_path / "b/config.json").read_text()) == dict(checkpoint.config)


def test_every_mesh_holds_the_same_numbers(tmp_path: Path) -> None:
    directory = write(tmp_path / "m")
    alone = load(directory)
    for shape in ((2, 2, 2), (1, 4, 2), (1, 1, 8), (8, 1, 1)):
        mesh = meshes.make_mesh(shape)
        spread = load(directory, mesh)
        expected = reward.shardings(mesh, reward.abstract(QWEN))
        jax.tree.map(
            lambda x, s: (x.sharding.is_equivalent_to(s, x.ndim)) or pytest.fail(str(s)), spread, expected
        )
        jax.tree.map(np.testing.assert_array_equal, alone, spread)


def test_bfloat16_files_become_the_same_float32_numbers(tmp_path: Path) -> None:
    directory = write(tmp_path / "m", dtype="bfloat16")
    stored = weights(directory)["model.layers.1.mlp.up_proj.weight"]
    assert stored.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(load(directory)["blocks"]["mlp"]["up"][1], stored.astype(np.float32).T)


def test_a_language_model_gets_a_fresh_head_and_a_reward_model_keeps_its_own(tmp_path: Path) -> None:
    directory = write(tmp_path / "lm", causal=True)
    fresh = [np.asarray(load(directory, head_seed=seed)["head"]) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(fresh[0], fresh[1])
    assert (fresh[0] != fresh[2]).all()
    wide = presets.head_sd(QWEN.width)
    assert 0.4 * wide < fresh[0].std() < 1.8 * wide
    kept = write(tmp_path / "rm")
    np.testing.assert_array_equal(load(kept, head_seed=1)["head"], weights(kept)["score.weight"][0])


def test_configs_of_transformers_4_and_5_are_the_same_model(tmp_path: Path) -> None:
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    scaling["original_max_position_embeddings"] = 8192
    model = small.varied(small.MODEL, rope_theta=500_000.0, rope_scaling=RopeScaling())
    old = write(tmp_path / "old", model)
    assert json.loads((old / "config.json").read_text())["rope_scaling"] == scaling
    new = write(
        tmp_path / "new",
        model,
        rope_theta=None,
        rope_scaling=None,
        rope_parameters=scaling | {"rope_theta": 5e5},
    )
    older = write(
        tmp_path / "older",
        model,
        rope_scaling={"type": "llama3"}
        | {key: value for key, value in scaling.items() if key != "rope_type"},
    )
    opened = [hf.open_checkpoint(path).model for path in (old, new, older)]
    assert (
        opened[0]
        == opened[1]
        == opened[2]
        == small.varied(model, embedding_sd=0.5, head_sd=presets.head_sd(16))
    )


@pytest.mark.parametrize("name", presets.BACKBONES)
def test_each_backbone_survives_its_own_config(name: str) -> None:
    backbone = presets.BACKBONES[name]
    config = hf_config.write_config(
        backbone.model, pad_token_id=1, context=backbone.context, dtype="bfloat16", tied=backbone.tied
    )
    assert hf_config.family_of(config, "config.json") == backbone.family
    assert hf_config.read_config(config, "config.json") == backbone.model
    assert hf_config.context_of(config) == backbone.context


REFUSED_CONFIGS = {
    "an unknown architecture": (
        {"architectures": ["Qwen3ForSequenceClasification"]},
        "nearest: Qwen3ForSequenceClassif",
    ),
    "another family": ({"architectures": ["GemmaForCausalLM"]}, "GemmaForCausalLM is not known"),
    "no architecture": ({"architectures": None}, "'architectures' is missing"),
    "code of its own": ({"auto_map": {"AutoModel": "modeling_x.X"}}, "code from a checkpoint is never run"),
    "biases": ({"attention_bias": True}, "attention_bias=True asks for biases"),
    "a sliding window": ({"use_sliding_window": True}, "sliding-window"),
    "sliding layers": ({"layer_types": ["full_attention", "sliding_attention"]}, "sliding_attention"),
    "another activation": ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
    "quantised weights": ({"quantization_config": {"bits": 4}}, "quantised weights"),
    "several labels": ({"num_labels": 3}, "3 labels"),
    "yarn": ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, "'yarn'"),
    "half a scaling": ({"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "lacks 'low_freq_factor'"),
    "no width": ({"hidden_size": None}, "hidden_size=None must be"),
    "heads that do not divide": ({"num_key_value_heads": 3}, "kv_heads=3 must divide heads=4"),
    "another shape": (
        {"intermediate_size": 25},
        r"mlp.\w+_proj.weight has shape .*, and config.json asks for",
    ),
    "a shorter vocabulary": (
        {"vocab_size": 44},
        r"embed_tokens.weight has shape \(45, 16\).* asks for \(44, 16\)",
    ),
    "more layers": ({"num_hidden_layers": 3}, "lacks 11 tensors, the first model.layers.2."),
    "fewer layers": ({"num_hidden_layers": 1}, "11 tensors that this model has no place for"),
}


@pytest.mark.parametrize("case", REFUSED_CONFIGS)
def test_what_we_do_not_compute_is_refused_by_name(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED_CONFIGS[case]
    directory = write(tmp_path / "m", **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        hf.open_checkpoint(directory)
    assert str(directory) in str(caught.value)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    def refused(change: Callable[[Path], object], message: str, *, shards: bool = False) -> None:
        directory = tmp_path / "m"
        write(directory, shard_bytes=4_000 if shards else 2**30)
        change(directory)
        with pytest.raises(CheckpointError, match=message):
            hf.load(hf.open_checkpoint(directory), sequences.one_device())
        shutil.rmtree(directory)

    def pickled(directory: Path) -> None:
        (directory / "model.safetensors").rename(directory / "pytorch_model.bin")

    def cut(directory: Path) -> None:
        path = directory / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"][3, 2] = np.nan

    refused(lambda d: (d / "config.json").unlink(), "config.json is missing")
    refused(lambda d: (d / "config.json").write_text("{"), "is not JSON")
    refused(pickled, "Pickle files can run code")
    refused(lambda d: (d / "model.safetensors").unlink(), "holds neither")
    refused(cut, "cannot be read as safetensors")
    refused(lambda d: edit_weights(d, spoil), "layers.1.mlp.up_proj.weight holds NaN")
    refused(lambda d: edit_weights(d, lambda t: t.pop("score.weight")), "classifier without its head")
    refused(
        lambda d: edit_weights(d, lambda t: t.update({"score.bias": np.zeros(1, np.float32)})),
        "first score.bias",
    )
    refused(
        lambda d: next(iter(sorted(d.glob("model-*.safetensors")))).unlink(), "model-00001-of-", shards=True
    )


def test_two_sets_of_weights_are_refused(tmp_path: Path) -> None:
    directory, other = write(tmp_path / "m", shard_bytes=4_000), write(tmp_path / "single", seed=1)
    shutil.copy(other / "model.safetensors", directory)
    with pytest.raises(CheckpointError, match="remove the stale one"):
        hf.open_checkpoint(directory)


def test_hub_ids_need_a_commit(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"its revision: 40 hex digits"):
        hf.open_checkpoint("Qwen/Qwen3-0.6B", revision="main")
    with pytest.raises(CheckpointError, match="no hub id"):
        hf.open_checkpoint(tmp_path / "nowhere" / "at" / "all")


def test_an_export_never_mixes_with_what_was_there(tmp_path: Path) -> None:
    directory = write(tmp_path / "m")
    with pytest.raises(CheckpointError, match="is not empty"):
        write(directory)
