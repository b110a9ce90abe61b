"""The queue in front of the scorer: nothing lost, nothing doubled, the gone not computed, bounds kept."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from rewardscale.evaluation.batching import Batcher, QueueClosed, QueueFull


class Recorder:
    """Doubles numbers; remembers the batches; can be held back."""

    def __init__(self):
        self.batches: list[list[int]] = []
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()

    def __call__(self, work: list[int]) -> list[int]:
        self.batches.append(work)
        self.began.set()
        assert self.go.wait(10)
        if -1 in work:
            raise ValueError("a bad item")
        return [2 * item for item in work]


def started(recorder: Recorder, **settings) -> tuple[Batcher[int, int], threading.Thread]:
    settings = {"batch_tokens": 100, "wait_seconds": 0.005, "queue_tokens": 10_000} | settings
    batcher: Batcher[int, int] = Batcher(recorder, **settings)
    thread = threading.Thread(target=batcher.run, daemon=True)
    thread.start()
    return batcher, thread


def test_every_job_gets_its_own_results_once() -> None:
    recorder = Recorder()
    batcher, thread = started(recorder)
    random = np.random.default_rng(0)
    jobs = [list(range(start, start + int(random.integers(1, 9)))) for start in range(0, 3000, 10)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda job: batcher.submit(job, 7 * len(job)).result(10), jobs))
    assert found == [[2 * item for item in job] for job in jobs]
    assert Counter(i for batch in recorder.batches for i in batch) == Counter(i for job in jobs for i in job)
    assert max(len(batch) * 7 for batch in recorder.batches) <= 100
    assert len(recorder.batches) < len(jobs)  # some shared a batch
    batcher.close()
    thread.join(5)
    assert not thread.is_alive() and batcher.waiting == (0, 0)


def test_a_lone_job_does_not_wait_for_company_longer_than_told() -> None:
    batcher, _ = started(Recorder(), wait_seconds=0.05)
    before = time.monotonic()
    assert batcher.submit([3], 1).result(5) == [6]
    assert time.monotonic() - before < 2


def test_a_job_larger_than_a_batch_is_computed_alone() -> None:
    recorder = Recorder()
    recorder.go.clear()
    batcher, _ = started(recorder)
    first = batcher.submit([0], 1)
    assert recorder.began.wait(5)  # the rest waits together behind it
    small, large, after = batcher.submit([1], 60), batcher.submit([2], 500), batcher.submit([3], 60)
    recorder.go.set()
    assert [f.result(5) for f in (first, small, large, after)] == [[0], [2], [4], [6]]
    assert recorder.batches == [[0], [1], [2], [3]]


def test_what_is_cancelled_before_it_begins_is_not_computed() -> None:
    recorder = Recorder()
    recorder.go.clear()
    batcher, _ = started(recorder)
    first = batcher.submit([0], 1)
    assert recorder.began.wait(5)
    gone, kept = batcher.submit([1], 1), batcher.submit([2], 1)
    assert gone.cancel() and not first.cancel()
    recorder.go.set()
    assert kept.result(5) == [4] and first.result(5) == [0]
    assert recorder.batches == [[0], [2]]


def test_the_queue_is_bounded_and_says_so() -> None:
    recorder = Recorder()
    recorder.go.clear()
    batcher, _ = started(recorder, queue_tokens=10)
    batcher.submit([0], 1)
    assert recorder.began.wait(5)
    huge = batcher.submit([1], 50)  # nothing else waits: taken
    with pytest.raises(QueueFull, match="50 tokens are waiting, at most 10"):
        batcher.submit([2], 1)
    recorder.go.set()
    assert huge.result(5) == [2]
    assert batcher.submit([2], 1).result(5) == [4]


def test_a_failure_reaches_its_batch_alone() -> None:
    batcher, _ = started(Recorder())
    with pytest.raises(ValueError, match="a bad item"):
        batcher.submit([-1], 100).result(5)
    assert batcher.submit([4], 1).result(5) == [8]


@pytest.mark.parametrize("drop", [False, True])
def test_closing_finishes_or_drops_what_waits(drop: bool) -> None:
    recorder = Recorder()
    recorder.go.clear()
    batcher, thread = started(recorder)
    first = batcher.submit([0], 1)
    assert recorder.began.wait(5)
    waiting = batcher.submit([1], 1)
    batcher.close(drop=drop)
    with pytest.raises(QueueClosed):
        batcher.submit([2], 1)
    recorder.go.set()
    assert first.result(5) == [0]
    if drop:
        with pytest.raises(QueueClosed, match="before it had begun"):
            waiting.result(5)
    else:
        assert waiting.result(5) == [2]
    thread.join(5)
    assert not thread.is_alive()
