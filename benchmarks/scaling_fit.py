"""CPU seconds of a fit and of its intervals, by form and by number of points.

    python -m benchmarks.scaling_fit            # half a minute on one CPU core

SYNTHETIC losses of 10 draws around a planted surface; each row is one fit (8 starts) and 2,000 resamples, every one of
them refitted. Minimum of three, one thread; CPU seconds, because a busy machine does not stretch them.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import machine
from rewardscale.scaling import forms
from rewardscale.scaling.fit import fit
from rewardscale.scaling.forms import Form
from rewardscale.scaling.points import Points, from_draws
from rewardscale.scaling.resample import RESAMPLES, of_fit, resample

DRAWS, PASSES, NOISE = 10, 3, 0.01


@dataclass(frozen=True)
class Case:
    """A form, its planted parameters and the inputs it is fitted at."""

    form: Form
    planted: dict[str, float]
    x: dict[str, NDArray]

    def points(self) -> Points:
        rng = np.random.default_rng(0)
        clean = self.form(self.x, **self.planted)
        shared, own = rng.normal(size=(DRAWS, 1)), rng.normal(size=(DRAWS, len(clean)))
        return from_draws(self.x, clean * np.exp(NOISE * (shared + own) / np.sqrt(2)))


def grid(**axes: NDArray) -> dict[str, NDArray]:
    """Every combination of the axes' values, each [n]."""
    return {name: values.ravel() for name, values in zip(axes, np.meshgrid(*axes.values()), strict=True)}


def cases() -> list[Case]:
    pairs = np.geomspace(250, 64_000, 10)
    curve = {"floor": 0.3, "scale": 3.0, "exponent": 0.35}
    surface = curve | {"floor": 0.2, "model_scale": 10.0, "model_exponent": 0.4}
    levels = {"floor": 0.3, "exponent": 0.35} | {f"scale_{q}": 3.0 + q for q in range(4)}
    return [
        Case(forms.POWER_FLOOR, curve, {"pairs": pairs}),
        Case(forms.by_level("offset", 4), levels, grid(pairs=pairs, level=np.arange(4.0))),
        Case(forms.CHINCHILLA, surface, grid(params=np.geomspace(1e4, 1e7, 5), pairs=pairs[::2])),
        Case(forms.CHINCHILLA, surface, grid(params=np.geomspace(1e4, 1e7, 10), pairs=pairs)),
    ]


def fastest(work: Callable[[], object]) -> float:
    """CPU seconds, the least of ``PASSES``."""
    seconds = []
    for _ in range(PASSES):
        started = time.process_time()
        work()
        seconds.append(time.process_time() - started)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()
    print(machine.heading("numpy", "scipy", "jax"))
    print("| form | parameters | points | fit, s | 2,000 resamples, s |\n|---|---|---|---|---|")
    for case in cases():
        points = case.points()
        found = fit(case.form, points.x, points.mean)
        statistic = of_fit(found)
        fitting = fastest(lambda points=points, case=case: fit(case.form, points.x, points.mean))
        resampling = fastest(
            lambda points=points, statistic=statistic: resample(points, statistic, resamples=RESAMPLES)
        )
        cells = (
            case.form.name,
            len(case.form.parameters),
            len(points),
            f"{fitting:.2f}",
            f"{resampling:.1f}",
        )
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


if __name__ == "__main__":
    main()
