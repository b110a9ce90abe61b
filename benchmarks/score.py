"""Scoring responses, ours against a loop over a transformers model and against vLLM: python -m benchmarks.score

    python -m benchmarks.score --device=gpu --model=qwen3-0.6b --peers=PYTHON      # a Python with torch for GPUs, vllm

Needs `make reference`, or --peers. The model is that of benchmarks/train_step.py, with fresh weights; K responses a
prompt. Ours is `RewardScorer.score`, which `rewardscale.score`, `evaluate` and `serve` call: a prompt is computed once
for as many of its responses as that pays for (evaluation/shapes.py), and trees are packed; one arm more deals rows to a
device a core, and for more than two responses two let only two share a prompt, which is then computed K / 2 times. The
peers (benchmarks/score_peers.py) are batches sorted by length, which compute each prompt K times, as it is and with
torch.compile, and vLLM with its prefix cache, where --peers has it. Each arm is a process of its own; medians of three
passes, compiled before.

"operations": those of the arm's own responses with every prompt computed once, whatever the arm does, by
rewardscale/flops.py (forward, causal attention halved, no vocabulary head) a second.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks import machine, peak, train_case
from benchmarks.input import drawn
from rewardscale import flops, platforms

MIXES = {"short chat": (60, 120), "long prompt": (400, 60)}
LONGEST = 1024
# Name -> whose, and flags of score_peers.py; of ours: type, responses that share a prompt (0: any number), devices
# (-1: one a core).
ARMS = {
    "transformers, float32": ("peer",),
    "transformers, float32, compiled": ("peer", "--compiled"),
    "transformers, bfloat16": ("peer", "--bfloat16"),
    "transformers, bfloat16, compiled": ("peer", "--bfloat16", "--compiled"),
    "vLLM, bfloat16": ("peer", "--vllm"),
    "ours, float32": ("ours", "float32", "0", "1"),
    "ours, float32, two share a prompt": ("ours", "float32", "2", "1"),
    "ours, bfloat16": ("ours", "bfloat16", "0", "1"),
    "ours, bfloat16, two share a prompt": ("ours", "bfloat16", "2", "1"),
    "ours, bfloat16, a device a core": ("ours", "bfloat16", "0", "-1"),
}


def lengths(mix: str, responses: int, prompts: int) -> np.ndarray:
    """int64 [prompts, 1 + K] of conversations that fit LONGEST."""
    prompt, response = MIXES[mix]
    table = drawn((prompt, *[response] * responses), 8 * prompts)
    return table[table[:, 0] + table[:, 1:].max(1) <= LONGEST][:prompts]


def _ours(folder: Path, dtype: str, responses_per_tree: int, devices: int, passes: int) -> dict[str, Any]:
    platforms.prepare()
    import jax

    from benchmarks.train_step_ours import fresh_params, peak_bytes, small
    from rewardscale import mesh
    from rewardscale.data.chat import EncodedComparison
    from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer, make_ladder
    from rewardscale.models import reward

    case = np.load(folder / "case.npz")
    model = train_case.model_of(train_case.read_settings(folder))
    device = mesh.make_mesh((devices, 1, 1))
    if small(model):
        params = reward.stored(jax.tree.map(jax.numpy.asarray, fresh_params(model)), dtype)
    else:
        params = jax.jit(lambda: reward.stored(fresh_params(model), dtype))()
    ladder = make_ladder(LONGEST, 8192, width=model.width, multiple=device.size)
    scorer = RewardScorer(
        name="benchmark", chat=cast(Any, None), config=model, params=params, mesh=device,
        dtype=dtype, max_length=LONGEST, ladder=ladder, label="", responses_per_tree=responses_per_tree,
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
        "peak": peak_bytes(jax.devices()[0]),
    }


def run(arm: tuple[str, ...], folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs an arm in a process of its own. Raises RuntimeError with what it said if it fails."""
    if arm[0] == "peer":
        command = [options.peers, "-m", "benchmarks.score_peers", folder, *arm[1:]]
    else:
        command = [sys.executable, "-m", "benchmarks.score", f"--case={folder}", "--ours", *arm[1:]]
    several = {"JAX_NUM_CPU_DEVICES": str(os.cpu_count())} if arm[-1] == "-1" else {}
    done = subprocess.run(
        [*command, f"--passes={options.passes}"],
        capture_output=True,
        text=True,
        check=False,
        env=peak.environment(options.device) | several,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arm)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def lines_of(mix: str, responses: int, options: argparse.Namespace, *, vllm: bool) -> None:
    """Measures and prints one mix with so many responses a prompt; an arm that fails is a line that says so."""
    table = lengths(mix, responses, options.prompts)
    model = train_case.model_of(options.settings)
    needed = sum(flops.comparison_flops(model, prompt, rest) for prompt, *rest in table.tolist())
    best = 0.0
    with tempfile.TemporaryDirectory() as name:
        train_case.write_tokens(Path(name), table, options.settings)
        for arm, how in ARMS.items():
            head = f"| {mix} | {responses} | {arm} |"
            if "--vllm" in how and not vllm:
                print(f"{head} not installed | | | | |", flush=True)
                continue
            if how[0] == "ours" and "2" in how and responses <= 2:
                continue  # what all trees are
            if how[-1] == "-1" and options.device != "cpu":
                continue
            try:
                found = run(how, Path(name), options)
            except RuntimeError as error:
                said = str(error).strip().splitlines()[-1].replace("|", "/")
                print(f"{head} failed: {said} | | | | |", flush=True)
                continue
            rate = found["responses_per_second"]
            best = max(best, rate) if how[0] == "peer" else best
            ratio = f"{rate / best:.2f}" if how[0] == "ours" and best else ""
            print(
                f"{head} {rate:.0f} | {ratio} | {needed * rate / table[:, 1:].size / 1e9:,.0f} "
                f"| {found['computed']:,} | {found['peak'] / 2**20:,.0f} |",
                flush=True,
            )


