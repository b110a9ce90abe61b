"""What holds an endpoint's calls back: rates a minute, and a breaker. Time is passed in, so nothing here waits."""

import math


class Bucket:
    """At most `per_minute` of something in any minute, a sixtieth of it at once. 0 means no limit.

    Ask `wait`, then `take`. An amount of more than one (tokens) may be owed.
    """

    def __init__(self, per_minute: float):
        self.per_minute = per_minute
        self._capacity = max(1.0, per_minute / 60)
        # Of a full bucket and a minute's refill: what may pass in a minute.
        self._rate = (per_minute - self._capacity) / 60 if per_minute >= 2 else per_minute / 60
        self._level, self._time = self._capacity, -math.inf

    def _refill(self, now: float) -> None:
        if now > self._time:
            gained = self._rate * (now - self._time) if self._time > -math.inf else 0.0
            self._level, self._time = min(self._capacity, self._level + gained), now

    def wait(self, now: float) -> float:
        """Seconds until one may be taken."""
        if not self.per_minute:
            return 0.0
        self._refill(now)
        return max(0.0, (1 - 1e-9 - self._level) / self._rate)

    def take(self, now: float, amount: float = 1.0) -> None:
        """Takes, if need be on credit: who comes next waits the longer."""
        if self.per_minute:
            self._refill(now)
            self._level -= amount

    def give_back(self, amount: float) -> None:
        """What was taken and not used; a negative amount was used beyond what was taken."""
        self._level = min(self._capacity, self._level + amount)


class Breaker:
    """Closed while calls succeed; open after `failures` in a row; then half-open: one call tries.

    Args:
      failures: in a row. seconds: how long it stays open the first time; doubled each time, up to 16-fold.
    """

    def __init__(self, failures: int, seconds: float):
        self._failures, self._seconds = failures, seconds
        self._row = self._times = 0
        self._until = -math.inf
        self._trying = False

    @property
    def opened(self) -> bool:
        """Whether the last calls failed, so that none or a single one is let through."""
        return self._row >= self._failures

    def wait(self, now: float) -> float:
        """Seconds until a call may be let through; infinite while another one is trying."""
        if not self.opened:
            return 0.0
        if self._trying:
            return math.inf
        return max(0.0, self._until - now)

    def start(self) -> None:
        """A call is let through."""
        self._trying = self.opened

    def succeeded(self) -> None:
        self._row = self._times = 0
        self._trying = False

    def failed(self, now: float) -> None:
        """A call failed for the endpoint's sake. Those that were under way when it opened do not prolong it."""
        if self.opened and not self._trying:
            return
        self._row += 1
        if self.opened:
            self._until = now + self._seconds * 2 ** min(self._times, 4)
            self._times += 1
        self._trying = False

    def dropped(self) -> None:
        """The call ended without saying anything about the endpoint."""
        self._trying = False
