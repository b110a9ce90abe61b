"""Layers against their definitions: RMS norm, rotary positions, SwiGLU, and what starts them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale.models import attention, layers, reward
from tests import small
from tests.models import plain


def test_rms_norm_is_its_definition_and_is_computed_in_float32() -> None:
    random = np.random.default_rng(0)
    x, scale = random.normal(size=(3, 5, 8)) * 7, random.uniform(0.5, 2, 8)
    norm = layers.RMSNorm(8, 1e-6)
    norm.scale[...] = jnp.asarray(scale, jnp.float32)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale
    np.testing.assert_allclose(norm(jnp.asarray(x, jnp.float32)), expected, rtol=1e-5)
    # bfloat16 numbers whose squares would overflow or vanish if they were summed in a narrower type
    tiny = norm(jnp.full((1, 8), 1e-3, jnp.bfloat16))
    assert tiny.dtype == jnp.bfloat16
    np.testing.assert_allclose(tiny.astype(np.float32)[0] / scale, np.full(8, 2**-0.5), rtol=1e-2)


@pytest.mark.parametrize("head_dim", [2, 4, 64])
def test_rotary_scores_depend_on_the_distance_alone(head_dim: int) -> None:
    random = np.random.default_rng(head_dim)
    q, k = random.normal(size=(2, 1, 1, 1, head_dim)).astype(np.float32)
    config = small.varied(small.MODEL, head_dim=head_dim)

    def score(query_at: int, key_at: int) -> float:
        def turned(x: np.ndarray, at: int) -> jax.Array:
            return layers.rotate(jnp.asarray(x), layers.rotary(jnp.array([[at]]), config))

        return float((turned(q, query_at) * turned(k, key_at)).sum())

    here = [score(5 + shift, 2 + shift) for shift in (0, 1, 7, 500)]
    np.testing.assert_allclose(here, here[0], atol=2e-4 * head_dim**0.5)
    assert abs(score(5, 3) - here[0]) > 1e-2  # another distance, another score
    np.testing.assert_allclose(score(9, 9), float((q * k).sum()), rtol=1e-5, atol=1e-5)


def test_rotary_pairs_first_and_second_half() -> None:
    config = small.varied(small.MODEL, head_dim=8)
    x = np.random.default_rng(0).normal(size=(6, 3, 8))
    positions = np.array([0, 1, 2, 5, 40, 1000])
    turn = layers.rotary(jnp.asarray(positions)[None], config)
    ours = layers.rotate(jnp.asarray(x, jnp.float32)[None], turn)[0]
    np.testing.assert_allclose(ours, plain.rotate(config, x, positions), atol=2e-4)


def test_take_tokens() -> None:
    x = jnp.arange(2 * 4 * 3).reshape(2, 4, 3)
    picked = layers.take_tokens(x, jnp.array([[3, 0, 3], [1, 1, 2]]))
    assert picked.shape == (2, 3, 3)
    np.testing.assert_array_equal(picked, [x[0][np.array([3, 0, 3])], x[1][np.array([1, 1, 2])]])


def test_compute_runs_in_the_inputs_type_and_parameters_stay_float32() -> None:
    params = reward.init(small.MODEL, (0,))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    block = layers.Block(small.MODEL)
    x = jnp.ones((1, 3, 16), jnp.bfloat16)
    attend = attention.at_queries(jnp.zeros((1, 3), int), jnp.arange(1, 4)[None], 3)
    assert (
        block(x, layers.rotary(jnp.arange(3)[None], small.varied(small.MODEL, head_dim=4)), attend).dtype
        == jnp.bfloat16
    )
