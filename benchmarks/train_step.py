"""Training steps of ours and of PyTorch's on the same pairs, one after another: python -m benchmarks.train_step

Needs `make reference`. About half an hour on two quiet cores; --mixes and --main make it shorter. The model is a
decoder from the middle of our ladder (d4: Qwen3's shape, width 256, 4 layers, 2.9 million parameters without the
embedding), with fresh weights on both sides; the pairs are random tokens with lengths of three mixes, and of real pairs
(--view). A step is 64 pairs: forward, backward, clipping and AdamW. Each arm is a process of its own with the whole
machine; what is printed is the median of three passes over the pairs, what compiles having been compiled in a pass
before. Rows are the same on both sides: "packed" computes each prompt twice, "shared" once.

What the peers' arms are: benchmarks/train_step_peers.py. Ours, each with all that stands above it:

    padded          a pair a row, rows of like length together, padded to a few widths; attention over whole rows
    packed          pairs packed into rows of one length
    windows         attention computes windows of keys (models/windowed.py)
    pruned          the last layer at the reward tokens alone
    shared          a pair's prompt once
    each in float32, the last three in bfloat16 too (models/products.py)
"""

import argparse
import dataclasses
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.input import drawn
from rewardscale import platforms
from rewardscale.config import ModelConfig
from rewardscale.data import packing, rows, tokenised
from rewardscale.models import presets

MODEL, VOCABULARY, STEP, ROWS = "d4", 2048, 64, 4
# Mean tokens of a prompt and of a response, pairs, tokens a row; lognormal (benchmarks/input.py).
MIXES = {
    "short chat": (60, 120, 128, 1024),
    "long prompt": (400, 60, 64, 2048),
    "long both": (250, 250, 64, 2048),
}
REFERENCE = Path(".venv-reference/bin/python")


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train. `ours`: flags of `_ours`; `peer`: of train_step_peers.py."""

    name: str
    ours: dict[str, Any] | None = None
    peer: tuple[str, ...] = ()
    main: bool = False


def _mine(name: str, options: dict[str, Any], *, main: bool = False) -> Arm:
    return Arm(name, ours=options, main=main)


OURS = {"layout": "separate", "attention": "dense", "prune": False, "dtype": "float32"}
WINDOWS = OURS | {"attention": "windowed"}
PRUNED = WINDOWS | {"prune": True}
SHARED = PRUNED | {"layout": "shared"}
NARROW = {"dtype": "bfloat16"}
ARMS = (
    Arm("TRL RewardTrainer, its defaults", peer=("--arm=trl",), main=True),
    Arm("padded, float32", peer=("--arm=padded",)),
    Arm("padded, float32, compiled", peer=("--arm=padded", "--compiled"), main=True),
    Arm("padded, bfloat16", peer=("--arm=padded", "--bfloat16"), main=True),
    Arm("padded, bfloat16, compiled", peer=("--arm=padded", "--bfloat16", "--compiled")),
    Arm("packed, float32", peer=("--arm=packed",)),
    Arm("packed, float32, compiled", peer=("--arm=packed", "--compiled")),
    Arm("packed, bfloat16", peer=("--arm=packed", "--bfloat16"), main=True),
    Arm("packed, bfloat16, compiled", peer=("--arm=packed", "--bfloat16", "--compiled")),
    Arm("packed with a mask, bfloat16", peer=("--arm=masked", "--bfloat16")),
    Arm("shared, float32", peer=("--arm=shared",)),
    Arm("shared, bfloat16", peer=("--arm=shared", "--bfloat16"), main=True),
    _mine("padded", (OURS | {"layout": "padded"})),
    _mine("packed", OURS, main=True),
    _mine("+ windows", WINDOWS, main=True),
    _mine("+ pruned", PRUNED, main=True),
    _mine("+ shared", SHARED, main=True),
    _mine("+ windows, bfloat16", (WINDOWS | NARROW), main=True),
    _mine("+ pruned, bfloat16", (PRUNED | NARROW), main=True),
    _mine("+ shared, bfloat16", (SHARED | NARROW), main=True),
)


def lengths(mix: str) -> tuple[np.ndarray, int]:
    """int64 [pairs, 3] of prompt, chosen and rejected that fit a row with the prompt twice, and the row's length."""
    prompt, response, pairs, row = MIXES[mix]
    table = drawn((prompt, response, response), 8 * pairs)
    return table[(table * [2, 1, 1]).sum(1) <= row][:pairs], row


def of_view(folder: Path, pairs: int = 64, row: int = 2048) -> tuple[np.ndarray, int]:
    """The same of a view's first pairs that fit."""
    table = np.asarray(tokenised.open_view(folder).lengths[:, :3], np.int64)
    fit = (table > 0).all(1) & ((table * [2, 1, 1]).sum(1) <= row)
    return table[fit][:pairs], row


