"""The fastest matrix product that this machine was seen to do: python -m benchmarks.peak [--device=gpu]

Products of two square matrices (4,096 wide on a CPU, 8,192 on a GPU) in float32 and in bfloat16 summed in float32, by
jax and by PyTorch (`make reference`), each in a process of its own that has the whole machine; the best of five
timings. A CPU has no data sheet to divide by, so benchmarks/train_step.py divides by the larger of both: a measured
figure of this machine, no vendor's.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

TYPES = ("float32", "bfloat16")
REFERENCE = Path(".venv-reference/bin/python")


def best(work: Callable[[], Any], *, width: int, repeats: int, timings: int = 5) -> float:
    """Operations a second of `work`, which does `repeats` products and waits for them."""
    work()
    seconds = []
    for _ in range(timings):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 2.0 * width**3 * repeats / min(seconds)


def _of_jax(width: int, repeats: int) -> dict[str, Any]:
    from rewardscale import platforms

    platforms.prepare()
    import jax
    import jax.numpy as jnp

    from rewardscale.models import products

    device = jax.devices()[0]
    found: dict[str, Any] = {"kind": device.device_kind, "version": jax.__version__}
    for dtype in TYPES:
        x = jnp.ones((width, width), dtype) / width
        multiply = products.choose(device.platform, dtype)
        with jax.default_matmul_precision("highest" if dtype == "float32" else "default"):
            product = jax.jit(lambda a, b, multiply=multiply: multiply(a, b, 1)).lower(x, x).compile()

        def work(x: jax.Array = x, product: Any = product) -> None:
            y = x
            for _ in range(repeats):
                y = product(y, x)
            y.block_until_ready()

        found[dtype] = best(work, width=width, repeats=repeats)
    return found


def _of_torch(width: int, repeats: int, device: str) -> dict[str, Any]:
    import torch  # pyright: ignore[reportMissingImports]

    found: dict[str, Any] = {"version": torch.__version__}
    for dtype in TYPES:
        x = torch.ones(width, width, dtype=getattr(torch, dtype), device=device) / width

        def work(x: Any = x) -> None:
            y = x
            for _ in range(repeats):
                y = y @ x
            if device == "cuda":
                torch.cuda.synchronize()

        found[dtype] = best(work, width=width, repeats=repeats)
    return found


def measured(device: str, *, width: int = 0, python: Path = REFERENCE) -> dict[str, Any]:
    """{"kind": the device, "float32", "bfloat16": (operations a second, library)}: the better library's.

    `python`: one that has torch; where it does not exist, jax alone is asked.
    """
    found = {}
    for library, own in (("jax", Path(sys.executable)), ("torch", python)):
        if not own.exists():
            continue
        command = [
            own,
            "-m",
            "benchmarks.peak",
            f"--library={library}",
            f"--device={device}",
            f"--width={width}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment(device))
        if done.returncode:
            raise RuntimeError(f"the peak by {library}: {done.stderr[-2000:]}")
        found[library] = json.loads(done.stdout.strip().splitlines()[-1])
    top = {dtype: max((one[dtype], library) for library, one in found.items()) for dtype in TYPES}
    return {"kind": found["jax"]["kind"]} | top


def environment(device: str) -> dict[str, str]:
    """This process's variables, with jax told which device to take."""
    return os.environ | {"JAX_PLATFORMS": "cpu" if device == "cpu" else "cuda"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="where products are computed")
    parser.add_argument(
        "--width", type=int, default=0, help="of the matrices (default: 4,096 on a CPU, 8,192 on a GPU)"
    )
    parser.add_argument("--peers", type=Path, default=REFERENCE, help="Python with torch (%(default)s)")
    parser.add_argument("--library", choices=("jax", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    width, repeats = (
        options.width or (4096 if options.device == "cpu" else 8192),
        1 if options.device == "cpu" else 20,
    )
    if options.library == "jax":
        print(json.dumps(_of_jax(width, repeats)))
    elif options.library == "torch":
        print(json.dumps(_of_torch(width, repeats, "cpu" if options.device == "cpu" else "cuda")))
    else:
        from benchmarks import machine

        print(machine.heading("jax"))
        found = measured(options.device, width=width, python=options.peers)
        print(f"| product of {width:,} x {width:,}, {found['kind']} | GFLOP/s | by |\n|---|---|---|")
        for dtype in TYPES:
            print(f"| {dtype} | {found[dtype][0] / 1e9:,.0f} | {found[dtype][1]} |")


if __name__ == "__main__":
    main()
