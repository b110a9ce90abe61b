"""Robustness: one headline number under every choice that an analyst could have made otherwise.

Every row is computed by the same function with one thing changed (a "multiverse", Steegen et al. 2016). A
choice under which the headline cannot be computed is a row with the reason in its note: rows never go
missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from rewardscale.scaling.collect import POINT, VALIDATION, ScalingError, Sweep
from rewardscale.scaling.der import der
from rewardscale.scaling.level_fits import base_level, below_plateau, target_level
from rewardscale.scaling.points import UNITS, Points, points
from rewardscale.scaling.resample import Interval

OUTLIER = 4.0  # robust standard deviations from the median of a point's runs
BASELINE = "baseline"
UNREAD = "changes nothing"
_SCHEMA = {"choice": pl.String, "option": pl.String, "estimate": pl.Float64}
_SCHEMA |= {"low": pl.Float64, "high": pl.Float64, "note": pl.String}


@dataclass(frozen=True)
class Settings:
    """How a headline is computed: choices that are not choices of runs.

    Attributes:
      y: the loss column. eval_set: None for the sweep's headline one.
      units: what is resampled ("draws", "clusters", "both").
      method: "fit" or "interpolate".
      log, delta: the fits' objective (see ``fit.fit``; delta None: Huber at 1.345 robust sd).
      size: the column that counts parameters.
      plateau: whether points still on the chance plateau (on the headline evaluation set) are kept.
    """

    y: str = "loss_recalibrated"
    eval_set: str | None = None
    units: str = "draws"
    method: str = "fit"
    log: bool = True
    delta: float | None = None
    size: str = "params"
    plateau: bool = False


# A headline number of a sweep under settings. What it does not use of them changes nothing; its rows say so.
Headline = Callable[[Sweep, Settings], Interval]
# Choice, option, and what makes the changed sweep and settings and says what was done.
_Row = tuple[str, str, Callable[[], tuple[Sweep, Settings, str]]]


def der_headline(
    base: str,
    target: str,
    *,
    family: str | None = None,
    model: str | None = None,
    axis: str = "pairs",
    resamples: int = 1_000,
) -> Headline:
    """The data-equivalence ratio's summary of ``target`` in units of ``base`` at one model.

    ``model`` None: the largest (of ``family``, if given) with both levels.
    """

    def headline(sweep: Sweep, settings: Settings) -> Interval:
        chosen = model or largest_model(sweep, (base, target), family)
        own = points(
            sweep,
            settings.y,
            family=family,
            models=[chosen],
            levels=[base, target],
            eval_set=settings.eval_set,
            units=settings.units,
            size=settings.size,
        )
        found = der(
            own if settings.plateau else _left_plateau(own, sweep),
            base,
            target,
            axis=axis,
            method=settings.method,
            log=settings.log,
            delta=settings.delta,
            resamples=resamples,
        )
        return found.summary

    return headline


def _left_plateau(own: Points, sweep: Sweep) -> Points:
    """The points that have left the chance plateau on the sweep's headline evaluation: the same ones for every row."""
    every = points(
        sweep, models=own.table["model"].unique().to_list(), levels=own.table["level"].unique().to_list()
    )
    seen = set(below_plateau(every).table.select("family", "level", "pairs").rows())
    return own.select([row in seen for row in own.table.select("family", "level", "pairs").rows()])


def largest_model(sweep: Sweep, levels: tuple[str, ...], family: str | None = None) -> str:
    """The model with most parameters that has runs at all of these levels. Raises ScalingError if none has."""
    rows = sweep.table if family is None else sweep.table.filter(pl.col("family") == family)
    held = (
        rows.filter(pl.col("level").is_in(levels)).group_by("model", "params").agg(pl.col("level").n_unique())
    )
    whole = held.filter(pl.col("level") == len(set(levels))).sort("params", "model")
    if whole.is_empty():
        raise ScalingError(f"no model of sweep {sweep.name!r} has runs at all of the levels {list(levels)}")
    return str(whole["model"][-1])


