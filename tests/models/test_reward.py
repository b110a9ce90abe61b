"""Packed rows with shared prompts give the rewards of one response a row; no option changes them."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale import flops
from rewardscale.config import REMAT, ConfigError, ModelConfig
from rewardscale.data import rows as tree_rows
from rewardscale.data.tokenised import TokenisedView, token_store
from rewardscale.models import reward
from tests import small
from tests.models import packed_reference, plain

MODELS = {
    "grouped queries": small.MODEL,
    "query-key norms, one key head": small.varied(small.MODEL, qk_norm=True, kv_heads=1, layers=3),
    "every head its keys, one layer": small.varied(small.MODEL, kv_heads=4, layers=1, head_dim=6),
}


DEFAULT = reward.Options()


@functools.partial(jax.jit, static_argnums=(0, 3))
def forward(
    config: ModelConfig, params: reward.Params, batch: Mapping[str, Any], options: reward.Options
) -> tuple[jax.Array, jax.Array]:
    return reward.rewards(config, params, batch, options)


def random_params(config: ModelConfig, seed: int = 0) -> reward.Params:
    """Fresh parameters, norm scales spread too, so that one left out would show."""
    random = np.random.default_rng(seed)
    params = reward.init(config, (seed,))

    def spread(path: tuple[Any, ...], leaf: np.ndarray) -> np.ndarray:
        scale = path[-1].key == "scale"
        return random.uniform(0.5, 1.5, leaf.shape).astype(np.float32) if scale else leaf

    return jax.tree_util.tree_map_with_path(spread, params)


def pair_rewards(
    config: ModelConfig,
    params: reward.Params,
    packed: tuple[dict[str, np.ndarray], np.ndarray, np.ndarray],
    options: reward.Options = DEFAULT,
) -> np.ndarray:
    """Rewards [trees, 2] of the left and right response, in the trees' order."""
    batch, row, slot = packed
    left, right = forward(config, params, batch, options)
    return np.stack([np.asarray(left)[row, slot], np.asarray(right)[row, slot]], 1)


def random_pairs(view: TokenisedView, count: int, seed: int = 0) -> tree_rows.Trees:
    """Trees of the first `count` rows; some prompts lose tokens on the left."""
    random = np.random.default_rng(seed)
    skip = random.integers(0, view.lengths[:count, 0].astype(np.int64))
    return tree_rows.pair_trees(np.arange(count), random.choice([-1, 1], count), skip)


def sequence(view: TokenisedView, row: int, response: int, skip: int) -> np.ndarray:
    """Token ids of a prompt (without its first `skip` tokens) and one response."""
    flat, _ = token_store(view.directory).gather(np.array([row]))
    start = np.concatenate([[0], np.cumsum(view.lengths[row].astype(np.int64))])
    return np.concatenate([flat[skip : start[1]], flat[start[1 + response] : start[2 + response]]])


def one_a_row(
    config: ModelConfig,
    params: reward.Params,
    view: TokenisedView,
    trees: tree_rows.Trees,
    response: np.ndarray,
) -> np.ndarray:
    """Rewards [n] of one response of each tree by the plain layout: a row each, nothing shared, nothing packed."""
    alone = small.responses_alone(view, trees.rows, response, trees.skip)
    row = np.arange(len(trees))
    batch = tree_rows.assemble(
        token_store(view.directory),
        view.lengths,
        alone,
        row,
        0 * row,
        0 * row,
        shape=(len(trees), 64),
        slots=1,
    )
    return pair_rewards(config, params, (batch, row, 0 * row))[:, 1]


def test_a_prompt_twice_gives_the_rewards_and_gradients_of_a_prompt_once(pairs_view: TokenisedView) -> None:
    """The loss is the same within 1e-5 of its value, as is each gradient within 1e-5 of the largest."""
    config = MODELS["query-key norms, one key head"]
    params, trees = random_params(config), random_pairs(pairs_view, 40)
    found = []
    for shared in (True, False):
        batch, row, slot = small.pack(pairs_view, trees, shared=shared, row_length=96)

        def loss(params: reward.Params, batch=batch, row=row, slot=slot) -> jax.Array:
            left, right = reward.rewards(config, params, batch, reward.Options())
            return jax.nn.softplus(right[row, slot] - left[row, slot]).sum()

        found.append(jax.jit(jax.value_and_grad(loss))(params))
    (once, of_once), (twice, of_twice) = found
    assert abs(float(once) - float(twice)) < 1e-5 * float(once)
    for a, b in zip(jax.tree.leaves(of_once), jax.tree.leaves(of_twice), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * float(np.abs(a).max()))


