"""Statistics of rewards on labelled pairs: accuracy, log-loss, log-loss at one fitted temperature; Cohen's kappa.

Flipped labels shrink the scale of rewards, so raw log-loss mixes ranking with calibration. Each loss
is therefore reported raw and after one temperature a run, fitted on validation pairs that share no
prompt (or debate) with the test pairs.
"""

import dataclasses

import numpy as np
from scipy.optimize import minimize_scalar

_LOG_SCALE_BOUNDS = (-12.0, 8.0)


@dataclasses.dataclass(frozen=True)
class PairScores:
    """Scores of one run on one evaluation set.

    Attributes:
      pairs, ties: counts; a tie counts as wrong.
      accuracy: share of pairs with a positive margin.
      loss, loss_recalibrated: mean log-loss in nats a pair, raw and with margins divided by the temperature.
      margin_mean: mean of r_chosen - r_rejected.
    """

    pairs: int
    ties: int
    accuracy: float
    loss: float
    loss_recalibrated: float
    margin_mean: float


def margins(rewards: np.ndarray, orientation: np.ndarray) -> np.ndarray:
    """r_chosen - r_rejected in float64 [n] from rewards [n, 2] and orientation [n]."""
    wide = rewards.astype(np.float64)
    return (wide[:, 0] - wide[:, 1]) * orientation


def pair_margins(rewards: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """float64 [pairs]: r_better - r_worse of a benchmark's pairs; NaN where one of the two has no reward.

    Args:
      rewards: float64 [items, most responses]. pairs: int64 [pairs, 3], (item, better response, worse response).
    """
    item, better, worse = pairs.reshape(-1, 3).T
    with np.errstate(invalid="ignore"):  # infinite rewards of one sign have no difference
        return rewards[item, better].astype(np.float64) - rewards[item, worse]


def kappa(tables: np.ndarray) -> np.ndarray:
    """Cohen's kappa (1960) of tables [..., classes, classes]: how often one said a and the other b, counts or shares.

    NaN where it is undefined: an empty table, or two who always say one and the same.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = tables / tables.sum((-2, -1), keepdims=True)
        observed = np.trace(shares, axis1=-2, axis2=-1)
        expected = (shares.sum(-2) * shares.sum(-1)).sum(-1)
        return np.where(expected < 1, (observed - expected) / (1 - expected), np.nan)


def log_loss(margin: np.ndarray, target: np.ndarray | None = None) -> float:
    """Mean of -t log sigmoid(margin) - (1 - t) log sigmoid(-margin), in nats; t = 1 without `target` [n]."""
    loss = np.logaddexp(0.0, -margin)
    return float((loss if target is None else loss + (1 - target) * margin).mean())


def fit_temperature(margin: np.ndarray, target: np.ndarray | None = None) -> float:
    """The temperature T that minimises the log-loss of margin / T.

    The loss is convex in 1 / T, so the minimum found is the global one with T from e^-8 to e^12 times the
    margins' root mean square: the scale of rewards changes nothing. Margins without information give the
    upper end (all probabilities one half), margins that are all ties 1.
    """
    size = float(np.sqrt(np.mean(margin**2)))
    if size == 0:
        return 1.0
    result = minimize_scalar(
        lambda log_scale: log_loss(margin * (np.exp(log_scale) / size), target),
        bounds=_LOG_SCALE_BOUNDS,
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(size * np.exp(-result.x))


def pair_scores(margin: np.ndarray, temperature: float, target: np.ndarray | None = None) -> PairScores:
    """Scores of margins [n] = r_chosen - r_rejected; `target` [n] as for `log_loss`."""
    right = margin > 0
    return PairScores(
        pairs=len(margin),
        ties=int((margin == 0).sum()),
        accuracy=float(
            (right if target is None else np.where(right, target, (margin < 0) * (1 - target))).mean()
        ),
        loss=log_loss(margin, target),
        loss_recalibrated=log_loss(margin / temperature, target),
        margin_mean=float(margin.mean()),
    )
