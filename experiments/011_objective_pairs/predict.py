"""What a simulated judge's levels are worth, before anything is trained: python predict.py

Raw pairs that one pair of each level is worth, for the source and judge of `sweep.py:objective`: by the closed forms of
low signal, and by the sandwich for margins of some standard deviations.
"""

import numpy as np
from numpy.typing import ArrayLike

from rewardscale.scaling.theory import gaussian_margins, lower_bound_der, sandwich_der
from rewardscale.scaling.theory_curators import keep_rate, kept_noise
from rewardscale.sweeps import configfile

LEVELS = ("filtered", "corrected", "gold")
CONFIG = configfile.load("sweep.py:objective", {})[0].data.objective
ETA, ACCURACY = CONFIG.flip_rate, CONFIG.judge_accuracy


def noise(level: str) -> float:
    """Share of wrong labels among the level's pairs."""
    curated = {"filtered": float(kept_noise(ETA, ACCURACY)), "corrected": 1 - ACCURACY, "gold": 0.0}
    return curated.get(level, ETA)


def kept(level: str) -> float:
    """Pairs of the level that one raw pair gives."""
    return float(keep_rate(ETA, ACCURACY)) if level in ("filtered", "random_matched") else 1.0


def closed_form(level: str) -> float:
    """Raw pairs that one pair of the level is worth, in the limit of low signal."""
    return float(lower_bound_der(ETA) / lower_bound_der(noise(level)))


def sandwich(level: str, margins: ArrayLike, weights: ArrayLike | None = None) -> float:
    """The same at any signal, from the margins [pairs] (nats) of a model of clean labels."""
    raw, own = sandwich_der(margins, np.array([ETA, noise(level)]), weights=weights)
    return float(raw / own)


def main() -> None:
    spreads = (0.1, 0.25, 0.5)
    print(
        "| level | kept | labels right | closed form | "
        + " | ".join(f"margin sd {s:g}" for s in spreads)
        + " | per pair judged |"
    )
    print("| --- " * 8 + "|")
    for level in LEVELS:
        values = " | ".join(f"{sandwich(level, *gaussian_margins(s)):.2f}" for s in spreads)
        facts = f"{kept(level):.3f} | {1 - noise(level):.3f} | {closed_form(level):.2f}"
        print(f"| {level} | {facts} | {values} | {closed_form(level) * kept(level):.2f} |")


if __name__ == "__main__":
    main()
