"""What is said of one model on one benchmark, from its saved rewards alone: JSON values, for files and pages."""

import dataclasses
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from rewardscale.evaluation import best_of_n, calibration, controls, resampling
from rewardscale.evaluation.benchmarks.base import Benchmark
from rewardscale.evaluation.best_of_n import BestOfN
from rewardscale.evaluation.calibration import Calibration
from rewardscale.evaluation.resampling import Interval
from rewardscale.evaluation.statistics import pair_margins

CONTROLS = ("length-only", "random")
MOST_CALIBRATED = 200_000  # pairs that calibration is told of; of more, those of the first items


@dataclasses.dataclass(frozen=True)
class Rows:
    """What rewards.parquet says of a benchmark's texts besides the rewards.

    Attributes:
      truncated: bool [items, most responses]. errors: object [items, most responses], a reason or None.
    """

    truncated: np.ndarray
    errors: np.ndarray

    @classmethod
    def of(cls, table: pl.DataFrame, places: np.ndarray) -> "Rows":
        """From a row a text and the `places` of a benchmark in it."""
        there = places >= 0
        truncated = table["truncated"].fill_null(False).to_numpy()[places] & there
        reasons = np.array(table["error"].to_list(), dtype=object)
        errors = reasons[places]
        errors[~there] = None
        return cls(truncated, errors)


def facts(benchmark: Benchmark) -> dict[str, Any]:
    """What is known of a benchmark before any model, the scores of the controls included."""
    control = {name: benchmark.scores(rewards) for name, rewards in _controls(benchmark).items()}
    return {
        "title": benchmark.title,
        "shown_name": benchmark.shown_name,
        "headline": benchmark.headline,
        "items": len(benchmark.items),
        "expected": benchmark.expected,
        "whole": benchmark.whole,
        "texts": int(benchmark.response_counts.sum()),
        "pairs": len(benchmark.pairs),
        "clusters": int(benchmark.clusters().max()) + 1,
        "missing": dict(benchmark.missing),
        "subset_weights": dict(benchmark.subset_weights),
        "controls": {name: as_json(float(own[benchmark.headline][0])) for name, own in control.items()},
        "seven": benchmark.seven,
        "licence": benchmark.licence,
        "url": benchmark.url,
        "notes": benchmark.notes,
    }


def _controls(benchmark: Benchmark) -> dict[str, np.ndarray]:
    both = (controls.length_control(benchmark), controls.random_control(benchmark))
    return dict(zip(CONTROLS, both, strict=True))


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A model on a benchmark.

    Attributes:
      headline: name of the score that stands for all. scores: each with its interval; none where no item was scored.
      counts: of items, texts and pairs. unscored: items without a score, by reason.
      calibration: of its pairs; left_out: pairs that it was not told of. best_of: where responses have a quality.
    """

    headline: str
    scores: Mapping[str, Interval]
    counts: Mapping[str, int]
    unscored: Mapping[str, int]
    calibration: Calibration | None
    left_out: int
    best_of: BestOfN | None

    @property
    def score(self) -> Interval:
        """The headline."""
        nothing = Interval(math.nan, None, None, None, 0, 0, "nothing scored")
        return self.scores.get(self.headline, nothing)

    def record(self) -> dict[str, Any]:
        """For eval.json."""
        found = as_json(self.calibration)
        return {
            "score": as_json(self.score),
            "scores": as_json(self.scores),
            **self.counts,
            "unscored": dict(self.unscored),
            "calibration": found and found | {"left_out": self.left_out},
            "best_of_n": as_json(self.best_of),
        }


def outcome(benchmark: Benchmark, rewards: np.ndarray, rows: Rows) -> Outcome:
    """A model's scores on a benchmark with their intervals, ties, truncations, and what was not scored.

    Args:
      rewards: float64 [items, most responses].
    """
    scored = benchmark.scored(rewards)
    margin = pair_margins(rewards, benchmark.pairs)
    margin = margin[np.isfinite(margin) & scored[benchmark.pairs[:, 0]]]
    return Outcome(
        headline=benchmark.headline,
        scores=resampling.score_intervals(benchmark, rewards) if scored.any() else {},
        counts={
            "scored": int(scored.sum()),
            "items_truncated": int((rows.truncated.any(axis=1) & scored).sum()),
            "texts_truncated": int(rows.truncated.sum()),
            "pairs": len(margin),
            "ties": int((margin == 0).sum()),
        },
        unscored=_reasons(rows, scored),
        calibration=calibrated(benchmark, rewards),
        left_out=max(0, len(benchmark.pairs) - MOST_CALIBRATED),
        best_of=chosen_of(benchmark, rewards),
    )


def calibrated(benchmark: Benchmark, rewards: np.ndarray) -> Calibration | None:
    """Calibration of a benchmark's pairs, by subset and by length; None where it has no pair."""
    pairs = benchmark.pairs[:MOST_CALIBRATED]
    margin = pair_margins(rewards, pairs)
    if not np.isfinite(margin).any():
        return None
    item, better, worse = pairs.T
    lengths = controls.length_control(benchmark)
    groups = {"length": calibration.length_groups((lengths[item, better] + lengths[item, worse]) / 2)}
    subsets = np.array([one.subset for one in benchmark.items])[item]
    if len(np.unique(subsets)) > 1:
        groups["domain"] = subsets
    return calibration.calibrate(margin, benchmark.clusters()[item], groups)


def chosen_of(benchmark: Benchmark, rewards: np.ndarray) -> BestOfN | None:
    """Best-of-N up to as many responses as nine tenths of the items have; None without labels of single ones."""
    if benchmark.quality is None:
        return None
    counts = np.isfinite(benchmark.quality).sum(axis=1)
    most = int(np.quantile(counts, 0.1, method="lower"))
    if most < 2 or not benchmark.scored(rewards).any():
        return None
    return best_of_n.curve(rewards, benchmark.quality, benchmark.clusters(), most=most)


def as_json(value: Any) -> Any:
    """Dataclasses and tuples as JSON has them; a number that is none, as null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: as_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(name): as_json(own) for name, own in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(own) for own in value]
    if isinstance(value, np.ndarray):
        return as_json(value.tolist())
    if isinstance(value, np.generic):
        return as_json(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _reasons(rows: Rows, scored: np.ndarray) -> dict[str, int]:
    """Items without a score by the reason of their first text that has no reward."""
    counts: Counter[str] = Counter()
    for errors in rows.errors[~scored]:
        counts[next((one for one in errors if one), "not scored")] += 1
    return dict(counts)
