"""The simulated judge in a process of its own, and what tests ask it."""

import contextlib
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

from rewardscale.config.judges import BudgetConfig, EndpointConfig, JudgeConfig, PriceConfig, RetryConfig
from rewardscale.curation.annotators.base import Question
from rewardscale.curation.annotators.llm.budget import Budget
from rewardscale.curation.annotators.llm.calls import CallLog
from rewardscale.curation.annotators.llm.scripted import quality
from rewardscale.data.comparison import Comparison, Message

PRICE = PriceConfig(0.15, 0.6)
FAST = RetryConfig(
    base_seconds=0.01, cap_seconds=0.05, total_seconds=6, breaker_seconds=0.05, grace_seconds=2
)


@contextlib.contextmanager
def server(**options):
    """Its url."""
    flags = [f"--{name}={value}" if value is not True else f"--{name}" for name, value in options.items()]
    command = [sys.executable, "-m", "rewardscale.curation.annotators.llm.scripted", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def counts(url: str) -> dict[str, int]:
    with urllib.request.urlopen(url.removesuffix("/v1") + "/counts") as answer:
        return json.load(answer)


def questions(number: int, text: str = "") -> list[Question]:
    return [
        Question(
            i, Comparison((Message("user", f"question {i}"),), (f"left {i}", f"right {i}{text}"), "test")
        )
        for i in range(number)
    ]


def config(url: str, **options) -> JudgeConfig:
    endpoint = {k: options.pop(k) for k in ("key_env", "key_file", "concurrency") if k in options}
    given = {"model": "m", "votes": 2, "retry": FAST, **options}
    return JudgeConfig(endpoints=(EndpointConfig(url, **endpoint),), **given)


def budget_config(**limits) -> BudgetConfig:
    return BudgetConfig(prices={"m": PRICE}, prices_version="test", **limits)


def call_log(folder: Path, **limits) -> CallLog:
    return CallLog(folder, Budget(budget_config(**limits)))


def truth(question: Question) -> int:
    left, right = question.comparison.responses
    return 1 if quality(left) >= quality(right) else -1


def accuracy(verdicts, asked) -> float:
    return sum(v.preferred == truth(asked[v.row]) for v in verdicts) / len(verdicts)
