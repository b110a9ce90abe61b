"""The figures of an evaluation: scores with intervals and controls, calibration, best-of-N, Goodhart, two matrices.

Each takes the numbers that the modules beside it return and gives a matplotlib Figure; `drawing.save` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from rewardscale import best_of_n
from rewardscale.evaluation.best_of_n import BestOfN, Goodhart
from rewardscale.evaluation.calibration import Calibration, CalibrationScores
from rewardscale.evaluation.drawing import (
    CONTROL,
    INK,
    SOFT,
    handle,
    legend_above,
    legend_height,
    look,
    marked,
    panels,
    percent,
    short,
    styles,
    text_width,
)
from rewardscale.evaluation.resampling import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_CONTROL_MARKS = "|x+1234"
_DASHED: Any = (0, (4, 1.6))
_DOTTED: Any = (0, (1, 1.4))


def scores(
    of: Mapping[str, Mapping[str, Interval]], controls: Mapping[str, Mapping[str, float]] | None = None
) -> Figure:
    """A dot a model and benchmark with its interval, and what controls score there.

    Args:
      of: model -> benchmark -> score. controls: control ("longer is better") -> benchmark -> score.
    """
    rows = list(dict.fromkeys(name for found in of.values() for name in found))
    style, given = styles(of), controls or {}
    names = [short(row, 32) for row in rows]
    labels = [*map(short, of), *map(short, given)]
    with look():
        step = min(0.13, 0.6 / max(len(of), 1))
        pitch = step * len(of) + 0.14  # inches a benchmark
        figure, (axes,) = panels(
            1,
            pitch * len(rows),
            left=text_width(names) + 0.15,
            top=legend_height(labels) + 0.05,
        )
        drawn = []
        for number, (model, found) in enumerate(of.items()):
            colour, marker = style[model]
            shift = (number - (len(of) - 1) / 2) * step / pitch
            for row, name in enumerate(rows):
                if name not in found or not np.isfinite(found[name].estimate):
                    continue
                one = found[name]
                drawn.append(one.estimate)
                if one.low is not None and one.high is not None:
                    axes.plot([one.low, one.high], [row + shift] * 2, color=colour, linewidth=1.2, zorder=2)
                    drawn += [one.low, one.high]
                axes.plot(one.estimate, row + shift, color=colour, zorder=3, **marked(marker))
        for mark, (_, found) in zip(_CONTROL_MARKS, given.items(), strict=False):
            for row, name in enumerate(rows):
                if name in found and np.isfinite(found[name]):
                    drawn.append(found[name])
                    axes.plot(
                        found[name], row, mark, color=CONTROL, markersize=7, markeredgewidth=1.2, zorder=1
                    )
        margin = 0.04 * max(np.ptp(drawn), 0.05) if drawn else 0.05
        axes.set_xlim(min(drawn, default=0) - margin, max(drawn, default=1) + margin)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        for row in range(1, len(rows)):
            axes.axhline(row - 0.5, color="#ececec", linewidth=0.6, zorder=0)
        axes.spines["left"].set_visible(False)
        percent(axes, "x")
        axes.set_xlabel("score, 95 % interval by clusters")
        marks = {"linestyle": "none", "color": CONTROL, "markersize": 7, "markeredgecolor": CONTROL}
        handles = [handle(style[model]) for model in of]
        handles += [
            handle(style_of, marker=mark, **marks, markeredgewidth=1.2)
            for mark, style_of in zip(_CONTROL_MARKS, styles(given).values(), strict=False)
        ]
        legend_above(figure, handles, labels)
    return figure


def reliability(calibration: Calibration, name: str = "") -> Figure:
    """Share of right pairs against claimed confidence, raw and at the cross-fitted temperature."""
    sides = [("as trained", calibration.raw)]
    if calibration.scaled is not None and calibration.temperatures is not None:
        sides.append(("at temperatures {:.3g}, {:.3g}".format(*calibration.temperatures), calibration.scaled))
    floor = min(0.5, *(bin_.low for _, side in sides for bin_ in side.bins))
    with look():
        width = 0.85 + 3.0 * len(sides)
        figure, grid = panels(len(sides), 2.5, left=0.62, right=0.22, top=0.32, gap=0.35, width=width)
        for axes, (title, side) in zip(grid, sides, strict=True):
            _reliability(axes, side, floor)
            axes.set_title(f"{short(name, 18)}: {title}" if name else title, loc="left", pad=5)
            axes.tick_params(labelleft=axes is grid[0])
        grid[0].set_ylabel("share right")
    return figure


def _reliability(axes: Axes, side: CalibrationScores, floor: float) -> None:
    at = np.array([b.confidence for b in side.bins])
    right = np.array([b.right for b in side.bins])
    ends = np.array([(b.low, b.high) for b in side.bins])
    axes.plot([0.5, 1], [0.5, 1], color=SOFT, linewidth=0.8, linestyle=_DASHED, zorder=1)
    colour = styles([""])[""].colour
    axes.vlines(at, ends[:, 0], ends[:, 1], color=colour, linewidth=1.2, zorder=2)
    axes.plot(at, right, color=colour, linestyle="none", zorder=3, **marked("o"))
    axes.set(xlim=(0.49, 1.01), ylim=(floor - 0.02, 1.02), xlabel="confidence claimed")
    percent(axes, "x")
    percent(axes, "y")
    told = [
        f"{side.pairs:,} pairs",
        f"NLL {side.nll:.3f}, Brier {side.brier:.3f}",
        f"ECE {100 * side.ece:.1f} %, debiased {100 * side.ece_debiased:.1f} %",
    ]
    box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.5}
    axes.text(
        0.98, 0.03, "\n".join(told), transform=axes.transAxes, ha="right", va="bottom", fontsize=7, bbox=box
    )


def best_of(curves: Mapping[str, BestOfN], quality: str = "quality of the response chosen") -> Figure:
    """Best-of-N by model over n and over KL, between the oracle and a random response.

    Raises ValueError for curves of different prompts: they have different oracles.
    """
    first = next(iter(curves.values()))
    for curve in curves.values():
        if curve.prompts != first.prompts or not np.allclose(curve.oracle, first.oracle):
            raise ValueError("curves of different prompts or quality do not share a figure")
    style = styles(curves)
    labels = [*map(short, curves), "oracle", "random"]
    with look():
        figure, grid = panels(2, 2.5, left=0.62, gap=0.3, top=legend_height(labels) + 0.05)
        for axes, over in zip(grid, ("n", "kl"), strict=True):
            axes.plot(getattr(first, over), first.oracle, color=SOFT, linewidth=1.0, linestyle=_DASHED)
            axes.axhline(first.random, color=SOFT, linewidth=1.0, linestyle=_DOTTED)
            for model, curve in curves.items():
                x, (colour, marker) = getattr(curve, over), style[model]
                axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
                dots = [i for i, n in enumerate(curve.n) if n & (n - 1) == 0 or n == curve.n[-1]]
                axes.plot(x, curve.chosen, color=colour, linewidth=1.1, markevery=dots, **marked(marker))
            axes.tick_params(labelleft=axes is grid[0])
        _powers_of_two(grid[0], int(first.n[-1]))
        grid[0].set(xlabel="n, responses to choose from", ylabel=quality)
        grid[1].set(xlabel="KL from the policy sampled: log n − (n − 1) / n, nats")
        bounds = [
            handle(style[next(iter(curves))], color=SOFT, marker="", linestyle=dash)
            for dash in (_DASHED, _DOTTED)
        ]
        legend_above(figure, [*(handle(style[model]) for model in curves), *bounds], labels)
    return figure


def _powers_of_two(axes: Axes, most: int) -> None:
    ticks = [2**i for i in range(most.bit_length())]
    ticks = ticks[:: max(1, -(-len(ticks) // 7))]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{t:,}" for t in ticks])
    axes.minorticks_off()


def goodhart(curves: Mapping[str, Goodhart]) -> Figure:
    """Gold and proxy reward of best-of-n over d = sqrt(KL) by proxy, the form d (alpha - beta d), and its peak."""
    style = styles(curves)
    labels = [*map(short, curves), "fit d (α − β d)", "its peak"]
    with look():
        figure, grid = panels(2, 2.6, left=0.72, gap=0.5, top=legend_height(labels) + 0.25)
        for model, curve in curves.items():
            colour, marker = style[model]
            dots = [i for i, n in enumerate(curve.n) if n & (n - 1) == 0]
            for axes, ends in (
                (grid[0], (curve.gold_low, curve.gold_high)),
                (grid[1], (curve.proxy_low, curve.proxy_high)),
            ):
                axes.fill_between(curve.distance, *ends, color=colour, alpha=0.15, linewidth=0)
            line = {"color": colour, "linewidth": 1.1, "markevery": dots, **marked(marker)}
            grid[0].plot(curve.distance, curve.gold, **line)
            grid[1].plot(curve.distance, curve.proxy, **line)
            d = np.linspace(0, curve.distance[-1], 200)
            form = best_of_n.gao(d, curve.alpha.estimate, curve.beta.estimate)
            grid[0].plot(d, form, color=colour, linewidth=0.9, linestyle=_DOTTED, zorder=2.5)
            if curve.peak <= curve.distance[-1]:
                top = best_of_n.gao(curve.peak, curve.alpha.estimate, curve.beta.estimate)
                grid[0].plot(
                    curve.peak, top, "*", color=colour, markersize=9, markeredgecolor=INK, markeredgewidth=0.5
                )
        for axes, title in zip(grid, ("gold reward", "proxy reward, which chooses"), strict=True):
            axes.set_title(title, loc="left", pad=5)
            axes.set_xlabel("d = √KL, √nats")
            axes.set_xlim(left=0)
        grid[0].set_ylabel("gain over n = 1,\nstandard deviations", labelpad=1)
        grey = style[next(iter(curves))]
        star = {"marker": "*", "linestyle": "none", "color": SOFT, "markersize": 8, "markeredgecolor": INK}
        handles = [handle(style[model]) for model in curves]
        handles += [handle(grey, color=SOFT, marker="", linestyle=_DOTTED), handle(grey, **star)]
        legend_above(figure, handles, labels)
    return figure


def style_matrix(matrices: Mapping[str, np.ndarray], names: Sequence[str]) -> Figure:
    """RM-Bench's win rates by style, a matrix a model: right answers' styles down, wrong ones' across.

    Colour has its middle at one half, chance; a model that goes by style has orange cells above the diagonal.

    Args:
      matrices: model -> float64 [styles, styles], shares; NaN where nothing was compared. At most three abreast.
    """
    models = list(matrices)
    columns = min(len(models), 3)
    rows = -(-len(models) // columns)
    with look():
        side = len(names) * (text_width(names) + 0.1)
        figure, grid = _squares(rows, columns, side, left=text_width(names) + 0.35)
        for number, (axes, model) in enumerate(zip(grid, models, strict=False)):
            shown = matrices[model]
            _heat(axes, shown, [[f"{100 * v:.1f}" for v in row] for row in shown], "PuOr", 0.0, 1.0)
            axes.set_title(short(model, 24), loc="left", pad=5)
            axes.set_xticks(range(len(names)), names)
            axes.set_yticks(range(len(names)), names if number % columns == 0 else [""] * len(names))
            if number // columns == rows - 1 or number + columns >= len(models):
                axes.set_xlabel("style of the wrong answer")
        for row in range(rows):
            grid[row * columns].set_ylabel("style of the right answer")
        for spare in grid[len(models) :]:
            spare.set_axis_off()
    return figure


def agreement(table: pl.DataFrame) -> Figure:
    """How alike models judge (compare_models.agreement_matrix): agreement above the diagonal, kappa below."""
    names = list(dict.fromkeys([*table["one"], *table["other"]]))
    place = {name: number for number, name in enumerate(names)}
    alike, kappa = (np.full((len(names), len(names)), np.nan) for _ in range(2))
    for row in table.iter_rows(named=True):
        i, j = sorted((place[row["one"]], place[row["other"]]))
        alike[i, j], kappa[j, i] = row["agreement"], row["kappa"]
    cells = [
        [
            f"{100 * alike[i, j]:.0f} %" if i < j else "" if i == j else f"{kappa[i, j]:.2f}"
            for j in range(len(names))
        ]
        for i in range(len(names))
    ]
    shown = [short(name, 22) for name in names]
    with look():
        side = max(1.6, 0.46 * len(names))
        title = "above: pairs judged alike · below: Cohen's κ"
        figure, (axes,) = _squares(
            1,
            1,
            side,
            left=text_width(shown) + 0.2,
            bottom=0.55 * text_width(shown) + 0.3,
            right=max(0.12, text_width([title]) - side),
        )
        _heat(axes, np.where(np.isfinite(alike), alike, kappa), cells, "YlGnBu", 0.0, 1.0)
        axes.set_xticks(range(len(names)), shown, rotation=35, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(names)), shown)
        axes.set_title(title, loc="left", pad=6)
    return figure


def _squares(
    rows: int, columns: int, side: float, *, left: float, bottom: float = 0.5, right: float = 0.12
) -> tuple[Figure, list[Axes]]:
    """A grid of square axes of `side` inches, row by row."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    gap_x, gap_y, head = 0.2, 0.75, 0.3
    width = left + columns * side + (columns - 1) * gap_x + right
    height = head + rows * side + (rows - 1) * gap_y + bottom
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    boxes = [
        (left + c * (side + gap_x), bottom + (rows - 1 - r) * (side + gap_y))
        for r in range(rows)
        for c in range(columns)
    ]
    return figure, [figure.add_axes((x / width, y / height, side / width, side / height)) for x, y in boxes]


def _heat(
    axes: Axes, values: np.ndarray, cells: Sequence[Sequence[str]], colours: str, low: float, high: float
) -> None:
    """Cells in colour with their text, dark on light and light on dark; NaN is grey."""
    import matplotlib

    colourmap = matplotlib.colormaps[colours].copy()
    colourmap.set_bad("#f0f0f0")
    axes.imshow(np.ma.masked_invalid(values), cmap=colourmap, vmin=low, vmax=high, aspect="auto")
    for i, line in enumerate(cells):
        for j, cell in enumerate(line):
            value = values[i, j]
            known = bool(np.isfinite(value))
            red, green, blue, _ = colourmap((value - low) / (high - low)) if known else (1.0, 1.0, 1.0, 1.0)
            dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
            shown = cell if known or not cell else "–"
            axes.text(j, i, shown, ha="center", va="center", color="white" if dark else INK, fontsize=7.5)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
