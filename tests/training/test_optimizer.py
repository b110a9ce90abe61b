"""AdamW against optax's own, schedules against their closed forms, and what is decayed."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rewardscale.config import Recipe
from rewardscale.models import reward
from rewardscale.training import optimizer
from tests import small
from tests.training import running

RECIPE = Recipe(weight_decay=0.2, clip_norm=0.5, b1=0.8, b2=0.95, eps=1e-6)


def gradients(params: Any, seed: int, size: float) -> Any:
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda p: (random.normal(size=p.shape) * size).astype(np.float32), params)


def test_steps_equal_optax_adamw_with_clipping() -> None:
    params = theirs = reward.init(small.varied(small.MODEL, qk_norm=True), (0,))
    rates = (1e-2, 3e-3, 0.0)
    reference = optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.adamw(
            lambda step: jnp.asarray(rates)[step], b1=0.8, b2=0.95, eps=1e-6, weight_decay=0.2,
            mask=optimizer.decay_mask,
        ),
    )  # fmt: skip
    hyper = optimizer.hyperparameters(RECIPE)
    state, reference_state = optimizer.optimizer(hyper, 0.0).init(params), reference.init(theirs)

    @jax.jit
    def ours(rate: Any, gradients: Any, state: Any, params: Any) -> Any:
        updates, state = optimizer.optimizer(hyper, rate).update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    @jax.jit
    def optaxes(gradients: Any, state: Any, params: Any) -> Any:
        updates, state = reference.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    # The second gradient is short enough not to be clipped.
    for step, size in enumerate((1.0, 1e-4, 1.0)):
        new = gradients(params, step, size)
        params, state = ours(rates[step], new, state, params)
        theirs, reference_state = optaxes(new, reference_state, theirs)
    running.assert_close(params, theirs, rtol=1e-6, atol=1e-7)


def test_norm_scales_and_head_alone_are_spared_from_decay() -> None:
    params = reward.init(small.varied(small.MODEL, qk_norm=True), (0,))
    hyper = optimizer.hyperparameters(dataclasses.replace(RECIPE, weight_decay=0.5))
    transform = optimizer.optimizer(hyper, 0.1)
    zero = jax.tree.map(np.zeros_like, params)

    @jax.jit
    def one_step(params: Any) -> Any:
        return optax.apply_updates(params, transform.update(zero, transform.init(params), params)[0])

    after = one_step(params)
    for (path, new), old in zip(
        jax.tree_util.tree_leaves_with_path(after), jax.tree.leaves(params), strict=True
    ):
        spared = path[-1].key == "scale" or path[0].key == "head"
        np.testing.assert_allclose(
            new, old if spared else old * (1 - 0.1 * 0.5), rtol=1e-6, err_msg=str(path)
        )
    assert {
        path[-1].key
        for path, decayed in jax.tree_util.tree_leaves_with_path(optimizer.decay_mask(params))
        if not decayed
    } == {"scale", "head"}


def closed_form(schedule: str, t: float, warmup: float, cooldown: float) -> float:
    """The multiplier of the peak at time t in (0, 1)."""
    if t < warmup:
        return t / warmup * (1 if schedule != "wsd" or t < 1 - cooldown else math.nan)
    left = (1 - t) / (1 - warmup)
    if schedule == "wsd":
        return 1.0 if t < 1 - cooldown else 1 - math.sqrt((t - 1 + cooldown) / cooldown)
    return {"constant": 1.0, "linear": left, "cosine": math.cos(math.pi / 2 * (1 - left)) ** 2}[schedule]


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
@pytest.mark.parametrize(("warmup", "cooldown", "steps"), [(0.1, 0.2, 40), (0.0, 0.5, 7), (0.25, 0.25, 1)])
def test_schedules(schedule: str, warmup: float, cooldown: float, steps: int) -> None:
    recipe = Recipe(schedule=schedule, warmup=warmup, cooldown=cooldown, learning_rate=0.3, pairs_per_step=32)
    rates = optimizer.learning_rates(recipe, steps=steps, batch=32)
    assert rates.dtype == np.float32 and rates.shape == (steps,)
    expected = [0.3 * closed_form(schedule, (step + 0.5) / steps, warmup, cooldown) for step in range(steps)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert (rates > 0).all()
    if steps == 40 and schedule != "constant":
        assert rates[-1] < 0.1 * rates.max()


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine", "wsd"])
def test_warm_up_in_steps_is_the_share_that_they_are(schedule: str) -> None:
    """And a run shorter than its warm-up never reaches the peak."""
    recipe = Recipe(schedule=schedule, warmup=0.25, cooldown=0.5, learning_rate=0.3, pairs_per_step=32)
    in_steps = dataclasses.replace(recipe, warmup=0.9, warmup_steps=10)
    share, steps = (optimizer.learning_rates(r, steps=40, batch=32) for r in (recipe, in_steps))
    np.testing.assert_allclose(steps, share, rtol=1e-6)
    short = optimizer.learning_rates(in_steps, steps=6, batch=32)
    assert np.isfinite(short).all() and short.max() < 0.3 * 0.6


def test_a_smaller_batch_lowers_the_rate_by_its_square_root() -> None:
    recipe = Recipe(learning_rate=0.3, pairs_per_step=32)
    full, quarter = (optimizer.learning_rates(recipe, steps=9, batch=batch) for batch in (32, 8))
    np.testing.assert_allclose(quarter, full / 2, rtol=1e-6)


def test_every_constant_of_the_recipe_is_an_input() -> None:
    hyper = optimizer.hyperparameters(dataclasses.replace(RECIPE, center=0.25))
    assert {name: float(value) for name, value in hyper.items()} == pytest.approx(
        {"b1": 0.8, "b2": 0.95, "eps": 1e-6, "weight_decay": 0.2, "clip_norm": 0.5, "center": 0.25}
    )
    assert {type(value) for value in hyper.values()} == {np.float32}  # a Python float would retrace


def test_stochastic_rounding_is_right_on_average_and_goes_to_a_neighbour() -> None:
    random = np.random.default_rng(0)
    x = (random.normal(size=(500,)) * 10.0 ** random.integers(-20, 20, 500)).astype(np.float32)
    draws = np.stack(
        [
            np.asarray(optimizer.round_stochastically(jnp.asarray(x), jnp.uint32(s)), np.float32)
            for s in range(400)
        ]
    )
    spacing = np.abs(x) * 2.0**-7
    assert (np.abs(draws - x) < spacing).all()
    assert all(len(np.unique(draws[:, i])) <= 2 for i in range(len(x)))
    error = (draws.astype(np.float64).mean(0) - x) / spacing
    assert np.abs(error).max() < 0.15  # five standard errors of a fair choice: 5 x 0.5 / sqrt(400)
    assert np.abs(error.mean()) < 0.01
    exact = np.array([0.0, -0.0, 1.0, -2.5, np.inf, -np.inf, np.nan, 2.0**-120], np.float32)
    for seed in range(5):
        rounded = optimizer.round_stochastically(jnp.asarray(exact), jnp.uint32(seed))
        np.testing.assert_array_equal(np.asarray(rounded, np.float32), exact)


def test_neighbouring_elements_and_steps_are_rounded_independently() -> None:
    x = jnp.full((64, 64), 1 + 2.0**-8, jnp.float32)  # half-way between 1 and its neighbour
    up = np.stack([np.asarray(optimizer.round_stochastically(x, jnp.uint32(s)) > 1) for s in range(64)])
    up = up - up.mean()
    for axis in range(3):
        assert np.abs((up * np.roll(up, 1, axis)).mean()) < 0.01


@pytest.mark.parametrize("b2", [0.99, 0.999])
def test_bfloat16_moments_follow_gradients_whose_size_changes(b2: float) -> None:
    """Gradients shrink to a half: to the nearest, the mean square of b2 = 0.999 would stay where it was for ever."""
    hyper = {"b1": 0.9, "b2": b2, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 1e9}
    params = {"q": jnp.zeros((64,), jnp.float32)}
    states = {kind: optimizer.optimizer(hyper, 0.1, kind).init(params) for kind in ("float32", "bfloat16")}

    @functools.partial(jax.jit, static_argnums=2)
    def run(state: Any, size: Any, kind: str) -> Any:
        def body(_: Any, state: Any) -> Any:
            return optimizer.optimizer(hyper, 0.1, kind).update({"q": jnp.full((64,), size)}, state, params)[
                1
            ]

        return jax.lax.fori_loop(0, 3 * round(1 / (1 - b2)), body, state)

    for size in (1.0, 0.5):
        states = {kind: run(state, size, kind) for kind, state in states.items()}
        exact, ours = (np.asarray(states[kind][1].nu["q"], np.float64) for kind in ("float32", "bfloat16"))
        assert states["bfloat16"][1].nu["q"].dtype == states["bfloat16"][1].mu["q"].dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.mean(), exact.mean(), rtol=0.02)
        assert np.abs(ours / exact - 1).max() < 0.25
        np.testing.assert_allclose(np.asarray(states["bfloat16"][1].mu["q"], np.float64), size, rtol=0.02)
