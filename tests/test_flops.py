"""Counts against the arrays themselves and against the compiler's own count of operations."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale import flops
from rewardscale.config import Lora, ModelConfig
from rewardscale.models import presets, reward
from tests import reference


@st.composite
def models(draw: st.DrawFn) -> ModelConfig:
    kv_heads = draw(st.integers(1, 3))
    return ModelConfig(
        vocab_size=draw(st.integers(1, 70)),
        width=draw(st.integers(1, 40)),
        layers=draw(st.integers(1, 4)),
        heads=kv_heads * draw(st.integers(1, 3)),
        kv_heads=kv_heads,
        head_dim=2 * draw(st.integers(1, 5)),
        mlp_width=draw(st.integers(1, 50)),
        qk_norm=draw(st.booleans()),
    )


@settings(max_examples=25, deadline=None)
@given(models())
def test_parameters_are_the_elements_of_the_arrays(model: ModelConfig) -> None:
    arrays = reward.abstract(model)
    elements = sum(leaf.size for leaf in jax.tree.leaves(arrays))
    padding = (model.padded_vocab_size - model.vocab_size) * model.width
    assert flops.parameters(model, embeddings=True) == elements - padding
    assert flops.parameters(model, embeddings=False) == elements - arrays["embedding"].size


@pytest.mark.parametrize("qk_norm", [False, True])
def test_forward_is_close_to_the_compilers_count(qk_norm: bool) -> None:
    """Unrolled, unpruned, float32; dense attention computes all T x T scores, so they are counted as keys.

    Left out by flops.py, counted by XLA: norms, softmax, SiLU, rotary, masks, residuals. They are a few operations
    an element against 2 x width for each product, so at width 256 within 5 % and never below our count.
    """
    model = ModelConfig(
        vocab_size=64, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=704, qk_norm=qk_norm
    )
    rows, length = 2, 64
    grid = jax.ShapeDtypeStruct((rows, length), np.int32)
    at = jax.ShapeDtypeStruct((rows, 1), np.int32)
    batch = {"tokens": grid, "positions": grid, "lo": grid, "hi": grid, "left_at": at, "right_at": at}
    options = reward.Options(scan=False, prune=False)
    lowered = jax.jit(lambda p, b: reward.rewards(model, p, b, options)).lower(reward.abstract(model), batch)
    cost: Any = lowered.compile().cost_analysis()
    ours = flops.forward_flops(model, tokens=rows * length, keys=rows * length**2)
    assert ours <= cost["flops"] <= 1.05 * ours


def test_keys_of_a_tree_are_its_mask() -> None:
    prompt, left, right = 5, 3, 4
    # prompt tokens see the prompt so far; response tokens the prompt and their own response so far
    seen = sum(i + 1 for i in range(prompt)) + sum(prompt + i + 1 for r in (left, right) for i in range(r))
    assert flops.tree_keys(prompt, left, right) == seen
    np.testing.assert_array_equal(
        flops.tree_keys(np.array([5.0, 1.0]), np.array([3.0, 0.0]), np.array([4.0, 0.0])), [seen, 1]
    )


def test_training_is_three_forward_passes_and_depth_is_linear() -> None:
    model = ModelConfig(vocab_size=64, width=16, layers=3)
    once = flops.forward_flops(model, tokens=10, keys=40)
    assert flops.training_flops(model, tokens=10, keys=40) == 3 * once
    deeper = dataclasses.replace(model, layers=6)
    assert flops.forward_flops(deeper, tokens=10, keys=40) == 2 * once
    # long rows cost quadratically more in attention alone
    assert flops.forward_flops(model, tokens=10, keys=80) - once == 3 * 4 * 16 * 40


def test_adapters_are_counted_and_frozen_kernels_cost_no_gradient() -> None:
    plain = ModelConfig(vocab_size=64, width=16, layers=3, heads=4, kv_heads=2, head_dim=6, mlp_width=40)
    model = dataclasses.replace(plain, lora=Lora(5, targets=("k", "o", "down")))
    arrays = reward.abstract(model)
    added = sum(x.size for x in jax.tree.leaves(arrays)) - sum(
        x.size for x in jax.tree.leaves(reward.abstract(plain))
    )
    assert flops.adapter_parameters(model) == added == 3 * 5 * ((16 + 12) + (24 + 16) + (40 + 16))
    assert flops.parameters(model, embeddings=True) == flops.parameters(plain, embeddings=True)
    forward, ours = (flops.forward_flops(m, tokens=10, keys=40) for m in (plain, model))
    assert ours == forward + 2 * added * 10
    kernels = 3 * sum(a * b for a, b in flops.kernel_shapes(plain).values())
    training = flops.training_flops(model, tokens=10, keys=40)
    assert training == flops.training_flops(plain, tokens=10, keys=40) - 2 * kernels * 10 + 6 * added * 10


def test_a_shared_prompt_is_computed_once() -> None:
    model = ModelConfig(vocab_size=64, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=704)
    once, alone = (
        flops.comparison_flops(model, 100, (30, 20, 50), shared=shared) for shared in (True, False)
    )
    assert once == flops.forward_flops(model, tokens=200, keys=flops.tree_keys(100, 30, 20, 50))
    assert alone == sum(flops.comparison_flops(model, 100, (r,)) for r in (30, 20, 50))
    assert alone - once == 2 * flops.comparison_flops(model, 100, ())  # the prompt, twice more


def test_what_the_last_layer_leaves_out_is_what_the_compiler_no_longer_counts() -> None:
    model = ModelConfig(
        vocab_size=64, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=704, qk_norm=False
    )
    rows, length = 2, 64
    grid, at = jax.ShapeDtypeStruct((rows, length), np.int32), jax.ShapeDtypeStruct((rows, 1), np.int32)
    batch = {"tokens": grid, "positions": grid, "lo": grid, "hi": grid, "left_at": at, "right_at": at}

    def counted(prune: bool) -> float:
        options = reward.Options(scan=False, prune=prune)
        forward = jax.jit(lambda p, b: reward.rewards(model, p, b, options))
        cost: Any = forward.lower(reward.abstract(model), batch).compile().cost_analysis()
        return cost["flops"]

    tokens, keys = rows * length, rows * length**2
    left_out = tokens - 2 * rows, keys - 2 * rows * length  # two reward tokens a row
    whole, pruned = (
        flops.forward_flops(model, tokens=tokens, keys=keys, left_out=x) for x in ((0, 0), left_out)
    )
    assert whole - pruned == pytest.approx(counted(False) - counted(True), rel=0.05)
    assert flops.training_flops(model, tokens=tokens, keys=keys, left_out=left_out) == 3 * pruned


def test_adapters_are_left_out_with_their_kernels() -> None:
    plain = ModelConfig(vocab_size=64, width=16, layers=3, heads=4, kv_heads=2, head_dim=6, mlp_width=40)
    model = dataclasses.replace(plain, lora=Lora(5, targets=("k", "o", "down")))

    def saved(model: ModelConfig) -> float:
        whole, pruned = (
            flops.training_flops(model, tokens=10, keys=40, left_out=x) for x in ((0, 0), (8, 30))
        )
        return whole - pruned

    late = sum(a * b for name, (a, b) in flops.kernel_shapes(plain).items() if name not in "kv")
    adapters = 5 * ((24 + 16) + (40 + 16))  # of o and down; k's are needed
    assert saved(model) == saved(plain) - 2 * late * 8 + 6 * adapters * 8


def test_a_pair_is_its_comparison_and_prompts_apart_cost_more() -> None:
    model = ModelConfig(vocab_size=64, width=256, layers=2, heads=4, kv_heads=2, head_dim=64, mlp_width=704)
    for shared in (True, False):
        once = flops.comparison_flops(model, 100, (30, 20), shared=shared)
        assert flops.pair_flops(model, 100, 30, 20, shared=shared) == 3 * once
    pruned = flops.pair_flops(model, np.array([100.0]), 30, 20, pruned=True)
    seen = (100 + 30) + (100 + 20)
    left_out = 148, flops.tree_keys(100, 30, 20) - seen
    assert pruned == flops.training_flops(
        model, tokens=150, keys=flops.tree_keys(100, 30, 20), left_out=left_out
    )


# Parameters of ...ForCausalLM by Hugging Face (a head that is the embedding table counts once).
HUGGING_FACE = {
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "llama3.1-8b": 8_030_261_248,
    "llama3.1-8b-40m": 8_030_261_248,
}


@pytest.mark.parametrize("name", presets.BACKBONES)
def test_presets_have_the_published_number_of_parameters(name: str) -> None:
    backbone = presets.BACKBONES[name]
    language_head = 0 if backbone.tied else backbone.model.vocab_size * backbone.model.width
    expected = HUGGING_FACE[name] - language_head + backbone.model.width  # the reward head
    assert flops.parameters(backbone.model, embeddings=True) == expected


COUNT = """
import json, sys
import torch, transformers
out = {}
for name, config in json.loads(sys.argv[1]).items():
    config = transformers.AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = transformers.AutoModelForSequenceClassification.from_config(config)
    out[name] = sum(p.numel() for p in model.parameters())
print(json.dumps(out))
"""


@reference.needs_reference
def test_presets_have_as_many_parameters_as_transformers_makes(tmp_path: Path) -> None:
    """Without memory: torch's meta device."""
    configs = {}
    for name, backbone in presets.BACKBONES.items():
        m = backbone.model
        configs[name] = {
            "model_type": backbone.family, "vocab_size": m.vocab_size, "hidden_size": m.width, "num_labels": 1,
            "num_hidden_layers": m.layers, "num_attention_heads": m.heads, "num_key_value_heads": m.kv_heads,
            "head_dim": m.head_dim, "intermediate_size": m.mlp_width, "tie_word_embeddings": backbone.tied,
        }  # fmt: skip
    script = tmp_path / "count.py"
    script.write_text(COUNT)
    counted = json.loads(reference.run(script, json.dumps(configs)).splitlines()[-1])
    ours = {name: flops.parameters(b.model, embeddings=True) for name, b in presets.BACKBONES.items()}
    assert counted == ours
