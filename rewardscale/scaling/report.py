"""The page a sweep ends in: ``report.html``, self-contained, and the figures beside it.

Everything on the page comes from the sweep directory; the same table gives the same bytes. A part that can't
be shown says why in its place, and a sweep without a finished run gets a page that says so.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import polars as pl

from rewardscale.scaling import figures, figures_compute, figures_levels, report_tables
from rewardscale.scaling.checklist import checklist
from rewardscale.scaling.collect import (
    ScalingError,
    Sweep,
    bayes_loss,
    curve,
    load_sweep,
    per_draw,
    write_atomic,
)
from rewardscale.scaling.findings import Findings, findings, predicted_ratios
from rewardscale.scaling.forms import POWER_LAW
from rewardscale.scaling.headline import headline
from rewardscale.scaling.level_fits import PLATEAU, POOR, CurveFit, best_units, fit_curves
from rewardscale.scaling.page import page, table
from rewardscale.scaling.panels import level_order
from rewardscale.scaling.robustness import Settings, der_headline, robustness

_READING = (
    "Dots: draws (the folds of a draw put together). Markers: means; bars: one standard error over draws, "
    "which leaves out the uncertainty of the test set itself."
)
CAPTIONS = {
    "loss_vs_pairs": f"Recalibrated log-loss against pairs trained on. Lines: {POWER_LAW} fitted to the means that "
    f"have left the chance plateau ({PLATEAU:.0%} of the model's best gain on ln 2) at the sizes not held out (hollow "
    "markers), dashed where extrapolated; bands: 95 % over draws, from 5 draws on. No line where fewer than four sizes "
    f"are left or where the form misses the means by more than {POOR:.0%} (root mean square); thin lines then join the "
    "means.",
    "accuracy_vs_pairs": "Accuracy on held-out pairs against pairs trained on; ties count as wrong.",
    "loss_vs_cost": "Recalibrated log-loss against what the training pairs cost: at a given budget the "
    "lowest curve wins.",
    "loss_vs_params": "Recalibrated log-loss against model size, at the largest number of pairs that every "
    "curve has.",
    "raw_vs_recalibrated": "Log-loss as trained (upper row) and after one temperature a run, fitted on "
    "validation pairs (lower row), on one scale. What lies between them is calibration.",
    "ratios": "Data-equivalence ratio: how many pairs (left) or how much cost (right) of the least "
    "curated level one unit of "
    "each level is worth at equal recalibrated loss, for the largest model of each family; bands 95 %. "
    "Above 1 curation "
    "pays, below 1 more of the least curated level does. Dotted: what the noise put into the labels predicts, "
    "((1 − 2η) / (1 − 2η_base))², a bound reached at low signal.",
    "compute_frontier": "Left: the best-curated level at equal training FLOPs, each model's curve read between its "
    "sizes (crosses: minima of parabolas, to look at). Right: each level's loss at the compute-optimal model size, "
    "by L = E + A · N^−α + B · D^−β fitted to all its points and C = k · N · D; bands 95 %, dashed where the best size "
    "or its pairs lie outside those that were run.",
    "forest": f"Parameters of {POWER_LAW}, each level fitted alone to all its sizes; 95 % intervals.",
    "collapse": "All levels against pairs counted in pairs of the least curated level: D · (B_base / "
    "B_q)^(1/β) of the offset "
    "model L_q(D) = E + B_q · D^−β (line). What does not collapse differs in floor or exponent.",
    "held_out": f"Losses at the sizes held out, predicted by {POWER_LAW} fitted to the smaller ones, "
    "against those seen; "
    "bars: 95 % over draws.",
    "robustness": "The ratio of the best-curated level, per pair, under every choice that an analyst "
    "could have made "
    "otherwise; band: the interval of the first row.",
}


@dataclass(frozen=True, eq=False)
class _Computed:
    """What the page shows, computed once; a string is the reason why it isn't there."""

    sweep: Sweep
    found: list[Findings]
    fits: list[CurveFit]
    strips: list[tuple[str, pl.DataFrame]]


