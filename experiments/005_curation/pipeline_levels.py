"""(b), (d) What the pipeline's levels are worth, beside theory: python pipeline_levels.py CURATION SWEEP NAME

CURATION: folder of a curation run (planted, or of ukpconvarg1). SWEEP: of `sweep.py:curated` over its levels.
Prints the README's table and writes NAME.csv, .png: raw pairs that one pair of each level is worth, measured at equal
recalibrated loss with 95 % intervals, beside what as many labels, equally right, would be worth if their errors hung on
nothing; how errors hang on the margin; and how much of them the level itself teaches.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from students import Students, systematic_share

from rewardscale.config.curation import CurationConfig
from rewardscale.curation.inputs import Inputs, prepare
from rewardscale.data.levels import Level, read_level
from rewardscale.scaling.collect import ScalingError, Sweep, load_sweep
from rewardscale.scaling.der import Der, der
from rewardscale.scaling.figures import save
from rewardscale.scaling.headline import spoken
from rewardscale.scaling.level_fits import best_units
from rewardscale.scaling.panels import frames, level_order, level_styles, look, marker_of, plain, set_axis
from rewardscale.scaling.points import Points, points
from rewardscale.scaling.theory import sandwich_variance
from rewardscale.sweeps.configfile import from_mapping

HERE = Path(__file__).parent
SAMPLE = 2_000  # margins
TWIN = "_errors_"  # in the names of twins.py


def ratio(own: Points, level: str) -> Der | str:
    """Raw pairs that one pair of the level is worth."""
    try:
        return der(own, "raw", level)
    except ScalingError:
        pass
    try:  # too few sizes for a form: read between the means
        return der(own, "raw", level, method="interpolate")
    except ScalingError as error:
        return str(error)


def predicted(right: float, raw_right: float, inputs: Inputs, rows: np.ndarray) -> float:
    """Raw pairs a pair is worth if errors hang on nothing.

    Planted worlds, whose truth is a sign: by the sandwich for the pool's margins. Else by the bound of low signal.
    """
    eta, base = 1 - right, 1 - raw_right
    if "p_raw" not in inputs.manifest.columns:
        return ((1 - 2 * eta) / (1 - 2 * base)) ** 2
    assert inputs.margin is not None
    margins = np.quantile(np.abs(inputs.margin[rows]), (np.arange(SAMPLE) + 0.5) / SAMPLE)
    raw, left = sandwich_variance(margins, np.array([base, eta]), label_rule="deterministic")
    return float(raw / left)


def label_facts(inputs: Inputs, level: Level) -> tuple[float, float]:
    """Share of the labelled pairs that are kept, and share of these, as far as the truth is known, that are right."""
    assert inputs.truth is not None
    true = inputs.truth[level.rows]
    return len(level.rows) / int(inputs.labelled.sum()), float((level.orientation == true)[true != 0].mean())


def error_facts(inputs: Inputs, students: Students, level: Level) -> tuple[float, float]:
    """Correlation of a label's being wrong with the size of the margin, and the systematic share."""
    assert inputs.truth is not None and inputs.margin is not None
    size, rows = np.abs(inputs.margin), level.rows.astype(np.int64)
    known = inputs.truth[rows] != 0
    wrong = (level.orientation != inputs.truth[rows])[known]
    correlation = float(np.corrcoef(wrong, size[rows][known])[0, 1]) if wrong.any() else math.nan
    return correlation, systematic_share(students, level, size)


