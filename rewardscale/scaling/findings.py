"""What a sweep found: for each family's largest model, levels compared with intervals. Figures and report read
this."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import polars as pl

from rewardscale.scaling.collect import ScalingError, Sweep
from rewardscale.scaling.compare import Comparison, compare_levels
from rewardscale.scaling.der import Der, der
from rewardscale.scaling.fit import fit
from rewardscale.scaling.forms import POWER_FLOOR
from rewardscale.scaling.level_fits import (
    LEAST_SIZES,
    POOR,
    base_level,
    below_plateau,
    best_units,
    each_curve,
    target_level,
)
from rewardscale.scaling.points import Points, points
from rewardscale.scaling.theory_curators import kept_noise

RESAMPLES = 1_000


@dataclass(frozen=True, eq=False)
class Findings:
    """Levels of one model, compared; what could not be computed is its reason, a string.

    Attributes:
      family, model, params: the family's largest model.
      points: mean recalibrated losses of all its levels below the chance plateau.
      units: what intervals are over, in words.
      base, target: the level others are measured against, and the one named in headlines; None where unknown.
      method: how ratios are read: "fit" where a power law with a floor describes every level, else "interpolate".
      ratios: (level, axis, loss column) -> DER against ``base``.
      comparison: nested models across levels.
    """

    family: str
    model: str
    params: int
    points: Points
    units: str
    base: str | None
    target: str | None
    method: str
    ratios: dict[tuple[str, str, str], Der | str]
    comparison: Comparison | str

    @property
    def levels(self) -> list[str]:
        return self.points.table["level"].unique(maintain_order=True).to_list()

    def ratio(self, level: str, axis: str = "pairs", loss: str = "loss_recalibrated") -> Der | str:
        return self.ratios.get((level, axis, loss), "not computed")


def findings(sweep: Sweep, eval_set: str | None = None) -> list[Findings]:
    """Findings of each family. Raises ScalingError where the sweep has no finished run."""
    families = sweep.table.select("family", "model", "params").unique().sort("family", "params", "model")
    largest = families.group_by("family", maintain_order=True).last()
    return [_of_model(sweep, eval_set, *row) for row in largest.select("family", "model", "params").rows()]


def _of_model(sweep: Sweep, eval_set: str | None, family: str, model: str, params: int) -> Findings:
    units = best_units(sweep)
    own = {
        loss: points(sweep, loss, family=family, models=[model], eval_set=eval_set, units=units)
        for loss in ("loss_recalibrated", "loss")
    }
    levels = own["loss_recalibrated"].table["level"].unique(maintain_order=True).to_list()
    base, target = base_level(levels), target_level(levels)
    seen = below_plateau(own["loss_recalibrated"])
    method = _method(seen)
    ratios: dict[tuple[str, str, str], Der | str] = {}
    for level in levels if base is not None else []:
        if level == base:
            continue
        wanted = [("pairs", "loss_recalibrated"), ("cost", "loss_recalibrated")]
        wanted += [("pairs", "loss")] if level == target else []
        for axis, loss in wanted:
            at, how = (seen, method) if loss == "loss_recalibrated" else (own["loss"], _method(own["loss"]))
            ratios[level, axis, loss] = _try(
                lambda at=at, level=level, axis=axis, how=how: der(
                    at, str(base), level, axis=axis, method=how, resamples=RESAMPLES
                )
            )
    comparison: Comparison | str = "the curves are not power laws with a floor"
    if len(levels) < 2:
        comparison = "one level: nothing to compare"
    elif method == "fit":
        comparison = _try(lambda: compare_levels(shared_sizes(seen), base=base))
    return Findings(family, model, params, seen, _said(seen), base, target, method, ratios, comparison)


def shared_sizes(seen: Points) -> Points:
    """The points at numbers of pairs that every level has."""
    levels = seen.table["level"].n_unique()
    counts = seen.table.group_by("pairs").agg(pl.col("level").n_unique().alias("levels"))
    shared = counts.filter(pl.col("levels") == levels)["pairs"].to_list()
    return seen.select(seen.table["pairs"].is_in(shared).to_numpy())


def _method(seen: Points) -> str:
    for _, level in each_curve(seen):
        if len(set(level.x["pairs"])) < LEAST_SIZES:
            return "interpolate"
        try:
            if fit(POWER_FLOOR, level.x, level.mean).rms > POOR:
                return "interpolate"
        except ScalingError:
            return "interpolate"
    return "fit"


def _said(seen: Points) -> str:
    why = seen.why_no_interval()
    if why:
        return why
    names = {"draws": "draws", "clusters": "clusters of the test set"}
    return "95 % intervals over " + " and ".join(
        f"{count} {names[kind]}" for kind, count in seen.units.items()
    )


def _try[T](make: Callable[[], T]) -> T | str:
    try:
        return make()
    except ScalingError as reason:
        return str(reason)


def predicted_ratios(sweep: Sweep, found: list[Findings]) -> dict[str, float]:
    """Level -> ((1 - 2 eta) / (1 - 2 eta_base))^2 where the sweep put the noise into the labels itself, else
    nothing.

    Planted worlds with flips know their levels' rates; "<level>+flip0.2" is known relative to "<level>".
    """
    out: dict[str, float] = {}
    for f in found:
        rates = {level: _known_rate(sweep, level) for level in f.levels}
        stems = {level.partition("+flip")[0] for level in f.levels}
        # A base that has learned nothing yet is not among the levels with points.
        if f.base not in rates or None in rates.values() or (len(stems) > 1 and not _planted_flips(sweep)):
            continue
        signal = {level: (1 - 2 * rate) ** 2 for level, rate in rates.items() if rate is not None}
        out |= {level: signal[level] / signal[f.base] for level in signal if level != f.base}
    return out


def _planted_flips(sweep: Sweep) -> dict[str, Any]:
    """The planted source's settings, empty where labels were not made by flips alone."""
    config = sweep.meta.get("config")
    data = config.get("data", {}) if isinstance(config, dict) else {}
    planted = data.get("planted", {}) if data.get("source") == "planted" else {}
    return planted if planted.get("corruption") == "flips" else {}


def _known_rate(sweep: Sweep, level: str) -> float | None:
    """How often a level's labels are wrong (or, after "+flip", were turned); None where nobody knows."""
    name, flipped, rate = level.partition("+flip")
    if flipped:
        return float(rate)
    planted = _planted_flips(sweep)
    if not planted:
        return 0.0
    eta, accuracy = float(planted["rate"]), float(planted["curator_accuracy"])
    known = {"raw": eta, "random_matched": eta, "gold": 0.0, "corrected": 1 - accuracy}
    known["filtered"] = float(kept_noise(eta, accuracy))
    return known.get(name)