def write_report(workdir: str | Path) -> Path:
    """Draw every figure into ``workdir``/figures and write ``workdir``/report.html; returns its path.

    Raises ScalingError where ``workdir`` is not a sweep directory or its table is broken, OSError where it
    can't be written. Unfinished sweeps are reported as they stand.
    """
    sweep = load_sweep(workdir, allow_unfinished=True)
    parts = [_opening(sweep)]
    if sweep.table.is_empty():
        parts += [_status(sweep, sweep, ""), _provenance(sweep)]
    else:
        shown, remark = _one_rate(sweep)
        made = _compute(shown)
        parts += [
            _part("In short", lambda: _in_short(made)),
            _status(sweep, shown, remark),
            _part("What was swept", lambda: _grid(shown)),
            f"<h2>Figures</h2><p>{escape(_READING)}</p>",
            *(_figure(shown, name, name, draw) for name, draw in _drawings(made).items()),
            *_other_sets(shown),
            _part("What a curated pair buys", lambda: report_tables.worth(made.found, shown.cost_unit)),
            _part("What kind of difference", lambda: report_tables.comparisons(made.found)),
            _part("Curves, each fitted alone", lambda: report_tables.parameters(made.fits)),
            _part("Compute", lambda: _compute_lines(shown))
            if figures_compute.compute_families(shown)
            else "",
            _part("Robustness", lambda: report_tables.choices(made.strips)) if made.strips else "",
            _part("Means over draws", lambda: report_tables.means(shown)),
            _part("Learning rates", lambda: report_tables.rates(sweep)),
            _part("Checklist", lambda: _checklist(sweep, made)),
            _provenance(sweep),
        ]
    path = sweep.directory / "report.html"
    write_atomic(path, page(sweep.name, "\n".join(parts)).encode())
    return path


def _compute(shown: Sweep) -> _Computed:
    """Raises nothing: what fails is left empty, and its part of the page says why when it asks again."""
    try:
        found = findings(shown)
    except ScalingError:
        found = []
    try:
        fits = fit_curves(shown)
    except ScalingError:
        fits = []
    return _Computed(shown, found, fits, [strip for f in found for strip in _strip(shown, f)])


def _strip(shown: Sweep, f: Findings) -> list[tuple[str, pl.DataFrame]]:
    """The robustness table of a family's headline ratio, where there is one."""
    if f.base is None or f.target is None or isinstance(f.ratio(f.target), str):
        return []
    one = shown.filter(pl.col("family") == f.family)
    ratio = der_headline(f.base, f.target, family=f.family, model=f.model, resamples=400)
    title = f"{f.model}: {f.base} pairs that one {f.target} pair is worth".replace("_", " ")
    return [(title, robustness(one, ratio, Settings(units=best_units(one), method=f.method)))]


def _drawings(made: _Computed) -> dict[str, Callable[[], tuple[Any, pl.DataFrame]]]:
    """The figures of the page in their order."""
    sweep, found = made.sweep, made.found
    drawings: dict[str, Callable[[], tuple[Any, pl.DataFrame]]] = {
        "loss_vs_pairs": lambda: figures.loss_vs_pairs(sweep, None, made.fits or None),
        "ratios": lambda: figures_levels.ratios(found, theory=predicted_ratios(sweep, found)),
    }
    if any(f.method == "fit" for f in found):
        drawings |= {
            "collapse": lambda: figures_levels.collapse(found),
            "forest": lambda: figures_levels.forest(found),
            "held_out": lambda: figures_levels.held_out(made.fits, curve(sweep)),
        }
    drawings |= {
        name: partial(figures.FIGURES[name], sweep) for name in figures.FIGURES if name != "loss_vs_pairs"
    }
    if figures_compute.compute_families(sweep):
        drawings["compute_frontier"] = lambda: figures_compute.compute_frontier(sweep)
    for number, (title, rows) in enumerate(made.strips):
        name = "robustness" if number == 0 else f"robustness_{number + 1}"
        drawings[name] = partial(figures_levels.strip, rows, title)
    return drawings


