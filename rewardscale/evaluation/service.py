"""The life of a scoring service: loading, ready, draining; and how one request is scored among others.

One thread loads the model, compiles its shapes and then scores batches; the event loop parses, and two further threads
tokenise. This module knows nothing of HTTP.
"""

import asyncio
import contextlib
import dataclasses
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from tqdm import tqdm

from rewardscale.config import ConfigError
from rewardscale.data.comparison import DataError
from rewardscale.evaluation.batching import Batcher, QueueClosed, QueueFull
from rewardscale.evaluation.metrics import Metrics
from rewardscale.evaluation.protocols import RequestError, Wanted
from rewardscale.evaluation.reward_scorer import TOO_LONG, Prepared, RewardScorer


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is taken at once.

    Attributes:
      body_bytes: of one request. rewards: that one request may ask for.
      requests: accepted and not yet answered. queue_tokens: that wait to be scored.
      seconds: from a request to its answer. grace_seconds: for accepted requests when the server is told to stop.
    """

    body_bytes: int = 8 * 2**20
    rewards: int = 512
    requests: int = 1024
    queue_tokens: int = 1_000_000
    seconds: float = 60.0
    grace_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ConfigError(
                    f"the limit {field.name}={getattr(self, field.name)} must be greater than 0"
                )


class Service:
    """Scores requests as they come.

    Args:
      load: gives the scorer; called by the scoring thread.
      limits, too_long, allow_special_text: see Limits and RewardScorer.prepare.
      batch_tokens, wait_seconds: a batch is closed at so many tokens, or when its first request has waited so long.
    """

    def __init__(
        self,
        load: Callable[[], RewardScorer],
        *,
        limits: Limits,
        batch_tokens: int,
        wait_seconds: float,
        too_long: str = "refuse",
        allow_special_text: bool = False,
    ):
        if too_long not in TOO_LONG:
            raise ConfigError(f"too_long={too_long!r} must be one of {', '.join(TOO_LONG)}")
        self.limits = limits
        self.phase = "loading"  # then ready, draining; or failed
        self.failure: BaseException | None = None
        self.accepted = self.answered = self.in_progress = 0
        self._load, self._scorer = load, None
        self._prepare_options: dict[str, Any] = {
            "too_long": too_long,
            "allow_special_text": allow_special_text,
        }
        self._deadline = float("inf")
        self._batcher: Batcher[Prepared, np.ndarray] = Batcher(
            lambda work: self.scorer.score(work),
            batch_tokens=batch_tokens,
            wait_seconds=wait_seconds,
            queue_tokens=limits.queue_tokens,
            observe=lambda *values: self.metrics.batch(*values),
        )
        self.metrics = Metrics(lambda: self._batcher.waiting, lambda: self.in_progress)
        self._tokenisers = ThreadPoolExecutor(2, "tokenise")
        self._thread = threading.Thread(target=self._run, name="score", daemon=True)

    @property
    def scorer(self) -> RewardScorer:
        """The loaded model. Raises RequestError (503) before it is there."""
        if self._scorer is None:
            raise RequestError(503, "loading", "the model is being loaded; try again later")
        return self._scorer

    def start(self) -> None:
        """Begins to load, in a thread."""
        self._thread.start()

    def _run(self) -> None:
        try:
            scorer = self._load()
            with tqdm(total=len(scorer.ladder.shapes), desc="compiling", unit=" shapes", disable=None) as bar:
                for shape in scorer.warm_up():
                    bar.set_postfix_str(f"{shape.rows} x {shape.length} tokens")
                    bar.update()
            self._scorer = scorer
            if self.phase == "loading":
                self.phase = "ready"
                print(f"ready: {scorer.name}, {scorer.dtype}, up to {scorer.max_length} tokens", flush=True)
            self._batcher.run()
        except BaseException as error:
            self.failure, self.phase = error, "failed"

    # --- stopping ------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Accepts no further request; those accepted have the grace time to finish."""
        if self.phase in ("loading", "ready"):
            self.phase = "draining"
            self._deadline = time.monotonic() + self.limits.grace_seconds
            print(f"stopping: {self.in_progress} requests to finish", file=sys.stderr, flush=True)

    @property
    def finished(self) -> bool:
        """Whether nothing more is to be done. Past the grace time, what has not begun is given up (and answered so)."""
        if self.phase == "draining" and time.monotonic() > self._deadline:
            self._batcher.close(drop=True)
            return True
        return self.phase == "failed" or (self.phase == "draining" and not self.in_progress)

    def close(self) -> bool:
        """Ends the threads; returns whether they have ended."""
        self._batcher.close(drop=True)
        self._tokenisers.shutdown(wait=False, cancel_futures=True)
        self._thread.join(timeout=5)
        return not self._thread.is_alive()

    # --- one request ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def admitted(self) -> Iterator[None]:
        """Holds a place among the accepted requests. Raises RequestError (503) if there is none."""
        if self.phase != "ready":
            raise RequestError(503, self.phase, f"the server is {self.phase}; try again later")
        if self.in_progress >= self.limits.requests:
            raise RequestError(503, "busy", f"{self.in_progress} requests are in progress; try again later")
        self.in_progress += 1
        self.accepted += 1
        try:
            yield
        except asyncio.CancelledError:  # cut off by the server's end
            self.answered -= 1
            raise
        finally:
            self.in_progress -= 1
            self.answered += 1

    async def answer(self, wanted: Wanted, gone: Callable[[], Awaitable[None]]) -> dict[str, Any]:
        """The body that answers a request.

        `gone` returns when the client has left; what has not begun is then dropped.

        Raises RequestError; TimeoutError and cancellation drop the work, too.
        """
        if wanted.rewards > self.limits.rewards:
            raise RequestError(
                400,
                "too_many_items",
                f"{wanted.rewards} rewards in one request, at most {self.limits.rewards}",
            )
        found = await asyncio.get_running_loop().run_in_executor(self._tokenisers, self._prepare, wanted)
        prepared = [one for one in found if isinstance(one, Prepared)]
        for number, one in enumerate(found):
            if isinstance(one, DataError):
                kind = "too_long" if str(one).startswith("too long") else "unprocessable"
                raise RequestError(422, kind, f"item {number}: {one}" if wanted.named else str(one))
        tokens = self.scorer.tokens(prepared)
        rewards = await self._scored(prepared, tokens, gone)
        body = wanted.answer(prepared, rewards)
        self.metrics.scored(wanted.rewards, tokens)
        return body

    async def _scored(
        self, prepared: list[Prepared], tokens: int, gone: Callable[[], Awaitable[None]]
    ) -> list[np.ndarray]:
        try:
            job = asyncio.wrap_future(self._batcher.submit(prepared, tokens))
        except QueueFull as error:
            raise RequestError(503, "busy", f"the queue is full ({error}); try again later") from error
        except QueueClosed as error:
            raise RequestError(503, "draining", "the server is stopping") from error
        left = asyncio.ensure_future(gone())
        try:
            await asyncio.wait({job, left}, return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                raise RequestError(499, "client_closed_request", "the client has left")
            return job.result()
        except QueueClosed as error:
            raise RequestError(503, "draining", "the server stopped before this request's turn") from error
        finally:
            job.cancel()  # if it has not begun, it never will
            left.cancel()

    def _prepare(self, wanted: Wanted) -> list[Prepared | DataError]:
        if wanted.items:
            return self.scorer.prepare(wanted.items, **self._prepare_options)
        return self.scorer.prepare_texts(
            wanted.texts,
            add_special_tokens=wanted.add_special_tokens,
            too_long=self._prepare_options["too_long"],
        )
