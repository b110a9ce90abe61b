"""The reward model: a decoder backbone and a bias-free linear head in float32, read at the last token of a response.

Parameters travel as a pure dict of arrays (layers stacked on a leading axis L):

    embedding [V, D]
    blocks    attention {q [L, D, H, d], k, v [L, D, K, d], o [L, H, d, D]}, mlp {gate, up [L, D, F], down [L, F, D]},
              norms [L, D]
    norm      scale [D]
    head      [D]
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale.config import ModelConfig
from rewardscale.mesh import BATCH_AXES, fitted
from rewardscale.models.attention import interval_mask
from rewardscale.models.layers import Block, RMSNorm, declare, rotary, take_tokens

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """How the forward pass is computed; none of them changes a reward beyond rounding.

    Attributes:
      dtype: compute type. scan: lax.scan over layers, or an unrolled loop. remat: recompute in the backward pass.
      prune: compute the last layer at the reward tokens only.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: bool = False
    prune: bool = True


@dataclasses.dataclass(frozen=True)
class Specs:
    """Where each parameter is split: FSDP over widths, tensor parallelism over heads, MLP width and vocabulary."""

    embedding: P = P("tensor", None)  # [V, D]: D is not split, a look-up would gather it whole
    q: P = P(None, "fsdp", "tensor", None)  # [L, D, H, d]
    k: P = P(None, "fsdp", "tensor", None)  # [L, D, K, d]
    v: P = P(None, "fsdp", "tensor", None)  # [L, D, K, d]
    o: P = P(None, "tensor", None, "fsdp")  # [L, H, d, D]
    gate: P = P(None, "fsdp", "tensor")  # [L, D, F]
    up: P = P(None, "fsdp", "tensor")  # [L, D, F]
    down: P = P(None, "tensor", "fsdp")  # [L, F, D]
    scale: P = P()  # norms [L, D], [L, d] or [D]
    head: P = P()  # [D]


class RewardModel(nnx.Module):
    """Backbone and head as containers of parameters; `rewards` is the forward pass."""

    def __init__(self, config: ModelConfig):
        self.embedding = declare((config.padded_vocab_size, config.width), config.embedding_sd)
        self.blocks = jax.tree.map(lambda p: jnp.zeros((config.layers, *p.shape), p.dtype), Block(config))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = declare((config.width,), config.head_sd)


@functools.lru_cache(maxsize=64)
def _declared(config: ModelConfig) -> tuple[Any, Any]:
    """The module's structure and its abstract parameters."""
    return nnx.split(nnx.eval_shape(lambda: RewardModel(config)), nnx.Param)


def abstract(config: ModelConfig) -> Params:
    """Shapes and types of the parameters, a ShapeDtypeStruct each."""
    return nnx.to_pure_dict(_declared(config)[1])


def init(config: ModelConfig, seed: Sequence[int]) -> Params:
    """Fresh parameters as NumPy arrays.

    Each is drawn by a generator of its own, seeded by `seed` and the parameter's path: the same on every
    platform and JAX version, and nothing has to be compiled.
    """

    _, state = _declared(config)
    spread = {path: variable.get_metadata("sd") for path, variable in nnx.to_flat_state(state)}

    def one(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return draw(seed, name, leaf.shape, spread[tuple(entry.key for entry in path)])

    return jax.tree_util.tree_map_with_path(one, abstract(config))


def draw(seed: Sequence[int], name: str, shape: tuple[int, ...], sd: float | None) -> np.ndarray:
    """The fresh parameter `name`, float32: N(0, sd^2), or ones where `sd` is None."""
    if sd is None:
        return np.ones(shape, np.float32)
    random = np.random.Generator(np.random.Philox(np.random.SeedSequence([*seed, *name.encode()])))
    return random.standard_normal(shape, np.float32) * np.float32(sd)


def shardings(mesh: Mesh, params: Mapping[str, Any], specs: Specs | None = None) -> Any:
    """A NamedSharding for each parameter (arrays or ShapeDtypeStructs) of the tree."""
    specs = specs or Specs()

    def one(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        return fitted(mesh, getattr(specs, path[-1].key), leaf.shape)

    return jax.tree_util.tree_map_with_path(one, params)


def module(config: ModelConfig, params: Params) -> RewardModel:
    """Puts parameters back into their module (no copy)."""
    graph, state = _declared(config)
    state = jax.tree.map(lambda leaf: leaf, state)  # a fresh container: the cached one stays abstract
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)


def constrain_rows(mesh: Mesh | None) -> Callable[[jax.Array], jax.Array]:
    """Keeps activations [R, ...] dealt by rows over data x fsdp, whole along every other dimension.

    Left to itself XLA may follow the weights instead and split activations along their width over "fsdp":
    every layer then gathers activations where it should gather weights.
    """
    if mesh is None or mesh.size == 1:
        return lambda x: x
    rows = NamedSharding(mesh, P(BATCH_AXES))
    return lambda x: jax.lax.with_sharding_constraint(x, rows)


def rewards(
    config: ModelConfig,
    params: Params,
    batch: Mapping[str, jax.Array],
    options: Options,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Rewards of the left and right responses of each tree.

    Args:
      batch: tokens, positions, lo, hi int32 [R, T]; left_at, right_at int32 [R, S] (data/rows.py).
      mesh: what rows and parameters are spread over, if it has more than one device.

    Returns:
      Two float32 arrays [R, S]; entries of absent trees or responses are meaningless and finite.
    """
    model, keep = module(config, params), constrain_rows(mesh)
    x = keep(model.embedding[...][batch["tokens"]].astype(options.dtype))
    index = jnp.concatenate([batch["left_at"], batch["right_at"]], -1)  # [R, 2S]

    def pick(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, index, axis=1)

    turn = rotary(batch["positions"], config)
    mask = interval_mask(batch["lo"], batch["hi"], x.shape[1])
    body, last = split_last(model.blocks) if options.prune else (model.blocks, None)
    x = run_blocks(body, x, turn, mask, options, keep)
    if last is None:
        x = take_tokens(x, index)
    else:
        index_turn = rotary(pick(batch["positions"]), config)
        index_mask = interval_mask(pick(batch["lo"]), pick(batch["hi"]), x.shape[1])
        x = last.at(x, turn, index_mask, index, index_turn)
    x = model.norm(keep(x).astype(jnp.float32))
    out = keep(jnp.einsum("rqd,d->rq", x, model.head[...], precision="highest"))
    left, right = jnp.split(out, 2, -1)
    return left, right


def split_last(blocks: Block) -> tuple[Block, Block]:
    """Stacked blocks without the last one, and the last one."""
    return jax.tree.map(lambda p: p[:-1], blocks), jax.tree.map(lambda p: p[-1], blocks)


def run_blocks(
    blocks: Block,
    x: jax.Array,
    turn: tuple[jax.Array, jax.Array],
    mask: jax.Array,
    options: Options,
    keep: Callable[[jax.Array], jax.Array],
) -> jax.Array:
    """x [R, T, D] through stacked blocks, by scan or by an unrolled loop; `keep` holds its sharding."""

    def body(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
        return keep(block(x, turn, mask)), None

    step = jax.checkpoint(body, prevent_cse=not options.scan) if options.remat else body
    count = jax.tree.leaves(blocks)[0].shape[0]
    if options.scan:
        return jax.lax.scan(step, x, blocks)[0]
    for layer in range(count):
        x, _ = step(x, jax.tree.map(lambda p, layer=layer: p[layer], blocks))
    return x
