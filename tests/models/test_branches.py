"""Trees with branches: any number of responses beside one prompt, by every path, are what each response is alone."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rewardscale import mesh as meshes
from rewardscale.config import ConfigError
from rewardscale.models import attention, cudnn, reward, splash, windowed
from tests import small
from tests.models import branched, packed_reference, plain
from tests.models.test_attention import both_ways, random_inputs, softmax_attention
from tests.models.test_cudnn import LENGTH, SLOTS, both_paths, random_arrays

KINDS = ["dense", "chunked", "windowed", "splash", "cudnn"]
CONFIG = small.varied(small.MODEL, layers=2)
PARAMS = reward.init(CONFIG, (0,))
ROW = 160


@pytest.fixture(scope="module", autouse=True)
def every_path_here() -> Iterator[None]:
    """Paths are taken as asked for, splash's kernels interpreted, plain JAX in the place of cuDNN's."""
    with pytest.MonkeyPatch.context() as patch, packed_reference.in_place_of_kernels():
        patch.setattr(reward, "path", lambda kind, *_: kind)
        patch.setattr(attention, "QUERIES", 64)
        yield


@functools.partial(jax.jit, static_argnums=0)
def forward(kind: str, params: Any, batch: Mapping[str, Any]) -> tuple[jax.Array, jax.Array]:
    options = reward.Options(attention=kind, differentiated=False)
    return reward.rewards(CONFIG, params, batch, options)


def rewards(kind: str, made: branched.Branched, **changed: np.ndarray) -> np.ndarray:
    return made.read(jax.device_get(forward(kind, PARAMS, made.batch | changed)))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(rows=branched.trees(40, 25, 9), seed=st.integers(0, 99))
def test_each_response_has_the_reward_that_it_has_alone(
    kind: str, rows: list[list[branched.Tree]], seed: int
) -> None:
    made = branched.assembled(rows, ROW, 10, seed)
    alone = [plain.reward(CONFIG, PARAMS, sequence) for sequence in made.sequences()]
    np.testing.assert_allclose(rewards(kind, made), alone, rtol=2e-5, atol=2e-5)


ONE = [[(20, [8, 9, 3, 12, 7]), (0, [5, 5, 5]), (9, [4, 6])], [(30, [40]), (5, [1] * 13)]]


@pytest.mark.parametrize("kind", KINDS)
def test_a_response_moves_no_other_and_a_prompt_all_of_its_own(kind: str) -> None:
    """To the last bit."""
    made = branched.assembled(ONE, ROW, 10, 0)
    before = rewards(kind, made)
    assert len(before) == 24 and len(np.unique(before)) > 20
    for response in range(0, len(before), 3):
        tokens = made.batch["tokens"].copy()
        tokens[made.where(response)] = tokens[made.where(response)] % 40 + 2
        moved = rewards(kind, made, tokens=tokens) != before
        assert np.flatnonzero(moved).tolist() == [response]
    for tree in (0, 2, 4):
        tokens = made.batch["tokens"].copy()
        row, slot = made.row[made.tree == tree][0], made.slot[made.tree == tree].min()
        first = made.batch["segments"][row, slot, 1, 0]
        tokens[row, first] = tokens[row, first] % 40 + 2
        moved = rewards(kind, made, tokens=tokens) != before
        np.testing.assert_array_equal(moved, made.tree == tree)


def test_contamination_would_be_seen() -> None:
    made = branched.assembled(ONE, ROW, 10, 0)
    wider = made.batch["prefix"] + np.array([0, 1], np.int32)  # the right response's first token too
    assert np.abs(rewards("dense", made, prefix=wider) - rewards("dense", made)).max() > 0.01
    none = np.zeros_like(wider)
    assert np.abs(rewards("dense", made, prefix=none) - rewards("dense", made)).max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_where_no_tree_has_branches_prefixes_change_nothing(kind: str) -> None:
    made = branched.assembled([[(20, [8, 9]), (9, [4])], [(30, [40, 12])]], ROW, 10, 0)
    plainly = {name: array for name, array in made.batch.items() if name != "prefix"}
    found = made.read(jax.device_get(forward("dense", PARAMS, plainly)))
    np.testing.assert_allclose(rewards(kind, made), found, rtol=1e-5, atol=1e-5)


def intervals(
    random: np.random.Generator, rows: int, length: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """lo, hi, prefix of rows of large trees with up to 6 branches."""
    sizes = [
        [(int(random.integers(1, 150)), random.integers(1, 60, random.integers(1, 13)).tolist()) for _ in range(9)]
        + [(20, [9, 30, 7, 1, 12])] * 9
        for _ in range(rows)
    ]  # fmt: skip
    batch = branched.assembled(sizes, length, 60, 0).batch
    assert (batch["prefix"][..., 1] > 0).any(1).all()
    return batch["lo"], batch["hi"], batch["prefix"]


def attend(
    kind: str, lo: np.ndarray, hi: np.ndarray, prefix: np.ndarray, mesh: jax.sharding.Mesh | None = None
) -> attention.Attend:
    return attention.among_tokens(kind, jnp.asarray(lo), jnp.asarray(hi), mesh, prefix=jnp.asarray(prefix))


def test_dense_is_softmax_over_both_intervals() -> None:
    random = np.random.default_rng(0)
    lo, hi, prefix = intervals(random, 1, 400)
    q, k, v, _ = random_inputs(random, 1, 400, 2, 1, 8)
    found = attend("dense", lo, hi, prefix)(q, k, v)
    for at in np.flatnonzero(prefix[0, :, 1])[::7]:
        keys = np.r_[slice(*prefix[0, at]), lo[0, at] : hi[0, at]]
        some = [np.asarray(x, np.float64) for x in (q[:, at : at + 1], k[:, keys], v[:, keys])]
        truth = softmax_attention(*some, np.zeros((1, 1), int), np.full((1, 1), len(keys)))  # type: ignore[arg-type]
        np.testing.assert_allclose(found[:, at], truth[:, 0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["chunked", "windowed", "splash"])
@pytest.mark.parametrize(
    ("rows", "length", "heads", "kv"),
    [(2, 600, 4, 2), pytest.param(3, 1500, 3, 3, marks=pytest.mark.slow)],
)  # fmt: skip
def test_paths_are_dense_on_large_trees(
    kind: str, rows: int, length: int, heads: int, kv: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients too, of paths that have them."""
    monkeypatch.setattr(splash, "_LARGEST_BLOCK", 128)  # most pairs of blocks are skipped
    random = np.random.default_rng(length)
    lo, hi, prefix = intervals(random, rows, length)
    arrays = random_inputs(random, rows, length, heads, kv, 8)
    if kind in ("splash", "windowed"):
        fast, slow = (jax.jit(attend(k, lo, hi, prefix))(*arrays[:3]) for k in (kind, "dense"))
    else:
        fast, slow = (both_ways(arrays, attend(k, lo, hi, prefix)) for k in (kind, "dense"))
    for ours, truth in zip(jax.tree.leaves(fast), jax.tree.leaves(slow), strict=True):
        np.testing.assert_allclose(ours, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["windowed", "splash"])
