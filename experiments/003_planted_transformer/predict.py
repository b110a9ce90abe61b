"""What a pair of each level is worth in raw pairs, before anything is trained: python predict.py

By the closed forms of low signal and by the sandwich at this world's margins, for both label rules; and how often a
rater who follows length now and then is wrong.
"""

import numpy as np

from rewardscale.data import planted
from rewardscale.scaling import theory
from rewardscale.scaling.theory_curators import kept_noise
from rewardscale.sweeps import configfile


def worth(nodes: np.ndarray, weights: np.ndarray, share: float, eta: float, rule: theory.LabelRule) -> float:
    """Raw pairs (a share `eta` wrong) that a pair with a share wrong is worth; inf where no number is."""
    if share == 0 and rule == "deterministic":
        return np.inf  # another exponent
    return float(theory.sandwich_der(nodes, eta, share, weights=weights, label_rule=rule))


def main() -> None:
    config, _ = configfile.load("planted_transformer.py")
    settings = config.data.planted
    world, eta, accuracy = settings.world, settings.rate, settings.curator_accuracy
    nodes, weights = theory.gaussian_margins(world.margin_sd)
    wrong = {"raw": eta, "filtered": float(kept_noise(eta, accuracy)), "corrected": 1 - accuracy, "gold": 0.0}
    print(
        "| level | labels wrong | closed form | sandwich, sampled labels | sandwich, deterministic labels |"
    )
    print("| --- | --- | --- | --- | --- |")
    for level, share in wrong.items():
        found = [f"{worth(nodes, weights, share, eta, rule):.1f}" for rule in theory.LABEL_RULES]
        print(
            f"| {level} | {share:.3f} | {(1 - 2 * share) ** 2 / (1 - 2 * eta) ** 2:.1f} | {' | '.join(found)} |"
        )
    pairs = planted.sample_pairs(world, 20_000, stream=settings.seed)
    longer = np.sign(pairs.length[:, 0] - pairs.length[:, 1])
    against = (longer != 0) & (longer != np.sign(pairs.margin))
    print(
        f"\nfollowing length at rate {eta:g}: {eta * against.mean():.3f} of the labels wrong; "
        f"correlation of margin and difference of length {np.corrcoef(pairs.margin, longer)[0, 1]:.2f}"
    )


if __name__ == "__main__":
    main()
