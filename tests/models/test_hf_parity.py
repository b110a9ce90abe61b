"""Rewards and gradients against transformers' own classes, on models with random weights that take every branch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from rewardscale.models import hf, hf_config, hf_names, reward
from tests import reference
from tests.models import sequences

pytestmark = reference.needs_reference
PAD = 0
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    """A small config in transformers' words; the initial spread is large, so that rewards differ."""
    return {
        "model_type": family,
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "pad_token_id": PAD,
        "num_labels": 1,
        "tie_word_embeddings": False,
    } | changes  # fmt: skip


CASES = {
    "llama, grouped 4 to 1": config_of("llama", num_attention_heads=8, num_key_value_heads=2, head_dim=8),
    "llama, one key head": config_of("llama", num_key_value_heads=1),
    "llama, as many key heads": config_of("llama", num_key_value_heads=4),
    "llama, rope scaled": config_of("llama", rope_parameters=LLAMA3),
    "llama, tied, wide heads": config_of("llama", tie_word_embeddings=True, head_dim=32),
    "llama, odd vocabulary": config_of("llama", vocab_size=101),
    "qwen3": config_of("qwen3"),
    "qwen3, wide heads, tied": config_of("qwen3", head_dim=32, tie_word_embeddings=True),
    "qwen3, large base": config_of("qwen3", rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
    "qwen3, other epsilon": config_of("qwen3", rms_norm_eps=1e-3),
}


@pytest.fixture(scope="module")
def worker() -> Iterator[reference.Worker]:
    started = reference.Worker()
    yield started
    started.close()


def random_sequences(vocab: int, lengths: list[int], seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(1, vocab, length).tolist() for length in lengths]


def loaded(directory: Path) -> tuple[hf.Checkpoint, reward.Params]:
    checkpoint = hf.open_checkpoint(directory)
    return checkpoint, hf.load(checkpoint, sequences.one_device())


@pytest.mark.parametrize("case", CASES)
def test_rewards_equal_those_of_transformers(worker: reference.Worker, tmp_path: Path, case: str) -> None:
    worker.ask("make", directory=tmp_path / "m", config=CASES[case], seed=1)
    texts = random_sequences(CASES[case]["vocab_size"], [1, 2, 7, 40, 130])
    checkpoint, params = loaded(tmp_path / "m")
    ours = sequences.rewards(checkpoint.model, params, texts)
    for side in ("right", "left"):
        theirs = worker.ask("score", directory=tmp_path / "m", sequences=texts, side=side)["rewards"]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)
    assert np.ptp(ours) > 1  # rewards that a mistake would move


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_gradients_equal_those_of_transformers(worker: reference.Worker, tmp_path: Path, family: str) -> None:
    """Of the Bradley-Terry loss; ours with the prompt shared in one tree, theirs with two whole sequences."""
    config = config_of(family, initializer_range=0.1, rope_parameters=LLAMA3 if family == "llama" else None)
    worker.ask("make", directory=tmp_path / "m", config=config, seed=2)
    parts = random_sequences(97, [9, 5, 3, 1, 12, 30, 20, 2, 2])
    pairs = [(parts[i], parts[i + 1], parts[i + 2]) for i in (0, 3, 6)]
    out = tmp_path / "gradients.safetensors"
    asked = {"chosen": [[*p, *c] for p, c, _ in pairs], "rejected": [[*p, *r] for p, _, r in pairs]}
    theirs = worker.ask("gradients", directory=tmp_path / "m", out=out, **asked)
    checkpoint, params = loaded(tmp_path / "m")
    model = checkpoint.model

    def loss(params: reward.Params) -> jax.Array:
        chosen, rejected = reward.rewards(model, params, sequences.of_pairs(pairs), reward.Options())
        return jnp.mean(jax.nn.softplus(rejected - chosen))

    value, ours = jax.jit(jax.value_and_grad(loss))(params)
    assert abs(float(value) - theirs["loss"]) < 1e-5
    with safe_open(out, "np") as file:
        gradients = {name: file.get_tensor(name) for name in hf_names.expected(model)}
        assert set(gradients) == set(file.keys())
        for name, their in gradients.items():
            our = hf._their_tensor(ours, model, name, np.dtype(np.float32))
            assert np.abs(our - their).max() <= 1e-3 * np.abs(their).max(), name


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_config_gives_the_rewards_of_transformers(
    worker: reference.Worker, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    draw = data.draw
    kv_heads, head_dim = draw(st.integers(1, 3)), draw(st.sampled_from([4, 8, 16]))
    heads = kv_heads * draw(st.integers(1, 3))
    config = config_of(
        draw(st.sampled_from(["llama", "qwen3"])),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        hidden_size=heads * draw(st.integers(2, 12)),
        intermediate_size=draw(st.integers(3, 70)),
        num_hidden_layers=draw(st.integers(1, 3)),
        vocab_size=draw(st.integers(5, 140)),
        rms_norm_eps=draw(st.sampled_from([1e-6, 1e-5])),
        rope_parameters=draw(st.sampled_from([LLAMA3, {"rope_type": "default", "rope_theta": 10_000.0}])),
        tie_word_embeddings=draw(st.booleans()),
    )
    folder = tmp_path_factory.mktemp("any") / "m"
    worker.ask("make", directory=folder, config=config, seed=draw(st.integers(0, 100)), shard="20KB")
    lengths = draw(st.lists(st.integers(1, 70), min_size=1, max_size=4))
    texts = random_sequences(config["vocab_size"], lengths)
    checkpoint, params = loaded(folder)
    theirs = worker.ask("score", directory=folder, sequences=texts)["rewards"]
    np.testing.assert_allclose(sequences.rewards(checkpoint.model, params, texts), theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_bfloat16_is_as_near_to_float32_as_theirs(
    worker: reference.Worker, tmp_path: Path, family: str
) -> None:
    """Within two units in the last place (of bfloat16, at the size of the rewards) of their own distance."""
    worker.ask("make", directory=tmp_path / "m", config=config_of(family, initializer_range=0.1), seed=3)
    texts = random_sequences(97, [3, 10, 30, 60, 90, 120])
    exact, theirs = (
        np.array(worker.ask("score", directory=tmp_path / "m", sequences=texts, dtype=dtype)["rewards"])
        for dtype in ("float32", "bfloat16")
    )
    checkpoint = hf.open_checkpoint(tmp_path / "m")
    params = hf.load(checkpoint, sequences.one_device(), dtype="bfloat16")
    ours = sequences.rewards(checkpoint.model, params, texts, dtype="bfloat16")
    ulp = 2.0 ** (np.floor(np.log2(np.abs(exact).max())) - 7)
    assert np.abs(ours - exact).max() <= np.abs(theirs - exact).max() + 2 * ulp
    assert np.abs(ours - exact).max() > 0  # it did compute in another type


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_we_export_transformers_loads(
    worker: reference.Worker, tmp_path: Path, family: str, dtype: str
) -> None:
    """From a language model with a fresh head, of an odd vocabulary, in several files; no lm_head comes out."""
    config = config_of(family, vocab_size=101, rope_parameters=LLAMA3)
    worker.ask("make", directory=tmp_path / "m", config=config, seed=4, kind="causal", dtype=dtype)
    checkpoint, params = loaded(tmp_path / "m")
    assert not checkpoint.has_head and checkpoint.dtype == dtype
    described = hf_config.as_classifier(checkpoint.config, pad_token_id=PAD, dtype=dtype)
    hf.export(tmp_path / "out", params, checkpoint.model, described, dtype=dtype, shard_bytes=40_000)
    texts = random_sequences(101, [4, 50])
    theirs = worker.ask("score", directory=tmp_path / "out", sequences=texts)["rewards"]
    again, restored = loaded(tmp_path / "out")
    assert again.has_head and len(set(again.files.values())) > 1
    head = params["head"] if dtype == "float32" else params["head"].astype(dtype).astype("float32")
    np.testing.assert_array_equal(restored["head"], head)
    np.testing.assert_allclose(sequences.rewards(again.model, restored, texts), theirs, rtol=0, atol=1e-5)
    assert set(again.files) == set(hf_names.expected(again.model))


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_config_that_we_write_is_the_model_that_transformers_makes(
    worker: reference.Worker, tmp_path: Path, name: str
) -> None:
    from rewardscale.config import RopeScaling
    from tests import small

    model = small.varied(
        small.MODEL,
        width=24,
        qk_norm=name == "qwen3",
        rope_scaling=RopeScaling(original=16) if name == "llama" else None,
    )
    params = reward.init(model, (1,))
    written = hf_config.write_config(model, pad_token_id=PAD, context=64, dtype="float32")
    hf.export(tmp_path / "m", params, model, written)
    texts = random_sequences(model.vocab_size, [2, 20, 60])
    theirs = worker.ask("score", directory=tmp_path / "m", sequences=texts)["rewards"]
    np.testing.assert_allclose(sequences.rewards(model, params, texts), theirs, rtol=0, atol=1e-4)
    assert hf.open_checkpoint(tmp_path / "m").model == small.varied(
        model, embedding_sd=model.embedding_sd, head_sd=1 / 25
    )
