"""Where a training's wall time goes: waiting for data, for the devices, for checkpoints."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

Part = Literal["data", "device", "checkpoint"]
PARTS: tuple[Part, ...] = ("data", "device", "checkpoint")


class Clock:
    """Adds up what the loop's thread spends in each part, from `begin` on; nothing waits for a device for it.

    "data" is waiting for the next block of batches; "device" is handing it over, compiling, and waiting for metrics;
    "checkpoint" is waiting for states to be copied and written. What a background thread does costs nothing here.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Everything is 0 from here."""
        self._began = time.perf_counter()
        self._total = dict.fromkeys(PARTS, 0.0)
        self._taken = dict(self._total)

    @contextlib.contextmanager
    def __call__(self, part: Part) -> Iterator[None]:
        """Counts the time within the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._total[part] += time.perf_counter() - began

    def each[T](self, part: Part, items: Iterable[T]) -> Iterator[T]:
        """`items`, of which getting each is counted."""
        iterator = iter(items)
        while True:
            with self(part):
                found = list(_first(iterator))
            if not found:
                return
            yield found[0]

    def timed(self, part: Part, call: Callable[[], None]) -> Callable[[], None]:
        """`call`, counted."""

        def counted() -> None:
            with self(part):
                call()

        return counted

    def share(self, steps: int) -> dict[str, float]:
        """Seconds a step in each part since the last call, for the records of `steps` steps."""
        since = {part: self._total[part] - self._taken[part] for part in PARTS}
        self._taken = dict(self._total)
        return {f"{part}_seconds": seconds / steps for part, seconds in since.items()}

    def summary(self) -> dict[str, float]:
        """Seconds in each part, and of the whole loop."""
        parts = {f"{part}_seconds": seconds for part, seconds in self._total.items()}
        return parts | {"loop_seconds": time.perf_counter() - self._began}


def _first[T](iterator: Iterator[T]) -> Iterator[T]:
    for item in iterator:
        yield item
        return
