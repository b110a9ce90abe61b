"""`python -m rewardscale.serve` as a process: many clients at once, SIGTERM among them, and how it refuses to start."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest

from rewardscale import serve
from rewardscale.data.records import parse_item
from rewardscale.evaluation.reward_scorer import Prepared, RewardScorer
from tests import scoring_small

ROOT = Path(__file__).parents[1]
ITEMS = scoring_small.comparisons(200, seed=11, responses=(1, 6))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return scoring_small.model_directory(tmp_path_factory.mktemp("model") / "small", family="qwen3")


@pytest.fixture(scope="module")
def expected(model: Path) -> list[np.ndarray]:
    """Rewards of ITEMS, scored offline in one go."""
    scorer = RewardScorer.load(model, mesh=scoring_small.one_device(), batch_tokens=2048)
    found = scorer.prepare([parse_item({"prompt": p, "responses": r}) for p, r in ITEMS])
    return scorer.score([one for one in found if isinstance(one, Prepared)])


class Server:
    """The command, running."""

    def __init__(self, model: Path, *flags: str):
        command = [
            sys.executable,
            "-m",
            "rewardscale.serve",
            f"--model={model}",
            "--port=0",
            "--batch_tokens=1024",
        ]
        environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"} | {"JAX_PLATFORMS": "cpu"}
        self.process = subprocess.Popen(
            [*command, *flags],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self.url = self.line(r"listening on (\S+)")[1]

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)

    def line(self, pattern: str) -> re.Match[str]:
        """The first line that matches, waited for."""
        for _ in range(12_000):
            for line in self.lines:
                if match := re.search(pattern, line):
                    return match
            assert self.process.poll() is None or self._reader.is_alive(), self.lines
            time.sleep(0.01)
        raise AssertionError(f"no line like {pattern!r} in {self.lines}")

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        self._reader.join(10)
        return code


async def ask(url: str, *, after: int = 0, then=lambda: None) -> list[httpx.Response | Exception]:
    """All ITEMS at once from one client; `then` is called once `after` of them are answered."""
    answered = 0

    async def one(client: httpx.AsyncClient, item: tuple) -> httpx.Response | Exception:
        nonlocal answered
        try:
            answer = await client.post("/score", json={"prompt": item[0], "responses": item[1]})
        except httpx.TransportError as error:
            return error
        answered += 1
        if answered == after:
            then()
        return answer

    limits = httpx.Limits(max_connections=50)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        return await asyncio.gather(*(one(client, item) for item in ITEMS))


def test_two_hundred_at_once_then_sigterm_among_two_hundred(model: Path, expected: list[np.ndarray]) -> None:
    server = Server(model)
    try:
        server.line("ready: small")
        answers = asyncio.run(ask(server.url))
        for answer, rewards in zip(answers, expected, strict=True):
            assert isinstance(answer, httpx.Response) and answer.status_code == 200, answer
            np.testing.assert_allclose(answer.json()["rewards"], rewards, atol=1e-5)
        metrics = httpx.get(f"{server.url}/metrics").text
        assert re.search(r"rewardscale_rewards_total (\d\S*)", metrics)[1] == f"{sum(map(len, expected))}.0"  # type: ignore[index]
        batches = float(re.search(r"rewardscale_batch_requests_count (\d\S*)", metrics)[1])  # type: ignore[index]
        assert batches < 180  # some were scored together

        stop = lambda: server.process.send_signal(signal.SIGTERM)  # noqa: E731
        answers = asyncio.run(ask(server.url, after=40, then=stop))
        rewarded = 0
        for answer, rewards in zip(answers, expected, strict=True):
            if isinstance(answer, httpx.Response) and answer.status_code == 200:
                np.testing.assert_allclose(answer.json()["rewards"], rewards, atol=1e-5)
                rewarded += 1
            elif isinstance(answer, httpx.Response):
                assert answer.status_code == 503 and answer.json()["error"]["type"] == "draining"
            # else: no connection any more
        assert 40 <= rewarded < 200
        assert server.stop() == 0
        match = server.line(r"stopped: (\d+) requests accepted, (\d+) answered")
        assert int(match[1]) == int(match[2]) == 200 + rewarded
    finally:
        server.stop()


def test_stopped_while_loading_it_ends_well(model: Path) -> None:
    server = Server(model, "--wait_ms=1")
    assert server.stop() == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model=nowhere"], "nowhere"),
        (["--max_length=9999"], "max_length=9999 must lie within"),
        (["--port=99999"], "cannot listen at"),
        (["--timeout=0"], "the limit seconds=0"),
        (["--token_file=nowhere.txt"], "nowhere.txt"),
    ],
)
def test_bad_settings_are_one_error(capsys, model: Path, flags: list[str], message: str) -> None:
    code = serve.main([f"--model={model}", "--port=0", *flags])
    error = capsys.readouterr().err
    assert code == 2 and message in error and error.startswith("error: ") and "Traceback" not in error


def test_an_address_in_use_and_an_empty_token(capsys, model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert serve.main([f"--model={model}", f"--port={taken.getsockname()[1]}"]) == 2
    assert "cannot listen at host=127.0.0.1" in capsys.readouterr().err
    (tmp_path / "token").write_text("\n")
    assert serve.main([f"--model={model}", f"--token_file={tmp_path / 'token'}"]) == 2
    assert "is empty" in capsys.readouterr().err


def test_help_teaches(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        serve.main(["--help"])
    out = capsys.readouterr().out
    assert stop.value.code == 0 and "curl localhost:8000/score" in out and "--token_file" in out
