"""(a) to (c) Laws, exchange rates, collapse and predictions: python analysis.py RUNS

RUNS: the folder of the three sweeps' folders. Prints the README's tables and writes curves.csv, .png and collapse.csv,
.png. Intervals: 95 %, over draws, which are whole trunks.
"""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from rewardscale.scaling import theory
from rewardscale.scaling.collect import ScalingError, Sweep, load_sweep
from rewardscale.scaling.compare import compare_levels
from rewardscale.scaling.der import der
from rewardscale.scaling.figures import save
from rewardscale.scaling.fit import FitError, fit
from rewardscale.scaling.forms import CHINCHILLA, QUALITY_CHINCHILLA
from rewardscale.scaling.headline import spoken
from rewardscale.scaling.holdout import holdout
from rewardscale.scaling.level_fits import below_plateau
from rewardscale.scaling.panels import frames, legend_above, level_styles, look, marker_of, plain, set_axis
from rewardscale.scaling.points import Points, points
from rewardscale.scaling.resample import of_fit, resample
from rewardscale.sweeps import configfile

HERE = Path(__file__).parent
SWEEPS = {"flips": "", "sampled labels": ":bradley_terry", "length bias": ":length_bias"}
WRONG = {"raw": 0.3, "filtered": 0.045, "corrected": 0.1, "gold": 0.0}  # shares of labels
FROM = 1_600  # pairs: smaller sizes are at chance in every level, where a law says nothing
NAMED = ("E", "A", "B", "alpha", "beta")


def load(root: Path) -> dict[str, Sweep]:
    """The sweeps by name; the length-biased raw labels are compared with the levels of the first."""
    out = {}
    for name, variant in SWEEPS.items():
        config, _ = configfile.load(f"planted_transformer.py{variant}")
        out[name] = load_sweep(root / config.name)
    biased = out["length bias"].table.with_columns(level=pl.lit("length_bias"))
    base = out["flips"]
    both = pl.concat([base.table, biased.select(base.table.columns)], how="vertical_relaxed")
    out["length bias"] = dataclasses.replace(base, table=both, clusters=None)
    return out


def of(sweep: Sweep, level: str, model: str | None = None) -> Points:
    return points(sweep, "loss_recalibrated", levels=[level], models=None if model is None else [model])


def levels_of(sweep: Sweep) -> list[str]:
    return list(level_styles(sweep.table["level"].unique().to_list()))


def accuracies(sweeps: dict[str, Sweep]) -> None:
    """Accuracy at the largest size by width."""
    models = sweeps["flips"].table.sort("params")["model"].unique(maintain_order=True).to_list()
    print(f"| labels | level | {' | '.join(models)} |\n|{' --- |' * (len(models) + 2)}")
    for name, sweep in sweeps.items():
        table = sweep.table.filter(
            pl.col("eval_set") == sweep.headline_eval, pl.col("pairs") == pl.col("pairs").max()
        )
        for level in ["length_bias"] if name == "length bias" else levels_of(sweep):
            cells = []
            for model in models:
                own = (
                    table.filter(pl.col("level") == level, pl.col("model") == model)["accuracy"].to_numpy()
                    * 100
                )
                cells.append(f"{own.mean():.1f} ± {own.std(ddof=1) / math.sqrt(len(own)):.1f}")
            print(f"| {name} | {level} | {' | '.join(cells)} |")


def laws(sweeps: dict[str, Sweep]) -> None:
    """L(N, D) of each level below the chance plateau, and what it predicts where it was not fitted."""
    print(
        f"\n| labels | level | points | {' | '.join(NAMED)} | rms residual "
        "| D held out | last seen | N held out | last seen |"
    )
    print(f"|{' --- |' * (len(NAMED) + 8)}")
    for name, sweep in sweeps.items():
        for level in ["length_bias"] if name == "length bias" else levels_of(sweep):
            own = of(sweep, level)
            fitted, seen = below_plateau(own), own.select(own.x["pairs"] >= FROM)
            print(
                f"| {name} | {level} | {len(fitted.mean)} | {' | '.join(_law(fitted))} "
                f"| {' | '.join(_hidden(seen))} |"
            )