def measure(run: Path, sweep: Sweep, data_dir: Path | None) -> pl.DataFrame:
    """A row a level."""
    made = json.loads((run / "config.json").read_text())
    made |= {"name": "again"}
    inputs = prepare(from_mapping(CurationConfig, made), run, data_dir)
    students = Students.of(inputs, 0)
    own = points(sweep, "loss_recalibrated", units=best_units(sweep))
    if own.why_no_interval():  # fewer than five clusters of test pairs: over draws, for these test pairs
        own = points(sweep, "loss_recalibrated", units="draws")
    (_, raw_right), out = label_facts(inputs, read_level(run / "levels" / "raw")), []
    for name in in_order(sweep.table["level"].unique().to_list()):
        level = read_level(run / "levels" / name)
        kept, right = label_facts(inputs, level)
        row: dict[str, Any] = {"level": name, "kept": kept, "right": right}
        row["predicted"] = predicted(row["right"], raw_right, inputs, np.flatnonzero(inputs.labelled))
        row["error_margin"], row["systematic"] = error_facts(inputs, students, level)
        found = ratio(own, name) if name != "raw" else None
        row["said"] = (
            "1" if found is None else found.split(":")[0] if isinstance(found, str) else _said(found)
        )
        seen = found.summary if isinstance(found, Der) and math.isfinite(found.summary.estimate) else None
        row |= {key: getattr(seen, key, None) for key in ("estimate", "low", "high")}
        out.append(row)
    return pl.DataFrame(out, infer_schema_length=None)


def in_order(names: list[str]) -> list[str]:
    """As figures order levels, each followed by its twins (twins.py)."""
    own = level_order(name for name in names if TWIN not in name)
    return [
        name
        for parent in own
        for name in (parent, *(n for n in sorted(names) if n.startswith(parent + TWIN)))
    ]


def _said(found: Der) -> str:
    if math.isfinite(found.summary.estimate):
        return spoken(found.summary) + (" (between means)" if found.method == "interpolate" else "")
    bounds = found.curve.filter((pl.col("bound") == "more than") & pl.col("low").is_not_null())
    return f"more than {bounds['low'].max():.2f}" if bounds.height else f"- ({found.summary.note})"


def draw(table: pl.DataFrame, name: str) -> None:
    """Measured worth of a pair against what independent errors predict."""
    shown = table.drop_nulls(["estimate"])
    styles = level_styles(name.partition(TWIN)[0] for name in shown["level"])
    with look():
        figure, grid = frames([["worth"]], head=0.0, height=0.24 * len(shown), left=1.75)
        panel = grid[0, 0]
        for place, row in enumerate(shown.iter_rows(named=True)):
            style = styles[row["level"].partition(TWIN)[0]]
            if row["low"] is not None:
                panel.plot([row["low"], row["high"]], [place] * 2, color=style.colour, linewidth=1)
            dots: dict[str, Any] = marker_of(style) | {"linestyle": "none"}
            panel.plot(row["estimate"], place, **dots, label="measured, 95 %" if not place else None)
            label = "predicted, independent errors" if not place else None
            panel.plot(
                row["predicted"],
                place,
                marker="|",
                color="#000000",
                markersize=9,
                linestyle="none",
                label=label,
            )
        panel.axvline(1.0, color="#999999", linewidth=0.8)
        every = [shown[key].drop_nulls() for key in ("low", "high", "estimate", "predicted")]
        low, high = min(float(v.min()) for v in every if len(v)), max(float(v.max()) for v in every if len(v))  # type: ignore[arg-type]
        set_axis(panel, "x", low, high, log=True, room=8)
        panel.set_ylim(len(shown) - 0.4, -0.6)
        panel.set_yticks(range(len(shown)), [level.replace("_", " ") for level in shown["level"]])
        plain(panel.set_xlabel("raw pairs that one pair of the level is worth, at equal recalibrated loss"))
        for text in panel.legend(frameon=False, loc="best").get_texts():
            plain(text)
    save(figure, table, HERE, name)


def main(run: Path, sweep: Path, name: str, data_dir: Path | None) -> None:
    table = measure(run, load_sweep(sweep), data_dir)
    print(
        "| level | kept | labels right | errors and margin, r | systematic share "
        "| a pair, predicted | measured | a pool pair |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in table.iter_rows(named=True):
        pool = "-" if row["estimate"] is None else f"{row['estimate'] * row['kept']:.2f}"
        pool = "1" if row["level"] == "raw" else pool
        print(
            f"| {row['level']} | {row['kept']:.1%} | {row['right']:.3f} | {row['error_margin']:+.2f} "
            f"| {row['systematic']:+.2f} | {row['predicted']:.2f} | {row['said']} | {pool} |"
        )
    draw(table, name)


if __name__ == "__main__":
    folder = Path(sys.argv[4]) if len(sys.argv) > 4 else None
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], folder)
