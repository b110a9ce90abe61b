"""What processes that judge at the same time share: one budget, and the limits of the endpoints.

All state lies in one folder on a file system with locks that every machine sees.

    shares.json     what each shard may have spent at most, in pico and calls: given out before it is used
    slot-*.lock     held by a shard while it asks; as many as may ask at once, each with that part of the limits
"""

import contextlib
import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

from rewardscale import atomic
from rewardscale.config.judges import PICO, BudgetConfig, JudgeConfig
from rewardscale.curation.annotators.llm.budget import Budget, Reservation

_PART = 64  # of what is left is given out at once: few draws, and little stranded in a shard's hands
_POLL_SECONDS = 0.05


class Shares:
    """Who has which part of a budget. What all parts sum to never exceeds it, whoever is killed when.

    Args:
      directory: of shares.json. config: of the whole budget; it may be raised between runs.
    """

    def __init__(self, directory: Path, config: BudgetConfig):
        self._path = directory / "shares.json"
        self.config = config
        self._limits = (
            None if config.money is None else round(config.money * PICO),
            config.calls,
        )

    def of(self, shard: str) -> tuple[int, int]:
        """Its part: (pico, calls)."""
        with self._locked() as parts:
            return parts.get(shard, (0, 0))

    def draw(self, shard: str, pico: int, calls: int) -> tuple[int, int] | None:
        """Its part, made larger by at least so much of what is limited; None where so much is not left."""
        with self._locked() as parts:
            held = parts.get(shard, (0, 0))
            found = []
            for place, needed in enumerate((pico, calls)):
                limit = self._limits[place]
                left = needed if limit is None else limit - sum(part[place] for part in parts.values())
                if needed > left:
                    return None
                more = 0 if limit is None else max(needed, left // _PART) if needed > 0 else 0
                found.append(held[place] + more)
            parts[shard] = found[0], found[1]
            atomic.write_json(self._path, parts)
            return parts[shard]

    def give_back(self, shard: str, pico: int, calls: int) -> None:
        """What it has not used is free again; it used so much, and never more than its part."""
        with self._locked() as parts:
            held = parts.get(shard, (0, 0))
            parts[shard] = min(held[0], pico), min(held[1], calls)
            atomic.write_json(self._path, parts)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, tuple[int, int]]]:
        with atomic.locked(self._path.with_suffix(".lock")):
            try:
                parts = json.loads(self._path.read_bytes())
            except FileNotFoundError:
                parts = {}
            yield {name: (pico, calls) for name, (pico, calls) in parts.items()}


class SharedBudget(Budget):
    """A shard's part of a budget, made larger as it needs more. Give back what is left with `give_back`.

    Where nothing is left to draw it is spent, though other shards may yet give something back: a later run has that.
    """

    called = "what is left of the budget that the shards share"

    def __init__(self, shares: Shares, shard: str):
        super().__init__(shares.config)
        self._shares, self._shard = shares, shard
        self._take(shares.of(shard))

    def _take(self, part: tuple[int, int]) -> None:
        self._limit = None if self.config.money is None else part[0]
        self._calls_limit = None if self.config.calls is None else part[1]

    def reserve(self, pico: int, calls: int = 1) -> Reservation | None:
        """See Budget."""
        found = super().reserve(pico, calls)
        if found is not None:
            return found
        lacks = self.spent + self.doubtful + self.reserved + pico - (self._limit or 0)
        lacks_calls = self.calls + self.calls_reserved + calls - (self._calls_limit or 0)
        part = self._shares.draw(self._shard, max(0, lacks), max(0, lacks_calls))
        if part is None:
            return None
        self._take(part)
        return super().reserve(pico, calls)

    def give_back(self) -> None:
        """When nothing is under way any more."""
        self._shares.give_back(self._shard, self.spent + self.doubtful, self.calls)


@contextlib.contextmanager
def slot(directory: Path, slots: int) -> Iterator[int]:
    """Waits for one of so many slots, and holds it; yields its number."""
    while True:
        for number in range(slots):
            with atomic.locked(directory / f"slot-{number:03d}.lock", wait=False) as got:
                if got:
                    yield number
                    return
        time.sleep(_POLL_SECONDS)


def divided(judge: JudgeConfig, slots: int) -> JudgeConfig:
    """The judge with one slot's part of its endpoints' limits; of calls at once, one at least."""
    endpoints = tuple(
        dataclasses.replace(
            endpoint,
            requests_per_minute=endpoint.requests_per_minute / slots,
            tokens_per_minute=endpoint.tokens_per_minute / slots,
            concurrency=max(1, endpoint.concurrency // slots),
        )
        for endpoint in judge.endpoints
    )
    return dataclasses.replace(judge, endpoints=endpoints)
