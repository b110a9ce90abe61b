"""The test that TPU kernels must pass before they are used, with the kernels interpreted; cuDNN's: test_cudnn.py."""

import sys
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rewardscale import mesh as meshes
from rewardscale.config import ConfigError
from rewardscale.models import attention, selftest, splash
from tests import small

CPU = jax.devices()[0]


def failure(dtype: str = "bfloat16", block: int = 128, dim: int = 8) -> str:
    splash.failure.cache_clear()
    return splash.failure(attention._truth, CPU, dtype, 2, 1, dim, block)


@pytest.mark.parametrize(
    ("dtype", "block", "dim"),
    [
        ("bfloat16", 128, 8),
        pytest.param("bfloat16", 512, 128, marks=pytest.mark.slow),
        pytest.param("float32", 384, 64, marks=pytest.mark.slow),
    ],
)
def test_kernels_that_are_right_pass(dtype: str, block: int, dim: int) -> None:
    assert failure(dtype, block, dim) == ""


@pytest.mark.parametrize("length", [384, 640, 1536])
def test_the_sample_is_trees_of_which_none_sees_another(length: int) -> None:
    batch = selftest.sample(length)
    lo, hi = (jnp.asarray(batch[name]) for name in ("lo", "hi"))
    mask = np.asarray(attention.interval_mask(lo, hi, length))
    tokens = batch["tokens"]
    foreign = tokens[:, :, None] != tokens[:, None]
    assert not (mask & foreign).any() and mask.any(2).all()
    assert np.unique(tokens).tolist() == [0, 1, 2, 3, 4, 5]
    tables = splash.block_tables(lo, hi, splash.block_size(length))
    skipped = [1 - np.asarray(table.block_mask).mean() for table in tables]
    assert length == 384 or min(skipped) > 0.2  # pairs of blocks; 384 tokens are a single one


RIGHT = types.SimpleNamespace(sees=splash._sees, tables=splash.block_tables, rows=splash._rows)


def a_key_too_few(code: jax.Array, key: jax.Array) -> jax.Array:
    return RIGHT.sees(code, key) & ((key < (code & 0xFFFF)) | (key == jax.lax.shift_right_logical(code, 16)))


def rows_in_one_place(lo: jax.Array, hi: jax.Array, block: int) -> Any:
    """Tables that send all rows to the first one's blocks of keys."""
    return [t._replace(data_next=t.data_next % (lo.shape[1] // block)) for t in RIGHT.tables(lo, hi, block)]


def a_block_too_few_backward(lo: jax.Array, hi: jax.Array, block: int) -> Any:
    """The walk along queries begins a block late."""
    along_keys, along_queries = RIGHT.tables(lo, hi, block)
    visited = jnp.asarray(along_queries.block_mask)
    late = jnp.where(visited.cumsum(1) == 1, 0, visited)
    return along_keys, along_queries._replace(block_mask=late)


def seen_a_little(q: jax.Array, k: jax.Array, v: jax.Array, *ends: jax.Array, **kept: Any) -> jax.Array:
    """An answer that all of the values move, by less than rounding explains."""
    out = RIGHT.rows(q, k, v, *ends, **kept)
    return (out.astype(jnp.float32) * (1 + 0.003 * v.astype(jnp.float32).std())).astype(out.dtype)


def branches_alone(own: jax.Array, log: jax.Array, *_: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The prompt's part of a branch's answer is left out."""
    return own, log


@pytest.mark.parametrize(
    ("what", "name", "fault"),
    [
        ("gives wrong outputs", "merged", branches_alone),
        ("gives wrong gradients", "block_tables", a_block_too_few_backward),
        pytest.param("gives wrong outputs", "_sees", a_key_too_few, marks=pytest.mark.slow),
        pytest.param("gives wrong outputs", "block_tables", rows_in_one_place, marks=pytest.mark.slow),
        pytest.param("lets one tree's tokens see another's", "_rows", seen_a_little, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_kernels_that_are_wrong_are_found_out(
    what: str, name: str, fault: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(splash, name, fault)
    assert failure().removesuffix(" in its test") == f"splash attention {what}"


def test_kernels_that_are_not_there_are_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.ops.tpu.splash_attention", None)
    assert "splash attention fails its test: ModuleNotFoundError" in failure()


@pytest.mark.parametrize(
    ("dtype", "length", "version", "reason"),
    [
        ("bfloat16", 4096, (0, 12, 0), ""),
        ("float32", splash.LONGEST, (0, 12, 0), ""),
        ("float16", 4096, (0, 12, 0), "bfloat16 and float32, not float16"),
        ("bfloat16", splash.LONGEST + 1, (0, 12, 0), "at most 65536 tokens, not 65537"),
        ("bfloat16", 4096, (0, 11, 1), "jax 0.11.2 or newer"),
    ],
)
def test_what_cannot_be_served_is_refused(
    dtype: str, length: int, version: tuple[int, ...], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax, "__version_info__", version)
    found = splash.refusal(dtype, length)
    assert reason in found and bool(found) == bool(reason)


def tpu_mesh() -> Any:
    """Of a TPU that no program can run on; what is tested is tested on this CPU."""
    device = types.SimpleNamespace(platform="tpu", client=object())
    return types.SimpleNamespace(
        devices=np.array([device], object), local_devices=[CPU], shape=dict.fromkeys(meshes.AXES, 1)
    )


def path(kind: str, length: int, dtype: str = "bfloat16") -> str:
    return attention.path(kind, small.MODEL, dtype, (2, length), tpu_mesh())


def test_on_a_tpu_splash_is_tested_and_what_fails_is_not_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(attention, "attached", lambda device: True)
    monkeypatch.setattr(splash, "failure", lambda *of: asked.append(of[1:]) or "")
    attention._warn.cache_clear()
    assert path("auto", 4096) == path("splash", 640) == "splash"
    assert asked == [(CPU, "bfloat16", 4, 2, 4, block) for block in (512, 128)]
    assert path("auto", 256) == "dense" and path("chunked", 4096) == "chunked" and len(asked) == 2
    assert path("auto", splash.LONGEST + 128) == "chunked" and len(asked) == 2  # refused, so not tested
    assert "warning: attention is chunked" in (said := capsys.readouterr().err) and "at most 65536" in said
    monkeypatch.setattr(splash, "failure", lambda *_: "it fails")
    for length, kind in ((512, "dense"), (4096, "chunked"), (4096, "chunked")):
        assert path("auto", length) == kind
    assert capsys.readouterr().err.count("it fails") == 2  # once a message
    with pytest.raises(ConfigError, match="attention='splash': it fails; give attention='chunked'"):
        path("splash", 4096)
    monkeypatch.setattr(attention, "hosts", lambda: 2)
    with pytest.raises(ConfigError, match="attention='splash': it fails; give attention='chunked'"):
        path("auto", 4096)
    assert path("auto", splash.LONGEST + 128) == "chunked"  # what all hosts know alike they fall back from


def test_nothing_is_run_where_programs_can_only_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(splash, "failure", lambda *_: pytest.fail("a device that is not there was tested"))
    assert not meshes.attached(tpu_mesh().devices[0]) and meshes.attached(CPU)
    assert path("auto", 4096) == path("splash", 4096) == "splash"