def _in_short(made: _Computed) -> str:
    lines = headline(made.sweep, made.found or None)
    return "<ul class='lead'>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _compute_lines(sweep: Sweep) -> str:
    lines = figures_compute.describe(sweep) or ["no level's losses pin a law in both sizes down"]
    return "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _checklist(sweep: Sweep, made: _Computed) -> str:
    """The (Mis)Fitting checklist, filled from the run records."""
    comparison = next((f.comparison for f in made.found if not isinstance(f.comparison, str)), None)
    rows = checklist(sweep, comparison).select("section", "question", "answer").rows()
    body = table(["section", "question", "answer"], [list(row) for row in rows], left=3)
    return f"<details><summary>{len(rows)} questions, answered from the sweep's records</summary>{body}</details>"


def _opening(sweep: Sweep) -> str:
    about = str(sweep.meta.get("docstring") or "").strip()
    paragraphs = [text for text in re.split(r"\n\s*\n", about) if text]
    text = "".join(f"<p>{escape(paragraph.strip())}</p>" for paragraph in paragraphs)
    return f"<h1>{escape(sweep.name)}</h1><p class='kicker'>A sweep of reward models</p>{text}"


def _status(sweep: Sweep, shown: Sweep, remark: str) -> str:
    done, missing = sweep.table["run_id"].n_unique(), sweep.missing
    text = f"{done:,} of {done + len(missing):,} planned runs have a result. {remark}"
    if done == 0:
        text += "No run has finished yet, so there is nothing to draw. Launch the sweep again to go on."
    out = [f"<h2>Status</h2><p class='{'warn' if missing else 'good'}'>{escape(text.strip())}</p>"]
    if done:
        out.append(_part("", lambda: _incomplete(shown)))
    if missing:
        columns = ["run_id", "model", "level", "pairs", "draw", "fold", "reason"]
        rows = [[cell.get(column, "") for column in columns] for cell in missing]
        out.append(f"<details{' open' if len(missing) <= 20 else ''}>")
        out.append(f"<summary>{len(missing):,} runs without a result</summary>")
        out.append(table(columns, rows) + "</details>")
    return "\n".join(out)


def _incomplete(sweep: Sweep) -> str:
    draws = per_draw(sweep, "loss_recalibrated", complete_only=False)
    short = draws.filter(pl.col("folds") < pl.col("folds_of"))
    if short.is_empty():
        return ""
    note = f"{len(short):,} draws lack some of their folds and are left out of every curve and of the means."
    return f"<p class='warn'>{note}</p>"


def _grid(sweep: Sweep) -> str:
    runs, rows = sweep.table, []
    models = runs.select("family", "model", "params").unique().sort("family", "params", "model").rows()
    rows.append(["models", ", ".join(f"{model} ({family}, {n:,} parameters)" for family, model, n in models)])
    rows.append(["levels", ", ".join(level_order(runs["level"]))])
    rows.append(["pairs", ", ".join(f"{n:,}" for n in sorted(runs["pairs"].unique()))])
    rows.append(["draws", f"{runs['draw'].n_unique()}"])
    if runs["fold"].n_unique() > 1:
        rows.append(["folds", f"{runs['fold'].n_unique()}"])
    for name in sweep.eval_sets:
        sizes = runs.filter(pl.col("eval_set") == name).group_by("fold").agg(pl.col("eval_pairs").mean())
        best = bayes_loss(sweep, name)
        known = "" if best is None else f"; Bayes loss {best:.4f} nats per pair"
        rows.append([f"tested on {name}", f"{sizes['eval_pairs'].sum():,.0f} pairs{known}"])
    rows.append(["cost counted in", sweep.cost_unit])
    return table(["", ""], rows, left=2)