def test_over_a_mesh_it_is_what_it_is_on_one_device(kind: str) -> None:
    random = np.random.default_rng(8)
    lo, hi, prefix = intervals(random, 4, 256)
    arrays = random_inputs(random, 4, 256, 4, 2, 8)[:3]
    found = jax.jit(attend(kind, lo, hi, prefix, meshes.make_mesh((2, 2, 2))))(*arrays)
    np.testing.assert_allclose(found, attend("dense", lo, hi, prefix)(*arrays), rtol=1e-4, atol=1e-4)


def test_rows_that_fill_the_kernels_index_are_taken_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splash, "LONGEST", 512)
    random = np.random.default_rng(0)
    lo, hi, prefix = intervals(random, 4, 250)
    arrays = random_inputs(random, 4, 250, 2, 2, 8)[:3]
    found = attend("splash", lo, hi, prefix)(*arrays)
    np.testing.assert_allclose(found, attend("dense", lo, hi, prefix)(*arrays), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["windowed", pytest.param("splash", marks=pytest.mark.slow)])
def test_in_bfloat16_it_is_dense_but_rounded(kind: str) -> None:
    random = np.random.default_rng(2)
    lo, hi, prefix = intervals(random, 1, 512)
    narrow = [x.astype(jnp.bfloat16) for x in random_inputs(random, 1, 512, 2, 1, 16)[:3]]
    found = attend(kind, lo, hi, prefix)(*narrow)
    assert found.dtype == jnp.bfloat16
    truth = attend("dense", lo, hi, prefix)(*(x.astype(jnp.float32) for x in narrow))
    np.testing.assert_allclose(np.asarray(found, np.float32), truth, rtol=0.05, atol=0.05)


def test_no_window_is_wider_than_a_prompt_and_a_response_need() -> None:
    """A branch far behind its prompt is not computed over all that lies between."""
    made = branched.assembled([[(100, [50] * 30)]], 1600, 20, 0).batch
    seen = made["prefix"][0, :, 1] > 0
    for lo, hi in ((made["lo"][0], made["hi"][0]), made["prefix"][0].T):
        blocks = seen[200:1480].reshape(-1, windowed.QUERIES).all(1)
        lo, hi = (x[200:1480].reshape(-1, windowed.QUERIES)[blocks] for x in (lo, hi))
        assert (hi.max(1) - lo.min(1)).max() <= 2 * windowed.QUERIES


@settings(max_examples=25, deadline=None)
@given(rows=branched.trees(9, 5, 6), seed=st.integers(0, 99))
def test_cudnns_path_is_dense_forward_and_backward(rows: list[list[branched.Tree]], seed: int) -> None:
    """A prompt that several branches see gets gradients from all of them."""
    batch = branched.assembled(rows, LENGTH, SLOTS, seed).batch
    ours, truth, outside = both_paths(4, 2, "float32")(random_arrays(seed, 4, 2), batch)
    for a, b in zip(ours, truth, strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)
    assert (np.asarray(outside) == 0).all()


@settings(max_examples=25, deadline=None)
@given(rows=branched.trees(9, 5, 6))
def test_a_prompt_is_one_segments_alone(rows: list[list[branched.Tree]]) -> None:
    """cuDNN would write one segment's gradients of keys over another's."""
    batch = branched.assembled(rows, LENGTH, SLOTS, 0).batch
    for call in jax.jit(lambda batch: cudnn.calls(cudnn.prompt_first(batch)["segments"]))(batch):
        query, queries, key, keys = map(np.asarray, call)
        for first, size in ((query, queries), (key, keys)):
            taken = np.zeros((2, LENGTH), int)
            for row, slot in np.ndindex(first.shape):
                taken[row, first[row, slot] : first[row, slot] + size[row, slot]] += 1
            assert taken.max(initial=0) <= 1


@pytest.mark.parametrize("kind", ["splash", "windowed"])
def test_a_path_without_gradients_says_so(kind: str) -> None:
    batch: Any = branched.assembled(ONE, ROW, 10, 0).batch
    with pytest.raises(ConfigError, match=rf"{kind}.* has no gradients of trees with branches"):
        reward.rewards(CONFIG, PARAMS, batch, reward.Options(attention=kind))