def joint(sweeps: dict[str, Sweep]) -> None:
    """L(N, D, Q) of all levels of flips together, with Q = (1 - 2 eta)^2; and the same with gamma = beta."""
    print("\n| labels | points | alpha | beta | gamma | rms residual | with gamma = beta |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in ("flips", "sampled labels"):
        own = below_plateau(points(sweeps[name], "loss_recalibrated"))
        quality = np.array([(1 - 2 * WRONG[level]) ** 2 for level in own.table["level"]])
        own = dataclasses.replace(own, x={**own.x, "quality": quality})
        found = fit(QUALITY_CHINCHILLA, own.x, own.mean)
        drawn = resample(own, of_fit(found), resamples=1000)
        order = [
            QUALITY_CHINCHILLA.parameters.index(p) for p in ("model_exponent", "exponent", "quality_exponent")
        ]
        effective = {**own.x, "pairs": own.x["pairs"] * quality}
        tied = fit(CHINCHILLA, effective, own.mean)
        rms = [
            f"{np.sqrt((np.log(own.mean / of.predict(x)) ** 2).mean()):.1%}"
            for of, x in ((found, own.x), (tied, effective))
        ]
        print(
            f"| {name} | {len(own)} | {' | '.join(spoken(drawn.interval(i)) for i in order)} | {' | '.join(rms)} |"
        )


def _law(own: Points) -> list[str]:
    try:
        found = fit(CHINCHILLA, own.x, own.mean)
    except FitError as error:
        return [str(error).split(":")[0], *["-"] * len(NAMED)]
    drawn = resample(own, of_fit(found), resamples=1000)
    order = [
        CHINCHILLA.parameters.index(p)
        for p in ("floor", "model_scale", "scale", "model_exponent", "exponent")
    ]
    residual = np.log(own.mean / found.predict(own.x))
    return [*(spoken(drawn.interval(i)) for i in order), f"{np.sqrt((residual**2).mean()):.1%}"]


def _hidden(own: Points) -> list[str]:
    """Mean relative errors of the law and of the last point seen, at the largest sizes along D and along N."""
    out = []
    for axis, factor in (("pairs", 4.0), ("params", 1.5)):
        try:
            found = holdout(own, CHINCHILLA, axis=axis, factor=factor, resamples=200).summary
        except (ScalingError, FitError) as error:
            out += [str(error).split(":")[0][:40], "-"]
            continue
        errors = dict(found.select("form", "mean_absolute_relative_error").rows())
        last = next((v for k, v in errors.items() if "last" in k), None)
        out += ["-" if v is None else f"{v:.1%}" for v in (errors[CHINCHILLA.name], last)]
    return out


def worths(sweeps: dict[str, Sweep]) -> None:
    """Raw pairs that a pair of each level is worth, read between the means, and whether that grows with size."""
    print(
        "\n| labels | level | model | predicted | raw pairs a pair "
        "| at the larger sizes over at the smaller ones | power laws differ in |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, sweep in sweeps.items():
        config, _ = configfile.load(f"planted_transformer.py{SWEEPS[name]}")
        rule: Any = config.data.planted.label_rule
        nodes, weights = theory.gaussian_margins(config.data.planted.world.margin_sd)
        for level in ["length_bias"] if name == "length bias" else levels_of(sweep)[1:]:
            share, said = WRONG.get(level), "-"
            if share is not None and (share or rule == "bradley_terry"):
                said = f"{float(theory.sandwich_der(nodes, WRONG['raw'], share, weights=weights, label_rule=rule)):.1f}"
            for model in ("w8", "w24", "w40"):
                own = points(sweep, "loss_recalibrated", levels=["raw", level], models=[model])
                print(f"| {name} | {level} | {model} | {said} | {' | '.join(_worth(own, level))} |")


def _worth(own: Points, level: str) -> list[str]:
    try:
        found = der(own, "raw", level, method="interpolate")
    except (ScalingError, FitError) as error:
        return [str(error).split(";")[0][:60], "-", "-"]
    try:
        kind = str(compare_levels(own.select(own.x["pairs"] >= FROM), resamples=300).chosen)
    except (ScalingError, FitError) as error:
        kind = str(error).split(":")[0][:50]
    return [spoken(found.summary), spoken(found.trend), kind]


def collapse(sweeps: dict[str, Sweep]) -> pl.DataFrame:
    """Log distance of each level's losses from gold's curve, once D counts as D times one worth a level, by model."""
    rows: list[dict[str, Any]] = []
    for name in ("length bias", "sampled labels"):  # the first holds the levels of flips too
        sweep = sweeps[name]
        for model in sweep.table.sort("params")["model"].unique(maintain_order=True):
            gold = of(sweep, "gold", model)
            for level in levels_of(sweep):
                own = of(sweep, level, model)
                worth, spread = _best_worth(own, gold)
                shown = "deterministic" if name == "length bias" else name
                same = {"labels": shown, "model": model, "level": level, "worth": worth, "spread": spread}
                rows += [
                    same | {"pairs": d, "effective": d * worth, "loss": y}
                    for d, y in zip(own.x["pairs"], own.mean, strict=True)
                ]
    return pl.DataFrame(rows)


def _best_worth(own: Points, gold: Points) -> tuple[float, float]:
    """The gold pairs a pair that brings a curve closest to gold's, and the rms log distance that is left (in loss)."""
    x, y = np.log(gold.x["pairs"]), np.log(np.minimum.accumulate(gold.mean))
    d, loss = np.log(own.x["pairs"]), np.log(own.mean)
    best = (1.0, 0.0)
    least = math.inf
    for shift in np.linspace(-5, 0, 501):
        inside = (d + shift >= x[0]) & (d + shift <= x[-1])
        if inside.sum() < 3:
            continue
        rms = float(np.sqrt(((loss - np.interp(d + shift, x, y))[inside] ** 2).mean()))
        if rms < least:
            best, least = (math.exp(shift), rms), rms
    return best


def draw_collapse(table: pl.DataFrame) -> None:
    """Loss against effective gold pairs, w8 and w40: sampled labels beside deterministic ones."""
    from matplotlib.lines import Line2D

    names, models = table["labels"].unique(maintain_order=True).to_list(), ("w8", "w40")
    styles = level_styles(table["level"].unique().to_list())
    layout = [[(name, model) for model in models] for name in names]
    with look():
        figure, grid = frames(layout, head=0.3, height=1.8)
        for (row, column), panel in grid.items():
            name, model = layout[row][column]
            for level, style in styles.items():
                own = table.filter(
                    pl.col("labels") == name, pl.col("model") == model, pl.col("level") == level
                ).sort("pairs")
                if own.height:
                    worth = own["worth"][0]
                    panel.plot(own["effective"], own["loss"], linewidth=0.9, **marker_of(style))
                    place = 0.44 - 0.095 * list(styles).index(level)
                    said = {"color": style.colour, "fontsize": 7, "transform": panel.transAxes}
                    plain(panel.text(0.04, place, f"{level.replace('_', ' ')}: × {worth:.2f}", **said))
            plain(panel.set_title(f"{name}: {model}", loc="left"))
            effective = table["effective"]
            set_axis(panel, "x", effective.min(), effective.max(), log=True, room=6)
            set_axis(panel, "y", table["loss"].min(), table["loss"].max(), log=True, room=6)
            if row == len(layout) - 1:
                plain(panel.set_xlabel("pairs × gold pairs that one is worth"))
            if column == 0:
                plain(panel.set_ylabel("recalibrated log-loss"))
            panel.tick_params(labelleft=column == 0, labelbottom=row == len(layout) - 1)
        handles = [Line2D([], [], linewidth=0.9, **marker_of(style)) for style in styles.values()]
        legend_above(figure, handles, [s.replace("_", " ") for s in styles], columns=len(styles))
    save(figure, table, HERE, "collapse")


def draw_curves(sweeps: dict[str, Sweep]) -> None:
    """Loss against pairs by level, a row a label rule, three widths."""
    from matplotlib.lines import Line2D

    models = ("w8", "w24", "w40")
    shown = {"flips and length bias": sweeps["length bias"], "sampled labels": sweeps["sampled labels"]}
    rows: list[dict[str, Any]] = []
    for name, sweep in shown.items():
        for level in levels_of(sweep):
            for model in models:
                own = of(sweep, level, model)
                se = np.sqrt((own.shifts["draws"] ** 2).sum(axis=0))
                rows += [
                    {"labels": name, "level": level, "model": model, "pairs": d, "loss": y, "se": e}
                    for d, y, e in zip(own.x["pairs"], own.mean, se, strict=True)
                ]
    table = pl.DataFrame(rows)
    styles = level_styles(table["level"].unique().to_list())
    layout = [[(name, model) for model in models] for name in shown]
    with look():
        figure, grid = frames(layout, head=0.3, height=1.8)
        for (row, column), panel in grid.items():
            name, model = layout[row][column]
            for level, style in styles.items():
                own = table.filter(
                    pl.col("labels") == name, pl.col("model") == model, pl.col("level") == level
                )
                if own.height:
                    panel.errorbar(
                        own["pairs"],
                        own["loss"],
                        yerr=2 * own["se"],
                        linewidth=0.9,
                        elinewidth=0.7,
                        **marker_of(style),
                    )
            plain(panel.set_title(f"{name}: {model}", loc="left"))
            set_axis(panel, "x", table["pairs"].min(), table["pairs"].max(), log=True, room=5)
            set_axis(panel, "y", table["loss"].min(), table["loss"].max(), log=True, room=6)
            if row == len(layout) - 1:
                plain(panel.set_xlabel("pairs trained on"))
            if column == 0:
                plain(panel.set_ylabel("recalibrated log-loss\non gold labels"))
            panel.tick_params(labelleft=column == 0, labelbottom=row == len(layout) - 1)
        handles = [Line2D([], [], linewidth=0.9, **marker_of(style)) for style in styles.values()]
        legend_above(figure, handles, [s.replace("_", " ") for s in styles], columns=len(styles))
    save(figure, table, HERE, "curves")


def main(root: Path) -> None:
    sweeps = load(root)
    accuracies(sweeps)
    laws(sweeps)
    joint(sweeps)
    worths(sweeps)
    table = collapse(sweeps)
    print(
        "\n| labels | level | gold pairs a pair (widths 8 to 40) | rms distance left |\n| --- | --- | --- | --- |"
    )
    for (name, level), own in table.group_by(["labels", "level"], maintain_order=True):
        each = own.unique("model", maintain_order=True)
        worth = ", ".join(f"{w:.2f}" for w in each["worth"])
        print(f"| {name} | {level} | {worth} | {float(each['spread'].mean()):.1%} |")  # type: ignore[arg-type]
    draw_collapse(table)
    draw_curves(sweeps)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
