"""Training steps of ours and of PyTorch's on the same pairs, one after another: python -m benchmarks.train_step

    python -m benchmarks.train_step --main                      # what a comparison needs, three mixes of lengths
    python -m benchmarks.train_step --main --mixes --real=DIR   # real pairs alone (benchmarks/real_pairs.py)
    python -m benchmarks.train_step --device=gpu --model=llama3.1-8b --parameters=bfloat16 --moments=bfloat16 \\
        --gradients=bfloat16 --remat=attention --row_length=4096 --rows=4 --peer_checkpointing     # docs/gpu.md

Needs `make reference`, or --peers with a Python that has torch for GPUs, transformers and trl. By default the model
is a decoder from the middle of our ladder (d4: Qwen3's shape, width 256, 4 layers, 2.9 million parameters without the
embedding), with fresh weights on both sides; the pairs are random tokens with lengths of three mixes, and of real
pairs (--real, --view). A step is 64 pairs: forward, backward, clipping and AdamW. Each arm is a process of its own
with the whole machine; what is printed is the median of three passes over the pairs, what compiles having been
compiled in a pass before. Rows are the same on both sides: "packed" computes each prompt twice, "shared" once.

What the peers' arms are: benchmarks/train_step_peers.py. Ours, each with all that stands above it but for "padded":

    packed          pairs packed into rows of one length; attention over whole rows
    padded          instead a pair a row, rows of like length together, padded to a few widths
    + windows       attention computes windows of keys (models/windowed.py); on a GPU "+ kernels" instead: --attention
    + head          and a vocabulary head for every token, thrown away: forward alone, as on top of a language model
    + pruned        without that head; the last layer at the reward tokens alone
    + shared        a pair's prompt once
    each in float32, all but the first two in bfloat16 too (models/products.py)
    a device a core   rows dealt over a device a core, one thread each (JAX_NUM_CPU_DEVICES), instead of one device

Three numbers of each arm, operations counted by rewardscale/flops.py (causal attention halved, no vocabulary head,
forward and backward; what is computed again or for padding never):

    pairs/s
    useful      operations a second that the arm needs for its pairs: shared prompts once, a pruned last layer without
                what it leaves out; its share of the peak is hardware MFU on real tokens
    effective   the same pairs with prompts apart, no padding and no pruning, a second; its share is effective MFU

The peak is the vendor's where rewardscale/mesh knows the chip (bfloat16), else the fastest product that was measured
here just before, in the arm's type (benchmarks/peak.py). "loss off": how far the loss of all pairs at the fresh
weights is from that of our first packed arm in float32, relative.
"""

import argparse
import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, peak, real_pairs, train_case
from rewardscale.config import REMAT

