"""One mesh over exactly the devices there are; a shape that cannot be says what could."""

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale import mesh
from rewardscale.config import ConfigError, Runtime


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 4, 2), (1, 4, 2)), ((2, 4, -1), (2, 4, 1))],
)
def test_shapes(shape: tuple[int, int, int], sizes: tuple[int, int, int]) -> None:
    made = mesh.make_mesh(shape)
    assert tuple(made.shape.values()) == sizes and made.axis_names == ("data", "fsdp", "tensor")
    assert set(made.devices.flat) == set(jax.devices())


@pytest.mark.parametrize("shape", [(3, 1, 1), (-1, 3, 1), (2, 2, 1), (16, 1, 1), (-1, 16, 1)])
def test_a_mesh_that_does_not_divide_the_devices(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.mesh=.* of 8; choose three sizes whose product is 8"):
        mesh.make_mesh(shape)


@pytest.mark.parametrize("shape", [(-1, -1, 1), (0, 1, 1), (-2, 1, 1)])
def test_a_shape_that_never_fits_is_refused_with_the_config(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match=r"runtime\.mesh"):
        Runtime(mesh=shape)


def test_fitted_leaves_out_axes_that_do_not_divide() -> None:
    made = mesh.make_mesh((2, 2, 2))
    spec = P(None, "fsdp", "tensor", None)
    assert mesh.fitted(made, spec, (3, 16, 4, 8)).spec == spec
    assert mesh.fitted(made, spec, (3, 16, 1, 8)).spec == P(None, "fsdp", None, None)
    assert mesh.fitted(made, spec, (3, 15, 4, 8)).spec == P(None, None, "tensor", None)
    both = P(("data", "fsdp"))
    assert mesh.fitted(made, both, (8, 3)).spec == P(("data", "fsdp"), None)
    assert mesh.fitted(made, both, (6, 3)).spec == P(None, None)


def test_shares_go_to_one_device_by_the_function_that_takes_them_and_are_dealt_to_several() -> None:
    block = {"rows": np.arange(16, dtype=np.float32).reshape(2, 8)}
    for devices in (jax.devices()[3:4], jax.devices()):
        made = mesh.make_mesh((-1, 1, 1), devices)
        shares = {"rows": NamedSharding(made, P(None, mesh.BATCH_AXES))}
        placed = mesh.place_shares(block, shares, axis=1, rows=8)
        out = jax.jit(lambda x, rows: x + rows)(jax.device_put(1.0, NamedSharding(made, P())), placed["rows"])
        np.testing.assert_array_equal(out, block["rows"] + 1)
        assert out.devices() == set(devices)


def test_check_rows_names_the_next_size() -> None:
    made = mesh.make_mesh((2, 2, 2))
    mesh.check_rows(made, 8)
    with pytest.raises(
        ConfigError, match=r"rows_per_microbatch=6 must be a multiple of data x fsdp = 4; try 8"
    ):
        mesh.check_rows(made, 6)


def test_peak_is_unknown_on_a_cpu() -> None:
    assert mesh.peak_flops("bfloat16") is None and mesh.peak_flops("float32") is None
    assert mesh.describe()["platform"] == "cpu"
