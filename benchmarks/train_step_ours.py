"""Our side of benchmarks/train_step.py: run by it, prints JSON.

    python -m benchmarks.train_step_ours CASE --arm='{"layout": "shared", ...}'

The first pass over the pairs compiles, at learning rate 0: its loss is that of all pairs at the fresh weights, in any
order of steps, so arms may be compared by it. The head starts wide enough for rewards to differ by about one.
"""

import argparse
import functools
import json
import resource
import statistics
import time
import zlib
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks import train_case
from rewardscale import flops, platforms
from rewardscale.config import ModelConfig
from rewardscale.data import rows

RATE = 1e-4
DRAWN_ON_HOST = 3e8  # parameters; more are drawn where they will lie
UNROLLED = 12  # layers; more are scanned


def train(folder: Path, arm: dict[str, Any], passes: int) -> dict[str, Any]:
    """Seconds of each pass over a case's pairs, and what else the table says of an arm.

    `arm`: "layout" ("padded", "separate" or "shared"), "attention", "prune", "dtype", "devices" that rows are dealt
    over (-1: all), and "head": whether a vocabulary head is computed for every token and thrown away.
    """
    platforms.prepare()
    import jax

    from rewardscale import mesh
    from rewardscale.config import Recipe, Storage
    from rewardscale.models import reward
    from rewardscale.models.attention import path
    from rewardscale.training.optimizer import hyperparameters
    from rewardscale.training.step import make_step

    case, settings = dict(np.load(folder / "case.npz")), train_case.read_settings(folder)
    model = train_case.model_of(settings)
    options = reward.Options(
        dtype=arm["dtype"], scan=model.layers > UNROLLED, attention=arm["attention"], prune=arm["prune"],
        remat=settings.remat,
    )  # fmt: skip
    storage, devices = (
        Storage(settings.parameters, settings.moments, settings.gradients),
        mesh.make_mesh((arm["devices"], 1, 1)),
    )
    step = make_step(model, options, devices, storage)
    made = padded(case, settings) if arm["layout"] == "padded" else packed(case, settings, arm["layout"])
    computed = sum(int(b["microbatches"][0]) * b["tokens"][0, 0].size for b in made)
    shape = made[0]["tokens"].shape[2:]
    blocks = [jax.device_put(block) for block in made]
    hyper, state = hyperparameters(Recipe()), fresh_state(model, storage, step)
    rewards = functools.partial(with_head, reward.rewards) if arm["head"] else reward.rewards
    seconds, losses = [], []
    with mock.patch.object(reward, "rewards", rewards):
        for number in range(passes + 1):
            rate = np.full(1, RATE if number else 0.0, np.float32)
            started, found = time.perf_counter(), []
            for block in blocks:
                state, metrics = step.train(state, block, np.int32(1), rate, hyper)
                found.append(metrics["loss"])
            jax.block_until_ready(state)
            seconds.append(time.perf_counter() - started)
            losses.append(np.average([x[0] for x in found], weights=[b["pairs"][0] for b in made]))
    return {
        "first": seconds[0],
        "seconds": seconds[1:],
        "computed": computed,
        "loss": float(losses[0]),
        "pairs_per_second": len(case["lengths"]) / statistics.median(seconds[1:]),
        "peak": peak_bytes(jax.devices()[0]),
        "about": path(arm["attention"], model, arm["dtype"], shape, devices),
        "versions": {"jax": jax.__version__},
    }


def peak_bytes(device: Any) -> int:
    """Most memory that was in use: of an accelerator's own, or of this process."""
    if device.platform == "cpu":
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)


def small(model: ModelConfig) -> bool:
    """Whether a model's parameters are drawn on the host."""
    return flops.parameters(model, embeddings=True) <= DRAWN_ON_HOST


