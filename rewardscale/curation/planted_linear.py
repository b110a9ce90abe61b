"""Labels and levels of the planted convex world: one for each way in which labels can be bad.

    gold               drawn from Bradley-Terry on the gold reward
    raw                gold, each label wrong with probability flip_rate              an offset
    biased             with probability bias_rate the longer response is preferred    a floor
    weakly_filtered    raw where a simulated curator of low accuracy agrees           quantity wins
    weakly_corrected   that curator's verdicts                                        quantity wins
    deterministic      the sign of the gold margin; with "+flip0.2" another exponent

Each draw labels all rows anew with one set of random numbers for all levels: levels are paired, draws independent.
The corpus is simulated, so levels are made of its margins and lengths and not of a ledger.
"""

import dataclasses
import math

import numpy as np

from rewardscale.config import LinearConfig
from rewardscale.curation.flips import parse_flips
from rewardscale.data.levels import Level

COST_UNIT = "raw labels"
_LABELS = 0x11FEA2


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a level's labels depend on a pair. A label is right by the level's own rule except for what follows.

    Attributes:
      sampled: whether the right label is drawn from Bradley-Terry (else it is the sign of the margin).
      wrong: how often a label is wrong, whatever the pair. follows_length: how often it follows length.
      kept: share of the rows that the level keeps, whatever the pair. cost: of a row, where a raw label costs 1.
    """

    sampled: bool = True
    wrong: float = 0.0
    follows_length: float = 0.0
    kept: float = 1.0
    cost: float = 1.0


def rules(config: LinearConfig) -> dict[str, Rule]:
    """The rule of each level."""
    wrong, right = config.flip_rate, config.curator_accuracy
    kept = (1 - wrong) * right + wrong * (1 - right)
    curated = 1.0 + config.curator_cost
    return {
        "gold": Rule(cost=config.gold_cost),
        "raw": Rule(wrong=wrong),
        "biased": Rule(follows_length=config.bias_rate),
        "weakly_filtered": Rule(wrong=wrong * (1 - right) / kept, kept=kept, cost=curated),
        "weakly_corrected": Rule(wrong=1 - right, cost=curated),
        "deterministic": Rule(sampled=False, cost=config.gold_cost),
    }


def rule_of(config: LinearConfig, name: str) -> Rule:
    """The rule of level `name`, with its "+flip" if it has one. Raises KeyError for an unknown level."""
    base, rate = parse_flips(name)
    rule = rules(config)[base]
    return dataclasses.replace(rule, wrong=rule.wrong + rate * (1 - 2 * rule.wrong)) if rate else rule


def probability(rule: Rule, margin: np.ndarray, longer: np.ndarray) -> np.ndarray:
    """Probability [n] that a label prefers the first response.

    Args:
      margin: [n], gold(first) - gold(second). longer: [n], sign of the difference in length; ties follow gold.
    """
    p = 1 / (1 + np.exp(-margin)) if rule.sampled else (margin > 0).astype(float)
    if rule.follows_length:
        p = np.where(longer == 0, p, (1 - rule.follows_length) * p + rule.follows_length * (longer > 0))
    return p + rule.wrong * (1 - 2 * p)


def level(config: LinearConfig, name: str, margin: np.ndarray, longer: np.ndarray, *, draw: int) -> Level:
    """The level `name` of a corpus with these margins and differences in length [rows], labelled anew for `draw`.

    Raises KeyError for an unknown level.
    """
    rule = rules(config)[name]
    u = np.random.default_rng([_LABELS, config.seed, draw]).random((4, len(margin)))
    gold = np.where(u[0] < 1 / (1 + np.exp(-margin)), 1, -1)
    raw = np.where(u[1] < config.flip_rate, -gold, gold)
    verdict = np.where(u[3] < config.curator_accuracy, gold, -gold)
    labels = {
        "gold": gold,
        "raw": raw,
        "biased": np.where((u[2] < config.bias_rate) & (longer != 0), longer, gold),
        "weakly_filtered": raw,
        "weakly_corrected": verdict,
        "deterministic": np.where(margin > 0, 1, -1),
    }[name]
    keep = raw == verdict if name == "weakly_filtered" else np.ones(len(margin), bool)
    return Level(
        name,
        np.flatnonzero(keep).astype(np.uint32),
        labels[keep].astype(np.int8),
        cost=np.full(len(margin), rule.cost, np.float32),
        cost_unit=COST_UNIT,
        about={"rule": dataclasses.asdict(rule), "draw": draw},
    )


def entropy(margin: np.ndarray) -> float:
    """Mean entropy in nats of Bradley-Terry labels on these margins: the log-loss of the gold reward itself."""
    size = np.abs(margin)
    return math.fsum(np.logaddexp(0, -size) + size / (1 + np.exp(size))) / len(margin)
