"""cuDNN's path of attention on CPUs: all of it but the kernels, in whose place packed_reference.py stands."""

import functools
import itertools
import json
import re
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax._src.cudnn import fused_attention_stablehlo as kernels

from rewardscale import mesh as meshes
from rewardscale.config import ConfigError
from rewardscale.data import rows as tree_rows
from rewardscale.data.tokenised import TokenisedView
from rewardscale.models import attention, cudnn, reward
from tests import small
from tests.models import packed_reference

LENGTH, SLOTS = 48, 4
HEADS = [(4, 4), (4, 2), (3, 1)]
TREE = st.tuples(
    st.integers(0, 9), st.integers(0, 9), st.integers(1, 9)
)  # left, prompt, right; 0: there is none
ROWS = st.lists(st.lists(TREE, max_size=SLOTS), min_size=2, max_size=2)
Trees = list[list[tuple[int, int, int]]]


@pytest.fixture(scope="module", autouse=True)
def reference() -> Iterator[None]:
    with packed_reference.in_place_of_kernels():
        yield


def batch_of(rows: Trees) -> dict[str, np.ndarray]:
    """The arrays of rows that hold trees of these sizes, those left out that do not fit; a token is never repeated."""
    parts, row, offset, slot, left = [], [], [], [], []
    for number, trees in enumerate(rows):
        at = count = 0
        for sizes in trees:
            if at + sum(sizes) > LENGTH:
                continue
            token = 1000 * number + 100 * count
            ends = np.cumsum([token + 1, sizes[1], sizes[0], sizes[2]])
            spans = [list(range(a, b)) for a, b in itertools.pairwise(ends)]
            parts.append([spans[0], *(spans[1:] if sizes[0] else spans[2:])])
            left.append(0 if sizes[0] else tree_rows.ABSENT)
            row, offset, slot = [*row, number], [*offset, at], [*slot, count]
            at, count = at + sum(sizes), count + 1
    table, left = tree_rows.TokenTable.of(parts), np.array(left, np.int64)
    each = np.arange(len(parts))
    trees = tree_rows.Trees(each, left, np.where(left == 0, 1, 0), 0 * each)
    where = (np.array(x, np.int64) for x in (row, offset, slot))
    return tree_rows.assemble(table, table.lengths, trees, *where, shape=(len(rows), LENGTH), slots=SLOTS)


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_the_order_is_prompt_left_right_in_reading_order(rows: Trees) -> None:
    batch = batch_of(rows)
    ours = {name: np.asarray(array) for name, array in jax.jit(cudnn.prompt_first)(batch).items()}
    np.testing.assert_array_equal(ours["tokens"], np.take_along_axis(batch["tokens"], ours["keys"], 1))
    assert (np.sort(ours["keys"], 1) == np.arange(LENGTH)).all()
    for r, s in np.ndindex(batch["segments"].shape[:2]):
        (_, left), (_, prompt), (_, right) = batch["segments"][r, s]
        first, size = batch["segments"][r, s, 0, 0], left + prompt + right
        tokens, positions = (ours[name][r, first : first + size] for name in ("tokens", "positions"))
        assert (np.diff(tokens) == 1).all()  # as they were numbered: prompt, left, right
        assert positions.tolist() == [*range(prompt + left), *range(prompt, prompt + right)]
        starts = [first, first + prompt, first + prompt + left]
        assert ours["segments"][r, s].tolist() == [
            [a, n] for a, n in zip(starts, (prompt, left, right), strict=True)
        ]
        for at in ("left_at", "right_at"):
            if size and (left or at == "right_at"):
                assert ours["tokens"][r, ours[at][r, s]] == batch["tokens"][r, batch[at][r, s]]


@functools.cache
def both_paths(heads: int, kv: int, dtype: str) -> Any:
    """jit of (q, k, v, weight, batch) -> output and gradients by cuDNN's path, and those of dense in the same order.

    `dense` is told the intervals of the order that data/rows.py has, and which token is which.
    """
    del heads, kv

    def run(arrays: list[jax.Array], batch: dict[str, jax.Array]) -> Any:
        batch = cudnn.prompt_first(batch)
        trees = (batch["tokens"] > 0)[..., None, None]

        def gradients(attend: attention.Attend, q: jax.Array, k: jax.Array, v: jax.Array) -> Any:
            def summed(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, jax.Array]:
                out = attend(q, k, v).astype(jnp.float32)
                return jnp.where(trees, out * arrays[3], 0).sum(), jnp.where(trees, out, 0)

            found, out = jax.grad(summed, (0, 1, 2), has_aux=True)(q, k, v)
            return out, *found

        segments = batch["segments"]
        ours = attention.among_tokens("cudnn", batch["lo"], batch["hi"], None, segments)
        dense = attention.at_queries(batch["lo"], batch["hi"], batch["keys"], batch.get("prefix"))
        narrow = [x.astype(dtype) for x in arrays[:3]]
        outside = jnp.where(trees, 0, ours(*narrow))
        return gradients(ours, *narrow), gradients(dense, *(x.astype(jnp.float32) for x in narrow)), outside

    return jax.jit(run)