def options_of() -> argparse.Namespace:
    """Parsed flags; `settings` are what they say of a case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, train_case.Settings()
    add("--responses", type=int, nargs="*", default=[1, 2, 8], help="K: responses a prompt (1 2 8)")
    add("--prompts", type=int, default=96, help="of each mix (%(default)s)")
    add("--mixes", nargs="*", default=list(MIXES), choices=list(MIXES), help="of lengths")
    add("--passes", type=int, default=3, help="timed passes (median)")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="that both sides score on")
    add(
        "--model",
        default=default.model,
        help="a decoder's preset: d4, qwen3-0.6b, llama3.1-8b, ... (%(default)s)",
    )
    add("--vocabulary", type=int, default=default.vocabulary, help="of models of the ladder (%(default)s)")
    add(
        "--peers",
        type=Path,
        default=peak.REFERENCE,
        help="Python with torch, transformers, maybe vllm (%(default)s)",
    )
    add("--ours", nargs="*", help=argparse.SUPPRESS)
    add("--case", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.settings = train_case.Settings(options.device, options.model, options.vocabulary)
    train_case.check(parser, options.settings)
    if not options.ours and not options.peers.exists():
        parser.error(f"{options.peers} is missing: make reference, or --peers=PYTHON")
    return options


def main() -> None:
    options = options_of()
    if options.ours:
        dtype, shared, devices = options.ours
        print(json.dumps(_ours(options.case, dtype, int(shared), int(devices), options.passes)))
        return
    theirs = json.loads(subprocess.check_output([options.peers, "-m", "benchmarks.peers"], text=True))
    print(machine.heading("jax", "jaxlib", versions={"vllm": "not installed"} | theirs))
    print(
        f"Model {options.model}, {options.prompts} prompts, median of {options.passes} passes.\n\n"
        "| lengths | responses a prompt | | responses/s | over the best peer | operations, GFLOP/s "
        "| tokens computed | peak, MB |\n|---|---|---|---|---|---|---|---|",
        flush=True,
    )
    for mix in options.mixes:
        for responses in options.responses:
            lines_of(mix, responses, options, vllm="vllm" in theirs)


if __name__ == "__main__":
    main()
