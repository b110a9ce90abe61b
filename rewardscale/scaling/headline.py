"""What a sweep found, in plain sentences computed from its table; each says what its interval is over."""

from __future__ import annotations

import math
from typing import Any

import polars as pl

from rewardscale.scaling.collect import Sweep, common_pairs, curve, per_draw
from rewardscale.scaling.compare import Comparison
from rewardscale.scaling.der import Der
from rewardscale.scaling.findings import Findings, findings
from rewardscale.scaling.panels import level_order
from rewardscale.scaling.resample import Interval

_KINDS = {
    "shared": "over all levels at once they tell no exchange rate from a floor, from an exponent, or from nothing",
    "offset": "levels differ by an exchange rate in pairs (an offset); no difference in floor or exponent is shown",
    "floor": "levels differ in their floor: no number of pairs makes up for it",
    "floor and offset": "levels differ in floor and in exchange rate",
    "exponent": "levels differ in exponent: what a pair is worth changes with scale",
    "all": "levels differ in floor, scale and exponent",
}


def headline(sweep: Sweep, found: list[Findings] | None = None) -> list[str]:
    """Sentences about each family's largest model: what a curated pair is worth, what kind of difference it is,
    levels at the largest shared size, and whether the evaluation sets agree. Raises ScalingError where there is
    nothing to say.
    """
    sentences = []
    for f in findings(sweep) if found is None else found:
        one = sweep.filter((pl.col("family") == f.family) & (pl.col("model") == f.model))
        sentences += [*_worth(f, one.cost_unit), *_kind(f)]
        own = curve(one, "loss_recalibrated")
        at = common_pairs(own)
        if at is not None:
            sentences += [_levels_at(one, own, f, at), *_agreement(one, f, at)]
    return sentences


def spoken(interval: Interval) -> str:
    """1.81 [1.10, 3.19], or the estimate alone."""
    if interval.low is None or interval.high is None:
        return _number(interval.estimate)
    return f"{_number(interval.estimate)} [{_number(interval.low)}, {_number(interval.high)}]"


def _worth(f: Findings, unit: str) -> list[str]:
    """The data-equivalence ratio of the target level: per pair, per unit of cost, and in raw log-loss."""
    if f.base is None or f.target is None:
        return []
    target, base = (name.replace("_", " ") for name in (f.target, f.base))
    pairs = f.ratio(f.target)
    if not isinstance(pairs, Der):
        return [f"{f.model}: what a {target} pair is worth in {base} pairs could not be read: {pairs}."]
    if not math.isfinite(pairs.summary.estimate):
        return [f"{f.model}: at equal recalibrated loss {note}." for note in pairs.notes[-1:]]
    sizes = _sizes(pairs)
    text = (
        f"{f.model}: at equal recalibrated loss one {target} pair is worth {spoken(pairs.summary)} {base} pairs "
        f"({sizes})."
    )
    cost = f.ratio(f.target, "cost")
    if isinstance(cost, Der) and unit not in ("pairs", "raw pairs"):
        text += (
            f" Counted in {unit}, one spent on {target} buys what {spoken(cost.summary)} spent on {base} buy."
        )
    raw = f.ratio(f.target, "pairs", "loss")
    if isinstance(raw, Der) and math.isfinite(raw.summary.estimate):
        text += f" In raw log-loss it would be {spoken(raw.summary)}: the difference is calibration."
    how = "read off fitted curves" if pairs.method == "fit" else "read between the means, no form assumed"
    return [
        f"{text} {f.units[0].upper()}{f.units[1:]}; {how}, inside both observed ranges: nothing is extrapolated."
    ]


def _sizes(made: Der) -> str:
    inside = made.curve.filter(~pl.col("extrapolated")).drop_nulls(["target_size"])
    low, high = inside["target_size"].min(), inside["target_size"].max()
    return f"between {low:,.0f} and {high:,.0f} of them"


def _kind(f: Findings) -> list[str]:
    if not isinstance(f.comparison, Comparison):
        return (
            []
            if f.comparison.startswith("one level")
            else [f"{f.model}: levels were not compared as laws: {f.comparison}."]
        )
    if f.comparison.chosen is None:
        return [f"{f.model}: the kind of difference between levels is not tested: {f.units}."]
    said = _KINDS.get(f.comparison.chosen, f.comparison.chosen)
    return [f"{f.model}: nested power laws, tested against each other and on held-out sizes: {said}."]


def _levels_at(one: Sweep, own: pl.DataFrame, f: Findings, at: int) -> str:
    accuracy = curve(one, "accuracy").filter(pl.col("pairs") == at)
    loss = own.filter(pl.col("pairs") == at)
    said = []
    for level in level_order(loss["level"]):
        right, cost = (t.filter(pl.col("level") == level).row(0, named=True) for t in (accuracy, loss))
        said.append(f"{level} {_percent(right)} and {value(cost)}")
    who = f"{f.model} ({f.family}, {f.params:,} parameters)"
    return f"{who} at {at:,} pairs, accuracy and recalibrated loss on {one.headline_eval}: {'; '.join(said)}."


def _agreement(one: Sweep, f: Findings, at: int) -> list[str]:
    """The target level against the base level, paired by draw, on every evaluation set."""
    if f.base is None or f.target is None:
        return []
    said, signs = [], set()
    for name in one.eval_sets:
        draws = per_draw(one, "loss_recalibrated", "pairs", name).filter(pl.col("pairs") == at)
        of = (draws.filter(pl.col("level") == level).select("draw", "y") for level in (f.target, f.base))
        both = next(of).join(next(of), on="draw", suffix="_base")
        gaps = both["y"] - both["y_base"]
        if gaps.is_empty():
            return []
        mean, deviation = float(gaps.mean()), gaps.std()  # type: ignore[arg-type]
        se = None if deviation is None else float(deviation) / len(gaps) ** 0.5  # type: ignore[arg-type]
        said.append(f"{mean:+.4f}{'' if se is None else f' ± {se:.4f}'} on {name}".replace("-", "−", 1))
        signs.add(mean < 0)
    verdict = "" if len(said) < 2 else " The signs agree." if len(signs) == 1 else " The signs disagree."
    return [
        f"There {f.target} minus {f.base}, paired by draw, in recalibrated loss: {', '.join(said)}.{verdict}"
    ]


def value(row: dict[str, Any]) -> str:
    """Mean ± standard error of a row of a curve table."""
    return f"{row['mean']:.4f}" + ("" if row["se"] is None else f" ± {row['se']:.4f}")


def _percent(row: dict[str, Any]) -> str:
    return f"{100 * row['mean']:.2f}" + ("" if row["se"] is None else f" ± {100 * row['se']:.2f}") + " %"


def _number(number: float) -> str:
    return f"{number:.3g}" if abs(number) < 100 else f"{number:,.0f}"