def write_case(folder: Path, table: np.ndarray, row: int) -> dict[str, float]:
    """Writes what both sides read; returns how full rows are, by layout."""
    model = presets.get_model(MODEL, vocab_size=VOCABULARY)
    assert isinstance(model, ModelConfig)
    tokens = np.random.default_rng(1).integers(2, VOCABULARY, int(table.sum()))
    case: dict[str, Any] = {"lengths": table, "tokens": tokens, "pairs_per_step": STEP}
    filled = {}
    for layout, sizes in (("separate", (table * [2, 1, 1]).sum(1)), ("shared", table.sum(1))):
        plan = packing.make_plan(sizes, batch=STEP, row_length=row, rows_per_microbatch=ROWS)
        case |= {f"{layout}_step": np.repeat(np.arange(plan.steps), np.diff(plan.starts))}
        case |= {f"{layout}_row": plan.row, f"{layout}_offset": plan.offset, f"{layout}_slot": plan.slot}
        case |= {f"{layout}_shape": (ROWS, row)}
        filled[layout] = plan.efficiency
    np.savez(folder / "case.npz", **case)
    _write_model(folder, model)
    return filled


def write_scoring_case(folder: Path, table: np.ndarray) -> None:
    """The same of comparisons with more responses, [n, 1 + K] tokens, and no rows."""
    model = presets.get_model(MODEL, vocab_size=VOCABULARY)
    assert isinstance(model, ModelConfig)
    tokens = np.random.default_rng(1).integers(2, VOCABULARY, int(table.sum()))
    np.savez(folder / "case.npz", lengths=table, tokens=tokens)
    _write_model(folder, model)


def _write_model(folder: Path, model: ModelConfig) -> None:
    theirs = {
        "vocab_size": model.vocab_size, "hidden_size": model.width, "intermediate_size": model.mlp_width,
        "num_hidden_layers": model.layers, "num_attention_heads": model.heads, "num_key_value_heads": model.kv_heads,
        "head_dim": model.head_dim, "rope_theta": model.rope_theta, "rms_norm_eps": model.norm_epsilon,
    }  # fmt: skip
    (folder / "model.json").write_text(json.dumps(theirs))


def _ours(folder: Path, layout: str, attention: str, prune: bool, dtype: str, passes: int) -> dict[str, Any]:
    """Trains in this process; what train_step_peers.py prints of its arms."""
    platforms.prepare()
    import jax

    from rewardscale import mesh
    from rewardscale.config import Recipe
    from rewardscale.models import reward
    from rewardscale.training.optimizer import hyperparameters
    from rewardscale.training.step import make_step

    case = dict(np.load(folder / "case.npz"))
    model = presets.get_model(MODEL, vocab_size=VOCABULARY)
    assert isinstance(model, ModelConfig)
    options = reward.Options(dtype=dtype, scan=False, attention=attention, prune=prune)
    step = make_step(model, options, mesh.make_mesh((1, 1, 1)))
    blocks = _padded(case) if layout == "padded" else _packed(case, layout)
    hyper, rate = hyperparameters(Recipe()), np.full(1, 1e-4, np.float32)
    state = step.init(reward.init(model, (0, 0)))
    seconds, first_loss = [], 0.0
    for number in range(passes + 1):
        started, found = time.perf_counter(), []
        for block in blocks:
            state, metrics = step.train(state, block, np.int32(1), rate, hyper)
            found.append(metrics["loss"])
        jax.block_until_ready(state)
        seconds.append(time.perf_counter() - started)
        if number == 0:
            first_loss = float(np.mean([x[0] for x in found]))
    computed = sum(int(b["microbatches"][0]) * b["tokens"][0, 0].size for b in blocks)
    return {
        "first": seconds[0],
        "seconds": seconds[1:],
        "computed": computed,
        "loss": first_loss,
        "pairs_per_second": len(case["lengths"]) / statistics.median(seconds[1:]),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "versions": {"jax": jax.__version__},
    }


def _packed(case: dict[str, np.ndarray], layout: str) -> list[dict[str, np.ndarray]]:
    """A block of one step each."""
    step, row, offset, slot = (case[f"{layout}_{name}"] for name in ("step", "row", "offset", "slot"))
    count, width = case[f"{layout}_shape"]
    most = int(max(row[step == s].max() for s in np.unique(step))) // count + 1
    return [
        _block(
            case,
            np.flatnonzero(step == s),
            row,
            offset,
            slot,
            (most * count, width),
            count,
            layout == "shared",
        )
        for s in np.unique(step)
    ]