def usual_headline(sweep: Sweep) -> Headline:
    """``der_headline`` of the sweep's best-curated level in units of its uncurated one.

    Raises ScalingError where the sweep does not have both.
    """
    levels = sweep.table["level"].unique().sort().to_list()
    base, target = base_level(levels), target_level(levels)
    if base is None or target is None or base == target:
        raise ScalingError(
            f"no two levels of {levels} are known as uncurated and curated: give der_headline(base, target)"
        )
    return der_headline(base, target)


def robustness(
    sweep: Sweep, headline: Headline | None = None, settings: Settings | None = None
) -> pl.DataFrame:
    """The headline (``usual_headline`` unless given) under each choice, the baseline first.

    Columns: choice, option, estimate, low, high (null where there is none), note (why there is no number or no
    interval, what a rule did, or that the choice changes nothing).

    Where the sweep has several learning-rate scales the baseline takes 1.0, or the only one there is.
    """
    own, headline = settings or Settings(), headline or usual_headline(sweep)
    start, rate_note = _usual_rate(sweep)
    rows = [_row(headline, BASELINE, _said(start, own), lambda: (start, own, rate_note))]
    for choice, option, make in _choices(sweep, start, own):
        row = _row(headline, choice, option, make)
        same = [row[key] == rows[0][key] for key in ("estimate", "low", "high")]
        if all(same) and row["note"] in ("", rows[0]["note"]):
            row["note"] = UNREAD
        rows.append(row)
    return pl.DataFrame(rows, schema=_SCHEMA)


def _row(
    headline: Headline, choice: str, option: str, make: Callable[[], tuple[Sweep, Settings, str]]
) -> dict:
    empty = {"choice": choice, "option": option, "estimate": None, "low": None, "high": None}
    try:
        changed, settings, said = make()
        found = headline(changed, settings)
    except ScalingError as reason:
        return empty | {"note": str(reason)}
    note = "; ".join(filter(None, (said, found.note)))
    return empty | {"estimate": found.estimate, "low": found.low, "high": found.high, "note": note}


def _said(sweep: Sweep, settings: Settings) -> str:
    objective = (
        "squared" if not settings.log else "log least squares" if settings.delta == np.inf else "Huber"
    )
    eval_set = settings.eval_set or sweep.headline_eval
    return f"{settings.y} on {eval_set}, {settings.method}, {objective}, {settings.units}, {settings.size}"


# ---------------------------------------------------------------------------------------------------- choices


def _choices(whole: Sweep, sweep: Sweep, settings: Settings) -> Iterator[_Row]:
    yield from _of_settings(sweep, settings)
    yield "outliers", f"runs > {OUTLIER:g} robust sd dropped", lambda: _outliers(sweep, settings)
    yield from _of_rates(whole, settings)
    yield "checkpoint", "final", lambda: (sweep, settings, "the only checkpoint that a sweep scores")
    for end in ("smallest", "largest"):
        yield "data sizes", f"{end} dropped", lambda end=end: _without(sweep, settings, "pairs", end)


def _of_settings(sweep: Sweep, settings: Settings) -> Iterator[_Row]:
    def to(**change) -> Callable[[], tuple[Sweep, Settings, str]]:
        return lambda: (sweep, replace(settings, **change), "")

    objectives = {
        "Huber (1.345 robust sd)": {"log": True, "delta": None},
        "Huber (delta 1e-3)": {"log": True, "delta": 1e-3},
        "log least squares": {"log": True, "delta": np.inf},
        "squared": {"log": False, "delta": np.inf},
    }
    for option, change in objectives.items():
        if replace(settings, **change) != settings:
            yield "objective", option, to(**change)
    for method in ("fit", "interpolate"):
        if method != settings.method:
            yield "method", method, to(method=method)
    for size in ("params", "params_with_embeddings"):
        if size != settings.size:
            yield "model size", size, to(size=size)
    yield "chance plateau", "dropped" if settings.plateau else "kept", to(plateau=not settings.plateau)
    for units in UNITS:
        if units != settings.units:
            yield "units resampled", units, to(units=units)
    for y in ("loss_recalibrated", "loss"):
        if y != settings.y:
            yield "loss", "raw" if y == "loss" else "recalibrated", to(y=y)
    for name in sweep.eval_sets:
        if name != (settings.eval_set or sweep.headline_eval):
            yield "evaluation set", name, to(eval_set=name)