@pytest.fixture(scope="module")
def long_view(tmp_path_factory: pytest.TempPathFactory) -> TokenisedView:
    """24 comparisons of which a row of 512 tokens holds a few, so that every path of attention has blocks to skip."""
    comparisons = small.random_comparisons(24, prompt=(20, 120), response=(10, 90), seed=2)
    return small.make_view(tmp_path_factory.mktemp("long") / "corpus", comparisons)


@pytest.mark.parametrize(
    "kind", ["windowed", *(pytest.param(n, marks=pytest.mark.slow) for n in ("chunked", "splash"))]
)
def test_the_loss_of_packed_shared_pruned_rows_is_that_of_padded_whole_ones(
    kind: str, long_view: TokenisedView
) -> None:
    """All savings at once against none, dense: within 1e-5 of itself, in float32."""
    config = small.varied(small.MODEL, width=64, layers=3, heads=8, head_dim=8, mlp_width=128, qk_norm=True)
    params, trees, count = random_params(config), random_pairs(long_view, 24), 24
    packed, row, slot = small.pack(long_view, trees, row_length=512)
    assert len(packed["tokens"]) < count / 2
    left, right = forward(config, params, packed, reward.Options(attention=kind))
    ours = jax.nn.softplus(right[row, slot] - left[row, slot]).mean()
    alone = small.responses_alone(
        long_view, np.tile(trees.rows, 2), np.concatenate([trees.left, trees.right]), np.tile(trees.skip, 2)
    )
    each = np.arange(2 * count)
    padded = tree_rows.assemble(
        token_store(long_view.directory), long_view.lengths, alone, each, 0 * each, 0 * each,
        shape=(2 * count, 256), slots=1,
    )  # fmt: skip
    _, found = forward(config, params, padded, reward.Options(attention="dense", prune=False))
    left, right = jnp.split(found[:, 0], 2)
    truth = jax.nn.softplus(right - left).mean()
    assert float(truth) > 0.1 and abs(float(ours) - float(truth)) < 1e-5 * float(truth)


@pytest.mark.parametrize("name", MODELS)
def test_packed_and_shared_equal_one_response_a_row(name: str, pairs_view: TokenisedView) -> None:
    config = MODELS[name]
    params, trees = random_params(config), random_pairs(pairs_view, 60)
    packed = small.pack(pairs_view, trees)
    assert packed[0]["left_at"].shape[1] >= 3  # several trees a row
    ours = pair_rewards(config, params, packed)
    assert ours.std() > 0.3
    for side, responses in enumerate((trees.left, trees.right)):
        numpy = [
            plain.reward(config, params, sequence(pairs_view, *where))
            for where in zip(trees.rows, responses, trees.skip, strict=True)
        ]
        np.testing.assert_allclose(ours[:, side], numpy, rtol=1e-5, atol=1e-5)
        if name != "grouped queries":
            continue  # the same by our own code: compiled for one model only
        single = one_a_row(config, params, pairs_view, trees, responses)
        np.testing.assert_allclose(ours[:, side], single, rtol=1e-5, atol=1e-5)


@pytest.fixture
def reference_kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(reward, "path", lambda kind, *_: kind)
    with packed_reference.in_place_of_kernels():
        yield


@pytest.mark.parametrize("kind", ["dense", "chunked", "windowed", "splash", "cudnn"])
def test_changing_one_comparison_moves_no_other_reward(
    kind: str, pairs_view: TokenisedView, request: pytest.FixtureRequest
) -> None:
    if kind == "cudnn":  # with packed attention in plain JAX in its kernels' place
        request.getfixturevalue("reference_kernels")
    config, options = MODELS["query-key norms, one key head"], reward.Options(attention=kind)
    params, trees = random_params(config), random_pairs(pairs_view, 40)
    batch, row, slot = small.pack(pairs_view, trees)
    before = pair_rewards(config, params, (batch, row, slot), options)
    random = np.random.default_rng(0)
    for changed in range(0, 40, 3):
        segments = batch["segments"][row[changed], slot[changed]]
        first, last = segments[0, 0], segments[2].sum()
        tokens = batch["tokens"].copy()
        tokens[row[changed], first:last] = random.integers(3, 43, last - first)
        after = pair_rewards(config, params, (batch | {"tokens": tokens}, row, slot), options)
        others = np.arange(40) != changed
        np.testing.assert_array_equal(after[others], before[others])
        assert (after[changed] != before[changed]).all()
        # a prompt token moves both rewards, a token of one response only its own
        tokens = batch["tokens"].copy()
        tokens[row[changed], first] = (tokens[row[changed], first] - 2) % 40 + 3  # the left response's last
        after = pair_rewards(config, params, (batch | {"tokens": tokens}, row, slot), options)
        assert after[changed, 0] != before[changed, 0] and after[changed, 1] == before[changed, 1]


