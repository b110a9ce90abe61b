"""Dynamic batching: requests wait in a queue for a few milliseconds and are scored together by one thread.

Nothing is lost: a job's future gets its rewards, or an exception, or is cancelled by whoever waits for it; a job
cancelled before it has begun is never computed.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future


class QueueFull(Exception):
    """The queue holds as many tokens as it may; try again later."""


class QueueClosed(Exception):
    """No more jobs are taken, or the job was given up before it had begun."""


@dataclasses.dataclass(eq=False)
class _Job[Work, Result]:
    work: Sequence[Work]
    tokens: int
    future: "Future[list[Result]]"
    arrived: float


class Batcher[Work, Result]:
    """A bounded queue in front of a function that computes many items at once.

    Args:
      compute: items -> their results, in order; called by one thread (the one that calls `run`) alone.
      batch_tokens: a batch is closed at so many tokens; a larger job makes a batch of its own.
      wait_seconds: how long the first job of a batch waits for company.
      queue_tokens: most tokens that may wait.
      observe: told (jobs, items, tokens, seconds) of each finished batch.
    """

    def __init__(
        self,
        compute: Callable[[list[Work]], list[Result]],
        *,
        batch_tokens: int,
        wait_seconds: float,
        queue_tokens: int,
        observe: Callable[[int, int, int, float], None] | None = None,
    ):
        self._compute, self._observe = compute, observe
        self._batch_tokens, self._wait, self._most = batch_tokens, wait_seconds, queue_tokens
        self._queue: collections.deque[_Job[Work, Result]] = collections.deque()
        self._tokens = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def waiting(self) -> tuple[int, int]:
        """Jobs and tokens in the queue."""
        with self._changed:
            return len(self._queue), self._tokens

    def submit(self, work: Sequence[Work], tokens: int) -> "Future[list[Result]]":
        """Queues a job. Raises QueueFull or QueueClosed. A job larger than all of it is taken when it is empty."""
        job: _Job[Work, Result] = _Job(work, tokens, Future(), time.monotonic())
        with self._changed:
            if self._closed:
                raise QueueClosed("no more jobs are taken")
            if self._queue and self._tokens + tokens > self._most:
                raise QueueFull(f"{self._tokens} tokens are waiting, at most {self._most} may")
            self._queue.append(job)
            self._tokens += tokens
            self._changed.notify_all()
        return job.future

    def run(self) -> None:
        """Computes batches until the queue is closed and empty."""
        while True:
            jobs = self._next_batch()
            if jobs is None:
                return
            started = time.monotonic()
            work = [item for job in jobs for item in job.work]
            try:
                results = self._compute(work)
            except Exception as error:
                for job in jobs:
                    job.future.set_exception(error)
                continue
            first = 0
            for job in jobs:
                job.future.set_result(results[first : first + len(job.work)])
                first += len(job.work)
            if self._observe is not None:
                seconds = time.monotonic() - started
                self._observe(len(jobs), len(work), sum(job.tokens for job in jobs), seconds)

    def close(self, *, drop: bool = False) -> None:
        """Takes no more jobs. Those that wait are still computed, or with `drop` end with QueueClosed."""
        with self._changed:
            self._closed = True
            dropped = list(self._queue) if drop else []
            if drop:
                self._queue.clear()
                self._tokens = 0
            self._changed.notify_all()
        for job in dropped:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(QueueClosed("given up before it had begun"))

    def _next_batch(self) -> list[_Job[Work, Result]] | None:
        """Jobs to compute together; None when there will be no more."""
        while True:
            with self._changed:
                while not self._queue and not self._closed:
                    self._changed.wait()
                if not self._queue:
                    return None
                until = self._queue[0].arrived + self._wait
                while self._queue and self._tokens < self._batch_tokens and not self._closed:
                    left = until - time.monotonic()
                    if left <= 0:
                        break
                    self._changed.wait(left)
                taken, tokens = [], 0
                while self._queue and (not taken or tokens + self._queue[0].tokens <= self._batch_tokens):
                    job = self._queue.popleft()
                    self._tokens -= job.tokens
                    if job.future.set_running_or_notify_cancel():
                        taken.append(job)
                        tokens += job.tokens
            if taken:
                return taken
