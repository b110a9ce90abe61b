"""The report's tables: means, parameters, ratios, comparisons, learning rates. Each takes what it shows and
gives HTML."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import polars as pl

from rewardscale.scaling.collect import POINT, Sweep, curve
from rewardscale.scaling.compare import Comparison
from rewardscale.scaling.der import Der
from rewardscale.scaling.findings import Findings
from rewardscale.scaling.forms import POWER_LAW
from rewardscale.scaling.headline import spoken, value
from rewardscale.scaling.level_fits import PLATEAU, CurveFit
from rewardscale.scaling.page import table
from rewardscale.scaling.panels import level_order


def means(sweep: Sweep) -> str:
    wanted = [("accuracy", None), ("loss_recalibrated", None), ("loss", None), ("temperature", None)]
    heads = ["accuracy", "recalibrated loss", "raw loss", "temperature"]
    for other in sweep.eval_sets[1:]:
        wanted += [("accuracy", other), ("loss_recalibrated", other)]
        heads += [f"accuracy on {other}", f"recalibrated loss on {other}"]
    wanted += [("train_seconds", None), ("pairs_per_second", None)]
    heads += ["training time, s", "pairs per second"]
    tables = [curve(sweep, column, "pairs", eval_set) for column, eval_set in wanted]
    cells = [{tuple(row[k] for k in POINT): row for row in t.iter_rows(named=True)} for t in tables]
    costs = curve(sweep, "loss_recalibrated", "cost")
    rows = []
    for point in in_order(costs).iter_rows(named=True):
        key = tuple(point[k] for k in POINT)
        row = [point["family"], point["model"], point["level"], f"{point['pairs']:,}", f"{point['x']:,.0f}"]
        row.append(str(point["draws"]))
        for (column, _), of in zip(wanted, cells, strict=True):
            timing = column in ("train_seconds", "pairs_per_second")
            row.append("" if key not in of else _short(of[key]["mean"]) if timing else value(of[key]))
        rows.append(row)
    note = (
        "Mean ± one standard error over draws; losses in nats per pair, on "
        f"{sweep.headline_eval} unless said otherwise. The last two columns are wall-clock, not reproducible."
    )
    head = ["family", "model", "level", "pairs", sweep.cost_unit, "draws", *heads]
    body = table(head, rows)
    return f"<p>{escape(note)}</p><details open><summary>{len(rows)} points</summary>{body}</details>"


def parameters(fits: Sequence[CurveFit]) -> str:
    """Each curve fitted alone, with intervals."""
    head = [
        "family",
        "model",
        "level",
        "sizes",
        "decades",
        "floor E",
        "scale B",
        "exponent β",
        "rms",
        "remark",
    ]
    rows = []
    for f in fits:
        known = [
            spoken(f.parameters[name]) if f.parameters else "" for name in ("floor", "scale", "exponent")
        ]
        rms = "" if f.whole is None else f"{f.whole.rms:.1%}"
        rows.append([f.family, f.model, f.level, str(f.sizes), f"{f.decades:.1f}", *known, rms, f.note])
    note = (
        f"{POWER_LAW}, each curve alone: variable projection, then Huber's loss on log residuals of the means of "
        f"recalibrated loss (nats per pair) that have made {PLATEAU:.0%} of the model's best gain on chance; 95 % "
        "intervals over draws, studentised. Floor and exponent trade against each other: compare levels by the tests "
        "above, not by this table."
    )
    return f"<p>{escape(note)}</p>{table(head, rows)}"


def worth(found: Sequence[Findings], unit: str) -> str:
    """Ratios of every level against the base level."""
    rows, base = [], ""
    for f in found:
        base = f.base or base
        for level in level_order(f.levels):
            if level != f.base:
                made = [f.ratio(level), f.ratio(level, "cost")]
                rows.append(
                    [f.family, f.model, level, *(_ratio(m) for m in made), _trend(made[0]), _remark(made[0])]
                )
    head = ["family", "model", "level", f"{base} pairs a pair", f"{base} cost a unit of cost ({unit})"]
    head += ["trend with scale", "remark"]
    note = (
        "At equal recalibrated loss; geometric mean at three sizes inside both observed ranges, 95 % "
        "intervals over the units "
        "named above, draws and evaluation clusters shared by all levels. Trend: the ratio at the "
        "largest of the three over "
        "that at the smallest. Nothing is extrapolated."
    )
    return f"<p>{escape(note)}</p>{table(head, rows)}"


def _ratio(made: Der | str) -> str:
    return "" if isinstance(made, str) else spoken(made.summary)


def _trend(made: Der | str) -> str:
    return "" if isinstance(made, str) else spoken(made.trend)


def _remark(made: Der | str) -> str:
    if isinstance(made, str):
        return made
    return "; ".join([*([made.summary.note] if made.summary.note else []), *made.notes])


def comparisons(found: Sequence[Findings]) -> str:
    """Nested models, held-out errors, differences of exponents."""
    parts = []
    for f in found:
        c = f.comparison
        if not isinstance(c, Comparison):
            parts.append(f"<p>{escape(f.model)}: not compared: {escape(c)}</p>")
            continue
        verdict = f"{c.chosen}: {c.reason}" if c.chosen else c.reason
        parts.append(f"<h3>{escape(f.model)}</h3><p>{escape(verdict)}</p>")
        tests = [
            [t.question, t.null, t.alternative, f"{t.statistic:.2f}", _p(t.p_value), _p(t.p_holm), t.note]
            for t in c.tests
        ]
        parts.append(table(["question", "null", "alternative", "F", "p", "p, Holm", "remark"], tests))
        errors = [
            [k, fit.form.formula, f"{c.holdout[k]:.2%}" if k in c.holdout else "", f"{c.aicc[k]:.1f}"]
            for k, fit in c.fits.items()
        ]
        parts.append(table(["kind", "form", "held-out error", "AICc"], errors, left=2))
        rows = [
            [d["level"], d["base"], f"{d['estimate']:+.3f}", _between(d), d["verdict"], d["note"]]
            for d in c.differences.iter_rows(named=True)
        ]
        parts.append(
            table(["level", "against", "difference of β", "90 % interval", "verdict", "remark"], rows, left=2)
        )
    note = (
        "Nested forms of L_q(D) = E_q + B_q · D^−β_q over all levels. A richer kind is taken only where "
        "its test (simulated "
        "reference, Holm's correction) and its error at the hidden largest sizes both ask for it; AICc "
        "decides nothing. "
        "Equal exponents are claimed only where the 90 % interval lies inside ±0.03."
    )
    return f"<p>{escape(note)}</p>" + "".join(parts)


def _p(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _between(row: dict) -> str:
    return "" if row["low"] is None else f"{row['low']:+.3f} to {row['high']:+.3f}"


def choices(strips: Sequence[tuple[str, pl.DataFrame]]) -> str:
    """Robustness tables, one a family."""
    parts = []
    for title, rows in strips:
        shown = [
            [
                r["choice"],
                r["option"],
                "" if r["estimate"] is None else f"{r['estimate']:.3g}",
                _interval(r),
                r["note"] or "",
            ]
            for r in rows.iter_rows(named=True)
        ]
        parts.append(
            f"<h3>{escape(title)}</h3>{table(['choice', 'option', 'ratio', '95 %', 'remark'], shown, left=2)}"
        )
    return "".join(parts)


def _interval(row: dict) -> str:
    return "" if row["low"] is None or row["high"] is None else f"{row['low']:.3g} to {row['high']:.3g}"


def rates(sweep: Sweep) -> str:
    key = ["family", "model", "params", "level"]
    columns = ["learning_rate", "lr_scale", "l2", "epochs"]
    low = [pl.col(c).min().alias(f"{c}_low") for c in columns]
    found = sweep.table.group_by(key).agg(*low, *(pl.col(c).max().alias(f"{c}_high") for c in columns))
    rows = []
    for row in in_order(found).iter_rows(named=True):
        ranges = [_range(row[f"{c}_low"], row[f"{c}_high"]) for c in columns]
        rows.append([row["family"], row["model"], row["level"], *ranges])
    return table(["family", "model", "level", "learning rate", "times", "L2 penalty", "epochs"], rows)


def in_order(table: pl.DataFrame) -> pl.DataFrame:
    """By family, model size, level from least to most curated, pairs."""
    rank = {level: i for i, level in enumerate(level_order(table["level"]))}
    order = pl.col("level").replace_strict(rank, return_dtype=pl.Int64)
    return table.sort("family", "params", "model", order, *(["pairs"] if "pairs" in table.columns else []))


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return ""
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"