def test_contamination_would_be_seen(pairs_view: TokenisedView) -> None:
    trees = random_pairs(pairs_view, 12)
    batch, row, slot = small.pack(pairs_view, trees)
    params = random_params(small.MODEL)
    right = pair_rewards(small.MODEL, params, (batch, row, slot))
    leaky = batch | {"lo": np.zeros_like(batch["lo"])}
    assert np.abs(pair_rewards(small.MODEL, params, (leaky, row, slot)) - right).max() > 0.05


def test_padding_order_and_rows_a_microbatch_do_not_matter(pairs_view: TokenisedView) -> None:
    params, trees = random_params(small.MODEL), random_pairs(pairs_view, 40)
    expected = pair_rewards(small.MODEL, params, small.pack(pairs_view, trees))

    def check(rewards: np.ndarray) -> None:
        np.testing.assert_allclose(rewards, expected, rtol=1e-5, atol=1e-5)

    check(pair_rewards(small.MODEL, params, small.pack(pairs_view, trees, row_length=96)))
    batch, row, slot = small.pack(pairs_view, trees, rows_per_microbatch=4)
    order = np.random.default_rng(0).permutation(len(batch["tokens"]))
    shuffled = {name: values[order] for name, values in batch.items()}
    check(pair_rewards(small.MODEL, params, (shuffled, np.argsort(order)[row], slot)))  # and with inert rows
    four = {name: values.reshape(-1, 4, *values.shape[1:]) for name, values in batch.items()}
    parts = [
        forward(small.MODEL, params, {n: v[m] for n, v in four.items()}, reward.Options())
        for m in range(len(four["tokens"]))
    ]
    left, right = (np.concatenate([np.asarray(p[side]) for p in parts]) for side in (0, 1))
    check(np.stack([left[row, slot], right[row, slot]], 1))


OPTIONS = {
    "loop": reward.Options(scan=False),
    "remat": reward.Options(remat="full"),
    "remat but products": reward.Options(remat="dots"),
    "remat but attention": reward.Options(remat="attention"),
    "remat, loop": reward.Options(remat="full", scan=False),
    "all tokens in the last layer": reward.Options(prune=False),
    "splash attention, remat": reward.Options(attention="splash", remat="full"),
    "layers read in place": reward.Options(differentiated=False),
}


@functools.partial(jax.jit, static_argnums=(0, 3))
def value_and_gradient(config: ModelConfig, params: Any, batch: Any, options: reward.Options) -> Any:
    def value(params: Any) -> tuple[jax.Array, Any]:
        left, right = reward.rewards(config, params, batch, options)
        return jnp.sum(batch["cotangent"] * (left - 2 * right)), (left, right)

    return jax.value_and_grad(value, has_aux=True)(params)


@pytest.fixture(scope="module")
def gradient_case(pairs_view: TokenisedView) -> tuple[ModelConfig, Any, Any, Any]:
    config = small.varied(small.MODEL, layers=3)
    batch, _, _ = small.pack(pairs_view, random_pairs(pairs_view, 12))
    cotangent = np.random.default_rng(0).normal(size=batch["left_at"].shape).astype(np.float32)
    batch = batch | {"cotangent": np.where(batch["segments"][:, :, 1, 1] > 0, cotangent, 0)}
    params = random_params(config)
    return config, params, batch, value_and_gradient(config, params, batch, reward.Options())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if n == "remat, loop" else []) for n in OPTIONS]
)
def test_options_change_neither_rewards_nor_gradients(name: str, gradient_case: Any) -> None:
    config, params, batch, ((_, rewards), gradients) = gradient_case
    (_, ours), our_gradients = value_and_gradient(config, params, batch, OPTIONS[name])
    for a, b in zip(ours, rewards, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(our_gradients), jax.tree.leaves(gradients), strict=True
    ):
        assert np.abs(b).max() > 0, f"{path}: no gradient"
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * float(np.abs(b).max()), err_msg=str(path))


def test_bfloat16_is_close_and_rewards_stay_float32(pairs_view: TokenisedView) -> None:
    params = random_params(small.MODEL)
    packed = small.pack(pairs_view, random_pairs(pairs_view, 40))
    expected = pair_rewards(small.MODEL, params, packed)
    left, _ = forward(small.MODEL, params, packed[0], reward.Options(dtype="bfloat16"))
    assert left.dtype == jnp.float32
    ours = pair_rewards(small.MODEL, params, packed, reward.Options(dtype="bfloat16"))
    assert np.corrcoef(ours.ravel(), expected.ravel())[0, 1] > 0.995
    assert np.abs(ours - expected).max() < 0.1 * np.abs(expected).max()


