"""Do pairs of one question err together: python clusters.py SWEEP_DIR [MODEL] [PAIRS]

At the optimum of a run the weights err as the mean score does, score_i = (label_i - sigmoid(z_i)) x_i with x_i the
difference of features. Were pairs independent, its variance would be that of single scores over n; where pairs share
questions it is that of the sums over (13-gram groups of) questions. Both in nats of test loss, by the curvature:

    excess = 1/2 trace(A^-1 H A^-1 B) / n,   A = H + l2,   H = mean sigmoid'(z_i) x_i x_i^T,

B being the second moment of single scores or of the questions' sums (White 1982; Liang and Zeger 1986). Also prints how
many questions the subsets of each size have.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from scipy import sparse, special
from scipy.linalg import cho_factor, cho_solve

from rewardscale.config import ConvexConfig
from rewardscale.data.subsets import permutation
from rewardscale.models import convex
from rewardscale.scaling.collect import load_sweep
from rewardscale.sweeps import configfile, datasets
from rewardscale.sweeps.cell import _responses


def second_moment(x: sparse.csr_array, weight: np.ndarray) -> np.ndarray:
    """sum_i weight_i x_i x_i^T, dense [columns, columns]."""
    return sparse.csr_array(x.T @ x.multiply(weight[:, None])).toarray()


def question_sums(x: sparse.csr_array, values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """The sum of values_i x_i over the pairs of each group, dense [groups, columns]."""
    _, number = np.unique(groups, return_inverse=True)
    pairs = len(groups)
    adder = sparse.csr_array((values, (number, np.arange(pairs))), shape=(int(number.max()) + 1, pairs))
    return sparse.csr_array(adder @ x).toarray()


def excess(
    x: sparse.csr_array, right: np.ndarray, groups: np.ndarray, l2: float, w: np.ndarray
) -> tuple[float, float]:
    """Nats of test loss that the weights' error costs: if pairs were independent, and as they are.

    Args:
      x: [pairs, columns], differences. right: [pairs], 1 where the first is the better one. groups: [pairs], questions.
    """
    pairs, z = len(right), x @ w
    score = right - special.expit(z)
    curvature = second_moment(x, special.expit(z) * special.expit(-z) / pairs)
    factor = cho_factor(curvature + l2 * np.eye(len(w)))
    metric = cho_solve(factor, cho_solve(factor, curvature).T)  # A^-1 H A^-1
    alone = second_moment(x, score**2 / pairs)
    sums = question_sums(x, score, groups)
    together = float(np.einsum("qi,qi->", sums @ metric, sums)) / pairs
    return float((metric * alone).sum()) / (2 * pairs), together / (2 * pairs)


def main(workdir: Path, model: str, pairs: int) -> None:
    config = configfile.load("sweep.py:objective", {})[0]
    dataset = datasets.prepare(config.data, workdir, None)
    order = permutation(dataset.pool(-1), seed=config.seed, draw=0)
    groups = dataset.groups()
    print("| pairs | groups of questions | pairs of a group, seen by a pair |\n| --- | --- | --- |")
    for size in config.sweep.pairs:
        counts = np.unique(groups[order[:size]], return_counts=True)[1]
        print(f"| {size:,} | {len(counts):,} | {(counts**2).sum() / size:.2f} |")
    runs = load_sweep(workdir).table.filter(
        (pl.col("model") == model) & (pl.col("pairs") == pairs) & (pl.col("draw") == 0)
    )
    rows = order[:pairs]
    student = ConvexConfig(width=int(model.removeprefix("hash")), ngram=config.convex.ngram, seed=0)
    features = convex.featurize(_responses(dataset), student)
    first, second = dataset.texts()[rows].astype(np.int64).T
    x, own = sparse.csr_array(features[first] - features[second]), groups[rows]
    print("\n| level | l2 | nats, if pairs were independent | nats, by questions | ratio |")
    print("| --- " * 5 + "|")
    for level in ("gold", "raw"):
        l2 = float(runs.filter(pl.col("level") == level)["l2"].to_list()[0])
        right = (dataset.level(level, 0).orientation[rows] > 0).astype(np.float64)
        fit = convex.fit(features, first, second, l2=l2, target=right, tolerance=1e-7)
        alone, together = excess(x, right, own, l2, fit.coordinates)
        print(f"| {level} | {l2:.2g} | {alone:.5f} | {together:.5f} | {together / alone:.2f} |")


if __name__ == "__main__":
    main(
        Path(sys.argv[1]),
        sys.argv[2] if len(sys.argv) > 2 else "hash4096",
        int(sys.argv[3]) if len(sys.argv) > 3 else 100_000,
    )
