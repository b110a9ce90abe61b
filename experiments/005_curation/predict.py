"""What an independent curator's levels are worth, before anything is trained: python predict.py

Clean pairs that one raw pair is worth raw, filtered and corrected, for the curators of `independent.py`: by the closed
forms of low signal, and by the sandwich for Gaussian margins of that world's standard deviation.
"""

from rewardscale.scaling.theory import gaussian_margins
from rewardscale.scaling.theory_curators import (
    Action,
    correct_efficiency,
    filter_efficiency,
    keep_rate,
    kept_noise,
    raw_efficiency,
    sandwich_efficiency,
)

ETA, MARGIN_SD = 0.25, 1.0
ACCURACIES = (0.7, 0.8, 0.9, 0.95)
ACTIONS: dict[str, Action] = {"raw": "raw", "filtered": "filter", "corrected": "correct"}


def closed_form(level: str, accuracy: float) -> float:
    """Clean pairs a raw pair is worth, in the limit of low signal."""
    if level == "raw":
        return float(raw_efficiency(ETA))
    return float(filter_efficiency(ETA, accuracy) if level == "filtered" else correct_efficiency(accuracy))


def sandwich(level: str, accuracy: float) -> float:
    """Clean pairs a raw pair is worth, at this world's signal."""
    nodes, weights = gaussian_margins(MARGIN_SD)
    return sandwich_efficiency(nodes, ETA, accuracy, ACTIONS[level], weights=weights)


def labels(level: str, accuracy: float) -> tuple[float, float]:
    """Share of raw pairs kept, and of these whose label is gold's."""
    if level == "filtered":
        return float(keep_rate(ETA, accuracy)), 1 - float(kept_noise(ETA, accuracy))
    return 1.0, accuracy if level == "corrected" else 1 - ETA


def main() -> None:
    print("| curator right | level | kept | labels right | worth a raw pair, closed form | sandwich |")
    print("| --- | --- | --- | --- | --- | --- |")
    for accuracy in ACCURACIES:
        for level in ACTIONS if accuracy == ACCURACIES[0] else list(ACTIONS)[1:]:
            kept, right = labels(level, accuracy)
            who = "-" if level == "raw" else f"{accuracy:g}"
            theory = f"{closed_form(level, accuracy):.3f} | {sandwich(level, accuracy):.3f}"
            print(f"| {who} | {level} | {kept:.3f} | {right:.3f} | {theory} |")


if __name__ == "__main__":
    main()
