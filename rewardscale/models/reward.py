"""The reward model: a decoder backbone and a bias-free linear head in float32, read at the last token of a response.

Parameters travel as a pure dict of arrays (layers stacked on a leading axis L):

    embedding [V, D]
    blocks    attention {q [L, D, H, d], k, v [L, D, K, d], o [L, H, d, D]}, mlp {gate, up [L, D, F], down [L, F, D]},
              norms [L, D]
    norm      scale [D]
    head      [D]

With adapters (ModelConfig.lora) the factors of kernel q lie beside it: q_a [L, D, r], q_b [L, r, H, d]; so for others.
Embedding and kernels may be stored in bfloat16; norm scales, head and adapters are float32 always.
"""

import contextlib
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

from rewardscale.config import ATTENTION, KERNELS, REMAT, ConfigError, ModelConfig
from rewardscale.mesh import BATCH_AXES, fitted, platform
from rewardscale.models import products
from rewardscale.models.attention import among_tokens, at_queries, ordered, path
from rewardscale.models.layers import Block, RMSNorm, declare, rotary, take_tokens

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Options:
    """How the forward pass is computed; none of them changes a reward beyond rounding.

    Attributes:
      dtype: compute type. scan: lax.scan over layers, or an unrolled loop.
      remat: what of a layer is saved for the backward pass, a name of config.REMAT; the rest is computed again.
      prune: compute the last layer at the reward tokens only.
      attention: a name of config.ATTENTION (models/attention.py).
      differentiated: whether gradients are taken. If not, layers are read where they lie; otherwise pruning copies all
        but the last.
    """

    dtype: str = "float32"
    scan: bool = True
    remat: str = "none"
    prune: bool = True
    attention: str = "auto"
    differentiated: bool = True

    def __post_init__(self) -> None:
        if self.remat not in REMAT:
            raise ConfigError(f"remat={self.remat!r} must be one of {', '.join(REMAT)}")
        if self.attention not in ATTENTION:
            raise ConfigError(f"attention={self.attention!r} must be one of {', '.join(ATTENTION)}")


@dataclasses.dataclass(frozen=True)
class Specs:
    """Where each parameter is split: FSDP over widths, tensor parallelism over heads, MLP width and vocabulary.

    An adapter's A is split like its kernel's inputs, its B like the outputs, so x A B needs what x W needs.
    """

    embedding: P = P("tensor", "fsdp")  # [V, D]
    q: P = P(None, "fsdp", "tensor", None)  # [L, D, H, d]
    k: P = P(None, "fsdp", "tensor", None)  # [L, D, K, d]
    v: P = P(None, "fsdp", "tensor", None)  # [L, D, K, d]
    o: P = P(None, "tensor", None, "fsdp")  # [L, H, d, D]
    gate: P = P(None, "fsdp", "tensor")  # [L, D, F]
    up: P = P(None, "fsdp", "tensor")  # [L, D, F]
    down: P = P(None, "tensor", "fsdp")  # [L, F, D]
    q_a: P = P(None, "fsdp", None)  # [L, D, r]
    q_b: P = P(None, None, "tensor", None)  # [L, r, H, d]
    k_a: P = P(None, "fsdp", None)  # [L, D, r]
    k_b: P = P(None, None, "tensor", None)  # [L, r, K, d]
    v_a: P = P(None, "fsdp", None)  # [L, D, r]
    v_b: P = P(None, None, "tensor", None)  # [L, r, K, d]
    o_a: P = P(None, "tensor", None, None)  # [L, H, d, r]
    o_b: P = P(None, None, "fsdp")  # [L, r, D]
    gate_a: P = P(None, "fsdp", None)  # [L, D, r]
    gate_b: P = P(None, None, "tensor")  # [L, r, F]
    up_a: P = P(None, "fsdp", None)  # [L, D, r]
    up_b: P = P(None, None, "tensor")  # [L, r, F]
    down_a: P = P(None, "tensor", None)  # [L, F, r]
    down_b: P = P(None, None, "fsdp")  # [L, r, D]
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


def abstract(config: ModelConfig, storage: str = "float32") -> Params:
    """Shapes and types of the parameters, a ShapeDtypeStruct each, as `stored` in "float32" or "bfloat16"."""
    # Fresh dicts each time: the cached ones stay as they are.
    return jax.tree.map(lambda leaf: leaf, _abstract(config, storage))