def _figure(
    sweep: Sweep,
    kind: str,
    name: str,
    draw: Callable[[], tuple[Any, pl.DataFrame]],
    eval_set: str | None = None,
) -> str:
    try:
        figure, points = draw()
    except ScalingError as reason:
        return f"<p class='warn'>{escape(kind)}: not drawn: {escape(str(reason))}</p>"
    paths = figures.save(figure, points, sweep.directory / "figures", name)
    drawing = re.sub(r"\A.*?(?=<svg)", "", paths["svg"].read_text(encoding="utf-8"), flags=re.DOTALL)
    drawing = re.sub(r"\s*<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    words = CAPTIONS[re.sub(r"_\d+$", "", kind)]
    caption = f"{words} Tested on {eval_set or sweep.headline_eval}."
    first = escape(words.split(".")[0], quote=True)
    drawing = drawing.replace("<svg ", f"<svg role='img' aria-label='{first}' ", 1)
    files = " · ".join(
        f"<a href='figures/{path.name}'>{suffix}</a>" for suffix, path in sorted(paths.items())
    )
    return (
        f"<figure id='{name}'><div class='drawing'>{drawing}</div>"
        f"<figcaption>{escape(caption)} <span class='files'>{files}</span></figcaption></figure>"
    )


def _other_sets(sweep: Sweep) -> list[str]:
    out = []
    for eval_set in sweep.eval_sets:
        if eval_set != sweep.headline_eval:
            name = "loss_vs_pairs_on_" + re.sub(r"\W+", "_", eval_set)
            drawn = _figure(
                sweep, "loss_vs_pairs", name, partial(figures.loss_vs_pairs, sweep, eval_set), eval_set
            )
            out.append(f"<details><summary>The same, tested on {escape(eval_set)}</summary>{drawn}</details>")
    return out


def _provenance(sweep: Sweep) -> str:
    versions = dict(sweep.meta.get("versions") or {})
    science = sorted(sweep.table["science_version"].drop_nulls().unique())
    if science:
        versions["science_version"] = ", ".join(map(str, science))
    rows = [[name, json.dumps(v) if isinstance(v, dict | list) else v] for name, v in versions.items()]
    config = json.dumps(sweep.meta.get("config"), indent=2, sort_keys=True, ensure_ascii=False)
    what = ["run_id", "family", "model", "level", "pairs", "draw", "fold"]
    runs = sweep.table.select(what).unique().sort(what[1:])
    lines = [" ".join(map(str, run)) for run in runs.rows()]
    return (
        f"<h2>Where it comes from</h2>{table(['', ''], rows, left=2)}"
        f"<details><summary>Configuration</summary><pre>{escape(config)}</pre></details>"
        f"<details><summary>{len(lines):,} runs (id, family, model, level, pairs, draw, fold)</summary>"
        f"<pre>{escape(chr(10).join(lines))}</pre></details>"
    )


def _one_rate(sweep: Sweep) -> tuple[Sweep, str]:
    """A sweep of learning-rate scales is drawn at the tuned rate alone; the table on disk keeps them all."""
    scales = sorted(sweep.table["lr_scale"].drop_nulls().unique())
    if len(scales) < 2 or 1.0 not in scales:
        return sweep, ""
    others = ", ".join(f"{scale:g}" for scale in scales if scale != 1.0)
    remark = f"Figures and tables show learning-rate scale 1; results.parquet also holds {others}."
    return sweep.filter(pl.col("lr_scale") == 1.0), remark


def _part(title: str, make: Callable[[], str]) -> str:
    try:
        body = make()
    except ScalingError as reason:
        body = f"<p class='warn'>Not shown: {escape(str(reason))}</p>"
    return (f"<h2>{escape(title)}</h2>" if title else "") + body
