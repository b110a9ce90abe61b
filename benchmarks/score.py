"""Scoring responses, ours against a loop over a transformers model: python -m benchmarks.score

Needs `make reference`. The model is that of benchmarks/train_step.py, with fresh weights; K responses a prompt. Ours is
`RewardScorer.score`, which `rewardscale.score`, `evaluate` and `serve` call: a prompt is computed once for as many of
its responses as fit a row, and trees are packed. For more than two responses an arm more lets two share a prompt, which
is then computed K / 2 times. The peer (benchmarks/score_peers.py) computes each prompt K times, in batches sorted by
length. Each arm is a process of its own; medians of three passes, compiled before. "tokens computed" has no padding.
"""

import argparse
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
from typing import Any, cast

import numpy as np

from benchmarks import train_step
from benchmarks.input import drawn
from rewardscale import platforms
from rewardscale.config import ModelConfig
from rewardscale.models import presets

MIXES = {"short chat": (60, 120), "long prompt": (400, 60)}
PROMPTS, LONGEST = 96, 1024
ARMS = {
    "transformers, float32": ("peer",),
    "transformers, float32, compiled": ("peer", "--compiled"),
    "transformers, bfloat16": ("peer", "--bfloat16"),
    "ours, float32": ("ours", "float32"),
    "ours, float32, two share a prompt": ("ours", "float32", "2"),
    "ours, bfloat16": ("ours", "bfloat16"),
    "ours, bfloat16, two share a prompt": ("ours", "bfloat16", "2"),
}


def lengths(mix: str, responses: int) -> np.ndarray:
    """int64 [prompts, 1 + K] of conversations that fit LONGEST."""
    prompt, response = MIXES[mix]
    table = drawn((prompt, *[response] * responses), 8 * PROMPTS)
    return table[table[:, 0] + table[:, 1:].max(1) <= LONGEST][:PROMPTS]


def _ours(folder: Path, dtype: str, responses_per_tree: int, passes: int) -> dict[str, Any]:
    platforms.prepare()
    import jax

    from rewardscale import mesh
    from rewardscale.data.chat import EncodedComparison
    from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer, make_ladder
    from rewardscale.models import reward

    case = np.load(folder / "case.npz")
    model = presets.get_model(train_step.MODEL, vocab_size=train_step.VOCABULARY)
    assert isinstance(model, ModelConfig)
    device = mesh.make_mesh((1, 1, 1))
    weights = jax.tree.map(jax.numpy.asarray, reward.init(model, (0, 0)))
    scorer = RewardScorer(
        name="benchmark", chat=cast(Any, None), config=model, params=reward.stored(weights, dtype), mesh=device,
        dtype=dtype, max_length=LONGEST, ladder=make_ladder(LONGEST, 8192, width=model.width), label="",
        responses_per_tree=responses_per_tree,
    )  # fmt: skip
    items, at = [], 0
    for row in case["lengths"].tolist():
        parts = []
        for size in row:
            parts.append(case["tokens"][at : at + size].tolist())
            at += size
        items.append(Prepared(EncodedComparison(parts[0], parts[1:]), 0, False))
    seconds, computed = [], 0
    started = time.perf_counter()
    list(scorer.warm_up())
    first = time.perf_counter() - started
    for _ in range(passes + 1):
        started, tokens = time.perf_counter(), []
        scorer.score(items, done=tokens.append)
        seconds.append(time.perf_counter() - started)
        computed = sum(tokens)
    return {
        "first": first,
        "seconds": seconds[1:],
        "computed": computed,
        "responses_per_second": sum(len(i.encoded.responses) for i in items) / statistics.median(seconds[1:]),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def _run(arm: tuple[str, ...], folder: Path) -> dict[str, Any]:
    if arm[0] == "peer":
        command = [str(train_step.REFERENCE), "benchmarks/score_peers.py", str(folder), *arm[1:]]
    else:
        command = [sys.executable, "-m", "benchmarks.score", f"--case={folder}", "--ours", *arm[1:]]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    if done.returncode:
        raise RuntimeError(f"{arm}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--responses", type=int, nargs="*", default=[2, 8])
    parser.add_argument("--ours", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ours:
        dtype, *shared = options.ours
        print(json.dumps(_ours(options.case, dtype, int(shared[0]) if shared else 0, 3)))
        return
    if not train_step.REFERENCE.exists():
        parser.error(f"{train_step.REFERENCE} is missing: make reference")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}; {time.strftime('%Y-%m-%d')}\n")
    print(
        "| lengths | responses a prompt | | responses/s | over the best transformers | tokens computed | peak, MB |"
    )
    print("|---|---|---|---|---|---|---|", flush=True)
    for mix in MIXES:
        for responses in options.responses:
            with tempfile.TemporaryDirectory() as name:
                train_step.write_scoring_case(Path(name), lengths(mix, responses))
                best = 0.0
                for arm, how in ARMS.items():
                    if len(how) > 2 and responses <= 2:
                        continue  # what all trees are
                    found = _run(how, Path(name))
                    rate = found["responses_per_second"]
                    best = max(best, rate) if how[0] == "peer" else best
                    ratio = f"{rate / best:.2f}" if how[0] == "ours" else ""
                    print(
                        f"| {mix} | {responses} | {arm} | {rate:.0f} | {ratio} | {found['computed']:,} "
                        f"| {found['peak'] / 2**20:,.0f} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
