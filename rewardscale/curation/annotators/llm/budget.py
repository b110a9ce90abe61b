"""Money and calls: reserved before a call as an upper bound, settled after it with what it cost.

Sums are integers (config/judges.py:PICO), so no rounding can hide an overrun. At every moment

    spent + doubtful + reserved <= limit

where doubtful is what calls may have cost of which no usage was ever read: cut connections, timeouts, a kill.
A server that bills more than the upper bound is told of by an error.
"""

import asyncio
import dataclasses
import threading

from rewardscale.config.judges import PICO, BudgetConfig


class BudgetSpent(RuntimeError):
    """The next call does not fit into what is left; the message says what was done and what is left to do."""


@dataclasses.dataclass(frozen=True, slots=True)
class Reservation:
    """Of one call: an upper bound of its cost, in pico."""

    pico: int
    calls: int = 1


class Budget:
    """A hard limit. Safe under threads; `wait_for` belongs to one event loop at a time."""

    called = "the budget"

    def __init__(self, config: BudgetConfig | None = None):
        self.config = config or BudgetConfig()
        money, self._calls_limit = self.config.money, self.config.calls
        self._limit = None if money is None else round(money * PICO)
        self.spent = self.doubtful = self.reserved = 0  # pico
        self.calls = self.calls_reserved = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    def restore(self, *, spent: int, doubtful: int = 0, calls: int = 0) -> None:
        """Adds what was paid before this process began."""
        with self._lock:
            self.spent += spent
            self.doubtful += doubtful
            self.calls += calls

    def _fits(self, pico: int, calls: int) -> bool:
        money = self._limit is None or self.spent + self.doubtful + self.reserved + pico <= self._limit
        number = self._calls_limit is None or self.calls + self.calls_reserved + calls <= self._calls_limit
        return money and number

    def reserve(self, pico: int, calls: int = 1) -> Reservation | None:
        """None where it does not fit now."""
        with self._lock:
            if not self._fits(pico, calls):
                return None
            self.reserved += pico
            self.calls_reserved += calls
            return Reservation(pico, calls)

    async def wait_for(self, pico: int, calls: int = 1) -> Reservation:
        """Waits while calls under way may still give back what is missing. Raises BudgetSpent where none can."""
        while (found := self.reserve(pico, calls)) is None:
            with self._lock:
                if self._fits(pico, calls):
                    continue
                if not self.calls_reserved:
                    raise BudgetSpent(self.why(pico))
                loop = asyncio.get_running_loop()
                future: asyncio.Future[None] = loop.create_future()
                self._waiting.append((loop, future))
            await future
        return found

    def settle(self, reservation: Reservation, pico: int | None, *, doubtful: bool = False) -> None:
        """Ends a reservation. `pico`: what it cost; None counts the whole of it, as spent or as doubtful."""
        cost = reservation.pico if pico is None else pico
        with self._lock:
            self.reserved -= reservation.pico
            self.calls_reserved -= reservation.calls
            self.calls += reservation.calls
            if doubtful:
                self.doubtful += cost
            else:
                self.spent += cost
        self._wake()

    def release(self, reservation: Reservation) -> None:
        """Ends a reservation of a call that never reached the server, or that it refused."""
        with self._lock:
            self.reserved -= reservation.pico
            self.calls_reserved -= reservation.calls
        self._wake()

    def _wake(self) -> None:
        if not self._waiting:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for loop, future in waiting:
            loop.call_soon_threadsafe(_done, future)

    def why(self, pico: int) -> str:
        """What is spent and what is left, in words."""
        parts = [f"{self.calls:,} calls and {self.spent / PICO:.4f} spent"]
        if self.doubtful:
            parts.append(f"{self.doubtful / PICO:.4f} set aside for calls that were cut off")
        limits = []
        if self._limit is not None:
            limits.append(f"money={self._limit / PICO:g}")
        if self._calls_limit is not None:
            limits.append(f"calls={self._calls_limit:,}")
        return (
            f"{self.called} ({', '.join(limits)}) has no room for one more call (up to {pico / PICO:.6f}): "
            f"{', '.join(parts)}"
        )


def _done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