def test_remat_saves_what_its_name_says(gradient_case: Any) -> None:
    """By the shapes that jax keeps for the backward pass: rows, tokens, then heads or the MLP's width."""
    config, params, batch, _ = gradient_case
    config = small.varied(config, mlp_width=20)
    params = reward.init(config, (0,))
    rows, tokens = batch["tokens"].shape
    kept = {}
    for name in REMAT:
        options = reward.Options(remat=name, scan=False, prune=False)
        _, backward = jax.vjp(lambda p, o=options: reward.rewards(config, p, batch, o), params)
        kept[name] = [leaf.shape for leaf in jax.tree.leaves(backward)]
    heads, mlp, scores = (rows, tokens, 4, 4), (rows, tokens, 20), (rows, 2, 2, tokens, tokens)
    counts = {
        name: tuple(shapes.count(shape) for shape in (heads, mlp, scores)) for name, shapes in kept.items()
    }
    assert counts["full"] == (0, 0, 0)
    assert counts["attention"] == (3, 0, 0)  # what attention returns, once a layer
    assert counts["dots"] == (3, 6, 0)  # queries; gate and up
    assert counts["none"][2] >= 3  # attention's weights too


@pytest.mark.parametrize("qk_norm", [True, False])
def test_what_norms_keep_in_float32_is_what_flops_counts(qk_norm: bool, gradient_case: Any) -> None:
    """In bfloat16, where nothing is recomputed: what a third layer adds, scores and a token's factors left out."""
    _, _, batch, _ = gradient_case
    tokens = batch["tokens"].size
    kept = []
    for layers in (2, 3):
        config = small.varied(small.MODEL, layers=layers, qk_norm=qk_norm)
        options = reward.Options(dtype="bfloat16", scan=False, prune=False)
        _, backward = jax.eval_shape(
            lambda p, c=config, o=options: jax.vjp(lambda p: reward.rewards(c, p, batch, o), p),
            reward.abstract(config),
        )
        leaves = [leaf for leaf in jax.tree.leaves(backward) if leaf.dtype == jnp.float32]
        whole = [leaf for leaf in leaves if leaf.shape[:2] == batch["tokens"].shape and leaf.shape[-1] > 1]
        kept.append(sum(4 * leaf.size for leaf in whole))
    counted = [
        flops.activation_bytes(
            small.varied(small.MODEL, layers=n, qk_norm=qk_norm), tokens=tokens, remat="none"
        )
        - (n + 1) * flops.layer_activation_bytes(small.MODEL, tokens=tokens)
        for n in (2, 3)
    ]
    assert kept[1] - kept[0] == counted[1] - counted[0] > 0


def test_the_gradient_of_a_narrow_table_is_summed_in_float32() -> None:
    """1,000 equal parts: in bfloat16 a sum stops growing at 256 times a part."""
    table, tokens = jnp.ones((4, 8), jnp.bfloat16), np.full((1, 1000), 2, np.int32)
    gradient = jax.grad(lambda t: reward.embed(t, tokens, "bfloat16", None).astype(jnp.float32).sum())(table)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(gradient[2], np.float32), 1000)
    assert not np.asarray(gradient, np.float32)[[0, 1, 3]].any()


def test_init_is_a_function_of_seed_and_path_alone() -> None:
    one, same, other = (reward.init(small.MODEL, seed) for seed in ((3, 0), (3, 0), (3, 1)))
    np.testing.assert_array_equal(one["embedding"], same["embedding"])
    assert (one["embedding"] != other["embedding"]).all()
    # a part that two shapes have in common starts the same: the deeper model only adds numbers
    wide = reward.init(small.varied(small.MODEL, mlp_width=32), (3, 0))
    np.testing.assert_array_equal(one["blocks"]["attention"]["q"], wide["blocks"]["attention"]["q"])
    # the recipe's standard deviations, and a known value: another platform or release must give the same
    assert abs(one["blocks"]["attention"]["q"].std() * 4 - 1) < 0.1
    assert abs(one["embedding"].std() / small.MODEL.embedding_sd - 1) < 0.1
    assert (one["blocks"]["mlp_norm"]["scale"] == 1).all()
    np.testing.assert_allclose(one["embedding"].ravel()[:3], KNOWN_START, rtol=1e-6)
    zero = reward.init(small.varied(small.MODEL, head_sd=0.0), (3, 0))
    assert not zero["head"].any()


KNOWN_START = [0.104434006, -0.39349103, -0.17399958]  # seed (3, 0), embedding, by Philox


def test_a_remat_that_is_none() -> None:
    with pytest.raises(ConfigError, match="remat=True must be one of none, dots"):
        reward.Options(remat=True)  # pyright: ignore[reportArgumentType]


def test_module_round_trip_leaves_the_cached_structure_abstract() -> None:
    params = reward.init(small.MODEL, (0,))
    module = reward.module(small.MODEL, params)
    assert np.shares_memory(np.asarray(module.embedding[...]), params["embedding"])
    assert isinstance(reward.abstract(small.MODEL)["embedding"], jax.ShapeDtypeStruct)
