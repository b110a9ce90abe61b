"""What an LLM judge's call costs the client: calls a CPU second, beside a plain loop and OpenAI's own client.

`python -m benchmarks.judges --peers=.venv-reference/bin/python`

The server is the simulated judge in a process of its own, with a latency; what it costs is not counted. A peer only
sends and reads JSON. Ours writes every answer to disk before it uses it, keeps budget and limits, parses and merges.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp

from benchmarks import machine
from rewardscale.config.judges import BudgetConfig, EndpointConfig, JudgeConfig, PriceConfig
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.llm.budget import Budget
from rewardscale.curation.annotators.llm.calls import CallLog
from rewardscale.curation.annotators.llm.judge import LLMJudge
from rewardscale.curation.annotators.llm.parse import SCHEMA
from rewardscale.data.comparison import Comparison, Message

_AT_ONCE = 64
_PROMPT = "Why is the sky blue at noon and red in the evening? " * 12
_RESPONSE = "Short waves are scattered more than long ones, so what comes from aside is blue. " * 10

# Runs where openai is installed: URL, number of calls, a file with the bodies, a line each.
_OPENAI = """
import asyncio, json, sys, time
import openai
url, at_once = sys.argv[1], int(sys.argv[2])
bodies = [json.loads(line) for line in open(sys.argv[3])]
async def main():
    client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=2)
    waiting = iter(bodies)
    async def worker():
        for body in waiting:
            answer = await client.chat.completions.create(**body)
            json.loads(answer.choices[0].message.content)
    await client.chat.completions.create(**bodies[0])
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    print(openai.__version__, time.perf_counter() - wall, time.process_time() - cpu)
asyncio.run(main())
"""


def questions(number: int) -> list[Question]:
    """Prompts of about 4 kB, all different."""
    prompt = (Message("user", _PROMPT),)
    return [
        Question(i, Comparison(prompt, (f"{i}: {_RESPONSE}", f"{i}. {_RESPONSE}"), "benchmark"))
        for i in range(number)
    ]


def judge_config(url: str) -> JudgeConfig:
    """One vote a question, so a call a question."""
    return JudgeConfig(model="m", votes=1, endpoints=(EndpointConfig(url, concurrency=_AT_ONCE),))


def log_in(folder: Path) -> CallLog:
    prices = BudgetConfig(money=1e6, prices={"m": PriceConfig(0.15, 0.6)}, prices_version="benchmark")
    return CallLog(folder, Budget(prices))


def ours(url: str, number: int, folder: Path) -> tuple[float, float]:
    """Wall and CPU seconds, of all threads."""
    asked = questions(number)
    with log_in(folder) as log:
        judge = LLMJudge(judge_config(url), log)
        list(judge.judge(asked[:1]))
        wall, cpu = time.perf_counter(), time.process_time()
        verdicts = sum(1 for _ in judge.judge(asked))
        assert verdicts == number
        return time.perf_counter() - wall, time.process_time() - cpu


def again(number: int, folder: Path) -> tuple[float, float]:
    """The same questions once more, from the log."""
    asked = questions(number)
    wall, cpu = time.perf_counter(), time.process_time()
    with log_in(folder) as log:
        assert sum(1 for _ in LLMJudge(judge_config("http://127.0.0.1:9/v1"), log).judge(asked)) == number
    return time.perf_counter() - wall, time.process_time() - cpu


def bodies(number: int, folder: Path) -> Iterator[dict]:
    """What ours sends, as JSON values."""
    with log_in(folder / "none") as log:
        judge = LLMJudge(judge_config("http://127.0.0.1:9/v1"), log)
        for question in questions(number):
            (ballot,) = judge.ballots(question)
            yield {
                "model": "m",
                "messages": [
                    {"role": "system", "content": ballot.messages.system},
                    {"role": "user", "content": ballot.messages.user},
                ],
                "temperature": 0.7,
                "max_tokens": 512,
                "seed": 0,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "strict": True, "schema": SCHEMA},
                },
            }


async def plain(url: str, given: list[dict]) -> tuple[float, float]:
    """aiohttp and the standard library's JSON, nothing else: the floor."""
    import json

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call(body: dict) -> None:
            async with session.post(f"{url}/chat/completions", json=body) as response:
                answer = await response.json()
            json.loads(answer["choices"][0]["message"]["content"])

        await call(given[0])
        return await _timed(given, call)


async def _timed(given: list[dict], call: Callable[[dict], Awaitable[None]]) -> tuple[float, float]:
    waiting = iter(given)

    async def worker() -> None:
        for body in waiting:
            await call(body)

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    return time.perf_counter() - wall, time.process_time() - cpu


@contextmanager
def server(latency: float) -> Iterator[str]:
    """The simulated judge's url."""
    command = [sys.executable, "-m", "rewardscale.curation.annotators.llm.scripted", f"--latency={latency}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=4000, help="of each client (%(default)s)")
    parser.add_argument(
        "--latency", type=float, default=0.02, help="of the simulated judge, seconds (%(default)s)"
    )
    parser.add_argument("--peers", help="a Python that has openai")
    parser.add_argument("--repeats", type=int, default=3, help="of the table (%(default)s)")
    options = parser.parse_args()
    print(machine.heading("aiohttp"))
    print("| client | calls | wall, s | client's CPU, s | calls a CPU second |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, server(options.latency) as url:
        given = list(bodies(options.calls, Path(name)))
        for repeat in range(options.repeats):
            folder = Path(name) / str(repeat)
            show("plain loop: aiohttp, json", len(given), *asyncio.run(plain(url, given)))
            show("LLMJudge: log, budget, limits, parser", len(given), *ours(url, len(given), folder))
            show("LLMJudge, all answers in its log", len(given), *again(len(given), folder))
            if options.peers:
                version, *times = openai_client(options.peers, url, given, Path(name))
                show(f"openai {version}, AsyncOpenAI", len(given), *map(float, times))


def openai_client(python: str, url: str, given: list[dict], folder: Path) -> list[str]:
    """Version, wall and CPU seconds."""
    import json

    (folder / "bodies.jsonl").write_text("\n".join(map(json.dumps, given)))
    command = [python, "-c", _OPENAI, url, str(_AT_ONCE), str(folder / "bodies.jsonl")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def show(name: str, calls: int, wall: float, cpu: float) -> None:
    print(f"| {name} | {calls:,} | {wall:.1f} | {cpu:.2f} | {calls / cpu:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
