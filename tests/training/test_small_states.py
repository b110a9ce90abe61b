"""Small states as one array a type: the same state on whatever mesh, and nothing joined that is large or spread."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from rewardscale import mesh
from rewardscale.training import small_states
from rewardscale.training.checkpoint import load_state, save_state
from tests.training import running

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
TYPES = st.sampled_from(["float32", "bfloat16", "int32", "uint8"])
EIGHT = (2, 2, 2)


def placed(tree: Any, shape: tuple[int, int, int], *, split: bool = False) -> Any:
    """A tree on a mesh of the first devices; with `split`, arrays lie along "fsdp" where it divides them."""
    devices = mesh.make_mesh(shape, jax.devices()[: int(np.prod(shape))])
    spec = PartitionSpec("fsdp") if split else PartitionSpec()
    return jax.tree.map(
        lambda leaf: jax.device_put(
            leaf,
            mesh.fitted(devices, spec, leaf.shape) if leaf.ndim else NamedSharding(devices, PartitionSpec()),
        ),
        tree,
    )


def wanted(tree: Any) -> Any:
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding), tree
    )


@given(st.lists(st.tuples(SHAPES, TYPES), min_size=1, max_size=6), st.integers(0, 2**31))
def test_parted_is_what_was_joined_on_any_mesh(kinds: list[tuple[tuple[int, ...], str]], seed: int) -> None:
    random = np.random.default_rng(seed)
    state = {
        f"{number}": {"leaf": random.integers(0, 100, shape).astype(jnp.dtype(dtype))}
        for number, (shape, dtype) in enumerate(kinds)
    }
    joined = small_states.joined(placed(state, (1, 1, 1)))
    assert joined is not None and set(joined) == {dtype for _, dtype in kinds}
    read = {dtype: np.asarray(values) for dtype, values in joined.items()}
    there = placed(state, EIGHT, split=True)
    target = wanted(there)
    assert {n: (a.shape, a.dtype) for n, a in small_states.abstract(target).items()} == {
        n: (a.shape, a.dtype) for n, a in read.items()
    }
    again = small_states.parted(read, target)
    running.assert_same(again, there)
    assert jax.tree.all(jax.tree.map(lambda a, b: a.sharding == b.sharding, again, there))


def test_what_is_spread_or_large_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    state = {"a": np.ones((4, 4), np.float32), "b": np.ones(3, np.float32)}
    assert small_states.joined(placed(state, EIGHT)) is None
    assert small_states.joined(placed(state, (1, 1, 1))) is not None
    monkeypatch.setattr(small_states, "MOST_BYTES", 4 * 19 - 1)
    assert small_states.joined(placed(state, (1, 1, 1))) is None


@pytest.mark.parametrize(
    ("written", "read"), [((1, 1, 1), EIGHT), (EIGHT, (1, 1, 1)), ((1, 1, 1), (1, 1, 1))]
)
def test_a_state_goes_from_any_mesh_to_any(tmp_path: Path, written: Any, read: Any) -> None:
    state = {"a": np.arange(24, dtype=np.float32).reshape(4, 6), "step": np.int32(3)}
    state["b"] = state["a"].astype(jnp.bfloat16) * 2
    save_state(tmp_path / "state", placed(state, written, split=True))
    there = placed(state, read, split=True)
    running.assert_same(load_state(tmp_path / "state", wanted(there)), there)
    record = json.loads((tmp_path / "state" / "_CHECKPOINT_METADATA").read_text())["custom_metadata"]
    assert record["joined"] == (written != EIGHT)
