"""Convex reward models of experiment 005: trained on a level, tested on pairs that no stage of the curation saw."""

import dataclasses

import numpy as np

from rewardscale.config import ConvexConfig
from rewardscale.curation.inputs import Inputs
from rewardscale.data.levels import Level
from rewardscale.evaluation.statistics import fit_temperature, log_loss
from rewardscale.models import convex, presets

MODEL = "hash4096"
GRID = tuple(10.0 ** (k / 2) for k in range(2, -11, -1))


@dataclasses.dataclass(frozen=True)
class Students:
    """Reward models over one corpus.

    Attributes:
      features: of the distinct responses. texts: int64 [rows, 2] into these. truth: int8 [rows]. split: [rows].
    """

    features: convex.Features
    texts: np.ndarray
    truth: np.ndarray
    split: np.ndarray

    @classmethod
    def of(cls, inputs: Inputs, seed: int, model: str = MODEL) -> "Students":
        """`seed`: of the hash."""
        number: dict[str, int] = {}
        texts = [[number.setdefault(r, len(number)) for r in c.responses] for c in inputs.corpus]
        config = presets.get_model(model, vocab_size=0, convex=ConvexConfig(seed=seed))
        assert isinstance(config, ConvexConfig) and inputs.truth is not None
        features = convex.fitting_features(list(number), config)
        return cls(features, np.asarray(texts), inputs.truth, inputs.manifest["split"].to_numpy())

    def margins(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """float64 [corpus rows], first minus second, over the temperature, of a model trained on these pairs.

        The penalty is the one with the lowest recalibrated loss on the validation split, whose labels are the truth:
        the same for every arm.
        """
        start, best = None, None
        held = (self.split == "validation") & (self.truth != 0)
        for l2 in GRID:
            fit = convex.fit(
                self.features,
                self.texts[rows, 0],
                self.texts[rows, 1],
                l2=l2,
                target=(labels > 0).astype(np.float64),
                start=start,
                tolerance=1e-7,
            )
            start = fit.coordinates
            reward = convex.rewards(self.features, fit)[self.texts]
            margin = reward[:, 0] - reward[:, 1]
            own = margin[held] * self.truth[held]
            temperature = fit_temperature(own)
            loss = log_loss(own / temperature)
            if best is None or loss < best[0]:
                best = loss, margin / temperature
        assert best is not None
        return best[1]

    def test(self, level: Level, size: int | None = None, seed: int = 0) -> dict[str, float]:
        """Accuracy and recalibrated log-loss on the test split, trained on the level, or on `size` pairs of it."""
        rows, labels = level.rows.astype(np.int64), level.orientation
        if size is not None:
            chosen = np.random.default_rng(seed).permutation(len(rows))[:size]
            rows, labels = rows[chosen], labels[chosen]
        test = (self.split == "test") & (self.truth != 0)
        margin = self.margins(rows, labels)[test] * self.truth[test]
        return {
            "accuracy": float((margin > 0).mean()),
            "loss_recalibrated": log_loss(margin),
            "pairs": len(rows),
        }


def systematic_share(students: Students, level: Level, size: np.ndarray, bins: int = 10) -> float:
    """How much of a level's errors other pairs of the level teach: 0 for independent errors.

    Two models are trained on a half of the level each and read on the other half. The share of wrong labels that such
    a model repeats, less the share of right labels of like margin that it gets wrong.

    Args:
      size: float64 [corpus rows], absolute margin of the truth; strata are its deciles among the level's pairs.
    """
    rows, labels = level.rows.astype(np.int64), level.orientation
    known = students.truth[rows] != 0
    rows, labels = rows[known], labels[known]
    half = np.random.default_rng(0).permutation(len(rows)) % 2
    mistaken = np.zeros(len(rows), bool)
    for side in (0, 1):
        margin = students.margins(rows[half != side], labels[half != side])[rows]
        own = half == side
        mistaken[own] = (np.sign(margin) != students.truth[rows])[own]
    wrong = labels != students.truth[rows]
    edges = np.quantile(size[rows], np.linspace(0, 1, bins + 1)[1:-1])
    stratum = np.searchsorted(edges, size[rows], side="right")
    total = excess = 0.0
    for number in range(bins):
        here = stratum == number
        if (here & wrong).any() and (here & ~wrong).any():
            count = (here & wrong).sum()
            excess += count * (mistaken[here & wrong].mean() - mistaken[here & ~wrong].mean())
            total += count
    return excess / total if total else float("nan")