COLUMNS = (
    "", "", "pairs/s", "over the best PyTorch of this kind", "useful, GFLOP/s", "of the peak", "effective, GFLOP/s",
    "of the peak", "tokens/s of the pairs", "computed tokens", "peak, MB", "first pass, s", "loss off",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
      ours: what train_step_ours.py takes; peer: flags of train_step_peers.py.
      main: one of --main. on: the devices it runs on.
    """

    name: str
    ours: dict[str, Any] | None = None
    peer: tuple[str, ...] = ()
    main: bool = False
    on: tuple[str, ...] = ("cpu", "gpu")

    @property
    def dtype(self) -> str:
        if self.ours is not None:
            return self.ours["dtype"]
        return "bfloat16" if "--bfloat16" in self.peer or self.peer == ("--arm=trl",) else "float32"

    @property
    def shared(self) -> bool:
        return "shared" in (self.ours["layout"] if self.ours is not None else self.peer[0])

    @property
    def pruned(self) -> bool:
        return self.ours is not None and self.ours["prune"]

    @property
    def kind(self) -> str:
        """Of PyTorch's loops that an arm is held against; "" for TRL's."""
        return "" if "trl" in "".join(self.peer) else "shared" if self.shared else "apart"


def _peers() -> list[Arm]:
    made = [
        Arm("TRL RewardTrainer, its defaults", peer=("--arm=trl",), main=True),
        Arm("TRL tuned, float32", peer=("--arm=trl-tuned",), main=True),
        Arm("TRL tuned, bfloat16", peer=("--arm=trl-tuned", "--bfloat16"), main=True),
    ]
    cpu, gpu = ("cpu",), ("gpu",)
    for name, arm, on, compiles in (
        ("padded", "padded", cpu + gpu, True),
        ("packed", "packed", cpu, True),
        ("packed with a mask", "masked", cpu, False),
        ("shared", "shared", cpu, False),
        ("packed, FlexAttention", "flex", gpu, True),
        ("shared, FlexAttention", "flex-shared", gpu, True),
    ):
        for dtype in ("float32", "bfloat16"):
            for compiled in (False, True) if compiles else (False,):
                flags = [f"--arm={arm}"] + ["--bfloat16"] * (dtype == "bfloat16") + ["--compiled"] * compiled
                title = f"{name}, {dtype}" + ", compiled" * compiled
                best = dtype == "bfloat16" and arm != "masked"
                made.append(
                    Arm(title, peer=tuple(flags), main=best or title == "padded, float32, compiled", on=on)
                )
    cudnn = ("--arm=padded", "--bfloat16", "--compiled", "--cudnn")
    return [*made, Arm("padded, bfloat16, compiled, cuDNN's attention", peer=cudnn, main=True, on=gpu)]


def _ours(attention: str) -> list[Arm]:
    plain = "dense" if attention == "windowed" else "chunked"  # all scores of long rows fit no GPU
    base = {
        "layout": "separate",
        "attention": plain,
        "prune": False,
        "dtype": "float32",
        "head": False,
        "devices": 1,
    }
    quick = base | {"attention": attention}
    name = "+ windows" if attention == "windowed" else "+ kernels"
    made = [
        Arm("packed, float32", ours=base, main=True),
        Arm("padded, float32", ours=base | {"layout": "padded"}, main=True),
    ]
    for dtype in ("float32", "bfloat16"):
        on = ("cpu", "gpu") if dtype == "bfloat16" or attention == "windowed" else ("cpu",)
        for title, more in (
            (name, {}),
            ("+ head", {"head": True}),
            ("+ pruned", {"prune": True}),
            ("+ shared", {"prune": True, "layout": "shared"}),
        ):
            made.append(Arm(f"{title}, {dtype}", ours=quick | more | {"dtype": dtype}, main=True, on=on))
    spread = [
        Arm(f"{arm.name}, a device a core", ours=arm.ours | {"devices": -1}, main=True, on=("cpu",))
        for arm in made
        if arm.ours is not None and arm.dtype == "bfloat16" and arm.pruned
    ]
    return made + spread


def arms(options: argparse.Namespace) -> list[Arm]:
    """Those of a device, in the order of the table: PyTorch's first, so that ours know what they are held against."""
    attention = "windowed" if options.device == "cpu" else options.attention
    wanted = [arm for arm in (*_peers(), *_ours(attention)) if options.device in arm.on]
    if options.main:
        wanted = [arm for arm in wanted if arm.main]
    if options.only:
        wanted = [arm for arm in wanted if any(text in label(arm) for text in options.only)]
    return wanted


def label(arm: Arm) -> str:
    """Whose an arm is, and its name."""
    return f"{'ours' if arm.ours is not None else 'PyTorch'}: {arm.name}"


def run(arm: Arm, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs an arm in a process of its own. Raises RuntimeError with what it said if it fails."""
    if arm.ours is not None:
        command = [
            sys.executable,
            "-m",
            "benchmarks.train_step_ours",
            folder,
            f"--arm={json.dumps(arm.ours)}",
        ]
    else:
        command = [options.peers, "-m", "benchmarks.train_step_peers", folder, *arm.peer]
    environment = peak.environment(options.device)
    if arm.ours is not None and arm.ours["devices"] == -1:
        environment |= {"JAX_NUM_CPU_DEVICES": str(math.gcd(os.cpu_count() or 1, options.settings.rows))}
    done = subprocess.run(
        [*command, f"--passes={options.passes}"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"{label(arm)}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def table_of(
    mix: str, table: np.ndarray, row: int, options: argparse.Namespace, peaks: dict[str, float]
) -> None:
    """Measures and prints the table of a mix; an arm that fails is a line that says so."""
    settings = options.settings
    model = train_case.model_of(settings)
    effective = train_case.operations(model, table, shared=False, pruned=False)
    best: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder, base = Path(name), None
        filled = train_case.write(folder, table, row, settings)
        prompt, *responses = table.mean(0)
        print(
            f"\n{mix}: {len(table)} pairs, {prompt:.0f} tokens a prompt, {np.mean(responses):.0f} a response; "
            f"rows of {row} are {filled['separate']:.0%} filled, shared {filled['shared']:.0%}\n"
        )
        print("| " + " | ".join(COLUMNS) + " |\n" + "|---" * len(COLUMNS) + "|", flush=True)
        for arm in arms(options):
            whose = "ours" if arm.ours is not None else "PyTorch"
            try:
                found = run(arm, folder, options)
            except RuntimeError as error:
                said = str(error).strip().splitlines()[-1].replace("|", "/")
                print(f"| {whose} | {arm.name} | failed: {said} |" + " |" * (len(COLUMNS) - 3), flush=True)
                continue
            rate = found["pairs_per_second"]
            if arm.ours is None and arm.kind:
                best[arm.kind] = max(best.get(arm.kind, 0.0), rate)
            if arm.ours is not None and base is None and arm.name == "packed, float32":
                base = found["loss"]
            useful = train_case.operations(model, table, shared=arm.shared, pruned=arm.pruned)
            cells = [whose, arm.name + (f" ({found['about']})" if "about" in found else ""), f"{rate:.1f}"]
            cells.append(f"{rate / best[arm.kind]:.2f}" if arm.ours is not None and arm.kind in best else "")
            for operations in (useful, effective):
                done = operations * rate / len(table)
                cells += [f"{done / 1e9:,.0f}", f"{done / peaks[arm.dtype]:.1%}"]
            cells += [f"{rate / len(table) * (table * [2, 1, 1]).sum():,.0f}", f"{found['computed']:,}"]
            cells += [f"{found['peak'] / 2**20:,.0f}", f"{found['first']:.1f}"]
            off = arm.ours is not None and base is not None
            cells.append(f"{abs(found['loss'] / base - 1):.1e}" if off and base else "")
            print("| " + " | ".join(cells) + " |", flush=True)


def peaks_of(options: argparse.Namespace) -> tuple[dict[str, float], str]:
    """Operations a second by type that shares are of, and a sentence about them."""
    from rewardscale.mesh import bf16_peak

    found = peak.measured(options.device, python=options.peers)
    said = ", ".join(f"{found[t][0] / 1e9:,.0f} GFLOP/s in {t} (by {found[t][1]})" for t in peak.TYPES)
    sheet = bf16_peak(found["kind"])
    if sheet:
        return dict.fromkeys(peak.TYPES, sheet), (
            f"Shares are of {sheet / 1e12:,.1f} TFLOP/s, the data sheet's bfloat16 of {found['kind']}; "
            f"the largest product measured: {said}."
        )
    return {t: found[t][0] for t in peak.TYPES}, (
        f"Shares are of the fastest large product measured here, {said}: no data sheet names a peak of this CPU."
    )


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """Parsed flags; `settings` are what they say of a case."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, default = parser.add_argument, train_case.Settings()
    add(
        "--mixes",
        nargs="*",
        default=list(train_case.MIXES),
        choices=list(train_case.MIXES),
        help="none: --mixes",
    )
    add("--view", type=Path, action="append", default=[], help="folder of a tokenised view; repeatable")
    add(
        "--real",
        type=Path,
        help="folder of data sets: real pairs, tokenised by benchmarks/real_pairs.py first",
    )
    add("--main", action="store_true", help="only the quickest arms of PyTorch, TRL's, and all of ours")
    add("--only", nargs="*", help='arms whose name holds one of these, e.g. "ours" "PyTorch: packed"')
    add("--passes", type=int, default=3, help="timed passes over the pairs (median)")
    add("--pairs", type=int, default=0, help="pairs of a mix (default: the mix's own)")
    add("--row_length", type=int, default=0, help="tokens a row (default: the mix's own)")
    add(
        "--peers",
        type=Path,
        default=peak.REFERENCE,
        help="Python with torch, transformers and trl (%(default)s)",
    )
    types = ("float32", "bfloat16")
    add("--device", choices=("cpu", "gpu"), default="cpu", help="that both sides train on")
    add(
        "--model",
        default=default.model,
        help="a decoder's preset: d4, qwen3-0.6b, llama3.1-8b, ... (%(default)s)",
    )
    add("--vocabulary", type=int, default=default.vocabulary, help="of models of the ladder (%(default)s)")
    add("--step", type=int, default=default.step, help="pairs an optimizer step (%(default)s)")
    add("--rows", type=int, default=default.rows, help="rows a microbatch (%(default)s)")
    add(
        "--parameters",
        choices=types,
        default=types[0],
        help="stored type; bfloat16: PyTorch's weights and moments too",
    )
    add("--moments", choices=types, default=types[0], help="stored type of our moments")
    add("--gradients", choices=types, default=types[0], help="type of our sum over microbatches")
    add(
        "--remat",
        choices=REMAT,
        default=default.remat,
        help="what our backward pass computes again (%(default)s)",
    )
    add(
        "--attention",
        choices=("auto", "cudnn"),
        default="auto",
        help="of ours on a GPU; cudnn: fail without it",
    )
    add(
        "--peer_pairs",
        type=int,
        default=default.peer_pairs,
        help="a microbatch of PyTorch's padded (%(default)s)",
    )
    add("--peer_checkpointing", action="store_true", help="gradient checkpointing in PyTorch's loops")
    options = parser.parse_args(arguments)
    names = [field.name for field in dataclasses.fields(train_case.Settings)]
    options.settings = train_case.Settings(**{name: getattr(options, name) for name in names})
    train_case.check(parser, options.settings)
    if not options.peers.exists():
        parser.error(f"{options.peers} is missing: make reference, or --peers=PYTHON")
    return options


def main() -> None:
    options = options_of()
    theirs = subprocess.run(
        [options.peers, "-m", "benchmarks.peers"], capture_output=True, text=True, check=True
    )
    print(machine.heading("jax", "jaxlib", versions=json.loads(theirs.stdout)), flush=True)
    peaks, said = peaks_of(options)
    held = [f"{name} {value}" for name, value in dataclasses.asdict(options.settings).items()]
    print(f"{said} Settings: {', '.join(held)}; median of {options.passes} passes.")
    size = {"pairs": options.pairs, "row": options.row_length}
    for mix in options.mixes:
        table_of(mix, *train_case.lengths(mix, **size), options, peaks)
    views = [(folder.parent.parent.name, folder) for folder in options.view]
    if options.real:
        views.append(("arguments and answers", real_pairs.view(options.real)))
    for name, folder in views:
        table_of(name, *train_case.of_view(folder, **size), options, peaks)


if __name__ == "__main__":
    main()