def _padded(case: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The same, a pair a row: pairs of like length fill microbatches of one of four widths.

    A block is one step for each width, so a pass has more optimizer steps than in the other layouts.
    """
    sizes = (case["lengths"] * [2, 1, 1]).sum(1)
    blocks = []
    for first in range(0, len(sizes), STEP):
        here = np.arange(first, min(first + STEP, len(sizes)))
        here = here[np.argsort(sizes[here], kind="stable")]
        for group in np.array_split(here, 4):
            width = -(-int(sizes[group].max()) // 128) * 128
            row = np.zeros(len(sizes), np.int32)
            row[group] = np.arange(len(group))
            zero, shape = np.zeros_like(row), (-(-len(group) // ROWS) * ROWS, width)
            blocks.append(_block(case, group, row, zero, zero, shape, ROWS, shared=False))
    return blocks


def _block(
    case: dict[str, np.ndarray],
    here: np.ndarray,
    row: np.ndarray,
    offset: np.ndarray,
    slot: np.ndarray,
    shape: tuple[int, int],
    count: int,
    shared: bool,
) -> dict[str, np.ndarray]:
    """One step's arrays [1, microbatches, rows, ...] of the pairs `here`, in microbatches of `count` rows."""
    table, ends = case["lengths"], np.cumsum(case["lengths"].sum(1))
    tokens = rows.TokenTable(table, case["tokens"].astype(np.int32), ends - table.sum(1))
    trees = rows.pair_trees(here, -np.ones(len(here)), np.zeros(len(here)))
    slots = int(slot.max()) + 1
    place = tuple(values[here].astype(np.int64) for values in (row, offset, slot))
    batch = rows.assemble(tokens, table, trees, *place, shape=shape, slots=slots, shared=shared)
    for name, dtype in (("weight", np.float32), ("target", np.float32), ("valid", np.bool_)):
        batch[name] = np.zeros((shape[0], slots), dtype)
        batch[name][place[0], place[2]] = 1
    block = {name: a.reshape(1, -1, count, *a.shape[1:]) for name, a in batch.items()}
    used = int(place[0].max()) // count + 1
    return block | {"microbatches": np.array([used], np.int32), "pairs": np.array([len(here)], np.int32)}


def run(arm: Arm, folder: Path, passes: int) -> dict[str, Any]:
    """Runs an arm in a process of its own. Raises RuntimeError with what it said if it fails."""
    if arm.ours is not None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.train_step",
            f"--ours={json.dumps(arm.ours)}",
            f"--case={folder}",
        ]
    else:
        command = [str(REFERENCE), "benchmarks/train_step_peers.py", str(folder), *arm.peer]
    done = subprocess.run(
        [*command, f"--passes={passes}"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
    )
    if done.returncode:
        raise RuntimeError(f"{arm.name}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table_of(mix: str, table: np.ndarray, row: int, options: argparse.Namespace) -> None:
    """Measures and prints the table of a mix."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        filled = write_case(folder, table, row)
        prompt, *responses = table.mean(0)
        print(
            f"\n{mix}: {len(table)} pairs, {prompt:.0f} tokens a prompt, {np.mean(responses):.0f} a response; "
            f"rows of {row} are {filled['separate']:.0%} filled, shared {filled['shared']:.0%}\n"
        )
        print(
            "| | | pairs/s | over the best PyTorch of this kind | tokens/s of the pairs | computed tokens | peak, MB "
            "| first pass, s |"
        )
        print("|---|---|---|---|---|---|---|---|", flush=True)
        own = (table * [2, 1, 1]).sum()
        best: dict[str, float] = {}
        for arm in ARMS:
            if options.main and not arm.main:
                continue
            found = run(arm, folder, options.passes)
            rate = found["pairs_per_second"]
            if arm.ours is None and "trl" not in arm.peer[0]:
                best["shared" if "shared" in arm.name else "apart"] = max(
                    best.get("shared" if "shared" in arm.name else "apart", 0.0), rate
                )
            ratio = ""
            if arm.ours is not None:
                ratio = f"{rate / best['shared' if arm.ours['layout'] == 'shared' else 'apart']:.2f}"
            about = f" ({found['about']})" if "about" in found else ""
            print(
                f"| {'ours' if arm.ours is not None else 'PyTorch'} | {arm.name}{about} | {rate:.1f} | {ratio} "
                f"| {rate / len(table) * own:,.0f} | {found['computed']:,} | {found['peak'] / 2**20:,.0f} "
                f"| {found['first']:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mixes", nargs="*", default=list(MIXES), choices=list(MIXES))
    parser.add_argument(
        "--view", type=Path, action="append", default=[], help="folder of a tokenised view; repeatable"
    )
    parser.add_argument(
        "--main", action="store_true", help="only the quickest arms of PyTorch, and ours packed"
    )
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--ours", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        print(json.dumps(_ours(options.case, passes=options.passes, **json.loads(options.ours))))
        return
    if not REFERENCE.exists():
        parser.error(f"{REFERENCE} is missing: make reference")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {time.strftime('%Y-%m-%d')}")
    for mix in options.mixes:
        table_of(mix, *lengths(mix), options)
    for folder in options.view:
        table_of(folder.parent.parent.name, *of_view(folder), options)


if __name__ == "__main__":
    main()
