"""The figures of a curation run's report: what each level's labels are worth, and how the run got there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rewardscale.curation.steps import proportion
from rewardscale.scaling.panels import STYLES, Style, frames, level_order, look, marker_of, plain, set_axis

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SHARE = {"share": pl.Float64, "low": pl.Float64, "high": pl.Float64, "n": pl.Int64}
_KEPT = "#9A9A9A"
_LINES = {  # of `progress`: title of the panel, style
    "best, gold validation": ("model", Style("#0072B2", "o")),
    "best, unseen pairs by the truth": ("model", Style("#56B4E9", "s")),
    "gold, gold validation": ("model", STYLES["gold"]),
    "filtered": ("labels", STYLES["filtered"]),
    "corrected": ("labels", STYLES["corrected"]),
    "no_humans": ("labels", STYLES["no_humans"]),
}


def label_points(levels: list[dict[str, Any]]) -> pl.DataFrame:
    """A row a level and measure: level, iteration (null: final), pairs, keep_rate, measure, share, low, high, n."""
    rows = []
    for level in levels:
        name, _, at = level["name"].partition("@iter")
        for measure in ("held_out", "truth"):
            seen = level.get(measure)
            if seen and seen["n"]:
                about = (name, int(at) if at else None, level["pairs"], level["keep_rate"], measure)
                rows.append((*about, *(seen[key] for key in _SHARE)))
    names = {"level": pl.String, "iteration": pl.Int64, "pairs": pl.Int64, "keep_rate": pl.Float64}
    return pl.DataFrame(rows, schema=names | {"measure": pl.String} | _SHARE, orient="row")


def label_quality(table: pl.DataFrame) -> Figure:
    """Right labels of the final levels, a line each, beside the share of the pool that each keeps.

    `table`: of `label_points`. Filled with 95 % intervals: by held-out gold; hollow: by the truth.
    """
    final = table.filter(pl.col("iteration").is_null())
    names = level_order(final["level"])
    with look():
        figure, grid = frames([["labels", "kept"]], head=0.0, height=0.21 * len(names), left=1.25, gap=0.2)
        right, kept = grid[0, 0], grid[0, 1]
        for place, name in enumerate(names):
            colour = STYLES[name].colour if name in STYLES else "#7F7F7F"
            filled: dict[str, Any] = marker_of(Style(colour, "o")) | {"linestyle": "none"}
            hollow = filled | {"markerfacecolor": "white", "markeredgecolor": colour, "markeredgewidth": 1.0}
            for row in final.filter(pl.col("level") == name).iter_rows(named=True):
                gold = row["measure"] == "held_out"
                if gold:
                    right.plot([row["low"], row["high"]], [place] * 2, color=colour, linewidth=1.0)
                right.plot(row["share"], place, **(filled if gold else hollow))
                kept.barh(place, row["keep_rate"], 0.5, color=_KEPT, linewidth=0)
        set_axis(right, "x", final["low"].min(), 1.0, log=False, room=6)
        set_axis(kept, "x", 0.0, 1.0, log=False, room=6)
        for panel in (right, kept):
            panel.set_ylim(len(names) - 0.4, -0.6)
        right.set_yticks(range(len(names)), [name.replace("_", " ") for name in names])
        kept.tick_params(labelleft=False)
        kept.set_yticks(range(len(names)))
        plain(right.set_xlabel("labels that are right"))
        plain(kept.set_xlabel("kept, share of the labelled pairs"))
    return figure


def progress_points(steps: dict[str, dict[str, Any]], models: Path, levels: pl.DataFrame) -> pl.DataFrame:
    """A row a point of `progress`: line (of _LINES), iteration, share, low, high, n.

    Args:
      models: folder of the pass's reward models. levels: of `label_points`.
    """
    rows: list[tuple[Any, ...]] = []

    def add(line: str, iteration: int, seen: dict[str, Any] | None) -> None:
        if seen and seen["n"]:
            rows.append((line, iteration, *(seen[key] for key in _SHARE)))

    for kind in ("best", "gold"):
        for path in models.glob(f"{kind}@iter*/record.json"):
            made = json.loads(path.read_text())
            right = round(made["chosen"]["accuracy"] * made["validation"])
            iteration = int(path.parent.name.partition("@iter")[2])
            add(f"{kind}, gold validation", iteration, proportion(right, made["validation"]))
    for step in steps.values():  # each begins with the model of the iteration before
        add("best, unseen pairs by the truth", step["iteration"] - 1, step.get("best", {}).get("unseen"))
    measure = "truth" if "truth" in levels["measure"] else "held_out"
    for row in levels.drop_nulls("iteration").filter(pl.col("measure") == measure).iter_rows(named=True):
        if (
            row["level"] in _LINES
        ):  # gathered pairs, another set in each iteration, are in the page's table alone
            add(row["level"], row["iteration"], row)
    schema = {"line": pl.String, "iteration": pl.Int64, **_SHARE}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("line", "iteration")


def progress(table: pl.DataFrame) -> Figure:
    """What iterations bring: accuracy of the reward models, and right labels among those the rules would keep."""
    titles = {"model": "reward models: accuracy", "labels": "snapshots: labels that are right"}
    drawn = set(table["line"])
    shown = [name for name in titles if any(_LINES[line][0] == name for line in drawn)]
    with look():
        figure, grid = frames([shown], head=0.0, height=2.2, left=0.5, gap=0.5)
        for column, name in enumerate(shown):
            lines = [line for line, (panel, _) in _LINES.items() if panel == name and line in drawn]
            _lines(grid[0, column], table.filter(pl.col("line").is_in(lines)), lines)
            plain(grid[0, column].set_title(titles[name], loc="left", pad=4))
    return figure


def _lines(panel: Axes, table: pl.DataFrame, lines: list[str]) -> None:
    for line in lines:
        style, own = _LINES[line][1], table.filter(pl.col("line") == line)
        x = own["iteration"].to_list()
        band = {"color": style.colour, "alpha": 0.12, "linewidth": 0}
        panel.fill_between(x, own["low"].to_list(), own["high"].to_list(), **band)
        panel.plot(x, own["share"].to_list(), label=line, linewidth=1.1, **marker_of(style))
    set_axis(panel, "x", table["iteration"].min(), table["iteration"].max(), log=False, room=9)
    set_axis(panel, "y", table["low"].min(), table["high"].max(), log=False, room=7)
    plain(panel.set_xlabel("iteration"))
    for text in panel.legend(frameon=False, loc="lower right").get_texts():
        plain(text)