def fresh_params(model: ModelConfig) -> Any:
    """Fresh float32 parameters: NumPy arrays of a `small` model; of another call it within jax.jit."""
    import jax
    import jax.numpy as jnp

    from rewardscale.models import reward

    if small(model):
        params = reward.init(model, (0, 0))
        return params | {"head": params["head"] / np.float32(model.head_sd * model.width**0.5)}

    def drawn(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        if path[-1].key == "scale":
            return jnp.ones(leaf.shape)
        sd = model.embedding_sd if path[-1].key == "embedding" else model.width**-0.5
        key = jax.random.fold_in(jax.random.key(0), zlib.crc32(jax.tree_util.keystr(path).encode()))
        return jax.random.normal(key, leaf.shape) * sd

    return jax.tree_util.tree_map_with_path(drawn, reward.abstract(model))


def fresh_state(model: ModelConfig, storage: Any, step: Any) -> Any:
    """The state before the first step, made on the device."""
    import jax

    from rewardscale.training import step as steps

    if small(model):
        return step.init(fresh_params(model))
    shardings = jax.tree.map(lambda leaf: leaf.sharding, step.abstract)
    return jax.jit(lambda: steps.fresh_state(model, storage, fresh_params(model)), out_shardings=shardings)()


def with_head(forward: Any, model: ModelConfig, params: Any, batch: Any, options: Any, mesh: Any) -> Any:
    """`reward.rewards` that also multiplies every token's last hidden state with the embedding table, forward alone.

    What trainers on top of a causal language model do. The largest logit is added to the hidden states times 1e-30,
    which changes no float32 of theirs, so that the compiler cannot leave the product out.
    """
    import jax
    import jax.numpy as jnp

    from rewardscale.mesh import platform
    from rewardscale.models import products, reward

    def take(x: jax.Array, index: jax.Array) -> jax.Array:
        table = jax.lax.stop_gradient(params["embedding"]).astype(x.dtype)
        logits = products.choose(platform(mesh), options.dtype)(jax.lax.stop_gradient(x), table.T, 1)
        return taken(x, index) + (jnp.max(logits).astype(jnp.float32) * 1e-30).astype(x.dtype)

    assert not options.prune, "a head reads every token: the last layer is whole"
    taken = reward.take_tokens
    with mock.patch.object(reward, "take_tokens", take):
        return forward(model, params, batch, options, mesh)


def packed(
    case: dict[str, np.ndarray], settings: train_case.Settings, layout: str
) -> list[dict[str, np.ndarray]]:
    """A block of one step each, in the rows of `layout`."""
    step, row, offset, slot = (case[f"{layout}_{name}"] for name in ("step", "row", "offset", "slot"))
    width = int(case[f"{layout}_shape"][1])
    most = max(int(row[step == s].max()) for s in np.unique(step)) // settings.rows + 1
    shape, shared = (most * settings.rows, width), layout == "shared"
    return [
        _block(case, np.flatnonzero(step == s), (row, offset, slot), shape, settings.rows, shared=shared)
        for s in np.unique(step)
    ]


def padded(case: dict[str, np.ndarray], settings: train_case.Settings) -> list[dict[str, np.ndarray]]:
    """The same, a pair a row: pairs of like length fill microbatches of one of four widths.

    A block is one step for each width, so a pass has more optimizer steps than in the other layouts.
    """
    sizes, count = (case["lengths"] * [2, 1, 1]).sum(1), settings.rows
    blocks = []
    for first in range(0, len(sizes), settings.step):
        here = np.arange(first, min(first + settings.step, len(sizes)))
        here = here[np.argsort(sizes[here], kind="stable")]
        for group in np.array_split(here, min(4, len(here))):
            width = -(-int(sizes[group].max()) // 128) * 128
            row = np.zeros(len(sizes), np.int32)
            row[group] = np.arange(len(group))
            zero, shape = np.zeros_like(row), (-(-len(group) // count) * count, width)
            blocks.append(_block(case, group, (row, zero, zero), shape, count, shared=False))
    return blocks


def _block(
    case: dict[str, np.ndarray],
    here: np.ndarray,
    where: tuple[np.ndarray, np.ndarray, np.ndarray],
    shape: tuple[int, int],
    count: int,
    *,
    shared: bool,
) -> dict[str, np.ndarray]:
    """One step's arrays [1, microbatches, rows, ...] of the pairs `here`, in microbatches of `count` rows.

    `where`: row, offset and slot of every pair of the case.
    """
    table, ends = case["lengths"], np.cumsum(case["lengths"].sum(1))
    tokens = rows.TokenTable(table, case["tokens"].astype(np.int32), ends - table.sum(1))
    trees = rows.pair_trees(here, np.ones(len(here)), np.zeros(len(here)))
    slots = int(where[2].max()) + 1
    place = tuple(values[here].astype(np.int64) for values in where)
    batch = rows.assemble(tokens, table, trees, *place, shape=shape, slots=slots, shared=shared)
    for name, dtype in (("weight", np.float32), ("target", np.float32), ("valid", np.bool_)):
        batch[name] = np.zeros((shape[0], slots), dtype)
        batch[name][place[0], place[2]] = 1
    block = {name: a.reshape(1, -1, count, *a.shape[1:]) for name, a in batch.items()}
    used = int(place[0].max()) // count + 1
    return block | {"microbatches": np.array([used], np.int32), "pairs": np.array([len(here)], np.int32)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a case that benchmarks/train_case.py wrote")
    parser.add_argument(
        "--arm", type=json.loads, required=True, help="JSON: layout, attention, prune, dtype, head"
    )
    parser.add_argument("--passes", type=int, default=3, help="that are timed, after one that compiles")
    options = parser.parse_args()
    print(json.dumps(train(options.folder, options.arm, options.passes)))


if __name__ == "__main__":
    main()
