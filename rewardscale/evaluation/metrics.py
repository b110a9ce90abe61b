"""What the server tells Prometheus. This file alone imports its client."""

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_COUNTS = tuple(2.0**k for k in range(11))
_TOKENS = tuple(2.0**k for k in range(6, 19))


class Metrics:
    """Counters of one server.

    Args:
      waiting: gives the jobs and tokens in the queue. in_progress: gives the requests accepted and not yet answered.
    """

    def __init__(self, waiting: Callable[[], tuple[int, int]], in_progress: Callable[[], int]):
        self._registry = CollectorRegistry()

        def named(kind, name: str, text: str, labels: tuple[str, ...] = (), **more):
            return kind(f"rewardscale_{name}", text, labels, registry=self._registry, **more)

        self._requests = named(Counter, "requests", "Requests answered", ("endpoint", "status"))
        self._refused = named(Counter, "refused", "Requests refused, by reason", ("reason",))
        self._seconds = named(
            Histogram,
            "request_seconds",
            "Seconds from a request to its answer",
            ("endpoint",),
            buckets=_SECONDS,
        )
        self._rewards = named(Counter, "rewards", "Rewards computed")
        self._tokens = named(Counter, "tokens", "Tokens computed, padding left out")
        self._batch_rewards = named(Histogram, "batch_items", "Items scored together", buckets=_COUNTS)
        self._batch_requests = named(Histogram, "batch_requests", "Requests scored together", buckets=_COUNTS)
        self._batch_tokens = named(Histogram, "batch_tokens", "Tokens scored together", buckets=_TOKENS)
        self._batch_seconds = named(Histogram, "batch_seconds", "Seconds to score a batch", buckets=_SECONDS)
        for index, unit in enumerate(("requests", "tokens")):
            gauge = named(Gauge, f"queue_{unit}", f"{unit.capitalize()} that wait to be scored")
            gauge.set_function(lambda index=index: waiting()[index])
        named(Gauge, "in_progress", "Requests accepted and not yet answered").set_function(in_progress)

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(endpoint, str(status)).inc()
        self._seconds.labels(endpoint).observe(seconds)

    def refused(self, reason: str) -> None:
        """A request was refused."""
        self._refused.labels(reason).inc()

    def scored(self, rewards: int, tokens: int) -> None:
        """A request's rewards were computed."""
        self._rewards.inc(rewards)
        self._tokens.inc(tokens)

    def batch(self, requests: int, items: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""
        self._batch_requests.observe(requests)
        self._batch_rewards.observe(items)
        self._batch_tokens.observe(tokens)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """Prometheus' exposition format."""
        return generate_latest(self._registry)