@functools.lru_cache(maxsize=64)
def _abstract(config: ModelConfig, storage: str) -> Params:
    return jax.eval_shape(functools.partial(stored, storage=storage), nnx.to_pure_dict(_declared(config)[1]))


def stored(params: Params, storage: str) -> Params:
    """Embedding and kernels in type `storage`; norm scales, head and adapters in float32."""

    def one(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        narrow = path[-1].key == "embedding" or path[-1].key in KERNELS
        return jnp.asarray(leaf, storage if narrow else "float32")

    return jax.tree_util.tree_map_with_path(one, params)


def init(config: ModelConfig, seed: Sequence[int], *, part: Params | None = None) -> Params:
    """Fresh parameters as NumPy arrays; of all, or of a `part` of the abstract tree.

    Each is drawn by a generator of its own, seeded by `seed` and the parameter's path: the same on every
    platform and JAX version, and nothing has to be compiled.
    """
    _, state = _declared(config)
    spread = {path: variable.get_metadata("sd") for path, variable in nnx.to_flat_state(state)}

    def one(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return draw(seed, name, leaf.shape, spread[tuple(entry.key for entry in path)])

    return jax.tree_util.tree_map_with_path(one, abstract(config) if part is None else part)


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


def pin_parameters(mesh: Mesh | None, specs: Specs | None = None) -> Callable[[Block], Block]:
    """Keeps one layer's parameters, and so their gradients, split as `shardings` says.

    Without it XLA may sum a layer's gradients whole on every device and split them after the last layer, when
    the gradients of the whole model have been on every device.
    """
    if mesh is None or mesh.size == 1:
        return lambda block: block
    spec = specs or Specs()

    def one(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        name = next(
            str(n) for n in (getattr(k, "name", None) or k.key for k in path) if hasattr(spec, str(n))
        )
        of_layer = P(*getattr(spec, name)[1:])  # without the stacked layers' axis
        return jax.lax.with_sharding_constraint(leaf, fitted(mesh, of_layer, leaf.shape))

    return lambda block: jax.tree_util.tree_map_with_path(one, block)


def exact_products(options: Options) -> contextlib.AbstractContextManager[Any]:
    """Within it, float32 matrices are multiplied as such; by default GPUs and TPUs take fewer bits."""
    return jax.default_matmul_precision("highest") if options.dtype == "float32" else contextlib.nullcontext()


def rewards(
    config: ModelConfig,
    params: Params,
    batch: Mapping[str, jax.Array],
    options: Options,
    mesh: Mesh | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Rewards of the left and right responses of each tree.

    Args:
      batch: tokens, positions, lo, hi int32 [R, T]; left_at, right_at int32 [R, S] (data/rows.py). A path of
        attention that wants another order of tokens takes it here, once, and needs `segments` [R, S, 3, 2] too.
        Where trees have branches also prefix [R, T, 2].
      mesh: what rows and parameters are spread over, if it has more than one device.

    Returns:
      Two float32 arrays [R, S]; entries of absent trees or responses are meaningless and finite.

    Raises ConfigError for branches if gradients are wanted of a path that has none.
    """
    model, keep = module(config, params), constrain_rows(mesh)
    kind = path(options.attention, config, options.dtype, batch["tokens"].shape, mesh)
    if kind in ("splash", "windowed") and "prefix" in batch and options.differentiated:
        raise ConfigError(f"attention={kind!r} has no gradients of trees with branches: they are for scoring")
    batch = ordered(kind, batch)
    x = keep(embed(model.embedding[...], batch["tokens"], options.dtype, mesh))
    index = jnp.concatenate([batch["left_at"], batch["right_at"]], -1)  # [R, 2S]

    def pick(values: jax.Array) -> jax.Array:
        return jnp.take_along_axis(values, index.reshape(*index.shape, *[1] * (values.ndim - 2)), axis=1)

    turn = jax.lax.optimization_barrier(rotary(batch["positions"], config))  # once, not in every layer
    attend = among_tokens(kind, batch["lo"], batch["hi"], mesh, batch.get("segments"), batch.get("prefix"))
    pin, multiply = pin_parameters(mesh), products.choose(platform(mesh), options.dtype)

    def forward(x: jax.Array, block: Block) -> jax.Array:
        return keep(pin(block)(x, turn, attend, multiply))

    x = run_blocks(model.blocks, config.layers - options.prune, x, forward, options)
    if not options.prune:
        x = take_tokens(x, index)
    else:
        last = jax.tree.map(lambda p: p[-1], model.blocks)
        index_turn = rotary(pick(batch["positions"]), config)
        prefix = pick(batch["prefix"]) if "prefix" in batch else None
        index_attend = at_queries(pick(batch["lo"]), pick(batch["hi"]), batch.get("keys", x.shape[1]), prefix)
        x = pin(last).at(x, turn, index_attend, index, index_turn, multiply)
    x = model.norm(keep(x).astype(jnp.float32))
    out = keep(jnp.einsum("rqd,d->rq", x, model.head[...], precision="highest"))
    left, right = jnp.split(out, 2, -1)
    return left, right


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def embed(table: jax.Array, tokens: jax.Array, dtype: str, mesh: Mesh | None) -> jax.Array:
    """Rows of the table [V, D] at `tokens` [R, T] in the compute type: [R, T, D].

    Where the table's width is split over "fsdp", each device looks up its part of the width for the rows of all, and
    the parts are exchanged (all-to-all): no device ever holds the whole table, nor its gradient. That gradient is
    summed in float32: a frequent token's many parts would stop adding up in bfloat16.
    """
    gathered, parts = _exchange(mesh, table.shape)
    return parts(table[gathered(tokens)].astype(dtype))


def _embed_forward(table: jax.Array, tokens: jax.Array, dtype: str, mesh: Mesh | None) -> Any:
    return embed(table, tokens, dtype, mesh), (tokens, jnp.zeros((table.shape[0], 0), table.dtype))


def _embed_backward(dtype: str, mesh: Mesh | None, kept: Any, cotangent: jax.Array) -> tuple[jax.Array, None]:
    del dtype
    tokens, like = kept  # `like`: the table's rows and type
    table = jax.ShapeDtypeStruct((like.shape[0], cotangent.shape[-1]), jnp.float32)
    gathered, parts = _exchange(mesh, table.shape)
    tokens = gathered(tokens)
    (summed,) = jax.linear_transpose(lambda t: t[tokens], table)(parts(cotangent).astype(jnp.float32))
    return summed.astype(like.dtype), None


def _exchange(mesh: Mesh | None, shape: Sequence[int]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Placements of tokens [R, T] and vectors [R, T, D] while each device sees to its part of the table's width."""
    width = None if mesh is None or mesh.size == 1 else fitted(mesh, Specs().embedding, shape).spec[1]
    if mesh is None or width is None:
        return (lambda x: x), (lambda x: x)
    rows, parts = NamedSharding(mesh, P("data")), NamedSharding(mesh, P("data", None, width))
    return (
        lambda tokens: jax.lax.with_sharding_constraint(tokens, rows),
        lambda vectors: jax.lax.with_sharding_constraint(vectors, parts),
    )


embed.defvjp(_embed_forward, _embed_backward)


def run_blocks(
    blocks: Block,
    count: int,
    x: jax.Array,
    forward: Callable[[jax.Array, Block], jax.Array],
    options: Options,
) -> jax.Array:
    """x [R, T, D] through the first `count` stacked blocks, each by `forward`.

    By scan or by an unrolled loop. A scan that is differentiated wants its layers as a stack of their own: a copy.
    """

    def body(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
        return forward(x, block), None

    step = body
    if options.remat != "none":
        step = jax.checkpoint(body, prevent_cse=not options.scan, policy=_SAVED[options.remat])

    def layer(number: Any) -> Block:
        return jax.tree.map(lambda p: p[number], blocks)

    if options.scan and not options.differentiated:
        return jax.lax.scan(lambda x, number: body(x, layer(number)), x, jnp.arange(count))[0]
    if options.scan:
        return jax.lax.scan(step, x, jax.tree.map(lambda p: p[:count], blocks))[0]
    for number in range(count):
        x, _ = step(x, layer(number))
    return x


_SAVED = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
    "full": None,
}
