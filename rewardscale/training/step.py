"""The compiled training step: many optimizer steps a call, each of a variable number of microbatches.

One executable serves every run of one (architecture, shape, options): seeds, data, learning rates
and all constants are inputs. Loop counts are inputs too, so a last block with fewer steps, or a step
with fewer microbatches, runs no dummy work and compiles nothing new.

The state is a dict of pytrees:
    params     what the forward pass reads, adapters and frozen parameters included
    master     float32 copies of the trained parameters, if those are stored in bfloat16 (Storage.parameters)
    opt_state  of the trained parameters
    step       int32
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale.config import ModelConfig, Storage
from rewardscale.mesh import BATCH_AXES, place
from rewardscale.models import lora, reward
from rewardscale.training import loss as losses
from rewardscale.training.optimizer import optimizer

State = dict[str, Any]
Block = Mapping[str, Any]  # batches stacked to [steps, microbatches, rows, ...]
DEFAULT_STORAGE = Storage()
_PER_STEP = ("microbatches", "pairs")


METRICS = (
    "loss", "accuracy", "ties", "margin", "reward_mean", "reward_min", "reward_max", "gradient_norm", "parameter_norm",
    "learning_rate",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Step:
    """Compiled functions of one architecture on one mesh.

    Attributes:
      init: (parameters of either type, arrays on the host or devices) -> training state on the mesh.
      train: (state, block, steps, learning_rates [K], hyper) -> (state, metrics {name: [K]}); donates the state.
      abstract: ShapeDtypeStructs of the state with shardings: what restore targets.
    """

    init: Callable[[reward.Params], State]
    train: Any
    abstract: State


@functools.lru_cache(maxsize=64)
def make_step(
    config: ModelConfig,
    options: reward.Options,
    mesh: Mesh,
    storage: Storage = DEFAULT_STORAGE,
    *,
    skip: bool = False,
) -> Step:
    """Builds the jitted functions; the same arguments give the same object, so executables are shared.

    With `config.lora` only adapters and the head are trained. With `skip` a step whose loss or gradient norm is not
    finite changes nothing but the number of steps, and a metric "skipped" says so.
    """
    fresh = functools.partial(fresh_state, config, storage)
    shapes = jax.eval_shape(fresh, reward.abstract(config))
    shardings = state_shardings(config, mesh, shapes, storage)
    replicated = NamedSharding(mesh, P())
    train = jax.jit(
        functools.partial(train_block, config, options, mesh, storage, skip=skip),
        in_shardings=(shardings, None, replicated, replicated, replicated),
        out_shardings=(shardings, replicated),
        donate_argnums=0,
    )
    start = jax.jit(fresh, out_shardings=shardings)
    abstract = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )
    return Step(lambda params: start(place(params, shardings["params"])), train, abstract)


def fresh_state(config: ModelConfig, storage: Storage, params: reward.Params) -> State:
    """The state before the first step."""
    trained, _ = lora.split(config, params)
    state = {
        "params": reward.stored(params, storage.parameters),
        "opt_state": optimizer(_any_hyper(), 0.0, storage.moments).init(
            optax.tree.cast(trained, jnp.float32)
        ),
        "step": jnp.zeros((), jnp.int32),
    }
    if has_master(config, storage):
        state["master"] = optax.tree.cast(trained, jnp.float32)
    return state


def has_master(config: ModelConfig, storage: Storage) -> bool:
    """Whether the state holds float32 copies: what trains under adapters is float32 itself."""
    return storage.parameters != "float32" and config.lora is None


def state_shardings(config: ModelConfig, mesh: Mesh, state: State, storage: Storage) -> State:
    """Shardings of a whole training state: master copies and moments lie where their parameters lie."""
    params = reward.shardings(mesh, state["params"])
    trained, _ = lora.split(config, params)
    replicated = NamedSharding(mesh, P())
    opt_state = optax.tree_utils.tree_map_params(
        optimizer(_any_hyper(), 0.0, storage.moments), lambda _, sharding: sharding, state["opt_state"], trained,
        transform_non_params=lambda _: replicated,
    )  # fmt: skip
    master = {"master": trained} if "master" in state else {}
    return {"params": params, "opt_state": opt_state, "step": replicated} | master


def block_shardings(mesh: Mesh, block: Block) -> dict[str, NamedSharding]:
    """Rows of each microbatch are dealt over data x fsdp; counts are replicated."""
    rows = NamedSharding(mesh, P(None, None, BATCH_AXES))
    return {name: NamedSharding(mesh, P()) if name in _PER_STEP else rows for name in block}


def train_block(
    config: ModelConfig,
    options: reward.Options,
    mesh: Mesh,
    storage: Storage,
    state: State,
    block: Block,
    steps: jax.Array,
    learning_rates: jax.Array,
    hyper: Mapping[str, jax.Array],
    *,
    skip: bool = False,
) -> tuple[State, dict[str, jax.Array]]:
    """Runs the first `steps` steps of a block.

    Args:
      block: arrays [K, M, R, ...] and the counts "microbatches", "pairs" [K].
      learning_rates: float32 [K].

    Returns: the new state, and metrics float32 [K] (entries from `steps` on are 0).
    """
    capacity = learning_rates.shape[0]
    names = (*METRICS, "skipped") if skip else METRICS
    metrics = {name: jnp.zeros((capacity,), jnp.float32) for name in names}

    def body(k: jax.Array, carry: tuple[State, dict[str, jax.Array]]) -> tuple[State, dict[str, jax.Array]]:
        state, metrics = carry
        before = state
        state, new = _one_step(config, options, mesh, storage, state, block, k, learning_rates, hyper)
        if skip:
            state, new = _skipping(config, before, state, new)
        return state, jax.tree.map(lambda all_, value: all_.at[k].set(value), metrics, new)

    return jax.lax.fori_loop(0, steps, body, (state, metrics))


def _skipping(
    config: ModelConfig, before: State, after: State, metrics: dict[str, jax.Array]
) -> tuple[State, dict[str, jax.Array]]:
    """The state after a step, or the one before it, a step older, if its loss or gradient norm is not finite."""
    finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
    state = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old), after, before | {"step": after["step"]}
    )
    trained = state["master"] if "master" in state else lora.split(config, state["params"])[0]
    norm = optax.global_norm(trained)
    return state, metrics | {"parameter_norm": norm, "skipped": 1.0 - finite.astype(jnp.float32)}


def _one_step(
    config: ModelConfig,
    options: reward.Options,
    mesh: Mesh,
    storage: Storage,
    state: State,
    block: Block,
    k: Any,
    rates: jax.Array,
    hyper: Any,
) -> tuple[State, dict[str, jax.Array]]:
    """One optimizer step: sums gradients over its microbatches and divides once by its pairs."""
    trained, frozen = lora.split(config, state["params"])
    pairs = block["pairs"][k].astype(jnp.float32)
    arrays = {name: values for name, values in block.items() if name not in _PER_STEP}

    def spread(tree: Any) -> Any:
        """Each device holds its share of a tree shaped like what is trained, never the whole."""
        return jax.lax.with_sharding_constraint(tree, reward.shardings(mesh, tree)) if mesh.size > 1 else tree

    def accumulate(m: jax.Array, carry: Any) -> Any:
        gradients, sums = carry
        micro = {name: values[k, m] for name, values in arrays.items()}

        def objective(trained: reward.Params) -> tuple[jax.Array, losses.Sums]:
            chosen, rejected = reward.rewards(config, lora.join(trained, frozen), micro, options, mesh)
            return losses.bradley_terry(chosen, rejected, micro, center=hyper["center"])

        new, more = jax.grad(objective, has_aux=True)(trained)
        return jax.tree.map(
            lambda old, new: old + new.astype(old.dtype), gradients, spread(new)
        ), losses.add_sums(sums, more)

    zeros = spread(jax.tree.map(lambda p: jnp.zeros(p.shape, storage.gradients), trained))
    gradients, sums = jax.lax.fori_loop(0, block["microbatches"][k], accumulate, (zeros, losses.empty_sums()))
    gradients = jax.tree.map(lambda g: g.astype(jnp.float32) / pairs, gradients)
    before = state.get("master", trained)
    transform = optimizer(hyper, rates[k], storage.moments)
    updates, opt_state = transform.update(gradients, state["opt_state"], before)
    master: Any = optax.apply_updates(before, updates)
    state = state | {
        "params": lora.join(reward.stored(master, storage.parameters), frozen),
        "opt_state": opt_state,
        "step": state["step"] + 1,
    }
    if "master" in state:
        state["master"] = master
    return state, {
        "loss": sums["loss"] / pairs,
        "accuracy": sums["correct"] / pairs,
        "ties": sums["ties"].astype(jnp.float32),
        "margin": sums["margin"] / pairs,
        "reward_mean": sums["reward"] / (2 * pairs),
        "reward_min": sums["reward_min"],
        "reward_max": sums["reward_max"],
        "gradient_norm": optax.global_norm(gradients),
        "parameter_norm": optax.global_norm(master),  # after the step: not finite before a loss can show it
        "learning_rate": rates[k],
    }


def _any_hyper() -> dict[str, float]:
    """Constants for calls that only need the optimizer's structure."""
    return {"b1": 0.9, "b2": 0.99, "eps": 1e-8, "weight_decay": 0.0, "clip_norm": 1.0, "center": 0.0}
