"""A trace of some steps of a training (runtime.profile_steps), for XProf and Perfetto.

<run>/profile/plugins/profile/<time>/    *.xplane.pb (XProf, TensorBoard), perfetto_trace.json.gz (ui.perfetto.dev)
"""

import contextlib
from pathlib import Path
from typing import Any

import jax

ANNOTATION = "train"


class Profile:
    """Traces the steps first, ..., last - 1, each in a dispatch of its own.

    Args:
      directory: the run's folder. steps: (first, last); nothing is traced if they are equal.
    """

    def __init__(self, directory: Path, steps: tuple[int, int]):
        self._directory, (self._first, self._last) = Path(directory) / "profile", steps
        self._on = False

    @property
    def breaks(self) -> tuple[int, ...]:
        """The steps that a block of steps must not reach over."""
        return tuple(range(self._first, self._last + 1)) if self._last > self._first else ()

    def turns(self, step: int) -> bool:
        """Whether the trace begins or ends before `step`; the devices must be idle then."""
        return (self._first <= step < self._last) != self._on

    def turn(self) -> None:
        """Begins the trace, or ends it."""
        if self._on:
            jax.profiler.stop_trace()
        else:
            jax.profiler.start_trace(self._directory, create_perfetto_trace=True)
        self._on = not self._on

    def step(self, step: int) -> contextlib.AbstractContextManager[Any]:
        """Marks what is done within the block as a step in the trace."""
        if not self._on:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation(ANNOTATION, step_num=step)

    def close(self) -> None:
        """Ends a trace that the last step, or an error, left open."""
        if self._on:
            self.turn()
