"""Latency and throughput of the server on loopback, with dynamic batching and with one request at a time.

    python -m benchmarks.serving [--model=DIR | --width=256] [--requests=300] [--seconds=60]

Each server is a process of its own. Clients ask, wait for the answer, and ask again: 1, 8 and 32 at once, one prompt
with 1 to 4 responses a request. Without --model it makes a random one of 4 layers. At most --seconds a
line; client and server share the machine.
"""

import argparse
import asyncio
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np

from benchmarks import machine
from tests import scoring_small

MODES = {
    "dynamic": ["--batch_tokens=2048", "--wait_ms=5"],
    "one at a time": ["--batch_tokens=1", "--wait_ms=0"],
}
CLIENTS = (1, 8, 32)


async def load(url: str, items: list, clients: int, seconds: float) -> tuple[list[float], float, int]:
    """(seconds of each request, seconds of all, rewards) of `items` asked by so many clients in turn."""
    waiting, latencies, rewards = iter(items), [], 0
    end = time.monotonic() + seconds

    async def client(session: httpx.AsyncClient) -> None:
        nonlocal rewards
        for prompt, responses in waiting:
            started = time.monotonic()
            if started > end:
                return
            answer = await session.post("/score", json={"prompt": prompt, "responses": responses})
            answer.raise_for_status()
            latencies.append(time.monotonic() - started)
            rewards += len(answer.json()["rewards"])

    async with httpx.AsyncClient(base_url=url, timeout=seconds) as session:
        await client_once(session)
        started = time.monotonic()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return latencies, time.monotonic() - started, rewards


async def client_once(session: httpx.AsyncClient) -> None:
    """Waits until the server is ready."""
    for _ in range(3000):
        if (await session.get("/health")).status_code == 200:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("the server does not get ready")


def batches(url: str) -> tuple[float, float]:
    """(batches, requests in them) so far."""
    text = httpx.get(f"{url}/metrics").text
    count, total = (
        re.search(rf"^rewardscale_batch_requests_{k} (\S+)", text, re.M) for k in ("count", "sum")
    )
    assert count and total
    return float(count[1]), float(total[1])


def cpu_seconds(pid: int) -> float:
    """CPU seconds of all threads of a process (Linux); neighbours on the machine change them less than the clock's."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(model: Path, mode: str, requests: int, seconds: float) -> None:
    """Prints a line for each number of clients."""
    command = [sys.executable, "-m", "rewardscale.serve", f"--model={model}", "--port=0", *MODES[mode]]
    items = scoring_small.comparisons(requests)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            for clients in CLIENTS:
                some = items[: max(20, requests * clients // CLIENTS[-1])]
                asyncio.run(load(url, some[:10], clients, seconds))
                before, spent = batches(url), cpu_seconds(server.pid)
                latencies, took, rewards = asyncio.run(load(url, some, clients, seconds))
                each = (cpu_seconds(server.pid) - spent) / len(latencies) * 1e3
                count, total = np.subtract(batches(url), before)
                p50, p99 = np.percentile(latencies, [50, 99]) * 1e3
                print(
                    f"| {mode} | {clients} | {len(latencies)} | {p50:,.0f} | {p99:,.0f} | {len(latencies) / took:,.0f} "
                    f"| {rewards / took:,.0f} | {total / count:.1f} | {each:,.0f} |",
                    flush=True,
                )
        finally:
            server.terminate()
            server.communicate(timeout=60)
    assert server.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, help="a reward model's directory")
    parser.add_argument("--width", type=int, default=256, help="of a random model (256)")
    parser.add_argument("--requests", type=int, default=300, help="most requests a line (300)")
    parser.add_argument("--seconds", type=float, default=60, help="most seconds a line (60)")
    options = parser.parse_args()
    print(machine.heading("jax", "numpy", "starlette", "uvicorn", "httpx"))
    with tempfile.TemporaryDirectory() as folder:
        model = options.model or scoring_small.model_directory(
            Path(folder) / "model", width=options.width, layers=4
        )
        print(
            "| batching | clients | requests | p50, ms | p99, ms | requests/s | rewards/s | requests a batch "
            "| server CPU a request, ms |"
        )
        print("|---" * 9 + "|")
        for mode in MODES:
            measure(model, mode, options.requests, options.seconds)


if __name__ == "__main__":
    main()
