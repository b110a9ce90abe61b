"""The persistent compilation cache: an executable is compiled once a machine, not once a process; and what it takes."""

import functools
import os
from pathlib import Path

import jax


def use_cache(directory: Path | None = None) -> None:
    """Keeps compiled executables in `directory` (default: JAX_COMPILATION_CACHE_DIR, else the user's
    cache folder).

    The cache holds machine code that will be run: keep it private to one user.
    """
    chosen = (
        directory
        or os.environ.get("JAX_COMPILATION_CACHE_DIR")
        or Path.home() / ".cache" / "rewardscale" / "xla"
    )
    try:
        Path(chosen).mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError:
        return  # a read-only home: compile anew
    jax.config.update("jax_compilation_cache_dir", str(chosen))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def seconds() -> float:
    """Seconds that this process has traced, lowered and compiled (or read from the cache) since the first call."""
    return sum(end - start for start, end in _spans())


@functools.cache
def _spans() -> list[tuple[float, float]]:
    """Start and end of each tracing, lowering and compiling from now on, those within others left out."""
    spans: list[tuple[float, float]] = []

    def note(event: str, start_time: float, end_time: float, **_: object) -> None:
        if event.startswith("/jax/core/compile/"):
            while spans and spans[-1][0] >= start_time:
                spans.pop()
            spans.append((start_time, end_time))

    jax.monitoring.register_event_time_span_listener(note)
    return spans
