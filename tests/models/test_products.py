"""Products for CPUs in bfloat16 against float32, and where they are used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale.config import ConfigError
from rewardscale.data.rows import pair_trees
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import products, reward
from tests import small


@pytest.mark.parametrize(
    ("inputs", "kernel", "axes"),
    [((3, 5, 8), (8, 6), 1), ((2, 4, 8), (8, 3, 4), 1), ((2, 4, 3, 4), (3, 4, 8), 2)],
)
def test_a_product_and_its_gradients_are_those_of_float32_but_rounded(
    inputs: tuple[int, ...], kernel: tuple[int, ...], axes: int
) -> None:
    random = np.random.default_rng(0)
    x, w = (jnp.asarray(random.normal(size=shape), jnp.float32) for shape in (inputs, kernel))
    x = x.astype(jnp.bfloat16).astype(jnp.float32)
    w = w.astype(jnp.bfloat16).astype(jnp.float32)
    weight = random.normal(size=(*inputs[: len(inputs) - axes], *kernel[axes:])).astype(np.float32)

    def gradients(multiply: products.Multiply, dtype: str) -> tuple[jax.Array, ...]:
        def total(x: jax.Array, w: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = multiply(x.astype(dtype), w, axes)
            assert out.dtype == dtype
            return jnp.sum(out * weight), out

        found, out = jax.jit(jax.grad(total, (0, 1), has_aux=True))(x, w)
        return (out, *found)

    ours, truth = gradients(products.narrow_on_cpu, "bfloat16"), gradients(products.multiply, "float32")
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, rtol=0.02, atol=0.05)
    assert ours[2].dtype == jnp.float32  # the kernel's gradient is not rounded


def test_the_check_finds_a_cpu_that_multiplies_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    products.check_bfloat16_on_cpu()
    products.check_bfloat16_on_cpu.cache_clear()
    right = products.narrow_on_cpu

    def wrong(x, kernel, axes=1):  # forward alone
        value = right(x, kernel, axes)
        return value + 0.5 * jax.lax.stop_gradient(value)

    monkeypatch.setattr(products, "narrow_on_cpu", wrong)
    with pytest.raises(ConfigError, match=r"off by 50%.*recipe.dtype.*float32"):
        products.check_bfloat16_on_cpu()


def test_rewards_in_bfloat16_are_near_those_of_float32(pairs_view: TokenisedView) -> None:
    params = reward.init(small.MODEL, (0, 0))
    trees = pair_trees(np.arange(20), np.ones(20, np.int64), np.zeros(20, np.int64))
    batch, row, slot = small.pack(pairs_view, trees)
    arrays = {name: jnp.asarray(values) for name, values in batch.items()}
    wide, narrow = (
        np.stack(reward.rewards(small.MODEL, params, arrays, reward.Options(dtype=dtype)))[:, row, slot]
        for dtype in ("float32", "bfloat16")
    )
    assert wide.std() > 0.3
    np.testing.assert_allclose(narrow, wide, atol=0.1)


def test_only_cpus_in_bfloat16_get_the_other_form() -> None:
    for platform, dtype in (("tpu", "bfloat16"), ("gpu", "bfloat16"), ("cpu", "float32")):
        assert products.choose(platform, dtype) is products.multiply
    assert products.choose("cpu", "bfloat16") is products.narrow_on_cpu
