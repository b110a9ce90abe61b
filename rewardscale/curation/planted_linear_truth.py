"""What a sweep on the planted convex world must find: losses at unlimited data, rates and exponents, computed.

A student with features x of a pair (first minus second response) that trains on labels which prefer the first with
probability p(pair) tends to

    w* = argmin E[softplus(-w.x) + (1 - p) w.x],    A = E[s (1 - s) x x^T],  V = E[(p (1 - s)^2 + (1 - p) s^2) x x^T]

with s = sigmoid(w*.x); its weights from D pairs have covariance A^-1 V A^-1 / D (sandwich: White 1982, eq. 3.2). The
loss reported is the gold log-loss at the best temperature T, so at D pairs it lies

    B / D,    B = tr(G A^-1 V A^-1) / (2 T^2),   G = H - H v v^T H / (v^T H v),   H = E[s'(1 - s') x x^T] at v = w*/T

above that of w*, to first order, where w*/T is (nearly) the best v for gold as well: not for biased labels.
Expectations are means over a large sample of pairs with their true probabilities, never over labels.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import special

from rewardscale.config import LinearConfig
from rewardscale.curation import planted_linear as levels
from rewardscale.data import planted_linear as world
from rewardscale.data.planted_linear import Population
from rewardscale.evaluation.statistics import fit_temperature, log_loss

_NEWTON_STEPS = 25  # separable labels move w by about a nat a step and never arrive


@dataclasses.dataclass(frozen=True)
class Limit:
    """What a student of one level comes to.

    Attributes:
      loss: recalibrated gold log-loss at unlimited data, nats, on fresh pairs.
      test_loss: the same student's on the test rows of the corpus: what a sweep's curves come down to.
      rate: B, nats times pairs: the loss at D pairs is about loss + B / D; None for biased labels.
    """

    loss: float
    test_loss: float
    rate: float | None


def truth(config: LinearConfig, test: Population, *, sample: int = 60_000) -> dict[str, Any]:
    """The truth table, as JSON values.

    Args:
      test: the test rows of the corpus.
      sample: fresh pairs that stand for all.

    Returns:
      alpha: exponent of the share unseen in the number of words known. unseen: that share, by words.
      bayes_loss, test_bayes_loss: E, the log-loss of the gold reward itself on fresh pairs and on the test rows.
      excess_alpha: slope of log(loss - E) in log words between neighbours (gold): alpha, but for curvature.
      levels: by level and words known, the fields of `Limit`; raw_per_gold: the ratio of rates, by words: pairs
        needed for the same loss. beta: exponents in D, by level (deterministic ones on the set "sign", of the
        student that knows all words).
    """
    names = [name for name, rule in levels.rules(config).items() if rule.sampled]
    fresh = world.population(config, sample)
    forms = world.student_forms(config)
    words = [config.stems * f for f in forms]
    table = {
        name: {str(n): limit(config, name, fresh, test, f) for n, f in zip(words, forms, strict=True)}
        for name in names
    }
    bayes = levels.entropy(fresh.margin)
    return {
        "alpha": config.alpha,
        "unseen": {str(n): world.unseen(config, f) for n, f in zip(words, forms, strict=True)},
        "bayes_loss": bayes,
        "test_bayes_loss": levels.entropy(test.margin),
        "excess_alpha": _slopes([of.loss - bayes for of in table["gold"].values()][:-1]),
        "levels": {name: {n: dataclasses.asdict(of) for n, of in by.items()} for name, by in table.items()},
        "raw_per_gold": {n: _ratio(table["raw"][n], gold) for n, gold in table["gold"].items()},
        "beta": dict.fromkeys(table, 1.0) | {"deterministic": 1.0, "deterministic with flips": 0.5},
    }


def limit(config: LinearConfig, name: str, fresh: Population, test: Population, forms: int) -> Limit:
    """What a student that knows `forms` forms of each stem comes to on labels of level `name` (Bradley-Terry)."""
    rule = levels.rule_of(config, name)
    x = fresh.features(forms)
    p = levels.probability(rule, fresh.margin, np.sign(fresh.length))
    w = optimum(x, p)
    gold = special.expit(fresh.margin)
    temperature = fit_temperature(x @ w, gold)
    test_margin = test.features(forms) @ w / temperature
    rate = None if rule.follows_length else _rate(x, p, w, temperature)
    return Limit(
        loss=log_loss(x @ w / temperature, gold),
        test_loss=log_loss(test_margin, special.expit(test.margin)),
        rate=rate,
    )


def optimum(x: np.ndarray, p: np.ndarray) -> np.ndarray:
    """w* [columns] for features x [n, columns] and probabilities p [n], by Newton's method.

    Raises ValueError if there is none (probabilities that a linear reward separates).
    """
    w = np.zeros(x.shape[1])
    for _ in range(_NEWTON_STEPS):
        s = special.expit(x @ w)
        gradient = x.T @ (s - p) / len(x)
        step = np.linalg.solve(_moment(x, s * (1 - s)), gradient)
        w = w - step
        if np.abs(x @ step).max() < 1e-9:
            return w
    raise ValueError("no optimum found: labels that a linear reward separates have none")


def _moment(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return (x * weight[:, None]).T @ x / len(x)


def _rate(x: np.ndarray, p: np.ndarray, w: np.ndarray, temperature: float) -> float:
    s = special.expit(x @ w)
    curvature = _moment(x, s * (1 - s))
    noise = _moment(x, p * (1 - s) ** 2 + (1 - p) * s**2)
    covariance = np.linalg.solve(curvature, np.linalg.solve(curvature, noise).T)
    v = w / temperature
    s = special.expit(x @ v)
    gold = _moment(x, s * (1 - s))
    along = gold @ v
    gold -= np.outer(along, along) / (v @ along)  # errors along v are the temperature's to mend
    return float(np.trace(gold @ covariance)) / (2 * temperature**2)


def _slopes(excess: list[float]) -> list[float]:
    """Minus the slope of log(excess) between neighbours, of which the later knows twice as many words."""
    return (-np.diff(np.log(excess)) / np.log(2)).tolist()


def _ratio(raw: Limit, gold: Limit) -> float | None:
    return raw.rate / gold.rate if raw.rate and gold.rate else None
