"""Eight devices give one device's numbers to float32 rounding, and bad meshes are named."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale import mesh
from rewardscale.config import ConfigError
from rewardscale.data.tokenised import TokenisedView
from rewardscale.training import loop
from rewardscale.training.checkpoint import Interrupted
from tests.training.running import assert_close, case, metrics, stop_at, train

MESHES = [(8, 1, 1), (2, 2, 2), (1, 4, 2)]
WARNING = "Involuntary full rematerialization"


def use_cache(use: bool) -> None:
    """Switches the cache of compiled programs, which takes no notice once it has been asked, unless it is reset."""
    jax.config.update("jax_enable_compilation_cache", use)
    compilation_cache.reset_cache()


@contextmanager
def compiler_output() -> Iterator[list[str]]:
    """Collects what XLA writes to this process's standard error while it compiles anew."""
    out: list[str] = []
    cached = jax.config.jax_enable_compilation_cache
    before = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        use_cache(False)
        try:
            yield out
        finally:
            use_cache(cached)
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            out.append(file.read().decode(errors="replace"))


@pytest.fixture(scope="module")
def reference(
    pairs_view: TokenisedView, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, loop.Trained]:
    """Ten steps on one device."""
    directory = tmp_path_factory.mktemp("one")
    return directory, train(*case(pairs_view, rows=8), directory)


def assert_agrees(directory: Path, trained: loop.Trained, reference: tuple[Path, loop.Trained]) -> None:
    for ours, theirs in zip(metrics(directory), metrics(reference[0]), strict=True):
        for name in ("loss", "margin", "gradient_norm", "parameter_norm", "reward_max"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-5, atol=2e-5, err_msg=name)
    # Adam turns the rounding of a gradient near zero into a visible part of one step.
    assert_close(trained.params, reference[1].params, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("shape", MESHES)
def test_meshes_agree_with_one_device(
    shape: tuple[int, int, int],
    reference: tuple[Path, loop.Trained],
    pairs_view: TokenisedView,
    tmp_path: Path,
) -> None:
    with compiler_output() as output:
        trained = train(*case(pairs_view, rows=8), tmp_path, device_mesh=mesh.make_mesh(shape))
    assert WARNING not in output[0]
    assert_agrees(tmp_path, trained, reference)
    q = trained.params["blocks"]["attention"]["q"]
    assert q.addressable_shards[0].data.size * shape[1] * shape[2] == q.size  # truly split
    info = (tmp_path / "model-info.txt").read_text()
    assert re.search(r"\['q'\]  \(2, 16, 4, 4\)  float32  .*'fsdp', 'tensor'", info)
    assert re.search(r"\['embedding'\]  \(48, 16\)  float32  .*'tensor'", info)


def test_restore_on_another_mesh(
    reference: tuple[Path, loop.Trained], pairs_view: TokenisedView, tmp_path: Path
) -> None:
    run, data = case(pairs_view, rows=8)
    with pytest.raises(Interrupted):
        train(run, data, tmp_path, device_mesh=mesh.make_mesh((8, 1, 1)), on_progress=stop_at(5))
    trained = train(run, data, tmp_path, device_mesh=mesh.make_mesh((2, 2, 2)))
    assert trained.record["resumed_at"] == 5
    assert trained.params["head"].sharding.mesh.shape == {"data": 2, "fsdp": 2, "tensor": 2}
    assert_agrees(tmp_path, trained, reference)


def test_the_compilers_warning_would_be_seen() -> None:
    """A layout that XLA can only mend by gathering everything: its warning reaches `compiler_output`."""
    devices = mesh.make_mesh((2, 2, 2))

    def spec(*axes: object) -> NamedSharding:
        return NamedSharding(devices, P(*axes))

    def reshard(x: jax.Array) -> jax.Array:
        x = jax.lax.with_sharding_constraint(x * 2, spec(("data", "fsdp", "tensor"), None, None))
        return jax.lax.with_sharding_constraint(x, spec(None, ("tensor", "data"), "fsdp")) + 1

    with compiler_output() as output:
        jax.jit(reshard, in_shardings=spec(("data", "fsdp", "tensor"))).lower(
            jax.ShapeDtypeStruct((8, 8, 8), jnp.float32)
        ).compile()
    assert WARNING in output[0]


def test_rows_that_the_mesh_does_not_divide(pairs_view: TokenisedView, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"rows_per_microbatch=4 must be a multiple of data x fsdp = 8; try 8"
    ):
        train(*case(pairs_view, rows=4), tmp_path, device_mesh=mesh.make_mesh((4, 2, 1)))
    assert not (tmp_path / "checkpoints").exists()