def random_arrays(seed: int, heads: int, kv: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [random.normal(size=(2, LENGTH, n, 8)).astype(np.float32) for n in (heads, kv, kv, heads)]


@pytest.mark.parametrize(("heads", "kv"), HEADS)
@settings(max_examples=25, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 99))
def test_it_is_dense_on_random_trees_forward_and_backward(
    heads: int, kv: int, rows: Trees, seed: int
) -> None:
    ours, truth, outside = both_paths(heads, kv, "float32")(random_arrays(seed, heads, kv), batch_of(rows))
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    assert (np.asarray(outside) == 0).all()  # and so finite: kernels write nothing there


@settings(max_examples=10, deadline=None)
@given(rows=ROWS, seed=st.integers(0, 99))
def test_in_bfloat16_it_is_dense_to_rounding(rows: Trees, seed: int) -> None:
    ours, truth, _ = both_paths(4, 2, "bfloat16")(random_arrays(seed, 4, 2), batch_of(rows))
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(np.asarray(a, np.float32), b, atol=0.02 * max(1, np.abs(b).max()))


@settings(max_examples=10, deadline=None)
@given(
    rows=st.lists(st.lists(TREE, min_size=2, max_size=SLOTS), min_size=2, max_size=2), seed=st.integers(0, 99)
)
def test_no_tree_sees_another(rows: Trees, seed: int) -> None:
    """The other trees' outputs and gradients stay as they are to the last bit."""
    batch, arrays = batch_of(rows), random_arrays(seed, 4, 2)
    run = both_paths(4, 2, "float32")
    random = np.random.default_rng(seed)
    r, s = random.integers(2), random.integers(2)
    first, size = batch["segments"][r, s, 0, 0], batch["segments"][r, s, :, 1].sum()
    changed = [x.copy() for x in arrays]
    for x in changed:
        x[r, first : first + size] = 100 * random.normal(size=x[r, first : first + size].shape)
    others = np.ones((2, LENGTH), bool)
    others[r, first : first + size] = False
    for a, b in zip(run(arrays, batch)[0], run(changed, batch)[0], strict=True):
        np.testing.assert_array_equal(np.asarray(a)[others], np.asarray(b)[others])
        assert (np.asarray(a)[~others] != np.asarray(b)[~others]).any()


