"""Compiling the training step for accelerators that are not there.

libtpu holds the real TPU compiler and needs no TPU: `compile_step` lowers the very step that `loop.train`
runs, `compile_scoring` the function of evaluation/scorer.py, with abstract arrays on the devices of a described
topology ("v5e:4x4", "v5p:4x4x4"), and report the bytes a chip that XLA planned. Nothing is run, so no speed follows
from it. On a machine without TPUs set TPU_SKIP_MDS_QUERY=1 and TPU_WORKER_HOSTNAMES=localhost before libtpu loads, or
it asks the network who it is.
"""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rewardscale import mesh as meshes
from rewardscale.config import ModelConfig, Recipe, Storage
from rewardscale.evaluation import scorer
from rewardscale.models import reward
from rewardscale.training.optimizer import hyperparameters
from rewardscale.training.step import DEFAULT_STORAGE, block_shardings, make_step

SCORED = ("tokens", "positions", "lo", "hi", "left_at", "right_at", "segments")  # what data/rows.py assembles


@dataclasses.dataclass(frozen=True)
class BlockSize:
    """Static sizes of the arrays of one call of the step.

    Attributes:
      steps: optimizer steps a call. microbatches: at most, a step. rows: a microbatch. length: tokens a row.
      slots: trees a row, at most.
    """

    steps: int
    microbatches: int
    rows: int
    length: int
    slots: int


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What the compiler planned.

    Attributes:
      devices: chips of the topology. seconds: time it took to lower and compile.
      argument_bytes: a chip, the training state (or parameters) and the block. temporary_bytes: a chip, on top of it.
      output_bytes: a chip, of results that do not take the place of an argument.
      flops: operations a chip by the compiler's own count (loop bodies counted once), or None.
      text: the optimised HLO.
    """

    devices: int
    seconds: float
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    flops: float | None
    text: str


def compile_step(
    model: ModelConfig,
    options: reward.Options,
    topology: str,
    *,
    mesh_shape: Sequence[int],
    size: BlockSize,
    storage: Storage = DEFAULT_STORAGE,
    effort: str = "",
    platform: str = "tpu",
) -> Compiled:
    """Compiles the training step of `model` for `topology`, e.g. "v5e:4x4", sharded over `mesh_shape`.

    `effort` is the compiler's optimisation level, "O0" to "O3"; its own default is "O2". O0 takes a tenth of the time.

    Raises ConfigError if the mesh does not fit the topology or the rows, RuntimeError without the compiler
    (libtpu) or for an unknown topology.
    """
    mesh = topology_mesh(topology, mesh_shape, platform)
    meshes.check_rows(mesh, size.rows)
    step = make_step(model, options, mesh, storage)
    scalars = {name: jax.ShapeDtypeStruct((), v.dtype) for name, v in hyperparameters(Recipe()).items()}
    count, rates = jax.ShapeDtypeStruct((), np.int32), jax.ShapeDtypeStruct((size.steps,), np.float32)
    return _compiled(
        step.train, step.abstract, abstract_block(mesh, size), count, rates, scalars, mesh=mesh, effort=effort
    )


def compile_scoring(
    model: ModelConfig,
    options: reward.Options,
    topology: str,
    *,
    mesh_shape: Sequence[int],
    size: BlockSize,
    parameters: str = "bfloat16",
    effort: str = "",
    platform: str = "tpu",
) -> Compiled:
    """Compiles scoring with weights stored as type `parameters`; arguments and errors else as of `compile_step`.

    Of `size`, steps are not used.
    """
    mesh = topology_mesh(topology, mesh_shape, platform)
    meshes.check_rows(mesh, size.rows)
    shapes = reward.abstract(model, parameters)
    params = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        shapes,
        reward.shardings(mesh, shapes),
    )
    placed = NamedSharding(mesh, P(None, meshes.BATCH_AXES))
    arrays = {
        name: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype, sharding=placed)
        for name, leaf in abstract_block(mesh, size).items()
        if name in SCORED
    }
    return _compiled(scorer.scoring_function(model, options, mesh), params, arrays, mesh=mesh, effort=effort)


def topology_mesh(topology: str, shape: Sequence[int], platform: str = "tpu") -> Mesh:
    """A mesh over the chips of a described topology, without chips."""
    return meshes.make_mesh(
        shape, topologies.get_topology_desc(platform=platform, topology_name=topology).devices
    )


def _compiled(function: Any, *arguments: Any, mesh: Mesh, effort: str) -> Compiled:
    started = time.perf_counter()
    flags = {"xla_optimization_level": f"EFFORT_{effort}"} if effort else None
    compiled = function.lower(*arguments).compile(compiler_options=flags)
    seconds = time.perf_counter() - started
    memory: Any = compiled.memory_analysis()
    # The peak, not `temp_size`: that one adds up what libtpu 0.0.50 lays in the same place at different times.
    kept = memory.argument_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes
    cost = compiled.cost_analysis()
    return Compiled(
        devices=mesh.size,
        seconds=seconds,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=max(0, memory.peak_memory_in_bytes - kept),
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        flops=cost.get("flops") if cost else None,
        text=compiled.as_text() or "",
    )


def abstract_block(mesh: Mesh, size: BlockSize) -> dict[str, jax.ShapeDtypeStruct]:
    """The arrays of a block (data/pipeline.py) as ShapeDtypeStructs, sharded as the loop places them."""
    rows, slots = (size.rows, size.length), (size.rows, size.slots)
    shapes = dict.fromkeys(("tokens", "positions", "lo", "hi"), (rows, np.int32))
    shapes |= dict.fromkeys(("left_at", "right_at"), (slots, np.int32))
    shapes |= dict.fromkeys(("weight", "target"), (slots, np.float32))
    shapes |= {"segments": ((*slots, 3, 2), np.int32), "valid": (slots, np.bool_)}
    out = {
        name: jax.ShapeDtypeStruct((size.steps, size.microbatches, *shape), dtype)
        for name, (shape, dtype) in shapes.items()
    }
    out |= {
        name: jax.ShapeDtypeStruct((size.steps,), np.dtype(np.int32)) for name in ("microbatches", "pairs")
    }
    placed = block_shardings(mesh, out)
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=placed[name])
        for name, leaf in out.items()
    }