def _of_rates(sweep: Sweep, settings: Settings) -> Iterator[_Row]:
    scales = _scales(sweep)
    if len(scales) < 2:
        said = "the sweep has one learning rate a model"
        yield "learning rate", "as configured", lambda: (sweep, settings, said)
        return
    for scale in scales:
        picked = sweep.filter(pl.col("lr_scale") == scale)
        yield "learning rate", f"{scale:g} of the configured", lambda picked=picked: (picked, settings, "")
    yield "learning rate", "best on validation, each point", lambda: _tuned(sweep, settings)


def _scales(sweep: Sweep) -> list[float]:
    return sorted(sweep.table["lr_scale"].drop_nulls().unique())


def _usual_rate(sweep: Sweep) -> tuple[Sweep, str]:
    scales = _scales(sweep)
    if len(scales) < 2:
        return sweep, ""
    scale = min(scales, key=lambda s: abs(np.log(s)))
    usual = sweep.filter(pl.col("lr_scale").is_null() | (pl.col("lr_scale") == scale))
    return usual, f"learning rates {scale:g} of the configured"


def _tuned(sweep: Sweep, settings: Settings) -> tuple[Sweep, Settings, str]:
    """Each point's runs at the learning-rate scale with the lowest mean loss on validation."""
    rows = sweep.table.filter(pl.col("eval_set") == VALIDATION)
    if rows.is_empty():
        raise ScalingError(
            f"no scores on {VALIDATION!r} are recorded: learning rates cannot be chosen on them"
        )
    means = rows.group_by(*POINT, "lr_scale").agg(pl.col(settings.y).mean().alias("validated"))
    best = means.sort("validated", "lr_scale").unique(POINT, keep="first", maintain_order=True)
    kept = sweep.table.join(
        best.select(*POINT, "lr_scale"), on=[*POINT, "lr_scale"], how="semi", nulls_equal=True
    )
    return replace(sweep, table=kept), settings, ""


def _without(sweep: Sweep, settings: Settings, column: str, end: str) -> tuple[Sweep, Settings, str]:
    value = sweep.table[column].min() if end == "smallest" else sweep.table[column].max()
    if sweep.table[column].n_unique() < 2:
        raise ScalingError(f"the sweep has one value of {column}: nothing is left without it")
    return sweep.filter(pl.col(column) != value), settings, f"{value:,} {column} dropped"


def _outliers(sweep: Sweep, settings: Settings) -> tuple[Sweep, Settings, str]:
    cleaned, dropped = without_outliers(sweep, settings.y, settings.eval_set)
    total = sweep.table["run_id"].n_unique()
    return cleaned, settings, f"{dropped} of {total} runs dropped"


def without_outliers(
    sweep: Sweep, y: str = "loss_recalibrated", eval_set: str | None = None, *, limit: float = OUTLIER
) -> tuple[Sweep, int]:
    """The sweep without runs whose ``y`` is more than ``limit`` robust sds from the median; and how many those were.

    Medians and robust sds (1.4826 median absolute deviations) are over the draws of one (family, model,
    level, pairs, fold): folds are of different difficulty and not each other's outliers. A point whose draws
    agree to rounding has none.
    """
    group = [*POINT, "fold"]
    rows = sweep.table.filter(pl.col("eval_set") == (eval_set or sweep.headline_eval))
    rows = rows.with_columns(gap=(pl.col(y) - pl.col(y).median().over(group)).abs())
    rows = rows.with_columns(spread=1.4826 * pl.col("gap").median().over(group))
    far = rows.filter(pl.col("gap") > limit * pl.col("spread"), pl.col("spread") > 1e-12)["run_id"].unique()
    return sweep.filter(~pl.col("run_id").is_in(far.implode())), len(far)