@pytest.mark.parametrize(("shape", "heads", "kv"), [((2, 2, 2), 4, 2), ((2, 1, 4), 12, 3)])
def test_over_a_mesh_it_is_what_it_is_on_one_device(shape: tuple[int, int, int], heads: int, kv: int) -> None:
    rows = [[(3, 4, 5), (0, 2, 9)], [(9, 9, 9)], [], [(1, 1, 1)] * 4]
    batch = cudnn.prompt_first({name: jnp.asarray(array) for name, array in batch_of(rows).items()})
    random = np.random.default_rng(0)
    q, k, v, weight = (
        jnp.asarray(random.normal(size=(4, LENGTH, n, 8)), jnp.float32) for n in (heads, kv, kv, heads)
    )

    def gradients(mesh: jax.sharding.Mesh | None) -> Any:
        attend = attention.among_tokens("cudnn", batch["lo"], batch["hi"], mesh, batch["segments"])
        return jax.jit(jax.grad(lambda q, k, v: (attend(q, k, v) * weight).sum(), (0, 1, 2)))(q, k, v)

    for a, b in zip(gradients(meshes.make_mesh(shape)), gradients(None), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


OPTIONS = {
    "": reward.Options(attention="cudnn"),
    "remat but attention": reward.Options(attention="cudnn", remat="attention"),
    "all tokens in the last layer, loop": reward.Options(attention="cudnn", prune=False, scan=False),
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] if "loop" in n else []) for n in OPTIONS]
)
def test_rewards_and_gradients_are_those_of_dense(
    name: str, pairs_view: TokenisedView, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reward, "path", lambda kind, *_: kind)
    config = small.varied(small.MODEL, layers=2)
    rows = np.arange(12)
    trees = tree_rows.pair_trees(rows, np.where(rows % 2, 1, -1), rows // 6)
    trees.left[::5] = tree_rows.ABSENT
    batch, row, slot = small.pack(pairs_view, trees)
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    there = np.zeros((2, *batch["left_at"].shape), np.float32)
    there[:, row, slot] = np.random.default_rng(0).normal(size=(2, 12))
    there[0, row[::5], slot[::5]] = 0

    @functools.partial(jax.jit, static_argnums=1)
    def value(params: Any, options: reward.Options) -> Any:
        def total(params: Any) -> jax.Array:
            left, right = reward.rewards(config, params, arrays, options)
            return jnp.sum(there[0] * left + there[1] * right)

        return jax.value_and_grad(total)(params)

    params = reward.init(config, (0,))
    ours, truth = (
        jax.tree.leaves(value(params, o)) for o in (OPTIONS[name], reward.Options(attention="dense"))
    )
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


# The test that the kernels must pass on a device before they are used.

CPU = jax.devices()[0]


def failure() -> str:
    cudnn.failure.cache_clear()
    return cudnn.failure(attention._truth, CPU, "bfloat16", 2, 1, 8)


def test_kernels_that_are_right_pass_their_test_even_while_something_is_traced() -> None:
    found = []

    def body(i: jax.Array, x: jax.Array) -> jax.Array:
        if not found:
            found.append(failure())
        return x + i

    jax.jit(lambda x: jax.lax.fori_loop(0, 2, body, x))(1)
    assert found == [""]


RIGHT = (kernels._fix_seqlen_offsets, packed_reference.forward, packed_reference.backward)


def strided_by_queries(*arguments: Any) -> Any:
    """Offsets of keys as jax 0.10 counted them."""
    *sizes, q_starts, kv_starts = RIGHT[0](*arguments)
    return *sizes, q_starts, kv_starts * (arguments[4].shape[2] // arguments[5].shape[2])


def no_causality(*arrays: Any, mask_type: Any, **kept: Any) -> Any:
    return RIGHT[1](*arrays, mask_type=kernels.MaskType.PADDING, **kept)


def a_key_too_many(*arrays: Any, **kept: Any) -> Any:
    sizes = arrays[5]
    return RIGHT[1](*arrays[:5], jnp.where(sizes > 0, sizes + 1, 0), *arrays[6:], **kept)


def not_merged(*arrays: Any, **kept: Any) -> Any:
    """A backward pass that goes by a log-sum-exp of its own."""
    _, log = RIGHT[1](*arrays[:-3], **kept)
    return RIGHT[2](*arrays[:-3], log, *arrays[-2:], **kept)


def seen_a_little(*arrays: Any, **kept: Any) -> Any:
    """An answer that all of the values in memory move, by less than rounding explains."""
    out, log = RIGHT[1](*arrays, **kept)
    little = 1 + 0.003 * arrays[2].astype(jnp.float32).std()
    return (out.astype(jnp.float32) * little).astype(out.dtype), log


@pytest.mark.parametrize(
    ("what", "module", "name", "fault"),
    [
        ("gives wrong outputs", kernels, "_fix_seqlen_offsets", strided_by_queries),
        ("gives wrong gradients", packed_reference, "backward", not_merged),
        ("lets one tree's tokens see another's", packed_reference, "forward", seen_a_little),
        pytest.param(
            "gives wrong outputs", packed_reference, "forward", no_causality, marks=pytest.mark.slow
        ),
        pytest.param(
            "gives wrong outputs", packed_reference, "forward", a_key_too_many, marks=pytest.mark.slow
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_kernels_that_are_wrong_are_found_out(
    what: str, module: Any, name: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, fault)
    with packed_reference.in_place_of_kernels():
        assert failure().removesuffix(" in its test") == f"cuDNN's attention {what}"


def test_kernels_that_raise_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(kernels, "_dot_product_attention_bwd_p_wrapper")
    assert "fails its test: AttributeError" in failure()


def gpu(capability: str = "9.0", platform: str = "gpu", version: str = "cuda 13000") -> Any:
    client = types.SimpleNamespace(platform_version=version)
    return types.SimpleNamespace(platform=platform, compute_capability=capability, client=client)


@pytest.mark.parametrize(
    ("device", "dtype", "shape", "reason"),
    [
        (gpu(), "bfloat16", (32, 8, 128, 65536), ""),
        (gpu("10.0"), "float16", (4, 4, 256, 8), ""),
        (CPU, "bfloat16", (4, 2, 64, 8), "NVIDIA GPUs, and this is cpu"),
        (gpu(version="rocm 60000"), "bfloat16", (4, 2, 64, 8), "NVIDIA GPUs, and this is gpu"),
        (gpu("8.9"), "bfloat16", (4, 2, 64, 8), "9.0 .Hopper. or newer, and this has 8.9"),
        (gpu(), "float32", (4, 2, 64, 8), "not float32"),
        (gpu(), "bfloat16", (4, 2, 60, 8), "not 60"),
        (gpu(), "bfloat16", (4, 2, 264, 8), "not 264"),
        (gpu(), "bfloat16", (32, 8, 128, 1 << 19), "524288 tokens a device: lower its rows"),
    ],
)
def test_what_cannot_be_served_is_refused(
    device: Any, dtype: str, shape: tuple[int, ...], reason: str
) -> None:
    heads, kv, dim, tokens = shape
    found = cudnn.refusal(device, dtype, heads, kv, dim, tokens)
    assert re.search(reason, found) and bool(found) == bool(reason)


def test_an_old_jax_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "__version_info__", (0, 11, 1))
    assert "0.11.2 or newer is needed" in cudnn.refusal(gpu(), "bfloat16", 4, 2, 64, 8)


MODEL = small.varied(small.MODEL, head_dim=16)


def test_asked_for_where_it_cannot_be_had_it_is_an_error() -> None:
    with pytest.raises(
        ConfigError, match=r"attention='cudnn': .* and this is cpu; give attention='dense' instead"
    ):
        attention.path("cudnn", MODEL, "bfloat16", (2, 64), None)


def test_auto_on_a_gpu_takes_it_once_it_has_passed_and_says_why_if_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mesh: Any = types.SimpleNamespace(
        devices=np.array([gpu()], object), local_devices=[CPU], shape=dict.fromkeys(meshes.AXES, 1)
    )
    cudnn.failure.cache_clear()
    attention._warn.cache_clear()
    monkeypatch.setattr(attention, "attached", lambda device: True)
    assert attention.path("auto", MODEL, "bfloat16", (2, 64), mesh) == "cudnn"
    assert attention.path("auto", MODEL, "float32", (2, 4096), mesh) == "chunked"
    assert "warning: attention is chunked" in (said := capsys.readouterr().err) and "not float32" in said
    monkeypatch.setattr(cudnn, "failure", lambda *_: "it fails")
    for _ in range(2):
        assert attention.path("auto", MODEL, "bfloat16", (2, 64), mesh) == "dense"
    assert capsys.readouterr().err.count("it fails") == 1
    assert attention.path("dense", MODEL, "bfloat16", (2, 64), mesh) == "dense"
    with pytest.raises(ConfigError, match="it fails; give attention='dense'"):
        attention.path("cudnn", MODEL, "bfloat16", (2, 64), mesh)
    monkeypatch.setattr(attention, "hosts", lambda: 2)
    with pytest.raises(ConfigError, match="it fails; give attention='dense'"):
        attention.path("auto", MODEL, "bfloat16", (2, 64), mesh)


@pytest.mark.parametrize("remat", ["none", "attention"])
def test_for_gpus_it_lowers_to_the_kernels_and_their_operands(remat: str) -> None:
    """What would be handed to cuDNN. Lowered on this machine: not compiled, not run.

    Where attention is kept for the backward pass, no kernel of the forward pass runs again.
    """
    rows, length, heads, kv, dim, slots = 2, 256, 4, 2, 64, 3
    shapes = [jax.ShapeDtypeStruct((rows, length, n, dim), jnp.bfloat16) for n in (heads, kv, kv)]
    segments = jax.ShapeDtypeStruct((rows, slots, 3, 2), jnp.int32)
    attend = cudnn.attend
    if remat != "none":
        attend = jax.checkpoint(attend, policy=reward._SAVED[remat])
    gradients = jax.jit(jax.grad(lambda *x: (attend(*x).astype(jnp.float32) ** 2).sum(), (0, 1, 2)))
    text = gradients.trace(*shapes, segments).lower(lowering_platforms=("cuda",)).as_text()
    found = re.findall(
        r'custom_call @__cudnn\$(\w+)\((.*?)\) \{.*?backend_config = "(.*?)".*? : (\(.*?\)) ->', text
    )
    q, k = (f"tensor<{rows}x{length}x{n}x{dim}xbf16>" for n in (heads, kv))
    for (name, _, config, types_), (wanted, segments_a_row, mask) in zip(
        found,
        [
            ("fmhaSoftmax", 2 * slots, "PADDING_CAUSAL"),
            ("fmhaSoftmax", slots + 1, "PADDING"),
            ("fmhaSoftmaxBackward", 2 * slots, "PADDING_CAUSAL"),
            ("fmhaSoftmaxBackward", slots + 1, "PADDING"),
        ],
        strict=True,
    ):
        fmha = json.loads(config.replace("\\22", '"'))["cudnn_fmha_backend_config"]
        assert (name, fmha["max_seg_per_batch"], fmha["mask_type"]) == (wanted, segments_a_row, mask)
        assert fmha["fmha_scale"] == dim**-0.5 and fmha["dropout_rate"] == 0
        stats = f"tensor<{rows * segments_a_row}x{heads}x{length}xf32>"
        tables = [f"tensor<{rows}x{segments_a_row + extra}xi32>" for extra in (0, 0, 1, 1)]
        given_ = [q, k, k, stats, q, q] if wanted.endswith("Backward") else [q, k, k]
        assert types_ == f"({', '.join([*given_, *tables])})"
