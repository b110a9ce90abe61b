"""Tables and figures of experiment 001: python analysis.py SWEEP_DIR [RESULTS_PARQUET_DIR]

Reads results.parquet, results_by_cluster.parquet and sweep.json of `sweep.py:votes`. Intervals: 95 %, over ten draws
and sixteen debates, both shared by all levels (rewardscale.scaling.resample).
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from rewardscale.scaling import figures_levels
from rewardscale.scaling.collect import ScalingError, Sweep, load_sweep, per_draw
from rewardscale.scaling.der import Der, der
from rewardscale.scaling.figures import save
from rewardscale.scaling.findings import shared_sizes
from rewardscale.scaling.headline import spoken
from rewardscale.scaling.level_fits import best_units
from rewardscale.scaling.points import Points, points
from rewardscale.scaling.resample import Interval, resample
from rewardscale.scaling.robustness import Settings, der_headline, robustness

HERE = Path(__file__).parent
BASE, TARGET = "one_vote", "strict"
LEVELS = ("majority_3", "majority_5", "competence_weighted", "strict", "one_vote_on_strict")
BOUND = {
    "majority_3": 1.49,
    "majority_5": 1.73,
    "competence_weighted": 1.76,
    "strict": 1.81,
}  # README, prediction


def errors(own: Points) -> Points:
    """Points of accuracy as points of the error rate, so that lower is better."""
    shifts = {kind: -s for kind, s in own.shifts.items()}
    return replace(own, mean=1 - own.mean, shifts=shifts)


def ratio(own: Points, level: str, axis: str = "pairs", method: str = "fit") -> Der | str:
    for how in (method, "interpolate"):
        try:
            return der(own, BASE, level, axis=axis, method=how, resamples=2_000)
        except ScalingError as error:
            reason = str(error)
    return reason


def said(made: Der | str) -> str:
    if isinstance(made, str):
        return "-"
    mark = "" if made.method == "fit" else " (between means)"
    return spoken(made.summary) + mark + (" (no interval)" if made.summary.low is None else "")


def ratios(sweep: Sweep, family: str, model: str) -> list[str]:
    """A row a level: one-vote pairs that one of its pairs is worth, in four readings."""
    own = {
        y: points(sweep, y, family=family, models=[model], units=best_units(sweep))
        for y in ("loss_recalibrated", "loss", "accuracy")
    }
    own["accuracy"] = errors(own["accuracy"])
    rows = []
    for level in LEVELS:
        if level not in own["loss"].table["level"]:
            continue
        recalibrated = own["loss_recalibrated"]
        cells = [said(ratio(recalibrated, level)), said(ratio(recalibrated, level, "cost"))]
        cells += [said(ratio(own[y], level)) for y in ("loss", "accuracy")]
        rows.append(f"| {model} | {level} | {BOUND.get(level, '')} | " + " | ".join(cells) + " |")
    return rows


def differences(own: Sweep, model: str) -> list[str]:
    """Strict minus one vote at each size, mean and standard error over draws, where there are too few for a curve."""
    out = []
    for y in ("accuracy", "loss_recalibrated", "loss"):
        wide = per_draw(own, y).pivot(on="level", index=["pairs", "draw"], values="y")
        gaps = (
            wide.with_columns(gap=pl.col(TARGET) - pl.col(BASE))
            .group_by("pairs")
            .agg(pl.len(), pl.col("gap").mean(), (pl.col("gap").std() / pl.len().sqrt()).alias("se"))
        )
        for pairs, draws, mean, se in gaps.sort("pairs").rows():
            out.append(
                f"{model}, {y}, strict minus one vote at {pairs:,} pairs: {mean:+.4f} ± {se:.4f} over {draws} draws"
            )
    return out


def selection_share(own: Points) -> Interval:
    """log DER(one_vote_on_strict) / log DER(strict): the part of strict's worth that is choosing clear pairs.

    Both ratios are read at the same resampled means, so what draws and debates do to both cancels.
    """
    made = [der(own, BASE, level, resamples=2_000) for level in ("one_vote_on_strict", TARGET)]
    logs = [m.logs.values[:, 3] for m in made]  # the summary's component, resample by resample
    estimate = [float(m.logs.estimate[3]) for m in made]
    shares = logs[0] / logs[1]
    good = shares[np.isfinite(shares) & (logs[1] > 0)]
    low, high = np.quantile(good, [0.025, 0.975])
    lost = len(shares) - len(good)
    note = f"{lost} of {len(shares)} resamples have no positive worth of strict" if lost else ""
    return Interval(estimate[0] / estimate[1], float(low), float(high), None, note=note)


def same_votes(sweep: Sweep, model: str, budgets: tuple[int, ...]) -> list[str]:
    """Recalibrated loss that a budget of votes buys at each level (read between the means, log-log)."""
    own = points(sweep, models=[model])
    rows = []
    for level in (BASE, *LEVELS):
        mine = own.select((own.table["level"] == level).to_numpy())
        cost = mine.table["cost"].to_numpy()
        cells = []
        for budget in budgets:
            inside = cost[0] <= budget <= cost[-1]
            loss = np.exp(np.interp(np.log(budget), np.log(cost), np.log(mine.mean)))
            cells.append(f"{loss:.4f}" if inside else "")
        rows.append(f"| {level} | " + " | ".join(cells) + " |")
    return rows


def distinct(sweep: Sweep, model: str) -> list[str]:
    """Distinct arguments among the training pairs."""
    own = points(sweep, models=[model]).table
    wide = own.pivot(on="pairs", index="level", values="distinct")
    return [f"| {r[0]} | " + " | ".join(f"{v:,.0f}" for v in r[1:]) + " |" for r in wide.rows()]


def per_argument(own: Points, most_pairs: int = 1000) -> list[str]:
    """One-vote arguments that one argument is worth, where arguments still grow with pairs."""
    few = own.select((own.table["pairs"] <= most_pairs).to_numpy())
    return [f"| {level} | {said(ratio(few, level, 'distinct', 'interpolate'))} |" for level in LEVELS]


def gap(sweep: Sweep, model: str, pairs: int) -> Interval:
    """Recalibrated loss of strict minus one vote at equal pairs, over draws and debates."""
    own = points(sweep, models=[model], levels=[BASE, TARGET], units=best_units(sweep))
    at = own.select((own.table["pairs"] == pairs).to_numpy())
    sign = np.where(at.table["level"] == TARGET, 1.0, -1.0)
    seen = resample(at, lambda m: ((m @ sign)[:, None], np.broadcast_to(sign, (len(m), 1, len(sign)))))
    return seen.interval(0)


def main(workdir: Path) -> None:
    sweep = load_sweep(workdir, allow_unfinished=True)
    models = sweep.table.select("family", "model", "params").unique().sort("family", "params", "model").rows()
    print(
        "| model | level | predicted | worth in one-vote pairs | per vote paid | raw log-loss | error rate |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for family, model, _ in models:
        own = sweep.filter((pl.col("family") == family) & (pl.col("model") == model))
        print(
            "\n".join(
                ratios(sweep, family, model) if own.table["pairs"].n_unique() > 2 else differences(own, model)
            )
        )
    largest = [model for family, model, _ in models if family == "convex" and model == "hash16384"][-1]
    own = points(sweep, models=[largest], units=best_units(sweep))
    share = selection_share(own)
    print(f"\nselection's share of strict's worth ({largest}, log ratio): {spoken(share)} {share.note}")
    for pairs in sorted(set(shared_sizes(own).table["pairs"])):
        print(f"strict minus one vote at {pairs:,} pairs, nats: {gap(sweep, largest, pairs)}")
    budgets = (500, 1000, 2000, 4000, 8000)
    print(
        f"\n| level ({largest}) | "
        + " | ".join(f"{b:,} votes" for b in budgets)
        + " |\n|"
        + " --- |" * (len(budgets) + 1)
    )
    print("\n".join(same_votes(sweep, largest, budgets)))
    sizes = sorted(own.table["pairs"].unique())
    print(
        "\n| distinct arguments | "
        + " | ".join(f"{d:,} pairs" for d in sizes)
        + " |\n|"
        + " --- |" * (len(sizes) + 1)
    )
    print("\n".join(distinct(sweep, largest)))
    print(
        "\n| level | worth of a distinct argument in one-vote arguments, up to 1,000 pairs |\n| --- | --- |"
    )
    print("\n".join(per_argument(own)))
    convex = sweep.filter(pl.col("family") == "convex")
    table = robustness(convex, der_headline(BASE, TARGET, model=largest), Settings(units=best_units(sweep)))
    figure, rows = figures_levels.strip(table, "one-vote pairs that one strict pair is worth")
    save(figure, rows, HERE, "robustness")
    print("\n| choice | option | ratio | 95 % | remark |\n| --- | --- | --- | --- | --- |")
    for r in table.iter_rows(named=True):
        ends = "" if r["low"] is None else f"{r['low']:.2f} to {r['high']:.2f}"
        estimate = "" if r["estimate"] is None else f"{r['estimate']:.2f}"
        print(f"| {r['choice']} | {r['option']} | {estimate} | {ends} | {r['note'] or ''} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
